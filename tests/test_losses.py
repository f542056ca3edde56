"""Losses against closed forms, torch, torchvision, MONAI, torchmetrics, scikit-image, and slow references."""

from __future__ import annotations

import itertools
import math
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import never_waits
from hypothesis import given, settings, strategies as st
from scipy import ndimage
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

import unetzoo
from unetzoo import ConfigError, InputError, TrainingOutputs, losses
from unetzoo.checks import PIXEL_TASKS
from unetzoo.testing import ContractError, check_loss

CHANNELS = {"binary": 1, "multiclass": 3, "multilabel": 3}
REGIONS = ("dice", "iou", "tversky", "lovasz")
PIXELS = ("bce", "cross_entropy", "focal")
EVERY = [(name, task) for name in losses.LOSSES for task in PIXEL_TASKS]


def made(task: str, size: tuple[int, int] = (13, 12), count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return float64 logits and a target in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    channels = CHANNELS[task]
    logits = torch.randn(count, channels, *size, dtype=torch.float64, generator=generator) * 2
    shape = (count, channels, *size) if task == "multilabel" else (count, *size)
    target = torch.randint(0, channels if task == "multiclass" else 2, shape, generator=generator)
    return logits, target


def one_hot(task: str, target: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    if task == "multiclass":
        return F.one_hot(target, CHANNELS[task]).movedim(-1, 1).to(dtype)
    return target.reshape(len(target), CHANNELS[task], *target.shape[-2:]).to(dtype)


def probabilities(task: str, logits: Tensor) -> Tensor:
    return logits.softmax(1) if task == "multiclass" else logits.sigmoid()


def certain(task: str, target: Tensor, right: bool = True) -> Tensor:
    """Return logits that are sure of the target, or of the contrary."""
    y = one_hot(task, target, torch.float32)
    return (2 * y - 1) * (50 if right else -50)


# Every loss, every task


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_gradients_are_those_of_finite_differences(name: str, task: str) -> None:
    logits, target = made(task, (4, 4))
    target[..., 0, :2] = -100
    logits = logits / 4  # the hinge of the Lovász loss has no bend there
    loss = losses.build(name, task)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_a_sure_and_right_prediction_costs_nothing_and_a_wrong_one_much(name: str, task: str) -> None:
    target = made(task, (24, 25))[1]
    loss = losses.build(name, task)
    assert 0 <= float(loss(certain(task, target), target)) < 1e-5
    much = 0.3 if name == "gaps" else 0.5  # as gaps are but a part of the pixels
    assert float(loss(certain(task, target, right=False), target)) > much


@pytest.mark.parametrize(("name", "task"), EVERY)
@pytest.mark.parametrize("fill", ["empty", "full", "ignored", "some", "one ignored"])
def test_loss_and_gradient_are_finite(name: str, task: str, fill: str) -> None:
    """In every type, for logits of a few units and for the largest of half precision."""
    drawn, target = made(task)
    if fill in ("empty", "full", "ignored"):
        target[:] = {"empty": 0, "full": int(target.max()), "ignored": -100}[fill]
    elif fill == "one ignored":
        target[0] = -100
    loss = losses.build(name, task)
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for dtype, logits in itertools.product(dtypes, (drawn, drawn.sign() * 60000)):
        logits = logits.to(dtype).requires_grad_()
        found = loss(logits, target)
        found.backward()
        assert found.shape == ()
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert found.detach().isfinite()
        assert logits.grad.isfinite().all()
        if fill == "ignored":
            assert float(found.detach()) == pytest.approx(0, abs=1e-6)
        if "ignored" in fill:
            assert not logits.grad[0].any()


@pytest.mark.parametrize(("name", "task"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(name: str, task: str, dtype: torch.dtype) -> None:
    logits, target = made(task, (40, 44))
    logits, loss = logits.float(), losses.build(name, task)
    with torch.autocast("cpu", dtype):
        found = loss(logits, target)
    assert torch.equal(found, loss(logits, target))
    half = logits.to(dtype)
    assert torch.equal(loss(half, target), loss(half.float(), target))


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_ignored_pixels_change_nothing_whatever_their_logits(name: str, task: str) -> None:
    logits, target = made(task)
    target[..., 3:7, 2:9] = -100
    other = logits.clone()
    other[..., 3:7, 2:9] = -3 * other[..., 3:7, 2:9] + 1
    loss = losses.build(name, task)
    torch.testing.assert_close(loss(logits, target), loss(other, target), rtol=1e-12, atol=1e-14)
    target[target == -100] = 255
    assert torch.equal(
        losses.build(name, task, ignore_index=255)(logits, target.byte()), loss(other, target - 355 * (target == 255))
    )


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_a_class_may_be_what_is_ignored(name: str, task: str) -> None:
    logits, target = made(task)
    for value in (0, 1):
        marked = target.masked_fill(target == value, -100)
        found = losses.build(name, task, ignore_index=value)(logits, target)
        assert torch.equal(found, losses.build(name, task)(logits, marked))


@pytest.mark.parametrize(("name", "task"), [(n, t) for n, t in EVERY if n in (*REGIONS, *PIXELS, "unetpp")])
def test_ignored_pixels_are_as_if_cut_off(name: str, task: str) -> None:
    logits, target = made(task)
    whole = target.clone()
    whole[..., 8:, :] = -100
    loss = losses.build(name, task)
    torch.testing.assert_close(loss(logits, whole), loss(logits[..., :8, :], target[..., :8, :]))


@pytest.mark.parametrize(("name", "task"), [(n, t) for n, t in EVERY if n != "nnunet"])
def test_a_batch_is_the_mean_of_its_halves(name: str, task: str) -> None:
    """So that two processes of half a batch train as one does; nnU-Net's takes the batch as one image."""
    logits, target = made(task, count=4)
    target[1] = 0  # an image without foreground must count in the mean over images
    loss = losses.build(name, task)
    halves = [loss(logits[part], target[part]) for part in (slice(2), slice(2, 4))]
    torch.testing.assert_close(loss(logits, target), torch.stack(halves).mean())


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_targets_of_every_type_and_shape_say_the_same(name: str, task: str) -> None:
    logits, target = made(task)
    loss = losses.build(name, task)
    expected = loss(logits, target)
    types_ = [torch.uint8, torch.int8, torch.int16, torch.int32]
    if task != "multiclass":
        types_ += [torch.bool, torch.float32, torch.float16]
    for dtype in types_:
        assert torch.equal(loss(logits, target.to(dtype)), expected), dtype
    if task == "binary":
        assert torch.equal(loss(logits, target[:, None]), expected)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_one_label_is_a_binary_task(name: str) -> None:
    logits, target = made("binary")
    for weights in (None, [3.0]):
        binary = losses.build(name, "binary", class_weights=weights)(logits, target)
        assert torch.equal(binary, losses.build(name, "multilabel", class_weights=weights)(logits, target[:, None]))


@pytest.mark.parametrize("name", [n for n in losses.LOSSES if n != "lovasz"])
def test_several_labels_are_as_many_binary_tasks(name: str) -> None:
    logits, target = made("multilabel")
    each = [losses.build(name, "binary")(logits[:, c : c + 1], target[:, c]) for c in range(3)]
    torch.testing.assert_close(losses.build(name, "multilabel")(logits, target), torch.stack(each).mean())


@pytest.mark.parametrize(
    ("name", "task"),
    [*((name, "multiclass") for name in losses.LOSSES), ("unetpp", "binary"), ("lovasz", "multilabel")],
)
def test_losses_compile_whole(name: str, task: str) -> None:
    torch.compiler.reset()
    logits, target = made(task, (24, 24))
    loss = losses.build(name, task)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert torch.equal(compiled(logits, target), loss(logits, target))


# Losses of pixels


@pytest.mark.parametrize("name", ["bce", "cross_entropy"])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.5]])
def test_sigmoid_cross_entropy_is_torch_s(name: str, weights: list[float] | None) -> None:
    logits, target = made("multilabel")
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)[:, None, None]
    expected = F.binary_cross_entropy_with_logits(logits, target.double(), pos_weight=weight)
    torch.testing.assert_close(losses.build(name, "multilabel", class_weights=weights)(logits, target), expected)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.5], [0.0, 1.0, 1.0]])
