"""Train on images that are not RGB, such as 16-bit grey or 13 bands: ``python examples/non_rgb.py DATA IMAGE OUT``.

DATA is a folder with images/ and masks/, or a CSV list of image, mask and split; IMAGE is a new image to segment.
``--pretrained`` uses ImageNet weights, whose first layer has three channels. ``--policy`` sets how that layer is
adapted to yours: repeat, sum, mean or keep_rgb (docs/models.md). Needs pip install "unetzoo[train,tiff]".
"""

import argparse
from pathlib import Path

import unetzoo
from unetzoo.data import Labels, check

parser = argparse.ArgumentParser(description="Train on images with any number of channels, bits and range.")
parser.add_argument("data")
parser.add_argument("image")
parser.add_argument("out", type=Path, help="folder for all outputs, new or empty")
parser.add_argument("--model", default="resunet18", help="(default: resunet18)")
parser.add_argument("--pretrained", nargs="?", const=True, default=False, metavar="FILE")
parser.add_argument("--policy", help="how the pretrained first layer is adapted to other channels")
parser.add_argument("--ignore", type=int, help="value of ignored mask pixels, such as -1 for no data")
args, rest = parser.parse_known_args()  # the rest are training settings, such as --trainer.max_epochs=30

report = check(args.data, Labels(ignore=args.ignore))
report.raise_for_problems()
print(f"{report.in_channels} channels of {', '.join(report.dtypes)}")
# There is no ImageNet mean for such channels. The model keeps the mean and std of the training images.
model = unetzoo.create(
    args.model,
    in_channels=report.in_channels,
    mean=report.mean,
    std=report.std,
    pretrained=args.pretrained,
    input_policy=args.policy,
)
args.out.mkdir(parents=True, exist_ok=True)
unetzoo.save(model, args.out / "start.safetensors")

run = unetzoo.fit(
    args.out / "start.safetensors",
    data=args.data,
    ignore=args.ignore,
    out=args.out / "run",
    style="lines",
    settings=dict(word.removeprefix("--").split("=", 1) for word in rest),
)
result = run.predictor()(args.image)
result.save(args.out / "mask.tif")
print(f"{result.mask.float().mean():.1%} of {args.image} is foreground: {args.out / 'mask.tif'}")
