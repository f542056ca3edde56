"""Augmentation: the values that each transform makes, image and mask together, and compositions of names."""

from __future__ import annotations

import inspect
import json
import math
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings, strategies as st
from scipy import ndimage, stats
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from unetzoo import ConfigError, InputError, augmentation
from unetzoo.augmentation import IGNORED, PRESETS, Augmentation, RandomWarp, build
from unetzoo.augmentation.borrowed import CLIPPING, CONTAINERS, REFUSED, TORCHVISION
from unetzoo.augmentation.composing import parse
from unetzoo.images import read_image

WARP = {"RandomWarp": {"displacement": 2, "spacing": 16, "p": 1}}
GEOMETRY: list[Any] = [
    "RandomQuarterTurn",
    WARP,
    {"RandomRotation": {"degrees": 180}},
    {"RandomRotation": {"degrees": [20, 50], "expand": True}},
    {"RandomAffine": {"degrees": 90, "scale": [0.7, 1.2]}},
    {"RandomAffine": {"degrees": 10, "translate": [0.2, 0.2], "shear": 10}},
    {"ElasticTransform": {"alpha": 60, "sigma": 4}},
    {"RandomPerspective": {"p": 1.0}},
    {"RandomResizedCrop": {"size": [70, 60]}},
    {"RandomCrop": {"size": 90, "pad_if_needed": True}},
    {"CenterCrop": {"size": [90, 40]}},
    {"RandomZoomOut": {"p": 1.0, "side_range": [1.0, 2.0]}},
    {"Pad": {"padding": 5}},
    {"Resize": {"size": 100}},
    {"RandomChoice": {"transforms": ["RandomHorizontalFlip", WARP, {"RandomRotation": {"degrees": 45}}]}},
]
PHOTOMETRY: list[Any] = [
    {"RandomBrightness": {"strength": 0.7, "p": 1}},
    {"RandomContrast": {"strength": 0.7, "p": 1}},
    {"RandomGamma": {"gamma": [0.5, 2], "p": 1}},
    {"RandomGamma": {"gamma": [0.5, 2], "inverted": True, "p": 1}},
    {"RandomLowResolution": {"scale": [0.4, 0.9], "p": 1}},
    {"RandomNoise": {"sigma": 0.7, "p": 1}},
    {"RandomBlur": {"sigma": 2, "p": 1}},
]


def name_of(entry: Any) -> str:
    return entry if isinstance(entry, str) else next(iter(entry))


def blocks(height: int = 72, width: int = 64, side: int = 16) -> Tensor:
    """Return a mask of random labels 0…4 in blocks."""
    labels = torch.randint(5, (math.ceil(height / side), math.ceil(width / side)))
    return labels.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]


