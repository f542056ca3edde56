"""Public U-Nets in PyTorch that are networks of this zoo under other names.

The facts are from the public programs: names, shapes, the order in which maps are concatenated, the end of the
network. None of their code is here. Nearly all round sizes down when they pool, so they only take sides that are
divisible by 16.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from unetzoo.foreign.layouts import Assumption, Layout, Network, Rule, State, UnfitError
from unetzoo.foreign.parts import (
    BLOCKS,
    LEVELS,
    NAMED,
    SEQUENTIAL,
    channels,
    double,
    highest,
    module,
    plain_options,
    up_first_rule,
)

BY_16 = "equal where sides are divisible by 16, and theirs takes no others"
FLOORED = "equal where sides are divisible by 16; elsewhere theirs rounds down, and this network rounds up"
NARROWED = "it has a 1×1 convolution after each up-sampling; no network of the zoo has that"
SIGMOID = "theirs ends in a sigmoid, and these are the logits before it"


def _sigmoid(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the task of a network that ends in a sigmoid: several classes are independent of each other."""
    return {"task": "multilabel"} if options["num_classes"] > 1 else {}


# https://github.com/milesial/Pytorch-UNet

MILESIAL = "milesial's U-Net"


def _milesial(state: State) -> list[Network]:
    downs = [f"down{k}.maxpool_conv.1" for k in range(1, 1 + highest(state, r"down(\d+)\."))]
    convolutions = [f"{name}.double_conv.0" for name in ("inc", *downs)]
    options = plain_options(MILESIAL, state, convolutions, "outc.conv")
    transposed = "up1.up.weight" in state
    if not transposed:
        middle, skip = (channels(state, f"{name}.double_conv.0")[0] for name in ("up1.conv", "down3.maxpool_conv.1"))
        if "doublings" not in options or middle != skip:
            raise UnfitError(
                f"{MILESIAL}, bilinear, of an early version", "its up-sampling steps are narrower than any here"
            )
        options["upsampling"] = "bilinear_aligned"
    biased = transposed or "inc.double_conv.0.bias" in state
    remark = "equal where sides are divisible by 16; elsewhere theirs rounds down and pads, and this network rounds up"
    return [Network("unet", {**options, "conv_bias": biased}, remark)]


def _milesial_rules() -> Iterator[Rule]:
    yield from double(r"inc\.double_conv\.", "encoder.levels.0", *SEQUENTIAL)
    for k in range(1, LEVELS):
        yield from double(rf"down{k}\.maxpool_conv\.1\.double_conv\.", f"encoder.levels.{k}", *SEQUENTIAL)
        yield module(rf"up{k}\.up", f"decoder.ups.{k - 1}.conv")
        yield up_first_rule(rf"up{k}\.conv\.double_conv\.0", f"decoder.convs.{k - 1}.body.0.conv")
        yield from double(rf"up{k}\.conv\.double_conv\.", f"decoder.convs.{k - 1}.body", *SEQUENTIAL)
    yield module(r"outc\.conv", "head.conv")


# https://github.com/mateuszbuda/brain-segmentation-pytorch

MATEUSZBUDA = "mateuszbuda's brain-segmentation U-Net"


def _mateuszbuda(state: State) -> list[Network]:
    levels = highest(state, r"encoder(\d+)\.")
    convolutions = [f"encoder{k}.enc{k}conv1" for k in range(1, levels + 1)]
    options = plain_options(MATEUSZBUDA, state, [*convolutions, "bottleneck.bottleneckconv1"], "conv")
    return [Network("unet", {**options, **_sigmoid(options), "conv_bias": True}, f"{BY_16}; {SIGMOID}")]


def _mateuszbuda_rules() -> Iterator[Rule]:
    names = ("conv1", "conv2"), ("norm1", "norm2")
    for k in range(1, LEVELS):
        yield from double(rf"encoder{k}\.enc{k}", f"encoder.levels.{k - 1}", *names)
        yield module(f"upconv{k}", f"decoder.ups.{LEVELS - 1 - k}.conv")
        yield from double(rf"decoder{k}\.dec{k}", f"decoder.convs.{LEVELS - 1 - k}.body", *names)
    yield from double(r"bottleneck\.bottleneck", f"encoder.levels.{LEVELS - 1}", *names)
    yield module("conv", "head.conv")


# https://github.com/jaxony/unet-pytorch

JAXONY = "jaxony's U-Net"


