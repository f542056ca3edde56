"""nnU-Net v2: ``imagesTr/case_0000.png``, ``labelsTr/case.png`` and ``dataset.json``; v1 as well.

https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md. The four digits are the number of a
channel. Mask values are the classes in ``dataset.json``; "ignore" is the value that does not count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unetzoo import images
from unetzoo.data.annotations import parsing
from unetzoo.data.labels import Labels
from unetzoo.data.layouts._base import Meaning, Understood, register_layout
from unetzoo.data.listing import Listing, Sample, Tree, is_hidden
from unetzoo.errors import ConfigError, InputError
from unetzoo.images import is_image

_FILE = "dataset.json"
_PARTS = {"train": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}


@register_layout("nnunet", title="nnU-Net", refines=("plain", "beside"))
def recognises(tree: Tree) -> Understood | None:
    """Recognise a folder with imagesTr/, labelsTr/ and dataset.json."""
    if not {*_PARTS["train"]} <= {*tree.inside()}:
        return None
    if _FILE not in tree.files:
        raise ConfigError(f"{str(tree.path)!r} has imagesTr/ and labelsTr/ of nnU-Net, but no {_FILE}: add it")
    labels, channels = _told(tree.files[_FILE])
    parts = {split: places for split, places in _PARTS.items() if {*places} <= {*tree.inside()}}
    left = "; imagesTs/ has no masks and is left out" if "test" not in parts and "imagesTs" in tree.inside() else ""
    last = f"channels are in files _0000 to _{channels - 1:04}, or all in one file; " if channels > 1 else ""
    said = (
        f"nnU-Net: {' and '.join(f'{images}/, {masks}/' for images, masks in parts.values())}: masks have the name of "
        f"their image without _0000; {last}classes as in {_FILE}{left}"
    )
    return Understood(said, lambda given: _listed(tree, parts, channels, given), lambda: Meaning(labels=labels))


def _told(path: Path) -> tuple[dict[str, Any], int]:
    """Return the fields of ``Labels`` that a dataset.json gives, and the number of channels.

    Raises:
        ConfigError: the file cannot be read, or lacks something; or a class is a region of several values.
    """
    try:
        found = parsing.json_of(path)
    except InputError as error:
        raise ConfigError(str(error)) from error
    channels = found.get("channel_names", found.get("modality")) if isinstance(found, Mapping) else None
    labels = found.get("labels") if isinstance(found, Mapping) else None
    if not isinstance(labels, Mapping) or not isinstance(channels, Mapping) or not channels:
        raise ConfigError(f"{str(path)!r} is not a file of nnU-Net: channel_names and labels are needed")
    ending = found.get("file_ending", ".nii.gz")
    if not is_image(f"a{ending}"):
        raise ConfigError(
            f"{str(path)!r} has file_ending {ending!r:.40}, which is not read: use .png, .tif or .nii.gz, for example"
        )
    regions = [name for name, value in labels.items() if isinstance(value, list)]
    if regions:
        raise ConfigError(
            f"{str(path)!r}: {', '.join(regions)} are regions of several values, so a pixel may be in two of them: "
            "save a mask for each as multilabel data, in masks/<class>/"
        )
    old = all(str(name).isdecimal() for name in labels)  # v1 has value → name
    values = {str(value): int(name) for name, value in labels.items()} if old else dict(labels)
    ignore = values.pop("ignore", None)
    if sorted(values.values(), key=str) != sorted(range(len(values)), key=str) or type(ignore) not in (int, type(None)):
        raise ConfigError(f"{str(path)!r}: labels must be whole numbers from 0 on, each once, not {labels!r:.200}")
    names = tuple(sorted(values, key=lambda name: values[name]))
    return {"class_names": names} | ({} if ignore is None else {"ignore": ignore}), len(channels)


def _listed(tree: Tree, parts: Mapping[str, tuple[str, str]], channels: int, labels: Labels) -> Listing:
    problems: list[str] = []
    leftovers: list[str] = []
    found = {split: _images(tree.under(place), place, leftovers) for split, (place, _) in parts.items()}
    # RGB is three channels in one file, as nnU-Net's own PNG reader returns it.
    whole = all(sorted(files) == [0] for images_of in found.values() for files in images_of.values())
    wanted = [0] if whole else [*range(channels)]
    samples = {}
    for split, (of_images, of_masks) in parts.items():
        cases = found[split]
        masks = {
            i.rpartition(".")[0].removesuffix(".nii"): path for i, path in tree.under(of_masks).items() if is_image(i)
        }
        problems += [f"{of_images}/{name}_0000: no mask {name} in {of_masks}/" for name in cases if name not in masks]
        problems += [f"{of_masks}/{name}: no image {name}_0000 in {of_images}/" for name in masks if name not in cases]
        problems += [
            f"{of_images}/{name}: channels {', '.join(f'{k:04}' for k in sorted(files))}, where {_FILE} has {channels}"
            for name, files in cases.items()
            if sorted(files) != wanted
        ]
        samples[split] = tuple(
            Sample(name, files[0], masks[name], channels=tuple(files[k] for k in wanted[1:]))
            for name, files in sorted(cases.items())
            if name in masks and sorted(files) == wanted
        )
        problems += _other_channels(samples[split][:1], channels, labels)
    return Listing(labels, samples if len(samples) > 1 else {"": samples["train"]}, tuple(problems), tuple(leftovers))


def _images(inside: Mapping[str, Path], folder: str, leftovers: list[str]) -> dict[str, dict[int, Path]]:
    """Return the files of each image by the number of their channel; others go to ``leftovers``."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for inner, path in inside.items():
        match = re.fullmatch(r"(.+)_(\d{4})(?:\.nii)?\.\w+", inner)
        if match is not None and is_image(inner) and not is_hidden(inner):
            found[match[1]][int(match[2])] = path
        else:
            leftovers.append(f"{folder}/{inner}")
    return found


def _other_channels(samples: Sequence[Sample], channels: int, labels: Labels) -> list[str]:
    """Return problems of images whose channels are not as many as ``dataset.json`` says; the images are read.

    With one channel nothing is checked: RGB files may be listed as one channel, too.
    """
    problems = []
    for sample in samples if channels > 1 else ():
        try:
            raster = images.read(sample.files, 0 if labels.planes == "split" else labels.planes)
        except InputError:  # reading it later raises the error
            continue
        bands = raster.pixels.shape[0]
        if channels not in (bands, bands - raster.alpha):
            listed = ", ".join(path.name for path in sample.files)
            problems.append(
                f"{listed}: {bands} channel{'s' * (bands > 1)} in all, where {_FILE} has {channels}: name each there, "
                "and have a file for each, or all in one"
            )
    return problems
