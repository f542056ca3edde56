"""What a convolution of an up-sampled map costs on a GPU: the plain way, and with its channels mixed first."""

from __future__ import annotations

from typing import NamedTuple


class Costs(NamedTuple):
    """Costs of both formulations, in picoseconds per pixel of the resampled map.

    They are fitted to what whole layers took, so each includes its share of the memory that both ways use.

    Attributes:
        resampled: to resample a channel, and read it again.
        joined: to copy a channel into a concatenation.
        convolved: to convolve a channel to another one.
        mixed: to resample all taps of an output channel, and add them.
        launches: of what mixing starts more than the plain way, in microseconds, whatever the size.
        added: to add an output channel to those of the rest of a concatenation.
        coarse: to resample the columns, before the rows, where there are as many rows as at the end.
    """

    resampled: float
    joined: float
    convolved: float
    mixed: float
    launches: float
    added: float = 0
    coarse: float = 0

    def gain(self, channels: int, out_channels: int, pixels: int, scale: float, joined: bool) -> float:
        """Return the microseconds that mixing ``channels`` first saves, up-sampled by ``scale`` to ``pixels``."""
        plain = channels * (self.resampled + joined * self.joined + out_channels * self.convolved)
        each = self.mixed + joined * self.added + self.coarse / scale + channels * self.convolved / scale**2
        return pixels * (plain - out_channels * each) / 1e6 - self.launches


BY_KERNELS = {
    (False, False): Costs(resampled=12.7, joined=3, convolved=0.039, mixed=15, launches=370, added=5),
    (False, True): Costs(resampled=11.9, joined=1.6, convolved=0.018, mixed=9.5, launches=260, added=3),
    (True, False): Costs(resampled=30, joined=8, convolved=0.216, mixed=45, launches=670, added=15),
    (True, True): Costs(resampled=12, joined=4, convolved=0.108, mixed=40, launches=1000, added=10),
}
"""Costs by whether gradients are needed, and whether numbers have 16 bits; others are treated as TF32.

Fitted to ``docs/measured/gpu_h200_2026-11-29.json``: maps are resampled by :mod:`unetzoo.nn.gpu_kernels`."""

BY_TORCH = {
    (False, False): Costs(resampled=10.3, joined=3.2, convolved=0.072, mixed=50, launches=500, coarse=134),
    (False, True): Costs(resampled=9.8, joined=1.6, convolved=0.036, mixed=50, launches=500, coarse=134),
    (True, False): Costs(resampled=29.7, joined=8, convolved=0.216, mixed=92, launches=1000, coarse=301),
    (True, True): Costs(resampled=24.6, joined=4, convolved=0.108, mixed=92, launches=800, coarse=301),
}
"""The same where Triton is not available, fitted to ``docs/measured/gpu_h100_2026-11-27.json``."""
