"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from unetzoo.model import SegmentationModel


class AveragedModel(nn.Module):
    """A copy whose weights follow another model's: w ← d·w + (1 − d)·w_new after every step.

    d = min(decay, (1 + n) / (10 + n)) after n steps, so that the initial weights fade quickly (as in TensorFlow's
    ``ExponentialMovingAverage``). Batch-norm statistics are averaged like weights; counters are copied.

    Args:
        model: the model to follow.
        decay: in [0, 1).
    """

    steps: torch.Tensor

    def __init__(self, model: SegmentationModel, decay: float) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, model: SegmentationModel) -> None:
        """Take one step towards ``model``."""
        n = int(self.steps)
        weight = 1 - min(self.decay, (1 + n) / (10 + n))
        current = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name], weight)
            else:
                average.copy_(current[name])
        self.steps += 1

    def train(self, mode: bool = True) -> AveragedModel:
        """Stay in evaluation mode."""
        return super().train(False)
