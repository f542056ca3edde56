"""The settings that most runs need: each is a flag of ``unetzoo train`` and a keyword of ``unetzoo.fit``.

Imports nothing, so that ``unetzoo train --help`` is instant.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """A setting that has a short name.

    Attributes:
        name: the keyword; the flag has - in place of _.
        setting: its full name, as ``config.yaml`` nests it.
        value: name of its value in the help.
        meaning: its description in the help.
        many: whether it takes several values: with commas as a flag, a list as a keyword.
        numbers: whether it takes as many numbers as ``value`` has words; a list as a keyword.
        alone: its value if the flag is given without one; None: a value is required.
    """

    name: str
    setting: str
    value: str
    meaning: str
    many: bool = False
    numbers: bool = False
    alone: str | None = None

    @property
    def option(self) -> str:
        """As the command line writes it."""
        return f"--{self.name.replace('_', '-')}"


FLAGS = (
    Flag(
        "model",
        "model.name",
        "NAME",
        "name of a network; or a trained model to start from, such as a run or a file",
    ),
    Flag("data", "data.folder", "FOLDER", "folder of images and masks, as for 'unetzoo data check'; or CSV lists"),
    Flag("steps", "steps", "N", "optimiser steps, one batch each (default: 3000, unless minutes or epochs are given)"),
    Flag("minutes", "minutes", "N", "train as many steps as fit; some are timed before training starts"),
    Flag("epochs", "trainer.max_epochs", "N", "passes over the training images; or epochs of --steps-per-epoch"),
    Flag(
        "steps_per_epoch",
        "data.steps_per_epoch",
        "N",
        "steps between validations (default: 100; or a number that gives 10 to 50 validations)",
    ),
    Flag("batch_size", "data.batch_size", "N", "images per step and device; auto: as many as fit in 8 GB (default: 8)"),
    Flag(
        "crop_size",
        "data.crop_size",
        "PIXELS",
        "side, or HEIGHTxWIDTH, of the training crops (default: 256; less for small images)",
    ),
    Flag("augmentation", "data.augmentation", "NAME", "none, light or strong (default: light)"),
    Flag("loss", "model.loss", "LOSS", "such as 'dice', '0.5*bce + dice', 'unet3p' (default: bce + dice, by task)"),
    Flag("lr", "model.lr", "RATE", "highest learning rate (default: 0.001)"),
    Flag(
        "task",
        "data.task",
        "TASK",
        "binary, multiclass, multilabel or instances (default: follows from the data, or binary)",
    ),
    Flag("num_classes", "data.num_classes", "N", "classes; multiclass counts the background (default: 1)"),
    Flag("ignore", "data.ignore", "VALUE", "value of mask pixels to ignore"),
    Flag(
        "foreground",
        "data.foreground",
        "VALUES",
        "foreground of binary masks: white, or any value above 0 (default: white)",
    ),
    Flag(
        *("ratios", "data.ratios", "TRAIN VAL TEST", "fractions of the images for each split (default: 0.8 0.1 0.1)"),
        numbers=True,
    ),
    Flag("ignore_colour", "data.ignore_colour", "#RRGGBB", "for painted masks: colour of pixels to ignore"),
    Flag("planes", "data.planes", "WHICH", "how to read images with several planes: split, first, max or channels"),
    Flag(
        "masks", "data.masks", "PATTERN", "which files are the masks, such as 'gt/{name}_gt.png' (default: by layout)"
    ),
    Flag("group", "data.group", "REGEX", "images whose names give the same match stay in one split"),
    Flag("folds", "data.folds", "N", "cross-validation: N runs, each validated on a different part of the images"),
    Flag("fold", "data.fold", "K", "with --folds: train only this fold, into its folder in --out"),
    Flag("seed", "seed_everything", "N", "random seed (default: 0)"),
    Flag(
        "monitor",
        "model.monitor",
        "FIGURE",
        "score of metrics.csv that decides which epoch is best (default: dice; for instances object_ap_50)",
    ),
    Flag("patience", "patience", "EPOCHS", "stop after this many epochs without a better one (default: never)"),
    Flag(
        *("logger", "logger", "NAME"),
        "also log to: tensorboard, wandb, mlflow, or several; metrics.csv (csv) is always written",
    ),
    Flag("class_names", "data.class_names", "A,B", "one name per class", many=True),
    Flag(
        "classes", "data.classes", "A,B", "for annotations: the classes to use, in this order (default: all)", many=True
    ),
    Flag("colours", "data.colours", "#RRGGBB,…", "for painted masks: one colour per class", many=True),
    Flag(
        *("pretrained", "model.pretrained", "FILE"),
        "ImageNet weights for the encoder; or their name, such as IMAGENET1K_V1, or a file with an encoder",
        alone="true",
    ),
)
