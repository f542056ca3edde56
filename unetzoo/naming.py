"""The names of the zoo: which decoder on which encoder, or which builder. Names are computed, not listed."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from unetzoo import trained
from unetzoo.config import pair_problem
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.errors import ConfigError
from unetzoo.model import SegmentationModel
from unetzoo.registry import OWN, Registry, suggest

Builder = Callable[..., SegmentationModel]

PRESETS: Registry[Builder] = Registry("model")
"""The names that :func:`register_model` added, and their builders."""

FIRST = "resunet18"
"""The network that is suggested to beginners; docs/choosing.md says why."""
ELSEWHERE = (
    *("deeplabv3plus", "deeplabv3", "fpn", "segformer", "linknet", "manet", "pan", "pspnet", "upernet", "dpt"),
)
"""Well-known networks that are not U-Nets, as segmentation_models_pytorch calls them: for these, the names with the
nearest spelling are no help."""
KIN = {
    "mit_b": "pvt_v2_b0",
    "vgg": "vgg16_bn",
    "mobilenet_v2": "mobilenetv2_100",
    "xception": "xception41",
    "se_resnet": "seresnet50",
    "hrnet": "hrnet_w18",
    "dpn": "dpn68",
}
"""Beginning of a well-known encoder's name that is not here → the same encoder in timm, or the most similar one."""


def list_models(
    pattern: str | Iterable[str] = "*", *, exclude: str | Iterable[str] = (), pretrained: bool = False
) -> list[str]:
    """Return names of the zoo in natural order (resunet18 before resunet101), for ``create``.

    Args:
        pattern: a wildcard or several, such as "unetpp_*"; an alias counts as its name. Only patterns that contain
            "timm" also match timm's encoders, which are not listed otherwise: "unet_timm/convnext*".
        exclude: a wildcard or several, of names to leave out; a complete alias counts as its name.
        pretrained: return the names of the trained models that come with the package instead, for
            ``from_pretrained``.
    """
    known = {name: name for name in trained.names()} if pretrained else {**names(), **_of_families(pattern)}
    found = {known[name] for name in filter(_matcher(pattern), known)}
    unwanted = _matcher(exclude)
    found -= {usual for name, usual in known.items() if unwanted(usual) or name in _patterns(exclude)}
    return sorted(found, key=_natural)


def list_encoders(pattern: str | Iterable[str] = "*", *, exclude: str | Iterable[str] = ()) -> list[str]:
    """Return names of encoders in natural order; "unet_resnet50", "unetpp_resnet50" and others use "resnet50".

    Args:
        pattern: a wildcard or several, such as "convnext*". Only patterns that contain "timm" also match timm's
            encoders, which are not listed otherwise: "timm/convnext*".
        exclude: a wildcard or several, of names to leave out.
    """
    known = [*ENCODERS]
    for prefix, members in ENCODERS.families().items():
        if any(prefix.rstrip("/") in one for one in _patterns(pattern)):
            known += [f"{prefix}{member}" for member in members()]
    unwanted = _matcher(exclude)
    return sorted((name for name in filter(_matcher(pattern), known) if not unwanted(name)), key=_natural)


def names() -> dict[str, str]:
    """Return alias or name → usual name, for the complete zoo."""
    return {**_computed().usual, **{name: name for name in PRESETS}}


def _of_families(patterns: str | Iterable[str]) -> dict[str, str]:
    """Return name → name for the networks on encoders of the families that the patterns mention."""
    found: dict[str, str] = {}
    for prefix, members in ENCODERS.families().items():
        wanted = [pattern for pattern in _patterns(patterns) if prefix.rstrip("/") in pattern]
        if wanted:
            fits = _matcher(wanted)
            every = (f"{decoder}_{prefix}{member}" for decoder in DECODERS for member in members())
            found |= {name: name for name in every if fits(name)}
    return found


def is_known(name: object) -> bool:
    """Return whether a text is a name or an alias, or the name of a network on an encoder of a family."""
    return isinstance(name, str) and (name in names() or _of_family(name) is not None)


def resolve(name: str) -> str:
    """Return the usual name for a name or alias.

    Raises:
        ConfigError: it is unknown; the message suggests the nearest.
    """
    if isinstance(name, str) and (pair := _of_family(name)) is not None:
        problem = pair_problem(*pair)
        if problem is not None:
            raise ConfigError(f"{name!r} cannot be built: {problem}")
        return name
    known = names()
    if not isinstance(name, str) or name not in known:
        raise ConfigError(unknown_model(name))
    return known[name]


def index() -> Mapping[str, tuple[str, str]]:
    """Return name or alias → decoder and encoder.

    Raises:
        ConfigError: a registered decoder or encoder leads to a name that another pair already has.
    """
    return _computed().pairs


@dataclass(frozen=True)
class _Names:
    """The names of all pairs, and the decoders and encoders that they were computed from."""

    parts: tuple[object, object]
    pairs: Mapping[str, tuple[str, str]]
    usual: Mapping[str, str]


_NAMES = [_Names(((), ()), {}, {})]
"""Those that were computed last: there are hundreds, and building one network looks them up a dozen times."""


