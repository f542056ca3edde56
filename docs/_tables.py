"""Tables of the documentation, computed from the registry, the models and torchvision's own records.

``_made.py`` writes them into the pages.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import _zoo
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

import unetzoo
from unetzoo import trained
from unetzoo.config import pair_problem
from unetzoo.costs.counting import QuickNorms
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, EncoderSpec
from unetzoo.encoders.resnet import ResNetEncoder, ResNetOptions
from unetzoo.information import info_of, meanings
from unetzoo.nn.layers import ConvStyle, group_count
from unetzoo.nn.meta import on_meta
from unetzoo.saving import records

HERE = Path(__file__).resolve().parent


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """Return a Markdown table; the columns numbered in ``right`` are aligned to the right."""
    rules = ["---:" if number in right else "---" for number in range(len(head))]
    lines = [head, rules, *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def listed(values: Sequence[int]) -> str:
    """Return the numbers with commas, on one line."""
    return ",\N{NO-BREAK SPACE}".join(map(str, values))


def decoders() -> dict[str, type[unetzoo.Decoder]]:
    """Return the decoders, the known ones in the order of these pages and new ones after them."""
    order = ("unet", "unet_valid", "unetpp", "unet3p", "unetpp_lite", "unet3p_lite", "smp_unet", "smp_unetplusplus")
    names = sorted(DECODERS, key=lambda name: order.index(name) if name in order else len(order))
    return {name: DECODERS[name] for name in names}


def encoders() -> dict[str, EncoderSpec]:
    """Return the encoders: the plain one, then the ResNets, then the others."""
    return {name: ENCODERS[name] for name in sorted(ENCODERS, key=lambda name: (name != "plain", "res" not in name))}


@cache
def counted(name: str) -> tuple[unetzoo.ModelInfo, float]:
    """Return what there is to know of a name, and its GFLOPs for one image of 256².

    They are those of ``compare``, which finds what autograd keeps as well: in four times as long.
    """
    model = build(name)
    side = model.decoder.input_side(256)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, QuickNorms():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return info_of(name, model), counter.get_total_flops() / 1e9


@cache
def infos() -> dict[str, unetzoo.ModelInfo]:
    return {name: counted(name)[0] for name in unetzoo.list_models()}


def build(name: str, **options: Any) -> unetzoo.SegmentationModel:
    with on_meta():
        return unetzoo.create(name, **options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- The zoo -----------------------------------------------------------------------------------------------


def members() -> list[tuple[unetzoo.ModelInfo, float]]:
    """Return all names of the registry, by architecture and encoder."""
    titles = [[spec.title for spec in registry.values()] for registry in (decoders(), encoders())]
    known = [counted(name) for name in unetzoo.list_models()]
    return sorted(known, key=lambda one: (titles[0].index(one[0].architecture), titles[1].index(one[0].encoder)))


def architectures_list() -> str:
    """Return what each architecture is."""
    return "".join(f"- **{decoder.title}**: {decoder.summary}. {decoder.paper}.\n" for decoder in decoders().values())


def zoo_table() -> str:
    """Return one table of all names. The built site has one that can be filtered in its place: ``zoo_page``."""
    head = ("Name", "Architecture", "Encoder", "Parameters", "GFLOPs at 256²", "Published")
    rows = []
    for info, gflops in members():
        names = ", ".join(f"`{name}`" for name in (info.name, *info.aliases))
        number, agrees = _zoo.published(info)
        published = f"{number}M {agrees}" if number else ""
        rows.append((names, info.architecture, info.encoder, f"{info.parameters:,}", f"{gflops:,.1f}", published))
    return table(head, rows, (3, 4, 5))


def zoo_page() -> str:
    """Return the table of all names with its filter."""
    return f"```{{raw}} html\n{_zoo.page(members())}\n```"


def grid() -> str:
    """Return encoders × architectures, with the millions of parameters of each pair."""
    titles = {decoder.title: key for key, decoder in decoders().items()}
    millions = {(info.encoder, info.architecture): f"{info.parameters / 1e6:.2f}" for info in infos().values()}
    head = ["Encoder", *(f"`{key}`" for key in titles.values())]
    rows = [[spec.title, *(millions.get((spec.title, title), "–") for title in titles)] for spec in encoders().values()]
    return table(head, rows, range(1, len(head)))


# --- Layers ------------------------------------------------------------------------------------------------


def ends(module: nn.Module) -> tuple[int, int]:
    """Return the channels that enter the first convolution of ``module`` and leave the last."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    return convolutions[0].in_channels, convolutions[-1].out_channels


