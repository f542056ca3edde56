"""Images normalised each by itself, at every door: against NumPy's mean and deviation of the whole, in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as lightning
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from test_prediction import small
from torch import Tensor

import unetzoo
from unetzoo import ConfigError, Predictor, augmentation, drawing, images
from unetzoo.data import Labels, SegmentationDataset, find_samples
from unetzoo.prediction.inputs import as_image
from unetzoo.prediction.stored import StoredRows
from unetzoo.serving import Limits, answers
from unetzoo.train.data import FolderData

pytestmark = pytest.mark.usefixtures("no_curves")

OFTEN = np.random.default_rng(0)


def z_scores(stored: NDArray[np.generic], largest: float = 1.0) -> NDArray[np.float64]:
    """Return (C, H, W) less the mean of each channel, by its deviation; NaN is left out, and 0; constants are 0."""
    values = stored.astype(np.float64) / largest
    found = np.zeros_like(values)
    for k, band in enumerate(values):
        known = band[~np.isnan(band)]
        if known.size and known.std() > 1e-12:
            found[k] = np.nan_to_num((band - known.mean()) / known.std())
    return found


def drawn_16_bits(height: int = 330, width: int = 250) -> NDArray[np.uint16]:
    """Return (1, H, W) of a dim camera: an offset, and light that falls off, so that each part has its own level."""
    rows, columns = np.mgrid[:height, :width]
    image, _ = drawing.draw_nuclei(height, width, seed=3)
    light = 400 + 1500 * np.exp(-((rows - 40) ** 2 + (columns - 60) ** 2) / 2e4) * image[0].numpy() / 255
    return np.asarray(light + OFTEN.normal(0, 8, light.shape), np.uint16)[None]


CASES = {
    "uint8": (OFTEN.integers(0, 256, (3, 40, 50), np.uint8), 255),
    "uint16 of few values": (OFTEN.integers(900, 930, (2, 40, 50)).astype(np.uint16), 65535),
    "int16": (OFTEN.integers(-1000, 2000, (1, 40, 50)).astype(np.int16), 32767),
    "decibels": (OFTEN.normal(-14, 6, (2, 40, 50)).astype(np.float32), 1),
    "13 bands": (OFTEN.integers(0, 4000, (13, 20, 20)).astype(np.uint16), 65535),
    "a constant of 8 bits": (np.stack([np.full((9, 9), 77), OFTEN.integers(0, 256, (9, 9))]).astype(np.uint8), 255),
    "a constant that is no binary fraction": (np.full((1, 300, 7), 0.1, np.float32), 1),
    "some of it missing": (
        np.where(np.arange(2000).reshape(1, 40, 50) % 7, OFTEN.normal(3, 2, (2, 40, 50)), np.nan),
        1,
    ),
    "all of a band missing": (np.stack([np.full((9, 9), np.nan), OFTEN.normal(size=(9, 9))]), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_prepared_images_are_z_scores(case: str) -> None:
    stored, largest = CASES[case]
    stored = stored.astype(np.float32) if stored.dtype.kind == "f" else stored
    config = unetzoo.create("unet", base_channels=4, in_channels=len(stored), normalisation="image").config
    expected = z_scores(stored, largest)
    prepared = images.prepare(torch.from_numpy(stored), config)[0].double().numpy()
    np.testing.assert_allclose(prepared, expected, rtol=1e-6, atol=2e-5 if case.startswith("uint16") else 2e-6)
    for k, values in enumerate(expected):
        assert not (values == 0).all() or not prepared[k].any()  # exactly 0, and no rounding blown up
    found = images.moments(torch.from_numpy(stored))
    known = [band[~np.isnan(band)] for band in stored.astype(np.float64) / largest]
    means, deviations = (
        [band.mean() if band.size else 0 for band in known],
        [band.std() if band.size else 0 for band in known],
    )
    np.testing.assert_allclose(found.mean.flatten(), means, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        (found.squares / found.number.clamp(min=1)).sqrt().flatten(), deviations, rtol=1e-9, atol=1e-9
    )


def test_every_constant_of_8_and_16_bits_is_0() -> None:
    config = unetzoo.create("unet", base_channels=4, in_channels=1, normalisation="image").config
    for value in (*range(256), *range(256, 65536, 97), 65535):
        dtype = torch.uint8 if value < 256 else torch.uint16
        assert not images.prepare(torch.full((1, 3, 5), value, dtype=torch.int32).to(dtype), config).any()


def test_grey_and_alpha_have_the_levels_of_what_is_seen() -> None:
    config = unetzoo.create("unet", base_channels=4, normalisation="image").config
    grey = OFTEN.integers(0, 256, (1, 20, 30), np.uint8)
    expected = np.repeat(z_scores(grey, 255), 3, axis=0)
    np.testing.assert_allclose(images.prepare(torch.from_numpy(grey), config)[0], expected, atol=2e-6)
    veiled = np.concatenate(
        [OFTEN.integers(0, 256, (3, 20, 30), np.uint8), OFTEN.integers(0, 9, (1, 20, 30), np.uint8)]
    )
    prepared = images.prepare(torch.from_numpy(veiled), config, alpha=True)[0]
    np.testing.assert_allclose(prepared, z_scores(veiled[:3], 255), atol=2e-6)


class TestPrediction:
    def expected(self, model: unetzoo.SegmentationModel, stored: NDArray[np.generic], largest: float) -> Tensor:
        """Return what the model says of the z-scores of the whole, mirrored to a multiple of 16."""
        shown = np.pad(z_scores(stored, largest), ((0, 0), *((0, -side % 16) for side in stored.shape[1:])), "reflect")
        height, width = stored.shape[1:]
        return model.predict(torch.from_numpy(shown).float()[None])[0, :, :height, :width]

    def test_tiles_are_the_whole(self, shared_data: Path) -> None:
        file = sorted((shared_data / "nuclei" / "images").iterdir())[0]
        with Image.open(file) as opened:
            real = np.asarray(opened)[..., :3].transpose(2, 0, 1)
        for stored, largest in ((real, 255), (drawn_16_bits(), 65535)):
            model = small("unet", base_channels=4, in_channels=len(stored), normalisation="image")
            expected = self.expected(model, stored, largest)
            assert expected.std() > 0.02
            by_tiles = Predictor(model, tile=224, overlap="full")
            shown = torch.from_numpy(stored.copy())
            assert by_tiles.grid(as_image(shown)).count > 1
            for predictor in (by_tiles, Predictor(model, tile=None)):
                torch.testing.assert_close(predictor(shown).probabilities, expected, rtol=0, atol=1e-4)
        # And the tiles' own levels would be others.
        part = Predictor(model, tile=None)(shown[:, 200:]).probabilities
        assert (part - expected[:, 200:])[:, 94:].abs().max() > 0.02

    def test_views_see_the_same_numbers(self) -> None:
        stored = drawn_16_bits(96, 80)
        model = small("unet", base_channels=4, in_channels=1, normalisation="image")
        said = [self.expected(model, stored[:, :, ::step], 65535) for step in (1, -1)]
        flipped = [self.expected(model, stored[:, ::-1, ::step], 65535) for step in (1, -1)]
        turned = (said[0], said[1].flip(2), flipped[0].flip(1), flipped[1].flip(1, 2))
        found = Predictor(model, tta="flips")(torch.from_numpy(stored)).probabilities
        torch.testing.assert_close(found, torch.stack(turned).mean(0), rtol=0, atol=1e-4)

    def test_members_keep_their_own(self) -> None:
        stored = drawn_16_bits(64, 64)
        mine = small("unet", base_channels=4, in_channels=1, normalisation="image")
        other = small("unet", base_channels=4, in_channels=1, mean=(0.01,), std=(0.02,))
        fixed = other.predict(torch.from_numpy((stored / 65535 - 0.01) / 0.02).float()[None])[0]
        found = Predictor([other, mine])(torch.from_numpy(stored)).probabilities
        torch.testing.assert_close(found, (fixed + self.expected(mine, stored, 65535)) / 2, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("gaps", [False, True])
    def test_rows_of_the_disk_are_the_whole(self, gaps: bool, tmp_path: Path) -> None:
        stored: NDArray[np.generic] = drawn_16_bits(1100, 64)
        if gaps:
            stored = stored.astype(np.float32)
            stored[:, 700:760, :20] = np.nan
        tifffile.imwrite(tmp_path / "a.tif", stored[0], tile=(64, 64))
        known = stored[~np.isnan(stored)].astype(np.float64) / (1 if gaps else 65535)
        with StoredRows(tmp_path / "a.tif") as rows:
            found = rows.moments()
        assert found.number.item() == known.size
        assert found.mean.item() == pytest.approx(known.mean(), rel=1e-9)
        assert found.std.item() == pytest.approx(known.std(), rel=1e-9)
        predictor = Predictor(
            small("unet", base_channels=4, in_channels=1, normalisation="image"), tile=224, overlap="full"
        )
        predictor.write_mask(tmp_path / "a.tif", tmp_path / "mask.tif")
        expected = self.expected(predictor.networks.members[0].network, stored, 1 if gaps else 65535)[0] > 0.5
        away = np.ones(stored.shape[1:], bool) if not gaps else ~np.isnan(stored[0])
        same = (tifffile.imread(tmp_path / "mask.tif") > 200) == expected.numpy()
        assert same[away].mean() > 0.9999

    def test_a_server_sees_the_whole(self, tmp_path: Path) -> None:
        stored = drawn_16_bits(64, 96)
        model = small("unet", base_channels=4, in_channels=1, normalisation="image")
        tifffile.imwrite(tmp_path / "a.tif", stored[0])
        found = answers.answer(Predictor(model, tile=64), tmp_path / "a.tif", Limits()).at(0.5).prediction.mask
        by_hand = Predictor(small("unet", base_channels=4, in_channels=1), tile=64, batch_size=1)
        expected = by_hand(torch.from_numpy(z_scores(stored, 65535)).float()).mask
        assert 0.02 < float(expected.float().mean()) < 0.98
        assert float((found == expected).float().mean()) > 0.999


class TestTraining:
    def folder(self, path: Path, count: int = 6) -> Path:
        """Write 16-bit images of one camera at exposures that differ a hundredfold, and their masks."""
        for part in ("images", "masks"):
            (path / part).mkdir(parents=True)
        for k in range(count):
            image, mask = drawing.draw_nuclei(64, 80, seed=k)
            stored = (200 + image[0].numpy() / 255.0 * 10 ** (2.2 + k % 3)).astype(np.uint16)
            tifffile.imwrite(path / "images" / f"{k}.tif", stored)
            Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(path / "masks" / f"{k}.png")
        return path

    def test_a_crop_is_the_window_of_what_a_predictor_prepares(self, tmp_path: Path) -> None:
        labels = Labels(task="binary")
        samples = find_samples(self.folder(tmp_path / "a"), labels, ratios=(0.5, 0.5, 0))["train"]
        crops = SegmentationDataset(
            samples, labels, in_channels=1, normalisation="image", augmentation=augmentation.build("none", 32)
        )
        config = unetzoo.create("unet", base_channels=4, in_channels=1, normalisation="image").config
        for i, sample in enumerate(samples):
            stored = tifffile.imread(sample.image)[None]
            whole = images.prepare(images.read_image(sample.image), config)[0]
            np.testing.assert_allclose(whole, z_scores(stored, 65535), atol=1e-4)
            crop = crops[i]["image"]
            windows = whole[0].unfold(0, 32, 1).unfold(1, 32, 1)  # all that there are
            assert (windows == crop[0]).all(-1).all(-1).any()
            assert torch.equal(crop, crops[i]["image"])  # the one that was kept, too
        whole_items = SegmentationDataset(samples, labels, in_channels=1, normalisation="image")
        assert torch.equal(whole_items[0]["image"], images.prepare(images.read_image(samples[0].image), config)[0])

    def test_a_run_keeps_it_and_judges_by_it(self, tmp_path: Path) -> None:
        data = self.folder(tmp_path / "a", 10)
        settings = {"data.normalisation": "image", "data.workers": 0, "model.options.base_channels": 4}
        run = unetzoo.fit(
            "unet", data=str(data), out=str(tmp_path / "run"), epochs=2, crop_size=32, batch_size=4, quiet=True,
            settings=settings,
        )  # fmt: skip
        model = run.load()
        assert (model.config.normalisation, model.config.mean, model.config.std) == ("image", None, None)
        scores = unetzoo.evaluate(run, data, split="val").scores
        assert scores.to_dict()["dice"] == pytest.approx(run.best_dice, abs=1e-6)
        judged = find_samples(data, Labels(task="binary"))["val"]
        dice = []
        for file in (sample.image for sample in judged):
            said = (
                model.predict(torch.from_numpy(z_scores(tifffile.imread(file)[None], 65535)).float()[None])[0, 0] > 0.5
            )
            true = np.asarray(Image.open(data / "masks" / f"{file.stem}.png")) > 127
            dice.append((said.numpy(), true))
        both, either = (
            sum(int(part.sum()) for part in parts) for parts in zip(*((a & b, a) for a, b in dice), strict=True)
        )
        total = either + sum(int(b.sum()) for _, b in dice)
        assert run.best_dice == pytest.approx(2 * both / total, abs=2e-3)
        common = {"data": str(data), "epochs": 1, "quiet": True, "crop_size": 32, "batch_size": 4}
        best = str(run.folder / "best.safetensors")
        again = unetzoo.fit(best, out=str(tmp_path / "b"), settings={"data.workers": 0}, **common)
        assert again.load().config.normalisation == "image"  # as the network knows them
        with pytest.raises(ConfigError, match=r"data\.normalisation=image"):
            unetzoo.fit(best, out=str(tmp_path / "c"), settings={"data.normalisation": "fixed"}, **common)

    @pytest.mark.parametrize(
        ("bands", "dtype", "expected"),
        [(1, np.uint8, "image"), (3, np.uint8, "image"), (1, np.uint16, "image"), (4, np.uint8, "fixed"),
         (1, np.float32, "fixed")],
    )  # fmt: skip
    def test_what_has_no_unit_is_normalised_by_itself(
        self, bands: int, dtype: type[np.generic], expected: str, tmp_path: Path
    ) -> None:
        """Up to three channels of whole numbers; floating point and more bands are fixed."""
        rng = np.random.default_rng(0)
        for part in ("images", "masks"):
            (tmp_path / "data" / part).mkdir(parents=True)
        axes = {"axes": "CYX"} if bands > 3 else None
        for k in range(10):
            pixels = rng.integers(0, 200, (bands, 40, 40)).astype(dtype)
            stored = pixels[0] if bands == 1 else pixels if bands > 3 else pixels.transpose(1, 2, 0)
            photometric = "rgb" if bands == 3 else "minisblack"
            tifffile.imwrite(tmp_path / "data" / "images" / f"{k}.tif", stored, photometric=photometric, metadata=axes)
            mask = (pixels[0] > 100).astype(np.uint8) * 255
            Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{k}.png")
        data = FolderData(str(tmp_path / "data"), workers=0)
        data.trainer = lightning.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
        data.setup()
        assert (data.facts.normalisation, data.facts.mean is None) == (expected, expected == "image")

    def test_pretrained_weights_and_trained_networks_bring_theirs(self, tmp_path: Path) -> None:
        """ImageNet's constants with its weights; those of the file of a trained network."""
        from torchvision import models

        torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
        unetzoo.save(unetzoo.create("unet", base_channels=4, mean=[0.3] * 3, std=[0.1] * 3), tmp_path / "a.safetensors")
        folder = self.rgb(tmp_path / "data")
        common = {"data": str(folder), "steps": 1, "quiet": True, "crop_size": 32, "batch_size": 2}
        settings = {"data.workers": 0, "trainer.accelerator": "cpu"}
        pretrained = unetzoo.fit(
            "resunet18", pretrained=str(tmp_path / "resnet18.pth"), out=str(tmp_path / "b"), settings=settings, **common
        )
        config = pretrained.load().config
        assert (config.normalisation, config.mean) == ("fixed", (0.485, 0.456, 0.406))
        went_on = unetzoo.fit(str(tmp_path / "a.safetensors"), out=str(tmp_path / "c"), settings=settings, **common)
        assert went_on.load().config.normalisation == "fixed"
        new = unetzoo.fit(
            "unet", out=str(tmp_path / "d"), settings=settings | {"model.options.base_channels": 4}, **common
        )
        assert new.load().config.normalisation == "image"

    def rgb(self, folder: Path) -> Path:
        """Write ten images of nuclei in RGB, and their masks."""
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
        for k in range(10):
            image, mask = drawing.draw_nuclei(40, 48, seed=k)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{k}.png")
            Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(folder / "masks" / f"{k}.png")
        return folder


