"""Every network against its plain formulation in ``reference.py``, torchvision's maps, and the published counts."""

import copy
import functools
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ALIKE, ONCE, light, tried
from drawn import drawn, fill
from reference import (
    BORDER,
    LAST,
    RESNETS,
    VALID_CROPS,
    encoder_maps,
    has_reference,
    intermediate_maps,
    reference_logits,
    reference_outputs,
    torchvision_resnet,
    valid_size,
)
from torch import Tensor, nn

import unetzoo
from unetzoo import naming
from unetzoo.config import ModelConfig
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.nn.heads import ClassificationGuidedModule
from unetzoo.zoo import signature

TABLE = json.loads(Path(__file__).with_name("parameter_counts.json").read_text(encoding="utf-8"))
"""Name → its parameters, and the millions of them that a paper or a public table prints, where one does."""


def usual(decoder: str, encoder: str) -> str:
    return ENCODERS[encoder].names(decoder)[0]


OWN = {name: pair for name, pair in naming.index().items() if has_reference(*pair) and name == usual(*pair)}
"""Names of which there is a reference: other tests may add theirs, and so may new parts of the zoo."""

NAMES = [name for name in unetzoo.list_models() if name in OWN]
PADDED = [name for name in NAMES if name != "unet_valid"]
SMALL = ("plain", "resnet18", "resnet34")
FLAGS = {"deep_supervision": True, "classification_guided": True, "conv_bias": True, "num_classes": 3, "in_channels": 4}
VALID_FLAGS = {"conv_bias": True, "num_classes": 3, "in_channels": 4}

OTHERWISE = {
    "in_channels": 4,
    "num_classes": 2,
    "norm": "group",
    "conv_bias": True,
    "dropout": 0.25,
    "deep_supervision": True,
    "classification_guided": True,
    "task": "multilabel",
    "class_names": ("liver", "spleen"),
    "mean": (0.1, 0.2, 0.3, 0.4),
    "std": (0.5, 0.6, 0.7, 0.8),
    "resize": 0.5,
    "pixels": "int16",
    "base_channels": 12,
    "doublings": 3,
    "stem_stride": 2,
    "upsampling": "bilinear",
    "convolutions": 1,
    "attention": True,
    "levels": 3,
    "output": "average",
    "base_width": 24,
    "branch_channels": 20,
}
"""Every option at something else than its default."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Use one thread: on small images it is as fast, and on a busy machine two of them wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(name: str, dtype: torch.dtype = torch.float64, **options) -> unetzoo.SegmentationModel:
    """Build ``name`` in evaluation mode, its weights drawn by :func:`fill`."""
    with unetzoo.model.on_meta():
        model = unetzoo.create(name, **options)
    return fill(model, dtype).eval()


def on_meta(config: ModelConfig) -> unetzoo.SegmentationModel:
    with unetzoo.model.on_meta():
        return unetzoo.from_config(config)


def some_images(model: unetzoo.SegmentationModel, height: int, width: int, batch: int = 1) -> Tensor:
    dtype = model.head.conv.weight.dtype
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, model.config.in_channels, height, width, generator=generator, dtype=dtype)


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Demand the largest difference to be within ``tolerance`` of the spread of what is expected.

    What is constant up to rounding, logits that come from a single pixel for one, has no spread: its size counts.
    """
    assert found.shape == expected.shape
    spread, largest = float(expected.max() - expected.min()), float(expected.abs().max())
    assert math.isfinite(spread)
    assert largest > 0
    scale = spread if spread > 1e-9 * largest else largest
    assert float((found - expected).abs().max()) <= tolerance * scale


def tensors(outputs: unetzoo.TrainingOutputs) -> list[Tensor]:
    return [outputs.logits, *outputs.deep]


def formulas_agree(model: unetzoo.SegmentationModel, *sizes: tuple[int, int], tolerance: float = 1e-10) -> None:
    """Hold a model's answers against the reference: all heads', and those of ``forward`` where it may differ."""
    with torch.no_grad():
        for size in sizes:
            images = some_images(model, *size)
            expected = reference_outputs(model, images)
            if model.config.deep_supervision:
                for found, wanted in zip(tensors(model.training_outputs(images)), expected, strict=True):
                    assert found.shape[-2:] == size
                    assert_near(found, wanted, tolerance)
            if not model.config.deep_supervision or model.decoder.averages_heads:
                wanted = torch.stack(expected).mean(dim=0) if model.decoder.averages_heads else expected[0]
                assert_near(model(images), wanted, tolerance)


