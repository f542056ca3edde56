"""Networks that see images at another size: against Pillow's resizing, and scores against masks as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from test_prediction import small

import unetzoo
from unetzoo import ConfigError, Predictor, augmentation, drawing, images
from unetzoo.data import Labels, SegmentationDataset, find_samples
from unetzoo.prediction.inputs import as_image

pytestmark = pytest.mark.usefixtures("no_curves")


def by_pillow(values: NDArray[np.floating], height: int, width: int) -> NDArray[np.float32]:
    """Return (C, H, W) at another size, as Pillow does it: triangles, as wide as a pixel of the smaller grid."""
    planes = [
        Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR) for plane in values
    ]
    return np.stack([np.asarray(plane) for plane in planes])


def drawn(height: int, width: int) -> torch.Tensor:
    return drawing.draw_nuclei(height, width, seed=5)[0]


@pytest.mark.parametrize(
    ("resize", "size"), [(0.5, (96, 64)), (0.75, (96, 64)), (0.333, (96, 63)), (2, (24, 30)), (1.5, (24, 30))]
)
def test_images_are_resized_as_pillow_does(resize: float, size: tuple[int, int]) -> None:
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    height, width = (round(side * round(resize * 12) / 12) for side in size)
    found = images.resized(image, resize).numpy()
    assert found.shape == (2, height, width)
    inside = (slice(None), slice(0, -3), slice(0, -3))  # there Pillow ends, and a mirror begins
    np.testing.assert_allclose(found[inside], by_pillow(image.numpy(), height, width)[inside], atol=5e-6)


@pytest.mark.parametrize(("resize", "size"), [(0.5, (96, 64)), (0.333, (96, 63)), (2, (24, 30))])
def test_labels_are_those_of_pillow_s_nearest(resize: float, size: tuple[int, int]) -> None:
    labels = torch.randint(300, size, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    height, width = (round(side * round(resize * 12) / 12) for side in size)
    expected = np.asarray(Image.fromarray(labels.numpy()).resize((width, height), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(images.resized_labels(labels, resize, -100), expected)


def test_what_lies_behind_the_image_does_not_count() -> None:
    found = images.resized_labels(torch.ones(1, 5, 4, dtype=torch.int8), 0.5, -100)
    assert found.tolist() == [[[1, 1], [1, 1], [-100, -100]]]
    assert images.resized(torch.rand(1, 5, 4), 0.5).shape == (1, 3, 2)
    assert all(images.resized(torch.ones(1, 50, 40), factor).max() == 1 for factor in (0.3, 0.75, 7 / 16, 1.5))


@pytest.mark.parametrize("resize", [0.5, 1.5])
def test_a_predictor_shows_the_resized_image_and_resizes_the_logits(resize: float) -> None:
    image = drawn(128, 96)
    model = small("unet", base_channels=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), resize=resize)
    shown = (image.numpy() / 255.0 - np.array([0.4, 0.5, 0.6])[:, None, None]) / np.array([0.2, 0.3, 0.4])[
        :, None, None
    ]
    height, width = int(128 * resize), int(96 * resize)
    with torch.no_grad():
        logits = model(torch.from_numpy(by_pillow(shown, height, width))[None])[0].numpy()
    expected = 1 / (1 + np.exp(-by_pillow(logits, 128, 96)))
    assert expected.std() > 0.02
    found = Predictor(model, tile=None)(image)
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-4)
    assert torch.equal(found.mask, (found.probabilities[0] > 0.5).to(found.mask.dtype))


def test_tiles_and_rows_are_the_whole(tmp_path: Path) -> None:
    image = drawn(1210, 90)
    model = small("unet", base_channels=4, resize=0.5)
    whole = Predictor(model, tile=None)(image).probabilities
    predictor = Predictor(model, tile=480, overlap="full")
    assert predictor.grid(as_image(image)).count > 2
    torch.testing.assert_close(predictor(image).probabilities, whole, rtol=0, atol=1e-4)
    with pytest.raises(ConfigError, match="196 pixels far"):  # twice the 94 of the network, and of its neighbours
        Predictor(model, tile=256, overlap="full")
    tifffile.imwrite(tmp_path / "a.tif", image.permute(1, 2, 0).numpy(), photometric="rgb")
    predictor.write_mask(tmp_path / "a.tif", tmp_path / "mask.tif")
    same = (tifffile.imread(tmp_path / "mask.tif") > 127) == (whole[0] > 0.5).numpy()
    assert same.mean() > 0.9999


def folder(path: Path, count: int) -> Path:
    for part in ("images", "masks"):
        (path / part).mkdir(parents=True)
    for k in range(count):
        image, mask = drawing.draw_nuclei(101, 86, seed=k)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path / "images" / f"{k}.png")
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(path / "masks" / f"{k}.png")
    return path


def test_a_crop_is_the_window_of_what_a_network_is_shown(tmp_path: Path) -> None:
    samples = find_samples(folder(tmp_path / "a", 3), Labels(task="binary"), ratios=(0.5, 0.5, 0))["train"]
    crops = SegmentationDataset(
        samples, Labels(task="binary"), resize=0.5, mean=[0.5] * 3, std=[0.2] * 3,
        augmentation=augmentation.build("none", 32),
    )  # fmt: skip
    assert crops.sizes()[0] == (51, 43)
    config = unetzoo.create("unet", base_channels=4, mean=[0.5] * 3, std=[0.2] * 3, resize=0.5).config
    whole = images.prepare(images.read_image(samples[0].image), config)[0]
    assert whole.shape == (3, 51, 43)
    item = crops[0]
    assert (item["image"].shape, item["target"].shape) == ((3, 32, 32), (32, 32))
    near = (whole[:, :, :].unfold(1, 32, 1).unfold(2, 32, 1) - item["image"][:, None, None]).abs().amax((0, 3, 4))
    assert near.min() < 1e-5
    top, left = divmod(int(near.argmin()), near.shape[1])
    true = np.asarray(Image.open(samples[0].mask)) > 127
    expected = true[1::2, 1::2][top : top + 32, left : left + 32]
    np.testing.assert_array_equal(item["target"][:18, :32].numpy() == 1, expected[:18])


def test_a_run_judges_on_the_size_of_the_masks(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", 10)
    run = unetzoo.fit(
        "unet", data=str(data), out=str(tmp_path / "run"), epochs=2, crop_size=32, batch_size=4, quiet=True, lr=0.01,
        settings={"data.resize": 0.5, "data.workers": 0, "model.options.base_channels": 4},
    )  # fmt: skip
    model = run.load()
    assert model.config.resize == 0.5
    both = total = 0
    for sample in find_samples(data, Labels(task="binary"))["val"]:
        said = Predictor(model, tile=None)(sample.image).mask.numpy() == 1
        true = np.asarray(Image.open(sample.mask)) > 127
        assert said.shape == true.shape == (101, 86)
        both, total = both + int((said & true).sum()), total + int(said.sum() + true.sum())
    assert run.best_dice == pytest.approx(2 * both / total, abs=2e-3)
    assert unetzoo.evaluate(run, data, split="val").scores.to_dict()["dice"] == pytest.approx(run.best_dice, abs=2e-3)
    with pytest.raises(ConfigError, match=r"data\.resize=0\.5"):
        unetzoo.fit(
            str(run.folder), data=str(data), out=str(tmp_path / "b"), epochs=1, quiet=True, settings={"data.workers": 0}
        )


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for wrong, said in (
        (0.37, "the nearest is 3/8 = 0.375"),
        (0, "a factor from"),
        ("0.5", "a factor from"),
        (float("nan"), "factor"),
    ):
        with pytest.raises(ConfigError, match=said):
            unetzoo.create("unet", resize=wrong)
    with pytest.raises(ConfigError, match="unet_valid takes only images of certain sizes"):
        unetzoo.create("unet_valid", resize=0.5)
    model = small("unet", base_channels=4, resize=0.5)
    with pytest.raises(ConfigError, match="resize images and outputs"):
        unetzoo.export(model, tmp_path / "a.pt2", inputs="uint8")
    unetzoo.save(model, tmp_path / "a.safetensors")
    assert unetzoo.load(tmp_path / "a.safetensors").config.resize == 0.5
    assert unetzoo.load(tmp_path / "a.safetensors", resize=1.0).config.resize == 1
    record = {key: value for key, value in model.config.to_dict().items() if key not in ("resize", "pixels")}
    assert unetzoo.ModelConfig.from_dict({**record, "format_version": 3}).resize == 1
