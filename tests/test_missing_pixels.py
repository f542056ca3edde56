"""Where nothing was measured: in no mean, no loss and no score, nodata in masks, and never NaN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor

import unetzoo
from unetzoo import images
from unetzoo.data import IGNORED, Labels, Sample, SegmentationDataset, check, list_samples, masks
from unetzoo.errors import InputError, UnetzooError, WeightsError
from unetzoo.evaluation import evaluate
from unetzoo.exporting import writing
from unetzoo.prediction import Predictor, files
from unetzoo.prediction.partial import PartialMask
from unetzoo.serving import Limits, answers, counts, pictures

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
RNG = np.random.default_rng(0)
SIZE = (40, 48)
LOWEST = float(np.finfo(np.float32).min)


def write(path: Path, values: np.ndarray, nodata: float | str | None = None) -> Path:
    """Write (bands, H, W) by tifffile, with GDAL's tag where a value is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = [] if nodata is None else [(42113, 2, None, str(nodata), True)]
    bands: dict[str, Any] = {} if len(values) == 1 else {"planarconfig": "separate", "photometric": "minisblack"}
    tifffile.imwrite(path, values[0] if len(values) == 1 else values, extratags=tags, metadata=None, **bands)
    return path


def small(task: str = "binary", classes: int = 1, channels: int = 1, **options: Any) -> unetzoo.SegmentationModel:
    torch.manual_seed(0)
    return unetzoo.create("unet", base_channels=4, in_channels=channels, num_classes=classes, task=task, **options)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(
    ("kind", "tag"),
    [
        ("uint8", 0), ("uint16", 0), ("uint16", 65535), ("int16", -9999), ("float32", -9999), ("float32", "nan"),
        ("float32", LOWEST), ("float32", "-3.40282346638529e+38"), ("float32", None),
    ],
)  # fmt: skip
def test_what_is_missing_is_what_rasterio_masks(kind: str, tag: Any, bands: int, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="GDAL reads the nodata tag")
    gap = LOWEST if tag is None else float(tag)
    values = RNG.integers(1, 200, (bands, *SIZE)).astype(kind)
    values[:, 3:9, 5:11] = gap
    values[0, 20:22, 20] = gap
    path = write(tmp_path / "a.tif", values, tag)
    raster = images.read(path)
    found, missing = raster.pixels, raster.missing
    with rasterio.open(path) as file:
        each = file.read_masks() == 0 if tag is not None else values == LOWEST
        every = file.dataset_mask() == 0 if tag is not None else (values == LOWEST).all(axis=0)
    assert missing is not None
    assert (missing.all(dim=0).numpy() == every).all()
    if not kind.startswith("uint"):  # of which a value in one band alone was measured
        assert (missing.numpy() == each).all()
    measured = ~missing.numpy()
    assert (found.numpy()[measured] == values[measured]).all()
    assert found.double().min() >= 1 or kind.startswith("uint")


def test_values_at_the_ends_of_float32_are_missing_without_a_tag() -> None:
    values = torch.tensor([[[LOWEST, -3.40282306074e38, torch.inf, -torch.inf, torch.nan, 3.3e38, -9999.0, 0.0]]])
    assert images.missing_in(values).tolist() == [[[True] * 5 + [False] * 3]]
    assert images.missing_in(values[..., 5:]) is None
    assert images.missing_in(torch.zeros(1, 2, 2, dtype=torch.uint8), 256.0) is None
    assert images.missing_in(torch.zeros(1, 2, 2, dtype=torch.uint8), 0.5) is None


