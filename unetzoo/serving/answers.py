"""What the page says of an image that somebody sent. Nothing here knows the page."""

from __future__ import annotations

import html
import math
import os
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unetzoo import images, sheets
from unetzoo.checks import class_names_of
from unetzoo.config import ModelConfig
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.errors import ConfigError, InputError, UnetzooError
from unetzoo.objects import Instances
from unetzoo.prediction import Prediction, Predictor
from unetzoo.prediction.outputs import mask_paths
from unetzoo.prediction.results import mask_of, shows_objects
from unetzoo.saving import cards
from unetzoo.saving.records import CARD_FILE
from unetzoo.saving.repositories import PREFIX
from unetzoo.saving.sources import located, source_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".bmp")
"""Of images that a browser offers to send; what is inside decides."""
SIDE = 1200
"""Pixels of the longest side of what is shown; files have all of them."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Strangers send these files: Pillow knows more kinds, and would run Ghostscript for one of them.
_KINDS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", *_TIFF, b"RIFF", b"GIF8", b"BM")


@dataclass(frozen=True)
class Limits:
    """What is too large to be taken.

    Attributes:
        megabytes: of a file, of 2²⁰ bytes, as the page counts them.
        megapixels: of an image, of 10⁶ pixels. It may hold four numbers a pixel, or one more than the model's
            channels.

    Raises:
        ConfigError: lists what is no number above 0.
    """

    megabytes: float = 50
    megapixels: float = 25

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value!r}: a number above 0 is needed"
            for name, value in (("megabytes", self.megabytes), ("megapixels", self.megapixels))
            if type(value) not in (int, float) or not 0 < value < math.inf
        ]
        if problems:
            raise ConfigError("these limits keep to nothing", problems)

    @property
    def max_bytes(self) -> int:
        """``megabytes`` in bytes."""
        return int(self.megabytes * 2**20)

    def check(self, path: str | os.PathLike[str], in_channels: int = 3) -> None:
        """Raise if a file is none of the images that are taken; nothing is decoded.

        Raises:
            InputError: it is too large, of another kind, or damaged.
        """
        path = Path(path)
        size = path.stat().st_size
        if size > self.max_bytes:
            raise InputError(f"{path.name} has {size / 2**20:.4g} MB: files of up to {self.megabytes:g} MB are taken")
        with path.open("rb") as stream:
            head = stream.read(8)
        if not head.startswith(_KINDS):
            raise InputError(f"{path.name} is no PNG, JPEG, TIFF, WebP, GIF or BMP")
        height, width = images.image_size(path)
        if height * width > self.megapixels * 1e6:
            raise InputError(
                f"{path.name} has {width} × {height} = {height * width / 1e6:.4g} megapixels: up to "
                f"{self.megapixels:g} are taken; cut a part out, or make it smaller"
            )
        stack = images.planes_of(path)
        if stack.count > 1:
            raise InputError(f"{path.name} holds {stack}: send one of them, as a file of its own")
        numbers = height * width * _channels(path) if head.startswith(_TIFF) else 0
        allowed = self.megapixels * 1e6 * max(4, in_channels + 1)
        if numbers > allowed:
            raise InputError(
                f"{path.name} holds {numbers / 1e6:.4g} million numbers in its bands and pages: up to "
                f"{allowed / 1e6:g} are taken; leave some out"
            )


def _channels(path: Path) -> int:
    """Return how many numbers a pixel of a TIFF has: its pages may be the same few bytes a thousand times."""
    image = images.TiffImage(path)
    return image.samples * len(image.stack.pages[0])


@dataclass(frozen=True)
class Segmented:
    """An image that somebody sent, with the mask and the objects of one threshold.

    Attributes:
        prediction: the image as uint8 (3, H, W), and the mask; without probabilities.
        objects: of the mask; None where the model tells none apart and nobody asked for ``split``, or where what finds
            them is not installed.
    """

    prediction: Prediction
    objects: Instances | None


class Answer:
    """What is kept of an image that somebody sent: as much as another threshold needs, and what came of the last one.

    Args:
        found: with the image as uint8 (3, H, W). Kept of it are 3 bytes a pixel, and 5 a pixel and class, or 1 a pixel
            where no threshold can be moved; of objects 4 a pixel and class, and 4 a pixel of their edges.
    """

    def __init__(self, found: Prediction) -> None:
        self._found = found
        self._last: tuple[float, Segmented] | None = None
        if found.config.pixel_task == "multiclass":
            self._last = 0.0, _segmented(found)
            self._found = self._last[1].prediction

    def at(self, threshold: float) -> Segmented:
        """Return mask and objects of a threshold; a multi-class model has none, and its mask stays.

        Objects are found where a threshold is new: what is drawn anew, or written, has those of the last one.
        """
        found, last, config = self._found, self._last, self._found.config
        if last is None or (config.pixel_task != "multiclass" and last[0] != threshold):
            mask = mask_of(found.probabilities, config.task, (threshold,) * config.num_classes)
            self._found = replace(found, mask=mask)
            self._last = last = threshold, _segmented(self._found)
        return last[1]


def _segmented(found: Prediction) -> Segmented:
    objects = found.instances() if shows_objects(found.config, found.split) else None
    return Segmented(replace(found, probabilities=found.probabilities[:0].clone(), edges=None), objects)


def answer(predictor: Predictor, path: str | os.PathLike[str], limits: Limits) -> Answer:
    """Segment an image that somebody sent.

    Raises:
        InputError: in one line that names no folder.
    """
    path = Path(path)
    try:
        limits.check(path, predictor.config.in_channels)
        found = predictor(path)
    except InputError as error:
        raise InputError(" ".join(str(error).replace(str(path), path.name).split())) from error
    visible = sheets.visible(found.image)
    shown = images.overlay(visible, torch.zeros(visible.shape[1:], dtype=torch.bool))
    return Answer(replace(found, image=shown))


@dataclass(frozen=True)
class Picture:
    """What is drawn of a segmented image.

    Attributes:
        image: (3, H, W) uint8.
        mask: as :class:`unetzoo.prediction.Prediction` has it.
        labels: int32, (H, W) or (classes, H, W), the object of each pixel; None: classes are coloured.
        config: of the model.
    """

    image: Tensor
    mask: Tensor
    labels: Tensor | None
    config: ModelConfig

    def overlaid(self, opacity: float) -> Tensor:
        """Return the image with the mask laid over it, (3, H, W) uint8, as ``Prediction.overlay`` writes it."""
        if self.labels is not None:
            return images.overlay_objects(self.image, self.labels, opacity)
        return images.overlay(self.image, self._masks(), opacity)

    def painted(self) -> Tensor:
        """Return the mask alone, (3, H, W) uint8: white on black of a binary model, else in the classes' colours."""
        masks = self._masks()
        if self.config.pixel_task == "binary":
            return (masks * 255).byte().expand(3, -1, -1)
        return images.overlay(torch.zeros_like(self.image), masks, 1)

    def fitted(self) -> Picture:
        """Return it with no side longer than a page shows."""
        image = sheets.shrunk(self.image, SIDE)
        labels = None if self.labels is None else _nearest(self.labels, image.shape[1:])
        return replace(self, image=image, mask=_nearest(self.mask, image.shape[1:]), labels=labels)

    def _masks(self) -> Tensor:
        return sheets.class_masks(self.mask, self.config.pixel_task, self.config.num_classes)