@pytest.mark.parametrize("smoothing", [0, 0.1, 1])
@pytest.mark.parametrize("ignore", [-100, 255, 1])
def test_cross_entropy_is_torch_s(weights: list[float] | None, smoothing: float, ignore: int) -> None:
    logits, target = made("multiclass")
    target[:, 2:5] = ignore
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    logits.requires_grad_()
    expected = F.cross_entropy(logits, target, weight, ignore_index=ignore, label_smoothing=smoothing)
    loss = losses.CrossEntropy("multiclass", label_smoothing=smoothing, class_weights=weights, ignore_index=ignore)
    found = loss(logits, target)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(value, logits)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_label_smoothing_of_sigmoids_spreads_over_yes_and_no() -> None:
    logits, target = made("binary")
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], target.double() * 0.8 + 0.1)
    torch.testing.assert_close(losses.CrossEntropy("binary", label_smoothing=0.2)(logits, target), expected)


def test_bce_of_classes_is_one_against_the_rest() -> None:
    logits, target = made("multiclass")
    weights = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    p, y = logits.softmax(1), one_hot("multiclass", target)
    each = -weights[:, None, None] * y * p.log() - (1 - y) * (1 - p).log()
    torch.testing.assert_close(losses.BCE("multiclass", class_weights=weights)(logits, target), each.mean())


def test_bce_of_classes_keeps_its_digits_where_probabilities_do_not() -> None:
    """With logits (a, 0, 0), 1 − p of the first class is 2 / (e^a + 2): the loss of truth 1 is (2a − log 2 ...) / 3."""
    a = 200.0
    logits = torch.tensor([a, 0.0, 0.0]).reshape(1, 3, 1, 1).requires_grad_()
    found = losses.BCE("multiclass")(logits, torch.ones(1, 1, 1, dtype=torch.long))
    # −log p_1 = a; −log(1 − p_0) = a − log 2; −log(1 − p_2) = 0
    assert float(found.detach()) == pytest.approx((2 * a - math.log(2)) / 3, rel=1e-6)
    found.backward()
    assert logits.grad.flatten().tolist() == pytest.approx([2 / 3, -0.5, -1 / 6], abs=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25, 0.0, 0.9])
@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_focal_loss_is_torchvision_s(task: str, gamma: float, alpha: float | None) -> None:
    logits, target = made(task)
    expected = sigmoid_focal_loss(logits, one_hot(task, target), -1 if alpha is None else alpha, gamma, "mean")
    torch.testing.assert_close(losses.Focal(task, gamma=gamma, alpha=alpha)(logits, target), expected)


@pytest.mark.parametrize("gamma", [0.5, 2])
def test_focal_loss_of_classes_is_monai_s(gamma: float) -> None:
    from monai.losses import FocalLoss

    logits, target = made("multiclass")
    theirs = FocalLoss(gamma=gamma, use_softmax=True, to_onehot_y=True)(logits.float(), target[:, None]) * 3
    torch.testing.assert_close(losses.Focal("multiclass", gamma=gamma)(logits.float(), target), theirs)
    weights = [0.5, 2.0, 1.5]
    plain = F.cross_entropy(logits, target, torch.tensor(weights, dtype=torch.float64))
    torch.testing.assert_close(losses.Focal("multiclass", gamma=0, class_weights=weights)(logits, target), plain)


def test_focal_loss_by_hand() -> None:
    """A logit of log 3 is a probability of 3/4: (1/4)² · log(4/3), weighted 2, and (3/4)² · log 4."""
    logits = torch.full((1, 1, 1, 2), math.log(3), dtype=torch.float64)
    found = losses.Focal("binary", class_weights=[2.0])(logits, torch.tensor([[[1, 0]]]))
    assert float(found) == pytest.approx((2 * math.log(4 / 3) / 16 + 9 / 16 * math.log(4)) / 2, rel=1e-12)


# Losses of regions


def hand_made() -> tuple[Tensor, Tensor]:
    """Return two pixels of truth 1, 0 and probabilities 3/4, 1/4: TP 3/4, FP 1/4, FN 1/4."""
    return torch.tensor([math.log(3), -math.log(3)], dtype=torch.float64).reshape(1, 1, 1, 2), torch.tensor([[[1, 0]]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dice", 1 - 1.5 / 2),
        ("iou", 1 - 0.75 / 1.25),
        ("tversky(alpha=0.3, beta=0.7)", 1 - 0.75 / (0.75 + 0.3 / 4 + 0.7 / 4)),
        ("tversky(alpha=2, beta=1)", 1 - 0.75 / (0.75 + 2 / 4 + 1 / 4)),
        # errors 1 − log 3 < 0 on both pixels
        ("lovasz", 0),
        ("bce", math.log(4 / 3)),
        ("unetpp", 0.5 * math.log(4 / 3) + 0.25),
        ("2*dice + iou*3", 2 * 0.25 + 3 * 0.4),
    ],
)
def test_closed_forms(text: str, expected: float) -> None:
    assert float(losses.build(text, "binary")(*hand_made())) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("task", PIXEL_TASKS)
@pytest.mark.parametrize("per", ["image", "batch"])
def test_dice_iou_and_tversky_are_monai_s(task: str, per: str) -> None:
    from monai.losses import DiceLoss, TverskyLoss

    logits, target = made(task)
    y = one_hot(task, target, torch.float32)
    common = {"sigmoid": task != "multiclass", "softmax": task == "multiclass", "batch": per == "batch"}
    common |= {"smooth_nr": 0, "smooth_dr": 0}
    pairs = [
        (losses.Dice(task, per=per), DiceLoss(**common)),
        (losses.IoU(task, per=per), DiceLoss(jaccard=True, **common)),
        (losses.Tversky(task, per=per, alpha=0.2, beta=0.9), TverskyLoss(alpha=0.2, beta=0.9, **common)),
    ]
    if task == "multiclass":
        pairs += [(losses.Dice(task, per=per, background=False), DiceLoss(include_background=False, **common))]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours(logits.float(), target), theirs(logits.float(), y))


@pytest.mark.parametrize("task", PIXEL_TASKS)
@pytest.mark.parametrize("per", ["image", "batch"])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_smooth_dice_is_monai_s_also_of_classes_that_do_not_occur(task: str, per: str, smooth: float) -> None:
    from monai.losses import DiceLoss

    logits, target = made(task, count=3)
    target[0] = 0  # no foreground at all
    if task == "multiclass":
        target[target == 2] = 1
    y = one_hot(task, target, torch.float32)
    common = {"sigmoid": task != "multiclass", "softmax": task == "multiclass", "batch": per == "batch"}
    theirs = DiceLoss(**common, smooth_nr=smooth, smooth_dr=smooth)(logits.float(), y)
    found = losses.build(f"dice(smooth={smooth}, per='{per}')", task)(logits.float(), target)
    torch.testing.assert_close(found, theirs)


def of_nnunet(logits: Tensor, target: Tensor, regions: bool) -> Tensor:
    """The formula of nnU-Net 2.8 written out: ``DC_and_CE_loss``, or ``DC_and_BCE_loss`` of regions that may overlap.

    Args:
        logits: (N, C, H, W), a channel for the background among them but for regions.
        target: (N, H, W) of class numbers, or (N, C, H, W) of 0 and 1, -100 where ignored.
        regions: see above.
    """
    mask = (target != -100).double()
    mask = mask if regions else mask[:, None]
    if regions:
        y, p = target.clamp(min=0).double(), logits.sigmoid()
        pixels = -((y * p.log() + (1 - y) * (1 - p).log()) * mask).sum() / mask.sum()
    else:
        y = torch.stack([target == c for c in range(logits.shape[1])], dim=1).double()
        p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        pixels = -(y * p.log()).sum() / mask.sum()
        y, p = y[:, 1:], p[:, 1:]
    overlap, true, found = ((x * mask).sum(dim=(0, 2, 3)) for x in (p * y, y, p))
    dice = (2 * overlap + 1e-5) / (true + found + 1e-5).clip(1e-8)
    return pixels - dice.mean()


