"""Overlays of masks on images, each in its colour."""

from __future__ import annotations

import heapq
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

CYAN = "#42d4f4"
COLOURS = ["#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", CYAN, "#f032e6"]
"""Colours of the masks in an overlay, in the order of the classes."""

TINTED = 0.15
"""Difference between an image's largest and smallest channel, as a share of the largest, from which it has a hue."""
SAME_HUE = 0.85
"""Cosine of the angle between the tints of two colours from which one is not seen on the other."""


def colours_on(image: Tensor, count: int) -> list[str]:
    """Return the colours of masks laid over an image: :data:`COLOURS` in turn; for one mask on a red image cyan.

    Args:
        image: (C, H, W). It is red if the mean of that channel is more than one and a half times those of the others:
            images of retinas and endoscopy are, stained tissue is not.
        count: number of masks.
    """
    if count == 1 and _is_red(image):
        return [CYAN]
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def object_palette(image: Tensor) -> list[str]:
    """Return the colours of objects laid over an image, (C, H, W): :data:`COLOURS` but those of the image's own hue.

    On the red of a retina, red and orange could not be seen, nor could purple and magenta on stained tissue.
    """
    if image.shape[0] < 3:
        return COLOURS
    mean = image[:3].float().mean((-2, -1))
    if mean.max() - mean.min() < TINTED * mean.max():
        return COLOURS
    return [name for name in COLOURS if F.cosine_similarity(_tint(mean), _tint(_colour(name).flatten()), 0) < SAME_HUE]


def _tint(colour: Tensor) -> Tensor:
    """Return what distinguishes a colour, (3,), from grey."""
    return colour.float() - colour.float().mean()


def _is_red(image: Tensor) -> bool:
    """Return whether the mean of an image's red is above one and a half times those of green and blue."""
    if image.shape[0] < 3:
        return False
    red, green, blue = image[:3].float().mean((-2, -1)).tolist()
    return bool(red > 1.5 * max(green, blue))


def _colour(name: str) -> Tensor:
    """Return a colour such as "#e6194b" as an image of one pixel, (3, 1, 1)."""
    return torch.tensor([*bytes.fromhex(name[1:])])[:, None, None]


