"""``unetzoo data``: look at a data set, convert it, preview it. Parses first and imports late."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetzoo.checks import TASKS
from unetzoo.cli._options import MASKS_HELP, PLANES, PLANES_HELP, sides
from unetzoo.errors import ConfigError
from unetzoo.printing import printable

if TYPE_CHECKING:
    from unetzoo.data import Labels


def add(commands: Any) -> None:
    """Add ``data`` with its own commands to those of the command line."""
    command = commands.add_parser(
        "data", help="check, convert and preview data sets", description="Check, convert and preview data sets."
    )
    inner = command.add_subparsers(title="commands", required=True, metavar="COMMAND")
    labels, splits, form = _labels_options(), _split_options(), _form_options()

    command = inner.add_parser(
        "check",
        parents=[labels, splits, form],
        help="find all that is wrong before training",
        description="Read every image and mask once and say what they are and what is wrong. The exit status is 2 "
        "where something keeps the data from being trained on.",
    )
    command.add_argument(
        "--crop-size", type=sides, metavar="PIXELS", help="side, or HEIGHTxWIDTH, of the crops that training will take"
    )
    command.add_argument("--html", metavar="FILE", help="also write a page with histograms, and images with masks")
    of_training = {"folds": "folds"}  # which comes next
    command.set_defaults(run=_check, library_names=of_training, writes=("html",))

    command = inner.add_parser(
        "convert",
        parents=[labels, form],
        help="write plain folders of images and PNG masks",
        description="Write any data set that can be read as images/ and masks/: images byte for byte, masks as PNG. "
        "Masks have classes, not objects: objects of a class that touch become one. With --task instances they are "
        "label images of 16 bits, which number the objects, and nothing is lost.",
    )
    command.add_argument("target", metavar="TARGET", help="a folder, empty or new")
    command.set_defaults(run=_convert)

    command = inner.add_parser(
        "preview",
        parents=[labels, splits, form],
        help="a sheet of augmented images with their masks",
        description="Write a sheet of images with their masks laid over them, as training sees them.",
    )
    command.add_argument("--split", choices=("train", "val", "test"), default="train", help="(default: train)")
    command.add_argument(
        "--augmentation",
        default="light",
        metavar="LIST",
        help="none, light or strong; a list as YAML has it, '[light, RandomBlur: {sigma: 2}]'; a class of your own, "
        "mine.Salt; or a .yaml file with a list, or with the settings of a training (default: light)",
    )
    command.add_argument(
        "--trust", action="store_true", help="the file of --augmentation is mine: it may name any class"
    )
    command.add_argument(
        "--crop-size", type=sides, metavar="PIXELS", help="side, or HEIGHTxWIDTH, of the crops (default: whole images)"
    )
    command.add_argument("--count", type=int, default=16, metavar="N", help="images (default: 16)")
    command.add_argument("--columns", type=int, default=4, metavar="N", help="(default: 4)")
    command.add_argument("--out", default="preview.png", metavar="FILE", help="(default: preview.png)")
    command.set_defaults(run=_preview, names_code=True, writes=("out",))


def _labels_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a folder with images and masks or annotations; or .csv files",
    )
    options.add_argument("--task", choices=TASKS, help="(default: as annotations say, else binary)")
    options.add_argument("--num-classes", type=int, metavar="N", help="multiclass: background is one of them")
    options.add_argument("--class-names", type=_listed, metavar="NAME,…", help="one a class")
    options.add_argument(
        "--classes",
        type=_listed,
        metavar="NAME,…",
        help="of annotations: which count, in this order (default: all)",
    )
    options.add_argument("--ignore", type=int, metavar="VALUE", help="of mask pixels that do not count")
    options.add_argument(
        "--foreground",
        choices=("white", "any"),
        help="of binary masks: white, or any value above 0, as masks of ids have (default: white)",
    )
    options.add_argument("--colours", type=_listed, metavar="#RRGGBB,…", help="of painted masks, one a class")
    options.add_argument("--ignore-colour", metavar="#RRGGBB", help="of painted pixels that do not count")
    options.add_argument("--planes", choices=PLANES, help=PLANES_HELP)
    options.add_argument("--masks", metavar="PATTERN", help=MASKS_HELP)
    return options


def _split_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--group", metavar="REGEX", help=r"images with the same group of it, such as 'Image_(\d+)', never part"
    )
    options.add_argument(
        "--ratios",
        type=float,
        nargs=3,
        default=[0.8, 0.1, 0.1],
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the images where the layout has no splits (default: 0.8 0.1 0.1)",
    )
    options.add_argument("--seed", type=int, default=0, metavar="N", help="of the split (default: 0)")
    return options


def _form_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--json", action="store_true", help="as JSON")
    return options


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _labels(options: argparse.Namespace) -> Labels:
    """Return what the options say; the number of classes follows from names, colours or folders where it can."""
    from unetzoo.data import labels_of

    return labels_of(
        options.source,
        task=options.task,
        num_classes=options.num_classes,
        class_names=options.class_names,
        classes=options.classes,
        ignore=options.ignore,
        foreground=options.foreground,
        colours=options.colours,
        ignore_colour=options.ignore_colour,
        planes=options.planes,
        masks=options.masks,
    )


def _check(options: argparse.Namespace) -> None:
    from unetzoo import data

    report = data.check(
        options.source,
        _labels(options),
        ratios=options.ratios,
        seed=options.seed,
        group=options.group,
        crop_size=options.crop_size,
        progress=sys.stderr.isatty(),
    )
    options.wording.know({"resize": "data.resize", "folds": "folds"})  # of the training that comes next
    problems, warnings = (tuple(map(options.wording, said)) for said in (report.problems, report.warnings))
    report = dataclasses.replace(report, problems=problems, warnings=warnings)
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    if options.html:
        report.write_html(options.html)
        print(f"page: {printable(Path(options.html).resolve())}", file=sys.stderr)
    if report.problems:
        raise ConfigError(f"{report.source!r} cannot be trained on: problems above, {len(report.problems)} in all")


def _convert(options: argparse.Namespace) -> None:
    from unetzoo import data

    labels = data.convert(options.source, options.target, _labels(options), progress=sys.stderr.isatty())
    target = str(Path(options.target).resolve())
    record = {"target": target, "labels": dataclasses.asdict(labels)}
    print(json.dumps(record, indent=2) if options.json else f"{printable(target)}\n{_how_to_read(options, labels)}")


def _how_to_read(options: argparse.Namespace, labels: Labels) -> str:
    """Return the command that trains on what was converted, or what tells the meaning of its masks."""
    from unetzoo.data.commanding import training_command, training_flags

    if command := training_command(options.target, training_flags(options.target, (labels,), {})):
        return f"train with\n{printable(command)}"
    fields = {field.name: field.default for field in dataclasses.fields(labels)}
    given = {name: value for name, default in fields.items() if (value := getattr(labels, name)) != default}
    return f"read it with {' '.join(options.wording(f'{name}={value!r}') for name, value in given.items())}"


def _preview(options: argparse.Namespace) -> None:
    from unetzoo import augmentation, data
    from unetzoo.train.trust import augmentation_of

    labels = _labels(options)
    augment = augmentation.build(augmentation_of(options.augmentation, trust=options.trust), options.crop_size)
    source = {"ratios": options.ratios, "seed": options.seed, "group": options.group}
    report = data.check(options.source, labels, closely=False, progress=sys.stderr.isatty(), **source)
    report.raise_for_problems()
    problems = augment.type_problems(report.dtypes)
    if problems:
        raise ConfigError("cannot augment the data", problems)
    samples = data.find_samples(options.source, labels, **source)[options.split]
    assert report.in_channels is not None
    dataset = data.SegmentationDataset(
        samples, labels, in_channels=report.in_channels, augmentation=augment, seed=options.seed
    )
    data.preview(dataset, options.out, count=options.count, columns=options.columns)
    sheet = str(Path(options.out).resolve())
    print(json.dumps({"sheet": sheet, "images": options.count}) if options.json else f"preview: {printable(sheet)}")
