"""The scores, against torchmetrics, scikit-image with SciPy, MONAI, and values by hand."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import monai.metrics
import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from conftest import PROCESSES, never_waits
from hypothesis import given, settings, strategies as st
from scipy.ndimage import distance_transform_edt
from skimage.morphology import disk
from skimage.segmentation import find_boundaries
from torch import Tensor

from unetzoo.errors import ConfigError, InputError
from unetzoo.images import read_image
from unetzoo.metrics import METRICS, ImageScores, Scores, SegmentationMetrics
from unetzoo.metrics.intervals import object_intervals, pixel_intervals

COUNTED = METRICS[:-1]
"""All but the boundary score."""
IGNORED = -100
TOLERANCES = [0, 1, math.sqrt(2), 1.9, 2, math.sqrt(5), 3.5, math.sqrt(13), 5, 1000]


def draw(task: str, n: int, classes: int, h: int, w: int, seed: int, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return logits and a target that partly agree; high classes are rare, so that some are absent."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, h, w, generator=generator) - torch.arange(classes)[:, None, None]
    near = logits + torch.randn(n, classes, h, w, generator=generator)
    target = {"binary": near[:, 0] > 0, "multiclass": near.argmax(dim=1), "multilabel": near > 0}[task].long()
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORED
    return logits, target


def scored(task: str, logits: Tensor, target: Tensor, **options: object) -> Scores:
    metrics = SegmentationMetrics(task, logits.shape[1], **options)
    metrics.update(logits, target)
    return metrics.compute()


def oracle(task: str, logits: Tensor, target: Tensor, classes: int) -> dict[str, Tensor]:
    """Return torchmetrics' scores (C,), with nan where a score's denominator is empty; torchmetrics has 0 there."""
    ours = {"dice": "f1_score", "iou": "jaccard_index", "precision": "precision", "recall": "recall"}
    theirs = {**ours, "specificity": "specificity", "accuracy": "accuracy"}
    found: dict[str, list[Tensor]] = {name: [] for name in theirs}
    for k in range(classes):
        predicted = logits.argmax(dim=1) == k if task == "multiclass" else logits[:, k] > 0
        layer = target if task != "multilabel" else target[:, k]
        true = layer == (k if task == "multiclass" else 1)
        valid = layer != IGNORED
        p, t = predicted[valid], true[valid]
        defined = {"dice": p | t, "iou": p | t, "precision": p, "recall": t, "specificity": ~t, "accuracy": p | ~p}
        marked = torch.where(valid, true.long(), IGNORED)
        for name, theirs_name in theirs.items():
            function = getattr(reference, f"binary_{theirs_name}")
            value = function(predicted.long(), marked, ignore_index=IGNORED) if defined[name].any() else math.nan
            found[name].append(torch.as_tensor(value))
    return {name: torch.stack(values).double() for name, values in found.items()}


def equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, equal_nan=True)  # torchmetrics has float32


cases = st.one_of(
    st.tuples(st.just("binary"), st.just(1)),
    st.tuples(st.sampled_from(["multiclass", "multilabel"]), st.integers(2, 6)),
)


@settings(max_examples=150, deadline=None)
@given(cases, st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 0.3, 1]), st.integers(0, 99))
def test_pooled_and_per_image_scores_are_torchmetrics(
    case: tuple[str, int], n: int, h: int, w: int, ignored: float, seed: int
) -> None:
    task, classes = case
    logits, target = draw(task, n, classes, h, w, seed, ignored)
    metrics = SegmentationMetrics(task, classes, boundary_tolerance=None)
    of_images = metrics.update(logits, target)
    scores = metrics.compute()
    pooled = oracle(task, logits, target, classes)
    each = [oracle(task, logits[i : i + 1], target[i : i + 1], classes) for i in range(n)]
    for name in COUNTED:
        equal(getattr(scores, name).pooled, pooled[name])
        stacked = torch.stack([values[name] for values in each])
        equal(of_images.metrics[name], stacked)
        equal(getattr(scores, name).per_image, stacked.nanmean(0))
        assert torch.equal(getattr(scores, name).images, (~stacked.isnan()).sum(0))
        mean = scores.to_dict()[name]
        equal(torch.tensor(math.nan if mean is None else mean).double(), pooled[name].nanmean())
    assert scores.boundary_f is None
    assert scores.images == n


@pytest.mark.parametrize("ignored", [0, 0.3])
def test_multiclass_scores_are_torchmetrics_own_multiclass_ones(ignored: float) -> None:
    """Torchmetrics' multiclass functions take another way than one class against the rest."""
    logits, target = draw("multiclass", 3, 4, 20, 30, 5, ignored)
    scores = scored("multiclass", logits, target)
    options = {"num_classes": 4, "ignore_index": IGNORED, "average": "none"}
    for name, theirs in {
        "dice": reference.multiclass_f1_score,
        "iou": reference.multiclass_jaccard_index,
        "precision": reference.multiclass_precision,
        "recall": reference.multiclass_recall,
        "specificity": reference.multiclass_specificity,
    }.items():
        equal(getattr(scores, name).pooled, theirs(logits, target, **options).double())
    micro = reference.multiclass_accuracy(logits, target, 4, average="micro", ignore_index=IGNORED)
    assert scores.pixel_accuracy == pytest.approx(float(micro), abs=1e-6)


