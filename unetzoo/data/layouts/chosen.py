"""Masks chosen by a pattern of paths inside the data set: ``gt/{name}_gt.png``.

``{name}`` is the path of the image inside its folder of images, without its suffix, and perhaps without what image
names end in (_image, _img, _sat, _training, _test). ``{split}`` is the name of the folder of a split. Images are in the
folder with a name such as ``images``; without one, in the folder that holds all other images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from unetzoo.data.labels import Labels
from unetzoo.data.layouts._base import Meaning, Understood
from unetzoo.data.layouts.class_names import names_in
from unetzoo.data.layouts.folders import places
from unetzoo.data.layouts.naming import IMAGE_ENDINGS, MASK_ENDINGS, composed, pairs, rules
from unetzoo.data.listing import Listing, Sample, Tree, is_hidden
from unetzoo.errors import ConfigError

Found = Mapping[tuple[str, str], Path]
"""(Name of a split's folder, name of an image) → the mask."""


def understood(tree: Tree, pattern: str) -> Understood:
    """Return how to read a folder whose masks have these names.

    Raises:
        ConfigError: no file has such a name, or there are no other images.
    """
    masks = _masks(tree, pattern)
    if not masks:
        seen = ", ".join(list(tree.images())[:3]) or "no images at all"
        raise ConfigError(f"masks={pattern!r}: no file in {str(tree.path)!r} has such a name; there are {seen}")
    folders = _folders(tree, pattern, masks)
    shown = " and ".join(f"{folder}/" if folder else "this folder" for _, folder in folders.values())
    splits = "" if "" in folders else f", in {', '.join(folders)}"
    said = f"images in {shown}{splits}: their masks are {pattern}"
    return Understood(said, lambda labels: _listed(tree, masks, folders, pattern, labels), lambda: _meaning(masks))


def _masks(tree: Tree, pattern: str) -> Found:
    compiled = re.compile(_regex(composed(pattern)))
    found = {}
    for inner, path in tree.files.items():
        match = compiled.fullmatch(composed(inner))
        if match is not None and not is_hidden(inner):
            groups = match.groupdict()
            found[groups.get("split") or "", groups["name"]] = path
    return found


def _regex(pattern: str) -> str:
    """Return the regular expression of a pattern; a field that occurs twice must match the same text."""
    parts, seen = [], set()
    for part in re.split(r"(\{name\}|\{split\})", pattern.removeprefix("./")):
        if part not in ("{name}", "{split}"):
            parts.append(re.escape(part))
        elif part in seen:
            parts.append(f"(?P={part[1:-1]})")
        else:
            parts.append("(?P<name>.+)" if part == "{name}" else "(?P<split>[^/]+)")
            seen.add(part)
    return "".join(parts)


def _folders(tree: Tree, pattern: str, masks: Found) -> dict[str, tuple[str, str]]:
    """Return split → the name of its folder, and the folder of its images; without splits both keys are ""."""
    found = places(tree, "")
    if found:
        return {split: (name, place.images) for split, (name, place) in found.items()}
    if "{split}" in pattern:
        raise ConfigError(f"masks={pattern!r}: {str(tree.path)!r} has no folders of splits: leave {{split}} out")
    of_masks = {*masks.values()}
    images = [inner for inner, path in tree.images().items() if path not in of_masks]
    if not images:
        raise ConfigError(f"masks={pattern!r} fits all images in {str(tree.path)!r}: give one that only masks fit")
    return {"": ("", os.path.commonpath([os.path.dirname(inner) for inner in images]).replace(os.sep, "/"))}  # noqa: PTH120


def _listed(tree: Tree, masks: Found, folders: Mapping[str, tuple[str, str]], pattern: str, labels: Labels) -> Listing:
    problems: list[str] = []
    used: set[Path] = set()
    samples = {}
    for split, (of_split, folder) in folders.items():
        start = f"{folder}/" if folder else ""
        images = _images(tree, start, {*masks.values()}, problems)
        found = []
        for name, path in images.items():
            mask = _mask_of(name, of_split if "{split}" in pattern else "", masks)
            if len(mask) == 1:
                found.append(Sample(name, path, mask[0]))
                used |= {path, mask[0]}
            else:
                said = f"{' and '.join(tree.inner(one) for one in mask)} may be its mask" if mask else "no mask"
                problems.append(f"{tree.inner(path)}: {said}, by masks={pattern!r}")
        samples[split] = tuple(found)
    problems += [f"{tree.inner(path)}: no image for this mask" for path in masks.values() if path not in used]
    inside = tuple(f"{folder}/" if folder else "" for _, folder in folders.values())
    leftovers = [inner for inner, path in tree.files.items() if inner.startswith(inside) and path not in used]
    return Listing(labels, samples, tuple(problems), tuple(leftovers))


def _images(tree: Tree, start: str, masks: set[Path], problems: list[str]) -> dict[str, Path]:
    """Return the images below a folder by name, except those that are masks by the pattern or by their names."""
    found: dict[str, Path] = {}
    for inner, path in tree.images().items():
        if inner.startswith(start) and path not in masks:
            name = inner.removeprefix(start).rpartition(".")[0]
            other = found.setdefault(name, path)
            if other is not path:
                problems.append(f"{inner}: {tree.inner(other)} has the same stem; keep one")
    others = {stem for rule in rules(found, found, MASK_ENDINGS) for stem in pairs(rule, found, found)}
    return {name: found[name] for name in sorted(found) if name not in others}


def _mask_of(name: str, split: str, masks: Found) -> list[Path]:
    names = [composed(name)]
    names += [names[0].removesuffix(ending) for ending in IMAGE_ENDINGS if names[0].endswith(ending)]
    return [masks[split, one] for one in names if (split, one) in masks]


def _meaning(masks: Found) -> Meaning:
    return Meaning(names_in(masks.values()))
