"""Compares the file with the model in float32 on the same images, and refuses files that differ too much."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unetzoo.errors import UnetzooError
from unetzoo.exporting.outcome import Check, ImageAgreement
from unetzoo.exporting.request import Request
from unetzoo.exporting.samples import Samples, draw_noise, fitted, given
from unetzoo.nn.heads import ABSENT

DIFFERENCE = 1e-4
"""Largest difference of logits that is accepted in float32, as a share of their spread."""
AGREEMENT, IOU = 0.9, 0.5
"""Smallest agreement of masks in other precisions: below, something is broken, and not merely rounded."""
TIMED = 256
"""Height and width of the largest images, on which the speed of a file is measured."""

Run = Callable[[Tensor], Tensor]
Eager = Callable[[Sequence[Tensor]], Tensor]
"""The models in float32: the input of each of them → logits."""


def checks(request: Request, eager: Eager, file: Run, stored: Sequence[Tensor]) -> tuple[Check, ...]:
    """Run three batches: of the images, cropped or repeated to the sizes; of noise if there are no images.

    Raises:
        UnetzooError: the file is too different.
    """
    config, least = request.config, request.least
    shapes = [(3, least, least + 6), (2, 2 * least + 1, 4 * least - 2), (1, max(TIMED, least), max(TIMED, least))]
    if request.size is not None:
        shapes = [(batch, *request.size) for batch in ((3, 2, 1) if request.qgis is None else (1,))]
    pixels = request.inputs if request.qgis is None else request.qgis.pixels
    found = []
    for batch, height, width in shapes:
        chosen = [fitted(stored[k % len(stored)], height, width) for k in range(batch)] if stored else None
        images = given(chosen or draw_noise(batch, config, pixels, height, width), request)
        logits, output = eager(images.models), file(images.file)
        title = f"{batch} × {height} × {width}"
        if not bool(logits.isfinite().all()):
            raise UnetzooError(
                f"the model itself gives logits that are not finite, on {title}: its values overflow; no file was kept"
            )
        _check_shape(output, expected_shape(logits, config.task, request.outputs), title)
        difference = difference_of(output, logits, config.task, request.outputs, absent=request.suppresses)
        same = masks_of(output, config.task, request.outputs) == masks_of(logits, config.task, "logits")
        agreement = float(same.double().mean())
        if request.precision == "float32" and not difference <= DIFFERENCE:
            raise _refusal(title, f"logits differ by {difference:.2g} of their spread; {DIFFERENCE:.0e} is allowed")
        if not (math.isfinite(difference) and agreement >= AGREEMENT):
            raise _refusal(title, f"masks agree on {agreement:.1%} of the pixels; {AGREEMENT:.0%} are needed")
        eager_ms, file_ms = milliseconds(eager, images.models), milliseconds(file, images.file)
        found.append(Check(batch, height, width, difference, agreement, eager_ms, file_ms))
    return tuple(found)


def agreement_on(request: Request, eager: Eager, file: Run, samples: Samples) -> ImageAgreement:
    """Compare the masks of whole images, tile by tile.

    Raises:
        UnetzooError: the masks have little in common.
    """
    config = request.config
    classes = torch.arange(config.num_classes if config.task == "multiclass" else 1).view(-1, 1, 1, 1)
    shares, pixels = [], []
    both, either = torch.zeros(2, config.channels, dtype=torch.long)
    for tiles in samples:
        same = count = 0
        for tile in tiles:
            outputs = (
                masks_of(file(tile.given.file), config.task, request.outputs),
                masks_of(eager(tile.given.models), config.task, "logits"),
            )
            found, expected = (mask[..., tile.rows, tile.columns] for mask in outputs)
            same, count = same + int((found == expected).sum()), count + found.numel()
            # (classes, N, H, W) both ways
            a, b = (
                mask == classes if config.task == "multiclass" else mask.transpose(0, 1) > 0
                for mask in (found, expected)
            )
            both += (a & b).sum(dim=(1, 2, 3))
            either += (a | b).sum(dim=(1, 2, 3))
        shares.append(same / count)
        pixels.append(count)
    agreement = sum(map(float.__mul__, shares, map(float, pixels))) / sum(pixels)
    iou = float((both[either > 0] / either[either > 0]).mean()) if bool(either.any()) else None
    title = f"the {len(samples)} images"
    if agreement < AGREEMENT:
        raise _refusal(title, f"masks agree on {agreement:.1%} of the pixels; {AGREEMENT:.0%} are needed")
    if iou is not None and iou < IOU:
        raise _refusal(title, f"masks have an IoU of {iou:.2f}; {IOU} is needed")
    return ImageAgreement(len(samples), agreement, min(shares), iou, samples.share)


def masks_of(output: Tensor, task: str, outputs: str) -> Tensor:
    """Convert a file's output to masks: (N, H, W) class indices, or (N, classes, H, W) of 0 and 1."""
    if task == "multiclass":
        return output.long() if outputs == "mask" else output.argmax(dim=1)
    if outputs == "mask":
        return output.long() if task == "multilabel" else output[:, None].long()
    return (output > (0.5 if outputs == "probabilities" else 0)).long()


def expected_shape(logits: Tensor, task: str, outputs: str) -> tuple[int, ...]:
    """Return the shape that the file's output should have."""
    if outputs == "mask" and task != "multilabel":
        return (logits.shape[0], *logits.shape[2:])
    return tuple(logits.shape)


def difference_of(output: Tensor, logits: Tensor, task: str, outputs: str, *, absent: bool = False) -> float:
    """Return how much ``output`` differs from the model's logits, as a share of their spread.

    For probabilities and masks see :class:`unetzoo.exporting.Check`. ``absent``: the logits include those of classes
    that a classification-guided model suppresses.
    """
    shown = logits
    if absent:
        # Suppressed logits are far below all others: they must count neither for the spread nor for the difference.
        logits = logits.clamp(min=ABSENT / 2)
        shown = logits[logits > ABSENT / 2]
    spread = shown.max() - shown.min() if shown.numel() else torch.tensor(0.0)
    multiclass = task == "multiclass"
    if outputs == "logits":
        output = output.clamp(min=ABSENT / 2) if absent else output
        apart = (output - logits).abs().max()
    elif outputs == "probabilities":
        expected = logits.softmax(dim=1) if multiclass else logits.sigmoid()
        apart = (output - expected).abs().max() * (2 if multiclass else 4)
    elif multiclass:
        apart = (logits.amax(dim=1) - logits.gather(1, output.long()[:, None])[:, 0]).max() / 2
    else:
        crossed = masks_of(output, task, outputs) != masks_of(logits, task, "logits")
        apart = (logits.abs() * crossed).max()
    return float(apart / spread.clamp(min=1e-6))


def milliseconds(run: Callable[[Any], Tensor], images: Any) -> float:
    """Return the median time of three runs in milliseconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run(images)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def _check_shape(output: Tensor, expected: tuple[int, ...], title: str) -> None:
    if tuple(output.shape) != expected:
        raise _refusal(title, f"output has the shape {tuple(output.shape)}, not {expected}")


def _refusal(title: str, what: str) -> UnetzooError:
    return UnetzooError(f"the file gives other results than the model, and was not kept: on {title} its {what}")