@pytest.mark.parametrize("k", range(4))
def test_a_class_that_is_ignored_is_in_no_mean_as_of_torchmetrics(k: int) -> None:
    logits, target = draw("multiclass", 3, 4, 20, 30, 5, 0)
    metrics = SegmentationMetrics("multiclass", 4, ignore_index=k)
    of_images = metrics.update(logits, target)
    scores = metrics.compute()
    options = {"num_classes": 4, "ignore_index": k}
    theirs = {
        average: reference.multiclass_jaccard_index(logits, target, average=average, **options).double()
        for average in ("macro", "none")
    }
    others = [other for other in range(4) if other != k]
    assert scores.iou.mean == pytest.approx(float(theirs["macro"]), abs=1e-6)
    equal(scores.iou.pooled[others], theirs["none"][others])
    f1 = reference.multiclass_f1_score(logits, target, average="none", **options).double()
    equal(scores.dice.pooled[others], f1[others])
    assert scores.dice.mean == pytest.approx(float(f1[others].mean()), abs=1e-6)
    for name in METRICS:
        assert getattr(scores, name).pooled.isnan().tolist() == [other == k for other in range(4)], name
        assert getattr(scores, name).images.tolist() == [0 if other == k else 3 for other in range(4)], name
    micro = reference.multiclass_accuracy(logits, target, average="micro", **options)
    assert scores.pixel_accuracy == pytest.approx(float(micro), abs=1e-6)
    each = [
        reference.multiclass_accuracy(logits[i : i + 1], target[i : i + 1], average="micro", **options)
        for i in range(3)
    ]
    equal(of_images.pixel_accuracy, torch.stack(each).double())


def test_multilabel_scores_are_torchmetrics_own_multilabel_ones() -> None:
    logits, target = draw("multilabel", 3, 4, 20, 30, 5, 0.3)
    logits += 1
    scores = scored("multilabel", logits, target, threshold=0.7)
    for name, theirs in {
        "dice": reference.multilabel_f1_score,
        "iou": reference.multilabel_jaccard_index,
        "precision": reference.multilabel_precision,
        "recall": reference.multilabel_recall,
        "specificity": reference.multilabel_specificity,
        "accuracy": reference.multilabel_accuracy,
    }.items():
        expected = theirs(logits.sigmoid(), target, 4, threshold=0.7, average="none", ignore_index=IGNORED)
        equal(getattr(scores, name).pooled, expected.double())
    micro = reference.multilabel_accuracy(logits, target, 4, threshold=0.7, average="micro", ignore_index=IGNORED)
    assert scores.pixel_accuracy == pytest.approx(float(micro), abs=1e-6)


def test_a_case_by_hand() -> None:
    """Two images of 4 pixels: TP, FP, FN, TN are 1, 1, 1, 1 and, with one pixel ignored, 2, 1, 0, 0."""
    predicted = torch.tensor([[[1, 1], [0, 0]], [[1, 1], [1, 1]]])
    target = torch.tensor([[[1, 0], [1, 0]], [[1, 1], [0, IGNORED]]])
    metrics = SegmentationMetrics("binary", boundary_tolerance=None)
    of_images = metrics.update_masks(predicted, target)
    scores = metrics.compute()
    expected = {
        "dice": (6 / 9, 1 / 2, 4 / 5),
        "iou": (3 / 6, 1 / 3, 2 / 3),
        "precision": (3 / 5, 1 / 2, 2 / 3),
        "recall": (3 / 4, 1 / 2, 1),
        "specificity": (1 / 3, 1 / 2, 0),
        "accuracy": (4 / 7, 1 / 2, 2 / 3),
    }
    for name, (pooled, first, second) in expected.items():
        assert getattr(scores, name).mean == pooled
        assert getattr(scores, name).mean_per_image == pytest.approx((first + second) / 2, abs=1e-15)
        assert of_images.metrics[name].tolist() == [[first], [second]]
    assert scores.pixel_accuracy == 4 / 7
    assert of_images.pixel_accuracy.tolist() == [1 / 2, 2 / 3]
    assert scores.to_dict() == {
        **{name: pooled for name, (pooled, _, _) in expected.items()},
        **{f"{name}_per_image": getattr(scores, name).mean_per_image for name in expected},
        "pixel_accuracy": 4 / 7,
        "images": 2,
    }


def test_a_class_that_is_nowhere_is_left_out_of_the_means() -> None:
    """Class 2 is in the second image only, class 3 in none; class 1 is predicted and not there."""
    predicted = torch.tensor([[[0, 0, 0, 1]], [[0, 0, 2, 2]]])
    target = torch.tensor([[[0, 0, 0, 0]], [[0, 0, 0, 2]]])
    names = ["ground", "cell", "wall", "void"]
    metrics = SegmentationMetrics("multiclass", 4, boundary_tolerance=None, class_names=names)
    first, second = metrics.update_masks(predicted, target).rows()
    scores = metrics.compute()
    record = scores.to_dict()
    # Intersections 3 + 2, 0, 1; unions 4 + 3, 1, 2.
    assert [record[f"iou/{name}"] for name in names] == [5 / 7, 0, 1 / 2, None]
    assert record["iou"] == pytest.approx((5 / 7 + 0 + 1 / 2) / 3)
    assert [record[f"iou_per_image/{name}"] for name in names] == [(3 / 4 + 2 / 3) / 2, 0, 1 / 2, None]
    assert scores.iou.images.tolist() == [2, 1, 1, 0]
    assert [first[f"iou/{name}"] for name in names] == [3 / 4, 0, None, None]
    assert first["iou"] == pytest.approx(3 / 8)
    assert [second[f"iou/{name}"] for name in names] == [2 / 3, None, 1 / 2, None]
    # Recall has no denominator for class 1, which is no image's; precision has one.
    assert record["recall/cell"] is None
    assert record["precision/cell"] == 0
    assert record["accuracy/void"] == record["specificity/void"] == 1
    assert first["pixel_accuracy"] == second["pixel_accuracy"] == record["pixel_accuracy"] == 3 / 4
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_the_table_shows_every_number() -> None:
    logits, target = draw("multiclass", 2, 3, 12, 12, 1)
    target[target == 2] = 0
    logits[:, 2] = -9
    scores = scored("multiclass", logits, target, class_names=("ground", "blood cell", "wall"))
    lines = str(scores).splitlines()
    record = scores.to_dict()
    assert lines[0].split("  ")[0] == "all pixels"
    assert lines[0].split()[2:] == list(METRICS)
    rows = {line[:15].strip(): line[15:].split() for line in lines[1:5]}
    assert rows["blood cell"] == [f"{record[f'{name}/blood cell']:.4f}" for name in METRICS]
    assert rows["wall"] == ["–", "–", "–", "–", "1.0000", "1.0000", "–"]
    assert rows["mean of classes"] == [f"{record[name]:.4f}" for name in METRICS]
    assert lines[5].split("  ")[0] == "mean of images"
    rows = {line[:15].strip(): line[15:].split() for line in lines[6:10]}
    assert rows["ground"] == [f"{record[f'{name}_per_image/ground']:.4f}" for name in METRICS]
    assert rows["mean of classes"] == [f"{record[f'{name}_per_image']:.4f}" for name in METRICS]
    assert lines[10:] == [f"2 images, pixel accuracy {record['pixel_accuracy']:.4f}"]
    assert len(str(scored("binary", *draw("binary", 1, 1, 4, 4, 0))).splitlines()) == 5  # one class: no mean of it


