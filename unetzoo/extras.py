"""Optional packages: imported only where they are used, and named in an error where they are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from unetzoo.errors import ConfigError, UnetzooError

EXTRAS = {
    "bioimageio": "bioimageio",
    "gradio": "demo",
    "jsonargparse": "train",
    "matplotlib": "plot",
    "mlflow": "mlflow",
    "nibabel": "medical",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "openslide": "slides",
    "pydicom": "medical",
    "pytorch_lightning": "train",
    "roifile": "annotations",
    "scipy": "objects",
    "skimage": "objects",
    "tensorboard": "tensorboard",
    "tifffile": "tiff",
    "timm": "timm",
    "wandb": "wandb",
    "zarr": "big",
}
"""Package → the extra of unetzoo that installs it."""


def needed(module: str, purpose: str, *, extra: str | None = None, error: type[UnetzooError] = ConfigError) -> Any:
    """Import and return a module of an extra.

    Args:
        module: dotted name, such as "scipy.ndimage".
        purpose: what needs it, the subject of the message: "objects", "a plot".
        extra: the extra of unetzoo that installs it; None: the one in :data:`EXTRAS`.
        error: class of the exception to raise if it is missing.

    Raises:
        ConfigError: it is not installed; or an exception of class ``error``.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name is None or problem.name.partition(".")[0] == "unetzoo":
            raise  # our own fault, not a missing extra
        raise error(_said(purpose, [problem.name], extra or EXTRAS[package])) from problem


def check_installed(needs: Iterable[tuple[str, str]]) -> None:
    """Raise if any of these packages is missing. None of them is imported, as that can take seconds.

    Args:
        needs: packages of :data:`EXTRAS`, each with what needs it.

    Raises:
        ConfigError: lists those that are missing.
    """
    missing: dict[tuple[str, str], list[str]] = {}
    for package, what in needs:
        if find_spec(package) is None:
            missing.setdefault((what, EXTRAS[package]), []).append(package)
    problems = [_said(what, packages, extra) for (what, extra), packages in missing.items()]
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError("packages are missing", problems)


def _said(purpose: str, missing: Sequence[str], extra: str) -> str:
    """Return the message about missing packages."""
    *others, last = missing
    named = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    return f"{purpose}: {named} needed; pip install 'unetzoo[{extra}]'"
