"""Figures of found objects, against closed forms, StarDist's formula, pycocotools and a plain search."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unetzoo import ConfigError, InputError
from unetzoo.objects import Instances, ObjectScores, instances, matched
from unetzoo.objects.scores import AP, FIGURES, THRESHOLDS

SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def numbered(*rows: str) -> Tensor:
    """Return ids, a letter an object, a point being none."""
    return torch.tensor([[0 if sign == "." else ord(sign) for sign in row] for row in rows])


def told(ids: Tensor) -> Instances:
    return instances((ids > 0).byte(), "binary", 1, ids=ids)


def scored(found: Tensor, true: Tensor, **given: object) -> ObjectScores:
    return matched(told(found), told(true), **given)


def pooled(found: Tensor, true: Tensor) -> dict[str, float]:
    return scored(found, true).pooled()


# Objects that are known


@settings(max_examples=60, deadline=None)
@given(SIDES.flatmap(lambda size: st.tuples(*[arrays(np.int64, size, elements=st.integers(0, 3))] * 2)))
def test_objects_by_their_ids_are_those_of_a_plain_search(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    classes, ids = drawn
    found = instances(torch.from_numpy(classes), "multiclass", 4, ids=torch.from_numpy(ids * 1000))
    expected: dict[tuple[int, int], set[int]] = {}
    for at, key in enumerate(zip(classes.ravel().tolist(), ids.ravel().tolist(), strict=True)):
        if all(key):
            expected.setdefault(key, set()).add(at)
    assert found.classes.tolist() == [kind for kind, _ in expected]  # in the order of first pixels
    assert found.areas.tolist() == [len(pixels) for pixels in expected.values()]
    for k, pixels in enumerate(expected.values(), 1):
        assert set(np.flatnonzero(found.labels.numpy() == k).tolist()) == pixels


def test_ids_of_layers_and_of_any_type() -> None:
    ids = torch.tensor([[[1.0, 1, 2]], [[2, 0, 1]]])
    found = instances(torch.ones(2, 1, 3, dtype=torch.uint8), "multilabel", 2, ids=ids)
    assert found.labels.tolist() == [[[1, 1, 2]], [[3, 0, 4]]]
    assert found.classes.tolist() == [0, 0, 1, 1]
    one = instances(torch.ones(1, 2, dtype=torch.uint8), "binary", 1, ids=torch.tensor([[7, 9]], dtype=torch.uint16))
    assert one.labels.tolist() == [[1, 2]]
    for wrong in (torch.ones(1, 3), np.ones((1, 2)), torch.ones(1, 1, 1, 2)):
        with pytest.raises(InputError, match="ids"):
            instances(torch.ones(1, 2, dtype=torch.uint8), "binary", 1, ids=wrong)


# Closed forms


def test_two_objects_found_as_one() -> None:
    """6 + 4 pixels merged: an IoU of 0.6 with the larger one."""
    scores = scored(numbered("aaaaaaaaaa"), numbered("aaaaaabbbb"))
    figures = scores.pooled()
    assert (scores.true, scores.found, scores.met) == (2, 1, 1)
    assert [figures[name] for name in AP] == [0.5, 0.5] + [0] * 8  # an IoU of 0.6 is not above 0.6
    assert figures["ap"] == pytest.approx(0.1)
    assert (figures["precision"], figures["recall"], figures["f1"]) == (1, 0.5, pytest.approx(2 / 3))
    assert figures["pq"] == pytest.approx(0.6 / 1.5)
    assert (figures["sq"], figures["rq"], figures["true_iou"]) == pytest.approx((0.6, 2 / 3, 0.3))
    assert scores.row()["objects_error"] == -1


def test_one_object_found_as_two() -> None:
    figures = pooled(numbered("aaaaaaabbb"), numbered("aaaaaaaaaa"))
    assert (figures["ap_50"], figures["ap_65"], figures["ap_70"]) == (0.5, 0.5, 0)
    assert (figures["precision"], figures["recall"]) == (0.5, 1)
    assert figures["pq"] == pytest.approx(0.7 / 1.5)
    halves = pooled(numbered("aaaaabbbbb"), numbered("aaaaaaaaaa"))
    assert (halves["ap_50"], halves["pq"]) == (0, 0)  # neither lies above one half


@pytest.mark.parametrize("shift", range(8))
def test_an_object_that_is_shifted(shift: int) -> None:
    found, true = ("." * n + "a" * 8 + "." * (8 - n) for n in (shift, 0))
    figures, iou = pooled(numbered(found), numbered(true)), Fraction(8 - shift, 8 + shift)
    assert [figures[name] for name in AP] == [float(iou > Fraction(t, 100)) for t in THRESHOLDS]
    assert figures["pq"] == pytest.approx(float(iou) if iou > Fraction(1, 2) else 0)
    assert figures["rq"] == float(iou > Fraction(1, 2))


def test_an_object_inside_another() -> None:
    true = numbered("aaaaaa", "abbbba", "abbbba", "aaaaaa")
    assert set(scored(true, true).pooled().values()) == {1}
    melted = scored(torch.full_like(true, 1), true)  # of 24 pixels 16 are of the outer one
    assert (melted.true, melted.found, melted.met) == (2, 1, 1)
    assert melted.pooled()["sq"] == pytest.approx(16 / 24)


def test_where_there_is_nothing() -> None:
    nothing, something = numbered("...."), numbered("aa.b")
    neither = scored(nothing, nothing)
    assert all(map(math.isnan, neither.pooled().values()))
    assert neither.row()["object_ap"] is None
    missed, false = scored(nothing, something), scored(something, nothing)
    assert (missed.pooled()["ap"], missed.pooled()["recall"], missed.pooled()["pq"]) == (0, 0, 0)
    assert math.isnan(missed.pooled()["precision"])
    assert math.isnan(false.pooled()["recall"])
    assert (missed.row()["objects_error"], false.row()["objects_error"]) == (-2, 2)
    total = sum([neither, missed, false], ObjectScores())
    assert (total.images, total.true, total.found, total.met) == (3, 2, 2, 0)
    assert total.to_dict()["objects_error"] == 0
    assert total.to_dict()["objects_absolute_error_per_image"] == pytest.approx(4 / 3)


def test_objects_of_the_same_pixels_and_another_class_do_not_meet() -> None:
    ours, theirs = torch.tensor([[1, 1, 0, 2]] * 2), torch.tensor([[2, 2, 0, 2]] * 2)
    scores = matched(
        *(instances(mask, "multiclass", 3) for mask in (ours, theirs)), class_names=["ground", "disc", "ring"]
    )
    assert scores.class_names == ("disc", "ring")
    disc, ring = scores.classes
    assert (disc.true, disc.found, disc.met[0]) == (0, 1, 0)
    assert (ring.true, ring.found, ring.met[-1]) == (2, 1, 1)
    record = scores.to_dict()
    assert (record["object_ap/disc"], record["object_ap/ring"], record["object_ap"]) == (0, 0.5, 0.25)
    assert (record["objects_true/ring"], record["objects_true"], record["objects_error/disc"]) == (2, 2, 1)
    layers = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 1, 1]]])
    both = [instances(mask, "multilabel", 2) for mask in (layers, layers.flip(0))]
    assert matched(both[0], both[0]).met == 2
    assert matched(*both).met == 0


def test_scores_of_images_add_up() -> None:
    """Pooled by objects; per image as the mean of the images where a figure is defined."""
    one = scored(numbered("aa.b"), numbered("aa.b"))
    other = scored(numbered("aa.b.c.d"), numbered("aa......"))
    nothing = scored(numbered("...."), numbered("...."))
    total = one + other + nothing
    assert (total.true, total.found, total.met, total.images) == (3, 6, 3, 3)
    assert total.pooled()["ap_50"] == total.pooled()["ap"] == 0.5
    assert total.per_image()["ap_50"] == pytest.approx((1 + 1 / 4) / 2)
    assert total.to_dict()["object_precision_per_image"] == pytest.approx((1 + 1 / 4) / 2)
    assert (nothing + other + one).pooled() == total.pooled()
    assert ObjectScores() + one == one + ObjectScores() == one
    assert "objects_absolute_error_per_image" not in one.row()
    lines = str(total).splitlines()
    assert lines[0].split() == ["objects", "true", "found", "F1", "precision", "recall", "PQ", "SQ"]
    assert lines[1].split() == ["all", "3", "6", "0.6667", "0.5000", "1.0000", "0.6667", "1.0000"]
    with pytest.raises(InputError, match="same classes"):
        one + scored(numbered("a"), numbered("a"), class_names=["nucleus"])


def test_objects_that_cannot_be_matched() -> None:
    small, large = told(numbered("a.")), told(numbered("a..", "..."))
    with pytest.raises(InputError, match=r"\('binary', 1, \(1, 2\)\),.* \('binary', 1, \(2, 3\)\)"):
        matched(small, large)
    with pytest.raises(InputError, match="ignored"):
        matched(small, small, ignored=torch.zeros(2, 1, dtype=torch.bool))
    with pytest.raises(ConfigError, match="class_names"):
        matched(small, small, class_names=["a", "b"])


# StarDist


def stardist(found: np.ndarray, true: np.ndarray, threshold: float) -> dict[str, float]:
    """Return StarDist's figures, written anew: the assignment of most pairs of an IoU of the threshold or more."""
    theirs, ours = ([n for n in np.unique(ids) if n] for ids in (true, found))
    ious = np.array([[((true == t) & (found == f)).sum() / ((true == t) | (found == f)).sum() for f in ours]
                     for t in theirs]).reshape(len(theirs), len(ours))  # fmt: skip
    fewer = max(min(ious.shape), 1)
    pairs = linear_sum_assignment(-(ious >= threshold).astype(float) - ious / (2 * fewer))
    met = ious[pairs][ious[pairs] >= threshold]
    tp, fp, fn = len(met), len(ours) - len(met), len(theirs) - len(met)
    shares = {
        "accuracy": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "f1": (2 * tp, 2 * tp + fp + fn),
        "mean_matched_score": (met.sum(), tp),
        "mean_true_score": (met.sum(), len(theirs)),
        "panoptic_quality": (met.sum(), tp + fp / 2 + fn / 2),
    }
    return {name: part / whole if whole else 0 for name, (part, whole) in shares.items()}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_figures_are_those_of_stardist_but_where_an_iou_is_the_threshold(data: st.DataObject) -> None:
    size = data.draw(SIDES)
    true = data.draw(arrays(np.int64, size, elements=st.integers(0, 4)))
    change = data.draw(arrays(np.int64, size, elements=st.sampled_from([0, 0, 0, 1, 4])))
    found = (true + change) % 5
    scores = pooled(*map(torch.from_numpy, (found, true)))
    for threshold, name in zip(THRESHOLDS, AP, strict=True):
        theirs = stardist(found, true, threshold / 100 + 1e-9)  # ≥ just above is > at it
        assert scores[name] == pytest.approx(theirs["accuracy"]) or math.isnan(scores[name])
    theirs = stardist(found, true, 0.5 + 1e-9)
    ours = {"precision": "precision", "recall": "recall", "f1": "f1", "mean_matched_score": "sq",
            "mean_true_score": "true_iou", "panoptic_quality": "pq"}  # fmt: skip
    for name, figure in ours.items():
        # What is not defined is 0 in StarDist.
        assert theirs[name] == pytest.approx(0 if math.isnan(scores[figure]) else scores[figure])


