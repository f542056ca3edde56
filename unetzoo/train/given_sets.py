"""The user's own data sets in ``unetzoo.fit``: written once, as a folder that is used for training like any other.

They are therefore checked, split, listed and resumed like all data, whatever random draws, downloads or caches they
contain, and the run records on which pixels it was trained.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from unetzoo import images
from unetzoo.errors import ConfigError, UnetzooError
from unetzoo.images.bands import write_bands
from unetzoo.prediction.inputs import as_image
from unetzoo.saving.folds import fold_folder, folds_in
from unetzoo.train.runs import CONFIG

MASKS = ("mask", "target", "label")
"""Possible keys of the mask in items that are mappings."""
SPLITS = ("train", "val")


def is_set(data: object) -> bool:
    """Return whether something is a map-style data set: it has a length and items, and is not a path or a list."""
    plain = isinstance(data, str | bytes | Mapping | Sequence)
    return not plain and hasattr(data, "__len__") and hasattr(data, "__getitem__")


def is_given(data: object) -> bool:
    """Return whether something is a data set, or a tuple of two, for training and validation."""
    return is_set(data) or (isinstance(data, tuple) and len(data) == len(SPLITS) and all(map(is_set, data)))


def write_given(
    data: Any, folder: Path, *, task: str | None, ignore: int | None, class_names: Sequence[str] | None
) -> Path:
    """Write a data set, or two, as a folder of images and masks, and return it.

    Args:
        data: map-style: items (image, mask), or mappings with "image" and one of :data:`MASKS`. Images as
            ``unetzoo.Predictor`` takes them: arrays (H, W) or (H, W, C), tensors (C, H, W), PIL images, paths. Masks
            are integer arrays or tensors: (H, W) of 0 and 1, of class indices, or of object numbers
            (``task="instances"``); (classes, H, W) of 0 and 1 for ``task="multilabel"``. A tuple is (train, val).
        folder: a new one.
        task: of the masks.
        ignore: value that is written where the mask is negative; such pixels do not count.
        class_names: of multi-label masks; None: "class_0", "class_1", …

    Raises:
        ConfigError: the folder exists already, or an item is wrong; nothing is left behind then.
        WriteError: it cannot be written.
    """
    if folder.exists():
        raise ConfigError(_there(folder))
    sets = dict(zip(SPLITS, data, strict=True)) if isinstance(data, tuple) else {"": data}
    try:
        for split, one in sets.items():
            for i in range(len(one)):
                try:
                    image, mask = _pair(one[i])
                    _write(image, mask, folder / split, f"{i:06}", task, ignore, class_names)
                except UnetzooError as error:
                    raise ConfigError(f"data: item {i}{f' of {split}' if split else ''}: {error}") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


@contextlib.contextmanager
def beside(data: Any, out: Path, **how: Any) -> Iterator[Path]:
    """Write a data set next to a future run, yield its folder, and remove it if no training begins on it.

    The folder is ``<out>-data``. If that exists, it may be the user's or another run's and is kept: the folder is then
    ``<out>-data-2`` and so on; or one of the earlier ones, if it contains the same files.

    Args:
        data: as :func:`write_given` takes it.
        out: folder of the run.
        **how: as :func:`write_given` takes it.

    Raises:
        ConfigError: as :func:`write_given`; or existing folds have other data.
        WriteError: it cannot be written.
    """
    names = (Path(f"{out}-data{'' if k == 1 else f'-{k}'}") for k in itertools.count(1))
    before = list(itertools.takewhile(os.path.lexists, names))
    folder = Path(f"{out}-data{f'-{len(before) + 1}' if before else ''}")
    write_given(data, folder, **how)
    try:
        found = next((one for one in before if _are_alike(one, folder)), folder)
        if found == folder and before and folds_in(out):
            raise ConfigError(_there(before[0]))  # all folds need the same pixels
        yield found
    finally:
        if not _is_trained_on(folder, out):
            shutil.rmtree(folder, ignore_errors=True)


def _is_trained_on(folder: Path, out: Path) -> bool:
    """Return whether a run, or a fold of it, has begun on the data in a folder."""
    for path in (out / CONFIG, *(fold_folder(out, fold) / CONFIG for fold in folds_in(out))):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
            if yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["folder"] == str(folder):
                return True
    return False


def _there(folder: Path) -> str:
    return (
        f"{folder}, where the data set would be written, exists already: give another out=…, or pass that folder as "
        "data=…"
    )


def _are_alike(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files, to the byte."""
    files = [sorted(path.relative_to(home) for path in home.rglob("*") if path.is_file()) for home in (one, other)]
    return files[0] == files[1] and all(filecmp.cmp(one / path, other / path, shallow=False) for path in files[0])


