"""Reading pictures of every kind, drawing, overlaying, and preparing them as a config says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo import InputError, images

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


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270° to see it upright
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(images.read_image(tmp_path / "turned.png").permute(1, 2, 0), np.rot90(RGB, 3))


@pytest.mark.parametrize("content", [b"", b"hello", "cut"])
def test_what_is_no_picture(tmp_path: Path, content: bytes | str) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:5000] if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"a\.png' cannot be read as a picture"):
        images.read_image(file)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "a.png", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            images.read_image(path)


def test_the_config_says_how_images_are_prepared() -> None:
    config = unetzoo.create("unet", base_channels=2, mean=[0.5, 0.25, 0], std=[0.5, 1, 2]).config
    eight = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([1.0, 0.75, 0.5])[:, None, None].expand(1, 3, 2, 2)
    for image in (
        eight,
        torch.full((3, 2, 2), 65535, dtype=torch.uint16),
        torch.ones(3, 2, 2),
        torch.cat([eight, eight[:1] // 2]),
        eight[:1],
    ):
        assert torch.equal(images.prepare(image, config), expected)
    with pytest.raises(InputError, match=r"13 channels.*in_channels=3"):
        images.prepare(torch.zeros(13, 2, 2), config)
    with pytest.raises(InputError, match="height, width"):
        images.prepare(torch.zeros(2, 2), config)


def test_drawn_nuclei_are_bright_where_the_mask_is() -> None:
    image, mask = images.draw_nuclei(200, 300, seed=1)
    assert image.shape == (3, 200, 300)
    assert mask.shape == (200, 300)
    assert 0.05 < mask.float().mean() < 0.6
    assert image[0][mask].float().mean() > 3 * image[0][~mask].float().mean()
    assert torch.equal(images.draw_nuclei(200, 300, seed=1)[0], image)
    assert not torch.equal(images.draw_nuclei(200, 300, seed=2)[0], image)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_overlay_colours_the_mask_alone(channels: int) -> None:
    image = torch.randint(0, 256, (channels, 6, 8), dtype=torch.uint8)
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[2:4, 3:7] = True
    shown = images.overlay(image, mask)
    rgb = image.expand(3, 6, 8) if channels == 1 else image[:3]
    assert torch.equal(shown[:, ~mask], rgb[:, ~mask])
    assert (shown != rgb)[:, mask].any(dim=0).float().mean() > 0.9


def test_a_written_picture_is_read_back(tmp_path: Path) -> None:
    image = torch.from_numpy(RGB).permute(2, 0, 1)
    images.write_png(image, tmp_path / "a.png")
    assert torch.equal(images.read_image(tmp_path / "a.png"), image)
    with pytest.raises(InputError, match="cannot be written"):
        images.write_png(image, tmp_path / "missing" / "a.png")
