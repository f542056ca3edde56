"""Validation in tiles: what is said is what the whole image gives, and no more than a tile is shown at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unetzoo
from unetzoo.drawing import write_shapes
from unetzoo.errors import InputError, TrainingError
from unetzoo.evaluation import evaluate
from unetzoo.folding import OptimizedModel
from unetzoo.metrics import SegmentationMetrics
from unetzoo.model import SegmentationModel, evaluating
from unetzoo.nn.layers import crop
from unetzoo.prediction.reach import reach
from unetzoo.prediction.tiles import rounded_up
from unetzoo.train import validating


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Give the sizes of what encoders are shown from here on."""
    sizes: list[tuple[int, ...]] = []
    call = SegmentationModel._outputs

    def seen(self: SegmentationModel, images: Tensor, deep: bool) -> Any:
        sizes.append(tuple(images.shape))
        return call(self, images, deep)

    monkeypatch.setattr(SegmentationModel, "_outputs", seen)
    return sizes


def network(name: str, **options: Any) -> SegmentationModel:
    torch.manual_seed(0)
    made = unetzoo.create(name, in_channels=1, **options).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # as of a network that was trained
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return made


pytestmark = pytest.mark.usefixtures("no_curves")

SMALL = {"base_channels": 4}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", SMALL),
        ("unet", {**SMALL, "task": "multiclass", "num_classes": 3}),
        ("unet_valid", SMALL),
        ("unetpp", {**SMALL, "deep_supervision": True}),
        ("unetpp", {**SMALL, "deep_supervision": True, "output": "average"}),
        pytest.param("unet3p", {**SMALL, "deep_supervision": True}, marks=pytest.mark.slow),
    ],
)
def test_logits_of_tiles_are_those_of_the_whole(
    name: str, options: dict[str, Any], shown: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(name, **options)
    window = 4 * rounded_up(2 * reach(model.config, heads=True), model.encoder.strides[-1])
    images = torch.randn(1, 1, 45, window + 237)
    shown.clear()
    with torch.no_grad():
        monkeypatch.setattr(validating, "TILE", 2 * window)
        whole, whole_logits = validating.validated(model, images)
        assert len(shown) == 1 + model.decoder.averages_heads
        shown.clear()
        monkeypatch.setattr(validating, "TILE", 64)
        tiled, logits = validating.validated(model, images)
    assert {size[3] for size in shown} == {model.decoder.input_side(window)}
    torch.testing.assert_close(logits, whole_logits, rtol=0, atol=2e-5)
    for part, expected in zip((tiled.logits, *tiled.deep), (whole.logits, *whole.deep), strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=2e-5)


def test_how_far_a_network_looks_is_found_in_mixed_precision() -> None:
    config = network("unet", base_channels=4, num_classes=5).config
    with torch.autocast("cpu", torch.bfloat16):
        found = reach(config)
    assert found == reach(config.replace(num_classes=6)) is not None


@pytest.mark.parametrize("name", ["unet", "unet_valid", "unetpp", "resunet18"])
def test_a_small_image_is_shown_whole_as_prediction_mirrors_it(name: str) -> None:
    """Held against the plain way: the network's own answer to the image, mirrored to a multiple of its stride."""
    model = network(name, **(SMALL if "res" not in name else {}))
    images = torch.randn(2, 1, 45, 70)
    with torch.no_grad():
        logits = validating.validated(model, images)[1]
        if model.decoder.border:
            torch.testing.assert_close(logits.sigmoid(), model.predict(images), rtol=0, atol=1e-6)
            return
        stride = model.encoder.strides[-1]
        padded = nn.functional.pad(images, (0, -70 % stride, 0, -45 % stride), mode="reflect")
        assert torch.equal(logits, crop(model(padded), images.shape[-2:]))


@pytest.mark.parametrize("options", [{"norm": "instance"}, {"classification_guided": True, "deep_supervision": True}])
def test_networks_that_look_at_a_whole_image_see_tiles_as_in_prediction(
    options: dict[str, Any], shown: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validating, "TILE", 64)
    model, images = network("unet3p", **SMALL, branch_channels=8, **options), torch.randn(1, 1, 80, 200)
    with torch.no_grad():
        outputs, logits = validating.validated(model, images)
    assert {size[2:] for size in shown} == {(64, 64)}
    assert logits.shape == outputs.logits.shape == (1, 1, 80, 200)
    assert logits.isfinite().all()
    if model.guide is None:
        predictor = unetzoo.Predictor(model, device="cpu", tile=64, overlap=0.25, merge="logits")
        torch.testing.assert_close(predictor(images[0]).probabilities, logits[0].sigmoid(), rtol=0, atol=1e-4)
    else:
        assert outputs.presence is not None
        assert outputs.presence.shape == (1, 1)


def test_a_training_shows_no_more_than_a_tile_and_scores_the_same(
    shown: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_shapes(tmp_path / "d", 3, size=(40, 1000), task="multiclass", seed=0)
    labels = unetzoo.data.Labels(task="multiclass", num_classes=5)
    monkeypatch.setattr(validating, "TILE", 64)
    run = unetzoo.fit(
        "unet", data=tmp_path / "d", out=tmp_path / "run", epochs=1, crop_size=32, batch_size=2, quiet=True,
        task="multiclass", num_classes=5, ratios=(0.34, 0.66, 0),
        settings={"model.options.base_channels": 4, "data.workers": 0, "data.repeats": 2},
    )  # fmt: skip
    far = reach(run.load().config, heads=True)
    assert max(size[3] for size in shown) == 4 * rounded_up(2 * far, 16) < 1000
    # The scores of the whole images.
    model = run.load()
    samples = unetzoo.data.find_samples(tmp_path / "d", labels, ratios=(0.34, 0.66, 0))["val"]
    dataset = unetzoo.data.SegmentationDataset(samples, labels, in_channels=3, normalisation=model.config.normalisation)
    metrics = SegmentationMetrics("multiclass", 5)
    with torch.no_grad(), evaluating(model):
        for k in range(len(dataset)):
            logits = model(nn.functional.pad(dataset[k]["image"][None], (0, 8, 0, 8), mode="reflect"))
            metrics.update(logits[..., :40, :1000], dataset[k]["target"][None])
    assert run.history[-1]["dice"] == pytest.approx(metrics.compute().dice.mean, abs=1e-4)


@pytest.mark.parametrize(
    "raised",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_where_memory_runs_out_what_helps_is_named(
    raised: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_shapes(tmp_path / "d", 4, size=(40, 40), task="multiclass", seed=0)
    model = unetzoo.create("unet", **SMALL, num_classes=5, task="multiclass")
    predictor = unetzoo.Predictor(model, device="cpu")

    def full(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(unetzoo.model.SegmentationModel, "_outputs", full)
    monkeypatch.setattr(OptimizedModel, "forward", full)
    image = torch.rand(3, 40, 40)
    for call in (lambda: predictor(image), lambda: evaluate(predictor, tmp_path / "d", split="val")):
        with pytest.raises(InputError, match=r"^out of memory.*tile=512.*dtype=torch\.bfloat16"):
            call()
    with pytest.raises(TrainingError, match=r"^out of memory.*batch_size=.*crop_size=.*bf16-mixed"):
        unetzoo.fit(
            "unet", data=tmp_path / "d", out=tmp_path / "run", epochs=1, crop_size=32, batch_size=2, quiet=True,
            task="multiclass", num_classes=5, settings={"model.options.base_channels": 4, "data.workers": 0},
        )  # fmt: skip


def test_other_errors_of_a_network_are_no_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = unetzoo.Predictor(network("unet", **SMALL), device="cpu")
    monkeypatch.setattr(OptimizedModel, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        predictor(torch.rand(1, 40, 40))
