"""Encoders: one family per file, each registered by name. See :class:`Encoder` for the contract.

Every module in this folder is imported, so a new file here is all that a new encoder needs.
"""

from importlib import import_module as _import_module
from pkgutil import iter_modules as _iter_modules

from unetzoo.encoders._base import ENCODERS, Encoder, EncoderSpec, Options, Published, options_of, register_encoder

for _module in _iter_modules(__path__):
    if not _module.name.startswith("_"):
        _import_module(f"{__name__}.{_module.name}")

__all__ = ["ENCODERS", "Encoder", "EncoderSpec", "Options", "Published", "options_of", "register_encoder"]
