"""Train on images with five classes, without any data of your own: ``python examples/multiclass.py OUT``.

Draws discs, boxes, rings and lines with their masks, trains a small U-Net on them, prints the scores of each class,
and writes the mask of a new image, as a PNG with a palette and as an overlay. Needs pip install "unetzoo[train]".
"""

import argparse
from pathlib import Path

import unetzoo
from unetzoo.drawing import CLASSES, draw_shapes, write_shapes
from unetzoo.evaluation import evaluate

parser = argparse.ArgumentParser(description="Train on drawn shapes of five classes.")
parser.add_argument("out", type=Path, help="folder for all outputs, new or empty")
parser.add_argument("--images", type=int, default=400)
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--side", type=int, default=64, help="side of the images, in pixels")
args, rest = parser.parse_known_args()  # the rest are training settings, such as --model.lr=0.001

write_shapes(args.out / "shapes", args.images, size=(args.side, args.side), seed=0)
run = unetzoo.fit(
    "unet",
    data=args.out / "shapes",
    task="multiclass",
    class_names=CLASSES,
    epochs=args.epochs,
    out=args.out / "run",
    style="lines",
    settings={
        "model.options.base_channels": 16,
        "model.lr": 0.003,
        **dict(word.removeprefix("--").split("=", 1) for word in rest),
    },
)
predictor = run.predictor()
print(evaluate(predictor, args.out / "shapes", split="test"))

image, _ = draw_shapes(200, 300, seed=123)  # any size; a path or an array works as well
result = predictor(image)
result.save(args.out / "mask.png")
result.overlay(args.out / "overlay.png")
for name, share in result.shares().items():
    print(f"{name}: {share:.1%} of the image")
