"""Exported files: the bytes on disk, run by onnxruntime and by torch alone, against the model.

``pytest -m slow -n0 tests/test_exporting.py`` exports every name of the zoo in both formats, and compiles a package.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import logging
import math
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import NAMES, ROOT, light
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import prune

import unetzoo
from unetzoo import ConfigError, InputError, UnetzooError, drawing, images, sheets
from unetzoo.exporting import (
    Check,
    ExportReport,
    ImageAgreement,
    Port,
    comparing,
    export,
    formats,
    network,
    request,
    samples,
)

CASES = {"resunet18": (41, 83), "unet_valid": (188, 204)}
"""Name → the one size of its ONNX file. The rest of the zoo, and free sizes of large networks, are slow; files of small
ones answer at any size below.

``tests/test_compile_export.py`` has programs of all decoders."""
SLIM = {
    "unet_valid": {"base_channels": 2},
    "unet3p": {"base_channels": 4, "branch_channels": 20},
    "unetpp": {"base_channels": 4, "levels": 2},
}
"""Lighter yet; five branches of 20 are still enough channels for the way that mixes them first."""
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
pytestmark = pytest.mark.skipif(TORCH < (2, 14), reason="torch before 2.14 exports with fixed sizes only")


@pytest.fixture(autouse=True)
def _small_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the largest of the sizes that are tried small; what this file compares, it runs itself."""
    monkeypatch.setattr(comparing, "TIMED", 65)