def folder(place: Path, gap: float, tag: Any, kind: str = "float32", bands: int = 1, count: int = 10) -> Path:
    for k in range(count):
        values = RNG.integers(1, 200, (bands, *SIZE)).astype(kind)
        values[:, 4:20, k : k + 20] = gap
        write(place / "images" / f"p{k}.tif", values, tag)
        mask = (RNG.random(SIZE) > 0.5).astype(np.uint8) * 255
        (place / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(place / "masks" / f"p{k}.tif", mask)
    return place


@pytest.mark.parametrize(("kind", "gap", "tag"), [("float32", np.nan, None), ("float32", LOWEST, None),
                                                  ("uint16", 0, 0), ("int16", -9999, -9999)])  # fmt: skip
def test_training_leaves_out_what_is_missing(kind: str, gap: float, tag: Any, tmp_path: Path) -> None:
    source = folder(tmp_path / "d", gap, tag, kind, bands=2)
    report = check(source, Labels(), ratios=(0.8, 0.2, 0))
    assert report.problems == ()
    assert "3200 pixels of 10 images are nodata" in " ".join(report.warnings)
    samples = list_samples(source, Labels()).samples[""]
    train = {sample.name for sample in unetzoo.data.find_samples(source, Labels(), ratios=(0.8, 0.2, 0))["train"]}
    known, scale = [], 1.0 if kind == "float32" else float(np.iinfo(kind).max)
    for sample in samples:
        values = tifffile.imread(sample.image).astype(np.float64)
        known += [values[:, ~((values == gap) | np.isnan(values))[0]] / scale] if sample.name in train else []
    together = np.concatenate(known, axis=1)
    assert report.mean == pytest.approx(together.mean(axis=1))
    assert report.std == pytest.approx(together.std(axis=1))
    dataset = SegmentationDataset(samples, Labels(), in_channels=2, mean=report.mean, std=report.std)
    for k, target in enumerate(dataset.targets()):
        item = dataset[k]
        gaps = torch.zeros(SIZE, dtype=torch.bool)
        gaps[4:20, k : k + 20] = True
        assert ((item["target"] == IGNORED) == gaps).all()
        assert (item["target"] == target).all()
        assert (item["image"][:, gaps] == 0).all()
        assert item["image"].abs().max() < 10


def test_augmentation_spreads_no_gap_into_what_was_measured(tmp_path: Path) -> None:
    """Resampling mixes neighbours: next to -3.4e38, or NaN, all would be lost."""
    write(tmp_path / "images" / "a.tif", np.full((1, *SIZE), 7, np.float32))
    values = np.full((1, *SIZE), 7, np.float32)
    values[:, 10:20, 10:20] = LOWEST
    write(tmp_path / "images" / "b.tif", values)
    for name in "ab":
        (tmp_path / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", np.zeros(SIZE, np.uint8))
    dataset = SegmentationDataset(
        list_samples(tmp_path, Labels()).samples[""], Labels(), in_channels=1, mean=(7.0,), std=(1.0,),
        augmentation=unetzoo.augmentation.build("strong", 32),
    )  # fmt: skip
    for epoch in range(5):
        for item in (dataset[epoch, 0], dataset[epoch, 1]):
            assert item["image"].abs().max() < 1e-3


def read_values_of(path: Path, task: str, classes: int) -> Tensor:
    """Return the target (1, H, W) that a mask of a class, or of all, is read as."""
    labels = Labels(task="multiclass", num_classes=classes) if task == "multiclass" else Labels()
    sample = Sample(name="a", image=path, mask=path)
    return masks.read_target(sample, labels, SIZE)[None]


@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize(("task", "classes"), [("binary", 1), ("multiclass", 3), ("multilabel", 2)])
def test_prediction_gives_nodata_where_nothing_was_measured(
    tile: int | None, task: str, classes: int, tmp_path: Path
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="GDAL reads the mask")
    values = RNG.normal(5, 2, (1, *SIZE)).astype(np.float32)
    gaps = torch.zeros(SIZE, dtype=torch.bool)
    gaps[7:30, 5:25] = True
    filled = np.where(gaps, np.float32(5), values)
    values[:, gaps] = -9999
    path = write(tmp_path / "a.tif", values, -9999)
    predictor = Predictor(small(task, classes, mean=(5.0,), std=(2.0,)), tile=tile, device="cpu")
    found, expected = predictor(path), predictor(filled[0])
    assert expected.missing is None
    assert (found.missing == gaps).all()
    assert (found.probabilities[:, gaps] == 0).all()
    assert (found.probabilities[:, ~gaps] == expected.probabilities[:, ~gaps]).all()
    assert (found.mask[..., gaps] == 0).all()
    assert found.image.isfinite().all()
    assert found.image.min() > -10
    # By rows, to the bit, and as GDAL reads it.
    predictor.write_mask(path, tmp_path / "rows.tif")
    found.save(tmp_path / "whole.tif")
    found.save(tmp_path / "whole.png")
    names = ["class_0", "class_1"] if task == "multilabel" else [""]
    for k, name in enumerate(names, 1):
        with rasterio.open(tmp_path / "rows.tif") as rows, rasterio.open(tmp_path / name / "whole.tif") as whole:
            assert rows.nodata == whole.nodata == (255 if task == "multiclass" else 127)
            assert (whole.read(1) == rows.read(k)).all()
            assert ((whole.read_masks(1) == 0) == gaps.numpy()).all()
        with rasterio.open(tmp_path / name / "whole.png") as whole:
            assert ((whole.read_masks(1) == 0) == gaps.numpy()).all()
    assert sum(found.shares().values()) == pytest.approx(1) or task != "multiclass"
    # As a mask to train on, what nobody knows does not count.
    target = torch.cat([read_values_of(tmp_path / name / "whole.tif", task, classes) for name in names])
    expected_target = torch.where(gaps, IGNORED, found.mask.long())
    assert (target == (expected_target if task == "multilabel" else expected_target[None])).all()


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_masked_arrays_are_images_with_gaps(kind: str) -> None:
    values = RNG.integers(1, 200, (*SIZE, 3)).astype(kind)
    gaps = np.zeros(SIZE, bool)
    gaps[7:30, 5:25] = True
    mask = np.repeat(gaps[..., None], 3, axis=2)
    mask[0, 0, 1] = True  # in one band: filled, and the pixel counts
    scale = 255 if kind == "uint8" else 1
    predictor = Predictor(small(channels=3, mean=(0.4, 0.5, 0.6), std=(40.0, 50.0, 60.0)), tile=None, device="cpu")
    filled = np.where(mask, np.float32([0.4, 0.5, 0.6]), values.astype(np.float32) / np.float32(scale))
    found, expected = predictor(np.ma.array(values, mask=mask)), predictor(torch.from_numpy(filled).permute(2, 0, 1))
    assert (found.missing.numpy() == gaps).all()
    assert (found.probabilities[0].numpy()[~gaps] == expected.probabilities[0].numpy()[~gaps]).all()
    nan = values.astype(np.float32)
    nan[gaps] = np.nan
    if kind == "float32":
        assert (predictor(nan).missing.numpy() == gaps).all()


def test_an_image_of_nothing_is_all_nodata(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.full((1, *SIZE), np.nan, np.float32))
    found = Predictor(small(mean=(5.0,), std=(2.0,)), device="cpu")(path)
    assert found.missing.all()
    assert found.shares() == {"foreground": 0.0}
    found.overlay(tmp_path / "o.png")
    found.save(tmp_path / "m.tif")
    assert (tifffile.imread(tmp_path / "m.tif") == 127).all()


def test_scores_are_those_of_what_was_measured(tmp_path: Path) -> None:
    source = folder(tmp_path / "d", -9999, -9999)
    predictor = Predictor(small(mean=(100.0,), std=(50.0,)), device="cpu")
    found = evaluate(predictor, source)
    tp = fp = fn = 0
    for k in range(10):
        mask = predictor(source / "images" / f"p{k}.tif").mask.numpy().astype(bool)
        truth = tifffile.imread(source / "masks" / f"p{k}.tif") > 0
        measured = tifffile.imread(source / "images" / f"p{k}.tif") != -9999
        tp += (mask & truth & measured).sum()
        fp += (mask & ~truth & measured).sum()
        fn += (~mask & truth & measured).sum()
    assert found.scores.dice.mean == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_probabilities_that_are_no_numbers_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    image = torch.rand(1, *SIZE)
    with torch.no_grad():
        model.head.conv.weight.fill_(torch.nan)
    for call in (lambda: Predictor(model, device="cpu")(image), lambda: Predictor(model, tile=32, device="cpu")(image)):
        with pytest.raises(WeightsError, match=r"NaN or infinity in 1 of its tensors, such as .*head"):
            call()
    with pytest.raises(UnetzooError, match=r"NaN or infinity"):
        evaluate(model, folder(tmp_path / "d", -9999, -9999))
    with pytest.raises(InputError, match="not finite"):
        model.predict(image[None])
    monkeypatch.setattr(writing, "_file", lambda *_: b"")  # what is exported is not looked at
    monkeypatch.setattr(writing, "_running", lambda *_: lambda batch: batch)
    with pytest.raises(WeightsError, match=r"NaN or infinity in 1 of its tensors, such as .*head"):
        unetzoo.export(model, tmp_path / "a.pt2")
    overflowing = small("multiclass", 2)
    with torch.no_grad():
        overflowing.head.conv.weight.fill_(3e38)
    with pytest.raises(InputError, match=r"not finite.*overflow"):
        Predictor(overflowing, device="cpu")(image)
    with pytest.raises(UnetzooError, match=r"the model itself gives logits that are not finite.*overflow"):
        unetzoo.export(overflowing, tmp_path / "a.pt2")
    assert not (tmp_path / "a.pt2").exists()


@pytest.mark.parametrize(
    ("values", "tag", "expected"),
    [
        ([0, 1, 255], 255, [0, 1, IGNORED]),
        ([0, 0, 255], 255, [0, 0, 1]),
        ([0, 1, 1], 0, [0, 1, 1]),
        ([0, 127, 255], 127, [0, IGNORED, 1]),
        ([0, 0, 1], "inf", [0, 0, 1]),
        ([0, 0, 1], "-3.4e38", [0, 0, 1]),
    ],
)
def test_a_mask_s_own_nodata_does_not_count_unless_it_is_a_class(
    values: list[int], tag: float | str, expected: list[int], tmp_path: Path
) -> None:
    path = write(tmp_path / "m.tif", np.array([[values]], np.uint8), tag)
    assert masks.read_target(Sample(name="m", image=path, mask=path), Labels(), (1, 3)).tolist() == [expected]


def test_a_mask_by_rows_that_is_resumed_still_names_its_nodata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.normal(5, 2, (1, 96, 40)).astype(np.float32)
    values[:, :10] = np.nan
    path, predictor = write(tmp_path / "a.tif", values), Predictor(small(), tile=32, device="cpu")
    predictor.write_mask(path, tmp_path / "undisturbed.tif")
    put = PartialMask.put

    def interrupted(self: PartialMask, part: Tensor, **options: bool) -> None:
        put(self, part, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialMask, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predictor.write_mask(path, tmp_path / "m.tif")
    predictor.write_mask(path, tmp_path / "m.tif")
    assert images.nodata(tmp_path / "m.tif") == 127
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "undisturbed.tif").read_bytes()


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_zarr_array_keeps_its_nodata(task: str, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr reads the mask")
    values = RNG.normal(5, 2, (40, 40)).astype(np.float32)
    values[:10] = np.nan
    zarr.create_array(tmp_path / "a.zarr", data=values)
    predictor = Predictor(small(task, 1 if task == "binary" else 3), tile=32, device="cpu")
    predictor.write_mask(tmp_path / "a.zarr", tmp_path / "m.zarr")
    found = zarr.open(tmp_path / "m.zarr", mode="r")
    assert found.fill_value == (127 if task == "binary" else 255)
    assert ((found[:] == found.fill_value) == np.isnan(values)).all()


def test_objects_of_a_folder_s_masks_are_those_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="objects are found by SciPy")
    values = RNG.normal(5, 2, (1, *SIZE)).astype(np.float32)
    values[:, :10] = np.nan
    write(tmp_path / "in" / "a.tif", values)
    predictor, outputs = Predictor(small(), device="cpu"), files.Outputs(tmp_path / "out", formats=("coco",))
    jobs = files.find_jobs([tmp_path / "in"])
    files.predict_files(predictor, jobs, outputs, predictor.settings())
    found = predictor(tmp_path / "in" / "a.tif")
    assert len(json.loads((tmp_path / "out" / "coco" / "annotations.json").read_text())["annotations"]) == len(
        found.instances()
    )


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_masks_of_many_classes_have_nodata_too(ending: str, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="GDAL reads the mask")
    values = torch.rand(1, 32, 32)
    values[:, :10] = torch.nan
    Predictor(small("multiclass", 300), device="cpu")(values).save(tmp_path / f"m{ending}")
    with rasterio.open(tmp_path / f"m{ending}") as file:
        assert file.nodata == 65535
        assert ((file.read_masks(1) == 0) == values[0].isnan().numpy()).all()
    with pytest.raises(InputError, match=r"256 classes .*no value for nodata: fill"):
        Predictor(small("multiclass", 256), device="cpu")(values).save(tmp_path / f"n{ending}")


def test_a_gap_in_an_object_is_no_hole_to_fill() -> None:
    pytest.importorskip("scipy", reason="holes are found by SciPy")
    model = small()
    with torch.no_grad():
        model.head.conv.bias.fill_(1e3)  # all is foreground
    values = torch.rand(1, 32, 32)
    values[:, 10:20, 10:20] = torch.nan
    found = Predictor(model, holes="all", device="cpu")(values)
    assert int(found.mask.sum()) == 32 * 32 - 100
    assert (found.mask == 0).equal(found.missing)


@pytest.mark.parametrize(("task", "classes"), [("binary", 1), ("multiclass", 3), ("multilabel", 2)])
def test_the_page_counts_what_was_measured(task: str, classes: int, tmp_path: Path) -> None:
    values = RNG.normal(5, 2, (1, *SIZE)).astype(np.float32)
    values[:, :10] = np.nan
    predictor = Predictor(small(task, classes), device="cpu")
    found = answers.answer(predictor, write(tmp_path / "a.tif", values), Limits())
    rows = counts.legend(found.at(0.5))
    if task != "multilabel":
        assert sum(row.pixels for row in rows) == SIZE[0] * SIZE[1] - 10 * SIZE[1]
        assert sum(row.share for row in rows) == pytest.approx(1)
    assert (found.at(0.0).prediction.mask[..., :10, :] == 0).all()
    assert pictures.picture(found.at(0.0)).fitted().painted().shape == (3, *SIZE)
