"""The images of README and documentation that trained networks make, on images that this draws.

``python docs/_figures.py SHAPES`` writes them. SHAPES is the run of ``examples/benchmarks/recipes.py --ways unetzoo
--sets shapes``, which trains for 20 minutes. The network of the flood is trained here, in some minutes of one core.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import unetzoo
from unetzoo import images, sheets
from unetzoo.drawing import CLASSES, draw_nuclei, draw_shapes

STATIC = Path(__file__).resolve().parent / "_static"
SHAPES = (9005, 9006)
"""Seeds of the drawn shapes."""
GROUND = torch.tensor([[0.08, 0.07, 0.30, 0.18], [0.07, 0.05, 0.42, 0.15], [0.12, 0.16, 0.24, 0.30]])
"""Reflectance of pasture, crops and bare soil in green, red, near infrared and shortwave infrared, roughly."""
WATER = torch.tensor([0.10, 0.09, 0.05, 0.02])


def nuclei() -> Tensor:
    """Return a drawn image next to itself with the objects of ``nuclei`` laid over it, (3, H, W) uint8."""
    image, _ = draw_nuclei(300, 400, seed=4)
    found = unetzoo.Predictor("nuclei")(image).instances()
    return sheets.sheet([[image, images.overlay_objects(image, found.labels)]])


def outlines() -> Tensor:
    """Return the probability of a nucleus, and the outline of the mask."""
    image, _ = draw_nuclei(300, 400, seed=7)
    found = unetzoo.Predictor("nuclei")(image)
    probability = (found.probabilities[:1].float() * 255).round().byte().expand(3, -1, -1)
    return sheets.sheet([[probability, images.overlay(image, found.mask > 0, outline=True)]])


def classes(run: str) -> Tensor:
    """Return drawn shapes, their true masks, and those of a network of five classes, in flat colours."""
    predictor, rows = unetzoo.Predictor(run), []
    black = torch.zeros(3, 160, 240, dtype=torch.uint8)
    for seed in SHAPES:
        image, true = draw_shapes(160, 240, seed=seed)
        masks = [sheets.class_masks(mask, "multiclass", 5) for mask in (true, predictor(image).mask)]
        rows.append(sheets.Row("", [image, *(images.overlay(black, mask, 1.0) for mask in masks)]))
    return sheets.titled(rows, sheets.class_keys([black], "multiclass", 5, CLASSES))


def slide() -> Tensor:
    """Return a mosaic of many drawn fields that is predicted in tiles, and the framed part of it at its full size."""
    fields = [[draw_nuclei(256, 256, seed=100 + 6 * y + x)[0] for x in range(6)] for y in range(4)]
    mosaic = torch.cat([torch.cat(row, dim=2) for row in fields], dim=1)
    found = unetzoo.Predictor("nuclei", tile=512)(mosaic).instances()
    over = images.overlay_objects(mosaic, found.labels)
    small = F.interpolate(over[None].float(), scale_factor=0.25, mode="area")[0].round().byte()
    (height, width), (y, x) = small.shape[1:], (400, 640)
    part = over[:, y : y + height, x : x + width].clone()
    bottom, right = (y + height) // 4, (x + width) // 4
    small[:, y // 4 : bottom, [x // 4, right]] = 255
    small[:, [y // 4, bottom], x // 4 : right] = 255
    return sheets.sheet([[small, part]])


def draw_flood(seed: int) -> tuple[Tensor, Tensor]:
    """Draw fields and a river that has left its bed.

    Returns:
        reflectances in four bands times 10,000, (4, H, W) uint16, and where water is, (H, W) bool.
    """
    side, generator = 192, torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")

    def waves(knots: int) -> Tensor:
        values = torch.randn(1, 1, knots, knots, generator=generator)
        return F.interpolate(values, (side, side), mode="bicubic", align_corners=True)[0, 0]

    bed = 0.5 + 0.18 * torch.sin(5 * x + 6 * torch.rand(1, generator=generator)) + 0.05 * waves(5)
    water = (y - bed).abs() < 0.02 + 0.05 * waves(6).clamp(min=0) + 0.02 * waves(14).clamp(min=0)
    centres = torch.rand(40, 2, generator=generator)
    field = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(-1)
    kinds = torch.randint(len(GROUND), (40,), generator=generator)[field]
    shades = (1 + 0.25 * torch.randn(40, generator=generator))[field]
    bands = GROUND[kinds] * (shades * (1 + 0.1 * waves(20)))[..., None]
    bands = torch.where(water[..., None], WATER * (1 + 0.1 * waves(12))[..., None], bands)
    noisy = bands + 0.012 * torch.randn(side, side, 4, generator=generator)
    return (noisy.clamp(0, 1) * 10_000).round().to(torch.uint16).permute(2, 0, 1), water


def flood() -> Tensor:
    """Return a scene in near infrared, red and green, and the water that a network of its four bands finds in it."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "flood")
        for part in ("images", "masks"):
            (data / part).mkdir(parents=True)
        for seed in range(40):
            bands, water = draw_flood(seed)
            pixels = bands.permute(1, 2, 0).numpy()
            tifffile.imwrite(data / "images" / f"{seed}.tif", pixels, photometric="minisblack", planarconfig="contig")
            Image.fromarray(water.numpy().astype(np.uint8) * 255).save(data / "masks" / f"{seed}.png")
        settings = {"model.options.base_channels": 16, "data.workers": 0}
        run = unetzoo.fit(
            "unet", data=data, steps=300, crop_size=96, lr=0.003, out=Path(folder, "run"), settings=settings
        )
        bands, _ = draw_flood(1000)
        found = unetzoo.Predictor(run.folder)(bands)
    colours = (bands[[2, 1, 0]].float() / 4500 * 255).clamp(0, 255).byte()
    return sheets.sheet([[colours, images.overlay(colours, found.mask > 0, 0.4)]])


def main(shapes: str) -> None:
    """Write all of them."""
    for name, image in {
        "nuclei": nuclei(),
        "gallery_outlines": outlines(),
        "gallery_classes": classes(shapes),
        "gallery_slide": slide(),
        "gallery_flood": flood(),
    }.items():
        images.write_png(image, STATIC / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
