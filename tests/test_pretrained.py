"""Pretrained encoders, from files that torchvision itself wrote: a path, torch's cache, a server on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hostile import Payload
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import unetzoo
from unetzoo import WeightsError


@pytest.fixture(scope="module")
def trunk() -> nn.Module:
    """Return a torchvision ResNet-18 with weights and statistics of its own."""
    torch.manual_seed(3)
    net = models.resnet18(weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
    return net


@pytest.fixture(scope="module")
def checkpoint(trunk: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write its weights as torchvision does, with the hash in the name."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(trunk.state_dict(), folder / "raw")
    digest = hashlib.sha256((folder / "raw").read_bytes()).hexdigest()
    return (folder / "raw").rename(folder / f"resnet18-{digest[:8]}.pth")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give torch an empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Iterator[str]:
    """Serve the folder of the checkpoint, and point torchvision's enum at it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(checkpoint.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/{checkpoint.name}"
    monkeypatch.setattr(models.ResNet18_Weights.IMAGENET1K_V1.value, "url", address)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def assert_is(model: unetzoo.SegmentationModel, trunk: nn.Module) -> None:
    expected = {name: tensor for name, tensor in trunk.state_dict().items() if not name.startswith("fc.")}
    found = model.encoder.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_from_a_path(checkpoint: Path, trunk: nn.Module, tmp_path: Path) -> None:
    assert_is(unetzoo.create("resunet18", pretrained=str(checkpoint)), trunk)
    assert_is(unetzoo.create("unetpp_resnet18", pretrained=checkpoint, stem_stride=1), trunk)
    save_file(trunk.state_dict(), tmp_path / "trunk.safetensors")
    assert_is(unetzoo.create("unet3p_lite_resnet18", pretrained=tmp_path / "trunk.safetensors"), trunk)


def test_old_files_without_counters(trunk: nn.Module, tmp_path: Path) -> None:
    state = {k: v for k, v in trunk.state_dict().items() if not k.endswith("tracked") and not k.startswith("fc.")}
    torch.save(state, tmp_path / "old.pth")
    assert_is(unetzoo.create("resunet18", pretrained=tmp_path / "old.pth"), trunk)


def test_shallow_networks_take_what_they_need(checkpoint: Path, trunk: nn.Module) -> None:
    model = unetzoo.create("unetpp_resnet18", levels=2, pretrained=checkpoint)
    assert torch.equal(model.encoder.state_dict()["layer2.0.conv1.weight"], trunk.layer2[0].conv1.weight)
    assert not any(name.startswith("layer3") for name in model.encoder.state_dict())


def test_from_torch_s_cache_without_a_network(
    checkpoint: Path, trunk: nn.Module, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.ResNet18_Weights.IMAGENET1K_V1.value, "url", f"http://127.0.0.1:9/{checkpoint.name}")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was touched"))
    (cache / checkpoint.name).write_bytes(checkpoint.read_bytes())
    for pretrained in (True, "IMAGENET1K_V1", "DEFAULT"):
        assert_is(unetzoo.create("resunet18", pretrained=pretrained), trunk)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_over_http(url: str, trunk: nn.Module, cache: Path, checkpoint: Path) -> None:
    assert_is(unetzoo.create("resunet18", pretrained=True), trunk)
    assert (cache / checkpoint.name).read_bytes() == checkpoint.read_bytes()


def test_a_corrupted_download_is_refused_and_not_kept(url: str, cache: Path, checkpoint: Path) -> None:
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(good[:-1000] + bytes(1000))
    try:
        with pytest.raises(WeightsError, match="hash") as caught:
            unetzoo.create("resunet18", pretrained=True)
    finally:
        checkpoint.write_bytes(good)
    assert checkpoint.name in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_corrupted_cache_is_refused(url: str, cache: Path, checkpoint: Path) -> None:
    file = cache / checkpoint.name
    file.write_bytes(checkpoint.read_bytes()[:-1000] + bytes(1000))
    with pytest.raises(WeightsError, match="damaged") as caught:
        unetzoo.create("resunet18", pretrained=True)
    assert str(file) in str(caught.value)
    assert "delete it" in str(caught.value)


