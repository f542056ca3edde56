"""The arguments of an export, checked before any work is done."""

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

from unetzoo.checks import one_of
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError
from unetzoo.exporting import qgis
from unetzoo.exporting.about import About
from unetzoo.exporting.qgis import Qgis
from unetzoo.folding import OptimizedModel
from unetzoo.images import IMAGE_SUFFIXES
from unetzoo.model import SegmentationModel
from unetzoo.prediction.networks import check_alike
from unetzoo.registry import suggest

FORMATS = {".aoti.pt2": "aoti", ".onnx": "onnx", ".pt2": "pt2", ".zip": "bioimageio"}
"""Ending of the file → format; the longest ending first."""
_ENDINGS = ".onnx, .pt2, .aoti.pt2 or .zip"
PRECISIONS = {
    "onnx": ("float32", "float16", "int8"),  # onnxruntime has no convolution in bfloat16 for processors
    "pt2": ("float32", "bfloat16", "float16"),
    "aoti": ("float32", "bfloat16"),
    "bioimageio": ("float32",),
}
INTEGERS = ("uint8", "uint16", "int16")
INPUTS = ("normalised", *INTEGERS)
OUTPUTS = ("logits", "probabilities", "mask")
CONSUMERS = ("qgis",)
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What the extra ``export`` installs."""
ONNX_BYTES = 2**31 - 2**24
"""Largest size of the weights in one ONNX file: protobuf ends at 2 GiB, and the graph needs some of that."""
MASK_CLASSES = 256
Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
MOST = 32
"""Largest number of images that are used: from more, this many are chosen, spread evenly."""
_FREE_SIZES_SINCE = (2, 14)


@dataclass(frozen=True)
class Request:
    """An export that can be done.

    Attributes:
        models: the models whose average is exported; often one.
        path: path of the file to write.
        format: "onnx", "pt2", "aoti" or "bioimageio".
        inputs, outputs: as given, or the default of the format.
        precision: as given.
        size: height and width; None if they stay free.
        least: smallest height and width, if they stay free.
        qgis: further data in a file for QGIS's plugin; None for other files.
    """

    models: tuple[SegmentationModel | OptimizedModel, ...]
    path: Path
    format: str
    inputs: str
    outputs: str
    precision: str
    size: tuple[int, int] | None
    least: int
    qgis: Qgis | None = None

    @property
    def config(self) -> ModelConfig:
        """What all models have in common; mean and std are None if the models are normalised differently."""
        first, *others = (model.config for model in self.models)
        names = next((config.class_names for config in (first, *others) if config.class_names is not None), None)
        alike = all(_scale(config) == _scale(first) for config in others)
        return first.replace(class_names=names, **({} if alike else {"mean": None, "std": None}))

    @property
    def title(self) -> str:
        """Its name in messages."""
        names = ", ".join(model.config.name for model in self.models)
        return names if len(self.models) == 1 else f"the average of {names}"

    @property
    def suppresses(self) -> bool:
        """Whether a model suppresses classes that it judges absent, by logits far below all others."""
        return any(model.config.classification_guided for model in self.models)

    @property
    def whole(self) -> bool:
        """Whether the file normalises images, and mirrors them to sizes that the network takes, as a predictor does."""
        return self.format == "bioimageio"

    @property
    def border(self) -> int:
        """Pixels that the output lacks on each side."""
        return 0 if self.whole else network_of(self.models[0]).decoder.border

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width of the images with which the network is traced: different, and not a special case."""
        return self.size or (2 * self.least + 4, 3 * self.least - 6)

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any]]:
        """The dimensions that stay free, as ``torch.export.export`` takes them."""
        if self.qgis is not None:
            return ({},)
        if self.size is not None:
            return ({0: Dim("batch")},)
        return ({0: Dim("batch"), 2: Dim("height", min=self.least), 3: Dim("width", min=self.least)},)


def network_of(model: SegmentationModel | OptimizedModel) -> SegmentationModel:
    """Return the network with encoder and decoder; an optimized model contains it."""
    return model.network if isinstance(model, OptimizedModel) else model


