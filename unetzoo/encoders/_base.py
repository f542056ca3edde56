"""The contract of an encoder, and the registry of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unetzoo.nn.layers import Checkpointed, ConvStyle
from unetzoo.registry import Registry

LARGEST = 1 << 20
"""Of channels and classes: far above any network's, and far below what overflows when it is multiplied."""


@dataclass(frozen=True)
class NoOptions:
    """The options of a part that has none."""

    def problems(self) -> list[str]:
        """Return a sentence for each value that is not allowed."""
        return []


class Encoder(Checkpointed, ABC):
    """Turns images into feature maps, finest first.

    A subclass sets, before or in ``__init__``:

    Attributes:
        in_channels: channels of the images.
        channels: channels of each map.
        strides: stride of each map: map i of an H × W image is ceil(H / strides[i]) high, and so its width.
        symmetric: True where a decoder should mirror the encoder, with its widths and no output stage of its
            own, as in the plain U-Net.

    Encoders work alone: ``model.encoder(images)`` is a list of maps.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    symmetric: bool = False
    frozen_stages: int = 0

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of ``images`` (N, in_channels, H, W), one a stage, finest first."""

    @abstractmethod
    def stages(self) -> list[Sequence[nn.Module]]:
        """Return the modules of each stage, finest first: one stage a map."""

    def freeze(self, stages: int) -> None:
        """Stop training the first ``stages`` stages, their batch-norm statistics too, and train the others."""
        self.frozen_stages = stages
        for number, modules in enumerate(self.stages()):
            for module in modules:
                module.requires_grad_(number >= stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """Set training mode, except in frozen stages, which stay in evaluation mode."""
        super().train(mode)
        for modules in self.stages()[: self.frozen_stages]:
            for module in modules:
                module.train(False)
        return self


@dataclass(frozen=True)
class EncoderSpec:
    """An entry of the registry of encoders.

    Attributes:
        title: its name as written in papers.
        paper: where it comes from.
        options: a frozen dataclass of its own options, with defaults and ``problems()``.
        build: ``build(in_channels, style, options, depth)`` → the encoder's first ``depth`` maps.
        names: decoder name → the names of that pair in the zoo, the usual one first, then aliases.
        weights: torchvision's name of the enum of its weights, None where there are no pretrained ones.
        unpaddable: whether it can be built of unpadded convolutions.
    """

    title: str
    paper: str
    options: type[NoOptions]
    build: Callable[[int, ConvStyle, Any, int], Encoder]
    names: Callable[[str], tuple[str, ...]]
    weights: str | None = None
    unpaddable: bool = False


ENCODERS: Registry[EncoderSpec] = Registry("encoder")


def register_encoder(
    name: str,
    *,
    title: str,
    paper: str,
    options: type[NoOptions] = NoOptions,
    names: Callable[[str], tuple[str, ...]] | None = None,
    weights: str | None = None,
    unpaddable: bool = False,
) -> Callable[[Callable[..., Encoder]], Callable[..., Encoder]]:
    """Register an encoder: its pairs with all decoders join the zoo as ``<decoder>_<name>``.

    Decorates a class or function called as ``build(in_channels, style, options, depth)``; see
    :class:`EncoderSpec` for the arguments.

    Raises:
        ConfigError: the name is taken, or cannot be a name.
    """

    def decorate(build: Callable[..., Encoder]) -> Callable[..., Encoder]:
        def usual(decoder: str) -> tuple[str, ...]:
            return (f"{decoder}_{name}",)

        spec = EncoderSpec(title, paper, options, build, names or usual, weights, unpaddable)
        ENCODERS.register(name, spec)
        return build

    return decorate


def options_of(options: Any) -> dict[str, Any]:
    """Return the fields of an options dataclass as a dictionary."""
    return {name: getattr(options, name) for name in type(options).__dataclass_fields__}


def whole_number_problems(name: str, value: object) -> list[str]:
    """Return what keeps ``value`` from being a number of channels or classes, in a list of one sentence or none."""
    if type(value) is int and 1 <= value <= LARGEST:
        return []
    return [f"{name}={value!r:.50}: a whole number from 1 to {LARGEST:,} is needed"]
