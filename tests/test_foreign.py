"""Public U-Nets of other programs: which network of ours they are, and that its logits and gradients are theirs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from foreign_unets import FullScale, Gyb357, Jaxony, Jvanvugt, MateuszBuda, Milesial, Nested, holder
from torch import Tensor, nn

import unetzoo
from unetzoo import ConfigError, WeightsError, cli
from unetzoo.foreign import loading, unets
from unetzoo.foreign.layouts import Layout, Network, Rule


@dataclass
class Public:
    """A public network: how it is built, and what it is here."""

    build: Callable[[], nn.Module]
    name: str
    options: Mapping[str, Any]
    size: tuple[int, int] = (32, 48)
    given: Mapping[str, Any] = field(default_factory=dict)


BILINEAR = {"upsampling": "bilinear_aligned"}
PUBLIC = {
    "milesial": Public(Milesial, "unet", {"base_channels": 8, "conv_bias": True, "task": "multiclass"}),
    "milesial, bilinear": Public(
        lambda: Milesial(bilinear=True, inputs=1),
        "unet",
        {"base_channels": 8, "doublings": 3, "in_channels": 1, "conv_bias": False, **BILINEAR},
    ),
    "milesial, biased": Public(lambda: Milesial(bias=True), "unet", {"conv_bias": True}),
    "milesial, bilinear, biased": Public(
        lambda: Milesial(bilinear=True, bias=True), "unet", {"doublings": 3, "conv_bias": True, **BILINEAR}
    ),
    "mateuszbuda": Public(MateuszBuda, "unet", {"base_channels": 8, "conv_bias": True, "task": "binary"}),
    "mateuszbuda, of 3 classes": Public(lambda: MateuszBuda(classes=3), "unet", {"task": "multilabel"}),
    "jaxony": Public(Jaxony, "unet", {"base_channels": 8, "norm": None, "num_classes": 3}),
    "jvanvugt": Public(Jvanvugt, "unet_valid", {"base_channels": 4, "in_channels": 1}, (188, 204)),
    "jvanvugt, padded": Public(
        lambda: Jvanvugt(padding=1),
        "unet",
        {"base_channels": 4, "norm": None, "in_channels": 1},
        given={"name": "unet"},
    ),
    "nested": Public(Nested, "unetpp", {"base_channels": 8, "conv_bias": True, **BILINEAR}),
    "nested, deep": Public(
        lambda: Nested(deep=True, classes=2), "unetpp", {"deep_supervision": True, "num_classes": 2, **BILINEAR}
    ),
    "nested, plain": Public(
        lambda: Nested(nested=False), "unet", {"base_channels": 8, "doublings": 4, "conv_bias": True, **BILINEAR}
    ),
    "full scale": Public(FullScale, "unet3p", {"base_channels": 8, "branch_channels": 8, "conv_bias": True}),
    "full scale, deep": Public(lambda: FullScale(deep=True), "unet3p", {"deep_supervision": True}),
    "full scale, guided": Public(
        lambda: FullScale(deep=True, guided=True), "unet3p", {"deep_supervision": True, "classification_guided": False}
    ),
    "gyb357": Public(lambda: Gyb357("unet"), "unet", {"base_channels": 8, "num_classes": 2, "conv_bias": False}),
    "gyb357, biased": Public(lambda: Gyb357("unet", bias=True), "unet", {"conv_bias": True}),
    "gyb357, nested": Public(lambda: Gyb357("nested"), "unetpp_lite", {"branch_channels": 8}),
    "gyb357, full scale": Public(lambda: Gyb357("full scale"), "unet3p_lite", {"branch_channels": 8}),
}


def drawn(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a network with every weight and statistic drawn at random."""
    generator = torch.Generator().manual_seed(0)
    network = network.to(dtype)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.ndim == 4:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(1 if name.endswith("weight") else 0, 0.3, generator=generator)
    return network


def images_of(model: unetzoo.SegmentationModel, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, model.config.in_channels, *size, generator=generator, dtype=torch.float64).to(dtype)


