"""smp's networks: ours against segmentation_models_pytorch itself, and its files here."""

import pytest
import segmentation_models_pytorch as smp
import torch

import unetzoo

ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
"""That both have by one name."""


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("architecture", ["Unet", "UnetPlusPlus"])
def test_counts(architecture: str, encoder: str) -> None:
    with torch.device("meta"):
        theirs = getattr(smp, architecture)(encoder, encoder_weights=None)
    counted = sum(parameter.numel() for parameter in theirs.parameters())
    assert unetzoo.model_info(f"smp_{architecture.lower()}_{encoder}").parameters == counted
