"""The one contract of all models: any size, any type, every gradient, whatever the options."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from conftest import NAMES, ONCE, PADDED, SMALL, flags, light, tried
from drawn import quick
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import unetzoo
from unetzoo import naming
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.nn.layers import NORMS

ON_RESNET = [ENCODERS["resnet18"].names(decoder)[0] for decoder in DECODERS if DECODERS[decoder].border == 0]
PER_DECODER = [*(name for name in PADDED if naming.index()[name][1] == "plain"), *ON_RESNET]


@pytest.mark.parametrize("name", tried(PADDED, ONCE))
def test_any_size_comes_back_at_its_size_and_every_parameter_learns(name: str) -> None:
    model = quick(name, **{**light(name), **flags(name)})
    model.eval()
    with torch.no_grad():
        for size in ((33, 49), (17, 5), (1, 1)):
            logits = model(torch.randn(1, 3, *size))
            assert logits.shape == (1, 3, *size)
            assert logits.isfinite().all()
    model.train()
    for _ in range(3):  # chance, of stochastic depth say, may leave a block out once
        outputs = model.training_outputs(torch.randn(2, 3, 37, 51))
        everything = [outputs.logits, *outputs.deep, outputs.presence]
        assert all(logits.shape == (2, 3, 37, 51) for logits in everything[:-1])
        sum((logits - 1).square().mean() for logits in everything).backward()
        # a bias before a batch norm cancels out
        learning = {key: p.grad for key, p in model.named_parameters() if not key.endswith("conv.bias")}
        dead = [key for key, grad in learning.items() if grad is None or not grad.any()]
        if not dead:
            break
    assert not dead
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", tried(SMALL, ONCE))
def test_default_options_train(name: str) -> None:
    model = unetzoo.create(name, **light(name))
    for module in model.modules():
        if isinstance(
            module, StochasticDepth
        ):  # of ConvNeXts and EfficientNets: by chance both images leave a block out
            module.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2 if "resenc" in name else 1):  # whose residual branches start at zero, and let none through before
        optimizer.step()
        outputs = model.training_outputs(torch.randn(2, 3, 40, 33))
        assert outputs.deep == ()
        assert outputs.presence is None
        (outputs.logits - 1).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", PER_DECODER)
@pytest.mark.parametrize("flagged", [False, True])
def test_forward_is_one_tensor_in_both_modes(name: str, flagged: bool) -> None:
    model = quick(name, **{**light(name), **(flags(name) if flagged else {})})
    for training in (True, False):
        logits = model.train(training)(torch.randn(2, 3, 48, 31))
        assert type(logits) is Tensor
        assert logits.shape == (2, model.config.num_classes, 48, 31)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *itertools.product(["unet", "resunet18"], [*NORMS, None]),
        *itertools.product(["unetpp", "unet3p", "unet3p_lite_resnet50"], ["group", None]),
        *(
            pytest.param(name, norm, marks=pytest.mark.slow)
            for name in ("unetpp", "unet3p", "unet3p_lite_resnet50")
            for norm in ("batch", "instance", "layer")
        ),
    ],
)
def test_every_norm_runs_learns_and_reloads(name: str, norm: str | None) -> None:
    made = unetzoo.create if norm is None else quick  # without norms the encoder's branches start at zero
    model = made(name, **light(name), norm=norm, num_classes=2)
    logits = model(torch.randn(2, 3, 41, 35))
    assert logits.isfinite().all()
    (logits - 1).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    again = unetzoo.model.build_on_meta(unetzoo.ModelConfig.from_json(model.config.to_json()))
    again.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    images = torch.randn(1, 3, 30, 33)
    assert torch.equal(model.eval()(images), again.eval()(images))
    assert model(torch.randn(1, 3, 1, 1)).isfinite().all()


@pytest.mark.parametrize("name", ["unet", "resunet18", "unet3p_resnet50"])
def test_a_norm_is_everywhere_or_nowhere(name: str) -> None:
    kinds = {
        "batch": nn.BatchNorm2d,
        "group": nn.GroupNorm,
        "instance": unetzoo.nn.layers.InstanceNorm2d,
        "layer": unetzoo.nn.layers.LayerNorm2d,
    }
    with unetzoo.model.on_meta():
        built = {norm: list(unetzoo.create(name, norm=norm).modules()) for norm in (*NORMS, None)}
    convs = sum(isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1) for m in built["batch"])
    for norm, modules in built.items():
        for kind, cls in kinds.items():
            found = sum(isinstance(module, cls) for module in modules)
            assert (found >= convs - 1) if kind == norm else found == 0
        if norm is None:
            assert all(m.bias is not None for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))


@pytest.mark.usefixtures("as_if_large")
@pytest.mark.parametrize("name", ["resunet18", "unet3p_lite_resnet18"])
def test_gradients_of_an_empty_batch_are_zero(name: str) -> None:
    """torch's own batch norm ends the process there."""
    model = quick(name, **light(name)).eval()
    images = torch.empty(0, 3, 64, 64, requires_grad=True)
    model(images).sum().backward()
    assert images.grad is not None
    assert not any(parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", PER_DECODER)
def test_types_layouts_and_empty_batches(name: str) -> None:
    model = quick(name, **light(name), num_classes=2).eval()
    images = torch.randn(2, 3, 45, 38)
    with torch.no_grad():
        expected = model(images)
        spread = expected.std()
        assert model(images[:0]).shape == (0, 2, 45, 38)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert (last(images.contiguous(memory_format=torch.channels_last)) - expected).abs().max() < 1e-4 * spread
        double = copy.deepcopy(model).double()(images.double())
        assert double.dtype == torch.float64
        assert (double - expected).abs().max() < 1e-4 * spread
        half = copy.deepcopy(model).bfloat16()(images.bfloat16())
        assert half.dtype == torch.bfloat16
        assert (half.float() - expected).abs().max() < 0.25 * spread
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = model(images)
        assert (cast.float() - expected).abs().max() < 0.25 * spread


@pytest.mark.parametrize("name", PER_DECODER)
def test_autocast_trains(name: str) -> None:
    model = quick(name, **light(name), deep_supervision=True, classification_guided=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.training_outputs(torch.randn(2, 3, 40, 36))
        loss = sum(o.float().square().mean() for o in (outputs.logits, *outputs.deep, outputs.presence))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", [*PER_DECODER, "unet_valid"])
def test_predict_gives_probabilities_and_leaves_the_mode(name: str) -> None:
    for classes, task in ((1, "binary"), (3, "multiclass"), (3, "multilabel")):
        model = quick(name, **light(name), num_classes=classes, task=task)
        model.encoder.eval()
        modes = [module.training for module in model.modules()]
        images = torch.randn(1, 3, 29, 50)
        probabilities = model.predict(images)
        assert probabilities.shape == (1, classes, 29, 50)
        assert not probabilities.requires_grad
        assert [module.training for module in model.modules()] == modes
        assert 0 <= probabilities.min() <= probabilities.max() <= 1
        if task == "multiclass":
            assert torch.allclose(probabilities.sum(dim=1), torch.ones(1, 29, 50))
        if name != "unet_valid":
            with torch.no_grad():
                logits = model.eval()(images)
            expected = logits.exp() / logits.exp().sum(1, True) if task == "multiclass" else 1 / (1 + (-logits).exp())
            assert torch.allclose(probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("name", tried(NAMES))
def test_info_says_what_create_builds(name: str) -> None:
    info = unetzoo.model_info(name)
    assert info.name == name
    assert len(info.channels) == len(info.strides) <= ENCODERS[naming.index()[name][1]].maps
    assert "arXiv" in info.paper
    built = {key: value for key, value in info.options.items() if key not in ("pretrained", "input_policy")}
    with unetzoo.model.on_meta():
        assert unetzoo.create(name, **built).config == unetzoo.create(name).config


def test_dropout_acts_in_training_alone() -> None:
    model = unetzoo.create("unet", base_channels=8, dropout=0.5)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(images), model(images))
        model.eval()
        assert torch.equal(model(images), model(images))
    whole = unetzoo.create("unet", base_channels=8).eval()
    whole.load_state_dict(model.state_dict())
    assert torch.equal(whole(images), model(images))


@pytest.mark.usefixtures("torch_s_draws")
@pytest.mark.parametrize("name", ["unet", "unetpp", "unet3p", "resunet34", "unet3p_lite_resnet18"])
def test_first_logits_neither_vanish_nor_explode(name: str) -> None:
    """He's initialisation keeps the variance of maps about that of the images."""
    with torch.no_grad():
        logits = unetzoo.create(name)(torch.randn(2, 3, 64, 64))
    assert 0.05 < logits.std() < 20


@pytest.mark.usefixtures("torch_s_draws")
def test_initial_weights_have_the_paper_s_deviation() -> None:
    conv = unetzoo.create("unet").encoder.levels[4][1].conv
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 1024)), rel=0.01)


