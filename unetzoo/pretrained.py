"""Pretrained encoders: torchvision's weights from its own enums, or weights from any file that holds the encoder.

In a file, the encoder is found by the names and shapes of its tensors, whatever it is wrapped in. Nothing that is
read can run code: files are opened as tensors only, and torchvision's files are checked against the hash in their
names, even when they come from torch's cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from unetzoo.checks import one_of
from unetzoo.encoders import ENCODERS, Encoder, EncoderSpec, Published
from unetzoo.errors import WeightsError
from unetzoo.files.checkpoints import (
    MOST_LISTED,
    SUFFIXES as CHECKPOINTS,
    check_finite,
    complete,
    lacks_statistics,
    listed,
    misfits,
    read_contents,
)
from unetzoo.files.finding import Contents, Place, Shape, at, find, is_shaped, nearest, split_place, taken_and_left
from unetzoo.files.offline import switched_off
from unetzoo.files.reaching import silence
from unetzoo.files.torch_files import first_line
from unetzoo.nn.layers import ConvStyle
from unetzoo.nn.meta import on_meta
from unetzoo.registry import suggest

POLICIES = ("repeat", "mean", "sum", "keep_rgb")
SUFFIXES = (*CHECKPOINTS, ".safetensors")
"""Suffixes of files; ".tar" is for ``.pth.tar``."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_ADAPTABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def available_weights(spec: EncoderSpec) -> tuple[str, ...]:
    """Return the names of an encoder's weights, torchvision's default first."""
    if spec.weights is None:
        return ()
    if isinstance(spec.weights, Published):
        return spec.weights.names()
    members = _enum(spec.weights).__members__
    default = members["DEFAULT"].name
    return (default, *(name for name in members if name not in (default, "DEFAULT")))


def pretrained_problems(spec: EncoderSpec, pretrained: object, norm: object, policy: object) -> list[str]:
    """Return what is wrong with the arguments ``pretrained``, ``norm`` and ``input_policy`` for this encoder."""
    found = [] if policy is None else one_of("input_policy", policy, POLICIES)
    if pretrained is False:
        if policy is not None:
            found.append("input_policy is for pretrained weights: give pretrained=…, or leave it out")
        return found
    problem = _source_problem(spec, pretrained)
    if problem is not None:
        found.append(problem)
    elif spec.own_norm is None and norm not in spec.weights_norms:
        fitting = " or ".join("no norm" if known is None else f"{known} norm" for known in spec.weights_norms)
        fix = "leave norm out" if "batch" in spec.weights_norms else f"give norm={spec.weights_norms[0]!r}"
        found.append(
            f"pretrained={pretrained!r} with norm={norm!r}: these weights are for {fitting}; {fix}, or pretrained"
        )
    return found


def names_weights(spec: EncoderSpec, pretrained: object) -> bool:
    """Return whether ``pretrained`` means published weights, such as torchvision's, and not a file."""
    names = _enum(spec.weights).__members__ if isinstance(spec.weights, str) else available_weights(spec)
    return pretrained is True or (isinstance(pretrained, str) and pretrained in names)


