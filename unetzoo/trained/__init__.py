"""The trained models that come with the package: a ``.safetensors`` file, a model card and a list of data each."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of the trained models, which ``unetzoo.from_pretrained`` takes."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def title_of(path: str | os.PathLike[str]) -> str:
    """Return what a model's file is called in messages: its name, where it comes with the package."""
    path = Path(path)
    return path.stem if path.parent == FOLDER else str(path)


def weights_of(name: str) -> Path:
    """Return the file of a trained model."""
    return FOLDER / f"{name}.safetensors"


def card_of(name: str) -> Path:
    """Return the file of its card, in Markdown."""
    return FOLDER / f"{name}.md"


def data_of(name: str) -> Path:
    """Return the file that lists what it was trained, validated and tested on."""
    return FOLDER / f"{name}.json"
