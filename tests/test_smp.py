"""smp's networks: ours against segmentation_models_pytorch itself, and its files here."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from conftest import tried
from hub_server import HubServer
from segmentation_models_pytorch.decoders.unetplusplus.decoder import DecoderBlock
from torch import Tensor, nn

import unetzoo
from unetzoo import ConfigError, WeightsError, cli
from unetzoo.foreign.loading import network_of as network_in_file
from unetzoo.foreign.smp import LAYOUT, network_of

COMMON = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
"""Encoders that both have by one name."""
pytestmark = pytest.mark.usefixtures("as_if_large")

KINDS = {"unet": smp.Unet, "unetplusplus": smp.UnetPlusPlus}
NARROW = (32, 24, 16, 12, 8)
WIDE = (32, 24, 16, 16, 16)
INSTANCE = {"type": "instancenorm", "affine": True}


def told(folder: Path, caplog: pytest.LogCaptureFixture, **options: Any) -> list[str]:
    """Return the warnings of loading what smp has saved."""
    caplog.clear()
    with caplog.at_level("INFO", "unetzoo"):
        unetzoo.from_pretrained(folder, **options)
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_what_is_assumed_is_a_warning_and_what_is_idle_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shallow = {"encoder_depth": 4, "decoder_channels": [32, 24, 16, 16], "decoder_attention_type": "scse"}
    smp.Unet("resnet18", encoder_weights=None, **shallow).save_pretrained(tmp_path / "rgb")
    (line,) = told(tmp_path / "rgb", caplog)
    assert "mean and std are ImageNet's" in line
    assert re.search(r"left out, as no logit depends on it: encoder\.layer4.* more;", line)
    assert told(tmp_path / "rgb", caplog, mean=(0, 0, 0), std=(1, 1, 1)) == []
    assert unetzoo.from_pretrained(tmp_path / "rgb", mean=(0, 0, 0), std=(1, 1, 1)).config.mean == (0, 0, 0)
    smp.Unet("resnet18", encoder_weights=None, in_channels=4).save_pretrained(tmp_path / "bands")
    lines = told(tmp_path / "bands", caplog)
    assert not any("ImageNet" in line for line in lines)


FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "narrow": ("resnet18", {"decoder_channels": NARROW}, {"decoder_channels": NARROW}),
    "defaults": ("resnet34", {}, {}),
    "bottlenecks, bands, classes": ("resnet50", {"in_channels": 4, "classes": 3}, {"in_channels": 4, "num_classes": 3}),
    "no norm, depth 4": (
        "resnet18",
        {"encoder_depth": 4, "decoder_channels": [24, 16, 12, 8], "decoder_use_norm": False},
        {"decoder_channels": (24, 16, 12, 8), "decoder_norm": None},
    ),
    "instance norm, depth 3": (
        "resnet18",
        {"encoder_depth": 3, "decoder_channels": (24, 16, 12), "decoder_use_norm": INSTANCE},
        {"decoder_channels": (24, 16, 12), "decoder_norm": "instance"},
    ),
    "bilinear, scse": (
        "resnet18",
        {"decoder_channels": WIDE, "decoder_interpolation": "bilinear", "decoder_attention_type": "scse"},
        {"decoder_channels": WIDE, "upsampling": "bilinear", "attention": "scse"},
    ),
    "groups": ("resnext50_32x4d", {"decoder_channels": NARROW}, {"decoder_channels": NARROW}),
    "timm's": ("tu-resnet18", {"decoder_channels": NARROW}, {"decoder_channels": NARROW}),
    "timm's, wide, depth 3": (
        "tu-wide_resnet50_2",
        {"encoder_depth": 3, "decoder_channels": (24, 16, 12)},
        {"decoder_channels": (24, 16, 12)},
    ),
}  # fmt: skip
QUICK = ("no norm, depth 4", "instance norm, depth 3", "bilinear, scse", "timm's")


def theirs(kind: str, encoder: str = "resnet18", **options: Any) -> nn.Module:
    """Return a network of smp's with every weight and statistic drawn at random."""
    torch.manual_seed(0)
    model = KINDS[kind](encoder, encoder_weights=None, **options)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.normal_(0.1, 0.5)
    return model.eval()