@pytest.mark.parametrize("task", PIXEL_TASKS)
@pytest.mark.parametrize("ignoring", [False, True])
def test_nnunet_is_its_formula(task: str, ignoring: bool) -> None:
    logits, target = made(task, count=3)
    target[0] = 0
    if task == "multiclass":
        target[target == 2] = 1  # nowhere in the batch
    if ignoring:
        target[..., 2:5, 1:7] = -100
    theirs = torch.cat((torch.zeros_like(logits), logits), dim=1) if task == "binary" else logits
    expected = 1 + of_nnunet(theirs, target, regions=task == "multilabel")
    torch.testing.assert_close(losses.build("nnunet", task)(logits, target), expected, rtol=1e-10, atol=1e-12)
    if task == "multiclass":
        text = "cross_entropy + dice(smooth=1e-5, per='batch', background=False)"
        torch.testing.assert_close(losses.build(text, task)(logits, target), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "task"), [(n, t) for n, t in EVERY if n in REGIONS])
def test_the_mean_is_over_present_classes_by_weight_then_images(name: str, task: str) -> None:
    """Each class of each image apart, as a batch of one with one class kept, averaged by hand."""
    logits, target = made(task, count=3)
    weights = {"binary": [5.0], "multiclass": [1.0, 2.0, 4.0], "multilabel": [1.0, 2.0, 4.0]}[task]
    if task == "multilabel":
        target[0, 1] = 0
    elif task == "multiclass":
        target[0][target[0] == 1] = 2
    target[1] = 0
    images = []
    for x, t in zip(logits, target, strict=True):
        present = [c for c in range(len(weights)) if bool(one_hot(task, t[None])[0, c].any())]
        own = [[float(k == c) for k in range(len(weights))] for c in present]
        each = [float(losses.build(name, task, class_weights=w)(x[None], t[None])) for w in own]
        total = sum(weights[c] for c in present)
        images.append(sum(weights[c] * e for c, e in zip(present, each, strict=True)) / total if present else 0)
    found = float(losses.build(name, task, class_weights=weights)(logits, target))
    assert found == pytest.approx(sum(images) / 3, rel=1e-12)
    if task != "multiclass":
        assert images[1] == 0
        assert len({round(value, 9) for value in images}) == 3


def test_class_weights_pick_a_class() -> None:
    logits, target = made("multiclass")
    p, y = logits.softmax(1), one_hot("multiclass", target)
    dice = 2 * (p * y).sum((2, 3)) / (p + y).sum((2, 3))
    found = losses.Dice("multiclass", class_weights=[0, 1, 0])(logits, target)
    torch.testing.assert_close(found, 1 - dice[:, 1].mean())
    found = losses.Dice("multiclass", class_weights=[9, 1, 3], background=False)(logits, target)
    torch.testing.assert_close(found, 1 - ((dice[:, 1] + 3 * dice[:, 2]) / 4).mean())


def jaccard_loss(truth: set[int], mispredicted: set[int]) -> float:
    """The Jaccard loss of a set of mispredicted pixels, by sets (Berman et al. 2018, equation 6)."""
    return len(mispredicted) / len(truth | mispredicted) if mispredicted else 0.0


def lovasz_extension(errors: np.ndarray, truth: np.ndarray) -> float:
    """The Lovász extension by its definition: level sets of the errors, in falling order."""
    wanted, above, total, before = set(np.flatnonzero(truth)), set[int](), 0.0, 0.0
    for pixel in np.argsort(-errors, kind="stable"):
        above.add(int(pixel))
        now = jaccard_loss(wanted, above)
        total += max(errors[pixel], 0) * (now - before)
        before = now
    return total


@pytest.mark.parametrize("task", PIXEL_TASKS)
@pytest.mark.parametrize("per", ["image", "batch"])
@pytest.mark.parametrize("ignoring", [False, True])
def test_lovasz_loss_is_the_extension_by_its_definition(task: str, per: str, ignoring: bool) -> None:
    logits, target = made(task, (6, 7), seed=3)
    if ignoring:
        target[..., 2:4, 1:6] = -100
    valid = target != -100
    y = one_hot(task, target.clamp(min=0))
    errors = (y - logits.softmax(1)).abs() if task == "multiclass" else 1 - logits * (2 * y - 1)
    counted = valid.reshape(len(valid), -1, 6, 7).expand_as(y)
    groups = [[0], [1]] if per == "image" else [[0, 1]]
    expected = []
    for group, c in itertools.product(groups, range(CHANNELS[task])):
        keep = counted[group, c]
        expected.append(lovasz_extension(errors[group, c][keep].numpy(), y[group, c][keep].numpy()))
    assert float(losses.Lovasz(task, per=per)(logits, target)) == pytest.approx(np.mean(expected), rel=1e-12)


def test_lovasz_loss_of_sure_predictions_is_the_jaccard_loss_of_sets() -> None:
    target = made("multiclass", (50, 50))[1]
    guess = made("multiclass", (50, 50), seed=1)[1]
    ious = [((target == c) & (guess == c)).sum((1, 2)) / ((target == c) | (guess == c)).sum((1, 2)) for c in range(3)]
    found = losses.Lovasz("multiclass")(certain("multiclass", guess), target)
    torch.testing.assert_close(found, 1 - torch.stack(ious).mean())


def test_lovasz_slopes_keep_their_digits_in_large_images() -> None:
    """Differences of neighbouring Jaccard losses in float32 would be wrong by percents here."""
    target = torch.zeros(1, 1000, 1000, dtype=torch.long)
    target[:, :500] = 1
    # Truth and background take turns as errors fall: pixel by pixel, G = 500,000.
    logits = torch.zeros(1, 1, 1000, 1000)
    falling = torch.linspace(0.9, 0.1, 500_000)
    logits[0, 0, :500] = falling.reshape(500, 1000)
    logits[0, 0, 500:] = -falling.reshape(500, 1000)
    logits.requires_grad_()
    losses.Lovasz("binary")(logits, target).backward()
    slope = -logits.grad[0, 0, :500].flatten().double()
    g = torch.arange(500_000, dtype=torch.float64)
    # Either neighbour may come first where errors tie, which moves the union by one pixel.
    torch.testing.assert_close(slope.sort().values, (1 / (500_000 + g)).sort().values, rtol=1e-5, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    task=st.sampled_from(PIXEL_TASKS),
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    name=st.sampled_from(list(losses.LOSSES)),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.5, 0.95]),
)
def test_any_image_gives_a_finite_loss_from_0_up(
    task: str, size: tuple[int, int], name: str, seed: int, share: float
) -> None:
    logits, target = made(task, size, seed=seed)
    target[torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < share] = -100
    logits = (logits.float() * 3).requires_grad_()
    loss = losses.build(name, task)(logits, target)
    loss.backward()
    assert -1e-6 <= float(loss.detach()) < 1e3
    assert logits.grad.isfinite().all()


# MS-SSIM


