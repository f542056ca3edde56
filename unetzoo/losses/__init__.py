"""Losses of logits for binary, multi-class and multi-label masks: ``losses.build("0.5*bce + dice", "binary")``.

Plain torch, usable without any trainer. :class:`Loss` describes what they have in common.
"""

from unetzoo.losses._base import LOSSES, Loss, LossSpec, SingleLoss, register_loss
from unetzoo.losses._target import Truth
from unetzoo.losses.balance import LabelledData, class_weights_from
from unetzoo.losses.compound import NNUNetLoss, Sum, UNet3PLoss, UNetPPLoss
from unetzoo.losses.pixels import BCE, CrossEntropy, Focal
from unetzoo.losses.regions import Dice, IoU, Lovasz, RegionLoss, Tversky
from unetzoo.losses.structure import MSSSIM, Gaps
from unetzoo.losses.supervision import DeepSupervision, geometric_weights
from unetzoo.losses.text import build

__all__ = [
    "BCE",
    "LOSSES",
    "MSSSIM",
    "CrossEntropy",
    "DeepSupervision",
    "Dice",
    "Focal",
    "Gaps",
    "IoU",
    "LabelledData",
    "Loss",
    "LossSpec",
    "Lovasz",
    "NNUNetLoss",
    "RegionLoss",
    "SingleLoss",
    "Sum",
    "Truth",
    "Tversky",
    "UNet3PLoss",
    "UNetPPLoss",
    "build",
    "class_weights_from",
    "geometric_weights",
    "register_loss",
]
