"""Every network of the zoo, written out as the formulas of its paper.

Nothing here calls the zoo's forward code: weights are read by name, and all else is ``torch.nn.functional``. The
maps of torchvision's encoders are what its own network computes on its way. This is also the plain way, every map at
full size and every concatenation built, that ``examples/benchmarks/speed.py`` measures the zoo against.

Batch norms are in the mode that the model is in. Default options; besides these ``upsampling``, ``num_classes``,
``in_channels``, ``base_channels``, ``stem_stride``, ``attention``, ``norm`` "batch" or None, ``conv_bias``, deep
supervision, and UNet++'s ``levels`` and ``output``. Classification guidance is left out: logits are ungated.

``DECODERS`` and ``ENCODERS`` at the end say of which parts there is a reference. A new part needs none; where it has
one, the tests of ``test_architectures.py`` take it from there.

Notation: w weights by name; e the encoder's maps, finest first, so that e[k - 1] is e_k in the papers that count from
1; s their strides; size the images' height and width. A decoder returns features: the main one, then one for each
deep-supervision head there may be. Gradients flow to the model's parameters.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import count

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from unetzoo import ModelConfig

Size = Sequence[int]
Node = Callable[[str, Sequence[Tensor], Tensor], Tensor]


class Weights(dict[str, Tensor]):
    """Parameters and buffers of a module by name.

    Attributes:
        training: whether batch norms take the batch's statistics, and count it in their own.
        upsampling: how maps go up where there is no transposed convolution.
    """

    def __init__(self, module: nn.Module, upsampling: str = "nearest") -> None:
        super().__init__({**dict(module.named_parameters()), **dict(module.named_buffers())})
        self.training = module.training
        self.upsampling = upsampling


VALID_CROPS = (4, 16, 40, 88)
"""Pixels cut from each side of the skip connections of the 2015 U-Net, deepest first (its figure 1)."""

BORDER = 92
"""Pixels it costs on each side: 572 - 388 is twice that."""


def reference_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits that ``model(images)`` should give."""
    main, *deep = reference_outputs(model, images)
    if getattr(model.config.decoder_options, "output", "last") == "average":
        return torch.stack([main, *deep]).mean(dim=0)
    return main


def reference_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the logits of the main head, then those of each deep-supervision head, in the documented order."""
    w = Weights(model, getattr(model.config.decoder_options, "upsampling", None) or "nearest")
    if model.config.decoder == "unet_valid":  # which is a whole network: its maps are those of unpadded convolutions
        return [unet_valid(w, images)]
    size = images.shape[-2:]
    features = DECODERS[model.config.decoder](w, encoder_maps(model, images), size, strides(model))
    heads = ["head", *(f"deep_heads.{k}" for k in range(len(features) - 1))]
    return [
        bilinear(conv(w, f"{head}.conv", feature), size)
        for head, feature in zip(heads, features, strict=True)
        if f"{head}.conv.weight" in w
    ]


# Layers


def conv(w: Weights, name: str, x: Tensor, padded: bool = True) -> Tensor:
    """k×k convolution, with a bias where there is one."""
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2 if padded else 0)


def conv_norm_relu(w: Weights, name: str, x: Tensor, padded: bool = True) -> Tensor:
    """3×3 convolution → batch norm, where there is one → ReLU."""
    x = conv(w, f"{name}.conv", x, padded)
    if f"{name}.norm.weight" in w:
        mean, var, gain, shift = (w[f"{name}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, mean, var, gain, shift, w.training, momentum=0.1, eps=1e-5)
    return F.relu(x, inplace=True)


def double_conv(w: Weights, name: str, x: Tensor, padded: bool = True) -> Tensor:
    """DC: two times 3×3 convolution → norm → ReLU."""
    return conv_norm_relu(w, f"{name}.1", conv_norm_relu(w, f"{name}.0", x, padded), padded)


def up_conv(w: Weights, name: str, x: Tensor, size: Size) -> Tensor:
    """Transposed convolution, kernel = stride, cut to ``size`` at the lower right; without a weight, resampling."""
    if f"{name}.weight" not in w:
        return RESAMPLINGS[w.upsampling](x, size)
    weight = w[f"{name}.weight"]
    x = F.conv_transpose2d(x, weight, w.get(f"{name}.bias"), stride=weight.shape[-1])
    return x[:, :, : size[0], : size[1]]


def bilinear(x: Tensor, size: Size) -> Tensor:
    """Bilinear up-sampling to ``size``; the identity where ``x`` has that size."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def nearest(x: Tensor, size: Size) -> Tensor:
    """Nearest up-sampling to ``size``; the identity where ``x`` has that size."""
    return F.interpolate(x, size=tuple(size), mode="nearest")


