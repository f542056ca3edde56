"""The type of the pixels that a model was trained on: the same numbers are the same image, with a sign or without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, images
from unetzoo.cli import main

pytestmark = pytest.mark.usefixtures("no_curves")

RNG = np.random.default_rng(0)
NUMBERS = RNG.integers(0, 6000, (64, 64, 4))
"""Those of a satellite: of 16 bits, and mostly small."""


def network(pixels: str | None, *, mean: float = 0.09, **options: object) -> unetzoo.SegmentationModel:
    torch.manual_seed(0)
    levels = {} if options.get("normalisation") == "image" else {"mean": (mean,) * 4, "std": (0.05,) * 4}
    return unetzoo.create("unet", base_channels=2, in_channels=4, pixels=pixels, **levels, **options).eval()


def probabilities(model: unetzoo.SegmentationModel, image: np.ndarray, **options: object) -> torch.Tensor:
    return Predictor(model, device="cpu", **options)(image).probabilities


class TestTheSameNumbers:
    @pytest.mark.parametrize(("trained", "shown"), [("int16", "uint16"), ("uint16", "int16"), ("int32", "uint32")])
    def test_a_sign_does_not_matter(self, trained: str, shown: str, told: pytest.LogCaptureFixture) -> None:
        model = network(trained)
        # By hand: what the network is shown is the numbers by the largest of the training's type, normalised.
        scaled = torch.from_numpy(NUMBERS).permute(2, 0, 1)[None].double() / np.iinfo(trained).max
        with torch.inference_mode():
            expected = model(((scaled - 0.09) / 0.05).float()).sigmoid()[0]
        for dtype in (trained, shown):
            found = probabilities(model, NUMBERS.astype(dtype), tile=64)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert told.messages == [] or trained == "int32"  # of which these numbers are black

    def test_where_nobody_knows_nothing_changes(self) -> None:
        model, image = network(None), NUMBERS.astype(np.int16)
        same, other = (probabilities(model, image.astype(dtype)) for dtype in ("int16", "uint16"))
        assert float((same - other).abs().max()) > 0.001
        record = {key: value for key, value in network("int16").config.to_dict().items() if key != "pixels"}
        assert unetzoo.ModelConfig.from_dict({**record, "format_version": 5}).pixels is None

    def test_of_8_and_16_bits_the_scene_is_the_same(self, told: pytest.LogCaptureFixture) -> None:
        image = RNG.integers(0, 256, (64, 64, 4), np.uint8)
        for trained in ("uint8", "uint16"):
            both = [probabilities(network(trained), shown) for shown in (image, image.astype(np.uint16) * 257)]
            torch.testing.assert_close(*both, atol=1e-5, rtol=0)
        assert told.messages == []

    def test_missing_values_and_models_without_mean(self) -> None:
        masked = np.ma.masked_less(NUMBERS.astype(np.int16), 300)
        for model in (network("int16"), unetzoo.create("unet", base_channels=2, in_channels=4, pixels="int16").eval()):
            one, other = (probabilities(model, masked.astype(dtype)) for dtype in ("int16", "uint16"))
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)

    def test_each_of_several_models_by_its_own(self) -> None:
        image = NUMBERS.astype(np.uint16)
        models = [network("int16"), network("uint16", mean=0.045)]
        alone = torch.stack([Predictor(model, device="cpu", tile=64)(image).probabilities for model in models]).mean(0)
        together = Predictor(models, device="cpu", tile=64, merge="probabilities")(image).probabilities
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)

    def test_models_that_normalise_each_image_take_any(self, told: pytest.LogCaptureFixture) -> None:
        model = network("int16", normalisation="image")
        found = [probabilities(model, NUMBERS.astype(dtype)) for dtype in ("int16", "uint16", "int32")]
        torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)
        torch.testing.assert_close(found[0], found[2], atol=1e-4, rtol=0)
        assert told.messages == []

    def test_prepare_and_rows_go_the_same_way(self, tmp_path: Path) -> None:
        tifffile = pytest.importorskip("tifffile", reason="images by rows need tifffile")
        model = network("int16")
        stored = torch.from_numpy(NUMBERS.astype(np.int16)).permute(2, 0, 1)
        one = images.prepare(stored, model.config)
        torch.testing.assert_close(images.prepare(stored.to(torch.uint16), model.config), one, atol=1e-5, rtol=0)
        said = probabilities(model, NUMBERS.astype(np.int16)).flatten().sort().values
        middle = said[len(said) // 2 - 50 : len(said) // 2 + 50]
        wide = int(middle.diff().argmax())  # no probability is so near the threshold that rounding decides
        whole = Predictor(model, device="cpu", threshold=float(middle[wide : wide + 2].mean()))
        for dtype in ("int16", "uint16"):
            tifffile.imwrite(
                tmp_path / f"{dtype}.tif", NUMBERS.astype(dtype), photometric="minisblack", planarconfig="contig"
            )
            whole.write_mask(tmp_path / f"{dtype}.tif", tmp_path / f"mask_{dtype}.tif")
        masks = [tifffile.imread(tmp_path / f"mask_{dtype}.tif") for dtype in ("int16", "uint16")]
        assert (masks[0] == masks[1]).all()
        assert 0 < (masks[0] > 0).mean() < 1


class TestOtherTypes:
    def test_other_integers_are_told_with_the_fix(self, told: pytest.LogCaptureFixture) -> None:
        model, image = network("int16", mean=0.04), NUMBERS.astype(np.int32)
        probabilities(model, image)
        (line,) = told.messages
        assert "is int32, and this model was trained on int16" in line
        assert "intensity_range=(0, 32767)" in line
        told.clear()
        found = probabilities(model, image, intensity_range=(0, 32767))
        torch.testing.assert_close(found, probabilities(model, image.astype(np.int16)), atol=1e-5, rtol=0)
        assert told.messages == []
        probabilities(model, (NUMBERS // 32).astype(np.uint8))
        assert "is uint8, and this model was trained on int16" in told.messages[0]

    def test_integers_are_told_of_a_model_of_floating_point(self, told: pytest.LogCaptureFixture) -> None:
        """Reflectances from 0 to 1 and the same as numbers up to 10,000, for example."""
        model = network("float32")
        reflectances = (NUMBERS / 10000).astype(np.float32)
        expected = probabilities(model, reflectances)
        assert told.messages == []
        wrong = probabilities(model, NUMBERS.astype(np.uint16))
        assert float((wrong - expected).abs().max()) > 0.01
        assert "is uint16, and this model was trained on float32" in told.messages[0]
        assert "intensity_range=(0, 10000)" in told.messages[0]
        told.clear()
        found = probabilities(model, NUMBERS.astype(np.uint16), intensity_range=(0, 10000))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert told.messages == []

    def test_nearly_black_images_have_the_range_of_the_training(self, told: pytest.LogCaptureFixture) -> None:
        probabilities(network("int16"), NUMBERS.astype(np.uint32))
        assert "nearly black" in told.messages[0]
        assert "intensity_range=(0, 32767)" in told.messages[0]

    def test_floating_point_is_told_the_number_of_the_training(self) -> None:
        image = NUMBERS.astype(np.float32)
        with pytest.raises(InputError, match=r"give int16, as in training, or divide its numbers by 32767; or give .*"):
            probabilities(network("int16"), image)
        with pytest.raises(InputError, match="floating point in the same unit as in training"):
            probabilities(network("float32"), image)
        with pytest.raises(InputError, match="divide by 255 or 65535"):
            probabilities(network(None), image)

    def test_visitors_of_a_page_are_told_what_to_send(self) -> None:
        from unetzoo.prediction.remarks import kept
        from unetzoo.serving.warnings import saved_otherwise, warnings

        for dtype, said in (("uint8", "saved as uint8, but"), ("uint32", "nearly black")):
            with kept() as remarks:
                probabilities(network("int16"), (NUMBERS // 32).astype(dtype))
            (line,) = warnings(remarks)
            assert said in line
            assert "send the image as int16" in line
        assert "8-bit" in saved_otherwise(None)

    def test_what_is_no_type_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="pixels='int61'"):
            network("int61")


class TestRecord:
    def test_a_training_records_it(self, tmp_path: Path) -> None:
        tifffile = pytest.importorskip("tifffile", reason="bands need tifffile")
        pytest.importorskip("pytorch_lightning", reason="training needs it")
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True)
        for k in range(6):
            image = RNG.integers(0, 6000, (32, 32, 4))
            tifffile.imwrite(
                tmp_path / f"data/images/{k}.tif",
                image.astype(np.int16),
                photometric="minisblack",
                planarconfig="contig",
            )
            tifffile.imwrite(tmp_path / f"data/masks/{k}.tif", ((image[..., 0] > 3000) * 255).astype(np.uint8))
        asked = ["train", "--model", "unet", "--model.options.base_channels", "2", "--data", str(tmp_path / "data")]
        asked += ["--data.normalisation", "fixed", "--steps", "1", "--crop-size", "32", "--batch-size", "2"]
        main([*asked, "--data.workers", "0", "--out", str(tmp_path / "run"), "--trainer.accelerator", "cpu"])
        model = unetzoo.load(tmp_path / "run")
        assert model.config.pixels == "int16"
        unetzoo.save(model, tmp_path / "again.safetensors")
        assert unetzoo.load(tmp_path / "again.safetensors").config == model.config
        assert unetzoo.load(tmp_path / "run", pixels="uint16").config.pixels == "uint16"

    def test_an_encoder_s_normalisation_comes_with_it(self, tmp_path: Path) -> None:
        model = unetzoo.create("unet_resnet18", mean=(0.1,) * 3, std=(0.2,) * 3, pixels="int16")
        unetzoo.save(model, tmp_path / "a.safetensors")
        config = unetzoo.create("unet_resnet18", pretrained=str(tmp_path / "a.safetensors")).config
        assert (config.mean, config.pixels) == ((0.1,) * 3, "int16")


class TestExport:
    def shown(self, file: Path, image: np.ndarray) -> np.ndarray:
        """Return what a program of torch.export says of an image (H, W, C)."""
        program = torch.export.load(str(file)).module()
        return program(torch.from_numpy(image).permute(2, 0, 1)[None]).detach().numpy()[0]

    def test_integers_of_both_signs_are_scaled_as_in_training(self, tmp_path: Path) -> None:
        model, expected = network("int16"), probabilities(network("int16"), NUMBERS.astype(np.int16), tile=64)
        for inputs in ("int16", "uint16"):
            file = tmp_path / f"{inputs}.pt2"
            report = unetzoo.export(model, file, inputs=inputs, outputs="probabilities")
            assert "0 to 32767" in report.input.meaning
            found = self.shown(file, NUMBERS.astype(inputs))
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)

    @pytest.mark.parametrize(("asked", "stored"), [(None, "int16"), ("int16", "int16"), ("uint16", "uint16")])
    def test_qgis_s_file_is_right_on_stored_pixels(self, asked: str | None, stored: str, tmp_path: Path) -> None:
        runtime = pytest.importorskip("onnxruntime", reason="running ONNX files needs it")
        pytest.importorskip("onnxscript", reason="writing ONNX files needs it")
        model, image = network("int16"), RNG.integers(0, 6000, (64, 64, 4))
        file = tmp_path / "a.onnx"
        unetzoo.export(model, file, consumer="qgis", resolution=10, size=(64, 64), inputs=asked)
        session = runtime.InferenceSession(str(file))
        said = {
            key: json.loads(value)
            for key, value in session.get_modelmeta().custom_metadata_map.items()
            if key.startswith("standardization")
        }
        pixels = image.astype(stored).astype(np.float32)
        pixels = (pixels / 255 - np.float32(said["standardization_mean"])) / np.float32(said["standardization_std"])
        found = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None].astype(np.float32)})
        expected = probabilities(model, image.astype(np.int16), tile=64)
        np.testing.assert_allclose(found[0][0], expected.numpy(), atol=1e-4)

    def test_the_comparison_is_of_what_qgis_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("onnxscript", reason="writing ONNX files needs it")
        from unetzoo.exporting import qgis

        right = qgis.standardised

        def wrong(*args: object) -> tuple[list[float], list[float]]:
            mean, std = right(*args)
            return [2 * value for value in mean], [2 * value for value in std]

        monkeypatch.setattr(qgis, "standardised", wrong)
        with pytest.raises(unetzoo.UnetzooError, match="logits differ"):
            unetzoo.export(network("int16"), tmp_path / "a.onnx", consumer="qgis", resolution=10, size=(64, 64))
        assert not (tmp_path / "a.onnx").exists()

    def test_another_type_of_raster_is_said(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxscript", reason="writing ONNX files needs it")
        file, asked = tmp_path / "a.onnx", {"consumer": "qgis", "resolution": 10, "size": (64, 64)}
        report = unetzoo.export(network("int16"), file, inputs="float32", **asked)
        assert "1 of a float32 raster is taken as 32767 of int16" in report.input.meaning
        tifffile = pytest.importorskip("tifffile", reason="rasters of bands need it")
        tifffile.imwrite(tmp_path / "a.tif", NUMBERS.astype(np.int16), photometric="minisblack", planarconfig="contig")
        with pytest.raises(InputError, match=r"a\.tif is int16, and inputs='uint8'; give inputs='int16'"):
            unetzoo.export(network("int16"), file, inputs="uint8", images=tmp_path / "a.tif", **asked)
