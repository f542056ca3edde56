"""The costs of a network, counted on the meta device: parameters, operations, and memory of training."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from unetzoo.information import ModelInfo
from unetzoo.model import SegmentationModel


@dataclass(frozen=True)
class Costs:
    """The costs of one network.

    Attributes:
        name, architecture, encoder: as in ``model_info``.
        parameters: their number.
        published: millions of parameters according to the published table; None if there is no such number, or if
            the options differ from those of the table.
        agrees: whether ``parameters``, in millions with two decimals, equals ``published``.
        gflops: 10⁹ floating-point operations of its convolutions for one image; a multiply-add counts as two.
        activation_mib: MiB that autograd keeps for one float32 image in training, without weights.
    """

    name: str
    architecture: str
    encoder: str
    parameters: int
    published: float | None
    agrees: bool | None
    gflops: float
    activation_mib: float


def costs_of(model: SegmentationModel, info: ModelInfo, size: int) -> Costs:
    """Return the costs of ``model``, which may be on meta, for an image of ``size`` × ``size`` pixels.

    ``info`` holds the facts about its name.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    published = info.published if parameters == info.parameters else None
    flops, saved = count(model.train(), model.decoder.input_side(size))
    return Costs(
        name=info.name,
        architecture=info.architecture,
        encoder=info.encoder,
        parameters=parameters,
        published=published,
        agrees=None if published is None else round(parameters / 1e6, 2) == published,
        gflops=flops / 1e9,
        activation_mib=saved / 2**20,
    )


def count(model: SegmentationModel, side: int) -> tuple[float, float]:
    """Return FLOPs, and bytes that autograd keeps, for one image of ``side`` × ``side`` in training.

    They are counted on two images and halved, as batch norm cannot train on a single pixel. ``model`` may be on meta.
    """
    weight = model.head.conv.weight
    images = torch.empty(2, model.config.in_channels, side, side, dtype=weight.dtype, device=weight.device)
    own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    quick = QuickNorms() if weight.is_meta else contextlib.nullcontext()  # type: ignore[no-untyped-call]
    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with Operations() as counter, saving, quick:  # type: ignore[no-untyped-call]
        model.training_outputs(images)
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return counter.flops / 2, saved / 2


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sum of FLOPs by torch's own formulas.

    ``torch.utils.flop_counter.FlopCounterMode`` gives the same sum, and another for each module: its hooks took most of
    the time, and its first use a second.
    """

    flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


class QuickNorms(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shortcut for batch norms on meta: torch's reference implementation in Python would take most of the time here."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.native_batch_norm.default:
            statistics = args[0].new_empty(args[0].shape[1])
            return torch.empty_like(args[0]), statistics, torch.empty_like(statistics)
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
