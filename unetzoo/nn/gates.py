"""Attention gates: each pixel of a skip connection is weighted with the help of the decoder's next coarser map.

Paper: Oktay et al. 2018, "Attention U-Net", arXiv 1804.03999, equations 1 and 2, figure 2. With x the skip connection
and g the gating signal, the decoder's map one level coarser,

    q = psi(ReLU(W_x x + W_g g + b_g)) + b_psi,    alpha = sigmoid(q) at x's size,    output = alpha x,

where W_x maps x to g's grid, W_x and W_g reduce the channels to half of x's, and psi reduces these to one. Reference
code (MIT): ozan-oktay/Attention-Gated-Networks, ``GridAttentionBlock2D``, whose W_x is a strided convolution without
bias, as here.

The authors' U-Net has more parts, which are left out here because the paper's equations do not have them: two 1×1
convolutions with batch norm after the product, and one before the coarsest gating signal; and its W_x and W_g keep x's
channels. The popular port LeeJunHyun/Image_Segmentation is another network: g is up-sampled to x's size first, a batch
norm follows W_x, W_g and psi, alpha is never resampled, and the finest skip connection has a gate, too. Here, any size
is allowed, with zeros where the last window of W_x crosses an odd border, as in padded convolutions, and any ratio of
strides, including 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetzoo.nn.resampling import resize

OPEN = 2.0
"""Initial bias b_psi: gates begin nearly open, at sigmoid(2) = 0.88, so that skip connections pass from the first step,
as in a network without gates, but still far from where the sigmoid is flat."""


class AttentionGate(nn.Module):
    """Additive attention gate of a skip connection: see the docstring of this module.

    Args:
        channels: of the skip connection.
        gating_channels: of the gating signal.
        scale: stride of the gating signal over that of the skip connection.
    """

    def __init__(self, channels: int, gating_channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        inner = max(1, channels // 2)
        self.skip = nn.Conv2d(channels, inner, scale, stride=scale, bias=False)
        self.gating = nn.Conv2d(gating_channels, inner, 1)
        self.act = nn.ReLU(inplace=True)
        self.psi = nn.Conv2d(inner, 1, 1)

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the gated skip connection, of x's shape.

        Args:
            x: (N, channels, H, W).
            g: (N, gating_channels, H / scale, W / scale), sizes rounded up.
        """
        return x * self.coefficients(x, g)

    def coefficients(self, x: Tensor, g: Tensor) -> Tensor:
        """Return alpha (N, 1, H, W), from 0 to 1, for the arguments of :meth:`forward`."""
        q = self.scores(x, g)
        if torch.compiler.is_exporting():
            # The strides of a single channel may be those of channels last, for which the sigmoid reads symbolic sizes.
            q = q.clone(memory_format=torch.contiguous_format)
        alpha = q.sigmoid()
        return alpha if self.scale == 1 else resize(alpha, x.shape[-2:])

    def scores(self, x: Tensor, g: Tensor) -> Tensor:
        """Return q (N, 1, H / scale, W / scale), for the arguments of :meth:`forward`."""
        beyond = self.scale - 1  # at divisible sizes no window reaches there
        padded = F.pad(x, (0, beyond, 0, beyond)) if beyond else x
        q: Tensor = self.psi(self.act(self.skip(padded) + self.gating(g)))
        return q

    def open(self) -> None:
        """Initialise the gate so that it is nearly open."""
        nn.init.constant_(self.psi.get_parameter("bias"), OPEN)
