"""Reading images of every kind, drawing, overlaying, and preparing them as a config says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import unetzoo
from unetzoo import InputError, WriteError, images

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
def test_rgb_is_read_as_it_is(tmp_path: Path, ending: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    image = images.read_image(tmp_path / f"a.{ending}")
    assert image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0), RGB)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_stay_sixteen(tmp_path: Path, ending: str) -> None:
    grey = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{ending}")
    image = images.read_image(tmp_path / f"a.{ending}")
    assert image.dtype == torch.uint16
    assert np.array_equal(image[0], grey)


def test_palettes_bits_alpha_and_cmyk(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(4)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(images.read_image(tmp_path / "p.png").permute(1, 2, 0), palette.convert("RGB"))
    bits = RGB[..., 0] > 128
    Image.fromarray(bits).save(tmp_path / "1.png")
    assert np.array_equal(images.read_image(tmp_path / "1.png")[0], bits * np.uint8(255))
    rgba = np.concatenate([RGB, RGB[..., :1]], 2)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert np.array_equal(images.read_image(tmp_path / "rgba.png").permute(1, 2, 0), rgba)
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "cmyk.tif")
    assert np.array_equal(images.read_image(tmp_path / "cmyk.tif").permute(1, 2, 0), RGB)


def test_exif_turns_the_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270° to see it upright
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(images.read_image(tmp_path / "turned.png").permute(1, 2, 0), np.rot90(RGB, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format(tmp_path: Path, orientation: int) -> None:
    grey = RGB[..., 0]
    expected = {
        1: grey,
        2: np.fliplr(grey),
        3: np.rot90(grey, 2),
        4: np.flipud(grey),
        5: grey.T,
        6: np.rot90(grey, 3),
        7: np.rot90(grey, 2).T,
        8: np.rot90(grey, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    one_image = Image.fromarray(grey)
    one_image.save(tmp_path / "a.png", exif=exif)
    one_image.save(tmp_path / "b.tif", tiffinfo={274: orientation})
    one_image.save(tmp_path / "c.tif", tiffinfo={274: orientation}, compression="tiff_lzw")
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "d.tif", np.stack([grey] * 5), photometric="minisblack", extratags=tag)
    # EXIF may stand after the pixels of a PNG.
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    (tmp_path / "e.png").write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    for file in sorted(tmp_path.iterdir()):
        image = images.read_image(file, "channels")
        assert np.array_equal(image[-1], expected), file.name
        assert images.image_size(file) == expected.shape, file.name
        assert images.orientation(file) == orientation, file.name


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "kind", [np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64, np.float16]
)
def test_tiffs_of_every_type(tmp_path: Path, kind: type, order: str) -> None:
    if issubclass(kind, np.integer):
        info = np.iinfo(kind)
        grey = RNG.integers(info.min, info.max, (5, 7), dtype=kind, endpoint=True)
        grey[0, :2] = info.min, info.max
    else:
        grey = RNG.normal(-20, 5, (5, 7)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", grey, byteorder=order)
    image = images.read_image(tmp_path / "a.tif")
    assert image.dtype == (torch.float32 if issubclass(kind, np.floating) else getattr(torch, np.dtype(kind).name))
    assert np.array_equal(image[0], grey.astype(image.numpy().dtype))
    expected = grey / np.float64(1 if issubclass(kind, np.floating) else np.iinfo(kind).max)
    scaled = images.scaled(image)
    assert scaled.dtype == torch.float32
    np.testing.assert_allclose(scaled[0], expected, rtol=2e-7)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("bands", [2, 3, 4, 5, 13])
@pytest.mark.parametrize("planar", [True, False])
def test_bands_come_first_however_they_lie(tmp_path: Path, kind: type, bands: int, planar: bool) -> None:
    array = RNG.integers(0, 100, (bands, 5, 7)).astype(kind)
    stored = array if planar else np.ascontiguousarray(array.transpose(1, 2, 0))
    config = "separate" if planar else "contig"
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=config)
    image = images.read_image(tmp_path / "a.tif")
    assert np.array_equal(image, array)
    assert images.image_size(tmp_path / "a.tif") == (5, 7)


def test_colour_tiffs_of_16_bits_keep_them(tmp_path: Path) -> None:
    array = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    image = images.read_image(tmp_path / "a.tif")
    assert image.dtype == torch.uint16
    assert np.array_equal(image.permute(1, 2, 0), array)


def test_which_pages_are_bands(tmp_path: Path) -> None:
    pages = RNG.integers(0, 65536, (4, 5, 7), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "array.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", pages, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "channels.ome.tif", pages, metadata={"axes": "CYX"})
    for name in ("imagej.tif", "channels.ome.tif"):
        assert np.array_equal(images.read_image(tmp_path / name), pages), name
    tifffile.imwrite(tmp_path / "depths.tif", pages, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "times.ome.tif", pages, metadata={"axes": "TYX"})
    first, *others = map(Image.fromarray, pages)
    first.save(tmp_path / "pillow.tif", save_all=True, append_images=others)
    for name in ("depths.tif", "times.ome.tif", "pillow.tif", "array.tif"):
        with pytest.raises(
            InputError, match=rf"{name}' holds 4 (pages|depths|times).*'split'.*'first'.*'max'.*'channels'"
        ):
            images.read_image(tmp_path / name)
        assert np.array_equal(images.read_image(tmp_path / name, "first"), pages[:1]), name
        assert np.array_equal(images.read_image(tmp_path / name, "channels"), pages), name
        assert np.array_equal(images.read_image(tmp_path / name, "max")[0], pages.max(0)), name
        assert np.array_equal(images.read_image(tmp_path / name, 2)[0], pages[2]), name
        with pytest.raises(InputError, match=r"4 planes: plane 4 is not among 0…3"):
            images.read_image(tmp_path / name, 4)


def test_tiffs_beyond_pillow_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = np.zeros((13, 5, 7), np.int16)
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(tmp_path / "grey.tif", np.arange(35, dtype=np.int16).reshape(5, 7))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(InputError, match=r"bands\.tif'.*unetzoo\[tiff\]"):
        images.read_image(tmp_path / "bands.tif")
    assert images.image_size(tmp_path / "bands.tif") == (5, 7)  # tags need no package
    assert images.read_image(tmp_path / "grey.tif").sum() == 595  # Pillow is enough


def test_numbers_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    array = np.zeros((5, 7), np.float32)
    array[1, 2:4] = np.nan, np.inf
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif' .*\b2 values .*NaN or infinite"):
        images.read_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((5, 7), np.int64))
    with pytest.raises(InputError, match=r"b\.tif' .*int64 .*integers .*8, 16 or 32 bits"):
        images.read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("bands", [1, 13])
def test_a_small_file_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bands: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((bands, 50, 50), np.int16).squeeze(), photometric="minisblack")
    images.read_image(tmp_path / "a.tif", "channels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"a\.tif' cannot be read .*\(DecompressionBombError"):
        images.read_image(tmp_path / "a.tif", "channels")


def test_labels_are_read_as_they_are_stored(tmp_path: Path) -> None:
    indices = RNG.integers(0, 3, (5, 7)).astype(np.uint8)
    palette = Image.fromarray(indices).convert("P")
    palette.putdata(indices.flatten().tolist())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    palette.save(tmp_path / "p.png", transparency=0)
    assert np.array_equal(images.read_values(tmp_path / "p.png")[0], indices)
    assert images.palette_of(tmp_path / "p.png")[:3] == ((9, 9, 9), (200, 0, 0), (0, 0, 200))
    Image.fromarray(indices > 0).save(tmp_path / "1.png")
    assert np.array_equal(images.read_values(tmp_path / "1.png")[0], indices > 0)
    assert images.palette_of(tmp_path / "1.png") is None
    tifffile.imwrite(tmp_path / "b.tif", indices.astype(np.int64) - 1)
    assert np.array_equal(images.read_values(tmp_path / "b.tif")[0], indices.astype(int) - 1)
    assert (images.palette_of(tmp_path / "b.tif"), images.orientation(tmp_path / "b.tif")) == (None, None)


@pytest.mark.parametrize(
    ("last", "dead"), [([255, 255], True), ([255, 254], False), ([0, 0], False), ([65535, 65535], True)]
)
@pytest.mark.parametrize("channels", [2, 4])
def test_an_alpha_channel_is_dead_where_it_is_opaque_everywhere(channels: int, last: list[int], dead: bool) -> None:
    dtype = torch.uint16 if last[0] > 255 else torch.uint8
    image = torch.tensor([[[7, 9]]] * (channels - 1) + [[last]], dtype=dtype)
    assert images.has_dead_alpha(image) == dead
    assert not images.has_dead_alpha(image[1:])
    assert not images.has_dead_alpha(torch.ones(4, 1, 2))


@pytest.mark.parametrize("content", [b"", b"hello", "cut"])
def test_what_is_no_image(tmp_path: Path, content: bytes | str) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:5000] if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"a\.png' cannot be read .*image"):
        images.read_image(file)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "a.png", "no such file"),
        (tmp_path, "is a folder, not a file: give the path of a"),
    ):
        with pytest.raises(InputError, match=said):
            images.read_image(path)


def test_the_config_says_how_images_are_prepared() -> None:
    config = unetzoo.create("unet", base_channels=2, mean=[0.5, 0.25, 0], std=[0.5, 1, 2]).config
    eight = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([1.0, 0.75, 0.5])[:, None, None].expand(1, 3, 2, 2)
    for image in (
        eight,
        torch.full((3, 2, 2), 65535, dtype=torch.uint16),
        torch.ones(3, 2, 2),
        torch.cat([eight, eight[:1]]),
        eight[:1],
    ):
        assert torch.equal(images.prepare(image, config), expected)
    fluorescence = torch.cat([eight, eight[:1] // 2])
    with pytest.raises(InputError, match=r"4 channels.*in_channels=3.*not alpha"):
        images.prepare(fluorescence, config)
    assert torch.equal(images.prepare(fluorescence, config, alpha=True), expected)
    with pytest.raises(InputError, match=r"13 channels.*in_channels=3"):
        images.prepare(torch.zeros(13, 2, 2), config)
    with pytest.raises(InputError, match="height, width"):
        images.prepare(torch.zeros(2, 2), config)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_overlay_colours_the_mask_alone(channels: int) -> None:
    image = torch.randint(0, 256, (channels, 6, 8), dtype=torch.uint8)
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[2:4, 3:7] = True
    shown = images.overlay(image, mask)
    rgb = image.expand(3, 6, 8) if channels == 1 else image[:3]
    assert torch.equal(shown[:, ~mask], rgb[:, ~mask])
    assert (shown != rgb)[:, mask].any(dim=0).float().mean() > 0.9


def test_a_mask_alone_is_cyan_on_red_images(shared_data: Path) -> None:
    def colours_of(folder: str) -> set[str]:
        paths = sorted((shared_data / folder / "images").iterdir())[:6]
        return {images.colours_on(images.read_image(path), 1)[0] for path in paths}

    assert colours_of("vessels") == colours_of("polyps") == {images.CYAN}
    assert colours_of("nuclei") == {images.COLOURS[0]}
    red = torch.zeros(3, 4, 4, dtype=torch.uint8)
    red[0] = 200
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert images.overlay(red, mask, alpha=1)[:, 0, 0].tolist() == [0x42, 0xD4, 0xF4]
    assert images.overlay(red, torch.stack([mask, ~mask]), alpha=1)[:, 0, 0].tolist() == [0xE6, 0x19, 0x4B]
    assert images.overlay(red[:1], mask, alpha=1)[:, 0, 0].tolist() == [0xE6, 0x19, 0x4B]


def test_a_written_image_is_read_back(tmp_path: Path) -> None:
    image = torch.from_numpy(RGB).permute(2, 0, 1)
    images.write_png(image, tmp_path / "a.png")
    images.write_png(image[0], tmp_path / "new" / "grey.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), RGB)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "grey.png")), RGB[..., 0])
    with pytest.raises(WriteError, match="cannot be made"):
        images.write_png(image, tmp_path / "a.png" / "b.png")


def test_overlays_mix_the_colours_of_masks_that_overlap() -> None:
    image = torch.full((3, 3, 12), 100, dtype=torch.uint8)
    masks = torch.zeros(2, 3, 12, dtype=torch.bool)
    masks[0, :, :8] = masks[1, :, 4:8] = True
    shown = images.overlay(image, masks, alpha=0.25)[:, 1]
    red, green = (torch.tensor([int(c[k : k + 2], 16) for k in (1, 3, 5)]) for c in images.COLOURS[:2])
    once, rim = 75 + red / 4, 50 + red / 2
    assert shown[:, 0].tolist() == once.byte().tolist()  # the border of the image makes no rim
    assert shown[:, 5].tolist() == (0.75 * once + green / 4).byte().tolist()
    assert shown[:, 4].tolist() == (0.5 * once + green / 2).byte().tolist()
    assert shown[:, 7].tolist() == (0.5 * rim + green / 2).byte().tolist()
    assert shown[:, 8].tolist() == [100, 100, 100]


@pytest.mark.parametrize(("side", "width"), [(40, 1), (1023, 1), (1024, 2)])
def test_a_rim_has_its_whole_colour_and_grows_with_the_image(side: int, width: int) -> None:
    mask = torch.zeros(side, 40 if side == 40 else side, dtype=torch.bool)
    mask[10:30, 10:30] = True
    shown = images.overlay(torch.zeros(3, *mask.shape, dtype=torch.uint8), mask)
    rim = torch.zeros_like(mask)
    rim[10:30, 10:30] = True
    rim[10 + width : 30 - width, 10 + width : 30 - width] = False
    colour = torch.tensor([*bytes.fromhex(images.COLOURS[0][1:])], dtype=torch.uint8)
    assert torch.equal((shown == colour[:, None, None]).all(dim=0), rim)
    assert torch.equal(images.overlay(shown, mask, alpha=0), shown)
