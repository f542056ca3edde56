"""The trained models included in the package: each has a ``.safetensors`` file, a model card and a list of its data."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of the trained models, which ``unetzoo.from_pretrained`` takes."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def title_of(path: str | os.PathLike[str]) -> str:
    """Return the name of a model's file for messages: the model's name, if it is included in the package."""
    path = Path(path)
    return path.stem if path.parent == FOLDER else str(path)


def weights_of(name: str) -> Path:
    """Return the file of a trained model."""
    return FOLDER / f"{name}.safetensors"


def card_of(name: str) -> Path:
    """Return the file of its card, in Markdown."""
    return FOLDER / f"{name}.md"


def data_of(name: str) -> Path:
    """Return the file that lists its training, validation and test data."""
    return FOLDER / f"{name}.json"
