"""timm's networks as encoders: maps against timm's own, files that timm wrote, names, and what is refused."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub_server import HubServer
from safetensors.torch import save_file
from torch import Tensor

import unetzoo
from unetzoo import ConfigError, HubError, WeightsError
from unetzoo.encoders import ENCODERS
from unetzoo.model import SegmentationModel
from unetzoo.naming import KIN
from unetzoo.pretrained import normalisation_of
from unetzoo.testing import check_encoder

pytestmark = pytest.mark.usefixtures("encoders_built_once")

SMALL = ("convnextv2_atto", "mobilenetv4_conv_small")
"""Four maps from stride 4, of which ``features_only`` takes sequences apart; five, with the names of the whole."""


def made(name: str, **options: object) -> SegmentationModel:
    return unetzoo.create(f"unet_timm/{name}", **options)  # type: ignore[arg-type]


def filled(name: str) -> tuple[torch.nn.Module, SegmentationModel]:
    """Return timm's whole network, with norms that are not the identity, and ours with its weights."""
    torch.manual_seed(0)
    whole, model = timm.create_model(name).eval(), made(name).eval()
    for tensor in whole.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.3) if tensor.ndim < 2 else tensor.mul_(1.5)
    model.encoder.load_state_dict(model.encoder.from_torchvision(whole.state_dict()))
    return whole, model


def theirs(whole: torch.nn.Module, images: Tensor, maps: int) -> list[Tensor]:
    """Return the maps that timm gives of its whole network, by another way than ``features_only``."""
    found: list[Tensor] = whole.forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]
    return found[-maps:]


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_timm_s_own(name: str) -> None:
    whole, model = filled(name)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found, expected = model.encoder(images), theirs(whole, images, len(model.encoder.channels))
    assert [each.shape[1] for each in found] == list(model.encoder.channels)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", SMALL)
def test_other_sizes_are_those_of_the_image_with_zeros_beside_it(name: str) -> None:
    whole, model = filled(name)
    image = torch.randn(1, 3, 37, 50)
    padded = torch.zeros(1, 3, 64, 64)
    padded[..., :37, :50] = image
    with torch.no_grad():
        found, expected = model.encoder(image), theirs(whole, padded, len(model.encoder.channels))
    for one, other, stride in zip(found, expected, model.encoder.strides, strict=True):
        height, width = -(-37 // stride), -(-50 // stride)
        assert torch.equal(one, other[..., :height, :width])
    with torch.no_grad():
        assert model(image).shape == (1, 1, 37, 50)
        assert model(torch.randn(1, 3, 1, 1)).shape == (1, 1, 1, 1)


def test_stages_are_those_that_a_map_depends_on() -> None:
    encoder = made("mobilenetv4_conv_small").encoder
    encoder.freeze(2)
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    told = ("net.conv_stem.", "net.bn1.", "net.blocks.0.")  # of strides 2 and 4, by timm's feature_info
    assert frozen == {name for name, _ in encoder.named_parameters() if name.startswith(told)}


def test_fewer_maps_are_those_of_a_shallower_network() -> None:
    spec = ENCODERS["timm/mobilenetv4_conv_small"]
    style = made("mobilenetv4_conv_small").config.style
    whole, part = (spec.build(3, style, spec.options(), depth).eval() for depth in (5, 3))
    names = set(part.state_dict())
    assert names < set(whole.state_dict())
    assert not any(name.startswith("net.blocks.3.") for name in names)
    part.load_state_dict({name: tensor for name, tensor in whole.state_dict().items() if name in names})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(part(images), whole(images)[:3], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [3, 1, 5])
def test_a_file_of_timm_s_fits_key_for_key(name: str, channels: int, tmp_path: Path) -> None:
    """Of the whole network, classifier and all; the first convolution becomes that for other channels."""
    whole, _ = filled(name)
    save_file(whole.state_dict(), tmp_path / "timm.safetensors")
    file = str(tmp_path / "timm.safetensors")
    model = made(name, pretrained=file, in_channels=channels, input_policy="sum").eval()
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        found = model.encoder(grey.expand(-1, channels, -1, -1))
        expected = theirs(whole, grey.expand(-1, 3, -1, -1), len(model.encoder.channels))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("mobilenetv4_conv_small").state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"do not fit timm's convnextv2_atto"):
        made("convnextv2_atto", pretrained=str(tmp_path / "a.safetensors"))
    state = {**timm.create_model("convnextv2_atto").state_dict(), "stages.0.blocks.9.more": torch.ones(2)}
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"stages\.0\.blocks\.9\.more"):
        made("convnextv2_atto", pretrained=str(tmp_path / "b.safetensors"))


