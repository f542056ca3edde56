"""Transforms that move the pixels of the image and of its mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from unetzoo.augmentation._base import bare, is_finite, is_pair, like, number_problems, uniform
from unetzoo.augmentation.windows import IGNORED, Size, centre, grown, turned
from unetzoo.checks import sides, whole
from unetzoo.errors import ConfigError


class RandomQuarterTurn(v2.Transform):  # type: ignore[misc]
    """Rotate image and mask by 0, 90, 180 or 270°, with equal chances. 90 and 270° swap height and width."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the number of turns."""
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Rotate counter-clockwise."""
        return like(inpt, torch.rot90(bare(inpt), params["turns"], (-2, -1)))


class RandomWarp(v2.Transform):  # type: ignore[misc]
    """Rotate, scale and deform image and mask, resampling once.

    The elastic deformation is that of Ronneberger et al. 2015 (arXiv 1505.04597, section 3.1): random displacements,
    drawn from a normal distribution, at the nodes of a coarse grid, with bicubic interpolation in between.

    Args:
        degrees: the largest angle either way, from 0 to 180, about the centre; drawn uniformly.
        scale: smallest and largest magnification, above 0; its logarithm is drawn uniformly.
        displacement: standard deviation of the displacements in pixels; at most an eighth of ``spacing``, so that the
            image does not fold.
        spacing: distance between the nodes in pixels, a whole number.
        p: probability of doing anything.
        size: (height, width) of the central part of the result that is made; None: as large as the image.

    Raises:
        ConfigError: lists everything that is wrong.
    """

    def __init__(
        self,
        degrees: float = 180,
        scale: Sequence[float] = (0.75, 1.33),
        displacement: float = 4,
        spacing: int = 64,
        p: float = 0.8,
        size: Size | None = None,
    ) -> None:
        super().__init__()
        problems = [
            *number_problems("degrees", degrees, 0, 180),
            *number_problems("displacement", displacement, 0),
            *number_problems("p", p, 0, 1),
            *whole("spacing", spacing),
        ]
        if not is_pair(scale) or not all(is_finite(s) and s > 0 for s in scale) or scale[0] > scale[1]:
            problems.append(f"scale={scale!r}: two numbers above 0, the smaller one first, are needed")
        if not problems and displacement > spacing / 8:
            problems.append(f"displacement={displacement}: must be at most an eighth of spacing={spacing}")
        if size is not None:
            problems += sides("size", size)
        if problems:
            raise ConfigError("cannot make RandomWarp", problems)
        self.degrees, self.scale, self.displacement, self.spacing, self.p = degrees, scale, displacement, spacing, p
        self.size = size

    def reach(self, size: Size) -> Size:
        """Return the size of the window from which a result of ``size`` is made."""
        margin = 10 * self.displacement  # five standard deviations on both sides; pixels beyond are ignored
        return grown(size, turned(size, -self.degrees, self.degrees), margin, self.scale[0])

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the source of each pixel of the result, see :func:`_sources`; None: pixels do not move."""
        source = flat_inputs[0].shape[-2:]
        size = self.size or (source[0], source[1])
        if torch.rand(()) >= self.p:
            return {"sources": None, "size": size}
        angle = math.radians(uniform(-self.degrees, self.degrees))
        zoom = math.exp(uniform(*map(math.log, self.scale)))
        nodes = [math.ceil(side / self.spacing) + 1 for side in size]
        dx, dy = _interpolated(self.displacement * torch.randn(2, *nodes), self.spacing, size)
        x = dx + (torch.arange(size[1]) - (size[1] - 1) / 2)
        y = dy + (torch.arange(size[0]) - (size[0] - 1) / 2)[:, None]
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        return {"sources": _sources(cos * x - sin * y, sin * x + cos * y, source), "size": size}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Resample."""
        sources = params["sources"]
        if sources is None:
            return centre(inpt, params["size"])
        values = bare(inpt)
        planes = values.reshape(1, -1, *values.shape[-2:])
        part = planes[..., sources.rows, sources.columns]
        if isinstance(inpt, tv_tensors.Mask):
            # 0 is what grid_sample finds outside. Whole numbers below 2^24 are exact in float32.
            labels = F.grid_sample(part.float().sub_(IGNORED), sources.grid, mode="nearest", align_corners=False)
            warped = labels.to(values.dtype).add_(IGNORED)
        else:
            mean = planes.mean((-2, -1), keepdim=True) if sources.outside else None
            grid = sources.grid.to(planes)
            known = part if mean is None else part - mean
            warped = F.grid_sample(known, grid, mode="bilinear", align_corners=False)
            warped = warped if mean is None else warped.add_(mean)
            least, most = part.amin((-2, -1), keepdim=True), part.amax((-2, -1), keepdim=True)
            warped = warped.clamp_(least, most)  # if rounding went below 0, torchvision's hue would divide 0 by 0
        return like(inpt, warped.reshape(*values.shape[:-2], *params["size"]))


class _Sources(NamedTuple):
    """The places that pixels come from.

    Attributes:
        rows, columns: the part of the image that contains all places inside the image.
        grid: (1, H, W, 2), the places in that part as ``grid_sample`` takes them.
        outside: whether some places are outside the image, or less than half a pixel from its edge.
    """

    rows: slice
    columns: slice
    grid: Tensor
    outside: bool


def _sources(x: Tensor, y: Tensor, size: Size) -> _Sources:
    """Return the places at ``x`` and ``y``, each (H, W), in pixels from the centre of an image of ``size``."""
    parts, outside, grid = [], False, torch.empty(1, *x.shape, 2)
    for k, (place, side) in enumerate(((x, size[1]), (y, size[0]))):
        low, high = (float(end) + (side - 1) / 2 for end in (place.amin(), place.amax()))  # pixel 0 is at 0
        outside |= low < 0 or high > side - 1
        first = min(max(math.floor(low) - 1, 0), side - 1)
        last = max(min(math.ceil(high) + 1, side - 1), first)
        parts.append(slice(first, last + 1))
        # grid_sample's -1 and 1 are the outer edges of the first and the last pixel.
        count = last + 1 - first
        grid[0, ..., k] = place * (2 / count) + ((side - 2 * first) / count - 1)
    return _Sources(parts[1], parts[0], grid, outside)


def _interpolated(nodes: Tensor, spacing: int, size: Size) -> Tensor:
    """Return the central part, of ``size``, of the bicubic interpolation of nodes (2, rows, columns): (2, H, W).

    The result is that of ``interpolate(mode="bicubic", align_corners=True)``, which takes ten times as long. It is a
    sum of products, one node after the other, so that it is the same for any number of threads.
    """
    down, right = (_cubic(count, spacing, side) for count, side in zip(nodes.shape[1:], size, strict=True))
    rows = nodes[:, 0, None] * down[0, :, None]
    for k in range(1, nodes.shape[1]):
        rows += nodes[:, k, None] * down[k, :, None]
    total, product = rows[..., 0, None] * right[0], torch.empty(2, *size)
    for k in range(1, nodes.shape[2]):
        total += torch.mul(rows[..., k, None], right[k], out=product)
    return total


def _cubic(count: int, spacing: int, side: int) -> Tensor:
    """Return (count, side): the weight of each node at each place, by Keys' kernel with -3/4 (IEEE ASSP 29, 1981)."""
    place = (torch.arange(side) + round(((count - 1) * spacing + 1 - side) / 2)) / spacing
    node = place.floor() + torch.arange(-1, 3)[:, None]
    far = (place - node).abs()
    near = (1.25 * far - 2.25) * far * far + 1
    weight = torch.where(far <= 1, near, ((-0.75 * far + 3.75) * far - 6) * far + 3)
    # Beyond the border the outermost node is repeated.
    return torch.zeros(count, side).scatter_add_(0, node.clamp_(0, count - 1).long(), weight)
