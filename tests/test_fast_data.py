"""Items that are made quickly are those that are made slowly, whatever is kept in memory, and however many workers."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from unetzoo import images
from unetzoo.augmentation import IGNORED, RandomWarp, build
from unetzoo.augmentation.photometric import _spread
from unetzoo.augmentation.warping import _interpolated
from unetzoo.data import Labels, Sample, SegmentationDataset, black_and_white, find_samples, kept, masks
from unetzoo.data.annotations import Annotation, Drawing, MaskFile
from unetzoo.data.kept import Kept, Pair, stamp_of
from unetzoo.errors import ConfigError, InputError

SIDES = (90, 70)
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.3, 0.25)
KINDS = ("RGB.png", "RGBA.png", "L.png", "RGB.jpg", "uint16.tif", "gaps.tif")


def image_of(path: Path, kind: str, seed: int = 0) -> np.ndarray:
    """Write an image of a kind; return it as (3, H, W) float32, scaled and without gaps, by numpy alone."""
    draw = np.random.default_rng(seed)
    mode = kind.partition(".")[0]
    if mode in ("RGB", "RGBA", "L"):
        channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
        array = draw.integers(0, 256, (*SIDES, channels), np.uint8)
        array[..., 3:] = 255
        Image.fromarray(array.squeeze()).save(path)
        with Image.open(path) as stored:  # JPEG changes it
            array = np.asarray(stored).reshape(*SIDES, channels)[..., :3]
        scaled = array.astype(np.float32) / np.float32(255)
    elif mode == "uint16":
        array = draw.integers(0, 65536, (*SIDES, 3), np.uint16)
        tifffile.imwrite(path, array, photometric="rgb")
        scaled = array.astype(np.float32) / np.float32(65535)
    else:
        array = draw.normal(size=(*SIDES, 3)).astype(np.float32)
        array[:20, :30] = np.nan
        tifffile.imwrite(path, array, photometric="rgb")
        scaled = np.where(np.isnan(array), np.float32(MEAN), array)
    return np.broadcast_to(scaled, (*SIDES, 3)).transpose(2, 0, 1)


def mask_of(path: Path, seed: int = 0) -> np.ndarray:
    mask = np.random.default_rng(100 + seed).random(SIDES) > 0.6
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return mask.astype(np.int64)


def folder(path: Path, kinds: tuple[str, ...] = KINDS) -> tuple[list[Sample], list[tuple[np.ndarray, np.ndarray]]]:
    """Write images and masks; return them as samples, and as they are."""
    samples, pairs = [], []
    for k, kind in enumerate(kinds):
        sample = Sample(kind, path / f"{k}_{kind}", path / f"{k}_mask.png")
        image, mask = image_of(sample.image, kind, k), mask_of(sample.mask, k)
        if kind.startswith("gaps"):
            mask[:20, :30] = IGNORED
        samples.append(sample)
        pairs.append((image, mask))
    return samples, pairs


def of(samples: list[Sample], **options: Any) -> SegmentationDataset:
    return SegmentationDataset(samples, Labels(), mean=MEAN, std=STD, seed=5, **options)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return torch.equal(a["image"], b["image"]) and torch.equal(a["target"], b["target"])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were read."""
    found: list[Path] = []
    read = images.read
    monkeypatch.setattr(images, "read", lambda files, planes=None: [found.extend(files), read(files, planes)][1])
    return found


