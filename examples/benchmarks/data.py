"""How fast crops are made: ``python examples/benchmarks/data.py FOLDER … [--images 40] [--rounds 5] [--json FILE]``.

A folder is a data set for ``unetzoo train``. For each of the presets "none", "light" and "strong" this program measures
how many training items of 256 × 256 one core makes per second: with ``unetzoo.data.SegmentationDataset``, and with
equivalent pipelines of albumentations and MONAI if these are installed. Each is measured twice: with images and masks
read again for every item, and with all of them in memory, decoded, as 8 bits. All run in the same process, on one
thread, alternately, on the same images. The table has medians over the rounds, in CPU time.

The pipelines have the same operations with the same frequency, but not the same random numbers. The others get the same
windows as unetzoo: they warp only the pixels that a crop needs, and not the whole image, as most of their users do.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from unetzoo import augmentation
from unetzoo.augmentation import RandomWarp
from unetzoo.data import Sample, SegmentationDataset, find_samples, labels_of
from unetzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD

CROP = 256
PRESETS = ("none", "light", "strong")
ANEW, KEPT = "read anew", "in memory"
Item = Callable[[int, int], object]
"""Makes the item of an epoch and an image."""
Pixels = tuple[Any, Any]
"""An image (H, W, 3) and its mask (H, W), uint8."""


def ours(samples: Sequence[Sample], source: str, preset: str, room: int) -> Item:
    """Return items of this package."""
    dataset = SegmentationDataset(
        samples,
        labels_of(source),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augmentation=augmentation.build(preset, CROP),
        room=room,
    )
    return lambda epoch, i: dataset[epoch, i]


def albumentations(preset: str) -> Callable[[Any, Any], object]:
    """Return what makes an item of an image (H, W, 3) and a mask (H, W), uint8."""
    import albumentations as a
    import cv2

    cv2.setNumThreads(1)
    window = RandomWarp().reach((CROP, CROP)) if preset == "strong" else (CROP, CROP)
    steps: list[Any] = [a.RandomCrop(*window, pad_if_needed=True, fill_mask=255)]
    if preset == "strong":
        steps += [
            a.Affine(scale=(0.75, 1.33), rotate=(-180, 180), fill_mask=255, p=0.8),
            a.GridDistortion(num_steps=9, distort_limit=0.1, p=0.8),  # the fastest bending that it has
            a.CenterCrop(CROP, CROP),
        ]
    if preset != "none":
        limit = 0.2 if preset == "light" else 0.4
        steps += [a.HorizontalFlip(p=0.5), a.VerticalFlip(p=0.5), a.RandomRotate90(p=0.75)]
        steps += [a.RandomBrightnessContrast((-limit, limit), (0, 0), p=0.5)]
        steps += [a.RandomBrightnessContrast((0, 0), (-limit, limit), p=0.5)]
    if preset == "strong":
        steps += [a.GaussianBlur(blur_limit=0, sigma_limit=(0.05, 1.5), p=0.2)]
        steps += [a.GaussNoise(std_range=(0, 0.1), p=0.3)]
    changed = a.Compose([*steps, a.Normalize(IMAGENET_MEAN, IMAGENET_STD), a.ToTensorV2()])

    def item(image: Any, mask: Any) -> object:
        found = changed(image=image, mask=mask)
        return found["image"], found["mask"].long()

    return item


def monai(preset: str) -> Callable[[Any, Any], object]:
    """Return what makes an item of an image (H, W, 3) and a mask (H, W), uint8."""
    import monai.transforms as m

    both, image_only = ["image", "mask"], ["image"]
    window = RandomWarp().reach((CROP, CROP)) if preset == "strong" else (CROP, CROP)
    steps: list[Any] = [
        m.SpatialPadd(both, window),
        m.RandSpatialCropd(both, window, random_size=False),
        m.ScaleIntensityRanged(image_only, 0, 255, 0, 1),
    ]
    if preset == "strong":
        steps += [
            m.Rand2DElasticd(
                both,
                spacing=(64, 64),
                magnitude_range=(0, 8),
                spatial_size=(CROP, CROP),
                prob=0.8,
                rotate_range=math.pi,
                scale_range=(-0.25, 0.33),
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            )
        ]
    if preset != "none":
        limit = 0.2 if preset == "light" else 0.4
        steps += [m.RandFlipd(both, 0.5, 1), m.RandFlipd(both, 0.5, 0), m.RandRotate90d(both, 0.75)]
        steps += [m.RandStdShiftIntensityd(image_only, limit, prob=0.5, channel_wise=True)]
        steps += [m.RandScaleIntensityFixedMeand(image_only, limit, prob=0.5, channel_wise=True)]
    if preset == "strong":
        steps += [m.RandGaussianSmoothd(image_only, (0.05, 1.5), (0.05, 1.5), prob=0.2)]
        steps += [m.RandGaussianNoised(image_only, 0.3, std=0.1)]
    mean, std = (np.array(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    changed = m.Compose([*steps, m.NormalizeIntensityd(image_only, mean, std), m.ToTensord(both)])

    def item(image: Any, mask: Any) -> object:
        found = changed({"image": image.transpose(2, 0, 1), "mask": mask[None]})
        return found["image"], found["mask"][0].long()

    return item


THEIRS = {"albumentations": albumentations, "monai": monai}


def pixels_of(sample: Sample) -> Pixels:
    """Return an image and its mask as Pillow reads them."""
    assert isinstance(sample.mask, Path)
    with Image.open(sample.image) as image, Image.open(sample.mask) as mask:
        return np.asarray(image.convert("RGB")), (np.asarray(mask.convert("L")) > 127).astype(np.uint8)


def theirs(samples: Sequence[Sample], changed: Callable[[Any, Any], object], known: Sequence[Pixels] | None) -> Item:
    """Return items of another package, of images in memory or, where there are none, of files."""
    return lambda epoch, i: changed(*(pixels_of(samples[i]) if known is None else known[i]))


def installed(name: str) -> str | None:
    """Return the version of a package, None where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def ways(samples: Sequence[Sample], source: str, known: Sequence[Pixels]) -> dict[tuple[str, str, str], Item]:
    """Return what is measured: package, preset, and where images come from → what makes an item."""
    found: dict[tuple[str, str, str], Item] = {}
    for preset in PRESETS:
        found["unetzoo", preset, ANEW] = ours(samples, source, preset, 0)
        found["unetzoo", preset, KEPT] = ours(samples, source, preset, 2**34)
        for name, made in THEIRS.items():
            if installed(name) is not None:
                found[name, preset, ANEW] = theirs(samples, made(preset), None)
                found[name, preset, KEPT] = theirs(samples, made(preset), known)
    found["Pillow", "image alone", ANEW] = lambda epoch, i: np.asarray(Image.open(samples[i].image))
    return found


