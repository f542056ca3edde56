r"""Scores of segmentations: Dice, IoU, precision, recall, specificity, accuracy and the boundary F-score.

All come from one count of pixels, which is added up over batches, devices and processes. For each class, taken
against the rest, a pixel that is not ignored is a true positive (TP), false positive (FP), false negative (FN) or
true negative (TN):

=============  ==================================  =====================================
score          formula                             not defined (nan) where
=============  ==================================  =====================================
dice           2 TP / (2 TP + FP + FN)             neither target nor prediction has it
iou            TP / (TP + FP + FN)                 neither target nor prediction has it
precision      TP / (TP + FP)                      the prediction has none of it
recall         TP / (TP + FN)                      the target has none of it
specificity    TN / (TN + FP)                      the target has nothing else
accuracy       (TP + TN) / (TP + FP + FN + TN)     all pixels are ignored
boundary_f     2 P R / (P + R), see below          neither has a boundary
=============  ==================================  =====================================

Dice is the F1 score of the pixels, IoU the Jaccard index, recall the sensitivity.

The boundary F-score (Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", section 2;
Perazzi et al. 2016, "A benchmark dataset and evaluation methodology for video object segmentation", section 4): P is
the share of the prediction's boundary pixels that have one of the target's within ``boundary_tolerance`` pixels, in
Euclidean distance between centres, and R is the reverse. With boundary pixels in one of the two only, the score is 0.
A boundary pixel of a mask is one inside it with a 4-neighbour outside it, as of scikit-image's
``find_boundaries(mask, mode="inner")``: the border of the picture makes no boundary. Nor do ignored pixels: they hold
no boundary pixels, and are no neighbour's outside.

Each score is taken in two ways. *Pooled*: all pixels of all images are counted together. *Per image*: the mean of the
images' own scores, over those images where the score is defined. A mean over classes is over those where it is
defined, so that a class absent from both target and prediction changes nothing. In a multiclass task class 0 counts
as any other, as in Cityscapes and VOC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from unetzoo._registry import suggest
from unetzoo.config import TASKS
from unetzoo.errors import ConfigError, InputError

METRICS = ("dice", "iou", "precision", "recall", "specificity", "accuracy", "boundary_f")
"""The names of the scores; "boundary_f" is left out where there is no ``boundary_tolerance``."""


@dataclass(frozen=True)
class ClassScores:
    """One metric, of each class.

    Attributes:
        pooled: (C,) float64 in [0, 1], all pixels of all images counted together; nan where not defined.
        per_image: (C,) float64, the mean over the images where the score is defined; nan where it is in none.
        images: (C,) int64, how many those are.
    """

    pooled: Tensor
    per_image: Tensor
    images: Tensor

    @property
    def mean(self) -> float:
        """The mean of ``pooled`` over the classes where it is defined; nan where it is for none."""
        return float(self.pooled.nanmean())

    @property
    def mean_per_image(self) -> float:
        """The mean of ``per_image`` over the classes where it is defined; nan where it is for none."""
        return float(self.per_image.nanmean())


@dataclass(frozen=True)
class Scores:
    """What :meth:`SegmentationMetrics.compute` returns, on the CPU. ``str()`` is a table.

    Attributes:
        dice, iou, precision, recall, specificity, accuracy: the scores of each class.
        boundary_f: the same; None where the metrics have no ``boundary_tolerance``.
        pixel_accuracy: share of the pixels whose class is right (multiclass), or of the pairs of pixel and class
            judged right (binary, multilabel); pooled; nan where all are ignored.
        images: how many images were counted.
        class_names: one name a class.
    """

    dice: ClassScores
    iou: ClassScores
    precision: ClassScores
    recall: ClassScores
    specificity: ClassScores
    accuracy: ClassScores
    boundary_f: ClassScores | None
    pixel_accuracy: float
    images: int
    class_names: tuple[str, ...]

    def to_dict(self) -> dict[str, float | None]:
        """Return the scores as JSON-able numbers, None where not defined.

        Returns:
            "dice" (mean over classes of the pooled scores) and "dice_per_image", and so for each metric; with more
            than one class also "dice/cell" and "dice_per_image/cell" for a class named "cell"; "pixel_accuracy"
            and "images".
        """
        record: dict[str, float | None] = {}
        for name, scores in self._by_metric().items():
            record |= _flat(name, scores.pooled, self.class_names)
            record |= _flat(f"{name}_per_image", scores.per_image, self.class_names)
        return {**record, "pixel_accuracy": _number(self.pixel_accuracy), "images": self.images}

    def __str__(self) -> str:
        metrics = self._by_metric()
        table = []
        for title, form in (("all pixels", "pooled"), ("mean of images", "per_image")):
            columns = {name: getattr(scores, form) for name, scores in metrics.items()}
            table.append([title, *columns])
            table += [
                [name, *(_cell(values[k]) for values in columns.values())] for k, name in enumerate(self.class_names)
            ]
            if len(self.class_names) > 1:
                table.append(["mean of classes", *(_cell(values.nanmean()) for values in columns.values())])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() + "\n" for row in table
        ]
        return f"{''.join(lines)}{self.images} images, pixel accuracy {_cell(self.pixel_accuracy)}\n"

    def _by_metric(self) -> dict[str, ClassScores]:
        found = {name: getattr(self, name) for name in METRICS}
        return {name: scores for name, scores in found.items() if scores is not None}


@dataclass(frozen=True)
class ImageScores:
    """The scores of each image of one batch, on the batch's device: nothing waits for it before they are read.

    Attributes:
        metrics: name of the metric (``METRICS``) → (N, C) float64 in [0, 1], nan where not defined.
        pixel_accuracy: (N,) float64, as of :class:`Scores`, for each image.
        class_names: one name a class.
    """

    metrics: Mapping[str, Tensor]
    pixel_accuracy: Tensor
    class_names: tuple[str, ...]

    def rows(self) -> list[dict[str, float | None]]:
        """Return one flat record an image, with the keys of :meth:`Scores.to_dict`.

        "dice" is the mean over the classes where the image's score is defined; there are no "..._per_image" and
        "images".
        """
        metrics = {name: values.cpu() for name, values in self.metrics.items()}
        records = []
        for n, accuracy in enumerate(self.pixel_accuracy.tolist()):
            record: dict[str, float | None] = {}
            for name, values in metrics.items():
                record |= _flat(name, values[n], self.class_names)
            records.append({**record, "pixel_accuracy": _number(accuracy)})
        return records


class SegmentationMetrics:
    """Counts pixels batch by batch; the module's docstring defines the scores.

    ::

        metrics = SegmentationMetrics("multiclass", 3, class_names=["ground", "cell", "wall"])
        for batch in loader:
            metrics.update(model(batch["image"]), batch["target"])
        metrics.sync()  # where several processes share the images
        print(metrics.compute())

    The counts are integers, exact for any number of pixels. They lie on the device of the first update, and the
    memory they take does not grow. The result depends neither on how images are put into batches nor, but for the
    last digits of the means per image, on how they are shared among processes.

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: channels of the logits; 1 for binary, whose one class is the foreground.
        ignore_index: value of the target's pixels that are not counted.
        threshold: between 0 and 1; a class is predicted where its probability is *above* it (binary, multilabel).
            A multiclass prediction is the class of the largest logit, the first of equals.
        boundary_tolerance: in pixels, from 0 up, of the boundary F-score; None leaves that score, and its cost, out.
        class_names: one name a class, all different; None: "0", "1", ….

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(
        self,
        task: str,
        num_classes: int = 1,
        *,
        ignore_index: int = -100,
        threshold: float = 0.5,
        boundary_tolerance: float | None = 2.0,
        class_names: Sequence[str] | None = None,
    ) -> None:
        problems = [
            *_task_problems(task, num_classes, ignore_index),
            *_name_problems(class_names, num_classes),
            *_number_problems(task, threshold, boundary_tolerance),
        ]
        if problems:
            raise ConfigError("cannot set up the metrics", problems)
        self.task = task
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.threshold = threshold
        self.boundary_tolerance = boundary_tolerance
        self.class_names = tuple(map(str, range(num_classes)) if class_names is None else class_names)
        self.reset()

    def reset(self) -> None:
        """Forget all that was counted."""
        self._own: _Tally | None = None
        self._all: _Tally | None = None

    @torch.no_grad()
    def update(self, logits: Tensor, target: Tensor) -> ImageScores:
        """Count a batch of logits; masks go to :meth:`update_masks`, probabilities ``p`` as ``p > threshold``.

        Args:
            logits: (N, num_classes, H, W), floating point, not nan.
            target: (N, H, W) class indices (multiclass), (N, H, W) or (N, 1, H, W) of 0 and 1 (binary), or
                (N, num_classes, H, W) of 0 and 1 (multilabel), with ``ignore_index`` where nothing is to be counted.
                Any integers or bool; for 0 and 1 also floating point.

        Returns:
            The scores of each image of this batch.

        Raises:
            InputError: other shapes or types; nothing is counted. Also nan, and values that are no class: at once on
                the CPU, where nothing is counted; elsewhere, where looking would make the device wait, by
                :meth:`compute`, and the scores returned here are then meaningless.
        """
        problems = [
            *_tensor_problems("logits", logits),
            *_tensor_problems("target", target),
        ] or [*self._logit_problems(logits), *self._mask_problems("target", target, logits)]
        if problems:
            raise InputError(f"cannot score what was given: {'; '.join(problems)}")
        if self.task == "multiclass":
            strongest, predicted = logits.max(dim=1, keepdim=True)
            unknown = strongest.isnan().any()
        else:
            # Half precision would round the threshold.
            precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
            predicted = precise > math.log(self.threshold / (1 - self.threshold))
            unknown = logits.isnan().any()
        return self._count(predicted, target, torch.where(unknown, math.nan, -math.inf))

    @torch.no_grad()
    def update_masks(self, predicted: Tensor, target: Tensor) -> ImageScores:
        """Count a batch of predicted masks, such as of thresholded probabilities.

        Args:
            predicted: of the shape and types that ``target`` may have; what it holds where the target is ignored
                does not matter.
            target: as :meth:`update` takes it.

        Returns:
            The scores of each image of this batch.

        Raises:
            InputError: as of :meth:`update`.
        """
        problems = [
            *_tensor_problems("predicted", predicted),
            *_tensor_problems("target", target),
        ] or [*self._mask_problems("predicted", predicted, target), *self._mask_problems("target", target, predicted)]
        if problems:
            raise InputError(f"cannot score what was given: {'; '.join(problems)}")
        return self._count(predicted, target, torch.full((), -math.inf, device=target.device))

    def merge(self, other: SegmentationMetrics) -> None:
        """Add what ``other`` counted.

        Raises:
            ConfigError: it counts in another way.
        """
        self._check_settings(other._settings(), "the other metrics")
        if other._own is not None:
            self._own = other._own if self._own is None else self._own + other._own
        self._all = None

    def sync(self) -> None:
        """Let :meth:`compute` return the scores of all processes of ``torch.distributed``, the same on each.

        All of them must call it; where there is only one, nothing is done. It holds until the next update, and may
        then be called again: nothing is counted twice.

        Raises:
            ConfigError: the processes count in different ways.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        # As objects, since processes that saw no image yet have no device, and summed here in the order of the ranks,
        # so that even the last bit is the same on each.
        mine = (self._settings(), self._counted())
        gathered = [mine] * dist.get_world_size()
        dist.all_gather_object(gathered, mine)
        for rank, (settings, _) in enumerate(gathered):
            self._check_settings(settings, f"process {rank}")
        total, *others = (tally for _, tally in gathered)
        for tally in others:
            total = total + tally
        self._all = total

    def compute(self) -> Scores:
        """Return the scores of all that was counted; before the first update they are nan.

        Raises:
            InputError: an update was given nan or values that are no class.
        """
        tally = self._counted() if self._all is None else self._all
        self._refuse(tally.faults)
        pooled = _scores(tally.counts)
        per_image = tally.sums / tally.defined
        names = METRICS[: len(pooled)]
        metrics: dict[str, ClassScores | None] = dict.fromkeys(METRICS)
        metrics |= {
            name: ClassScores(*each) for name, *each in zip(names, pooled, per_image, tally.defined, strict=True)
        }
        return Scores(
            **metrics,  # type: ignore[arg-type]  # only boundary_f may be None
            pixel_accuracy=float(self._pixel_accuracy(tally.counts)),
            images=int(tally.images),
            class_names=self.class_names,
        )

    def _count(self, predicted: Tensor, target: Tensor, logit_fault: Tensor) -> ImageScores:
        predicted, target = self._layered(predicted), self._layered(target)
        valid = target != self.ignore_index
        classes = self.num_classes if self.task == "multiclass" else 2
        faults = torch.stack([logit_fault, _stray(target, valid, classes), _stray(predicted, valid, classes)])
        if faults.device.type == "cpu":
            self._refuse(faults)
        counts = self._pixel_counts(predicted, target, valid)
        if counts.device.type == "mps":  # which has no float64
            counts, faults = counts.cpu(), faults.cpu()
        scores = _scores(counts)
        tally = _Tally(
            counts=counts.sum(dim=0),
            sums=scores.nansum(dim=0),
            defined=scores.isfinite().sum(dim=0),
            images=torch.full((), len(counts), device=counts.device),
            faults=faults,
        )
        self._own = tally if self._own is None else self._own + tally
        self._all = None
        metrics = dict(zip(METRICS, scores.unbind(dim=1), strict=False))
        return ImageScores(metrics, self._pixel_accuracy(counts), self.class_names)

    def _layered(self, mask: Tensor) -> Tensor:
        """Return ``mask`` as (N, 1 or num_classes, H, W), int64 unless it is floating point."""
        # In small types a comparison would wrap around: uint8 156 == -100.
        mask = mask if mask.is_floating_point() else mask.long()
        return mask[:, None] if mask.ndim == 3 else mask

    def _pixel_counts(self, predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return (N, 4 or 8, num_classes) int64, in the order that :func:`_scores` reads.

        One class at a time, so that the memory does not grow with the classes.
        """
        found = []
        for k in range(self.num_classes):
            layer, value = (0, k) if self.task == "multiclass" else (k, 1)
            counted = valid[:, layer]
            masks = torch.stack([predicted[:, layer] == value, target[:, layer] == value]) & counted
            tp = _pixels(masks[0] & masks[1])
            fp, fn = _pixels(masks) - tp
            counts = [tp, fp, fn, _pixels(counted) - tp - fp - fn]
            if self.boundary_tolerance is not None:
                boundaries = masks & _near(counted & ~masks, 1)
                matched = boundaries & _near(boundaries, self.boundary_tolerance).flip(0)
                counts += [*_pixels(boundaries), *_pixels(matched)]
            found.append(torch.stack(counts, dim=1))
        return torch.stack(found, dim=2)

    def _pixel_accuracy(self, counts: Tensor) -> Tensor:
        """Return (...,) float64, of counts (..., 4 or 8, num_classes)."""
        tp, _, _, tn = counts[..., :4, :].unbind(dim=-2)
        pixels = counts[..., :4, :].sum(dim=-2)
        if self.task == "multiclass":
            return tp.sum(dim=-1).double() / pixels[..., 0]
        return (tp + tn).sum(dim=-1).double() / pixels.sum(dim=-1)

    def _counted(self) -> _Tally:
        """Return what this process counted, on the CPU."""
        if self._own is None:
            return _Tally.zero(4 if self.boundary_tolerance is None else 8, self.num_classes)
        return self._own.to(torch.device("cpu"))

    def _settings(self) -> dict[str, object]:
        names = ("task", "num_classes", "ignore_index", "threshold", "boundary_tolerance")
        return {name: getattr(self, name) for name in names}

    def _check_settings(self, others: Mapping[str, object], whose: str) -> None:
        problems = [
            f"{name}={value!r} here, and {others[name]!r} there"
            for name, value in self._settings().items()
            if others[name] != value
        ]
        if problems:
            raise ConfigError(f"cannot add what {whose} counted", problems)

    def _refuse(self, faults: Tensor) -> None:
        logits, target, predicted = faults.tolist()
        problems = ["the logits hold nan"] if math.isnan(logits) else []
        allowed = f"0 to {self.num_classes - 1} are" if self.task == "multiclass" else "0 and 1 are"
        if target != -math.inf:
            problems.append(
                f"the target holds {target:g}: {allowed} allowed, and ignore_index={self.ignore_index} where nothing "
                "is to be counted"
            )
        if predicted != -math.inf:
            problems.append(f"the prediction holds {predicted:g}: {allowed} allowed")
        if problems:
            raise InputError(f"cannot score what was given: {'; '.join(problems)}")

    def _logit_problems(self, logits: Tensor) -> list[str]:
        found = []
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            found.append(f"logits of shape {tuple(logits.shape)}: (N, {self.num_classes}, H, W) is needed")
        if not logits.is_floating_point():
            found.append(f"logits of {logits.dtype}: floating point is needed; masks go to update_masks")
        return found

    def _mask_problems(self, name: str, mask: Tensor, beside: Tensor) -> list[str]:
        """Return what is wrong with a mask that goes with ``beside``, logits or another mask."""
        found = []
        shape = tuple(mask.shape)
        n, h, w = (beside.shape[0], *beside.shape[-2:]) if beside.ndim >= 3 else ("N", "H", "W")
        allowed: list[tuple[object, ...]] = {
            "binary": [(n, h, w), (n, 1, h, w)],
            "multiclass": [(n, h, w)],
            "multilabel": [(n, self.num_classes, h, w)],
        }[self.task]
        if shape not in allowed if beside.ndim >= 3 else mask.ndim not in map(len, allowed):
            forms = " or ".join(f"({', '.join(map(str, form))})" for form in allowed)
            found.append(f"{name} of shape {shape}: {forms} is needed{self._shape_mend(name, mask, beside)}")
        if mask.is_complex() or (mask.is_floating_point() and self.task == "multiclass"):
            found.append(f"{name} of {mask.dtype}: integers are needed")
        if mask.device != beside.device:
            found.append(f"{name} on {mask.device}, and what it goes with on {beside.device}: one device is needed")
        return found

    def _shape_mend(self, name: str, mask: Tensor, beside: Tensor) -> str:
        if self.task == "multiclass" and mask.ndim == 4 and mask.shape[1] in (1, self.num_classes):
            return f"; use {name}[:, 0]" if mask.shape[1] == 1 else f"; use {name}.argmax(dim=1)"
        larger = [a > b for a, b in zip(mask.shape[-2:], beside.shape[-2:], strict=False)]
        if larger == [True, True]:
            return f"; crop the {name} to the middle, as for unet_valid"
        return ""


