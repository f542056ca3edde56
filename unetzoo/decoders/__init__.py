"""Decoders: one per file, each registered by name. See :class:`Decoder` for the contract.

Every module in this folder is imported, so a new file here is all that a new decoder needs.
"""

from importlib import import_module as _import_module
from pkgutil import iter_modules as _iter_modules

from unetzoo.decoders._base import DECODERS, Decoder, Feature, Pruned, register_decoder

for _module in _iter_modules(__path__):
    if not _module.name.startswith("_"):
        _import_module(f"{__name__}.{_module.name}")

__all__ = ["DECODERS", "Decoder", "Feature", "Pruned", "register_decoder"]
