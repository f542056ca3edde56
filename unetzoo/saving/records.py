"""Records of saved models: which files hold a model, the record in the file, and a line about it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from unetzoo import naming, trained
from unetzoo.config import CONFIG_KEY, ModelConfig
from unetzoo.errors import ConfigError, DamagedError, WeightsError
from unetzoo.files.checkpoints import SUFFIXES as CHECKPOINTS, CheckpointFile, read_contents
from unetzoo.files.finding import Contents, check_values
from unetzoo.files.packages import SUFFIX as PACKAGE, is_package, read_package
from unetzoo.files.tensors import DATA_DIGEST, LONGEST_HEADER, SUFFIX, TensorFile, check_file, kind_of, read_header
from unetzoo.foreign import smp
from unetzoo.foreign.loading import fitted, located, network_of
from unetzoo.model import SegmentationModel, build_on_meta
from unetzoo.printing import printable, some_of

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
"""Model of the best epoch, in the folder of a run."""
RUN_FILE, CHECKPOINT_FILE = "config.yaml", "last.ckpt"
"""Settings and last checkpoint of a run, in its folder."""
VERSION_KEY = "unetzoo_version"
PREFIX_KEY = "unetzoo_prefix"
"""Key of the prefix of the network's tensors in the checkpoint of a run, which also holds other tensors."""
ORIGIN_KEY = "unetzoo_origin"
"""Only in models from other programs' files: which program, and where its results differ."""
RUN_KEY = "recipe"
"""Key of the state that a run keeps in a checkpoint in order to continue."""
_STATE = "state_dict."
"""Prefix under which Lightning stores the tensors of all that is trained."""


@dataclass(frozen=True)
class SavedModel:
    """The record of the model in a file. ``str()`` is a line about it.

    Attributes:
        path: of the file.
        config: of the model.
        unetzoo_version: the version that wrote the file; empty if another program wrote it.
        sha256: of the bytes of its tensors, as recorded in the file.
        parameters: their number, without batch-norm statistics.
        bytes: size of the file.
        dtypes: of the floating-point tensors, such as ("float32",).
        origin: for a model from another program's file: which program, and where its results differ. Otherwise empty.
    """

    path: Path
    config: ModelConfig
    unetzoo_version: str
    sha256: str
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    origin: str = ""

    def __str__(self) -> str:
        classes = f"{self.config.num_classes} class{'es' * (self.config.num_classes > 1)}"
        if self.config.class_names:
            classes += f" ({', '.join(self.config.class_names)})"
        return printable(
            f"{self.path}: {self.config.name}, {self.config.in_channels} channels → {classes}, "
            f"{self.parameters:,} parameters in {', '.join(self.dtypes)}, {self.bytes / 1e6:.1f} MB, "
            f"{self._saved_by()}{f'; originally {self.origin}' if self.origin else ''}"
        )

    def _saved_by(self) -> str:
        return f"saved by unetzoo {self.unetzoo_version}" if self.unetzoo_version else "saved by another program"


def read_saved(path: str | os.PathLike[str]) -> SavedModel:
    """Return the record of the model in a file, without reading its tensors.

    Raises:
        WeightsError: the file is missing, or not a model of unetzoo.
    """
    file, config = read_record(path)
    return described(file, build_on_meta(config))


def is_saved_model(file: TensorFile | CheckpointFile) -> bool:
    """Return whether a file states which model it holds."""
    return CONFIG_KEY in file.metadata


def weights_of(path: Path) -> str | None:
    """Return the digest of its tensors that a model's file records; None for files that record none.

    Args:
        path: the model's file, or its folder.
    """
    file = (model_in(path) or path / MODEL_FILE) if path.is_dir() else path
    return read_header(file).metadata.get(DATA_DIGEST) if file.is_file() and file.suffix == SUFFIX else None


def read_config(path: Path) -> ModelConfig:
    """Return the record in a ``config.json``.

    Raises:
        WeightsError: the file is missing, or not the record of a model of unetzoo.
    """
    try:
        return ModelConfig.from_json(_text(path))
    except ValueError as error:  # ConfigError is one, and so is a failure to decode
        raise WeightsError(f"{path}: {error}") from error


def _text(path: Path) -> str:
    """Return the text of a file that is not longer than a model's record can be."""
    check_file(path)
    if path.stat().st_size > LONGEST_HEADER:
        raise WeightsError(f"{path} is longer than {LONGEST_HEADER:,} bytes, the most that a model's record may have")
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def model_in(folder: Path) -> Path | None:
    """Return the model's file in a folder that ``save_pretrained`` or ``unetzoo train`` wrote, or None."""
    return next((folder / name for name in (MODEL_FILE, BEST_FILE) if (folder / name).is_file()), None)


def without_model(folder: Path) -> str | None:
    """Return why a folder has no model, and the fix, if it is a run before its first epoch, or holds others; else None.

    Raises:
        OSError: the folder cannot be read.
    """
    if (folder / RUN_FILE).is_file():
        so_far = f"; the network so far is {folder / CHECKPOINT_FILE}" * (folder / CHECKPOINT_FILE).is_file()
        return f"the run in {folder} has finished no epoch yet: 'unetzoo train --resume {folder}' continues it{so_far}"
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and model_in(path) is not None]
    if inside:
        models = some_of([*map(str, inside)], quoted=False)
        held = "several models: give one of them," if len(inside) > 1 else "no model.safetensors itself: give"
        return f"the folder {folder} holds {held} {models}"
    return None


