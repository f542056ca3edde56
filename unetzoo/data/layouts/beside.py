"""Masks or annotations next to their images, in one folder or in the same sub-folders: a.png and a_mask.png."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unetzoo.data.annotations import format_of, suffixes as annotation_suffixes
from unetzoo.data.labels import Labels
from unetzoo.data.layouts._base import Meaning, Understood, register_layout
from unetzoo.data.layouts.class_names import names_in
from unetzoo.data.layouts.naming import MASK_ENDINGS, pairs, role, rules
from unetzoo.data.listing import SPLITS, Listing, Sample, Tree, is_hidden
from unetzoo.errors import ConfigError, InputError
from unetzoo.images import is_image

_JUDGED = 20
"""Number of annotation files of which at least one must have a known format."""


@dataclass(frozen=True)
class _Pairing:
    """Files that may be masks, those that are their images, and the pairs."""

    said: str
    masks: Mapping[str, Path]
    images: Mapping[str, Path]
    together: Mapping[str, str]


@register_layout("beside", title="masks next to their images")
def recognises(tree: Tree) -> Understood | None:
    """Recognise a folder with masks next to their images, which are known by their names."""
    folder = _folder(tree)
    if folder is None:
        return None
    files = {inner: path for inner, path in tree.under(folder).items() if not is_hidden(inner)}
    found = [*_of_images(files), *_of_annotations(files)]
    if len(found) > 1:
        both = "; or ".join(one.said for one in found)
        patterns = " or ".join(f"masks={_pattern(one)!r}" for one in found)
        raise ConfigError(f"{str(tree.path)!r} has several masks for its images: {both}. Choose one: {patterns}")
    if not found:
        return None
    start = f"{folder}/" if folder else ""
    splits, without = _splits(found[0])
    left = f"; left out, without masks: {' and '.join(without)}" if without else ""
    listed = f", in {', '.join(splits)}" if "" not in splits else ""
    said = f"masks next to their images in {start or 'one folder'}{listed}: {found[0].said}{left}"
    return Understood(said, lambda labels: _listed(tree, start, found[0], splits, labels), lambda: _meaning(found[0]))


def _folder(tree: Tree) -> str | None:
    """Return the folder to look in: the images folder, or "" for all; None if there is a folder of masks."""
    inside = {inner for inner in tree.folders if inner.count("/") < 2}
    if any(role(inner.rpartition("/")[2]) in ("masks", "instances") for inner in inside):
        return None
    images = [inner for inner in inside if role(inner) == "images"]
    return images[0] if len(images) == 1 else ""


def _of_images(files: Mapping[str, Path]) -> list[_Pairing]:
    """Return the ways in which some of the images may be the masks of others."""
    images = {inner.rpartition(".")[0]: path for inner, path in files.items() if is_image(inner)}
    found = []
    for rule in rules(images, images, MASK_ENDINGS):
        together = pairs(rule, images, images)
        masks = {stem: images[stem] for stem in together}
        others = {stem: path for stem, path in images.items() if stem not in masks}
        found.append(_Pairing(str(rule), masks, others, together))
    return found


def _of_annotations(files: Mapping[str, Path]) -> list[_Pairing]:
    """Return the ways in which annotation files may belong to images."""
    images = {inner.rpartition(".")[0]: path for inner, path in files.items() if is_image(inner)}
    by_suffix: dict[str, dict[str, Path]] = defaultdict(dict)
    for inner, path in files.items():
        stem, _, suffix = inner.rpartition(".")
        if f".{suffix.lower()}" in annotation_suffixes():
            by_suffix[suffix.lower()][stem] = path
    found = []
    for suffix, masks in by_suffix.items():
        for rule in rules(images, masks, ("", *MASK_ENDINGS)):
            together = pairs(rule, images, masks)
            some = [masks[stem] for stem in together][:_JUDGED]
            if any(map(_is_of_one_image, some)):
                said = f"{_title(some)} ({suffix}): {rule}"
                found.append(_Pairing(said, {stem: masks[stem] for stem in together}, images, together))
    return found


def _is_of_one_image(path: Path) -> bool:
    try:
        known = format_of(path)
    except InputError:
        return False
    return known is not None and not known.many


def _title(paths: list[Path]) -> str:
    known = format_of(next(path for path in paths if _is_of_one_image(path)))
    assert known is not None
    return known.title


def _pattern(pairing: _Pairing) -> str:
    """Return the pattern of the masks of one of several pairings."""
    mask, image = next(iter(pairing.together.items()))
    name = image.rpartition("/")[2]
    return (
        pairing.masks[mask].name.replace(name, "{name}", 1) if name in pairing.masks[mask].name else "{name}_mask.png"
    )


def _splits(found: _Pairing) -> tuple[dict[str, str], list[str]]:
    """Return split → start of the names in it, and the folders of splits without a mask.

    If only the training split has masks, there are no splits: it is split later.
    """
    tops = {stem.partition("/")[0] if "/" in stem else "" for stem in found.images}
    if not tops or not all(top.lower() in SPLITS for top in tops):
        return {"": ""}, []
    masked = {stem.partition("/")[0] for stem in found.masks}
    if len({SPLITS[top.lower()] for top in tops}) < len(tops):
        raise ConfigError(f"two folders are the same split: {', '.join(sorted(tops))}; keep one name")
    without = sorted(tops - masked)
    if masked and {SPLITS[top.lower()] for top in masked} == {"train"}:
        return {"": f"{next(iter(masked))}/"}, without
    return {SPLITS[top.lower()]: f"{top}/" for top in sorted(masked)}, without


def _listed(tree: Tree, start: str, found: _Pairing, splits: Mapping[str, str], labels: Labels) -> Listing:
    by_image = {image: mask for mask, image in found.together.items()}
    samples: dict[str, list[Sample]] = {split: [] for split in splits}
    problems, used = [], set()
    for stem in sorted(found.images):
        for split, folder in splits.items():
            if not stem.startswith(folder):
                continue
            image = found.images[stem]
            used.add(image)
            if stem not in by_image:
                problems.append(f"{tree.inner(image)}: no mask next to it ({found.said})")
                continue
            mask = found.masks[by_image[stem]]
            used.add(mask)
            samples[split].append(Sample(stem.removeprefix(folder), image, mask))
    leftovers = [inner for inner, path in tree.files.items() if inner.startswith(start) and path not in used]
    ordered = {split: tuple(of_split) for split, of_split in samples.items()}
    return Listing(labels, ordered, tuple(problems), tuple(leftovers))


def _meaning(found: _Pairing) -> Meaning:
    return Meaning(names_in(found.masks.values()))
