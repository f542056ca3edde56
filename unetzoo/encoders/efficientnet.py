"""torchvision's EfficientNets as encoders.

Papers: Tan and Le 2019, arXiv 1905.11946; 2021, arXiv 2104.00298 (V2). Code: torchvision's own classes
(BSD-3-Clause), unchanged and under their own names, so that an ImageNet file fits key for key and every map equals
torchvision's. Here: the classifier is left out, and with it the 1×1 expansion before it, to 1280 channels or more,
which would make the deepest map four times as wide; norms other than batch norm can take its place.
"""

from __future__ import annotations

from functools import partial

from unetzoo.encoders._base import register_encoder
from unetzoo.encoders._inverted import InvertedEncoder

_FIRST = "Tan and Le 2019, arXiv 1905.11946"
_SECOND = "Tan and Le 2021, arXiv 2104.00298"

for _arch, _title, _paper, _weights, _cuts in (
    ("efficientnet_b0", "EfficientNet-B0", _FIRST, "EfficientNet_B0_Weights", (2, 3, 4, 6, 8)),
    ("efficientnet_b3", "EfficientNet-B3", _FIRST, "EfficientNet_B3_Weights", (2, 3, 4, 6, 8)),
    ("efficientnet_v2_s", "EfficientNetV2-S", _SECOND, "EfficientNet_V2_S_Weights", (2, 3, 4, 6, 7)),
):
    register_encoder(_arch, title=_title, paper=_paper, weights=_weights)(
        partial(InvertedEncoder, arch=_arch, cuts=_cuts)
    )
