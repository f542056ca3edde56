"""The settings that most runs need: a flag of ``unetzoo train`` each, and a keyword of ``unetzoo.fit``.

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
        value: what the help calls its value.
        meaning: of the help.
        many: whether it takes several values: with commas as a flag, a list as a keyword.
        numbers: whether it takes as many numbers as ``value`` has words; a list as a keyword.
        alone: its value where the flag stands alone; None: it needs one.
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
    Flag("model", "model.name", "NAME", "of the zoo; or, to go on from it, a trained model, a run, a file, owner/name"),
    Flag("data", "data.folder", "FOLDER", "of images and masks, as 'unetzoo data check' understands it; or CSV lists"),
    Flag("steps", "steps", "N", "of the optimiser, a batch each (default: 3000, unless minutes or epochs are given)"),
    Flag("minutes", "minutes", "N", "as many steps as fit, by what some are measured to take before it starts"),
    Flag("epochs", "trainer.max_epochs", "N", "passes over the training images; or epochs of --steps-per-epoch"),
    Flag(
        "steps_per_epoch",
        "data.steps_per_epoch",
        "N",
        "between two validations (default: 100; or such that there are 10 to 50)",
    ),
    Flag("batch_size", "data.batch_size", "N", "images a step and device; auto: as many as fit in 8 GB (default: 8)"),
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
        "binary, multiclass, multilabel or instances (default: as the data say, or binary)",
    ),
    Flag("num_classes", "data.num_classes", "N", "classes; multiclass counts the background (default: 1)"),
    Flag("ignore", "data.ignore", "VALUE", "of mask pixels that are not counted"),
    Flag("foreground", "data.foreground", "VALUES", "of binary masks: white, or any, as of ids (default: white)"),
    Flag(
        *("ratios", "data.ratios", "TRAIN VAL TEST", "shares of the images (default: 0.8 0.1 0.1)"),
        numbers=True,
    ),
    Flag("ignore_colour", "data.ignore_colour", "#RRGGBB", "of painted pixels that are not counted"),
    Flag("planes", "data.planes", "WHICH", "of images of several planes: split, first, max or channels"),
    Flag("masks", "data.masks", "PATTERN", "which files are the masks, as 'gt/{name}_gt.png' (default: by the layout)"),
    Flag("group", "data.group", "REGEX", "images whose names match it alike stay in one split"),
    Flag("folds", "data.folds", "N", "cross-validation: so many runs, each validated on another part of the images"),
    Flag("fold", "data.fold", "K", "of --folds: this run alone, into its folder in --out"),
    Flag("seed", "seed_everything", "N", "of all that is drawn (default: 0)"),
    Flag(
        "monitor",
        "model.monitor",
        "FIGURE",
        "of metrics.csv, by which the best epoch is kept (default: dice; of objects object_ap_50)",
    ),
    Flag("patience", "patience", "EPOCHS", "stop when no epoch was better for so long (default: never)"),
    Flag(
        *("logger", "logger", "NAME"),
        "also log to: tensorboard, wandb, mlflow, or several; csv, metrics.csv, is always written",
    ),
    Flag("class_names", "data.class_names", "A,B", "one name a class", many=True),
    Flag("classes", "data.classes", "A,B", "of annotations: those that count, in this order (default: all)", many=True),
    Flag("colours", "data.colours", "#RRGGBB,…", "of painted masks, one a class", many=True),
    Flag(
        *("pretrained", "model.pretrained", "FILE"),
        "ImageNet weights for the encoder; or by a name such as IMAGENET1K_V1, or a file that holds an encoder",
        alone="true",
    ),
)