def test_an_iou_that_is_the_threshold_is_not_above_it() -> None:
    """11 of 20 pixels are 0.55, of which floating point has 0.55 * 20 = 11.000000000000002."""
    found, true = numbered("a" * 11 + "." * 9), numbered("a" * 20)
    arrays_ = found.numpy(), true.numpy()
    assert pooled(found, true)["ap_50"] == 1
    assert (pooled(found, true)["ap_55"], stardist(*arrays_, 0.55)["accuracy"]) == (0, 1)
    more = numbered("a" * 12 + "." * 8)
    assert pooled(more, true)["ap_55"] == 1
    half, whole = numbered("aa.."), numbered("aaaa")
    assert (pooled(half, whole)["ap_50"], stardist(half.numpy(), whole.numpy(), 0.5)["accuracy"]) == (0, 1)


# What does not count, and pycocotools


def cocos(found: Tensor, true: Tensor, ignored: Tensor) -> list[tuple[int, int, int]]:
    """Return met, false and missed at each threshold by pycocotools, to which ``ignored`` is a crowd."""

    def encoded(pixels: Tensor) -> dict:
        return coco_masks.encode(np.asfortranarray(pixels.numpy().astype(np.uint8)))

    height, width = true.shape
    regions = [(true == n, 0) for n in true[true > 0].unique()] + ([(ignored, 1)] if ignored.any() else [])
    drawings = [
        {"id": k, "image_id": 1, "category_id": 1, "segmentation": encoded(pixels), "iscrowd": crowd,
         "area": int(pixels.sum())}
        for k, (pixels, crowd) in enumerate(regions, 1)
    ]  # fmt: skip
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "annotations": drawings,
        "categories": [{"id": 1, "name": "a"}],
    }
    truth.createIndex()
    answers = [
        {"image_id": 1, "category_id": 1, "segmentation": encoded(found == n), "score": 0.5}
        for n in found[found > 0].unique()
    ]
    judge = COCOeval(truth, truth.loadRes(answers), "segm")
    judge.params.iouThrs = np.array(THRESHOLDS) / 100 + 1e-9  # ≥ just above is > at it
    judge.evaluate()
    (image, *_) = judge.evalImgs  # of all areas
    counts = []
    for k in range(len(THRESHOLDS)):
        met, left = image["dtMatches"][k] > 0, image["dtIgnore"][k] > 0
        missed = (image["gtMatches"][k] == 0) & (image["gtIgnore"] == 0)
        counts.append((int((met & ~left).sum()), int((~met & ~left).sum()), int(missed.sum())))
    return counts