def overlay(image: Tensor, masks: Tensor, alpha: float = 0.5, *, outline: bool = False) -> Tensor:
    """Return the image as (3, H, W) uint8 with one colour over each mask, twice as strong along its rim.

    The colours are those of :func:`colours_on`; where masks overlap, so do their colours. The rim is inside the mask;
    its width is 1/512 of the image's shorter side, at least one pixel.

    Args:
        image: (C, H, W), uint8, or uint16, which is stretched to its own darkest and brightest values; one channel
            is shown as grey, of more than three the first three.
        masks: (H, W) or (classes, H, W), bool.
        alpha: opacity of the colour, from 0 to 1; from 0.5 on the rim is fully opaque.
        outline: draw only the rim.
    """
    rgb = _rgb(image)
    shown = rgb.float()
    layers = masks.reshape(-1, *masks.shape[-2:])
    width = max(1, min(masks.shape[-2:]) // 512)
    outside = _most((~layers)[:, None].float(), width)[:, 0] > 0
    for mask, rim, name in zip(layers, layers & outside, colours_on(rgb, len(layers)), strict=True):
        shown = _covered(shown, rim if outline else mask, rim, _colour(name), alpha)
    return shown.byte()


def overlay_objects(image: Tensor, labels: Tensor, alpha: float = 0.5, *, outline: bool = False) -> Tensor:
    """Return the image as (3, H, W) uint8 with objects over it, neighbours in different colours.

    The colours are those of :func:`object_palette`. The rim is that of :func:`overlay`, and is also drawn between
    objects that touch.

    Args:
        image: (C, H, W), as :func:`overlay` takes it.
        labels: (H, W) or (planes, H, W), integers: a number from 1 up for each object, 0 between them.
        alpha: opacity of the colour, from 0 to 1.
        outline: draw only the rim.
    """
    rgb = _rgb(image)
    shown = rgb.float()
    width = max(1, min(labels.shape[-2:]) // 512)
    palette = torch.cat([_colour(name)[:, 0].T for name in object_palette(rgb)]).float()
    for plane in labels.reshape(-1, *labels.shape[-2:]).long():
        colour = (
            palette[object_colours(plane, len(palette))][(plane - 1).clamp(min=0)] if plane.any() else palette[:1, None]
        )
        numbers = plane[None].double()
        most, least = (_most(sign * numbers, width)[0] for sign in (1, -1))
        rim = (plane > 0) & (most != -least)
        shown = _covered(shown, rim if outline else plane > 0, rim, colour.permute(2, 0, 1), alpha)
    return shown.byte()


def _covered(shown: Tensor, where: Tensor, rim: Tensor, colour: Tensor, alpha: float) -> Tensor:
    cover = alpha * (1 + rim.float()).clamp(max=1 / alpha if alpha else 1)
    return torch.where(where, (1 - cover) * shown + cover * colour, shown)


def object_colours(labels: Tensor, colours: int = len(COLOURS)) -> Tensor:
    """Return the number of the colour of each object, (objects,) int64, so that neighbours differ.

    Neighbours are objects no more than ``NEAR`` pixels apart. Objects are coloured from the most crowded ones on: the
    object with the fewest remaining neighbours comes last. Two neighbours share a colour only if one of them already
    has neighbours of all colours.

    Args:
        labels: (H, W) int64, a number from 1 up for each object, 0 between them.
        colours: number of colours.
    """
    around: list[set[int]] = [set() for _ in range(int(labels.max()) + 1)]
    for one, other in _neighbours(labels).tolist():
        around[one].add(other)
        around[other].add(one)
    chosen = [-1] * len(around)
    for number in reversed(_fewest_first(around)):
        taken = {chosen[other] for other in around[number]}
        turned = [(number - 1 + k) % colours for k in range(colours)]
        chosen[number] = next((colour for colour in turned if colour not in taken), turned[0])
    return torch.tensor(chosen[1:], dtype=torch.long)


NEAR = 3
"""The most pixels along each axis from one object to its neighbour."""


def _neighbours(labels: Tensor) -> Tensor:
    """Return the pairs of objects that are near each other, (pairs, 2), the lower number first.

    Where two objects are nearest, the next pixel from one towards the other is outside the first: only pixels with such
    a neighbour are compared.
    """
    count = int(labels.max()) + 1
    padded = F.pad(labels, (NEAR, NEAR, 0, NEAR))
    width, flat = padded.shape[1], padded.flatten()
    inside = labels > 0
    found = [flat[:0]]
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        beside = padded[down : down + labels.shape[0], NEAR + right : NEAR + right + labels.shape[1]]
        at = (inside & (beside != labels)).nonzero()
        place = at[:, 0] * width + at[:, 1] + NEAR
        one = flat[place]
        steps = range(1, NEAR + 1)
        for y, x in itertools.product(steps if down else [0], [right * k for k in steps] if right else [0]):
            other = flat[place + y * width + x]
            differ = (other > 0) & (other != one)
            low, high = torch.minimum(one[differ], other[differ]), torch.maximum(one[differ], other[differ])
            found.append(torch.unique_consecutive(low * count + high))  # neighbouring pixels often give the same pair
    codes = torch.unique(torch.cat(found))
    return torch.stack([codes // count, codes % count], dim=1)


def _fewest_first(around: list[set[int]]) -> list[int]:
    """Return the objects in order of removal: always the one with the fewest remaining neighbours."""
    left = [len(others) for others in around]
    queue = [(left[number], number) for number in range(1, len(around))]
    heapq.heapify(queue)
    order, gone = [], [False] * len(around)
    while queue:
        count, number = heapq.heappop(queue)
        if gone[number] or count != left[number]:
            continue
        gone[number] = True
        order.append(number)
        for other in around[number]:
            if not gone[other]:
                left[other] -= 1
                heapq.heappush(queue, (left[other], other))
    return order


def _rgb(image: Tensor) -> Tensor:
    if image.dtype != torch.uint8:
        light = image.float() - image.float().min()
        image = (light / light.max().clamp(min=1) * 255).byte()
    return image[:1].expand(3, -1, -1) if image.shape[0] < 3 else image[:3]


def _most(numbers: Tensor, reach: int) -> Tensor:
    return F.max_pool2d(numbers, 2 * reach + 1, stride=1, padding=reach)
