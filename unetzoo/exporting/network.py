"""The network for a file, with normalisation before it and a mask after it if requested; and the file's metadata."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo import __version__, images
from unetzoo.config import ModelConfig
from unetzoo.exporting import qgis
from unetzoo.exporting.outcome import Port
from unetzoo.exporting.request import INTEGERS, Request
from unetzoo.exporting.whole import Mirrored
from unetzoo.folding import OptimizedModel, optimize
from unetzoo.model import SegmentationModel

_INTEGERS = {name: getattr(torch, name) for name in INTEGERS}


class Normalised(nn.Module):
    """Images of values from 0 to 1 → logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.network((image - self.mean) / self.std)
        return logits


class Averaged(nn.Module):
    """Images → logits of the mean probability of several networks."""

    def __init__(self, networks: Sequence[nn.Module], task: str) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, see :func:`average_logits`."""
        return average_logits([network(image) for network in self.networks], self.task)


def average_logits(logits: Sequence[Tensor], task: str) -> Tensor:
    """Return logits whose softmax or sigmoid is the mean of the probabilities of several logits (N, classes, H, W).

    They are the log of the mean for multi-class models, and its log-odds for the others. All is computed with
    logarithms, because a probability near 1 becomes 1 in float32, whose log-odds are infinite.
    """
    stacked = torch.stack(list(logits))
    if task == "multiclass":
        return stacked.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
    # Both sums should be divided by the number of networks, which cancels out.
    return F.logsigmoid(stacked).logsumexp(dim=0) - F.logsigmoid(-stacked).logsumexp(dim=0)


class Deployed(nn.Module):
    """Images → logits, probabilities or masks, without further steps outside.

    Args:
        network: images → logits; the images are scaled to [0, 1] if ``inputs`` are integers.
        task: of the model.
        inputs, outputs: as :func:`unetzoo.exporting.export` takes them.
        channelled: whether masks of one channel have a channel dimension.
    """

    def __init__(self, network: nn.Module, task: str, inputs: str, outputs: str, *, channelled: bool = False) -> None:
        super().__init__()
        self.network = network
        self.channelled = channelled
        self.task = task
        self.outputs = outputs
        self.largest = torch.iinfo(_INTEGERS[inputs]).max if inputs in _INTEGERS else None
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return the ``outputs`` for images given as ``inputs``; for shapes and types see :func:`ports`."""
        if self.largest is not None:
            image = image.float() / self.largest
        logits: Tensor = self.network(image)
        if self.outputs == "probabilities":
            return logits.softmax(dim=1) if self.task == "multiclass" else logits.sigmoid()
        if self.outputs == "mask":
            # A logit above 0 is a probability above one half.
            found = logits.argmax(dim=1, keepdim=True) if self.task == "multiclass" else logits > 0
            return (found if self.task == "multilabel" or self.channelled else found[:, 0]).to(torch.uint8)
        return logits


def deployed(request: Request, exact: Sequence[SegmentationModel | OptimizedModel]) -> Deployed:
    """Return the network to export, in the requested precision; int8 is made from float32 later.

    Args:
        request: the export.
        exact: the models in float32, on the CPU.

    Raises:
        ConfigError: a weight of the model is computed from others, for example by pruning.
    """
    dtype = torch.float32 if request.precision == "int8" else getattr(torch, request.precision)
    task = request.config.task
    if request.whole:
        # If each image is normalised on its own, the program that runs the file does it: the file may see tiles.
        inputs = "normalised" if request.config.normalisation == "image" else request.inputs
        network = Mirrored(_member(exact[0], dtype, inputs), exact[0])
        return Deployed(network, task, inputs, request.outputs, channelled=True)
    networks = [_member(model, dtype, request.inputs) for model in exact]
    merged = networks[0] if len(networks) == 1 else Averaged(networks, task)
    return Deployed(merged, task, request.inputs, request.outputs)


def _member(model: SegmentationModel | OptimizedModel, dtype: torch.dtype, inputs: str) -> nn.Module:
    """Return a network, with its own normalisation inside if ``inputs`` are integers."""
    network = copy.deepcopy(model).to(dtype) if isinstance(model, OptimizedModel) else optimize(model, dtype=dtype)
    if inputs not in _INTEGERS:
        return network
    mean, std = images.levels(model.config, None, dtype=_INTEGERS[inputs])
    return network if mean is None or std is None else Normalised(network, mean, std)


def example(request: Request) -> Tensor:
    """Return images for tracing: two if any number is allowed, because torch treats one as a special case."""
    shape = (2 if request.qgis is None else 1, request.config.in_channels, *request.example_size)
    return torch.zeros(shape, dtype=_INTEGERS.get(request.inputs, torch.float32))