def bilinear_aligned(x: Tensor, size: Size) -> Tensor:
    """Bilinear up-sampling to ``size`` with the outermost pixels' centres on each other."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


RESAMPLINGS = {"nearest": nearest, "bilinear": bilinear, "bilinear_aligned": bilinear_aligned}


def pool(x: Tensor, ratio: int) -> Tensor:
    """Max-pool, kernel = stride = ``ratio``, size rounded up."""
    return F.max_pool2d(x, ratio, ratio, ceil_mode=True)


# Encoders


def encoder_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the maps of ``model``'s encoder, finest first."""
    return ENCODERS[model.config.encoder](Weights(model.encoder), model.config, images)


def strides(model: nn.Module) -> tuple[int, ...]:
    """Return the strides of the encoder's maps."""
    if model.config.encoder == "plain":
        return (1, 2, 4, 8, 16)
    stem_stride = getattr(model.config.encoder_options, "stem_stride", 4)
    return {4: (2, 4, 8, 16, 32), 2: (2, 2, 4, 8, 16), 1: (1, 1, 2, 4, 8)}[stem_stride]


def plain_maps(w: Weights, config: ModelConfig, images: Tensor) -> list[Tensor]:
    """e_1 = DC(images), e_(k+1) = DC(pool(e_k))."""
    e = [double_conv(w, "levels.0", images)]
    while f"levels.{len(e)}.0.conv.weight" in w:
        e.append(double_conv(w, f"levels.{len(e)}", pool(e[-1], 2)))
    return e


def resnet_maps(w: Weights, config: ModelConfig, images: Tensor) -> list[Tensor]:
    """Return what torchvision's network computes after relu, layer1, …, layer4, as far as there are weights."""
    arch, stem_stride = config.encoder, config.encoder_options.stem_stride
    layers = tuple(f"layer{k}" for k in range(1, 5) if f"layer{k}.0.conv1.weight" in w)
    net = skeleton(arch, stem_stride, "conv1.bias" in w, layers).train(w.training)
    run = partial(torch.func.functional_call, net, dict(w), (images,), strict=True)
    return intermediate_maps(net, ["relu", *layers], run)


@cache
def skeleton(arch: str, stem_stride: int, biased: bool, layers: Sequence[str]) -> nn.Module:
    """Return torchvision's network without weights, classifier, and layers other than ``layers``."""
    with torch.device("meta"):
        net = torchvision_resnet(arch, stem_stride, biased)
    for name in {"layer1", "layer2", "layer3", "layer4", "fc"}.difference(layers):
        setattr(net, name, nn.Identity())
    return net


def torchvision_resnet(arch: str, stem_stride: int = 4, biased: bool = False) -> nn.Module:
    """Return torchvision's network: without its max-pool at stem strides 2 and 1, conv1 at stride 1 at 1.

    Args:
        biased: no batch norm, but a bias in each convolution.
    """
    norm = (lambda channels: nn.Identity()) if biased else None
    net = torchvision.models.get_model(arch, weights=None, norm_layer=norm)
    if stem_stride < 4:
        net.maxpool = nn.Identity()
    if stem_stride == 1:
        net.conv1.stride = (1, 1)
    for module in net.modules() if biased else ():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(module.weight.new_empty(module.out_channels))
    return net


LAST = {
    "mobilenet_v3_large": (1, 3, 6, 12, 16),
    "efficientnet_b0": (1, 2, 3, 5, 7),
    "efficientnet_b3": (1, 2, 3, 5, 7),
    "efficientnet_v2_s": (1, 2, 3, 5, 6),
}
"""Number in torchvision's ``features`` of the last module at strides 2, 4, 8, 16 and 32, expansions to the classifier
of EfficientNets left out."""


def features_maps(w: Weights, config: ModelConfig, images: Tensor) -> list[Tensor]:
    """Return what torchvision's network computes on its way through ``features``, as far as there are weights."""
    there = {int(name.split(".")[1]) for name in w}
    net = body(config.encoder, "features.0.1.weight" not in w, len(there)).train(w.training)
    run = partial(torch.func.functional_call, net, dict(w), (images,), strict=True)
    return intermediate_maps(net, [f"features.{number}" for number in LAST[config.encoder] if number in there], run)


@cache
def body(arch: str, biased: bool, length: int) -> nn.Module:
    """Return the first modules of ``features`` of torchvision's network, without weights.

    Args:
        biased: no batch norm, but a bias in each convolution.
    """
    with torch.device("meta"):
        features = torchvision.models.get_model(arch, weights=None).features[:length]
        for module in features.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # of MobileNetV3 it is 0.01, which lags behind in short trainings
    for name, module in list(features.named_modules()) if biased else ():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(module.weight.new_empty(module.out_channels))
        if isinstance(module, nn.BatchNorm2d):
            features.set_submodule(name, nn.Identity())
    net = nn.Sequential()
    net.add_module("features", features)
    return net


