"""Fine-tune a trained model on your own pictures: ``python examples/fine_tune.py MODEL FOLDER --out runs/mine``.

MODEL is a .safetensors file, the folder of a run, or hf-hub:owner/name; or a name of the zoo, such as resunet18, with
--pretrained for ImageNet's encoder. FOLDER has images/ and masks/. Whatever else ``unetzoo train --print-config`` shows
can be set by its full name, such as --data.crop_size=128. Needs pip install "unetzoo[train]".
"""

import argparse

from unetzoo import Predictor
from unetzoo.evaluation import evaluate, settings_of_run
from unetzoo.train import train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("folder")
parser.add_argument("--out", required=True, help="folder of the run, new or empty")
parser.add_argument("--pretrained", action="store_true", help="ImageNet weights, where MODEL is a name")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--frozen-epochs", type=int, default=5, help="first ones, in which the encoder stays as it is")
parser.add_argument("--split", default="test", help="that is judged in the end (default: test)")
args, rest = parser.parse_known_args()

# The decoder learns to read the encoder's maps first; then the encoder follows, at a tenth of the decoder's rate.
run = train(
    [
        f"--model.name={args.model}",
        f"--model.pretrained={args.pretrained}",
        f"--model.frozen_epochs={args.frozen_epochs}",
        f"--data.folder={args.folder}",
        f"--trainer.max_epochs={args.epochs}",
        *rest,
    ],
    out=args.out,
    style="lines",
)
# The run knows which pictures it has not seen.
found = evaluate(Predictor(run), args.folder, split=args.split, **settings_of_run(run))
print(found)
print(f"Dice {found.scores.dice.mean:.3f} on {found.scores.images} pictures: {run}/best.safetensors")
