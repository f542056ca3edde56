"""Classes of masks whose values or colours have names, as in Pascal VOC: all of them, or those that are picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unetzoo.checks import unknown
from unetzoo.data.labels import IGNORED
from unetzoo.errors import ConfigError

BACKGROUND = "background"
_BACKGROUNDS = (BACKGROUND, "_background_", "bg")


def settings(
    told: Mapping[str, Any],
    *,
    task: str | None,
    num_classes: int | None,
    class_names: Sequence[str] | None,
    classes: Sequence[str] | None,
) -> dict[str, Any]:
    """Return fields of ``Labels``.

    Pixels of classes that are not picked are background. Without ``classes``, the foreground of a binary task is every
    class but the background. If ``class_names`` has another length than the data's names, it is taken as ``classes``:
    a network that was trained on picked classes has only their names.

    Args:
        told: what the data say, with "class_names", all of them in the order of ``codes``.
        task, num_classes, class_names, classes: as given, see ``unetzoo.data.labels_of``.

    Raises:
        ConfigError: the data do not have these classes, or not as many.
    """
    if task == "instances":
        return _of_objects(told, class_names, classes, num_classes)
    names = tuple(told["class_names"])
    first = names[:1] if names[0].lower() in _BACKGROUNDS else ()
    if task == "multilabel":
        raise ConfigError(
            f"task='multilabel': the masks have one class per pixel ({_listed(names)}); give task='multiclass' or "
            "'binary'"
        )
    wanted = None if class_names is None else tuple(class_names)
    if classes is None and wanted is not None and not (len(wanted) == len(names) and task != "binary"):
        asked = wanted if task == "binary" else wanted[1:]
        classes = asked if {*asked} <= {*names} else None
    if classes is None and task is None and len(first) == 1 and len(names) == 2:
        task = "binary"
    if classes is None and task != "binary":
        found = {**told, "task": "multiclass", "num_classes": len(names), "class_names": wanted or names}
    else:
        found = _picked(told, names, first, task, classes)
        found["class_names"] = wanted or found["class_names"]
    if num_classes is not None and num_classes != found["num_classes"]:
        raise ConfigError(
            f"num_classes={num_classes}, but there are {found['num_classes']}: {_listed(names)}; to pick some, give "
            "classes=…"
        )
    return found


def _of_objects(
    told: Mapping[str, Any], class_names: Sequence[str] | None, classes: Sequence[str] | None, num_classes: int | None
) -> dict[str, Any]:
    """Return fields of ``Labels`` for objects of one class, whose pixels have any of the picked classes."""
    picked = classes if classes is None or len(classes) != 1 else tuple(classes)
    if (num_classes or 1) > 1 or (picked is not None and len(picked) > 1):
        raise ConfigError(
            "task='instances' with several classes needs annotations, or a folder of label images for each class; here "
            "masks have the classes, and other files the objects: give one class in classes=…, or leave it out for all"
        )
    found = settings(told, task="binary", num_classes=None, class_names=None, classes=picked)
    return {**found, "task": "instances", "foreground": "any", "class_names": class_names or found["class_names"]}


def _picked(
    told: Mapping[str, Any], names: tuple[str, ...], first: tuple[str, ...], task: str | None, classes: Any
) -> dict[str, Any]:
    objects = names[len(first) :]
    if classes is None and not first:
        raise ConfigError(f"no class is the background: give classes=… with the foreground, of {_listed(names)}")
    wanted = objects if classes is None else tuple(classes)
    wrong = [unknown("class", name, objects) for name in wanted if name not in objects]
    if wrong or len({*wanted}) < len(wanted) or not wanted:
        raise ConfigError("the data lack these classes", wrong or [f"classes={wanted!r}: give one or more, each once"])
    task = task or ("binary" if len(wanted) == 1 else "multiclass")
    now = {name: 1 if task == "binary" else k for k, name in enumerate(wanted, 1)}
    codes = (code if code == IGNORED else now.get(names[code], 0) for code in told.get("codes") or range(len(names)))
    return {
        **told,
        "task": task,
        "codes": tuple(codes),
        "num_classes": 1 if task == "binary" else len(wanted) + 1,
        "class_names": (BACKGROUND, *wanted) if task == "multiclass" else wanted if len(wanted) == 1 else None,
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:30]) + ", …" * (len(names) > 30)