def _jaxony(state: State) -> list[Network]:
    levels = 1 + highest(state, r"down_convs\.(\d+)\.")
    options = plain_options(JAXONY, state, [f"down_convs.{k}.conv1" for k in range(levels)], "conv_final")
    if "up_convs.0.upconv.weight" not in state:
        raise UnfitError(f"{JAXONY}, up_mode='upsample'", NARROWED)
    made, given = channels(state, "up_convs.0.conv1")
    if given != 2 * made:
        raise UnfitError(f"{JAXONY}, merge_mode='add'", "it adds skip connections; the zoo concatenates them")
    return [Network("unet", {**options, "norm": None}, BY_16)]


def _jaxony_rules() -> Iterator[Rule]:
    for k in range(LEVELS):
        yield from double(rf"down_convs\.{k}\.", f"encoder.levels.{k}", NAMED[0])
        yield module(rf"up_convs\.{k}\.upconv", f"decoder.ups.{k}.conv")
        yield from double(rf"up_convs\.{k}\.", f"decoder.convs.{k}.body", NAMED[0])
    yield module("conv_final", "head.conv")


# https://github.com/jvanvugt/pytorch-unet

JVANVUGT = "jvanvugt's U-Net"


def _jvanvugt(state: State) -> list[Network]:
    levels = 1 + highest(state, r"down_path\.(\d+)\.")
    if "down_path.0.block.3.weight" in state:
        raise UnfitError(
            f"{JVANVUGT}, batch_norm=True", "its norms come after the ReLU; in the zoo they come before it"
        )
    options = plain_options(JVANVUGT, state, [f"down_path.{k}.block.0" for k in range(levels)], "last")
    if "up_path.0.up.weight" not in state:
        raise UnfitError(f"{JVANVUGT}, up_mode='upsample'", NARROWED)
    unpadded = "equal at all sizes that this network takes; at others theirs crops off centre, and this one refuses"
    padded = "equal where sides are divisible by 16; elsewhere theirs gives fewer pixels than the image has"
    averaging = "an early version with average pooling is another network, which no tensor shows"
    assumed = Assumption(
        ("name",), "created with padding=False, the default (give 'unet' if it was created with padding=True)"
    )
    return [
        Network("unet_valid", options, f"{unpadded}; {averaging}", (assumed,)),
        Network("unet", {**options, "norm": None}, f"{padded}; {averaging}"),
    ]


def _jvanvugt_rules() -> Iterator[Rule]:
    for k in range(LEVELS):
        yield from double(rf"down_path\.{k}\.block\.", f"encoder.levels.{k}", ("0", "2"))
        yield module(rf"up_path\.{k}\.up", f"decoder.ups.{k}.conv")
        yield from double(rf"up_path\.{k}\.conv_block\.block\.", f"decoder.convs.{k}.body", ("0", "2"))
    yield module("last", "head.conv")


# https://github.com/4uiiurz1/pytorch-nested-unet, https://github.com/bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets

NESTED = "4uiiurz1's and bigmb's NestedUNet"
NESTED_PLAIN = "4uiiurz1's U-Net"


def _nested_options(title: str, state: State, head: str) -> dict[str, Any]:
    levels = 1 + highest(state, r"conv(\d+)_0\.")
    options = plain_options(title, state, [f"conv{k}_0.conv1" for k in range(levels)], head)
    return {**options, "conv_bias": True, "upsampling": "bilinear_aligned"}


def _nested(state: State) -> list[Network]:
    deep = "final4.weight" in state
    options = _nested_options(NESTED, state, "final4" if deep else "final")
    return [Network("unetpp", {**options, "deep_supervision": deep}, BY_16)]


def _nested_plain(state: State) -> list[Network]:
    return [Network("unet", _nested_options(NESTED_PLAIN, state, "final"), BY_16)]


def _nested_rules() -> Iterator[Rule]:
    for i in range(LEVELS):
        yield from double(rf"conv{i}_0\.", f"encoder.levels.{i}", *NAMED)
        for j in range(1, LEVELS - i):
            yield from double(rf"conv{i}_{j}\.", f"decoder.nodes.x_{i}_{j}.conv.body", *NAMED)
    yield module("final4?", "head.conv")
    for j in range(1, LEVELS - 1):
        yield module(f"final{j}", f"deep_heads.{j - 1}.conv")