def blurred_blocks(side: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    blocks = (torch.rand(1, 1, side // 8 + 1, side // 8 + 1, generator=generator) > 0.5).float()
    return F.interpolate(blocks, scale_factor=8)[..., :side, :side]


SCALES = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333], dtype=torch.float64)


@pytest.mark.parametrize(
    ("side", "scales"), [(176, 5), (200, 5), (175, 4), (88, 4), (60, 3), (22, 2), (21, 1), (11, 1)]
)
def test_ms_ssim_is_monai_s(side: int, scales: int) -> None:
    from monai.metrics.regression import compute_ssim_and_cs

    target = blurred_blocks(side, 0)
    logits = blurred_blocks(side, 1) + 3 * target - 2 + 0.3 * torch.randn(1, 1, side, side)
    weights = SCALES[:scales] / SCALES[:scales].sum()
    a, b, expected = logits.sigmoid(), target, 1.0
    for scale, weight in enumerate(weights.tolist(), 1):
        ssim, contrast = compute_ssim_and_cs(a, b, 2, (11, 11), (1.5, 1.5))
        value = float((ssim if scale == scales else contrast).mean())
        assert value > 0.01  # below 0 the definitions part
        expected *= value**weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    found = float(losses.MSSSIM("binary")(logits, target[:, 0]))
    assert found == pytest.approx(1 - expected, abs=2e-5)


def test_ms_ssim_is_torchmetrics_where_the_border_is_alike() -> None:
    """Torchmetrics takes the coarsest scale to the border by reflection; MONAI and the paper's code do not."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs

    side = 640
    target = blurred_blocks(side, 0)
    logits = (target * 2 - 1) * 2 + 0.5 * torch.randn(1, 1, side, side)
    betas = tuple((SCALES / SCALES.sum()).tolist())
    expected = 1 - float(theirs(logits.sigmoid(), target, data_range=1.0, betas=betas))
    assert expected > 0.05
    assert float(losses.MSSSIM("binary")(logits, target[:, 0])) == pytest.approx(expected, rel=0.02)


def test_one_scale_is_scikit_image_s_ssim() -> None:
    from skimage.metrics import structural_similarity

    target, logits = blurred_blocks(21, 0).double(), torch.randn(1, 1, 21, 21, dtype=torch.float64)
    _, image = structural_similarity(
        logits.sigmoid()[0, 0].numpy(),
        target[0, 0].numpy(),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    found = losses.MSSSIM("binary")(logits, target[:, 0])
    assert float(found) == pytest.approx(1 - image[5:-5, 5:-5].mean(), rel=1e-10)


@pytest.mark.parametrize(
    ("size", "last"), [((200, 180), 0.1333 / 1.0001), ((40, 500), 0.2856 / 0.3304), ((9, 30), 1), ((1, 1), 1)]
)
@pytest.mark.parametrize("value", [0, 1])
def test_ms_ssim_of_constant_images(size: tuple[int, int], last: float, value: int) -> None:
    """Contrast is 1, and luminance, taken at the coarsest scale alone, (2ab + C1) / (a² + b² + C1)."""
    logits = torch.full((1, 1, *size), math.log(3), dtype=torch.float64)
    luminance = (1.5 * value + 1e-4) / (0.75**2 + value + 1e-4)
    found = losses.MSSSIM("binary")(logits, torch.full((1, *size), value))
    assert float(found) == pytest.approx(1 - luminance**last, rel=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (4, 6), (10, 10), (10, 400)])
def test_a_small_image_has_a_small_window(size: tuple[int, int]) -> None:
    """A slow reference: the window's weighted means, variances and covariance at each place it fits."""
    logits, target = made("binary", size, count=1)
    logits += 4 * target[:, None] - 2  # alike on the whole, as the definition ends at 0
    a, b = logits[0, 0].sigmoid().numpy(), target[0].double().numpy()
    sides = [min(11, side if side % 2 else side - 1) for side in size]
    bells = [np.exp(-(np.arange(-(n // 2), n // 2 + 1) ** 2) / 4.5) for n in sides]
    window = np.outer(*[bell / bell.sum() for bell in bells])
    values = []
    for y in range(size[0] - sides[0] + 1):
        for x in range(size[1] - sides[1] + 1):
            p, q = (m[y : y + sides[0], x : x + sides[1]] for m in (a, b))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4) * (2 * both + 9e-4) / (vp + vq + 9e-4))
    assert float(losses.MSSSIM("binary")(logits, target)) == pytest.approx(1 - np.mean(values), rel=1e-9)


def test_opposed_structure_costs_almost_all_and_keeps_a_gradient() -> None:
    stripes = (torch.arange(32) % 2).expand(1, 32, 32).contiguous()
    logits = certain("binary", stripes, right=False) / 50
    loss = losses.MSSSIM("binary")(logits.requires_grad_(), stripes)
    loss.backward()
    # Halved, stripes are grey on either side; stripes against opposed stripes count e⁻¹ · 1e-5, or next to it.
    least = (1e-5 * math.exp(-1)) ** (0.0448 / 0.3304), 1e-5 ** (0.0448 / 0.3304)
    assert least[0] < 1 - float(loss.detach()) < least[1]
    assert logits.grad.isfinite().all()
    better = logits.detach() - 0.5 * logits.grad / logits.grad.abs().max()
    assert float(losses.MSSSIM("binary")(better, stripes)) < float(loss.detach())


def test_ms_ssim_weighs_classes_and_counts_absent_ones() -> None:
    logits, target = made("multilabel", (30, 31))
    target[:, 2] = 0
    each = torch.stack([losses.MSSSIM("binary")(logits[:, c : c + 1], target[:, c]) for c in range(3)])
    assert each[2] > 0.1
    weights = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    found = losses.MSSSIM("multilabel", class_weights=weights)(logits, target)
    torch.testing.assert_close(found, (each * weights).sum() / 7)


# Sums, and texts


def test_a_sum_reports_its_weighted_parts() -> None:
    logits, target = made("multiclass", (24, 24))
    total = losses.build("0.5*(bce + 2*unet3p) + dice + 3*iou(per='batch')", "multiclass")
    parts = total.parts(logits, target)
    assert list(parts) == ["bce", "focal", "ms_ssim", "iou", "dice", "iou_2"]
    single = {
        name: losses.build(name, "multiclass")(logits, target) for name in ("bce", "focal", "ms_ssim", "iou", "dice")
    }
    pooled = losses.IoU("multiclass", per="batch")(logits, target)
    torch.testing.assert_close(parts, {**single, "bce": single["bce"] / 2, "iou_2": 3 * pooled})
    torch.testing.assert_close(total(logits, target), sum(parts.values()))


def test_a_sum_of_one_weight_1_is_the_loss_itself() -> None:
    assert type(losses.build("dice", "binary")) is losses.Dice
    assert type(losses.build("unet3p()", "binary")) is losses.UNet3PLoss
    assert losses.build("tversky(alpha=0.2, per='batch')", "binary").alpha == 0.2
    assert type(losses.build("2*dice", "binary")) is losses.Sum
    assert losses.build(" (dice)*2e-1 ", "binary").term_weights == [0.2]


def test_the_papers_sums() -> None:
    logits, target = made("binary", (24, 24))
    bce = F.binary_cross_entropy_with_logits(logits[:, 0], target.double())
    p, y = logits[:, 0].sigmoid(), target.double()
    dice = 2 * (p * y).sum((1, 2)) / (p + y).sum((1, 2))
    torch.testing.assert_close(losses.UNetPPLoss("binary")(logits, target), 0.5 * bce + 1 - dice.mean())
    iou = (p * y).sum((1, 2)) / (p + y - p * y).sum((1, 2))
    hybrid = losses.UNet3PLoss("binary").parts(logits, target)
    torch.testing.assert_close(hybrid["iou"], 1 - iou.mean())
    torch.testing.assert_close(hybrid["focal"], sigmoid_focal_loss(logits[:, 0], y, -1, 2, "mean"))
    assert list(hybrid) == ["focal", "ms_ssim", "iou"]


class Edges(nn.Module):
    """Somebody's loss: takes some of the common arguments, and an option."""

    def __init__(self, task: str, gamma: float = 1.0, *, ignore_index: int = 0) -> None:
        super().__init__()
        self.given = (task, gamma, ignore_index)
        if gamma < 0:
            raise ValueError("gamma below 0")

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.given[1] * logits.mean()


class Own(losses.SingleLoss):
    """Somebody's loss on the shared base."""

    name = "own"

    def measure(self, logits: Tensor, truth: losses.Truth) -> Tensor:
        return truth.mean(logits) * self.weights(logits).sum()


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("somebody_s")
    module.Edges, module.Own, module.nothing, module.Odd = Edges, Own, 3, dict
    module.total = lambda logits, target: logits.sum() + target.sum()
    module.pixels = lambda logits, target: logits
    monkeypatch.setitem(sys.modules, "somebody_s", module)


@pytest.mark.usefixtures("theirs")
def test_losses_by_dotted_path() -> None:
    logits, target = made("binary")
    text = "somebody_s.Edges(gamma=2) + 0.5*somebody_s.total + dice + somebody_s.Own"
    loss = losses.build(text, "binary", ignore_index=255, class_weights=[3.0])
    parts = loss.parts(logits, target)
    assert loss.terms[0].given == ("binary", 2, 255)
    torch.testing.assert_close(parts["Edges"], 2 * logits.mean())
    torch.testing.assert_close(parts["total"], 0.5 * (logits.sum() + target.sum()))
    torch.testing.assert_close(parts["own"], 3 * logits.mean())
    torch.testing.assert_close(loss(logits, target), sum(parts.values()))
    built = losses.build("torch.nn.CrossEntropyLoss(label_smoothing=0.1)", "multiclass", ignore_index=2)
    logits, target = made("multiclass")
    expected = F.cross_entropy(logits, target, ignore_index=2, label_smoothing=0.1)
    torch.testing.assert_close(built(logits, target), expected)
    with pytest.raises(InputError, match=r"\bpixels .*shape \(2, 3, 13, 12\): .*shape \(\)"):
        losses.build("somebody_s.pixels + dice", "multiclass")(logits, target)


SUCH = r"losses .*weights, .*'0\.5\*bce \+ dice'"


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", f"loss='': .*{SUCH}"),
        (None, f"loss=None: .*{SUCH}"),
        ("dice +", "cannot be read"),
        ("dice\0", "cannot be read"),
        ("(" * 300 + "dice" + ")" * 300, "cannot be read"),
        ("+".join(["dice"] * 5000), "cannot be read"),
        ("dise", r"unknown loss 'dise'; did you mean 'dice'\? \(known: bce, "),
        ("dice - bce", f"'dice - bce': .*{SUCH}"),
        ("dice * bce", rf"'dice \* bce': .*{SUCH}"),
        ("-1*dice", rf"'-1 \* dice': .*{SUCH}"),
        ("0*dice", "weight 0: .*number above 0"),
        ("1e999*dice", "weight inf: .*finite number"),
        ("True*dice", "weight True: .*finite number"),
        ("3", f"'3': .*{SUCH}"),
        ("dice(0.3)", r"'0\.3': .*by name: name=value"),
        ("dice(**{'per': 'batch'})", r"\*\*\{'per': 'batch'\}.*by name: name=value"),
        ("tversky(alfa=0.3)", r"tversky: unknown option 'alfa'; did you mean 'alpha'\? \(it takes: alpha, beta, "),
        ("unet3p(gamma=1)", r"unknown option 'gamma' \(it takes: none\)"),
        ("tversky(alpha=-1)", "tversky: alpha=-1: .*number.* 0 up"),
        ("tversky(beta=0)", "tversky: beta=0: .*number above 0"),
        ("focal(gamma='2')", "focal: gamma='2': .*number.* 0 up"),
        ("focal(alpha=2)", "alpha=2: .*number.* 0 to 1"),
        ("cross_entropy(label_smoothing=1.5)", "label_smoothing=1.5: .*number.* 0 to 1"),
        ("dice(per='class')", "per='class': one of 'image', 'batch' is needed"),
        ("dice(background=False)", "background=False: task='binary' .*no channel .*background"),
        ("dice(background=0)", "background=0: True or False"),
        ("focal(gamma=open('x'))", r"gamma=open\('x'\).*literal"),
        ("dice(task='binary')", r"\btask .*same for all terms: leave it out of the text"),
        ("somebody_s.Edgse", "somebody_s has no 'Edgse'; did you mean 'Edges'"),
        ("somebody_s.Edges(gama=1)", r"unknown option 'gama'; did you mean 'gamma'\? \(it takes: gamma\)"),
        ("somebody_s.Edges(gamma=-1)", r"cannot be made \(ValueError: gamma below 0\)"),
        ("somebody_s.total(a=1)", r"somebody_s\.total: .*function .*no options"),
        ("somebody_s.nothing", r"somebody_s\.nothing: .*torch\.nn\.Module .*function .*not 3"),
        ("somebody_s.Odd", r"somebody_s\.Odd: .*torch\.nn\.Module .*function .*not <class .dict.>"),
        ("no_such_package.Loss", "no_such_package cannot be imported"),
        ("dice().forward", "is not a loss"),
        ("__import__('os').system('x')", "is not a loss|by name: name=value"),
    ],
)
def test_texts_that_cannot_be_built(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        losses.build(text, "binary")


# Losses of one's own


def test_a_registered_loss_is_one_of_the_names(registries: None) -> None:
    @losses.register_loss("margins", tasks=("binary", "multilabel"))
    class Margins(losses.SingleLoss):
        def __init__(self, task: str, *, power: int = 1, **common: Any) -> None:
            super().__init__(task, **common)
            self.power = power

        def measure(self, logits: Tensor, truth: losses.Truth) -> Tensor:
            return truth.mean(logits**self.power) * self.weights(logits).sum()

    @losses.register_loss("scaled")
    def scaled(logits: Tensor, target: Tensor) -> Tensor:
        return 3 * logits.mean()

    logits, target = made("binary")
    loss = losses.build("0.5*margins(power=2) + scaled + dice", "binary", class_weights=[3.0])
    parts = loss.parts(logits, target)
    assert list(parts) == ["margins", "scaled", "dice"]
    torch.testing.assert_close(parts["margins"], 1.5 * (logits**2).mean())
    torch.testing.assert_close(parts["scaled"], 3 * logits.mean())
    with pytest.raises(ConfigError) as caught:
        losses.build("margins(powr=2) + scaled(a=1)", "binary")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["margins", "scaled"]
    assert "did you mean 'power'" in caught.value.problems[0]
    with pytest.raises(ConfigError, match=r"margins .*not for task='multiclass'.*'binary', 'multilabel'"):
        losses.build("margins", "multiclass")
    with pytest.raises(ConfigError, match=r"did you mean 'margins'.*margins, scaled"):
        losses.build("margin", "binary")


def test_what_cannot_be_registered_leaves_nothing(registries: None) -> None:
    before = list(losses.LOSSES)
    for name, made_, tasks, said in (
        ("dice", losses.Dice, ("binary",), "taken"),
        ("My Loss", losses.Dice, ("binary",), "cannot name"),
        ("lambda", losses.Dice, ("binary",), "cannot name"),
        ("mine", dict, ("binary",), r"'mine': .*torch\.nn\.Module .*function .*not .*dict"),
        ("mine", 3, ("binary",), r"'mine': .*torch\.nn\.Module .*function .*not 3"),
        ("mine", losses.Dice, ("binry",), "did you mean 'binary'"),
        ("mine", losses.Dice, (), "tasks="),
    ):
        with pytest.raises(ConfigError, match=said):
            losses.register_loss(name, tasks=tasks)(made_)
    assert list(losses.LOSSES) == before
    assert losses.Dice.name == "dice"


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_keeps_the_contract(name: str) -> None:
    check_loss(name)


def mean_square(logits: Tensor, target: Tensor) -> Tensor:
    """A right loss, of which each fault below is a small change."""
    counted = target != -100
    errors = (logits.float()[:, 0].sigmoid() - target) ** 2
    return errors.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)


FAULTS: dict[str, tuple[Any, str]] = {
    "ignored": (lambda x, y: ((x.float()[:, 0].sigmoid() - y) ** 2).mean(), r"-100\) change it"),
    "empty": (lambda x, y: ((x.float()[:, 0].sigmoid() - y)[y != -100] ** 2).mean(), "-100 everywhere: .*loss .*nan"),
    "half": (lambda x, y: mean_square(x, y).to(x.dtype), "torch.bfloat16: float32 is needed"),
    "flat": (lambda x, y: mean_square(x.detach(), y) + 0 * x.float().sum(), "gradient .*0 everywhere"),
    "random": (lambda x, y: mean_square(x, y) * torch.rand(()), "same logits .*target .*must not be random"),
    "infinite": (lambda x, y: mean_square(x, y) - (x.float().sigmoid() * (y != -100)[:, None]).clamp(max=1).neg()
                 .add(1).log().mean(), r"\bloss .*\binf\b"),
    "slope": (lambda x, y: mean_square(x, y) + (1 - x.float().sigmoid()).sqrt().masked_fill((y == -100)[:, None], 0)
              .mean(), "gradient .*not finite"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_own_losses_are_found(fault: str, registries: None) -> None:
    losses.register_loss("right", tasks=("binary",))(mean_square)
    check_loss("right")
    function, said = FAULTS[fault]
    losses.register_loss("wrong", tasks=("binary",))(function)
    with pytest.raises(ContractError, match=said):
        check_loss("wrong")


LEARNING = {
    "binary": lambda x, y: F.softplus(-x[:, 0]).mean(),
    "multiclass": lambda x, y: F.cross_entropy(x, y.clamp(min=0)),
    "multilabel": lambda x, y: (x.sigmoid() - y).square().mean(),
}
"""Losses whose gradient is not 0 where the target is -100."""


@pytest.mark.parametrize("task", PIXEL_TASKS)
def test_what_learns_from_ignored_pixels_is_refused(task: str, registries: None) -> None:
    """By its own gradient there: the first term is right."""
    losses.register_loss("learns", tasks=(task,))(LEARNING[task])
    logits, target = made(task)
    heads = losses.DeepSupervision(losses.build("dice + learns", task))
    heads.try_ignored(TrainingOutputs(logits), target)
    target[..., 2, 3] = -100
    with pytest.raises(InputError, match=r"the loss learns learns .*-100.*target != -100.*check_loss"):
        heads.try_ignored(TrainingOutputs(logits), target)
    assert not logits.requires_grad


@pytest.mark.parametrize(("name", "task"), [(n, task) for n, task in EVERY if task in losses.LOSSES[n].tasks])
def test_what_leaves_ignored_pixels_out_is_taken(name: str, task: str) -> None:
    logits, target = made(task)
    target[..., 2:5, 3] = -100
    with torch.no_grad():
        losses.DeepSupervision(losses.build(name, task)).try_ignored(TrainingOutputs(logits), target)


def one_term(module: Any, task: str) -> losses.Sum:
    """Return a loss of one's own, a module or a function, as training takes it."""
    if isinstance(module, nn.Module):
        return losses.Sum(task, [(1, module)])
    losses.register_loss("theirs", tasks=(task,))(module)
    return losses.build("theirs", task)


PAIRS = {
    "difference": lambda x, y: (x.sigmoid() - y).abs().mean(),
    "product": lambda x, y: 1 - (x.sigmoid() * (y == 1)).sum() / y.sum(),
    "function": lambda x, y: F.l1_loss(input=x.sigmoid(), target=y.float()),
    "where": lambda x, y: torch.where(y == 1, F.softplus(-x), F.softplus(x)).mean(),
    "bce": nn.BCEWithLogitsLoss(),
    "mse": nn.MSELoss(),
    "one class": nn.CrossEntropyLoss(),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("count", [1, 3])
def test_own_losses_compare_an_image_with_its_target_alone(name: str, count: int, registries: None) -> None:
    """(N, 1, H, W) with (N, H, W) is (N, N, H, W) for torch; in a batch of one image too it is refused."""
    loss = one_term(PAIRS[name], "binary")
    logits, target = torch.randn(count, 1, 6, 5), torch.randint(2, (count, 6, 5))
    for one in (target, target[:, None]):
        with pytest.raises(
            InputError, match=r"two shapes.*\(2, 1, 6, 5\).*\(2, 6, 5\).*logits\[:, 0\].*target\[:, None"
        ):
            loss(logits, one)


@pytest.mark.parametrize("like", [lambda x, y: y.to(x), lambda x, y: y.type_as(x)])
def test_a_target_may_take_the_type_of_logits(like: Any, registries: None) -> None:
    loss = one_term(lambda x, y: (x[:, 0] - like(x, y)).abs().mean(), "binary")
    logits, target = torch.randn(3, 1, 6, 5), torch.randint(2, (3, 6, 5))
    torch.testing.assert_close(loss(logits, target), (logits[:, 0] - target).abs().mean())


@pytest.mark.parametrize("classes", [2, 3])
def test_what_would_fail_on_another_batch_is_refused_on_this_one(classes: int, registries: None) -> None:
    """As many images as classes: torch takes the images of the target for classes of the logits."""
    loss = one_term(lambda x, y: (x.softmax(1) - y).abs().mean(), "multiclass")
    with pytest.raises(InputError, match=r"'?theirs.*cannot take.*int64.*RuntimeError"):
        loss(torch.randn(classes, classes, 6, 5), torch.randint(classes, (classes, 6, 5)))


def test_own_losses_get_the_shapes_that_are_promised(registries: None) -> None:
    seen = []

    def watched(logits: Tensor, target: Tensor) -> Tensor:
        seen.append((tuple(logits.shape), tuple(target.shape), target.dtype))
        return logits.mean()

    for task, channels, size, shape in (
        ("binary", 1, (3, 6, 5), (3, 6, 5)),
        ("binary", 1, (3, 1, 6, 5), (3, 6, 5)),
        ("multiclass", 3, (3, 6, 5), (3, 6, 5)),
        ("multilabel", 1, (3, 1, 6, 5), (3, 1, 6, 5)),
        ("multilabel", 4, (3, 4, 6, 5), (3, 4, 6, 5)),
    ):
        losses.register_loss(f"seen_{len(seen)}", tasks=(task,))(watched)
        loss = losses.build(f"seen_{len(seen)}", task)
        loss(torch.randn(3, channels, 6, 5), torch.randint(2, size))
        loss(torch.randn(2, channels, 6, 5), torch.randint(2, (2, *size[1:])))
        assert seen[-1] == ((2, channels, 6, 5), (2, *shape[1:]), torch.int64)
        assert seen[-2] == ((3, channels, 6, 5), shape, torch.int64)
        assert seen[-3][0][0] not in (1, channels)  # the trial
        seen.append("next")
    assert len(seen) == 5 * 4  # one trial each


def test_right_losses_of_others_are_taken(registries: None) -> None:
    """Theirs are the values of this package's own, class for class."""
    logits, target = torch.randn(3, 1, 6, 5), torch.randint(2, (3, 6, 5))
    own = one_term(lambda x, y: F.binary_cross_entropy_with_logits(x, y[:, None].to(x)), "binary")
    torch.testing.assert_close(own(logits, target), losses.build("bce", "binary")(logits, target))
    logits, target = torch.randn(3, 3, 6, 5), torch.randint(3, (3, 6, 5))
    own = one_term(nn.CrossEntropyLoss(), "multiclass")
    torch.testing.assert_close(own(logits, target), losses.build("cross_entropy", "multiclass")(logits, target))


def test_all_that_is_wrong_comes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        losses.build("dise + focal(gamma=-1, alpha=3) + 0*iou", "binry", class_weights=[-1.0], ignore_index="x")
    assert len(caught.value.problems) == 7
    for piece in ("'dise'", "gamma=-1", "alpha=3", "weight 0", "did you mean 'binary'", "[-1.0]", "ignore_index='x'"):
        assert "\n".join(caught.value.problems).count(piece) == 1, piece


@pytest.mark.parametrize(
    ("task", "weights", "says"),
    [
        ("binary", [1.0, 2.0], "task='binary' needs one"),
        ("multiclass", [1.0], "task='multiclass' .*two or more"),
        ("multilabel", [], r"class_weights=\[\]: .*list of numbers"),
        ("multilabel", 3.0, r"class_weights=3\.0: .*list of numbers"),
        ("multilabel", "12", "class_weights='12': .*list of numbers"),
        ("multilabel", [True, 1.0], r"class_weights=\[True, 1\.0\]: .*list of numbers"),
        ("multilabel", torch.ones(2, 2), r"class_weights=\[\[1\.0, 1\.0\], .*\]: .*list of numbers"),
        ("multilabel", [1.0, math.nan], r"class_weights=\[1\.0, nan\]: .*finite.* 0 up"),
        ("multilabel", [1.0, math.inf], r"class_weights=\[1\.0, inf\]: .*finite.* 0 up"),
        ("multilabel", [0.0, 0.0], r"class_weights=\[0\.0, 0\.0\]: .*one .*above 0"),
    ],
)
def test_class_weights_are_checked(task: str, weights: Any, says: str) -> None:
    for name in losses.LOSSES:
        with pytest.raises(ConfigError, match=says):
            losses.build(name, task, class_weights=weights)


def test_class_weights_move_with_the_loss_and_are_not_saved() -> None:
    loss = losses.UNet3PLoss("multilabel", class_weights=np.array([1.0, 2.0]).tolist())
    assert {str(buffer.device) for buffer in loss.to("meta").buffers()} == {"meta"}
    assert not loss.state_dict()
    kept = torch.tensor([1.0, 2.0])
    loss = losses.Dice("multilabel", class_weights=kept)
    kept.zero_()
    assert loss.class_weights.tolist() == [1, 2]


def test_sums_are_checked() -> None:
    dice = losses.Dice("binary")
    with pytest.raises(ConfigError, match="no terms"):
        losses.Sum("binary", [])
    with pytest.raises(ConfigError) as caught:
        losses.Sum("multilabel", [(1, dice), (-1, nn.Identity()), (math.nan, "dice")], ignore_index=255)
    assert len(caught.value.problems) == 4
    assert "dice has task='binary', ignore_index=-100, and the sum task='multilabel', ignore_index=255" in str(
        caught.value
    )


# Inputs that do not fit


@pytest.mark.parametrize(
    ("task", "logits", "target", "says"),
    [
        ("binary", (2, 2, 4, 5), (2, 4, 5), "logits of 2 channels: task='binary' has 1"),
        ("binary", (2, 1, 4, 5), (2, 5, 4), r"\(2, 4, 5\) or \(2, 1, 4, 5\) is needed"),
        ("multiclass", (2, 1, 4, 5), (2, 4, 5), "'multiclass' has 2 or more"),
        ("multiclass", (2, 3, 4, 5), (2, 1, 4, 5), r"target\[:, 0\] is"),
        ("multiclass", (2, 3, 4, 5), (2, 3, 4, 5), r"target.argmax\(dim=1\)"),
        (
            "multilabel",
            (2, 3, 4, 5),
            (2, 4, 5),
            r"target of shape \(2, 4, 5\): \(2, 3, 4, 5\) .*logits .*\(2, 3, 4, 5\)",
        ),
        ("multilabel", (2, 1, 4, 5), (2, 4, 5), r"target\[:, None\] is"),
        ("multilabel", (3, 4, 5), (3, 4, 5), r"logits of shape \(3, 4, 5\): \(N, C, H, W\)"),
        ("binary", (0, 1, 4, 5), (0, 4, 5), "each from 1 up"),
        ("binary", (1, 1, 0, 5), (1, 0, 5), "each from 1 up"),
    ],
)
def test_shapes_that_do_not_fit(task: str, logits: tuple[int, ...], target: tuple[int, ...], says: str) -> None:
    for name in losses.LOSSES:
        with pytest.raises(InputError, match=says):
            losses.build(name, task)(torch.zeros(logits), torch.zeros(target, dtype=torch.long))


@pytest.mark.parametrize("name", losses.LOSSES)
def test_types_and_devices_that_do_not_fit(name: str) -> None:
    logits, target = made("multiclass")
    loss = losses.build(name, "multiclass")
    with pytest.raises(InputError, match=r"logits of torch\.int64: .*floating.*target of torch\.float32: .*integers"):
        loss(logits.long(), target.float())
    with pytest.raises(InputError, match=r"target of torch\.bool: integers"):
        loss(logits, target.bool())
    with pytest.raises(InputError, match=r"logits of torch\.complex128"):
        loss(logits + 0j, target)
    with pytest.raises(InputError, match=r"target .*meta.*logits .*cpu"):
        loss(logits, target.to("meta"))
    with pytest.raises(InputError, match=r"target: .*torch\.Tensor .*not ndarray"):
        loss(logits, target.numpy())
    with pytest.raises(InputError, match=r"has 2 class_weights .*3 channels"):
        losses.build(name, "multiclass", class_weights=[1, 2])(logits, target)


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_wrong_values_are_never_silent(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = made(task)
    loss = losses.build(name, task)
    wrong = [3, -1, 255] if task == "multiclass" else [2, -1, 255]
    for value in wrong:
        bad = target.clone()
        bad[..., 4, 5] = value
        with pytest.raises(InputError, match=rf"task holds {value}: .* and ignore_index=-100"):
            loss(logits, bad)
        with monkeypatch.context() as patch:  # as on a GPU, where looking would stall
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            assert math.isnan(float(loss(logits, bad)))
            assert math.isfinite(float(loss(logits, target)))
    if task != "multiclass":
        with pytest.raises(InputError, match=r"holds 0\.25, nan"):
            loss(
                logits,
                target.double().index_fill(-1, torch.tensor([2]), 0.25).index_fill(-1, torch.tensor([3]), math.nan),
            )


def test_a_byte_of_156_is_not_the_ignored_minus_100() -> None:
    with pytest.raises(InputError, match="holds 156"):
        losses.Dice("binary")(torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), 156, dtype=torch.uint8))


# Deep supervision and presence


def test_deep_supervision_adds_heads_by_weight() -> None:
    logits, target = made("multiclass", (24, 24))
    heads = [logits, logits.flip(1), logits * 0.1]
    outputs = TrainingOutputs(heads[0], tuple(heads[1:]))
    loss = losses.UNetPPLoss("multiclass")
    each = [loss(head, target) for head in heads]
    torch.testing.assert_close(losses.DeepSupervision(loss)(outputs, target), sum(each) / 3)
    weighted = losses.DeepSupervision(loss, weights=[1, 0.5, 0])
    torch.testing.assert_close(weighted(outputs, target), each[0] + each[1] / 2)
    bce = losses.BCE("multiclass")
    parts = weighted.parts(outputs, target)
    assert list(parts) == ["bce", "dice"]
    torch.testing.assert_close(parts["bce"], 0.5 * bce(heads[0], target) + 0.25 * bce(heads[1], target))
    torch.testing.assert_close(losses.DeepSupervision(loss)(TrainingOutputs(logits), target), each[0])


@pytest.mark.parametrize("task", PIXEL_TASKS)
def test_presence_is_held_against_what_occurs(task: str) -> None:
    logits, target = made(task, count=3)
    channels = CHANNELS[task]
    target[1] = 0
    target[2] = -100
    presence = torch.randn(3, channels, dtype=torch.float64)
    occurs = torch.ones(2, channels, dtype=torch.float64)
    occurs[1] = torch.tensor([1.0, 0, 0][:channels] if task == "multiclass" else [0.0] * channels)
    expected = F.binary_cross_entropy_with_logits(presence[:2], occurs)
    supervision = losses.DeepSupervision(losses.Dice(task), presence_weight=0.3)
    parts = supervision.parts(TrainingOutputs(logits, (), presence), target)
    torch.testing.assert_close(parts["presence"], 0.3 * expected)
    torch.testing.assert_close(parts["dice"], losses.Dice(task)(logits, target))
    torch.testing.assert_close(
        supervision(TrainingOutputs(logits, (), presence), target), parts["dice"] + parts["presence"]
    )
    target[:] = -100
    presence.requires_grad_()
    nothing = supervision(TrainingOutputs(logits, (), presence), target)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not presence.grad.any()


def test_half_precision_presence_is_full() -> None:
    logits, target = made("multilabel")
    presence = torch.tensor([[60000.0, -60000, 0.5], [1, 2, 3]]).half()
    parts = losses.DeepSupervision(losses.Dice("multilabel")).parts(
        TrainingOutputs(logits.half(), (), presence), target
    )
    assert parts["presence"].dtype == torch.float32
    expected = F.binary_cross_entropy_with_logits(presence.float(), torch.ones(2, 3))
    torch.testing.assert_close(parts["presence"], expected)


def test_smaller_logits_meet_the_target_s_middle() -> None:
    logits, target = made("binary", (6, 7))
    wide = F.pad(target, (4, 4, 3, 3), value=1)
    supervision = losses.DeepSupervision(losses.Dice("binary"))
    assert torch.equal(supervision(TrainingOutputs(logits), wide), losses.Dice("binary")(logits, target))
    with_channel = supervision(TrainingOutputs(logits), wide[:, None])
    assert torch.equal(with_channel, losses.Dice("binary")(logits, target))
    for wrong in (wide[:, 1:], target[:, 2:]):
        shapes = rf"{re.escape(str(tuple(wrong.shape)))} .*{re.escape(str(tuple(logits.shape)))}"
        with pytest.raises(InputError, match=rf"target .*{shapes}.*height .*width .*larger"):
            supervision(TrainingOutputs(logits), wrong)


def test_supervision_that_does_not_fit() -> None:
    logits, target = made("binary")
    dice = losses.Dice("binary")
    with pytest.raises(ConfigError, match=r"2 weights .*3 heads: .*one .*main .*each .*2 deep"):
        losses.DeepSupervision(dice, weights=[1, 1])(TrainingOutputs(logits, (logits, logits)), target)
    with pytest.raises(InputError, match=r"TrainingOutputs, not Tensor.*model\.training_outputs"):
        losses.DeepSupervision(dice)(logits, target)
    with pytest.raises(InputError, match=r"presence logits of shape \(2, 3\): \(2, 1\) is needed"):
        losses.DeepSupervision(dice)(TrainingOutputs(logits, (), torch.zeros(2, 3)), target)
    with pytest.raises(InputError, match=r"\(2, 13, 12\) or"):
        losses.DeepSupervision(dice)(TrainingOutputs(logits), target[0])
    for weights in ([], [0, 0], [-1.0, 2], [math.nan], "12", 3):
        with pytest.raises(ConfigError) as caught:
            losses.DeepSupervision(nn.MSELoss(), weights=weights, presence_weight=-1)
        assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("unet", {"deep_supervision": False}, [1]),
        ("unet", {}, [4, 2, 1, 0]),
        ("unet3p", {}, [8, 4, 2, 1, 0]),
        ("unetpp", {}, [4, 0, 1, 2]),  # x_0_4, then x_0_1, x_0_2, x_0_3
        ("unetpp", {"levels": 2}, [2, 1]),
        ("unetpp_lite", {"levels": 3}, [2, 0, 1]),
        ("smp_unet_resnet18", {}, [8, 4, 2, 1, 0]),
        ("smp_unetplusplus_resnet18", {}, [4, 0, 1, 2]),
    ],
)
def test_geometric_weights_are_halved_from_head_to_head(name: str, options: dict[str, Any], parts: list[int]) -> None:
    width = {} if name.startswith("smp") else {"base_channels": 4}
    model = unetzoo.create(name, **width, **{"deep_supervision": True, **options})
    expected = [part / sum(parts) for part in parts]
    assert losses.geometric_weights(model) == pytest.approx(expected, rel=1e-12)
    if name == "unetpp" and 0 in parts:  # that of the smallest network that pruning leaves
        images = torch.rand(1, 3, 32, 32)
        model.eval()
        shallowest = model.training_outputs(images).deep[parts.index(0) - 1]
        torch.testing.assert_close(model.prune(1)(images), shallowest)


@pytest.mark.parametrize("name", ["unet_valid", "unet3p", "unetpp"])
def test_models_train_on_their_outputs(name: str) -> None:
    """A few steps on one batch bring the loss down, every head and the presence logits included."""
    valid = name == "unet_valid"
    options = {} if valid else {"deep_supervision": True, "classification_guided": name == "unet3p"}
    if name == "unet3p":
        options["branch_channels"] = 8
    model = unetzoo.create(name, base_channels=4, **options).train()
    side = 204 if valid else 32
    images = torch.randn(2, 3, side, side)
    target = (images.mean(1) > 0).long()
    supervision = losses.DeepSupervision(losses.build("unet3p" if name == "unet3p" else "unetpp", "binary"))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    history = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = supervision(model.training_outputs(images), target)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
        history.append(float(loss.detach()))
    assert history[-1] < history[0] - 0.03


# Class weights from data


@dataclass
class Data:
    task: str
    num_classes: int
    masks: list[Tensor]
    ignore_index: int = -100

    def targets(self) -> Iterator[Tensor]:
        yield from self.masks


def counted(*values: int) -> Tensor:
    """Return a (1, W) target with so many pixels of 0, 1, …"""
    return torch.repeat_interleave(torch.arange(len(values)), torch.tensor(values))[None]


def test_weights_by_the_inverse_square_root_of_pixels() -> None:
    masks = [counted(50, 4), counted(50, 0, 25), torch.full((1, 7), -100)]
    found = losses.class_weights_from(Data("multiclass", 3, masks))
    raw = torch.tensor([1 / 10, 1 / 2, 1 / 5])
    torch.testing.assert_close(found, raw / raw.mean())
    assert float(found.mean()) == pytest.approx(1)
    found = losses.class_weights_from(Data("binary", 1, [counted(64, 4).byte(), torch.full((2, 3), 255).byte()], 255))
    assert found.tolist() == [4.0]
    label = torch.stack([counted(9, 1), counted(2, 8)])
    label[1, 0, :1] = -100
    torch.testing.assert_close(
        losses.class_weights_from(Data("multilabel", 2, [label])), torch.tensor([3.0, math.sqrt(1 / 8)])
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            Data("multiclass", 4, [counted(5, 0, 3)]),
            "2 things are wrong:\n  - class 1 never .*\n  - class 3 never ",
        ),
        (Data("binary", 1, [counted(5)]), "class 0 never occurs"),
        (Data("binary", 1, [counted(0, 5)]), "class 0 fills .*pixel"),
        (Data("binary", 1, []), "no pixels .*count"),
        (Data("multilabel", 2, [torch.full((2, 1, 3), -100)]), "no pixels .*count"),
        (Data("multi", 1, []), "one of 'binary'"),
    ],
)
def test_classes_that_no_weight_mends(data: Data, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        losses.class_weights_from(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            Data("multiclass", 2, [counted(5, 1), counted(5, 1, 3)]),
            "target 1 .*multiclass .*holds 2: .*whole numbers",
        ),
        (Data("binary", 1, [torch.tensor([[0, 255, -1]])]), "holds -1, 255"),
        (Data("multilabel", 2, [torch.zeros(3, 2, 2)]), r"target 0 has shape \(3, 2, 2\): \(2, H, W\) is needed"),
        (Data("binary", 1, [torch.zeros(1, 2, 2)]), r"\(H, W\) is needed"),
    ],
)
def test_targets_that_cannot_be_counted(data: Data, says: str) -> None:
    with pytest.raises(InputError, match=says):
        losses.class_weights_from(data)