@pytest.mark.usefixtures("torch_s_draws")
def test_weights_without_a_relu_have_a_smaller_gain() -> None:
    """1×1 and transposed convolutions: a standard deviation of sqrt(1 / fan_in), not sqrt(2 / fan_in)."""
    decoder = unetzoo.create("unetpp_lite_resnet18").decoder
    branch, last = decoder.nodes["x_3_1"].branches[1], decoder.ends["x_0_4"].conv
    assert branch.weight.std().item() == pytest.approx(math.sqrt(1 / 512), rel=0.02)
    assert last.weight.std().item() == pytest.approx(math.sqrt(1 / 64), rel=0.02)


@pytest.mark.parametrize("stem_stride", [4, 2, 1])
@pytest.mark.parametrize("name", ON_RESNET)
def test_stem_strides(name: str, stem_stride: int) -> None:
    model = quick(name, **light(name), stem_stride=stem_stride, deep_supervision=True).eval()
    assert model.encoder.strides == {4: (2, 4, 8, 16, 32), 2: (2, 2, 4, 8, 16), 1: (1, 1, 2, 4, 8)}[stem_stride]
    with torch.no_grad():
        outputs = model.training_outputs(torch.randn(1, 3, 45, 70))
    assert all(logits.shape == (1, 1, 45, 70) for logits in (outputs.logits, *outputs.deep))


