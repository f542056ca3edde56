"""The prediction for an image: probabilities, a mask, and ways to save and show them."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unetzoo import checks, images, objects
from unetzoo.config import ModelConfig
from unetzoo.errors import InputError
from unetzoo.files.resolution import resolution
from unetzoo.files.writing import write_file
from unetzoo.objects.separating import separable
from unetzoo.prediction import showing
from unetzoo.prediction.geography import Tag, georeference
from unetzoo.prediction.marks import SOFTWARE, Mark
from unetzoo.prediction.outputs import annotation_paths, mask_paths
from unetzoo.printing import printable, some_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".tif", ".tiff")
"""Endings of masks: formats without loss, unlike JPEG."""
_SAID = 6
"""Largest number of classes whose shares are shown."""


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """A predictor's result for an image.

    Attributes:
        probabilities: (classes, H, W) float32.
        mask: (H, W) of 0 and 1, or of class indices; (classes, H, W) of 0 and 1 for "multilabel". uint8, or int32 for
            more than 256 classes.
        image: (C, H, W), the image as it was given; missing values are the smallest value of their band.
        config: configuration of the model.
        name: name of the image's file; None if there is none.
        place: for a GeoTIFF, the tags that georeference it; a mask that is saved as TIFF keeps them.
        missing: (H, W) bool, where nothing was measured: there the probabilities and the mask are 0. None: nowhere.
        edges: for ``task="instances"``, the probability that a pixel is the edge of an object, (H, W) float32; else
            None.
        header: for a NIfTI image, a header with its position in space, for ``save_annotations``.
        split: the predictor's ``split``, in pixels, by which touching objects are separated.
        scale: for a slide, pixels of its level 0 per pixel of the image, down and across.
        mpp: µm per pixel of the image, down and across; None if unknown.
    """

    probabilities: Tensor
    mask: Tensor
    image: Tensor
    config: ModelConfig
    name: str | None = None
    place: tuple[Tag, ...] = ()
    missing: Tensor | None = None
    header: bytes | None = None
    edges: Tensor | None = None
    split: float = 0.0
    scale: tuple[float, float] | None = None
    mpp: tuple[float, float] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as an image that ``unetzoo.data`` reads as a mask.

        Its values are 0 and 255, or class indices: with a palette of colours, or in 16 bits for more than 256 classes.
        For a multi-label model, there is one file per class, in folders with the names of the classes, next to
        ``path``. Where nothing was measured, the value is 127 in a mask of 0 and 255, or 255 among class indices (65535
        in 16 bits); the file marks it as nodata.

        Args:
            path: ends in .png, .tif or .tiff; a TIFF keeps the georeference of a GeoTIFF. Missing folders are created.

        Raises:
            InputError: ``path`` has another ending.
            WriteError: the file cannot be written.
        """
        check_suffix(path, self.config)
        write_masks(path, self)

    def overlay(self, path: str | os.PathLike[str], *, outline: bool = False) -> None:
        """Write the image with the mask laid over it, as a PNG file.

        Each class has its colour. For ``task="instances"``, or if ``split`` is not 0, neighbouring objects differ in
        colour instead, provided that SciPy and scikit-image are installed.

        Args:
            path: ends in .png. Missing folders are created.
            outline: draw only the outlines.

        Raises:
            InputError: ``path`` has another ending.
            WriteError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise InputError(f"an overlay cannot be written to {str(path)!r}: it is a .png")
        images.write_png(self._look().painted(outline=outline), path)

    def show(self, *, outline: bool = False) -> None:
        """Show the image next to its mask or objects, with a legend, small enough for a screen.

        In a notebook (Jupyter, VS Code, Colab), it is shown below the cell; a prediction on the last line of a cell is
        shown even without this call. Elsewhere, Pillow opens it in an image viewer. Without a viewer or a screen, as on
        a server, it is written to a temporary PNG file, whose path is printed. matplotlib is not needed.

        Args:
            outline: show only the outlines.

        Raises:
            WriteError: there is no screen, and the file cannot be written.
        """
        showing.show(self._look().sheet(self._title(), outline=outline), self.name or "unetzoo")

    def _repr_png_(self) -> bytes:
        """Return the image that a notebook shows, the same as :meth:`show`."""
        return images.png_of(self._look().sheet(self._title()))

    def _look(self) -> showing.Look:
        labels = self.instances().labels if shows_objects(self.config, self.split) else None
        return showing.Look(self.image, self.mask, labels, self.config)

    def _title(self) -> str:
        """Return the title above the image: its name, the number of objects, the largest shares."""
        named = f"{self.name}: " if self.name else ""
        objects = ""
        if shows_objects(self.config, self.split):
            number = len(self.instances())
            objects = f"{number:,} object{'s' * (number != 1)}; "
        return f"{named}{objects}{self._said()}"

    def _said(self) -> str:
        """Return the shares of the classes, or the largest ones if there are many."""
        shares = self.shares()
        names = list(shares) if len(shares) <= _SAID else sorted(shares, key=lambda name: -shares[name])
        return some_of([f"{printable(name)} {shares[name]:.1%}" for name in names], _SAID, quoted=False)

    def __repr__(self) -> str:
        """Return the image's name and size, and the shares of the classes, without any pixels."""
        height, width = self.mask.shape[-2:]
        return f"Prediction({'' if self.name is None else f'{self.name!r}, '}{height} × {width}: {self._said()})"

    def shares(self) -> dict[str, float]:
        """Return each class's share of the pixels, by its name; missing pixels are left out."""
        config = self.config
        measured = self.mask.shape[-2] * self.mask.shape[-1] - (0 if self.missing is None else int(self.missing.sum()))
        if config.task == "multiclass":
            known = self.mask if self.missing is None else self.mask[~self.missing]
            counts = torch.bincount(known.flatten().long(), minlength=config.num_classes)
        else:
            counts = self.mask.reshape(config.num_classes, -1).sum(dim=1)
        names = checks.class_names_of(config.class_names, config.task, config.num_classes)
        return dict(zip(names, (counts.double() / max(measured, 1)).tolist(), strict=True))

    def instances(self) -> objects.Instances:
        """Return the objects of the mask, separated by ``split``, with the mean probability of each; needs SciPy.

        They are found only once, and every call returns the same object.
        """
        return self._objects

    @functools.cached_property
    def _objects(self) -> objects.Instances:
        config = self.config
        return objects.instances(
            self.mask,
            config.pixel_task,
            config.num_classes,
            probabilities=self.probabilities,
            split=self.split,
            edges=self.edges,
        )

    def geojson(self) -> dict[str, Any]:
        """Return the outlines of all objects as GeoJSON, see ``unetzoo.objects.to_geojson``; needs SciPy.

        Coordinates are in pixels; for a slide, in pixels of its level 0; for a GeoTIFF with an EPSG code, in its own
        coordinate system.
        """
        return objects.to_geojson(
            self.instances(), self.config.class_names, **georeference(self.place), scale=self.scale, mpp=self.mpp
        )

    def save_annotations(
        self, path: str | os.PathLike[str], kind: str, image: str | os.PathLike[str] | None = None
    ) -> None:
        """Write the objects for another tool, in one of the formats of ``unetzoo.objects.WRITERS``; needs SciPy.

        With several classes, label images are one file per class, in folders with the names of the classes, next to
        ``path``. YOLO's text has only class numbers: their names are in ``data.yaml``, which
        ``unetzoo predict --write yolo`` writes for a folder, but this method does not.

        Args:
            path: has the ending of the format. Missing folders are created.
            kind: "coco", "geojson", "labelme", "labels", "nifti", "rois" or "yolo", or a format of your own.
            image: path of the image relative to the folder of ``path``, for formats that name it; None: ``name``, in
                the same folder.

        Raises:
            ConfigError: the format is unknown, or a package that it needs is not installed.
            InputError: ``path`` has another ending, or the format names the image and it has no file.
            WriteError: the file cannot be written.
        """
        writer = objects.writers([kind])[kind]
        if not Path(path).name.lower().endswith(writer.suffix):
            raise InputError(f"{writer.title} cannot be written to {str(path)!r}: it is a {writer.suffix}")
        seen = Path(image).as_posix() if image is not None else self.name or ""
        for k, target in annotation_paths(path, writer, self.config).items():
            write_file(target, b"".join(writer.pieces([annotated(self, self.instances(), k, seen, seen)])))

    def save_probabilities(self, path: str | os.PathLike[str]) -> None:
        """Write the probabilities as a NumPy array, (classes, H, W) float32.

        Args:
            path: ends in .npy. Missing folders are created.

        Raises:
            InputError: ``path`` has another ending.
            WriteError: the file cannot be written.
        """
        import numpy as np

        if Path(path).suffix.lower() != ".npy":
            raise InputError(f"probabilities cannot be written to {str(path)!r}: it is a .npy")

        stream = io.BytesIO()
        np.save(stream, self.probabilities.numpy())
        write_file(path, stream.getvalue())


