"""Running a composition on an image and its mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from unetzoo.augmentation._base import bare
from unetzoo.augmentation.borrowed import INSTEAD, clipping
from unetzoo.augmentation.composing import Entry, described, parse
from unetzoo.augmentation.warping import RandomWarp
from unetzoo.augmentation.windows import Size, centre, random_window, unfolded
from unetzoo.augmentation.windows_needed import reach
from unetzoo.checks import sides
from unetzoo.errors import ConfigError, InputError
from unetzoo.images import scaled

Aim = Callable[[Tensor], Tensor | None]
_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32)


class Augmentation(nn.Module):
    """Changes images with their masks at random. Made by :func:`build`.

    Attributes:
        crop_size: (height, width) of every result; None: sizes are as the entries make them.
    """

    def __init__(self, entries: Sequence[Entry], crop_size: Size | None) -> None:
        super().__init__()
        self.crop_size = crop_size
        self._entries = tuple(entries)
        self.transforms = nn.ModuleList(entry.module for entry in entries)
        self._clipping = list(dict.fromkeys(name for entry in entries for name in clipping(entry.module)))
        self._sizes: list[Size] = []  # before and after each of the last entries, which work on the crop
        if crop_size is not None:
            self._plan(crop_size)

    def _plan(self, crop_size: Size) -> None:
        """Find the earliest entry before which to crop, and the size that the crop needs there."""
        self._sizes = [crop_size]
        for entry in reversed(self._entries):
            if isinstance(entry.module, RandomWarp):
                entry.module.size = self._sizes[0]
            needed = reach(entry.module, self._sizes[0])
            if needed is None:
                break
            self._sizes.insert(0, needed)

    def describe(self) -> list[dict[str, dict[str, Any]]]:
        """Return the entries, with presets expanded, as values for JSON from which :func:`build` makes the same."""
        return described(self._entries)

    def type_problems(self, kinds: Iterable[str]) -> list[str]:
        """Return problems of using this on images of some types, such as "uint8" and "uint16".

        Only 8-bit images are sure to go from black to white: 16 bits often hold dark 12-bit images, and floating point
        holds decibels, for example.
        """
        others = sorted({*kinds} - {"uint8"})
        if not self._clipping or not others:
            return []
        problem = (
            f"augmentation: {', '.join(self._clipping)} of torchvision clip values at 0 and 1, or stretch them to this "
            f"range, and are for 8-bit images; these are {', '.join(others)}: {INSTEAD}"
        )
        return [problem]

    def __repr__(self) -> str:
        return f"Augmentation({self.describe()}, crop_size={self.crop_size})"

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a changed image and its mask.

        Args:
            image: (C, H, W), floating point, of any range.
            mask: (H, W) or (K, H, W), int64; IGNORED where nothing is known.

        Returns:
            ``tv_tensors.Image`` and ``tv_tensors.Mask`` of the same types and channels, of ``crop_size``; the
            arguments do not change.

        Raises:
            InputError: the tensors are wrong, or an entry cannot use them; or values are outside 0 to 1, and one of
                torchvision's transforms would clip them.
        """
        _check(image, mask)
        return self.of_stored(image, mask)

    def of_stored(self, image: Tensor, mask: Tensor, aim: Aim | None = None) -> tuple[Tensor, Tensor]:
        """Return what :meth:`forward` returns, for an image that is not scaled yet: only the part in use is scaled.

        Args:
            image: (C, H, W), as stored; integers are scaled as by ``unetzoo.images.prepare``.
            mask: (H, W) or (K, H, W), signed integers of any size.
            aim: takes the mask, and returns the pixels (H, W) of which a crop must hold one, or None; see
                ``random_window``.

        Returns:
            As for :meth:`forward`; an image of integers becomes float32, and the mask int64.

        Raises:
            InputError: as for :meth:`forward`.
        """
        self._check_range(image)
        image, mask = tv_tensors.Image(image), tv_tensors.Mask(mask)
        before = len(self._entries) - len(self._sizes) + 1 if self.crop_size else len(self._entries)
        if before or self.crop_size is None:
            image, mask = unfolded(image), unfolded(mask)
        for entry in self._entries[:before]:
            image, mask = _run(entry, image, mask)
        if self.crop_size is None:
            return image, mask
        wanted = None if aim is None else aim(bare(mask))
        image, mask = random_window(image, mask, self.crop_size, self._sizes[0], wanted)
        for entry, size in zip(self._entries[before:], self._sizes[1:], strict=True):
            image, mask = _run(entry, image, mask)
            image, mask = centre(image, size), centre(mask, size)
        # A view would keep the whole image in memory, and send it between processes.
        return tv_tensors.Image(image.contiguous()), tv_tensors.Mask(mask.contiguous())

    def _check_range(self, image: Tensor) -> None:
        """Refuse values outside 0 to 1 if one of torchvision's transforms clips them; unsigned integers have none."""
        if not self._clipping or image.dtype in _UNSIGNED:
            return
        least, most = (float(scaled(value)) for value in image.aminmax())
        if least < 0 or most > 1:
            raise InputError(
                f"an image has values from {least:.6g} to {most:.6g}: {', '.join(self._clipping)} of torchvision would "
                f"clip them at 0 and 1, or stretch them to this range; {INSTEAD}"
            )