def test_per_image_rows_have_the_keys_of_the_pooled_record() -> None:
    logits, target = draw("multilabel", 3, 2, 12, 12, 1)
    metrics = SegmentationMetrics("multilabel", 2, class_names=["a", "b"])
    rows = metrics.update(logits, target).rows()
    assert [*rows[0]] == [key for key in metrics.compute().to_dict() if "per_image" not in key and key != "images"]
    for n, row in enumerate(rows):
        alone = scored("multilabel", logits[n : n + 1], target[n : n + 1], class_names=["a", "b"]).to_dict()
        assert row == {key: alone[key] for key in row}


# Boundaries


def slow_boundary_f(predicted: np.ndarray, true: np.ndarray, counted: np.ndarray, tolerance: float) -> float:
    """Return the score of one class of one image: scikit-image's boundaries, SciPy's exact distances."""
    edges = []
    for mask in (predicted & counted, true & counted):
        if counted.all():
            edges.append(find_boundaries(mask, mode="inner"))
            continue
        edge = np.zeros_like(mask)
        for y, x in zip(*mask.nonzero(), strict=True):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(i, j) for i, j in around if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]]
            edge[y, x] = any(counted[place] and not mask[place] for place in inside)
        edges.append(edge)
    if not (edges[0].any() or edges[1].any()):
        return math.nan
    if not (edges[0].any() and edges[1].any()):
        return 0.0
    away = [distance_transform_edt(~edge) for edge in edges]
    precision = (away[1][edges[0]] <= tolerance).mean()
    recall = (away[0][edges[1]] <= tolerance).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@settings(max_examples=400, deadline=None)
