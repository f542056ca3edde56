"""``unetzoo.fit``: training in one call, by keywords. Imports Lightning when it is called."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unetzoo import checks
from unetzoo.errors import ConfigError
from unetzoo.extras import needed
from unetzoo.files.plain import plain
from unetzoo.saving.folds import fold_folder
from unetzoo.train.flags import FLAGS
from unetzoo.train.given_sets import beside, is_given
from unetzoo.train.places import in_python
from unetzoo.train.runs import Run

Source = str | os.PathLike[str]
DOTTED = (
    *("loss", "augmentation", "model.loss", "data.augmentation", "model.metrics", "model.optimiser", "model.schedule"),
    "trainer.callbacks",
)
"""Settings that may name the user's own code, by dotted paths."""


def fit(
    model: Source | None = None,
    *,
    data: Source | Sequence[Source] | Any | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    out: Source | None = None,
    batch_size: int | str | None = None,
    crop_size: int | Sequence[int] | None = None,
    augmentation: str | Sequence[Any] | None = None,
    loss: str | None = None,
    lr: float | None = None,
    task: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    ignore: int | None = None,
    foreground: str | None = None,
    colours: Sequence[str] | None = None,
    ignore_colour: str | None = None,
    classes: Sequence[str] | None = None,
    planes: str | None = None,
    masks: str | None = None,
    ratios: Sequence[float] | None = None,
    group: str | None = None,
    folds: int | None = None,
    fold: int | None = None,
    seed: int | None = None,
    monitor: str | None = None,
    patience: int | None = None,
    logger: str | Sequence[str] | None = None,
    pretrained: bool | Source | None = None,
    settings: Mapping[str, Any] | None = None,
    config: Source | None = None,
    resume: Source | None = None,
    style: str | None = None,
    quiet: bool = False,
    trust: bool = False,
    **others: Any,
) -> Run:
    """Train a network on a folder of images and masks, exactly as ``unetzoo train`` does.

    Its keywords are the flags of the command; pass any other setting by its full name in ``settings``. The data are
    checked first. ``fit(resume=folder)`` continues a run that was killed, with bit-identical results.

    Args:
        model: a name from ``list_models()``; or a trained model to start from, as ``from_pretrained`` takes it.
        data: a folder with ``images/`` and ``masks/``, or with ``train/`` and ``val/`` that contain these, or in any
            other layout of ``unetzoo.data.list_samples``; or a CSV list, or several in a list; or a map-style data set
            of images and masks, or a tuple of two, for training and validation, which are written to ``<out>-data``
            first: see ``unetzoo.train.given_sets.write_given``.
        steps: optimiser steps, one batch each. 3000 by default, whatever the data and the network.
        minutes: instead of steps: train as many steps as fit, which is measured before training starts.
        epochs: instead of steps: passes over the training images; or, with ``steps_per_epoch``, epochs of that length.
        steps_per_epoch: steps between two validations. By default 100; more if there would be over fifty epochs, and
            fewer if there would be under ten.
        out: folder of the run, new or empty. None: ``runs/<model>``, numbered if that exists.
        batch_size: images per step and device; 8 by default. "auto": as many as fit in 8 GB, or in the free memory,
            but no more than 5 % of all pixels.
        crop_size: side of the training crops in pixels, or height and width. By default 256, or less where most images
            are smaller.
        augmentation: "none", "light" (the default), "strong", or a list as ``unetzoo.augmentation.build`` takes it.
        loss: as ``unetzoo.losses.build`` takes it, such as "0.5*bce + dice". By default "bce + dice", and
            "cross_entropy + dice" for multi-class.
        lr: the highest learning rate; 0.001 by default.
        task: "binary", "multiclass", "multilabel" or "instances" (objects, separated where they touch); by default
            the task of the annotations, else "binary".
        num_classes: number of classes in the masks; multi-class counts the background.
        class_names: one per class.
        ignore: value of mask pixels that do not count.
        foreground: of binary masks: "white" (the default), or "any" value above 0, as in masks of object ids.
        colours: "#RRGGBB" of painted masks, one per class.
        ignore_colour: "#RRGGBB" of painted pixels that do not count.
        classes: names of the annotated objects that count, in the order of the classes; all by default.
        planes: how to read images with several planes: "split", "first", "max" or "channels"; see
            ``unetzoo.data.Labels``.
        masks: which files in the folder are the masks, such as "gt/{name}_gt.png"; by default the layout decides.
        ratios: shares of the training, validation and test images where ``data`` has no splits; (0.8, 0.1, 0.1) by
            default.
        group: a regular expression; images whose names give the same match stay in one split.
        folds: cross-validation with this many runs, in ``fold-1``, ``fold-2``, … of the folder. Each is validated on
            a different part of the images (without the test images) and trained on the rest. Then the best settings
            for their average are found, see ``unetzoo.evaluation.across_folds.choose``. Limits such as ``minutes``
            apply to each run.
        fold: with ``folds``, train this run alone; ``out``, the folder of all folds, is then needed.
        seed: random seed; 0 by default.
        monitor: the figure of ``metrics.csv`` by which the best epoch is kept, such as "iou", "boundary_f", "dice/rim"
            or "val_loss". By default "dice", or "object_ap_50" for ``task="instances"``.
        patience: stop after this many epochs without a better one.
        logger: "tensorboard", "wandb" or "mlflow", or several in a list, to log to as well as ``metrics.csv``.
        pretrained: True: ImageNet weights for the encoder; or their name or file, as ``create`` takes them.
        settings: full name → value of anything else that ``unetzoo train --print-config`` shows, such as
            ``{"trainer.precision": "bf16-mixed", "model.ema": 0.999, "model.options.norm": "group"}``. Values must be
            text, numbers and the like, because all of them are written to ``config.yaml``.
        config: a file of settings, such as ``config.yaml`` of another run; keywords override it.
        resume: folder of a run, or of folds, to continue; leave out ``model``, ``data`` and ``out`` then.
        style: what is printed: "bar", "lines" (one per epoch), "json" or "quiet". None: a bar on a terminal, else
            lines.
        quiet: print nothing; short for ``style="quiet"``.
        trust: whether the file of ``config``, or of the run that ``resume`` names, is your own and may name any class
            to be imported and made; otherwise it may name only a few of Lightning's callbacks.

    Returns:
        The run; with ``folds``, one whose ``folds`` are the runs.

    Raises:
        ConfigError: lists what is wrong with the arguments, or with the data; nothing was trained.
        TrainingError: the loss or the weights became NaN, or memory ran out.
        WeightsError: a checkpoint, or the model to start from, is damaged.
        WriteError: the folder cannot be written, or the disk is full.
    """
    return Run(_trained(locals()))


