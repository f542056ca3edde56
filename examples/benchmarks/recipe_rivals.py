"""The rivals of ``recipes.py``, each a command: ``python recipe_rivals.py WAY DATA OUT --minutes M --seed S``.

DATA has ``train/``, ``val/`` and ``test/`` with ``images/`` and ``masks/``, PNGs of RGB and of class indices. OUT gets
``masks/``, the predicted class indices of the test images, and ``done.json``, with the training settings and times.

``nnunet`` is nnU-Net v2, 2D, one fold: its own fingerprint, planner, preprocessing, trainer and predictor, with its
mirrored views and overlapping tiles. Two things are changed. Its 1000 epochs of 250 steps become :data:`EPOCHS`: the
first has :data:`FIRST` steps, the others as many as fit their share of the remaining budget, so that its schedule ends
in time; validation keeps its share of one batch in five. And its planner has to fit :data:`GIGABYTES` of memory instead
of 8, since a step of its plan for 8 would take minutes on one core.

``smp`` is the script of many tutorials: ``Unet`` on a ``resnet34`` of segmentation_models_pytorch, cross-entropy +
Dice, Adam with a learning rate of 0.001, flips, crops of 256² (or the size of the smallest image) with batch size 8,
under Lightning; the weights with the best Dice of all validation images are kept. ImageNet weights are not used
(``encoder_weights=None``), as in the others. Its epochs have at least :data:`LEAST` steps, so that small data sets do
not spend the budget on validation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

EPOCHS, FIRST = 25, 4
GIGABYTES = 0.5
CROP, BATCH, LEAST = 256, 8, 25
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)


def files(data: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the images of a split, each with its mask."""
    return [(path, data / split / "masks" / path.name) for path in sorted((data / split / "images").glob("*.png"))]


def classes_of(data: Path) -> int:
    """Return the number of classes, including the background."""
    return 1 + max(int(np.asarray(Image.open(mask)).max()) for _, mask in files(data, "train"))


# --- nnU-Net -----------------------------------------------------------------------------------------------------


def nnunet(data: Path, out: Path, minutes: float) -> dict[str, Any]:
    """Plan, train and predict as nnU-Net does."""
    start = time.monotonic()
    classes, folder = classes_of(data), plan(data, out)
    planned = time.monotonic() - start
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    start = time.monotonic()
    trainer = nnunet_trainer(folder)
    steps = fill(trainer, start + minutes * 60)
    trainer.run_training()
    seconds = time.monotonic() - start
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    images = [[str(image)] for image, _ in files(data, "test")]
    (out / "masks").mkdir()
    targets = [str(out / "masks" / Path(image).stem) for (image,) in images]
    predictor.predict_from_files_sequential(images, targets)
    plans = trainer.configuration_manager
    found = {"steps": sum(steps), "seconds": seconds, "planning_seconds": planned, "classes": classes}
    return found | {"parameters": size(trainer.network), "crop": list(plans.patch_size), "batch": plans.batch_size}


def plan(data: Path, out: Path) -> Path:
    """Write the data in nnU-Net's layout, let it plan and preprocess, and return its folder of preprocessed data."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(out / name)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
    raw = out / "raw" / "Dataset001_data"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for split in ("train", "val"):
        for image, mask in files(data, split):
            shutil.copy(image, raw / "imagesTr" / f"{image.stem}_0000.png")
            shutil.copy(mask, raw / "labelsTr")
    labels = {"background": 0} | {f"class_{index}": index for index in range(1, classes_of(data))}
    count = len(files(data, "train")) + len(files(data, "val"))
    meaning = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": labels, "file_ending": ".png"}
    (raw / "dataset.json").write_text(json.dumps({**meaning, "numTraining": count}))
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([1], num_processes=1, verbose=False, show_progress_bar=False)
    api.plan_experiments([1], gpu_memory_target_in_gb=GIGABYTES)
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # training augments in its own process; the planner takes no 0
    api.preprocess([1], configurations=["2d"], num_processes=[1], show_progress_bar=False)
    folder = out / "preprocessed" / raw.name
    split = {part: [image.stem for image, _ in files(data, part)] for part in ("train", "val")}
    (folder / "splits_final.json").write_text(json.dumps([split]))
    return folder


def nnunet_trainer(folder: Path) -> Any:
    """Return nnU-Net's own trainer of the first fold, on the CPU."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans, meaning = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    return nnUNetTrainer({**plans, "continue_training": False}, "2d", 0, meaning, torch.device("cpu"))


def fill(trainer: Any, end: float) -> list[int]:
    """Make the epochs of a trainer end in time; the steps of each are appended to the returned list."""
    begin, steps, original = time.monotonic(), [], trainer.on_train_epoch_start
    trainer.num_epochs = EPOCHS

    def start_epoch() -> None:
        now = time.monotonic()
        # Validation and all else is in what a step took so far.
        a_step = (now - begin) / sum(steps) if steps else (end - begin) / EPOCHS / FIRST
        steps.append(max(1, round((end - now) / (EPOCHS - len(steps)) / a_step)))
        trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = steps[-1], math.ceil(steps[-1] / 5)
        original()

    trainer.on_train_epoch_start = start_epoch
    return steps


