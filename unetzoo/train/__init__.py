"""Training: a recipe over Lightning. Needs ``pip install "unetzoo[train]"``.

``unetzoo train`` is all of it in one command. In a program of one's own: a :class:`Recipe` is fitted by a
``pytorch_lightning.Trainer`` on a :class:`FolderData`, with :func:`run_callbacks` to keep and show the run.
:func:`run_trials` trains several networks alike, to choose one of them.
"""

from unetzoo.train.choosing import run_trials as run_trials
from unetzoo.train.command import run_callbacks as run_callbacks, train as train
from unetzoo.train.data import Facts as Facts, FolderData as FolderData
from unetzoo.train.keeping import KeepBest as KeepBest, KeepLast as KeepLast, WholeFiles as WholeFiles
from unetzoo.train.recipe import Recipe as Recipe
from unetzoo.train.timing import Clock as Clock