def rates(items: Mapping[tuple[str, str, str], Item], count: int, rounds: int) -> dict[tuple[str, str, str], float]:
    """Return how many items a second of processor time each way makes: of each round one epoch of each, in turn."""
    seconds: dict[tuple[str, str, str], list[float]] = {way: [] for way in items}
    for epoch in range(rounds + 1):  # the first one is to warm up, and fills the memory
        for way in list(items)[:: -1 if epoch % 2 else 1]:
            start = time.process_time()
            for i in range(count):
                items[way](epoch, i)
            seconds[way].append(time.process_time() - start)
    return {way: count / median(found[1:]) for way, found in seconds.items()}


def main() -> None:
    """Measure each folder and print a table of it."""
    parser = argparse.ArgumentParser(description="How fast crops are made.")
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument("--images", type=int, default=40, help="the most of a folder's training images that are used")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    packages = ("torch", "torchvision", "pillow", *THEIRS)
    print(", ".join(f"{name} {installed(name) or 'is not installed'}" for name in packages))
    written = []
    for folder in options.folders:
        samples = find_samples(folder, labels_of(folder))["train"][: options.images]
        known = [pixels_of(sample) for sample in samples]
        found = rates(ways(samples, folder, known), len(samples), options.rounds)
        print(f"\n{folder}: {len(samples)} images, crops a second and core\n{'':16}{'':12}{ANEW:>12}{KEPT:>12}")
        for name, preset in dict.fromkeys(way[:2] for way in found):
            cells = (found.get((name, preset, place)) for place in (ANEW, KEPT))
            print(f"{name:16}{preset:12}" + "".join(f"{'' if cell is None else f'{cell:.0f}':>12}" for cell in cells))
        written += [[folder, *way, rate] for way, rate in found.items()]
    if options.json:
        Path(options.json).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