@given(
    st.integers(1, 14),
    st.integers(1, 14),
    st.sampled_from(TOLERANCES),
    st.sampled_from([0, 0.2]),
    st.integers(0, 9999),
)
def test_boundary_scores_are_scikit_image_s_boundaries_at_scipy_s_distances(
    h: int, w: int, tolerance: float, ignored: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    # Blocks make interiors and mere noise makes none.
    predicted, true = generator.random((2, 1, h, w)) < 0.3
    true = true | (generator.random((1, h // 4 + 1, w // 4 + 1)) < 0.4).repeat(4, 1).repeat(4, 2)[:, :h, :w]
    counted = generator.random((1, h, w)) >= ignored
    target = torch.from_numpy(np.where(counted, true.astype(int), IGNORED))
    metrics = SegmentationMetrics("binary", 1, boundary_tolerance=tolerance)
    found = metrics.update_masks(torch.from_numpy(predicted), target).metrics["boundary_f"].item()
    assert found == pytest.approx(slow_boundary_f(predicted[0], true[0], counted[0], tolerance), nan_ok=True)


def test_boundary_scores_of_several_classes_and_images_at_a_size_of_use() -> None:
    blocks = torch.nn.functional.interpolate(torch.randn(2, 4, 5, 6), size=(90, 120), mode="bicubic")
    target = blocks.argmax(dim=1)
    logits = blocks.roll((2, 3), dims=(2, 3)) + 0.05 * torch.randn_like(blocks)
    metrics = SegmentationMetrics("multiclass", 4, boundary_tolerance=3)
    found = metrics.update(logits, target).metrics["boundary_f"]
    predicted, everywhere = logits.argmax(dim=1), np.ones((90, 120), dtype=bool)
    for n in range(2):
        for k in range(4):
            expected = slow_boundary_f((predicted[n] == k).numpy(), (target[n] == k).numpy(), everywhere, 3)
            assert found[n, k].item() == pytest.approx(expected, nan_ok=True)
    assert 0.2 < metrics.compute().boundary_f.mean < 0.98


def test_pooled_boundary_scores_add_up_boundary_pixels() -> None:
    """A square of 3 × 3 (8 boundary pixels) found exactly, and one of 5 × 5 (16) missed, or a point made up."""
    target = torch.zeros(3, 20, 20, dtype=torch.long)
    predicted = torch.zeros_like(target)
    target[0, 2:5, 2:5] = predicted[0, 2:5, 2:5] = 1
    target[1, 10:15, 10:15] = 1
    predicted[2, 9, 9] = 1
    metrics = SegmentationMetrics("binary", 1)
    of_images = metrics.update_masks(predicted, target)
    scores = metrics.compute()
    assert of_images.metrics["boundary_f"].tolist() == [[1], [0], [0]]
    precision, recall = 8 / 9, 8 / 24
    assert scores.boundary_f.mean == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-15)
    assert scores.boundary_f.mean_per_image == pytest.approx(1 / 3, abs=1e-15)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's, about its own call
def test_the_boundary_of_a_moved_disc_is_monai_s_surface_dice() -> None:
    """For one shape moved, precision and recall are the same, and so is MONAI's ratio."""
    moved = torch.zeros(2, 64, 64, dtype=torch.long)
    moved[0, 10:41, 12:43] = moved[1, 13:44, 14:45] = torch.from_numpy(disk(15)).long()
    predicted, target = moved[:1], moved[1:]
    for tolerance in (0, 1, 2, 3, 4):
        metrics = SegmentationMetrics("binary", 1, boundary_tolerance=tolerance)
        metrics.update_masks(predicted, target)
        theirs = monai.metrics.compute_surface_dice(predicted[:, None], target[:, None], [tolerance])
        assert metrics.compute().boundary_f.mean == pytest.approx(theirs.item(), abs=1e-6)
    assert metrics.compute().boundary_f.mean == 1


def test_neither_the_border_nor_ignored_pixels_make_a_boundary() -> None:
    everything = torch.ones(1, 9, 9, dtype=torch.long)
    metrics = SegmentationMetrics("binary", 1, boundary_tolerance=0)
    metrics.update_masks(everything, everything)
    assert math.isnan(metrics.compute().boundary_f.mean)
    # An ignored ring around an object: what is predicted inside the ring has no boundary, what leaves it has one.
    target = torch.zeros(1, 9, 9, dtype=torch.long)
    target[:, 2:7, 2:7] = IGNORED
    target[:, 3:6, 3:6] = 1
    predicted = torch.zeros_like(target)
    predicted[:, 2:7, 3:6] = 1
    metrics.update_masks(predicted, target)
    assert math.isnan(metrics.compute().boundary_f.mean)
    predicted[:, 1, 4] = 1
    metrics.update_masks(predicted, target)
    assert metrics.compute().boundary_f.mean == 0


def test_boundary_scores_of_real_nuclei(shared_data: Path) -> None:
    found = []
    for path in sorted((shared_data / "nuclei" / "masks").iterdir())[:3]:
        true = read_image(path)[:1, :200, :200] > 127
        predicted = true.roll((1, 1), dims=(1, 2))
        metrics = SegmentationMetrics("binary", 1, boundary_tolerance=1)
        metrics.update_masks(predicted, true)
        everywhere = np.ones(true.shape[1:], dtype=bool)
        found.append(metrics.compute().boundary_f.mean)
        assert found[-1] == pytest.approx(slow_boundary_f(predicted[0].numpy(), true[0].numpy(), everywhere, 1))
        for name, expected in oracle("binary", predicted[:, None].float() - 0.5, true.long(), 1).items():
            equal(getattr(metrics.compute(), name).pooled, expected)
    assert 0.3 < min(found) < 1


# What is predicted


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.9, 0.999])
def test_a_class_is_predicted_above_the_threshold(dtype: torch.dtype, threshold: float) -> None:
    logits = torch.cat([torch.linspace(-9, 9, 4001), torch.tensor([0, -60000, 60000, -math.inf, math.inf])]).to(dtype)
    expected = logits.double().sigmoid() > threshold
    metrics = SegmentationMetrics("binary", 1, threshold=threshold, boundary_tolerance=None)
    metrics.update(logits[None, None, None], expected[None, None])
    assert metrics.compute().pixel_accuracy == 1


def test_a_logit_of_zero_is_not_above_one_half() -> None:
    scores = scored("multilabel", torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1))
    assert scores.recall.mean == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_first_of_equal_logits_is_predicted(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0, 2, 2], [-math.inf] * 3, [1, 0, 1], [-1, -2, math.inf]], dtype=dtype).T[None, :, None]
    scores = scored("multiclass", logits, torch.tensor([[[1, 0, 0, 2]]]))
    assert scores.pixel_accuracy == 1


def test_gradients_are_not_followed() -> None:
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    metrics = SegmentationMetrics("binary", 1)
    found = metrics.update(logits, torch.ones(1, 2, 2))
    assert not found.pixel_accuracy.requires_grad
    assert not metrics.compute().dice.pooled.requires_grad


# What the target may be


def test_every_type_of_target_counts_alike() -> None:
    logits, target = draw("binary", 2, 1, 8, 8, 3, ignored=0)
    expected = scored("binary", logits, target).to_dict()
    types = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.float16, torch.float32]
    for dtype in types:
        assert scored("binary", logits, target.to(dtype)).to_dict() == expected
        assert scored("binary", logits, target[:, None].to(dtype)).to_dict() == expected
    logits, target = draw("multiclass", 2, 3, 8, 8, 3, ignored=0)
    for dtype in types[1:6]:
        assert (
            scored("multiclass", logits, target.to(dtype)).to_dict() == scored("multiclass", logits, target).to_dict()
        )


def test_any_value_may_be_the_ignored_one() -> None:
    logits, target = draw("multiclass", 2, 3, 8, 8, 3)
    expected = scored("multiclass", logits, target)
    for value, dtype in ((255, torch.uint8), (3, torch.int64), (-1, torch.int16)):
        other = torch.where(target == IGNORED, value, target).to(dtype)
        assert scored("multiclass", logits, other, ignore_index=value).to_dict() == expected.to_dict()
    logits, target = draw("binary", 2, 1, 8, 8, 3)
    expected = scored("binary", logits, target)
    assert scored("binary", logits, target.float()).to_dict() == expected.to_dict()
    assert expected.accuracy.images.tolist() == [2]


