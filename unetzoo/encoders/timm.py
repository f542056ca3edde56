"""timm's networks as encoders, by their names in timm: ``unet_timm/convnextv2_tiny``. Needs the extra ``timm``.

Code: timm's own networks (Wightman 2019, github.com/huggingface/pytorch-image-models, Apache-2.0), made with its
``features_only``. A network can be used if it gives at least four maps at even strides, each of which divides the next,
and takes images of any size that is divisible by the coarsest stride. Here, images of other sizes are padded with zeros
at the lower right, and maps are cropped to the part of the image, rounded up. Of more than five maps, the coarsest five
are used.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unetzoo.encoders._base import ENCODERS, Encoder, EncoderSpec, Options, Published
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.extras import needed
from unetzoo.files.finding import Contents
from unetzoo.files.notes import Note
from unetzoo.files.offline import switched_off
from unetzoo.files.reaching import ANSWER_SECONDS, silence
from unetzoo.files.torch_files import first_line
from unetzoo.nn.layers import ConvStyle, pad_to_multiple, upper_left
from unetzoo.nn.meta import on_meta
from unetzoo.registry import suggest

FAMILY = "timm/"
FEWEST, MOST = 4, 5
"""Number of maps that are needed, and the most that are used."""
PAPER = "Wightman 2019, doi 10.5281/zenodo.4414861, and the papers that it names for this network"


def _timm(model: str) -> Any:
    return needed("timm", f"the encoder {FAMILY + model!r}")


def _version() -> str:
    return str(_timm("…").__version__)


@dataclass(frozen=True)
class TimmOptions(Options):
    """Options of the encoders of timm.

    Attributes:
        timm_version: version of the package with which the network was first made; recorded automatically.
    """

    timm_version: str = field(default_factory=_version)

    def problems(self) -> list[str]:
        given = self.timm_version
        return [] if isinstance(given, str) else [f"timm_version={given!r}: leave it out; it is recorded automatically"]


class Taken(NamedTuple):
    """The maps of a timm network that are used: their numbers in timm, their channels and strides."""

    numbers: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]


class TimmEncoder(Encoder):
    """Four or five maps of a timm network, which is the attribute ``net``."""

    def __init__(self, in_channels: int, style: ConvStyle, options: TimmOptions, depth: int, *, model: str) -> None:
        super().__init__()
        taken = Taken(*(part[:depth] for part in _taken(model)))
        self.model, self.in_channels = model, in_channels
        self.channels, self.strides = taken.channels, taken.strides
        self.net: nn.Module = _timm(model).create_model(
            model, features_only=True, pretrained=False, in_chans=in_channels, out_indices=taken.numbers
        )
        self.image_convolution = _image_convolution(model)
        stages = _stages_of(model, depth)
        for name in stages.unused:
            if stages.parted:
                self.net.set_submodule(name, _nothing(self.net.get_submodule(name)))
            else:
                self.net.get_submodule(name).requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        maps = self.run(partial(_maps_of, self.net), pad_to_multiple(images, self.strides[-1]))
        sizes = [[(side - 1) // stride + 1 for side in (height, width)] for stride in self.strides]
        return [upper_left(each, size) for each, size in zip(maps, sizes, strict=True)]

    def stages(self) -> list[Sequence[nn.Module]]:
        names = _stages_of(self.model, len(self.channels)).names
        return [[self.net.get_submodule(name) for name in stage] for stage in names]

    def from_torchvision(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this encoder's part of the state dict of timm's complete network."""
        own, whole = {name.removeprefix("net.") for name in self.state_dict()}, _whole_names(self.model)
        parts = {name.partition(".")[0] for name in whole}
        found = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            # ``features_only`` flattens the first level of sequences, or keeps the complete network as one part.
            place = next((form for form in (name, f"{first}_{rest}", f"model.{name}") if form in own), None)
            if place is None and name in whole:
                continue  # of the classifier, or of a deeper encoder
            # An unknown tensor in one of the network's parts means that it is of another network.
            found[f"net.{place or name}" if place or first in parts else name] = tensor
        return found