def shows_objects(config: ModelConfig, split: float) -> bool:
    """Return whether overlays colour objects instead of classes."""
    return (config.task == "instances" or split > 0) and separable(split)


def annotated(
    found: Prediction, instances: objects.Instances, kind: int | None, name: str, path: str
) -> objects.Annotated:
    """Return an image and its objects for a format: all objects, or only those of one class."""
    lies = {**georeference(found.place), "header": found.header, "scale": found.scale, "mpp": found.mpp}
    if kind is not None:
        return objects.Annotated(instances.of_class(kind), None, name, path, **lies)
    return objects.Annotated(instances, found.config.class_names, name, path, **lies)


def mask_of(probabilities: Tensor, task: str, thresholds: Sequence[float]) -> Tensor:
    """Convert (classes, H, W) probabilities to a mask, see :class:`Prediction`."""
    if task == "multiclass":
        return probabilities.argmax(dim=0).to(torch.uint8 if probabilities.shape[0] <= 256 else torch.int32)
    mask = (probabilities > torch.tensor(thresholds)[:, None, None]).view(torch.uint8)
    if task == "instances" and len(mask) > 1:  # a pixel is of one object, and an object of one class
        mask &= probabilities.argmax(dim=0) == torch.arange(len(mask))[:, None, None]
    return mask[0] if len(mask) == 1 and task != "multilabel" else mask


