"""The contract of an encoder, and the registry of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from unetzoo.files.finding import Contents
from unetzoo.nn.layers import NORMS, Checkpointed, ConvStyle
from unetzoo.registry import Registry


@dataclass(frozen=True)
class Options:
    """Base class of the options of a part; also the options of a part that has none."""

    def problems(self) -> list[str]:
        """Return a sentence for each value that is not allowed."""
        return []


class Encoder(Checkpointed, ABC):
    """Turns images into feature maps, finest first.

    A subclass sets, before or in ``__init__``:

    Attributes:
        in_channels: channels of the images.
        channels: channels of each map.
        strides: stride of each map: for an H × W image, map i has the size ceil(H / strides[i]) × ceil(W / strides[i]).
        symmetric: True if a decoder should mirror the encoder, with its widths and without its own output stage, as in
            the plain U-Net.
        image_convolution: name in the encoder of the only convolution that reads the images, such as "conv1": its
            weight is the one that is adapted to another number of channels. None if there is no such convolution;
            weights can then not be adapted.

    Encoders can be used alone: ``model.encoder(images)`` is a list of maps.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    symmetric: bool = False
    image_convolution: str | None = None
    frozen_stages: int = 0

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of ``images`` (N, in_channels, H, W), one per stage, finest first."""

    @abstractmethod
    def stages(self) -> list[Sequence[nn.Module]]:
        """Return the modules of each stage, finest first: one stage per map."""

    def from_torchvision(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this encoder's part of the state dict of torchvision's complete network, under the encoder's names.

        Only tensors that the encoder lacks by design, such as a classifier, are left out here: anything else that does
        not fit is refused.
        """
        return dict(state)

    def freeze(self, stages: int) -> None:
        """Freeze the first ``stages`` stages, including their batch-norm statistics, and train the others."""
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


class Published(ABC):
    """Weights that another package publishes for one encoder, and can download."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Return the names of all weights, the usual ones first; empty if there are none."""

    @abstractmethod
    def read(self, name: str) -> Contents:
        """Return the tensors of the weights with this name, downloaded if they are not in the package's cache.

        Raises:
            WeightsError: they are not available.
        """

    @abstractmethod
    def normalisation(self, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and the standard deviation per channel of the images, in [0, 1], that they expect."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An entry of the registry of encoders.

    Attributes:
        title: its name as written in papers.
        paper: where it was published.
        options: a frozen dataclass of its own options, with defaults and ``problems()``.
        build: ``build(in_channels, style, options, depth)`` → an encoder with the first ``depth`` maps.
        names: decoder name → the names of that pair in the zoo, the usual one first, then aliases.
        maps: number of maps it can give. Decoders that need more cannot use it.
        norms: the values of ``norm`` that it supports, the preferred one first.
        own_norm: the normalisation that the encoder uses whatever ``norm`` is, such as "layer norm"; ``norm`` then
            applies only to the decoder. None if the encoder follows ``norm``.
        weights: torchvision's name of the enum of its weights, or weights published by another package; None if there
            are no pretrained weights.
        weights_norms: norms for which those weights fit; ignored with an ``own_norm``.
        unpaddable: whether it can be built with unpadded convolutions.
        default_norm: the norm of its paper, used if none is given; "auto" is that of the decoder.
        activation: that of its paper, for encoder and decoder: one of ``unetzoo.nn.layers.ACTIVATIONS``.
        decoder_defaults: decoder options that its paper sets differently, for every decoder that has them.
    """

    title: str
    paper: str
    options: type[Options]
    build: Callable[[int, ConvStyle, Any, int], Encoder]
    names: Callable[[str], tuple[str, ...]]
    maps: int
    norms: tuple[str | None, ...]
    own_norm: str | None
    weights: str | Published | None
    weights_norms: tuple[str | None, ...]
    unpaddable: bool
    default_norm: str | None = "auto"
    activation: str = "relu"
    decoder_defaults: Mapping[str, Any] = field(default_factory=dict)


ENCODERS: Registry[EncoderSpec] = Registry("encoder")


def register_encoder(
    name: str,
    *,
    title: str,
    paper: str,
    options: type[Options] = Options,
    names: Callable[[str], tuple[str, ...]] | None = None,
    maps: int = 5,
    norms: tuple[str | None, ...] = (*NORMS, None),
    own_norm: str | None = None,
    weights: str | None = None,
    weights_norms: tuple[str | None, ...] = ("batch",),
    default_norm: str | None = "auto",
    activation: str = "relu",
    decoder_defaults: Mapping[str, Any] = MappingProxyType({}),
    unpaddable: bool = False,
) -> Callable[[Callable[..., Encoder]], Callable[..., Encoder]]:
    """Register an encoder: its pairs with all decoders that can use it join the zoo as ``<decoder>_<name>``.

    Decorates a class or function called as ``build(in_channels, style, options, depth)``; see
    :class:`EncoderSpec` for the arguments.

    Raises:
        ConfigError: the name is taken, or is not a valid name.
    """

    def decorate(build: Callable[..., Encoder]) -> Callable[..., Encoder]:
        def usual(decoder: str) -> tuple[str, ...]:
            return (f"{decoder}_{name}",)

        spec = EncoderSpec(
            title=title,
            paper=paper,
            options=options,
            build=build,
            names=names or usual,
            maps=maps,
            norms=norms,
            own_norm=own_norm,
            weights=weights,
            weights_norms=weights_norms,
            default_norm=default_norm,
            activation=activation,
            decoder_defaults=decoder_defaults,
            unpaddable=unpaddable,
        )
        ENCODERS.register(name, spec)
        return build

    return decorate


def options_of(options: Any) -> dict[str, Any]:
    """Return the fields of an options dataclass as a dictionary."""
    return {name: getattr(options, name) for name in type(options).__dataclass_fields__}