def build(spec: str | Sequence[Any] = "light", crop_size: int | Sequence[int] | None = None) -> Augmentation:
    """Make an augmentation from names and options.

    Args:
        spec: the name of a preset ("none", "light", "strong"), or a list of names and of mappings of one name to its
            options. A name is that of a preset, of a transform here or in ``torchvision.transforms.v2``, or the dotted
            path of your own class: an ``nn.Module`` that takes and returns a ``tv_tensors.Image`` (float, of
            any range) and a ``tv_tensors.Mask`` (int64). ``RandomApply``, ``RandomChoice``, ``RandomOrder`` and
            ``Compose`` take such a list as ``transforms``. ``interpolation`` is a word, by default "bilinear".
        crop_size: side, or (height, width), of every result, which is taken from a random place in the image. A smaller
            image is put at a random place inside it. None: no crop.

    Raises:
        ConfigError: lists everything that is wrong.
    """
    problems: list[str] = []
    entries = parse(spec, "", problems)
    if crop_size is not None:
        problems += sides("crop_size", crop_size, square=True)
    if problems:
        raise ConfigError("cannot build the augmentation", problems)
    if crop_size is None:
        return Augmentation(entries, None)
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    return Augmentation(entries, (height, width))


def _check(image: Tensor, mask: Tensor) -> None:
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point() or not image.numel():
        raise InputError(f"an image of {_kind(image)}: floating point (channels, height, width) is needed")
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3) or mask.dtype != torch.int64:
        raise InputError(f"a mask of {_kind(mask)}: int64 (height, width) or (classes, height, width) is needed")
    if image.shape[-2:] != mask.shape[-2:]:
        raise InputError(
            f"an image of {_kind(image)} with a mask of {_kind(mask)}: both must have the same height and width"
        )


def _run(entry: Entry, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    try:
        result = entry.module(image, mask)
    except Exception as error:  # any error of torchvision, or of the user's own class
        raise InputError(
            f"{entry.name} cannot change an image of {_kind(image)} ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise InputError(f"{entry.name} returned {type(result).__name__}, not an image and a mask")
    try:
        _check(*result)
        kept = result[0].shape[:-2] == image.shape[:-2] and result[1].shape[:-2] == mask.shape[:-2]
    except InputError as error:
        raise InputError(f"{entry.name} returned {error}") from error
    if not kept:
        raise InputError(
            f"{entry.name} returned an image of {_kind(result[0])} and a mask of {_kind(result[1])} for "
            f"{_kind(image)} and {_kind(mask)}: channels and classes must not change"
        )
    if not _is_finite(result[0]) and _is_finite(image):
        raise InputError(
            f"{entry.name} returned values that are not finite for an image from {float(image.min()):.6g} to "
            f"{float(image.max()):.6g}; torchvision's colour transforms need values from 0 to 1: list them first, "
            "before brightness, contrast and noise of this package, which do not clip"
        )
    return tv_tensors.Image(result[0]), tv_tensors.Mask(result[1])


def _is_finite(image: Tensor) -> bool:
    """Return whether all values are finite. If their sum is, they are, which is quick to find."""
    values = bare(image)
    return math.isfinite(float(values.sum())) or bool(values.isfinite().all())


def _kind(given: object) -> str:
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