def stored_as(config: ModelConfig) -> str:
    """Return the type of a mask's values in a file: "uint8", or "uint16" or "int32" if there are too many classes."""
    classes = config.num_classes if config.pixel_task == "multiclass" else 1
    return "uint8" if classes <= 256 else "uint16" if classes <= 65536 else "int32"


def in_file(mask: Tensor, config: ModelConfig, missing: Tensor | None) -> Tensor:
    """Return a mask with the values of a file: 0 and 255, or class indices.

    Where nothing was measured, the value is 127, or the largest value of the file's type: neither is a class, and
    software that takes values above half for white finds no object there.

    Raises:
        InputError: values are missing, and the classes leave no value to mark them.
    """
    values = mask if config.pixel_task == "multiclass" else mask * 255
    if missing is None:
        return values
    if config.pixel_task == "multiclass" and _gap(config) < config.num_classes:
        raise InputError(
            f"{config.num_classes} classes leave {stored_as(config)} masks with no value for nodata: fill the missing "
            "values of the image first"
        )
    return values.masked_fill(missing, _gap(config))


def of_files(layers: Sequence[Tensor], config: ModelConfig) -> Tensor:
    """Return the mask, see :class:`Prediction`, from the layers (H, W) of its files; 0 where nothing was measured."""
    if config.pixel_task == "multiclass":
        indices = layers[0].to(torch.int32)  # torch supports few operations on unsigned 16 bits
        return indices.where(indices < config.num_classes, 0)
    mask = torch.stack(list(layers)).eq(255).byte()
    return mask[0] if config.pixel_task == "binary" else mask