def keys_and_shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def count_of(name: str, **options) -> int:
    with unetzoo.model.on_meta():
        model = unetzoo.create(name, **options)
    return sum(parameter.numel() for parameter in model.parameters())


def memory(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


# Formulas


@pytest.mark.parametrize("name", tried(PADDED, ONCE))
def test_logits_follow_the_formulas(name):
    logits_follow_the_formulas(name, {})


@pytest.mark.parametrize("name", tried(PADDED, ONCE))
def test_logits_follow_the_formulas_with_every_flag(name):
    logits_follow_the_formulas(name, {**light(name), **FLAGS})


def logits_follow_the_formulas(name: str, options: dict) -> None:
    if OWN[name][1] in ("resnet18", "resnet34", *LAST):
        formulas_agree(make(name, **options), (32, 64), (37, 51))
    else:
        sizes = ((33, 47),) if options and OWN[name][1] != "plain" else ((33, 47), (32, 64))
        formulas_agree(make(name, torch.float32, **options), *sizes, tolerance=1e-5)


@pytest.mark.usefixtures("as_if_large")
@pytest.mark.parametrize("name", tried(NAMES, ONCE))
def test_a_training_step_is_that_of_the_formulas(name):
    """Logits of all heads, the gradient of each parameter, and the statistics that batch norms keep."""
    options = {} if name == "unet_valid" else {"deep_supervision": True}
    model = make(name, **options, **light(name)).train()
    plain = copy.deepcopy(model)
    images = some_images(model, *((188, 188) if name == "unet_valid" else (33, 40)), batch=2)
    torch.manual_seed(2)  # of stochastic depth
    found = tensors(model.training_outputs(images))
    torch.manual_seed(2)
    expected = reference_outputs(plain, images)
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours.detach(), theirs.detach(), tolerance=1e-8)
    for outputs in (found, expected):
        sum(logits.square().mean() for logits in outputs).backward()
    # Of a bias that a norm further on takes away the gradient is nothing but rounding.
    least = 1e-9 * max(float(parameter.grad.abs().max()) for parameter in plain.parameters())
    for (key, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        difference = float((ours.grad - theirs.grad).abs().max())
        assert difference <= 1e-6 * max(least, float(theirs.grad.abs().max())), key
    for (key, ours), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8, msg=key) if ours.ndim else None


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "bilinear_aligned"])
@pytest.mark.parametrize("name", ["unet", "resunet18", "unetpp", "unetpp_resnet18"])
def test_formulas_hold_for_other_upsamplings(name, upsampling):
    model = make(name, upsampling=upsampling, deep_supervision=True, num_classes=2, **light(name))
    formulas_agree(model, (32, 48), (19, 30), (1, 1))


@pytest.mark.parametrize("doublings", [3, 1, 0])
@pytest.mark.parametrize("decoder", dict.fromkeys(OWN[name][0] for name in PADDED))
def test_formulas_hold_where_channels_stop_doubling(decoder, doublings):
    known = unetzoo.model_info(decoder).options
    for upsampling in ("transpose", "bilinear_aligned") if "upsampling" in known else (None,):
        options = {} if upsampling is None else {"upsampling": upsampling}
        model = make(decoder, doublings=doublings, deep_supervision=True, **options, **light(decoder))
        assert model.encoder.channels[-1] == model.encoder.channels[0] * 2**doublings
        formulas_agree(model, (32, 48), (19, 30))


def test_the_steps_of_a_bilinear_u_net_end_as_wide_as_the_next_skip():
    model = make("unet", doublings=3, base_channels=4, upsampling="bilinear", deep_supervision=True)
    assert [conv.body[1].conv.out_channels for conv in model.decoder.convs] == [16, 8, 4, 4]
    assert [feature.channels for feature in model.decoder.features] == [4, 4, 8, 16]
    assert count_of("unet", doublings=3, upsampling="bilinear_aligned", num_classes=2) == 17_263_042  # as published


