"""A picture of any size in, a mask of the same size out."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from unetzoo import objects
from unetzoo.devices import device_of
from unetzoo.errors import ConfigError, InputError
from unetzoo.objects.components import ndimage
from unetzoo.prediction.inputs import Picture, Rows, as_picture
from unetzoo.prediction.networks import MERGES, Model, Networks, check_channels, check_range, cut_out, gathered
from unetzoo.prediction.reach import available_memory, memory_of_pixel, reach
from unetzoo.prediction.results import Prediction, mask_of
from unetzoo.prediction.tiles import BLENDS, Axis, lay_out, mirrored, rounded_up
from unetzoo.prediction.views import VIEWS, views
from unetzoo.registry import suggest

LARGEST_TILE = 1024
"""Side that ``tile="auto"`` takes where the whole picture does not fit: larger ones are hardly faster."""
SHARE = 0.5
"""Of the memory that is free, for a network's maps: convolutions need some to work in as well."""


class Predictor:
    """Segments pictures with a trained model, or the average of several.

    A picture is fitted to the model as its training saw it (``unetzoo.images.prepare``), mirrored at its right and
    lower end to a multiple of the network's stride, segmented whole or in overlapping tiles, and what came of the
    mirrored part is cut off. With ``overlap="full"`` the tiles give what the whole picture gives, to rounding. What
    looks at a whole picture (group and instance norm, the classification-guided module) sees a tile instead.

    Predictors can be pickled, and called from several processes, each with its own copy.

    Args:
        model: what ``from_pretrained`` takes: a ``.safetensors`` file, the folder of a run, "nuclei", a repository of
            the Hugging Face Hub; or a model; or a list of them, of the same task and classes, whose answers are
            averaged.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps", …
        tile: side of the square windows in pixels, overlap included; rounded up to a multiple of the stride. None: the
            whole picture at once. "auto": the whole picture where it fits in half of the free memory, else 1024 or
            what fits; where several processes share a machine, a number is safer.
        overlap: of neighbouring tiles: a share of their side, below 1; pixels; or "full": twice as far as the network
            looks, 94 pixels for ``unet`` and some 300 for ``resunet34``.
        blend: how overlapping tiles are joined: "gaussian", "linear", or "crop" (each pixel from the tile in whose
            middle it lies best). None: "crop" with the full overlap, else "gaussian".
        tta: test-time augmentation: "none", "flips" (the average of 4 views) or "d4" (of all 8 symmetries of a square).
        scales: of the views, such as ``(0.75, 1, 1.25)``.
        merge: what is averaged over tiles, views and models: "probabilities" or "logits".
        threshold: of probabilities, for all classes or each, or the file of them that ``unetzoo calibrate`` wrote; 0.5
            by default. Not for multi-class models, whose mask is the likeliest class.
        smallest, holes: objects of fewer pixels are left out of masks, and holes of up to so many filled, or "all"; see
            ``unetzoo.objects.cleaned``. Needs SciPy.
        dtype: to compute in. None: float32 for what is loaded, whatever it is kept in; a model's own for a model.
            ``torch.bfloat16`` is faster where the machine has it, see ``optimize``.
        batch_size: tiles at a time; None: 1 on the CPU, where more are no faster, else as many as fit, up to 16.

    Attributes:
        config: of the (first) model: classes, channels, normalisation.

    Raises:
        ConfigError: lists all that is wrong with the arguments; or models that do not go together.
        WeightsError: a model cannot be loaded.
        HubError: or not be fetched.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        *,
        device: str | torch.device = "auto",
        tile: int | str | None = "auto",
        overlap: float | int | str = 0.25,
        blend: str | None = None,
        tta: str = "none",
        scales: Sequence[float] = (1.0,),
        merge: str = "probabilities",
        threshold: float | Sequence[float] | str | os.PathLike[str] | None = None,
        smallest: int = 0,
        holes: int | Literal["all"] = 0,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
    ) -> None:
        problems = _problems(tile, overlap, blend, tta, scales, merge, smallest, holes, batch_size)
        if problems:
            raise ConfigError("cannot predict so", problems)
        self._asked = device
        self.device = device_of(device)
        members = gathered(model, self.device, dtype)
        self.networks = Networks(members, views(tta, tuple(map(float, scales))), merge)
        self.config = self.networks.config
        self.thresholds = _thresholds(threshold, self.config.task, self.config.num_classes)
        self.tile, self.overlap, self.batch_size = tile, overlap, batch_size
        self.tta, self.scales = tta, list(map(float, scales))
        self.blend = blend or ("crop" if overlap == "full" else "gaussian")
        self.smallest, self.holes = smallest, holes
        self._reach: int | None = None
        if overlap == "full":
            self._reach = self._full_reach()
            if type(tile) is int:
                self._overlap(tile)
        if smallest or holes:
            ndimage()  # or an error, before any work
        self._memory = max(memory_of_pixel(member.config) for member in members)

    @overload
    def __call__(self, source: list[Any], progress: bool = False) -> list[Prediction]: ...
    @overload
    def __call__(self, source: Mapping[str, Any], progress: bool = False) -> dict[str, Any]: ...
    @overload
    def __call__(self, source: Any, progress: bool = False) -> Prediction: ...
    def __call__(self, source: Any, progress: bool = False) -> Prediction | list[Prediction] | dict[str, Any]:
        """Segment a picture, or a list of them.

        Args:
            source: the path of a picture; an array (H, W) or (H, W, C); a tensor (C, H, W) or (H, W); a PIL image.
                Integers of 8, 16 or 32 bits are divided by the largest value of their type; floating point is taken as
                it is, as in training. A list of these gives a list. A dictionary with "image", an array (N, H, W, C)
                or a sequence of pictures, gives the same dictionary with "mask", as ``map_batches`` of Ray Data
                passes them; a picture that does not fit is an error for all of them.
            progress: show a bar.

        Raises:
            InputError: a picture that cannot be read, or does not fit the model.
        """
        if isinstance(source, Mapping):
            return self._batch(source)
        if isinstance(source, list):
            return [self._one(item, progress) for item in source]
        return self._one(source, progress)

    def _one(self, source: Any, progress: bool = False) -> Prediction:
        picture = as_picture(source)
        check_channels(picture.image, self.config)
        check_range(picture.image, self.config)
        with _bar(progress, self._plan(picture), "tile") as tick:
            strips = [strip for _, strip in self.strips(picture, tick=tick)]
        probabilities = strips[0] if len(strips) == 1 else torch.cat(strips, dim=1)
        return self.result(picture, probabilities)

    def write_mask(
        self, source: str | os.PathLike[str], target: str | os.PathLike[str], *, progress: bool = False
    ) -> None:
        """Segment a picture beyond memory into a file: read by rows, and written by rows.

        The mask grows in a folder beside ``target``. After a kill the same call goes on behind its last finished row of
        tiles; with another model, picture or other tiles it begins anew.

        Args:
            source: a .tif or .tiff file, of a pyramid the largest level; a .zarr array (H, W), (H, W, C) or (C, H, W),
                or OME-Zarr. Extra ``big``.
            target: a .tif, .tiff or .zarr: (H, W) uint8, of a multi-label model (classes, H, W); 0 and 255, or indices
                of classes. A GeoTIFF's place on the globe is kept.
            progress: show a bar.

        Raises:
            ConfigError: tifffile or zarr is not installed, or this predictor has ``smallest`` or ``holes``: objects
                are not looked for across rows.
            InputError: the picture cannot be read so, or does not fit the model; another ending of ``target``. Nothing
                was written.
            WeightsError: the mask cannot be written; what is done is kept.
        """
        from unetzoo.prediction import by_rows

        if self.smallest or self.holes:
            raise ConfigError(
                f"a mask by rows has no smallest={self.smallest!r} or holes={self.holes!r}: leave them out, and clean "
                "the mask with unetzoo.objects.cleaned where it fits in memory"
            )
        with by_rows.StoredRows(source) as rows, _bar(progress, rows.height, "row") as bar:
            settings = {**self.settings(), "picture": str(Path(source).resolve())}
            done = 0

            def tell(finished: int) -> None:
                nonlocal done
                bar(finished - done)
                done = finished

            by_rows.write_mask_by_rows(self, rows, target, settings, tell)

    def result(self, picture: Picture, probabilities: Tensor) -> Prediction:
        """Return what probabilities (classes, H, W) amount to, cleaned as ``smallest`` and ``holes`` say."""
        mask = mask_of(probabilities, self.config.task, self.thresholds)
        if self.smallest or self.holes:
            mask = objects.cleaned(
                mask, self.config.task, self.config.num_classes, smallest=self.smallest, holes=self.holes
            )
        return Prediction(probabilities, mask, picture.image, self.config, picture.name, picture.place)

    def strips(
        self, source: Rows, first: int = 0, tick: Callable[[], object] | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Give the probabilities of a picture in strips, from top to bottom, in the memory of a row of tiles.

        Args:
            source: gives the picture by rows.
            first: the tile row to begin with, see ``grid``; what is above it is not given.
            tick: is called after each tile.

        Yields:
            The first row of the strip, and (classes, rows, W) float32 on the CPU.

        Raises:
            InputError: the picture does not fit the model.
        """
        check_channels(source.rows(0, 1), self.config)
        down, across = self.grid(source)
        # Rows of the tile above reach into the first one.
        begin = next(k for k in range(len(down.starts)) if down.starts[k] + down.window > down.starts[first])
        total = torch.zeros(self.config.num_classes, down.window, across.starts[-1] + across.window)
        total = total.to(self.device)
        for k in range(begin, len(down.starts)):
            self._add(total, source, down, k, across, tick)
            top = down.starts[k]
            done = (down.starts[k + 1] if k + 1 < len(down.starts) else source.height) - top
            if k >= first:
                strip = total[:, :done, : source.width]
                yield top, (self.networks.activated(strip) if self.networks.merge == "logits" else strip).cpu().clone()
            kept = total[:, done:].clone()
            total.zero_()[:, : kept.shape[1]] = kept

    def settings(self) -> dict[str, Any]:
        """Return, JSON-able, all that masks depend on: arguments, and a digest of the weights."""
        return {
            "models": [member.config.name for member in self.networks.members],
            "weights": self.networks.digest()[:16],
            "tile": self.tile,
            "overlap": self.overlap,
            "blend": self.blend,
            "tta": self.tta,
            "scales": self.scales,
            "merge": self.networks.merge,
            "thresholds": list(self.thresholds),
            "smallest": self.smallest,
            "holes": self.holes,
            "dtype": str(self.networks.members[0].dtype),
        }

    def grid(self, source: Rows) -> tuple[Axis, Axis]:
        """Return how the tiles of a picture lie down its rows and across its columns."""
        unit = self.networks.unit
        window = self._window(source.height, source.width)
        overlap = 0 if window is None else self._overlap(window)
        down, across = (lay_out(side, window, overlap, unit, self.blend) for side in (source.height, source.width))
        return down, across

    def _add(
        self, total: Tensor, source: Rows, down: Axis, k: int, across: Axis, tick: Callable[[], object] | None
    ) -> None:
        """Add what row ``k`` of tiles says to ``total``, whose first row is the tiles' first."""
        networks = self.networks
        band = self._band(source, down.starts[k] - networks.border, networks.shown(down.window))
        rows, _ = down.parts(k)
        weight = down.weights[k][rows].to(self.device)[:, None]
        size = self._tiles_at_once(down.window * across.window)
        for begin in range(0, len(across.starts), size):
            chosen = range(begin, min(begin + size, len(across.starts)))
            cuts = [cut_out(band, across.starts[n] - networks.border, networks.shown(across.window)) for n in chosen]
            with torch.inference_mode():
                said = networks(torch.stack(cuts).to(self.device), down.window, across.window)
                for n, answer in zip(chosen, said, strict=True):
                    columns, place = across.parts(n)
                    weights = weight * across.weights[n][columns].to(self.device)
                    total[:, rows, place].add_(answer[:, rows, columns] * weights)
                    if tick is not None:
                        tick()

    @staticmethod
    def _band(source: Rows, first: int, count: int) -> Tensor:
        """Return rows of the picture, mirrored at its upper and lower end."""
        wanted = mirrored(first, count, source.height)
        low, high = int(wanted.min()), int(wanted.max()) + 1
        band = source.rows(low, high)
        if band.is_floating_point() and not bool(band.isfinite().all()):
            raise InputError(
                f"{source.name or 'the picture'} has values that are not finite (nan or inf): fill them first"
            )
        return band if count == high - low and bool((wanted.diff() == 1).all()) else band[:, wanted - low]

    def _window(self, height: int, width: int) -> int | None:
        if self.tile != "auto":
            assert not isinstance(self.tile, str)
            return self.tile
        unit = self.networks.unit
        each = self._memory * max(view.scale for view in self.networks.views) ** 2
        room = SHARE * available_memory(self.device) / each
        if rounded_up(height, unit) * rounded_up(width, unit) <= room:
            return None
        largest = LARGEST_TILE if self._reach is None else max(LARGEST_TILE, 8 * self._reach)
        return max(min(int(room**0.5) // unit * unit, largest), 2 * unit)

    def _overlap(self, window: int) -> int:
        """Return the overlap in pixels, a multiple of the stride, less than a window."""
        unit = self.networks.unit
        window = rounded_up(window, unit)
        if self._reach is not None:
            pixels = rounded_up(2 * self._reach, unit)
            if pixels >= window:
                raise ConfigError(
                    f"tile={window} with overlap='full': this network looks {self._reach} pixels far, so that tiles of "
                    f"{pixels + unit} pixels or more are needed, better of {rounded_up(4 * pixels, unit)}"
                )
            return pixels
        assert not isinstance(self.overlap, str)
        pixels = self.overlap if type(self.overlap) is int else round(self.overlap * window)
        return min(rounded_up(int(pixels), unit), window - unit)

    def _full_reach(self) -> int:
        if any(view.scale != 1 for view in self.networks.views):
            raise ConfigError("overlap='full' is exact with scales=(1,) alone: give pixels or a share")
        found = [reach(member.config) for member in self.networks.members]
        if None in found:
            name = self.networks.members[found.index(None)].config.name
            raise ConfigError(
                f"overlap='full': {name} looks at the whole picture (group or instance norm, or the classification-"
                "guided module), so that no overlap is full; give pixels or a share, or tile=None"
            )
        return max(value for value in found if value is not None)

    def _tiles_at_once(self, pixels: int) -> int:
        if self.batch_size is not None:
            return self.batch_size
        if self.device.type == "cpu":
            return 1
        return max(1, min(16, int(SHARE * available_memory(self.device) / (self._memory * pixels))))

    def _plan(self, picture: Picture) -> int:
        down, across = self.grid(picture)
        return len(down.starts) * len(across.starts)

    def _batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        import numpy as np

        if "image" not in batch:
            raise InputError(f"a batch needs 'image'; it has {', '.join(map(repr, batch)) or 'nothing'}")
        masks = [self._one(image).mask.numpy() for image in batch["image"]]
        alike = len({mask.shape for mask in masks}) == 1
        joined: Any = np.stack(masks) if alike else np.empty(len(masks), dtype=object)
        if not alike:
            joined[:] = masks
        return {**batch, "mask": joined}

    def __getstate__(self) -> dict[str, Any]:
        # Where it goes there may be no such device.
        networks = copy.copy(self.networks)
        networks.members = tuple(copy.deepcopy(member).cpu() for member in networks.members)
        return {**self.__dict__, "networks": networks, "device": torch.device("cpu")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        device = device_of(self._asked)  # another machine's, perhaps
        if device != self.device:
            self.device = device
            for member in self.networks.members:
                member.to(device)


def _problems(
    tile: object,
    overlap: object,
    blend: object,
    tta: object,
    scales: object,
    merge: object,
    smallest: object,
    holes: object,
    batch_size: object,
) -> list[str]:
    """Return a sentence for each argument that is wrong."""
    found = []
    if tile not in ("auto", None) and (type(tile) is not int or tile < 1):
        found.append(f"tile={tile!r}: pixels from 1 up, 'auto', or None for the whole picture")
    share = type(overlap) is float and 0 <= overlap < 1
    pixels = type(overlap) is int and overlap >= 0 and (type(tile) is not int or overlap < tile)
    if not (share or pixels or overlap == "full"):
        found.append(f"overlap={overlap!r}: a share from 0 to below 1, pixels fewer than the tile's, or 'full'")
    if blend is not None and blend not in BLENDS:
        found.append(_one_of("blend", blend, BLENDS))
    if overlap == "full" and blend not in (None, "crop"):
        found.append(f"blend={blend!r} with overlap='full': leave it out, as each pixel is then exact in one tile")
    if tta not in VIEWS:
        found.append(_one_of("tta", tta, VIEWS))
    if merge not in MERGES:
        found.append(_one_of("merge", merge, MERGES))
    if (
        not isinstance(scales, list | tuple)
        or not scales
        or not all(type(scale) in (int, float) and 0.1 <= scale <= 10 for scale in scales)
    ):
        found.append(f"scales={scales!r}: a list of numbers from 0.1 to 10 is needed")
    for name, value, word in (("smallest", smallest, None), ("holes", holes, "all")):
        if value != word and (type(value) is not int or value < 0):
            found.append(f"{name}={value!r}: pixels from 0 up are needed{'' if word is None else f', or {word!r}'}")
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        found.append(f"batch_size={batch_size!r}: a whole number from 1 up, or None")
    return found


def _one_of(name: str, given: object, known: Iterable[str]) -> str:
    return f"{name}={given!r}: one of {', '.join(map(repr, known))} is needed{suggest(str(given), known)}"


def _calibrated(path: str | os.PathLike[str]) -> list[float]:
    """Return the thresholds in a file that ``unetzoo calibrate`` wrote.

    Raises:
        ConfigError: there is no such file, or another one.
    """
    try:
        return [float(value) for value in json.loads(Path(path).read_text(encoding="utf-8"))["thresholds"]]
    except FileNotFoundError as error:
        raise ConfigError(f"threshold={path!s}: there is no such file; 'unetzoo calibrate' writes one") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"threshold={path!s}: not what 'unetzoo calibrate' writes ({type(error).__name__}: {error})"
        ) from error


def _thresholds(
    given: float | Sequence[float] | str | os.PathLike[str] | None, task: str, classes: int
) -> tuple[float, ...]:
    """Return a threshold a class.

    Raises:
        ConfigError: there is none for this task, another number of them, or they are no probabilities.
    """
    if given is None:
        return (0.5,) * classes
    if task == "multiclass":
        raise ConfigError(f"threshold={given!r}: the mask of a multi-class model is its likeliest class; leave it out")
    if isinstance(given, str | os.PathLike):
        given = _calibrated(given)
    listed = (given,) * classes if isinstance(given, int | float) else tuple(given)
    if len(listed) != classes:
        raise ConfigError(f"threshold: {len(listed)} numbers for {classes} classes: give one, or one a class")
    if not all(type(value) in (int, float) and 0 <= value < 1 for value in listed):
        raise ConfigError(f"threshold={given!r}: probabilities from 0 to below 1 are needed")
    return tuple(map(float, listed))


@contextlib.contextmanager
def _bar(shown: bool, count: int, unit: str) -> Iterator[Callable[..., object]]:
    if not shown:
        yield lambda *_: None
        return
    from huggingface_hub.utils.tqdm import tqdm

    with tqdm(total=count, unit=unit, leave=False) as bar:  # type: ignore[no-untyped-call]
        yield bar.update
