"""Public U-Nets, written anew from their structure: the names, shapes and order of layers are theirs, the code is not.

``c`` is the channels of the finest map, which is 64 or 32 as published.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def stack(*channels: int, bias: bool = True, norm: bool = True, padding: int = 1) -> nn.Sequential:
    """3×3 convolutions, each with norm and ReLU."""
    layers: list[nn.Module] = []
    for given, made in pairwise(channels):
        layers.append(nn.Conv2d(given, made, 3, padding=padding, bias=bias))
        layers += [nn.BatchNorm2d(made), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*layers)


def holder(**modules: nn.Module) -> nn.Module:
    """A module with these children, and nothing to do."""
    held = nn.Module()
    for name, module in modules.items():
        setattr(held, name, module)
    return held


def joined(*maps: Tensor) -> Tensor:
    return torch.cat(maps, dim=1)


def doubled(x: Tensor, aligned: bool = False, scale: int = 2) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=aligned)


class Milesial(nn.Module):
    """Skip connections come first; sizes that do not divide are rounded down, and padded on the way up.

    Until 2021 all convolutions had a bias.
    """

    def __init__(
        self, c: int = 8, inputs: int = 3, classes: int = 2, bilinear: bool = False, levels: int = 5, bias: bool = False
    ) -> None:
        super().__init__()
        self.steps = range(1, levels)
        widths = [c * 2**k for k in range(levels)]
        if bilinear:
            widths[-1] //= 2
        self.inc = holder(double_conv=stack(inputs, c, c, bias=bias))
        for k in self.steps:
            pair = stack(widths[k - 1], widths[k], widths[k], bias=bias)
            setattr(self, f"down{k}", holder(maxpool_conv=nn.Sequential(nn.MaxPool2d(2), holder(double_conv=pair))))
        for k in self.steps:
            skip = widths[-1 - k]
            if bilinear:
                conv = stack(2 * skip, skip, skip // 2 if k < levels - 1 else skip, bias=bias)
                up = holder(conv=holder(double_conv=conv))
            else:
                conv = holder(double_conv=stack(2 * skip, skip, skip, bias=bias))
                up = holder(up=nn.ConvTranspose2d(2 * skip, skip, 2, stride=2), conv=conv)
            setattr(self, f"up{k}", up)
        self.outc = holder(conv=nn.Conv2d(c, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.inc.double_conv(x)]
        for k in self.steps:
            pool, block = getattr(self, f"down{k}").maxpool_conv
            maps.append(block.double_conv(pool(maps[-1])))
        x = maps.pop()
        for k in self.steps:
            step, skip = getattr(self, f"up{k}"), maps.pop()
            x = step.up(x) if hasattr(step, "up") else doubled(x, aligned=True)
            high, wide = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
            x = step.conv.double_conv(joined(skip, x))
        return self.outc.conv(x)


class MateuszBuda(nn.Module):
    """Ends in a sigmoid, which is left out here."""

    def __init__(self, c: int = 8, inputs: int = 3, classes: int = 1) -> None:
        super().__init__()

        def block(name: str, given: int, made: int) -> nn.Sequential:
            layers = nn.Sequential()
            for k, width in ((1, given), (2, made)):
                layers.add_module(f"{name}conv{k}", nn.Conv2d(width, made, 3, padding=1, bias=False))
                layers.add_module(f"{name}norm{k}", nn.BatchNorm2d(made))
                layers.add_module(f"{name}relu{k}", nn.ReLU())
            return layers

        for k in range(1, 5):
            width = c * 2 ** (k - 1)
            setattr(self, f"encoder{k}", block(f"enc{k}", inputs if k == 1 else width // 2, width))
            setattr(self, f"upconv{k}", nn.ConvTranspose2d(2 * width, width, 2, stride=2))
            setattr(self, f"decoder{k}", block(f"dec{k}", 2 * width, width))
        self.bottleneck = block("bottleneck", 8 * c, 16 * c)
        self.conv = nn.Conv2d(c, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for k in range(1, 5):
            maps.append(getattr(self, f"encoder{k}")(x))
            x = F.max_pool2d(maps[-1], 2)
        x = self.bottleneck(x)
        for k in (4, 3, 2, 1):
            x = getattr(self, f"decoder{k}")(joined(getattr(self, f"upconv{k}")(x), maps[k - 1]))
        return self.conv(x)


class Jaxony(nn.Module):
    def __init__(self, c: int = 8, inputs: int = 3, classes: int = 3, levels: int = 5, form: str = "") -> None:
        super().__init__()
        widths = [inputs, *(c * 2**k for k in range(levels))]

        def pair(given: int, made: int) -> dict[str, nn.Module]:
            return {"conv1": nn.Conv2d(given, made, 3, padding=1), "conv2": nn.Conv2d(made, made, 3, padding=1)}

        def up(width: int) -> nn.Module:
            if form == "upsample":
                return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2 * width, width, 1))
            return nn.ConvTranspose2d(2 * width, width, 2, stride=2)

        pairs = pairwise(widths)
        self.down_convs = nn.ModuleList(holder(**pair(given, made)) for given, made in pairs)
        self.up_convs = nn.ModuleList(
            holder(upconv=up(width), **pair(width if form == "add" else 2 * width, width)) for width in widths[-2:0:-1]
        )
        self.conv_final = nn.Conv2d(c, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for block in self.down_convs:
            maps.append(block.conv2(block.conv1(F.max_pool2d(maps[-1], 2) if maps else x).relu()).relu())
        x = maps.pop()
        for block in self.up_convs:
            x = block.conv2(block.conv1(joined(block.upconv(x), maps.pop())).relu()).relu()
        return self.conv_final(x)


class Jvanvugt(nn.Module):
    def __init__(
        self, c: int = 4, inputs: int = 1, classes: int = 2, levels: int = 5, padding: int = 0, norm: bool = False
    ) -> None:
        super().__init__()
        widths = [inputs, *(c * 2**k for k in range(levels))]

        def block(given: int, made: int) -> nn.Module:
            layers = stack(given, made, made, norm=False, padding=padding)
            if norm:  # behind the ReLU
                layers = nn.Sequential(*layers[:2], nn.BatchNorm2d(made), *layers[2:], nn.BatchNorm2d(made))
            return holder(block=layers)

        self.down_path = nn.ModuleList(block(given, made) for given, made in pairwise(widths))
        self.up_path = nn.ModuleList(
            holder(up=nn.ConvTranspose2d(2 * width, width, 2, stride=2), conv_block=block(2 * width, width))
            for width in widths[-2:0:-1]
        )
        self.last = nn.Conv2d(c, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for step in self.down_path:
            maps.append(step.block(F.max_pool2d(maps[-1], 2) if maps else x))
        x = maps.pop()
        for step in self.up_path:
            x, skip = step.up(x), maps.pop()
            top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
            x = step.conv_block.block(joined(x, skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]))
        return self.last(x)


class Nested(nn.Module):
    """The full triangle, or of U-Net's path alone (``nested=False``), whose skip connections come first too."""

    def __init__(self, c: int = 8, inputs: int = 3, classes: int = 1, deep: bool = False, nested: bool = True) -> None:
        super().__init__()
        self.nested = nested
        for i in range(5):
            for j in range(5 - i) if nested else {0, 4 - i}:
                width = c * 2**i
                given = (width // 2 if i else inputs) if j == 0 else (j if nested else 1) * width + 2 * width
                first, second = nn.Conv2d(given, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
                block = holder(conv1=first, bn1=nn.BatchNorm2d(width), conv2=second, bn2=nn.BatchNorm2d(width))
                setattr(self, f"conv{i}_{j}", block)
        self.heads = [f"final{j}" for j in range(1, 5)] if deep else ["final"]
        for head in self.heads:
            setattr(self, head, nn.Conv2d(c, classes, 1))

    def block(self, i: int, j: int, x: Tensor) -> Tensor:
        block = getattr(self, f"conv{i}_{j}")
        return block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu()

    def forward(self, x: Tensor) -> list[Tensor]:
        rows: list[list[Tensor]] = []
        for i in range(5):
            rows.append([self.block(i, 0, F.max_pool2d(rows[-1][0], 2) if rows else x)])
        for j in range(1, 5):
            for i in range(5 - j) if self.nested else [4 - j]:
                rows[i].append(self.block(i, j, joined(*rows[i], doubled(rows[i + 1][-1], aligned=True))))
        if len(self.heads) == 1:
            return [self.final(rows[0][-1])]
        return [getattr(self, head)(row) for head, row in zip(self.heads, rows[0][1:], strict=True)]


class FullScale(nn.Module):
    """UNet 3+; ends in sigmoids, which are left out here."""

    def __init__(self, c: int = 8, inputs: int = 3, deep: bool = False, guided: bool = False) -> None:
        super().__init__()
        widths = [inputs, *(c * 2**k for k in range(5))]
        for k in range(1, 6):
            first, second = stack(widths[k - 1], widths[k]), stack(widths[k], widths[k])
            setattr(self, f"conv{k}", holder(conv1=first, conv2=second))
        for d in (4, 3, 2, 1):
            for s in range(1, 6):
                given = 5 * c if d < s < 5 else widths[s]
                setattr(self, f"{self.branch(s, d)}_conv", nn.Conv2d(given, c, 3, padding=1))
                setattr(self, f"{self.branch(s, d)}_bn", nn.BatchNorm2d(c))
            setattr(self, f"conv{d}d_1", nn.Conv2d(5 * c, 5 * c, 3, padding=1))
            setattr(self, f"bn{d}d_1", nn.BatchNorm2d(5 * c))
        self.heads = range(1, 6 if deep else 2)
        for d in self.heads:
            setattr(self, f"outconv{d}", nn.Conv2d(widths[5] if d == 5 else 5 * c, 1, 3, padding=1))
        if guided:
            self.cls = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(16 * c, 2, 1), nn.AdaptiveMaxPool2d(1), nn.Sigmoid())

    @staticmethod
    def branch(s: int, d: int) -> str:
        return f"h{s}_PT_hd{d}" if s < d else f"h{s}_Cat_hd{d}" if s == d else f"hd{s}_UT_hd{d}"

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for k in range(1, 6):
            block = getattr(self, f"conv{k}")
            maps.append(block.conv2(block.conv1(F.max_pool2d(maps[-1], 2) if maps else x)))
        for d in (4, 3, 2, 1):
            branches = []
            for s, source in enumerate(maps, 1):
                ratio = 2 ** abs(s - d)
                if s < d:
                    source = F.max_pool2d(source, ratio, ratio, ceil_mode=True)
                elif s > d:
                    source = doubled(source, scale=ratio)
                name = self.branch(s, d)
                branches.append(getattr(self, f"{name}_bn")(getattr(self, f"{name}_conv")(source)).relu())
            maps[d - 1] = getattr(self, f"bn{d}d_1")(getattr(self, f"conv{d}d_1")(joined(*branches))).relu()
        heads = [getattr(self, f"outconv{d}")(maps[d - 1]) for d in self.heads]
        return [heads[0], *(doubled(head, scale=2**k) for k, head in enumerate(heads[1:], 1))]


class Gyb357(nn.Module):
    """Its three: ``form`` is "unet", "nested" or "full scale"."""

    def __init__(self, form: str, c: int = 8, inputs: int = 3, classes: int = 2, bias: bool = False) -> None:
        super().__init__()
        self.form = form
        widths = [c * 2**k for k in range(5)]

        def double(given: int, made: int) -> nn.Module:
            return holder(layers=stack(given, made, made, bias=bias))

        def fusion(*given: int) -> nn.Module:
            convs = nn.ModuleList(nn.Conv2d(width, c, 1, bias=bias) for width in given)
            return holder(conv=convs, fusion=double(c * len(given), c))

        for k, (given, made) in enumerate(zip([inputs, *widths], widths, strict=False), 1):
            setattr(self, f"e{k}", double(given, made) if k == 5 else holder(conv=double(given, made)))
        if form == "unet":
            for k, width in enumerate(widths[-2::-1], 1):
                up = nn.ConvTranspose2d(2 * width, width, 2, stride=2, bias=bias)
                setattr(self, f"d{k}", holder(trans=up, conv=double(2 * width, width)))
        elif form == "nested":
            for j in range(1, 5):
                for i in range(5 - j):
                    below = widths[i + 1] if j == 1 else c
                    setattr(self, f"d{i}{j}", fusion(widths[i], *[c] * (j - 1), below))
            self.aux1 = nn.Conv2d(c, classes, 1, bias=bias)
        else:
            sources = list(widths)
            for k in range(1, 5):
                setattr(self, f"d{k}", fusion(*sources))
                sources[4 - k] = c
        self.out = holder(layers=nn.Conv2d(c, classes, 1, bias=bias))

    def fused(self, name: str, maps: Iterable[Tensor], size: torch.Size) -> Tensor:
        block, branches = getattr(self, name), []
        for conv, x in zip(block.conv, maps, strict=True):
            if x.shape[2] > size[0]:
                x = F.adaptive_max_pool2d(x, size)
            elif x.shape[2] < size[0]:
                x = F.interpolate(x, size=size, mode="bilinear")
            branches.append(conv(x))
        return block.fusion.layers(joined(*branches))

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for k in range(1, 6):
            block = getattr(self, f"e{k}")
            maps.append((block if k == 5 else block.conv).layers(F.max_pool2d(maps[-1], 2) if maps else x))
        if self.form == "unet":
            x = maps.pop()
            for k in range(1, 5):
                step = getattr(self, f"d{k}")
                x = step.conv.layers(joined(step.trans(x), maps.pop()))
        elif self.form == "nested":
            rows = [[x] for x in maps]
            for j in range(1, 5):
                for i in range(5 - j):
                    rows[i].append(self.fused(f"d{i}{j}", [*rows[i], rows[i + 1][-1]], rows[i][0].shape[2:]))
            x = rows[0][-1]
        else:
            for k in range(1, 5):
                maps[4 - k] = self.fused(f"d{k}", maps, maps[4 - k].shape[2:])
            x = maps[0]
        return self.out.layers(x)
