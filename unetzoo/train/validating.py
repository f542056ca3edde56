"""Outputs of a network in training for complete images, in the memory of a tile: computed as by a predictor."""

from __future__ import annotations

import torch
from torch import Tensor

from unetzoo import sheets
from unetzoo.checks import ratio
from unetzoo.config import ModelConfig
from unetzoo.images import mirrored
from unetzoo.model import SegmentationModel, TrainingOutputs, evaluating
from unetzoo.nn.layers import crop
from unetzoo.prediction.networks import unit_of
from unetzoo.prediction.reach import reach
from unetzoo.prediction.tiles import Grid, lay_out, rounded_up
from unetzoo.prediction.views import View

TILE = 1024
"""Longest side of a tile in pixels; more for networks whose receptive field would make all of it overlap."""
_SHARE = 4
"""For networks that see the complete image, the overlap is the tile's side divided by this."""


def validated(network: SegmentationModel, images: Tensor) -> tuple[TrainingOutputs, Tensor]:
    """Return the outputs for the loss, and the logits that a user of the network gets, for images (N, C, H, W).

    Images larger than a tile are processed in tiles. These overlap by the reach of the network, so that the logits of
    all heads are those of the complete image, up to rounding. A network whose output depends on the complete image
    (group and instance norm, the classification-guided module) gets a tile instead, as in prediction; its presence
    logits are the maximum over the tiles.
    """
    size = images.shape[-2:]
    grid = _grid(network.config, unit_of(network), size)
    heads: list[Tensor] = []
    presence = None
    for k in range(len(grid.down.starts)):
        for n in range(len(grid.across.starts)):
            said, present = _asked(network, _cut_out(network, images, grid, k, n))
            heads = heads or [_empty(head, grid) for head in said]
            _add(heads, said, grid, k, n)
            if present is not None:
                presence = present if presence is None else torch.maximum(presence, present)
    logits, main, *deep = (crop(head, size) for head in (heads if len(heads) > 1 else heads * 2))
    return TrainingOutputs(main, tuple(deep), presence), logits


@torch.no_grad()
def probabilities(network: SegmentationModel, image: Tensor) -> Tensor:
    """Return the probabilities for a normalised image (C, H, W): (channels, H, W) float32, on the CPU."""
    like = next(network.parameters())  # in half or double precision, if the run trains in it
    with evaluating(network):
        logits = validated(network, image[None].to(like))[1][0].float().cpu()
    return logits.softmax(dim=0) if network.config.task == "multiclass" else logits.sigmoid()


def predicted_mask(said: Tensor, config: ModelConfig) -> Tensor:
    """Return the mask for the output of :func:`probabilities`, in the form of targets."""
    return sheets.predicted(said[: config.num_classes], config.pixel_task)


def _grid(config: ModelConfig, unit: int, size: torch.Size) -> Grid:
    window, overlap, blend = TILE, TILE // _SHARE, "gaussian"
    if max(size) > TILE and (far := reach(config, heads=True)) is not None:
        overlap = rounded_up(2 * far, unit)
        window, blend = max(TILE, 4 * overlap), "crop"
    down, across = (lay_out(side, window, overlap, unit, blend) for side in size)
    return Grid(down, across)


def _cut_out(network: SegmentationModel, images: Tensor, grid: Grid, k: int, n: int) -> Tensor:
    """Return the part of images for a tile: with the network's border, mirrored at the edges of the images."""
    decoder = network.decoder
    for dim, axis, number in ((2, grid.down, k), (3, grid.across, n)):
        first = axis.starts[number] - decoder.border
        wanted = mirrored(first, decoder.input_side(axis.window), images.shape[dim])
        images = images.index_select(dim, wanted.to(images.device))
    return images


def _asked(network: SegmentationModel, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """Return the logits that a user gets (left out if there is only the main head), followed by those of all heads."""
    view, size = View(scale=float(ratio(network.config.resize))), images.shape[-2:]
    images = view.apply(images, network.encoder.strides[-1])
    outputs = network.training_outputs(images)
    heads = [outputs.logits, *outputs.deep]
    if network.guide is not None or network.decoder.averages_heads or outputs.deep:
        plain = network.guide is None and not network.decoder.averages_heads
        heads = [outputs.logits if plain else network(images), *heads]
    return [view.undo(head, size) for head in heads], outputs.presence


def _empty(head: Tensor, grid: Grid) -> Tensor:
    height, width = (axis.starts[-1] + axis.window for axis in (grid.down, grid.across))
    return head.new_zeros(*head.shape[:2], height, width, dtype=torch.promote_types(head.dtype, torch.float32))


def _add(heads: list[Tensor], said: list[Tensor], grid: Grid, k: int, n: int) -> None:
    """Add the weighted outputs of a tile to those of the images."""
    (rows, down), (columns, across) = grid.down.parts(k), grid.across.parts(n)
    weights = grid.down.weights[k][rows][:, None] * grid.across.weights[n][columns]
    for head, part in zip(heads, said, strict=True):
        head[..., down, across] += part[..., rows, columns] * weights.to(part.device)
