"""ONNX files for Deepness, the plugin that runs networks on the rasters of QGIS (0.6 and 0.7, whose source was run).

It runs them by onnxruntime 1.17 or older, on square tiles of one size; and has from the file's metadata, as JSON, what
is asked of its panel otherwise: https://qgis-plugin-deepness.readthedocs.io, "Model metadata". It divides pixels of any
type by 255, subtracts ``standardization_mean`` and divides by ``standardization_std``. Of one output channel it sets a
pixel where the probability is not below ``seg_thresh``, and calls the two classes by ``class_names``; of several it
takes the likeliest, after those below ``seg_thresh`` were set to 0. Masks then pass a median filter of
``seg_small_segment`` pixels. The panel keeps two decimals of resolution and threshold.
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
"""Onnxruntime 1.14 to 1.17 read these; to less, torch's exporter cannot convert padding."""
SIDE = 512
"""Of its tiles, where no size is asked for."""
OVERLAP = 25
"""Of neighbouring tiles, in per cent of their side, as in prediction."""
PIXELS = ("uint8", "uint16", "int16", "uint32", "int32", "float32")
"""Types of the pixels of rasters."""
DECIMALS = 2
"""Of resolution and threshold, in the fields of the panel."""


@dataclass(frozen=True)
class Qgis:
    """What a file for it needs to know besides the model.

    Attributes:
        pixels: type of the rasters'.
        resolution: centimetres that a pixel of the training images covers.
        threshold: of a binary model's probability.
    """

    pixels: str
    resolution: float
    threshold: float = 0.5


def problems(
    configs: Sequence[ModelConfig], form: str | None, inputs: str, outputs: str, precision: str
) -> Iterator[str]:
    """Give a sentence for each thing that keeps such a file from being written, but sizes and images."""
    if form not in ("onnx", None):
        yield "consumer='qgis' reads ONNX: give a name that ends in .onnx"
    yield from one_of("inputs", inputs, PIXELS)
    if outputs != "probabilities":
        yield f"outputs={outputs!r}: QGIS's plugin takes 'probabilities', which are the default then"
    if precision != "float32":
        yield f"precision={precision!r}: QGIS's plugin is shown float32 alone"
    for config in configs[:1]:
        if config.task not in ("binary", "multiclass"):
            yield (
                f"task={config.task!r}: QGIS's plugin draws one class at each pixel, and tells no objects apart; "
                "GeoTIFFs of prediction, and Prediction.geojson(), are what QGIS opens then"
                + ("; or load its file with task='binary', without edges" if config.task == "instances" else "")
            )


def panel_problems(configs: Sequence[ModelConfig], resolution: object, threshold: float) -> Iterator[str]:
    """Give a sentence for each figure that is none, or that two decimals make one of another kind."""
    if type(resolution) not in (int, float) or not 0 < float(str(resolution)) < float("inf"):
        yield f"resolution={resolution!r}: the centimetres that a pixel of training images covers are needed, say 10"
    elif any(_shown(float(str(resolution)) / config.resize) == 0 for config in configs):
        yield f"resolution={resolution!r}: QGIS's plugin keeps two decimals, so it takes no pixel below 0.01 cm"
    if any(config.task == "binary" for config in configs) and not 0 < _shown(threshold) < 1:
        yield (
            f"threshold={threshold!r}: QGIS's plugin keeps two decimals, and would mark all pixels or none: give its "
            "predictor one from 0.01 to 0.99"
        )


def _shown(figure: float) -> float:
    return round(figure, DECIMALS)


def image_problems(configs: Sequence[ModelConfig], count: int) -> Iterator[str]:
    """Give a sentence where the images are not those that the file needs; ``count``: how many were given."""
    if count != 1 and any(config.normalisation == "image" for config in configs):
        yield (
            "this model normalises each image by its own mean and standard deviation, and QGIS's plugin shows it "
            "tiles: give images=, the one raster that the file is for, whose mean and deviation it will keep"
        )


def side_problems(size: object, borders: Sequence[int]) -> Iterator[str]:
    """Give a sentence where tiles of this size are none for the plugin."""
    if isinstance(size, Sequence) and len(set(size)) > 1:
        yield f"size={tuple(size)}: QGIS's plugin takes squares: give one number for both sides"
    if any(borders):
        yield "QGIS's plugin takes masks of its tiles' own size, and this network's lack a border"


def standardised(config: ModelConfig, stored: Sequence[Tensor], pixels: str) -> tuple[list[float], list[float]]:
    """Return mean and deviation, a channel each, by which pixels are to be normalised after a division by 255.

    Args:
        config: of the model.
        stored: the raster (C, H, W), for models that normalise each image by itself.
        pixels: type of the raster.
    """
    mean, std = images.levels(config, images.moments(stored[0]) if config.normalisation == "image" else None)
    unit = _one(config, pixels) / 255
    mean = torch.zeros(config.in_channels) if mean is None else mean
    std = torch.ones(config.in_channels) if std is None else std
    return [unit * value for value in mean.flatten().tolist()], [unit * value for value in std.flatten().tolist()]


def _one(config: ModelConfig, pixels: str) -> int:
    """Return which value of a raster the model is shown as 1."""
    dtype: torch.dtype = getattr(torch, pixels)
    return 1 if dtype.is_floating_point else images.white(dtype, config)


def scale_of(config: ModelConfig, pixels: str) -> str:
    """Return what is to be known of a raster's type where the model was trained on another; "" where nothing is."""
    if config.pixels in (None, pixels) or config.normalisation == "image":
        return ""
    trained = getattr(torch, str(config.pixels))
    its = 1 if trained.is_floating_point else torch.iinfo(trained).max
    return f"; {_one(config, pixels)} of a {pixels} raster is taken as {its} of {config.pixels}, the training's type"


def seen(image: Tensor, config: ModelConfig, pixels: str) -> Tensor:
    """Return what the plugin shows a file of a raster (C, H, W), by the mean and deviation that stand in it."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in standardised(config, [image], pixels))
    return (image.float() / 255 - mean) / std


def metadata(config: ModelConfig, wanted: Qgis, side: int, stored: Sequence[Tensor]) -> dict[str, str]:
    """Return what the plugin reads of a file, as JSON by name."""
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
        # A model that sees images at half their size sees pixels that cover twice as much.
        "resolution": _shown(wanted.resolution / config.resize),
        "tile_size": side,
        "tiles_overlap": OVERLAP,
        # Of several classes the likeliest is meant, however unlikely.
        "seg_thresh": _shown(wanted.threshold) if config.task == "binary" else 0.0,
        # Without it a median filter of 9 pixels, which is on in the panel, takes away all that is thin or small.
        "seg_small_segment": 0,
    }
    return {name: json.dumps(value) for name, value in found.items()}
