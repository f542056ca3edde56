"""A package's description, after the specification of BioImage.IO 0.5, and its README."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from unetzoo import __version__, information
from unetzoo.config import ModelConfig
from unetzoo.errors import UnetzooError
from unetzoo.exporting.about import About, reference
from unetzoo.exporting.network import ports
from unetzoo.exporting.request import Request
from unetzoo.exporting.whole import Tiling
from unetzoo.files.packages import MODEL, OWN

FORMAT_VERSION = "0.5.3"
"""Version of the specification; later patch versions read it, and it has everything that is used here."""
WEIGHTS, README, COVER = "weights.pt", "README.md", "cover.png"
TEST_INPUT, TEST_OUTPUT = "test_input.npy", "test_output.npy"
LEAST_SPREAD = 1e-6
"""Added to the standard deviation of each image, if consumers normalise it: the specification requires a value."""
_PYTHON = (
    f"## In Python\n\nThe package contains `{MODEL}`, from which unetzoo loads the network, to predict or to continue "
    'training:\n\n```python\nimport unetzoo\n\nmodel = unetzoo.from_bioimageio("model.zip")\n'
    'result = unetzoo.Predictor("model.zip")("image.png")\n```'
)
_ARXIV = re.compile(r"arXiv[ :]*(\d{4}\.\d{4,5})")


def description(request: Request, about: About, tiles: Tiling, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of ``rdf.yaml``.

    Args:
        request: the export.
        about: authors, licence and so on.
        tiles: how images are cut into tiles.
        digests: file in the package → its sha256.
    """
    config = request.config
    taken, given = ports(request)

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": digests[name]}

    return {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": about.name or title(config),
        "description": about.description or sentence(config),
        "authors": [{"name": name} for name in about.authors],
        "license": about.license,
        "cite": citations(config, about),
        "documentation": README,
        "covers": [COVER],
        "tags": ["unetzoo", "pytorch", "segmentation", f"{config.task}-segmentation", "2d", config.decoder],
        "attachments": [file(MODEL)],
        "inputs": [_input(request, tiles, taken.name, taken.meaning, file)],
        "outputs": [_output(request, tiles, given.name, given.meaning, file)],
        "weights": {"torchscript": {**file(WEIGHTS), "pytorch_version": torch.__version__.partition("+")[0]}},
        "config": {OWN: {"version": __version__, "model": MODEL, "outputs": request.outputs}},
    }


def _input(request: Request, tiles: Tiling, name: str, meaning: str, file: Any) -> dict[str, Any]:
    config = request.config
    channels = {1: ["grey"], 3: ["red", "green", "blue"]}.get(
        config.in_channels, [f"channel{k}" for k in range(config.in_channels)]
    )
    steps: list[dict[str, Any]] = []
    if config.normalisation == "image":
        by = {"axes": ["y", "x"], "eps": LEAST_SPREAD}
        steps.append({"id": "zero_mean_unit_variance", "kwargs": by})
    steps.append({"id": "ensure_dtype", "kwargs": {"dtype": "float32"}})
    sides = [
        {"type": "space", "id": side, "size": {"min": tiles.least, "step": tiles.step}, "concatenable": False}
        for side in ("y", "x")
    ]
    return {
        "id": name,
        "description": meaning[:128],
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": channels}, *sides],
        "data": {"type": "float32"},
        "preprocessing": steps,
        "test_tensor": file(TEST_INPUT),
    }


def _output(request: Request, tiles: Tiling, name: str, meaning: str, file: Any) -> dict[str, Any]:
    sides = [
        {"type": "space", "id": side, "size": {"tensor_id": "image", "axis_id": side}, "halo": tiles.halo}
        for side in ("y", "x")
    ]
    dtype = "uint8" if request.outputs == "mask" else "float32"
    return {
        "id": name,
        "description": meaning[:128],
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": channels_of(request)}, *sides],
        "data": {"type": dtype},
        "postprocessing": [{"id": "ensure_dtype", "kwargs": {"dtype": dtype}}],
        "test_tensor": file(TEST_OUTPUT),
    }