def ours(found: Tensor, true: Tensor, ignored: Tensor) -> list[tuple[int, int, int]]:
    scores = scored(found, true, ignored=ignored)
    return [(met, scores.found - met, scores.true - met) for met in scores.classes[0].met]


@pytest.mark.parametrize("crowd", [False, True])
def test_counts_are_those_of_pycocotools(crowd: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Discs of which some are shifted, missed or made up; what is found in the crowd lies in it as a whole."""
    rng = np.random.default_rng(int(crowd))
    for _ in range(5):
        true, found = torch.zeros(2, 120, 120, dtype=torch.int64)
        ignored = torch.zeros(120, 120, dtype=torch.bool)
        y, x = torch.meshgrid(torch.arange(120), torch.arange(120), indexing="ij")
        for k, (row, column) in enumerate(np.ndindex(6, 6), 1):
            radius, (dy, dx) = rng.uniform(4, 9), rng.uniform(-3, 3, 2)
            disc = (y - 10 - 20 * row) ** 2 + (x - 10 - 20 * column) ** 2 < radius**2
            moved = (y - 10 - 20 * row - dy) ** 2 + (x - 10 - 20 * column - dx) ** 2 < rng.uniform(4, 9) ** 2
            if crowd and column == 5:
                ignored[20 * row : 20 * row + 20, 96:] = True
                found[moved & ignored] = k
                continue
            if rng.random() < 0.85:
                true[disc & (x < 96)] = k
            if rng.random() < 0.85:
                found[moved & (x < 96)] = k
        expected = cocos(found, true, ignored)
        assert ours(found, true, ignored) == expected
        assert expected[0] != expected[-1]
        assert not crowd or scored(found, true, ignored=ignored).found < len(found.unique()) - 1


@pytest.mark.parametrize("inside", range(11))
def test_what_lies_mostly_in_a_crowd_is_left_out(inside: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Of ten pixels: five are one half, and no more."""
    found = numbered("." * inside + "a" * 10 + "." * (10 - inside))
    ignored = torch.zeros(1, 20, dtype=torch.bool)
    ignored[:, 10:] = True
    nothing = torch.zeros_like(found)
    assert scored(found, nothing, ignored=ignored).found == int(inside <= 5)
    assert ours(found, nothing, ignored)[0] == cocos(found, nothing, ignored)[0]


def test_pixels_that_do_not_count_are_in_no_union() -> None:
    """As void pixels in panoptic quality: an object that is found, and more of it where nobody labelled, has met."""
    found, true = numbered("aaaaaaaaaa"), numbered("aaaa......")
    ignored = torch.tensor([[False] * 4 + [True] * 6])
    assert scored(found, true, ignored=ignored).row()["object_pq"] == 1
    assert scored(found, true).row()["object_pq"] == 0
    hidden = scored(true, true, ignored=~ignored)  # nothing of it counts
    assert (hidden.true, hidden.found) == (0, 0)


def test_classes_of_layers_have_their_own_pixels_that_do_not_count() -> None:
    layers = torch.ones(2, 1, 4, dtype=torch.uint8)
    ignored = torch.zeros(2, 1, 4, dtype=torch.bool)
    ignored[1] = True
    found = instances(layers, "multilabel", 2)
    scores = matched(found, found, ignored=ignored)
    assert [(one.true, one.found) for one in scores.classes] == [(1, 1), (0, 0)]
    assert scores.to_dict()["object_ap"] == 1  # of the class where it is defined


# Many objects


def test_thirty_thousand_objects() -> None:
    """A grid of squares, of which every third is one column short: an IoU of 0.75."""
    side, count = 4, 174
    number = torch.arange(1, count * count + 1).reshape(count, count)
    true = number.repeat_interleave(side, 0).repeat_interleave(side, 1)
    found = true.clone()
    found[:, side - 1 :: 3 * side] = 0
    short = count * len(range(0, count, 3))
    scores = scored(found, true)
    figures, total = scores.pooled(), count * count
    assert (scores.true, scores.found, scores.met) == (total, total, total)
    assert [figures[name] for name in AP] == [1] * 5 + [pytest.approx((total - short) / (total + short))] * 5
    assert figures["pq"] == pytest.approx(1 - short / total / 4)


def test_every_figure_has_a_name() -> None:
    assert tuple(pooled(numbered("a"), numbered("a"))) == FIGURES