def coordinates(height: int, width: int) -> Tensor:
    """Return an image whose two channels say where each pixel is: bilinear interpolation keeps that exact."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x]).float()


def inside(mask: Tensor) -> Tensor:
    """Return which pixels come from well inside of the image: at its very border they mix with the mean."""
    unknown = F.pad((mask == IGNORED).float()[None], (2, 2, 2, 2), value=1)
    return F.max_pool2d(unknown, 5, 1)[0] == 0


def seeded(augmentation: Augmentation, seed: int, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed writes down the stack for GPUs to come
    return augmentation(image, torch.zeros(image.shape[-2:], dtype=torch.int64) if mask is None else mask)


# One transform at a time.


@pytest.mark.parametrize(("name", "axis"), [("RandomHorizontalFlip", -1), ("RandomVerticalFlip", -2)])
def test_flips_are_torch_s(name: str, axis: int) -> None:
    image, mask = torch.randn(3, 20, 30), torch.randint(5, (4, 20, 30))
    flipped = build([{name: {"p": 1.0}}])(image, mask)
    assert torch.equal(flipped[0], image.flip(axis))
    assert torch.equal(flipped[1], mask.flip(axis))


def test_quarter_turns_are_torch_s_and_equally_likely() -> None:
    image, mask = torch.randn(2, 5, 7), torch.randint(5, (5, 7))
    turn = build("RandomQuarterTurn")
    counts = [0] * 4
    for seed in range(200):
        turned, labels = seeded(turn, seed, image, mask)
        (k,) = (k for k in range(4) if torch.equal(labels, mask.rot90(k, (0, 1))))
        assert torch.equal(turned, image.rot90(k, (1, 2)))
        counts[k] += 1
    assert min(counts) > 30


@pytest.mark.parametrize("crop", [None, 48, (40, 56)])
@pytest.mark.parametrize("entry", GEOMETRY, ids=name_of)
def test_image_and_mask_move_together(entry: Any, crop: Any) -> None:
    """The image shows the labels: it must after any geometry, except within a pixel or two of their borders."""
    mask = blocks()
    image = torch.stack([mask, 10 - 3 * mask]).float()
    mean = image.mean((1, 2))
    compared = 0
    for seed in range(6):
        moved, labels = seeded(build([entry], crop), seed, image, mask)
        assert type(moved) is tv_tensors.Image
        assert type(labels) is tv_tensors.Mask
        assert labels.dtype == torch.int64
        assert moved.shape[1:] == labels.shape
        same = F.max_pool2d(labels.float()[None], 5, 1) == -F.max_pool2d(-labels.float()[None], 5, 1)
        inner = F.pad(same, (2,) * 4)[0]  # what is beyond the frame is not known
        known, outside = inner & (labels != IGNORED), inner & (labels == IGNORED)
        compared += int(known.sum())
        expected = torch.stack([labels, 10 - 3 * labels]).float()
        torch.testing.assert_close(moved[:, known], expected[:, known], rtol=0, atol=2e-3)
        if crop is None:  # else the mean is that of the window
            torch.testing.assert_close(moved[:, outside], mean[:, None].expand(2, int(outside.sum())))
        else:
            assert moved.shape[1:] == ((crop, crop) if crop == 48 else crop)
    assert compared > 6 * 300


def test_corners_left_by_a_rotation_are_ignored() -> None:
    _, mask = build([{"RandomRotation": {"degrees": [45, 45]}}])(torch.rand(1, 200, 200), torch.ones(200, 200).long())
    assert set(mask.unique().tolist()) == {IGNORED, 1}
    octagon = 2 * math.sqrt(2) - 2  # of the square that it shares with the turned one
    assert (mask == IGNORED).float().mean() == pytest.approx(1 - octagon, abs=2e-3)
    assert (mask[[0, 0, -1, -1], [0, -1, 0, -1]] == IGNORED).all()


def test_warps_turn_and_scale_about_the_centre() -> None:
    """Fit, to where the pixels come from, a linear map; it must be a turn times a scale, without a shift."""
    height, width = 31, 41
    warp = build([{"RandomWarp": {"degrees": 30, "scale": [0.5, 2], "displacement": 0, "p": 1}}])
    off = coordinates(height, width) - torch.tensor([15.0, 20.0])[:, None, None]
    angles, zooms = [], []
    for seed in range(200):
        image, mask = seeded(warp, seed, off)
        known = inside(mask)
        moved = torch.cat([off, torch.ones(1, height, width)])[:, known].T
        fit = torch.linalg.lstsq(moved.double(), image[:, known].T.double()).solution
        assert fit[2].abs().max() < 1e-3
        linear = fit[:2]
        zoom = linear.det().rsqrt()
        torch.testing.assert_close(linear @ linear.T, torch.eye(2).double() / zoom**2, rtol=0, atol=1e-3)
        zooms.append(math.log2(zoom))
        angles.append(math.degrees(math.atan2(linear[0, 1], linear[0, 0])))
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 0.01
    assert stats.kstest(zooms, stats.uniform(-1, 2).cdf).pvalue > 0.01  # the logarithm


def test_a_fixed_warp_agrees_with_other_ways_to_scale() -> None:
    image, mask = torch.rand(3, 24, 24), torch.randint(5, (24, 24))
    doubled = RandomWarp(0, [2, 2], 0, p=1)(tv_tensors.Image(image), tv_tensors.Mask(mask))
    expected = F.interpolate(image[None], scale_factor=2, mode="bilinear")[0, :, 12:36, 12:36]
    torch.testing.assert_close(torch.Tensor(doubled[0]), expected)
    assert torch.equal(doubled[1], mask[6:18, 6:18].repeat_interleave(2, 0).repeat_interleave(2, 1))
    enlarged = RandomWarp(0, [1.3, 1.3], 0, p=1)(tv_tensors.Image(image), tv_tensors.Mask(mask))
    other = v2.functional.affine(image, 0, [0, 0], 1.3, [0, 0], v2.InterpolationMode.BILINEAR)
    torch.testing.assert_close(torch.Tensor(enlarged[0]), other, rtol=0, atol=1e-4)


def test_warps_make_no_value_that_the_image_has_not() -> None:
    """Black that rounding moves below 0 would be NaN after torchvision's change of hue."""
    image = torch.rand(3, 60, 60, generator=torch.Generator().manual_seed(0))
    image[:, :30] = 0
    image[1] = image[1] / 2 + 4
    change = build([WARP])
    for seed in range(20):
        warped, _ = seeded(change, seed, image)
        for values, before in zip(warped, image, strict=True):
            assert before.min() <= values.min() <= values.max() <= before.max()
    black = build([WARP, {"ColorJitter": {"hue": 0.1}}])
    dark = torch.cat([image[:1], image[2:], image[:1] / 3])
    assert all(torch.isfinite(seeded(black, seed, dark)[0]).all() for seed in range(20))


def test_warps_bend_as_far_as_said_and_never_fold() -> None:
    warp = build([BEND])
    image = coordinates(143, 95)  # nodes lie in the middle and every 24 pixels from there
    at_nodes = []
    for seed in range(40):
        moved, mask = seeded(warp, seed, image)
        inner = inside(mask)
        shift = torch.where(inner, torch.Tensor(moved) - image, torch.nan)
        at_nodes.append(shift[:, 23:-1:24, 23:-1:24])
        down = torch.diff(torch.Tensor(moved[0]), dim=0)[inner[1:] & inner[:-1]]
        right = torch.diff(torch.Tensor(moved[1]), dim=1)[inner[:, 1:] & inner[:, :-1]]
        assert (down > -0.2).all()  # at four standard deviations between neighbours it would fold
        assert (right > -0.2).all()
        assert torch.diff(shift, n=2, dim=1).nan_to_num().abs().max() < 0.2  # smooth in between
    drawn = torch.stack(at_nodes)
    drawn = drawn[~drawn.isnan()]
    assert stats.kstest(drawn.numpy(), stats.norm(0, 3).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    "name",
    [
        *("RandomWarp", "RandomBrightness", "RandomContrast", "RandomGamma", "RandomNoise", "RandomBlur"),
        "RandomLowResolution",
    ],
)
def test_transforms_happen_as_often_as_said(name: str) -> None:
    image = torch.randn(1, 12, 12)
    for p in (0, 0.3, 1):
        transform = build([{name: {"p": p}}])
        changed = sum(not torch.equal(seeded(transform, seed, image)[0], image) for seed in range(300))
        assert abs(changed - 300 * p) <= 35 * (p > 0)  # blurs can be too small to change anything