def read_record(
    path: str | os.PathLike[str], told: Collection[str] = ()
) -> tuple[TensorFile | CheckpointFile, ModelConfig]:
    """Return a file and the config in it; another program's file has a note, except on what ``told`` names."""
    path = Path(path)
    if str(path) in (*trained.names(), *naming.names()) and not path.exists():
        function, what = ("from_pretrained", "trained model of the package")
        if str(path) not in trained.names():
            function, what = ("create", "network of the zoo")
        raise WeightsError(f"there is no file {str(path)!r}; the {what} is unetzoo.{function}({str(path)!r})")
    if path.is_dir():
        path = model_in(path) or path / MODEL_FILE
        if not path.is_file():
            if (why := without_model(path.parent)) is not None:
                raise WeightsError(why)
            raise WeightsError(f"the folder {path.parent} holds no {MODEL_FILE} (unetzoo.save_pretrained writes one)")
    if is_package(path):
        file = read_package(path)
        file.check_header()
        return file, _config_in(file)
    kind = kind_of(path)
    if kind is None and path.suffix.lower() == PACKAGE and path.is_file():
        raise DamagedError(f"{path} is not a BioImage.IO package, or is damaged: fetch or export it again")
    if kind is None and path.suffix not in CHECKPOINTS:
        raise WeightsError(
            f"{path} is not a model file: {SUFFIX} is needed, or a checkpoint, as torch.save writes it "
            f"({', '.join(CHECKPOINTS)}), or a package that export wrote (.zip)"
        )
    if kind != "safetensors":
        contents = read_contents(path)
        return run_record(contents) or _foreign_record(contents, told)
    file = read_header(path)
    file.check_header()
    return (file, _config_in(file)) if is_saved_model(file) else _foreign_record(read_contents(path), told)


def run_record(contents: Contents) -> tuple[CheckpointFile, ModelConfig] | None:
    """Return, from a run's checkpoint such as ``last.ckpt``, the network that the run validates, and its config.

    That is the average of the weights if the run has one. None if it is not the checkpoint of a run.

    Raises:
        WeightsError: it is from a run of an earlier unetzoo, and does not state what it holds.
    """
    path = contents.path
    if CONFIG_KEY not in contents.text:
        if f"{RUN_KEY}.steps" in contents.others and f"{RUN_KEY}.losses" in contents.tensors:
            raise WeightsError(
                f"{path} is from a run of an earlier unetzoo, and does not state how its network reads images: use "
                f"{BEST_FILE} next to it"
            )
        return None
    own = contents.under(f"{_STATE}{contents.text.get(PREFIX_KEY, '')}")
    check_values(path, own)
    file = CheckpointFile(path, contents.text, own, path.stat().st_size)
    return file, _config_in(file)


def _config_in(file: TensorFile | CheckpointFile) -> ModelConfig:
    """Return the config in a file of this package."""
    try:
        return ModelConfig.from_json(file.metadata[CONFIG_KEY])
    except KeyError:
        raise WeightsError(f"{file.path} holds tensors, but does not state of which network") from None
    except ConfigError as error:
        raise WeightsError(f"{file.path}: {error}") from error


def _foreign_record(contents: Contents, told: Collection[str]) -> tuple[CheckpointFile, ModelConfig]:
    """Return the tensors that segmentation_models_pytorch wrote, under this package's names, and the network's config.

    Its models are loaded directly, as they state how images are normalised; those of other programs need ``convert``.
    """
    path = contents.path
    found = located(contents)
    if found is None or found.layout is not smp.LAYOUT:
        convert = f"unetzoo convert {path} {path.stem}{'_converted' * (path.suffix == SUFFIX)}{SUFFIX}"
        if found is not None:
            raise WeightsError(
                f"{path} holds {found.layout.title}, not a model of this package: '{convert}' converts it"
            )
        raise WeightsError(
            f"{path} holds tensors, but does not state of which model: '{convert} --model NAME' writes one that does, "
            "if they belong to a network of this package; an encoder alone goes to create(..., pretrained=path)"
        )
    model, renamed, note = fitted(found, network_of(path, found.layout, found.place.state), {}, told)
    metadata = {ORIGIN_KEY: model.origin, VERSION_KEY: ""}
    return CheckpointFile(path, metadata, renamed, path.stat().st_size, note), model.config


def described(file: TensorFile | CheckpointFile, model: SegmentationModel) -> SavedModel:
    """Return the record of ``file``; ``model`` may be on meta."""
    dtypes = {entry.dtype for entry in file.entries.values() if entry.dtype.is_floating_point}
    return SavedModel(
        path=file.path,
        config=model.config,
        unetzoo_version=file.metadata.get(VERSION_KEY, "?"),
        sha256=file.metadata.get(DATA_DIGEST, "?"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=file.size,
        dtypes=tuple(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
        origin=file.metadata.get(ORIGIN_KEY, ""),
    )
