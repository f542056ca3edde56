"""An image of any size in, a mask of the same size out."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from unetzoo import objects
from unetzoo.devices import Transfer, device_of, in_memory
from unetzoo.errors import ConfigError, InputError
from unetzoo.objects.components import ndimage
from unetzoo.objects.separating import check_separable, separable
from unetzoo.prediction import arguments, by_rows, objects_by_rows, ranges
from unetzoo.prediction.beside_rows import Beside
from unetzoo.prediction.inputs import LoadedImage, Rows, as_image
from unetzoo.prediction.layout import Layout
from unetzoo.prediction.marks import Mark
from unetzoo.prediction.networks import Model, Networks, gathered, origins, titles
from unetzoo.prediction.outputs import annotation_paths
from unetzoo.prediction.remarks import told_together
from unetzoo.prediction.results import Prediction, mask_of, nodata_tag
from unetzoo.prediction.slides import SlideRows, known, loaded
from unetzoo.prediction.stored import StoredRows
from unetzoo.prediction.strips import Strip, joined, strips
from unetzoo.prediction.tiles import Grid
from unetzoo.prediction.views import views
from unetzoo.progress import bar_of
from unetzoo.saving import folds
from unetzoo.slides import Slide

_logger = logging.getLogger("unetzoo")


class Predictor:
    """Segments images with a trained model, or the average of several.

    An image is prepared as in the model's training (``unetzoo.images.prepare``), mirrored at its right and lower edges
    to a multiple of the network's stride, and segmented as a whole or in overlapping tiles; then the mirrored part is
    cut off. With ``overlap="full"``, tiles give the same result as the whole image, up to rounding. Layers that look
    at a whole image (group and instance norm, the classification-guided module) see a tile instead.

    Predictors can be pickled, and called from several processes, each with its own copy.

    Args:
        model: what ``from_pretrained`` takes: a ``.safetensors`` file, the folder of a run, "nuclei", a repository of
            the Hugging Face Hub; or a model; or a list of these with the same task and classes, whose predictions are
            averaged; or the folder of a training by folds, whose networks are averaged, with ``threshold``,
            ``smallest``, ``split`` and ``tta`` from its ``folds.json`` unless ``threshold`` is given.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps", …
        tile: side of the square tiles in pixels, including the overlap; rounded up to a multiple of the stride. None:
            the whole image in one tile. "auto": 512 for slides; else the whole image if it fits in half of the free
            memory, or 1024 or what fits; if several processes share a machine, a number is safer.
        overlap: of neighbouring tiles: a share of their side, below 1; pixels; or "full": twice as far as the network
            looks, 94 pixels for ``unet`` and some 300 for ``resunet34``.
        blend: how overlapping tiles are joined: "gaussian", "linear", or "crop" (each pixel comes from the tile whose
            middle is nearest). None: "crop" with the full overlap, else "gaussian".
        tta: test-time augmentation: "none", "flips" (the average of 4 views) or "d4" (of all 8 symmetries of a square).
            None: as in the file of ``threshold``, or "none".
        scales: scales of the views, such as ``(0.75, 1, 1.25)``.
        merge: what is averaged over tiles, views and models: "probabilities" or "logits".
        threshold: of probabilities, one number for all classes or one per class, or the file that
            ``unetzoo calibrate`` wrote; 0.5 by default. Not for multi-class models, whose mask is the likeliest class.
            ``smallest`` and ``split`` are also taken from the file, if it has them and they are not given.
        smallest, holes: connected components of fewer pixels are removed from masks, before ``split``, and holes of at
            most so many, or "all", filled; see ``unetzoo.objects.cleaned``. None: as in the file of ``threshold``, or
            0. Needs SciPy.
        split: touching objects are separated where they are narrower than their widest part by more than this many
            pixels; 0 for connected components. None: as in the file of ``threshold``, or the default of the task. Masks
            do not change. See ``unetzoo.objects.instances``. Needs scikit-image; without it, a model with
            ``task="instances"`` warns and gives masks, unless ``split`` is given.
        dtype: to compute in. None: float32 for models that are loaded, whatever type their weights are stored in; for
            a given model, its own. ``torch.bfloat16`` is faster on machines that support it, see ``optimize``.
        intensity_range: values of images that are black and white, such as (0, 4095) for 12 bits stored in 16: they
            become 0 and 1, values between are scaled in proportion, and values beyond are clipped, before images are
            normalised. For models of 8-bit images. None: integers are divided by the largest value of their type.
        batch_size: tiles at a time. None: 1 on the CPU, where more are no faster, else as many as fit, up to 16.

    Attributes:
        config: configuration of the (first) model: classes, channels, normalisation.
        origins: the file or folder from which each model was read; None for networks and repositories.
        advice: the ``folds.json`` that was followed, or None.

    Raises:
        ConfigError: lists all that is wrong with the arguments; or the models do not fit together.
        WeightsError: a model cannot be loaded.
        HubError: a model cannot be downloaded.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        *,
        device: str | torch.device = "auto",
        tile: int | str | None = "auto",
        overlap: float | int | str = 0.25,
        blend: str | None = None,
        tta: str | None = None,
        scales: Sequence[float] = (1.0,),
        merge: str = "probabilities",
        threshold: float | Sequence[float] | str | os.PathLike[str] | None = None,
        smallest: int | None = None,
        holes: int | Literal["all"] = 0,
        split: float | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        intensity_range: Sequence[float] | None = None,
    ) -> None:
        problems = arguments.problems(
            tile=tile,
            overlap=overlap,
            blend=blend,
            tta=tta,
            scales=scales,
            merge=merge,
            smallest=smallest,
            holes=holes,
            split=split,
            batch_size=batch_size,
            intensity_range=intensity_range,
        )
        if problems:
            raise ConfigError("cannot predict with these arguments", problems)
        # Raise errors before a model is loaded or downloaded.
        if smallest or holes:
            ndimage()
        if split:
            check_separable()
        self._asked = device
        self.device = device_of(device)
        self.advice = folds.advice(model) if threshold is None else None
        calibrated = arguments.calibrated(threshold if self.advice is None else self.advice)
        self.tta, self.scales = calibrated.tta if tta is None else tta, list(map(float, scales))
        seen = views(self.tta, tuple(self.scales))
        self.networks = Networks(gathered(model, self.device, dtype), seen, merge, titles(model))
        self.config, self.origins = self.networks.config, origins(model)
        self.thresholds = arguments.thresholds_for(calibrated, self.config, self.origins)
        self.layout = Layout(self.networks, tile, overlap, blend, batch_size)
        self.holes, self.intensity_range = holes, ranges.range_of(intensity_range)
        self.smallest = calibrated.smallest if smallest is None else smallest
        asked = next((each for each in (split, calibrated.split) if each is not None), None)
        self.split = arguments.split_of(self.config) if asked is None else asked
        if self.smallest:
            ndimage()
        if asked:
            check_separable()
        elif self.config.task == "instances" and not separable(self.split):
            _logger.warning("touching objects are not separated, which needs pip install 'unetzoo[objects]'")

    @overload
    def __call__(
        self, source: list[Any], progress: bool = False, planes: str | int | None = None
    ) -> list[Prediction]: ...
    @overload
    def __call__(self, source: Mapping[str, Any], progress: bool = False, planes: None = None) -> dict[str, Any]: ...
    @overload
    def __call__(self, source: Any, progress: bool = False, planes: str | int | None = None) -> Prediction: ...
    def __call__(
        self, source: Any, progress: bool = False, planes: str | int | None = None
    ) -> Prediction | list[Prediction] | dict[str, Any]:
        """Segment an image, or a list of them.

        Args:
            source: the path of an image; a tuple of paths, if its channels are separate files; an array (H, W) or
                (H, W, C); a tensor (C, H, W) or (H, W); a PIL image; a :class:`~unetzoo.slides.Slide`, which is read
                at its level or resolution. Integers of 8, 16 or 32 bits are divided by the largest value of their type;
                floating point is taken as it is, as in training. A list of these gives a list. A dictionary with
                "image", an array (N, H, W, C) or a sequence of images, gives the same dictionary with "mask", as
                ``map_batches`` of Ray Data passes them; one image that does not fit is an error for all of them. Where
                nothing was measured (the nodata value of a file, NaN, infinity, the largest and smallest float32,
                masked values of an array), the network sees the mean of its training images, and
                ``Prediction.missing`` is set.
            progress: show a progress bar.
            planes: how to read a file of several planes, see ``unetzoo.images.read_image``: "first", "max", "channels",
                or the number of a plane; ``unetzoo.images.planes_of(path).count`` is the number of planes.

        Raises:
            InputError: an image cannot be read, or does not fit the model; a file has several planes, and ``planes`` is
                not given; or memory is too small for the image.
            WeightsError: the model has weights that are not finite.
        """
        if isinstance(source, Mapping):
            return self._batch(source)
        if isinstance(source, list):
            with told_together():
                return [self._one(item, progress, planes) for item in source]
        return self._one(source, progress, planes)

    def _one(self, source: Any, progress: bool = False, planes: str | int | None = None) -> Prediction:
        source = known(source)
        image = loaded(source, planes) if isinstance(source, Slide) else as_image(source, planes)
        ranges.look_at(image, self.networks, self.intensity_range)
        grid = self.grid(image)
        with bar_of(progress, grid.count, "tile") as tick, in_memory(InputError, _SMALLER):
            found = joined(self.strips(image, grid, tick=tick), image.height)
            return self.result(image, found.probabilities, found.missing)

    def write_mask(
        self,
        source: str | os.PathLike[str] | Slide,
        target: str | os.PathLike[str],
        *,
        labels: str | os.PathLike[str] | None = None,
        geojson: str | os.PathLike[str] | None = None,
        overlay: str | os.PathLike[str] | None = None,
        planes: str | int | None = None,
        progress: bool = False,
    ) -> None:
        """Segment an image that is too large for memory into a file: it is read by rows, and written by rows.

        The mask grows in a folder next to ``target``. After a kill, the same call continues after the last finished row
        of tiles. It starts from scratch with another model or other tiles, or if the image was replaced (another place,
        size, modification time, or other bytes in the places that are compared).

        Args:
            source: a .tif or .tiff file (of a pyramid, the largest level); a .zarr array (H, W), (H, W, C) or
                (C, H, W), or OME-Zarr. Needs the extra ``big``. Or a :class:`~unetzoo.slides.Slide`.
            target: a .tif, .tiff or .zarr: (H, W) uint8, or (classes, H, W) for a multi-label model; with the values 0
                and 255, or class indices, uint16 for more than 256 classes. It keeps the georeference of a GeoTIFF.
            labels: a .tif for a label image of the objects, as ``Prediction.save_annotations`` writes it: for several
                classes, one image each, in folders with the names of the classes. The objects are those of the whole
                image, except that a component of more than 2048 rows that is split is divided as its rows are read.
            geojson: a .geojson for their outlines; for a slide, in pixels of its level 0.
            overlay: a .png for the image with the mask laid over it, both made smaller: at most 2000 pixels a side.
            progress: show a progress bar.

        Raises:
            ConfigError: tifffile or zarr is not installed, or ``labels`` or ``geojson`` are requested and the package
                that finds objects is not; or this predictor has ``holes``, which cannot be filled by rows.
            InputError: the image cannot be read by rows, or does not fit the model; ``target`` has another ending.
                Nothing was written.
            WriteError: the mask cannot be written; finished rows are kept.
        """
        if self.holes:
            raise ConfigError(f"holes={self.holes!r}: holes cannot be filled by rows; leave it out")
        targets = {} if labels is None else annotation_paths(labels, objects.writers(["labels"])["labels"], self.config)
        source = known(source)
        rows = SlideRows(source, planes) if isinstance(source, Slide) else StoredRows(source, planes)
        with rows, bar_of(progress, rows.height, "row") as bar:
            done = 0

            def tell(finished: int) -> None:
                nonlocal done
                bar(finished - done)
                done = finished

            outlines, small = (None if path is None else Path(path) for path in (geojson, overlay))
            self.write_rows(rows, target, self.settings(), tell, beside=Beside(targets, outlines, small))

    def write_rows(
        self,
        source: Rows,
        target: str | os.PathLike[str],
        settings: Mapping[str, Any],
        tell: Callable[[int], object] = lambda rows: None,
        mark: Mark | None = None,
        beside: Beside | None = None,
    ) -> int | None:
        """Do the same as :meth:`write_mask` with an image that is open; ``holes`` are ignored.

        Args:
            source: the image.
            target: see :meth:`write_mask`.
            settings: can be written as JSON; an unfinished mask is continued only with the same settings and image.
            tell: called with the number of finished rows, first with those of an earlier run.
            mark: written into the mask, see ``unetzoo.prediction.marks``.
            beside: what else is written; None: nothing.

        Returns:
            The number of objects, or None if objects were not requested.

        Raises:
            ConfigError: the package that finds objects is not installed.
            InputError: see :meth:`write_mask`; or the image's file was changed while it was read.
            WriteError: see :meth:`write_mask`.
        """
        beside = Beside() if beside is None else beside
        if beside.has_objects:
            check_separable(self.split)  # raises an error before any work is done
        ranges.look_at(source, self.networks, self.intensity_range)
        mask = by_rows.begun(source, target, self.config, settings, lambda: self.grid(source))
        tell(mask.done)
        with in_memory(InputError, _SMALLER):
            for strip in self.strips(source, mask.grid, first=mask.grid.down.window_at(mask.done)):
                part = mask_of(strip.probabilities[: self.config.num_classes], self.config.task, self.thresholds)
                mask.put(by_rows.kept(part, strip, self.config), missing=strip.missing is not None)
                tell(mask.done)
        source.check_unchanged()
        if self.smallest > 1:
            objects_by_rows.clean(mask, self.config, self.smallest)
        count, others = beside.write(mask, source, self.config, self.split)
        mark = None if mark is None else replace(mark, others={**mark.others, **others})
        place = *source.place, *nodata_tag(self.config, mask.missing)
        by_rows.write(mask, target, self.config, place, mark, source.mpp)
        return count

    def result(self, image: LoadedImage, probabilities: Tensor, missing: Tensor | None) -> Prediction:
        """Return the prediction for probabilities (channels, H, W), cleaned as ``smallest`` and ``holes`` say."""
        classes = self.config.num_classes
        edges = probabilities[classes] if len(probabilities) > classes else None
        probabilities = probabilities[:classes]
        mask = mask_of(probabilities, self.config.task, self.thresholds)
        if self.smallest or self.holes:
            mask = objects.cleaned(
                mask, self.config.pixel_task, self.config.num_classes, smallest=self.smallest, holes=self.holes
            )
            mask = mask if missing is None else mask.masked_fill(missing, 0)  # a gap in an object looks like a hole
        said = probabilities, mask, image.image, self.config
        lies = image.scale, image.mpp
        return Prediction(*said, image.name, image.place, missing, image.header, edges, self.split, *lies)

    def strips(
        self, source: Rows, grid: Grid, first: int = 0, tick: Callable[[], object] | None = None
    ) -> Iterator[Strip]:
        """Give the probabilities of an image in strips, from top to bottom, in the memory of a row of tiles.

        A GPU needs the memory of two batches of tiles: one is computed while the results of the other are fetched.

        Args:
            source: gives the image by rows.
            grid: grid of this image, from :meth:`grid`.
            first: the row of tiles to begin with; rows above it are left out.
            tick: called after each tile.

        Raises:
            InputError: the image does not fit the model, or its values overflow in it.
            WeightsError: the model has weights that are not finite.
        """
        at_once = self.layout.tiles_at_once(grid, self.device)
        source = ranges.ranged(source, self.intensity_range)
        return strips(self.networks, source, grid, Transfer(self.device), first=first, at_once=at_once, tick=tick)

    def settings(self) -> dict[str, Any]:
        """Return everything that masks and objects depend on, for JSON: arguments, and a digest of the weights."""
        return {
            "models": [member.config.name for member in self.networks.members],
            "weights": self.networks.digest()[:16],
            "tile": self.layout.tile,
            "overlap": self.layout.overlap,
            "blend": self.layout.blend,
            "tta": self.tta,
            "scales": self.scales,
            "merge": self.networks.merge,
            "thresholds": list(self.thresholds),
            "smallest": self.smallest,
            "holes": self.holes,
            "split": self.split,
            "dtype": str(self.networks.members[0].dtype),
            "intensity_range": self.intensity_range,
        }

    def __repr__(self) -> str:
        return f"Predictor({', '.join(self.networks.names)}; task={self.config.task!r}, device={str(self.device)!r})"

    def grid(self, source: Rows) -> Grid:
        """Return the tiles of an image; with ``tile="auto"`` they depend on the free memory, except for slides."""
        with in_memory(InputError, _SMALLER):  # this runs a network once, to measure its memory
            return self.layout.grid(source.height, source.width, self.device, of_slide=source.scale is not None)

    def _batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        import numpy as np

        if "image" not in batch:
            raise InputError(f"a batch needs 'image'; it has {', '.join(map(repr, batch)) or 'nothing'}")
        with told_together():
            masks = [self._one(image).mask.numpy() for image in batch["image"]]
        alike = len({mask.shape for mask in masks}) == 1
        joined: Any = np.stack(masks) if alike else np.empty(len(masks), dtype=object)
        if not alike:
            joined[:] = masks
        return {**batch, "mask": joined}

    def __getstate__(self) -> dict[str, Any]:
        # The process that loads it may not have this device.
        networks = copy.copy(self.networks)
        networks.members = tuple(copy.deepcopy(member).cpu() for member in networks.members)
        return {**self.__dict__, "networks": networks, "device": torch.device("cpu")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        device = device_of(self._asked)  # this may be another machine
        if device != self.device:
            self.device = device
            for member in self.networks.members:
                member.to(device)


_SMALLER = (
    "give a smaller tile, such as tile=512, or dtype=torch.bfloat16 (in Python also batch_size=1); or save the image "
    "as TIFF or zarr, for which 'unetzoo predict' and write_mask can write masks by rows"
)
"""The fix when memory is too small for an image."""
