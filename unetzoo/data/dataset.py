"""Images and targets as a torch data set."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from unetzoo import checks, images
from unetzoo.augmentation import Augmentation
from unetzoo.augmentation.windows import unfolded
from unetzoo.config import NORMALISATIONS
from unetzoo.data import edges, masks
from unetzoo.data.aiming import drawn_class, share_problems
from unetzoo.data.kept import ROOM, Kept, Pair, stamp_of
from unetzoo.data.labels import IGNORED, Labels
from unetzoo.data.listing import Sample
from unetzoo.errors import ConfigError

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Images with their targets, prepared as ``unetzoo.images.prepare`` does for a model.

    ``dataset[i]``, or ``dataset[epoch, i]``, is a dictionary: "image" float32 (in_channels, H, W), normalised;
    "target" int64 (H, W), or (classes, H, W) for multilabel, with -100 where pixels
    do not count, or nothing was measured; "name". For instances "target" is as for binary, with several classes as for
    multilabel, and there are two more: "ids" int64 (H, W), a number per object and 0 elsewhere, and "edges" int64 (H,
    W), see :func:`unetzoo.data.edges.edges_of`, with -100 as in "target".

    Missing values, see ``unetzoo.images.read``, are replaced by the mean of their channel, or 0 without one, before
    augmentation; with a mean they are 0 after normalisation. The random numbers of the augmentation depend only on
    ``seed``, epoch and i, not on the number of workers or on earlier items; torch's own generator does not change.

    Args:
        samples: as :func:`~unetzoo.data.find_samples` returns them.
        labels: what the masks mean.
        in_channels: channels of the items' images.
        mean, std: per-channel normalisation, or None for none.
        normalisation: "fixed": by these; "image": each image by the mean and standard deviation of all of its own
            values, before cropping and augmentation.
        resize: factor of the sides of images and targets before augmentation, see ``unetzoo.images.resized``.
        augmentation: called with the image, tv_tensors.Image float32, scaled and not normalised, and the mask,
            tv_tensors.Mask int64; returns both. None for none.
        foreground_crops: share of the crops that must hold foreground, of a randomly drawn class, see
            ``unetzoo.data.aiming``; for an ``unetzoo.augmentation.Augmentation`` with a crop size.
        seed: random seed of the augmentation.
        room: the most bytes of images and targets that are kept in memory, as they were read, while their files do not
            change: 256 MiB by default, or 0 for none. The workers of a loader share them equally.

    Attributes:
        task, num_classes: of the targets: those of ``labels``, but for instances "binary" or "multilabel".
        ignore_index: value of target pixels that do not count.

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
        normalisation: str = "fixed",
        resize: float = 1.0,
        augmentation: Augment | None = None,
        foreground_crops: float = 0.0,
        seed: int = 0,
        room: int = ROOM,
    ) -> None:
        problems = [] if samples else ["there are no samples"]
        problems += checks.whole("room", room, 0)
        problems += checks.whole("in_channels", in_channels, 1, checks.LARGEST)
        if (mean is None) != (std is None):
            problems.append("mean and std go together: give both or neither")
        problems += checks.one_of("normalisation", normalisation, NORMALISATIONS)
        if normalisation == "image" and (mean, std) != (None, None):
            problems.append("normalisation='image' uses each image's own mean and std: leave out mean and std")
        problems += [
            f"{name}: {len(values)} numbers for in_channels={in_channels}"
            for name, values in (("mean", mean), ("std", std))
            if values is not None and len(values) != in_channels
        ]
        if std is not None and not all(value > 0 for value in std):
            problems.append(f"std={tuple(std)!r}: numbers above 0 are needed")
        problems += checks.resize_problems(resize) + share_problems(foreground_crops)
        if problems:
            raise ConfigError("cannot make a data set", problems)
        self.foreground_crops = foreground_crops
        self.samples, self.labels, self.in_channels = tuple(samples), labels, in_channels
        self.mean, self.std, self.normalisation = mean, std, normalisation
        self.resize, self.augmentation, self.seed = resize, augmentation, seed
        self.task, self.num_classes = labels.pixel_task, labels.num_classes
        self._kept = Kept(room)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Return an item.

        Raises:
            IndexError: there is no such image.
            InputError: a file cannot be read or used.
        """
        epoch, i = index if isinstance(index, tuple) else (0, index)
        sample = self.samples[i]
        image, target, levels = self._pair(i % len(self))
        if isinstance(self.augmentation, Augmentation):
            with _chance(self.seed, epoch, i % len(self)):
                image, target = self.augmentation.of_stored(image, target, self._aim)
        else:
            image, target = unfolded(tv_tensors.Image(image)), unfolded(tv_tensors.Mask(target))
            if self.augmentation is not None:
                with _chance(self.seed, epoch, i % len(self)):
                    image, target = self.augmentation(image, target)
        image = images.normalised(image.as_subclass(Tensor), *levels)
        truth = edges.parted if self.labels.task == "instances" else _alone
        return {"image": image.contiguous(), **truth(target.as_subclass(Tensor).contiguous()), "name": sample.name}

    def levels(self, i: int) -> images.Levels:
        """Return the mean and standard deviation by which an image is normalised, (in_channels,) each, or None."""
        return self._pair(i).levels

    def targets(self) -> Iterator[Tensor]:
        """Yield the target of every image as its files have it: not augmented, at the image's own size."""
        for whole in self._stored_targets():
            yield edges.parted(whole)["target"] if self.labels.task == "instances" else whole

    def loss_targets(self) -> LossTargets:
        """Return the targets as losses take them: for instances classes, then edges; otherwise :meth:`targets`."""
        return LossTargets(self)

    def _stored_targets(self) -> Iterator[Tensor]:
        for sample in self.samples:
            gaps = self._image(sample)[2] if any(map(images.may_lack, sample.files)) else None
            yield self._target(sample, gaps, images.image_size(sample.image)).long()

    def sizes(self) -> list[tuple[int, int]]:
        """Return height and width of every image before augmentation, from the files' headers only."""
        stored = (images.image_size(sample.image) for sample in self.samples)
        return [(images.resized_side(h, self.resize), images.resized_side(w, self.resize)) for h, w in stored]

    def _aim(self, target: Tensor) -> Tensor | None:
        return drawn_class(target, self.labels.task, self.foreground_crops)

    def _pair(self, i: int) -> Pair:
        """Return an image and its target, read now or kept from before."""
        sample = self.samples[i]
        stamp = stamp_of((*sample.files, *masks.files_of(sample)))
        found = self._kept.find(i, stamp)
        if found is not None:
            return found
        image, levels, gaps = self._image(sample)
        target = self._target(sample, gaps, (image.shape[1], image.shape[2]))
        if self.resize != 1:
            image = images.resized(images.scaled(image), self.resize)
            target = images.resized_labels(target, self.resize, IGNORED)
        return self._kept.keep(i, stamp, Pair(image, target, levels))

    def _image(self, sample: Sample) -> tuple[Tensor, images.Levels, Tensor | None]:
        """Return the stored image, its mean and std, and the pixels (H, W) without any measurement, or None."""
        raster = images.read(sample.files, sample.planes)
        image = images.fitted(raster, self.in_channels)
        levels = self._levels(image)
        if raster.missing is None:
            return image, levels, None
        return images.filled(image, levels[0]), levels, image.isnan().all(dim=0)

    def _levels(self, image: Tensor) -> images.Levels:
        if self.normalisation == "image":
            return images.moments(image).levels
        if self.mean is None or self.std is None:
            return None, None
        return torch.tensor(self.mean), torch.tensor(self.std)

    def _target(self, sample: Sample, gaps: Tensor | None, size: tuple[int, int]) -> Tensor:
        if self.labels.task == "instances":
            target = edges.read_objects(sample, self.labels, size)
        else:
            target = masks.read_target(sample, self.labels, size, _smallest(self.labels))
        return target if gaps is None else target.masked_fill(gaps, IGNORED)


