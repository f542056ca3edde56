"""Write your own training loop, without a trainer: ``python examples/own_loop.py FOLDER model.safetensors``.

FOLDER has images/ and masks/. unetzoo provides the images, the augmentation, the loss at every head of a UNet++, and
the scores. The loop is plain torch, and you can change it as you like.
"""

import argparse

import torch
from torch.utils.data import DataLoader

import unetzoo
from unetzoo import augmentation, losses
from unetzoo.data import EpochBatches, Labels, SegmentationDataset, check, find_samples
from unetzoo.metrics import SegmentationMetrics

parser = argparse.ArgumentParser(description="Train a UNet++ with deep supervision.")
parser.add_argument("folder")
parser.add_argument("out", help="a .safetensors file for the network of the best epoch")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--crop", type=int, default=128, help="side of the training crops")
parser.add_argument("--width", type=int, default=16, help="channels of the network's finest level")
args = parser.parse_args()

labels = Labels(task="binary")
report = check(args.folder, labels)
report.raise_for_problems()
splits = find_samples(args.folder, labels)
known = {"in_channels": report.in_channels, "mean": report.mean, "std": report.std}
train = SegmentationDataset(splits["train"], labels, augmentation=augmentation.build("light", args.crop), **known)
val = SegmentationDataset(splits["val"], labels, **known)

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = unetzoo.create("unetpp", base_channels=args.width, deep_supervision=True, **known).to(device)
criterion = losses.DeepSupervision(losses.build("bce + dice", "binary"))
optimiser = torch.optim.AdamW(unetzoo.param_groups(model, 1e-2, weight_decay=0.01))
batches, best = EpochBatches(len(train), batch_size=4), -1.0
for epoch in range(args.epochs):
    model.train()
    batches.set_epoch(epoch)  # new crops and flips in each epoch
    for batch in DataLoader(train, batch_sampler=batches):
        loss = criterion(model.training_outputs(batch["image"].to(device)), batch["target"].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    metrics = SegmentationMetrics("binary")
    with torch.no_grad():
        for batch in DataLoader(val):  # whole images, one at a time, as they may differ in size
            metrics.update(model(batch["image"].to(device)), batch["target"].to(device))
    dice = metrics.compute().dice.mean
    print(f"epoch {epoch + 1}: Dice {dice:.4f}")
    if dice > best:
        best = dice
        unetzoo.save(model, args.out)
print(f"best Dice {best:.4f}: {args.out}")