def _nested_plain_rules() -> Iterator[Rule]:
    for i in range(LEVELS):
        yield from double(rf"conv{i}_0\.", f"encoder.levels.{i}", *NAMED)
    for step, i in enumerate(reversed(range(LEVELS - 1))):
        theirs, ours = rf"conv{i}_{LEVELS - 1 - i}\.", f"decoder.convs.{step}.body"
        yield up_first_rule(f"{theirs}conv1", f"{ours}.0.conv")
        yield from double(theirs, ours, *NAMED)
    yield module("final", "head.conv")


# https://github.com/ZJUGiveLab/UNet-Version, https://github.com/avBuffer/UNet3plus_pth

FULL_SCALE = "ZJU's and avBuffer's UNet 3+"


def _full_scale(state: State) -> list[Network]:
    levels = highest(state, r"conv(\d+)\.")
    if "conv1.conv1.1.weight" not in state:
        raise UnfitError(f"{FULL_SCALE}, is_batchnorm=False", "it has norms in the decoder only")
    options = plain_options(FULL_SCALE, state, [f"conv{k}.conv1.0" for k in range(1, levels + 1)], "outconv1")
    options |= {
        **_sigmoid(options),
        "branch_channels": channels(state, "h1_Cat_hd1_conv")[0],
        "conv_bias": True,
        "deep_supervision": "outconv5.weight" in state,
    }
    remark = f"{BY_16}; {SIGMOID}"
    if "cls.1.weight" in state:
        remark += ", without its classification-guided module, which multiplies them by 0 or 1 and is left out"
    return [Network("unet3p", options, remark)]


def _full_scale_rules() -> Iterator[Rule]:
    for k in range(1, LEVELS + 1):
        yield from double(
            rf"conv{k}\.", f"encoder.levels.{k - 1}", (r"conv1\.0", r"conv2\.0"), (r"conv1\.1", r"conv2\.1")
        )
    for theirs, ours in (("conv", "conv"), ("bn", "norm")):
        for k in range(1, LEVELS + 1):
            yield Rule(
                rf"hd?{k}_(?:PT|Cat|UT)_hd(\d)_{theirs}\.(\w+)", rf"decoder.stages.d\1.branches.{k - 1}.{ours}.\2"
            )
        yield Rule(rf"{theirs}(\d)d_1\.(\w+)", rf"decoder.stages.d\1.fuse.body.{ours}.\2")
    yield module("outconv1", "head.conv")
    for k in range(2, LEVELS + 1):
        yield module(f"outconv{k}", f"deep_heads.{k - 2}.conv")
    yield Rule(r"cls\.1\.\w+", None)


# https://github.com/gyb357/UNet-Segmentation

GYB357 = "gyb357's"
GYB357_SHORTCUT = "its ResNet has no shortcut in blocks that do not change the size, which no encoder here has"


def _gyb357(title: str, name: str, state: State) -> list[Network]:
    if "e1.0.weight" in state:
        raise UnfitError(f"{title} on a ResNet", GYB357_SHORTCUT)
    levels = highest(state, r"e(\d+)\.")
    convolutions = [f"e{k}.conv.layers.0" if k < levels else f"e{k}.layers.0" for k in range(1, levels + 1)]
    options = plain_options(title, state, convolutions, "out.layers")
    options["conv_bias"] = f"{convolutions[0]}.bias" in state
    if name != "unet":
        options["branch_channels"] = channels(state, "out.layers")[1]
    remark = FLOORED
    if name == "unetpp_lite":
        remark += "; an early version that resampled all nodes to full size is another network, which no tensor shows"
    if "cgm_head.layers.0.weight" in state or "cgm_head.1.weight" in state:
        remark += "; without its classification-guided module, which multiplies the last map and is left out"
    return [Network(name, options, remark)]


def _gyb357_shared_rules() -> Iterator[Rule]:
    for k in range(1, LEVELS):
        yield from double(rf"e{k}\.conv\.layers\.", f"encoder.levels.{k - 1}", *SEQUENTIAL)
    yield from double(rf"e{LEVELS}\.layers\.", f"encoder.levels.{LEVELS - 1}", *SEQUENTIAL)
    yield module(r"out\.layers", "head.conv")
    yield Rule(r"(aux\d|aux_convs\.\d|cgm_head\.\d|cgm_head\.layers\.\d)\.\w+", None)


def _gyb357_unet_rules() -> Iterator[Rule]:
    yield from _gyb357_shared_rules()
    for k in range(1, LEVELS):
        yield module(rf"d{k}\.trans", f"decoder.ups.{k - 1}.conv")
        yield from double(rf"d{k}\.conv\.layers\.", f"decoder.convs.{k - 1}.body", *SEQUENTIAL)