@pytest.mark.parametrize("size", [(1, 1), pytest.param((2, 3), marks=pytest.mark.slow), (1, 40), (65, 17)], ids=str)
@pytest.mark.parametrize("decoder", dict.fromkeys(OWN[name][0] for name in PADDED))
def test_formulas_hold_at_any_size(decoder, size):
    for name in (decoder, f"{decoder}_resnet18"):
        formulas_agree(make(name, num_classes=2, deep_supervision=True, **light(name)), size)


@pytest.mark.parametrize("stem_stride", [2, 1])
@pytest.mark.parametrize("name", [name for name in PADDED if OWN[name][1] == "resnet18"])
def test_formulas_hold_at_finer_stems(name, stem_stride):
    formulas_agree(make(name, stem_stride=stem_stride, deep_supervision=True, **light(name)), (32, 32), (19, 30))


@pytest.mark.parametrize("name", [name for name in PADDED if name in ONCE and "next" not in name])
def test_formulas_hold_without_norm(name):
    formulas_agree(make(name, norm=None, deep_supervision=True, **light(name)), (32, 48), (19, 30))


@pytest.mark.parametrize(
    ("output", "levels"),
    [
        *itertools.product(["average"], [1, 2, 3, 4]),
        ("last", 4),
        *(pytest.param("last", levels, marks=pytest.mark.slow) for levels in (1, 2, 3)),  # as with "average", less
    ],
)
@pytest.mark.parametrize("name", ["unetpp", "unetpp_resnet18", "unetpp_lite", "unetpp_lite_resnet18"])
def test_formulas_hold_at_all_levels(name, output, levels):
    model = make(name, levels=levels, output=output, deep_supervision=True, **light(name))
    formulas_agree(model, (32, 48), (19, 30))


@pytest.mark.parametrize("name", ["unetpp", "unetpp_resnet18", "unetpp_lite_resnet18"])
def test_average_is_the_mean_of_the_heads(name):
    model = make(name, deep_supervision=True, output="average", num_classes=2)
    images = some_images(model, 33, 40)
    with torch.no_grad():
        heads = tensors(model.training_outputs(images))
        assert len(heads) == 4
        assert_near(model(images), sum(heads) / 4)


# The 2015 U-Net


def test_paper_arithmetic():
    skips, side = [], 572
    for _ in range(4):
        side -= 4
        skips.append(side)
        assert side % 2 == 0
        side //= 2
    side -= 4
    assert side == 28
    crops = []
    for skip in reversed(skips):
        crops.append((skip - 2 * side) / 2)
        side = 2 * side - 4
    assert side == 388
    assert tuple(crops) == VALID_CROPS
    assert 2 * BORDER == 572 - 388
    assert [valid_size(side) for side in (1, 4, 5, 20, 21, 388)] == [188, 188, 204, 204, 220, 572]


@pytest.mark.parametrize("options", [{}, VALID_FLAGS], ids=["default", "flags"])
@pytest.mark.parametrize("size", [(188, 188), (204, 188)], ids=str)
def test_unpadded_logits_follow_the_formulas(size, options):
    model = make("unet_valid", base_channels=16, **options)
    images = some_images(model, *size)
    with torch.no_grad():
        found = model(images)
        assert found.shape == (1, model.config.num_classes, size[0] - 184, size[1] - 184)
        assert_near(found, reference_logits(model, images))
        (outputs,) = tensors(model.training_outputs(images))
        assert torch.equal(outputs, found)


def test_paper_size():
    """The size of the paper's images; its widths are those of ``test_counts_are_the_authors``."""
    model = make("unet_valid", torch.float32, base_channels=16)
    images = some_images(model, 572, 572)
    with torch.no_grad():
        found = model(images)
        assert found.shape == (1, 1, 388, 388)
        assert_near(found, reference_logits(model, images), 1e-5)


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        ((570, 572), "height 556 or 572 instead of 570"),
        ((572, 573), "width 572 or 588 instead of 573"),
        ((186, 900), "height 188 instead of 186 and width 892 or 908 instead of 900"),
    ],
)
def test_other_sizes_are_refused_with_the_nearest(size, advice):
    model = make("unet_valid", base_channels=2)
    with pytest.raises(unetzoo.InputError, match=advice):
        model(some_images(model, *size))


