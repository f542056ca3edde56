"""How far a network looks, and how much memory it needs: both decide the size and overlap of tiles."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from unetzoo.checks import ratio
from unetzoo.config import ModelConfig
from unetzoo.costs.living import LiveBytes
from unetzoo.decoders.smp import ChannelsAndPixels
from unetzoo.folding import OptimizedModel
from unetzoo.model import SegmentationModel
from unetzoo.nn.gates import AttentionGate
from unetzoo.nn.layers import InstanceNorm2d, Upsample
from unetzoo.nn.resampling import resize

LARGEST = 8192
"""Size in pixels, up to which the search for a limited reach continues."""


def reach(config: ModelConfig, *, heads: bool = False) -> int | None:
    """Return how far from a block of stride × stride pixels a network's logits can depend on it, in pixels.

    Found by experiment: the block is changed, and the logits that change are found. The network has positive weights,
    so that nothing cancels out and no ReLU hides a change.

    Args:
        config: configuration of the network.
        heads: whether to include the logits of all heads of deep supervision.

    Returns:
        None for a network that looks at the whole image: group and instance norm, scSE, squeeze-excitation, the
        classification-guided module, and up-sampling with corners aligned, whose positions depend on the image's size.
    """
    if config.classification_guided:
        return None
    found = _measured(config.replace(resize=1.0), heads)
    if found is None or config.resize == 1:
        return found
    # Interpolation in each direction looks at a neighbour or, if antialiased, at all pixels that a pixel covers.
    return math.ceil((found + 2 + 2 * max(1.0, config.resize)) / float(ratio(config.resize)))


@functools.lru_cache(maxsize=64)
def _measured(config: ModelConfig, heads: bool) -> int | None:
    probe = _positive(SegmentationModel(config))
    if any(map(_looks_at_all, probe.modules())):
        return None
    stride, border, blocks = probe.encoder.strides[-1], probe.decoder.border, 24
    while True:
        side, other = (probe.decoder.input_side(count * stride) for count in (blocks, 1))
        images = torch.zeros(4, config.in_channels, side, other, dtype=torch.float64)
        # On zeros even the faintest change shows; on noise a mean of the whole image shows as well.
        images[2:] = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        first = blocks // 2 * stride
        images[1::2, :, first + border : first + border + stride] += 1
        # Autocast, which is on in mixed-precision training, would round the changes away.
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            logits = probe(images)
            if heads:
                outputs = probe.training_outputs(images)
                logits = torch.cat([logits, outputs.logits, *outputs.deep], dim=1)
        rows = (logits[::2] != logits[1::2]).any(dim=3).any(dim=1).any(dim=0).nonzero()[:, 0]
        low, high = int(rows[0]), int(rows[-1]) + 1
        if low >= stride and high <= side - 2 * border - stride:
            return max(first - low, high - first - stride, 0)
        if blocks * stride >= LARGEST:
            return None
        blocks *= 2


def _looks_at_all(module: nn.Module) -> bool:
    aligned = isinstance(module, Upsample) and module.mode == "bilinear_aligned"
    return aligned or isinstance(module, nn.GroupNorm | InstanceNorm2d | ChannelsAndPixels | nn.AdaptiveAvgPool2d)


class _AddedGate(nn.Module):
    """An attention gate that adds its scores: a product with zero, or a saturated sigmoid, would hide them."""

    def __init__(self, gate: AttentionGate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        return x + resize(self.gate.scores(x, g), x.shape[-2:])


def _positive(probe: SegmentationModel) -> SegmentationModel:
    """Return the network in float64, with positive weights that average, and batch norms that do nothing."""
    probe = probe.double().eval()
    for module in list(probe.modules()):
        for name, child in module.named_children():
            if isinstance(child, AttentionGate):
                setattr(module, name, _AddedGate(child))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in (*probe.named_parameters(), *probe.named_buffers()):
            if value.ndim > 1:
                value.uniform_(0.5, 1.5, generator=generator).div_(value[0].numel())
            else:
                value.fill_(float(name.endswith(("weight", "running_var"))))
    return probe


def memory_of_pixel(model: OptimizedModel) -> float:
    """Return the peak memory that a network's feature maps need per pixel of an image, in bytes.

    Measured on an image of zeros with sides of 128 pixels, or twice the network's stride if that is more. The working
    memory of convolutions is not counted. The meta device would give the same numbers, but imports a compiler for it.
    """
    network = model.network
    side = network.decoder.input_side(max(128, 2 * network.encoder.strides[-1]))
    live = LiveBytes()
    for weight in (*model.parameters(), *model.buffers()):
        live.see(weight)
    live.part()
    before, device = live.most[-1], next(model.parameters()).device
    with torch.inference_mode(), live:
        # Not network(…), which may be compiled: it would be compiled again for this size and this counting.
        network.forward(torch.zeros(1, model.config.in_channels, side, side, dtype=model.dtype, device=device))
    return (live.most[-1] - before) / side**2 * model.config.resize**2
