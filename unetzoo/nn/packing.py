"""Convolutions of optimised copies: weights packed once for oneDNN, and what follows computed in the same pass.

torch's convolution lets oneDNN reorder the weight at every call, which takes as long as the arithmetic if maps are
small, and activations and sums then read and write the complete map again. The operators that ``torch.compile`` calls,
``torch.ops.mkldnn``, take a weight that was packed before, and apply the sum and the activation before they write. A
1×1 convolution of few pixels without a sum is a matrix product, which is as fast with the weight as it is; a 3×3
convolution of many channels has fewer products (:mod:`unetzoo.nn.winograd`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo.nn import winograd
from unetzoo.nn.few_outputs import has_few_outputs, sum_of_taps, weight_of_taps
from unetzoo.nn.norming import hooked
from unetzoo.nn.pointwise import by_product, free_dilation, has_onednn
from unetzoo.nn.programs import PLAIN, by_modes, transformed
from unetzoo.nn.transposed import from_places, weight_of_places

MOST_PIXELS = {torch.float32: 2048, torch.bfloat16: 4096}
"""Pixels of a batch's output, by type, up to which weights are packed, or multiplied as they are for 1×1 kernels. On
larger maps reordering takes 3 % or less of a convolution's time, and packed weights would only take memory."""

MOST_SIZES, MOST_ORDERS = 1000, 4
"""Sizes of maps, for each number of threads, for which a layer remembers in which of oneDNN's orders its weight is
packed, and the number of orders, mostly one or two, from which it begins again."""

_PADDING = (slice(4, 8), slice(108, 112), slice(316, 320), slice(420, 424))
"""Bytes of oneDNN's description of memory that are between its fields, and hold anything."""

Made = TypeVar("Made")
Pair = tuple[int, ...]


