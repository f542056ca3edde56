"""Packages that only some of this package needs: imported where they are used, and named where they are missing."""

from __future__ import annotations

from importlib import import_module
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
        module: dotted, such as "scipy.ndimage".
        purpose: what needs it, the subject of the message: "objects", "a plot".
        extra: of unetzoo; None: the one in :data:`EXTRAS`.
        error: what is raised where it is missing.

    Raises:
        ConfigError: it is not installed; or ``error``.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name is None or problem.name.partition(".")[0] == "unetzoo":
            raise  # a fault of ours, and no extra that is missing
        raise error(
            f"{purpose}: {problem.name} is needed; pip install 'unetzoo[{extra or EXTRAS[package]}]'"
        ) from problem
