"""``unetzoo demo``, the first command for newcomers: a trained model on an image."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetzoo.cli._options import SAVED
from unetzoo.printing import counted

if TYPE_CHECKING:
    import torch

NEXT = (
    ("unetzoo predict {model} *.png --out masks --overlay", "segment your own images, of any size"),
    (
        "unetzoo train --model resunet18 --data FOLDER",
        "on FOLDER/images and FOLDER/masks; needs pip install 'unetzoo[train]'",
    ),
    ("unetzoo compare '*resnet18' resunet18", "compare networks to choose from"),
)
SIDE = 512
"""Side of the drawn image in pixels."""
COUNTED = 256
"""Side of the image for which the costs are counted, in pixels."""


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "demo",
        help="try a trained model on an image",
        description="Segment an image with a trained model, count the objects, and write the image with its mask laid "
        "over it.",
    )
    command.add_argument(
        "--model",
        default="nuclei",
        metavar="NAME",
        help=f"{SAVED} (default: nuclei)",
    )
    command.add_argument("--image", metavar="FILE", help="PNG, JPEG, TIFF, … (default: a drawn microscopy image)")
    command.add_argument(
        "--out", default="unetzoo_demo.png", metavar="FILE", help="PNG to write (default: unetzoo_demo.png)"
    )
    command.set_defaults(run=_demo, writes=("out",))


def _demo(options: argparse.Namespace) -> None:
    import torch

    from unetzoo import drawing, images, sheets
    from unetzoo.costs.counting import costs_of
    from unetzoo.costs.tables import cells, header
    from unetzoo.information import model_info
    from unetzoo.model import build_on_meta
    from unetzoo.prediction import Predictor
    from unetzoo.prediction.results import shows_objects
    from unetzoo.printing import aligned, printable

    predictor = Predictor(options.model)
    image = images.read_image(options.image) if options.image else drawing.draw_nuclei(SIDE, SIDE)[0]
    before = time.perf_counter()
    found = predictor(image)
    seconds = time.perf_counter() - before
    config = predictor.config
    objects = found.instances() if shows_objects(config, predictor.split) else None
    masks = sheets.class_masks(found.mask, config.pixel_task, config.num_classes).reshape(-1, *found.mask.shape[-2:])
    numbers = torch.stack([numbered(mask) for mask in masks])
    if config.task == "instances" and objects is None:  # an extra is missing: what touches has one colour
        images.write_png(images.overlay_objects(sheets.visible(found.image), numbers), options.out)
    else:
        found.overlay(options.out)

    height, width = image.shape[-2:]
    print(f"{options.model} on {options.image or 'a drawn image'}, {width} × {height} pixels, in {seconds:.1f} s:")
    background = int(config.pixel_task == "multiclass")
    for k, (name, share) in enumerate(list(found.shares().items())[background:]):
        number = int(numbers[k].max() if objects is None else (objects.classes == k + background).sum())
        print(f"{printable(name)}: {counted(number, 'object')}, {share:.1%} of the image")
    print(f"overlay: {printable(Path(options.out).resolve())}\n")
    costs = costs_of(build_on_meta(config), model_info(config.name), COUNTED)
    print(aligned([header(COUNTED), cells(costs)]), end="")
    # On standard error: for people, not for programs that read the output.
    commands = "".join(f"  {command.format(model=options.model):<56}  # {purpose}\n" for command, purpose in NEXT)
    print(f"\nNext:\n{commands}", end="", file=sys.stderr)


def numbered(mask: torch.Tensor) -> torch.Tensor:
    """Return the connected components of a mask, (H, W) bool, numbered from 1 up; pixels that share a corner connect.

    Each pixel takes the greatest number around it, passes it to the pixel whose number it had, and takes that pixel's,
    until nothing changes. ``unetzoo.objects`` does more, but needs SciPy, which the demo must not need.
    """
    import torch
    import torch.nn.functional as F

    inside = mask.flatten()
    own = torch.arange(1, mask.numel() + 1, dtype=torch.float64)  # the pixel's index plus one
    numbers = own * inside
    while True:
        grown = F.max_pool2d(numbers.reshape(1, *mask.shape), 3, stride=1, padding=1).flatten() * inside
        if torch.equal(grown, numbers):
            ranks = (inside & (numbers == own)).cumsum(0)  # one pixel of each component has kept its number
            return (ranks[(numbers.long() - 1).clamp(min=0)] * inside).reshape(mask.shape)
        told = grown.scatter_reduce(0, (numbers.long() - 1).clamp(min=0), grown, "amax")
        numbers = told[(told.long() - 1).clamp(min=0)] * inside