def test_without_a_network_one_error_says_all(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        models.ResNet50_Weights.IMAGENET1K_V2.value, "url", "http://127.0.0.1:9/models/resnet50-11ad3fa6.pth"
    )
    with pytest.raises(WeightsError) as caught:
        unetzoo.create("resunet50", pretrained=True)
    message = str(caught.value)
    for words in (
        "resnet50-11ad3fa6.pth",
        str(cache / "resnet50-11ad3fa6.pth"),
        "http://127.0.0.1:9/models/",
        "TORCH_HOME",
        "pretrained='path/to/resnet50-11ad3fa6.pth'",
    ):
        assert words in message
    assert list(cache.iterdir()) == []


def test_the_likely_cause_is_named(tmp_path: Path, trunk: nn.Module) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {}, "epoch": 3}, file)
    with pytest.raises(WeightsError, match=r"weights\.pth .*no state dict .*state_dict, epoch;"):
        unetzoo.create("resunet18", pretrained=file)
    torch.save(trunk, file)
    with pytest.raises(WeightsError) as caught:
        unetzoo.create("resunet18", pretrained=file)
    assert "\x1b" not in str(caught.value)


def test_nothing_that_is_loaded_runs(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "executed"
    torch.save({"conv1.weight": Payload(mark)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Payload(mark)))
    for file in ("a.pth", "b.pth"):
        with pytest.raises(WeightsError, match="is not opened"):
            unetzoo.create("resunet18", pretrained=tmp_path / file)
    digest = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()[:8]
    name = f"resnet18-{digest}.pth"
    (tmp_path / "a.pth").rename(cache / name)
    monkeypatch.setattr(models.ResNet18_Weights.IMAGENET1K_V1.value, "url", f"http://127.0.0.1:9/{name}")
    with pytest.raises(WeightsError, match=r"needs posix\.mkdir"):
        unetzoo.create("resunet18", pretrained=True)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"hello"),
        ("empty.safetensors", b""),
        ("text.safetensors", b"hello, world" * 10),
        ("huge.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
    ],
)
def test_files_that_hold_no_tensors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} (cannot be read|is not a safetensors file)"):
        unetzoo.create("resunet18", pretrained=tmp_path / name)


def test_truncated_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"cut\.pth cannot be read"):
        unetzoo.create("resunet18", pretrained=tmp_path / "cut.pth")


def test_no_dictionary_of_tensors(tmp_path: Path, trunk: nn.Module) -> None:
    for number, value in enumerate(([torch.zeros(1)], {"teacher": [trunk.state_dict()]}, {"epoch": 3})):
        torch.save(value, tmp_path / f"{number}.pth")
        with pytest.raises(WeightsError, match=r"save only model\.state_dict"):
            unetzoo.create("resunet18", pretrained=tmp_path / f"{number}.pth")


def test_another_network_s_weights(checkpoint: Path, tmp_path: Path, trunk: nn.Module) -> None:
    with pytest.raises(WeightsError) as caught:
        unetzoo.create("resunet34", pretrained=checkpoint)
    assert "do not fit ResNet-34:" in str(caught.value)
    assert "holds a ResNet-18, which is for 'resunet18'" in str(caught.value)
    state = dict(trunk.state_dict())
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    state["surplus"] = torch.zeros(1)
    del state["bn1.bias"]
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError) as caught:
        unetzoo.create("resunet18", pretrained=tmp_path / "wrong.pth")
    for words in (
        "missing: bn1.bias",
        "unexpected: surplus",
        "layer1.0.conv1.weight: (64, 64, 1, 1) instead of (64, 64, 3, 3)",
    ):
        assert words in str(caught.value)


CHANNELS = {None: (1, 4), "repeat": (2, 13), "mean": (1, 4), "sum": (1, 4), "keep_rgb": (2, 13)}
"""What is tried by default of each policy: fewer channels than three, and more."""