def assert_equal(ours: unetzoo.SegmentationModel, other: nn.Module, size: tuple[int, int], idle: str = "") -> None:
    """Compare logits and gradients, in both modes, in float64."""
    ours, other = ours.double(), other.double()
    images = torch.randn(2, ours.config.in_channels, *size, dtype=torch.float64)
    for training in (False, True):
        ours.train(training), other.train(training)
        ours.zero_grad(), other.zero_grad()
        found, expected = ours(images), other(images)
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
        weights = torch.randn_like(expected)
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        given = {name: parameter.grad for name, parameter in other.named_parameters() if parameter.grad is not None}
        gradients, left = LAYOUT.renamed(given, idle)
        assert not left
        for name, parameter in ours.named_parameters():
            scale = gradients[name].abs().max()
            assert (parameter.grad - gradients[name]).abs().max() <= 1e-9 * scale + 1e-12, name


@pytest.mark.parametrize("encoder", tried(COMMON, COMMON[:5]))
@pytest.mark.parametrize("kind", KINDS)
def test_counts(kind: str, encoder: str) -> None:
    with torch.device("meta"):
        other = KINDS[kind](encoder, encoder_weights=None)
    assert unetzoo.model_info(f"smp_{kind}_{encoder}").parameters == sum(p.numel() for p in other.parameters())