def measured(layer: Tensor, config: ModelConfig) -> int:
    """Return at how many pixels of a layer of a file something was measured."""
    has_gap = config.pixel_task != "multiclass" or _gap(config) >= config.num_classes
    return layer.numel() - (int(layer.eq(_gap(config)).sum()) if has_gap else 0)


def unknown_values(layer: Tensor, config: ModelConfig) -> list[float]:
    """Return the values of a layer of a file that a mask does not have."""
    indices = config.pixel_task == "multiclass"
    known = [*(range(config.num_classes) if indices else (0, 255)), _gap(config)]
    return [value for value in torch.unique(layer).tolist() if value not in known]


def nodata_tag(config: ModelConfig, missing: bool) -> tuple[Tag, ...]:
    """Return the tag with a mask's nodata value for GDAL, and so for QGIS; no tag if everything was measured."""
    return ((images.NODATA, _ASCII, str(_gap(config))),) if missing else ()


def _gap(config: ModelConfig) -> int:
    """Return the value in a file where nothing was measured."""
    if config.pixel_task != "multiclass":
        return 127
    return torch.iinfo(getattr(torch, stored_as(config))).max


_ASCII = 2
"""A type of TIFF tags."""


def check_suffix(path: str | os.PathLike[str], config: ModelConfig) -> None:
    """Raise if a mask cannot be saved under this name.

    Raises:
        InputError: it does not have an ending of masks, or PNG has too few bits for the classes.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"a mask cannot be written to {str(path)!r}: give a name that ends in {', '.join(SUFFIXES)}")
    if suffix == ".png" and stored_as(config) == "int32":
        raise InputError(f"{str(path)!r}: {config.num_classes} classes need 32 bits, which PNG lacks; give .tif")


def write_masks(path: str | os.PathLike[str], found: Prediction, mark: Mark | None = None) -> None:
    """Write a mask, see :meth:`Prediction.save`, to the files of :func:`mask_paths`; ``mark_in`` returns ``mark``.

    Raises:
        WriteError: the file cannot be written.
    """
    values = in_file(found.mask, found.config, found.missing).numpy().astype(stored_as(found.config), copy=False)
    layers = values if found.config.pixel_task == "multilabel" else values[None]
    for target, layer in zip(mask_paths(path, found.config), layers, strict=True):
        write_file(target, _encoded(layer, found, target.suffix.lower(), mark))


_ORIENTATION, _UPRIGHT = 274, 1
"""Tag of TIFF and EXIF: a mask has the orientation in which the image is viewed, even if it is stored rotated."""


def _encoded(values: NDArray[Any], found: Prediction, suffix: str, mark: Mark | None) -> bytes:
    from PIL import Image, PngImagePlugin, TiffImagePlugin

    image = Image.fromarray(values)
    if found.config.pixel_task == "multiclass" and values.dtype == "uint8":
        image.putpalette(_palette())
    stream = io.BytesIO()
    if suffix == ".png":
        texts = PngImagePlugin.PngInfo()
        if mark is not None:
            texts.add_text("Software", str(mark))
        # GDAL reads this as nodata.
        clear = {} if found.missing is None else {"transparency": _gap(found.config)}
        exif = Image.Exif()
        exif[_ORIENTATION] = _UPRIGHT
        image.save(stream, "PNG", pnginfo=texts, exif=exif, **clear)
        return stream.getvalue()
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for code, kind, value in (*found.place, *nodata_tag(found.config, found.missing is not None)):
        directory.tagtype[code] = kind
        directory[code] = value
    directory[_ORIENTATION] = _UPRIGHT
    if mark is not None:
        directory[SOFTWARE] = str(mark)
    sized = {} if found.place else resolution(found.mpp)
    image.save(stream, "TIFF", compression="tiff_adobe_deflate", tiffinfo=directory, **sized)
    return stream.getvalue()


def _palette() -> list[int]:
    """Return black for the background, and the colours of overlays, repeated, for the other classes."""
    colours = [value for colour in images.COLOURS for value in bytes.fromhex(colour[1:])]
    return [0, 0, 0, *(colours * 32)[: 255 * 3]]
