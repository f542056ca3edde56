"""The contract of a decoder, and the registry of decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from unetzoo import encoders
from unetzoo.encoders import Encoder, EncoderSpec
from unetzoo.nn.convolutions import Source
from unetzoo.nn.layers import Checkpointed, ConvStyle
from unetzoo.nn.resampling import Size
from unetzoo.registry import Registry


class Feature(NamedTuple):
    """Channels and stride of a feature map."""

    channels: int
    stride: int


def widths(encoder: Encoder, finest: int, levels: int) -> list[int]:
    """Return the channels of a decoder's levels on an encoder that it does not mirror, finest first.

    They double from ``finest`` on, but are at most twice those of the skip connection at their level: more channels
    would add no information, and a decoder with a ResNet's widths would be many times larger than a mobile encoder.
    """
    return [min(finest * 2**level, 2 * encoder.channels[level]) for level in range(levels)]


class Pruned(NamedTuple):
    """The part of a decoder that pruning leaves.

    Attributes:
        options: those of the smaller decoder, whose tensors have the same names as in the larger one.
        head: number of the feature that becomes the main one; 0 for the main one itself.
    """

    options: encoders.Options
    head: int


class Decoder(Checkpointed, ABC):
    """Turns the maps of an encoder into the features that a head reads.

    A subclass is called as ``Decoder(encoder, style, options, deep_supervision)`` and sets:

    Attributes:
        title, paper, summary: its description in listings and help texts.
        Options: a frozen dataclass of its own options, with defaults and ``problems()``.
        features: channels and stride of each feature that ``forward`` gives: the main one, then, with deep
            supervision, the others.
        head_kernel: kernel of the convolution that makes logits of them.
        nested: whether the features of deep supervision are those of nested decoders, the shallowest first, instead of
            those of coarser stages, the finest first.
        averages_heads: whether the output is the average of all heads.
        prunable: how many levels ``pruned`` takes, the last of which is the complete decoder; 0 if it cannot be pruned.
        fewest_maps, most_maps: least and largest number of encoder maps that it takes.
        default_norm: the norm of the paper, used if none is given.
        encoder_defaults: encoder options that the paper sets differently.
        border: pixels that the logits lack on each side, if convolutions are unpadded.
        supervisable: False if there is neither deep supervision nor classification guidance.
        published: encoder name → published size in millions of parameters (input 3, output 1 channels).

    The methods below ``forward`` have defaults that are right for most decoders.
    """

    title: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type[encoders.Options]] = encoders.Options
    default_norm: ClassVar[str | None] = "batch"
    encoder_defaults: ClassVar[Mapping[str, Any]] = {}
    border: ClassVar[int] = 0
    supervisable: ClassVar[bool] = True
    nested: ClassVar[bool] = False
    fewest_maps: ClassVar[int] = 2
    most_maps: ClassVar[int] = 5
    published: ClassVar[Mapping[str, float]] = {}

    features: list[Feature]
    head_kernel: int = 1
    averages_heads: bool = False
    prunable: int = 0

    def __init__(self, encoder: Encoder, style: ConvStyle, options: Any, deep_supervision: bool) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> Sequence[Source]:
        """Return the feature for the head, followed, if ``deep``, by those for the deep-supervision heads.

        A feature is a tensor, or :class:`unetzoo.nn.convolutions.Upsampled`: the head then mixes channels before it
        resamples them.

        Args:
            maps: the encoder's maps, finest first.
            size: height and width of the images.
            deep: whether deep-supervision features are wanted.
        """

    @classmethod
    def encoder_problem(cls, encoder: EncoderSpec) -> str | None:
        """Return why the decoder cannot use an encoder at all; None if it can."""
        if cls.border and not encoder.unpaddable:
            return f"needs an encoder of unpadded convolutions, and those of {encoder.title} are padded"
        if encoder.maps < cls.fewest_maps:
            return f"needs {cls.fewest_maps} maps, and {encoder.title} gives {encoder.maps}"
        return None

    @classmethod
    def defaults(cls, maps: int) -> dict[str, Any]:
        """Return options whose default depends on how many maps the encoder can give."""
        return {}

    @classmethod
    def depth(cls, options: Any, maps: int) -> int:
        """Return the number of encoder maps that the decoder uses, out of ``maps`` available ones."""
        return min(maps, cls.most_maps)

    @classmethod
    def problems(cls, options: Any, deep_supervision: bool, maps: int) -> list[str]:
        """Return a sentence for each option that is not allowed on an encoder that can give ``maps`` maps."""
        found: list[str] = options.problems()
        return found

    def tails(self, deep: bool) -> Sequence[nn.Module | None]:
        """Return the modules that make the features of ``forward``, in that order, and whose output only a head reads.

        An ``Upsample`` by transposed convolution there becomes one with a 1×1 head when a model is optimized. None,
        or nothing, where there is no such module.
        """
        return ()

    def drop_training_parts(self) -> None:
        """Delete the parts that only ``deep=True`` needs: the decoder is not called with it again."""

    def pruned(self, options: Any, level: int) -> Pruned:
        """Return the part left at ``level``, from 1 to ``prunable``; ``options`` are the decoder's own."""
        raise NotImplementedError(f"{type(self).__name__} sets prunable, but does not implement pruned")

    def size_problem(self, height: int, width: int) -> str | None:
        """Return what is wrong with images of this size; None if nothing is."""
        return None

    def input_side(self, side: int) -> int:
        """Return the side of the smallest image whose logits cover ``side`` pixels."""
        return side


DECODERS: Registry[type[Decoder]] = Registry("decoder")

D = TypeVar("D", bound=type[Decoder])


def register_decoder(name: str) -> Callable[[D], D]:
    """Register a :class:`Decoder` class: its pairs with all encoders join the zoo as ``<name>_<encoder>``.

    Raises:
        ConfigError: the name is taken, or is not a valid name.
    """

    def decorate(decoder: D) -> D:
        DECODERS.register(name, decoder)
        return decoder

    return decorate