def picture(seen: Segmented) -> Picture:
    """Return what is drawn, in full size."""
    found, objects = seen.prediction, seen.objects
    return Picture(found.image, found.mask, None if objects is None else objects.labels, found.config)


def _nearest(numbers: Tensor, size: torch.Size) -> Tensor:
    """Return (H, W) or (classes, H, W) integers in another size: no two are mixed to a third."""
    layers = numbers.reshape(1, -1, *numbers.shape[-2:]).double()  # of more objects than float32 can count
    fitted = F.interpolate(layers, size, mode="nearest-exact").to(numbers.dtype)
    return fitted.reshape(*numbers.shape[:-2], *size)


@dataclass(frozen=True)
class Row:
    """A class in the legend.

    Attributes:
        name: of the class.
        colour: of the class, such as "#e6194b"; None where nothing is painted in one: the background, and one class
            whose objects have colours of their own.
        objects: how many the class has; None where none are told apart, and of a background.
        pixels: of the class.
        share: of the image, from 0 to 1.
    """

    name: str
    colour: str | None
    objects: int | None
    pixels: int
    share: float


def legend(seen: Segmented) -> list[Row]:
    """Return a row a class, the background included unless classes may lie over each other; of what was measured."""
    prediction, objects = seen.prediction, seen.objects
    config, mask = prediction.config, prediction.mask
    missing = 0 if prediction.missing is None else int(prediction.missing.sum())
    names = list(class_names_of(config.class_names, config.task, config.num_classes))
    if config.pixel_task == "multiclass":
        counts = torch.bincount(mask.flatten(), minlength=config.num_classes).tolist()
        counts[0] -= missing  # where the mask is 0
    elif config.pixel_task == "binary":
        inside = int(mask.sum(dtype=torch.int64))
        names = ["background", *names]
        counts = [mask.numel() - missing - inside, inside]
    else:
        counts = mask.sum(dim=(1, 2), dtype=torch.int64).tolist()
    pixels = max(mask.shape[-2] * mask.shape[-1] - missing, 1)
    colours: list[str | None] = [*images.colours_on(prediction.image, config.num_classes)]
    numbers: list[int | None] = [None] * config.num_classes
    if objects is not None:
        numbers = torch.bincount(objects.classes, minlength=config.num_classes).tolist()
        colours = [None] if config.pixel_task == "binary" else colours
    if config.pixel_task != "multilabel":
        colours = [None, *colours[: len(names) - 1]]
        numbers = [None, *numbers[1 - len(names) :]]
    shares = [count / pixels for count in counts]
    return [Row(*row) for row in zip(names, colours, numbers, counts, shares, strict=True)]