def test_weights_of_real_masks(shared_data: Path) -> None:
    from PIL import Image

    paths = sorted((shared_data / "nuclei" / "masks").glob("*"))
    masks = [torch.from_numpy(np.array(Image.open(path).convert("L")) > 127).long() for path in paths]
    assert masks
    share = sum(float(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    found = losses.class_weights_from(Data("binary", 1, masks))
    assert float(found) == pytest.approx(math.sqrt((1 - share) / share), rel=1e-5)


# GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize(("name", "task"), EVERY)
def test_a_gpu_gives_the_same_and_is_not_stalled(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    logits, target = made(task, (190, 180))
    weights = [1.0, 2.0, 4.0][: CHANNELS[task]]
    loss = losses.build(name, task, class_weights=weights)
    logits = logits.float().requires_grad_()
    expected = loss(logits, target)
    (slope,) = torch.autograd.grad(expected, logits)
    there = logits.detach().cuda().requires_grad_()
    loss, on_gpu = loss.cuda(), target.cuda()
    torch.use_deterministic_algorithms(True)
    try:
        with never_waits():
            found = loss(there, on_gpu)
            found.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(there.grad.cpu(), slope, rtol=1e-3, atol=1e-7)
    on_gpu[..., 0, 0] = 77
    assert math.isnan(float(loss(there, on_gpu)))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
def test_gaps_are_what_a_closing_adds(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    target = (torch.rand(3, 19, 23, generator=generator) < 0.25).long()
    target[2] = 0  # nothing there, and no gap
    logits = torch.randn(3, 1, 19, 23, generator=generator, dtype=torch.float64)
    total = 0.0
    for x, mask in zip(logits[:, 0].numpy(), target.bool().numpy(), strict=True):
        room = np.pad(mask, 2 * width)
        closed = ndimage.binary_closing(room, np.ones((width + 1, width + 1)))
        gaps = closed[2 * width : -2 * width, 2 * width : -2 * width] & ~mask
        total -= np.log(1 - 1 / (1 + np.exp(-x[gaps]))).sum()
    found = losses.Gaps("binary", width=width)(logits, target)
    assert total > 0
    assert float(found) == pytest.approx(total / target.numel(), rel=1e-9)


def test_what_lies_between_two_blocks_is_a_gap_and_what_lies_beside_them_none() -> None:
    target = torch.zeros(1, 8, 12, dtype=torch.int64)
    target[:, :, :4] = target[:, :, 6:9] = 1  # 2 pixels between them, 3 more up to the border
    logits = torch.zeros(1, 1, 8, 12, requires_grad=True)
    losses.build("10*gaps(width=3)", "binary")(logits, target).backward()
    expected = torch.zeros(8, 12)
    expected[:, 4:6] = 10 * 0.5 / 96
    torch.testing.assert_close(logits.grad[0, 0], expected)
    assert float(losses.Gaps("binary", width=1)(logits.detach(), target)) == 0


@pytest.mark.parametrize("width", [0, 2.0, True, "4"])
def test_a_width_of_gaps_that_cannot_be(width: object) -> None:
    with pytest.raises(ConfigError, match="width="):
        losses.Gaps("binary", width=width)
