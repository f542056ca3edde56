"""Files of several planes at every door: named and refused, or taken as was said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from drawn import fill

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, images
from unetzoo.cli import main
from unetzoo.data import Labels, SegmentationDataset, check, find_samples, list_samples, masks

pytestmark = pytest.mark.usefixtures("no_curves")

PLANES, SIZE = 3, (32, 40)
RNG = np.random.default_rng(0)


def stacks(folder: Path, count: int = 12, channels: int = 1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write stacks of images and of masks as ImageJ does; return them by name."""
    found = {}
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        image = RNG.integers(0, 65536, (PLANES, *SIZE), dtype=np.uint16)
        mask = (RNG.random((PLANES, *SIZE)) > 0.5).astype(np.uint8)
        found[f"s{k:02}"] = image, mask
        tifffile.imwrite(folder / "images" / f"s{k:02}.tif", image, imagej=True, metadata={"axes": "ZYX"})
        tifffile.imwrite(folder / "masks" / f"s{k:02}.tif", mask * 255, imagej=True, metadata={"axes": "ZYX"})
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = unetzoo.create("unet", base_channels=2, in_channels=1)
    fill(network, torch.float32)
    unetzoo.save(network, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_what_is_meant_has_to_be_said(tmp_path: Path) -> None:
    stacks(tmp_path)
    report = check(tmp_path, Labels())
    assert len(report.problems) == 12
    assert all("3 depths (Z)" in problem and "planes='split'" in problem for problem in report.problems)
    with pytest.raises(ConfigError, match="planes='all'"):
        Labels(planes="all")
    for planes in ("split", "first", "max"):
        assert check(tmp_path, Labels(planes=planes)).problems == ()


@pytest.mark.parametrize("planes", ["split", "first", "max"])
def test_images_and_masks_are_the_planes_that_were_written(tmp_path: Path, planes: str) -> None:
    written = stacks(tmp_path)
    labels = Labels(planes=planes)
    samples = list_samples(tmp_path, labels).samples[""]
    assert len(samples) == 12 * (PLANES if planes == "split" else 1)
    dataset = SegmentationDataset(samples, labels, in_channels=1)
    for sample, item in zip(samples, dataset, strict=True):
        image, mask = written[sample.stack]
        k = int(sample.name[-2]) if planes == "split" else 0
        expected = (image.max(0), mask.max(0)) if planes == "max" else (image[k], mask[k])
        np.testing.assert_allclose(item["image"][0], expected[0] / 65535, rtol=1e-6)
        assert np.array_equal(item["target"], expected[1])


def test_planes_of_a_file_are_never_parted(tmp_path: Path) -> None:
    stacks(tmp_path, 20)
    splits = find_samples(tmp_path, Labels(planes="split"), ratios=(0.6, 0.2, 0.2))
    homes = {sample.stack: split for split, found in splits.items() for sample in found}
    for split, found in splits.items():
        assert {homes[sample.stack] for sample in found} <= {split}
        assert len(found) % PLANES == 0
    grouped = find_samples(tmp_path, Labels(planes="split"), ratios=(0.6, 0.2, 0.2), group=r"\d+")
    assert {s.name: part for part, found in grouped.items() for s in found}.keys() == {
        s.name for found in splits.values() for s in found
    }


def test_planes_as_channels_have_one_mask(tmp_path: Path) -> None:
    written = stacks(tmp_path)
    labels = Labels(planes="channels")
    assert all("one plane" in problem for problem in check(tmp_path, labels).problems)
    for name, (_, mask) in written.items():
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", mask[0])
    report = check(tmp_path, labels)
    assert (report.problems, report.in_channels) == ((), PLANES)
    sample = list_samples(tmp_path, labels).samples[""][0]
    item = SegmentationDataset([sample], labels, in_channels=PLANES)[0]
    np.testing.assert_allclose(item["image"], written[sample.name][0] / 65535, rtol=1e-6)
    split = Labels(planes="split")
    sample = list_samples(tmp_path, split).samples[""][0]
    with pytest.raises(InputError, match=r"1 plane, but its image has 3"):
        masks.read_target(sample, split, SIZE)


def test_planes_of_files_that_have_one_are_remarked(tmp_path: Path) -> None:
    """Three planes are RGB to tifffile, if it is not told otherwise."""
    for k in range(12):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "images" / f"{k}.tif", np.zeros((3, *SIZE), np.uint8), photometric="rgb")
        tifffile.imwrite(tmp_path / "masks" / f"{k}.tif", np.eye(*SIZE, dtype=np.uint8) * 255)
    assert "planes='split': no image has several planes" in check(tmp_path, Labels(planes="split")).warnings
    assert not any("planes" in warning for warning in check(tmp_path, Labels()).warnings)


