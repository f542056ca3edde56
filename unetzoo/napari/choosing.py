"""Models that the widgets offer, and a cache of predictors."""

from __future__ import annotations

from typing import Any

from unetzoo import trained
from unetzoo.errors import InputError
from unetzoo.prediction import Predictor

_kept: dict[tuple[Any, ...], Predictor] = {}
_MOST = 2
"""Largest number of cached predictors: as many as Compare uses."""


def offered() -> list[str]:
    """Return the models that come with the package."""
    return [*trained.names()]


def predictor_of(text: str) -> Predictor:
    """Return a predictor for a model: a trained one, a file, the folder of a run, or a repository of the Hub.

    Recently used models are not read again unless their files have changed.

    Raises:
        InputError: nothing was chosen.
        ConfigError, WeightsError, HubError: as ``unetzoo.Predictor``.
    """
    from unetzoo.saving.records import model_in
    from unetzoo.saving.sources import trained_source

    text = text.strip()
    if not text:
        raise InputError("choose a model: from the list, a file, the folder of a run, or owner/name on the Hub")
    source = trained_source(text)
    key: tuple[Any, ...] = (text,)
    if source.path is not None:
        file = source.path if source.path.is_file() else model_in(source.path)
        seen = file.stat() if file is not None and file.is_file() else None
        key = (text, *((seen.st_mtime_ns, seen.st_size) if seen else ()))
    if key not in _kept:
        found = Predictor(text)
        while len(_kept) >= _MOST:
            del _kept[next(iter(_kept))]
        _kept[key] = found
    return _kept[key]