@pytest.mark.parametrize("room", [0, 2**28])
@pytest.mark.parametrize("crop", [None, 32, 120])
@pytest.mark.parametrize("preset", ["none", "light", "strong", "RandomPerspective"])
def test_items_are_made_as_by_hand(preset: str, crop: int | None, room: int, tmp_path: Path) -> None:
    """Whole images are scaled first, by numpy; then cut, changed and normalised."""
    samples, pairs = folder(tmp_path)
    augment = build(preset, crop)
    dataset = of(samples, augmentation=augment, room=room)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    for epoch in range(2):  # the second of what is kept
        for i, (image, mask) in enumerate(pairs):
            item = dataset[epoch, i]
            digest = hashlib.sha256(f"5/{epoch}/{i}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            whole = torch.from_numpy(np.ascontiguousarray(image))
            changed, target = augment(whole, torch.from_numpy(mask))
            assert torch.equal(item["image"], (changed.as_subclass(Tensor) - mean) / std)
            assert torch.equal(item["target"], target.as_subclass(Tensor))
            assert (item["image"].dtype, item["target"].dtype) == (torch.float32, torch.int64)
            assert item["image"].is_contiguous()
            assert item["target"].is_contiguous()


@pytest.mark.parametrize("augment", [None, lambda image, mask: (image.mul_(2), mask.add_(1)), build("none")])
def test_what_is_kept_is_nobody_s_to_change(augment: Any, tmp_path: Path) -> None:
    samples, _ = folder(tmp_path)
    dataset, anew = of(samples, augmentation=augment), of(samples, augmentation=augment, room=0)
    for i in range(len(samples)):
        for _ in range(2):
            item = dataset[i]
            assert same(item, anew[i])
            item["image"].fill_(7)
            item["target"].fill_(7)


def test_as_much_is_kept_as_there_is_room(tmp_path: Path, reads: list[Path]) -> None:
    samples, _ = folder(tmp_path, ("RGB.png",) * 4)
    one = SIDES[0] * SIDES[1] * (3 + 1)  # a byte a value
    dataset = of(samples, room=2 * one + 1)
    first = [dataset[i] for i in range(4)]
    assert dataset._kept.taken == 2 * one
    assert len(reads) == 4
    for order in ((3, 1, 0, 2), (2, 0, 3, 1)):
        reads.clear()
        assert all(same(dataset[i], first[i]) for i in order)
        assert sorted(reads) == [samples[2].image, samples[3].image]  # what came first has stayed
        assert dataset._kept.taken == 2 * one


@pytest.mark.parametrize(("kind", "size"), [("L.png", 1), ("RGBA.png", 3), ("uint16.tif", 6), ("gaps.tif", 12)])
def test_what_is_kept_is_counted(kind: str, size: int, tmp_path: Path) -> None:
    """One byte a value of grey that is given three times; no alpha channel; float32 where values are missing."""
    dataset = of(folder(tmp_path, (kind,))[0])
    dataset[0]
    assert dataset._kept.taken == SIDES[0] * SIDES[1] * (size + 1)
    ((_, pair),) = dataset._kept._pairs.values()
    assert sum(values.untyped_storage().nbytes() for values in (pair.image, pair.target)) == dataset._kept.taken


def test_rooms_that_cannot_be(tmp_path: Path) -> None:
    samples, _ = folder(tmp_path, ("L.png",))
    for room in (-1, 1.5, "much"):
        with pytest.raises(ConfigError, match="room"):
            of(samples, room=room)


def put_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by another of the same age."""
    before = path.stat()
    write(path.with_name(f"new_{path.name}"))
    path.with_name(f"new_{path.name}").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rewrite(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize("change", [put_aside, rewrite])
@pytest.mark.parametrize("part", ["image", "mask"])
def test_another_file_is_read_anew(part: str, change: Callable[..., None], tmp_path: Path, reads: list[Path]) -> None:
    samples, _ = folder(tmp_path, ("RGB.png", "RGB.png"))
    dataset = of(samples)
    before = [dataset[i] for i in range(2)]
    taken = dataset._kept.taken
    write = {"image": lambda path: image_of(path, "RGB.png", 9), "mask": lambda path: mask_of(path, 9)}[part]
    change(getattr(samples[0], part), write)
    reads.clear()
    item = dataset[0]
    assert same(item, of(samples, room=0)[0])
    assert not same(item, before[0])
    assert same(dataset[1], before[1])
    assert reads == [samples[0].image] * 2
    assert same(dataset[0], item)
    assert dataset._kept.taken == taken
    assert len(reads) == 2


def test_a_file_that_is_gone_is_missed(tmp_path: Path) -> None:
    samples, _ = folder(tmp_path, ("RGB.png",))
    dataset = of(samples)
    dataset[0]
    samples[0].mask.unlink()
    with pytest.raises(InputError, match=r"0_mask\.png"):
        dataset[0]
    assert stamp_of([samples[0].mask]) is None
    assert stamp_of([tmp_path]) is None


def test_all_files_of_a_target_are_known(tmp_path: Path) -> None:
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    assert masks.files_of(Sample("a", one, two)) == [two]
    assert masks.files_of(Sample("a", one, (one, None, two))) == [one, two]
    drawing = Drawing(tmp_path, (Annotation("cell", MaskFile(one)), Annotation("cell", MaskFile(two))))
    assert masks.files_of(Sample("a", one, drawing)) == [one, two]


def test_a_copy_keeps_nothing(tmp_path: Path, reads: list[Path]) -> None:
    samples, _ = folder(tmp_path, ("RGB.png",))
    dataset = of(samples)
    item = dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 2000
    assert (copy._kept.taken, copy._kept.room) == (0, dataset._kept.room)
    assert same(copy[0], item)
    assert len(reads) == 2


def test_nothing_is_kept_without_a_stamp() -> None:
    kept, pair = Kept(1000), Pair(torch.zeros(1, 2, 2), torch.zeros(2, 2), (None, None))
    assert kept.keep(0, None, pair) is pair
    assert kept.find(0, None) is None
    assert kept.taken == 0


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_what_they_keep_change_nothing(tmp_path: Path) -> None:
    samples, _ = folder(tmp_path)
    draws = [[(epoch, i), (epoch, i + 1)] for epoch in range(2) for i in (4, 0, 2)]
    found = [
        [
            *DataLoader(
                of(samples, augmentation=build("strong", 48), room=room), batch_sampler=draws, num_workers=workers
            )
        ]
        for workers, room in ((0, 0), (0, 2**28), (1, 2**28), (3, 60_000))
    ]
    for others in found[1:]:
        assert all(same(a, b) for a, b in zip(found[0], others, strict=True))


def test_threads_change_nothing() -> None:
    image, mask = torch.rand(3, 300, 400), torch.zeros(300, 400, dtype=torch.int64)
    augment = build([{"RandomWarp": {"p": 1}}, {"RandomBlur": {"p": 1}}, "light", {"RandomNoise": {"p": 1}}], 256)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            torch.manual_seed(3)
            found.append(augment(image, mask))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][k], other[k]) for other in found[1:] for k in range(2))


# What is quick, and its slow counterpart.


@given(
    values=st.lists(
        st.sampled_from([0, 1, 2, 100, 127, 128, 200, 254, 255, 256, 60000, 65535, 70000]), min_size=9, max_size=9
    ),
    alike=st.sampled_from([None, 0, 1, 128, 200, 255, 65535]),
    lossy=st.booleans(),
    negative=st.booleans(),
)
def test_black_and_white_is_told_quickly(values: list[int], alike: int | None, lossy: bool, negative: bool) -> None:
    """``alike``: the only value besides 0."""
    array = torch.tensor(values).reshape(1, 3, 3)
    array = array if alike is None else (array > 127) * alike
    array = array.clamp(max=255) if lossy else array  # JPEG has 8 bits
    array = -array if negative else array
    quick = black_and_white.read_pure(array.int(), lossy)
    slow = black_and_white.read(array, torch.zeros_like(array, dtype=torch.bool), lossy)
    if quick is not None:
        assert torch.equal(quick[0], slow.foreground)
        assert quick[1] == slow.white
        assert not slow.wrong.any()
    elif alike in (1, 200, 255, 65535) and not lossy and not negative:
        pytest.fail("a plain mask is not told quickly")


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_plain_masks_are_read_as_all_others(
    task: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = Labels() if task == "binary" else Labels(task="multiclass", num_classes=5)
    top = 1 if task == "multiclass" else np.iinfo(kind).max
    for k, shown in enumerate((np.eye(6) * top, np.zeros((6, 6)), np.ones((6, 6)) * top)):
        sample = Sample("a", tmp_path / "a.png", tmp_path / f"{k}.png")
        Image.fromarray(shown.astype(kind)).save(sample.mask)
        Image.fromarray(shown.astype(np.uint8)).save(sample.image)
        quick = masks.decode(sample, labels, (6, 6))
        with monkeypatch.context() as patch:
            patch.setattr(masks, "_plain", lambda *given: None)
            slow = masks.decode(sample, labels, (6, 6))
        assert torch.equal(quick.target.long(), slow.target)
        assert quick[1:] == slow[1:]


@pytest.mark.parametrize(("size", "spacing"), [((256, 256), 64), ((37, 100), 7), ((5, 9), 64), ((129, 64), 16)])
def test_bends_are_those_of_torch_s_interpolation(size: tuple[int, int], spacing: int) -> None:
    nodes = torch.randn(2, *(math.ceil(side / spacing) + 1 for side in size))
    covered = [(count - 1) * spacing + 1 for count in nodes.shape[1:]]
    whole = F.interpolate(nodes[None].double(), covered, mode="bicubic", align_corners=True)
    expected = v2.functional.center_crop(whole, list(size))[0]
    torch.testing.assert_close(_interpolated(nodes, spacing, size), expected.float(), rtol=0, atol=2e-5)


def test_deviations_are_torch_s() -> None:
    for image in (torch.randn(3, 40, 50) * 1e-3 + 5, torch.full((2, 9, 9), 0.25), torch.rand(13, 31, 1) * 9000):
        expected = image.double().std((-2, -1), correction=0, keepdim=True)
        torch.testing.assert_close(_spread(image).double(), expected, rtol=1e-4, atol=1e-6)


def test_a_warp_reads_what_it_needs_and_no_more() -> None:
    """What lies beyond its places, NaN here, is not looked at."""
    warp = RandomWarp(degrees=0, scale=(1, 1), displacement=0, p=1, size=(20, 20))
    image = torch.full((1, 100, 100), math.nan)
    image[:, 38:62, 38:62] = torch.rand(1, 24, 24)
    warped = warp(tv_tensors.Image(image))
    torch.testing.assert_close(warped.as_subclass(Tensor), image[:, 40:60, 40:60], rtol=0, atol=1e-5)


def test_integers_outside_of_0_to_1_are_refused_where_they_are_clipped() -> None:
    mask = torch.zeros(9, 9, dtype=torch.int8)
    augment = build([{"ColorJitter": {"brightness": 0.1}}], 4)
    assert augment.of_stored(torch.full((3, 9, 9), 255, dtype=torch.uint8), mask)[0].dtype == torch.float32
    with pytest.raises(InputError, match="ColorJitter"):
        augment.of_stored(torch.full((3, 9, 9), -3, dtype=torch.int16), mask)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_share_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    side, draw = 32, np.random.default_rng(0)
    for part, shape in (("images", (side, side, 3)), ("masks", (side, side))):
        (tmp_path / part).mkdir()
        for k in range(8):
            values = draw.integers(0, 256 if part == "images" else 2, shape).astype(np.uint8)
            Image.fromarray(values if part == "images" else 255 * values).save(tmp_path / part / f"{k}.png")
    samples = [one for split in find_samples(tmp_path, Labels()).values() for one in split]
    pair = side * side * 4  # bytes of three channels, and of the target
    data = SegmentationDataset(samples, Labels(), room=4 * pair)
    assert kept.ROOM == 256 * 2**20
    monkeypatch.setattr(kept, "get_worker_info", lambda: SimpleNamespace(num_workers=workers) if workers else None)
    for k in range(8):
        data[k]
    assert data._kept.taken == 4 * pair // max(1, workers)