@pytest.mark.parametrize("form", tried(FORMS, QUICK))
@pytest.mark.parametrize("kind", KINDS)
def test_exact_and_read_off_the_tensors(kind: str, form: str, tmp_path: Path) -> None:
    encoder, options, wanted = FORMS[form]
    other = theirs(kind, encoder, **options).double()
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    given = {"upsampling": "bilinear"} if "upsampling" in wanted else {}
    model = unetzoo.load_foreign(tmp_path / "weights.pth", **given)
    assert (
        model.config
        == unetzoo.create(
            f"smp_{kind}_{encoder.removeprefix('tu-')}",
            **wanted,
            **({} if "in_channels" in wanted else {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        ).config
    )
    # Of 32 pixels the deepest map is one: a norm of two values multiplies rounding, in wide networks beyond the bound.
    side = 32 if form in QUICK else 64
    assert_equal(model, other, (side, side))


def test_sizes_that_do_not_divide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = theirs("unet", decoder_channels=NARROW)
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    assert_equal(unetzoo.load_foreign(tmp_path / "weights.pth"), other, (37, 51))

    other = theirs("unetplusplus", decoder_channels=NARROW)
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    model, size = unetzoo.load_foreign(tmp_path / "weights.pth"), (37, 51)
    with pytest.raises(RuntimeError, match="divisible by 32"):
        other(torch.rand(1, 3, *size))

    def forward(block: DecoderBlock, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """As smp's Unet does it: to the size of what it meets."""
        x = F.interpolate(x, size if skip is None else skip.shape[2:], mode="nearest")
        return block.conv2(block.conv1(x if skip is None else torch.cat([x, skip], dim=1)))

    monkeypatch.setattr(DecoderBlock, "forward", forward)
    monkeypatch.setattr(type(other), "check_input_shape", lambda *_: None)
    assert_equal(model, other, size)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_deep_supervision(kind: str) -> None:
    model = unetzoo.create(f"smp_{kind}_resnet18", decoder_channels=NARROW, deep_supervision=True).eval()
    outputs = model.training_outputs(torch.rand(1, 3, 41, 64))
    assert [logits.shape[2:] for logits in outputs.deep] == [(41, 64)] * (4 if kind == "unet" else 3)
    assert [head.conv.in_channels for head in model.deep_heads] == ([12, 16, 24, 32] if kind == "unet" else [64] * 3)
    with pytest.raises(ConfigError, match="cannot be pruned"):
        model.prune(1)


def test_a_decoder_of_group_norm_or_attention_looks_at_the_whole_image() -> None:
    from unetzoo.prediction.reach import reach

    def config(**options: Any) -> unetzoo.ModelConfig:
        return unetzoo.create("smp_unet_resnet18", decoder_channels=NARROW[:3], **options).config

    assert reach(config(decoder_norm="group")) is None
    assert reach(config(attention="scse")) is None
    assert 0 < (reach(config(decoder_norm=None)) or 0) < 500


# Its files


def saved(folder: Path, kind: str = "unetplusplus", **options: Any) -> nn.Module:
    model = theirs(kind, **{"decoder_channels": NARROW, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return model


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(images)
    return found[0] if isinstance(found, tuple) else found


def test_a_folder_is_a_trained_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"classes": 3, "activation": "sigmoid", "aux_params": {"classes": 5}, "decoder_interpolation": "bilinear"}
    other = saved(tmp_path / "theirs", **options)
    caplog.set_level("INFO", logger="unetzoo")
    model = unetzoo.from_pretrained(tmp_path / "theirs")
    images = torch.rand(2, 3, 64, 64)
    assert not model.training
    assert model.config.task == "multilabel"
    assert model.config.mean == (0.485, 0.456, 0.406)
    assert torch.allclose(model.predict(images), logits_of(other, images), atol=1e-5)
    (line,) = [record.getMessage() for record in caplog.records]
    caplog.set_level("WARNING", logger="unetzoo")
    assert "'sigmoid'" in line
    assert "classification_head.3.weight" in line

    unetzoo.save_pretrained(model, tmp_path / "ours")
    again = unetzoo.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(images), model(images))
    assert again.origin == model.origin
    assert "segmentation_models_pytorch" in again.origin
    found = unetzoo.convert(tmp_path / "theirs" / "model.safetensors", tmp_path / "one.safetensors")
    assert found.config == model.config


def test_a_folder_goes_where_a_trained_model_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nuclei: Path
) -> None:
    folder = tmp_path / "theirs"
    other = saved(folder, "unet")
    assert cli.main(["info", str(folder)]) == 0
    assert "smp_unet_resnet18" in capsys.readouterr().out
    image = next((nuclei / "images").iterdir())
    assert cli.main(["predict", str(folder), str(image), "--out", str(tmp_path / "masks")]) == 0
    assert (tmp_path / "masks" / image.name).is_file()
    changed = unetzoo.from_pretrained(folder, num_classes=4, in_channels=1)
    assert changed(torch.rand(1, 1, 32, 32)).shape == (1, 4, 32, 32)
    assert torch.equal(changed.decoder.blocks[0].conv[0].conv.weight, other.decoder.blocks[0].conv1[0].weight)
    with pytest.raises(WeightsError, match="without digests"):
        unetzoo.verify(folder)


def test_a_repository(hub: HubServer, tmp_path: Path) -> None:
    other = saved(tmp_path / "theirs", "unet")
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo("me/roads")
    api.upload_folder(repo_id="me/roads", folder_path=tmp_path / "theirs")
    images = torch.rand(1, 3, 40, 70)
    for source in ("me/roads", "hf-hub:me/roads@main"):
        assert torch.allclose(unetzoo.from_pretrained(source)(images), logits_of(other, images), atol=1e-5)
    asked = len(hub.requests)
    unetzoo.from_pretrained("me/roads", local_files_only=True)
    assert len(hub.requests) == asked

    blob = (unetzoo.pull_from_hub("me/roads") / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(unetzoo.HubError, match="is damaged and was removed") as caught:
        unetzoo.from_pretrained("me/roads")
    assert caught.value.reason == "damaged"
    assert unetzoo.from_pretrained("me/roads").config.decoder == "smp_unet"  # fetched anew

    (tmp_path / "theirs" / "config.json").write_text('{"_model_class": "FPN", "encoder_name": "resnet18"}')
    api.create_repo("me/others")
    api.upload_folder(repo_id="me/others", folder_path=tmp_path / "theirs")
    with pytest.raises(unetzoo.HubError, match="_model_class='FPN'") as caught:
        unetzoo.from_pretrained("me/others")
    assert caught.value.reason == "not_a_model"


@pytest.mark.parametrize("beside", [{}, {"mean": torch.zeros(1, 3, 1, 1), "loss_fn.pos_weight": torch.ones(1)}])
def test_a_checkpoint_of_lightning(beside: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = theirs("unetplusplus", decoder_channels=NARROW, aux_params={"classes": 2})
    state = {f"model.{name}": tensor for name, tensor in other.state_dict().items()}
    content = {"epoch": 3, "pytorch-lightning_version": "2.6.0", "hyper_parameters": {"arch": "UnetPlusPlus"}}
    torch.save({**content, "state_dict": {**state, **beside}}, tmp_path / "last.ckpt")
    model = unetzoo.from_pretrained(tmp_path / "last.ckpt")
    images = torch.rand(1, 3, 64, 64)
    assert torch.allclose(model(images), logits_of(other, images), atol=1e-5)
    assert "decoder_interpolation='nearest'" in caplog.text
    assert all(name in caplog.text for name in beside)
    saved = unetzoo.convert(tmp_path / "last.ckpt", tmp_path / "model.safetensors", "smp_unetplusplus_resnet18")
    assert saved.config == model.config
    with pytest.raises(WeightsError, match="smp_unetplusplus_resnet18 here, not smp_unet_resnet34"):
        unetzoo.convert(tmp_path / "last.ckpt", tmp_path / "other.safetensors", "smp_unet_resnet34")


@pytest.mark.parametrize(
    ("beside", "mean", "said"),
    [
        (([0.7, 0.5, 0.6], [0.1, 0.2, 0.3]), (0.7, 0.5, 0.6), "mean and std are state_dict.mean and state_dict.std;"),
        (([178.5, 127.5, 153.0], [25.5, 51, 76.5]), (0.7, 0.5, 0.6), "state_dict.std, divided by 255;"),
        (([0.7, 0.5], [0.1, 0.2]), None, "were not used as mean and std: one value for each of 3 channels is needed"),
        (([0.7, 0.5, 0.6], [0.1, 0.0, 0.3]), None, "were not used as mean and std: a std above 0"),
        (([0.7, 0.5, 0.6], [51.0, 51.0, 51.0]), None, r"neither of pixels in \[0, 1\] nor of pixels in \[0, 255\]"),
    ],
)
def test_mean_and_std_next_to_the_network_are_used_or_named(
    beside: Any, mean: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ImageNet's were assumed, whatever the module had."""
    other = theirs("unet", decoder_channels=NARROW)
    state = {f"model.{name}": tensor for name, tensor in other.state_dict().items()}
    state |= {name: torch.tensor(values)[:, None, None] for name, values in zip(("mean", "std"), beside, strict=True)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    model = unetzoo.load(tmp_path / "last.ckpt")
    assert model.config.mean == pytest.approx(mean or (0.485, 0.456, 0.406), abs=1e-7)
    assert model.config.std == pytest.approx((0.1, 0.2, 0.3) if mean else (0.229, 0.224, 0.225), abs=1e-7)
    assert re.search(said, caplog.text)
    assert ("mean and std are ImageNet's" in caplog.text) == (mean is None)
    assert ("left: " in caplog.text) == (mean is None)
    given = unetzoo.load_foreign(tmp_path / "last.ckpt", mean=(0.1, 0.1, 0.1), std=(1, 1, 1))
    assert given.config.mean == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.pth.tar", "a.bin", "a.ckpt"])
def test_a_checkpoint_of_any_ending(name: str, tmp_path: Path) -> None:
    other = theirs("unet", decoder_channels=NARROW)
    torch.save({"state_dict": other.state_dict(), "epoch": 3}, tmp_path / name)
    images = torch.rand(1, 3, 64, 64)
    assert torch.allclose(unetzoo.load(tmp_path / name)(images), logits_of(other, images), atol=1e-5)


RECORD = {"_model_class": "Unet", "encoder_name": "resnet18", "decoder_channels": [16, 16, 16, 16, 16]}


def test_records_of_every_version() -> None:
    options = {"decoder_channels": (16, 16, 16, 16, 16)}
    for more, wanted in (
        ({"decoder_use_batchnorm": True}, {}),
        ({"decoder_use_batchnorm": False}, {"decoder_norm": None}),
        ({"decoder_use_norm": "identity"}, {"decoder_norm": None}),
        ({"decoder_use_norm": {"type": "batchnorm", "momentum": 0.1}}, {}),
        ({"decoder_use_norm": INSTANCE}, {"decoder_norm": "instance"}),
        ({"encoder_name": "tu-resnet18.a1_in1k", "activation": "softmax2d", "classes": 3}, {"task": "multiclass"}),
        ({"classes": 3, "activation": "sigmoid"}, {"task": "multilabel"}),
        ({"activation": "sigmoid"}, {}),
        ({"in_channels": 5}, {"in_channels": 5}),
        ({"encoder_weights": "imagenet", "output_stride": None}, {}),
    ):
        network = network_of({**RECORD, **more})
        assert network.name == "smp_unet_resnet18"
        assert {**options, **wanted}.items() <= network.options.items(), more
        assert ("mean" in network.options) == ("in_channels" not in more)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"_model_class": "DeepLabV3Plus"}, ["_model_class='DeepLabV3Plus'", "'Unet', 'UnetPlusPlus'"]),
        ({"encoder_name": "efficientnet-b0"}, ["encoder_name='efficientnet-b0'", "'resnet18'"]),
        ({"encoder_name": ["resnet18"]}, ["encoder_name"]),
        ({"encoder_depth": 1}, ["encoder_depth=1", "from 2 to 5", "decoder_channels"]),
        ({"decoder_channels": [16, 16]}, ["decoder_channels=[16, 16]", "5 whole numbers"]),
        ({"decoder_channels": None}, ["decoder_channels=None"]),
        ({"decoder_use_norm": "inplace"}, ["decoder_use_norm='inplace'", "'batchnorm'"]),
        ({"decoder_use_norm": "instancenorm"}, ["affine=True"]),
        ({"decoder_use_norm": {"type": "batchnorm", "eps": 0.01}}, ["eps=0.01", "1e-05"]),
        ({"decoder_use_norm": {"type": ["batchnorm"]}}, ["decoder_use_norm"]),
        ({"decoder_interpolation": "bicubic"}, ["decoder_interpolation='bicubic'", "'nearest', 'bilinear'"]),
        ({"decoder_attention_type": "cbam"}, ["decoder_attention_type='cbam'"]),
        ({"activation": "tanh"}, ["activation='tanh'", "'sigmoid'"]),
        ({"activation": {"a": 1}}, ["activation"]),
        ({"classes": 0}, ["classes=0"]),
        ({"output_stride": 16}, ["'output_stride'"]),
        ({"encoder_depth": 9, "classes": 1.5, "activation": "argmax"}, ["encoder_depth=9", "classes=1.5", "'argmax'"]),
    ],
)
def test_what_is_no_network_of_ours_is_named(wrong: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        network_of({**RECORD, **wrong})
    assert all(part in str(caught.value) for part in said), caught.value


def test_of_another_kind_only_that_is_said() -> None:
    """What else stands in config.json are arguments of that kind."""
    own = {"upsampling": 4, "decoder_dropout": 0.2, "decoder_pyramid_channels": 256}
    for wrong in ({"_model_class": ["FPN"]}, {"_model_class": "MAnet", "encoder_name": "se_resnet50"}):
        with pytest.raises(ConfigError) as caught:
            network_of({**RECORD, **own, **wrong})
        (said,) = caught.value.problems
        assert all(f"{key}={value!r}" in said for key, value in wrong.items())
        assert not any(word in said for word in (*own, "did you mean"))


def test_the_log_says_what_was_assumed_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At every door: a file of tensors, a folder, and what the caller says himself."""
    other = saved(tmp_path / "theirs", "unet", classes=3)
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    assumed = ("decoder_interpolation='nearest'", "mean and std are ImageNet's", "one class per pixel")

    def line() -> str:
        (record,) = caplog.records
        caplog.clear()
        # A warning is what the reader should look at.
        assert (record.levelname == "WARNING") == ("(give " in record.getMessage())
        return record.getMessage()

    caplog.set_level("INFO", logger="unetzoo")
    unetzoo.load_foreign(tmp_path / "weights.pth")
    said = line()
    assert all(text in said for text in (*assumed, "give upsampling='bilinear'", "give task='multilabel'"))
    assert "0.485" not in said

    told = {"task": "multilabel", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    unetzoo.load_foreign(tmp_path / "weights.pth", upsampling="bilinear", **told)
    said = line()
    assert not any(text in said for text in ("nearest", *assumed))
    assert all(text in said for text in ("upsampling='bilinear'", "task='multilabel'", "mean=(0.5, 0.5, 0.5)"))

    unetzoo.load(tmp_path / "theirs")
    said = line()
    assert [text in said for text in assumed] == [False, True, True]  # config.json says the interpolation
    unetzoo.load(tmp_path / "theirs", **told)
    said = line()
    assert not any(text in said for text in ("ImageNet", "0.485", "multiclass"))


def test_a_folder_is_converted(tmp_path: Path) -> None:
    saved(tmp_path / "theirs", "unet", decoder_interpolation="bilinear")
    found = unetzoo.convert(tmp_path / "theirs", tmp_path / "ours.safetensors")
    assert "'upsampling': 'bilinear'" in str(found.config.to_dict())
    assert unetzoo.load_foreign(tmp_path / "theirs").config == found.config


@pytest.mark.parametrize(
    ("kind", "encoder", "said"),
    [
        (
            "FPN",
            "resnet18",
            "only its Unet and UnetPlusPlus.*; its encoder alone fits .* such as unet3p_resnet18, with pretrained",
        ),
        ("Unet", "vgg11", "only its Unet and UnetPlusPlus"),
        ("Unet", "mobilenet_v2", "on another encoder"),
        ("UnetPlusPlus", "resnext101_32x4d", "on another encoder"),
    ],
)
def test_tensors_of_other_networks_are_named(kind: str, encoder: str, said: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        other = getattr(smp, kind)(encoder, encoder_weights=None)
    # Which it is, is seen by shapes: a tensor of one value that claims to be larger is none that a file can hold.
    state = {name: torch.zeros((), dtype=x.dtype).expand(x.shape) for name, x in other.state_dict().items()}
    with pytest.raises(WeightsError, match=said):
        network_in_file(tmp_path / "weights.pth", LAYOUT, state)


def test_a_tensor_that_lacks_is_named(tmp_path: Path) -> None:
    state = theirs("unet", decoder_channels=NARROW).state_dict()
    del state["encoder.layer2.0.conv2.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"missing: encoder.layer2.0.conv2"):
        unetzoo.load_foreign(tmp_path / "weights.pth")


def test_a_config_that_the_tensors_contradict(tmp_path: Path) -> None:
    saved(tmp_path, "unet")
    record = json.loads((tmp_path / "config.json").read_text())
    for change, said in (
        ({"encoder_name": "resnet34"}, "missing: encoder.layer1.2.conv1.weight"),
        ({"classes": 2}, "head"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(WeightsError, match=said):
            unetzoo.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert unetzoo.from_pretrained(tmp_path).config.decoder == "smp_unet"  # the tensors tell
