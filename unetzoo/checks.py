"""Checks of values: each rule that several parts share is worded here, once.

Each function returns one sentence for each problem, and an empty list if there is none, so that a caller can collect
the problems of all its arguments and raise one error: ``ConfigError("cannot …", problems)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TypeGuard

from unetzoo.registry import suggest

TASKS = ("binary", "multiclass", "multilabel", "instances")
PIXEL_TASKS = ("binary", "multiclass", "multilabel")
"""Tasks of a mask of pixels, the only ones that losses and scores of pixels know. See :func:`pixel_task`."""
DENOMINATOR = 16
"""The largest denominator of the factor by which images are resized: tiles are multiples of it."""
LARGEST = 1 << 20
"""Most channels or classes: far more than any network has, and too few for products to overflow."""


def one_of(name: str, given: object, known: Iterable[object]) -> list[str]:
    """Return what is wrong with a value that must be one of ``known``; None may be among them."""
    allowed = tuple(known)
    # As 1 == True and 1 == 1.0, types are compared too.
    if any(type(given) is type(value) and given == value for value in allowed):
        return []
    words = [value for value in allowed if isinstance(value, str)]
    listed = [repr(value) for value in allowed if value is not None]
    needed = f"{'one of ' if len(listed) > 1 else ''}{', '.join(listed)} is needed{', or None' * (None in allowed)}"
    return [f"{name}={given!r:.100}: {needed}{suggest(str(given), words)}"]


def whole(
    name: str, given: object, least: int | None = 1, most: int | None = None, *, others: Sequence[object] = ()
) -> list[str]:
    """Return what is wrong with a value that must be a whole number from ``least`` to ``most``, or one of ``others``.

    Args:
        name: of the argument.
        given: its value; True is not a whole number, and neither is 1.0.
        least, most: the bounds; None: no bound.
        others: other allowed values, such as None or "all".
    """
    if any(type(given) is type(value) and given == value for value in others):
        return []
    if type(given) is int and (least is None or least <= given) and (most is None or given <= most):
        return []
    bounds = "" if least is None else f" from {least} up" if most is None else f" from {least} to {most:,}"
    return [f"{name}={given!r:.50}: {', '.join([f'a whole number{bounds}', *map(repr, others)])} is needed"]


def sides(name: str, given: object, least: int = 1, *, square: bool = False) -> list[str]:
    """Return what is wrong with a list or tuple of height and width; ``square``: one number may be given for both."""
    pair = (given, given) if square and type(given) is int else given
    if isinstance(pair, list | tuple) and len(pair) == 2 and not any(whole(name, side, least) for side in pair):
        return []
    more = ", or one for both" if square else ""
    return [f"{name}={given!r:.100}: height and width are needed, two whole numbers from {least} up{more}"]


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number, infinite or NaN perhaps; True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def ratio(resize: float) -> Fraction:
    """Return the simple fraction that a factor of an image's sides means: 0.333 is a third."""
    return Fraction(resize).limit_denominator(DENOMINATOR)


def resize_problems(given: object) -> list[str]:
    """Return what is wrong with a factor of an image's sides."""
    if type(given) not in (int, float) or not 1 / DENOMINATOR <= given <= DENOMINATOR:  # type: ignore[operator]
        return [f"resize={given!r:.50}: a factor from 1/{DENOMINATOR} to {DENOMINATOR} is needed, such as 0.5"]
    near = ratio(given)  # type: ignore[arg-type]
    if abs(float(near) - given) > 1e-3:  # type: ignore[operator]
        return [f"resize={given!r}: a fraction of small numbers is needed; the nearest is {near} = {float(near):.6g}"]
    return []


def flag(name: str, given: object) -> list[str]:
    """Return what is wrong with a value that must be True or False."""
    return [] if type(given) is bool else [f"{name}={given!r:.50}: True or False is needed"]


def shortened(text: str, most: int = 600) -> str:
    """Return text in one line of at most ``most`` characters; the middle is cut, as the end often matters most."""
    line = " ".join(text.split())
    half = most // 2
    return line if len(line) <= most else f"{line[:half]} … {line[-half:]}"


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Return the sentence about a name that is not one of ``known``."""
    names = tuple(known)
    return f"unknown {kind} {name!r:.100}{suggest(str(name), names)} (known: {', '.join(names)})"


def class_problems(task: object, classes: object, tasks: Sequence[str] = TASKS) -> list[str]:
    """Return what is wrong with a task, one of ``tasks``, and its number of classes."""
    found = one_of("task", task, tasks) + whole("num_classes", classes, 1, LARGEST)
    if not found and task == "binary" and classes != 1:
        found.append(f"num_classes={classes}: task='binary' has 1 class; more are 'multiclass' or 'multilabel'")
    elif not found and task == "multiclass" and classes == 1:
        found.append("num_classes=1: task='multiclass' needs 2 or more, background included; use task='binary'")
    return found


def class_name_problems(names: object, classes: object, *, different: bool = False) -> list[str]:
    """Return what is wrong with the names of ``classes`` classes; None is allowed: the classes have no names.

    Args:
        names: one per class.
        classes: number of classes.
        different: whether names must differ, as where a table or a folder has to tell the classes apart.
    """
    if names is None:
        return []
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        return [f"class_names={names!r:.100}: a list or tuple of strings is needed"]
    if any("\ud800" <= letter <= "\udfff" for name in names for letter in name):
        return ["class_names: surrogates (halves of characters) are not text"]
    found = [] if len(names) == classes else [f"class_names: {len(names)} names for num_classes={classes!r}"]
    twice = sorted({name for name in names if names.count(name) > 1})
    if different and twice:
        found.append(f"class_names: {', '.join(map(repr, twice))} given more than once")
    return found


def pixel_task(task: str, classes: int) -> str:
    """Return the task of the pixels' mask: for "instances" it is "binary" with one class, else "multilabel"."""
    if task != "instances":
        return task
    return "binary" if classes == 1 else "multilabel"


def class_names_of(names: Sequence[str] | None, task: str, classes: int) -> tuple[str, ...]:
    """Return one name per class: those given, or else the default names.

    These are "foreground" for a binary task, and "object" for instances of one class; "background", "class_1",
    "class_2", … for multi-class, by the value in the mask; "class_0", "class_1", … for multi-label and instances,
    by the plane of the mask.
    """
    if names is not None:
        return tuple(names)
    if task == "binary":
        return ("foreground",)
    if task == "instances" and classes == 1:
        return ("object",)
    found = [f"class_{k}" for k in range(classes)]
    return ("background", *found[1:]) if task == "multiclass" else tuple(found)
