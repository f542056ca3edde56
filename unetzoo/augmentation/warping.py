"""Transforms that move pixels, of the picture and of its mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from unetzoo.augmentation._base import bare, is_number, is_pair, like, number_problems, uniform
from unetzoo.augmentation.windows import IGNORED, Size, centre, grown, turned
from unetzoo.checks import sides, whole
from unetzoo.errors import ConfigError


class RandomQuarterTurn(v2.Transform):  # type: ignore[misc]
    """Turn picture and mask by 0, 90, 180 or 270°, each as likely. Odd turns swap height and width."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the number of turns."""
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Turn counter-clockwise."""
        return like(inpt, torch.rot90(bare(inpt), params["turns"], (-2, -1)))


class RandomWarp(v2.Transform):  # type: ignore[misc]
    """Turn, scale and bend picture and mask, resampling once.

    The bending is that of Ronneberger et al. 2015 (arXiv 1505.04597, section 3.1): random displacements, drawn from a
    normal distribution, at the nodes of a coarse grid, and bicubic interpolation in between.

    Args:
        degrees: the largest angle either way, from 0 to 180, about the centre; drawn uniformly.
        scale: smallest and largest magnification, above 0; its logarithm is drawn uniformly.
        displacement: standard deviation of the displacements in pixels; at most an eighth of ``spacing``, lest the
            picture folds.
        spacing: distance of the nodes in pixels, a whole number.
        p: probability of doing anything.
        size: (height, width) of the central part of the result that is made; None: as large as the picture.

    Raises:
        ConfigError: lists all that is wrong.
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
        if not is_pair(scale) or not all(is_number(s) and s > 0 for s in scale) or scale[0] > scale[1]:
            problems.append(f"scale={scale!r}: two numbers above 0, the smaller one first, are needed")
        if not problems and displacement > spacing / 8:
            problems.append(f"displacement={displacement}: at most an eighth of spacing={spacing} is possible")
        if size is not None:
            problems += sides("size", size)
        if problems:
            raise ConfigError("cannot make RandomWarp", problems)
        self.degrees, self.scale, self.displacement, self.spacing, self.p = degrees, scale, displacement, spacing, p
        self.size = size

    def reach(self, size: Size) -> Size:
        """Return the size of the window out of which a result of ``size`` is made."""
        margin = 10 * self.displacement  # five standard deviations on both sides; what lies beyond is ignored
        return grown(size, turned(size, -self.degrees, self.degrees), margin, self.scale[0])

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw where each pixel of the result comes from: (1, H, W, 2) as ``grid_sample`` takes it, or None."""
        source = flat_inputs[0].shape[-2:]
        size = self.size or (source[0], source[1])
        if torch.rand(()) >= self.p:
            return {"grid": None, "size": size}
        angle = math.radians(uniform(-self.degrees, self.degrees))
        zoom = math.exp(uniform(*map(math.log, self.scale)))
        nodes = [math.ceil(side / self.spacing) + 1 for side in size]
        bend = self.displacement * torch.randn(1, 2, *nodes)
        covered = [(count - 1) * self.spacing + 1 for count in nodes]
        bend = F.interpolate(bend, covered, mode="bicubic", align_corners=True)
        dx, dy = v2.functional.center_crop(bend, list(size))[0]
        x = dx + (torch.arange(size[1]) - (size[1] - 1) / 2)
        y = dy + (torch.arange(size[0]) - (size[0] - 1) / 2)[:, None]
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        grid = torch.stack([(cos * x - sin * y) * (2 / source[1]), (sin * x + cos * y) * (2 / source[0])], dim=-1)
        return {"grid": grid[None], "size": size}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Resample."""
        grid = params["grid"]
        if grid is None:
            return centre(inpt, params["size"])
        values = bare(inpt)
        planes = values.reshape(1, -1, *values.shape[-2:])
        if isinstance(inpt, tv_tensors.Mask):
            # 0 is what grid_sample finds outside. Whole numbers below 2^24 are exact in float32.
            labels = F.grid_sample((planes - IGNORED).float(), grid, mode="nearest", align_corners=False)
            warped = labels.to(values.dtype) + IGNORED
        else:
            mean, least, most = (of((-2, -1), keepdim=True) for of in (planes.mean, planes.amin, planes.amax))
            warped = F.grid_sample(planes - mean, grid.to(planes), mode="bilinear", align_corners=False) + mean
            warped = warped.clamp(least, most)  # rounding below 0 would make torchvision's hue divide 0 by 0
        return like(inpt, warped.reshape(*values.shape[:-2], *params["size"]))
