"""Finding the tensors of a network in a checkpoint.

Training programs keep a state dict inside dictionaries, and its names begin with those of the modules that held the
network: "state_dict" → "module.encoder_q.conv1.weight". Here, keys of dictionaries and parts of names form one path, so
that all before a network's own names is one prefix, "state_dict.module.encoder_q.", whatever its origin.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetzoo.errors import WeightsError

COUNTER = "num_batches_tracked"
"""The last part of the names of batch-norm counters, which old files lack."""
MARK = "::"
"""Separates a file from a place in it: ``moco.pth.tar::module.encoder_k``."""
COMPILED = "_orig_mod."
"""Text that ``torch.compile`` puts into names, before any module. It is ignored here."""
MOST_PARTS = 20
"""Most parts of a name that are tried as a prefix. Those of wrapped networks are less than ten deep."""
LONGEST_NAME = 1000
"""Characters. One key of a file may occur in a million dictionaries: longer paths are not followed."""

EVALUATED = frozenset({"teacher", "ema", "swa", "average", "averaged", "avg"})
"""Words for the one of two networks in a file that its authors evaluate: the average of the weights, or the teacher,
which is such an average (DINO, Caron et al. 2021; mean teacher, Tarvainen and Valpola 2017; timm's
``state_dict_ema``)."""
PASSED_OVER = frozenset({"student", "momentum", "target", "key", "k", "discriminator"})
"""Words for the one that its authors do not evaluate: MoCo (He et al. 2019), MoCo v3 and BYOL (Grill et al. 2020) use
the encoder that is trained by gradients (query, base, online), and drop the one that follows it. Of DINO's two, the
teacher is taken, which is evaluated."""

Shape = tuple[int | None, ...]
Translate = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Contents:
    """All that a checkpoint holds.

    Attributes:
        path: of the file.
        asked: the requested place in it, a prefix or the middle of one, "" for its top; None for any.
        tensors: path → tensor.
        others: paths of values that are not tensors.
        foreign: names of the classes and functions whose objects were not built.
        text: name → text: the metadata of a safetensors file, or texts at the top level of a checkpoint.
    """

    path: Path
    asked: str | None
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    text: Mapping[str, str] = field(default_factory=dict)

    def states(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield each prefix at the requested place, the shortest first, with the tensors below it by remaining name."""
        found: dict[str, dict[str, Tensor]] = {"": {}}
        for name, tensor in self.tensors.items():
            cut = 0
            for _ in range(MOST_PARTS):
                found.setdefault(name[:cut], {})[name[cut:]] = tensor
                cut = name.find(".", cut) + 1
                if not cut:
                    break
        for prefix in sorted(found, key=len):
            if self.asked is None or (f".{self.asked}." in f".{prefix}" if self.asked else not prefix):
                yield prefix, found[prefix]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below a prefix, by remaining name."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Place:
    """A place that holds all tensors of a network.

    Attributes:
        prefix: before their names.
        state: the tensors under the network's own names.
    """

    prefix: str
    state: Mapping[str, Tensor]

    def __str__(self) -> str:
        return repr(self.prefix.rstrip(".")) if self.prefix else "its top"


def split_place(source: object) -> tuple[Path, str | None]:
    """Return the file and the place in it that ``FILE::place`` means; None if no place is given."""
    text = str(source)
    file, mark, place = text.rpartition(MARK)
    if not mark or Path(text).is_file():
        return Path(text), None
    return Path(file), place.replace(COMPILED, "").strip(".")


