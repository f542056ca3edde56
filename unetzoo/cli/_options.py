"""Options that several commands share: how their values are read, and their help texts."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetzoo.checks import class_names_of
from unetzoo.printing import printable

if TYPE_CHECKING:
    from unetzoo.prediction import Predictor

SAVED = (
    "a trained model such as nuclei, the folder of a run or of a saved model, a .safetensors file, a .zip package from "
    "'unetzoo export', or owner/name on the Hugging Face Hub"
)
"""What ``from_pretrained`` takes."""
SEVERAL = f"{SAVED}; several, separated by commas, are averaged, as are all folds in a folder of folds"


MASKS_HELP = "which files in the folder are the masks, such as 'gt/{name}_gt.png' (default: those of the layout)"
PLANES = ("split", "first", "max", "channels")
PLANES_HELP = (
    "how to read images with several planes: each plane as an image (split), the first plane, the maximum over the "
    "planes (max), or the planes as channels"
)


_UNITS = {"CM": "centimetres", "UM": "µm", "PIXELS": "pixels"}
"""``metavar`` of an option → the unit of its number."""


def wanted(action: argparse.Action, text: str) -> str | None:
    """Return the message about an option whose ``text`` is not a valid value; None: its reader has a message."""
    if action.type not in (int, float):
        named = getattr(action.type, "__name__", "")
        return f"a {named} is needed" if " " in named else None
    named = "a whole number" if action.type is int else "a number"
    if action.type is float and re.fullmatch(r"-?\d+,\d+", text):
        return f"{named} is needed, with a decimal point: {text.replace(',', '.')}"
    unit = _UNITS.get(action.metavar) if isinstance(action.metavar, str) else None
    if unit is None:
        return f"{named} is needed"
    has_unit = re.search(r"\d\s*[^\W\d]", text)
    return f"{named} of {unit} is needed{', without a unit' if has_unit else ''}"


TILE_HELP = "side of the tiles; none: whole images (default: auto, what fits in memory, and 512 for slides)"


def pixels_or(*words: str) -> Any:
    """Return a function that reads a number of pixels, or one of ``words``."""

    def read(text: str) -> int | str | None:
        if text in words:
            return None if text == "none" else text
        return int(text)

    read.__name__ = f"number of pixels, or {' or '.join(words)},"  # what argparse calls it in its message
    return read


def sides(text: str) -> int | tuple[int, int] | str:
    """Return a side in pixels, or height and width: 64, 64x96, 64,96 or [64, 96]. Anything else stays text.

    The library then refuses it, with its own message. ``Parser`` joins the two words of ``--size 64 96``.
    """
    found = re.fullmatch(r"[\[(]?\s*(\d+)(?:\s*[x×,\s]\s*(\d+))?\s*[\])]?", text.strip())
    if found is None:
        return text
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def threshold(text: str) -> str | list[float]:
    """Return the numbers of ``--threshold``, or the name of the file that holds them.

    Raises:
        ValueError: neither.
    """
    return text if text.endswith(".json") else numbers(text)


threshold.__name__ = "list of numbers, or the .json file that 'unetzoo calibrate' wrote,"


def note_of(predictor: Predictor, threshold: object, smallest: object, split: object, tta: object) -> str | None:
    """Return a line about all settings that a predictor took from a file, not from the options; None: there are none.

    The file is that of ``--threshold``, or ``folds.json`` of a run with folds.
    """
    if predictor.advice is None and not isinstance(threshold, str):
        return None
    config, taken = predictor.config, []
    if config.pixel_task != "multiclass":
        names = class_names_of(config.class_names, config.task, config.num_classes)
        of = [f"{printable(name)} " if len(names) > 1 else "" for name in names]
        each = [f"{name}{value:g}" for name, value in zip(of, predictor.thresholds, strict=True)]
        taken.append(f"threshold {', '.join(each)}")
    taken += [f"split {predictor.split:g}"] if split is None else []
    taken += [f"smallest {predictor.smallest}"] if smallest is None else []
    taken += [f"tta {predictor.tta}"] if tta is None else []
    if predictor.advice is None:
        return f"settings from {printable(Path(str(threshold)))}: {'; '.join(taken)}"
    count = len(predictor.networks.members)
    return f"averaging {count} folds, with the settings from {printable(predictor.advice)}: {'; '.join(taken)}"


def asked_of_objects(
    *, split: float | None = None, filtered: bool = False, table: object = None, counts: object = None
) -> list[tuple[str, str]]:
    """Return the packages that the options about objects need, each with what needs it.

    Args:
        split: value of the option in pixels, or None.
        filtered: whether small objects are left out, or holes filled.
        table, counts: files for the tables of objects and of counts, or None.
    """
    needs = [("scipy", "objects")] if filtered or split else []
    needs += [("skimage", "objects that are split")] if split else []
    needs += [] if table is None else [("skimage", "a table of objects")]
    return needs + ([] if counts is None else [("scipy", "a table of counts"), ("skimage", "a table of counts")])


def numbers(text: str) -> list[float]:
    """Return the numbers of a list separated by commas."""
    return [float(value) for value in text.split(",")]


numbers.__name__ = "list of numbers"  # what argparse calls it in its message


def words(text: str) -> tuple[str, ...]:
    """Return the words of a list separated by commas, each once."""
    return tuple(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))


def option(text: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``.

    Values may be numbers, true, false, none, or lists separated by commas; anything else is text.
    """
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
    """Add the option that sets which values of images are black and white."""
    command.add_argument(
        "--range", dest="intensity_range", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="values that count as black and white, such as 0 4095 for 12-bit images stored in 16 bits (default: 0 and "
        "the largest value of the image's type)",
    )  # fmt: skip


def add_slides(command: argparse.ArgumentParser) -> None:
    """Add the options for slides."""
    command.add_argument(
        "--mpp", type=float, metavar="UM",
        help="for slides (.svs, .ndpi, .scn, .mrxs, .bif, OME-TIFF and other pyramids): µm per pixel to segment at, "
        "such as 0.5, as in training; the nearest finer level is read and resampled; needs unetzoo[big], and "
        "unetzoo[slides] for most formats other than .svs and .tif",
    )  # fmt: skip
    command.add_argument("--level", type=int, metavar="N", help="for slides: the stored level to read; 0 is the finest")
    command.add_argument(
        "--mpp-stored",
        type=float,
        metavar="UM",
        help="µm per pixel of level 0 of a slide, or of any other image, if its file does not state it",
    )
    command.add_argument(
        "--background", choices=("skip", "keep"),
        help="for slides: skip leaves out tiles without tissue, and masks are 0 outside the tissue (default); keep "
        "segments all tiles",
    )  # fmt: skip


def slides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the options for slides, None for those not given."""
    return {name: getattr(options, name) for name in ("mpp", "level", "mpp_stored", "background")}
