"""Objects as a network learns them: their classes, pixel by pixel, and the edges that keep them apart.

A separate map keeps touching objects apart, as in the solutions of the 2018 Data Science Bowl (Caicedo et al. 2019,
"Nucleus segmentation across imaging experiments", Nature Methods): a sigmoid next to those of the classes, whose target
follows from the numbers of the objects. It turns and mirrors with the image, so tiles, views and models can be averaged
like probabilities. docs/objects.md describes what was tried.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unetzoo.data import masks
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.listing import Sample
from unetzoo.errors import InputError
from unetzoo.objects.components import components


def edges_of(ids: Tensor) -> Tensor:
    """Return the edges of objects: their pixels with a pixel of something else among their eight neighbours.

    The border of the image and pixels that do not count make no edges.

    Args:
        ids: (..., H, W) integers, one number per object, 0 between them, negative where pixels do not count.

    Returns:
        bool, of the same shape.
    """
    found = torch.zeros_like(ids, dtype=torch.bool)
    height, width = ids.shape[-2:]
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):  # half of the neighbours: each pair is compared once
        columns, others = (slice(max(step, 0), width + min(step, 0)) for step in (-right, right))
        rows, below = slice(0, height - down), slice(down, height)
        one, other = ids[..., rows, columns], ids[..., below, others]
        differ = (one != other) & (one >= 0) & (other >= 0)
        found[..., rows, columns] |= differ
        found[..., below, others] |= differ
    return found & (ids > 0)


def read_numbers(sample: Sample, labels: Labels, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the classes of an image's pixels, and the numbers of its objects.

    Args:
        sample, labels, size: as for :func:`unetzoo.data.masks.read_target`; of instances.

    Returns:
        (classes, H, W) int32, 0 and 1 for each class, IGNORED where pixels do not count; and whole numbers, (1, H, W)
        or (classes, H, W) with those of each class, as files and annotations have them: only those in a class count.

    Raises:
        InputError: see :func:`read_objects`.
    """
    found = masks.decode(sample, labels, size, ids=True)
    if found.outside:
        raise InputError(f"{masks.shown(sample)}: {masks.explain(found.outside, labels, sample)}")
    if found.ids is None and labels.foreground == "any":
        raise InputError(
            f"{masks.shown(sample)} does not tell objects apart: task='instances' needs label images or annotations; "
            "Pascal VOC needs SegmentationObject/, and Cityscapes _instanceIds.png"
        )
    classes = found.target.reshape(-1, *size).int()
    return classes, _components(classes) if found.ids is None else found.ids.reshape(-1, *size)


def read_objects(sample: Sample, labels: Labels, size: tuple[int, int]) -> Tensor:
    """Return the classes of an image's pixels, followed by the numbers of its objects.

    Args:
        sample, labels, size: as for :func:`unetzoo.data.masks.read_target`; of instances.

    Returns:
        (classes + 1, H, W) int32: 0 and 1 for each class, then numbers from 1 up and 0 between objects; IGNORED in all
        of them where pixels do not count.

    Raises:
        InputError: a mask cannot be read, has another size, or has values outside the classes.
    """
    classes, ids = read_numbers(sample, labels, size)
    ignored = (classes == IGNORED).any(dim=0)
    return torch.cat([classes, _numbered(ids, classes)[None]]).masked_fill(ignored, IGNORED)


def parted(target: Tensor) -> dict[str, Tensor]:
    """Split the result of :func:`read_objects`, perhaps augmented, into "target", "edges" and "ids" of an item."""
    classes, ids = target[:-1].long(), target[-1].long()
    edges = edges_of(ids).long().masked_fill(ids < 0, IGNORED)
    return {"target": classes[0] if len(classes) == 1 else classes, "edges": edges, "ids": ids.clamp(min=0)}


def joined(target: Tensor, edges: Tensor) -> Tensor:
    """Return the target of a loss, (classes + 1, H, W) or (N, classes + 1, H, W): the classes, then the edges.

    Args:
        target, edges: of an item of a data set, or of a batch of them: classes (H, W) or (classes, H, W), and edges
            (H, W).
    """
    classes = target.unsqueeze(-3) if target.ndim == edges.ndim else target
    return torch.cat([classes, edges.unsqueeze(-3)], dim=-3)


def _components(classes: Tensor) -> Tensor:
    """Return the connected components of each class, numbered separately."""
    planes = [components((plane == 1).byte().numpy(), connectivity=2)[0] for plane in classes]
    return torch.stack(list(map(torch.from_numpy, planes)))


def _numbered(ids: Tensor, classes: Tensor) -> Tensor:
    """Return numbers from 1 up of the objects in a class; where planes overlap, those of the last one."""
    found = torch.zeros(ids.shape[1:], dtype=torch.int32)
    inside = classes == 1
    for k, plane in enumerate(ids):
        within = inside[k] if len(ids) == len(inside) else inside.any(dim=0)
        values, numbers = torch.unique(torch.where(within, plane, 0), return_inverse=True)
        numbers = numbers.int() + (0 if int(values[0]) == 0 else 1)
        found = torch.where(numbers > 0, numbers + found.max(), found)
    return found
