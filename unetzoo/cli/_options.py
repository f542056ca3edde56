"""What several commands take: how it is read, and what their help says of it."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetzoo.printing import printable

if TYPE_CHECKING:
    from unetzoo.prediction import Predictor

SAVED = (
    "a trained model such as nuclei, the folder of a run or of a saved model, a .safetensors file, a package that "
    "export wrote (.zip), or owner/name"
)
"""What ``from_pretrained`` takes; owner/name is of the Hugging Face Hub."""
SEVERAL = f"{SAVED}; several, with commas, are averaged, and so are the folds of a folder of folds"


MASKS_HELP = "which files in the folder are the masks, such as 'gt/{name}_gt.png' (default: as the layout has it)"
PLANES = ("split", "first", "max", "channels")
PLANES_HELP = "of images of several planes: each an image (split), the first, the largest values (max), or as channels"


_UNITS = {"CM": "centimetres", "UM": "µm", "PIXELS": "pixels"}
"""``metavar`` of an option → the unit of its number."""


def wanted(action: argparse.Action, text: str) -> str | None:
    """Return what is said of an option whose ``text`` is no value; None: what reads it says so itself."""
    if action.type not in (int, float):
        named = getattr(action.type, "__name__", "")
        return f"a {named} is needed" if " " in named else None
    named = "a whole number" if action.type is int else "a number"
    unit = _UNITS.get(action.metavar) if isinstance(action.metavar, str) else None
    if unit is None:
        return f"{named} is needed"
    has_unit = re.search(r"\d\s*[^\W\d]", text)
    return f"{named} of {unit} is needed{', without a unit' if has_unit else ''}"


def pixels_or(*words: str) -> Any:
    """Return what reads a number of pixels, or one of ``words``."""

    def read(text: str) -> int | str | None:
        if text in words:
            return None if text == "none" else text
        return int(text)

    read.__name__ = f"number of pixels, or {' or '.join(words)},"  # what argparse calls it in its message
    return read


def sides(text: str) -> int | tuple[int, int] | str:
    """Return a side in pixels, or height and width: 64, 64x96, 64,96 or [64, 96]. What is none of these stays text.

    Who gets it refuses it, in the library's words. ``Parser`` joins the two of ``--size 64 96``.
    """
    found = re.fullmatch(r"[\[(]?\s*(\d+)(?:\s*[x×,\s]\s*(\d+))?\s*[\])]?", text.strip())
    if found is None:
        return text
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def threshold(text: str) -> str | list[float]:
    """Return the numbers of ``--threshold``, or the name of the file that has them.

    Raises:
        ValueError: neither.
    """
    return text if text.endswith(".json") else numbers(text)


threshold.__name__ = "list of numbers, or the .json file that 'unetzoo calibrate' wrote,"


def note_of(predictor: Predictor, threshold: object, smallest: object, split: object) -> str | None:
    """Return what a predictor has taken from a file beside what was asked for; None: nothing.

    Of the file of ``--threshold`` it is all but the thresholds, of a training by folds all of it.
    """
    if predictor.advice is None and not isinstance(threshold, str):
        return None
    taken = [f"split {predictor.split:g}"] if split is None and predictor.split else []
    taken += [f"smallest {predictor.smallest}"] if smallest is None and predictor.smallest else []
    if predictor.advice is None:
        return f"objects as {printable(Path(str(threshold)))} says: {', '.join(taken)}" if taken else None
    if predictor.config.pixel_task != "multiclass":
        taken.append(f"threshold {', '.join(f'{value:g}' for value in predictor.thresholds)}")
    taken.append(f"tta {predictor.tta}")
    count = len(predictor.networks.members)
    return f"the average of {count} folds, as {printable(predictor.advice)} says: {', '.join(taken)}"


def asked_of_objects(
    *, split: float | None = None, filtered: bool = False, table: object = None
) -> list[tuple[str, str]]:
    """Return the packages that options of objects need, each with what needs it.

    Args:
        split: by so many pixels, or None.
        filtered: whether small objects are left out, or holes filled.
        table: file of one, or None.
    """
    needs = [("scipy", "objects")] if filtered or split else []
    needs += [("skimage", "objects that are split")] if split else []
    return needs + ([] if table is None else [("skimage", "a table of objects")])


def numbers(text: str) -> list[float]:
    """Return the numbers of a list with commas."""
    return [float(value) for value in text.split(",")]


numbers.__name__ = "list of numbers"  # what argparse calls it in its message


def words(text: str) -> tuple[str, ...]:
    """Return the words of a list with commas, each once."""
    return tuple(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))


def option(text: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``: numbers, true, false, none, lists with commas; all else is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=VALUE is needed")
    found = _value(value)
    listed = name in ("class_names", "mean", "std") or "," in value
    return name, tuple(map(_value, value.split(","))) if listed and not isinstance(found, list | tuple) else found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def add_range(command: argparse.ArgumentParser) -> None:
    """Add which values of images are black and white."""
    command.add_argument(
        "--range", dest="intensity_range", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="values of images that are black and white to a model of 8-bit images, such as 0 4095 of 12 bits that are "
        "stored in 16 (default: 0 and the largest value of their type)",
    )  # fmt: skip


def add_slides(command: argparse.ArgumentParser) -> None:
    """Add what is asked of slides."""
    command.add_argument(
        "--mpp", type=float, metavar="UM",
        help="of slides (.svs, .ndpi, .scn, .mrxs, .bif, OME-TIFF and other pyramids): µm a pixel, such as 0.5, as in "
        "the training; the nearest finer level is read and resampled; needs unetzoo[big], and of most but .svs and "
        ".tif unetzoo[slides]",
    )  # fmt: skip
    command.add_argument("--level", type=int, metavar="N", help="of slides: a level as it is stored, 0 the finest")
    command.add_argument(
        "--mpp-stored",
        type=float,
        metavar="UM",
        help="µm a pixel of level 0 of slides, and of images that are no slides, where a file does not say it",
    )
    command.add_argument(
        "--background", choices=("skip", "keep"),
        help="of slides: skip computes no tiles without tissue, and is 0 beside it (default); keep computes all",
    )  # fmt: skip


def slides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is asked of slides, None where nothing was said."""
    return {name: getattr(options, name) for name in ("mpp", "level", "mpp_stored", "background")}