def saved(content: object, folder: Path, name: str = "theirs.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def outputs_of(theirs: nn.Module, images: Tensor) -> list[Tensor]:
    """Return their logits in our order: the main ones, then those of the other heads."""
    found = theirs(images)
    if isinstance(found, Tensor):
        return [found]
    return [found[-1], *found[:-1]] if isinstance(theirs, Nested) else found


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * float(expected.detach().abs().max())


@pytest.mark.parametrize("kind", PUBLIC)
def test_which_network_it_is(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    public = PUBLIC[kind]
    model = unetzoo.load_foreign(saved(public.build().state_dict(), tmp_path), **public.given)
    said = model.config.to_dict()
    said |= said.pop("decoder_options") | said.pop("encoder_options")
    assert model.config.name == public.name
    assert {key: said[key] for key in public.options} == public.options
    assert said["mean"] is None
    assert not model.training
    (line,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert f"here {public.name}" in line
    assert "no mean and std" in line


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("kind", PUBLIC)
def test_logits_are_theirs(kind: str, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    public = PUBLIC[kind]
    theirs = drawn(public.build(), dtype).eval()
    model = unetzoo.load_foreign(saved(theirs.state_dict(), tmp_path), **public.given)
    images = images_of(model, public.size, dtype)
    expected = outputs_of(theirs, images)
    found = model.training_outputs(images)
    assert_near(model(images), expected[0], tolerance)
    for ours, other in zip((found.logits, *found.deep), expected, strict=True):
        assert_near(ours, other, tolerance)


@pytest.mark.parametrize("kind", PUBLIC)
def test_gradients_are_theirs_in_training(kind: str, tmp_path: Path) -> None:
    """Of every parameter that theirs has too, and the statistics of batch norms after a step."""
    public = PUBLIC[kind]
    theirs = drawn(public.build()).train()
    model = unetzoo.load_foreign(saved(theirs.state_dict(), tmp_path), **public.given).train()
    images = images_of(model, public.size, torch.float64)
    found = model.training_outputs(images)
    for outputs in ((found.logits, *found.deep), outputs_of(theirs, images)):
        sum(logits.square().mean() for logits in outputs).backward()
    layout = loading.layout_of(theirs.state_dict())
    gradients, _ = layout.renamed({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert float((parameter.grad - gradients[name]).abs().max()) <= 1e-10 * largest, name
    statistics, _ = layout.renamed(dict(theirs.named_buffers()))
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, statistics[name], rtol=1e-10, atol=1e-10)


def test_sizes_that_do_not_divide_are_said_to_differ(tmp_path: Path) -> None:
    """The record says where, and it is true: at 16 × k they are equal, and elsewhere not, though theirs takes it."""
    theirs = drawn(Milesial()).eval()
    model = unetzoo.load_foreign(saved(theirs.state_dict(), tmp_path))
    assert "equal where sides are divisible by 16" in model.origin
    images = images_of(model, (33, 50), torch.float64)
    assert float((model(images) - theirs(images)).detach().abs().max()) > 1e-3


# Files


WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "data parallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "milesial's own": lambda state: {**state, "mask_values": [0, 255]},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "Lightning, with a loss": lambda state: {
        "state_dict": {**{f"net.{n}": tensor for n, tensor in state.items()}, "loss.pos_weight": torch.ones(1)}
    },
    "an average": lambda state: {
        "model": {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        "ema": {"n_averaged": torch.tensor(5), **{f"module.{name}": tensor for name, tensor in state.items()}},
    },
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_wrappings_are_taken_off(wrapping: str, tmp_path: Path) -> None:
    theirs = drawn(Milesial(), torch.float32).eval()
    model = unetzoo.load_foreign(saved(WRAPPED[wrapping](theirs.state_dict()), tmp_path))
    images = images_of(model, (16, 16), torch.float32)
    assert_near(model(images), theirs(images), 1e-5)


@pytest.mark.parametrize(("taken", "left"), [("model_ema", "model"), ("teacher", "student")])
def test_which_of_two_networks_was_taken_is_logged(
    taken: str, left: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (drawn(Milesial(), torch.float32).state_dict() for _ in range(2))
    other = {name: tensor + 1 for name, tensor in other.items()}
    path = saved({left: one, taken: other, "epoch": 3, "loss": {"weight": torch.ones(1)}}, tmp_path)
    for load in (unetzoo.load_foreign, lambda path: unetzoo.convert(path, tmp_path / "ours.safetensors")):
        caplog.clear()
        load(path)
        (line,) = (record.getMessage() for record in caplog.records)
        assert f"taken from {taken!r}" in line
        assert f"another that fits, '{path}::{left}'" in line
        assert all(name in line for name in ("epoch", "loss.weight"))
    found = unetzoo.load_foreign(f"{path}::{left}").state_dict()["head.conv.bias"]
    assert torch.equal(found, one["outc.conv.bias"])


def test_a_model_of_this_package_is_called_one(tmp_path: Path) -> None:
    unetzoo.save_pretrained(unetzoo.create("unet", base_channels=2), tmp_path / "ours")
    for path in (tmp_path / "ours", tmp_path / "ours" / "model.safetensors"):
        with pytest.raises(WeightsError, match=r"saved model.*unetzoo\.load takes it"):
            unetzoo.load_foreign(path)


def test_another_number_of_classes_or_channels_is_for_load(tmp_path: Path) -> None:
    path = saved(Milesial(classes=2).state_dict(), tmp_path)
    for name, number in (("num_classes", 5), ("in_channels", 1)):
        with pytest.raises(WeightsError, match=rf"convert it, then load\(…, {name}={number}\)"):
            unetzoo.load_foreign(path, **{name: number})


def test_convert_needs_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file made knows what it was, and every command that describes files says so."""
    theirs = drawn(Nested(), torch.float32).half().eval()
    target = tmp_path / "ours.safetensors"
    assert cli.main(["convert", str(saved(theirs.state_dict(), tmp_path)), str(target)]) == 0
    for command in (["verify"], ["info"]):
        assert cli.main([*command, str(target)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len([line for line in told if "unetpp" in line and "NestedUNet" in line and "divisible by 16" in line]) == 3
    assert cli.main(["info", str(target), "--json"]) == 0
    assert "NestedUNet" in json.loads(capsys.readouterr().out)["origin"]
    loaded = unetzoo.load(target)
    assert next(loaded.parameters()).dtype == torch.float16
    unetzoo.save(loaded, tmp_path / "again.safetensors")
    assert unetzoo.load(tmp_path / "again.safetensors").origin == loaded.origin


def test_what_no_tensor_shows_is_taken_from_the_caller(tmp_path: Path) -> None:
    path = saved(Milesial(classes=2).state_dict(), tmp_path)
    told = {"task": "multilabel", "class_names": ("cell", "rim"), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    config = unetzoo.load_foreign(path, **told).config
    assert {key: getattr(config, key) for key in told} == told
    with pytest.raises(ConfigError, match="base_chanels"):
        unetzoo.load_foreign(path, base_chanels=8)
    with pytest.raises(ConfigError, match="pretrained"):
        unetzoo.load_foreign(path, pretrained=True)
    with pytest.raises(WeightsError, match="leave out base_channels"):
        unetzoo.load_foreign(path, base_channels=4)
    with pytest.raises(WeightsError, match=r"milesial.*unet here, not unetpp"):
        unetzoo.convert(path, tmp_path / "it.safetensors", "unetpp")


def test_a_new_layout_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = unetzoo.create("unet", base_channels=2)
    state = {f"mine/{name}": tensor for name, tensor in model.state_dict().items()}
    mine = Layout(
        title="my U-Net",
        home="here",
        marks=("mine/head.*",),
        networks=lambda state: [Network("unet", {"base_channels": 2}, "equal at all sizes")],
        rules=(Rule("mine/(.*)", r"\1"),),
    )
    monkeypatch.setattr(loading, "LAYOUTS", (*loading.LAYOUTS, mine))
    found = unetzoo.load_foreign(saved(state, tmp_path)).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_the_guide_names_every_layout() -> None:
    text = (ROOT / "docs" / "coming_from_others.md").read_text(encoding="utf-8")
    for layout in unets.LAYOUTS:
        assert all(home in text for home in layout.home.split(", ")), layout.title


# Refusals


class EarlyMilesial(Milesial):
    """Of the first version, whose double convolutions narrow at once."""

    def __init__(self) -> None:
        super().__init__(bilinear=True)
        self.up1.conv.double_conv[0] = nn.Conv2d(128, 32, 3, padding=1, bias=False)


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "3 levels": (lambda: Milesial(levels=3), ("milesial's U-Net of 3 levels", "have 5")),
    "an early version": (EarlyMilesial, ("milesial", "bilinear", "early version", "narrower")),
    "6 levels": (lambda: Jaxony(c=2, levels=6), ("jaxony's U-Net of 6 levels", "have 5")),
    "adds": (lambda: Jaxony(form="add"), ("merge_mode='add'", "the zoo concatenates them")),
    "up-sampling": (lambda: Jaxony(form="upsample"), ("up_mode='upsample'", "1×1 convolution")),
    "norms elsewhere": (lambda: Jvanvugt(norm=True), ("batch_norm=True", "after the ReLU")),
    "on a ResNet": (
        lambda: holder(
            e1=nn.Sequential(nn.Conv2d(3, 64, 7)),
            d1=holder(trans=nn.ConvTranspose2d(4, 4, 2)),
            out=holder(layers=nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 1, 1))),
        ),
        ("gyb357", "on a ResNet", "shortcut"),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_network_of_ours_is_called_by_its_name(kind: str, tmp_path: Path) -> None:
    build, words = REFUSED[kind]
    path = saved(build().state_dict(), tmp_path)
    with pytest.raises(WeightsError) as caught:
        unetzoo.convert(path, tmp_path / "it.safetensors")
    for word in ("theirs.pth", "not a network of this zoo", *words):
        assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", PUBLIC)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    """A tensor that is missing, one of another shape, one that is none of a convolution, one too many."""
    public = PUBLIC[kind]
    state = public.build().state_dict()
    weights = [name for name, tensor in state.items() if tensor.ndim == 4]
    first, middle, last = weights[0], weights[len(weights) // 2], weights[-3]
    for changed in (
        {name: tensor for name, tensor in state.items() if name != first},
        {**state, middle: torch.cat([state[middle], state[middle][:1]])},
        {**state, last: torch.zeros(())},
    ):
        with pytest.raises(WeightsError):
            unetzoo.load_foreign(saved(changed, tmp_path), **public.given)
    with pytest.raises(WeightsError, match="unexpected: surplus"):
        unetzoo.load_foreign(saved({**state, "surplus": torch.zeros(1)}, tmp_path), **public.given)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = Milesial().state_dict()
    next(iter(state.values())).view(-1)[0] = float("nan")
    with pytest.raises(WeightsError, match=r"theirs\.pth .*NaN or infinity in 1 of \d+ tensors"):
        unetzoo.load_foreign(saved(state, tmp_path))


def test_shapes_that_no_network_has(tmp_path: Path) -> None:
    state = Milesial().state_dict()
    for name in (name for name, tensor in state.items() if tensor.ndim == 4 and "3" not in name):
        for shape in ((), (3,), (0, 3, 3, 3)):
            with pytest.raises(WeightsError, match=re.escape(str(shape))):
                unetzoo.load_foreign(saved({**state, name: torch.zeros(shape)}, tmp_path))


def test_names_of_a_layout_in_volumes(tmp_path: Path) -> None:
    state = {name: tensor[..., None] if tensor.ndim == 4 else tensor for name, tensor in Jaxony().state_dict().items()}
    with pytest.raises(WeightsError, match="volumes"):
        unetzoo.load_foreign(saved(state, tmp_path))


def test_numbers_in_names_cost_nothing(tmp_path: Path) -> None:
    surplus = {f"down{10**15}.maxpool_conv": torch.zeros(1), f"down{'9' * 5000}.x": torch.zeros(1)}
    with pytest.raises(WeightsError, match="unexpected: down1000000000000000"):
        unetzoo.load_foreign(saved({**Milesial().state_dict(), **surplus}, tmp_path))


def test_two_tensors_for_one_place(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"unexpected: final\."):
        unetzoo.load_foreign(saved({**Nested(deep=True).state_dict(), **Nested().state_dict()}, tmp_path))


def test_names_of_nobody(tmp_path: Path) -> None:
    path = saved(nn.Conv2d(3, 3, 3).state_dict(), tmp_path)
    with pytest.raises(WeightsError, match=r"theirs\.pth .*milesial.*--model NAME"):
        unetzoo.load_foreign(path)
    with pytest.raises(ConfigError, match=r"theirs\.pth .*milesial.*--model NAME"):
        unetzoo.convert(path, tmp_path / "it.safetensors")


def test_the_guide_says_which_differ_at_other_sizes() -> None:
    """A row for each, as the record of a model made of it says."""
    text = (ROOT / "docs" / "coming_from_others.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\S.*?) \| ((?:\*\*differ|equal at|theirs accepts).*) \|$", text, re.MULTILINE))
    for kind, public in PUBLIC.items():
        state = public.build().state_dict()
        layout = loading.layout_of(state)
        assert layout is not None
        network = next(n for n in layout.networks(state) if n.name == public.name)
        owner = layout.title.partition("'")[0]
        titles = [title for title in rows if owner in title]
        (title,) = [one for one in titles if len(titles) == 1 or ("padding" in one) == ("padded" in kind)]
        differs = re.search("elsewhere theirs (rounds|gives)", network.remark)
        assert rows[title].startswith("**differ**") == bool(differs), (kind, network.remark)
