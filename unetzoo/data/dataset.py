"""Images and targets as a torch data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from unetzoo import checks, images
from unetzoo.data import masks
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.listing import Sample
from unetzoo.errors import ConfigError

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Images with their targets, prepared as ``unetzoo.images.prepare`` does for a model.

    ``dataset[i]``, or ``dataset[epoch, i]``, is a dictionary: "image" float32 (in_channels, H, W), normalised;
    "target" int64 (H, W), or (classes, H, W) for multilabel, with -100 where pixels
    do not count, or nothing was measured; "name". Missing values, see ``unetzoo.images.read``, have the mean
    of their channel, 0 without one, before anything is augmented, and so are 0 when normalised. What the augmentation
    draws is a function of ``seed``, epoch and i alone: not of the number of workers, nor of what was drawn before; and
    torch's own generator stays as it was.

    Args:
        samples: as :func:`~unetzoo.data.find_samples` returns them.
        labels: what the masks mean.
        in_channels: channels of the items' images.
        mean, std: per-channel normalisation, or None for none.
        augmentation: called with the image, tv_tensors.Image float32, scaled and not normalised, and the mask,
            tv_tensors.Mask int64; returns the two. None for none.
        seed: of the augmentation.

    Attributes:
        task, num_classes: of ``labels``.
        ignore_index: of target pixels that do not count.

    Raises:
        ConfigError: no samples, or numbers that do not fit.
    """

    ignore_index = IGNORED

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Labels,
        *,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augmentation: Augment | None = None,
        seed: int = 0,
    ) -> None:
        problems = [] if samples else ["there are no samples"]
        problems += checks.whole("in_channels", in_channels, 1, checks.LARGEST)
        if (mean is None) != (std is None):
            problems.append("mean and std go together: give both or neither")
        problems += [
            f"{name}: {len(values)} numbers for in_channels={in_channels}"
            for name, values in (("mean", mean), ("std", std))
            if values is not None and len(values) != in_channels
        ]
        if std is not None and not all(value > 0 for value in std):
            problems.append(f"std={tuple(std)!r}: numbers above 0 are needed")
        if problems:
            raise ConfigError("cannot make a data set", problems)
        self.samples, self.labels, self.in_channels = tuple(samples), labels, in_channels
        self.mean, self.std, self.augmentation, self.seed = mean, std, augmentation, seed
        self.task, self.num_classes = labels.task, labels.num_classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Return an item.

        Raises:
            IndexError: there is no such image.
            InputError: a file that cannot be read or used.
        """
        epoch, i = index if isinstance(index, tuple) else (0, index)
        sample = self.samples[i]
        image, gaps = self._image(sample)
        target = self._target(sample, gaps, (image.shape[1], image.shape[2]))
        if self.augmentation is not None:
            image, target = self._augmented(image, target, epoch, i % len(self))
        image = images.normalised(image, self.mean, self.std)
        return {"image": image.contiguous(), "target": target.contiguous(), "name": sample.name}

    def targets(self) -> Iterator[Tensor]:
        """Give the target of every image, not augmented."""
        for i, size in enumerate(self.sizes()):
            sample = self.samples[i]
            gaps = self._image(sample)[1] if images.may_lack(sample.image) else None
            yield self._target(sample, gaps, size)

    def sizes(self) -> list[tuple[int, int]]:
        """Return height and width of every image, from the files' headers alone."""
        return [images.image_size(sample.image) for sample in self.samples]

    def _image(self, sample: Sample) -> tuple[Tensor, Tensor | None]:
        """Return the image, scaled, and the pixels (H, W) where nothing was measured; None where all was."""
        raster = images.read(sample.image, sample.planes)
        image = images.fitted(raster, self.in_channels)
        if raster.missing is None:
            return image, None
        return images.filled(image, self.mean), image.isnan().all(dim=0)

    def _target(self, sample: Sample, gaps: Tensor | None, size: tuple[int, int]) -> Tensor:
        target = masks.read_target(sample, self.labels, size)
        return target if gaps is None else target.masked_fill(gaps, IGNORED)

    def _augmented(self, image: Tensor, target: Tensor, epoch: int, i: int) -> tuple[Tensor, Tensor]:
        assert self.augmentation is not None
        digest = hashlib.sha256(f"{self.seed}/{epoch}/{i}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the accelerator's generators as well.
            torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            image, target = self.augmentation(tv_tensors.Image(image), tv_tensors.Mask(target))
        return image.as_subclass(Tensor), target.as_subclass(Tensor)
