"""The metrics: they take batches and return scores, over any number of processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from unetzoo.checks import class_name_problems, class_names_of
from unetzoo.errors import ConfigError, InputError
from unetzoo.metrics._arguments import number_problems, task_problems, tensor_problems
from unetzoo.metrics.counting import Tally, near, pixels_of, scores_of, stray
from unetzoo.metrics.scores import METRICS, ClassScores, ImageScores, Scores


class SegmentationMetrics:
    """Counts pixels batch by batch; the package's docstring defines the scores.

    ::

        metrics = SegmentationMetrics("multiclass", 3, class_names=["ground", "cell", "wall"])
        for batch in loader:
            metrics.update(model(batch["image"]), batch["target"])
        metrics.sync()  # if several processes share the images
        print(metrics.compute())

    The counts are integers, exact for any number of pixels. They are on the device of the first update, and the memory
    they take does not grow. The result does not depend on how images are grouped into batches. How they are shared
    among processes changes at most the last digits of the means per image.

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: channels of the logits; 1 for binary, whose only class is the foreground.
        ignore_index: value of the target's pixels that are not counted. For multi-class, it may be the index of a
            class: pixels of that class in the target are not counted, and it has no scores (nan) and is in no mean over
            classes, as in torchmetrics' Jaccard index; predicting it for a pixel of another class is wrong.
        threshold: between 0 and 1; a class is predicted where its probability is *above* it (binary, multilabel).
            A multiclass prediction is the class of the largest logit, the first of equals.
        boundary_tolerance: in pixels, from 0 up, of the boundary F-score; None leaves that score, and its cost, out.
        class_names: one name per class, all different; None: depending on the task, "foreground"; or "background",
            "class_1", …; or "class_0", ….

    Raises:
        ConfigError: lists everything that is wrong.
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
            *task_problems(task, num_classes, ignore_index),
            *class_name_problems(class_names, num_classes, different=True),
            *number_problems(task, threshold, boundary_tolerance),
        ]
        if problems:
            raise ConfigError("cannot set up the metrics", problems)
        self.task = task
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.threshold = threshold
        self.boundary_tolerance = boundary_tolerance
        self.class_names = class_names_of(class_names, task, num_classes)
        self.reset()

    def reset(self) -> None:
        """Reset all counts."""
        self._own: Tally | None = None
        self._all: Tally | None = None

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
            InputError: shapes or types do not fit; nothing is counted. Also if there are nan, or values that are not a
                class: on the CPU immediately, and nothing is counted. On other devices, where reading values would make
                the device wait, :meth:`compute` raises it, and the scores returned here are meaningless.
        """
        problems = [
            *tensor_problems("logits", logits),
            *tensor_problems("target", target),
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
            predicted: of a shape and type that ``target`` may have; its values at ignored pixels do not matter.
            target: as :meth:`update` takes it.

        Returns:
            The scores of each image of this batch.

        Raises:
            InputError: as of :meth:`update`.
        """
        problems = [
            *tensor_problems("predicted", predicted),
            *tensor_problems("target", target),
        ] or [*self._mask_problems("predicted", predicted, target), *self._mask_problems("target", target, predicted)]
        if problems:
            raise InputError(f"cannot score what was given: {'; '.join(problems)}")
        return self._count(predicted, target, torch.full((), -math.inf, device=target.device))

    @torch.no_grad()
    def update_masks_in_parts(self, parts: Iterable[tuple[Tensor, Tensor]]) -> ImageScores:
        """Count one image that comes in parts, such as bands of rows, without overlap.

        Args:
            parts: predicted masks and targets, as :meth:`update_masks` takes batches of one.

        Returns:
            The scores of the image.

        Raises:
            ConfigError: there is a ``boundary_tolerance``: boundaries cross from part to part.
            InputError: as of :meth:`update`; earlier parts are not counted either.
        """
        if self.boundary_tolerance is not None:
            raise ConfigError("boundary_tolerance=None is needed for images in parts: boundaries cross their ends")
        whole = SegmentationMetrics(
            self.task, self.num_classes, ignore_index=self.ignore_index, boundary_tolerance=None
        )
        for predicted, target in parts:
            whole.update_masks(predicted, target)
        tally = whole._counted()
        return self._tallied(tally.counts[None], tally.faults)

    def merge(self, other: SegmentationMetrics) -> None:
        """Add the counts of ``other``.

        Raises:
            ConfigError: it has other settings.
        """
        self._check_settings(other._settings(), "the other metrics")
        if other._own is not None:
            self._own = other._own if self._own is None else self._own + other._own
        self._all = None

    def sync(self) -> None:
        """Make :meth:`compute` return the scores over all processes of ``torch.distributed``, the same on each.

        All processes must call it; if there is only one, it does nothing. It holds until the next update, and can then
        be called again: nothing is counted twice.

        Raises:
            ConfigError: the processes have different settings.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        # As objects, because processes without images yet have no device; and summed here in the order of the ranks, so
        # that even the last bit is the same on each.
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
        """Return the scores of everything counted; before the first update they are nan.

        Raises:
            InputError: an update got nan, or values that are not a class.
        """
        tally = self._counted() if self._all is None else self._all
        self._refuse(tally.faults)
        pooled = scores_of(tally.counts)
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
        faults = torch.stack([logit_fault, stray(target, valid, classes), stray(predicted, valid, classes)])
        if faults.device.type == "cpu":
            self._refuse(faults)
        counts = self._pixel_counts(predicted, target, valid)
        if counts.device.type == "mps":  # which has no float64
            counts, faults = counts.cpu(), faults.cpu()
        return self._tallied(counts, faults)

    def _tallied(self, counts: Tensor, faults: Tensor) -> ImageScores:
        """Add the counts of images (N, 4 or 8, num_classes), and return their scores."""
        scores = scores_of(counts)
        tally = Tally(
            counts=counts.sum(dim=0),
            sums=scores.nansum(dim=0),
            defined=scores.isfinite().sum(dim=0),
            images=torch.full((), len(counts), device=counts.device),
            faults=faults,
        )
        self._own = tally if self._own is None else self._own + tally
        self._all = None
        metrics = dict(zip(METRICS, scores.unbind(dim=1), strict=False))
        return ImageScores(metrics, self._pixel_accuracy(counts), self.class_names, counts)

    def _layered(self, mask: Tensor) -> Tensor:
        """Return ``mask`` as (N, 1 or num_classes, H, W), int64 unless it is floating point."""
        # In small types, a comparison would wrap around: uint8 156 == -100.
        mask = mask if mask.is_floating_point() else mask.long()
        return mask[:, None] if mask.ndim == 3 else mask

    def _pixel_counts(self, predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return (N, 4 or 8, num_classes) int64, in the order that :func:`scores_of` reads.

        One class at a time, so that the memory does not grow with the classes.
        """
        found = []
        for k in range(self.num_classes):
            layer, value = (0, k) if self.task == "multiclass" else (k, 1)
            counted = valid[:, layer]
            if self.task == "multiclass" and k == self.ignore_index:
                counted = torch.zeros_like(counted)  # nothing is known about it, so its scores are undefined
            masks = torch.stack([predicted[:, layer] == value, target[:, layer] == value]) & counted
            tp = pixels_of(masks[0] & masks[1])
            fp, fn = pixels_of(masks) - tp
            counts = [tp, fp, fn, pixels_of(counted) - tp - fp - fn]
            if self.boundary_tolerance is not None:
                boundaries = masks & near(counted & ~masks, 1)
                matched = boundaries & near(boundaries, self.boundary_tolerance).flip(0)
                counts += [*pixels_of(boundaries), *pixels_of(matched)]
            found.append(torch.stack(counts, dim=1))
        return torch.stack(found, dim=2)

    def _pixel_accuracy(self, counts: Tensor) -> Tensor:
        """Return (...,) float64, of counts (..., 4 or 8, num_classes)."""
        tp, _, _, tn = counts[..., :4, :].unbind(dim=-2)
        pixels = counts[..., :4, :].sum(dim=-2)
        if self.task == "multiclass":
            return tp.sum(dim=-1).double() / pixels.amax(dim=-1)  # the same number for each class that is not ignored
        return (tp + tn).sum(dim=-1).double() / pixels.sum(dim=-1)

    def _counted(self) -> Tally:
        """Return the counts of this process, on the CPU."""
        if self._own is None:
            return Tally.zero(4 if self.boundary_tolerance is None else 8, self.num_classes)
        return self._own.to(torch.device("cpu"))

    def _settings(self) -> dict[str, object]:
        names = ("task", "num_classes", "ignore_index", "threshold", "boundary_tolerance")
        return {name: getattr(self, name) for name in names}

    def _check_settings(self, others: Mapping[str, object], whose: str) -> None:
        problems = [
            f"{name}={value!r} here, but {others[name]!r} there"
            for name, value in self._settings().items()
            if others[name] != value
        ]
        if problems:
            raise ConfigError(f"cannot add the counts of {whose}", problems)

    def _refuse(self, faults: Tensor) -> None:
        logits, target, predicted = faults.tolist()
        problems = ["the logits hold nan"] if math.isnan(logits) else []
        allowed = f"0 to {self.num_classes - 1} are" if self.task == "multiclass" else "0 and 1 are"
        if target != -math.inf:
            problems.append(
                f"the target holds {target:g}: {allowed} allowed, and ignore_index={self.ignore_index} for pixels "
                "that do not count"
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
            found.append(f"{name} of shape {shape}: {forms} is needed{self._shape_fix(name, mask, beside)}")
        if mask.is_complex() or (mask.is_floating_point() and self.task == "multiclass"):
            found.append(f"{name} of {mask.dtype}: integers are needed")
        if mask.device != beside.device:
            found.append(f"{name} is on {mask.device}, but what it is compared with is on {beside.device}: move one")
        return found

    def _shape_fix(self, name: str, mask: Tensor, beside: Tensor) -> str:
        if self.task == "multiclass" and mask.ndim == 4 and mask.shape[1] in (1, self.num_classes):
            return f"; use {name}[:, 0]" if mask.shape[1] == 1 else f"; use {name}.argmax(dim=1)"
        larger = [a > b for a, b in zip(mask.shape[-2:], beside.shape[-2:], strict=False)]
        if larger == [True, True]:
            return f"; crop the {name} to the middle, as for unet_valid"
        return ""
