"""``unetzoo data``: check a data set, convert it, preview it. Parses first and imports late."""

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
        help="find problems in a data set before training",
        description="Read every image and mask once, and report what they are and what is wrong. The exit status is 2 "
        "if a problem prevents training on the data.",
    )
    command.add_argument(
        "--crop-size", type=sides, metavar="PIXELS", help="side, or HEIGHTxWIDTH, of the crops that training will use"
    )
    command.add_argument("--html", metavar="FILE", help="also write a page with histograms, and images with masks")
    of_training = {"folds": "folds"}  # the next command
    command.set_defaults(run=_check, library_names=of_training, writes=("html",))

    command = inner.add_parser(
        "convert",
        parents=[labels, form],
        help="write a data set as folders of images and PNG masks",
        description="Write a data set in any supported layout as images/ and masks/: images are copied byte for byte, "
        "masks become PNG files. Masks store classes, not objects: touching objects of one class become one object. "
        "With --task instances the masks are 16-bit label images, which number the objects, and nothing is lost.",
    )
    command.add_argument("target", metavar="TARGET", help="the folder to write, new or empty")
    command.set_defaults(run=_convert)

    command = inner.add_parser(
        "preview",
        parents=[labels, splits, form],
        help="show augmented images with their masks",
        description="Write one PNG that shows images with their masks laid over them, augmented as in training.",
    )
    command.add_argument(
        "--split", choices=("train", "val", "test"), default="train", help="the split to show (default: train)"
    )
    command.add_argument(
        "--augmentation",
        default="light",
        metavar="LIST",
        help="none, light or strong; a YAML list such as '[light, RandomBlur: {sigma: 2}]'; a class of your own such "
        "as mine.Salt; or a .yaml file with such a list or with the settings of a run (default: light)",
    )
    command.add_argument("--trust", action="store_true", help="trust the file of --augmentation: it may name any class")
    command.add_argument(
        "--crop-size", type=sides, metavar="PIXELS", help="side, or HEIGHTxWIDTH, of the crops (default: whole images)"
    )
    command.add_argument("--count", type=int, default=16, metavar="N", help="number of images (default: 16)")
    command.add_argument("--columns", type=int, default=4, metavar="N", help="images per row (default: 4)")
    command.add_argument("--out", default="preview.png", metavar="FILE", help="PNG to write (default: preview.png)")
    command.set_defaults(run=_preview, names_code=True, writes=("out",))


def _labels_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a folder with images and masks or annotations; or .csv files",
    )
    options.add_argument(
        "--task", choices=TASKS, help="kind of the masks (default: that of the annotations, else binary)"
    )
    options.add_argument(
        "--num-classes", type=int, metavar="N", help="number of classes; multiclass counts the background"
    )
    options.add_argument("--class-names", type=_listed, metavar="NAME,…", help="one name per class")
    options.add_argument(
        "--classes",
        type=_listed,
        metavar="NAME,…",
        help="for annotations: the classes to use, in this order (default: all)",
    )
    options.add_argument("--ignore", type=int, metavar="VALUE", help="value of mask pixels to ignore")
    options.add_argument(
        "--foreground",
        choices=("white", "any"),
        help="foreground of binary masks: white, or any value above 0, as in label images (default: white)",
    )
    options.add_argument("--colours", type=_listed, metavar="#RRGGBB,…", help="for painted masks: one colour per class")
    options.add_argument("--ignore-colour", metavar="#RRGGBB", help="for painted masks: colour of pixels to ignore")
    options.add_argument("--planes", choices=PLANES, help=PLANES_HELP)
    options.add_argument("--masks", metavar="PATTERN", help=MASKS_HELP)
    return options


def _split_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--group",
        metavar="REGEX",
        help=r"keep images together whose names give the same group of this, such as 'Image_(\d+)'",
    )
    options.add_argument(
        "--ratios",
        type=float,
        nargs=3,
        default=[0.8, 0.1, 0.1],
        metavar=("TRAIN", "VAL", "TEST"),
        help="fractions of the images for each split, where the layout has no splits (default: 0.8 0.1 0.1)",
    )
    options.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the split (default: 0)")
    return options


def _form_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _labels(options: argparse.Namespace) -> Labels:
    """Return the labels that the options describe; names, colours or folders give the number of classes if they can."""
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
    options.wording.know({"resize": "data.resize", "folds": "folds"})  # options of the next command, a training
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
    """Return the command that trains on the converted data, or else the options that describe its masks."""
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
