"""The memory that tensors hold at the same time, counted while they are created."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live tensors while the mode is active: of new ones, and of those passed to :meth:`see`.

    Attributes:
        most: for each part, the most bytes after any operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = [0]
        self._alive, self._known = 0, set[int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled inside this mode. To disable compilation, torch would import a compiler, for a second."""
        return False

    def see(self, tensor: Tensor) -> None:
        """Count the memory of a tensor, once, until it is freed."""
        storage = tensor.untyped_storage()
        key, held = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._alive += held
        weakref.finalize(storage, self._forget, key, held)

    def _forget(self, key: int, held: int) -> None:
        self._known.discard(key)
        self._alive -= held

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        done = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(done):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        self.most[-1] = max(self.most[-1], self._alive)
        return done

    def part(self) -> None:
        """Begin the next part."""
        self.most.append(self._alive)
