"""What the values of mask files mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unetzoo import images
from unetzoo.augmentation import IGNORED as IGNORED
from unetzoo.checks import TASKS, class_name_problems, class_names_of, class_problems, one_of, pixel_task, whole
from unetzoo.errors import ConfigError

FOREGROUNDS = ("white", "any")
"""How a binary mask marks the foreground."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The classes of a data set, and how its mask files write them. Lists become tuples.

    Attributes:
        task: "binary" (one class against the rest), "multiclass" (one class per pixel, including background),
            "multilabel" (any number of classes per pixel) or "instances" (objects, each with a number in a label image,
            or each an annotation).
        num_classes: 1 for binary, 2 or more for multiclass, 1 or more for multilabel and instances, which do not count
            the background.
        class_names: one per class, or None.
        ignore: value in mask files of pixels that do not count, or None. They become ``IGNORED``.
        foreground: of binary masks, and of each class of multilabel masks: "white" of black-and-white masks, or "any"
            whole number above 0, for masks whose values are ids of objects. For instances "white" means that each
            connected component is an object.
        colours: "#rrggbb" of each class, background first, for masks that are painted; None for all others. Binary
            masks need two. Not for multilabel.
        ignore_colour: "#rrggbb" of painted pixels that do not count, or None.
        classes: class names of the annotated objects that count, in the order of the classes, without background; for
            binary masks those that are foreground. None: the classes' own names; for binary masks all objects.
        planes: how to read an image with several planes (a stack, the pages of a TIFF, frames): "split", each plane is
            an image of its own; "first"; "max", the largest value of each pixel; or "channels". Its mask has as many
            planes, which are read in the same way, or one, except for "split". None: such images are refused.
        codes: the class of each value 0, 1, 2, … in the files, or of each of ``colours``; IGNORED for one that does not
            count. None: the values are the classes; for multiclass masks with ``ignore=0``, where 0 is unlabelled, they
            are the classes plus 1. Not for multilabel.
        masks: which files in a folder are the masks, if several could be: a path inside it with ``{name}`` for the name
            of the image, such as "gt/{name}_gt.png", and ``{split}``, if needed, for the folder of a split. None: the
            layout says it. Not for CSV files.

    Raises:
        ConfigError: lists everything that is wrong.
    """

    task: str = "binary"
    num_classes: int = 1
    class_names: tuple[str, ...] | None = None
    ignore: int | None = None
    foreground: str = "white"
    colours: tuple[str, ...] | None = None
    ignore_colour: str | None = None
    classes: tuple[str, ...] | None = None
    planes: str | None = None
    codes: tuple[int, ...] | None = None
    masks: str | None = None

    def __post_init__(self) -> None:
        for name in ("class_names", "colours", "classes", "codes"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        problems = [*self._class_problems(), *self._value_problems(), *self._colour_problems()]
        problems += [] if self.planes is None else one_of("planes", self.planes, images.CHOICES)
        problems += [] if self.masks is None else _pattern_problems(self.masks)
        if problems:
            raise ConfigError("cannot describe the labels", problems)

    @property
    def pixel_task(self) -> str:
        """The task of the pixels: ``task``, or for instances "binary" with one class, else "multilabel"."""
        return pixel_task(self.task, self.num_classes)

    @property
    def counted(self) -> tuple[str, ...]:
        """Names by which pixels are counted: the classes, and for binary masks the background before them."""
        names = class_names_of(self.class_names, self.task, self.num_classes)
        return ("background", *names) if self.pixel_task == "binary" else names

    @property
    def told(self) -> str:
        """What the masks mean, in words."""
        names = class_names_of(self.class_names, self.task, self.num_classes)
        listed = ", ".join(names)
        if self.task == "instances":
            of_class = (
                "" if self.class_names is None else f" of {listed}" if len(names) == 1 else f" of {len(names)} classes"
            )
            return f"objects{of_class}, each told apart{f': {listed}' if len(names) > 1 else ''} (instances)"
        if self.task == "binary":
            return f"one class against the background: {listed} (binary)"
        if len(names) == 1:
            return f"one class: {listed} ({self.task})"
        how = "one per pixel" if self.task == "multiclass" else "which may overlap"
        return f"{len(names)} classes, {how}: {listed} ({self.task})"

    @property
    def values(self) -> int:
        """Number of values that a target may have, from 0 up, without :data:`IGNORED`."""
        return self.num_classes if self.task == "multiclass" else 2

    @property
    def skips_zero(self) -> bool:
        """Whether mask values are the classes plus 1, because 0 does not count."""
        return self.task == "multiclass" and self.ignore == 0 and self.codes is None

    def _class_problems(self) -> list[str]:
        found = class_problems(self.task, self.num_classes)
        found += class_name_problems(self.class_names, self.num_classes, different=True)
        found += [] if self.classes is None or found else self._picked_problems()
        if self.class_names is not None and "" in self.class_names:
            found.append("class_names: one name is empty")
        return found

    def _picked_problems(self) -> list[str]:
        if not _are_texts(self.classes) or not self.classes or len(set(self.classes)) < len(self.classes):
            return [f"classes={self.classes!r}: give one or more names, each once"]
        wanted = self.num_classes - (self.task == "multiclass")
        if self.task != "binary" and len(self.classes) != wanted:
            fix = ", which counts the background too" if self.task == "multiclass" else ""
            return [f"classes: {len(self.classes)} names for num_classes={self.num_classes}{fix}; give {wanted}"]
        return []

    def _value_problems(self) -> list[str]:
        found = one_of("foreground", self.foreground, FOREGROUNDS)
        if not found and self.foreground == "any" and (self.task == "multiclass" or self.colours is not None):
            found.append("foreground='any': class indices and colours already define the foreground; leave it out")
        wrong = whole("ignore", self.ignore, None, others=(None,))
        found += wrong
        found += self._code_problems()
        if wrong or self.ignore is None or self.codes is not None or self.skips_zero:
            return found
        if self.task in TASKS and type(self.num_classes) is int and 0 <= self.ignore < self.values:
            found.append(f"ignore={self.ignore}: this is the value of a class; give one outside 0…{self.values - 1}")
        return found

    def _code_problems(self) -> list[str]:
        if self.codes is None:
            return []
        if self.pixel_task == "multilabel":
            return [f"codes: a value has one class only; {self.task} masks of several classes need a folder for each"]
        whole = isinstance(self.codes, tuple) and all(type(code) is int for code in self.codes)
        if not whole or not all(code == IGNORED or 0 <= code < self.values for code in self.codes or ()):
            return [f"codes={self.codes!r:.100}: each must be a class, 0…{self.values - 1}, or {IGNORED} for none"]
        return []

    def _colour_problems(self) -> list[str]:
        if self.colours is None:
            return [] if self.ignore_colour is None else ["ignore_colour=… needs colours=…, one for each class"]
        if self.task == "multilabel":
            return ["colours: a pixel has one colour only; multilabel masks need a folder for each class"]
        if self.task == "instances":
            return ["colours: they tell classes apart, not objects; label images or annotations are needed"]
        given = (self.colours or ()) if self.ignore_colour is None else (*self.colours, self.ignore_colour)
        if not _are_texts(given) or not all(re.fullmatch("#[0-9a-fA-F]{6}", colour) for colour in given):
            return [f"colours={given!r}: each must be written as '#rrggbb'"]
        found = []
        if len({colour.lower() for colour in given}) < len(given):
            found.append(f"colours={given!r}: a colour is there twice")
        wanted = self.values if self.codes is None else len(self.codes)
        if type(self.num_classes) is int and len(self.colours) != wanted:
            fix = ", background and foreground" if self.task == "binary" else ""
            found.append(f"colours: {len(self.colours)} for {wanted} classes{fix}")
        return found


def _pattern_problems(pattern: object) -> list[str]:
    text = pattern if isinstance(pattern, str) else ""
    fields = re.findall(r"\{[^}]*\}?", text)
    outside = text.startswith("/") or ".." in text.split("/") or "\\" in text
    if "{name}" not in fields or not {*fields} <= {"{name}", "{split}"} or outside:
        return [
            f"masks={pattern!r}: give a path inside the folder that contains {{name}}, such as 'gt/{{name}}_gt.png'"
        ]
    return []


def _are_texts(values: object) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(isinstance(v, str) for v in values)