def intermediate_maps(net: nn.Module, names: Sequence[str], run: Callable[[], object]) -> list[Tensor]:
    """Return the outputs of the modules ``names`` of ``net`` during ``run()``."""
    seen: dict[str, Tensor] = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda module, inputs, out, name=name: seen.update({name: out}))
        for name in names
    ]
    run()
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in names]


# U-Net: arXiv 1505.04597


def unet_valid(w: Weights, images: Tensor) -> Tensor:
    """Figure 1: unpadded convolutions; skip connections cropped by 4, 16, 40 and 88 on each side."""
    e = [double_conv(w, "encoder.levels.0", images, padded=False)]
    for k in range(1, 5):
        e.append(double_conv(w, f"encoder.levels.{k}", F.max_pool2d(e[-1], 2), padded=False))
    x = e[4]
    for step, (skip, cut) in enumerate(zip((e[3], e[2], e[1], e[0]), VALID_CROPS, strict=True)):
        up = up_conv(w, f"decoder.ups.{step}.conv", x, (2 * x.shape[2], 2 * x.shape[3]))
        skip = skip[:, :, cut : skip.shape[2] - cut, cut : skip.shape[3] - cut]
        x = double_conv(w, f"decoder.convs.{step}.body", torch.cat([up, skip], dim=1), padded=False)
    return conv(w, "head.conv", x)


def valid_size(side: int) -> int:
    """Return the smallest valid size, 16 k + 60 from 188 up, whose logits cover ``side`` pixels."""
    return next(size for size in count(188, 16) if size - 2 * BORDER >= side)


def unet(w: Weights, e: Sequence[Tensor], size: Size, s: Sequence[int]) -> list[Tensor]:
    """d_k = DC([up(d_(k+1)), e_k]) with d_5 = e_5; features d_1, …, d_4.

    On a ResNet d_1 goes up once more, by a transposed convolution. With gates, e_k is gate(e_k, d_(k+1)) but for e_1.
    """
    d = [e[4]]
    for step, skip in enumerate((e[3], e[2], e[1], e[0])):
        up = up_conv(w, f"decoder.ups.{step}.conv", d[0], skip.shape[-2:])
        if f"decoder.gates.{step}.psi.weight" in w:
            skip = gate(w, f"decoder.gates.{step}", skip, d[0])
        d.insert(0, double_conv(w, f"decoder.convs.{step}.body", torch.cat([up, skip], dim=1)))
    ended = "decoder.last.conv.weight" not in w and d[0].shape[-2:] == size
    main = d[0] if ended else up_conv(w, "decoder.last.conv", d[0], size)
    return [main, *d[1:4]]


