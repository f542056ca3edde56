"""A ResUNet with a checkpoint of torchvision's, on real RGBA, 16-bit and 13-band images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision import models

import unetzoo
from unetzoo import images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(1)
    torch.save(models.resnet18(weights=None).state_dict(), file)
    return file


def check(model: unetzoo.SegmentationModel, batch: torch.Tensor) -> None:
    assert torch.equal(model.encoder.layer1[0].conv1.weight, model.encoder.state_dict()["layer1.0.conv1.weight"])
    probabilities = model.predict(batch)
    assert probabilities.shape == (1, model.config.num_classes, *batch.shape[2:])
    assert probabilities.isfinite().all()
    assert probabilities.std() > 0
    # What the network sees is the image: another one gives another answer.
    assert not torch.equal(model.predict(batch.flip(2)), probabilities)


def test_rgba_of_mixed_sizes(checkpoint: Path, shared_data: Path) -> None:
    model = unetzoo.create("resunet18", pretrained=checkpoint)
    files = sorted((shared_data / "nuclei" / "images").iterdir())
    sizes: dict[tuple[int, ...], Path] = {}
    for file in files:
        with Image.open(file) as one_image:
            sizes.setdefault(one_image.size, file)
    assert len(sizes) == 9
    for _, file in sorted(sizes.items())[:4]:
        image = images.read_image(file)
        assert image.shape[0] == 4
        batch = images.prepare(image, model.config)
        mean, std = (torch.tensor(v)[:, None, None] for v in (model.config.mean, model.config.std))
        torch.testing.assert_close(batch[0] * std + mean, image[:3] / 255.0)
        check(model, batch)


def test_sixteen_bits(checkpoint: Path, shared_data: Path) -> None:
    model = unetzoo.create("resunet18", pretrained=checkpoint, in_channels=1)
    for file in sorted((shared_data / "nuclei_16bit" / "images").iterdir())[:2]:
        raw = tifffile.imread(file)
        assert raw.dtype == np.uint16
        image = images.read_image(file)
        assert np.array_equal(image[0].numpy(), raw)
        batch = images.prepare(image, model.config)
        assert batch.shape == (1, 1, *raw.shape)
        np.testing.assert_allclose(batch[0, 0].numpy() * 65535, raw, rtol=1e-6)
        check(model, batch[..., :201, :250])


@pytest.mark.parametrize("policy", ["repeat", "mean", "sum", "keep_rgb"])
def test_thirteen_bands(checkpoint: Path, shared_data: Path, policy: str) -> None:
    (file,) = (shared_data / "floods_multiband" / "images").glob("*S2Hand.tif")
    bands = torch.from_numpy(tifffile.imread(file).astype(np.float32))
    assert bands.shape == (13, 512, 512)
    mean, std = bands.mean((1, 2)), bands.std((1, 2))
    model = unetzoo.create(
        "resunet18",
        pretrained=checkpoint,
        in_channels=13,
        input_policy=policy,
        num_classes=2,
        mean=mean.tolist(),
        std=std.tolist(),
    )
    batch = images.prepare(bands, model.config)
    assert batch.mean().abs() < 1e-3
    check(model, batch[..., :201, :250])
