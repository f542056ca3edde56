"""Attention gates: by hand, against the formulas of ``reference.py``, and on every encoder."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from conftest import light, tried
from drawn import drawn, fill
from reference import Weights, gate, reference_outputs
from torch import Tensor
from torch.export import Dim, export

import unetzoo
from unetzoo import naming
from unetzoo.encoders import register_encoder
from unetzoo.encoders.plain import PlainEncoder, PlainOptions
from unetzoo.nn.gates import AttentionGate
from unetzoo.nn.meta import on_meta
from unetzoo.prediction.reach import reach

UNETS = [name for name in unetzoo.list_models() if naming.index()[name][0] == "unet"]


def make(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> unetzoo.SegmentationModel:
    with on_meta():
        model = unetzoo.create(name, attention=True, **options)
    return fill(model, dtype).eval()


def images_of(model: unetzoo.SegmentationModel, *size: int) -> Tensor:
    shape = (2, model.config.in_channels, *size)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=model.head.conv.weight.dtype)


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


# The gate alone


def by_hand(scale: int) -> AttentionGate:
    """Return a gate with a W_x of 1, 2, …, a W_g of 3, b_g = -1, psi = 0.5 and b_psi = 0.25."""
    found = AttentionGate(1, 1, scale).double()
    with torch.no_grad():
        found.skip.weight.copy_(torch.arange(1.0, scale**2 + 1).reshape(1, 1, scale, scale))
        found.gating.weight.fill_(3)
        found.gating.bias.fill_(-1)
        found.psi.weight.fill_(0.5)
        found.psi.bias.fill_(0.25)
    return found


@pytest.mark.parametrize(("g", "q"), [(1.0, 0.5 * (30 + 3 - 1) + 0.25), (-20.0, 0.25)])
def test_one_pixel_of_the_gating_signal(g: float, q: float) -> None:
    """1·1 + 2·2 + 3·3 + 4·4 + 3 g - 1 = 29 + 3 g, which the ReLU cuts at g = -20."""
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
    expected = x / (1 + math.exp(-q))
    with torch.no_grad():
        assert_near(by_hand(2)(x, torch.full((1, 1, 1, 1), g, dtype=torch.float64)), expected, 1e-14)


def test_coefficients_are_resampled_between_pixels_of_the_gating_signal() -> None:
    """Of two gating pixels the four pixels of a row get alpha at 0 (clamped), 1/4, 3/4 and 1 of the way between."""
    x = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    g = torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64)
    first, second = (1 / (1 + math.exp(-(0.5 * (3 * value - 1) + 0.25))) for value in (1.0, 3.0))
    row = [first + way * (second - first) for way in (0.0, 0.25, 0.75, 1.0)]
    with torch.no_grad():
        assert_near(by_hand(2).coefficients(x, g), torch.tensor([[[row, row]]], dtype=torch.float64), 1e-14)


def test_windows_over_the_border_read_zeros() -> None:
    x = torch.full((1, 1, 1, 3), 2.0, dtype=torch.float64)
    g = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    weights = torch.tensor([1 + 2, 1], dtype=torch.float64)  # of the upper row, of which the last window has one
    alpha = (0.5 * (2 * weights - 1) + 0.25).sigmoid()
    places = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)  # of three pixels' centres among two, clamped
    expected = x * (alpha[0] + places * (alpha[1] - alpha[0]))
    with torch.no_grad():
        assert_near(by_hand(2)(x, g), expected, 1e-14)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 16), (7, 13), (1, 1), (1, 9)], ids=str)
def test_it_follows_the_formulas(scale: int, size: tuple[int, int]) -> None:
    found = AttentionGate(6, 10, scale)
    fill(found)
    x = drawn("x", torch.empty(2, 6, *size), torch.float64)
    g = drawn("g", torch.empty(2, 10, *(-(-side // scale) for side in size)), torch.float64)
    named = {f"it.{name}": tensor for name, tensor in found.state_dict().items()}
    weights = Weights(found)
    weights.clear()
    weights.update(named)
    with torch.no_grad():
        assert_near(found(x, g), gate(weights, "it", x, g))
        assert found.coefficients(x, g).shape == (2, 1, *size)


def test_gates_begin_nearly_open() -> None:
    model = unetzoo.create("unet", attention=True, base_channels=4)
    assert [round(each.psi.bias.sigmoid().item(), 2) for each in model.decoder.gates] == [0.88] * 3


# In the network


def agrees(model: unetzoo.SegmentationModel, *sizes: tuple[int, int]) -> None:
    for size in sizes:
        images = images_of(model, *size)
        with torch.no_grad():
            outputs = model.training_outputs(images)
            found, expected = [outputs.logits, *outputs.deep], reference_outputs(model, images)
            for ours, theirs in zip(found, expected[: len(found)], strict=True):
                assert_near(ours, theirs)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"base_channels": 4, "deep_supervision": True, "num_classes": 3}),
        ("unet", {"base_channels": 4, "norm": None, "upsampling": "bilinear"}),
        ("unet", {"base_channels": 4, "doublings": 3, "upsampling": "bilinear_aligned", "deep_supervision": True}),
        ("resunet18", {"deep_supervision": True, "in_channels": 4}),
        ("resunet18", {"stem_stride": 2}),
        ("resunet18", {"stem_stride": 1, "norm": None}),
    ],
    ids=str,
)
def test_logits_follow_the_formulas(name: str, options: dict[str, Any]) -> None:
    agrees(make(name, **options), *([(32, 48), (37, 51), (1, 1)] if name == "unet" else [(19, 26)]))


@pytest.mark.parametrize("name", tried(UNETS, ("unet", "resunet18", "unet_mobilenet_v3_large", "unet_resenc_small")))
def test_every_encoder_has_gates(name: str) -> None:
    """All else is the model's own here, which other tests hold: what the gates give is written out."""
    model = make(name, **light(name))
    images = images_of(model, 37, 51)
    with torch.no_grad():
        below, *finer = reversed(model.encoder(images))
        decoder, weights = model.decoder, Weights(model)
        assert len(decoder.gates) == len(finer) - 1
        for step, skip in enumerate(finer):
            up = decoder.ups[step](below, skip.shape[-2:])
            gated = gate(weights, f"decoder.gates.{step}", skip, below) if step < len(decoder.gates) else skip
            below = decoder.convs[step](up, gated)
        main = below if decoder.last is None else decoder.last(below, images.shape[-2:])
        assert_near(model(images), model.head(main, images.shape[-2:]))