def ports(request: Request) -> tuple[Port, Port]:
    """Return the input and the output."""
    if request.whole:
        return _pixels(request), _channelled(request)
    config, border = request.config, request.border
    normalised = any(model.config.mean is not None for model in request.models)
    height, width = request.size or ("height", "width")
    sides, batch = f"{height}, {width}", "batch" if request.qgis is None else "1"
    if request.inputs in _INTEGERS:
        largest = images.white(_INTEGERS[request.inputs], config)
        meaning = f"0 to {largest}, scaled{' and normalised' if normalised else ''} inside"
    elif request.qgis is not None:
        meaning = "(pixels / 255 - standardization_mean) / standardization_std of each channel"
        meaning += qgis.scale_of(config, request.qgis.pixels)
    elif config.normalisation == "image":
        meaning = "(pixels - mean) / std of each channel, both of the whole image, never of a tile"
    elif config.mean is None:
        meaning = "0 to 1"
    else:
        meaning = "(pixels in 0 to 1 - mean) / std of each channel"
    if config.resize != 1:
        meaning += f", of an image that was resized by {config.resize:g}; the output has this size, too"
    if request.size is None:
        meaning += f"; height and width from {request.least} up"
    name = "image"
    taken = Port(name, _integer_or_float(request.inputs), f"({batch}, {config.in_channels}, {sides})", meaning)
    if request.size is not None and border:
        sides = ", ".join(str(side - 2 * border) for side in request.size)
    return taken, _output(config, request.outputs, batch, sides, averaged=len(request.models) > 1)


def _pixels(request: Request) -> Port:
    """Return the input of a package: any pixels, float32."""
    config = request.config
    if config.normalisation == "image":
        meaning = "(pixels as stored - mean) / std, both of the whole image"
    else:
        normalised = " and normalised" if config.mean is not None else ""
        meaning = f"pixels as stored, 0 to {images.white(_INTEGERS[request.inputs], config)}, scaled{normalised} inside"
    return Port("image", "float32", f"(batch, {config.in_channels}, height, width)", meaning)


def _channelled(request: Request) -> Port:
    """Return the output of a package; masks have a channel as well, because programs that read packages expect it."""
    port = _output(request.config, request.outputs, "batch", "height, width", averaged=False)
    return replace(port, shape=port.shape.replace("(batch, height", "(batch, 1, height"))


def _output(config: ModelConfig, outputs: str, batch: str, sides: str, averaged: bool) -> Port:
    every = f"({batch}, {config.channels}, {sides})"
    edges = ", and, as the last channel, of the edges between objects" if config.task == "instances" else ""
    if outputs == "logits" and averaged:
        kind = "log" if config.task == "multiclass" else "log-odds"
        return Port("logits", "float32", every, f"{kind} of the mean probability{edges}")
    if outputs == "logits":
        return Port("logits", "float32", every, f"before sigmoid or softmax{edges}")
    if outputs == "probabilities":
        kind = "softmax over the classes" if config.task == "multiclass" else "sigmoid of each class"
        return Port("probabilities", "float32", every, f"0 to 1, {kind}{edges}")
    meaning = {
        "binary": "1 where the probability is above 0.5, else 0",
        "multiclass": "index of the likeliest class",
        "multilabel": "1 where the class's probability is above 0.5, else 0",
    }[config.task]
    return Port("mask", "uint8", every if config.task == "multilabel" else f"({batch}, {sides})", meaning)


def _integer_or_float(inputs: str) -> str:
    return inputs if inputs in _INTEGERS else "float32"


def metadata(request: Request, stored: Sequence[Tensor] = ()) -> dict[str, str]:
    """Return the metadata of the file: text by name; lists, None and the config as JSON.

    Args:
        request: the export.
        stored: the images that were given, for files that keep their mean and standard deviation.
    """
    config = request.config
    taken, given = ports(request)
    several = {"models": json.dumps([model.config.to_dict() for model in request.models])}
    plugin = qgis.metadata(config, request.qgis, request.example_size[0], stored) if request.qgis is not None else {}
    return {
        **plugin,
        **(several if len(request.models) > 1 else {}),
        "unetzoo_version": __version__,
        "config": config.to_json(),
        "task": config.task,
        "num_classes": str(config.num_classes),
        # Not "class_names": QGIS's plugin expects a JSON object under this name, and fails on anything else.
        "classes": json.dumps(config.class_names),
        "mean": json.dumps(config.mean),
        "std": json.dumps(config.std),
        "normalisation": config.normalisation,
        "resize": json.dumps(config.resize),
        "inputs": request.inputs,
        "outputs": request.outputs,
        "precision": request.precision,
        "input": str(taken),
        "output": str(given),
    }
