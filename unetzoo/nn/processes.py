"""Networks that several processes train: detects if their gradients are not shared."""

from __future__ import annotations

import gc
import warnings
import weakref

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_calls: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def warn_if_bypassed(network: nn.Module) -> None:
    """Warn, once, if a network is trained without the DistributedDataParallel wrapper that contains it.

    The wrapper averages gradients over the processes only after its own ``forward``; if the network is called in
    another way, each process silently trains its own network. This is to be called wherever a network computes.
    """
    if torch.compiler.is_compiling() or not (dist.is_available() and dist.is_initialized()):
        return
    # Not in a backward pass either, in which checkpointing recomputes.
    training = network.training and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1
    if not training or dist.get_world_size() == 1:
        return
    if DistributedDataParallel._get_active_ddp_module() is not None:  # type: ignore[no-untyped-call]
        return
    # Looking for the wrapper is slow, and it may be made later: look after 1, 2, 4, … calls.
    calls = _calls[network] = _calls.get(network, 0) + 1
    if calls & (calls - 1) == 0 and _has_wrapper(network):
        _calls[network] = 2**62  # plus one, plus two, …: not a power of two for as long as anybody trains
        warnings.warn(
            "a network inside DistributedDataParallel is trained without it: its gradients are not averaged over the "
            "processes. Wrap model.for_training(), and call the wrapper itself: it returns the training outputs",
            stacklevel=4,
        )


def _has_wrapper(network: nn.Module) -> bool:
    """Return whether a wrapper that would average gradients now holds the network."""
    for found in gc.get_objects():
        if not issubclass(type(found), DistributedDataParallel):  # isinstance would read the class of proxies
            continue
        averages = found.require_backward_grad_sync and not getattr(found, "_use_python_reducer", False)
        if averages and any(module is network for module in found.modules()):
            return True
    return False
