"""Fine-tune a trained model on your own images: ``python examples/fine_tune.py MODEL FOLDER --out runs/mine``.

MODEL is a .safetensors file, the folder of a run, or hf-hub:owner/name; or a name of the zoo, such as resunet18, with
--pretrained for an encoder with ImageNet weights. FOLDER has images/ and masks/. All other settings that ``unetzoo
train --print-config`` shows can be set by their full names, such as --data.crop_size=128. Needs pip install
"unetzoo[train]".
"""

import argparse

import unetzoo

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("folder")
parser.add_argument("--out", required=True, help="folder of the run, new or empty")
parser.add_argument("--pretrained", action="store_true", help="ImageNet weights, if MODEL is a name of the zoo")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--frozen-epochs", type=int, default=5, help="first epochs, in which the encoder is frozen")
parser.add_argument("--split", default="test", help="split for the final evaluation (default: test)")
args, rest = parser.parse_known_args()

# First the decoder learns to use the encoder's maps; then the encoder follows, at a tenth of the learning rate.
run = unetzoo.fit(
    args.model,
    data=args.folder,
    epochs=args.epochs,
    out=args.out,
    pretrained=args.pretrained,
    style="lines",
    settings={
        "model.frozen_epochs": args.frozen_epochs,
        **dict(word.removeprefix("--").split("=", 1) for word in rest),
    },
)
# The run knows which images it has not seen.
found = unetzoo.evaluate(run, args.folder, split=args.split)
print(found)
print(f"Dice {found.scores.dice.mean:.3f} on {found.scores.images} images: {run.folder}/best.safetensors")
