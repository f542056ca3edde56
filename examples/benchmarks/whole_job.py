"""Where the time of a complete job goes: ``python examples/benchmarks/whole_job.py [FOLDER] [--images N] [--steps N]``.

FOLDER has ``images/`` and ``masks/`` of one class; without it, nuclei are drawn. It runs two jobs as a user would:

- ``unetzoo train``: images are read, cropped and augmented, and the network is trained, validated and saved. Compared
  with the same number of bare steps: forward, loss, backward, clipping and optimiser, on a batch in memory.
- ``unetzoo predict`` with that model: images are decoded and segmented, and their masks written. Compared with the
  network alone, on tensors of the same sizes, in the same order.

The table has seconds of wall-clock time and of CPU time, over all threads and the processes that read images, and the
share of the bare work. Below the table, Lightning's profiler shows where the rest of the training time went.
"""

from __future__ import annotations

import argparse
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor, nn

import unetzoo
from unetzoo.cli import main as unetzoo_main
from unetzoo.drawing import draw_nuclei
from unetzoo.losses import build

BATCH = 8
ROUNDS = 5
PARTS = (
    "run_training_batch",
    "train_dataloader_next",
    "validation_step",
    "KeepBest.on_validation_end",
    "KeepLast.on_train_epoch_end",
    "ImageSheets.on_train_epoch_end",
    "History.on_train_epoch_end",
    "FolderData.setup",
)
Times = tuple[float, float]


def main() -> None:
    """Run both jobs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--model", default="resunet18")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--crop", type=int, default=256)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.model}\n")
    print("| job | clock, s | processor, s | the work alone, of the clock | of the processor |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or drawn(Path(place, "drawn"), given.images)
        run = Path(place, "run")
        job = timed(lambda: train(given, folder, run))
        row(f"train, {given.steps} steps", job, scaled(bare_step(given), given.steps))
        images = sorted(path for path in (folder / "images").iterdir())[: given.images]
        job = timed(lambda: command("predict", run / "best.safetensors", *images, "--out", Path(place, "masks")))
        row(f"predict, {len(images)} images", job, bare_network(run, images))
        for line in profiled(run):
            print(line)


def drawn(folder: Path, count: int) -> Path:
    """Write drawn images of nuclei and their masks."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, objects = draw_nuclei(320, 320, seed=number)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{number}.png")
        Image.fromarray(((objects > 0) * 255).byte().numpy()).save(folder / "masks" / f"{number}.png")
    return folder


def train(given: argparse.Namespace, folder: Path, run: Path) -> None:
    """Run ``unetzoo train`` with its defaults, and with Lightning's profiler."""
    profiler = {"class_path": "pytorch_lightning.profilers.SimpleProfiler"}
    settings = {"trainer.profiler": {**profiler, "init_args": {"dirpath": str(run.parent), "filename": "times"}}}
    size = {"crop_size": given.crop, "batch_size": BATCH, "steps": given.steps}
    unetzoo.fit(given.model, data=folder, out=run, quiet=True, settings=settings, **size)


def command(*words: object) -> None:
    """Run ``unetzoo`` as from a terminal."""
    if unetzoo_main([str(word) for word in words]):
        raise SystemExit(f"unetzoo {words[0]} failed")


def bare_step(given: argparse.Namespace) -> Times:
    """Return the median time of a training step on images in memory."""
    model = unetzoo.create(given.model).train()
    loss = build("bce + dice", "binary")
    optimiser = torch.optim.AdamW(model.parameters())
    images = torch.randn(BATCH, 3, given.crop, given.crop)
    truth = (torch.rand(BATCH, given.crop, given.crop) > 0.7).long()

    def step() -> None:
        optimiser.zero_grad()
        loss(model(images), truth).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 12)
        optimiser.step()

    step()
    return middle([timed(step) for _ in range(ROUNDS)])


@torch.inference_mode()
def bare_network(run: Path, images: Iterable[Path]) -> Times:
    """Return the times of the network alone on tensors of the sizes of the images."""
    network = unetzoo.optimize(unetzoo.load(run / "best.safetensors"))
    sizes = [Image.open(path).size[::-1] for path in images]
    tensors: dict[tuple[int, ...], Tensor] = {size: torch.randn(1, 3, *size) for size in dict.fromkeys(sizes)}
    network(tensors[sizes[0]])
    return timed(lambda: [network.predict(tensors[size]) for size in sizes])


def timed(job: Callable[[], object]) -> Times:
    """Return wall-clock seconds and CPU seconds, including those of processes that have ended."""
    begun, used = time.perf_counter(), processor()
    job()
    return time.perf_counter() - begun, processor() - used


def processor() -> float:
    """Return the CPU seconds so far."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def middle(times: list[Times]) -> Times:
    """Return the medians."""
    clock, used = zip(*times, strict=True)
    return median(clock), median(used)


def scaled(times: Times, count: int) -> Times:
    """Return the times of as many of them."""
    return times[0] * count, times[1] * count


def row(name: str, job: Times, alone: Times) -> None:
    """Print a row of the table."""
    shares = " | ".join(f"{100 * part / whole:.0f} %" for part, whole in zip(alone, job, strict=True))
    print(f"| {name} | {job[0]:.1f} | {job[1]:.1f} | {shares} |", flush=True)


def profiled(run: Path) -> list[str]:
    """Return the lines of Lightning's profiler that show where training spends its time, in wall-clock seconds."""
    (file,) = run.parent.glob("*times*")
    found = re.findall(r"^\|\s+(\S+)\s+\|\s+\S+\s+\|\s+(\d+)\s+\|\s+(\S+)", file.read_text(encoding="utf-8"), re.M)
    return ["", *(f"{name}: {float(total):.1f} s in {count}" for name, count, total in found if name.endswith(PARTS))]


if __name__ == "__main__":
    main()
