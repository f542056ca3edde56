"""Which layout a folder or a file has, which images and masks it holds, and which classes they have."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unetzoo.checks import TASKS, unknown
from unetzoo.data import picking
from unetzoo.data.annotations import advice, format_of, known_format, may_be_other
from unetzoo.data.drawn import without_class
from unetzoo.data.labels import Labels
from unetzoo.data.layouts import LAYOUTS, Meaning, Understood, annotated, chosen, csv_lists
from unetzoo.data.layouts.class_names import alike, nameless
from unetzoo.data.listing import Listing, Source, Tree, is_hidden, paths_of, title_of
from unetzoo.errors import ConfigError, InputError
from unetzoo.files.absent import absent
from unetzoo.printing import counted, some_of

_LOOKED_AT = 20
"""Files of one kind in a folder that are opened to find out which tool wrote them."""


_SETTINGS = ("dataset.json", "plans.json", "splits_final.json")
"""JSON files next to images that describe none of them, as nnU-Net has."""


def understood(source: Source, masks: str | None = None, task: str | None = None) -> Understood:
    """Return what a data set is.

    Args:
        source: as in :func:`~unetzoo.data.find_samples`.
        masks, task: see :class:`Labels`; None: not given.

    Raises:
        ConfigError: no layout matches, or two do.
    """
    paths = paths_of(source)
    if len(paths) != 1:
        return _several(paths, masks)
    path = paths[0]
    if path.is_dir():
        tree = Tree(path)
        if masks is not None:
            return chosen.understood(tree, masks)
        found = _the_layout(tree)
        return (found.instances or found) if task == "instances" else found
    if masks is not None:
        raise ConfigError(f"masks={masks!r} is for folders: {title_of(source)!r} is not a folder")
    if path.suffix.lower() == ".csv":
        return csv_lists.understood([path])
    if not path.is_file():
        raise ConfigError(absent(path, "folder, and no such .csv file"))
    known = known_format(path)
    if not known.many:
        raise ConfigError(f"{str(path)!r} is {known.title}, about one image: give the folder that also has the image")
    of_file = annotated.of_documents(Tree(path.parent), [path])
    assert of_file is not None
    return of_file


def _several(paths: list[Path], masks: str | None) -> Understood:
    """Return the data set of several .csv files."""
    others = [str(path) for path in paths if path.suffix.lower() != ".csv"]
    if others or not paths:
        said = ", ".join(others) or "nothing was given"
        raise ConfigError(f"only several .csv files can be one data set, not: {said}")
    if masks is not None:
        raise ConfigError(f"masks={masks!r} is for folders: .csv files name their masks")
    return csv_lists.understood(paths)


def _the_layout(tree: Tree) -> Understood:
    """Return what the only layout that recognises a folder makes of it.

    Raises:
        ConfigError: none recognises it, or several do.
    """
    matches, reasons = {}, []
    for name, layout in LAYOUTS.items():
        try:
            match = layout.recognises(tree)
        except ConfigError as error:
            reasons.append(error)
            continue
        if match is not None:
            matches[name] = match
    refined = {other for name in matches for other in LAYOUTS[name].refines}
    found = [match for name, match in matches.items() if name not in refined]
    if len(found) > 1:
        raise ConfigError(
            f"{str(tree.path)!r} may be two data sets; move one away, give the path of the file that you mean, or say "
            "which files are the masks, for example masks='masks/{name}.png' or masks='labels/{name}.json'",
            [match.said for match in found],
        )
    if found:
        return found[0]
    exports = _exports(tree)
    if len(reasons) == 1 and exports:
        raise ConfigError(f"{str(tree.path)!r} cannot be read yet", [*reasons[0].problems, *exports])
    if len(reasons) == 1:
        raise reasons[0]
    raise ConfigError(
        f"{str(tree.path)!r} is not a data set: it {_seen(tree)}. Usual are images/ and masks/ (or instances/) with "
        "the same names, a.png with a_mask.png, or images with COCO JSON; for others give masks='gt/{name}_gt.png' or "
        "a .csv, see docs/data.md",
        [*(problem for reason in reasons for problem in reason.problems), *exports],
    )


def _seen(tree: Tree) -> str:
    """Return a clause that says what is in a folder."""
    folders = [f"{name}/" for name in tree.inside()]
    files = [inner for inner in tree.files if not is_hidden(inner)]
    if not folders and not files:
        return "is empty"
    endings = Counter(Path(inner).suffix.lower() or "no ending" for inner in files)
    counted = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(4)) or "no files"
    named = ", ".join([*folders[:5], *(["…"] if len(folders) > 5 else []), *files[:3]])
    return f"has {named} ({counted})"


def _exports(tree: Tree) -> list[str]:
    """Return which files are of tools whose formats are not read, and what to export from these tools instead."""
    others = [inner for inner in tree.files if not is_hidden(inner) and may_be_other(inner)]
    told: dict[str, list[str]] = defaultdict(list)
    looked: Counter[tuple[str, str]] = Counter()
    for inner in others:
        place = inner.rpartition("/")[0], Path(inner).suffix.lower()  # files in one folder are of one tool
        looked[place] += 1
        found = _unread(tree.files[inner]) if looked[place] <= _LOOKED_AT else None
        if found is not None:
            told[found].append(inner)
    return [
        f"{names[0]}: {found}" + (f"; and {counted(len(names) - 1, 'other')}" if names[1:] else "")
        for found, names in told.items()
    ]


def _unread(path: Path) -> str | None:
    """Return what a file is, and what to do, if it is of a tool whose format is not read; None for others."""
    try:
        if format_of(path) is not None:
            return None
    except InputError:  # nothing is known about a damaged file
        pass
    found = advice(path)
    if found is None and path.suffix.lower() == ".json" and path.name not in _SETTINGS:
        return "JSON in an unknown format: export COCO or LabelMe JSON from the tool that wrote it"
    return found


def exports_of(source: Source) -> list[str]:
    """Return which files of tools whose formats are not read are next to a data set, a sentence each."""
    path = paths_of(source)[0]
    return [f"{said}; left out" for said in _exports(Tree(path))] if path.is_dir() else []


def list_files(source: Source, labels: Labels) -> Listing:
    """List the files of a data set, as :func:`unetzoo.data.list_samples` does; no image is opened.

    Raises:
        ConfigError: no data set is there.
    """
    found = understood(source, labels.masks, labels.task)
    labels, problems, warnings = _named(labels, found)
    listing = found.listed(labels)
    problems += _nameless(labels, listing, found)
    return dataclasses.replace(
        listing, problems=(*problems, *listing.problems), understood=found.said, warnings=(*listing.warnings, *warnings)
    )


def labels_of(
    source: Source,
    *,
    task: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    **meaning: Any,
) -> Labels:
    """Return the labels of a data set; what is not given follows from its annotations, its layout, names or colours.

    Args:
        source: as in :func:`~unetzoo.data.find_samples`.
        task: None: "multiclass" where annotations have several classes, "instances" for label images in instances/,
            else "binary".
        num_classes: None: it follows from the data.
        class_names, classes, **meaning: the other arguments of :class:`Labels`; None is the same as not given.

    Raises:
        ConfigError: the number of classes is not known; wrong arguments; or no data set is there.
    """
    given = {name: value for name, value in meaning.items() if value is not None}
    if task is not None and task not in TASKS:
        Labels(task=task, **given)  # raises
    told = understood(source, given.get("masks"), task).meaning()
    return labels_from(
        told, source, task=task, num_classes=num_classes, class_names=class_names, classes=classes, **given
    )


def labels_from(
    told: Meaning,
    source: Source,
    *,
    task: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    **given: Any,
) -> Labels:
    """Return the labels of a data set with this meaning, as :func:`labels_of` does; nothing is read.

    Raises:
        ConfigError: the number of classes is not known; or wrong arguments.
    """
    if told.assumed and class_names is not None and not {*class_names[1:]} <= {*told.labels["class_names"]}:
        told = Meaning(labels={**{k: v for k, v in told.labels.items() if k != "class_names"}, "task": "multiclass"})
    if "class_names" in told.labels and "colours" not in given:
        asked: dict[str, Any] = {
            "task": task,
            "num_classes": num_classes,
            "class_names": class_names,
            "classes": classes,
        }
        return Labels(**{**picking.settings(told.labels, **asked), **given})
    settings: dict[str, Any] = {**told.labels, **given}
    picked = told.names if classes is None else tuple(classes)
    task = task or told.labels.get("task") or ("multiclass" if len(picked) > 1 else "binary")
    if "instances" in (task, told.labels.get("task")) and task != "multiclass":
        settings.setdefault("foreground", "any")  # objects are told apart by their numbers
    settings["task"] = task
    if class_names is None and picked and (task != "binary" or len(picked) == 1):
        class_names = ("background", *picked) if task == "multiclass" else picked
    if num_classes is None:
        known = class_names or settings.get("colours") or (told.folders if task in ("multilabel", "instances") else ())
        alone = task == "binary" or (task == "instances" and not known)
        if not alone and not known:
            hint = f": {told.hint}" if told.hint else ""
            raise ConfigError(f"task={task!r} needs num_classes=…, or class_names=…{hint}")
        num_classes = 1 if alone else len(known or ())
    settings |= {"num_classes": num_classes, "class_names": class_names, "classes": classes}
    labels = Labels(**settings)
    problems = _unknown_classes(labels, told)
    if classes is not None and not told.names:
        problems = ["classes=… picks classes by name, and these have no names: leave it out"]
    if problems:
        raise ConfigError(f"{title_of(source)!r} does not have these classes", problems)
    return labels


def has_names(source: Source, masks: str | None = None, task: str | None = None) -> bool:
    """Return whether a data set has class names, from which some can be picked; see :func:`understood`."""
    told = understood(source, masks, task).meaning()
    return bool(told.names or "class_names" in told.labels)


def check_meaning(*, task: str | None = None, num_classes: int | None = None, **meaning: Any) -> None:
    """Refuse arguments of :func:`labels_of` that are wrong for any data; nothing is read.

    Raises:
        ConfigError: lists everything that is wrong.
    """
    given = {name: value for name, value in meaning.items() if value is not None}
    named = given.get("class_names") or given.get("colours") or ()
    picked = given.get("classes") or ()
    if num_classes is None and task == "multiclass":
        num_classes = len(named) or (len(picked) + 1 if picked else 2)
    elif num_classes is None:
        num_classes = len(named) or len(picked) or 1 if task in ("multilabel", "instances") else 1
    if task is None:  # the number of classes is only a guess
        given, task = {name: value for name, value in given.items() if name not in _COUNTED}, "binary"
        num_classes = 1
    Labels(task=task, num_classes=num_classes, **given)


_COUNTED = ("class_names", "classes", "colours", "ignore_colour", "foreground")


def _named(labels: Labels, found: Understood) -> tuple[Labels, list[str], list[str]]:
    """Return labels, with the names of the annotations if they had none; problems; and warnings."""
    if labels.pixel_task == "binary" and labels.classes is None:
        return labels, [], []
    told = found.meaning()
    if labels.class_names is None and labels.classes is None and told.names:
        names = ("background", *told.names) if labels.pixel_task == "multiclass" else told.names
        if len(names) != labels.num_classes:
            fix = ", background included" if labels.pixel_task == "multiclass" else ""
            raise ConfigError(
                f"num_classes={labels.num_classes}, but the annotations have {len(names)} classes{fix}: "
                f"{', '.join(names)}; give num_classes={len(names)}, or class_names=…"
            )
        labels = dataclasses.replace(labels, class_names=names)
    return labels, _unknown_classes(labels, told), _alike(labels, told)


def _nameless(labels: Labels, listing: Listing, found: Understood) -> list[str]:
    """Return a problem if no object of a file has a class, while those of others have; of single objects, see drawn."""
    if labels.pixel_task != "binary" or labels.classes is not None:
        return []
    masks = [sample.mask for part in listing.samples.values() for sample in part if isinstance(sample.mask, Path)]
    files = nameless(dict.fromkeys(masks))
    names = found.meaning().names if files else ()
    return [f"{some_of(list(map(str, files)))}: objects {without_class(names)}"] if names else []


def _alike(labels: Labels, told: Meaning) -> list[str]:
    """Return warnings of names that may be one class written in two ways, unless ``labels.classes`` has all of them."""
    said = []
    for group in alike(told.names or (told.folders if labels.pixel_task == "multilabel" else ())):
        # Letters that Unicode composes in different ways look the same: ascii() shows their code points.
        written = ascii if len({unicodedata.normalize("NFC", name) for name in group}) < len(group) else repr
        kept = [name for name in group if name in (labels.classes or group)]
        left = [name for name in group if name not in kept]
        if labels.classes is None:
            said.append(
                f"{' and '.join(map(written, group))} are {len(group)} classes, but may be meant as one: rename one of "
                "them, or give classes=… with those that count"
            )
        elif kept and left:
            said.append(
                f"{' and '.join(map(written, left))} is left out, but may be meant as {written(kept[0])}: if so, "
                "rename it, or name it in classes=… too"
            )
    return said


def _unknown_classes(labels: Labels, told: Meaning) -> list[str]:
    """Return a problem for each wanted class that no annotation can have."""
    if not told.names:
        return []
    wanted = labels.classes or ()
    if labels.classes is None and labels.pixel_task != "binary":
        names = labels.class_names or ()
        wanted = names[1:] if labels.pixel_task == "multiclass" else names
    return [unknown("class", name, told.names) for name in wanted if name not in told.names]
