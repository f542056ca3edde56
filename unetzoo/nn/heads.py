"""Layers that turn features into logits: the segmentation head and the classification-guided module."""

from __future__ import annotations

from torch import Tensor, nn

from unetzoo.nn.convolutions import ConcatConv, Source
from unetzoo.nn.layers import initialise
from unetzoo.nn.resampling import Size, resize

ABSENT = -1e4
"""Added to the logits of a class that is judged absent: its probability is then 0 in every type, also float16."""


class SegmentationHead(nn.Module):
    """Convolution with bias to one channel per class, then bilinear up-sampling to the image's size.

    Args:
        in_channels: channels of the feature.
        num_classes: channels of the logits.
        kernel: 1 or 3, as in the decoder's paper.
        stride: of the feature; above 1 the logits are resized to the image's size.
    """

    def __init__(self, in_channels: int, num_classes: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = ConcatConv(in_channels, num_classes, kernel, kernel // 2, bias=True)
        self.stride = stride
        initialise(self)

    def forward(self, feature: Source, size: Size) -> Tensor:
        logits: Tensor = self.conv(feature)
        return resize(logits, size) if self.stride > 1 else logits


class ClassificationGuidedModule(nn.Module):
    """Judges from the deepest map which classes occur in an image.

    Paper: Huang et al. 2020, arXiv 2004.08790, section 2.3. Dropout 0.5, a 1×1 convolution, a global max-pool:
    one presence logit per class. Here it works for any number of classes, and a class that is judged absent gets the
    *probability* 0; the reference code multiplies the logit by zero, which makes the probability one half.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.conv = nn.Conv2d(in_channels, num_classes, 1)
        initialise(self)

    def forward(self, deepest: Tensor) -> Tensor:
        """Return presence logits (N, num_classes): above 0, the class is judged to occur in the image."""
        presence: Tensor = self.conv(self.dropout(deepest)).amax(dim=(2, 3))
        return presence

    @staticmethod
    def suppress(logits: Tensor, presence: Tensor, exclusive: bool) -> Tensor:
        """Return ``logits`` (N, C, H, W) with the probability of absent classes brought to 0.

        Args:
            logits: (N, C, H, W).
            presence: (N, C).
            exclusive: whether a softmax follows. Then the other classes share the probability, and an image whose
                classes are all judged absent is left unchanged.
        """
        absent = presence < 0
        if exclusive:
            absent = absent & ~absent.all(dim=1, keepdim=True)
        return logits + absent.to(logits.dtype)[:, :, None, None] * ABSENT
