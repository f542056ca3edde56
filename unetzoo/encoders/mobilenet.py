"""torchvision's MobileNetV3-Large as an encoder.

Paper: Howard et al. 2019, arXiv 1905.02244. Code: torchvision's own classes (BSD-3-Clause), unchanged and under their
own names, so that an ImageNet file fits key for key and every map equals torchvision's. Here: the classifier is left
out, and norms other than batch norm can take its place. The last 1×1 expansion, 160 → 960 channels, belongs to the
deepest map, as in torchvision's own network for segmentation.
"""

from __future__ import annotations

from functools import partial

from unetzoo.encoders._base import register_encoder
from unetzoo.encoders._inverted import InvertedEncoder

register_encoder(
    "mobilenet_v3_large",
    title="MobileNetV3-Large",
    paper="Howard et al. 2019, arXiv 1905.02244",
    weights="MobileNet_V3_Large_Weights",
)(partial(InvertedEncoder, arch="mobilenet_v3_large", cuts=(2, 4, 7, 13, 17)))