def test_brightness_adds_a_share_of_each_channel_s_deviation() -> None:
    image = torch.randn(3, 16, 16) * torch.tensor([0.01, 1, 50])[:, None, None] + 3
    spread = image.numpy().std((1, 2))
    shares = []
    for seed in range(200):
        added = (seeded(build([{"RandomBrightness": {"strength": 0.5, "p": 1}}]), seed, image)[0] - image).numpy()
        assert np.allclose(added, added.mean((1, 2), keepdims=True), atol=1e-5 * spread[:, None, None] + 1e-6)
        share = added.mean((1, 2)) / spread
        assert np.allclose(share, share[1], atol=1e-4)
        shares.append(share[1])
    assert stats.kstest(shares, stats.uniform(-0.5, 1).cdf).pvalue > 0.01


def test_contrast_multiplies_about_each_channel_s_mean() -> None:
    image = torch.randn(3, 16, 16) * torch.tensor([0.01, 1, 50])[:, None, None] + 3
    mean = image.numpy().mean((1, 2), keepdims=True)
    factors = []
    for seed in range(200):
        changed = seeded(build([{"RandomContrast": {"strength": 0.4, "p": 1}}]), seed, image)[0].numpy()
        factor = ((changed - mean) * (image.numpy() - mean)).sum() / ((image.numpy() - mean) ** 2).sum()
        assert np.allclose(changed, mean + factor * (image.numpy() - mean), atol=1e-5)
        factors.append(factor)
    assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).pvalue > 0.01


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_gamma_is_its_formula(inverted: bool, power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of nnU-Net's GammaTransform with ``p_retain_stats=1``, but for the deviation's divisor, n for n - 1."""
    monkeypatch.setattr(augmentation.RandomGamma, "_draw", lambda self: power)
    image = torch.rand(3, 16, 20) ** 2 * torch.tensor([0.01, 1, 50])[:, None, None] - 3
    image[1] = 7.0  # one value alone stays as it is
    changed = build([{"RandomGamma": {"inverted": inverted, "p": 1}}])(image, torch.zeros(16, 20).long())[0].numpy()
    for plane, found in zip(image.double().numpy(), changed, strict=True):
        values = -plane if inverted else plane
        width = values.max() - values.min()
        bent = ((values - values.min()) / (width or 1)) ** power * width + values.min()
        bent = (bent - bent.mean()) / (bent.std() or 1) * values.std() + values.mean()
        np.testing.assert_allclose(found, -bent if inverted else bent, rtol=1e-4, atol=1e-4 * plane.std() + 1e-7)


def test_powers_below_one_are_as_frequent_as_those_above() -> None:
    transform = augmentation.RandomGamma(gamma=(0.5, 4))
    torch.manual_seed(0)
    drawn = np.array([transform._draw() for _ in range(400)])
    assert stats.kstest(drawn[drawn < 1], stats.uniform(0.5, 0.5).cdf).pvalue > 0.01
    assert stats.kstest(drawn[drawn > 1], stats.uniform(1, 3).cdf).pvalue > 0.01
    assert (drawn < 1).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0])
def test_a_low_resolution_keeps_one_pixel_of_each_cell(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation.RandomLowResolution, "_draw", lambda self: scale)
    transform = build([{"RandomLowResolution": {"p": 1}}])
    for height, width in ((20, 31), (2, 3), (1, 1)):
        image = torch.randn(2, height, width, dtype=torch.float64)
        changed = transform(image, torch.zeros(height, width).long())[0].numpy()
        rows, columns = (max(1, round(side * scale)) for side in (height, width))
        kept = image.numpy()[:, [int((k + 0.5) * height / rows) for k in range(rows)]]
        kept = kept[..., [int((k + 0.5) * width / columns) for k in range(columns)]]
        places = [np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1) for n, m in ((height, rows), (width, columns))]
        grid = np.stack(np.meshgrid(*places, indexing="ij"))
        expected = [ndimage.map_coordinates(plane, grid, order=1) for plane in kept]
        np.testing.assert_allclose(changed, np.stack(expected), rtol=1e-9, atol=1e-9)


def test_noise_is_normal_and_independent_of_scale() -> None:
    image = torch.rand(2, 100, 100) * torch.tensor([0.01, 100])[:, None, None]
    spread = image.numpy().std((1, 2))
    sigmas = []
    for seed in range(40):
        noise = (seeded(build([{"RandomNoise": {"sigma": 0.5, "p": 1}}]), seed, image)[0] - image).numpy()
        relative = noise.std((1, 2)) / spread
        assert relative[0] == pytest.approx(relative[1], rel=0.06)
        standard = (noise / noise.std((1, 2), keepdims=True)).ravel()
        assert stats.kstest(standard[::7], stats.norm.cdf).pvalue > 1e-4
        assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.05
        sigmas.append(relative.mean())
    assert stats.kstest(sigmas, stats.uniform(0, 0.5).cdf).pvalue > 0.01


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.7])
@pytest.mark.parametrize("channels", [1, 5])
def test_blur_is_scipy_s(monkeypatch: pytest.MonkeyPatch, sigma: float, channels: int) -> None:
    monkeypatch.setattr(augmentation.RandomBlur, "_draw", lambda self: sigma)
    for size in ((20, 31), (2, 3), (1, 1)):
        image = torch.rand(channels, *size)
        blurred = build([{"RandomBlur": {"p": 1}}])(image, torch.zeros(size, dtype=torch.int64))[0]
        expected = [
            ndimage.gaussian_filter(plane, sigma, mode="nearest", radius=math.ceil(3 * sigma))
            for plane in image.numpy()
        ]
        np.testing.assert_allclose(blurred.numpy(), np.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", [*PHOTOMETRY, "light", "strong", WARP], ids=name_of)
def test_values_of_any_range_change_alike(spec: Any) -> None:
    """The same seed on x and on k·x + b, for each channel its own, gives y and k·y + b."""
    image = 0.002 + 0.058 * torch.rand(3, 40, 40, dtype=torch.float64)  # dark 16-bit microscopy
    k = torch.tensor([4000.0, 1, 1e-3], dtype=torch.float64)[:, None, None]
    b = torch.tensor([7.0, -50, 0], dtype=torch.float64)[:, None, None]
    change = build([spec], 32)
    for seed in range(20):
        y, mask = seeded(change, seed, image)
        other, same = seeded(change, seed, k * image + b)
        assert torch.equal(mask, same)
        torch.testing.assert_close(torch.Tensor((other - b) / k), torch.Tensor(y), rtol=0, atol=1e-6)
    single = seeded(change, 3, image.float())[0]
    torch.testing.assert_close(
        torch.Tensor(single), torch.Tensor(seeded(change, 3, image)[0]).float(), atol=1e-4, rtol=0
    )


def test_constant_images_stay_finite_and_constant() -> None:
    for value in (0.0, -17.0, 1e6):
        image = build("strong")(torch.full((2, 30, 30), value), torch.zeros(30, 30).long())[0]
        torch.testing.assert_close(torch.Tensor(image), torch.full((2, 30, 30), value))


# Crops.


def test_a_crop_holds_a_part_of_the_image_at_any_place() -> None:
    image, mask = torch.arange(2 * 9 * 12).reshape(2, 9, 12).float(), torch.arange(9 * 12).reshape(9, 12)
    crop = build("none", (7, 9))
    places = set()
    for seed in range(200):
        part, labels = seeded(crop, seed, image, mask)
        top, left = divmod(int(labels[0, 0]), 12)
        assert torch.equal(part, image[:, top : top + 7, left : left + 9])
        assert torch.equal(labels, mask[top : top + 7, left : left + 9])
        places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(4)}


def test_a_smaller_image_lies_somewhere_in_the_crop() -> None:
    image, mask = torch.rand(3, 4, 10), torch.randint(5, (2, 4, 10))
    places = set()
    for seed in range(150):
        part, labels = seeded(build("none", 6), seed, image, mask)
        top = int((labels[0] != IGNORED).any(1).int().argmax())
        (left,) = (k for k in range(5) if torch.equal(part[:, top : top + 4], image[..., k : k + 6]))
        assert torch.equal(labels[:, top : top + 4], mask[..., k_range(left)])
        outside = (labels == IGNORED).all(0)
        assert outside.sum() == 12
        mean = image[..., k_range(left)].mean((1, 2))
        torch.testing.assert_close(torch.Tensor(part[:, outside]), mean[:, None].expand(3, 12))
        places.add((top, left))
    assert len(places) == 15


def k_range(left: int) -> slice:
    return slice(left, left + 6)


LOCAL = [entry for entry in GEOMETRY if name_of(entry) in ("RandomQuarterTurn", "RandomWarp", "ElasticTransform")]
BEND = {"RandomWarp": {"degrees": 0, "scale": [1, 1], "displacement": 3, "spacing": 24, "p": 1}}
TURNS = [{"RandomRotation": {"degrees": 180}}, {"RandomAffine": {"degrees": [-30, 10], "scale": [0.5, 1]}}]


@pytest.mark.parametrize(
    "spec",
    [*([entry] for entry in [*LOCAL, *TURNS, BEND]), [*TURNS, "RandomQuarterTurn", WARP], ["strong"]],
    ids=str,
)
def test_a_crop_far_from_the_border_has_no_pixel_from_outside(spec: list[Any]) -> None:
    """And what it is cut out of, before anything is warped, is a window, not the image."""
    side, crop = 1400, (33, 48)
    change = build(spec, crop)
    seen: list[tuple[int, ...]] = []
    for transform in change.transforms:
        transform.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[1:])))
    image = coordinates(side, side)
    inner = 0
    for seed in range(40):
        result, mask = seeded(change, seed, image)
        assert mask.shape == crop
        window = seen[len(seen) - len(change.transforms)]
        middle = result.mean((1, 2))
        if ((middle - side / 2).abs() < side / 2 - max(window)).all():
            inner += 1
            assert (mask != IGNORED).all()
    assert inner > 4
    assert max(max(shape) for shape in seen) < 0.6 * side


def test_after_a_warp_only_the_crop_is_worked_on() -> None:
    change = build(["strong"], 64)
    seen: list[tuple[int, ...]] = []
    for transform in change.transforms[1:]:
        transform.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[1:])))
    for seed in range(10):
        seeded(change, seed, torch.rand(3, 300, 400))
    assert set(seen) == {(64, 64)}


def test_results_do_not_hold_on_to_the_image() -> None:
    for spec in ("none", "light", "strong"):
        image, mask = build(spec, 16)(torch.rand(3, 100, 100), torch.zeros(100, 100).long())
        assert image.untyped_storage().nbytes() == 3 * 16 * 16 * 4
        assert mask.untyped_storage().nbytes() == 16 * 16 * 8


# Everything together.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_any_channels_and_sizes(preset: str, channels: int, dtype: torch.dtype) -> None:
    for size in ((1, 1), (5, 40), (70, 50)):
        image = torch.randn(channels, *size, dtype=dtype)
        mask = torch.randint(3, size)
        for crop in (None, 32):
            result, labels = build(preset, crop)(image, mask)
            assert result.dtype == dtype
            assert result.isfinite().all()
            expected = {size, size[::-1]} if crop is None else {(32, 32)}
            assert tuple(labels.shape) in expected
            assert tuple(result.shape) == (channels, *labels.shape)
            if size != (1, 1):  # which can be shifted out
                assert (labels != IGNORED).any()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*PRESETS, *GEOMETRY, *PHOTOMETRY]),
    st.tuples(st.integers(40, 70), st.integers(40, 70)),
    st.sampled_from([None, 16, (50, 90)]),
    st.lists(st.integers(-3, 2**20), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_a_mask_gains_no_value(spec: Any, size: tuple[int, int], crop: Any, labels: list[int], layers: int) -> None:
    values = torch.tensor([*labels, IGNORED])
    mask = values[torch.randint(len(values), (layers, *size) if layers else size)]
    assert set(build([spec], crop)(torch.rand(3, *size), mask)[1].unique().tolist()) <= {*labels, IGNORED}


@pytest.mark.parametrize("spec", ["strong", *GEOMETRY], ids=name_of)
def test_layers_of_a_mask_move_as_each_alone(spec: Any) -> None:
    image, mask = torch.rand(3, 64, 64), torch.stack([blocks(64, 64), blocks(64, 64)])
    change = build([spec], 40)
    both = seeded(change, 5, image, mask)[1]
    for k in range(2):
        assert torch.equal(both[k], seeded(change, 5, image, mask[k])[1])


@pytest.mark.parametrize("spec", [*PRESETS, *GEOMETRY, *PHOTOMETRY], ids=name_of)
def test_torch_s_seed_decides_all(spec: Any) -> None:
    image, mask = torch.rand(3, 60, 60), blocks(60, 60)
    kept = image.clone(), mask.clone()
    change = build([spec], 32)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = seeded(change, 7, image, mask)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    for again in (change, build([spec], 32), pickle.loads(pickle.dumps(change))):
        second = seeded(again, 7, image, mask)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert any(not torch.equal(first[0], seeded(change, seed, image, mask)[0]) for seed in range(8, 14))
    assert torch.equal(image, kept[0])  # the caller's stay as they are
    assert torch.equal(mask, kept[1])


@pytest.mark.parametrize(
    "spec",
    [
        *PRESETS,
        ["light", {"GaussianBlur": {"kernel_size": 3}}],
        [{"RandomApply": {"transforms": ["light", {"RandomRotation": {"degrees": (1, 2)}}], "p": 0.9}}],
        [{"RandomAffine": {"degrees": 9, "interpolation": v2.InterpolationMode.NEAREST, "fill": 3}}],
        [{"RandomBlur": None}, f"{__name__}.Doubled"],
    ],
    ids=str,
)
def test_descriptions_go_through_json_and_yaml(spec: Any) -> None:
    change = build(spec, 24)
    described = change.describe()
    assert all(isinstance(entry, dict) and len(entry) == 1 for entry in described)
    assert not any(name_of(entry) in PRESETS for entry in described)
    image, mask = torch.rand(3, 40, 40), blocks(40, 40)
    expected = seeded(change, 1, image, mask)
    for way in (json.loads(json.dumps(described)), yaml.safe_load(yaml.safe_dump(described))):
        again = build(way, 24)
        assert again.describe() == described
        assert all(torch.equal(a, b) for a, b in zip(seeded(again, 1, image, mask), expected, strict=True))
    described.append({"changed": {}})
    assert change.describe() != described
    assert repr(change) == f"Augmentation({change.describe()}, crop_size=(24, 24))"


def test_presets_in_a_list_stand_for_their_entries() -> None:
    blur = {"GaussianBlur": {"kernel_size": 3}}
    assert build(["light", blur]).describe() == [*PRESETS["light"], blur]
    assert build(("none", "strong")).describe() == build("strong").describe() == PRESETS["strong"]
    assert build().describe() == PRESETS["light"]
    assert build([]).describe() == []


# torchvision's.

OPTIONS: dict[str, dict[str, Any]] = {
    "CenterCrop": {"size": 20},
    "GaussianBlur": {"kernel_size": 3},
    "Pad": {"padding": 3},
    "RandomAdjustSharpness": {"sharpness_factor": 2},
    "RandomAffine": {"degrees": 20},
    "RandomCrop": {"size": 20},
    "RandomPosterize": {"bits": 3},
    "RandomResize": {"min_size": 20, "max_size": 40},
    "RandomResizedCrop": {"size": 20},
    "RandomRotation": {"degrees": 20},
    "RandomShortestSize": {"min_size": 20},
    "RandomSolarize": {"threshold": 0.5},
    "Resize": {"size": 20},
    "ScaleJitter": {"target_size": [30, 30]},
    **{
        name: {"transforms": ["RandomVerticalFlip"]}
        for name in ("Compose", "RandomApply", "RandomChoice", "RandomOrder")
    },
}
ALL = sorted(name for name, made in vars(v2).items() if isinstance(made, type) and issubclass(made, v2.Transform))


@pytest.mark.parametrize("name", ALL)
def test_every_transform_of_torchvision_works_or_says_why_not(name: str) -> None:
    entry = {name: OPTIONS.get(name, {})}
    if name in REFUSED:
        with pytest.raises(ConfigError, match=f"entry 1 \\({name}\\): .*: leave it out"):
            build([entry])
        return
    # The first holds the label, so that what moves can be told from what only changes.
    for crop in (None, 24):
        mask = blocks(48, 40)
        image, labels = build([entry], crop)(mask.float().expand(3, -1, -1) / 4, mask)
        assert image.shape[-2:] == labels.shape
        assert set(labels.unique().tolist()) <= {IGNORED, 0, 1, 2, 3, 4}


def test_images_are_interpolated_unless_said_otherwise() -> None:
    image = torch.rand(1, 50, 50)
    for name in ("RandomRotation", "RandomAffine"):
        entry = {"degrees": [30, 30]}
        smooth = build([{name: entry}])(image, torch.zeros(50, 50).long())[0]
        bilinear = v2.functional.affine(image, 30, [0, 0], 1, [0, 0], v2.InterpolationMode.BILINEAR, fill=0)
        sign = 1 if name == "RandomAffine" else -1
        other = v2.functional.affine(image, sign * 30, [0, 0], 1, [0, 0], v2.InterpolationMode.BILINEAR)
        assert bilinear.shape == other.shape
        torch.testing.assert_close(torch.Tensor(smooth)[:, 15:35, 15:35], other[:, 15:35, 15:35], atol=1e-4, rtol=0)
        nearest, mask = build([{name: {**entry, "interpolation": "nearest"}}])(image, torch.zeros(50, 50).long())
        # Away from the mean that fills the corners, all values are ones that the image has.
        found = nearest[0][mask != IGNORED]
        assert (found[:, None] - image.flatten()).abs().min(1).values.max() < 1e-6


def test_a_given_fill_is_the_image_s_and_the_mask_stays_ignored() -> None:
    image, mask = build([{"Pad": {"padding": 2, "fill": [7, 8, 9]}}])(torch.zeros(3, 4, 4), torch.zeros(4, 4).long())
    assert image[:, 0, 0].tolist() == [7, 8, 9]
    assert mask[0, 0] == IGNORED
    assert not mask[2:-2, 2:-2].any()
    assert not image[:, 2:-2, 2:-2].any()


class Doubled(nn.Module):
    """Somebody's own transform: doubles the image, and notes the sizes that it saw."""

    def __init__(self, times: float = 2) -> None:
        super().__init__()
        self.times = times
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(tuple(image.shape[1:]))
        return image * self.times, mask


class Faulty(nn.Module):
    """Returns what ``results`` makes of image and mask."""

    results: Callable[[Tensor, Tensor], Any]

    def forward(self, image: Tensor, mask: Tensor) -> Any:
        return Faulty.results(image, mask)


class NoModule:
    pass


def test_own_classes_see_the_whole_image_and_its_true_values() -> None:
    change = build(["RandomVerticalFlip", {f"{__name__}.Doubled": {"times": 3}}, WARP], 8)
    change(torch.rand(3, 40, 50), torch.zeros(40, 50).long())
    assert change.transforms[1].seen == [(40, 50)]
    image, mask = torch.rand(3, 40, 50), blocks(40, 50)
    assert torch.equal(build(f"{__name__}.Doubled")(image, mask)[0], 2 * image)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (lambda image, mask: image, r"Faulty .*\bImage\b.*image.*mask"),
        (lambda image, mask: (image[:1], mask), r"Faulty .*image of torch.float32 \(1, 8, 8\).*channels.*classes"),
        (lambda image, mask: (image, mask.float()), r"Faulty .*mask of torch.float32 \(8, 8\): int64"),
        (lambda image, mask: (image[:, 1:], mask), r"Faulty .*\(3, 7, 8\).*\(8, 8\).*height.*width"),
        (lambda image, mask: (image, mask[None]), r"Faulty .*mask of torch.int64 \(1, 8, 8\).*channels.*classes"),
        (
            lambda image, mask: image.nope,
            r"Faulty .*image of torch.float32 \(3, 8, 8\) \(AttributeError",
        ),
    ],
)
def test_what_own_classes_return_is_checked(results: Callable[..., Any], words: str) -> None:
    Faulty.results = staticmethod(results)
    with pytest.raises(InputError, match=words):
        build(f"{__name__}.Faulty")(torch.rand(3, 8, 8), torch.zeros(8, 8).long())


