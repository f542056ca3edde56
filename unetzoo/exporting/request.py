"""What an export is asked for, checked before any work is done."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from unetzoo.errors import ConfigError
from unetzoo.exporting.pictures import Pictures, find_pictures
from unetzoo.folding import OptimizedModel
from unetzoo.model import SegmentationModel
from unetzoo.registry import suggest

FORMATS = {".aoti.pt2": "aoti", ".onnx": "onnx", ".pt2": "pt2"}
"""Ending of the file → format; the longest ending first."""
PRECISIONS = {
    "onnx": ("float32", "float16", "int8"),  # onnxruntime has no convolution in bfloat16 for processors
    "pt2": ("float32", "bfloat16", "float16"),
    "aoti": ("float32", "bfloat16"),
}
INPUTS = ("normalised", "uint8", "uint16")
OUTPUTS = ("logits", "probabilities", "mask")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What the extra ``export`` installs."""
ONNX_BYTES = 2**31 - 2**24
"""Weights that one ONNX file holds: protobuf ends at 2 GiB, and the graph needs some of it."""
MASK_CLASSES = 256
_FREE_SIZES_SINCE = (2, 14)


@dataclass(frozen=True)
class Request:
    """An export that can be done.

    Attributes:
        model: as given.
        path: of the file to write.
        format: "onnx", "pt2" or "aoti".
        inputs, outputs, precision: as given.
        size: height and width, None where they stay free.
        least: smallest height and width where they stay free.
    """

    model: SegmentationModel
    path: Path
    format: str
    inputs: str
    outputs: str
    precision: str
    size: tuple[int, int] | None
    least: int

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width of the images with which the network is traced: different, and no special case."""
        return self.size or (2 * self.least + 4, 3 * self.least - 6)

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any]]:
        """What stays free, as ``torch.export.export`` takes it."""
        if self.size is not None:
            return ({0: Dim("batch")},)
        return ({0: Dim("batch"), 2: Dim("height", min=self.least), 3: Dim("width", min=self.least)},)


def check(
    model: object,
    path: str | os.PathLike[str],
    *,
    inputs: str,
    outputs: str,
    precision: str,
    size: Sequence[int] | None,
    pictures: Pictures | None,
) -> tuple[Request, list[Path]]:
    """Return the request, and the paths of its pictures.

    Raises:
        ConfigError: lists all that is wrong.
    """
    ending = next((ending for ending in FORMATS if os.fspath(path).endswith(ending)), None)
    form = None if ending is None else FORMATS[ending]
    files, problems = find_pictures(pictures)
    problems = [
        *_model_problems(model),
        *_path_problems(path),
        *_choice_problems("inputs", inputs, INPUTS),
        *_choice_problems("outputs", outputs, OUTPUTS),
        *_precision_problems(precision, form),
        *_size_problems(model, size),
        *([] if form is None else _machine_problems(form, size)),
        *problems,
    ]
    if precision == "int8" and pictures is None:
        problems.append("precision='int8' needs pictures=: a folder, or a list, of some like those it will see")
    if isinstance(model, SegmentationModel):
        problems += _fit_problems(model, form, outputs, precision)
    if problems:
        raise ConfigError(f"cannot export to {os.fspath(path)!r}", problems)
    assert isinstance(model, SegmentationModel)
    assert form is not None
    fixed = None if size is None else (size[0], size[1])
    least = max(model.encoder.strides) + 1  # so that the deepest map has more than one pixel: torch sees one apart
    return Request(model, Path(path), form, inputs, outputs, precision, fixed, least), files


def _model_problems(model: object) -> list[str]:
    if isinstance(model, SegmentationModel):
        return []
    if isinstance(model, OptimizedModel):
        return ["this copy is optimized already, which export() does itself: give the model that it was made from"]
    return [f"a SegmentationModel is needed, from unetzoo.create() or load(), not {type(model).__name__}"]


def _path_problems(path: str | os.PathLike[str]) -> Iterator[str]:
    name, folder = Path(path).name, Path(path).absolute().parent
    if not any(name.endswith(ending) for ending in FORMATS):
        mend = "; TorchScript is not written: take .pt2" if name.endswith((".pt", ".pth", ".ts")) else ""
        yield f"{name!r}: a name that ends in .onnx, .pt2 or .aoti.pt2 is needed, which says the format{mend}"
    if Path(path).is_dir():
        yield f"{str(path)!r} is a folder: give the name of a file"
    elif not folder.is_dir():
        yield f"there is no folder {str(folder)!r}: make it first"
    elif not os.access(folder, os.W_OK):
        yield f"the folder {str(folder)!r} cannot be written: mend its permissions, or take another"


def _choice_problems(name: str, value: object, known: Sequence[str]) -> list[str]:
    if value in known:
        return []
    return [f"{name}={value!r}: one of {', '.join(map(repr, known))} is needed{suggest(str(value), known)}"]


def _precision_problems(precision: object, form: str | None) -> list[str]:
    known = list(dict.fromkeys(name for names in PRECISIONS.values() for name in names))
    if form is None or precision not in known:
        return _choice_problems("precision", precision, known if form is None else PRECISIONS[form])
    if precision in PRECISIONS[form]:
        return []
    able = [ending for ending, name in FORMATS.items() if precision in PRECISIONS[name]]
    others = f"files that end in {' or '.join(able)} have it"
    return [f"precision={precision!r} is not for this format, which has {', '.join(PRECISIONS[form])}; {others}"]


def _size_problems(model: object, size: object) -> Iterator[str]:
    border = model.decoder.border if isinstance(model, SegmentationModel) else 0
    if size is None:
        if border and isinstance(model, SegmentationModel):
            least = model.decoder.input_side(1)
            yield f"{model.config.decoder} is exported at one size: give size=({least}, {least}), or larger"
        return
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else ()
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        yield f"size={size!r}: height and width are needed, two whole numbers from 1 up"
    elif isinstance(model, SegmentationModel) and model.decoder.size_problem(*sides) is not None:
        valid = tuple(model.decoder.input_side(max(1, side - 2 * border)) for side in sides)
        yield f"size={sides}: {model.config.decoder} does not take it; size={valid} is the next that it takes"


def _machine_problems(form: str, size: object) -> Iterator[str]:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None] if form == "onnx" else []
    if missing:
        yield f".onnx needs {' and '.join(missing)}: pip install 'unetzoo[export]'"
    if size is None and tuple(map(int, torch.__version__.split(".")[:2])) < _FREE_SIZES_SINCE:
        yield f"torch {torch.__version__} exports one size only: give size=(height, width), or install torch>=2.14"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if form == "aoti" and shutil.which(compiler) is None:
        yield f".aoti.pt2 needs a C++ compiler, and there is no {compiler}: install it, or name another in CXX"


def _fit_problems(model: SegmentationModel, form: str | None, outputs: str, precision: str) -> Iterator[str]:
    config = model.config
    if outputs == "mask" and config.task == "multiclass" and config.num_classes > MASK_CLASSES:
        yield f"outputs='mask' is uint8, too small for {config.num_classes} classes: take 'logits' or 'probabilities'"
    weights = sum(parameter.numel() for parameter in model.parameters()) * (2 if precision == "float16" else 4)
    if form == "onnx" and weights > ONNX_BYTES:
        yield f"{weights / 1e9:.1f} GB of weights: an .onnx file ends at 2 GiB; take .pt2"
