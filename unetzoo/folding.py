"""Copies of models for inference, with adjacent linear layers merged and without the parts that only training needs."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unetzoo.checks import flag, one_of
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError, InputError, UnetzooError
from unetzoo.model import SegmentationModel, evaluating
from unetzoo.nn.convolutions import ConcatConv
from unetzoo.nn.heads import SegmentationHead
from unetzoo.nn.layers import ConvNormAct, Foldable, Upsample
from unetzoo.nn.packing import PackedConv, pack
from unetzoo.nn.pointwise import make_pointwise

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
"""Largest difference from the model's own logits, relative to their spread, by type."""


class OptimizedModel(nn.Module):
    """A copy of a model for inference only, made by :func:`optimize`; it gives the same results.

    Attributes:
        config: that of the original model.
        network: the rebuilt copy.
    """

    def __init__(self, network: SegmentationModel) -> None:
        super().__init__()
        self.config: ModelConfig = network.config
        self.network = network
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the computation."""
        return next(self.network.parameters()).dtype

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes, H, W), of the same type as the images.

        Args:
            images: as ``SegmentationModel.forward`` takes them, but of any floating-point type.
        """
        logits: Tensor = self.network(self._cast(images))
        return logits.to(images.dtype)

    def predict(self, images: Tensor) -> Tensor:
        """Return probabilities (N, num_classes, H, W): see ``SegmentationModel.predict``."""
        return self.network.predict(self._cast(images))

    def train(self, mode: bool = True) -> OptimizedModel:
        """Stay in evaluation mode.

        Raises:
            ConfigError: ``mode`` is True.
        """
        if mode:
            raise ConfigError("optimize() made this copy for inference: train the model that it was made from")
        super().train(False)
        return self

    def _cast(self, images: Tensor) -> Tensor:
        # The network refuses anything that is not a floating-point image.
        return images.to(self.dtype) if isinstance(images, Tensor) and images.is_floating_point() else images


def optimize(
    model: SegmentationModel,
    example: Tensor | None = None,
    dtype: torch.dtype | None = None,
    compile: bool = False,  # noqa: A002 - torch's own name for it
) -> OptimizedModel:
    """Return a copy of ``model`` for inference, which gives the same logits faster.

    Batch norms are folded into the convolutions before them. A transposed convolution at the end of the decoder is
    merged with the 1×1 head after it. Dropouts and the heads that only training uses are left out, and weights are laid
    out in memory for the fastest convolutions. ``model`` does not change. The copy can be exported but not saved:
    save ``model``, and optimize it again after loading.

    Args:
        model: of any kind, on any device, in either mode; also a pruned one.
        example: images as ``model`` takes them, on which the copy is compared with ``model``, and compiled if
            ``compile`` is True.
        dtype: None keeps the model's; ``torch.bfloat16`` is about twice as fast on processors and GPUs that support
            it (AVX-512 BF16, AMX; NVIDIA from Ampere on), and changes logits by 1 to 5 % of their spread.
        compile: also compile the copy with ``torch.compile``, which takes a minute at the first call and needs a C++
            compiler.

    Raises:
        ConfigError: not a model of unetzoo, a type that is not floating point, ``compile`` neither True nor False,
            or a weight that pruning or a parametrization computes from others.
        InputError: ``example`` is not a batch of images for this model.
        UnetzooError: on ``example`` the copy differs from ``model`` by more than 1e-4 of the logits' spread (in
            half precision 5 %, with bfloat16 20 %): the type is too narrow for this model.
    """
    problems = _problems(model, dtype, compile)
    if problems:
        raise ConfigError("cannot optimize", problems)
    # Tensors made in inference mode do not count their changes, so nothing packed from them could be kept.
    with torch.inference_mode(False), torch.no_grad():
        network = _optimized(model, dtype)
    optimized = OptimizedModel(network)
    if compile:
        network.compile()
    if example is not None:
        _compare(model, optimized, example)
    return optimized


def _optimized(model: SegmentationModel, dtype: torch.dtype | None) -> SegmentationModel:
    """Return the copy, in evaluation mode."""
    weight = model.head.conv.weight
    network = copy.deepcopy(model).eval().requires_grad_(False)
    _strip(network)
    for conv, owner, name in [pair for module in network.modules() for pair in _foldable(module)]:
        _fold(conv, owner, name)
    for up, head in _tails(network):
        _join(up, head)
    pack(network)
    _fuse(network)
    make_pointwise(network)
    network.to(dtype=dtype)
    if weight.device.type in ("cpu", "cuda") or dtype in (torch.bfloat16, torch.float16):
        network.to(memory_format=torch.channels_last)
    return network


def _problems(model: object, dtype: object, compiled: object) -> list[str]:
    """Return a sentence for each argument that is wrong."""
    found = one_of("dtype", dtype, (None, *TOLERANCE)) + flag("compile", compiled)
    if isinstance(model, OptimizedModel):
        return ["this copy is already optimized: give optimize() the model that it was made from", *found]
    if not isinstance(model, SegmentationModel):
        fix = "; give what it wraps" if any(isinstance(m, SegmentationModel) for m in _modules(model)) else ""
        kind = type(model).__name__
        return [f"a SegmentationModel is needed, from unetzoo.create() or load(), not {kind}{fix}", *found]
    made = (
        name
        for name, _ in model.named_parameters()
        if ".parametrizations." in name or name.endswith(("weight_orig", "weight_g", "weight_v"))
    )
    first = next(made, None)
    if first is not None:
        found.append(
            f"{first}: a weight that is computed from others cannot be folded; make it permanent first, by "
            "torch.nn.utils.prune.remove or torch.nn.utils.parametrize.remove_parametrizations"
        )
    return found