@pytest.mark.parametrize(
    ("policy", "in_channels"),
    [
        pytest.param(policy, number, marks=[] if number in tried else pytest.mark.slow)
        for policy, tried in CHANNELS.items()
        for number in (1, 2, 4, 13)
    ],
)
def test_other_channels(checkpoint: Path, trunk: nn.Module, in_channels: int, policy: str | None) -> None:
    options = {"pretrained": checkpoint, "in_channels": in_channels, "input_policy": policy}
    model = unetzoo.create("unetpp_resnet18", levels=1, **options)  # of whose encoder most is left out
    weight, rgb = model.encoder.conv1.weight, trunk.conv1.weight
    assert weight.shape == (64, in_channels, 7, 7)
    chosen = policy or ("sum" if in_channels == 1 else "repeat")
    if chosen == "repeat":
        expected = torch.stack([rgb[:, k % 3] for k in range(in_channels)], 1) * 3 / in_channels
    elif chosen == "mean":
        expected = rgb.mean(1, keepdim=True).expand_as(weight)
    elif chosen == "sum":
        expected = rgb.sum(1, keepdim=True).expand_as(weight) / in_channels
    else:
        weight = weight[:, :3]
        expected = rgb[:, :in_channels]
    torch.testing.assert_close(weight, expected)
    assert torch.equal(model.encoder.layer1[0].conv1.weight, trunk.layer1[0].conv1.weight)
    assert model.config.mean is None


def test_the_config_records_normalisation_but_not_the_weights(checkpoint: Path) -> None:
    config = unetzoo.create("resunet18", pretrained=checkpoint).config
    preset = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert list(config.mean) == preset.mean
    assert list(config.std) == preset.std
    assert "pretrained" not in config.to_json()
    own = unetzoo.create("resunet18", pretrained=checkpoint, mean=[0.5] * 3, std=[0.5] * 3).config
    assert own.mean == (0.5, 0.5, 0.5)
    assert unetzoo.create("resunet18").config.mean is None


class FromTheImage(unetzoo.Encoder):
    """Its first map is the image itself, and two of its convolutions see it."""

    def __init__(self, in_channels: int, style: object, options: object, depth: int) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides = in_channels, (in_channels, 4)[:depth], (1, 2)[:depth]
        self.wide, self.narrow = nn.Conv2d(in_channels, 4, 3, 2, 1), nn.Conv2d(in_channels, 4, 1, 2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images, self.wide(images) + self.narrow(images)][: len(self.channels)]

    def stages(self) -> list[list[nn.Module]]:
        return [[], [self.wide, self.narrow]][: len(self.channels)]


@pytest.mark.parametrize("said", [None, "wide"])
def test_what_cannot_be_adapted_is_refused(registries: None, said: str | None, tmp_path: Path) -> None:
    kind = type("Kind", (FromTheImage,), {"image_convolution": said})
    unetzoo.register_encoder("direct", title="Direct", paper="none", maps=2, weights="ResNet18_Weights")(kind)
    model = unetzoo.create("unet_direct")
    unetzoo.save(model, tmp_path / "it.safetensors")
    torch.save(model.encoder.state_dict(), tmp_path / "encoder.pth")
    assert unetzoo.load(tmp_path / "it.safetensors", in_channels=3).config.in_channels == 3
    for attempt in (
        lambda: unetzoo.load(tmp_path / "it.safetensors", in_channels=5),
        lambda: unetzoo.create("unet_direct", in_channels=5, pretrained=tmp_path / "encoder.pth"),
    ):
        with pytest.raises(WeightsError) as caught:
            attempt()
        assert ("image_convolution" if said is None else "narrow.weight") in str(caught.value)
    fine = unetzoo.create("unet_direct", pretrained=tmp_path / "encoder.pth").encoder.state_dict()
    assert all(torch.equal(tensor, fine[name]) for name, tensor in model.encoder.state_dict().items())


def test_the_image_convolution_may_have_any_name(registries: None, tmp_path: Path) -> None:
    """It alone is adapted, though it is not the first of the encoder, nor the only one of its shape."""

    class Late(FromTheImage):
        image_convolution = "stem.0"

        def __init__(self, in_channels: int, style: object, options: object, depth: int) -> None:
            super().__init__(3, style, options, depth)
            self.in_channels, self.channels = in_channels, (3, 4)[:depth]
            self.stem = nn.Sequential(nn.Conv2d(in_channels, 3, 3, 1, 1))

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return super().forward(self.stem(images))

    unetzoo.register_encoder("late", title="Late", paper="none", maps=2)(Late)
    model = unetzoo.create("unet_late")
    unetzoo.save(model, tmp_path / "it.safetensors")
    state = unetzoo.load(tmp_path / "it.safetensors", in_channels=6).state_dict()
    for name, tensor in model.state_dict().items():
        expected = tensor.repeat(1, 2, 1, 1) / 2 if name == "encoder.stem.0.weight" else tensor
        assert torch.equal(state[name], expected), name