@pytest.mark.parametrize("size", [(100, 70), (1, 1), (5, 300), (2, 1), (388, 3)], ids=str)
def test_prediction_mirrors_the_border(size):
    model = make("unet_valid", base_channels=6, num_classes=2, task="multilabel")
    images = some_images(model, *size, batch=2)
    padded = images.numpy()
    for axis, side in ((2, size[0]), (3, size[1])):
        widths = [(0, 0)] * 4
        widths[axis] = (BORDER, valid_size(side) - BORDER - side)
        padded = np.pad(padded, widths, mode="edge" if side == 1 else "reflect")
    with torch.no_grad():
        logits = reference_logits(model, torch.from_numpy(padded))[:, :, : size[0], : size[1]]
    expected = 1 / (1 + torch.exp(-logits))
    found = model.predict(images)
    assert found.shape == (2, 2, *size)
    assert float((found - expected).abs().max()) <= 1e-12


@pytest.mark.parametrize(("task", "num_classes"), [("binary", 1), ("multilabel", 3), ("multiclass", 3)])
def test_prediction_is_the_probability(task, num_classes):
    model = make("resunet18", task=task, num_classes=num_classes).train()
    images = some_images(model, 20, 31)
    found = model.predict(images)
    assert all(module.training for module in model.modules())
    model.eval()
    with torch.no_grad():
        powers = torch.exp(reference_logits(model, images))
    expected = powers / (powers.sum(dim=1, keepdim=True) if task == "multiclass" else 1 + powers)
    assert float((found - expected).abs().max()) <= 1e-12


# Encoders


@pytest.mark.parametrize("arch", tried(RESNETS, set(RESNETS).difference(ALIKE)))
def test_maps_are_torchvisions_bit_for_bit(arch):
    with unetzoo.model.on_meta():
        theirs = torchvision_resnet(arch)
        ours = unetzoo.create(ENCODERS[arch].names("unet")[0]).encoder
    fill(theirs, torch.float32)
    copied = {name: tensor.clone() for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict(copied, assign=True)
    names = ["relu", "layer1", "layer2", "layer3", "layer4"]
    for training in (False, True):
        theirs.train(training)
        ours.train(training)
        for size in ((64, 64), (47, 61)):
            images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                expected = intermediate_maps(theirs, names, functools.partial(theirs, images))
                found = ours(images)
            assert len(found) == 5
            assert all(map(torch.equal, found, expected))
    after = theirs.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in ours.state_dict().items())
    assert not torch.equal(after["bn1.running_mean"], drawn("bn1.running_mean", torch.empty(64), torch.float32))


@pytest.mark.parametrize("stem_stride", [2, 1])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_finer_stems_are_torchvisions_bit_for_bit(arch, stem_stride):
    with unetzoo.model.on_meta():
        theirs = torchvision_resnet(arch, stem_stride)
        ours = unetzoo.create(f"unet3p_{arch}", stem_stride=stem_stride).encoder
    fill(theirs, torch.float32).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}, assign=True)
    names = ["relu", "layer1", "layer2", "layer3", "layer4"]
    images = torch.randn(1, 3, 35, 42, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = intermediate_maps(theirs, names, functools.partial(theirs, images))
        assert all(map(torch.equal, ours.eval()(images), expected))


def test_plain_maps_follow_the_formulas():
    model = make("unet", base_channels=8)
    images = some_images(model, 37, 51)
    with torch.no_grad():
        for found, expected in zip(model.encoder(images), encoder_maps(model, images), strict=True):
            assert_near(found, expected)


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("unet", {}, (1, 2, 4, 8, 16)),
        ("unetpp", {}, (1, 2, 4, 8, 16)),
        *(
            pytest.param(
                ENCODERS[arch].names("unet")[0],
                {"stem_stride": stem},
                strides,
                marks=[] if arch in ("resnet18", "resnet50") else pytest.mark.slow,
            )
            for arch in RESNETS
            for stem, strides in ((4, (2, 4, 8, 16, 32)), (2, (2, 2, 4, 8, 16)), (1, (1, 1, 2, 4, 8)))
        ),
    ],
)
def test_maps_have_the_documented_shapes(name, options, strides):
    with unetzoo.model.on_meta():
        encoder = unetzoo.create(name, **options).encoder.eval()
    widths = (64, 64, 128, 256, 512) if name in ("resunet18", "resunet34") else (64, 256, 512, 1024, 2048)
    if name in ("unet", "unetpp"):
        widths = tuple((64 if name == "unet" else 32) * 2**level for level in range(5))
    assert encoder.channels == widths
    assert encoder.strides == strides
    for size in ((64, 96), (37, 51), (1, 1), (33, 2)):
        maps = encoder(torch.empty(2, 3, *size, device="meta"))
        for found, channels, stride in zip(maps, widths, strides, strict=True):
            assert found.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