def change(module: nn.Module) -> str:
    into, out = ends(module)
    return f"{into} → {out}"


def head_row(model: unetzoo.SegmentationModel) -> str:
    kernel = model.head.conv.kernel_size[0]
    resized = ", then bilinear to the image's size" if model.head.stride > 1 else ""
    return f"{kernel}×{kernel} convolution {model.head.conv.in_channels} → n{resized}"


def encoder_layers(model: unetzoo.SegmentationModel) -> str:
    encoder = model.encoder
    rows = []
    for level, (modules, channels, stride) in enumerate(
        zip(encoder.stages(), encoder.channels, encoder.strides, strict=True)
    ):
        if isinstance(encoder, ResNetEncoder):
            layers = "`conv1` 7×7, `bn1`, ReLU"
            if level:
                (layer,) = modules
                pool = "3×3 max-pool, " if level == 1 and isinstance(encoder.maxpool, nn.MaxPool2d) else ""
                layers = f"{pool}`layer{level}`: {len(layer)} × {type(layer[0]).__name__}"
        else:
            layers = f"{'2×2 max-pool, ' if level else ''}double convolution {change(modules[0])}"
        rows.append((f"e{level + 1}", stride, channels, layers))
    return table(("Map", "Stride", "Channels", "Layers"), rows, (1, 2))


def unet_layers(model: unetzoo.SegmentationModel) -> str:
    encoder, decoder = model.encoder, model.decoder
    rows = []
    for number, (up, conv) in enumerate(zip(decoder.ups, decoder.convs, strict=True)):
        level = len(encoder.channels) - 2 - number
        joined = f"{up.out_channels} + {encoder.channels[level]}"
        rows.append((f"d{number + 1}", encoder.strides[level], change(up), joined, change(conv)))
    last = getattr(decoder, "last", None)
    if last is not None:
        rows.append(("out", 1, change(last), "", ""))
    head = ("Step", "Stride", "2×2 transposed convolution", "Concatenate [up, skip]", "Double convolution")
    return table(head, rows, (1,)) + f"\nHead: {head_row(model)}.\n"


def unetpp_layers(model: unetzoo.SegmentationModel) -> str:
    encoder, decoder = model.encoder, model.decoder
    out = {f"x_{level}_0": channels for level, channels in enumerate(encoder.channels)}
    out |= {name: ends(node)[1] for name, node in decoder.nodes.items()}
    rows = []
    for name, node in sorted(decoder.nodes.items()):
        i, j = map(int, name.split("_")[1:])
        row = [f"x_{i}_{k}" for k in range(j)]
        below = f"x_{i + 1}_{j - 1}"
        conv = getattr(node, "conv", None)
        if conv is None:
            sources = [f"{source} ({out[source]})" for source in (*row, below)]
            fused = change(node.fuse)
        else:
            up = node.up.out_channels
            sources = [*(f"{source} ({out[source]})" for source in row), f"up({below}) ({up})"]
            assert ends(conv)[0] == sum(out[source] for source in row) + up
            fused = change(conv)
        rows.append((f"`{name}`", encoder.strides[i], ", ".join(sources), fused))
    end = decoder.ends[f"x_0_{decoder.levels}"] if decoder.ends else None
    if end is not None:
        rows.append(("end", 1, f"up(x_0_{decoder.levels})", change(end)))
    return table(("Node", "Stride", "Inputs (channels)", "Double convolution"), rows, (1,)) + (
        f"\nHead: {head_row(model)}.\n"
    )


