"""Drawings of the architectures, computed from the models: no channel, stride or size is typed here.

Every drawing adapts to light and dark mode by itself, on the built site and on GitHub. All lengths are inches, so that
a font has the same size in all of them. ``python docs/_made.py`` writes them into ``_static/diagrams``.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Curve
from torch import Tensor, nn

import unetzoo
from unetzoo.decoders.light import LightFusion
from unetzoo.nn.meta import on_meta

WIDTH = 8.4


@dataclass(frozen=True)
class Theme:
    """Colours of one mode; the fills are middle tones that carry white letters in both."""

    text: str
    muted: str
    faint: str
    page: str
    encoder: str = "#4a7fb5"
    decoder: str = "#c9762f"
    head: str = "#4f9a63"
    levels: tuple[str, ...] = ("#4a7fb5", "#2f9a94", "#7d9b35", "#d0892b", "#c4553f", "#8a63ad")


# The light page is not quite white: white letters on a fill stay white in dark mode, and the page does not.
LIGHT = Theme(text="#1d2733", muted="#5f6b78", faint="#d5dae0", page="#fefefe")
DARK = Theme(text="#e4e8ed", muted="#9da8b4", faint="#3b434d", page="#131416")


def build(name: str, **options: Any) -> unetzoo.SegmentationModel:
    """Return a model without memory for its weights: channels, strides and shapes are all there is to it."""
    with on_meta():
        return unetzoo.create(name, **options).eval()


def widths(module: nn.Module) -> tuple[int, int]:
    """Return the channels that go into the first convolution of ``module`` and those that leave the last."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    return convolutions[0].in_channels, convolutions[-1].out_channels


# --- strokes -----------------------------------------------------------------------------------------------


def canvas(width: float, height: float) -> tuple[Any, Axes]:
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return figure, axes


def write(axes: Axes, x: float, y: float, text: str, theme: Theme, **style: Any) -> None:
    settings = {"color": theme.text, "fontsize": 8, "ha": "center", "va": "center", "zorder": 6, **style}
    axes.text(x, y, text, **settings)


def slab(axes: Axes, left: float, bottom: float, width: float, height: float, colour: str, theme: Theme) -> None:
    axes.add_patch(
        Rectangle((left, bottom), width, height, facecolor=colour, edgecolor=theme.page, linewidth=1, zorder=4)
    )


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, alpha: float = 1.0) -> None:
    """Draw a rounded box around (x, y)."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.07",
        facecolor=colour,
        edgecolor="none",
        alpha=alpha,
        zorder=4,
    )
    axes.add_patch(shape)


def stroke(
    axes: Axes,
    vertices: Sequence[tuple[float, float]],
    codes: Sequence[int],
    colour: str,
    *,
    dashed: bool = False,
    width: float = 1.3,
    alpha: float = 1.0,
) -> None:
    """Draw a path that ends in an arrow head; the head itself is never dashed."""
    (x0, y0), (x1, y1) = vertices[-2:]
    length = math.dist((x0, y0), (x1, y1))
    across, along = (x1 - x0) / length, (y1 - y0) / length
    long, half = 0.075, 0.036
    base = (x1 - long * across, y1 - long * along)
    line = PathPatch(
        Curve([*vertices[:-1], base], codes),
        facecolor="none",
        edgecolor=colour,
        linewidth=width,
        linestyle=(0, (3, 1.6)) if dashed else "solid",
        alpha=alpha,
        zorder=3,
        capstyle="butt",
    )
    corners = [
        (x1, y1),
        (base[0] - half * along, base[1] + half * across),
        (base[0] + half * along, base[1] - half * across),
    ]
    axes.add_patch(line)
    axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="none", alpha=alpha, zorder=3))


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, bulge: float = 0.0, **style: Any
) -> None:
    """Draw an arrow, straight or bulging to its left by ``bulge`` inches."""
    (x0, y0), (x1, y1) = start, end
    if not bulge:
        stroke(axes, [start, end], [Curve.MOVETO, Curve.LINETO], colour, **style)
        return
    length = math.dist(start, end)
    control = ((x0 + x1) / 2 - 2 * bulge * (y1 - y0) / length, (y0 + y1) / 2 + 2 * bulge * (x1 - x0) / length)
    stroke(axes, [start, control, end], [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3], colour, **style)


def wire(axes: Axes, points: Sequence[tuple[float, float]], colour: str, **style: Any) -> None:
    """Draw an arrow through ``points`` with rounded corners."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        into, out = (
            tuple(
                c + (o - c) * min(0.09, math.dist(corner, other) / 2) / math.dist(corner, other)
                for c, o in zip(corner, other, strict=True)
            )
            for other in (before, after)
        )
        vertices += [into, corner, out]
        codes += [Curve.LINETO, Curve.CURVE3, Curve.CURVE3]
    stroke(axes, [*vertices, points[-1]], [*codes, Curve.LINETO], colour, **style)


