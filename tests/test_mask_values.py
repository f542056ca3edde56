"""Which masks are black and white, which are labels, what palettes and alpha say, and masks of turned images."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import chunk, save
from PIL import Image

import unetzoo
from unetzoo import ConfigError, InputError, evaluation, images
from unetzoo.cli import main
from unetzoo.data import IGNORED, Labels, Sample, SegmentationDataset, check, convert, find_samples
from unetzoo.data.masks import decode, read_target
from unetzoo.data.stacks import list_samples

pytestmark = pytest.mark.usefixtures("no_curves")

BINARY, ANY = Labels(), Labels(foreground="any")


def target_of(mask: Path, labels: Labels = BINARY, image: Path | None = None) -> np.ndarray:
    """Return the target of a mask, of an image of its size if none is given."""
    if image is None:
        with Image.open(mask) as opened:
            image = save(np.zeros(opened.size[::-1], np.uint8), mask.parent / "image.png")
    return read_target(Sample("a", image, mask), labels, images.image_size(image)).numpy()


def refusal(mask: Path, labels: Labels = BINARY) -> str:
    with pytest.raises(InputError) as caught:
        target_of(mask, labels)
    assert str(mask) in str(caught.value)
    return str(caught.value)


def cells(ids: np.ndarray, side: int = 7) -> np.ndarray:
    """Return squares of the ids in rows of sixteen, each with a pixel of background around it."""
    rows = np.zeros((-(-len(ids) // 16), 16), np.int64)
    rows.flat[: len(ids)] = ids
    filled = np.zeros((len(rows) * (side + 1), 16 * (side + 1)), np.int64)
    for down in range(side):
        for right in range(side):
            filled[down :: side + 1, right :: side + 1] = rows
    return filled


def blobs(size: tuple[int, int] = (96, 128), seed: int = 0) -> np.ndarray:
    """Return some ellipses and thin lines, bool."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    found = np.zeros(size, bool)
    for _ in range(6):
        at, radii = generator.uniform((0, 0), size), generator.uniform(5, 16, 2)
        found |= ((y - at[0]) / radii[0]) ** 2 + ((x - at[1]) / radii[1]) ** 2 < 1
        slope, offset = generator.uniform(-1, 1), generator.uniform(0, size[0])
        found |= np.abs(y - slope * x - offset) < 1.5
    return found


# Labels that are not black and white


@pytest.mark.parametrize(
    ("values", "kind", "fix"),
    [
        (cells(np.arange(1, 127)), np.uint8, "foreground='any'"),
        (cells(np.arange(1, 129)), np.uint8, "foreground='any'"),
        (cells(np.arange(1, 256)), np.uint8, "foreground='any'"),
        (cells(np.arange(1, 256), side=2), np.uint8, "foreground='any'"),
        (cells(np.arange(1, 256), side=1), np.uint8, "foreground='any'"),
        (cells(np.arange(1, 256)), np.uint16, "foreground='any'"),
        (cells(np.arange(1, 256)), np.float32, "foreground='any'"),
        (cells(np.arange(1, 400)), np.uint16, "foreground='any'"),
        (cells(np.arange(400) * 164 + 99), np.uint16, "foreground='any'"),
        (cells(np.r_[1:40, 255]), np.uint8, "foreground='any'"),
        (cells(np.r_[1:400, 65535]), np.uint16, "foreground='any'"),
        (cells(np.arange(1, 20) * 13), np.uint8, "foreground='any'"),
        (cells(np.array([5, 15, 255])), np.uint8, "task='multiclass' with num_classes=16 and ignore=255"),
        (cells(np.array([5, 5, 255])), np.uint8, "num_classes=6 and ignore=255"),
        (cells(np.array([1, 2, 255])), np.uint8, "num_classes=3 and ignore=255"),
        (cells(np.array([1, 2, 65535])), np.uint16, "num_classes=3 and ignore=65535"),
        (
            cells(np.array([5, 100, 200])),
            np.uint8,
            "task='multiclass' with colours=('#000000', '#050505', '#646464', '#c8c8c8')",
        ),
        (cells(np.array([85, 170, 255])), np.uint8, "colours=('#000000', '#555555', '#aaaaaa', '#ffffff')"),
        (cells(np.array([130])), np.uint8, "foreground='any'"),
        (cells(np.array([1, 2, 3])), np.uint8, "num_classes=4;"),
        (cells(np.array([254, 255])), np.uint8, "foreground='any'"),
    ],
)
def test_labels_are_no_black_and_white(tmp_path: Path, values: np.ndarray, kind: type, fix: str) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, values.astype(kind))
    said = refusal(path)
    assert fix in said
    assert re.search(r"outside the classes: \d+ \(\d+ pixels\)", said)
    if "ignore=" in fix:
        void = int(fix.rpartition("=")[2])
        labels = Labels(task="multiclass", num_classes=int(re.search(r"num_classes=(\d+)", said)[1]), ignore=void)
        assert np.array_equal(target_of(path, labels), np.where(values == void, IGNORED, values))
    elif "colours=" in fix:
        colours = ast.literal_eval(re.search(r"colours=(\([^)]*\))", said)[1])
        found = target_of(path, Labels(task="multiclass", num_classes=4, colours=colours))
        assert np.array_equal(found, np.searchsorted(np.unique(values), values))
    assert np.array_equal(target_of(path, ANY), values > 0)


