"""Ways to separate objects: ``python examples/benchmarks/separating.py LIST.csv [--ways edges …] [--seeds 0 1 2]``.

LIST.csv names images, label images and their split, for ``unetzoo train --data``. One network is trained for
each way and seed, with the same crops in the same order for the same number of steps. For each way, the best of a small
grid of parameters is chosen on the validation images, and applied to the test images. Ways:

- ``mask``: only the mask; objects are its components, or these split at narrow places.
- ``weights``: the mask, in which a line of one pixel separates touching objects, with the weight map of equation 2 of
  the U-Net paper (Ronneberger et al. 2015, arXiv 1505.04597; w0 = 10, sigma = 5).
- ``edges``: the mask and the edges of objects, as in ``--task instances``.
- ``walls``: the same, with more weight on edges between two objects.
- ``contacts``: the mask, and the pixels that are within two pixels of two objects.
- ``distance``: the mask, and the distance to the object's edge relative to the largest in the object (torch-em).
- ``centre``: the mask, and the offset from each pixel to the centre of its object.

AP is at an IoU above 0.5 over all objects together; predicted objects of fewer than 20 pixels are left out. The share
of the loss in the time of a step is in CPU time.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import h_maxima
from skimage.segmentation import expand_labels, watershed
from torch import Tensor

import unetzoo
from unetzoo import augmentation, objects
from unetzoo.data import Labels, SegmentationDataset, find_samples
from unetzoo.data.edges import edges_of
from unetzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD

CROP, BATCH, SMALLEST = 128, 8, 20
REACH = 16
"""The unit of offsets to centres, in pixels: about the radius of a nucleus."""
W0, SIGMA = 10.0, 5.0
"""w0 and σ of the paper's weights."""
Maps = NDArray[np.float32]
"""(channels, H, W): the outputs of a network for an image: probabilities, or offsets to centres."""
Numbers = NDArray[np.integer[Any]]
"""(H, W): a number for each object, and 0 as background."""


