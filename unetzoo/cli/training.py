"""``unetzoo train`` and ``unetzoo evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetzoo import __version__
from unetzoo.cli._options import (
    MASKS_HELP,
    PLANES,
    PLANES_HELP,
    SEVERAL,
    TILE_HELP,
    add_range,
    add_slides,
    asked_of_objects,
    note_of,
    pixels_or,
    sides,
    slides_of,
    threshold,
)
from unetzoo.errors import ConfigError
from unetzoo.extras import check_installed, needed
from unetzoo.printing import printable
from unetzoo.train.flags import FLAGS
from unetzoo.train.words import missing_problems, unknown_words

if TYPE_CHECKING:
    from unetzoo.prediction import Predictor


def add(commands: Any) -> None:
    """Add the commands."""
    _add_train(commands)
    data = _data_options()
    command = commands.add_parser(
        "evaluate",
        parents=[data],
        help="evaluate a trained network on a folder of images and masks",
        description="Segment the images of a folder and compare the masks with the ground truth. Prints a table of "
        "scores; --report also writes a row per image and shows the worst images. For a model in the folder of a run, "
        "--ratios, --seed, --group, --ignore, --foreground, --colours, --planes and --masks are those of its "
        "config.yaml unless they are given.",
    )
    command.add_argument("model", nargs="?", help=SEVERAL)
    command.add_argument("--threshold", type=threshold, metavar="P",
        help="probability above which a pixel belongs to a class, or calibrate's file, as in 'unetzoo predict'",
    )  # fmt: skip
    command.add_argument("--report", metavar="FOLDER", help="write scores.json, per_image.csv and worst.png there")
    command.add_argument("--smallest", type=int, metavar="PIXELS",
        help="leave out connected parts of predicted masks with fewer pixels")  # fmt: skip
    command.add_argument("--holes", type=pixels_or("all"), default=0, metavar="PIXELS",
        help="fill holes of predicted masks of up to this many pixels, or all")  # fmt: skip
    command.add_argument("--split-objects", type=float, metavar="PIXELS",
        help="separate predicted objects that touch, as --split of 'unetzoo predict' does (default: 1 for a model that "
        "was trained with --task instances, else 0)")  # fmt: skip
    command.add_argument("--objects", action="store_true", help="also score objects against the true ones: AP, PQ, F1")
    command.add_argument("--monitor", metavar="FIGURE",
        help="score that ranks the worst images: iou, recall, dice/NAME, with --objects object_pq, … (default: the "
        "monitor of the run, else dice, or with --objects object_ap_50)")  # fmt: skip
    command.add_argument("--table", metavar="FILE.csv", help="table of the objects, as 'unetzoo predict' writes it")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "--split", choices=("train", "val", "test", "all"),
        help="the split to use; test is, for the model of a run, the images that it held out (default: test if the "
        "folder has splits of its own, else all)",
    )  # fmt: skip
    add_slides(command)
    add_range(command)
    command.set_defaults(run=_evaluate, writes=("report", "table"))
    _add_calibrate(commands, data)


def _add_calibrate(commands: Any, data: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "calibrate",
        parents=[data],
        help="find the thresholds that give the best masks",
        description="Find the threshold of each class that gives the best Dice on a folder of images and masks, and "
        "write them for 'unetzoo predict --threshold'; with label images or annotations, also how to split objects. "
        "For a model in the folder of a run, --ratios, --seed, --group, --ignore, --foreground, --colours, --planes "
        "and --masks are those of its config.yaml unless they are given.",
    )
    command.add_argument("model", nargs="?", help=SEVERAL)
    command.add_argument(
        "--split", choices=("train", "val", "test", "all"),
        help="the split to use (default: val for a model of a run on these images, or if the folder has splits of its "
        "own, else all)",
    )  # fmt: skip
    command.add_argument(
        "--out", default="thresholds.json", metavar="FILE", help="file to write (default: thresholds.json)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    add_range(command)
    command.set_defaults(run=_calibrate, writes=("out",))


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="train a network on a folder of images and masks",
        description="Train a network on a folder of images and masks. Needs pip install 'unetzoo[train]'. Settings "
        "that have no option below are set by their full names, such as --trainer.devices 2, --trainer.precision "
        "bf16-mixed, --model.ema 0.999 or --model.options.deep_supervision true; --print-config shows all of them.",
    )
    for flag in FLAGS:
        more: dict[str, Any] = {} if flag.alone is None else {"nargs": "?", "const": flag.alone}
        more |= {"nargs": "+"} if flag.name in ("data", "logger") else {}
        more |= {"type": sides} if flag.name == "crop_size" else {}  # of others the settings tell the type
        if flag.numbers:
            more |= {"type": float, "nargs": len(flag.value.split()), "metavar": tuple(flag.value.split())}
        command.add_argument(flag.option, **{"metavar": flag.value, "help": flag.meaning, **more})
    command.add_argument("--out", metavar="FOLDER", help="folder of the run, new or empty (default: runs/<model>)")
    command.add_argument("--config", metavar="FILE", help="take the settings from a file, such as config.yaml of a run")
    command.add_argument("--resume", metavar="FOLDER", help="continue the run in this folder, exactly where it stopped")
    command.add_argument("--trust", action="store_true", help="trust the file of --config, or of the run that --resume "
                         "names: it may name any class and function")  # fmt: skip
    command.add_argument("--quiet", action="store_true", help="print only errors")
    command.add_argument("--json", action="store_true", help="print one line of JSON per epoch")
    command.add_argument("--suggest", action="store_true", help="print a learning rate to try, and do not train")
    command.add_argument("--print-config", action="store_true", help="print all settings as YAML, and do not train")
    command.set_defaults(run=_train, takes_rest=True)


def _data_options() -> argparse.ArgumentParser:
    """Return the options of the commands that predict masks and compare them with the ground truth."""
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--data", required=True, nargs="+", metavar="FOLDER", help="folder of images and masks; or CSV lists")
    add("--ratios", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"),
        help="with --split: those used in training (default: 0.8 0.1 0.1)")  # fmt: skip
    add("--seed", type=int, metavar="N", help="with --split: that used in training")
    add("--group", metavar="REGEX", help="with --split: that used in training")
    add("--ignore", type=int, metavar="VALUE", help="value of mask pixels to ignore")
    add("--foreground", choices=("white", "any"),
        help="foreground of binary masks: white, or any value above 0, as in label images")  # fmt: skip
    add("--colours", metavar="#RRGGBB,…", help="for painted masks: one colour per class")
    add("--ignore-colour", metavar="#RRGGBB", help="for painted masks: colour of pixels to ignore")
    add("--classes", metavar="A,B", help="for annotations: the classes to use, in the order of the model's classes")
    add("--planes", choices=PLANES, help=PLANES_HELP)
    add("--masks", metavar="PATTERN", help=MASKS_HELP)
    add(
        "--tta", metavar="VIEWS", help="test-time augmentation: none, flips or d4 (flips and rotations) (default: none)"
    )
    add("--tile", type=pixels_or("auto", "none"), default="auto", metavar="PIXELS", help=TILE_HELP)
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    return shared


def _train(options: argparse.Namespace) -> None:
    stated = {flag.name: value for flag in FLAGS if (value := getattr(options, flag.name)) is not None}
    begins = not (options.config or options.resume or options.print_config)
    problems = [*(missing_problems(stated) if begins else []), *unknown_words(options.rest)]
    if problems:  # immediately: the code that finds all others takes seconds to load
        raise ConfigError("cannot train", problems)
    if not (options.quiet or options.json or options.print_config or options.suggest):
        what = options.resume or options.config or f"{options.model} on {options.data and ', '.join(options.data)}"
        print(f"unetzoo {__version__}: {printable(what)}", flush=True)  # Lightning takes seconds to load
    command = needed("unetzoo.train.command", "training", extra="train")
    from unetzoo.train.refusals import other_names

    options.wording.know(other_names())
    given = {flag.name: getattr(options, flag.name) for flag in FLAGS}
    if given["data"] is not None:
        given["data"] = given["data"][0] if len(given["data"]) == 1 else json.dumps(given["data"])
    for flag in FLAGS:
        if flag.many and given[flag.name]:
            given[flag.name] = json.dumps([text.strip() for text in given[flag.name].split(",")])
    for name, value in given.items():
        if isinstance(value, tuple | list):
            given[name] = json.dumps(value)
    command.train(
        {name: text for name, text in given.items() if text is not None},
        options.rest,
        config=options.config,
        out=options.out,
        resume=options.resume,
        style="quiet" if options.quiet else "json" if options.json else None,
        suggest=options.suggest,
        print_config=options.print_config,
        trust=options.trust,
    )


def _evaluate(options: argparse.Namespace) -> None:
    filtered, split = bool(options.smallest or options.holes), options.split_objects or float(options.objects)
    check_installed(asked_of_objects(split=split, filtered=filtered, table=options.table))
    from unetzoo import evaluation

    chosen = {"threshold": options.threshold, "smallest": options.smallest, "holes": options.holes}
    predictor, given = _judged(options, **chosen, split=options.split_objects)
    note = note_of(predictor, options.threshold, options.smallest, options.split_objects, options.tta)
    if note is not None:
        print(note, file=sys.stderr)
    found = evaluation.evaluate(
        predictor,
        options.data,
        split=options.split,
        objects=options.objects or bool(options.split_objects),
        table=options.table,
        slides=slides_of(options),
        monitor=options.monitor,
        progress=sys.stderr.isatty(),
        **given,
    )
    print(json.dumps(found.to_dict(), indent=2) if options.json else found, end="\n" if options.json else "")
    if options.report:
        found.write(options.report)
        print(f"report: {printable(Path(options.report).resolve())}", file=sys.stderr)


def _calibrate(options: argparse.Namespace) -> None:
    from unetzoo.evaluation import calibrating

    predictor, given = _judged(options)
    found = calibrating.calibrate(predictor, options.data, split=options.split, progress=sys.stderr.isatty(), **given)
    found.write(options.out)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found, end="\n" if options.json else "")
    print(f"thresholds: {printable(Path(options.out).resolve())}", file=sys.stderr)


def _judged(options: argparse.Namespace, **arguments: Any) -> tuple[Predictor, dict[str, Any]]:
    """Return a predictor, and the given options about how the data are split and read, instead of those of its run.

    ``--data`` takes several words, for .csv files; a model that comes after it is the last of them.
    """
    if options.model is None and len(options.data) > 1:
        options.model = options.data.pop()
    if options.model is None:
        raise ConfigError("a model is needed, before --data")
    from unetzoo.devices import reuse_memory
    from unetzoo.prediction import Predictor
    from unetzoo.saving.sources import separated

    reuse_memory()
    names = (
        "ratios",
        "seed",
        "group",
        "ignore",
        "foreground",
        "colours",
        "ignore_colour",
        "classes",
        "planes",
        "masks",
    )
    given = {name: getattr(options, name) for name in names}
    for name in ("colours", "classes"):
        given[name] = None if given[name] is None else given[name].split(",")
    arguments |= {name: getattr(options, name) for name in ("device", "tile", "tta", "intensity_range")}
    return Predictor(separated(options.model), **arguments), given