def check(
    models: Sequence[object],
    path: str | os.PathLike[str],
    *,
    inputs: str | None,
    outputs: str | None,
    precision: str,
    size: Sequence[int] | None,
    images: Images | None,
    consumer: str | None = None,
    resolution: float | None = None,
    threshold: float = 0.5,
    about: About | None = None,
) -> tuple[Request, list[Path]]:
    """Return the request, and the paths of its images.

    Raises:
        ConfigError: lists all that is wrong.
    """
    ending = next((ending for ending in FORMATS if os.fspath(path).endswith(ending)), None)
    form = None if ending is None else FORMATS[ending]
    for_qgis, packaged = consumer == "qgis", form == "bioimageio"
    known = [model for model in models if isinstance(model, SegmentationModel | OptimizedModel)]
    inputs = inputs or (_stored(known, qgis.PIXELS if for_qgis else INTEGERS) if for_qgis or packaged else "normalised")
    outputs = outputs or ("probabilities" if for_qgis or packaged else "logits")
    size = (qgis.SIDE, qgis.SIDE) if for_qgis and size is None else size
    files, problems = find_images(images)
    problems = [
        *(problem for model in models for problem in _model_problems(model)),
        *(
            _package_problems(models, inputs, size, about or About())
            if packaged
            else _average_problems(known, "normalised" if for_qgis else inputs)
        ),
        *_path_problems(path),
        *one_of("consumer", consumer, (None, *CONSUMERS)),
        *([] if for_qgis else one_of("inputs", inputs, INPUTS)),
        *one_of("outputs", outputs, OUTPUTS),
        *([] if for_qgis else _precision_problems(precision, form, images is not None)),
        *([] if form in (None, "bioimageio") or about is None else about.unsaid()),
        *([] if packaged else _size_problems([network_of(model) for model in known], size)),
        *([] if form is None else _machine_problems(form, size)),
        *problems,
    ]
    if for_qgis:
        configs = [model.config for model in known]
        problems += qgis.problems(configs, form, inputs, outputs, precision)
        problems += qgis.panel_problems(configs, resolution, threshold)
        problems += qgis.image_problems(configs, len(files))
        problems += qgis.side_problems(size, [network_of(model).decoder.border for model in known])
    elif resolution is not None and consumer is None:
        problems.append(f"resolution={resolution!r} goes with consumer='qgis': leave it out")
    if known:
        problems += _fit_problems(known, form, outputs, precision)
    if problems:
        raise ConfigError(f"cannot export to {os.fspath(path)!r}", problems)
    assert form is not None
    fixed = None if size is None else (size[0], size[1])
    # So that the deepest map has more than one pixel: torch treats one as a special case.
    least = max(max(network_of(model).encoder.strides) for model in known) + 1
    wanted = Qgis(inputs, float(resolution or 0), threshold) if for_qgis else None
    taken = "normalised" if for_qgis else inputs
    return Request(tuple(known), Path(path), form, taken, outputs, precision, fixed, least, wanted), files


def _stored(models: Sequence[SegmentationModel | OptimizedModel], kinds: Sequence[str]) -> str:
    """Return the pixel type that models were trained on if a file can take it, else "uint8"."""
    known = next((model.config.pixels for model in models), None)
    return known if known is not None and known in kinds else "uint8"


def _model_problems(model: object) -> list[str]:
    if isinstance(model, SegmentationModel) or (isinstance(model, OptimizedModel) and model.dtype == torch.float32):
        return []
    if isinstance(model, OptimizedModel):
        said = f"this copy is already optimized, in {model.dtype}, and export() does this itself"
        return [f"{said}: give the model that it was made from"]
    return [f"a SegmentationModel is needed, from unetzoo.create() or load(), not {type(model).__name__}"]