def _trained(arguments: Mapping[str, Any]) -> Path:
    """Train by the arguments of :func:`fit`, and return the folder."""
    command = needed("unetzoo.train.command", "unetzoo.fit", extra="train")
    settings, quiet, style, trust = (arguments[name] for name in ("settings", "quiet", "style", "trust"))
    given = {flag.name: arguments[flag.name] for flag in FLAGS if arguments[flag.name] is not None}
    problems = [_unknown(name) for name in arguments["others"]] + _setting_problems(settings, given)
    settings = settings if isinstance(settings, Mapping) else {}
    problems += checks.flag("quiet", quiet) + checks.flag("trust", trust)
    if quiet is True and style not in (None, "quiet"):
        problems.append(f"quiet=True and style={style!r}: give one of them")
    data = given.pop("data") if is_given(arguments["data"]) else None
    if wrong := _data_problems(arguments["data"]):
        given["data"] = ""  # the command refuses it, and lists these problems with all others
    problems += wrong
    texts = _texts({**given, **settings}, problems)
    with contextlib.ExitStack() as stack:
        stack.enter_context(in_python())
        if data is not None:
            _check_before_it_is_written(arguments, texts, problems)
            how = {name: arguments[name] for name in ("task", "ignore", "class_names")}
            folder = stack.enter_context(beside(data, Path(arguments["out"]), **how))
            given["data"], texts["data"] = folder, os.fspath(folder)
        trained: Path = command.train(
            {name: texts.get(name, "") for name in given},  # what cannot be text is among the problems
            [f"--{name}={texts[name]}" for name in settings if name in texts],
            **{name: arguments[name] for name in ("config", "out", "resume")},
            style="quiet" if quiet is True else style,
            trust=trust is True,
            problems=problems,
        )
    return trained