@pytest.mark.parametrize("quality", [20, 60, 90, 100])
def test_jpegs_of_labels_are_refused(tmp_path: Path, quality: int) -> None:
    mask = save(cells(np.arange(1, 256), side=9).astype(np.uint8), tmp_path / "m.jpg", quality=quality)
    assert "must be black and white" in refusal(mask)
    said = refusal(mask, ANY)
    assert "JPEG does not keep ids of objects" in said
    assert "in black and white, foreground='white'" in said


def test_photographs_are_refused(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    grey = 127 + 100 * np.sin(x / 9) * np.cos(y / 7) + np.random.default_rng(0).normal(0, 8, (64, 64))
    assert "threshold" in refusal(save(grey.clip(0, 255).astype(np.uint8), tmp_path / "m.png"))


def test_one_wrong_mask_does_not_hide_in_a_set(tmp_path: Path) -> None:
    for name, values in {"a": [255], "b": [255, 255], "c": [*range(1, 140)]}.items():
        mask = cells(np.array(values)).astype(np.uint8)
        save(np.zeros(mask.shape, np.uint8), tmp_path / "images" / f"{name}.png")
        save(mask, tmp_path / "masks" / f"{name}.png")
    (problem,) = [text for text in check(tmp_path, BINARY).problems if "outside" in text]
    assert "c.png" in problem


# Black and white with greys between


@pytest.mark.parametrize("quality", [1, 5, 10, 20, 40, 60, 75, 90, 100])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_jpeg_s_noise_is_no_label(tmp_path: Path, quality: int, ending: str) -> None:
    """Also where the JPEG was saved as PNG later."""
    for seed in range(3):
        clean = blobs(seed=seed)
        save(clean * np.uint8(255), tmp_path / "m.jpg", quality=quality)
        with Image.open(tmp_path / "m.jpg") as opened:
            grey = np.asarray(opened)
        mask = tmp_path / "m.jpg" if ending == "jpg" else save(grey, tmp_path / "m.png")
        assert np.array_equal(target_of(mask), grey > 127)


@pytest.mark.parametrize("way", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("factor", [0.1, 0.3, 0.5, 0.77, 1.9, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_rims_of_resampling_are_no_labels(tmp_path: Path, way: int, factor: float, kind: type) -> None:
    for seed in range(2):
        clean = Image.fromarray(blobs(seed=seed) * np.uint8(255))
        grey = np.asarray(clean.resize([round(side * factor) for side in clean.size], way))
        stored = grey.astype(kind) * (257 if kind is np.uint16 else 1) / (255 if kind is np.float32 else 1)
        mask = tmp_path / "m.tif"
        tifffile.imwrite(mask, stored.astype(kind))
        assert np.array_equal(target_of(mask), grey > 127)


def test_thin_rims_in_few_pixels_are_no_labels(tmp_path: Path) -> None:
    """Of lines drawn at random in 8 × 8 pixels, one in fifty may be refused: no pixel of it is near white."""
    generator, refused, read = np.random.default_rng(0), 0, 0
    for _ in range(100):
        y, x = (np.mgrid[:64, :64] + 0.5) / 8
        angle, offset = generator.uniform(0, np.pi), generator.uniform(-2, 2)
        line = np.abs((y - 4) * np.cos(angle) + (x - 4) * np.sin(angle) - offset) < generator.uniform(0.5, 1)
        grey = (line.reshape(8, 8, 8, 8).mean((1, 3)) * 255).round().astype(np.uint8)
        try:
            assert np.array_equal(target_of(save(grey, tmp_path / "m.png")), grey > 127)
            read += 1
        except InputError:
            refused += 1
    assert read + refused == 100
    assert refused <= 2


def test_real_masks_are_read_as_before(shared_data: Path) -> None:
    for folder, step in (("nuclei", 40), ("nuclei_16bit", 4), ("vessels", 10), ("polyps", 20)):
        for mask in sorted((shared_data / folder / "masks").iterdir())[::step]:
            (image,) = (shared_data / folder / "images").glob(f"{mask.stem}.*")
            with Image.open(mask) as opened:
                assert np.array_equal(target_of(mask, BINARY, image), np.asarray(opened.convert("L")) > 127), mask
    for mask in sorted((shared_data / "nuclei" / "instances").iterdir())[::40]:
        image = shared_data / "nuclei" / "images" / mask.name
        ids = tifffile.imread(mask) if mask.suffix == ".tif" else np.asarray(Image.open(mask)).astype(int)
        assert np.array_equal(target_of(mask, ANY, image), ids > 0)
        with pytest.raises(InputError, match="foreground='any'"):
            target_of(mask, BINARY, image)


# Every id is an object


def test_ids_are_whole_numbers_above_nothing(tmp_path: Path) -> None:
    values = cells(np.array([1, 70000, 3])).astype(np.int32)
    values[0, 0] = -1
    tifffile.imwrite(tmp_path / "m.tif", values)
    said = refusal(tmp_path / "m.tif", ANY)
    assert "-1 (1 pixels)" in said
    assert "ignore" in said
    expected = np.where(values == -1, IGNORED, values > 0)
    assert np.array_equal(target_of(tmp_path / "m.tif", Labels(foreground="any", ignore=-1)), expected)
    for wrong, shown in ((0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf")):
        tifffile.imwrite(tmp_path / "f.tif", np.where(values == -1, wrong, values).astype(np.float32))
        assert shown in refusal(tmp_path / "f.tif", ANY)


def test_any_is_of_binary_and_multilabel_masks(tmp_path: Path) -> None:
    for wrong in (
        {"foreground": "ids"},
        {"foreground": "any", "task": "multiclass", "num_classes": 3},
        {"foreground": "any", "colours": ("#000000", "#ffffff")},
    ):
        with pytest.raises(ConfigError, match="foreground"):
            Labels(**wrong)
    ids = cells(np.arange(1, 200)).astype(np.uint8)
    image = save(np.zeros(ids.shape, np.uint8), tmp_path / "image.png")
    sample = Sample("a", image, (save(ids, tmp_path / "a.png"), None))
    found = read_target(sample, Labels(task="multilabel", num_classes=2, foreground="any"), ids.shape)
    assert np.array_equal(found, np.stack([ids > 0, ids < 0]))


def set_of_ids(folder: Path, count: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for number in range(count):
        ids = np.kron(generator.permutation(np.arange(2, 258) % 256).reshape(16, 16), np.ones((2, 2))).astype(np.uint8)
        save(np.where(ids > 99, 200, 30).astype(np.uint8), folder / "images" / f"{number}.png")
        save(np.where(ids > 99, ids, 0).astype(np.uint8), folder / "masks" / f"{number}.png")
    return folder


def test_ids_through_every_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = set_of_ids(tmp_path / "ids")
    assert main(["data", "check", str(source)]) == 2
    assert "--foreground any" in capsys.readouterr().out
    assert main(["data", "check", str(source), "--foreground", "any"]) == 0
    assert main(["data", "convert", str(source), str(tmp_path / "plain"), "--foreground", "any"]) == 0
    for name in ("0", "5"):
        written = np.asarray(Image.open(tmp_path / "plain" / "masks" / f"{name}.png"))
        assert np.array_equal(written, 255 * (np.asarray(Image.open(source / "masks" / f"{name}.png")) > 0))
    run = unetzoo.fit(
        "unet", data=source, foreground="any", epochs=1, batch_size=2, out=tmp_path / "run", quiet=True,
        ratios=[0.5, 0.25, 0.25], settings={"model.options.base_channels": 4, "data.workers": 0},
    )  # fmt: skip
    assert "foreground: any" in (run.folder / "config.yaml").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["evaluate", str(run.folder), "--data", str(source), "--split", "val", "--json"]) == 0
    assert "dice" in json.loads(capsys.readouterr().out)
    with pytest.raises((ConfigError, InputError), match="foreground='any'"):
        evaluation.evaluate(run.load(), source)
    assert evaluation.evaluate(run.load(), source, foreground="any").scores.images == 6


# Palettes and alpha


def paletted(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8)).convert("P")
    image.putdata(indices.flatten().tolist())
    image.putpalette([value for colour in colours for value in colour])
    return image


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (200, 0, 0)


@pytest.mark.parametrize("ending", ["png", "gif", "tif"])
@pytest.mark.parametrize("first", [BLACK, WHITE])
def test_colours_of_a_black_and_white_palette_decide(tmp_path: Path, ending: str, first: tuple[int, int, int]) -> None:
    truth = blobs((32, 48))
    second = WHITE if first == BLACK else BLACK
    indices = truth if second == WHITE else ~truth
    paletted(indices, first, second).save(tmp_path / f"m.{ending}")
    assert np.array_equal(target_of(tmp_path / f"m.{ending}"), truth)
    for full in (True, False):  # one colour alone
        paletted(np.full(truth.shape, full == (second == WHITE)), first, second).save(tmp_path / f"f.{ending}")
        assert (target_of(tmp_path / f"f.{ending}") == full).all()


@pytest.mark.parametrize("ending", ["png", "gif", "bmp", "tif"])
def test_what_quantising_makes_of_a_mask_is_the_mask(tmp_path: Path, ending: str) -> None:
    for truth in (blobs((32, 48)), ~blobs((32, 48), seed=1)):
        for colours in (2, 4):
            rgb = Image.fromarray(np.repeat(truth[..., None] * np.uint8(255), 3, 2))
            rgb.quantize(colours).save(tmp_path / f"m.{ending}")
            assert np.array_equal(target_of(tmp_path / f"m.{ending}"), truth)


def test_a_palette_of_one_bit_by_hand(tmp_path: Path) -> None:
    """A PNG of 8 × 2 pixels, index 0 white and 1 black, and a BMP of the same."""
    import zlib

    head = struct.pack(">IIBBBBB", 8, 2, 1, 3, 0, 0, 0)
    pixels = zlib.compress(bytes([0, 0b10110000, 0, 0b00001111]))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", bytes([255] * 3 + [0] * 3))
    (tmp_path / "m.png").write_bytes(png + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    info = struct.pack("<IiiHHIIiiII", 40, 8, 2, 1, 1, 0, 8, 0, 0, 2, 2) + bytes([255, 255, 255, 0, 0, 0, 0, 0])
    rows = bytes([0b00001111, 0, 0, 0, 0b10110000, 0, 0, 0])  # from the bottom up
    offset = 14 + len(info)
    (tmp_path / "m.bmp").write_bytes(b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + rows)
    expected = [[0, 1, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]]
    for ending in ("png", "bmp"):
        assert np.array_equal(target_of(tmp_path / f"m.{ending}"), expected), ending


def test_indices_of_coloured_palettes_are_ids(tmp_path: Path) -> None:
    indices = cells(np.arange(1, 5)) % 256
    truth = indices > 0
    paletted(truth, BLACK, RED).save(tmp_path / "two.png")
    assert np.array_equal(target_of(tmp_path / "two.png"), truth)
    voc = np.where(indices == 4, 255, indices * 5)
    paletted(voc, *[(k, 0, 255 - k) if k else BLACK for k in range(256)]).save(tmp_path / "voc.png")
    assert "num_classes=16 and ignore=255" in refusal(tmp_path / "voc.png")
    assert np.array_equal(target_of(tmp_path / "voc.png", ANY), truth)
    found = target_of(tmp_path / "voc.png", Labels(task="multiclass", num_classes=16, ignore=255))
    assert np.array_equal(found, np.where(voc == 255, IGNORED, voc))
    # Of a greyscale palette too: multiclass masks count by index, binary ones by what is seen.
    greys = [(k, k, k) for k in (0, 80, 160, 240, 255)]
    paletted(indices, *greys).save(tmp_path / "grey.png")
    assert np.array_equal(target_of(tmp_path / "grey.png", Labels(task="multiclass", num_classes=5)), indices)
    assert "80 (" in refusal(tmp_path / "grey.png")


@pytest.mark.parametrize("ending", ["png", "gif", "tif", "bmp"])
@pytest.mark.parametrize(
    ("colours", "told"),
    [([BLACK, WHITE], False), ([WHITE, RED], False), ([BLACK, RED, WHITE], False), ([WHITE, BLACK], True),
     ([WHITE, RED, BLACK], True), ([RED, BLACK], True)],
)  # fmt: skip
def test_a_palette_of_classes_with_black_later_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, colours: list[tuple[int, int, int]], told: bool
) -> None:
    """Its indices count, as documented; and the fix that is said reads it by colour, black first."""
    indices = cells(np.arange(1, 6)) % len(colours)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for k in range(6):
            if part == "images":
                save(np.full((*indices.shape, 3), k, np.uint8), tmp_path / part / f"{k}.png")
            else:
                kept = indices if k else np.zeros_like(indices)  # class 0 alone says nothing
                paletted(kept, *colours).save(tmp_path / part / f"{k}.{ending}")
    words = ["data", "check", str(tmp_path), "--task", "multiclass", "--num-classes", str(len(colours))]
    assert main(words) == 0
    said = capsys.readouterr().out
    names = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colours]
    found = re.findall(r"(\d) of 6 masks have a palette .*: class (.*)\. Their", said)
    assert found == ([("5", ", ".join(f"{k} is {name}" for k, name in enumerate(names)))] if told else [])
    alone = Path(shutil.move(tmp_path / "masks" / f"3.{ending}", tmp_path))
    assert np.array_equal(target_of(alone, Labels(task="multiclass", num_classes=len(colours))), indices)
    (tmp_path / "images" / "3.png").unlink()
    (tmp_path / "image.png").unlink(missing_ok=True)
    if told:
        typed = re.search("give --colours '(.*)'", said)[1]
        assert typed.split(",")[0] == "#000000"
        assert sorted(typed.split(",")) == sorted(names)
        assert main([*words, "--colours", typed]) == 0
        labels = Labels(task="multiclass", num_classes=len(colours), colours=tuple(typed.split(",")))
        expected = np.array([typed.split(",").index(name) for name in names])[indices]
        assert np.array_equal(target_of(alone, labels), expected)
        assert "a palette in" not in capsys.readouterr().out


def test_a_coloured_palette_with_black_later_is_refused(tmp_path: Path) -> None:
    """What quantising makes of red on black: its indices would turn the mask inside out."""
    truth = blobs((32, 48))
    paletted(~truth, RED, BLACK).save(tmp_path / "m.png")
    assert "give colours" in refusal(tmp_path / "m.png")
    assert np.array_equal(target_of(tmp_path / "m.png", Labels(colours=("#000000", "#c80000"))), truth)


@pytest.mark.parametrize("colour", [BLACK, WHITE, RED])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_shape_in_alpha_is_the_mask(tmp_path: Path, colour: tuple[int, int, int], mode: str) -> None:
    truth = blobs((32, 48))
    layers = [np.full(truth.shape, value, np.uint8) for value in (colour if mode == "RGBA" else colour[:1])]
    mask = save(np.stack([*layers, truth * np.uint8(255)], 2), tmp_path / "m.png")
    with Image.open(mask) as opened:
        assert opened.mode == mode
    assert np.array_equal(target_of(mask), truth)
    if mode == "RGBA":
        with pytest.raises(InputError, match="in alpha: leave colours=… out"):
            target_of(mask, Labels(colours=("#000000", "#ffffff")))
    layers[0] = np.where(blobs((32, 48), seed=3), 255, 0).astype(np.uint8)  # two shapes: nobody knows
    assert "different channels" in refusal(save(np.stack([*layers, truth * np.uint8(255)], 2), tmp_path / "m.png"))


def test_white_with_a_transparent_background(tmp_path: Path) -> None:
    truth = blobs((32, 48)) * np.uint8(255)
    assert np.array_equal(target_of(save(np.stack([truth] * 4, 2), tmp_path / "m.png")), truth > 0)


# Turned images


def turned_by(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return what a viewer shows, by Pillow."""
    stream, exif = io.BytesIO(), Image.Exif()
    exif[274] = orientation
    Image.fromarray(array).save(stream, "PNG", exif=exif)
    from PIL import ImageOps

    with Image.open(stream) as opened:
        return np.asarray(ImageOps.exif_transpose(opened))


def photo(path: Path, array: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    return save(array, path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(24, 40), (32, 32)])
def test_masks_of_stored_pixels_turn_with_their_image(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    stored = blobs(size) * np.uint8(255)
    shown = turned_by(stored, orientation)
    image = photo(tmp_path / "images" / "a.png", stored, orientation)
    assert np.array_equal(images.read_image(image)[0], shown)
    masks = tmp_path / "masks"
    labels = Labels(task="multiclass", num_classes=256)
    colours = Labels(colours=("#000000", "#ffffff"))
    for mask in (save(stored, masks / "a.png"), save(stored, masks / "a.tif")):
        assert np.array_equal(target_of(mask, BINARY, image), shown > 0)
        assert np.array_equal(target_of(mask, ANY, image), shown > 0)
        assert np.array_equal(target_of(mask, labels, image), shown)
    assert np.array_equal(target_of(save(np.stack([stored] * 3, 2), masks / "rgb.png"), colours, image), shown > 0)
    # A tag of its own turns it already, and the upright image's size says that it is upright.
    own = photo(masks / "own.png", stored, orientation)
    assert np.array_equal(target_of(own, BINARY, image), shown > 0)
    if size[0] != size[1] and orientation > 4:
        assert np.array_equal(target_of(save(shown, masks / "upright.png"), BINARY, image), shown > 0)
    two = Labels(task="multilabel", num_classes=2)
    both = read_target(Sample("a", image, (own, masks / "a.png")), two, shown.shape)
    assert np.array_equal(both, np.stack([shown > 0] * 2))


def test_the_check_counts_turned_images(tmp_path: Path) -> None:
    stored = blobs((24, 40)) * np.uint8(255)
    for number, (name, orientation, mask) in enumerate(
        [
            ("plain", 1, stored),
            ("stored", 6, stored),
            ("stored2", 8, stored),
            ("shown", 6, turned_by(stored, 6)),
            ("over", 3, stored),
        ]
    ):
        photo(tmp_path / "images" / f"{name}.jpg", stored // 2 + np.uint8(number), orientation)
        save(mask, tmp_path / "masks" / f"{name}.png")
    photo(tmp_path / "images" / "polygon.jpg", stored // 3, 6)
    (tmp_path / "masks" / "polygon.txt").write_text("0 0 0 1 0 1 .5 0 .5", encoding="utf-8")
    report = check(tmp_path, BINARY)
    assert report.problems == ()
    (said,) = [text for text in report.warnings if "EXIF" in text]
    assert said.startswith("5 images are turned")
    assert "2 of the size of the stored image" in said
    assert "2 of the size of the upright image" in said
    assert "1 whose size fits both" in said
    # Polygons are of the image as it is shown.
    samples = {sample.name: sample for part in find_samples(tmp_path, BINARY).values() for sample in part}
    found = decode(samples["polygon"], BINARY, (40, 24))
    assert found.turn == "shown"
    assert found.target[:20].all()
    assert not found.target[20:].any()


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_predicted_masks_are_of_upright_images(tmp_path: Path, orientation: int, ending: str) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    image = photo(tmp_path / f"a.{ending}", stored, orientation)
    network = unetzoo.create("unet", base_channels=2, in_channels=1)
    found = unetzoo.Predictor(network, tile=None)(image)
    mask = turned_by(stored, orientation) > 127
    dataclasses.replace(found, mask=torch.from_numpy(mask.astype(np.uint8))).save(tmp_path / f"mask.{ending}")
    assert np.array_equal(target_of(tmp_path / f"mask.{ending}", BINARY, image), mask)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_converted_and_read_are_the_same_of_turned_images(tmp_path: Path, orientation: int) -> None:
    stored = blobs((24, 40)) * np.uint8(255)
    photo(tmp_path / "set" / "images" / "a.png", stored, orientation)
    save(stored, tmp_path / "set" / "masks" / "a.png")
    written = convert(tmp_path / "set", tmp_path / "plain", BINARY)
    (one,), (other,) = (
        SegmentationDataset(list_samples(folder, labels).samples[""], labels, in_channels=1)
        for folder, labels in ((tmp_path / "set", BINARY), (tmp_path / "plain", written))
    )
    assert torch.equal(one["target"], other["target"])
    assert np.array_equal(one["target"], turned_by(stored, orientation) > 0)


# Types


def test_types_of_other_scales_do_not_mix(tmp_path: Path) -> None:
    for name, kind in (("a", np.uint16), ("b", np.int32), ("c", np.uint16)):
        (tmp_path / "images").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", (blobs((24, 40)) * 4000).astype(kind))
        save(blobs((24, 40)) * np.uint8(255), tmp_path / "masks" / f"{name}.png")
    (problem,) = check(tmp_path, BINARY, ratios=(0.5, 0.5, 0)).problems
    assert re.search(r"type.*int32 in '.*b\.tif'.*uint16 in '.*[ac]\.tif'.*one type", problem)
    tifffile.imwrite(tmp_path / "images" / "b.tif", (blobs((24, 40)) * 200).astype(np.uint8))
    assert check(tmp_path, BINARY, ratios=(0.5, 0.5, 0)).problems == ()
