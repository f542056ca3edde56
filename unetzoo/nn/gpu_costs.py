"""What a convolution of an up-sampled map costs on a GPU: the plain way, and with its channels mixed first."""

from __future__ import annotations

from typing import NamedTuple


class Costs(NamedTuple):
    """Costs of both formulations on an H100, in picoseconds per pixel of the resampled map.

    Fitted to ``docs/measured/gpu_layers_2026-11-27.json``.

    Attributes:
        resampled: to resample a channel, and read it again.
        joined: to copy a channel into a concatenation.
        convolved: to convolve a channel to another one.
        mixed: to resample the rows of all taps of an output channel, and add them.
        coarse: to resample the columns, before the rows, where there are as many rows as at the end.
        launches: of the kernels that mixing takes more than the plain way, in microseconds, whatever the size.
    """

    resampled: float
    joined: float
    convolved: float
    mixed: float
    coarse: float
    launches: float

    def gain(self, channels: int, out_channels: int, pixels: int, scale: float, joined: bool) -> float:
        """Return the microseconds that mixing ``channels`` first saves, up-sampled by ``scale`` to ``pixels``."""
        plain = channels * (self.resampled + joined * self.joined + out_channels * self.convolved)
        ours = out_channels * (self.mixed + self.coarse / scale + channels * self.convolved / scale**2)
        return pixels * (plain - ours) / 1e6 - self.launches


CUDA = {
    (False, False): Costs(resampled=10.3, joined=3.2, convolved=0.072, mixed=50, coarse=134, launches=500),
    (False, True): Costs(resampled=9.8, joined=1.6, convolved=0.036, mixed=50, coarse=134, launches=500),
    (True, False): Costs(resampled=29.7, joined=8, convolved=0.216, mixed=92, coarse=301, launches=1000),
    (True, True): Costs(resampled=24.6, joined=4, convolved=0.108, mixed=92, coarse=301, launches=800),
}
"""Costs by whether gradients are needed, and whether numbers have 16 bits; others are treated as TF32."""