class TestFiles:
    def test_files_and_folders_keep_it(self, tmp_path: Path) -> None:
        model = small("unet", base_channels=4, normalisation="image")
        unetzoo.save(model, tmp_path / "a.safetensors")
        unetzoo.save_pretrained(model, tmp_path / "hub")
        assert json.loads((tmp_path / "hub" / "config.json").read_text())["normalisation"] == "image"
        for source in (tmp_path / "a.safetensors", tmp_path / "hub"):
            assert unetzoo.from_pretrained(source).config == model.config
        assert "own mean" in (tmp_path / "hub" / "README.md").read_text()
        assert unetzoo.load(tmp_path / "hub", in_channels=1).config.normalisation == "image"
        constants = unetzoo.load(tmp_path / "hub", mean=[0.5] * 3, std=[0.2] * 3).config
        assert (constants.normalisation, constants.mean) == ("fixed", (0.5, 0.5, 0.5))
        unetzoo.save(unetzoo.load(tmp_path / "hub", mean=[0.5] * 3, std=[0.2] * 3), tmp_path / "b.safetensors")
        assert unetzoo.load(tmp_path / "b.safetensors", normalisation="image").config == model.config

    def test_smp_s_files_can_be_said_to_be_of_it(self, tmp_path: Path) -> None:
        smp = pytest.importorskip("segmentation_models_pytorch")
        torch.save(smp.Unet("resnet18", encoder_weights=None).state_dict(), tmp_path / "a.pth")
        config = unetzoo.load_foreign(tmp_path / "a.pth", normalisation="image").config
        assert (config.normalisation, config.mean) == ("image", None)  # and ImageNet's are not assumed
        assert unetzoo.load(tmp_path / "a.pth", normalisation="image").config == config

    def test_records_of_before_are_of_constants(self) -> None:
        record = unetzoo.create("unet", mean=[0.1] * 3, std=[0.2] * 3).config.to_dict()
        assert (record.pop("normalisation"), record.pop("pixels")) == ("fixed", None)
        found = unetzoo.ModelConfig.from_dict({**record, "format_version": 2})
        assert (found.normalisation, found.mean) == ("fixed", (0.1, 0.1, 0.1))
        with pytest.raises(ConfigError, match="normalisation: missing"):
            unetzoo.ModelConfig.from_dict(record)

    def test_what_contradicts_itself_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="leave out mean and std"):
            unetzoo.create("unet", mean=[0.1] * 3, std=[0.2] * 3, normalisation="image")
        with pytest.raises(ConfigError, match=r"'fixed', 'image'"):
            unetzoo.create("unet", normalisation="images")