def test_bytes_do_not_wrap_around_to_the_ignored_value() -> None:
    """As bytes, 156 and -100 are one."""
    target = torch.full((1, 4, 4), 156, dtype=torch.uint8)
    metrics = SegmentationMetrics("multiclass", 300, boundary_tolerance=None)
    metrics.update_masks(target, target)
    scores = metrics.compute()
    assert scores.pixel_accuracy == 1
    assert scores.dice.pooled[156] == 1


def test_predictions_on_ignored_pixels_do_not_matter() -> None:
    predicted = torch.tensor([[[1, 0, 200]]])
    target = torch.tensor([[[1, 0, IGNORED]]])
    metrics = SegmentationMetrics("binary", 1)
    metrics.update_masks(predicted, target)
    assert metrics.compute().pixel_accuracy == 1


@pytest.mark.parametrize(("task", "classes"), [("binary", 1), ("multiclass", 3), ("multilabel", 2)])
def test_where_all_is_ignored_no_score_is_defined(task: str, classes: int) -> None:
    logits, target = draw(task, 2, classes, 6, 6, 0)
    metrics = SegmentationMetrics(task, classes)
    rows = metrics.update(logits, torch.full_like(target, IGNORED)).rows()
    record = metrics.compute().to_dict()
    assert record.pop("images") == 2
    assert {*record.values(), *rows[0].values(), *rows[1].values()} == {None}
    metrics.update(logits, target)
    after = metrics.compute()
    assert after.images == 4
    alone = scored(task, logits, target)
    for name in METRICS:
        assert torch.equal(getattr(after, name).per_image, getattr(alone, name).per_image)


def test_empty_and_full_masks() -> None:
    empty, full = torch.zeros(1, 5, 5, dtype=torch.long), torch.ones(1, 5, 5, dtype=torch.long)
    nan = None
    expected = {  # prediction, target → dice, iou, precision, recall, specificity, accuracy, boundary_f
        (empty, empty): [nan, nan, nan, nan, 1, 1, nan],
        (full, full): [1, 1, 1, 1, nan, 1, nan],
        (full, empty): [0, 0, 0, nan, 0, 0, nan],
        (empty, full): [0, 0, nan, 0, nan, 0, nan],
    }
    for (predicted, target), values in expected.items():
        (row,) = SegmentationMetrics("binary", 1).update_masks(predicted, target).rows()
        assert [row[name] for name in METRICS] == values


def test_before_the_first_update_no_score_is_defined() -> None:
    metrics = SegmentationMetrics("multiclass", 3)
    record = metrics.compute().to_dict()
    assert record.pop("images") == 0
    assert set(record.values()) == {None}
    assert len(record) == 2 * 7 * 4 + 1


# Streaming


@settings(max_examples=50, deadline=None)
@given(cases, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 99))
def test_the_batches_do_not_matter(case: tuple[str, int], sizes: list[int], seed: int) -> None:
    task, classes = case
    logits, target = draw(task, sum(sizes), classes, 7, 9, seed)
    at_once = scored(task, logits, target)
    streamed = SegmentationMetrics(task, classes)
    parts = []
    for some, truth in zip(logits.split(sizes), target.split(sizes), strict=True):
        streamed.update(some, truth)
        part = SegmentationMetrics(task, classes)
        part.update(some, truth)
        parts.append(part)
    merged = SegmentationMetrics(task, classes)
    for part in reversed(parts):
        merged.merge(part)
    for scores in (streamed.compute(), merged.compute()):
        assert scores.to_dict() == pytest.approx(at_once.to_dict(), abs=1e-14)
        for name in METRICS:
            for form in ("pooled", "images"):
                a, b = (getattr(getattr(each, name), form) for each in (scores, at_once))
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_counts_stay_exact_beyond_what_float32_can_count() -> None:
    """2²⁷ true positives and one more, which float32 would lose, and one false positive."""
    metrics = SegmentationMetrics("binary", 1)
    metrics.update_masks(torch.ones(1, 1, 2), torch.ones(1, 1, 2))
    for _ in range(26):
        metrics.merge(metrics)
    metrics.update_masks(torch.ones(1, 1, 2), torch.tensor([[[1, 0]]]))
    scores = metrics.compute()
    assert scores.images == 2**26 + 1
    assert scores.precision.mean == (2**27 + 1) / (2**27 + 2)
    assert scores.dice.mean == (2**28 + 2) / (2**28 + 3)
    assert scores.precision.mean_per_image == (2**26 + 1 / 2) / (2**26 + 1)


def test_one_image_may_be_larger_than_float32_can_count() -> None:
    target = torch.ones(1, 4097, 4097, dtype=torch.bool)
    predicted = target.clone()
    predicted[0, 0, 0] = False
    metrics = SegmentationMetrics("binary", 1, boundary_tolerance=None)
    metrics.update_masks(predicted, target)
    assert metrics.compute().recall.mean == (4097**2 - 1) / 4097**2


def test_reset_forgets() -> None:
    logits, target = draw("multiclass", 2, 3, 8, 8, 0)
    metrics = SegmentationMetrics("multiclass", 3)
    metrics.update(logits + 9 * torch.randn_like(logits), target)
    metrics.reset()
    assert metrics.compute().images == 0
    metrics.update(logits, target)
    assert metrics.compute().to_dict() == scored("multiclass", logits, target).to_dict()


def test_inference_mode_may_come_and_go() -> None:
    logits, target = draw("binary", 2, 1, 8, 8, 0)
    metrics = SegmentationMetrics("binary", 1)
    with torch.inference_mode():
        metrics.update(logits, target)
    metrics.update(logits, target)
    with torch.inference_mode():
        metrics.update(logits, target)
    assert metrics.compute().dice.mean == scored("binary", logits, target).dice.mean
    assert metrics.compute().images == 6


