"""segmentation_models_pytorch ("smp"): which of its models are networks of this zoo, by tensors or by config.json.

The facts are from smp 0.6.0: names, shapes, the arguments of ``Unet`` and ``UnetPlusPlus``. Its ResNets are
torchvision's, including those that it takes from timm as ``tu-…``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unetzoo.checks import one_of, unknown, whole
from unetzoo.decoders.smp import CHANNELS
from unetzoo.errors import ConfigError
from unetzoo.files import strict_json
from unetzoo.foreign.layouts import Assumption, Layout, Network, Rule, State, UnfitError
from unetzoo.pretrained import IMAGENET_MEAN, IMAGENET_STD

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
"""File that smp's ``save_pretrained`` writes."""
LONGEST_RECORD = 100_000
"""Most bytes of a config.json, a hundred times what smp writes."""
CLASS_KEY = "_model_class"
"""Key in smp's config.json for the name of the class. Versions before 0.4 did not write it."""
ARCHITECTURES = {"Unet": "smp_unet", "UnetPlusPlus": "smp_unetplusplus"}
DEPTHS = range(2, 6)
HEAD = "segmentation_head.0.weight"
TITLE = "a model of segmentation_models_pytorch"
HOME = "https://github.com/qubvel-org/segmentation_models.pytorch"
REMARK = "equal at every size that smp accepts"

# Name: residual blocks of each layer; shape (channels out, in) of a bottleneck's 3×3 convolution, None without one.
_RESNETS: dict[str, tuple[tuple[int, ...], tuple[int, int] | None]] = {
    "resnet18": ((2, 2, 2, 2), None),
    "resnet34": ((3, 4, 6, 3), None),
    "resnet50": ((3, 4, 6, 3), (64, 64)),
    "resnet101": ((3, 4, 23, 3), (64, 64)),
    "resnet152": ((3, 8, 36, 3), (64, 64)),
    "resnext50_32x4d": ((3, 4, 6, 3), (128, 4)),
    "resnext101_32x8d": ((3, 4, 23, 3), (256, 8)),
    "resnext101_64x4d": ((3, 4, 23, 3), (256, 4)),
    "wide_resnet50_2": ((3, 4, 6, 3), (128, 128)),
    "wide_resnet101_2": ((3, 4, 23, 3), (128, 128)),
}

_INTERPOLATION = Assumption(
    ("upsampling",),
    "decoder_interpolation='nearest', the default (give upsampling='bilinear' for 'bilinear')",
)
_NORMALISATION = Assumption(
    ("mean", "std"),
    "mean and std are ImageNet's (give mean=(0, 0, 0), std=(1, 1, 1) if pixels were only divided by 255)",
)

# By tensors


def _networks(state: State) -> list[Network]:
    nested = "decoder.blocks.x_0_0.conv1.0.weight" in state
    place = r"decoder\.blocks\.x_0_(\d+)" if nested else r"decoder\.blocks\.(\d+)"
    found = (re.fullmatch(rf"{place}\.conv1\.0\.weight", name) for name in state)
    blocks = sorted((int(match[1]), match[0]) for match in found if match)
    if not blocks or any(name.startswith("decoder.center.") for name in state):
        raise UnfitError(TITLE, f"only its {' and '.join(ARCHITECTURES)} on ResNets are here{_encoder_of(state)}")
    depth, first = len(blocks), blocks[0][1].removesuffix("0.weight")
    encoders = _encoders(state, depth)
    options = {
        "in_channels": state[_encoder_name(state, "conv1.weight")].shape[1],
        "num_classes": len(state[HEAD]),
        **_changed(
            decoder_channels=tuple(len(state[name]) for _, name in blocks),
            decoder_norm=_norm_after(state, first),
            attention="scse" if any(".attention1." in name for name in state) else None,
        ),
    }
    options |= _normalisation(options["in_channels"])
    decoder = ARCHITECTURES["UnetPlusPlus" if nested else "Unet"]
    assumed = (_INTERPOLATION, *_assumed(options))
    return [Network(f"{decoder}_{encoder}", options, REMARK, assumed, _idle(depth, nested)) for encoder in encoders]


def _encoder_of(state: State) -> str:
    """Return how to take the encoder of a network that is not in the zoo; nothing if the encoder is not, either."""
    try:
        return _of_encoder(_encoders(state, DEPTHS[-1])[0])
    except UnfitError:
        return ""


def _of_encoder(encoder: str) -> str:
    return f"; its encoder alone fits networks of the zoo such as unet3p_{encoder}, with pretrained=FILE"


def _encoder_name(state: State, name: str) -> str:
    """Return the full name of a tensor of the encoder: those of timm's encoders are one level deeper."""
    deeper = f"encoder.model.{name}"
    return deeper if deeper in state else f"encoder.{name}"