def normalisation_of(spec: EncoderSpec, pretrained: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the images that weights are for; for a file, those of the usual weights."""
    names = available_weights(spec)
    if not isinstance(spec.weights, Published) or not names:
        return IMAGENET_MEAN, IMAGENET_STD  # as all of torchvision's
    return spec.weights.normalisation(pretrained if pretrained in names else names[0])


def _source_problem(spec: EncoderSpec, pretrained: object) -> str | None:
    if spec.weights is None:
        able = [name for name, other in ENCODERS.items() if other.weights is not None]
        return (
            f"pretrained={pretrained!r}: the {spec.title} encoder has no pretrained weights; these encoders have some: "
            f"{', '.join(able)} (use for example 'unet_{able[0]}')"
        )
    if names_weights(spec, pretrained):
        if available_weights(spec):
            return None
        return f"pretrained={pretrained!r}: there are no published weights of {spec.title}; give the path of a file"
    if isinstance(pretrained, str | os.PathLike):
        file = split_place(pretrained)[0]
        if file.is_file():
            return None
        if file.suffix in SUFFIXES:
            return f"pretrained={str(pretrained)!r}: there is no such file"
    known = available_weights(spec)
    return (
        f"pretrained={pretrained!r}: True, False, one of {', '.join(map(repr, known))}, or the path of a file "
        f"({', '.join(SUFFIXES)}) is needed{suggest(str(pretrained), known)}"
    )


def read_pretrained(spec: EncoderSpec, pretrained: bool | str | os.PathLike[str]) -> Contents:
    """Return the contents of the file that ``pretrained`` means; it is downloaded if it is not in torch's cache.

    Raises:
        WeightsError: the file is missing, damaged, not reachable, or not a file of tensors.
    """
    if spec.weights is not None and names_weights(spec, pretrained):
        if isinstance(spec.weights, Published):
            return spec.weights.read(spec.weights.names()[0] if pretrained is True else str(pretrained))
        return _read_torchvision(_enum(spec.weights)["DEFAULT" if pretrained is True else pretrained])
    return read_contents(str(pretrained))


def fill_encoder(
    encoder: Encoder, spec: EncoderSpec, contents: Contents, policy: str | None, decoder: str
) -> tuple[int, str, bool]:
    """Load the weights of an encoder, wherever they are in a file, into ``encoder``.

    The encoder itself leaves out what it lacks by design, such as a classifier. Batch counters, which old files lack,
    start at 0. The convolution that reads the images is adapted if the file is for a different number of channels.

    Args:
        encoder: built from ``spec``.
        spec: its entry in the registry.
        contents: of the file.
        policy: for a different number of channels than in the file, see :func:`adapt_input_conv`. None: for files of
            three channels, "sum" for one channel and "repeat" otherwise; for other files the caller must choose.
        decoder: the decoder on this encoder; errors name networks with it.

    Returns:
        The number of image channels that the weights in the file are for, one line about what was taken and left, and
        whether another place in the file fits as well.

    Raises:
        WeightsError: the file holds another network, which is named if it is in the zoo; or some tensors are missing,
            unexpected, of another shape or not finite; the message lists them.
    """
    wanted = encoder.state_dict()
    found = find(contents, _shapes(encoder), encoder.from_torchvision)
    if found is None:
        raise _misfit(encoder, spec, contents, decoder)
    place, passed = found
    _refuse_deeper(encoder, spec, contents, place, decoder)
    state = dict(place.state)
    known = _channels(encoder, state)
    how = _adapt(encoder, spec, contents, state, known, policy)
    state = complete(state, wanted)
    problems = misfits(wanted, state)
    if problems:
        raise WeightsError(f"the weights do not fit {spec.title}{_inflexible(encoder)}:{listed(problems, MOST_LISTED)}")
    check_finite(contents.path, {name: place.state[name] for name in wanted if name in place.state})
    encoder.load_state_dict(state)
    return known, taken_and_left(contents, place, passed, wanted) + how, bool(passed)


def _shapes(encoder: Encoder) -> dict[str, Shape]:
    """Return name → shape of an encoder's tensors, with any number of image channels."""
    shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    first = f"{encoder.image_convolution}.weight"
    if encoder.image_convolution is not None and len(shapes.get(first, ())) == 4:
        shapes[first] = (shapes[first][0], None, *shapes[first][2:])
    return shapes


def _channels(encoder: Encoder, state: Mapping[str, Tensor]) -> int:
    """Return the number of image channels that a state dict is for."""
    weight = state.get(f"{encoder.image_convolution}.weight")
    return encoder.in_channels if weight is None or weight.ndim != 4 else weight.shape[1]


def _adapt(
    encoder: Encoder, spec: EncoderSpec, contents: Contents, state: dict[str, Tensor], known: int, policy: str | None
) -> str:
    """Adapt the weights from ``known`` channels to the encoder's, and return a remark on how, for the log."""
    channels = encoder.in_channels
    if known == channels:
        return ""
    if policy is None and known != 3:
        raise WeightsError(
            f"{contents.path} is for images of {known} channel{'s' * (known > 1)}, and in_channels is {channels}: give "
            f"in_channels={known}; or set how the weights are adapted to {channels}: "
            f"input_policy={POLICIES[0]!r} or another of {', '.join(POLICIES)}"
        )
    policy = policy or ("sum" if channels == 1 else "repeat")
    adapt_images(encoder, spec.title, state, known, policy)
    return f"; {encoder.image_convolution} adapted from {known} to {channels} channels (input_policy={policy!r})"


def _refuse_deeper(encoder: Encoder, spec: EncoderSpec, contents: Contents, place: Place, decoder: str) -> None:
    """Refuse a file whose first stages fit a shallow encoder, but whose deeper stages belong to another network."""
    if len(encoder.channels) == spec.maps:
        return
    behind = replace(contents, asked=place.prefix.rstrip("."))
    other = None if _stands(spec, behind) else _held(behind)
    if other is not None:
        raise WeightsError(_another(spec, contents, other, place.prefix, decoder))


def _misfit(encoder: Encoder, spec: EncoderSpec, contents: Contents, decoder: str) -> WeightsError:
    """Return the error for a file that does not hold the encoder: what it holds, or what is wrong with the nearest."""
    wanted = encoder.state_dict()
    near = nearest(contents, wanted, encoder.from_torchvision)
    elsewhere = None if near else nearest(replace(contents, asked=None), wanted, encoder.from_torchvision)
    if near is None and elsewhere is not None:
        asked = repr(contents.asked)[:200] if contents.asked else "its top"
        return WeightsError(
            f"the weights do not fit {spec.title}: {contents.path} has no tensor of its names at {asked}; some are "
            f"at {elsewhere}: give {at(contents.path, elsewhere)!r:.400}"
        )
    if near is None:
        names = ", ".join(list(contents.tensors)[:4])
        return WeightsError(
            f"the weights do not fit {spec.title}: {contents.path} has no tensor of its names; it holds "
            f"{len(contents.tensors)} tensors, such as {names:.300}{_whole(contents)}"
        )
    other = _held(contents)
    if other is not None and other is not spec:
        return WeightsError(_another(spec, contents, other, near.prefix, decoder))
    first, shapes = f"{encoder.image_convolution}.weight", _shapes(encoder)
    adaptable = first in wanted and is_shaped(near.state.get(first), shapes[first])
    state = {**complete(near.state, wanted), **({first: wanted[first]} if adaptable else {})}
    problems = misfits(wanted, state)
    others = "was made with another norm than batch norm" if lacks_statistics(problems) else "has others"
    return WeightsError(
        f"the weights do not fit {spec.title}{_inflexible(encoder)}: {contents.path}, at {near}, {others}:"
        f"{listed(problems, MOST_LISTED)}"
    )


def _whole(contents: Contents) -> str:
    """Return a remark on files that hold a complete model."""
    named = all(any(f".{part}." in f".{name}" for name in contents.tensors) for part in ("encoder", "decoder"))
    return " (of a complete model: if its network is in the zoo, unetzoo.load takes it)" if named else ""


def _another(spec: EncoderSpec, contents: Contents, other: EncoderSpec, prefix: str, decoder: str) -> str:
    where = f" at {prefix.rstrip('.')!r}" if prefix else ""
    article = "an" if other.title.startswith(tuple("AEIO")) else "a"
    return (
        f"the weights do not fit {spec.title}: {contents.path} holds {article} {other.title}{where}, which is for "
        f"{other.names(decoder)[0]!r}"
    )


def _inflexible(encoder: Encoder) -> str:
    """Return a remark on encoders whose weights fit one number of channels."""
    if encoder.image_convolution is not None or encoder.in_channels == 3:
        return ""
    return (
        f" with in_channels={encoder.in_channels}, which does not have one convolution that reads the images "
        "(image_convolution), so weights for other channels cannot be adapted"
    )


def _held(contents: Contents) -> EncoderSpec | None:
    """Return the encoder of the zoo that a file holds, compared tensor by tensor; None if it holds none."""
    able = [spec for spec in ENCODERS.values() if spec.weights is not None]
    return next((spec for spec in able if _stands(spec, contents)), None)


def _stands(spec: EncoderSpec, contents: Contents) -> bool:
    """Return whether a file holds a complete encoder."""
    encoder = _unfilled(spec)
    try:
        return find(contents, _shapes(encoder), encoder.from_torchvision) is not None
    except WeightsError:  # several
        return True


def _unfilled(spec: EncoderSpec) -> Encoder:
    """Return a complete encoder as its published weights need it, on the meta device."""
    norm = spec.weights_norms[0]
    with on_meta():
        return spec.build(3, ConvStyle(norm, bias=norm is None), spec.options(), spec.maps)


def adapt_images(
    encoder: Encoder, title: str, state: dict[str, Tensor], known: int, policy: str, prefix: str = ""
) -> str | None:
    """Adapt, in ``state``, the convolution that reads the images from ``known`` channels to the encoder's.

    Args:
        encoder: the state has its names, after ``prefix``.
        title: its name as written in papers.
        state: is changed.
        known: number of image channels that the state is for.
        policy: see :func:`adapt_input_conv`.
        prefix: before the encoder's names in the state.

    Returns:
        The name of the weight; None if the state has no such weight, which the caller must refuse.

    Raises:
        WeightsError: the encoder does not have one convolution that reads the images.
    """
    if encoder.image_convolution is None:
        raise WeightsError(
            f"weights for {known} channels cannot be adapted to in_channels={encoder.in_channels}: {title} does not "
            f"have one convolution that reads the images (image_convolution); use {known} channels, or train from "
            "scratch"
        )
    name = f"{prefix}{encoder.image_convolution}.weight"
    weight = state.get(name)
    # torch also has floating point of 8 bits, but no arithmetic on it.
    if weight is None or weight.dtype not in _ADAPTABLE or weight.ndim != 4 or weight.shape[1] != known:
        return None
    state[name] = adapt_input_conv(weight, encoder.in_channels, policy)
    return name


def adapt_input_conv(weight: Tensor, in_channels: int, policy: str) -> Tensor:
    """Return the first convolution's ``weight`` (O, C, k, k) for other channels: (O, in_channels, k, k).

    Args:
        policy: "repeat": R, G, B, R, … times C / in_channels, which keeps the response to images whose channels
            are equal; "mean": each channel gets the mean of all; "sum": the sum, divided evenly, so that a grey
            image gives the same result as if it were copied to RGB; "keep_rgb": the first C channels are kept, and
            further ones are initialised randomly, as torchvision does.
    """
    known = weight.shape[1]
    match policy:
        case "repeat":
            copies = -(-in_channels // known)
            return weight.repeat(1, copies, 1, 1)[:, :in_channels] * (known / in_channels)
        case "mean":
            return weight.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)
        case "sum":
            return weight.sum(dim=1, keepdim=True).repeat(1, in_channels, 1, 1) / in_channels
        case "keep_rgb":
            new = torch.empty_like(weight[:, :1]).repeat(1, in_channels, 1, 1)
            nn.init.kaiming_normal_(new, mode="fan_out", nonlinearity="relu")
            new[:, :known] = weight[:, :in_channels]
            return new
    raise AssertionError(f"create does not accept this policy: {policy!r}")


def _enum(name: str) -> Any:
    from torchvision import models

    return getattr(models, name)


def _read_torchvision(member: Any) -> Contents:
    """Return the tensors of a member of a torchvision weights enum, from torch's cache or else from its server."""
    file = Path(urlparse(member.url).path).name
    cached = Path(torch.hub.get_dir(), "checkpoints", file)
    if cached.is_file():
        digest = file.removesuffix(".pth").rpartition("-")[2]
        with cached.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if not found.startswith(digest):
            raise WeightsError(
                f"{cached} is damaged: its sha256 begins {found[: len(digest)]}, not {digest}; "
                "delete it, and it is downloaded again"
            )
        return read_contents(cached)
    off = switched_off("UNETZOO_OFFLINE")
    if off:
        raise WeightsError(
            f"the weights {file} are not in torch's cache ({cached.parent}), and {off} forbids downloads"
        )
    try:
        problem = silence(member.url)  # torch's client would wait forever
        if problem is not None:
            raise problem
        state: dict[str, Tensor] = member.get_state_dict(progress=True, check_hash=True, weights_only=True)
    # torch.hub raises URLError, other OSErrors, or RuntimeError for a wrong hash.
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the weights {file} are not in torch's cache and could not be downloaded ({first_line(error)}).\n"
            f"  looked for: {cached}\n"
            f"  tried:      {member.url}\n"
            f"Put the file there yourself, set TORCH_HOME to the folder whose hub/checkpoints/ holds it, or give "
            f"its path: pretrained='path/to/{file}'"
        ) from error
    return Contents(cached, None, state)