def _modules(model: object) -> Iterator[nn.Module]:
    if isinstance(model, nn.Module):
        yield from model.modules()


def _strip(network: SegmentationModel) -> None:
    """Remove what does nothing in inference."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, nn.Identity())
    if not network.decoder.averages_heads:
        network.deep_heads = nn.ModuleList()
        network.decoder.drop_training_parts()


def _foldable(module: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Module, str]]:
    """Yield, for each pair that ``module`` names, a convolution, and owner and name of the batch norm after it."""
    if not isinstance(module, Foldable) or not _says_so_itself(type(module)):
        return
    modules = dict(module.named_modules())
    for before, after in module.foldable():
        conv, norm = modules.get(before), modules.get(after)
        if (
            isinstance(conv, nn.Conv2d)
            and type(norm) is nn.BatchNorm2d
            and norm.affine
            and norm.running_mean is not None
        ):
            owner, _, name = after.rpartition(".")
            yield conv, modules[owner], name


def _says_so_itself(kind: type) -> bool:
    """Return whether ``foldable`` describes this ``forward``: if a subclass overrides only the latter, it may not."""
    homes = [next(base for base in kind.__mro__ if name in vars(base)) for name in ("forward", "foldable")]
    return issubclass(homes[1], homes[0])


def _fold(conv: nn.Conv2d, owner: nn.Module, name: str) -> None:
    """Fold a batch norm's scale and shift into the convolution before it, in float64; an identity replaces it."""
    norm = getattr(owner, name)
    gain, shift, mean, variance = (x.double() for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    scale = gain * (variance + norm.eps).rsqrt()
    bias = -mean if conv.bias is None else conv.bias.double() - mean
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((conv.weight.double() * scale[:, None, None, None]).to(dtype), requires_grad=False)
    conv.bias = nn.Parameter((bias * scale + shift).to(dtype), requires_grad=False)
    setattr(owner, name, nn.Identity())


def _fuse(network: SegmentationModel) -> None:
    """Make an activation that follows a convolution, with nothing but identities between them, part of it."""
    for module in network.modules():
        if isinstance(module, ConvNormAct) and type(module).forward is ConvNormAct.forward:
            _join_activation(module.conv, module, "norm", "act")
        elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            names = list(module._modules)
            for k, name in enumerate(names):
                _join_activation(module._modules[name], module, *names[k + 1 :])


def _join_activation(conv: nn.Module | None, owner: nn.Module, *names: str) -> None:
    """Let ``conv`` apply the first of the modules of ``owner`` that is no identity, if it is an activation."""
    following = next((name for name in names if type(getattr(owner, name)) is not nn.Identity), None)
    if following is None or not isinstance(conv, ConcatConv | PackedConv) or conv.after is not None:
        return
    if type(getattr(owner, following)) in (nn.ReLU, nn.LeakyReLU):
        conv.after = getattr(owner, following)
        setattr(owner, following, nn.Identity())


def _tails(network: SegmentationModel) -> Iterator[tuple[Upsample, SegmentationHead]]:
    """Yield each transposed convolution at the end of a decoder, with the 1×1 head that is its only reader."""
    heads = [network.head, *network.deep_heads]
    ends = network.decoder.tails(deep=len(heads) > 1)
    for end, head in zip(ends, heads, strict=False):
        assert isinstance(head, SegmentationHead)
        if isinstance(end, Upsample) and end.mode == "transpose" and head.conv.kernel_size == (1, 1):
            yield end, head


def _join(up: Upsample, head: SegmentationHead) -> None:
    """Merge ``up`` and the head into one transposed convolution, as there is only linear arithmetic between them."""
    before, after = up.conv, head.conv
    mix = after.weight.double().flatten(1)
    weight = torch.einsum("imyx,om->ioyx", before.weight.double(), mix)
    bias = mix @ before.bias.double() if before.bias is not None else mix.new_zeros(len(mix))
    if after.bias is not None:
        bias = bias + after.bias.double()
    joined = nn.ConvTranspose2d(before.in_channels, after.out_channels, up.scale, up.scale, device="meta")
    joined.weight = nn.Parameter(weight.to(before.weight.dtype), requires_grad=False)
    joined.bias = nn.Parameter(bias.to(before.weight.dtype), requires_grad=False)
    up.conv = joined
    setattr(head, "conv", nn.Identity())  # noqa: B010 - no convolution any more, whatever its annotation says


def _compare(model: SegmentationModel, optimized: OptimizedModel, example: Tensor) -> None:
    """Raise if the copy's logits are not the model's."""
    if isinstance(example, Tensor) and not (example.numel() and example.isfinite().all()):
        raise InputError("example: images without NaN or infinity are needed, one or more")
    with evaluating(model), torch.inference_mode():
        expected, found = model(example).float(), optimized(example).float()
    difference = float((found - expected).abs().max() / (expected.max() - expected.min()).clamp(min=1e-6))
    if not difference <= TOLERANCE[optimized.dtype]:
        overflown = (
            "it overflows" if not found.isfinite().all() else f"its logits differ by {difference:.2g} of their spread"
        )
        raise UnetzooError(
            f"{model.config.name} in {optimized.dtype} does not give the model's logits: on the example {overflown}; "
            f"{TOLERANCE[optimized.dtype]:.2g} is allowed. Use a type with more range or precision"
        )