def test_what_was_computed_does_not_change_afterwards() -> None:
    logits, target = draw("binary", 2, 1, 8, 8, 0)
    metrics = SegmentationMetrics("binary", 1)
    metrics.update(logits, target)
    scores = metrics.compute()
    before = scores.to_dict()
    metrics.update(-logits, target)
    metrics.reset()
    assert scores.to_dict() == before


def test_metrics_that_count_otherwise_are_not_merged() -> None:
    metrics = SegmentationMetrics("multilabel", 2, class_names=["a", "b"])
    other = SegmentationMetrics("multilabel", 3, threshold=0.4, boundary_tolerance=None)
    with pytest.raises(ConfigError) as caught:
        metrics.merge(other)
    classes, threshold, tolerance = caught.value.problems
    assert re.match(r"num_classes=2\b.*\b3\b", classes)
    assert re.match(r"threshold=0\.5\b.*\b0\.4\b", threshold)
    assert re.match(r"boundary_tolerance=2\.0\b.*\bNone\b", tolerance)
    metrics.merge(SegmentationMetrics("multilabel", 2))  # names count nothing
    assert metrics.compute().images == 0


# Several processes

PROCESS = """
import json, sys
import torch
import torch.distributed as dist
from unetzoo.metrics import SegmentationMetrics

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
logits, target = torch.load(f"{folder}/data.pt")
found = {}

def keep(name, metrics):
    scores = metrics.compute()
    bits = [float(v).hex() for n in ("dice", "boundary_f") for v in getattr(scores, n).per_image]
    found[name] = [scores.to_dict(), bits]

metrics = SegmentationMetrics("multiclass", 3)
metrics.sync()
keep("nothing", metrics)
for part in ([slice(0, 1), slice(1, 3)], [slice(3, 7)])[rank]:
    metrics.update(logits[part], target[part])
metrics.sync()
metrics.sync()
keep("shared", metrics)
if rank == 0:
    metrics.update(logits[:2], target[:2])
    found["own"] = metrics.compute().images
metrics.sync()
keep("more", metrics)
metrics.reset()
if rank == 1:
    metrics.update(logits, target)
metrics.sync()
keep("one idle", metrics)
unlike = SegmentationMetrics("multiclass", 3, boundary_tolerance=1 + rank)
try:
    unlike.sync()
except ValueError as error:
    found["unlike"] = str(error)
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


def take_part(folder: Path, rank: int) -> None:
    sys.argv = ["-c", str(folder), str(rank)]
    exec(PROCESS, {"__name__": "__main__"})


def test_processes_that_share_the_images_agree_with_one_that_has_all(tmp_path: Path) -> None:
    logits, target = draw("multiclass", 7, 3, 11, 13, 2)
    torch.save((logits, target), tmp_path / "data.pt")
    processes = [PROCESSES.Process(target=take_part, args=(tmp_path, rank)) for rank in range(2)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    unlike = [each.pop("unlike") for each in (one, two)]
    assert one.pop("own") == 3 + 2  # until the next sync
    assert one == two  # to the last bit
    assert re.search(r"process 1: boundary_tolerance=1\b.*\b2\b", unlike[0])
    assert re.search(r"process 0: boundary_tolerance=2\b.*\b1\b", unlike[1])
    expected = {
        "shared": scored("multiclass", logits, target),
        "more": scored("multiclass", torch.cat([logits, logits[:2]]), torch.cat([target, target[:2]])),
        "one idle": scored("multiclass", logits, target),
        "nothing": SegmentationMetrics("multiclass", 3).compute(),
    }
    for name, scores in expected.items():
        found, alone = one[name][0], scores.to_dict()
        assert found == pytest.approx(alone, abs=1e-14), name
        pooled = [key for key in alone if "per_image" not in key]
        assert [found[key] for key in pooled] == [alone[key] for key in pooled], name


def test_in_one_process_there_is_nothing_to_share() -> None:
    logits, target = draw("binary", 2, 1, 8, 8, 0)
    metrics = SegmentationMetrics("binary", 1)
    metrics.update(logits, target)
    metrics.sync()
    metrics.update(logits, target)
    metrics.sync()
    assert metrics.compute().images == 4


# Wrong input

BINARY, MULTICLASS, MULTILABEL = ("binary", 1), ("multiclass", 3), ("multilabel", 2)


@pytest.mark.parametrize(
    ("kind", "logits", "target", "parts"),
    [
        (BINARY, torch.zeros(2, 1, 4, 5), torch.zeros(2, 5, 4), ["(2, 5, 4)", "(2, 4, 5) or (2, 1, 4, 5) is needed"]),
        (BINARY, torch.zeros(2, 4, 5), torch.zeros(2, 4, 5), ["logits of shape (2, 4, 5): (N, 1, H, W) is needed"]),
        (BINARY, torch.zeros(2, 2, 4, 5), torch.zeros(2, 4, 5), ["(N, 1, H, W) is needed"]),
        (BINARY, torch.zeros(4, 5), torch.zeros(4, 5), ["logits of shape (4, 5)", "target of shape (4, 5)"]),
        (BINARY, torch.zeros(5), torch.zeros(1, 1, 1, 4, 5), ["logits of shape (5,)", "(N, H, W) or (N, 1, H, W)"]),
        (BINARY, torch.zeros(2, 1, 4, 5).long(), torch.zeros(2, 4, 5), ["torch.int64", "update_masks"]),
        (BINARY, torch.zeros(0, 1, 4, 5), torch.zeros(0, 4, 5), ["logits of shape (0, 1, 4, 5)", "no pixel"]),
        (BINARY, torch.zeros(1, 1, 4, 0), torch.zeros(1, 4, 0), ["target of shape (1, 4, 0)", "no pixel"]),
        (BINARY, [[0.0]], np.zeros((1, 1)), ["logits: a torch.Tensor", "not list", "target: a", "not ndarray"]),
        (BINARY, torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), 255), ["target holds 255: 0 and 1", "-100"]),
        (BINARY, torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), 0.5), ["target holds 0.5"]),
        (BINARY, torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), math.nan), ["target holds nan"]),
        (BINARY, torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), -math.inf), ["target holds -3"]),
        (BINARY, torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.complex64), ["complex64: integers"]),
        (BINARY, torch.tensor([[[[0.0, math.nan]]]]), torch.zeros(1, 1, 2), ["logits hold nan"]),
        (MULTICLASS, torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4).long(), ["(1, 4, 4) is needed", "target[:, 0]"]),
        (MULTICLASS, torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4).long(), ["target.argmax(dim=1)"]),
        (
            MULTICLASS,
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, 9, 9).long(),
            ["(1, 9, 9)", "(1, 4, 4)", "crop", "unet_valid"],
        ),
        (MULTICLASS, torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), ["torch.float32: integers are needed"]),
        (MULTICLASS, torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 3), ["target holds 3: ", "0 to 2"]),
        (MULTICLASS, torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), -1), ["target holds -1: ", "0 to 2"]),
        (
            MULTICLASS,
            torch.tensor([0.0, math.nan, 1]).reshape(1, 3, 1, 1),
            torch.full((1, 1, 1), 7),
            ["logits hold nan", "target holds 7"],
        ),
        (MULTILABEL, torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4), ["target of shape (1, 4, 4): (1, 2, 4, 4)"]),
        (MULTILABEL, torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 2), ["target holds 2: ", "0 and 1"]),
        (MULTILABEL, torch.zeros(1, 2, 4, 4, device="meta"), torch.zeros(1, 2, 4, 4), ["on cpu", "on meta"]),
    ],
)
def test_logits_that_cannot_be_scored(kind: tuple[str, int], logits: object, target: object, parts: list[str]) -> None:
    metrics = SegmentationMetrics(*kind)
    good = draw(*kind[:1], 2, kind[1], 6, 6, 0)
    metrics.update(*good)
    before = metrics.compute().to_dict()
    with pytest.raises(InputError) as caught:
        metrics.update(logits, target)
    for part in parts:
        assert part in str(caught.value)
    assert metrics.compute().to_dict() == before


@pytest.mark.parametrize(
    ("kind", "predicted", "target", "parts"),
    [
        (BINARY, torch.zeros(4, 5), torch.zeros(4, 5), ["predicted of shape (4, 5)", "target of shape (4, 5)"]),
        (BINARY, torch.zeros(2, 4, 5), torch.zeros(2, 4, 6), ["predicted of shape (2, 4, 5)", "(2, 4, 6) or"]),
        (BINARY, torch.full((1, 2, 2), 0.7), torch.zeros(1, 2, 2), ["prediction holds 0.7: ", "0 and 1"]),
        (BINARY, torch.full((1, 2, 2), IGNORED), torch.zeros(1, 2, 2), ["prediction holds -100"]),
        (MULTICLASS, torch.full((1, 2, 2), 3), torch.full((1, 2, 2), 4), ["prediction holds 3", "target holds 4"]),
        (MULTICLASS, torch.zeros(1, 3, 2, 2).long(), torch.zeros(1, 2, 2).long(), ["predicted.argmax(dim=1)"]),
        (MULTICLASS, torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), ["predicted of torch.float32: integers"]),
        (MULTILABEL, torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), ["predicted of shape (1, 3, 2, 2)"]),
        (MULTILABEL, None, None, ["predicted: a torch.Tensor", "target: a torch.Tensor"]),
    ],
)
def test_masks_that_cannot_be_scored(
    kind: tuple[str, int], predicted: object, target: object, parts: list[str]
) -> None:
    metrics = SegmentationMetrics(*kind)
    with pytest.raises(InputError) as caught:
        metrics.update_masks(predicted, target)
    for part in parts:
        assert part in str(caught.value)
    assert metrics.compute().images == 0


def test_what_a_device_was_not_made_to_wait_for_is_refused_by_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at once, as on a GPU, the faults stay in the count, through merges too, until a reset."""
    faulty = SegmentationMetrics("multiclass", 3)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationMetrics, "_refuse", lambda self, faults: None)
        faulty.update(torch.full((1, 3, 2, 2), math.nan), torch.zeros(1, 2, 2).long())
        faulty.update(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 9))
        faulty.update(*draw("multiclass", 2, 3, 6, 6, 0))
    total = SegmentationMetrics("multiclass", 3)
    total.update(*draw("multiclass", 2, 3, 6, 6, 0))
    total.merge(faulty)
    for metrics in (faulty, total):
        with pytest.raises(InputError, match=r"logits hold nan; .*target holds 9: .*0 to 2"):
            metrics.compute()
        metrics.reset()
        assert metrics.compute().images == 0