class TestExport:
    def test_a_file_takes_the_levels_of_the_whole(self, tmp_path: Path) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        model = small("unet", base_channels=4, in_channels=1, normalisation="image")
        stored = drawn_16_bits(160, 128)
        tifffile.imwrite(tmp_path / "a.tif", stored[0])
        report = unetzoo.export(model, tmp_path / "a.onnx", images=[tmp_path / "a.tif"])
        assert "whole image" in report.input.meaning
        session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
        facts = session.get_modelmeta().custom_metadata_map
        assert facts["normalisation"] == "image"
        shown = z_scores(stored, 65535).astype(np.float32)
        whole = Predictor(model, tile=None)(torch.from_numpy(stored)).probabilities
        (logits,) = session.run(None, {"image": shown[None, :, :, :112]})  # a tile, of the whole image's levels
        difference = 1 / (1 + np.exp(-logits[0, :, :, :18])) - whole[..., :18].numpy()
        assert np.abs(difference).max() < 1e-4

    @pytest.mark.parametrize("inputs", ["uint8", "uint16"])
    def test_pixels_as_stored_are_refused(self, inputs: str, tmp_path: Path) -> None:
        mine, other = (small("unet", base_channels=4, normalisation=how) for how in ("image", "fixed"))
        for models in (mine, [other, mine]):
            with pytest.raises(ConfigError, match="its own mean and standard deviation"):
                unetzoo.export(models, tmp_path / "a.pt2", inputs=inputs)
        with pytest.raises(ConfigError, match="export each one separately"):
            unetzoo.export([other, mine], tmp_path / "a.pt2")
        assert not [*tmp_path.iterdir()]
