"""A folder for each image, with ``images/`` and ``masks/`` in it, and a mask file for each object: DSB 2018.

https://bbbc.broadinstitute.org/BBBC038. Objects cover those whose files come before theirs.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from unetzoo.data.annotations import Annotation, Drawing, MaskFile
from unetzoo.data.labels import Labels
from unetzoo.data.layouts._base import Understood, register_layout
from unetzoo.data.listing import SPLITS, Listing, Sample, Tree, is_hidden
from unetzoo.errors import ConfigError
from unetzoo.images import is_image


@register_layout("apart", title="a folder for each image, and a mask for each object", refines=("plain", "beside"))
def recognises(tree: Tree) -> Understood | None:
    """Recognise a folder in which each image has a folder of its own."""
    homes = [
        inner.removesuffix("/images")
        for inner in tree.folders
        if inner.endswith("/images") and inner.rpartition("/images")[0].lower() not in SPLITS
    ]
    images = {home: _files(tree, f"{home}/images") for home in sorted(homes)}
    masked = [home for home in images if f"{home}/masks" in tree.folders]
    if "images" in tree.folders or not masked or any(len(images[home]) != 1 for home in masked):
        return None
    parents = {home.rpartition("/")[0] for home in masked}
    without = sorted({home.rpartition("/")[0] for home in images} - parents)
    splits = {SPLITS[name] for name in parents if name.lower() in SPLITS}
    if splits and len(splits) < len(parents):
        raise ConfigError(
            f"{str(tree.path)!r} has folders of images in {', '.join(sorted(parents))}: not all of these are splits; "
            "keep only train, val and test there"
        )
    left = f"; left out, without masks: {' and '.join(without)}" if without else ""
    said = (
        f"a folder for each image in {' and '.join(f'{name}/' if name else 'this one' for name in sorted(parents))}, "
        f"with images/ and masks/ in it: each file in masks/ is an object{left}"
    )
    wanted = {home: found for home, found in images.items() if home.rpartition("/")[0] in parents}
    return Understood(said, lambda labels: _listed(tree, wanted, len(parents) == 1, labels))


def _files(tree: Tree, folder: str) -> list[Path]:
    return [path for inner, path in tree.under(folder).items() if is_image(inner) and not is_hidden(inner)]


def _listed(tree: Tree, images: dict[str, list[Path]], one: bool, labels: Labels) -> Listing:
    samples: dict[str, list[Sample]] = defaultdict(list)
    problems = []
    for home, found in images.items():
        if len(found) != 1 or f"{home}/masks" not in tree.folders:
            said = "no masks/ in it" if len(found) == 1 else f"{len(found)} images in it, but one is needed"
            problems.append(f"{home}: {said}")
            continue
        parent, _, name = home.rpartition("/")
        split = SPLITS.get(parent.lower(), "")
        objects = tuple(Annotation("", MaskFile(path)) for path in _files(tree, f"{home}/masks"))
        drawing = Drawing(tree.path / home, objects)
        samples[split].append(Sample(name if one or split else home, found[0], drawing))
    return Listing(labels, {split: tuple(of_split) for split, of_split in samples.items()}, tuple(problems), ())