def test_what_torchvision_cannot_do_names_the_entry() -> None:
    mask = torch.zeros(8, 8).long()
    with pytest.raises(InputError, match=r"ColorJitter cannot .*image.*\(13, 8, 8\)"):
        build([{"ColorJitter": {"saturation": 0.5}}])(torch.rand(13, 8, 8), mask)
    with pytest.raises(InputError, match=r"RandomCrop cannot .*Required crop size"):
        build([{"RandomCrop": {"size": 9}}])(torch.rand(3, 8, 8), mask)


def test_values_that_are_not_finite_name_the_entry_that_made_them() -> None:
    image = torch.zeros(3, 8, 8)
    image[1] = 1
    mask = torch.zeros(8, 8).long()
    # The largest of its channels is 0 then, by which the saturation divides.
    negative = {f"{__name__}.Doubled": {"times": -1}}
    with pytest.raises(InputError, match=r"ColorJitter .*not finite.*-1 to -?0;.*0 to 1"):
        build([negative, {"ColorJitter": {"hue": [0.1, 0.1]}}])(image, mask)
    image[0, 0, 0] = torch.nan  # of the image's own, which the data's check names
    assert build(["RandomHorizontalFlip"])(image, mask)[0].isnan().sum() == 1


# Values that go beyond 0 and 1.