# Counts


def test_whatever_has_a_reference_is_counted():
    assert set(NAMES) <= set(TABLE) <= set(unetzoo.list_models())


@pytest.mark.parametrize("name", TABLE)
def test_counts_are_the_published_ones(name):
    info = unetzoo.model_info(name)
    assert count_of(name) == info.parameters == TABLE[name]["parameters"]
    published = None if info.published is None else f"{info.published:.2f}"
    assert published == TABLE[name].get("published")


def test_what_a_decoder_says_was_published_is_its_count():
    """Also of parts that the table does not have."""
    said = [
        (usual(name, encoder), number)
        for name, decoder in DECODERS.items()
        for encoder, number in decoder.published.items()
    ]
    assert len(said) >= 20
    assert all(f"{count_of(name) / 1e6:.2f}" == f"{number:.2f}" for name, number in said)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("unet_valid", {}, 31_031_745),
        ("unet_valid", {"in_channels": 1, "num_classes": 2}, 31_030_658),
        ("unetpp", {"norm": None}, 9_042_177),
        ("unetpp", {"norm": None, "in_channels": 1}, 9_041_601),
        ("unet3p", {"conv_bias": True}, 26_971_777),
    ],
)
def test_counts_are_the_authors(name, options, count):
    assert count_of(name, **options) == count


def test_count_of_a_popular_port():
    assert round(count_of("unetpp", base_channels=64, upsampling="bilinear") / 1e6, 1) == 36.6


@pytest.mark.parametrize(("level", "count"), [(1, 100_961), (2, 511_105), (3, 2_204_961), (4, 9_041_601)])
def test_pruned_counts_are_the_authors(level, count):
    pruned = make("unetpp", in_channels=1, norm=None, deep_supervision=True).prune(level)
    assert sum(parameter.numel() for parameter in pruned.parameters()) == count


# Pruning


@pytest.mark.parametrize("size", [pytest.param((48, 64), marks=pytest.mark.slow), (37, 51)], ids=str)
@pytest.mark.parametrize("output", ["last", "average"])
@pytest.mark.parametrize("name", ["unetpp", "unetpp_resnet18", "unetpp_lite", "unetpp_lite_resnet18"])
def test_pruned_networks_give_what_their_head_gave(name, output, size):
    model = make(name, torch.float32, deep_supervision=True, num_classes=2, output=output, **light(name))
    images = some_images(model, *size, batch=2)
    with torch.no_grad():
        main, *deep = tensors(model.training_outputs(images))
        assert len(deep) == 3
        for level, expected in enumerate((*deep, main), start=1):
            pruned = model.prune(level)
            assert not pruned.training
            assert torch.equal(pruned(images), expected)
            assert memory(pruned).isdisjoint(memory(model))
            again = on_meta(pruned.config)
            assert again.config == pruned.config
            assert keys_and_shapes(again) == keys_and_shapes(pruned)


def test_pruning_the_pruned():
    model = make("unetpp", torch.float32, deep_supervision=True, levels=3)
    images = some_images(model, 32, 32)
    with torch.no_grad():
        for level, expected in enumerate((*model.training_outputs(images).deep, model(images)), start=1):
            assert torch.equal(model.prune(level)(images), expected)
    assert model.prune(2).prune(2).config.decoder_options.levels == 2
    with pytest.raises(unetzoo.ConfigError, match="from 1 to 3"):
        model.prune(4)