def legend_html(rows: list[Row]) -> str:
    """Return the legend as a table, with a column of objects where they are told apart."""
    counted = any(row.objects is not None for row in rows)
    lines = []
    for row in rows:
        chip = f'<span class="chip" style="background:{row.colour or "transparent"}"></span>'
        number = "" if row.objects is None else f"{row.objects:,}"
        cells = [
            f"{chip}{html.escape(row.name)}",
            *([number] if counted else []),
            f"{row.pixels:,}",
            f"{row.share:.1%}",
        ]
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = ["class", *(["objects"] if counted else []), "pixels", "share"]
    return (
        f'<table class="legend"><thead><tr>{"".join(f"<th>{name}</th>" for name in head)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def write_masks(seen: Segmented, folder: Path) -> Path:
    """Write the mask as ``Prediction.save`` does, as PNG; those of a multi-label model as a ZIP of one a class."""
    prediction = seen.prediction
    config = prediction.config
    stem = Path(prediction.name or "image").stem
    file = folder / f"{stem}_mask.png"
    if config.pixel_task != "multilabel":
        prediction.save(file)
        return file
    # Names of classes come with the model, and may hold what leads out of a folder.
    nameless = replace(config, class_names=None)
    replace(prediction, config=nameless).save(file)
    names = class_names_of(config.class_names, config.task, config.num_classes)
    labels = [re.sub(r"[^\w -]+", "_", name) for name in names]
    target = folder / f"{stem}_masks.zip"
    with zipfile.ZipFile(target, "w") as archive:  # PNGs are packed already
        for k, (path, label) in enumerate(zip(mask_paths(file, nameless), labels, strict=True)):
            archive.write(path, f"{k}_{label}/{file.name}")
    return target


def write_overlay(seen: Segmented, opacity: float, folder: Path) -> Path:
    """Write the image with the mask laid over it, as PNG."""
    target = folder / f"{Path(seen.prediction.name or 'image').stem}_overlay.png"
    images.write_png(picture(seen).overlaid(opacity), target)
    return target


def heading(source: object, config: ModelConfig) -> tuple[str, str]:
    """Return the name of a model and a line about it, from its configuration and its card."""
    name = config.name
    if isinstance(source, str | os.PathLike):
        meant = source_of(source)
        name = meant.text.removeprefix(PREFIX)
        if meant.kind in ("file", "folder"):
            place = Path(source).resolve()
            name = place.stem if meant.kind == "file" else place.name
    line = f"{DECODERS[config.decoder].title} on the {ENCODERS[config.encoder].title} encoder."
    trained = _training_data(source)
    return name, line if trained is None else f"{line} Trained on: {trained}"


def _training_data(source: object) -> str | None:
    """Return what the card beside a model says that it was trained on, None where there is none."""
    if not isinstance(source, str | os.PathLike):
        return None
    try:
        folder = located(source_of(source), local_files_only=True)
        file = (folder if folder.is_dir() else folder.parent) / CARD_FILE
        return cards.read_card(file.read_text(encoding="utf-8"), file).card.training_data
    except (OSError, UnicodeDecodeError, UnetzooError):
        return None  # the page is as good without
