"""Folder layouts of data sets: the contract of a layout, and the registry of layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unetzoo.data.labels import Labels
from unetzoo.data.listing import Listing, Tree
from unetzoo.registry import Registry


@dataclass(frozen=True)
class Meaning:
    """What a data set says about its own masks.

    Attributes:
        names: of the classes in annotations, without background; empty where there are none.
        folders: of masks, one per class, as multilabel data may have them.
        labels: fields of ``Labels`` that follow from the layout, such as "ignore" → 255; given arguments override them.
            "class_names" are all classes of mask values or colours, from which some can be picked.
        assumed: whether these names are only a guess that fits, so that others may be given.
        hint: how to name the classes, if masks have classes but the data set has no names.
    """

    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    assumed: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Understood:
    """A folder or a file whose layout was recognised.

    Attributes:
        said: in one line: the layout, and the rule that pairs images with masks.
        listed: finds the images and masks.
        meaning: what they say about their classes; may read all annotation files.
        instances: how to read it for task="instances", if that differs; or None.
    """

    said: str
    listed: Callable[[Labels], Listing]
    meaning: Callable[[], Meaning] = Meaning
    instances: Understood | None = None


Recognises = Callable[[Tree], Understood | None]


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set.

    Attributes:
        title: for messages, such as "images/ and masks/".
        recognises: returns how to read a folder, by the names in it and by annotation files; None if it has another
            layout. Raises ``ConfigError``, with the fix, if it almost has this layout.
        refines: names of more general layouts that also fit such a folder; if this one fits, they are not used.
    """

    title: str
    recognises: Recognises
    refines: tuple[str, ...] = ()


LAYOUTS: Registry[Layout] = Registry("layout")


def register_layout(name: str, *, title: str, refines: Sequence[str] = ()) -> Callable[[Recognises], Recognises]:
    """Register the function that it decorates, see :class:`Layout`.

    Raises:
        ConfigError: the name is taken, or is not valid.
    """

    def decorate(recognises: Recognises) -> Recognises:
        LAYOUTS.register(name, Layout(title, recognises, tuple(refines)))
        return recognises

    return decorate