def _check_before_it_is_written(
    arguments: Mapping[str, Any], texts: Mapping[str, str], problems: Sequence[str]
) -> None:
    """Refuse what can be refused without the data, before a data set is written, which may take long.

    Raises:
        ConfigError: there are problems; the folder is not given; a run is there; or names are unknown.
    """
    from unetzoo.train import mistakes, places, stopping

    out, fold, found = arguments["out"], arguments["fold"], [*problems]
    if arguments["resume"] is not None:
        found.append("data is a data set, but a resumed run uses the data that it began with: leave it out")
    elif out is None:
        found.append("data is a data set, which is written next to the run: give out=…")
    elif not stopping.is_first():
        # The others would each write it, perhaps with other pixels if it is random.
        found.append(f"data is a data set, but several processes train: write it once, and pass {out}-data as data=…")
    else:
        try:
            places.check_free(Path(out) if fold is None else fold_folder(Path(out), fold))
        except ConfigError as error:
            found += error.problems
    if arguments["config"] is None and "model" in texts:
        found += mistakes.name_problems({"name": texts["model"], "loss": texts.get("loss")})
    if found:
        raise ConfigError("cannot train", found)


def _texts(values: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    """Return values as the command line would give them; add to ``problems`` those that text cannot express."""
    texts = {}
    for name, value in values.items():
        try:
            texts[name] = _text(value)
        except (TypeError, ValueError, AttributeError):
            problems.append(_unsayable(name, value))
    return texts


def _text(value: Any) -> str:
    """Return a value as the command line would give it: text as it is, all else as JSON."""
    value = plain(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return value if isinstance(value, str) else json.dumps(value, default=_plainer)


def _plainer(value: Any) -> Any:
    """Return a JSON type for a value that has none: paths, and numbers and arrays of numpy and torch."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist()  # or an AttributeError, for what text cannot express


def _unsayable(name: str, value: Any) -> str:
    """Return the message for a value that cannot be written as text, and so not to ``config.yaml`` either."""
    if name == "model":
        kind = type(value).__name__
        return f"model: give a name or a path, not a {kind}; unetzoo.save(model, path) writes a file to train from"
    if name in DOTTED and (own := _own_part(value)) is not None:
        return f"{name}={value!r:.100}: give its dotted path as text, such as {_path_of(own)!r}, not the object itself"
    return f"{name}={value!r:.100}: give text, a number, True or False, or a list of these"


def _own_part(value: Any) -> Any:
    """Return the first function, class or object in a value, or in its lists and mappings; None if there is none."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return next((found for one in value if (found := _own_part(one)) is not None), None)
    made = type(value).__module__ != "builtins"
    return value if made or callable(value) else None


def _path_of(part: Any) -> str:
    """Return the dotted path that imports a function, a class, or the class of an object; else an example."""
    named = part if hasattr(part, "__qualname__") else type(part)
    module, name = str(getattr(named, "__module__", "")), str(getattr(named, "__qualname__", ""))
    imported = name.isidentifier() and module not in ("__main__", "builtins", "functools", "None", "")
    return f"{module}.{name}" if imported else "mine.name"


def _data_problems(data: Any) -> list[str]:
    """Return what is wrong with ``data`` if it is not a path, a list of paths, or a data set with items."""
    listed = isinstance(data, Sequence) and not isinstance(data, str | bytes)
    places = [*data] if listed else [data]
    if data is None or (not is_given(data) and all(isinstance(place, str | os.PathLike) for place in places)):
        return []
    if is_given(data):
        return ["data: the data set is empty"] if 0 in map(len, data if isinstance(data, tuple) else (data,)) else []
    what = "give a folder, .csv lists, a data set of images and masks that has a length and items, or a tuple of two"
    return [f"data={data!r:.100}: {what}"]


def _unknown(name: str) -> str:
    """Return the message for an unknown keyword, which may belong to ``settings``."""
    from pytorch_lightning import Trainer

    from unetzoo.train.data import FolderData
    from unetzoo.train.recipe import Recipe

    for home, kind in (("model", Recipe), ("data", FolderData), ("trainer", Trainer)):
        if name in inspect.signature(kind).parameters:
            return f"unknown keyword {name!r}: pass it by its full name, settings={{'{home}.{name}': …}}"
    known = [word for word, kind in inspect.signature(fit).parameters.items() if kind.kind is not kind.VAR_KEYWORD]
    return checks.unknown("keyword", name, known)


def _setting_problems(settings: Any, given: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the names of ``settings``."""
    if settings is None:
        return []
    if not isinstance(settings, Mapping):
        return [f"settings={settings!r:.100}: give a mapping, such as {{'model.ema': 0.999}}"]
    short = {flag.setting: flag.name for flag in FLAGS if flag.name in given}
    found = [
        f"settings: {name!r}: give a full name, such as 'model.ema'"
        for name in settings
        if not isinstance(name, str) or not name[:1].isalpha()
    ]
    return found + [f"settings: {name!r} is also given as {short[name]}" for name in settings if name in short]
