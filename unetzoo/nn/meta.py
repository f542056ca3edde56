"""Networks on the meta device, which have shapes but no values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Build networks without memory and without initialising weights: only shapes."""
    with torch.device("meta"), _Undrawn():
        yield


_FILLERS = {
    # Before the functions compute how to initialise: that takes most of the time on meta.
    *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.uniform_, nn.init.normal_, nn.init.constant_),
    *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
}


class _Undrawn(TorchFunctionMode):
    """Skips filling tensors: on meta that takes time, and does nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