def _gyb357_fusion_rules(theirs: str, ours: str) -> Iterator[Rule]:
    yield Rule(rf"{theirs}\.conv\.(\d)\.(\w+)", rf"{ours}.branches.\1.\2")
    yield from double(rf"{theirs}\.fusion\.layers\.", f"{ours}.fuse", *SEQUENTIAL)


def _gyb357_nested_rules() -> Iterator[Rule]:
    yield from _gyb357_shared_rules()
    for j in range(1, LEVELS):
        for i in range(LEVELS - j):
            yield from _gyb357_fusion_rules(f"d{i}{j}", f"decoder.nodes.x_{i}_{j}")


def _gyb357_full_scale_rules() -> Iterator[Rule]:
    yield from _gyb357_shared_rules()
    for k in range(1, LEVELS):
        yield from _gyb357_fusion_rules(f"d{k}", f"decoder.stages.d{LEVELS - k}")


def _gyb357_layout(kind: str, name: str, mark: str, rules: Iterable[Rule]) -> Layout:
    title = f"{GYB357} {kind}"
    return Layout(
        title=title,
        home="github.com/gyb357/UNet-Segmentation",
        marks=(r"e1\.(conv\.layers\.)?0\.weight", mark, r"out\.layers\.(\d\.)?weight"),
        networks=functools.partial(_gyb357, title, name),
        rules=tuple(rules),
        zero=r"head\.conv\.bias",
    )


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        title=MILESIAL,
        home="github.com/milesial/Pytorch-UNet",
        marks=(
            r"inc\.double_conv\.0\.weight",
            r"down1\.maxpool_conv\.1\.double_conv\.0\.weight",
            r"outc\.conv\.weight",
        ),
        networks=_milesial,
        rules=tuple(_milesial_rules()),
        zero=BLOCKS,
    ),
    Layout(
        title=MATEUSZBUDA,
        home="github.com/mateuszbuda/brain-segmentation-pytorch",
        marks=(r"encoder1\.enc1conv1\.weight", r"bottleneck\.bottleneckconv1\.weight"),
        networks=_mateuszbuda,
        rules=tuple(_mateuszbuda_rules()),
        zero=BLOCKS,
    ),
    Layout(
        title=JAXONY,
        home="github.com/jaxony/unet-pytorch",
        marks=(r"down_convs\.0\.conv1\.weight", r"conv_final\.weight"),
        networks=_jaxony,
        rules=tuple(_jaxony_rules()),
    ),
    Layout(
        title=JVANVUGT,
        home="github.com/jvanvugt/pytorch-unet",
        marks=(r"down_path\.0\.block\.0\.weight", r"last\.weight"),
        networks=_jvanvugt,
        rules=tuple(_jvanvugt_rules()),
    ),
    Layout(
        title=NESTED,
        home="github.com/4uiiurz1/pytorch-nested-unet, github.com/bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets",
        marks=(r"conv0_0\.conv1\.weight", r"conv0_1\.conv1\.weight", r"final4?\.weight"),
        networks=_nested,
        rules=tuple(_nested_rules()),
    ),
    Layout(
        title=NESTED_PLAIN,
        home="github.com/4uiiurz1/pytorch-nested-unet",
        marks=(r"conv0_0\.conv1\.weight", r"conv0_4\.conv1\.weight", r"final\.weight"),
        networks=_nested_plain,
        rules=tuple(_nested_plain_rules()),
    ),
    Layout(
        title=FULL_SCALE,
        home="github.com/ZJUGiveLab/UNet-Version, github.com/avBuffer/UNet3plus_pth",
        marks=(r"conv1\.conv1\.0\.weight", r"h1_Cat_hd1_conv\.weight", r"outconv1\.weight"),
        networks=_full_scale,
        rules=tuple(_full_scale_rules()),
    ),
    _gyb357_layout("U-Net", "unet", r"d1\.trans\.weight", _gyb357_unet_rules()),
    _gyb357_layout("UNet2Plus", "unetpp_lite", r"d01\.fusion\.layers\.0\.weight", _gyb357_nested_rules()),
    _gyb357_layout("UNet3Plus", "unet3p_lite", r"d1\.fusion\.layers\.0\.weight", _gyb357_full_scale_rules()),
)
"""The layouts of this module."""
