"""The contract of a decoder, and the registry of decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor

from unetzoo.encoders import Encoder, NoOptions
from unetzoo.nn.convolutions import Source
from unetzoo.nn.layers import Checkpointed, ConvStyle
from unetzoo.nn.resampling import Size
from unetzoo.registry import Registry


class Feature(NamedTuple):
    """Channels and stride of a feature map."""

    channels: int
    stride: int


class Decoder(Checkpointed, ABC):
    """Turns the maps of an encoder into the features that a head reads.

    A subclass is called as ``Decoder(encoder, style, options, deep_supervision)`` and sets:

    Attributes:
        title, paper, summary: what it is, for listings and help texts.
        Options: a frozen dataclass of its own options, with defaults and ``problems()``.
        features: channels and stride of each feature that ``forward`` gives: the main one, then, with deep
            supervision, the others.
        head_kernel: kernel of the convolution that makes logits of them.
        averages_heads: whether the answer is the average of all heads.
        default_norm: the paper's norm, where the caller names none.
        encoder_defaults: encoder options that the paper sets otherwise.
        border: pixels that the logits lack on each side, where convolutions are unpadded.
        supervisable: False where neither deep supervision nor classification guidance exists.
        published: encoder name → published size in millions of parameters (input 3, output 1 channels).
    """

    title: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type[NoOptions]] = NoOptions
    default_norm: ClassVar[str | None] = "batch"
    encoder_defaults: ClassVar[Mapping[str, Any]] = {}
    border: ClassVar[int] = 0
    supervisable: ClassVar[bool] = True
    published: ClassVar[Mapping[str, float]] = {}

    features: list[Feature]
    head_kernel: int = 1
    averages_heads: bool = False

    def __init__(self, encoder: Encoder, style: ConvStyle, options: Any, deep_supervision: bool) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, maps: list[Tensor], size: Size, deep: bool) -> Sequence[Source]:
        """Return the feature for the head and, if ``deep``, those for the deep-supervision heads behind it.

        A feature is a tensor, or :class:`unetzoo.nn.convolutions.Upsampled`: the head then mixes channels before it
        resamples them.

        Args:
            maps: the encoder's maps, finest first.
            size: height and width of the images.
            deep: whether deep-supervision features are wanted.
        """

    @classmethod
    def depth(cls, options: Any) -> int:
        """Return the number of encoder maps that the decoder uses."""
        return 5

    @classmethod
    def problems(cls, options: Any, deep_supervision: bool) -> list[str]:
        """Return a sentence for each option that is not allowed."""
        found: list[str] = options.problems()
        return found

    def size_problem(self, height: int, width: int) -> str | None:
        """Return what is wrong with images of this size, None where nothing is."""
        return None

    def input_side(self, side: int) -> int:
        """Return the side of the smallest image whose logits cover ``side`` pixels."""
        return side


DECODERS: Registry[type[Decoder]] = Registry("decoder")

D = TypeVar("D", bound=type[Decoder])


def register_decoder(name: str) -> Callable[[D], D]:
    """Register a :class:`Decoder` class: its pairs with all encoders join the zoo as ``<name>_<encoder>``.

    Raises:
        ConfigError: the name is taken, or cannot be a name.
    """

    def decorate(decoder: D) -> D:
        DECODERS.register(name, decoder)
        return decoder

    return decorate