def matches(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return binary cross-entropy and Dice loss of maps (N, H, W) against targets from 0 to 1."""
    logits, target = logits.float(), target.float()
    said = logits.sigmoid()
    overlap = (2 * (said * target).sum() + 1) / (said.sum() + target.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, target, weights) + 1 - overlap


def of_mask(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of a mask alone."""
    return matches(logits[:, 0], ids > 0)


def of_weights(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of a mask whose objects are separated by lines, with the paper's weights."""
    apart = _with_lines(ids)
    return matches(logits[:, 0], apart > 0, _weight_map(apart))


def of_edges(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of the mask and the edges of objects."""
    return of_mask(logits, ids) + matches(logits[:, 1], edges_of(ids))


def of_walls(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of the mask and the edges, in which edges between two objects count six times."""
    edges = edges_of(ids)
    ground = F.max_pool2d((ids <= 0).float()[:, None], 3, 1, 1)[:, 0] > 0
    return of_mask(logits, ids) + matches(logits[:, 1], edges, 1 + 5 * (edges & ~ground).float())


def of_contacts(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of the mask and the pixels within two of two objects."""
    near = F.pad(ids.float()[:, None], (2,) * 4)
    most = F.max_pool2d(near, 5, 1)
    least = -F.max_pool2d(-near.masked_fill(near == 0, torch.inf), 5, 1)
    return of_mask(logits, ids) + matches(logits[:, 1], (most > least)[:, 0])


def of_distance(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of the mask and the distances to edges."""
    return of_mask(logits, ids) + matches(logits[:, 1], torch.stack([_shares(one) for one in ids]))


def of_centre(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of the mask and the offsets to centres."""
    inside = (ids > 0)[:, None].float()
    ways = torch.stack([_ways(one) for one in ids])
    miss = F.smooth_l1_loss(logits[:, 1:].float(), ways, reduction="none", beta=0.1) * inside
    return of_mask(logits, ids) + 2 * miss.sum() / (2 * inside.sum() + 1)


def _with_lines(ids: Tensor) -> Tensor:
    """Return numbers without the pixels of an object that touch one of a higher number."""
    most = F.max_pool2d(ids.float()[:, None], 3, 1, 1)[:, 0]
    return ids.masked_fill((ids > 0) & (most > ids), 0)


def _weight_map(ids: Tensor) -> Tensor:
    """Return 1 + w0 · exp(-(d1 + d2)² / 2σ²) on the background, with the distances to the two nearest objects."""
    found = np.ones(ids.shape, np.float32)
    reach = int(4 * SIGMA)
    for weights, plane in zip(found, ids.numpy(), strict=True):
        first, second = np.full(plane.shape, np.inf), np.full(plane.shape, np.inf)
        for number, box in enumerate(ndimage.find_objects(plane), 1):
            if box is not None:
                around = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
                far = ndimage.distance_transform_edt(plane[around] != number)
                second[around] = np.minimum(second[around], np.maximum(first[around], far))
                first[around] = np.minimum(first[around], far)
        weights[plane == 0] += (W0 * np.exp(-((first + second) ** 2) / (2 * SIGMA**2)))[plane == 0]
    return torch.from_numpy(found)


def _shares(ids: Tensor) -> Tensor:
    """Return the distance of each pixel to the edge of its object, over the largest one of that object."""
    plane = ids.numpy()
    far = np.where(plane > 0, ndimage.distance_transform_edt(~edges_of(ids).numpy()) + 1, 0)
    largest = ndimage.maximum(far, plane, np.arange(plane.max() + 1))
    return torch.from_numpy((far / np.maximum(np.nan_to_num(largest), 1)[plane]).astype(np.float32))


def _ways(ids: Tensor) -> Tensor:
    """Return the offset of each pixel to the centre of its object, down and across, in units of ``REACH``."""
    plane = ids.numpy()
    places = np.indices(plane.shape)
    centres = [np.nan_to_num(ndimage.mean(axis, plane, np.arange(plane.max() + 1))) for axis in places]
    ways = [(centre[plane] - axis) / REACH * (plane > 0) for centre, axis in zip(centres, places, strict=True)]
    return torch.from_numpy(np.stack(ways).astype(np.float32))


def by_mask(maps: Maps, split: float) -> Numbers:
    """Return the components of the mask, split at narrow places."""
    mask = torch.from_numpy(maps[0] > 0.5)
    return np.asarray(objects.instances(mask, "binary", 1, split=split).labels)


def by_weights(maps: Maps, split: float) -> Numbers:
    """Return the components, each a pixel wider: as wide as the line between two."""
    return np.asarray(expand_labels(by_mask(maps, split), 1))


def by_edges(maps: Maps, split: float) -> Numbers:
    """Return the objects as ``unetzoo predict`` finds them."""
    said, edges = torch.from_numpy(maps[:1]), torch.from_numpy(maps[1])
    found = objects.instances(said[0] > 0.5, "binary", 1, probabilities=said, edges=edges, split=split)
    return np.asarray(found.labels)


def by_contacts(maps: Maps, least: float) -> Numbers:
    """Return objects grown from the pixels where the mask is well above contacts."""
    inside = maps[0] - maps[1]
    return _grown(label(inside > least, connectivity=1), inside, maps[0] > 0.5)


def by_distance(maps: Maps, rise: float) -> Numbers:
    """Return objects grown from the peaks of the distances."""
    heights = ndimage.gaussian_filter(maps[1], 1.5)
    mask = maps[0] > 0.5
    return _grown(label(h_maxima(np.where(mask, heights, 0), rise), connectivity=2), heights, mask)


def by_centre(maps: Maps, wide: float) -> Numbers:
    """Return the pixels that point to one centre."""
    mask = maps[0] > 0.5
    down, across = (
        np.clip(np.rint(axis + REACH * way).astype(int), 0, side - 1)[mask]
        for axis, way, side in zip(np.indices(mask.shape), maps[1:], mask.shape, strict=True)
    )
    votes = np.zeros(mask.shape)
    np.add.at(votes, (down, across), 1)
    votes = ndimage.gaussian_filter(votes, wide)
    tops, _ = ndimage.label((votes == ndimage.maximum_filter(votes, 7)) & (votes > 0.3), np.ones((3, 3)))
    if not tops.any():
        return np.asarray(label(mask))
    near = ndimage.distance_transform_edt(tops == 0, return_distances=False, return_indices=True)
    found = np.zeros(mask.shape, int)
    found[mask] = tops[near[0][down, across], near[1][down, across]]
    return found


def _grown(seeds: Numbers, heights: NDArray[Any], mask: NDArray[np.bool_]) -> Numbers:
    """Return seeds grown in a mask; its parts without a seed are objects, too."""
    found = watershed(-heights, seeds, mask=mask)
    alone = label(mask & (found == 0))
    return np.where(alone > 0, alone + found.max(), found)


@dataclass(frozen=True)
class Way:
    """What is learned besides the mask, how objects are made from it, and the values of its parameter to try."""

    channels: int
    loss: Callable[[Tensor, Tensor], Tensor]
    found: Callable[[Maps, float], Numbers]
    grid: Sequence[float]


SPLITS = (0, 0.75, 1, 1.5, 2, 3)
WAYS = {
    "mask": Way(1, of_mask, by_mask, SPLITS),
    "weights": Way(1, of_weights, by_weights, SPLITS),
    "edges": Way(2, of_edges, by_edges, (0.5, 0.75, 1, 1.5)),
    "walls": Way(2, of_walls, by_edges, (0.5, 0.75, 1, 1.5)),
    "contacts": Way(2, of_contacts, by_contacts, (0.2, 0.4, 0.6)),
    "distance": Way(2, of_distance, by_distance, (0.05, 0.1, 0.15, 0.2)),
    "centre": Way(3, of_centre, by_centre, (1, 1.5, 2)),
}


class Order:
    """Batches of (epoch, image): each kind of image as often as another, larger images more often."""

    def __init__(self, dataset: SegmentationDataset, kinds: Sequence[str], steps: int, seed: int) -> None:
        size = [math.sqrt(height * width) for height, width in dataset.sizes()]
        weights = [side / kinds.count(kind) for side, kind in zip(size, kinds, strict=True)]
        chance = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(torch.tensor(weights), steps * BATCH, replacement=True, generator=chance)
        self.batches = [[(k, i) for i in batch] for k, batch in enumerate(drawn.view(steps, BATCH).tolist())]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter([[(k * BATCH + j, i) for j, (k, i) in enumerate(batch)] for batch in self.batches])

    def __len__(self) -> int:
        return len(self.batches)


def trained(way: Way, crops: SegmentationDataset, order: Order, seed: int) -> tuple[torch.nn.Module, float]:
    """Return a network, averaged over its last steps, and the loss's share of the processor's time."""
    torch.manual_seed(seed)
    network = unetzoo.create("unet", task="multilabel", num_classes=way.channels, base_channels=16)
    network = network.to(memory_format=torch.channels_last).train()
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=len(order), pct_start=0.05)
    begun, spent = time.process_time(), 0.0
    for batch in torch.utils.data.DataLoader(crops, batch_sampler=order):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(batch["image"])
        before = time.process_time()
        loss = way.loss(logits, batch["ids"])
        spent += time.process_time() - before
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        average.update_parameters(network)
    return average.module.eval(), spent / (time.process_time() - begun)


@torch.no_grad()
def said(network: torch.nn.Module, way: str, images: SegmentationDataset) -> list[tuple[Maps, Tensor]]:
    """Return the maps of each image, and its true numbers."""
    found = []
    for i in range(len(images)):
        item = images[i]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(item["image"][None])[0].float()
        probabilities = logits.sigmoid()
        maps = torch.cat([probabilities[:1], logits[1:]]) if way == "centre" else probabilities
        found.append((maps.numpy(), item["ids"]))
    return found


def score(way: Way, value: float, maps: Sequence[tuple[Maps, Tensor]]) -> dict[str, float]:
    """Return AP at 0.5, panoptic quality and the Dice of the masks."""
    total, common, both = objects.ObjectScores(), 0, 0
    for each, ids in maps:
        numbers = way.found(each, value)
        large = np.bincount(numbers.ravel(), minlength=1) >= SMALLEST
        numbers = torch.from_numpy(np.where(large[numbers], numbers, 0).astype(np.int64))
        found, true = (objects.instances(one > 0, "binary", 1, ids=one) for one in (numbers, ids))
        total += objects.matched(found, true)
        mask = torch.from_numpy(each[0] > 0.5)
        common += int((mask & (ids > 0)).sum())
        both += int(mask.sum() + (ids > 0).sum())
    figures = total.pooled()
    return {"ap_50": figures["ap_50"], "pq": figures["pq"], "dice": 2 * common / both}


def judged(name: str, seed: int, steps: int, sets: Mapping[str, SegmentationDataset]) -> dict[str, Any]:
    """Train one network and return the result."""
    way, crops = WAYS[name], sets["train"]
    order = Order(crops, [sample.kind or "" for sample in crops.samples], steps, seed)
    network, share = trained(way, crops, order, seed)
    validation = said(network, name, sets["val"])
    best = max(way.grid, key=lambda value: score(way, value, validation)["ap_50"])
    row = {"way": name, "seed": seed, "steps": steps, "value": best, "loss_share": share}
    for part, maps in (("val", validation), ("test", said(network, name, sets["test"]))):
        row |= {f"{part}_{figure}": number for figure, number in score(way, best, maps).items()}
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds, a row for each way, as Markdown."""
    heads = ("val_ap_50", "test_ap_50", "test_pq", "test_dice")
    lines = [f"| way | {' | '.join(heads)} | values | loss's share of the time |", "| :-- |" + " --: |" * 6]
    for name in dict.fromkeys(row["way"] for row in rows):
        of_way = [row for row in rows if row["way"] == name]
        cells = []
        for head in heads:
            numbers = [row[head] for row in of_way]
            spread = f" ± {stdev(numbers):.3f}" if len(numbers) > 1 else ""
            cells.append(f"{mean(numbers):.3f}{spread}")
        values = ", ".join(f"{row['value']:g}" for row in of_way)
        lines.append(f"| {name} | {' | '.join(cells)} | {values} | {mean(row['loss_share'] for row in of_way):.0%} |")
    return "\n".join(lines)


def main() -> None:
    """Train each way with each seed, print each result when it is done, and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="LIST.csv")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows; existing rows are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    labels = Labels(task="instances", foreground="any")
    samples = find_samples(args.data, labels)
    sets = {
        part: SegmentationDataset(
            samples[part],
            labels,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            augmentation=augmentation.build("strong", (CROP, CROP)) if part == "train" else None,
            room=1 << 30,
        )
        for part in ("train", "val", "test")
    }
    rows = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    done = {(row["way"], row["seed"], row["steps"]) for row in rows}
    for seed in args.seeds:
        for name in args.ways:
            if (name, seed, args.steps) not in done:
                rows.append(judged(name, seed, args.steps, sets))
                print(json.dumps(rows[-1]), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
