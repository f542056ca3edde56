"""Encoders: one family a file, each registered by name. See :class:`Encoder` for the contract."""

from unetzoo.encoders import plain, resnet
from unetzoo.encoders._base import (
    ENCODERS,
    Encoder,
    EncoderSpec,
    NoOptions,
    options_of,
    register_encoder,
    whole_number_problems,
)

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderSpec",
    "NoOptions",
    "options_of",
    "plain",
    "register_encoder",
    "resnet",
    "whole_number_problems",
]