def _encoders(state: State, depth: int) -> list[str]:
    """Return the possible encoders: several if they differ only in stages beyond the depth."""
    pattern = re.compile(r"encoder\.(?:model\.)?layer(\d)\.(\d+)\.conv1\.weight")
    found = [(int(match[1]), int(match[2])) for match in map(pattern.fullmatch, state) if match]
    # A shallow encoder of timm has no further stages; one of smp's own keeps them all.
    last = max((layer for layer, _ in found), default=0)
    counts = tuple(sum(layer == wanted for layer, _ in found) for wanted in range(1, max(last, depth - 1) + 1))
    kind = None
    if _encoder_name(state, "layer1.0.conv3.weight") in state:
        kind = tuple(state[_encoder_name(state, "layer1.0.conv2.weight")].shape[:2])
    fitting = [name for name, (blocks, its) in _RESNETS.items() if kind == its and counts == blocks[: len(counts)]]
    if not fitting or _encoder_name(state, "conv1.weight") not in state:
        raise UnfitError(f"{TITLE} on another encoder", f"smp's decoders are here on {', '.join(_RESNETS)}")
    return fitting


def _norm_after(state: State, conv: str) -> str | None:
    """Return the decoder's norm, that after the convolution ``conv``, a name without "0.weight"."""
    if f"{conv}1.running_mean" in state:
        return "auto"
    return "instance" if f"{conv}1.weight" in state else None


def _changed(**options: Any) -> dict[str, Any]:
    """Return the options of the decoder that are not its defaults."""
    defaults = {"decoder_channels": CHANNELS, "decoder_norm": "auto", "upsampling": "nearest", "attention": None}
    return {name: value for name, value in options.items() if value != defaults[name]}


def _normalisation(in_channels: object) -> dict[str, Any]:
    """Return mean and std: ImageNet's for all ResNets of smp; smp has none for images of other than 3 channels."""
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if in_channels == 3 else {}


def _assumed(options: Mapping[str, Any]) -> tuple[Assumption, ...]:
    """Return what neither tensors nor config.json state about a network with these options."""
    return (_NORMALISATION,) if "mean" in options else ()


def _idle(depth: int, nested: bool) -> str:
    """Return the pattern of tensors that smp's network holds, but does not use for its maps."""
    last = f"x_0_{depth - 1}" if nested else str(depth - 1)
    layers = "".join(map(str, range(depth, 5)))
    deeper = rf"|encoder\.(model\.)?layer[{layers}]\..*" if layers else ""
    return rf"classification_head\..*|decoder\.blocks\.{last}\.attention1\..*{deeper}"


def _rules() -> Iterator[Rule]:
    yield Rule(r"encoder\.(?:model\.)?(.*)", r"encoder.\1")
    block, ours = r"decoder\.blocks\.(\w+)", r"decoder.blocks.\1"
    for theirs, number in (("conv1", 0), ("conv2", 1)):
        for step, kind in ((0, "conv"), (1, "norm")):
            yield Rule(rf"{block}\.{theirs}\.{step}\.(\w+)", rf"{ours}.conv.{number}.{kind}.\2")
    for theirs, name in (("attention1", "before"), ("attention2", "after")):
        for step in (1, 3):
            yield Rule(rf"{block}\.{theirs}\.attention\.cSE\.{step}\.(\w+)", rf"{ours}.{name}.channels.{step - 1}.\2")
        yield Rule(rf"{block}\.{theirs}\.attention\.sSE\.0\.(\w+)", rf"{ours}.{name}.pixels.\2")
    yield Rule(r"segmentation_head\.0\.(\w+)", r"head.conv.\1")


# By config.json