def test_models_copy_and_pickle() -> None:
    import io

    model = unetzoo.create("unetpp", base_channels=4, deep_supervision=True).eval()
    images = torch.randn(1, 3, 32, 32)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert other.config == model.config
        assert torch.equal(other(images), model(images))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"base_channels": 1}),
        ("unetpp", {"base_channels": 1, "base_width": 3}),
        ("unetpp_resnet18", {"base_width": 1}),
        ("unet3p_resnet18", {"branch_channels": 1}),
        ("unetpp_lite_resnet18", {"branch_channels": 1, "levels": 1}),
    ],
)
@pytest.mark.parametrize("norm", [*NORMS, None])
def test_narrowest_networks(name: str, options: dict[str, int], norm: str | None) -> None:
    model = quick(name, norm=norm, deep_supervision=True, in_channels=1, **options).eval()
    assert model(torch.randn(1, 1, 33, 34)).shape == (1, 1, 33, 34)


def test_unet_valid_learns_with_every_parameter() -> None:
    model = unetzoo.create("unet_valid", base_channels=8, num_classes=2, dropout=0.25)
    outputs = model.training_outputs(torch.randn(1, 3, 188, 204))
    assert outputs.logits.shape == (1, 2, 4, 20)
    assert outputs.deep == ()
    outputs.logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key
