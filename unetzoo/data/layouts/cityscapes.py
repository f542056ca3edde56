"""Cityscapes: ``leftImg8bit/<split>/<city>/x_leftImg8bit.png`` and ``gtFine/<split>/<city>/x_gtFine_labelIds.png``.

https://github.com/mcordts/cityscapesScripts. Masks of ids have 34 values, of which the benchmark evaluates 19, in the
order of their "train ids"; the others do not count. If there are masks of train ids, these are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unetzoo import images
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.layouts._base import Meaning, Understood, register_layout
from unetzoo.data.listing import SPLITS, Listing, Sample, Tree, is_hidden
from unetzoo.data.object_ids import ObjectIds
from unetzoo.errors import ConfigError, InputError

NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
"""The evaluated classes, by their train ids."""
_JUDGED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Their ids (labels.py of cityscapesScripts)."""
CODES = tuple(_JUDGED.index(value) if value in _JUDGED else IGNORED for value in range(34))
_IMAGES, _MASKS = "leftImg8bit", "gtFine"
_IMAGE = f"_{_IMAGES}.png"
_OBJECTS = f"_{_MASKS}_instanceIds.png"
_FIRST = 1000
"""Lowest value of an object: 1000 times the id of its class, plus a number. Lower values are not objects."""
_TRAIN_IDS, _IDS = f"_{_MASKS}_labelTrainIds.png", f"_{_MASKS}_labelIds.png"


@register_layout("cityscapes", title="Cityscapes", refines=("plain", "beside"))
def recognises(tree: Tree) -> Understood | None:
    """Recognise a folder with leftImg8bit/ and gtFine/."""
    if not {_IMAGES, _MASKS} <= {*tree.inside()}:
        return None
    ending = _TRAIN_IDS if any(inner.endswith(_TRAIN_IDS) for inner in tree.under(_MASKS)) else _IDS
    splits = [name for name in tree.inside(_IMAGES) if name in SPLITS]
    if not splits:
        raise ConfigError(f"{str(tree.path / _IMAGES)!r} has none of the folders train/, val/ and test/ of Cityscapes")
    hidden = [split for split in splits if SPLITS[split] == "test" and _is_empty(tree, split, ending)]
    kept = [split for split in splits if split not in hidden]
    told = f"; {_OBJECTS!r} tell objects apart" if any(i.endswith(_OBJECTS) for i in tree.under(_MASKS)) else ""
    left = "; test is left out, as its masks have no classes" if hidden else ""
    said = (
        f"Cityscapes: {_IMAGES}/ and {_MASKS}/, in {', '.join(kept)}: masks end in {ending!r}, their images in "
        f"{_IMAGE!r}; its 19 classes, and nothing else counts{told}{left}"
    )
    labels: dict[str, Any] = {"class_names": NAMES} | ({"ignore": 255} if ending == _TRAIN_IDS else {"codes": CODES})
    return Understood(said, lambda given: _listed(tree, kept, ending, given), lambda: Meaning(labels=labels))


def _is_empty(tree: Tree, split: str, ending: str) -> bool:
    """Return whether the first mask of a split has no class, as in the public masks of the test split."""
    first = next((path for inner, path in tree.under(f"{_MASKS}/{split}").items() if inner.endswith(ending)), None)
    if first is None:
        return True
    try:
        values = torch.unique(images.read_values(first)).tolist()
    except InputError as error:
        raise ConfigError(str(error)) from error
    return not any(value < 19 if ending == _TRAIN_IDS else value in _JUDGED for value in values)


def _listed(tree: Tree, splits: list[str], ending: str, labels: Labels) -> Listing:
    samples, problems = {}, []
    for split in splits:
        found = _named(tree, f"{_IMAGES}/{split}", _IMAGE)
        masks = _named(tree, f"{_MASKS}/{split}", ending)
        missing, over = found.keys() - masks.keys(), masks.keys() - found.keys()
        problems += [f"{_IMAGES}/{split}/{name}{_IMAGE}: no mask {name}{ending}" for name in sorted(missing)]
        problems += [f"{_MASKS}/{split}/{name}{ending}: no image {name}{_IMAGE}" for name in sorted(over)]
        files = _named(tree, f"{_MASKS}/{split}", _OBJECTS)
        ids = {name: ObjectIds(path, _FIRST) for name, path in files.items()}
        samples[SPLITS[split]] = tuple(
            Sample(name, found[name], masks[name], objects=ids.get(name))
            for name in sorted(found.keys() & masks.keys())
        )
    return Listing(labels, samples, tuple(problems), ())


def _named(tree: Tree, folder: str, ending: str) -> dict[str, Path]:
    files = tree.under(folder)
    return {i.removesuffix(ending): path for i, path in files.items() if i.endswith(ending) and not is_hidden(i)}