def _package_problems(models: Sequence[object], inputs: str, size: object, about: About) -> Iterator[str]:
    yield from about.missing()
    if len(models) != 1:
        yield f"a package holds one network, and {len(models)} are given: export each, or their average as .onnx"
    for model in models:
        if isinstance(model, OptimizedModel):
            yield (
                "a package also holds the network for further training, which a predictor and optimize() no longer "
                "have: give the model, its name or its file"
            )
        elif isinstance(model, SegmentationModel) and model.config.resize != 1:
            yield (
                f"images are resized by {model.config.resize:g} for this model, but programs that read packages do not "
                "resize images: train with data.resize=1, or give a name that ends in .onnx"
            )
    if inputs == "normalised":
        yield "inputs='normalised': a package takes pixels as stored: 'uint8', 'uint16' or 'int16' says what white is"
    if size is not None:
        yield f"size={size!r}: a package takes many sizes, and says itself which sizes it takes; leave it out"


def _average_problems(models: Sequence[SegmentationModel | OptimizedModel], inputs: object) -> Iterator[str]:
    configs = [model.config for model in models]
    try:
        check_alike(configs)
    except ConfigError as error:
        yield str(error)
    if len({config.in_channels for config in configs}) > 1:
        counts = ", ".join(str(config.in_channels) for config in configs)
        yield f"these models take images of {counts} channels, and a file takes one number of channels"
    if len({network_of(model).decoder.border for model in models}) > 1:
        yield "the outputs of these models lack borders of different widths, and a file has one output"
    itself = any(config.normalisation == "image" for config in configs)
    if inputs in INTEGERS and itself:
        yield (
            f"inputs={inputs!r}: this model normalises each image by its own mean and standard deviation, and a file "
            "that sees a tile, or a padded image, would use the mean of that: give inputs='normalised', and "
            "normalise whole images first; or train with data.normalisation=fixed"
        )
    if inputs == "normalised" and len({_scale(config) for config in configs}) > 1:
        fix = (
            "export each one separately"
            if itself or any(config.resize != 1 for config in configs)
            else "give 'uint8', 'uint16' or 'int16'"
        )
        yield f"inputs='normalised', and these models are normalised differently: {fix}"
    if inputs in INTEGERS and any(config.resize != 1 for config in configs):
        yield f"inputs={inputs!r}: images are resized for this model; give 'normalised', and resize images and outputs"


def _scale(config: ModelConfig) -> tuple[object, ...]:
    """Return the settings by which a model's images are normalised and resized."""
    # The largest value of a type becomes 1, and a sign halves it.
    signed = config.pixels is not None and config.pixels.startswith("int")
    return config.normalisation, config.mean, config.std, config.resize, config.pixels if signed else None


def _path_problems(path: str | os.PathLike[str]) -> Iterator[str]:
    name = Path(path).name
    # A missing folder is created in the nearest one that exists.
    folder = next(each for each in Path(path).absolute().parents if each.exists())
    if not any(name.endswith(ending) for ending in FORMATS):
        yield f"{name!r}: the ending gives the format: a name that ends in {_ENDINGS} is needed{_near_ending(name)}"
    if Path(path).is_dir():
        yield f"{str(path)!r} is a folder: give the name of a file"
    elif not folder.is_dir():
        yield f"{str(folder)!r} is a file, and would have to be a folder: give another name"
    elif not os.access(folder, os.W_OK):
        yield f"the folder {str(folder)!r} cannot be written: fix its permissions, or give another folder"


def _near_ending(name: str) -> str:
    """Return what a name with an unknown ending may mean."""
    if name.endswith((".pt", ".pth", ".ts", ".torchscript")):
        return (
            "; TorchScript is written only in .zip, packages of BioImage.IO: give that, or .pt2; or call "
            "torch.jit.trace(model.eval(), images) yourself"
        )
    ending = Path(name).suffix
    return suggest(ending, FORMATS) if ending else ""