def legend(axes: Axes, columns: Sequence[float], theme: Theme, rows: Sequence[tuple[str, str, str]]) -> None:
    """Write a key at the foot, column by column: rows of kind ("slab", "arrow", "dashed"), colour and meaning."""
    deep = -(-len(rows) // len(columns))
    for number, (kind, colour, meaning) in enumerate(rows):
        x, y = columns[number // deep], 0.13 + 0.2 * (deep - 1 - number % deep)
        if kind == "slab":
            axes.add_patch(Rectangle((x + 0.06, y - 0.06), 0.18, 0.12, facecolor=colour, edgecolor="none"))
        else:
            arrow(axes, (x, y), (x + 0.3, y), colour, dashed=kind == "dashed")
        write(axes, x + 0.4, y, meaning, theme, ha="left", fontsize=7.5, color=theme.muted)


# --- U-Net -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of the way up: channels from below, from the skip connection, and after the double convolution."""

    stride: int
    up: int
    skip: int
    out: int


def unet_steps(model: unetzoo.SegmentationModel) -> list[Step]:
    """Return the steps of a U-Net's decoder, coarsest first."""
    channels, strides = model.encoder.channels, model.encoder.strides
    steps = []
    pairs = zip(model.decoder.ups, model.decoder.convs, strict=True)
    for (up, conv), skip, stride in zip(pairs, channels[-2::-1], strides[-2::-1], strict=True):
        joined, out = widths(conv)
        assert joined == up.out_channels + skip
        steps.append(Step(stride, up.out_channels, skip, out))
    return steps


def map_sizes(model: unetzoo.SegmentationModel, side: int) -> dict[str, tuple[int, int]]:
    """Return name → side of the map before and after each double convolution for images of ``side`` pixels."""
    sizes: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            sizes[name] = (inputs[0].shape[-1], output.shape[-1])

        return hook

    hooks = [
        layer.register_forward_hook(note(f"{part}{number}"))
        for part, layers in (("e", model.encoder.levels), ("d", model.decoder.convs))
        for number, layer in enumerate(layers)
    ]
    model(torch.empty(1, model.config.in_channels, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return sizes


def slab_width(channels: int) -> float:
    return 0.1 + 0.046 * max(math.log2(channels) - 4, 0)


def slab_height(row: int) -> float:
    return 0.98 * 0.69**row


def draw_unet(model: unetzoo.SegmentationModel, theme: Theme, side: int | None = None) -> Any:
    """Draw the U: encoder maps down the left, [skip, up] and double convolutions up the right.

    Args:
        model: on a U-Net decoder.
        theme: of the page.
        side: side of the images where map sizes shall be written instead of strides (unpadded form).
    """
    encoder, steps = model.encoder, unet_steps(model)
    last = getattr(model.decoder, "last", None)
    sizes = map_sizes(model, side) if side else {}
    strides = [*([1] if encoder.strides[0] > 1 else []), *encoder.strides]
    row_of = {stride: row for row, stride in enumerate(strides)}
    below = 0.17 if side else 0.02  # room under a map, where its size stands
    tops, depth = [], 0.0
    for row in range(len(strides)):
        depth += 0.2
        tops.append(depth)
        depth += slab_height(row) + (0.27 if side else 0.16)
    height = depth + 0.6
    ys = [height - top - slab_height(row) / 2 for row, top in enumerate(tops)]
    figure, axes = canvas(WIDTH, height)
    for stride, row in row_of.items():
        write(axes, 0.08, ys[row], f"stride {stride}", theme, ha="left", color=theme.muted, fontsize=7.5)

    def foot(row: int) -> float:
        return ys[row] - slab_height(row) / 2 - below

    def bar(x: float, row: int, channels: int | str, colour: str, wide: float = 0.0) -> float:
        """Draw a map with its left edge at x and its channels above; return its right edge."""
        tall, wide = slab_height(row), wide or slab_width(int(channels))
        slab(axes, x, ys[row] - tall / 2, wide, tall, colour, theme)
        write(axes, x + wide / 2, ys[row] + tall / 2 + 0.085, f"{channels}", theme, fontsize=7.5)
        return x + wide

    def note(x: float, row: int, text: str) -> None:
        write(axes, x, ys[row] - slab_height(row) / 2 - 0.09, text, theme, fontsize=6.8, color=theme.muted)

    left = 0.95
    images = bar(left, 0, model.config.in_channels, theme.muted, wide=0.09)
    write(axes, left + 0.045, foot(0) - 0.08, "images", theme, fontsize=7)
    edges: list[tuple[float, float]] = []  # left and right edge of each encoder map
    x = images + 0.2
    for number, (channels, stride) in enumerate(zip(encoder.channels, encoder.strides, strict=True)):
        row = row_of[stride]
        right = bar(x, row, channels, theme.encoder)
        if number:
            centre = sum(edges[-1]) / 2
            wire(axes, [(centre, foot(row - 1)), (centre, ys[row]), (x, ys[row])], theme.muted)
        elif row:
            wire(axes, [(left + 0.045, foot(0) - 0.16), (left + 0.045, ys[row]), (x, ys[row])], theme.muted)
        else:
            arrow(axes, (images, ys[0]), (x, ys[0]), theme.muted)
        if side:
            into, out = sizes[f"e{number}"]
            note((x + right) / 2, row, f"{into} → {out}" if number else f"{out}")
        edges.append((x, right))
        x = (x + right) / 2 + (0.4 if encoder.symmetric else 0.33)
    if side:
        note(left + 0.045, 0, f"{side}")
    end, end_row = edges[-1][1], row_of[encoder.strides[-1]]
    for step, (_, skip_edge), level in zip(steps, edges[-2::-1], range(len(edges) - 2, -1, -1), strict=True):
        row = row_of[step.stride]
        x = max(end + 0.26 - slab_width(step.skip), skip_edge + 0.46)
        middle = bar(x, row, step.skip, theme.encoder)
        right = bar(middle, row, step.up, theme.decoder)
        arrow(axes, (skip_edge, ys[row]), (x, ys[row]), theme.encoder, dashed=True)
        centre = (middle + right) / 2
        wire(axes, [(end, ys[end_row]), (centre, ys[end_row]), (centre, foot(row))], theme.decoder)
        arrow(axes, (right, ys[row]), (right + 0.17, ys[row]), theme.muted)
        end, end_row = bar(right + 0.17, row, step.out, theme.decoder), row
        if side:
            into, after = sizes[f"d{len(edges) - 2 - level}"]
            note((x + right) / 2, row, f"{into}")
            note((right + 0.17 + end) / 2, row, f"{after}")
            cut = (sizes[f"e{level}"][1] - into) // 2
            write(axes, (skip_edge + x) / 2, ys[row] + 0.1, f"crop {cut}", theme, fontsize=6.8, color=theme.muted)
    if last is not None:
        right = bar(end + 0.22, 0, last.out_channels, theme.decoder)
        centre = end + 0.22 + (right - end - 0.22) / 2
        wire(axes, [(end, ys[end_row]), (centre, ys[end_row]), (centre, foot(0))], theme.decoder)
        end = right
    arrow(axes, (end, ys[0]), (end + 0.22, ys[0]), theme.head)
    right = bar(end + 0.22, 0, "n", theme.head, wide=0.09)
    write(axes, right - 0.045, foot(0) - 0.08, "logits", theme, fontsize=7)
    if side:
        note(right - 0.045, 0, f"{after}")

    plain = encoder.symmetric
    kernel = model.head.conv.kernel_size[0]
    rows = [
        ("slab", theme.encoder, "encoder map"),
        ("slab", theme.decoder, "decoder map"),
        ("arrow", theme.muted, "two 3×3 convolutions" if plain else "ResNet stage; two 3×3 convolutions"),
        ("dashed", theme.encoder, "skip connection" + (", cropped" if side else "")),
        ("arrow", theme.decoder, "2×2 transposed convolution"),
        ("arrow", theme.head, f"{kernel}×{kernel} convolution to n classes"),
    ]
    if plain:
        rows[2] = ("arrow", theme.muted, "two 3×3 convolutions (down: 2×2 max-pool first)")
    legend(axes, (0.08, 2.0, 5.75) if plain else (0.08, 2.3, 5.6), theme, rows)
    return figure


# --- UNet++ ------------------------------------------------------------------------------------------------


def draw_unetpp(model: unetzoo.SegmentationModel, theme: Theme, kept: int | None = None) -> Any:
    """Draw the triangle of nodes x_i_j; with ``kept``, all that pruning to that level drops is pale."""
    encoder, decoder = model.encoder, model.decoder
    levels, ends = decoder.levels, bool(decoder.ends)
    kept = kept or levels
    tall, wide, step, rise = 0.42, 0.66, 0.79, 0.94
    top = 1.24 + (0.36 if ends else 0.0)
    height = top + levels * rise + 0.86
    left = 1.32
    figure, axes = canvas(WIDTH, height)

    def place(i: int, j: int) -> tuple[float, float]:
        return left + (i + 2 * j) * step, height - top - i * rise

    def pale(i: int, j: int) -> float:
        return 1.0 if i + j <= kept else 0.16

    for i in range(levels + 1):
        y = place(i, 0)[1]
        write(axes, 0.08, y, f"stride {encoder.strides[i]}", theme, ha="left", color=theme.muted, fontsize=7.5)
        for j in range(levels + 1 - i):
            x, y = place(i, j)
            channels = encoder.channels[i] if j == 0 else widths(decoder.nodes[f"x_{i}_{j}"])[1]
            colour = theme.decoder if j else theme.encoder
            box(axes, x, y, wide, tall, colour, pale(i, j))
            shade = "white" if pale(i, j) == 1 else theme.muted
            write(axes, x, y + 0.075, f"$\\mathregular{{X}}^{{{i},{j}}}$", theme, color=shade, fontsize=9)
            write(axes, x, y - 0.11, f"{channels}", theme, color=shade, fontsize=7.5)
            if j == 0 and i < levels:
                x1, y1 = place(i + 1, 0)
                arrow(axes, (x + 0.12, y - tall / 2), (x1 - 0.2, y1 + tall / 2), theme.encoder, alpha=pale(i + 1, 0))
            if j:
                x0, y0 = place(i + 1, j - 1)
                arrow(axes, (x0 + 0.2, y0 + tall / 2), (x - 0.12, y - tall / 2), theme.decoder, alpha=pale(i, j))
            for source in range(j):
                x0, y0 = place(i, source)
                far = j - source - 1
                if far:
                    start, end = (x0 + 0.22, y0 + tall / 2), (x - 0.22, y + tall / 2)
                else:
                    start, end = (x0 + wide / 2, y0), (x - wide / 2, y)
                bulge = 0.14 + 0.12 * far if far else 0.0
                arrow(axes, start, end, theme.muted, bulge, dashed=True, width=1, alpha=pale(i, j))
    supervised = [model.decoder.levels, *range(1, levels)] if len(model.decoder.features) > 1 else [levels]
    roof = height - 0.2
    for j in supervised:
        x, y = place(0, j)
        alpha = 1.0 if j == kept or kept == levels else 0.16
        stop = roof - 0.13
        if ends:
            middle = roof - 0.52
            channels = widths(decoder.ends[f"x_0_{j}"])[1]
            arrow(axes, (x, y + tall / 2), (x, middle - 0.16), theme.decoder, alpha=alpha)
            box(axes, x, middle, 0.5, 0.3, theme.decoder, alpha)
            write(axes, x, middle, f"{channels}", theme, color="white", fontsize=7.5)
            arrow(axes, (x, middle + 0.16), (x, stop), theme.head, alpha=alpha)
        else:
            arrow(axes, (x, y + tall / 2), (x, stop), theme.head, alpha=alpha)
        box(axes, x, roof, 0.5, 0.24, theme.head, alpha)
        write(axes, x, roof, "head", theme, color="white" if alpha == 1 else theme.muted, fontsize=7.5)
    if ends:
        write(axes, 0.08, roof - 0.52, "stride 1", theme, ha="left", color=theme.muted, fontsize=7.5)
    up = decoder.nodes["x_0_1"].up.mode if hasattr(decoder.nodes["x_0_1"], "up") else "bilinear"
    names = {"transpose": "transposed convolution 2×2", "nearest": "nearest ×2", "bilinear": "bilinear ×2"}
    kernel = model.head.conv.kernel_size[0]
    rows = [
        ("slab", theme.encoder, "encoder map, its channels"),
        ("slab", theme.decoder, "decoder node, its channels"),
        ("dashed", theme.muted, "dense skip connections"),
        ("arrow", theme.decoder, f"up: {names[up]}"),
        ("arrow", theme.head, f"{kernel}×{kernel} convolution to n classes"),
    ]
    legend(axes, (0.08, 2.7, 5.6), theme, rows)
    return figure


# --- UNet 3+ -----------------------------------------------------------------------------------------------


def draw_unet3p(model: unetzoo.SegmentationModel, theme: Theme) -> Any:
    """Draw every stage with a line from each of its sources; a colour a scale, decoder sources dashed."""
    encoder, stages = model.encoder, model.decoder.stages
    count = len(encoder.channels)
    rise, seg, wide = 1.04, 0.145, 0.3
    stack = seg * count
    head_room = 0.68
    height = head_room + (count - 1) * rise + 1.3
    figure, axes = canvas(WIDTH, height)
    ys = [height - head_room - level * rise for level in range(count)]
    start = 1.42
    reach = 1.62
    lefts = {level: start + 0.62 + (count - 2 - level) * reach for level in range(count - 1)}

    def entry(level: int, source: int) -> float:
        return ys[level] + ((count - 1) / 2 - source) * seg

    colours = theme.levels
    for level in range(count):
        write(
            axes,
            0.08,
            ys[level],
            f"stride {encoder.strides[level]}",
            theme,
            ha="left",
            color=theme.muted,
            fontsize=7.5,
        )
        y = entry(level, level) if level < count - 1 else ys[level]
        box(axes, start - 0.24, ys[level], 0.5, 0.66, colours[level])
        write(axes, start - 0.24, ys[level] + 0.13, f"e{level + 1}", theme, color="white", fontsize=9)
        write(axes, start - 0.24, ys[level] - 0.12, f"{encoder.channels[level]}", theme, color="white", fontsize=7.5)
        if level + 1 < count:
            arrow(axes, (start - 0.24, ys[level] - 0.33), (start - 0.24, ys[level + 1] + 0.33), theme.muted, width=1.1)
    for level in reversed(range(count - 1)):
        stage, left = stages[f"d{level + 1}"], lefts[level]
        for source, branch in enumerate(stage.branches):
            bottom = entry(level, source) - seg / 2
            slab(axes, left, bottom, wide, seg, colours[source], theme)
            write(axes, left + wide / 2, bottom + seg / 2, f"{widths(branch)[1]}", theme, color="white", fontsize=6.3)
            coarser_stage = level < source < count - 1
            x0 = lefts[source] + 2 * wide + 0.2 if coarser_stage else start + 0.01
            y0 = ys[source] if coarser_stage or source == count - 1 else entry(source, source)
            lane = source if source < level else count - 1 - source
            turn = left - 0.13 - 0.085 * lane
            y1 = entry(level, source)
            points = [(x0, y0), (left, y1)] if source == level else [(x0, y0), (turn, y0), (turn, y1), (left, y1)]
            wire(axes, points, colours[source], dashed=coarser_stage)
        fused = left + wide + 0.2
        out = widths(stage.fuse)[1]
        arrow(axes, (left + wide, ys[level]), (fused, ys[level]), theme.muted)
        slab(axes, fused, ys[level] - stack / 2, wide, stack, colours[level], theme)
        write(axes, fused + wide / 2, ys[level] + 0.12, f"d{level + 1}", theme, color="white", fontsize=9)
        write(axes, fused + wide / 2, ys[level] - 0.12, f"{out}", theme, color="white", fontsize=7)
    supervised = len(model.decoder.features) > 1
    for level in range(count if supervised else 1):
        main = level == 0
        if level < count - 1:
            x, y = lefts[level] + wide + 0.2 + wide / 2, ys[level] + stack / 2
            box(axes, x, y + 0.16, 0.44, 0.17, theme.head, 1 if main else 0.75)
            write(axes, x, y + 0.155, "head", theme, color="white", fontsize=7)
        else:
            x, y = start - 0.24, ys[level] - 0.33
            box(axes, x, y - 0.16, 0.44, 0.17, theme.head, 0.75)
            write(axes, x, y - 0.165, "head", theme, color="white", fontsize=7)
    kernel = model.head.conv.kernel_size[0]
    rows = [
        ("arrow", colours[0], "finer or same scale, from the encoder: max-pool, 3×3 convolution"),
        ("dashed", colours[3], "coarser scale (dashed from the decoder): bilinear up-sampling, 3×3 convolution"),
        ("slab", theme.head, f"{kernel}×{kernel} convolution to n classes; the fainter ones with deep supervision"),
    ]
    legend(axes, (start + 0.62,), theme, rows)
    return figure


# --- The light fusion --------------------------------------------------------------------------------------


def draw_fusion(model: unetzoo.SegmentationModel, theme: Theme, level: int = 3) -> Any:
    """Draw the inside of one light UNet 3+ stage, with the channels of its sources."""
    fusion = model.decoder.stages[f"d{level}"]
    assert isinstance(fusion, LightFusion)
    count, target = len(fusion.branches), fusion.target
    rise, tall = 0.47, 0.34
    height = count * rise + 0.4
    figure, axes = canvas(WIDTH, height)
    columns = {"source": 0.95, "resample": 2.55, "branch": 4.15, "concat": 5.25, "fuse": 6.35, "out": 7.65}
    middle = 0.3 + (count - 1) / 2 * rise
    for title, x in (("source", "source"), ("resample to d3", "resample"), ("1×1 convolution", "branch")):
        title = title.replace("d3", f"d{level}'s size")
        write(axes, columns[x], height - 0.14, title, theme, color=theme.muted, fontsize=7.5)
    write(axes, columns["concat"], height - 0.14, "concatenate", theme, color=theme.muted, fontsize=7.5)
    write(axes, columns["fuse"], height - 0.14, "double convolution", theme, color=theme.muted, fontsize=7.5)
    for source, (branch, stride) in enumerate(zip(fusion.branches, fusion.strides, strict=True)):
        y = 0.3 + (count - 1 - source) * rise
        colour = theme.levels[source]
        name = f"d{source + 1}" if target < source < count - 1 else f"e{source + 1}"
        into, out = widths(branch)
        box(axes, columns["source"], y, 1.6, tall, colour)
        write(axes, columns["source"], y, f"{name}: {into}, stride {stride}", theme, color="white", fontsize=7.5)
        ratio = fusion.strides[target] / stride
        how = "as it is" if ratio == 1 else f"max-pool ÷{ratio:g}" if ratio > 1 else f"bilinear ×{1 / ratio:g}"
        arrow(axes, (columns["source"] + 0.8, y), (columns["resample"] - 0.48, y), colour)
        box(axes, columns["resample"], y, 0.96, tall, theme.faint)
        write(axes, columns["resample"], y, how, theme, fontsize=7.5)
        arrow(axes, (columns["resample"] + 0.48, y), (columns["branch"] - 0.5, y), colour)
        box(axes, columns["branch"], y, 1.0, tall, colour)
        write(axes, columns["branch"], y, f"{into} → {out}", theme, color="white", fontsize=7.5)
        arrow(axes, (columns["branch"] + 0.5, y), (columns["concat"] - 0.15, y), colour)
        slab(axes, columns["concat"] - 0.15, y - rise / 2, 0.3, rise, colour, theme)
        write(axes, columns["concat"], y, f"{out}", theme, color="white", fontsize=7)
    into, out = widths(fusion.fuse)
    arrow(axes, (columns["concat"] + 0.15, middle), (columns["fuse"] - 0.42, middle), theme.muted)
    box(axes, columns["fuse"], middle, 0.84, 0.9, theme.levels[target])
    write(axes, columns["fuse"], middle + 0.2, "3×3, twice", theme, color="white", fontsize=7.5)
    write(axes, columns["fuse"], middle - 0.05, f"{into} → {out}", theme, color="white", fontsize=7.5)
    write(axes, columns["fuse"], middle - 0.25, f"→ {out}", theme, color="white", fontsize=7.5)
    arrow(axes, (columns["fuse"] + 0.42, middle), (columns["out"] - 0.35, middle), theme.muted)
    box(axes, columns["out"], middle, 0.7, tall, theme.levels[target])
    write(axes, columns["out"], middle, f"d{level}: {out}", theme, color="white", fontsize=7.5)
    return figure


# --- The family --------------------------------------------------------------------------------------------


def draw_family(models: Sequence[unetzoo.SegmentationModel], theme: Theme) -> Any:
    """Draw the wiring of U-Net, UNet++ and UNet 3+ side by side."""
    panel = WIDTH / 3
    levels = len(models[0].encoder.channels)
    step, rise, size = 0.29, 0.41, 0.15
    height = (levels - 1) * rise + 0.98
    figure, axes = canvas(WIDTH, height)

    def place(number: int, i: int, j: int) -> tuple[float, float]:
        return number * panel + 0.24 + (i + 2 * j) * step, height - 0.6 - i * rise

    def link(a: tuple[float, float], b: tuple[float, float], colour: str, bulge: float = 0.0) -> None:
        trim = 0.11 / math.dist(a, b)
        start, end = (tuple(p + (q - p) * trim for p, q in zip(*pair, strict=True)) for pair in ((a, b), (b, a)))
        arrow(axes, start, end, colour, bulge, width=0.9)

    for number, model in enumerate(models):
        x = number * panel + 0.24 + (levels - 1) * step
        total = sum(parameter.numel() for parameter in model.parameters())
        write(axes, x, height - 0.12, unetzoo.model_info(model.config.name).architecture, theme, fontsize=9.5)
        write(axes, x, 0.12, f"{model.config.name}: {total:,} parameters", theme, fontsize=7.2, color=theme.muted)
        nested = model.decoder.__class__.__name__.startswith("UNetPlusPlus")
        full_scale = hasattr(model.decoder, "stages")
        for i in range(levels):
            for j in range(levels - i):
                if not (nested or j == 0 or i + j == levels - 1):
                    continue
                here = place(number, i, j)
                box(axes, *here, size, size, theme.decoder if j else theme.encoder)
                if j == 0 and i + 1 < levels:
                    link(here, place(number, i + 1, 0), theme.encoder)
                for source in range(levels) if full_scale and j else ():
                    coarser = source - i
                    its = place(number, source, levels - 1 - source if coarser > 0 else 0)
                    link(its, here, theme.levels[source], -0.11 * (coarser - 1) if coarser > 1 else 0.0)
                if j and not full_scale:
                    link(place(number, i + 1, j - 1), here, theme.decoder)
                    for source in range(j if nested else 1):
                        arc = 0.08 * (j - source) if nested and source < j - 1 else 0.0
                        link(place(number, i, source), here, theme.muted, arc)
    return figure


# --- All of them -------------------------------------------------------------------------------------------


def drawings() -> Iterator[tuple[str, Callable[[Theme], Any]]]:
    """Yield name and drawing function of each diagram."""
    yield (
        "family",
        lambda theme: draw_family([build("unet"), build("unetpp"), build("unet3p")], theme),
    )
    yield "unet", lambda theme: draw_unet(build("unet"), theme)
    yield "unet_valid", lambda theme: draw_unet(build("unet_valid", in_channels=1, num_classes=2), theme, side=572)
    yield "resunet50", lambda theme: draw_unet(build("resunet50"), theme)
    yield "unetpp", lambda theme: draw_unetpp(build("unetpp", deep_supervision=True), theme)
    yield "unetpp_pruned", lambda theme: draw_unetpp(build("unetpp", deep_supervision=True), theme, kept=2)
    yield "unetpp_resnet50", lambda theme: draw_unetpp(build("unetpp_resnet50"), theme)
    yield "unet3p", lambda theme: draw_unet3p(build("unet3p", deep_supervision=True), theme)
    yield "light", lambda theme: draw_fusion(build("unet3p_lite_resnet50"), theme)


def draw_all(folder: Path) -> None:
    """Write ``NAME.svg`` of every drawing into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"svg.hashsalt": "unetzoo", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
    with matplotlib.rc_context(settings):
        for name, draw in drawings():
            figure, text = draw(LIGHT), io.StringIO()
            figure.savefig(text, format="svg", facecolor=LIGHT.page, metadata={"Date": None})
            plt.close(figure)
            (folder / f"{name}.svg").write_text(adaptive(text.getvalue()), encoding="utf-8")


def adaptive(svg: str) -> str:
    """Return a light drawing with a style sheet that replaces its colours in dark mode."""
    rules = [
        f'[style*="{kind}: {getattr(LIGHT, tone)}"] {{ {kind}: {getattr(DARK, tone)} !important }}'
        for tone in ("text", "muted", "faint", "page")
        for kind in ("fill", "stroke")
    ]
    style = "<style>@media (prefers-color-scheme: dark) {\n" + "\n".join(rules) + "\n}</style>\n"
    before, mark, after = svg.partition(' <g id="figure_1">')
    return f"{before} {style}{mark}{after}"


def letters(svg: str) -> list[str]:
    """Return what a drawing says, in its order: matplotlib writes each text as a comment before its outlines."""
    return re.findall(r"<!-- (.*?) -->", svg)
