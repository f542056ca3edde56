"""Training: a recipe based on Lightning. Needs ``pip install "unetzoo[train]"``.

``unetzoo.fit`` does everything in one call, ``unetzoo train`` in one command. To use your own trainer, fit a
:class:`Recipe` with a ``pytorch_lightning.Trainer`` on a :class:`FolderData`; :func:`run_callbacks` saves and shows
the run. :func:`run_trials` trains several networks with the same settings, to choose one of them.

Each name is imported from its module on first use, so that a command line can be parsed without Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unetzoo.extras import needed

if TYPE_CHECKING:
    from unetzoo.train.callbacks import run_callbacks as run_callbacks
    from unetzoo.train.choosing import run_trials as run_trials
    from unetzoo.train.data import Facts as Facts, FolderData as FolderData
    from unetzoo.train.keeping import KeepBest as KeepBest, KeepLast as KeepLast, WholeFiles as WholeFiles
    from unetzoo.train.recipe import Recipe as Recipe
    from unetzoo.train.timing import Clock as Clock

_HOME = {
    "run_callbacks": "callbacks",
    "run_trials": "choosing",
    "Facts": "data",
    "FolderData": "data",
    "KeepBest": "keeping",
    "KeepLast": "keeping",
    "WholeFiles": "keeping",
    "Recipe": "recipe",
    "Clock": "timing",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unetzoo.train' has no attribute {name!r}")
    value = getattr(needed(f"unetzoo.train.{_HOME[name]}", "training", extra="train"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
