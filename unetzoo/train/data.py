"""A folder of images and masks as a Lightning data module: all of it is checked before the first step."""

from __future__ import annotations

import os
import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as lightning
from torch.utils.data import DataLoader

from unetzoo import augmentation
from unetzoo.checks import one_of, resize_problems, whole
from unetzoo.config import NORMALISATIONS
from unetzoo.data import (
    DataReport,
    Labels,
    Sample,
    SegmentationDataset,
    check,
    check_meaning,
    find_samples,
    labels_of,
)
from unetzoo.data.aiming import share_problems
from unetzoo.data.crops import crop_of
from unetzoo.data.listing import title_of
from unetzoo.data.sampling import EpochBatches, SizeBatches
from unetzoo.data.splitting import fold_problems
from unetzoo.errors import ConfigError
from unetzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD
from unetzoo.printing import printable

AUTO = "auto"
MOST_BANDS = 3
"""Images with at most this many channels are normalised each on its own, unless another normalisation is set."""


@dataclass(frozen=True)
class Facts:
    """What a network must know about the images: channels, normalisation, and type (see ``ModelConfig``)."""

    in_channels: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    normalisation: str
    pixels: str | None = None


class FolderData(lightning.LightningDataModule):
    """Images and masks to train and validate on.

    Training uses random augmented crops; validation uses complete images, unchanged.

    Args:
        folder: with ``images/`` and ``masks/``, or ``train/``, ``val/`` and optionally ``test/`` that contain these; or
            a CSV list, or several in a list: see ``unetzoo.data.find_samples``.
        task, num_classes, class_names, ignore, foreground, colours, ignore_colour, classes, planes, masks: what the
            files mean, see ``unetzoo.data.Labels``; None: as ``unetzoo.data.labels_of`` infers it.
        ratios: shares of the training, validation and test images, where the folder does not split them.
        group: a regular expression; images whose names give the same match stay together.
        folds, fold: for cross-validation: all images except the test images are split into ``folds`` folds. The fold
            with this number, from 1, is for validation, and the others are for training.
        crop_size: side of the training crops, or height and width. None: 256, or less where most images are smaller.
        foreground_crops: share of the crops that are made to contain foreground, of a randomly chosen class, so that
            rare classes are seen; see ``unetzoo.data.aiming``. A third by default, as in nnU-Net.
        normalisation: "fixed": 8-bit RGB with ImageNet's mean and standard deviation, everything else with those of the
            training images; "image": each image with its own, as in nnU-Net where units mean nothing. None: "image" for
            up to three channels of integers, such as photographs and micrographs; "fixed" for floating point and for
            more bands, whose numbers have units; "fixed" with pretrained weights; and for a trained network, its own.
            Stored in the model.
        resize: factor for the sides of images, with which the network is trained and always used: 0.5, or another
            fraction of small numbers. Crops are of the resized images; validation scores are at the original size.
        batch_size: images per step and process. "auto": as many as fit in memory, see ``unetzoo.train.memory``, which
            puts their number here before a run begins.
        steps_per_epoch: optimiser steps between validations; the crops then come from endless passes over the images.
            None: an epoch is one pass.
        repeats: crops of each image in a pass. None: as many as cover the images once, on average.
        balance: take equally many crops of each kind of image, where a CSV list names kinds; images of rare kinds are
            drawn more often.
        augmentation: "none", "light", "strong", or a list: see ``unetzoo.augmentation.build``.
        workers: processes that read images; None: half the processors, at most 8.
        seed: random seed for split, order and augmentation.

    Attributes:
        labels: what the masks mean.
        report: what the check found.
        facts: what the network must know about the images.
        crop: (height, width) of the training crops.
    """

    labels: Labels
    report: DataReport
    facts: Facts
    crop: tuple[int, int]

    def __init__(
        self,
        folder: str | list[str],
        *,
        task: str | None = None,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        ignore: int | None = None,
        foreground: str | None = None,
        colours: list[str] | None = None,
        ignore_colour: str | None = None,
        classes: list[str] | None = None,
        planes: str | None = None,
        masks: str | None = None,
        ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
        group: str | None = None,
        folds: int | None = None,
        fold: int | None = None,
        crop_size: int | tuple[int, int] | None = None,
        foreground_crops: float = 0.33,
        normalisation: str | None = None,
        resize: float = 1.0,
        batch_size: int | Literal["auto"] = 8,
        steps_per_epoch: int | None = None,
        repeats: int | None = None,
        balance: bool = False,
        augmentation: str | list[Any] = "light",
        workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.ratios, self.group = folder, ratios, group
        self.folds, self.fold = folds, fold
        self._meaning: dict[str, Any] = {
            "task": task,
            "num_classes": num_classes,
            "class_names": tuple(class_names) if class_names else None,
            "ignore": ignore,
            "foreground": foreground,
            "colours": tuple(colours) if colours else None,
            "ignore_colour": ignore_colour,
            "classes": tuple(classes) if classes else None,
            "planes": planes,
            "masks": masks,
        }
        check_meaning(**self._meaning)
        self.crop_size, self.foreground_crops, self.normalisation = crop_size, foreground_crops, normalisation
        self.resize = resize
        self.batch_size, self.repeats, self.balance, self.seed = batch_size, repeats, balance, seed
        self.steps_per_epoch, self.augmentation = steps_per_epoch, augmentation
        self.workers = min(8, (os.cpu_count() or 1) // 2) if workers is None else workers
        self._position = (0, 0)
        self._samples: dict[str, tuple[Sample, ...]] | None = None
        problems = self._problems()
        if problems:
            raise ConfigError("wrong settings of the data", problems)

    def _problems(self) -> list[str]:
        """Return what is wrong with the settings, without a look at the data."""
        repeats, steps = self.repeats, self.steps_per_epoch
        size = self.batch_size
        problems = (
            []
            if size == AUTO or not whole("batch_size", size)
            else [f"batch_size={size!r}: a whole number from 1 up is needed, or 'auto'"]
        )
        problems += whole("workers", self.workers, 0)
        problems += one_of("normalisation", self.normalisation, (None, *NORMALISATIONS)) + resize_problems(self.resize)
        problems += share_problems(self.foreground_crops) + fold_problems(self.fold, self.folds)
        if self.folds is not None and self.fold is None:
            problems.append(f"folds={self.folds!r}: say which of them to train, such as fold=1")
        problems += [] if repeats is None else whole("repeats", repeats)
        problems += [] if steps is None else whole("steps_per_epoch", steps)
        if repeats is not None and steps is not None:
            problems.append(
                f"repeats={repeats} sets the crops of each image in a pass, but an epoch is not a pass here: it is "
                f"steps_per_epoch={steps}; train by epochs=… instead, or leave repeats=… out"
            )
        if any("\ud800" <= letter <= "\udfff" for letter in title_of(self.folder)):
            # The settings from which a run is resumed are YAML, which is text.
            fix = "rename the folder, or give a link to it"
            problems.append(f"data={printable(title_of(self.folder))}: this name is not UTF-8: {fix}")
        return problems

    @property
    def crops(self) -> int:
        """Crops per batch, once their number is known."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    @property
    def samples(self) -> Mapping[str, tuple[Sample, ...]]:
        """The images and masks of "train", "val" and "test", once :meth:`setup` has found them."""
        assert self._samples is not None
        return self._samples

    def setup(self, stage: str | None = None) -> None:
        """Find the images, check all of them, and find what the network must know.

        Raises:
            ConfigError: lists everything that is wrong with the data.
        """
        if self._samples is not None:
            return
        self.understand()
        source: dict[str, Any] = {"ratios": self.ratios, "seed": self.seed, "group": self.group}
        if self.fold is not None:
            source["fold"] = (self.fold, self.folds)
        self.report = check(
            self.folder,
            self.labels,
            **source,
            crop_size=self.crop_size,
            resize=self.resize,
            closely=False,
            progress=_progress(self.trainer),
        )
        self.report.raise_for_problems()
        self.labels = self.report.labels
        self._samples = find_samples(self.folder, self.labels, **source)
        self.facts = self._facts()
        self.crop = self._crop()
        self.augment = augmentation.build(self.augmentation, self.crop)
        problems = self.augment.type_problems(self.report.dtypes)
        if problems:
            raise ConfigError("cannot augment the data", problems)
        self._batches()
        self._validation_batches()

    def understand(self) -> None:
        """Find what the masks mean, from the layout of the folder; no image is opened.

        Raises:
            ConfigError: the layout is not a known one, or the settings do not fit it.
        """
        self.labels = labels_of(self.folder, **self._meaning)

    def normalise_as(self, normalisation: str) -> None:
        """Normalise images as the weights of a network expect, unless a normalisation was set."""
        if self.normalisation is None:
            self.normalisation = normalisation
            self.facts = self._facts()

    def state_dict(self) -> dict[str, int]:
        """Return the epoch that the run is in, and how many of its batches it has trained on."""
        assert self.trainer is not None
        loop: Any = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed % self.trainer.num_training_batches
        return {"epoch": loop.epoch_progress.current.processed, "batch": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue from there."""
        self._position = state_dict["epoch"], state_dict["batch"]

    def training_set(self) -> SegmentationDataset:
        """Return the training images, augmented."""
        return self._dataset("train", self.augment)

    def validation_set(self) -> SegmentationDataset:
        """Return the validation images, complete and unchanged."""
        return self._dataset("val", None)

    def train_dataloader(self) -> TrainingLoader:
        """Return a loader that begins where the checkpoint was made, which may be within an epoch."""
        batches = self._batches()
        batches.set_epoch(self._position[0])
        batches.first = self._position[1]
        return TrainingLoader(self.training_set(), batch_sampler=batches, **self._loading())

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of this process's share of the validation images."""
        return DataLoader(self.validation_set(), batch_sampler=self._validation_batches(), **self._loading())

    def _batches(self) -> EpochBatches:
        dataset, trainer = self.training_set(), self.trainer
        assert trainer is not None
        return EpochBatches(
            len(dataset),
            self.crops,
            repeats=self._balanced(dataset) if self.balance else self._repeats(dataset),
            steps=self.steps_per_epoch and self.steps_per_epoch * trainer.accumulate_grad_batches,
            seed=self.seed,
            rank=trainer.global_rank,
            processes=trainer.world_size,
        )

    def _validation_batches(self) -> SizeBatches:
        trainer = self.trainer
        assert trainer is not None
        sizes = self.validation_set().sizes()
        return SizeBatches(sizes, self.crops, rank=trainer.global_rank, processes=trainer.world_size)

    def _loading(self) -> dict[str, Any]:
        assert self.trainer is not None
        pinned = self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.workers, "persistent_workers": self.workers > 0, "pin_memory": pinned}

    def _dataset(self, part: str, augment: Any) -> SegmentationDataset:
        assert self._samples is not None
        facts = self.facts
        return SegmentationDataset(
            self._samples[part],
            self.labels,
            in_channels=facts.in_channels,
            mean=facts.mean,
            std=facts.std,
            normalisation=facts.normalisation,
            resize=self.resize if part == "train" else 1.0,  # in validation the network resizes
            augmentation=augment,
            foreground_crops=self.foreground_crops,
            seed=self.seed,
        )

    def _facts(self) -> Facts:
        report = self.report
        channels = report.in_channels
        assert channels is not None  # else the check found problems
        # The only mixture that the check allows is uint8 with uint16, which are scaled alike.
        pixels = max(report.dtypes, key=lambda kind: (len(kind), kind))
        units = channels > MOST_BANDS or any(dtype.startswith("float") for dtype in report.dtypes)
        if (self.normalisation or ("fixed" if units else "image")) == "image":
            return Facts(channels, None, None, "image", pixels)
        if channels == 3 and set(report.dtypes) == {"uint8"}:
            # As the encoders were trained.
            return Facts(3, IMAGENET_MEAN, IMAGENET_STD, "fixed", pixels)
        assert report.mean is not None
        assert report.std is not None
        return Facts(channels, report.mean, report.std, "fixed", pixels)

    def _crop(self) -> tuple[int, int]:
        """Return (height, width) of the crops."""
        return crop_of(self.crop_size, self._dataset("train", None).sizes() if self.crop_size is None else ())

    def _repeats(self, dataset: SegmentationDataset) -> int:
        if self.repeats is not None:
            return self.repeats
        if self.steps_per_epoch is not None:
            return 1
        assert self.trainer is not None
        sizes = dataset.sizes()
        covering = statistics.mean(height * width for height, width in sizes) / (self.crop[0] * self.crop[1])
        filling = -(-self.crops * self.trainer.world_size // len(sizes))
        return max(1, round(covering), filling)

    def _balanced(self, dataset: SegmentationDataset) -> list[int]:
        """Return the crops of each image in a pass, such that all kinds have equally many."""
        counts = Counter(sample.kind for sample in dataset.samples)
        if self.steps_per_epoch is None:
            each = len(dataset) * self._repeats(dataset) / len(counts)
        else:  # a pass may be long enough for shares that are right to 3 % or better
            each = 16 * max(counts.values())
        return [max(1, round(each / counts[sample.kind])) for sample in dataset.samples]


class TrainingLoader(DataLoader[Any]):
    """A loader that Lightning accepts for resuming within an epoch.

    Its :class:`EpochBatches` set where it continues when it is made, since loaders with workers begin to read before
    Lightning would tell them.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the trainer's own progress is enough."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


def _progress(trainer: Any) -> bool:
    return trainer is not None and trainer.is_global_zero and sys.stderr.isatty()
