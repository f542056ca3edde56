"""Images whose values are not those of the training: refused, told, or mapped by who says which are black and white."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, images
from unetzoo.cli import main
from unetzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD

GREY = np.random.default_rng(0).integers(0, 256, (48, 40, 1), np.uint8).repeat(3, axis=2)


def predictor(mean: float | None = None, std: float = 0.2, **options: object) -> Predictor:
    """Return one of a small network with ImageNet's mean and deviation, or other ones."""
    torch.manual_seed(0)
    levels = (IMAGENET_MEAN, IMAGENET_STD) if mean is None else ((mean,) * 3, (std,) * 3)
    return Predictor(unetzoo.create("unet", base_channels=2, mean=levels[0], std=levels[1]), device="cpu", **options)


class TestFloatingPoint:
    @pytest.mark.parametrize("most", [2.5, 255])
    def test_beyond_one_is_refused_at_every_door(self, most: float, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="images by rows need zarr")
        tifffile = pytest.importorskip("tifffile", reason="TIFFs of floating point need tifffile")
        values = (GREY / 255 * most).astype(np.float32)
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
        zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(16, 16, 3))
        asked = predictor()
        for given in (values, values[..., 0], torch.from_numpy(values).permute(2, 0, 1), tmp_path / "a.tif"):
            with pytest.raises(InputError, match=rf"up to {most}.*from 0 to 1; .*divide by 255.*intensity_range="):
                asked(given)
        for name in ("a.tif", "a.zarr"):
            with pytest.raises(InputError, match=r"floating-point image"):
                asked.write_mask(tmp_path / name, tmp_path / f"mask_{name}")
            assert not (tmp_path / f"mask_{name}").exists()

    def test_of_the_training_s_scale_is_taken(self) -> None:
        predictor()((GREY / 255 * 1.9).astype(np.float32))  # sharpened
        predictor()((GREY / 255 - 0.2).astype(np.float32))
        itself = unetzoo.create("unet", base_channels=2, normalisation="image")
        Predictor(itself, device="cpu")((GREY * 16.0).astype(np.float32))

    def test_units_of_one_s_own_are_taken(self) -> None:
        rng = np.random.default_rng(1)
        decibels = rng.normal(-11, 5, (64, 64, 3)).astype(np.float32)
        predictor(-11.0, 5.0)(decibels)
        reflectance = rng.normal(1800, 700, (64, 64, 3)).astype(np.float32)
        predictor(1800.0, 700.0)(reflectance)
        power = rng.pareto(2.5, (64, 64, 3)).astype(np.float32) * 0.1  # radar's: a few values are very bright
        assert power.max() > 2
        predictor(float(power.mean()), float(power.std()))(power)
        with pytest.raises(InputError, match="floating-point image"):
            predictor(0.2, 0.1)(GREY.astype(np.float32))

    def test_each_model_of_several_is_asked(self) -> None:
        first = unetzoo.create("unet", base_channels=2, normalisation="image")
        second = unetzoo.create("unet", base_channels=2, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        with pytest.raises(InputError, match="floating-point image"):
            Predictor([first, second], device="cpu")(GREY.astype(np.float32))


class TestIntegers:
    def test_nearly_black_images_are_told_once_a_call(self, told: pytest.LogCaptureFixture) -> None:
        asked = predictor()
        asked([GREY.astype(np.uint16), GREY.astype(np.int32), GREY])
        assert [said.partition(":")[0] for said in told.messages] == [
            "2 images are nearly black to this model, with values up to 255 of 65,535"
        ]
        asked(GREY.astype(np.uint16) * 16)
        assert len(told.messages) == 2
        assert "intensity_range=(0, 4095)" in told.messages[1]

    def test_others_are_not(self, told: pytest.LogCaptureFixture) -> None:
        asked = predictor()
        asked([GREY, GREY // 20, GREY.astype(np.uint16) * 257, GREY.astype(np.uint16) * 40])
        predictor(0.03, 0.02)(GREY.astype(np.uint16) * 16)  # it was trained on 12 bits in 16
        predictor(0.03, 0.02)(GREY.astype(np.uint16) * 4)  # and this one is dim
        itself = unetzoo.create("unet", base_channels=2, normalisation="image")
        Predictor(itself, device="cpu")(GREY.astype(np.uint16))
        predictor(intensity_range=(0, 255))(GREY.astype(np.uint16))
        assert not told.messages

    def test_the_command_says_one_line_with_its_option(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        pytest.importorskip("zarr", reason="images by rows need zarr")
        tifffile = pytest.importorskip("tifffile", reason="16 bits of RGB need tifffile")
        dim = GREY.astype(np.uint16) * 12
        for name in ("a", "b"):
            tifffile.imwrite(tmp_path / f"{name}.tif", dim, photometric="rgb")
        tifffile.imwrite(tmp_path / "long.tif", np.tile(dim, (4, 1, 1)), photometric="rgb")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # by rows are the images of more
        predictor()  # seeds
        unetzoo.save(
            unetzoo.create("unet", base_channels=2, mean=IMAGENET_MEAN, std=IMAGENET_STD), tmp_path / "m.safetensors"
        )
        command = ["predict", *(str(tmp_path / name) for name in ("m.safetensors", "a.tif", "b.tif", "long.tif"))]
        assert main([*command, "--out", str(tmp_path / "as_is")]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "3 images, such as a.tif, are nearly black" in lines[0]
        assert lines[0].endswith("such as --range 0 4095")
        ranged = [*command, "--out", str(tmp_path / "ranged"), "--tile", "32", "--range", "0", "3060"]
        assert main(ranged) == 0
        assert not capsys.readouterr().err
        shown = Predictor(tmp_path / "m.safetensors", tile=32, device="cpu")
        for name, rows in (("a", 1), ("long", 4)):  # of 8 bits it is this image
            found = images.read_image(tmp_path / "ranged" / f"{name}.tif")[0].numpy()
            assert (found == shown(np.tile(GREY, (rows, 1, 1))).mask.numpy() * 255).all()
        assert json.loads((tmp_path / "ranged" / ".unetzoo.json").read_text())["intensity_range"] == [0, 3060]
        assert main([*ranged[:-1], "4095"]) == 2
        assert "--range 0 3060 there, --range 0 4095 now" in capsys.readouterr().err


class TestAlike:
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
    def test_images_of_one_value_are_told(self, kind: type, told: pytest.LogCaptureFixture) -> None:
        white = np.full((1100, 30, 3), 1 if kind is np.float32 else np.iinfo(kind).max, kind)
        for k, asked in enumerate((predictor(), Predictor(unetzoo.create("unet", base_channels=2), device="cpu"))):
            asked(white)
            asked(white[..., 0])
            black = white * kind(0)
            asked([black, white])
            assert [said.partition(" everywhere")[0] for said in told.messages[3 * k :]] == [
                *["an image is of one value"] * 2, "2 images are of one value",
            ]  # fmt: skip

    def test_opacity_is_no_value(self, told: pytest.LogCaptureFixture) -> None:
        opaque = np.concatenate([np.full((9, 9, 3), 50), np.arange(81).reshape(9, 9, 1)], axis=2).astype(np.uint8)
        predictor()(Image.fromarray(opaque, "RGBA"))
        assert [said.partition(" everywhere")[0] for said in told.messages] == ["an image is of one value"]

    def test_one_pixel_that_differs_is_enough(self, told: pytest.LogCaptureFixture) -> None:
        asked = predictor()
        for row in (0, 7, 8, 519, 520, 1099):
            image = np.full((1100, 30, 3), 200, np.uint8)
            image[row, 29, 2] = 199
            asked(image)
        asked(np.full((1, 1, 3), 9, np.uint8))
        asked(np.full((20, 20, 3), np.nan, np.float32))  # nothing was measured
        assert not told.messages

    def test_a_range_beyond_all_values_is_told(self, told: pytest.LogCaptureFixture) -> None:
        image = GREY.astype(np.uint16) + np.uint16(1000)
        for low, high in ((0, 255), (2000, 4095)):
            predictor(intensity_range=(low, high))(image)
        predictor(intensity_range=(0, 1001))(image)  # some of it is beyond, not all
        assert len(told.messages) == 2
        assert all("with the given range of values" in said for said in told.messages)

    def test_real_images_are_not_told(self, shared_data: Path, told: pytest.LogCaptureFixture) -> None:
        asked = predictor(tile=64)
        for path in sorted((shared_data / "nuclei" / "images").iterdir())[::40]:
            asked(path)
        assert not told.messages


class TestRange:
    def test_values_are_mapped_to_black_and_white(self) -> None:
        plain, wide = predictor(), predictor(intensity_range=(100, 355))
        expected = plain(GREY).probabilities
        for kind in (np.uint16, np.int16, np.int32, np.float32):
            torch.testing.assert_close(wide(GREY.astype(kind) + kind(100)).probabilities, expected)
        beyond = np.clip(GREY.astype(np.int16) * 3 - 200, 0, 255).astype(np.uint8)  # cut off at both ends
        found = predictor(intensity_range=(200 / 3, 455 / 3))(GREY).probabilities
        torch.testing.assert_close(found, plain(beyond).probabilities)

    def test_what_is_missing_stays_missing(self) -> None:
        masked = np.ma.masked_array(GREY.astype(np.uint16), np.zeros(GREY.shape, bool))
        masked[:10] = np.ma.masked
        as_floats = np.where(masked.mask, np.nan, GREY / 255).astype(np.float32)
        found, expected = predictor(intensity_range=(0, 255))(masked), predictor()(as_floats)
        assert int(found.missing.sum()) == 400
        torch.testing.assert_close(found.probabilities, expected.probabilities)

    @pytest.mark.parametrize("given", [5, (1, 1), (3, 2), (0, "a"), (0, 1, 2), (0, float("inf")), (False, True)])
    def test_is_two_numbers(self, given: object) -> None:
        with pytest.raises(ConfigError, match=r"intensity_range=.*two numbers"):
            predictor(intensity_range=given)

    def test_real_12_bits_gain_by_it(self, shared_data: Path) -> None:
        (path,) = (shared_data / "nuclei_16bit" / "images").glob("*A12*")
        truth = np.asarray(Image.open(path.parent.parent / "masks" / f"{path.stem}.png")) > 127

        def dice(**options: object) -> float:
            found = Predictor("nuclei", device="cpu", **options)(path).mask.numpy() > 0
            return 2 * (found & truth).sum() / (found.sum() + truth.sum())

        assert dice() < 0.8
        assert dice(intensity_range=(0, 4095)) > 0.95
