"""ONNX files for Deepness, the plugin that runs networks on rasters in QGIS (tested with the code of 0.6 and 0.7).

It runs them with onnxruntime 1.17 or older, on square tiles of one size. It reads the settings of its panel from the
file's metadata, as JSON: https://qgis-plugin-deepness.readthedocs.io, "Model metadata". It divides pixels of any type
by 255, subtracts ``standardization_mean`` and divides by ``standardization_std``. With one output channel, it sets a
pixel if its probability is not below ``seg_thresh``, and names the two classes by ``class_names``; with several
channels, it sets probabilities below ``seg_thresh`` to 0 and takes the likeliest class. Masks then pass a median filter
of ``seg_small_segment`` pixels. The panel keeps two decimals of resolution and threshold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unetzoo import images
from unetzoo.checks import one_of
from unetzoo.config import ModelConfig

OPSET, IR_VERSION = 18, 8
"""Onnxruntime 1.14 to 1.17 read these; for older versions, torch's exporter cannot convert padding."""
SIDE = 512
"""Side of its tiles, if no size is given."""
OVERLAP = 25
"""Overlap of neighbouring tiles, in per cent of their side, as in prediction."""
PIXELS = ("uint8", "uint16", "int16", "uint32", "int32", "float32")
"""Types of the pixels of rasters."""
DECIMALS = 2
"""Decimals of resolution and threshold in the fields of the panel."""


@dataclass(frozen=True)
class Qgis:
    """What a file for the plugin needs in addition to the model.

    Attributes:
        pixels: type of the rasters' pixels.
        resolution: centimetres that a pixel of the training images covers.
        threshold: threshold of a binary model's probability.
    """

    pixels: str
    resolution: float
    threshold: float = 0.5


def problems(
    configs: Sequence[ModelConfig], form: str | None, inputs: str, outputs: str, precision: str
) -> Iterator[str]:
    """Give a sentence for each reason why such a file cannot be written, except sizes and images."""
    if form not in ("onnx", None):
        yield "consumer='qgis' reads ONNX: give a name that ends in .onnx"
    yield from one_of("inputs", inputs, PIXELS)
    if outputs != "probabilities":
        yield f"outputs={outputs!r}: QGIS's plugin needs 'probabilities', which are its default"
    if precision != "float32":
        yield f"precision={precision!r}: QGIS's plugin takes only float32"
    for config in configs[:1]:
        if config.task not in ("binary", "multiclass"):
            yield (
                f"task={config.task!r}: QGIS's plugin draws one class at each pixel, and does not separate objects; "
                "use GeoTIFFs of prediction, and Prediction.geojson(), which QGIS opens"
                + ("; or load its file with task='binary', without edges" if config.task == "instances" else "")
            )


def panel_problems(configs: Sequence[ModelConfig], resolution: object, threshold: float) -> Iterator[str]:
    """Give a sentence for each number that is wrong, or that becomes wrong when rounded to two decimals."""
    if type(resolution) not in (int, float) or not 0 < float(str(resolution)) < float("inf"):
        yield f"resolution={resolution!r}: give the centimetres that a pixel of the training images covers, such as 10"
    elif any(_shown(float(str(resolution)) / config.resize) == 0 for config in configs):
        yield f"resolution={resolution!r}: QGIS's plugin keeps two decimals, so it takes no pixel below 0.01 cm"
    if any(config.task == "binary" for config in configs) and not 0 < _shown(threshold) < 1:
        yield (
            f"threshold={threshold!r}: QGIS's plugin keeps two decimals, and would mark all pixels or none: give the "
            "predictor a threshold from 0.01 to 0.99"
        )


def _shown(figure: float) -> float:
    return round(figure, DECIMALS)


def image_problems(configs: Sequence[ModelConfig], count: int) -> Iterator[str]:
    """Give a sentence if the file needs other images; ``count``: how many were given."""
    if count != 1 and any(config.normalisation == "image" for config in configs):
        yield (
            "this model normalises each image by its own mean and standard deviation, and QGIS's plugin shows it "
            "tiles: give images=…, the one raster for which the file is, so that its mean and deviation are stored"
        )


def side_problems(size: object, borders: Sequence[int]) -> Iterator[str]:
    """Give a sentence if the plugin does not take tiles of this size."""
    if isinstance(size, Sequence) and len(set(size)) > 1:
        yield f"size={tuple(size)}: QGIS's plugin takes squares: give one number for both sides"
    if any(borders):
        yield "QGIS's plugin needs masks of the same size as its tiles, and this network's masks lack a border"


def standardised(config: ModelConfig, stored: Sequence[Tensor], pixels: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, by which pixels are normalised after a division by 255.

    Args:
        config: configuration of the model.
        stored: the raster (C, H, W), for models that normalise each image by itself.
        pixels: type of the raster.
    """
    mean, std = images.levels(config, images.moments(stored[0]) if config.normalisation == "image" else None)
    unit = _one(config, pixels) / 255
    mean = torch.zeros(config.in_channels) if mean is None else mean
    std = torch.ones(config.in_channels) if std is None else std
    return [unit * value for value in mean.flatten().tolist()], [unit * value for value in std.flatten().tolist()]


def _one(config: ModelConfig, pixels: str) -> int:
    """Return the value of a raster that the model sees as 1."""
    dtype: torch.dtype = getattr(torch, pixels)
    return 1 if dtype.is_floating_point else images.white(dtype, config)


def scale_of(config: ModelConfig, pixels: str) -> str:
    """Return a note on the type of rasters if the model was trained on another type, else ""."""
    if config.pixels in (None, pixels) or config.normalisation == "image":
        return ""
    trained = getattr(torch, str(config.pixels))
    its = 1 if trained.is_floating_point else torch.iinfo(trained).max
    return f"; {_one(config, pixels)} of a {pixels} raster is taken as {its} of {config.pixels}, the type in training"


def seen(image: Tensor, config: ModelConfig, pixels: str) -> Tensor:
    """Return what the plugin passes to a file for a raster (C, H, W), with the mean and deviation in the file."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in standardised(config, [image], pixels))
    return (image.float() / 255 - mean) / std


def metadata(config: ModelConfig, wanted: Qgis, side: int, stored: Sequence[Tensor]) -> dict[str, str]:
    """Return the metadata that the plugin reads, as JSON by name."""
    mean, std = standardised(config, stored, wanted.pixels)
    if config.task == "binary":
        names = ["background", *(config.class_names or ("foreground",))]
    else:
        names = list(config.class_names or (f"class {k}" for k in range(config.num_classes)))
    found = {
        "model_type": "Segmentor",
        "class_names": {str(k): name for k, name in enumerate(names)},
        "standardization_mean": mean,
        "standardization_std": std,
        # In a model that halves images, each pixel covers twice as much.
        "resolution": _shown(wanted.resolution / config.resize),
        "tile_size": side,
        "tiles_overlap": OVERLAP,
        # With several classes, the likeliest is taken, however unlikely it is.
        "seg_thresh": _shown(wanted.threshold) if config.task == "binary" else 0.0,
        # Without this, the panel's default, a median filter of 9 pixels, removes everything thin or small.
        "seg_small_segment": 0,
    }
    return {name: json.dumps(value) for name, value in found.items()}