def test_published_weights_come_by_timm_from_the_hub_and_then_from_its_cache(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = filled("convnextv2_atto")
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    weights = (tmp_path / "model.safetensors").read_bytes()
    hub.add_repo("timm/convnextv2_atto.fcmae_ft_in1k", {"model.safetensors": weights})
    with caplog.at_level("INFO", "unetzoo"):
        model = made("convnextv2_atto", pretrained=True).eval()
    assert "licence: cc-by-nc-4.0" in caplog.text
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(model.encoder(images), theirs(whole, images, 4), strict=True):
            assert torch.equal(one, other)
    assert (model.config.mean, model.config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    hub.close()
    monkeypatch.setenv("UNETZOO_OFFLINE", "1")
    again = made("convnextv2_atto", pretrained="fcmae_ft_in1k").eval()
    with torch.no_grad():
        assert torch.equal(again.encoder(images)[-1], model.encoder(images)[-1])
    with pytest.raises(
        WeightsError, match=r"convnextv2_atto\.fcmae are not in the Hub's cache, .* UNETZOO_OFFLINE=1 forbids"
    ):
        made("convnextv2_atto", pretrained="fcmae")


@pytest.mark.parametrize("silent", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["closed", "silent"])
def test_a_hub_that_gives_nothing_is_given_up_within_five_seconds(hub: HubServer, silent: bool, capfd: Any) -> None:
    """timm's own client tries for more than a minute, and prints each of its retries."""
    if silent:
        hub.fail(".*", hang=20, times=100)
    else:
        hub.close()
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"could not load .*convnextv2_atto\.fcmae_ft_in1k .* pretrained='path/to/"):
        made("convnextv2_atto", pretrained=True)
    assert time.monotonic() - start < 6
    assert capfd.readouterr() == ("", "")


def test_weights_say_how_images_are_normalised() -> None:
    """Not all of timm's are for ImageNet's mean and deviation."""
    with pytest.raises(ConfigError, match=r"True, False, one of 'e2400_r224_in1k', 'e1200_r224_in1k'"):
        made("mobilenetv4_conv_small", pretrained="e9")
    spec = ENCODERS["timm/mobilenetv3_large_100"]
    config = timm.get_pretrained_cfg("mobilenetv3_large_100.miil_in21k")
    assert config.mean == (0.0, 0.0, 0.0)
    assert normalisation_of(spec, "miil_in21k") == (tuple(config.mean), tuple(config.std))


def test_a_saved_model_comes_back_and_says_which_timm_made_it(tmp_path: Path) -> None:
    model = made("convnextv2_atto", num_classes=3, in_channels=5).eval()
    unetzoo.save(model, tmp_path / "a.safetensors")
    again = unetzoo.load(tmp_path / "a.safetensors")
    assert again.config == model.config
    assert again.config.encoder_options.timm_version == timm.__version__  # type: ignore[attr-defined]
    assert again.config.name == "unet_timm/convnextv2_atto"
    images = torch.randn(1, 5, 40, 56)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert len(unetzoo.load(tmp_path / "a.safetensors", in_channels=1)(torch.randn(2, 1, 32, 32))) == 2


def test_names_are_listed_where_they_are_asked_for() -> None:
    assert not any("timm" in name for name in unetzoo.list_models())
    assert not any("timm" in name for name in unetzoo.list_models("unet_*"))
    named = unetzoo.list_models("unet_timm/convnextv2_*")
    assert named == sorted((f"unet_timm/{name}" for name in timm.list_models("convnextv2_*")), key=named.index)
    assert len(named) == len(timm.list_models("convnextv2_*")) > 5
    assert unetzoo.list_models("unet_timm*convnextv2_*") == named  # "timm" is enough
    info = unetzoo.model_info("unetpp_timm/convnextv2_atto")
    assert (info.encoder, info.strides) == ("timm's convnextv2_atto", (4, 8, 16, 32))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_tiny_patch16_224", "its maps have the strides 16, 16, 16. An encoder needs 4 maps or more"),
        ("swin_tiny_patch4_window7_224", "it does not take images of any size; it refused 32 × 32 pixels"),
        ("convnextv2_ato", "has no network 'convnextv2_ato'; did you mean 'convnextv2_atto'"),
        ("convnextv2_atto.fcmae", "give 'timm/convnextv2_atto', and pretrained='fcmae'"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused_with_the_reason(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match="timm") as caught:
        made(name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("unet_tim/resnet18", "unet_timm/resnet18"), ("timm/resnet18", "unet_timm/resnet18")]
)
def test_a_slip_in_timm_is_no_repository(name: str, meant: str, hub: HubServer) -> None:
    with pytest.raises(HubError, match=rf"no file or folder '{name}' here; did you mean '{meant}'\?; as a repository"):
        unetzoo.create(name)


def test_decoders_of_unpadded_convolutions_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs an encoder of unpadded convolutions, and those of timm's"):
        unetzoo.create("unet_valid_timm/convnextv2_atto")


def test_a_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm is needed; pip install 'unetzoo\[timm\]'"):
        made("convnextv2_pico")
    with pytest.raises(ConfigError, match=r"unetzoo\[timm\]"):
        unetzoo.list_models("*timm/*")
    assert unetzoo.list_models("unet")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, "efficientnet_b0", "hrnet_w18_small", "edgenext_xx_small", "regnety_002"])
def test_encoders_of_timm_keep_the_contract(name: str) -> None:
    check_encoder(f"timm/{name}")


@pytest.mark.parametrize("kin", sorted(KIN.values()))
def test_what_stands_in_for_a_well_known_encoder_is_one(kin: str) -> None:
    assert ENCODERS[f"timm/{kin}"].maps >= 4