@dataclass(frozen=True)
class _Tally:
    """What was counted, of M metrics and C classes.

    Attributes:
        counts: (4 or 8, C) int64, as :func:`_scores` reads them.
        sums: (M, C) float64, of the images' own scores where they are defined.
        defined: (M, C) int64, in how many images they are.
        images: () int64.
        faults: (3,) float32, of logits, target and prediction: the largest value that must not be; -inf: none.
    """

    counts: Tensor
    sums: Tensor
    defined: Tensor
    images: Tensor
    faults: Tensor

    @classmethod
    def zero(cls, counts: int, classes: int) -> _Tally:
        metrics = len(_scores(torch.zeros(counts, classes)))
        return cls(
            counts=torch.zeros(counts, classes, dtype=torch.int64),
            sums=torch.zeros(metrics, classes, dtype=torch.float64),
            defined=torch.zeros(metrics, classes, dtype=torch.int64),
            images=torch.zeros((), dtype=torch.int64),
            faults=torch.full((3,), -math.inf),
        )

    def to(self, device: torch.device) -> _Tally:
        return _Tally(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def __add__(self, other: _Tally) -> _Tally:
        """Never in place: what was made in inference mode may not be changed outside it."""
        other = other.to(self.counts.device)
        return _Tally(
            counts=self.counts + other.counts,
            sums=self.sums + other.sums,
            defined=self.defined + other.defined,
            images=self.images + other.images,
            faults=torch.maximum(self.faults, other.faults),
        )


def _scores(counts: Tensor) -> Tensor:
    """Return the scores (..., 6 or 7, C) float64 of pixel counts, in the order of :data:`METRICS`.

    Args:
        counts: (..., 4 or 8, C): TP, FP, FN, TN, and maybe boundary pixels of prediction and target, and how many
            of each are matched.
    """
    tp, fp, fn, tn, *boundary = counts.double().unbind(dim=-2)
    found = [
        2 * tp / (2 * tp + fp + fn),
        tp / (tp + fp + fn),
        tp / (tp + fp),
        tp / (tp + fn),
        tn / (tn + fp),
        (tp + tn) / (tp + fp + fn + tn),
    ]
    if boundary:
        predicted, true, matched_predicted, matched_true = boundary
        # Where one is unmatched, so is the other, and 0 / 0 stands for a score of 0.
        harmonic = 2 * matched_predicted * matched_true / (matched_predicted * true + matched_true * predicted)
        found.append(torch.where(matched_true > 0, harmonic, 0).masked_fill(predicted + true == 0, math.nan))
    return torch.stack(found, dim=-2)


def _pixels(mask: Tensor) -> Tensor:
    """Return how many pixels of (..., H, W) bool are set."""
    return mask.flatten(-2).sum(dim=-1)


def _near(points: Tensor, distance: float) -> Tensor:
    """Return where a point is within a Euclidean distance: dilation of (..., H, W) bool with an exact disk.

    A disk is a stack of rows. They are widened pixel by pixel, from the disk's shortest row to its longest, and each
    is moved to its height: 4 shifts a pixel of the radius, of one byte a pixel, instead of its whole area.
    """
    height, width = points.shape[-2:]
    found, rows, reach = torch.zeros_like(points), points.clone(), 0
    for dy in range(min(int(distance), height - 1), -1, -1):
        # math.hypot is exact where the distance is the root of a whole number.
        while reach + 1 < width and math.hypot(dy, reach + 1) <= distance:
            reach += 1
            rows[..., reach:] |= points[..., :-reach]
            rows[..., :-reach] |= points[..., reach:]
        found[..., dy:, :] |= rows[..., : height - dy, :]
        found[..., : height - dy, :] |= rows[..., dy:, :]
    return found


def _stray(values: Tensor, counted: Tensor, classes: int) -> Tensor:
    """Return () float32: the largest counted value that is not one of 0 … classes - 1; -inf where all are."""
    known = (values >= 0) & (values < classes)
    if values.is_floating_point():
        known &= values == values.round()
    numbers = values.float().clamp(min=torch.finfo(torch.float32).min)  # -inf stands for none
    return torch.where(counted & ~known, numbers, -math.inf).amax()


def _flat(name: str, values: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    record = {name: _number(float(values.nanmean()))}
    if len(class_names) > 1:
        record |= {f"{name}/{label}": _number(v) for label, v in zip(class_names, values.tolist(), strict=True)}
    return record


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cell(value: Tensor | float) -> str:
    return "–" if math.isnan(value) else f"{float(value):.4f}"


def _tensor_problems(name: str, value: object) -> list[str]:
    if not isinstance(value, Tensor):
        return [f"{name}: a torch.Tensor is needed, not {type(value).__name__}"]
    return [f"{name} of shape {tuple(value.shape)}: there is no pixel in it"] if value.numel() == 0 else []


def _task_problems(task: object, classes: object, ignore_index: object) -> list[str]:
    found = []
    if task not in TASKS:
        found.append(f"task={task!r}: one of {', '.join(map(repr, TASKS))} is needed{suggest(str(task), TASKS)}")
    if type(classes) is not int or classes < 1:
        found.append(f"num_classes={classes!r}: a whole number from 1 up is needed")
    elif task == "binary" and classes != 1:
        found.append(f"num_classes={classes} with task='binary': it has 1; more are 'multiclass' or 'multilabel'")
    elif task == "multiclass" and classes == 1:
        found.append("num_classes=1 with task='multiclass': 2 at least are needed; use task='binary'")
    if type(ignore_index) is not int:
        found.append(f"ignore_index={ignore_index!r}: a whole number is needed")
    elif task in ("binary", "multilabel") and ignore_index in (0, 1):
        found.append(f"ignore_index={ignore_index} with task={task!r}: 0 and 1 are what is counted")
    return found


def _name_problems(names: object, classes: object) -> list[str]:
    if names is None:
        return []
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        return [f"class_names={names!r:.100}: a list or tuple of strings is needed"]
    found = [] if len(names) == classes else [f"class_names: {len(names)} names for num_classes={classes!r}"]
    twice = sorted({name for name in names if names.count(name) > 1})
    return found + ([f"class_names: {', '.join(map(repr, twice))} more than once"] if twice else [])


def _number_problems(task: object, threshold: object, tolerance: object) -> list[str]:
    found = []
    if not _is_number(threshold) or not 0 < threshold < 1:
        found.append(f"threshold={threshold!r}: a probability above 0 and below 1 is needed")
    elif task == "multiclass" and threshold != 0.5:
        found.append(f"threshold={threshold!r} with task='multiclass': the largest logit decides; leave it out")
    if tolerance is not None and (not _is_number(tolerance) or not 0 <= tolerance < math.inf):
        found.append(f"boundary_tolerance={tolerance!r}: a number of pixels from 0 up is needed, or None")
    return found


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