def _pair(item: Any) -> tuple[Any, Tensor]:
    """Return image and mask of an item."""
    if isinstance(item, Mapping):
        name = next((name for name in MASKS if name in item), None)
        if "image" not in item or name is None:
            raise ConfigError(f"it has {', '.join(map(repr, item))}: 'image' and one of {', '.join(MASKS)} are needed")
        image, mask = item["image"], item[name]
    elif isinstance(item, tuple | list) and len(item) == 2:
        image, mask = item
    else:
        raise ConfigError(f"a {type(item).__name__}: (image, mask) is needed, or a mapping with both")
    mask = _tensor(mask)
    if mask.is_floating_point() or mask.is_complex():
        raise ConfigError(f"a mask of {mask.dtype}: integers or bool are needed")
    return image, mask.long()


def _tensor(mask: Any) -> Tensor:
    """Return a mask that is a tensor, an array or a PIL image."""
    if isinstance(mask, Tensor):
        return mask.detach().cpu()
    if type(mask).__module__.partition(".")[0] == "PIL":
        if mask.mode == "P":  # the indices are the classes; the colours are only for viewing
            return torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8).reshape(mask.height, mask.width)
        return images.from_pil(mask).pixels
    try:
        return torch.as_tensor(mask.copy())  # a view of another array may have negative strides
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"a mask of type {type(mask).__name__}: an array, a tensor or a PIL image is needed"
        ) from error


def _write(
    image: Any, mask: Tensor, folder: Path, name: str, task: str | None, ignore: int | None, names: Sequence[str] | None
) -> None:
    loaded = as_image(image)
    if mask.ndim == 3 and len(mask) == 1 and task != "multilabel":
        mask = mask[0]
    pixels = loaded.image[:-1] if loaded.alpha else loaded.image
    wanted = (*mask.shape[: mask.ndim - 2], *pixels.shape[1:])
    if mask.ndim != (3 if task == "multilabel" else 2) or mask.shape != wanted:
        raise ConfigError(f"a mask of shape {tuple(mask.shape)} for an image of {tuple(pixels.shape)}, task={task!r}")
    if bool((mask < 0).any()):
        if ignore is None:
            raise ConfigError(
                "its mask has negative values, which do not count: give the value to write for them, such as ignore=255"
            )
        mask = torch.where(mask < 0, ignore, mask)
    if pixels.dtype == torch.uint8 and len(pixels) in (1, 3):
        images.write_png(pixels[0] if len(pixels) == 1 else pixels, folder / "images" / f"{name}.png")
    else:
        write_bands(pixels, folder / "images" / f"{name}.tif", None)
    if task == "multilabel":
        for k, plane in enumerate(mask):
            title = f"class_{k}" if names is None else names[k]
            images.write_png(_stored(plane, ignore, white=True), folder / "masks" / title / f"{name}.png")
    else:
        images.write_png(_stored(mask, ignore, white=task in (None, "binary")), folder / "masks" / f"{name}.png")


def _stored(mask: Tensor, ignore: int | None, *, white: bool) -> Tensor:
    """Return a mask as it is written to its file: foreground is 255 in black-and-white masks."""
    kept = torch.full_like(mask, True, dtype=torch.bool) if ignore is None else mask != ignore
    if white:
        if bool((mask[kept] > 1).any()):
            fix = "task='multiclass' takes more classes, and task='instances' takes object numbers"
            raise ConfigError(f"its mask has the value {int(mask[kept].max())}, but 0 and 1 are needed; {fix}")
        mask = torch.where(kept, 255 * mask, mask)
    if int(mask.max()) > 65535:
        raise ConfigError(f"its mask has the value {int(mask.max())}: at most 65535 can be written")
    return mask.to(torch.uint8 if int(mask.max()) <= 255 else torch.uint16)