def gate(w: Weights, name: str, x: Tensor, g: Tensor) -> Tensor:
    """arXiv 1804.03999, equations 1 and 2: alpha x, alpha = up(sigmoid(psi ReLU(W_x x + W_g g + b_g) + b_psi))."""
    taps = w[f"{name}.skip.weight"]
    scale = taps.shape[-1]
    rows, columns = (scale * -(-side // scale) for side in x.shape[-2:])
    whole = x.new_zeros(*x.shape[:2], rows, columns)
    whole[:, :, : x.shape[2], : x.shape[3]] = x
    q = (
        torch.einsum("ic,nchw->nihw", w[f"{name}.gating.weight"][:, :, 0, 0], g)
        + w[f"{name}.gating.bias"][:, None, None]
    )
    for a in range(scale):
        for b in range(scale):
            q = q + torch.einsum("ic,nchw->nihw", taps[:, :, a, b], whole[:, :, a::scale, b::scale])
    q = torch.einsum("i,nihw->nhw", w[f"{name}.psi.weight"][0, :, 0, 0], F.relu(q)) + w[f"{name}.psi.bias"]
    alpha = 1 / (1 + torch.exp(-q))
    return x * bilinear(alpha[:, None], x.shape[-2:])


# UNet++: arXiv 1807.10165


def unetpp(w: Weights, e: Sequence[Tensor], size: Size, s: Sequence[int]) -> list[Tensor]:
    """X_i,j = DC([X_i,0, …, X_i,(j-1), up(X_(i+1),(j-1))]) with X_i,0 = e[i]; features X_0,L, X_0,1, …, X_0,(L-1).

    up: a transposed convolution on the plain encoder, nearest on a ResNet, where each X_0,j goes through one more
    double convolution at the image's size.
    """

    def node(name: str, row: Sequence[Tensor], below: Tensor) -> Tensor:
        to = row[0].shape[-2:]
        up = up_conv(w, f"{name}.up.conv", below, to)
        return double_conv(w, f"{name}.conv.body", torch.cat([*row, up], dim=1))

    def end(name: str, x: Tensor) -> Tensor:
        return double_conv(w, f"{name}.conv", nearest(x, size)) if f"{name}.conv.0.conv.weight" in w else x

    return [end(f"decoder.ends.x_0_{j}", x) for j, x in triangle(w, e, node)]


def unetpp_lite(w: Weights, e: Sequence[Tensor], size: Size, s: Sequence[int]) -> list[Tensor]:
    """UNet++'s triangle; up is bilinear, each source goes through its own 1×1 convolution.

    On a ResNet each X_0,j goes up once more, by a transposed convolution.
    """

    def node(name: str, row: Sequence[Tensor], below: Tensor) -> Tensor:
        return light_fusion(w, name, [*row, bilinear(below, row[0].shape[-2:])])

    def end(name: str, x: Tensor) -> Tensor:
        return up_conv(w, f"{name}.conv", x, size) if f"{name}.conv.weight" in w else x

    return [end(f"decoder.ends.x_0_{j}", x) for j, x in triangle(w, e, node)]


def triangle(w: Weights, e: Sequence[Tensor], node: Node) -> list[tuple[int, Tensor]]:
    """Return (j, X_0,j) of the full triangle over e: the last, which is the main one, then those with a head."""
    last = len(e) - 1
    x = {(i, 0): e[i] for i in range(last + 1)}
    for j in range(1, last + 1):
        for i in range(last + 1 - j):
            x[i, j] = node(f"decoder.nodes.x_{i}_{j}", [x[i, k] for k in range(j)], x[i + 1, j - 1])
    supervised = range(1, last) if "deep_heads.0.conv.weight" in w else ()
    return [(j, x[0, j]) for j in (last, *supervised)]


# UNet 3+: arXiv 2004.08790


def unet3p(w: Weights, e: Sequence[Tensor], size: Size, s: Sequence[int]) -> list[Tensor]:
    """d_k = C([C(pool(e_1)), …, C(e_k), C(up(d_(k+1))), …, C(up(e_5))]), C = 3×3 convolution → norm → ReLU.

    Features d_1, d_2, d_3, d_4, e_5.
    """
    d = list(e)
    for k in (3, 2, 1, 0):
        stage = f"decoder.stages.d{k + 1}"
        sources = [pool(e[i], s[k] // s[i]) for i in range(k)] + [e[k]]
        sources += [bilinear(d[i], e[k].shape[-2:]) for i in range(k + 1, 5)]
        branches = [conv_norm_relu(w, f"{stage}.branches.{i}", source) for i, source in enumerate(sources)]
        d[k] = conv_norm_relu(w, f"{stage}.fuse.body", torch.cat(branches, dim=1))
    return d


def unet3p_lite(w: Weights, e: Sequence[Tensor], size: Size, s: Sequence[int]) -> list[Tensor]:
    """UNet 3+'s wiring; down is adaptive max-pooling, each source goes through its own 1×1 convolution.

    On a ResNet d_1 goes up once more, by a transposed convolution.
    """
    d = list(e)
    for k in (3, 2, 1, 0):
        to = e[k].shape[-2:]
        sources = [F.adaptive_max_pool2d(e[i], to) for i in range(k + 1)]
        sources += [bilinear(d[i], to) for i in range(k + 1, 5)]
        d[k] = light_fusion(w, f"decoder.stages.d{k + 1}", sources)
    main = up_conv(w, "decoder.end.conv", d[0], size) if "decoder.end.conv.weight" in w else d[0]
    return [main, *d[1:]]


def light_fusion(w: Weights, name: str, sources: Sequence[Tensor]) -> Tensor:
    """DC([1×1 convolution of each source])."""
    branches = [conv(w, f"{name}.branches.{i}", source) for i, source in enumerate(sources)]
    return double_conv(w, f"{name}.fuse", torch.cat(branches, dim=1))


RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
ENCODERS = {"plain": plain_maps, **dict.fromkeys(RESNETS, resnet_maps), **dict.fromkeys(LAST, features_maps)}
DECODERS = {
    "unet": unet,
    "unetpp": unetpp,
    "unetpp_lite": unetpp_lite,
    "unet3p": unet3p,
    "unet3p_lite": unet3p_lite,
}


def has_reference(decoder: str, encoder: str) -> bool:
    """Return whether the network of that decoder on that encoder is written out here."""
    return encoder in ENCODERS and (decoder in DECODERS or decoder == "unet_valid")