class Form(NamedTuple):
    """What a convolution does, besides its weight and bias."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def is_bare(self) -> bool:
        """Whether stride, padding and groups do nothing, so that a dilation changes nothing for a 1×1 kernel."""
        return self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1

    def freed(self, x: Tensor, weight: Tensor) -> Self:
        """Return the same for a convolution of ``x``, with the dilation that brings the faster library, if any does."""
        spread = free_dilation(x, weight) if self.is_bare else 1
        return self._replace(dilation=(spread, spread)) if spread > 1 else self

    def pixels(self, x: Tensor) -> int:
        """Return the pixels of the output for a batch ``x``, to within the border."""
        return len(x) * (x.shape[2] // self.stride[0]) * (x.shape[3] // self.stride[1])


class Packs:
    """What is made once from the weight of one layer of an optimised copy; it is not copied with the layer."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Any] = {}
        self._source: tuple[torch.UntypedStorage, int] | None = None

    def made(self, name: object, weight: Tensor, make: Callable[[], Made]) -> Made:
        """Return ``make()``, which is called once for each name and part of the layer's weight."""
        # The storage is held: while it lives, its address belongs to nothing else.
        source = weight.untyped_storage(), 0 if weight.is_inference() else weight._version
        if self._source is None or self._source[0].data_ptr() != source[0].data_ptr() or self._source[1] != source[1]:
            self._made, self._source = {}, source
        key = (name, weight.storage_offset(), weight.shape, weight.stride())
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found

    def of_size(
        self, name: object, weight: Tensor, size: torch.Size, make: Callable[[], Iterator[Tensor]]
    ) -> Sequence[Tensor]:
        """Return what ``make()`` packs for maps of this size, or for others in the same order; made once for each.

        If the first tensor is in an order that is there already, ``make()`` is not asked for more.

        oneDNN's order of a weight depends on the size, and on the number of threads. In another one than it asks for, a
        weight is reordered at each call, by code that takes up to a hundred times as long as the convolution.
        """
        threads = torch.get_num_threads()
        sizes: dict[torch.Size, Sequence[Tensor]] = self.made((name, threads, "sizes"), weight, dict)
        orders: dict[bytes, Sequence[Tensor]] = self.made((name, "orders"), weight, dict)
        found = sizes.get(size)
        if found is None:
            packed = make()
            first = next(packed)
            if len(sizes) >= MOST_SIZES or len(orders) > MOST_ORDERS:
                sizes.clear()
                orders.clear()
            order = _order(first)
            if order not in orders:
                orders[order] = [first, *packed]
            found = sizes[size] = orders[order]
        return found

    def __deepcopy__(self, memo: object) -> Packs:
        return Packs()

    def __reduce__(self) -> tuple[type[Packs], tuple[()]]:
        return Packs, ()


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    form: Form,
    packs: Packs,
    after: nn.Module | None = None,
    add: Tensor | None = None,
    made: tuple[object, Callable[[Tensor], Tensor]] | None = None,
    spare: bool = False,
) -> Tensor:
    """Return ``after(conv(x) + add)``.

    Args:
        x: (N, C, H, W), of the weight's type.
        weight: (O, C / groups, K, L), of a layer, or a part of it.
        bias: (O,), or None.
        form: stride, padding, dilation, groups.
        packs: those of the layer.
        after: ReLU, LeakyReLU, or None.
        add: of the output's shape; None: nothing.
        made: a name, and what makes from ``weight`` the weight with which to convolve; None: ``weight`` itself.
        spare: whether ``add`` may be overwritten, which takes less time than another tensor.
    """
    name, make = made or ("", _itself)
    fast = packable(x, weight, add)
    if fast and made is None and has_few_outputs(weight) and form == Form(padding=form.padding):
        return _finished(_by_taps(x, weight, bias, form, packs), after, add)
    if fast and made is None and form == Form(padding=form.padding):
        x = x.contiguous(memory_format=torch.channels_last)
        if winograd.gains(x, weight, form.padding, bias, kept=True):
            return _by_points(x, weight, bias, form, packs, after, add)
    few = fast and form.pixels(x) <= MOST_PIXELS[x.dtype]
    kernel = weight
    if made is not None and (form.is_bare or not few):  # else it is packed below, and not kept a second time
        kernel = packs.made(name, weight, lambda: make(weight))
    if few and form.is_bare and kernel.shape[2:] == (1, 1) and add is None:
        return by_product(x, kernel, bias, _attribute(after))
    if few:
        (kernel,) = packs.of_size((name, form), weight, x.shape, lambda: iter([_packed(make(weight), form, x.shape)]))
    if not fast:
        return _plain(x, kernel, bias, form, after, add)
    x = x.contiguous(memory_format=torch.channels_last)
    how = (form.padding, form.stride, form.dilation, form.groups)
    if add is not None and form.groups == 1:
        add, joined = add.contiguous(memory_format=torch.channels_last), isinstance(after, nn.ReLU)
        unary = "relu" if joined else None  # the only activation that the operator applies to a sum
        summed: tuple[Any, ...] = (kernel, bias, *how, "add", 1.0, unary, [], None)
        out: Tensor
        if spare:
            out = torch.ops.mkldnn._convolution_pointwise_.binary(add, x, *summed)
        else:
            out = torch.ops.mkldnn._convolution_pointwise.binary(x, add, *summed)
        return out if joined or after is None else after(out)
    if add is not None:
        return _finished(
            torch.ops.mkldnn._convolution_pointwise.default(x, kernel, bias, *how, "none", [], ""), after, add
        )
    attribute, scalars = _attribute(after)
    found: Tensor = torch.ops.mkldnn._convolution_pointwise.default(x, kernel, bias, *how, attribute, scalars, "")
    return found


def _finished(out: Tensor, after: nn.Module | None, add: Tensor | None) -> Tensor:
    out = out if add is None else out + add
    return out if after is None else after(out)


def _by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, packs: Packs) -> Tensor:
    taps = convolved(x, weight, None, Form(), packs, made=("taps of outputs", weight_of_taps)).float()
    out = sum_of_taps(taps, weight, bias, form.padding)
    return out.to(x.dtype).contiguous(memory_format=torch.channels_last)


def _by_points(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    form: Form,
    packs: Packs,
    after: nn.Module | None,
    add: Tensor | None,
) -> Tensor:
    def packed(size: Sequence[int]) -> Sequence[Tensor]:
        return packs.of_size("points", weight, torch.Size(size), lambda: winograd.packed_points(weight, size))

    return winograd.by_points(x, weight, bias, form.padding, packed, add, _in_place(after))


def _in_place(after: nn.Module | None) -> Callable[[Tensor], Tensor] | None:
    match after:
        case nn.ReLU():
            return torch.relu_
        case nn.LeakyReLU():
            return functools.partial(F.leaky_relu_, negative_slope=after.negative_slope)
    return None


def _packed(weight: Tensor, form: Form, shape: torch.Size) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        weight, form.padding, form.stride, form.dilation, form.groups, list(shape)
    )
    return packed