# --- segmentation_models_pytorch ---------------------------------------------------------------------------------


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Random crops of a side, flipped at random: (3, side, side) float32 and (side, side) int64."""

    def __init__(self, pairs: list[tuple[Path, Path]]) -> None:
        self.pairs = [read(*pair) for pair in pairs]
        self.side = min(CROP, *(side for _, mask in self.pairs for side in mask.shape))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        side, (image, mask) = self.side, self.pairs[index]
        top, left = (random.randint(0, longer - side) for longer in mask.shape)
        image, mask = (plane[..., top : top + side, left : left + side] for plane in (image, mask))
        axes = [axis for axis in (-2, -1) if random.random() < 0.5]
        return image.flip(axes), mask.flip(axes)


def read(image: Path, mask: Path) -> tuple[Tensor, Tensor]:
    """Return an image, normalised, and its classes."""
    pixels = (np.asarray(Image.open(image), np.float32) / 255 - IMAGENET[0]) / IMAGENET[1]
    return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(np.asarray(Image.open(mask), np.int64))


def padded(images: Tensor, unit: int) -> Tensor:
    """Return images with zeros below and to the right, up to a multiple of a side."""
    height, width = (-side % unit for side in images.shape[-2:])
    return torch.nn.functional.pad(images, (0, width, 0, height))


def smp(data: Path, out: Path, minutes: float) -> dict[str, Any]:
    """Train the ordinary script, and predict the test images whole."""
    import pytorch_lightning as lightning

    start, classes = time.monotonic(), classes_of(data)
    model = recipe(classes)
    train, val = Crops(files(data, "train")), [read(*pair) for pair in files(data, "val")]
    sampler = RandomSampler(train, replacement=len(train) < LEAST * BATCH, num_samples=max(len(train), LEAST * BATCH))
    kept = lightning.callbacks.ModelCheckpoint(out, "best", monitor="dice", mode="max")
    trainer = lightning.Trainer(
        max_epochs=-1,
        max_time={"seconds": minutes * 60},
        accelerator="cpu",
        logger=False,
        callbacks=[kept],
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    # When the time is up, Lightning validates once more: that is beyond the budget.
    trainer.fit(model, DataLoader(train, BATCH, sampler=sampler, drop_last=True), DataLoader(val))
    seconds = time.monotonic() - start
    model.load_state_dict(torch.load(kept.best_model_path, weights_only=True)["state_dict"])
    (out / "masks").mkdir()
    for image, mask in files(data, "test"):
        Image.fromarray(model.predicted(read(image, mask)[0][None])[0].byte().numpy()).save(out / "masks" / image.name)
    found = {"steps": trainer.global_step, "seconds": seconds, "classes": classes, "parameters": size(model)}
    return found | {"crop": [train.side] * 2, "batch": BATCH, "epochs": trainer.current_epoch}


def recipe(classes: int) -> Any:
    """Return the LightningModule: binary data have one logit, others one a class."""
    import pytorch_lightning as lightning
    import segmentation_models_pytorch as library

    binary = classes == 2
    dice = library.losses.DiceLoss("binary" if binary else "multiclass")

    class Script(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = library.Unet("resnet34", encoder_weights=None, classes=1 if binary else classes)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            images, masks = batch
            logits = self.network(images)
            if binary:
                entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], masks.float())
            else:
                entropy = torch.nn.functional.cross_entropy(logits, masks)
            loss: Tensor = entropy + dice(logits, masks)
            return loss

        def on_validation_epoch_start(self) -> None:
            self.counts = torch.zeros(3, classes - 1)

        def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
            found, true = (
                mask == torch.arange(1, classes)[:, None, None] for mask in (self.predicted(batch[0]), batch[1])
            )
            self.counts += torch.stack([each.sum((1, 2)) for each in (found & true, found, true)])

        def on_validation_epoch_end(self) -> None:
            both, found, true = self.counts
            self.log("dice", (2 * both / (found + true).clamp(min=1)).mean())
            print(
                f"epoch {self.current_epoch}, {self.global_step} steps: {(2 * both / (found + true)).tolist()}",
                flush=True,
            )

        @torch.no_grad()
        def predicted(self, images: Tensor) -> Tensor:
            self.eval()
            logits = self.network(padded(images, 32))[..., : images.shape[-2], : images.shape[-1]]
            return (logits[:, 0] > 0).long() if binary else logits.argmax(1)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    return Script()


WAYS = {"nnunet": nnunet, "smp": smp}


def size(model: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Train one rival, on one thread."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(options.seed)
    done = WAYS[options.way](options.data, options.out, options.minutes)
    (options.out / "done.json").write_text(json.dumps(done))


if __name__ == "__main__":
    main()