_DEFAULTS: dict[str, Any] = {
    "encoder_name": "resnet34",
    "encoder_depth": 5,
    "decoder_use_norm": "batchnorm",
    "decoder_channels": list(CHANNELS),
    "decoder_attention_type": None,
    "decoder_interpolation": "nearest",
    "in_channels": 3,
    "classes": 1,
    "activation": None,
    "aux_params": None,
}
"""Arguments of ``Unet`` and ``UnetPlusPlus`` that determine the network."""
_OLD_NORM = "decoder_use_batchnorm"
_OF_NO_ACCOUNT = (CLASS_KEY, "encoder_weights")
_NORMS = {True: "auto", "batchnorm": "auto", False: None, "identity": None, "instancenorm": "instance"}
_NORM_DEFAULTS = {
    "batchnorm": {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True},
    "instancenorm": {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": False},
    "identity": {},
}
_TASKS = {
    None: None,
    "identity": None,
    "sigmoid": "multilabel",
    "softmax": "multiclass",
    "softmax2d": "multiclass",
    "logsoftmax": "multiclass",
}
"""Activation → its task, for several classes."""


def _beside(path: Path) -> Network | None:
    """Return the network of smp's config.json next to a model.safetensors, None if there is none."""
    return network_in(path.with_name(CONFIG_FILE)) if path.name == MODEL_FILE else None


def network_in(path: Path) -> Network | None:
    """Return the network that a config.json describes, None if it does not exist or is not smp's.

    Raises:
        ConfigError: lists all settings that no network of this zoo has.
    """
    if not path.is_file() or path.stat().st_size > LONGEST_RECORD:
        return None
    try:
        record = strict_json.loads(path.read_bytes().decode())
    except (OSError, ValueError):
        return None
    smps = isinstance(record, Mapping) and (CLASS_KEY in record or "encoder_name" in record)
    return network_of(record) if smps else None


def network_of(record: Mapping[str, Any]) -> Network:
    """Return the network that smp's config.json describes.

    Raises:
        ConfigError: lists all settings that no network of this zoo has.
    """
    given = {key: value for key, value in record.items() if key not in _OF_NO_ACCOUNT and key != _OLD_NORM}
    values = {**_DEFAULTS, **given}
    if record.get(_OLD_NORM) is not None:
        values["decoder_use_norm"] = record[_OLD_NORM]  # in smp, the older name takes precedence
    encoder = re.sub(r"^tu-(\w+)(\..*)?$", r"\1", str(values["encoder_name"]))
    problems = _of_another_kind(record.get(CLASS_KEY, "Unet"), encoder) or _problems(values)
    if problems:
        raise ConfigError("this model of segmentation_models_pytorch is not a network of this zoo", problems)
    channels, depth, nested = values["in_channels"], values["encoder_depth"], record.get(CLASS_KEY) == "UnetPlusPlus"
    options = {
        "in_channels": channels,
        "num_classes": values["classes"],
        **_changed(
            decoder_channels=tuple(values["decoder_channels"]),
            decoder_norm=_norm(values["decoder_use_norm"]),
            upsampling=values["decoder_interpolation"],
            attention=values["decoder_attention_type"],
        ),
        **_normalisation(channels),
    }
    task = _TASKS[values["activation"]]
    if task is not None and values["classes"] > 1:
        options["task"] = task
    remark = REMARK
    if values["activation"] not in (None, "identity"):
        remark += f"; its activation {values['activation']!r} is applied by predict only: forward gives logits"
    name = f"{ARCHITECTURES['UnetPlusPlus' if nested else 'Unet']}_{encoder}"
    return Network(name, options, remark, _assumed(options), _idle(depth, nested))


def _of_another_kind(kind: object, encoder: str) -> list[str]:
    """Return the sentence about an architecture or encoder that is not in the zoo; other arguments are not checked."""
    found: tuple[tuple[str, object, tuple[str, ...]], ...] = (
        (CLASS_KEY, kind, tuple(ARCHITECTURES)),
        ("encoder_name", encoder, tuple(_RESNETS)),
    )
    said = [
        f"{key}={given!r:.100}, where one of {', '.join(map(repr, known))} is needed"
        for key, given, known in found
        if not isinstance(given, str) or given not in known
    ]
    taken = _of_encoder(encoder) if len(said) == 1 and encoder in _RESNETS else ""
    return [f"{'; and '.join(said)}{taken}"] if said else []


def _problems(values: Mapping[str, Any]) -> list[str]:
    depth, widths = values["encoder_depth"], values["decoder_channels"]
    found = whole("encoder_depth", depth, DEPTHS[0], DEPTHS[-1])
    if not isinstance(widths, Sequence) or len(widths) != depth or any(whole("", width) for width in widths):
        found.append(
            f"decoder_channels={widths!r:.100}: encoder_depth={depth!r:.20} whole numbers from 1 up are needed"
        )
    found += _norm_problems(values["decoder_use_norm"])
    found += one_of("decoder_attention_type", values["decoder_attention_type"], (None, "scse"))
    found += one_of("decoder_interpolation", values["decoder_interpolation"], ("nearest", "bilinear"))
    found += whole("in_channels", values["in_channels"]) + whole("classes", values["classes"])
    found += one_of("activation", values["activation"], _TASKS)
    strange = [key for key, value in values.items() if key not in _DEFAULTS and value is not None]
    return found + [f"{unknown('argument', key, _DEFAULTS)}" for key in strange[:20]]


def _norm_problems(given: object) -> list[str]:
    kind, details = (given.get("type"), given) if isinstance(given, Mapping) else (given, {})
    if not isinstance(kind, str | bool) or kind not in _NORMS:
        listed = ", ".join(map(repr, _NORMS))
        return [f"decoder_use_norm={given!r:.100}: one of {listed} is needed, or a dictionary whose 'type' is"]
    if kind == "instancenorm" and not details.get("affine", False):
        return [f"decoder_use_norm={given!r:.100}: instancenorm with affine=True is needed"]
    usual = {"type": kind, **_NORM_DEFAULTS.get(str(kind), {})}
    return [
        f"decoder_use_norm: {key}={value!r:.50}, where {usual.get(key)!r} is needed"
        for key, value in details.items()
        if isinstance(given, Mapping) and (key not in usual or usual[key] != value)
    ]


def _norm(given: Any) -> str | None:
    return _NORMS[given["type"] if isinstance(given, Mapping) else given]


LAYOUT = Layout(
    TITLE, HOME, (re.escape(HEAD), r"encoder\..*", r"decoder\..*"), _networks, tuple(_rules()), beside=_beside
)
LAYOUTS = (LAYOUT,)