def _order(packed: Tensor) -> bytes:
    """Return oneDNN's description of the order of a packed weight."""
    description = torch.ops.mkldnn._get_mkldnn_serialized_md(packed).clone()
    for gap in _PADDING:
        description[gap] = 0
    return bytes(description.tolist())


def packable(x: Tensor, weight: Tensor, add: Tensor | None = None) -> bool:
    """Whether oneDNN's operators compute this: on the CPU, by torch itself, without gradients."""
    if transformed() or by_modes() or not _has_operators():
        return False
    if not (_is_plain(x) and _is_plain(weight) and (add is None or _is_plain(add))):
        return False
    dtype = x.dtype
    if dtype not in MOST_PIXELS or weight.dtype != dtype or (add is not None and add.dtype != dtype):
        return False
    if torch.is_autocast_enabled("cpu") or not x.numel():
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or (add is not None and add.requires_grad)):
        return False
    return not weight.is_inference()


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_cpu and type(tensor) in PLAIN


def _has_operators() -> bool:
    return _known() and has_onednn()


@functools.cache
def _known() -> bool:
    """Whether this build of torch has the operators: they are private to it."""
    names = (
        "_convolution_pointwise",
        "_convolution_pointwise_",
        "_reorder_convolution_weight",
        "_get_mkldnn_serialized_md",
        "_linear_pointwise",
    )
    return all(hasattr(torch.ops.mkldnn, name) for name in names)


def _itself(weight: Tensor) -> Tensor:
    return weight


def _attribute(after: nn.Module | None) -> tuple[str, list[Any]]:
    match after:
        case nn.ReLU():
            return "relu", []
        case nn.LeakyReLU():
            return "leaky_relu", [after.negative_slope]
    return "none", []


def _plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, after: nn.Module | None, add: Tensor | None
) -> Tensor:
    return _finished(F.conv2d(x, weight, bias, *form.freed(x, weight)), after, add)


class PackedConv(nn.Conv2d):
    """A convolution of an optimised copy, with the activation that followed it.

    Attributes:
        after: ReLU, LeakyReLU, or None: none, or one that is given with each call.
    """

    packs: Packs
    after: nn.Module | None

    def forward(
        self, x: Tensor, add: Tensor | None = None, after: nn.Module | None = None, spare: bool = False
    ) -> Tensor:
        """Return ``after(conv(x) + add)``, (N, O, H, W), of ``x`` (N, C, H, W); ``spare``: see :func:`convolved`."""
        assert not isinstance(self.padding, str)  # these are not packed
        form = Form(self.stride, self.padding, self.dilation, self.groups)
        return convolved(x, self.weight, self.bias, form, self.packs, after or self.after, add, spare=spare)


class PackedTranspose(nn.ConvTranspose2d):
    """A transposed convolution of an optimised copy, kernel = stride: of many channels, or to a few, as a 1×1 one."""

    packs: Packs

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return (N, O, stride × H, stride × W) of ``x`` (N, C, H, W)."""
        if output_size is not None or not packable(x, self.weight) or not self._gains():
            return super().forward(x, output_size)
        bias = None if self.bias is None else self.bias.repeat(math.prod(self.kernel_size))
        places = convolved(x, self.weight, bias, Form(), self.packs, made=("transposed", weight_of_places))
        return from_places(places, self.weight)

    def _gains(self) -> bool:
        # Between them, oneDNN's own is as fast, and writes its output in place.
        return self.in_channels >= 512 or self.out_channels < 16


def _is_plain_transpose(module: nn.Module) -> bool:
    if type(module) is not nn.ConvTranspose2d or module.kernel_size != module.stride:
        return False
    zero = all(value == (0, 0) for value in (module.padding, module.output_padding))
    return zero and module.dilation == (1, 1) and module.groups == 1


def is_folded(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether an optimised copy has made ``norm`` part of ``conv``, and no hook looks at what is between them."""
    return type(conv) is PackedConv and type(norm) is nn.Identity and not hooked(norm)


def pack(network: nn.Module) -> None:
    """Let the convolutions of ``network``, an optimised copy, be computed in this way; the modules stay in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = PackedConv
            setattr(module, "after", None)  # noqa: B010 - it has become a PackedConv
            setattr(module, "packs", None)  # noqa: B010
        elif _is_plain_transpose(module):
            module.__class__ = PackedTranspose
            setattr(module, "packs", None)  # noqa: B010
        if hasattr(module, "packs"):
            setattr(module, "packs", Packs())  # noqa: B010