def channels_of(request: Request) -> list[str]:
    """Return the names of the output channels."""
    config = request.config
    if request.outputs == "mask" and config.task != "multilabel":
        return ["mask"]
    names = config.class_names or tuple(f"class{k}" for k in range(config.num_classes))
    return [*names, *(["edges"] if config.task == "instances" else [])]


def title(config: ModelConfig) -> str:
    """Return a name for a package, in the characters that are allowed."""
    count = f"{config.num_classes} class{'es' * (config.num_classes > 1)}"
    classes = " and ".join(config.class_names or ()) or count
    words = re.sub(r"[^A-Za-z0-9_+\- ()]", " ", f"{config.name} ({classes})")
    return words if len(words) <= 64 else f"{config.name} ({count})"


def sentence(config: ModelConfig) -> str:
    """Return a sentence about what a network does."""
    found = ", ".join(config.class_names or ()) or f"{config.num_classes} class{'es' * (config.num_classes > 1)}"
    return f"{config.name}, a network of unetzoo, which segments images of any size: {found} ({config.task})."[:512]


def citations(config: ModelConfig, about: About) -> list[dict[str, str]]:
    """Return what to cite: the owner's citations, and the paper of the network."""
    found = [reference(text) for text in about.citations]
    try:
        paper = information.model_info(config.name).paper
    except UnetzooError:  # a network of the user's own
        return found
    number = _ARXIV.search(paper)
    return [*found, *([{"text": paper, "doi": f"10.48550/arXiv.{number[1]}"}] if number else [])]


def readme(request: Request, about: About, tiles: Tiling, card: str) -> str:
    """Return the README of a package; ``card`` is the text of the model's own."""
    config = request.config
    parts = [
        f"# {about.name or title(config)}",
        about.description or sentence(config),
        _facts(request, about),
        "## Sizes and tiles\n\nThe network takes images of any size, and mirrors them internally to multiples of "
        f"{tiles.step} pixels. Cut large images into tiles of {tiles.least} + k · {tiles.step} pixels a side, which "
        f"overlap their neighbours by {tiles.halo} pixels on each side" + _farther(tiles),
    ]
    if config.normalisation == "image":
        parts.append(
            "## Normalisation\n\nThis network was trained on images that were each normalised by their own mean and "
            "standard deviation, channel by channel. In the description this is a step before the network "
            "(`zero_mean_unit_variance` over y and x), which needs the **whole** image. "
            "bioimageio.core does this when it cuts tiles itself; otherwise it first mirrors the image on all sides, "
            "and normalises the result. A program that normalises each tile separately gives different masks, above "
            "all where a tile is empty."
        )
    parts += [
        "# Validation\n\nBefore this package was written, it passed `bioimageio.core.test_model`, and it gave the same "
        "results in bioimageio.core as the network does in Python: logits differ by less than 1e-4 of their spread, "
        "at three sizes, two of them odd. "
        + (
            "The model card below says how good the network is on images that it was not trained on."
            if card
            else "How good the network is on images that it was not trained on is not known here: ask its owner."
        ),
        _PYTHON,
    ]
    if card:
        parts.append(f"# The model card\n\n{card.strip()}")
    return "\n\n".join(parts) + "\n"


def _facts(request: Request, about: About) -> str:
    taken, given = ports(request)
    return (
        f"- in: {taken}\n- out: {given}; channels: {', '.join(channels_of(request))}\n"
        f"- authors: {', '.join(about.authors)}\n- licence: {about.license}"
    )


def _farther(tiles: Tiling) -> str:
    if tiles.exact:
        return ", which is as far as the network looks: tiles give the same result as the whole image."
    return ". The network looks farther, so near their edges tiles differ slightly from the whole image."