def flattened(path: Path, content: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Return all tensors in nested dictionaries, by path, and the paths of values that are not tensors.

    Raises:
        WeightsError: two tensors have the same path.
    """
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    ahead: list[tuple[str, Any]] = [("", content)]
    while ahead:
        name, value = ahead.pop()
        if is_plain(value):
            name = name.replace(COMPILED, "")
            if name in tensors:
                raise WeightsError(f"{path} cannot be read: two tensors have the name {name!r:.200}")
            tensors[name] = value
        elif isinstance(value, Mapping) and any(isinstance(key, str) for key in value) and len(name) < LONGEST_NAME:
            inner = f"{name}." if name else ""
            ahead += [(f"{inner}{key}", value[key]) for key in reversed(value) if isinstance(key, str)]
        elif name:
            others.append(name)
    return tensors, others


def is_plain(value: object) -> bool:
    """Return whether a value is a dense tensor."""
    return isinstance(value, Tensor) and value.layout is torch.strided


def find(
    contents: Contents,
    wanted: Mapping[str, Shape | None],
    translate: Translate = lambda state: state,
    *,
    exact: bool = True,
) -> tuple[Place, list[Place]] | None:
    """Return the place that holds all wanted tensors, and other such places that were not taken; None if there is none.

    Args:
        contents: of the file.
        wanted: name → shape, in which None fits any length; None for any shape. Batch counters may be missing.
        translate: turns the names after the prefix into those of the network; tensors that it drops are ignored.
        exact: whether other tensors in the modules of the wanted ones mean that it is another network.

    Raises:
        WeightsError: several places fit, and :func:`usual` cannot tell which is meant.
    """
    needed = {name: shape for name, shape in wanted.items() if not name.endswith(COUNTER)}
    modules = {name.partition(".")[0] for name in wanted}
    places: list[Place] = []
    for prefix, state in contents.states():
        own = translated(state, translate) if len(state) >= len(needed) else {}
        if not all(is_shaped(own.get(name), shape) for name, shape in needed.items()):
            continue
        if exact:
            if any(name.partition(".")[0] in modules for name in own.keys() - wanted.keys()):
                continue
            own = {name: tensor for name, tensor in own.items() if name in wanted}
        places.append(Place(prefix, own))
    return usual(contents.path, places) if places else None


def usual(path: Path, places: Iterable[Place]) -> tuple[Place, list[Place]]:
    """Return which of several places is meant, and the others.

    It is the network that the authors of such files evaluate: a teacher or an average of the weights if there is one;
    otherwise not the network that follows another by momentum. Places that hold the same tensors count as one.

    Raises:
        WeightsError: no rule decides; the message names the places. Or a place has tensors without values of their own.
    """
    found: list[Place] = []
    for place in places:
        check_values(path, place.state)
        if not any(_is_same(place.state, other.state) for other in found):
            found.append(place)
    best = max(map(_rank, found))
    likely = [place for place in found if _rank(place) == best]
    if len(likely) > 1:
        raise WeightsError(
            f"{path} holds several state dicts, {', '.join(map(str, likely[:4]))}"
            f"{_and_more(likely[4:])}: give the one that you mean, such as {at(path, likely[0])!r}"
        )
    return likely[0], [place for place in found if place is not likely[0]]


def check_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors without values of their own.

    Raises:
        WeightsError: a tensor is not on the CPU, or has more values than the file holds.
    """
    for name, tensor in state.items():
        if tensor.device.type != "cpu":
            raise WeightsError(f"{path} cannot be read: {name:.200} is on the {tensor.device} device and has no values")
        # Such a tensor takes no memory here, but any amount as soon as it is copied.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{path} cannot be read: {name:.200} claims more values than the file holds")


def translated(state: Mapping[str, Tensor], translate: Translate) -> dict[str, Tensor]:
    """Return the tensors under the network's names; none if ``translate`` fails on names of other networks."""
    try:
        return dict(translate(state))
    except (LookupError, ValueError):
        return {}


def nearest(contents: Contents, wanted: Iterable[str], translate: Translate) -> Place | None:
    """Return the place with the most of the wanted names; None if there are none anywhere."""
    names = frozenset(wanted)
    best, most = None, 0
    for prefix, state in contents.states():
        own = translated(state, translate)
        found = len(names & own.keys())
        if found > most:
            best, most = Place(prefix, own), found
    return best


def places_like(contents: Contents) -> str:
    """Return places in a file that may be meant: those with a similar name, else those where its names branch."""
    prefixes = [prefix.rstrip(".") for prefix, _ in replace(contents, asked=None).states() if prefix]
    asked = (contents.asked or "").lower()
    ends: dict[str, list[str]] = {}  # a place may be given by the end of its prefix: "encoder_k"
    for prefix in prefixes:
        parts = prefix.split(".")
        ends.setdefault(".".join(parts[-(asked.count(".") + 1) :]).lower(), []).append(prefix)
    near = [prefix for end in difflib.get_close_matches(asked, list(ends), 4, 0.75) for prefix in ends[end]]
    if not near:
        near = [_lone(contents, name) for name in dict.fromkeys(name.partition(".")[0] for name in contents.tensors)]
    return f"{', '.join(f'{name:.100}' for name in near[:8])}{_and_more(near[8:])}"


def _lone(contents: Contents, place: str) -> str:
    """Return the place below another, as far as all names below it continue in the same way."""
    while True:
        within = contents.under(f"{place}.")
        following = {name.partition(".")[0] for name in within}
        if len(following) != 1 or following == set(within):
            return place
        place = f"{place}.{following.pop()}"


def at(path: Path, place: Place) -> str:
    """Return the text with which a user selects a place: ``FILE::place``."""
    return f"{path}{MARK}{place.prefix.rstrip('.')}"


def taken_and_left(contents: Contents, place: Place, passed: Iterable[Place], names: Iterable[str]) -> str:
    """Return one line about what was taken from a file, and what was left.

    Args:
        contents: of the file.
        place: where the tensors are.
        passed: other places that fit.
        names: those of the taken tensors, as the network calls them.
    """
    taken = {id(place.state[name]) for name in names if name in place.state}
    kept = [path for path, tensor in contents.tensors.items() if id(tensor) in taken]
    rest = [path for path, tensor in contents.tensors.items() if id(tensor) not in taken]
    parts = [f"{len(taken)} tensors taken" + (f" from {place}" if place.prefix else "")]
    others = [at(contents.path, other) for other in passed]
    if others:
        parts.append(f"it holds another that fits, {others[0]!r}{_and_more(others[1:])}")
    left = _groups([*rest, *contents.others], kept)
    if left:
        parts.append(f"left: {', '.join(left[:3])}{_and_more(left[3:])}")
    if contents.foreign:
        names = [f"{name:.100}" for name in contents.foreign[:3]]
        parts.append(f"not built: {', '.join(names)}{_and_more(contents.foreign[3:])}")
    return "; ".join(parts)


def _and_more(rest: Sequence[object]) -> str:
    return f" and {len(rest)} more" if rest else ""


def _groups(left: Iterable[str], kept: Iterable[str]) -> list[str]:
    """Return the shortest prefixes below which nothing was kept; for a single name, the complete name."""
    trunks = {name[: cut.start()] for name in kept for cut in re.finditer(r"\.", name)}
    found: dict[str, list[str]] = {}
    for name in left:
        ends = [cut.start() for cut in re.finditer(r"\.", name)]
        found.setdefault(next((name[:end] for end in ends if name[:end] not in trunks), name), []).append(name)
    return [(names[0] if len(names) == 1 else group)[:60] for group, names in found.items()]


def is_shaped(tensor: Tensor | None, shape: Shape | None) -> bool:
    """Return whether there is a tensor that fits a shape, in which None fits any length."""
    if tensor is None or shape is None:
        return tensor is not None
    return tensor.ndim == len(shape) and all(
        wanted in (None, found) for found, wanted in zip(tensor.shape, shape, strict=True)
    )


def _is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(_equal(tensor, other[name]) for name, tensor in one.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other))


def _rank(place: Place) -> int:
    words = set(re.split(r"[^a-z0-9]+|(?<=[a-z])(?=[0-9])", place.prefix.lower()))
    return 2 if words & EVALUATED else 0 if words & PASSED_OVER else 1