def _computed() -> _Names:
    """Return the names of all pairs, computed again if a decoder or an encoder was registered since."""
    parts = DECODERS.entries(), ENCODERS.entries()
    if _NAMES[0].parts != parts:
        pairs = _pairs()
        usual = {name: _pair_names(*pair)[0] for name, pair in pairs.items()}
        _NAMES[0] = _Names(parts, MappingProxyType(pairs), usual)
    return _NAMES[0]


def _pairs() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for pair in itertools.product(DECODERS, ENCODERS):
        if pair_problem(*pair) is not None:
            continue
        for name in _pair_names(*pair):
            if name in found:
                raise ConfigError(f"the model name {name!r} is ambiguous: it means {found[name]} and {pair}")
            found[name] = pair
    return found


def pair_of(name: str) -> tuple[str, str]:
    """Return the decoder and the encoder of a usual name or alias of a pair."""
    return _of_family(name) or index()[name]


def meant(name: object) -> tuple[str, str] | None:
    """Return the decoder and encoder that a name or alias means, None if there are none."""
    return (_of_family(name) or index().get(name)) if isinstance(name, str) else None


def _of_family(name: str) -> tuple[str, str] | None:
    """Return decoder and encoder of a name whose encoder belongs to a family, such as "unet_timm/convnextv2_tiny"."""
    for prefix in ENCODERS.families():
        decoder, _, member = name.partition(f"_{prefix}")
        if member and decoder in DECODERS:
            return decoder, f"{prefix}{member}"
    return None


def _pair_names(decoder: str, encoder: str) -> tuple[str, ...]:
    return ENCODERS[encoder].names(decoder)


def impossible(name: object) -> str | None:
    """Return why the network of this name is not in the zoo; None if the name is not known at all.

    It may name an impossible pair, a well-known network that is not here, or a network on such an encoder.
    """
    for pair in itertools.product(DECODERS, ENCODERS):
        problem = pair_problem(*pair)
        if problem is not None and name in _pair_names(*pair):
            return f"{name!r} cannot be built: {problem}"
    return _elsewhere(name) if isinstance(name, str) else None


def _elsewhere(name: str) -> str | None:
    """Return the alternative to a well-known network, or to one on a well-known encoder; None for other names."""
    plain = name.lower().replace("-", "_").replace("+", "plus").removeprefix("smp_")
    network, _, encoder = plain.partition("_")
    if network in ELSEWHERE:
        near = [_pair_names(decoder, encoder)[0] for decoder in ("unet", "unetpp", "unet3p") if encoder in ENCODERS]
        instead = f"on this encoder there are {', '.join(map(repr, near))}" if near else f"begin with {FIRST!r}"
        return f"{name!r}: {network!r} is not in this zoo of U-Nets; {instead}; unetzoo.list_models() gives all names"
    for decoder in sorted(DECODERS, key=len, reverse=True):
        if plain.startswith(f"{decoder}_") and (said := absent_encoder(plain.removeprefix(f"{decoder}_"), decoder)):
            return f"{name!r}: {said}"
    return None


def absent_encoder(encoder: str, decoder: str) -> str | None:
    """Return the alternative to a well-known encoder that is not in the zoo; None for others."""
    kin = next((kin for start, kin in KIN.items() if encoder.startswith(start)), None)
    if kin is None or encoder in ENCODERS:
        return None
    return (
        f"the encoder {encoder!r} is not in the zoo; with timm (pip install 'unetzoo[timm]') there is "
        f"'{decoder}_timm/{kin}'; unetzoo.list_models() gives all names"
    )


def near_family(text: str) -> str:
    """Return ``"; did you mean …?"`` for a name such as "unet_tim/resnet18", or an empty text."""
    head, _, member = text.partition("/")
    for prefix in ENCODERS.families():
        family = prefix.rstrip("/")
        heads = [f"{decoder}_{family}" for decoder in DECODERS]
        near = [min(heads, key=len)] if head == family else difflib.get_close_matches(head, heads, n=1, cutoff=0.8)
        if near and member:
            return f"; did you mean {f'{near[0]}/{member}'!r}?"
    return ""


def unknown_model(name: object) -> str:
    """Return the message about an unknown name."""
    reason = impossible(name)
    if reason is not None:
        return reason
    saved = str(name).count("/") == 1 or str(name).endswith(".safetensors") or name in trained.names()
    near = suggest(str(name), names())
    fix = "; unetzoo.from_pretrained takes saved models" if saved else "" if near else OWN
    return f"unknown model {name!r}{near}{fix} (unetzoo.list_models() gives all names)"


def _matcher(patterns: str | Iterable[str]) -> Callable[[str], bool]:
    wanted = _patterns(patterns)
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)


def _patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    listed = (patterns,) if isinstance(patterns, str) else tuple(patterns) if isinstance(patterns, Iterable) else None
    if listed is None or not all(isinstance(pattern, str) for pattern in listed):
        raise ConfigError(f"{patterns!r}: a wildcard such as 'unetpp_*', or several, is needed")
    return listed


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