def unet3p_layers(model: unetzoo.SegmentationModel) -> str:
    encoder, stages = model.encoder, model.decoder.stages
    names = [f"e{level + 1}" for level in range(len(encoder.channels))]
    rows = []
    for level in reversed(range(len(stages))):
        stage, stride = stages[f"d{level + 1}"], encoder.strides[level]
        sources = []
        for name, branch, its in zip(names, stage.branches, encoder.strides, strict=True):
            how = f" ÷{stride // its}" if its < stride else f" ×{its // stride}" if its > stride else ""
            sources.append(f"{name} ({ends(branch)[0]}{how})")
        names[level] = f"d{level + 1}"
        each = {ends(branch)[1] for branch in stage.branches}
        rows.append((f"`d{level + 1}`", stride, ", ".join(sources), listed(sorted(each)), change(stage.fuse)))
    end = getattr(model.decoder, "end", None)
    if end is not None:
        rows.append(("end", 1, "2×2 transposed convolution", "", change(end)))
    head = ("Stage", "Stride", "Sources (channels, ÷ pooled, × up-sampled)", "Each →", "Fused")
    return table(head, rows, (1, 3)) + f"\nHead: {head_row(model)}.\n"


def levels_table() -> str:
    """Return the size of a UNet++ pruned to each level, in the authors' own form."""
    rows = []
    for level in range(1, 5):
        model = build("unetpp", in_channels=1, norm=None, levels=level)
        rows.append((level, len(model.decoder.nodes), f"{count(model):,}"))
    return table(("Level", "Decoder nodes", "Parameters"), rows, (0, 1, 2))


# --- Options -----------------------------------------------------------------------------------------------


def options_table(options: type) -> str:
    rows = []
    explained: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        explained |= meanings(kind, "Attributes") if dataclasses.is_dataclass(kind) else {}
    for field in dataclasses.fields(options):
        default = f'"{field.default}"' if isinstance(field.default, str) else repr(field.default)
        rows.append((f"`{field.name}`", f"`{default}`", explained[field.name]))
    return table(("Option", "Default", "Meaning"), rows)


# --- Encoders ----------------------------------------------------------------------------------------------


def encoders_table() -> str:
    rows = []
    for name, spec in encoders().items():
        names = [spec.names(decoder)[0] for decoder in decoders() if pair_problem(decoder, name) is None]
        if not names:
            continue
        info = infos()[names[0]]
        encoder = count(build(info.name).encoder)
        top = "–" if spec.weights is None else f"{accuracy(getattr(models, spec.weights).DEFAULT)['acc@1']:.1f}"
        norms = spec.own_norm or ", ".join("none" if norm is None else norm for norm in spec.norms)
        maps = (listed(info.channels), listed(info.strides))
        rows.append((f"`{name}`", spec.paper, *maps, norms, f"{encoder:,}", top))
    return table(("Name", "Paper", "Channels", "Strides", "Norms", "Parameters", "Top-1"), rows, (5, 6))


def accuracy(member: Any) -> dict[str, float]:
    """Return what torchvision records of weights, on ImageNet-1K and in per cent."""
    scores: dict[str, float] = member.meta["_metrics"]["ImageNet-1K"]
    return scores


def stems_table() -> str:
    rows = []
    for stride in (4, 2, 1):
        with on_meta():
            encoder = ResNetEncoder(3, ConvStyle(), ResNetOptions(stem_stride=stride), arch="resnet18")
        pool = "no" if isinstance(encoder.maxpool, nn.Identity) else "yes"
        rows.append((f"`{stride}`", encoder.conv1.stride[0], pool, listed(encoder.strides)))
    return table(("`stem_stride`", "Stride of `conv1`", "Max-pool", "Strides of the maps"), rows, (1,))


