"""Polygons of objects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetzoo.objects.components import ndimage
from unetzoo.objects.finding import Instances
from unetzoo.objects.tracing import trace


def polygons(instances: Instances) -> list[list[list[Tensor]]]:
    """Return the exact outlines of objects, along the edges of their pixels.

    Filled by the even-odd rule, an object's polygons cover exactly its pixels. They are valid in OGC's Simple Feature
    Access (06-103r4, section 6.1.11): no ring touches itself, and the inside of a polygon is connected. Therefore an
    object whose parts touch only at corners has several polygons.

    Returns:
        For each object its polygons; each is a list of rings, the outer one first, then those of its holes. A ring
        is (corners, 2) int64, x and y in pixels, where the upper left pixel covers 0…1; the first corner is not
        repeated at the end, and the line turns at every corner. Outer rings have a positive area by the shoelace
        formula, x_i y_(i+1) - x_(i+1) y_i, and holes a negative one.

    Raises:
        ConfigError: SciPy is missing.
    """
    found: list[list[list[Tensor]]] = [[] for _ in range(len(instances))]
    labels = instances.labels.numpy()
    for plane in labels.reshape(-1, *labels.shape[-2:]):
        pieces, owners = _pieces(plane, len(instances))
        rings = trace(pieces)
        corners = torch.from_numpy(rings.corners)
        lengths = np.diff(rings.starts, append=len(corners)).tolist()
        last = 0
        for ring, piece in zip(torch.split(corners, lengths), rings.owners.tolist(), strict=True):
            if piece != last:
                found[owners[piece] - 1].append([])
                last = piece
            found[owners[piece] - 1][-1].append(ring)
    return found


def _pieces(labels: NDArray[np.int32], count: int) -> tuple[NDArray[np.int32], list[int]]:
    """Return ``labels`` (H, W) with new numbers for parts that touch only at corners, and each number's object."""
    owners = list(range(count + 1))
    nw, ne, sw, se = labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]
    falls, rises = (nw == se) & (nw != ne) & (nw != sw), (ne == sw) & (ne != nw) & (ne != se)
    touching = np.union1d(nw[falls], ne[rises])
    if not touching.any():
        return labels, owners
    scipy = ndimage()
    pieces, boxes = labels.copy(), scipy.find_objects(labels)
    for number in touching[touching > 0].tolist():
        box = boxes[number - 1]
        parts, more = scipy.label(labels[box] == number)
        np.add(parts, len(owners) - 2, out=pieces[box], where=parts > 1)  # the first part keeps its number
        owners += [number] * (more - 1)
    return pieces, owners