@pytest.mark.parametrize("name", ["unet", pytest.param("resunet18", marks=pytest.mark.slow)])
def test_a_training_step_is_that_of_the_formulas(name: str) -> None:
    """Checkpointed or not: logits of all heads, and the gradient of each parameter."""
    model = make(name, deep_supervision=True, **light(name)).train()
    written, checkpointed = copy.deepcopy(model), copy.deepcopy(model)
    checkpointed.gradient_checkpointing()
    images = images_of(model, 33, 40)
    gradients = []
    for which in (written, model, checkpointed):
        outputs = which.training_outputs(images)
        heads = reference_outputs(which, images) if which is written else [outputs.logits, *outputs.deep]
        sum(logits.square().mean() for logits in heads).backward()
        gradients.append({key: parameter.grad for key, parameter in which.named_parameters()})
    for key, expected in gradients[0].items():
        for found in gradients[1:]:
            assert float((found[key] - expected).abs().max()) <= 1e-6 * float(expected.abs().max()), key


def test_all_that_a_pixel_depends_on_is_within_reach() -> None:
    """Of what gates let through, too: other pixels in blocks beyond that far from a block change nothing in it."""
    model = make("unet", base_channels=4)
    plain, gated = (reach(model.config.replace(attention=attention)) for attention in (False, True))
    assert plain == 94
    assert gated is not None
    assert gated > plain
    images = images_of(model, 17 * 16, 16)
    beyond = -(-gated // 16)  # blocks

    def changed(blocks: int) -> bool:
        others = images.clone()
        others[:, :, : (8 - blocks) * 16] = 9
        others[:, :, (9 + blocks) * 16 :] = -9
        with torch.no_grad():
            first, second = (model(each)[:, :, 8 * 16 : 9 * 16] for each in (images, others))
        return not torch.equal(first, second)

    assert not changed(beyond)
    assert changed(beyond - 1)


def test_tiles_with_full_overlap_are_the_whole(short: None) -> None:
    model = make("unet_short3", torch.float32, base_channels=4)
    image = torch.randint(256, (3, 150, 170), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    whole, tiled = (
        unetzoo.Predictor(model, device="cpu", **how)(image.permute(1, 2, 0).numpy()).probabilities
        for how in ({"tile": None}, {"tile": 96, "overlap": "full"})
    )
    assert float(abs(whole - tiled).max()) <= 1e-4


def test_the_copy_for_inference_gives_the_same() -> None:
    model = make("resunet18", torch.float32)
    images = images_of(model, 37, 51)
    with torch.no_grad():
        assert_near(unetzoo.optimize(model, example=images)(images), model(images), 1e-4)


@pytest.fixture
def short(registries: None) -> None:
    """Register plain encoders of two and of three maps, under which there is no skip connection to gate, and one."""
    for maps in (2, 3):
        name = f"short{maps}"
        register_encoder(name, title=name, paper="none", options=PlainOptions, maps=maps)(PlainEncoder)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14), reason="see test_compile_export.py")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_programs_take_any_size() -> None:
    model = make("unet_short3", torch.float32, base_channels=4)
    free = ({0: Dim("batch"), 2: Dim("height", min=9), 3: Dim("width", min=9)},)
    exported = export(model, (torch.randn(2, 3, 22, 29),), dynamic_shapes=free).module()
    traced = torch.jit.trace(model, torch.randn(1, 3, 24, 32))
    for size in ((32, 32), (19, 30), (21, 17)):
        images = images_of(model, *size)
        with torch.no_grad():
            assert_near(exported(images), model(images), 1e-5)
            assert_near(traced(images), model(images), 1e-5)


