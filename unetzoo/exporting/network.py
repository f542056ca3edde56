"""The network as it goes into a file: normalisation before it and mask behind it, if asked for; and what says so."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from unetzoo import __version__
from unetzoo.config import ModelConfig
from unetzoo.exporting.outcome import Port
from unetzoo.exporting.request import Request
from unetzoo.folding import optimize
from unetzoo.model import SegmentationModel

_INTEGERS = {"uint8": torch.uint8, "uint16": torch.uint16}


class Deployed(nn.Module):
    """Images → logits, probabilities or masks, with nothing left to do outside.

    Args:
        network: images, normalised → logits.
        config: of the model.
        inputs, outputs: as :func:`unetzoo.exporting.export` takes them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, config: ModelConfig, inputs: str, outputs: str) -> None:
        super().__init__()
        self.network = network
        self.task = config.task
        self.outputs = outputs
        self.largest = torch.iinfo(_INTEGERS[inputs]).max if inputs in _INTEGERS else None
        self.normalises = self.largest is not None and config.mean is not None
        if self.normalises:
            self.register_buffer("mean", torch.tensor(config.mean)[:, None, None])
            self.register_buffer("std", torch.tensor(config.std)[:, None, None])
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return what ``outputs`` says, of images as ``inputs`` says; :func:`ports` has shapes and types."""
        if self.largest is not None:
            image = image.float() / self.largest
        if self.normalises:
            image = (image - self.mean) / self.std
        logits: Tensor = self.network(image)
        if self.outputs == "probabilities":
            return logits.softmax(dim=1) if self.task == "multiclass" else logits.sigmoid()
        if self.outputs == "mask":
            # Above 0 is above one half behind a sigmoid.
            found = logits.argmax(dim=1) if self.task == "multiclass" else logits > 0
            return (found[:, 0] if self.task == "binary" else found).to(torch.uint8)
        return logits


def deployed(request: Request, exact: SegmentationModel) -> Deployed:
    """Return the network to export, in the precision asked for; int8 comes later, of float32.

    Args:
        request: what is asked for.
        exact: the model in float32, on the CPU.

    Raises:
        ConfigError: a weight of the model is made of others, by pruning say.
    """
    dtype = torch.float32 if request.precision == "int8" else getattr(torch, request.precision)
    return Deployed(optimize(exact, dtype=dtype), exact.config, request.inputs, request.outputs)


def example(request: Request) -> Tensor:
    """Return images with which to trace: two, as torch takes a single one for a special case."""
    shape = (2, request.model.config.in_channels, *request.example_size)
    return torch.zeros(shape, dtype=_INTEGERS.get(request.inputs, torch.float32))


def ports(request: Request) -> tuple[Port, Port]:
    """Return what goes in and what comes out."""
    config, border = request.model.config, request.model.decoder.border
    height, width = request.size or ("height", "width")
    sides = f"{height}, {width}"
    if request.inputs in _INTEGERS:
        largest = torch.iinfo(_INTEGERS[request.inputs]).max
        meaning = f"0 to {largest}, scaled{'' if config.mean is None else ' and normalised'} inside"
    elif config.mean is None:
        meaning = "0 to 1"
    else:
        meaning = "(pixels in 0 to 1 - mean) / std of each channel"
    if request.size is None:
        meaning += f"; height and width from {request.least} up"
    name = "image"
    taken = Port(name, _integer_or_float(request.inputs), f"(batch, {config.in_channels}, {sides})", meaning)
    if request.size is not None and border:
        sides = ", ".join(str(side - 2 * border) for side in request.size)
    return taken, _output(config, request.outputs, sides)


def _output(config: ModelConfig, outputs: str, sides: str) -> Port:
    every = f"(batch, {config.num_classes}, {sides})"
    if outputs == "logits":
        return Port("logits", "float32", every, "before sigmoid or softmax")
    if outputs == "probabilities":
        kind = "softmax over the classes" if config.task == "multiclass" else "sigmoid of each class"
        return Port("probabilities", "float32", every, f"0 to 1, {kind}")
    meaning = {
        "binary": "1 where the probability is above 0.5, else 0",
        "multiclass": "index of the likeliest class",
        "multilabel": "1 where the class's probability is above 0.5, else 0",
    }[config.task]
    return Port("mask", "uint8", every if config.task == "multilabel" else f"(batch, {sides})", meaning)


def _integer_or_float(inputs: str) -> str:
    return inputs if inputs in _INTEGERS else "float32"


def metadata(request: Request) -> dict[str, str]:
    """Return what goes into the file for whoever runs it: text by name; lists, None and the config as JSON."""
    config = request.model.config
    taken, given = ports(request)
    return {
        "unetzoo_version": __version__,
        "config": config.to_json(),
        "task": config.task,
        "num_classes": str(config.num_classes),
        "class_names": json.dumps(config.class_names),
        "mean": json.dumps(config.mean),
        "std": json.dumps(config.std),
        "inputs": request.inputs,
        "outputs": request.outputs,
        "precision": request.precision,
        "input": str(taken),
        "output": str(given),
    }
