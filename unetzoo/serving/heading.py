"""The heading of the page: the model's name, and a line about it."""

from __future__ import annotations

import os
from pathlib import Path

from unetzoo.config import ModelConfig
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.errors import UnetzooError
from unetzoo.saving import cards
from unetzoo.saving.records import CARD_FILE
from unetzoo.saving.repositories import PREFIX
from unetzoo.saving.sources import located, source_of
from unetzoo.trained import card_of


def heading(source: object, config: ModelConfig) -> tuple[str, str]:
    """Return the name of a model and a line about it, from its configuration and its card."""
    name = config.name
    if isinstance(source, str | os.PathLike):
        meant = source_of(source)
        name = meant.text.removeprefix(PREFIX)
        if meant.kind in ("file", "folder"):
            place = Path(source).resolve()
            name = place.stem if meant.kind == "file" else place.name
    line = f"{DECODERS[config.decoder].title} on the {ENCODERS[config.encoder].title} encoder."
    if isinstance(source, str | os.PathLike) and meant.kind == "trained":
        return name, f"{_first_sentence(card_of(meant.text))} {line}"
    trained = _training_data(source)
    return name, line if trained is None else f"{line} Trained on: {trained}"


def _first_sentence(card: Path) -> str:
    """Return the first sentence below the title of an included model's card: what the model finds, in which images."""
    paragraph = card.read_text(encoding="utf-8").split("\n\n")[1]
    return " ".join(paragraph.split()).partition(". ")[0].rstrip(".") + "."


def _training_data(source: object) -> str | None:
    """Return the training data from the card next to a model; None if there is no card."""
    if not isinstance(source, str | os.PathLike):
        return None
    try:
        folder = located(source_of(source), local_files_only=True)
        file = (folder if folder.is_dir() else folder.parent) / CARD_FILE
        return cards.read_card(file.read_text(encoding="utf-8"), file).card.training_data
    except (OSError, UnicodeDecodeError, UnetzooError):
        return None  # the page works without it