def build(name: str, **options: Any) -> unetzoo.SegmentationModel:
    """Return a light model in training mode, with statistics, gains and shifts that are not 0 and 1."""
    torch.manual_seed(0)
    if name == "tiny":
        name, options = "unetpp", {"base_channels": 4, "levels": 1, **options}
    model = unetzoo.create(name, **{**SLIM.get(name, light(name)), **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.3, 0.9)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


def open_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(path).module()

    def run(batch: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = module(batch)
        return found

    return run


OPEN = {"onnx": open_onnx, "pt2": open_pt2}
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
endings = pytest.mark.parametrize("ending", ["onnx", slow("pt2")])


def spread(logits: Tensor) -> float:
    return float(logits.max() - logits.min())


def assert_answers_at_odd_sizes(name: str, ending: str, folder: Path, fixed: tuple[int, int] | None) -> None:
    model = build(name, num_classes=2)
    path = folder / f"model.{ending}"
    report = export(model, path, size=fixed)
    assert model.training
    assert report.size_bytes == path.stat().st_size
    if ending == "onnx":
        graph = onnx.load(path).graph
        ready = {tensor.name for tensor in graph.initializer}
        assert all(node.input[1] in ready for node in graph.node if node.op_type in ("Conv", "ConvTranspose"))
    model.eval()
    run = OPEN[ending](path)
    for batch, height, width in ((1, 41, 83), (3, 50, 39), (2, 97, 66), (5, 64, 64)):
        tried = torch.randn(batch, 3, *(fixed or (height, width)))
        with torch.no_grad():
            expected = model(tried)
        torch.testing.assert_close(run(tried), expected, rtol=0, atol=1e-5 * spread(expected))


@pytest.mark.parametrize("name", CASES)
def test_a_file_answers_as_the_model_at_odd_sizes(name: str, tmp_path: Path) -> None:
    assert_answers_at_odd_sizes(name, "onnx", tmp_path, CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ending"), [*itertools.product(NAMES, OPEN)])
def test_every_name_answers_as_its_model_at_odd_sizes(name: str, ending: str, tmp_path: Path) -> None:
    assert_answers_at_odd_sizes(name, ending, tmp_path, CASES[name] if name == "unet_valid" else None)


@endings
def test_the_forward_of_guided_and_supervised_models_is_exported(ending: str, tmp_path: Path) -> None:
    options = {"num_classes": 3, "task": "multiclass", "deep_supervision": True, "classification_guided": True}
    model = build("unetpp", **options, levels=2, base_channels=4, output="average", norm="group", dropout=0.3).eval()
    assert model.guide is not None
    with torch.no_grad():
        model.guide.conv.bias.copy_(torch.tensor([9.0, -9.0, 9.0]))  # the second class is judged absent
    path = tmp_path / f"model.{ending}"
    export(model, path)
    tried = torch.randn(2, 3, 37, 51)
    with torch.no_grad():
        expected = model(tried)
    assert float(expected[:, 1].max()) < -9000
    # The absent class's logits are -10,000 and some: float32 has three decimals there.
    torch.testing.assert_close(OPEN[ending](path)(tried), expected, rtol=2e-7, atol=1e-5 * spread(expected[:, ::2]))


def nuclei(folder: Path, count: int) -> list[Path]:
    return sorted((folder / "nuclei" / "images").iterdir())[:: 553 // count][:count]


def mask_by_hand(model: unetzoo.SegmentationModel, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask, (H, W) or (classes, H, W), and where it is no matter of rounding."""
    probabilities = model.predict(images.prepare(image, model.config))[0]
    if model.config.task == "multiclass":
        best, second = probabilities.topk(2, dim=0).values
        return probabilities.argmax(dim=0).byte(), best - second > 1e-4
    mask, clear = probabilities > 0.5, (probabilities - 0.5).abs() > 1e-4
    return (mask[0], clear[0]) if model.config.task == "binary" else (mask.byte(), clear)


@pytest.mark.parametrize(
    ("ending", "task", "classes"),
    [
        ("pt2", "binary", 1),
        slow("pt2", "multiclass", 4),
        *(slow("onnx", *kind) for kind in (("binary", 1), ("multiclass", 4), ("multilabel", 2))),
    ],
)
def test_images_go_in_as_stored_and_masks_come_out(
    ending: str, task: str, classes: int, tmp_path: Path, shared_data: Path
) -> None:
    normalisation = {"mean": (0.2, 0.1, 0.3), "std": (0.1, 0.2, 0.3)}
    model = build("tiny", task=task, num_classes=classes, **normalisation)
    path = tmp_path / f"model.{ending}"
    report = export(model, path, inputs="uint8", outputs="mask")
    assert (report.input.dtype, report.output.dtype) == ("uint8", "uint8")
    assert_masks_come_out(model, OPEN[ending](path), shared_data)


def assert_masks_come_out(model: unetzoo.SegmentationModel, run: Callable[[Tensor], Tensor], shared_data: Path) -> None:
    seen = set[int]()
    for file in nuclei(shared_data, 4):
        stored = np.asarray(Image.open(file))[..., :3]  # Pillow's own reading; the alpha of these is opaque
        found = run(torch.from_numpy(stored.transpose(2, 0, 1).copy())[None])
        mask, clear = mask_by_hand(model, images.read_image(file))
        assert found.dtype == torch.uint8
        assert found.shape == (1, *mask.shape)
        assert float(clear.double().mean()) > 0.99
        assert torch.equal(found[0][clear], mask[clear].byte())
        seen |= set(found.unique().tolist())
    assert len(seen) > 1


@endings
def test_sixteen_bits_go_in_as_stored(ending: str, tmp_path: Path, shared_data: Path) -> None:
    model = build("tiny", in_channels=1, num_classes=2, task="multilabel", mean=(0.02,), std=(0.01,))
    path = tmp_path / f"model.{ending}"
    report = export(model, path, inputs="uint16", outputs="probabilities", size=(120, 133))
    assert report.input == Port("image", "uint16", "(batch, 1, 120, 133)", "0 to 65535, scaled and normalised inside")
    file = min((shared_data / "nuclei_16bit" / "images").iterdir())
    stored = images.read_image(file)[:, 200:320, 300:433]
    assert stored.dtype == torch.uint16
    expected = model.predict(images.prepare(stored, model.config))
    found = OPEN[ending](path)(stored[None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float(expected.std()) > 0.01


@pytest.mark.slow  # by default those of an average are
def test_probabilities_are_those_of_predict(tmp_path: Path) -> None:
    model = build("tiny", num_classes=3, task="multiclass")
    export(model, tmp_path / "model.onnx", outputs="probabilities")
    tried = torch.randn(2, 3, 33, 47)
    found = open_onnx(tmp_path / "model.onnx")(tried)
    torch.testing.assert_close(found, model.predict(tried), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 33, 47))


FACTS = {
    "task": "multiclass",
    "num_classes": 3,
    "class_names": ("ground", "röad", "rim"),
    "mean": (0.5,) * 3,
    "std": (0.25,) * 3,
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> tuple[unetzoo.SegmentationModel, Path]:
    """A model, and its ONNX file, which takes images as stored and gives masks."""
    model, path = build("tiny", **FACTS), tmp_path_factory.mktemp("facts") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "TIMED", 65)
        export(model, path, inputs="uint8", outputs="mask")
    return model, path


def test_images_go_into_onnx_as_stored(facts: tuple[unetzoo.SegmentationModel, Path], shared_data: Path) -> None:
    assert_masks_come_out(facts[0], open_onnx(facts[1]), shared_data)


def assert_tells_what_it_is(facts: Mapping[str, str], model: unetzoo.SegmentationModel) -> None:
    assert unetzoo.ModelConfig.from_json(facts["config"]) == model.config
    assert json.loads(facts["classes"]) == ["ground", "röad", "rim"]
    assert "class_names" not in facts  # which QGIS's plugin reads, and stops at a list
    assert (json.loads(facts["mean"]), json.loads(facts["std"])) == ([0.5] * 3, [0.25] * 3)
    assert (facts["task"], facts["num_classes"], facts["unetzoo_version"]) == ("multiclass", "3", unetzoo.__version__)
    assert (facts["inputs"], facts["outputs"], facts["precision"]) == ("uint8", "mask", "float32")
    assert facts["input"].startswith("image: uint8 (batch, 3, height, width), 0 to 255, scaled and normalised inside")
    assert facts["output"] == "mask: uint8 (batch, height, width), index of the likeliest class"


def test_an_onnx_file_is_whole_and_says_what_it_is(facts: tuple[unetzoo.SegmentationModel, Path]) -> None:
    model, path = facts
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    loaded = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(loaded, full_check=True)
    assert [(item.domain, item.version) for item in loaded.opset_import] == [("", 20)]
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in loaded.graph.initializer)
    assert loaded.ir_version == 9  # onnxruntime 1.17 refuses 10
    assert_tells_what_it_is({item.key: item.value for item in loaded.metadata_props}, model)
    sides = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*loaded.graph.input, *loaded.graph.output)
    ]
    assert sides == [["batch", 3, "height", "width"], ["batch", "height", "width"]]
    assert [value.name for value in (*loaded.graph.input, *loaded.graph.output)] == ["image", "mask"]
    assert "BatchNormalization" not in {node.op_type for node in loaded.graph.node}  # folded
    assert_names_no_folder(path)


def test_a_pt2_file_says_what_it_is_and_refuses_sizes_it_was_not_made_for(tmp_path: Path) -> None:
    model = build("tiny", **FACTS)
    path = tmp_path / "model.pt2"
    export(model, path, inputs="uint8", outputs="mask")
    extra = {"unetzoo.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert_tells_what_it_is(json.loads(extra["unetzoo.json"]), model)
    with pytest.raises(AssertionError, match=">= 3"):
        program.module()(torch.zeros(1, 3, 64, 2, dtype=torch.uint8))
    assert_names_no_folder(path)


def assert_names_no_folder(path: Path) -> None:
    content = path.read_bytes()
    for folder in {ROOT, Path(torch.__file__).parent, Path(sys.prefix), Path.home(), Path(tempfile.gettempdir())}:
        assert str(folder).encode() + b"/" not in content


def learn(model: unetzoo.SegmentationModel, steps: int = 60) -> unetzoo.SegmentationModel:
    """Teach a model, in seconds, where drawn nuclei are.

    In float64: in float32, rounding makes it another model with each number of threads.
    """
    drawn = [drawing.draw_nuclei(64, 64, seed=k) for k in range(4)]
    inputs = torch.cat([images.prepare(image, model.config) for image, _ in drawn]).double()
    targets = torch.stack([mask for _, mask in drawn])[:, None].double()
    optimiser = torch.optim.AdamW(model.double().parameters(), 3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(model.train()(inputs), targets).backward()
        optimiser.step()
    return model.eval().float()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[unetzoo.SegmentationModel, Path]:
    """A model of nuclei, and a data set whose images it has not seen."""
    torch.manual_seed(0)
    model = learn(unetzoo.create("unetpp", base_channels=8, levels=2))
    folder = tmp_path_factory.mktemp("data")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for k in range(6):
        image, mask = drawing.draw_nuclei(70 + k, 93, seed=100 + k)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{k}.png")
        Image.fromarray(mask.numpy()).save(folder / "masks" / f"{k}.png")
    return model, folder


def counted_by_hand(
    model: unetzoo.SegmentationModel, run: Callable[[Tensor], Tensor], files: list[Path]
) -> ImageAgreement:
    same, total, lowest, both, either = 0, 0, 1.0, 0, 0
    for file in files:
        prepared = images.prepare(images.read_image(file), model.config)
        a, b = (run(prepared).numpy() > 0), (model.predict(prepared).numpy() > 0.5)
        same, total = same + int((a == b).sum()), total + a.size
        lowest = min(lowest, float((a == b).mean()))
        both, either = both + int((a & b).sum()), either + int((a | b).sum())
    return ImageAgreement(len(files), same / total, lowest, both / either)


def assert_close(found: ImageAgreement | None, expected: ImageAgreement) -> None:
    assert found is not None
    assert found.count == expected.count
    assert found.iou == pytest.approx(expected.iou, abs=1e-6)
    assert (found.agreement, found.lowest) == pytest.approx((expected.agreement, expected.lowest), abs=1e-6)


def test_eight_bits_agree_on_images_and_are_stored_as_eight(
    trained: tuple[unetzoo.SegmentationModel, Path], tmp_path: Path
) -> None:
    model, folder = trained
    path = tmp_path / "model.onnx"
    report = export(model, path, precision="int8", images=folder)
    files = sorted((folder / "images").iterdir())
    assert_close(report.images, counted_by_hand(model, open_onnx(path), files))
    assert report.images is not None
    assert report.images.iou is not None
    assert report.images.iou > 0.95
    assert 0 < max(check.difference for check in report.checks) < 0.1  # eight bits, not thirty-two
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    kernels = [tensor for tensor in loaded.graph.initializer if len(tensor.dims) == 4]
    narrow = sum(math.prod(tensor.dims) for tensor in kernels if tensor.data_type == onnx.TensorProto.INT8)
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 4)
    assert narrow == weights - model.head.conv.weight.numel()
    makers = {output: node for node in loaded.graph.node for output in node.output}
    head = makers["logits"]
    assert head.op_type == "Conv"
    assert makers[head.input[0]].op_type == "DequantizeLinear"
    assert head.input[1] not in makers  # the head's weight is as it was
    assert json.loads({item.key: item.value for item in loaded.metadata_props}["mean"]) is None


@pytest.mark.parametrize(
    ("ending", "precision", "kind"),
    [("onnx", "float16", torch.float16), slow("pt2", "float16", torch.float16), ("pt2", "bfloat16", torch.bfloat16)],
)
def test_half_precision_is_stored_and_masks_agree(
    ending: str, precision: str, kind: torch.dtype, trained: tuple[unetzoo.SegmentationModel, Path], tmp_path: Path
) -> None:
    model, folder = trained
    path = tmp_path / f"model.{ending}"
    files = sorted((folder / "images").iterdir())
    report = export(model, path, precision=precision, images=files)
    assert report.input.dtype == report.output.dtype == "float32"
    assert_close(report.images, counted_by_hand(model, OPEN[ending](path), files))
    assert report.images is not None
    assert report.images.agreement > 0.99
    assert 1e-5 < max(check.difference for check in report.checks) < 0.05
    if ending == "onnx":
        large = [tensor for tensor in onnx.load(path).graph.initializer if math.prod(tensor.dims) > 64]
        assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}
    else:
        state = torch.export.load(path).state_dict
        assert {tensor.dtype for tensor in state.values()} == {kind}


def test_a_fixed_size_may_be_smaller_than_free_ones(tmp_path: Path) -> None:
    model = build("tiny").eval()
    report = export(model, tmp_path / "model.onnx", size=(5, 9))
    assert [(check.batch, check.height, check.width) for check in report.checks] == [(3, 5, 9), (2, 5, 9), (1, 5, 9)]
    tried = torch.randn(4, 3, 5, 9)
    with torch.no_grad():
        expected = model(tried)
    torch.testing.assert_close(
        open_onnx(tmp_path / "model.onnx")(tried), expected, rtol=0, atol=1e-5 * spread(expected)
    )


def test_weights_of_another_type_are_exported_in_float32(tmp_path: Path) -> None:
    model = build("tiny").to(torch.bfloat16)
    before = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "model.pt2", size=(40, 40))
    assert {tensor.dtype for tensor in torch.export.load(tmp_path / "model.pt2").state_dict.values()} == {torch.float32}
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype


@pytest.mark.slow  # by default test_docs runs the page, whose check_encoder exports such a network
def test_networks_of_registered_encoders_are_exported(tmp_path: Path, registries: None) -> None:
    namespace = runpy_block(ROOT / "docs" / "add_an_encoder.md")
    assert "strided" in unetzoo.encoders.ENCODERS, namespace
    model = unetzoo.create("unetpp_strided", levels=2, strided_width=4).eval()
    report = export(model, tmp_path / "model.onnx")
    assert min(check.height for check in report.checks) == 9  # above the largest stride
    tried = torch.randn(2, 3, 45, 70)
    with torch.no_grad():
        expected = model(tried)
    torch.testing.assert_close(
        open_onnx(tmp_path / "model.onnx")(tried), expected, rtol=0, atol=1e-5 * spread(expected)
    )


def runpy_block(page: Path) -> list[str]:
    """Run the first python block of a page, which registers what it describes; return the new names."""
    text = page.read_text(encoding="utf-8").split("```python\n", 1)[1].split("\n```", 1)[0]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "block.py"
        script.write_text(text, encoding="utf-8")
        return [name for name in runpy.run_path(str(script)) if not name.startswith("_")]


def test_the_report_is_a_table_and_json(trained: tuple[unetzoo.SegmentationModel, Path], tmp_path: Path) -> None:
    model, folder = trained
    path = tmp_path / "model.pt2"
    report = export(model, path, images=folder)
    assert [(check.batch, check.height, check.width) for check in report.checks] == [
        (3, 5, 11),
        (2, 11, 18),
        (1, 65, 65),
    ]
    lines = str(report).splitlines()
    assert lines[0].startswith(f"{path}: pt2, float32, {path.stat().st_size / 1e6:.1f} MB, in ")
    assert lines[1] == "in   image: float32 (batch, 3, height, width), 0 to 1; height and width from 5 up"
    assert lines[2] == "out  logits: float32 (batch, 1, height, width), before sigmoid or softmax"
    assert lines[3].split() == ["images", "difference", "same", "mask", "eager,", "ms", "file,", "ms"]
    assert [line.split()[:5] for line in lines[4:7]] == [
        ["3", "×", "5", "×", "11"],
        ["2", "×", "11", "×", "18"],
        ["1", "×", "65", "×", "65"],
    ]
    assert lines[7] == "6 images: the masks agree on 100 % of the pixels (100 % on the worst), IoU 1.0000"
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record["checks"][1]["height"] == 11
    assert record["input"]["name"] == "image"
    assert record["size_bytes"] == path.stat().st_size
    assert all(check["eager_ms"] > 0 < check["file_ms"] for check in record["checks"])


AVERAGES = [
    ("onnx", "multiclass", 3, "probabilities"),
    slow("onnx", "binary", 1, "probabilities"),
    ("pt2", "multiclass", 3, "logits"),
    ("pt2", "multilabel", 2, "mask"),
]


def siblings(task: str, classes: int) -> list[unetzoo.SegmentationModel]:
    """Return two models of one task that are normalised differently, and in parts sure of the opposite."""
    options = {"task": task, "num_classes": classes}
    first = build("tiny", **options, mean=[0.3] * 3, std=[0.2] * 3)
    second = build("unetpp", base_channels=6, **options, mean=[0.6, 0.5, 0.4], std=[0.1] * 3)
    with torch.no_grad():
        second.head.conv.weight.mul_(20)
    return [first, second]


@pytest.mark.parametrize(("ending", "task", "classes", "outputs"), AVERAGES)
def test_one_file_of_an_average(ending: str, task: str, classes: int, outputs: str, tmp_path: Path) -> None:
    """It is held against the predictor, which loads, normalises and averages by other code."""
    models = siblings(task, classes)
    export(models, tmp_path / f"it.{ending}", inputs="uint8", outputs=outputs, size=(32, 48))
    image = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    found = OPEN[ending](tmp_path / f"it.{ending}")(image[None])[0]
    predicted = unetzoo.Predictor(models, tile=None, merge="probabilities")(image)
    expected = predicted.probabilities
    if outputs == "mask":
        assert torch.equal(found.bool(), predicted.mask.bool())
    elif outputs == "probabilities":
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    else:
        logits = expected.log() if task == "multiclass" else expected.logit()
        sure = (expected - 0.5).abs() < 0.499  # beyond, the predictor's float32 has no more digits
        assert sure.float().mean() > 0.5
        torch.testing.assert_close(found[sure], logits[sure], rtol=1e-3, atol=1e-3)


def test_a_predictor_s_networks_are_exported(tmp_path: Path) -> None:
    models = [model.eval() for model in siblings("binary", 1)]
    for given, alone in ((unetzoo.Predictor(models), None), (unetzoo.optimize(models[0]), models[0])):
        export(given, tmp_path / "it.pt2", inputs="uint8", outputs="probabilities", size=(32, 32))
        image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
        expected = unetzoo.Predictor(models if alone is None else alone, tile=None)(image).probabilities
        torch.testing.assert_close(open_pt2(tmp_path / "it.pt2")(image[None])[0], expected, rtol=0, atol=1e-5)


def test_averages_that_one_file_cannot_hold(tmp_path: Path) -> None:
    others = [build("tiny"), build("tiny", num_classes=2), build("tiny", in_channels=1), build("unet_valid")]
    with pytest.raises(ConfigError) as caught:
        export([build("tiny", mean=[0.5] * 3, std=[1.0] * 3), *others], tmp_path / "it.pt2")
    problems = "\n".join(caught.value.problems)
    for said in (r"num_classes .*model 3 .*\b2", "3, 3, 3, 1, 3 channels", "borders", "inputs='normalised'"):
        assert re.search(said, problems)
    assert not list(tmp_path.iterdir())


def test_shares_are_never_rounded_up_to_all() -> None:
    port = Port("a", "b", "c", "d")
    check = Check(1, 2, 3, 0.5, 0.9999999, 1.0, 2.0)
    report = ExportReport("x", "onnx", "int8", 1, 1.0, port, port, (check,), ImageAgreement(2, 1.0, 0.5, None))
    assert "99.999 %" in str(report)
    assert "100 % of the pixels (50.000 % on the worst), IoU –" in str(report)


def wrong(change: Callable[[nn.Module], None]) -> Callable[..., nn.Module]:
    """Return an ``optimize`` that makes a mistake."""

    def optimize(model: unetzoo.SegmentationModel, dtype: torch.dtype) -> nn.Module:
        copied = unetzoo.optimize(model, dtype=dtype)
        with torch.no_grad():
            change(copied.network.head.conv)
        return copied

    return optimize


@pytest.mark.parametrize("outputs", ["logits", slow("probabilities"), "mask"])
def test_a_file_that_answers_otherwise_is_not_kept(
    outputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "optimize", wrong(lambda conv: conv.bias.add_(0.05)))
    path = tmp_path / "model.pt2"
    path.write_bytes(b"an older one")
    with pytest.raises(UnetzooError, match=r"not kept: .*3 × 3 × 9 .*logits differ .*0\.\d+ "):
        export(build("tiny"), path, outputs=outputs)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert path.read_bytes() == b"an older one"


@pytest.mark.parametrize("value", [slow(math.nan), 1e30])
def test_an_overflow_is_not_kept(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "optimize", wrong(lambda conv: conv.bias.fill_(value)))
    with pytest.raises(UnetzooError, match="not kept"):
        export(build("tiny"), tmp_path / "model.pt2", precision="float16")
    assert not list(tmp_path.iterdir())


def test_masks_with_little_in_common_are_not_kept(
    trained: tuple[unetzoo.SegmentationModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = trained
    path = tmp_path / "model.pt2"
    monkeypatch.setattr(comparing, "AGREEMENT", 0.0)
    monkeypatch.setattr(network, "optimize", wrong(lambda conv: conv.weight.neg_()))
    with pytest.raises(UnetzooError, match=r"not kept: .*6 images .*masks .*IoU .*0\.\d\d;.*\b0\.5 "):
        export(model, path, precision="bfloat16", images=folder)
    monkeypatch.setattr(comparing, "AGREEMENT", 0.9)
    with pytest.raises(UnetzooError, match=r"not kept: .*masks agree .*\d+\.\d% .*pixels;.*\b90%"):
        export(model, path, precision="bfloat16", images=folder)
    assert not list(tmp_path.iterdir())


def test_what_the_exporter_cannot_do_is_one_error_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deciding(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image if image.sum() > 0 else -image

    monkeypatch.setattr(network, "optimize", lambda model, dtype: Deciding())
    with pytest.raises(UnetzooError, match=r"unetpp .*not be exported .*onnx, float32") as caught:
        export(build("tiny"), tmp_path / "model.onnx")
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "said"), [("node", "cannot be loaded .*onnx"), slow("output", r"cannot be run .*\(")]
)
def test_a_file_that_does_not_run_is_not_kept(
    field: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_anonymise", lambda graph: graph.ClearField(field))
    with pytest.raises(UnetzooError, match=f"was exported.* {said}") as caught:
        export(build("tiny"), tmp_path / "model.onnx")
    assert caught.value.__cause__ is not None
    assert not list(tmp_path.iterdir())


def test_a_copy_cannot_be_exported_of_weights_that_pruning_makes(tmp_path: Path) -> None:
    model = build("tiny")
    prune.l1_unstructured(model.head.conv, "weight", amount=0.5)
    with pytest.raises(ConfigError, match="cannot be folded"):
        export(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "occupied").touch()
    with pytest.raises(ConfigError) as caught:
        export(
            nn.Conv2d(3, 1, 1),  # type: ignore[arg-type]
            tmp_path / "occupied" / "model.pth",
            inputs="unit8",
            outputs="masks",
            precision="half",
            images=tmp_path / "none",
            size=(3,),
        )
    assert len(caught.value.problems) == 8
    for part in (
        r"SegmentationModel .*unetzoo\.create\(\) or load\(\), not Conv2d",
        r"'model\.pth': .*\.onnx, \.pt2, \.aoti\.pt2 or \.zip .*TorchScript .*\.pt2",
        "'.*occupied' is a file, and would have to be a folder: give another name",
        "inputs='unit8': .*'normalised', 'uint8', 'uint16', 'int16' .*did you mean 'uint8'",
        "outputs='masks': .*'logits', 'probabilities', 'mask' .*did you mean 'mask'",
        "precision='half': .*'float32', 'float16', 'int8', 'bfloat16'",
        "images='.*none': .*no such folder or file",
        r"size=\(3,\): height and width .*two whole numbers.*1 up",
    ):
        assert any(re.search(part, problem) for problem in caught.value.problems), part


@pytest.mark.parametrize(
    ("name", "path", "options", "said"),
    [
        ("tiny", "model", {}, r"'model': .*\.onnx, \.pt2, \.aoti\.pt2 or \.zip is needed"),
        ("tiny", "folder.onnx", {}, r"folder\.onnx' is a folder: .*file"),
        ("tiny", "m.onnx", {"precision": "bfloat16"}, r"precision='bfloat16' .*float32, float16, int8;.* \.aoti\.pt2"),
        ("tiny", "m.pt2", {"precision": "int8", "images": []}, r"precision='int8' .*; [^.]*\.onnx [^.]*$"),
        ("tiny", "m.aoti.pt2", {"precision": "float16"}, r"precision='float16' .*; [^.]*\.onnx or \.pt2 [^.]*$"),
        ("tiny", "m.onnx", {"precision": "int8"}, "precision='int8' needs images="),
        ("tiny", "m.onnx", {"images": []}, r"images='\[\]': .*no image"),
        ("tiny", "m.onnx", {"images": ["no.png", "never.png"]}, r"images: .*no file 'never\.png'"),
        ("tiny", "m.onnx", {"size": 256}, "size=256: height and width .*two whole numbers.*1 up"),
        ("tiny", "m.onnx", {"size": (256, 0)}, r"size=\(256, 0\): height and width"),
        ("tiny", "m.onnx", {"size": (256, True)}, r"size=\(256, True\): .*two whole numbers.*1 up"),
        ("unet_valid", "m.onnx", {}, r"unet_valid .*one size: .*size=\(188, 188\).*larger"),
        ("unet_valid", "m.pt2", {"size": (572, 500)}, r"size=\(572, 500\): unet_valid .*size=\(572, 508\)"),
    ],
)
def test_one_wrong_argument_is_said_with_its_mend(
    name: str, path: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError) as caught:
        export(build(name), tmp_path / path, **options)
    assert re.search(said, str(caught.value))
    assert [file.name for file in tmp_path.iterdir()] == ["folder.onnx"]


def test_copies_and_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"already optimized.*torch\.bfloat16"):
        export(unetzoo.optimize(build("tiny"), dtype=torch.bfloat16), tmp_path / "model.onnx")
    many = build("tiny", num_classes=257, task="multiclass")
    with pytest.raises(ConfigError, match=r"outputs='mask' .*uint8.*257 classes.*'logits' or 'probabilities'"):
        export(many, tmp_path / "model.onnx", outputs="mask")
    assert not list(tmp_path.iterdir())


def test_a_mask_without_its_objects_has_a_way(tmp_path: Path) -> None:
    model = unetzoo.create("unet", base_channels=2, task="instances")
    with pytest.raises(ConfigError, match=r"no place for the edges.*outputs='probabilities'.*task='binary'"):
        export(model, tmp_path / "model.pt2", outputs="mask")
    unetzoo.save(model, tmp_path / "model.safetensors")
    export(unetzoo.load(tmp_path / "model.safetensors", task="binary"), tmp_path / "model.pt2", outputs="mask")


def test_what_the_machine_lacks_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("tiny")
    monkeypatch.setattr(network, "optimize", lambda *_: pytest.fail("work was begun"))
    with monkeypatch.context() as lacking:
        lacking.setitem(sys.modules, "onnxruntime", None)
        lacking.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(ConfigError, match=r"\.onnx .*onnxscript and onnxruntime.*pip install 'unetzoo\[export\]'"):
            export(model, tmp_path / "model.onnx")
    with monkeypatch.context() as lacking:
        lacking.setenv("CXX", "no-such-compiler")
        with pytest.raises(ConfigError, match=r"\.aoti\.pt2 .*C\+\+ compiler.* no-such-compiler.*CXX"):
            export(model, tmp_path / "model.aoti.pt2")
    with monkeypatch.context() as lacking:
        lacking.setattr(torch, "__version__", "2.11.0+cpu")
        with pytest.raises(ConfigError, match=r"torch 2\.11\.0\+cpu .*one size.*size=.*torch>="):
            export(model, tmp_path / "model.pt2")
    with monkeypatch.context() as lacking:
        lacking.setattr("unetzoo.exporting.request.ONNX_BYTES", 100)
        with pytest.raises(ConfigError, match=r"GB of weights: .*\.onnx .*2 GiB.*\.pt2"):
            export(model, tmp_path / "model.onnx")
    with monkeypatch.context() as lacking:
        lacking.setattr("os.access", lambda *_: False)
        with pytest.raises(ConfigError, match=r"folder '.*' cannot be written.*permissions"):
            export(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        export(build("tiny", in_channels=1), tmp_path / "m.pt2", inputs="uint8", images=tmp_path)
    said = str(caught.value)
    assert re.search(r"colour\.png: .*3 channels .*in_channels=1\b", said)
    assert re.search(r"deep\.png .*uint16.* inputs='uint8'; give inputs='uint16'", said)
    assert re.search(r"broken\.png' cannot be read .*image", said)
    assert said.count("\n  - ") == 3
    assert not (tmp_path / "m.pt2").exists()


def test_images_are_taken_evenly_and_from_the_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for k in range(100):
        (tmp_path / "images" / f"{k:03}.PNG").touch()
        (tmp_path / "masks" / f"{k:03}.png").touch()
    files, problems = request.find_images(str(tmp_path))
    assert not problems
    assert len(files) == 32
    numbers = [int(file.stem) for file in files]
    assert numbers[0] == 0
    assert {b - a for a, b in itertools.pairwise(numbers)} == {3, 4}
    assert {file.parent.name for file in files} == {"images"}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_images_are_cut_in_the_middle_and_repeated(dtype: torch.dtype) -> None:
    image = torch.arange(2 * 5 * 7).reshape(2, 5, 7).to(dtype)
    found = samples.fitted(image, 12, 4)
    assert found.dtype == dtype
    expected = np.pad(image.numpy()[:, :, 1:5], ((0, 0), (0, 7), (0, 0)), mode="wrap")
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("size", [None, (24, 40), (100, 30)])
@pytest.mark.parametrize("sides", [((70, 93), (3, 7)), ((64, 64), (129, 1)), ((40, 200), (65, 66))])
def test_every_pixel_of_whole_images_is_compared_once(
    sides: tuple[tuple[int, int], ...], size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the two masks differ, in the corners as in the middle: counted on the images, not on tiles."""
    monkeypatch.setattr(samples, "LONGEST_TILE", 64)
    model = build("tiny", in_channels=1)
    asked, _ = request.check(
        [model], "m.pt2", inputs="uint8", outputs="mask", precision="float32", size=size, images=None
    )
    generator = np.random.default_rng(0)
    stored = [torch.from_numpy(generator.integers(0, 100, (1, *side), np.uint8)) for side in sides]
    for image in stored:
        image[:, 0, 0] = image[:, -1, -1] = 7
    whole = samples.Samples(stored, asked)
    assert whole.share == 1
    for kind in (0, 7, 50):
        found = comparing.agreement_on(
            asked,
            lambda shown: shown[0] - 0.1,
            lambda shown, kind=kind: (shown[:, 0] > 25) ^ (shown[:, 0] == kind),
            whole,
        )
        alike = [(image.float() / 255 - 0.1 > 0) == ((image > 25) ^ (image == kind)) for image in stored]
        assert found.agreement == pytest.approx(float(torch.cat([x.flatten() for x in alike]).double().mean()))
        assert found.lowest == pytest.approx(min(float(x.double().mean()) for x in alike))
    shapes = {tuple(x.shape[2:]) for x in whole.inputs()}
    assert shapes == {size} if size is not None else all(max(shape) <= 64 for shape in shapes)


def test_of_very_large_images_the_share_that_was_compared_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "LONGEST_TILE", 16)
    monkeypatch.setattr(samples, "MOST_TILES", 8)
    model = build("tiny", in_channels=1)
    asked, _ = request.check(
        [model], "m.pt2", inputs="uint8", outputs="mask", precision="float32", size=None, images=None
    )
    stored = [torch.zeros(1, 160, 160, dtype=torch.uint8), torch.zeros(1, 16, 16, dtype=torch.uint8)]
    whole = samples.Samples(stored, asked)
    assert len(list(whole.inputs())) == 4 + 1
    found = comparing.agreement_on(asked, lambda shown: shown[0] - 1, lambda shown: shown[:, 0], whole)
    assert 256 / (160 * 160 + 256) < found.share < 5 * 256 / (160 * 160 + 256)
    assert str(found).startswith(f"2 images, {100 * found.share:.3f} % of their pixels: ")
    assert found.agreement == 1


@pytest.mark.slow
def test_eight_bits_agree_on_whole_images_as_much_as_is_said(tmp_path: Path, shared_data: Path) -> None:
    """Fundus photographs are dark around, so that their middle is unlike the whole."""
    files = sorted((shared_data / "vessels" / "images").iterdir())[:2]
    model = unetzoo.from_pretrained("vessels")
    report = export(model, tmp_path / "model.onnx", precision="int8", images=files)
    assert_close(report.images, counted_by_hand(model.eval(), open_onnx(tmp_path / "model.onnx"), files))


def test_noise_spans_all_values_and_is_the_same_each_time() -> None:
    config = build("tiny", in_channels=2).config
    first, again = (samples.draw_noise(3, config, "uint16", 40, 50) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert a.dtype == torch.uint16
        assert a.shape == (2, 40, 50)
        assert torch.equal(a, b)
        assert (int(a.to(torch.int32).min()), int(a.to(torch.int32).max())) == (0, 65535)
    assert not torch.equal(first[0], first[1])


def test_differences_are_the_least_that_explain_what_a_file_gave() -> None:
    logits = torch.tensor([-4.0, -1.0, 0.5, 6.0]).view(1, 1, 2, 2)  # a spread of 10
    assert comparing.difference_of(logits + 0.2, logits, "binary", "logits") == pytest.approx(0.02)
    mask = torch.tensor([0, 1, 1, 1], dtype=torch.uint8).view(1, 2, 2)  # the second has crossed 0, 1 away
    assert comparing.difference_of(mask, logits, "binary", "mask") == pytest.approx(0.1)
    assert comparing.difference_of(logits[:, 0] > 0, logits, "binary", "mask") == 0
    off = logits.sigmoid() + torch.tensor([0, 0.05, 0, 0]).view(1, 1, 2, 2)
    assert comparing.difference_of(off, logits, "binary", "probabilities") == pytest.approx(4 * 0.05 / 10, rel=1e-4)
    pair = torch.tensor([[0.0, 3.0], [1.0, -7.0]]).view(1, 2, 1, 2)  # classes 1 and 0
    assert comparing.difference_of(torch.tensor([[[1, 0]]]), pair, "multiclass", "mask") == 0
    assert comparing.difference_of(torch.tensor([[[0, 0]]]), pair, "multiclass", "mask") == pytest.approx(0.5 / 10)
    assert math.isnan(comparing.difference_of(logits * math.nan, logits, "binary", "logits"))


def test_what_guidance_suppresses_hides_no_difference() -> None:
    seen = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    logits = torch.cat((seen, seen - 10_000), dim=1)
    assert comparing.difference_of(logits + 0.2, logits, "multilabel", "logits", absent=True) == pytest.approx(0.1)
    alone = logits[:, 1:]
    assert comparing.difference_of(alone + 0.01, alone, "multilabel", "logits", absent=True) == 0


def test_noise_of_exporters_is_kept_and_logging_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    with formats.quiet():
        warnings.warn("noise", UserWarning, stacklevel=1)  # an error, elsewhere
        logging.getLogger("any").warning("noise")
        logging.getLogger("any").error("no noise")
    logging.getLogger("any").warning("heard again")
    assert caplog.messages == ["no noise", "heard again"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    unetzoo.save(build("tiny", class_names=("cell",)), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def command(*words: str) -> None:
    """Run ``unetzoo export`` as it will be called, whether or not the whole command line has it yet."""
    from unetzoo.cli import Parser, exporting

    top = Parser()
    exporting.add(top.add_subparsers())
    options = top.parse_args(["export", *words])
    options.run(options)


def test_the_command_exports_and_prints_the_report(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.pt2"
    command(str(saved), str(target), "--inputs", "uint8", "--outputs", "mask", "--size", "48", "40")
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{target}: pt2, float32")
    assert "in   image: uint8 (batch, 3, 48, 40)" in printed.out
    assert "exporting" in printed.err
    command(str(saved), str(target), "--size", "48", "40", "--json")
    record = json.loads(capsys.readouterr().out)
    assert record["output"]["shape"] == "(batch, 1, 48, 40)"
    assert [check["batch"] for check in record["checks"]] == [3, 2, 1]


def test_the_command_refuses_names_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train it with 'unetzoo train --model resunet18'"):
        command("resunet18", str(tmp_path / "model.onnx"))
    assert not list(tmp_path.iterdir())


def test_the_example_runs_without_unetzoo_and_torch(
    facts: tuple[unetzoo.SegmentationModel, Path], tmp_path: Path
) -> None:
    model, path = facts
    image, _ = drawing.draw_nuclei(67, 90)
    images.write_png(image, tmp_path / "image.png")
    example = ROOT / "examples" / "onnx_in_onnxruntime.py"
    words = [str(path), *(str(tmp_path / name) for name in ("image.png", "mask.png"))]
    script = (
        "import runpy, sys; sys.modules['unetzoo'] = sys.modules['torch'] = None; "
        f"sys.argv = {[str(example), *words]!r}; runpy.run_path({str(example)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    mask, clear = mask_by_hand(model, image)
    written = np.asarray(Image.open(tmp_path / "mask.png"))
    np.testing.assert_array_equal(written[clear.numpy()], (mask.numpy() * 127)[clear.numpy()])
    share = float((mask == 2).double().mean())
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("rim: "))
    assert float(line.split()[1].rstrip("%")) == pytest.approx(100 * share, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_package_answers_as_the_model(precision: str, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a C++ compiler, and g++ is not there")
    model = build("resunet18", num_classes=2, task="multiclass", class_names=("ground", "road")).eval()
    path = tmp_path / "model.aoti.pt2"
    report = export(model, path, precision=precision)
    assert report.format == "aoti"
    package = torch._inductor.aoti_load_package(str(path))
    assert unetzoo.ModelConfig.from_json(package.get_metadata()["config"]) == model.config
    for size in ((1, 3, 41, 83), (3, 3, 50, 39)):
        tried = torch.randn(size)
        with torch.no_grad():
            expected = model(tried)
        tolerance = (1e-5 if precision == "float32" else 0.1) * spread(expected)
        torch.testing.assert_close(package(tried), expected, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_half_and_eight_bits_of_a_fused_decoder_agree_on_real_images(tmp_path: Path, shared_data: Path) -> None:
    model = learn(unetzoo.create("unet3p_lite_resnet18"), 30)
    files = nuclei(shared_data, 8)
    for precision in ("float16", "int8"):
        path = tmp_path / f"{precision}.onnx"
        report = export(model, path, precision=precision, images=files)
        assert report.images is not None
        assert report.images.agreement > (0.999 if precision == "float16" else 0.97)
        image = images.prepare(images.read_image(files[0]), model.config)
        found = open_onnx(path)(image)[0, 0] > 0
        assert float((found == (model.predict(image)[0, 0] > 0.5)).double().mean()) > 0.97


def test_the_masks_by_hand_are_those_of_the_library() -> None:
    model = build("unet", num_classes=3, task="multilabel")
    image, _ = drawing.draw_nuclei(40, 40)
    mask, _ = mask_by_hand(model, image)
    expected = sheets.predicted(model.predict(images.prepare(image, model.config))[0], "multilabel")
    assert torch.equal(mask.bool(), expected)