@pytest.mark.parametrize("level", [0, 5, -1, True, 1.0, "2", None])
@pytest.mark.parametrize("name", ["unetpp", "unetpp_lite_resnet18"])
def test_pruning_names_the_levels_there_are(name, level):
    with unetzoo.model.on_meta():
        model = unetzoo.create(name, deep_supervision=True)
    with pytest.raises(unetzoo.ConfigError, match=r"level=.*1 to 4"):
        model.prune(level)


def test_pruning_needs_heads():
    model = make("unetpp", base_channels=4)
    with pytest.raises(unetzoo.ConfigError, match="deep_supervision=True"):
        model.prune(2)
    images = some_images(model, 20, 20)
    with torch.no_grad():
        assert torch.equal(model.prune(4)(images), model(images))


@pytest.mark.parametrize("name", ["resunet18", "unet", "unet3p", "unet3p_lite_resnet18", "unet_valid"])
def test_only_the_nested_can_be_pruned(name):
    with unetzoo.model.on_meta():
        model = unetzoo.create(name)
    with pytest.raises(unetzoo.ConfigError, match=rf"{name} cannot be pruned: only nested .*unetpp, unetpp_lite"):
        model.prune(1)


# The classification-guided module

GUIDED = [
    ("unet", {"base_channels": 8}),
    ("unet3p_resnet18", {"branch_channels": 20, "deep_supervision": True}),
    ("unetpp", {"base_channels": 8, "deep_supervision": True, "output": "average"}),
]


def guided(name: str, task: str, judged: list[float], options: dict) -> unetzoo.SegmentationModel:
    """Return a model whose guide has a bias of ``judged`` for each class."""
    classes = len(judged)
    model = make(name, num_classes=classes, task=task, classification_guided=True, **options)
    with torch.no_grad():
        model.guide.conv.weight.mul_(1e-3)
        model.guide.conv.bias.copy_(torch.tensor(judged))
    return model


@pytest.mark.parametrize(("name", "options"), GUIDED)
@pytest.mark.parametrize("absent", [0, 1, 2])
def test_absent_classes_have_no_probability(name, options, absent):
    others = [k for k in range(3) if k != absent]
    judged = [-100.0 if k == absent else 100.0 for k in range(3)]
    for task in ("multilabel", "multiclass"):
        model = guided(name, task, judged, options)
        images = some_images(model, 20, 31)
        with torch.no_grad():
            logits = reference_logits(model, images)
            found = model(images)
        assert_near(found[:, others], logits[:, others])
        powers = torch.exp(logits)
        if task == "multilabel":
            expected = powers / (1 + powers)
        else:
            expected = powers / powers[:, others].sum(dim=1, keepdim=True)
        expected[:, absent] = 0
        probabilities = model.predict(images)
        assert torch.all(probabilities[:, absent] == 0)
        assert float((probabilities - expected).abs().max()) <= 1e-12


@pytest.mark.parametrize(("name", "options"), GUIDED)
def test_where_all_classes_are_absent(name, options):
    for task in ("multilabel", "multiclass"):
        model = guided(name, task, [-100.0, -100.0, -100.0], options)
        images = some_images(model, 20, 31)
        probabilities = model.predict(images)
        if task == "multilabel":
            assert torch.all(probabilities == 0)
        else:
            with torch.no_grad():
                expected = reference_logits(model, images).softmax(dim=1)
            assert float((probabilities - expected).abs().max()) <= 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_absence_is_exact_in_every_type(dtype):
    logits = torch.tensor([30.0, -30.0, 0.0], dtype=dtype).reshape(1, 3, 1, 1).repeat(2, 1, 4, 4)
    presence = torch.tensor([[-0.5, 1.0, 1.0], [1.0, -0.5, 1.0]], dtype=dtype)
    found = ClassificationGuidedModule.suppress(logits, presence, exclusive=True)
    assert torch.equal(found, ClassificationGuidedModule.suppress(logits, presence, exclusive=False))
    nowhere = torch.full_like(presence, -1)
    assert torch.equal(ClassificationGuidedModule.suppress(logits, nowhere, exclusive=True), logits)
    assert torch.all(ClassificationGuidedModule.suppress(logits, nowhere, exclusive=False).sigmoid() == 0)
    assert found.dtype == dtype
    for image, absent in ((0, 0), (1, 1)):
        for probabilities in (found.sigmoid(), found.softmax(dim=1)):
            assert torch.all(probabilities[image, absent] == 0)
        kept = [k for k in range(3) if k != absent]
        assert torch.equal(found[image, kept], logits[image, kept])


