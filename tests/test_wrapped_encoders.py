"""Encoders in the files that people have: found whatever they are wrapped in, map for map, and nothing else runs.

The rows are those of what each program writes. Files come from the library itself where pip has it (torchvision, timm,
segmentation_models_pytorch, Lightning), otherwise from dictionaries and modules in its layout.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import functools
import pickle
import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tried
from hostile import Payload
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

import unetzoo
from unetzoo import ConfigError, WeightsError
from unetzoo.files.checkpoints import read_contents
from unetzoo.files.torch_files import load_pickle

pytestmark = pytest.mark.usefixtures("encoders_built_once")

State = dict[str, Tensor]
LIGHT = "unet3p_lite_resnet18"
"""A small decoder on all five maps."""


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """Give a network weights and statistics that no other has."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.05, generator=generator)
    return network.eval()


@functools.cache
def resnet(arch: str = "resnet18", channels: int = 3, seed: int = 0) -> nn.Module:
    network = getattr(models, arch)(weights=None)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return drawn(network, seed)


def maps_of(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the five maps as torchvision's network computes them, in float64."""
    network = network.double()
    found = [network.relu(network.bn1(network.conv1(images)))]
    deeper = network.maxpool(found[0])
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        deeper = layer(deeper)
        found.append(deeper)
    network.float()
    return found


def assert_holds(model: unetzoo.SegmentationModel, network: nn.Module) -> None:
    """Assert that a model's encoder is torchvision's network: at an odd size, in float64."""
    images = torch.randn(1, model.config.in_channels, 61, 45, dtype=torch.float64)
    with torch.no_grad():
        found, wanted = model.eval().double().encoder(images), maps_of(network, images)
    assert len(found) == len(wanted) == 5
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def behind(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def body(state: Mapping[str, Tensor]) -> State:
    """Leave out the classifier."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def uncounted(state: Mapping[str, Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def numbered(network: nn.Module) -> State:
    """Return the state dict of all but the classifier as ``nn.Sequential``."""
    return nn.Sequential(*list(network.children())[:-1]).state_dict()


def mlp(prefix: str) -> State:
    return {f"{prefix}{k}.{name}": torch.ones(2) for k in (0, 2) for name in ("weight", "bias")}


Row = Callable[[nn.Module, nn.Module], Any]
"""The network that shall be found, and another → what the file holds."""

BARE: dict[str, Row] = {
    "torchvision": lambda it, _: it.state_dict(),
    "without counters": lambda it, _: uncounted(it.state_dict()),
    "VICReg, DINO's backbone": lambda it, _: body(it.state_dict()),
}
ONE: dict[str, Row] = {
    "SimSiam": lambda it, _: {
        "epoch": 100,
        "arch": "resnet50",
        "optimizer": {"state": {}, "param_groups": []},
        "state_dict": behind("module.encoder.", body(it.state_dict()))
        | mlp("module.encoder.fc.")
        | mlp("module.predictor."),
    },
    "MoCo v2, as published": lambda it, _: {
        "epoch": 200,
        "state_dict": behind("module.encoder_q.", body(it.state_dict())) | mlp("module.encoder_q.fc."),
    },
    "SwAV": lambda it, _: (
        behind("module.", body(it.state_dict()))
        | mlp("module.projection_head.")
        | {"module.prototypes.weight": torch.ones(3, 2)}
    ),
    "Barlow Twins": lambda it, _: {
        "epoch": 1000,
        "model": behind("module.backbone.", body(it.state_dict())) | mlp("module.projector."),
    },
    "OpenMMLab": lambda it, _: {
        "meta": {"mmcv_version": "2.0", "time": datetime.datetime(2024, 1, 2), "hooks": collections.deque([1])},
        "message_hub": {"lr": np.arange(5.0), "loss": np.float64(0.3)},
        "state_dict": behind("backbone.", body(it.state_dict())) | {"head.fc.weight": torch.ones(3, 2)},
    },
    "torchxrayvision": lambda it, _: behind("model.", it.state_dict()) | {"op_threshs": torch.ones(18)},
    "Lightly, RadImageNet": lambda it, _: behind("backbone.", numbered(it)),
    "a Sequential": lambda it, _: numbered(it),
    "fastai": lambda it, _: {
        "model": behind("0.", numbered(it)) | mlp("1."),
        "opt": {"state": [], "hypers": [{"lr": 1}]},
    },
    "VISSL": lambda it, _: {
        "classy_state_dict": {
            "base_model": {
                "model": {
                    "trunk": behind("_feature_blocks.", body(it.state_dict())),
                    "heads": mlp("0.clf."),
                }
            }
        }
    },
    "compiled in parallel": lambda it, _: {"model": behind("module._orig_mod.", it.state_dict())},
}
TWO: dict[str, tuple[Row, str, str]] = {
    "MoCo v2, trained": (
        lambda it, other: {
            "state_dict": behind("module.encoder_q.", body(it.state_dict()))
            | mlp("module.encoder_q.fc.")
            | behind("module.encoder_k.", body(other.state_dict()))
            | {"module.queue": torch.ones(2, 5)}
        },
        "encoder_q",
        "module.encoder_k.",
    ),
    "MoCo v3": (
        lambda it, other: {
            "state_dict": behind("module.momentum_encoder.", body(other.state_dict()))
            | behind("module.base_encoder.", body(it.state_dict()))
        },
        "base_encoder",
        "momentum_encoder",
    ),
    "DINO": (
        lambda it, other: {
            "student": behind("module.backbone.", body(other.state_dict())) | mlp("module.head.mlp."),
            "teacher": behind("backbone.", body(it.state_dict())) | mlp("head.mlp."),
            "args": argparse.Namespace(arch="resnet50", output_dir=Path("out")),
            "dino_loss": {"center": torch.ones(1, 3)},
        },
        "teacher.backbone",
        "student",
    ),
    "Lightly's BYOL": (
        lambda it, other: {
            "state_dict": behind("backbone.", numbered(it)) | behind("backbone_momentum.", numbered(other))
        },
        "state_dict.backbone'",
        "backbone_momentum",
    ),
    "BYOL": (
        lambda it, other: (
            behind("target_encoder.net.", other.state_dict()) | behind("online_encoder.net.", it.state_dict())
        ),
        "online_encoder",
        "target_encoder",
    ),
    "timm's average": (
        lambda it, other: {"state_dict": other.state_dict(), "state_dict_ema": it.state_dict(), "arch": "resnet18"},
        "state_dict_ema",
        "state_dict",
    ),
    "weights and ema": (
        lambda it, other: {"ema": it.state_dict(), "model": other.state_dict()},
        "ema",
        "model",
    ),
}


@pytest.mark.parametrize("row", BARE | ONE)
def test_an_encoder_is_found_in_what_it_is_wrapped_in(
    row: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save((BARE | ONE)[row](resnet(), resnet(seed=1)), tmp_path / "it.pth.tar")
    caplog.set_level("INFO", logger="unetzoo")
    model = unetzoo.create(LIGHT, pretrained=tmp_path / "it.pth.tar")
    assert_holds(model, resnet())
    (record,) = caplog.records
    assert record.levelname == "INFO"  # nothing of it is wrong
    assert record.getMessage().startswith(f"{tmp_path / 'it.pth.tar'}: ")
    for words in ("tensors taken", "ImageNet"):
        assert words in record.getMessage()


@pytest.mark.parametrize(
    "key", ["net", "backbone", "weights", "model_state", "state_dict_ema", "ema", "teacher", "student", "anything"]
)
def test_one_encoder_may_stand_under_any_name(key: str, tmp_path: Path) -> None:
    """Two of its maps, for speed."""
    state = {
        name: tensor for name, tensor in resnet().state_dict().items() if name.startswith(("conv1", "bn1", "layer1"))
    }
    torch.save({key: behind("module.", state), "epoch": 3}, tmp_path / "it.pth")
    found = unetzoo.create("unetpp_resnet18", levels=1, pretrained=tmp_path / "it.pth").encoder.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in state.items())


@pytest.mark.parametrize("row", TWO)
def test_of_two_encoders_the_usual_is_taken_and_both_are_named(
    row: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build, usual, other = TWO[row]
    path = tmp_path / "it.pth"
    torch.save(build(resnet(), resnet(seed=1)), path)
    assert_holds(unetzoo.create(LIGHT, pretrained=path), resnet())
    assert usual in caplog.text
    assert f"{path}::" in caplog.text
    assert other.strip(".") in caplog.text
    assert_holds(unetzoo.create(LIGHT, pretrained=f"{path}::{other}"), resnet(seed=1))


def test_where_no_rule_says_which_of_two_is_meant_both_are_named(tmp_path: Path) -> None:
    path = tmp_path / "it.pth"
    torch.save({"left": resnet().state_dict(), "right": resnet(seed=1).state_dict()}, path)
    with pytest.raises(WeightsError, match=r"'left', 'right'.*::left"):
        unetzoo.create(LIGHT, pretrained=path)
    assert_holds(unetzoo.create(LIGHT, pretrained=f"{path}::right"), resnet(seed=1))
    torch.save({"left": resnet().state_dict(), "right": resnet().state_dict()}, path)  # one, in truth
    assert_holds(unetzoo.create(LIGHT, pretrained=path), resnet())
    with pytest.raises(WeightsError, match=r"no tensors at 'middle'.* left, right"):
        unetzoo.create(LIGHT, pretrained=f"{path}::middle")
    with pytest.raises(ConfigError, match=r"none\.pth::right.*no such file"):
        unetzoo.create(LIGHT, pretrained=tmp_path / "none.pth::right")


def test_of_a_place_that_is_not_there_those_that_are_are_named(tmp_path: Path) -> None:
    path = tmp_path / "moco.pth.tar"
    torch.save(TWO["MoCo v2, trained"][0](resnet(), resnet(seed=1)), path)
    for place in ("encoder_z", "Encoder_K"):
        with pytest.raises(WeightsError) as caught:
            unetzoo.create(LIGHT, pretrained=f"{path}::{place}")
        assert "state_dict.module.encoder_k" in str(caught.value)
        assert "state_dict.module.encoder_q" in str(caught.value)
    for place in ("", "zzz"):
        with pytest.raises(WeightsError, match=r"no tensors at .* state_dict\.module"):
            unetzoo.create(LIGHT, pretrained=f"{path}::{place}")
    torch.save(behind("module.", body(resnet().state_dict())), path)
    with pytest.raises(WeightsError, match=r"no tensor of its names at its top; .* 'module'.*::module'"):
        unetzoo.create(LIGHT, pretrained=f"{path}::")


@pytest.mark.parametrize("ending", [".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".safetensors"])
def test_endings(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"pytorch_model{ending}"
    state = behind("backbone.", body(resnet().state_dict()))
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    assert_holds(unetzoo.create(LIGHT, pretrained=path), resnet())


# By the libraries themselves


def test_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = drawn(timm.create_model("resnet18", num_classes=7), 5)
    torch.save(theirs.state_dict(), tmp_path / "it.pth")
    model = unetzoo.create(LIGHT, pretrained=tmp_path / "it.pth").eval().double()
    images = torch.randn(1, 3, 61, 45, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.encoder(images)[-1], theirs.double().forward_features(images), rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_smp_alone_and_in_a_lightning_checkpoint(encoder: str, wrapped: bool, tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = drawn(smp.Unet(encoder, encoder_weights=None), 6)
    path = tmp_path / "it.ckpt"
    if wrapped:
        lightning(theirs, path)
    else:
        torch.save(theirs.state_dict(), path)
    model = unetzoo.create(LIGHT, pretrained=path).eval().double()
    images = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        wanted = theirs.double().encoder(images)[1:]
        for ours, map_ in zip(model.encoder(images), wanted, strict=True):
            torch.testing.assert_close(ours, map_, rtol=0, atol=1e-10)


def lightning(network: nn.Module, path: Path) -> None:
    """Write a checkpoint as Lightning does, with what people keep as hyperparameters."""
    pl = pytest.importorskip("pytorch_lightning")

    class Segmenter(pl.LightningModule):
        def __init__(self, args: argparse.Namespace, **others: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = network
            self.loss = nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))

    kept = {
        "folder": Path("data"), "lr": np.float32(0.1), "counts": collections.defaultdict(list, a=[1]),
        "criterion": nn.CrossEntropyLoss(), "optimizer": torch.optim.SGD, "started": datetime.datetime(2026, 1, 2),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a module is among the hyperparameters, and how many workers there are
        module = Segmenter(argparse.Namespace(arch="resnet18"), **kept)
        trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(path)


@pytest.mark.parametrize(
    "build",
    [
        lambda: models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None),
        lambda: models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None),
    ],
    ids=["DeepLab", "Faster R-CNN"],
)
def test_torchvision_s_segmentation_and_detection(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    state = build().state_dict()
    prefix = next(name for name in state if name.endswith("conv1.weight")).removesuffix("conv1.weight")
    torch.save(state, tmp_path / "it.pth")
    found = unetzoo.create("resunet50", pretrained=tmp_path / "it.pth").encoder.state_dict()
    for name, tensor in found.items():
        assert torch.equal(tensor, state.get(prefix + name, torch.zeros((), dtype=torch.int64))), name


# Channels


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_channels_are_read_from_the_file(channels: int, tmp_path: Path) -> None:
    path = tmp_path / "it.pth"
    torch.save(behind("model.", resnet(channels=channels).state_dict()), path)
    with pytest.raises(WeightsError, match=rf"in_channels={channels};.*input_policy") as caught:
        unetzoo.create(LIGHT, pretrained=path)
    assert len(str(caught.value).splitlines()) < 15
    model = unetzoo.create(LIGHT, pretrained=path, in_channels=channels)
    assert_holds(model, resnet(channels=channels))
    assert model.config.mean is None


TRIED = {"repeat": (3, 4), "mean": (3,), "sum": (1, 3), "keep_rgb": (3, 4)}
"""Channels that are tried by default of each policy."""


@pytest.mark.parametrize(
    ("policy", "channels"),
    [
        pytest.param(policy, channels, marks=[] if channels in tried else pytest.mark.slow)
        for policy, tried in TRIED.items()
        for channels in (1, 3, 4)
    ],
)
def test_thirteen_channels_adapt_to_others(
    policy: str, channels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = resnet(channels=13)
    path = tmp_path / "it.pth"
    torch.save(body(theirs.state_dict()), path)
    caplog.set_level("INFO", logger="unetzoo")
    model = unetzoo.create("unetpp_resnet18", levels=1, pretrained=path, in_channels=channels, input_policy=policy)
    bands = theirs.conv1.weight
    wanted = {
        "repeat": bands[:, :channels] * 13 / channels,
        "mean": bands.mean(1, keepdim=True).expand(-1, channels, -1, -1),
        "sum": bands.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels,
        "keep_rgb": bands[:, :channels],
    }[policy]
    torch.testing.assert_close(model.encoder.conv1.weight, wanted)
    assert (model.config.mean, model.config.std) == (None, None)
    for words in (f"from 13 to {channels} channels", policy, "mean and std: none"):
        assert words in caplog.text
    given = unetzoo.create(
        "unetpp_resnet18", levels=1, pretrained=path, in_channels=channels, input_policy=policy, mean=[0.5] * channels,
        std=[1.0] * channels,
    )  # fmt: skip
    assert given.config.mean == (0.5,) * channels


@pytest.mark.parametrize(("known", "channels"), [(13, 4), (13, 1), (1, 4), (1, 3)])
def test_from_other_channels_than_three_the_policy_is_for_the_caller_to_say(
    known: int, channels: int, tmp_path: Path
) -> None:
    path = tmp_path / "it.pth"
    torch.save(body(resnet(channels=known).state_dict()), path)
    with pytest.raises(WeightsError, match=rf"of {known} channel.*in_channels is {channels}: .*={known};.*'repeat'"):
        unetzoo.create("unetpp_resnet18", levels=1, pretrained=path, in_channels=channels)


# What a file holds that does not fit


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_an_encoder_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in resnet().state_dict().items()}
    for name in ("conv1.weight", "layer1.0.bn1.running_var"):
        state[name].view(-1)[3] = value
    torch.save({"state_dict": behind("module.", state)}, tmp_path / "it.pth")
    words = r"it\.pth .*NaN or infinity in 2 of \d+ tensors, conv1\.weight, layer1\.0\.bn1\.running_var;"
    for channels in (3, 1):
        with pytest.raises(WeightsError, match=words):
            unetzoo.create("unetpp_resnet18", levels=1, pretrained=tmp_path / "it.pth", in_channels=channels)
    state = resnet().state_dict()
    torch.save(state | {"fc.bias": torch.full_like(state["fc.bias"], value)}, tmp_path / "it.pth")
    unetzoo.create("unetpp_resnet18", levels=1, pretrained=tmp_path / "it.pth")  # which is left


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int32])
def test_counters_of_another_type_are_whole_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    state = own().state_dict()
    counters = {name: torch.tensor(300) for name in state if name.endswith("num_batches_tracked")}
    kept = state | counters | {name: counter.to(dtype) for name, counter in counters.items()}
    torch.save(kept, tmp_path / "it.pth")
    unetzoo.convert(tmp_path / "it.pth", tmp_path / "new.safetensors", "unet", base_channels=2)
    found = unetzoo.load(tmp_path / "new.safetensors").state_dict()
    assert all(torch.equal(found[name], counter) for name, counter in counters.items())
    first = next(iter(counters))
    torch.save(kept | {first: torch.tensor(0.5)}, tmp_path / "it.pth")
    with pytest.raises(WeightsError, match=rf"{first}: torch\.float32 instead of torch\.int64"):
        unetzoo.convert(tmp_path / "it.pth", tmp_path / "new.safetensors", "unet", base_channels=2)


def zeros(arch: str) -> State:
    """Return a state dict of torchvision's, in half precision."""
    with torch.device("meta"):
        state = getattr(models, arch)(weights=None).state_dict()
    return {
        name: torch.zeros(tensor.shape, dtype=torch.float16 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in state.items()
    }


@pytest.mark.parametrize(
    ("held", "title", "model", "usual"),
    [
        ("resnet101", "ResNet-101", "unet3p_lite_resnet50", "unet3p_lite_resnet101"),
        ("resnet34", "ResNet-34", "resunet18", "resunet34"),
        ("resnet18", "ResNet-18", "resunet34", "resunet18"),
        ("resnext50_32x4d", "ResNeXt-50 32×4d", "unet3p_lite_resnet50", "unet3p_lite_resnext50_32x4d"),
    ],
)
def test_another_encoder_is_named(held: str, title: str, model: str, usual: str, tmp_path: Path) -> None:
    torch.save({"state_dict": behind("module.encoder_q.", zeros(held))}, tmp_path / "it.pth")
    with pytest.raises(
        WeightsError, match=rf"holds a {title} at 'state_dict\.module\.encoder_q', .*'{usual}'"
    ) as caught:
        unetzoo.create(model, pretrained=tmp_path / "it.pth")
    assert len(str(caught.value).splitlines()) == 1


def test_a_shallow_network_takes_no_stages_of_another_encoder(tmp_path: Path) -> None:
    """Those that UNet++ of one level needs, a ResNet-101 has as well."""
    path = tmp_path / "it.pth"
    create = functools.partial(unetzoo.create, "unetpp_resnet50", levels=1, pretrained=path)
    torch.save(behind("encoder.", zeros("resnet101")), path)
    with pytest.raises(WeightsError, match="holds a ResNet-101"):
        create()
    torch.save(behind("encoder.", zeros("resnet50")), path)
    shallow = create().encoder
    assert not shallow.conv1.weight.any()
    torch.save(shallow.state_dict(), path)  # no more than it has itself
    assert not create().encoder.conv1.weight.any()


def test_an_encoder_with_more_in_its_layers_is_another_network(tmp_path: Path) -> None:
    state = resnet().state_dict() | {"layer1.0.se.fc1.weight": torch.ones(4, 64, 1, 1)}
    torch.save(behind("module.", state), tmp_path / "it.pth")
    with pytest.raises(WeightsError, match=r"unexpected: layer1\.0\.se\.fc1\.weight"):
        unetzoo.create(LIGHT, pretrained=tmp_path / "it.pth")


def test_messages_are_short(tmp_path: Path) -> None:
    vit = {f"blocks.{k}.attn.qkv.weight": torch.ones(2) for k in range(500)}
    half = {name: tensor for name, tensor in resnet().state_dict().items() if "layer3" not in name}
    for state, words in ((vit, "no tensor of its names.*blocks.0.attn"), (half, r"missing: layer3(?s:.*)and \d+ more")):
        torch.save({"state_dict": state}, tmp_path / "it.pth")
        with pytest.raises(WeightsError, match=words) as caught:
            unetzoo.create(LIGHT, pretrained=tmp_path / "it.pth")
        assert len(str(caught.value).splitlines()) < 15
        assert len(str(caught.value)) < 2000


# Networks of this package, as people keep them


def own(**options: Any) -> unetzoo.SegmentationModel:
    return drawn(unetzoo.create("unet", base_channels=2, **options), 7)


HABITS: dict[str, Callable[[State, State], Any]] = {
    **{
        key: lambda it, _, key=key: {key: it, "epoch": 3, "loss": torch.tensor(0.5)}
        for key in ("net", "model_state", "weights", "ema", "generator")
    },
    "data parallel": lambda it, _: behind("module.", it),
    "compiled": lambda it, _: behind("_orig_mod.", it),
    "compiled within": lambda it, _: {name.replace("encoder.", "encoder._orig_mod."): t for name, t in it.items()},
    "an average": lambda it, _: {"n_averaged": torch.tensor(7), **behind("module.", it)},
    "a loss beside it": lambda it, _: {"state_dict": behind("model.", it) | {"loss.pos_weight": torch.ones(1)}},
    "a loss at its top": lambda it, _: {**it, "pos_weight": torch.ones(1)},
    "milesial's habit": lambda it, _: {**it, "mask_values": [0, 255]},
    "weights and average": lambda it, other: {"model": other, "model_ema": behind("module.", it)},
    "a generator": lambda it, other: {"generator": it, "discriminator": other},
}


@pytest.mark.parametrize("habit", HABITS)
def test_own_checkpoints_of_every_habit(habit: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, other = own(num_classes=2), drawn(unetzoo.create("unet", base_channels=2, num_classes=2), 8)
    torch.save(HABITS[habit](model.state_dict(), other.state_dict()), tmp_path / "it.pth")
    unetzoo.convert(tmp_path / "it.pth", tmp_path / "new.safetensors", "unet", base_channels=2)
    found = unetzoo.load(tmp_path / "new.safetensors").state_dict()
    assert found.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor), name
    assert "tensors taken" in caplog.text
    if "loss" in habit:
        assert "left: " in caplog.text
    if habit != "a loss at its top" and "within" not in habit:
        alone = unetzoo.load_state_dict_file(tmp_path / "it.pth")
        missing = model.state_dict().keys() - {name.removeprefix("model.") for name in alone}
        assert not missing


def test_the_culprit_is_named(tmp_path: Path) -> None:
    state = own().state_dict() | {"decoder.gate.weight": torch.ones(1)}
    torch.save({"net": behind("module.", state) | {"loss.pos_weight": torch.ones(1)}}, tmp_path / "it.pth")
    with pytest.raises(WeightsError) as caught:
        unetzoo.convert(tmp_path / "it.pth", tmp_path / "new.safetensors", "unet", base_channels=2)
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert lines == ["  - unexpected: decoder.gate.weight"]


@pytest.mark.parametrize(
    ("options", "cause"), [({"norm": "group"}, "norm='group'"), ({"conv_bias": True}, "conv_bias=True")]
)
def test_the_option_that_is_missing_is_named(options: dict[str, Any], cause: str, tmp_path: Path) -> None:
    torch.save({"net": own(**options).state_dict()}, tmp_path / "it.pth")
    with pytest.raises(WeightsError, match=f"such as {cause}"):
        unetzoo.convert(tmp_path / "it.pth", tmp_path / "new.safetensors", "unet", base_channels=2)
    unetzoo.convert(tmp_path / "it.pth", tmp_path / "new.safetensors", "unet", base_channels=2, **options)


def test_an_encoder_of_another_norm_is_named_so(tmp_path: Path) -> None:
    torch.save(unetzoo.create("unetpp_resnet18", levels=1, norm="group").state_dict(), tmp_path / "it.pth")
    with pytest.raises(WeightsError, match="at 'encoder', was made with another norm") as caught:
        unetzoo.create("unetpp_resnet18", levels=1, pretrained=tmp_path / "it.pth", in_channels=4)
    assert "conv1.weight" not in str(caught.value).replace("layer1", "")  # which could be adapted


def test_the_encoder_of_an_own_network_is_taken(tmp_path: Path) -> None:
    model = drawn(unetzoo.create("resunet18"), 9)
    unetzoo.save(model, tmp_path / "it.safetensors")
    found = unetzoo.create("unet3p_lite_resnet18", pretrained=tmp_path / "it.safetensors").encoder.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in model.encoder.state_dict().items())


# What is no file of tensors


def test_mean_and_std_are_those_of_the_own_model_in_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = unetzoo.create("resunet18", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    unetzoo.save(other, tmp_path / "saved.safetensors")
    caplog.set_level("INFO", logger="unetzoo")
    model = unetzoo.create(LIGHT, pretrained=tmp_path / "saved.safetensors")
    assert (model.config.mean, model.config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert "mean and std: those of the model in it" in caplog.text
    unetzoo.save(unetzoo.create("resunet18"), tmp_path / "none.safetensors")
    assert unetzoo.create(LIGHT, pretrained=tmp_path / "none.safetensors").config.mean is None
    given = unetzoo.create(LIGHT, pretrained=tmp_path / "saved.safetensors", mean=(0,) * 3, std=(1,) * 3)
    assert given.config.mean == (0, 0, 0)
    tensors = dict(other.state_dict())
    save_file(tensors, tmp_path / "changed.safetensors", {"unetzoo_config": "{}"})
    with pytest.raises(WeightsError, match=r"changed\.safetensors: .*format_version"):
        unetzoo.create(LIGHT, pretrained=tmp_path / "changed.safetensors")


NO_WEIGHTS = {
    "is empty": b"",
    "web page": b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46830571\n",
    "is text": "weights of the network: größer\n".encode() * 40,
    "cut off": b"",
}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_file_of_weights_is_called_what_it_is(kind: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"it{ending}"
    path.write_bytes(NO_WEIGHTS[kind])
    if kind == "cut off":
        torch.save(own().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-5000])
    words = "another ending" if kind == "cut off" and ending == ".safetensors" else kind
    for way in ways(tmp_path):
        with pytest.raises(WeightsError, match=words) as caught:
            way(path)
        assert "made it" not in str(caught.value)
        assert "Error" not in str(caught.value)


def test_torchscript_is_called_so(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        torch.jit.save(torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)), tmp_path / "it.pt")
    for way in ways(tmp_path):
        with pytest.raises(WeightsError, match=r"it\.pt .*TorchScript.*torch\.jit\.load.*state_dict"):
            way(tmp_path / "it.pt")


def test_an_exported_program_is_called_so(tmp_path: Path) -> None:
    program = torch.export.export(nn.Conv2d(1, 1, 1), (torch.zeros(1, 1, 2, 2),))
    torch.export.save(program, tmp_path / "it.pt")
    with pytest.raises(WeightsError, match=r"it\.pt .*torch\.export"):
        unetzoo.load_state_dict_file(tmp_path / "it.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_whole_modules_are_called_so(wrapped: bool, zipped: bool, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the source is not kept
        torch.save(
            {"model": network, "epoch": 3} if wrapped else network, tmp_path / "it.pt",
            _use_new_zipfile_serialization=zipped,
        )  # fmt: skip
    for way in ways(tmp_path):
        with pytest.raises(WeightsError, match=r"complete .*torch\.nn\.modules\.container\.Sequential.*state_dict\(\)"):
            way(tmp_path / "it.pt")


def ways(folder: Path) -> list[Callable[[Path], object]]:
    """Return what opens such a file."""
    return [
        unetzoo.load_state_dict_file,
        lambda path: unetzoo.convert(path, folder / "new.safetensors", "unet"),
        lambda path: unetzoo.create(LIGHT, pretrained=path),
    ]


# Objects beside the tensors


RAN: list[object] = []


def run(*arguments: object) -> object:
    """Leave a mark."""
    RAN.append(arguments)
    return run


class Live:
    """Leaves a mark when it is made, filled or called upon."""

    def __new__(cls, *arguments: object) -> Live:
        RAN.append("made")
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        RAN.append("filled")

    def append(self, item: object) -> None:
        RAN.append("appended")

    def extend(self, items: object) -> None:
        RAN.append("extended")

    def __setitem__(self, key: object, value: object) -> None:
        RAN.append("set")


class Reduced:
    """Pickled as what it is given."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[object, ...]:
        return self.parts


def live_objects() -> dict[str, object]:
    """Return objects that any other reader would run."""
    circle = Live()
    circle.me = circle
    return {
        "a call": Reduced(run, ("x",)),
        "made and filled": circle,
        "filled by a list": Reduced(Live, (), None, iter([1, 2, 3])),
        "filled by one item": Reduced(Live, (), None, iter([1])),
        "filled by pairs": Reduced(Live, (), None, None, iter([("a", 1), ("b", 2)])),
        "filled by one pair": Reduced(Live, (), None, None, iter([("a", 1)])),
        "filled by all": Reduced(Live, (), {"a": 1}, iter([1, 2]), iter([("a", 1), ("b", 2)])),
        "in other containers": [(Reduced(run, ({"a": [Reduced(run, ())]},)), Live), {"a": Reduced(Live, ())}],
        "a class as a key": {Live: Live},
        "a tensor within": Reduced(run, (torch.ones(3), torch.nn.Parameter(torch.ones(2)))),
    }


def harmless_objects() -> dict[str, object]:
    """Return what training programs keep beside a state dict."""
    return {
        "Namespace": argparse.Namespace(lr=1, folder=Path("a")),
        "numbers of numpy": [np.float64(1), np.int32(2), np.bool_(True)],
        "an array of numpy": np.arange(6.0).reshape(2, 3),
        "state of numpy's generator": np.random.RandomState(0).get_state(),
        "Path": Path("a"),
        "datetime": [datetime.datetime(2026, 1, 2), datetime.timedelta(3), datetime.date(2026, 1, 2)],
        "OrderedDict": collections.OrderedDict(a=1),
        "defaultdict": collections.defaultdict(list, a=[1], b=[argparse.Namespace()]),
        "deque": collections.deque(range(3000)),
        "a module": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
        "classes and functions": [torch.optim.SGD, functools.partial(print, 1), len],
        "one of them twice": [argparse.Namespace(a=1)] * 2,
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("title", harmless_objects() | live_objects())
def test_objects_beside_the_tensors_do_no_harm_and_are_not_built(title: str, zipped: bool, tmp_path: Path) -> None:
    state, path = own().state_dict(), tmp_path / "it.pth"
    kept = (harmless_objects() | live_objects())[title]
    content = {"first": kept, "state_dict": state, "args": kept, "epoch": 3, "last": ["text", kept, {"a": state}]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of modules whose source is not kept
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    RAN.clear()
    found = unetzoo.load_state_dict_file(path)
    unetzoo.convert(path, tmp_path / "new.safetensors", "unet", base_channels=2)
    assert not RAN
    assert found.keys() == state.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in state.items())
    if title not in ("OrderedDict",):
        with pytest.raises(WeightsError, match=r"is not opened.* needs "):
            load_pickle(path)  # as a run goes on: with everything, or not at all
    if title in live_objects():
        torch.load(path, weights_only=False)
        assert RAN or title == "a class as a key"


@pytest.mark.parametrize(
    "row", tried([*BARE, *ONE, *TWO], ["torchvision", "OpenMMLab", "a Sequential", "MoCo v3", "DINO"])
)
def test_no_wrapping_runs_anything(row: str, tmp_path: Path) -> None:
    """Neither what is refused by its name, among the tensors, nor what nobody knows, beside them."""
    build = (BARE | ONE).get(row) or TWO[row][0]
    tiny = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Flatten())
    content = build(tiny, tiny)
    mark, path = tmp_path / "made", tmp_path / "it.pth"
    torch.save(put_within(content, Payload(mark)), path)
    for way in ways(tmp_path):
        with pytest.raises(WeightsError, match=r"is not opened: it needs (posix|nt)\.mkdir"):
            way(path)
    torch.save(put_within(content, Reduced(run, ())), path)
    RAN.clear()
    assert read_contents(path).tensors
    with pytest.raises(WeightsError, match="do not fit"):
        unetzoo.create("unetpp_resnet18", levels=1, pretrained=path)
    assert not RAN
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert RAN


def put_within(content: dict[str, Any], item: object) -> dict[str, Any]:
    """Return a checkpoint with something more in each of its dictionaries."""
    return {key: put_within(value, item) if isinstance(value, dict) else value for key, value in content.items()} | {
        "extra": item
    }


HARM = ("os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.__import__",
        "__builtin__.eval", "importlib.import_module", "runpy.run_path", "shutil.rmtree", "socket.socket",
        "pickle.loads", "webbrowser.open", "ctypes.CDLL", "builtins.open")  # fmt: skip


@pytest.mark.parametrize("name", HARM)
def test_functions_that_no_honest_file_needs_are_refused_by_name(name: str, tmp_path: Path) -> None:
    module, _, function = name.rpartition(".")
    call = f"c{module}\n{function}\n".encode() + b"X\x01\0\0\0x\x85R"
    path = written(b"\x80\x02}X\x01\0\0\0a" + call + b"s.", tmp_path / "it.pth")
    with pytest.raises(WeightsError, match=f"is not opened.* needs .*{function}"):
        unetzoo.load_state_dict_file(path)


def written(script: bytes, path: Path) -> Path:
    """Write a file as torch before 1.6 did, with such a pickle in it."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + script + pickle.dumps([], 2))
    return path


NAMED = b"ctest_wrappings\nLive\nq\xff"
NESTED = b"K\x01\x85" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(60))
"""A tuple of itself and itself, sixty times over."""
ENDLESS = {
    "arguments": NAMED + NESTED + b"R",
    "arguments of a new object": NAMED + NESTED + b"\x81",
    "a state": NAMED + b")\x81" + NESTED + b"b",
    "an item": NAMED + b")R" + NESTED + b"a",
    "items": NAMED + b")R(" + NESTED + b"e",
    "a pair": NAMED + b")RK\x01" + NESTED + b"s",
    "pairs": NAMED + b")R(K\x01" + NESTED + b"u",
    "itself, over and over": NAMED + b")R" + b"".join(b"q%ch%c\x85R" % (k, k) for k in range(60)),
    "states too deep": NAMED + b")R" + b"}b" * 200,
    "a key": b"}" + NAMED + NESTED + b"RK\x01s",
    "a key of an object": b"}" + NAMED + b")RK\x01s",
    "an element of a set": b"cbuiltins\nset\n](" + NAMED + b")Re\x85R",
    "a storage": b"(X\x07\0\0\0storage" + NAMED + b"X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ",
    "a persistent name": b"(X\x05\0\0\0other" + NAMED + b"tQ",
    "an object of torch's": b"ccollections\nOrderedDict\n)\x81",
    "arguments of torch's": b"ctorch\nSize\n" + NAMED + b"\x85R",
}


@pytest.mark.parametrize("title", ENDLESS)
def test_objects_that_would_unfold_without_end_are_refused_before_they_are_read(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(b"\x80\x02}X\x01\0\0\0a" + ENDLESS[title] + b"s.", tmp_path / "it.pth")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is built"))
    RAN.clear()
    with pytest.raises(WeightsError, match=r"it\.pth") as caught:
        unetzoo.load_state_dict_file(path)
    assert not RAN
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_files_with_objects_cut_or_changed_anywhere_run_nothing(count: int, tmp_path: Path) -> None:
    """All that torch's reader is given is text, numbers, tensors and containers of these."""
    path = tmp_path / "it.pth"
    torch.save(
        {"kept": harmless_objects(), "live": live_objects(), "state_dict": {"a": torch.ones(2)}}, path,
        _use_new_zipfile_serialization=False,
    )  # fmt: skip
    content = path.read_bytes()
    chance = random.Random(0)
    taken = 0
    for _ in range(count):
        changed = bytearray(content if chance.random() < 0.9 else content[: chance.randrange(len(content))])
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        RAN.clear()
        with contextlib.suppress(WeightsError):
            taken += bool(read_contents(path).tensors)
        assert not RAN
    assert taken