class LossTargets:
    """The targets of a data set as losses take them, for ``unetzoo.losses.class_weights_from``.

    Attributes:
        task, num_classes: of the logits; for instances "multilabel", with one class more for the edges.
        ignore_index: value of pixels that do not count.
    """

    ignore_index = IGNORED

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._dataset = dataset
        self._objects = dataset.labels.task == "instances"
        self.task = "multilabel" if self._objects else dataset.task
        self.num_classes = dataset.num_classes + self._objects

    def targets(self) -> Iterator[Tensor]:
        """Yield the target of every image, not augmented."""
        for whole in self._dataset._stored_targets():
            parts = edges.parted(whole) if self._objects else {}
            yield edges.joined(parts["target"], parts["edges"]) if parts else whole


def _alone(target: Tensor) -> dict[str, Tensor]:
    return {"target": target}


@contextlib.contextmanager
def _chance(seed: int, epoch: int, i: int) -> Iterator[None]:
    """Seed torch's generator by three numbers inside the block, and restore it afterwards."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{i}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerator's generators as well.
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        yield


def _smallest(labels: Labels) -> torch.dtype:
    """Return the smallest type that holds IGNORED and all values of a target."""
    return next(kind for kind in (torch.int8, torch.int16, torch.int64) if labels.values - 1 <= torch.iinfo(kind).max)