def test_what_clips_is_known_for_all_of_torchvision() -> None:
    """A transform that only moves and mixes pixels does the same to decibels as to values from 0 to 1."""
    image = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    mask = torch.zeros(24, 24).long()
    certain = {"RandomPhotometricDistort": {"p": 1.0}, "ColorJitter": {"contrast": [1.5, 1.6]}}
    found = set()
    for name, made in sorted(TORCHVISION.items()):
        options = {**OPTIONS.get(name, {}), **certain.get(name, {})}
        if "p" in inspect.signature(made).parameters and not issubclass(made, CONTAINERS):
            options["p"] = 1.0
        (entry,) = parse([{name: options}], "", [])
        torch.manual_seed(3)
        plain = torch.Tensor(entry.module(tv_tensors.Image(image), tv_tensors.Mask(mask))[0])
        torch.manual_seed(3)
        decibels = torch.Tensor(entry.module(tv_tensors.Image(60 * image - 50), tv_tensors.Mask(mask))[0])
        if not torch.allclose(decibels, 60 * plain - 50, atol=0.05):
            found.add(made)
    assert found == set(CLIPPING)


@pytest.mark.parametrize("kind", CLIPPING)
@pytest.mark.parametrize("inside", [False, True])
def test_transforms_that_clip_are_for_values_from_0_to_1(kind: type, inside: bool) -> None:
    name = kind.__name__
    entry: dict[str, Any] = {name: OPTIONS.get(name, {})}
    change = build([{"RandomChoice": {"transforms": ["RandomVerticalFlip", entry]}}] if inside else [entry])
    image, mask = torch.rand(3, 8, 8), torch.zeros(8, 8).long()
    change(image, mask)
    for wrong in (20 * image - 30, image - 0.5, image + 0.5):
        with pytest.raises(InputError, match=rf"an image has values from .*{name}.*use RandomBrightness.*RandomNoise"):
            change(wrong, mask)
    assert change.type_problems({"uint8": 3}) == []
    (problem,) = change.type_problems({"uint8": 3, "uint16": 1, "float32": 2})
    assert re.search(rf"{name}.*these are float32, uint16: use RandomBrightness", problem)


