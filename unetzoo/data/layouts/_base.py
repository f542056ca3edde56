"""How data sets lie in folders: the contract of a layout, and the registry of layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unetzoo.data.labels import Labels
from unetzoo.data.listing import Listing, Tree
from unetzoo.registry import Registry


@dataclass(frozen=True)
class Meaning:
    """What a data set says of its own masks.

    Attributes:
        names: of the classes that annotations have, background left out; empty where there are none.
        folders: of masks, one a class, as multilabel data may have them.
        labels: fields of ``Labels`` that follow from the layout, such as "ignore" → 255; what is asked for goes before.
            "class_names" are those of values or colours of masks, all of them, from which classes are picked.
        assumed: whether those names only fit, so that other ones may be given.
        hint: how classes get names, where the data set has masks of classes and no names.
    """

    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    assumed: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Understood:
    """What a folder or a file was taken for.

    Attributes:
        said: in one line: the layout, and the rule by which images and masks go together.
        listed: finds them.
        meaning: what they say of their classes; may read all files of annotations.
        instances: what it is for task="instances", where that is something else; or None.
    """

    said: str
    listed: Callable[[Labels], Listing]
    meaning: Callable[[], Meaning] = Meaning
    instances: Understood | None = None


Recognises = Callable[[Tree], Understood | None]


@dataclass(frozen=True)
class Layout:
    """A way in which people lay out data sets.

    Attributes:
        title: for messages, such as "images/ and masks/".
        recognises: returns what a folder is, by the names in it and by files of annotations; None where it is laid out
            otherwise. It raises ``ConfigError`` where it is nearly so, with the fix.
        refines: names of layouts that such a folder has too, in a wider sense; where this one fits they are not meant.
    """

    title: str
    recognises: Recognises
    refines: tuple[str, ...] = ()


LAYOUTS: Registry[Layout] = Registry("layout")


def register_layout(name: str, *, title: str, refines: Sequence[str] = ()) -> Callable[[Recognises], Recognises]:
    """Register the function that it decorates, see :class:`Layout`.

    Raises:
        ConfigError: the name is taken, or cannot be a name.
    """

    def decorate(recognises: Recognises) -> Recognises:
        LAYOUTS.register(name, Layout(title, recognises, tuple(refines)))
        return recognises

    return decorate
