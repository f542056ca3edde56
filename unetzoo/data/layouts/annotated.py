"""Images with one annotation file for all of them, or for those of a split: COCO JSON, CVAT XML.

The files may be anywhere in the folder. The name of the annotation file, or of a folder above it, says whether its
images are train, val or test: ``train/_annotations.coco.json``, ``annotations/instances_val2017.json``. An image is the
only file in the folder whose path ends in its name in the annotations.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from unetzoo.data.annotations import ANNOTATION_FORMATS, Document, format_of, known_format, read as read_annotations
from unetzoo.data.labels import Labels
from unetzoo.data.layouts._base import Meaning, Understood, register_layout
from unetzoo.data.layouts.class_names import names_of
from unetzoo.data.listing import SPLITS, Listing, Sample, Tree, is_hidden
from unetzoo.errors import ConfigError, InputError
from unetzoo.printing import some_of

_MOST = 50
"""The most files of this kind; if there are more, they are one for each image."""


@register_layout("annotated", title="images and an annotation file for all of them")
def recognises(tree: Tree) -> Understood | None:
    """Recognise a folder with annotation files that name their images."""
    return of_documents(tree, [tree.files[inner] for inner in _documents(tree)])


def of_documents(tree: Tree, paths: list[Path]) -> Understood | None:
    """Return how to read images in a folder with these annotation files; None without any."""
    if not paths:
        return None
    inside = [*map(tree.inner, paths)]
    title = " and ".join(dict.fromkeys(known_format(path).title for path in paths))
    said = f"{title}: {', '.join(inside)}: images are found by their file names in it"
    return Understood(said, lambda labels: _listed(tree, paths, labels), lambda: _meaning(paths))


def _meaning(paths: list[Path]) -> Meaning:
    return Meaning(names_of(map(document_of, paths)))


def _documents(tree: Tree) -> list[str]:
    endings = {suffix for known in ANNOTATION_FORMATS.values() if known.many for suffix in known.suffixes}
    found = [inner for inner, path in tree.files.items() if path.suffix.lower() in endings and not is_hidden(inner)]
    if len(found) > _MOST:
        return []
    documents, broken = [], []
    for inner in found:
        try:
            known = format_of(tree.files[inner])
        except InputError as error:
            broken.append(str(error))
            continue
        documents += [inner] if known is not None and known.many else []
    if broken and not documents:
        raise ConfigError(f"{str(tree.path)!r} has annotation files that cannot be read", broken)
    return documents


def document_of(path: Path) -> Document:
    """Return the contents of an annotation file; the last ones that were read are cached until they change.

    Raises:
        InputError: the file cannot be read.
    """
    status = path.stat()
    return _document(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _document(path: Path, *_: int) -> Document:
    return read_annotations(path)


def _listed(tree: Tree, paths: list[Path], labels: Labels) -> Listing:
    problems: list[str] = []
    splits = {path: split_of(path.relative_to(tree.path)) for path in paths}
    if "" in splits.values() and len({*splits.values()}) > 1:
        unsaid = ", ".join(tree.inner(path) for path, split in splits.items() if not split)
        raise ConfigError(
            f"{str(tree.path)!r} has splits, but {unsaid} is in none: put train, val or test into its name, or move it "
            "away"
        )
    images, found = _Images(tree), defaultdict[str, dict[str, Sample]](dict)
    for path in paths:
        document = document_of(path)
        problems += [f"{tree.inner(path)}: {problem}" for problem in document.problems]
        for name, drawing in document.drawings.items():
            image = images.of(name, path, problems)
            if image is None:
                continue
            stem = image.relative_to(tree.path).with_suffix("").as_posix()
            other = found[splits[path]].setdefault(stem, Sample(stem, image, drawing))
            if other.mask is not drawing:
                problems.append(f"{name!r} is annotated twice: in {other.mask.source} and in {path}")  # type: ignore[union-attr]
    samples = {split: tuple(of_split[name] for name in sorted(of_split)) for split, of_split in found.items()}
    used = {sample.image for of_split in samples.values() for sample in of_split}
    problems += images.misspelt()
    left = [inner for inner, path in tree.files.items() if path not in used and path not in splits]
    known, nearly = tree.images(), {*images.nearly.values()}
    unnamed = tuple(inner for inner in left if inner in known and inner not in nearly)
    leftovers = tuple(inner for inner in left if inner not in known)
    return Listing(labels, samples or {"": ()}, tuple(problems), leftovers, unnamed=unnamed)


def split_of(path: Path) -> str:
    """Return the split named by a file, or by a folder above it; "" if none is."""
    for part in (path.stem, *reversed(path.parts[:-1])):
        words = [word for word in re.split(r"[^a-z]+", part.lower()) if word in SPLITS]
        if words:
            return SPLITS[words[0]]
    return ""


class _Images:
    """Finds images of a folder by the end of their paths."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.nearly: dict[tuple[str, str], str] = {}
        """Document and name in it → the only file that differs from it just in suffix or case."""
        self._by_name: Mapping[str, list[str]] = defaultdict(list)
        self._by_stem: Mapping[str, list[str]] = defaultdict(list)
        for inner in tree.images():
            name = inner.rpartition("/")[2]
            self._by_name[name].append(inner)
            self._by_stem[_stem(name)].append(inner)

    def of(self, name: str, document: Path, problems: list[str]) -> Path | None:
        """Return the image of a name; None if there is none or several may be meant, which adds a problem."""
        near = (document.parent / name.lstrip("/")).resolve()
        for found in self._candidates(name):
            if len(found) > 1 and any(self.tree.files[inner].resolve() == near for inner in found):
                return self.tree.files[next(inner for inner in found if self.tree.files[inner].resolve() == near)]
            if len(found) == 1:
                return self.tree.files[found[0]]
            if found:
                problems.append(f"{name!r} of {document.name} could be {' or '.join(found[:3])}: move one away")
                return None
        alike = self._by_stem.get(_stem(name.rpartition("/")[2]), [])
        if len(alike) == 1:
            self.nearly[document.name, name] = alike[0]
        else:
            problems.append(f"{name!r} of {document.name}: there is no such image in {str(self.tree.path)!r}")
        return None

    def misspelt(self) -> list[str]:
        """Return a sentence for each document with names that differ from files only in suffix or case."""
        by_document: dict[str, list[str]] = defaultdict(list)
        for (document, name), inner in self.nearly.items():
            by_document[document].append(f"{name!r} (did you mean {inner!r}?)")
        return [
            f"{len(pairs)} image{'s' * (len(pairs) > 1)} of {document} differ{'s' * (len(pairs) == 1)} in suffix or "
            f"case from the files in {str(self.tree.path)!r}: {some_of(pairs, quoted=False)}; rename the files, or the "
            "images in the annotations"
            for document, pairs in by_document.items()
        ]

    def _candidates(self, name: str) -> Iterator[list[str]]:
        """Yield the files that end in the full name; then, as servers have other folders, in its last part."""
        alike = self._by_name.get(name.rpartition("/")[2], [])
        yield [inner for inner in alike if f"/{inner}".endswith(f"/{name.lstrip('/')}")]
        yield list(alike)


def _stem(name: str) -> str:
    return name.rpartition(".")[0].casefold()
