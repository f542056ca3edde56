"""Use the recipe in your own Trainer: ``python examples/own_trainer.py FOLDER OUT``.

FOLDER has images/ and masks/. Network, loss, learning rate, data and checks are unetzoo's; the trainer is Lightning's,
with all its arguments, loggers and callbacks, such as the one below. Needs pip install "unetzoo[train]".
"""

import argparse

import pytorch_lightning as lightning
from pytorch_lightning.loggers import CSVLogger

import unetzoo
from unetzoo.train import FolderData, Recipe, WholeFiles, run_callbacks


class LargestGradient(lightning.Callback):
    """Logs the largest gradient, which helps to find out why training is unstable."""

    def on_before_optimizer_step(self, trainer, recipe, optimizer):
        """Log it once per step."""
        largest = max(float(p.grad.abs().max()) for p in recipe.network.parameters() if p.grad is not None)
        recipe.log("largest_gradient", largest)


parser = argparse.ArgumentParser(description="Train a U-Net with your own Trainer.")
parser.add_argument("folder")
parser.add_argument("out", help="folder of the run")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--crop", type=int, default=128, help="side of the training crops")
args = parser.parse_args()

recipe = Recipe("unet", options={"base_channels": 16}, loss="bce + dice", lr=1e-2)
data = FolderData(args.folder, crop_size=args.crop, batch_size=4, workers=0)
trainer = lightning.Trainer(
    max_epochs=args.epochs,
    accelerator="auto",
    logger=CSVLogger(args.out, name="", version="log"),
    log_every_n_steps=1,
    callbacks=[LargestGradient(), *run_callbacks(args.out, patience=10)],  # unetzoo's come last
    plugins=[WholeFiles()],  # checkpoints all or nothing
    enable_checkpointing=False,  # run_callbacks keeps the best network and the last state
    enable_progress_bar=False,
    enable_model_summary=False,
    num_sanity_val_steps=0,
)
trainer.fit(recipe, datamodule=data)

run = unetzoo.Run(args.out)
print(f"best Dice {run.best_dice:.4f} in epoch {run.best_epoch} of {len(run.history)}: {run.folder}/best.safetensors")
