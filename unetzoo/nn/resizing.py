"""Resampling of a map: by unetzoo's kernels on a GPU where they pay, else by torch's operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unetzoo.nn.gpu_resampling import Resample, Sampling, fits
from unetzoo.nn.whole_maps import Size, in_own_type, interpolate

FEWEST = 2**24
"""Numbers of a resampled map up to which torch's kernels are used: they are slower, but start sooner."""


def resize(x: Tensor, size: Size, mode: str = "bilinear") -> Tensor:
    """Resample ``x`` to height and width ``size``: "nearest", "bilinear", or "bilinear_aligned" (``align_corners``)."""
    if not fits(x, size) or not x.is_contiguous(memory_format=torch.channels_last) or not _pays(x, size):
        return interpolate(x, size, mode)
    if torch.is_autocast_enabled("cuda") and x.dtype.itemsize < 4:
        x = x.float()  # as autocast does for torch's
    out: Tensor = Resample.apply(x, None, Sampling((size[0], size[1]), mode))
    return out


def _pays(x: Tensor, size: Size) -> bool:
    # Where results have to be the same each time, torch resamples in many small steps.
    return math.prod((*x.shape[:2], *size)) > FEWEST or torch.are_deterministic_algorithms_enabled()


def resize_alike(x: Tensor, size: Size, mode: str) -> Tensor:
    """Do :func:`resize` for a convolution, in the type of ``x``."""
    with in_own_type(x):
        return resize(x, size, mode)
