"""Decoders: one a file, each registered by name. See :class:`Decoder` for the contract."""

from unetzoo.decoders import light, unet, unet3p, unet_valid, unetpp
from unetzoo.decoders._base import DECODERS, Decoder, Feature, register_decoder

__all__ = ["DECODERS", "Decoder", "Feature", "light", "register_decoder", "unet", "unet3p", "unet_valid", "unetpp"]
