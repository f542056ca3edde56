"""torch.compile without graph breaks, torch.export with every dimension free, torch.jit.trace at any size."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from conftest import light
from torch.export import Dim

import unetzoo
from unetzoo.encoders import register_encoder
from unetzoo.encoders.plain import PlainEncoder, PlainOptions

SHORT = ["unet_short", "unetpp_short", "unet3p_short", "unetpp_lite_short", "unet3p_lite_short"]
PLAIN = ["unet", "unetpp", "unet3p", "unetpp_lite", "unet3p_lite"]
ON_RESNET = ["resunet18", "unetpp_resnet18", "unet3p_resnet18", "unetpp_lite_resnet18", "unet3p_lite_resnet18"]
SLOW = pytest.mark.slow
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
ALL = {"num_classes": 2, "deep_supervision": True, "classification_guided": True}
pytestmark = pytest.mark.usefixtures("short")


@pytest.fixture
def short(registries: None) -> None:
    """Register a plain encoder of three maps: all kinds of steps that a decoder has, and a third of their number."""
    register_encoder(
        "short",
        title="short",
        paper="none",
        options=PlainOptions,
        maps=3,
        names=lambda decoder: (f"{decoder}_short",),
    )(PlainEncoder)


@pytest.mark.parametrize(
    "name",
    [
        *("unetpp_short", "unet3p_short", "unet3p_lite_short", "resunet18"),
        *(pytest.param(n, marks=SLOW) for n in ("unet_short", "unetpp_lite_short", *PLAIN, *ON_RESNET[1:])),
    ],
)
def test_training_compiles_whole(name: str) -> None:
    torch._dynamo.reset()
    model = unetzoo.create(name, **light(name), **ALL).double()  # eager layers choose layouts, which round differently
    images = torch.randn(2, 3, 37, 51).double()
    compiled = torch.compile(model.training_outputs, fullgraph=True, backend="eager", dynamic=False)
    torch.manual_seed(1)  # what guides has dropout
    expected = model.training_outputs(images)
    torch.manual_seed(1)
    found = compiled(images)
    assert len(found.deep) == len(model.deep_heads)
    for ours, theirs in zip((found.logits, *found.deep), (expected.logits, *expected.deep), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found.presence, expected.presence)


@pytest.mark.parametrize("name", ["unet_short", *(pytest.param(n, marks=SLOW) for n in (*PLAIN, *ON_RESNET))])
def test_inference_compiles_whole(name: str) -> None:
    """Its one step that training has not is what guides: all decoders have the same."""
    torch._dynamo.reset()
    model = unetzoo.create(name, **light(name), **ALL).eval()
    images = torch.randn(2, 3, 37, 51)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(
    ("name", "options", "backend"),
    [
        ("unet_short", {}, "eager"),
        pytest.param("unetpp_short", {}, "eager", marks=SLOW),
        pytest.param("unet3p_lite", {}, "aot_eager", marks=SLOW),
        pytest.param("resunet18", {}, "aot_eager", marks=SLOW),
    ],
)
def test_compiles_whole_with_free_sizes(name: str, options: dict[str, int], backend: str) -> None:
    torch._dynamo.reset()
    model = unetzoo.create(name, **light(name), **ALL, **options).eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend, dynamic=True)
    with torch.no_grad():
        for size in ((2, 3, 64, 96), (1, 3, 37, 51), (3, 3, 70, 40)):
            images = torch.randn(size)
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)


@SLOW
@pytest.mark.filterwarnings("ignore")
def test_compiles_to_machine_code() -> None:
    if shutil.which("g++") is None:
        pytest.skip("the inductor backend needs a C++ compiler, and g++ is not there")
    torch._dynamo.reset()
    model = unetzoo.create("unetpp", base_channels=4, levels=1).eval()
    images = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(TORCH < (2, 14), reason="torch before 2.14 ties the sizes of max-pools together when it exports")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "flagged"),
    [
        *((name, True) for name in SHORT),
        ("resunet18", False),
        *(pytest.param(name, False, marks=SLOW) for name in (*PLAIN, *ON_RESNET[1:])),
        *(pytest.param(name, True, marks=SLOW) for name in (*PLAIN, *ON_RESNET)),
    ],
)
def test_exports_with_free_batch_height_and_width(name: str, flagged: bool) -> None:
    model = unetzoo.create(name, **light(name), **(ALL if flagged else {})).eval()
    free = ({0: Dim("batch"), 2: Dim("height", min=33), 3: Dim("width", min=33)},)
    exported = torch.export.export(model, (torch.randn(2, 3, 70, 93),), dynamic_shapes=free).module()
    with torch.no_grad():
        for size in ((1, 3, 64, 64), (3, 3, 33, 38), (2, 3, 67, 130)):
            images = torch.randn(size)
            expected = model(images)
            spread = float(expected.max() - expected.min())
            torch.testing.assert_close(exported(images), expected, rtol=0, atol=1e-5 * spread)


def test_exports_unet_valid_at_a_size() -> None:
    model = unetzoo.create("unet_valid", base_channels=2).eval()
    images = torch.randn(1, 3, 188, 204)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own, on tracing itself
@pytest.mark.parametrize(
    ("name", "options", "recorded"),
    [
        *((name, {}, True) for name in SHORT),
        *(("unetpp_short", {"upsampling": mode, "base_channels": 32}, True) for mode in ("nearest", "bilinear")),
        *((name, {}, False) for name in ("unet3p_short", "unet_valid")),
        *(pytest.param(name, {}, how, marks=SLOW) for name in (*PLAIN, *ON_RESNET) for how in (False, True)),
    ],
    ids=str,
)
def test_a_trace_is_the_network_at_other_sizes(name: str, options: dict[str, object], recorded: bool) -> None:
    """Logits and gradients; a trace made with gradients asked for, and one without. Nothing is warned of."""
    sizes = [(1, 3, 188, 188), (2, 3, 204, 188)] if name == "unet_valid" else [(1, 3, 40, 48), (2, 3, 37, 51)]
    usual = {"base_channels": 2} if name == "unet_valid" else {**light(name), **ALL}
    model = unetzoo.create(name, **{**usual, **options}).eval().double()
    with torch.set_grad_enabled(recorded):
        traced = torch.jit.trace(model, torch.randn(sizes[0], dtype=torch.float64))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    images = torch.randn(sizes[1], dtype=torch.float64)
    expected = model(images)
    torch.testing.assert_close(torch.jit.load(file)(images), expected)
    only_training = ("deep_heads.", "guide.", "decoder.ends.")
    weights = [weight for key, weight in model.named_parameters() if not key.startswith(only_training)]
    theirs = torch.autograd.grad(expected.square().mean(), weights)
    ours = torch.autograd.grad(traced(images).square().mean(), weights)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", SHORT)
def test_an_optimized_copy_is_traced(name: str) -> None:
    model = unetzoo.create(name, **light(name), **ALL).eval()
    traced = torch.jit.trace(unetzoo.optimize(model), torch.randn(1, 3, 40, 48))
    images = torch.randn(2, 3, 37, 51)
    with torch.no_grad():
        torch.testing.assert_close(traced(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard_draws_a_network(tmp_path: Path) -> None:
    """In training mode too, as it is when it is made."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(unetzoo.create("unet3p_short", **light("unet3p_short")), torch.randn(2, 3, 40, 48))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    convolutions = {node.name.rpartition("/")[0] for node in events.Graph().node if node.op == "aten::_convolution"}
    assert any("decoder" in name for name in convolutions)
    assert any("head" in name for name in convolutions)