def _maps_of(net: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the maps, channels first."""
    last = str(getattr(net, "output_fmt", "")).endswith("NHWC")
    return [each.permute(0, 3, 1, 2) if last else each for each in net(images)]


def _made(model: str, in_channels: int = 3, **options: Any) -> nn.Module:
    """Return a timm network on the meta device."""
    with on_meta():
        made: nn.Module = _timm(model).create_model(model, pretrained=False, in_chans=in_channels, **options)
    return made


@functools.cache
def _taken(model: str) -> Taken:
    """Return which maps of a network are used.

    Raises:
        ConfigError: timm gives no maps of it, or maps that no decoder can use.
    """
    why = f"{FAMILY + model!r} cannot be an encoder"
    try:
        net = _made(model, features_only=True)
    except Exception as error:  # networks without maps raise various errors
        said = " ".join(str(error).split())
        raise ConfigError(f"{why}: timm gives no maps of it ({type(error).__name__}: {said:.200})") from error
    info: Any = net.feature_info
    channels, strides = tuple(info.channels()[-MOST:]), tuple(info.reduction()[-MOST:])
    finer = [*strides[:-1]]
    fits = all(a < b and b % a == 0 for a, b in zip(finer, strides[1:], strict=True))
    if len(strides) < FEWEST or not fits or any(stride % 2 for stride in strides):
        raise ConfigError(
            f"{why}: its maps have the strides {', '.join(map(str, strides))}. An encoder needs {FEWEST} maps or more, "
            "with even strides, each a multiple of the one before; use a network with stages, such as a ConvNeXt"
        )
    _try_sizes(net, channels, strides, why)
    return Taken(tuple(range(len(info.reduction())))[-MOST:], channels, strides)


def _try_sizes(net: nn.Module, channels: Sequence[int], strides: Sequence[int], why: str) -> None:
    """Refuse a network that takes images of only some sizes."""
    for factors in ((1, 1), (2, 3), (5, 3)):
        height, width = (factor * strides[-1] for factor in factors)
        wanted = [(2, c, height // s, width // s) for c, s in zip(channels, strides, strict=True)]
        try:
            found = [tuple(each.shape) for each in _maps_of(net, torch.empty(2, 3, height, width, device="meta"))]
        except Exception as error:  # networks raise various errors
            said = " ".join(str(error).split())
            raise ConfigError(
                f"{why}: it does not take images of any size; it refused {height} × {width} pixels ({said:.200})"
            ) from error
        if found[-len(wanted) :] != wanted:
            raise ConfigError(f"{why}: its maps for an image of {height} × {width} are {found}, not {wanted}")


@functools.cache
def _image_convolution(model: str) -> str | None:
    """Return the name of the only convolution that depends on the channels of the images; None if there are others."""
    three, five = (_made(model, count, features_only=True).state_dict() for count in (3, 5))
    changed = [name for name, tensor in three.items() if tensor.shape != five[name].shape]
    alone = len(changed) == 1 and changed[0].endswith(".weight") and three[changed[0]].ndim == 4
    return f"net.{changed[0].removesuffix('.weight')}" if alone else None


@functools.cache
def _whole_names(model: str) -> frozenset[str]:
    """Return the names of the tensors of timm's complete network."""
    return frozenset(_made(model).state_dict())


class _Stages(NamedTuple):
    """The stages of a network that gives some of its maps.

    Attributes:
        names: names of the modules with tensors, for each stage.
        unused: names of the outermost modules that no map depends on, if fewer maps are used than there are.
        parted: whether the network works without these. If its parts are interlinked, as in HRNet, they are kept.
    """

    names: tuple[tuple[str, ...], ...]
    unused: tuple[str, ...]
    parted: bool


@functools.cache
def _stages_of(model: str, depth: int) -> _Stages:
    """Return which module belongs to which stage: the first one whose map depends on its parameters."""
    taken = _taken(model)
    net = _made(model, features_only=True, out_indices=taken.numbers[:depth])
    named = dict(net.named_parameters())
    side = 2 * taken.strides[-1]
    images = torch.empty(2, 3, side, side, device="meta")
    maps = _maps_of(net, images)
    stage: dict[str, int] = {}
    for number, each in enumerate(maps):
        grads = torch.autograd.grad(each.sum(), list(named.values()), retain_graph=True, allow_unused=True)
        for name, grad in zip(named, grads, strict=True):
            if grad is not None:
                stage.setdefault(name.rpartition(".")[0], number)
    if "" in stage:
        raise ConfigError(f"{FAMILY + model!r} cannot be an encoder: it has parameters that belong to no stage")
    names = tuple(tuple(name for name, which in stage.items() if which == number) for number in range(len(maps)))
    unused = tuple(_unused(net, set(stage)))
    for name in unused:
        net.set_submodule(name, _nothing(net.get_submodule(name)))
    try:
        parted = [each.shape for each in _maps_of(net, images)] == [each.shape for each in maps]
    except Exception:
        parted = False
    return _Stages(names, unused, parted)


def _nothing(module: nn.Module) -> nn.Module:
    """Return a replacement for a module that is left out: the network may still call it."""
    return nn.Sequential() if isinstance(module, nn.Sequential) else nn.Identity()


def _unused(net: nn.Module, used: set[str]) -> Iterator[str]:
    """Yield the outermost modules whose parameters are all unused."""
    holds = {name for name, module in net.named_modules() if next(module.parameters(), None) is not None}
    for name in holds:
        inside = f"{name}."
        lives = any(other == name or other.startswith(inside) for other in used)
        above = name.rpartition(".")[0]
        above_lives = not above or any(other == above or other.startswith(f"{above}.") for other in used)
        if name and not lives and above_lives:
            yield name


class _Weights(Published):
    """Weights that timm's authors publish for a network, downloaded by timm itself; names are timm's tags."""

    def __init__(self, model: str) -> None:
        self.model = model

    def names(self) -> tuple[str, ...]:
        timm = _timm(self.model)
        every = [name.partition(".")[2] for name in timm.list_pretrained(f"{self.model}.*")]
        usual = timm.get_pretrained_cfg(self.model, allow_unregistered=True)
        return tuple(sorted(every, key=lambda tag: (usual is None or tag != usual.tag, tag)))

    def read(self, name: str) -> Contents:
        timm, whole, config = _timm(self.model), f"{self.model}.{name}", self._config(name)
        file = _cached(config)
        off = switched_off("UNETZOO_OFFLINE", "HF_HUB_OFFLINE")
        if file is None and off:
            raise WeightsError(f"the weights {whole} are not in the Hub's cache, and {off} forbids downloading them")
        overlay = {} if file is None else {"file": str(file)}
        try:
            if file is None:
                _ask(config)
            state = timm.create_model(whole, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
        except Exception as error:  # errors of the network, of the Hub's client and of safetensors
            raise WeightsError(
                f"timm could not load the weights {whole} ({type(error).__name__}: {first_line(error)}); check the "
                "connection, HF_ENDPOINT and proxies, or give a file of timm's: pretrained='path/to/model.safetensors'"
            ) from error
        Note(f"{whole}: fetched by timm; licence: {config.license or 'not stated'}").log()
        return Contents(Path(whole), None, state)

    def normalisation(self, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        config = self._config(name)
        return tuple(config.mean), tuple(config.std)

    def _config(self, name: str) -> Any:
        return _timm(self.model).get_pretrained_cfg(f"{self.model}.{name}")


def _cached(config: Any) -> Path | None:
    """Return the file of weights in the Hub's cache, which needs no connection; None if it is not there."""
    if not config.hf_hub_id:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _ask(config: Any) -> None:
    """Check that the server of a file of weights answers: the retries of timm's clients take more than a minute.

    Raises:
        OSError: no connection within a few seconds.
        Exception: from the Hub's client: no answer, or a refusal.
    """
    if not config.hf_hub_id:
        address = str(config.url)
    else:
        from huggingface_hub import HfApi

        api = HfApi()
        address = api.endpoint
    problem = silence(address)
    if problem is not None:
        raise problem
    if config.hf_hub_id:
        name, _, revision = config.hf_hub_id.partition("@")
        api.model_info(name, revision=revision or None, timeout=ANSWER_SECONDS)


@functools.cache
def _spec(model: str) -> EncoderSpec:
    """Return the registry entry for a timm network.

    Raises:
        ConfigError: timm is not installed, has no such network, or the network cannot be an encoder.
    """
    timm = _timm(model)
    plain, _, tag = model.partition(".")
    known = timm.list_models()
    if plain not in known:
        raise ConfigError(f"timm {timm.__version__} has no network {plain!r}{suggest(plain, known)}")
    if tag:
        raise ConfigError(f"{FAMILY + model!r}: give {FAMILY + plain!r}, and pretrained={tag!r}")
    return EncoderSpec(
        title=f"timm's {model}",
        paper=PAPER,
        options=TimmOptions,
        build=partial(TimmEncoder, model=model),
        names=lambda decoder: (f"{decoder}_{FAMILY}{model}",),
        maps=len(_taken(model).strides),
        norms=("batch", "group", "instance", "layer", None),
        own_norm="norms",
        weights=_Weights(model),
        weights_norms=("batch",),
        unpaddable=False,
    )


ENCODERS.register_family(FAMILY, _spec, lambda: _timm("*").list_models())