@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exported_files_give_the_same(tmp_path: Path) -> None:
    """Of the copy for inference, whose channels lie last: those of alpha, a single one, are first as well."""
    model = make("unet_short3", torch.float32, base_channels=4)
    unetzoo.export(model, tmp_path / "it.pt2", inputs="normalised")
    exported = torch.export.load(tmp_path / "it.pt2").module()
    for size in ((32, 40), (21, 27)):
        images = images_of(model, *size)
        with torch.no_grad():
            assert_near(exported(images), model(images), 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_onnx_gives_the_same(tmp_path: Path) -> None:
    model = make("unet_short3", torch.float32, base_channels=4)
    unetzoo.export(model, tmp_path / "it.onnx", inputs="normalised")
    session = onnxruntime.InferenceSession(tmp_path / "it.onnx", providers=["CPUExecutionProvider"])
    for size in ((32, 40), (21, 27)):
        images = images_of(model, *size)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            assert_near(torch.from_numpy(found), model(images), 1e-4)


# Records and errors


def test_files_keep_it(tmp_path: Path) -> None:
    model = make("unet", torch.float32, base_channels=4, convolutions=1)
    unetzoo.save(model, tmp_path / "it.safetensors")
    again = unetzoo.load(tmp_path / "it.safetensors")
    assert again.config == model.config
    assert (again.config.decoder_options.attention, again.config.decoder_options.convolutions) == (True, 1)
    images = images_of(model, 20, 30)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


def test_records_of_before_have_neither_gates_nor_single_convolutions() -> None:
    for name, before in (("unet", {"upsampling": "nearest"}), ("unetpp", None)):
        record = json.loads(unetzoo.create(name, base_channels=4).config.to_json())
        assert record.pop("pixels") is None
        if before is not None:
            record["decoder_options"] = before
        config = unetzoo.ModelConfig.from_dict({**record, "format_version": 4})
        assert (config.decoder, config.encoder_options.base_channels) == (name, 4)
        if before is not None:
            options = config.decoder_options
            assert (options.upsampling, options.convolutions, options.attention) == ("nearest", 2, False)
            with pytest.raises(unetzoo.ConfigError, match=r"convolutions: missing.*attention"):
                unetzoo.ModelConfig.from_dict({**record, "pixels": None})
    with pytest.raises(unetzoo.ConfigError, match="decoder_options: a dictionary is needed"):
        unetzoo.ModelConfig.from_dict({**record, "format_version": 4, "decoder": "unet", "decoder_options": []})


@pytest.mark.usefixtures("short")
def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(unetzoo.ConfigError, match="attention='scse'"):
        unetzoo.create("unet", attention="scse")
    with pytest.raises(unetzoo.ConfigError, match="with 2 maps there is no other"):
        unetzoo.create("unet_short2", attention=True)
    with pytest.raises(unetzoo.ConfigError, match="unknown option 'attention'"):
        unetzoo.create("unetpp", attention=True)