def _precision_problems(precision: object, form: str | None, shown: bool) -> list[str]:
    known = list(dict.fromkeys(name for names in PRECISIONS.values() for name in names))
    if form is None or precision not in known:
        return one_of("precision", precision, known if form is None else PRECISIONS[form])
    if precision in PRECISIONS[form]:
        lacks = "precision='int8' needs images=…: a folder or a list of images like those that the file will see"
        return [lacks] if precision == "int8" and not shown else []
    able = [ending for ending, name in FORMATS.items() if precision in PRECISIONS[name]]
    others = f"give a file that ends in {' or '.join(able)} for it"
    return [f"precision={precision!r} is not for this format, which has {', '.join(PRECISIONS[form])}; {others}"]


def _size_problems(networks: Sequence[SegmentationModel], size: object) -> Iterator[str]:
    if size is None:
        for network in networks:
            if network.decoder.border:
                least = network.decoder.input_side(1)
                yield f"{network.config.decoder} is exported at one size: give size=({least}, {least}), or larger"
        return
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else ()
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        yield f"size={size!r}: height and width are needed, two whole numbers from 1 up"
        return
    for decoder in (network.decoder for network in networks):
        if decoder.size_problem(*sides) is not None:
            valid = tuple(decoder.input_side(max(1, side - 2 * decoder.border)) for side in sides)
            name = next(network.config.decoder for network in networks if network.decoder is decoder)
            yield f"size={sides}: {name} does not take this size; the next possible is size={valid}"


def _machine_problems(form: str, size: object) -> Iterator[str]:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None] if form == "onnx" else []
    if form == "bioimageio":
        if importlib.util.find_spec("bioimageio") is None:
            yield ".zip, a package of BioImage.IO, needs bioimageio.core: pip install 'unetzoo[bioimageio]'"
        return
    if missing:
        yield f".onnx needs {' and '.join(missing)}: pip install 'unetzoo[export]'"
    if size is None and tuple(map(int, torch.__version__.split(".")[:2])) < _FREE_SIZES_SINCE:
        yield f"torch {torch.__version__} exports only one size: give size=…, or install torch>=2.14"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if form == "aoti" and shutil.which(compiler) is None:
        yield f".aoti.pt2 needs a C++ compiler, and there is no {compiler}: install it, or name another one in CXX"


def _fit_problems(
    models: Sequence[SegmentationModel | OptimizedModel], form: str | None, outputs: str, precision: str
) -> Iterator[str]:
    config = models[0].config
    if outputs == "mask" and config.task == "multiclass" and config.num_classes > MASK_CLASSES:
        yield f"outputs='mask' is uint8, too small for {config.num_classes} classes: give 'logits' or 'probabilities'"
    if outputs == "mask" and config.task == "instances":
        yield (
            "outputs='mask' has no place for the edges by which this model separates touching objects: give "
            "outputs='probabilities', whose last channel they are, and pass them to unetzoo.objects.instances; "
            "or, if touching objects may be one, load the model's file with "
            f"task={config.pixel_task!r}, without edges"
        )
    parameters = sum(parameter.numel() for model in models for parameter in model.parameters())
    weights = parameters * (2 if precision == "float16" else 4)
    if form == "onnx" and weights > ONNX_BYTES:
        yield f"{weights / 1e9:.1f} GB of weights: an .onnx file holds at most 2 GiB; give .pt2"


def find_images(images: Images | None) -> tuple[list[Path], list[str]]:
    """Return the files to use, and a sentence for each thing that is wrong."""
    if images is None:
        return [], []
    if isinstance(images, str | os.PathLike):
        folder = Path(images)
        if folder.is_file():
            return [folder], []
        if not folder.is_dir():
            return [], [f"images={str(images)!r}: there is no such folder or file"]
        folder = folder / "images" if (folder / "images").is_dir() else folder  # a data set, without its masks
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    else:
        files = list(map(Path, images))
    if not files:
        return [], [f"images={str(images)!r}: there is no image"]
    chosen = [files[k * len(files) // MOST] for k in range(MOST)] if len(files) > MOST else files
    return chosen, [f"images: there is no file {str(path)!r}" for path in chosen if not path.is_file()]