@pytest.mark.parametrize(("task", "classes"), [BINARY, MULTICLASS, MULTILABEL])
def test_an_update_reads_no_value_where_reading_would_wait(task: str, classes: int) -> None:
    """Tensors on meta have no values: whatever would fetch one from a device raises."""
    logits, target = (tensor.to("meta") for tensor in draw(task, 3, classes, 8, 9, 0))
    metrics = SegmentationMetrics(task, classes)
    metrics.update(logits, target)
    metrics.update_masks(target, target)
    found = metrics.update(logits, target)
    assert {name: values.shape for name, values in found.metrics.items()} == dict.fromkeys(METRICS, (3, classes))
    with pytest.raises(NotImplementedError, match="meta"):
        found.rows()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"task": "multi-class", "num_classes": 3}, ["'multi-class'", "did you mean 'multiclass'"]),
        ({"task": None, "num_classes": 3}, ["task=None"]),
        ({"task": "binary", "num_classes": 2}, ["num_classes=2", "task='binary'"]),
        ({"task": "multiclass", "num_classes": 1}, ["num_classes=1", "task='multiclass'"]),
        ({"task": "multilabel", "num_classes": 0}, ["num_classes=0: a whole number"]),
        ({"task": "multilabel", "num_classes": True}, ["num_classes=True"]),
        ({"task": "binary", "num_classes": 1, "ignore_index": 1}, ["ignore_index=1 with task='binary'"]),
        ({"task": "binary", "num_classes": 1, "ignore_index": 2.0}, ["ignore_index=2.0: a whole number"]),
        (
            {"task": "multiclass", "num_classes": 2, "threshold": 0.3},
            ["threshold=0.3", "task='multiclass'", "leave it out"],
        ),
        ({"task": "multilabel", "num_classes": 2, "class_names": "ab"}, ["class_names='ab': ", "list or tuple"]),
        ({"task": "multilabel", "num_classes": 2, "class_names": ["a", 1]}, ["class_names=['a', 1]"]),
        (
            {"task": "multilabel", "num_classes": 2, "class_names": ["a", "b", "a"]},
            ["3 names for num_classes=2", "'a' given more than once"],
        ),
        *(
            ({"task": "binary", "num_classes": 1, "threshold": value}, [f"threshold={value!r}: a probability"])
            for value in (0, 1, -0.5, math.nan, "0.5", True)
        ),
        *(
            ({"task": "binary", "num_classes": 1, "boundary_tolerance": value}, [f"boundary_tolerance={value!r}: a"])
            for value in (-1, math.inf, math.nan, "2", True)
        ),
    ],
)
def test_metrics_that_cannot_be_set_up(arguments: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        SegmentationMetrics(**arguments)
    for part in parts:
        assert part in str(caught.value)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SegmentationMetrics(
            "binary", 3, ignore_index=0, threshold=2, boundary_tolerance=-1, class_names=["nucleus", "nucleus"]
        )
    assert len(caught.value.problems) == 6


def test_ignoring_a_class_of_a_multiclass_task_is_allowed() -> None:
    logits, target = draw("multiclass", 2, 3, 8, 8, 0, ignored=0)
    scores = scored("multiclass", logits, target, ignore_index=0)
    expected = reference.multiclass_accuracy(logits, target, 3, average="micro", ignore_index=0)
    assert scores.pixel_accuracy == pytest.approx(float(expected), abs=1e-6)
    assert math.isnan(scores.recall.pooled[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize(("task", "classes"), [BINARY, MULTICLASS, MULTILABEL])
def test_a_gpu_counts_the_same_and_is_never_waited_for(task: str, classes: int) -> None:
    logits, target = draw(task, 3, classes, 40, 50, 0)
    expected = SegmentationMetrics(task, classes)
    rows = expected.update(logits, target).rows()
    metrics = SegmentationMetrics(task, classes)
    there = logits.cuda(), target.cuda()
    metrics.update(*there)
    metrics.reset()
    with never_waits():
        found: ImageScores = metrics.update(*there)
        metrics.update(*there)
    assert found.pixel_accuracy.is_cuda
    assert all(row == pytest.approx(other, abs=1e-12) for row, other in zip(found.rows(), rows, strict=True))
    expected.update(logits, target)
    assert metrics.compute().to_dict() == pytest.approx(expected.compute().to_dict(), abs=1e-12)
    metrics.update(there[0], torch.full_like(there[1], 7))
    with pytest.raises(InputError, match="target holds 7"):
        metrics.compute()


# Intervals


def test_intervals_of_two_images_end_at_each_of_them() -> None:
    """A quarter of the draws is of one image alone: 2.5 % from either end lie those, by class and in their mean."""
    metrics = SegmentationMetrics("multiclass", 3, class_names=["ground", "cell", "wall"])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 16, 16, generator=generator)
    scores = metrics.update(logits, torch.randint(3, (2, 16, 16), generator=generator))
    found = pixel_intervals(scores.counts, metrics.class_names)
    one, other = scores.rows()
    for name in ("dice", "iou/wall", "boundary_f/cell", "specificity"):
        assert found[name] == pytest.approx(sorted((one[name], other[name])))


def test_intervals_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 200, (40, 4, 1)) * generator.integers(1, 5, (40, 1, 1))

    def dice(tp: Any, fp: Any, fn: Any, axis: int = -1) -> Any:
        return 2 * tp.sum(axis) / (2 * tp.sum(axis) + fp.sum(axis) + fn.sum(axis))

    expected = stats.bootstrap(
        tuple(counts[:, k, 0] for k in range(3)), dice, paired=True, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    low, high = pixel_intervals(torch.from_numpy(counts), ["cell"])["dice"]
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.05 * (expected.high - expected.low))


def test_intervals_of_objects_of_two_images_end_at_each_of_them() -> None:
    counts = torch.tensor([[[4.0], [5], [3], [2.4]], [[10], [8], [2], [1.5]]])  # true, found, met, their IoU
    found = object_intervals(counts, ["cell"])
    assert found["object_ap_50"] == pytest.approx((2 / 16, 3 / 6))
    assert found["object_f1"] == pytest.approx((4 / 18, 6 / 9))
    assert found["object_pq"] == pytest.approx((3 / 18, 4.8 / 9))
