"""Training: a recipe over Lightning. Needs ``pip install "unetzoo[train]"``.

``unetzoo.fit`` is all of it in one call, ``unetzoo train`` in one command. With a trainer of one's own: a
:class:`Recipe` is fitted by a ``pytorch_lightning.Trainer`` on a :class:`FolderData`, with :func:`run_callbacks` to
keep and show the run. :func:`run_trials` trains several networks alike, to choose one of them.

Each name is fetched from its module when it is first used, so that a command line can be read without Lightning.
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