def weights_table() -> str:
    rows = []
    for name, spec in encoders().items():
        if spec.weights is None:
            continue
        enum = getattr(models, spec.weights)
        for member in enum:
            scores, preset = accuracy(member), member.transforms()
            rows.append(
                (
                    f"`{name}`",
                    f"`{member.name}`" + (" (default)" if member is enum.DEFAULT else ""),
                    f"`{Path(member.url).name}`",
                    f"{scores['acc@1']:.3f}",
                    f"{scores['acc@5']:.3f}",
                    *preset.resize_size,
                    *preset.crop_size,
                )
            )
    return table(("Encoder", "Weights", "File", "Top-1", "Top-5", "Resize", "Crop"), rows, (3, 4, 5, 6))


def groups_table() -> str:
    widths = (8, 16, 32, 48, 64, 100, 128, 256)
    return table(("Channels", *map(str, widths)), [("Groups", *map(group_count, widths))], range(1, len(widths) + 1))


def costs() -> str:
    """Return what full and light forms cost on one encoder."""
    names = [f"{decoder}_resnet50" for decoder in ("unetpp", "unetpp_lite", "unet3p", "unet3p_lite")]
    return unetzoo.compare(["resunet50", *names], size=256).render("md")


# --- Trained models ----------------------------------------------------------------------------------------


def trained_table() -> str:
    """Return the trained models, with what they score on their test images as ``keep.py`` measured it."""
    rows = []
    for name in trained.names():
        figures = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        test, saved = figures["test"]["all"], records.read_saved(trained.weights_of(name))
        ap = f"{test['object_ap_50']:.3f}" if "object_ap_50" in test else "–"
        images, size = figures["images"], f"{trained.weights_of(name).stat().st_size / 1e6:.1f} MB"
        cells = (images["train"], images["test"], f"{test['dice']:.3f}", f"{test['iou']:.3f}", ap)
        rows.append((f"[`{name}`](#{name})", *cells, f"{saved.parameters:,}", size))
    head = ("Model", "Training images", "Test images", "Dice", "IoU", "AP at IoU 0.5", "Parameters", "File")
    return table(head, rows, range(1, len(head)))


def card(name: str) -> str:
    """Return the card of a trained model, as a section of a page."""
    text = trained.card_of(name).read_text(encoding="utf-8")
    prose = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)  # code has lines that begin with #, too
    prose[::2] = [re.sub(r"^(#+) ", r"#\1 ", part, flags=re.MULTILINE) for part in prose[::2]]
    return "".join(prose)


# --- All of them -------------------------------------------------------------------------------------------


def tables() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file."""
    yield "architectures", architectures_list()
    yield "zoo", zoo_table()
    yield "grid", grid()
    yield "trained", trained_table()
    yield "encoders", encoders_table()
    yield "stems", stems_table()
    yield "weights", weights_table()
    yield "groups", groups_table()
    yield "levels", levels_table()
    yield "costs", costs()
    for name in trained.names():
        yield f"card_{name}", card(name)
    for name in ("unet", "unet_valid", "resunet18", "resunet50"):
        yield f"layers_{name}", unet_layers(build(name))
    for name in ("unetpp", "unetpp_resnet50", "unetpp_lite_resnet50"):
        yield f"layers_{name}", unetpp_layers(build(name))
    for name in ("unet3p", "unet3p_resnet50", "unet3p_lite_resnet50"):
        yield f"layers_{name}", unet3p_layers(build(name))
    for name in ("unet", "resunet50"):
        yield f"encoder_{name}", encoder_layers(build(name))
    for name, decoder in DECODERS.items():
        if dataclasses.fields(decoder.Options):
            yield f"options_{name}", options_table(decoder.Options)
    for name in ("plain", "resnet50", "resenc", "convnext_tiny"):
        yield f"options_{name}", options_table(ENCODERS[name].options)