def test_classes_have_no_largest(tmp_path: Path) -> None:
    stacks(tmp_path, 1)
    labels = Labels(task="multiclass", num_classes=256, planes="max")
    sample = list_samples(tmp_path, labels).samples[""][0]
    with pytest.raises(InputError, match="no largest"):
        masks.read_target(sample, labels, SIZE)


def test_predictors_take_what_was_said(tmp_path: Path, model: Path) -> None:
    image, _ = stacks(tmp_path, 1)["s00"]
    path, predictor = tmp_path / "images" / "s00.tif", Predictor(model)
    with pytest.raises(InputError, match=r"s00\.tif' holds 3 depths.*'split'.*'first'.*'max'.*'channels'"):
        predictor(path)
    for planes, expected in (("first", image[0]), ("max", image.max(0)), (1, image[1])):
        assert torch.equal(predictor(path, planes=planes).probabilities, predictor(expected).probabilities)
    with pytest.raises(InputError, match=r"number of one, from 0 to 2"):
        predictor(path, planes="split")
    with pytest.raises(InputError, match=r"3 channels.*\b1\b"):
        predictor(path, planes="channels")


def test_the_command_writes_a_mask_a_plane(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, out = stacks(tmp_path / "data", 2), tmp_path / "out"
    asked = ["predict", str(model), str(tmp_path / "data" / "images"), "--out", str(out)]
    assert main(asked) == 1
    assert "3 depths (Z)" in capsys.readouterr().err
    assert main([*asked, "--planes", "split"]) == 0  # what the message asks for; there are no masks yet
    predictor = Predictor(model)
    for name, (image, _) in written.items():
        for k in range(PLANES):
            mask = tifffile.imread(out / f"{name}_{k}.tif")
            assert np.array_equal(mask, predictor(image[k]).mask.numpy() * 255)
    assert main([*asked, "--planes", "split"]) == 0
    assert "6 there already" in capsys.readouterr().out
    assert main([*asked, "--planes", "max"]) == 2
    assert "--planes split there, --planes max now" in capsys.readouterr().err


def test_a_run_is_judged_on_the_planes_that_it_was_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pytorch_lightning")
    stacks(tmp_path / "data", 6)
    run = unetzoo.fit(
        "unet", data=tmp_path / "data", planes="split", ratios=(0.5, 0.5, 0), epochs=1, crop_size=32, batch_size=4,
        out=tmp_path / "run", settings={"model.options": {"base_channels": 2}, "data.workers": 0}, quiet=True,
    )  # fmt: skip
    with caplog.at_level("WARNING"):
        found = unetzoo.evaluate(run.folder, tmp_path / "data", split="val")
    assert not [record for record in caplog.records if "gone" in record.getMessage() or "new" in record.getMessage()]
    with pytest.raises(ConfigError, match=r"trained on.*'s\d\d\[\d\]'(, |$)"):
        unetzoo.evaluate(run.folder, tmp_path / "data")
    with pytest.raises(ConfigError, match="trained on"):  # the same files, read another way
        unetzoo.evaluate(run.folder, tmp_path / "data", planes="max")
    assert all("[" in row["name"] for row in found.rows)
    assert len(found.rows) % PLANES == 0
    kept = json.loads((run.folder / "data.json").read_text(encoding="utf-8"))
    assert len(kept["train"]) + len(kept["val"]) == 6 * PLANES


def test_frames_of_an_animation_are_planes(tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.fromarray(np.full(SIZE, 50 * k, np.uint8)) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], optimize=False)
    assert str(images.planes_of(tmp_path / "a.gif")) == "3 frames"
    with pytest.raises(InputError, match=r"a\.gif' holds 3 frames"):
        images.read_image(tmp_path / "a.gif")
    for k in range(3):
        assert int(images.read_image(tmp_path / "a.gif", k).float().mean()) == 50 * k
