"""Pretrained encoders: torchvision's weights from its own enums, or from a file in its layout.

Nothing that is read can run code: files are opened as tensors only, and torchvision's are held against the hash
in their name, also when they come from torch's cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from unetzoo.checks import one_of
from unetzoo.encoders import ENCODERS, Encoder, EncoderSpec
from unetzoo.errors import WeightsError
from unetzoo.files.checkpoints import complete, first_line, listed, load_state_dict_file, misfits
from unetzoo.files.offline import switched_off
from unetzoo.registry import suggest

POLICIES = ("repeat", "mean", "sum", "keep_rgb")
SUFFIXES = (".pth", ".pt", ".safetensors")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_ADAPTABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def available_weights(spec: EncoderSpec) -> tuple[str, ...]:
    """Return the names of an encoder's weights, torchvision's default first."""
    if spec.weights is None:
        return ()
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
        mend = "leave norm out" if "batch" in spec.weights_norms else f"give norm={spec.weights_norms[0]!r}"
        found.append(
            f"pretrained={pretrained!r} with norm={norm!r}: these weights are for {fitting}; {mend}, or pretrained"
        )
    return found


def _source_problem(spec: EncoderSpec, pretrained: object) -> str | None:
    if spec.weights is None:
        able = ", ".join(other.title for other in ENCODERS.values() if other.weights is not None)
        return f"pretrained={pretrained!r}: the {spec.title} encoder has no pretrained weights; these have: {able}"
    if pretrained is True or (isinstance(pretrained, str) and pretrained in _enum(spec.weights).__members__):
        return None
    if isinstance(pretrained, str | os.PathLike) and Path(pretrained).suffix in SUFFIXES:
        return None if Path(pretrained).is_file() else f"pretrained={str(pretrained)!r}: there is no such file"
    known = available_weights(spec)
    return (
        f"pretrained={pretrained!r}: True, False, one of {', '.join(map(repr, known))}, or the path of a "
        f"{', '.join(SUFFIXES)} file is needed{suggest(str(pretrained), known)}"
    )


def read_pretrained(spec: EncoderSpec, pretrained: bool | str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict that ``pretrained`` means, downloaded where it is not in torch's cache.

    Raises:
        WeightsError: missing, damaged, not reachable, or no file of tensors.
    """
    if isinstance(pretrained, bool):
        pretrained = "DEFAULT"
    if spec.weights is not None and str(pretrained) in _enum(spec.weights).__members__:
        return _read_torchvision(_enum(spec.weights)[str(pretrained)])
    return load_state_dict_file(Path(pretrained))


def fill_encoder(encoder: Encoder, title: str, state: Mapping[str, Tensor], policy: str) -> None:
    """Put a state dict in torchvision's layout into ``encoder``: every tensor, and no other.

    What the encoder does not have by design, a classifier say, it leaves out itself, and the convolution that sees
    the images is adapted by ``policy``; counters of batches, which old files lack, start at 0.

    Raises:
        WeightsError: lists all tensors that are missing, unexpected or of another shape.
    """
    wanted = encoder.state_dict()
    cause = _likely_cause(state)
    state = encoder.from_torchvision(state)
    if encoder.in_channels != 3:
        adapt_images(encoder, title, state, 3, policy)
    state = complete(state, wanted)
    problems = misfits(wanted, state)
    if problems:
        raise WeightsError(f"the weights do not fit {title}{cause}:{listed(problems)}")
    encoder.load_state_dict(state)


def _likely_cause(state: Mapping[str, Tensor]) -> str:
    """Return what explains names that do not fit, where something does."""
    if any(name.startswith("decoder.") for name in state):
        if any(name.startswith("head.") for name in state):
            return " (they are a whole model's: unetzoo.load or unetzoo.convert takes such a file)"
        return " (they are a whole model's of another library: save its encoder's alone, model.encoder.state_dict())"
    return ""


def adapt_images(
    encoder: Encoder, title: str, state: dict[str, Tensor], known: int, policy: str, prefix: str = ""
) -> str | None:
    """Adapt, in ``state``, the convolution that sees the images from ``known`` channels to the encoder's.

    Args:
        encoder: whose names, behind ``prefix``, the state has.
        title: its name as written in papers.
        state: is changed.
        known: channels of the images for which it is.
        policy: see :func:`adapt_input_conv`.
        prefix: of the encoder's names in the state.

    Returns:
        The name of the weight; None where the state has no such weight, which is for the caller to refuse.

    Raises:
        WeightsError: the encoder has no convolution that alone sees the images.
    """
    if encoder.image_convolution is None:
        raise WeightsError(
            f"weights for {known} channels cannot be adapted to in_channels={encoder.in_channels}: {title} has no "
            f"convolution that alone sees the images (image_convolution); take {known} channels, or train anew"
        )
    name = f"{prefix}{encoder.image_convolution}.weight"
    weight = state.get(name)
    # Of 8 bits torch has floating point too, and no arithmetic on it.
    if weight is None or weight.dtype not in _ADAPTABLE or weight.ndim != 4 or weight.shape[1] != known:
        return None
    state[name] = adapt_input_conv(weight, encoder.in_channels, policy)
    return name


def adapt_input_conv(weight: Tensor, in_channels: int, policy: str) -> Tensor:
    """Return the first convolution's ``weight`` (O, C, k, k) for other channels: (O, in_channels, k, k).

    Args:
        policy: "repeat": R, G, B, R, … times C / in_channels, which keeps the response to images whose channels
            are equal; "mean": each channel gets the mean of all; "sum": the sum, shared out evenly, so that a grey
            image gives what it would give copied to RGB; "keep_rgb": the first C channels are kept, and further
            ones drawn anew as torchvision does.
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
    raise AssertionError(f"create lets no such policy through: {policy!r}")


def _enum(name: str) -> Any:
    from torchvision import models

    return getattr(models, name)


def _read_torchvision(member: Any) -> dict[str, Tensor]:
    """Return the tensors of a torchvision weights enum, from torch's cache or else from its server."""
    file = Path(urlparse(member.url).path).name
    cached = Path(torch.hub.get_dir(), "checkpoints", file)
    if cached.is_file():
        digest = file.removesuffix(".pth").rpartition("-")[2]
        with cached.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if not found.startswith(digest):
            raise WeightsError(
                f"{cached} is damaged: its sha256 begins {found[: len(digest)]}, not {digest}; "
                "delete it, and it will be downloaded again"
            )
        return load_state_dict_file(cached)
    off = switched_off("UNETZOO_OFFLINE")
    if off:
        raise WeightsError(
            f"the weights {file} are not in torch's cache ({cached.parent}), and {off} forbids to fetch them"
        )
    try:
        state: dict[str, Tensor] = member.get_state_dict(progress=True, check_hash=True, weights_only=True)
    # torch.hub raises URLError, other OSErrors, or RuntimeError for a wrong hash.
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the weights {file} are not in torch's cache and could not be downloaded ({first_line(error)}).\n"
            f"  looked for: {cached}\n"
            f"  tried:      {member.url}\n"
            f"Put the file there by hand, set TORCH_HOME to the folder whose hub/checkpoints/ holds it, or give "
            f"its path: pretrained='path/to/{file}'"
        ) from error
    return state
