"""Train on a folder of images and masks in one call: ``python examples/fit.py FOLDER OUT``.

FOLDER has images/ and masks/. Prints the curve, and segments an image that was not used for training. If it was
stopped, the same command continues the run. Needs pip install "unetzoo[train]".
"""

import argparse
from pathlib import Path

import unetzoo
from unetzoo.data import Labels, find_samples

parser = argparse.ArgumentParser(description="Train a network, and look at the result.")
parser.add_argument("folder")
parser.add_argument("out", type=Path, help="folder of the run")
parser.add_argument("--model", default="resunet18")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--crop", type=int, default=128, help="side of the training crops")
args = parser.parse_args()

if (args.out / "last.ckpt").exists():
    run = unetzoo.fit(resume=args.out, epochs=args.epochs)
else:
    run = unetzoo.fit(
        args.model,
        data=args.folder,
        epochs=args.epochs,
        out=args.out,
        crop_size=args.crop,
        batch_size=4,
        loss="bce + dice",
        augmentation="strong",
        settings={"model.ema": 0.9, "data.workers": 0},  # settings without a keyword, by their full names
    )
for row in run.history:
    print(f"epoch {row['epoch']}: loss {row['loss']:.4f}, Dice {row['dice']:.4f}")
print(f"best: Dice {run.best_dice:.4f} in epoch {run.best_epoch}")

unseen = find_samples(args.folder, Labels())["test"][0].image
result = run.predictor(tta="flips")(unseen)
result.save(args.out / "mask.png")
print(f"{result.mask.float().mean():.1%} of {unseen.name} is foreground: {args.out / 'mask.png'}")