def test_what_clips_nothing_takes_every_image() -> None:
    decibels, mask = 20 * torch.rand(3, 8, 8) - 30, torch.zeros(8, 8).long()
    for spec in (*PRESETS, [{"GaussianNoise": {"sigma": 2.0, "clip": False}}], [{"GaussianBlur": {"kernel_size": 3}}]):
        change = build(spec)
        change(decibels, mask)
        assert change.type_problems({"float32": 1}) == []
    noisy = build([{"GaussianNoise": {"sigma": 2.0, "clip": False}}])(decibels, mask)[0]
    assert noisy.min() < -20


# Wrong input.


@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8).long(), r"torch.uint8 \(3, 8, 8\): floating"),
        (torch.zeros(8, 8), torch.zeros(8, 8).long(), "channels, height, width"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(8, 8).long(), "channels, height, width"),
        (torch.zeros(3, 0, 8), torch.zeros(0, 8).long(), "channels, height, width"),
        (np.zeros((3, 8, 8)), torch.zeros(8, 8).long(), "image of ndarray"),
        (torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.uint8), "mask of torch.uint8.*int64"),
        (torch.zeros(3, 8, 8), torch.zeros(8).long(), "a mask of"),
        (torch.zeros(3, 8, 8), torch.zeros(8, 9).long(), r"\(3, 8, 8\).*\(8, 9\).*height.*width"),
    ],
)
def test_wrong_tensors_are_refused(image: Any, mask: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build("light", 4)(image, mask)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lihgt", "entry 1 .lihgt.: unknown; did you mean 'light'"),
        ("RandomHorizontalFlp", "did you mean 'RandomHorizontalFlip'"),
        ("randomblur", "did you mean 'RandomBlur'"),
        ("", "entry 1 .*unknown"),
        (None, r"None: .*name.*list.*\{name: options\}"),
        (3, r"3: .*name.*list.*\{name: options\}"),
        ({"RandomBlur": {}}, r"\{'RandomBlur': \{\}\}: .*name.*list.*\{name: options\}"),
        ([["light"]], r"entry 1: \['light'\]: .*name.*mapping"),
        ([{}], r"entry 1: \{\}: .*name.*mapping"),
        ([{"RandomBlur": {}, "RandomNoise": {}}], "entry 1: .*'RandomBlur'.*'RandomNoise'.*name.*mapping"),
        ([{"RandomBlur": 3}], "entry 1.*'RandomBlur': 3.*name.*mapping"),
        ([{"RandomBlur": {3: 3}}], r"entry 1.*'RandomBlur': \{3: 3\}.*name.*mapping"),
        ([{"light": {"p": 1}}], "the preset 'light' has no options"),
        ([{"RandomBlur": {"sgima": 1}}], "entry 1 .RandomBlur.: unknown option 'sgima'; did you mean 'sigma'"),
        ([{"RandomWarp": {"size": [3, 3]}}], "unknown option 'size'"),
        ([{"RandomRotation": {}}], "entry 1 .RandomRotation.: degrees is missing"),
        ([{"RandomRotation": {"degrees": -3}}], "entry 1 .RandomRotation.: ValueError: .*positive"),
        (
            [{"RandomRotation": {"degrees": 3, "interpolation": "cubic"}}],
            "entry 1 .RandomRotation.: .*'cubic'.*InterpolationMode",
        ),
        (
            [{"RandomResizedCrop": {"size": 3, "scale": [1, 0.5]}}],
            r"entry 1 .RandomResizedCrop.: .*[Ss]cale.*\(min, max\)",
        ),
        ([{"ColorJitter": {"hue": {1, 2}}}], "hue={1, 2}: .*numbers.*words.*lists"),
        ([{"Pad": {"padding": 1, "fill": {"others": torch.zeros(1)}}}], "fill=.*others.*: .*numbers.*words.*lists"),
        ([{"RandomErasing": {}}], "entry 1 .RandomErasing.: .*mask.*leave it out"),
        ([{"RandomApply": {"p": 0.3}}], "transforms is missing"),
        ([{"RandomApply": {"transforms": "RandomBlurr"}}], "entry 1 .RandomApply.: entry 1 .RandomBlurr.: unknown"),
        ([{"RandomApply": {"transforms": []}}], "entry 1 .RandomApply.: .*at least one"),
        ("no.such.Module", "entry 1 .no.such.Module.: cannot be imported .ModuleNotFoundError"),
        (f"{__name__}.Nothing", "cannot be imported .AttributeError"),
        (f"{__name__}.NoModule", "is not an nn.Module class"),
        (f"{__name__}.name_of", "is not an nn.Module class"),
        ([{f"{__name__}.Doubled": {"tmies": 2}}], "unknown option 'tmies'; did you mean 'times'"),
        ([{"RandomQuarterTurn": {"p": 1}}], "unknown option 'p'"),
        ([{"RandomBrightness": {"strength": -1}}], "strength=-1: .*0 up"),
        ([{"RandomContrast": {"strength": 1.1}}], "strength=1.1: .*0 to 1"),
        ([{"RandomNoise": {"sigma": "0.1"}}], "sigma='0.1': a number"),
        ([{"RandomGamma": {"gamma": [1.1, 1.5]}}], r"gamma=\[1.1, 1.5\]: two .* above 0 to 1 and one from 1 up"),
        ([{"RandomGamma": {"gamma": 2}}], "gamma=2: two numbers are needed"),
        ([{"RandomGamma": {"inverted": 1}}], "inverted=1: True or False is needed"),
        (
            [{"RandomLowResolution": {"scale": [0, 1]}}],
            r"scale=\[0, 1\]: two numbers are needed, one from above 0 to 1",
        ),
        ([{"RandomLowResolution": {"scale": [0.9, 0.5]}}], r"scale=\[0.9, 0.5\]: two numbers"),
        ([{"RandomBlur": {"sigma": math.inf}}], "sigma=inf: a number"),
        ([{"RandomBlur": {"p": True}}], "p=True: .*number.*0 to 1"),
        ([{"RandomWarp": {"scale": [2, 1]}}], r"scale=\[2, 1\]: .*two .*above 0.*smaller"),
        ([{"RandomWarp": {"scale": 2}}], "scale=2: two .*above 0"),
        ([{"RandomWarp": {"scale": [0, 1]}}], r"scale=\[0, 1\]: two .*above 0"),
        ([{"RandomWarp": {"displacement": 9}}], "displacement=9: .*eighth .*spacing=64"),
        ([{"RandomWarp": {"spacing": 32.0}}], "spacing=32.0: .*whole.*1 up"),
        ([{"RandomWarp": {"degrees": 181}}], "degrees=181: .*0 to 180"),
    ],
)
def test_wrong_compositions_are_refused_when_built(spec: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(spec)


@pytest.mark.parametrize("crop", [0, -3, 2.5, (3,), (3, 0), (3, 4, 5), "64", True, [None, 3]])
def test_wrong_crops_are_refused(crop: Any) -> None:
    with pytest.raises(ConfigError, match=rf"crop_size={re.escape(repr(crop))}: "):
        build("none", crop)


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = [
        "RandomBlurr",
        {"RandomNoise": {"sigma": -1, "p": 2}},
        "light",
        {"RandomChoice": {"transforms": [{"MixUp": {}}, {"RandomAffine": {"degree": 3}}]}},
    ]
    with pytest.raises(ConfigError, match="augmentation") as caught:
        build(wrong, -1)
    assert len(caught.value.problems) == 7
    starts = ("entry 1 ", "entry 2 ", "entry 2 ", "entry 4 (RandomChoice): entry 1 (MixUp)", *["entry 4 "] * 2, "crop")
    assert all(problem.startswith(start) for problem, start in zip(caught.value.problems, starts, strict=True))


@pytest.mark.parametrize("size", [(0, 3), (3,), "big"])
def test_the_part_that_a_warp_makes_is_a_size(size: Any) -> None:
    with pytest.raises(ConfigError, match="size="):
        RandomWarp(size=size)


# Real images.


def test_real_nuclei_stay_under_their_masks(shared_data: Path) -> None:
    """Nuclei are brighter than what is around them, or darker: so they stay, and as many of them as there were."""
    before, after = [], []
    for path in sorted((shared_data / "nuclei" / "images").iterdir())[:24]:
        image = read_image(path)[:3].float() / 255
        mask = (read_image(shared_data / "nuclei" / "masks" / path.name)[0] > 127).long()
        inside, outside = image[:, mask == 1].mean(), image[:, mask == 0].mean()
        before.append(float(mask.float().mean()))
        moved = [seeded(build("strong", 200), seed, image, mask) for seed in range(3)]
        labels = torch.stack([labels for _, labels in moved])
        shown = torch.stack([one_image for one_image, _ in moved]).mean(1)
        assert labels.shape == (3, 200, 200)
        assert set(labels.unique().tolist()) <= {0, 1, IGNORED}
        after.append(float((labels == 1).sum() / (labels >= 0).sum()))
        if (labels == 1).sum() > 500:
            assert (shown[labels == 1].mean() > shown[labels == 0].mean()) == (inside > outside)
    assert np.corrcoef(before, after)[0, 1] > 0.9
    assert np.mean(after) == pytest.approx(np.mean(before), rel=0.2)


def test_real_16_bit_images_keep_their_range(shared_data: Path) -> None:
    for path in sorted((shared_data / "nuclei_16bit" / "images").iterdir())[:4]:
        image = read_image(path).float() / 65535
        changed = build("strong", 256)(image, torch.zeros(image.shape[1:]).long())[0]
        assert 0.3 * image.mean() < changed.mean() < 3 * image.mean()
        assert 0.2 * image.std() < changed.std() < 4 * image.std()