@pytest.mark.parametrize(("name", "options"), GUIDED)
@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_present_classes_are_left_alone(name, options, task):
    model = guided(name, task, [100.0, 100.0, 100.0], options)
    images = some_images(model, 20, 31)
    with torch.no_grad():
        found = model(images)
        heads = tensors(model.training_outputs(images))
        ungated = torch.stack(heads).mean(dim=0) if "output" in options else heads[0]
        assert torch.equal(found, ungated)
        assert_near(found, reference_logits(model, images))


@pytest.mark.parametrize(("name", "options"), GUIDED)
def test_training_is_ungated(name, options):
    model = guided(name, "multilabel", [-100.0, -100.0, -100.0], options)
    images = some_images(model, 20, 31)
    with torch.no_grad():
        expected, logits = reference_outputs(model, images), reference_logits(model, images)
        for found, wanted in zip(tensors(model.training_outputs(images)), expected, strict=True):
            assert_near(found, wanted)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert_near(model(images), logits)
        for found, wanted in zip(tensors(model.training_outputs(images)), expected, strict=True):
            assert_near(found, wanted)


@pytest.mark.parametrize("name", ["unet3p_resnet18", "unet3p", "resunet50"])
def test_presence_follows_the_formula(name):
    model = make(name, num_classes=3, classification_guided=True, **light(name))
    images = some_images(model, 70, 90, batch=2)
    with torch.no_grad():
        deepest = encoder_maps(model, images)[-1]
        weight, bias = model.guide.conv.weight[:, :, 0, 0], model.guide.conv.bias
        expected = torch.einsum("kc,nchw->nkhw", weight, deepest).flatten(2).max(dim=2).values + bias
        assert deepest[0, 0].numel() > 1
        assert_near(model.training_outputs(images).presence, expected)


def test_presence_drops_half_of_the_deepest_map_in_training():
    model = make("unet", base_channels=4, num_classes=2, classification_guided=True)
    guide = model.guide.train()
    deepest = torch.ones(1, 64, 30, 30, dtype=torch.float64)
    with torch.no_grad():
        guide.conv.weight.fill_(1)
        guide.conv.bias.zero_()
        torch.manual_seed(0)
        found = guide(deepest)
    assert 64 < float(found.min()) <= 128
    assert torch.equal(found, 2 * (found / 2).round())


# Configurations


def other_options(name: str) -> dict:
    """Return every option of ``name`` at another value than its default, but for those that rule out others.

    ``normalisation="image"`` takes neither mean nor std: see test_normalisation.py.
    """
    left = ("pretrained", "input_policy", "normalisation", *(["resize"] if name == "unet_valid" else []))
    return {key: OTHERWISE[key] for key in signature(name) if key not in left}


@pytest.mark.parametrize("other", [False, True], ids=["default", "other"])
@pytest.mark.parametrize("name", tried(NAMES, ONCE))
def test_configurations_come_back(name, other):
    options = other_options(name) if other else {}
    with unetzoo.model.on_meta():
        model = unetzoo.create(name, **options)
    assert all(value != signature(name)[key] for key, value in options.items())
    config = ModelConfig.from_json(model.config.to_json())
    assert config == model.config
    assert hash(config) == hash(model.config)
    assert config.name == name
    again = on_meta(config)
    assert keys_and_shapes(again) == keys_and_shapes(model)
    if OWN[name][1] in SMALL:
        model = make(name, torch.float32, **{**light(name), **options})
        again = on_meta(ModelConfig.from_json(model.config.to_json()))
        again.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        images = some_images(model, 188, 188) if name == "unet_valid" else some_images(model, 37, 51)
        with torch.no_grad():
            assert torch.equal(again.eval()(images), model(images))
