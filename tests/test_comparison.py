"""Comparison: counts against closed forms and against what really happens, tables that are read back."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import flags, light
from PIL import Image
from reference import reference_logits
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import unetzoo
from unetzoo import ConfigError, WriteError
from unetzoo.comparing.plotting import require_plot
from unetzoo.comparing.table import Comparison
from unetzoo.costs import counting
from unetzoo.nn.convolutions import Source, Upsampled


def multiply_adds(model: nn.Module, images: torch.Tensor) -> int:
    """Count by hand: each output of a convolution costs kernel × kernel × inputs / groups.

    Of its inputs, those that are up-sampled from 96 channels or more cost that at their own size; by 4 or more, those
    of 64.
    """
    total = 0

    def count(module: nn.Conv2d | nn.ConvTranspose2d, inputs: tuple[Source, ...], output: torch.Tensor) -> None:
        nonlocal total
        for source in inputs:
            x = source if isinstance(source, torch.Tensor) else source.x
            scale = output.shape[-1] / x.shape[-1]
            early = isinstance(source, Upsampled) and x.shape[1] >= (96 if scale < 4 else 64)
            maps = x if early or isinstance(module, nn.ConvTranspose2d) else output
            total += maps[:, 0].numel() * module.weight.numel() * x.shape[1] // module.in_channels

    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        model.training_outputs(images)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(
    "name", ["unet", "resunet18", "unetpp_resnet50", "unet3p", "unetpp_lite", "unet3p_lite_resnext50_32x4d"]
)
def test_gflops_are_twice_the_multiply_adds(name: str) -> None:
    with unetzoo.model.on_meta():
        model = unetzoo.create(name).eval()
    (row,) = unetzoo.compare(name, size=64).rows
    assert row.gflops * 1e9 == 2 * multiply_adds(model, torch.empty(1, 3, 64, 64, device="meta"))


@pytest.mark.parametrize("name", ["unetpp_resnet18", "unet_convnext_tiny"])  # the latter has linear layers
def test_flops_are_those_of_torch_s_own_counter(name: str) -> None:
    with unetzoo.model.on_meta():
        model = unetzoo.create(name).train()
    with FlopCounterMode(display=False) as theirs:
        model.training_outputs(torch.empty(2, 3, 64, 64, device="meta"))
    assert counting.count(model, 64)[0] == theirs.get_total_flops() / 2 > 0


def test_gflops_of_the_first_layers_in_closed_form() -> None:
    """The two convolutions of the first level of U-Net at 128²: 9 · (3 · 64 + 64 · 64) multiply-adds a pixel."""
    wide, narrow = (counting.count(unetzoo.create("unet", base_channels=c), 128)[0] for c in (2, 1))
    assert wide > narrow
    model = unetzoo.create("unetpp", levels=1, base_channels=1).train()
    # Level 0 at 128² and level 1 at 64², the up-convolution, and the node over 2 channels.
    fine, coarse = 128 * 128, 64 * 64
    expected = fine * 9 * (3 + 1) + coarse * 9 * (2 + 4) + coarse * 4 * 2 + fine * 9 * (2 + 1) + fine
    assert counting.count(model, 128)[0] == 2 * expected


@pytest.mark.parametrize(
    "name", ["unet", "unet_valid", "resunet18", "unetpp_resnet18", "unet3p", "unetpp_lite_resnet18"]
)
def test_activation_memory_is_that_of_a_real_step(name: str) -> None:
    options = {**light(name), **flags(name)}
    real = unetzoo.create(name, **options).train()
    with unetzoo.model.on_meta():
        imagined = unetzoo.create(name, **options).train()
    side = real.decoder.input_side(4) if real.decoder.border else 64
    kept: dict[int, torch.Tensor] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*real.parameters(), *real.buffers())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        real.training_outputs(torch.randn(2, 3, side, side))
    measured = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in own) / 2
    assert counting.count(imagined, side)[1] == pytest.approx(measured, rel=0.01)


def test_the_light_form_costs_what_was_published() -> None:
    """What 1×1 convolutions save that come before the up-sampling, not after it, is ours."""
    with unetzoo.model.on_meta():
        model = unetzoo.create("unetpp_lite_resnet50").eval()
    with FlopCounterMode(display=False) as plain, torch.no_grad():
        reference_logits(model, torch.empty(1, 3, 256, 256, device="meta"))
    assert round(plain.get_total_flops() / 1e9) == 41
    assert counting.count(model, 256)[0] < plain.get_total_flops()


def test_nothing_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("memory was allocated"))
    (row,) = unetzoo.compare("unet3p_wide_resnet101_2", size=4096).rows
    assert row.gflops > 27_000
    assert torch.equal(torch.get_rng_state(), before)


def test_names_wildcards_exclusions_and_order() -> None:
    table = unetzoo.compare(["unetpp", "resunet*"], exclude="*1*", size=32)
    assert [row.name for row in table.rows] == ["unetpp", "resunet34", "resunet50"]
    assert table.rows[0].parameters == unetzoo.model_info("unetpp").parameters
    (row,) = unetzoo.compare("unet", size=32, num_classes=4, in_channels=1).rows
    assert row.parameters == 31_036_673 + 3 * 65 - 2 * 9 * 64
    assert row.published is None


def test_saved_models_are_counted_as_they_are(tmp_path: Path) -> None:
    model = unetzoo.create("unet", base_channels=3, in_channels=5, num_classes=2, class_names=["a", "b"])
    unetzoo.save(model, tmp_path / "it.safetensors")
    parameters = sum(p.numel() for p in model.parameters())
    flops = 2 * multiply_adds(model.eval(), torch.zeros(1, 5, 64, 64))
    rows = [
        *unetzoo.compare([str(tmp_path / "it.safetensors"), "nuclei"], size=64, in_channels=1).rows,
        *unetzoo.compare(tmp_path / "it.safetensors", size=64).rows,
        *unetzoo.compare(model, size=64).rows,
        *unetzoo.compare(unetzoo.optimize(model), size=64).rows,
    ]
    assert [row.parameters for row in rows] == [parameters, 1_942_354, parameters, parameters, parameters]
    assert {row.gflops * 1e9 for row in rows} == {flops, rows[1].gflops * 1e9}
    assert [row.name for row in rows[:2]] == [str(tmp_path / "it.safetensors"), "nuclei"]
    assert rows[0].published is None


def test_an_average_is_the_sum_of_its_networks() -> None:
    apart = unetzoo.compare(["vessels", "resunet18", "unetpp"], size=32)
    joined, predictor = (
        unetzoo.compare(models, size=32).rows
        for models in (["unetpp", ["vessels", "resunet18"]], unetzoo.Predictor(["vessels", "vessels"]))
    )
    assert joined[0] == apart.rows[2]
    for field in ("parameters", "gflops", "activation_mib"):
        first, second, _ = (getattr(row, field) for row in apart.rows)
        assert getattr(joined[1], field) == first + second
        assert getattr(predictor[0], field) == 2 * first
    assert joined[1].name == "vessels + resunet18"


def test_unet_valid_is_taken_at_the_size_that_predict_needs() -> None:
    small, large = (unetzoo.compare("unet_valid", size=size).rows[0].gflops for size in (388, 512))
    with unetzoo.model.on_meta():
        whole = unetzoo.create("unet_valid")
    assert small * 1e9 == 2 * multiply_adds(whole, torch.empty(1, 3, 572, 572, device="meta"))
    assert large > small


def test_forms_say_the_same() -> None:
    table = unetzoo.compare(["unet", "unet3p_resnet18"], size=64)
    rows = list(csv.DictReader(io.StringIO(table.render("csv"))))
    record = json.loads(table.render("json"))
    assert record["size"] == 64
    for row, from_csv, from_json in zip(table.rows, rows, record["models"], strict=True):
        assert int(from_csv["parameters"]) == from_json["parameters"] == row.parameters
        assert float(from_csv["gflops"]) == from_json["gflops"] == row.gflops
        assert from_json["latency_ms"] is None
    lines = table.render("md").splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")][:3] == ["unet", "31,036,673", "31.04M ✓"]
    assert "unet3p_resnet18  17,709,441          –" in str(table)
    with pytest.raises(ConfigError, match="did you mean 'json'"):
        table.render("jsn")


@pytest.fixture(scope="module")
def table() -> Comparison:
    return unetzoo.compare(["unet*resnet18", "unet", "resunet18"], size=64)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot(tmp_path: Path, ending: str, table: Comparison) -> None:
    table.plot(tmp_path / f"plot.{ending}")
    content = (tmp_path / f"plot.{ending}").read_bytes()
    if ending == "svg":
        assert b"<svg" in content
    else:
        with Image.open(tmp_path / "plot.png") as file:
            image = file.convert("RGB")
        assert image.size == (1350, 900)
        assert len(image.getcolors(2**20)) > 100


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        require_plot(tmp_path / "file" / "a.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(WriteError):
        unetzoo.compare("unet", size=32).plot(tmp_path / "a.png")


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'unetzoo\[plot\]'"):
        require_plot(tmp_path / "a.png")


def test_measured_columns() -> None:
    (row,) = unetzoo.compare("unetpp_lite_resnet18", size=64, measure=True).rows
    assert 0 < row.latency_ms < 60_000
    if sys.platform == "linux":
        assert row.parameters * 4 / 2**20 < row.peak_mib < 2000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"models": "resnut50"}, "did you mean 'resunet50'"),
        ({"models": ["unet", "zzz*", "yyy"]}, "2 things are wrong"),
        ({"models": [["unet", "vessels"]], "num_classes": 2}, r"num_classes .*model 2 .*\b1\b.*\b2\b"),
        ({"models": "unet", "exclude": "*"}, "nothing is left"),
        ({"size": 0}, "size=0"),
        ({"size": 64.0}, "size=64.0"),
        ({"models": "unet", "num_classes": 0}, "num_classes=0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        unetzoo.compare(**arguments)


def test_a_bar_shows_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    unetzoo.compare(["unet", "unetpp"], size=32, progress=True)
    assert "0/2" in capsys.readouterr().err
    unetzoo.compare(["unet", "unetpp"], size=32)
    assert capsys.readouterr().err == ""
