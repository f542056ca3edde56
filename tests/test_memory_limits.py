"""Batches by memory: what is counted against the allocator's own records, and what comes of it in a run."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from trainings import TINY, refused, same_runs, train

import unetzoo
from unetzoo.costs.living import LiveBytes
from unetzoo.devices import free_memory
from unetzoo.train import memory
from unetzoo.train.memory import FEWEST, MARGIN, PROBES, most_crops, needed

pytestmark = pytest.mark.usefixtures("no_curves")
AUTO = ("--batch-size", "auto", "--data.repeats", "null")
BETWEEN = ("unetpp_resnet18", 12)


# What is counted


def test_memory_is_counted_once_and_until_nobody_holds_it() -> None:
    with LiveBytes() as live:
        kept = torch.zeros(1000)  # 4,000 bytes
        views = [kept[10:], kept.view(10, 100), kept.detach()]
        more = kept.double()  # 8,000 bytes
        live.part()
        del more
        other = kept + 1  # 4,000 bytes
        del other
        live.part()
        kept.add_(1)
    assert live.most == [12_000, 12_000, 4_000]
    assert len(views) == 3


def step(name: str, crops: int, count: bool) -> tuple[list[int], int]:
    """Take two steps; return the most bytes alive in each part of the second, and what there was before it.

    Or else, in place of the parts, the most that the allocator handed out in it, by its own records.
    """
    torch.manual_seed(0)
    options = {"base_channels": 8} if name == "unet" else {"deep_supervision": True}
    model = unetzoo.create(name, **options)
    optimiser = torch.optim.AdamW(model.parameters())
    live = LiveBytes()

    def train_on(images: torch.Tensor) -> None:
        found = model.training_outputs(images)
        loss = torch.stack([each.square().mean() for each in (found.logits, *found.deep)]).sum()
        live.part()
        loss.backward()
        live.part()
        optimiser.step()
        optimiser.zero_grad()

    train_on(torch.randn(2, 3, 64, 64))
    images = torch.randn(crops, 3, 64, 64)
    if not count:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            train_on(images)
        events = [event.nbytes() for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
        return [max(sum(events[: k + 1]) for k in range(len(events)))], 0
    states = [value for state in optimiser.state.values() for value in state.values()]
    before = [*model.state_dict().values(), *states, images]
    for tensor in before:
        live.see(tensor)
    with live:
        train_on(images)
    return live.most[-3:], sum(tensor.nbytes for tensor in before)


@pytest.mark.parametrize("name", ["unet", "unetpp_resnet18"])
@pytest.mark.parametrize("crops", [2, 12])
def test_what_a_step_takes_is_told_from_two_small_ones(name: str, crops: int) -> None:
    """Of the second network the optimiser's part has most with few crops, and the backward pass with many.

    In between as much as the gradients of all weights take may be told too much, never too little.
    """
    (few, before), (more, _) = (step(name, count, count=True) for count in PROBES)
    images = (crops - PROBES[0]) * 3 * 64 * 64 * 4  # not handed out within the step
    told = needed(few, more, crops) - before - images
    (handed_out,), _ = step(name, crops, count=False)
    gradients = sum(tensor.nbytes for tensor in unetzoo.create(name).parameters()) if (name, crops) == BETWEEN else 0
    assert told / 1.03 - gradients < handed_out < MARGIN * told


def test_the_most_crops_that_fit_are_found() -> None:
    few, more = [200, 100, 900], [300, 150, 900]  # 100 a crop, above nothing; the backward pass as much
    assert [needed(few, more, crops) for crops in (1, 2, 9, 10)] == [900, 900, 900, 1000]
    assert [most_crops(few, more, limit) for limit in (899, 900, 999, 1000, 12_345)] == [0, 9, 9, 10, 123]


def test_free_memory_is_what_the_machine_has() -> None:
    found = free_memory(torch.device("cpu"))
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names or not Path("/proc/meminfo").is_file():
        assert found is None
        return
    assert found is not None
    assert 0 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free_memory(torch.device("mps")) is None


# In a run


def batch_size(run: Path) -> object:
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]["batch_size"]


def pixels(nuclei: Path) -> int:
    """Return those of all 15 images, of which 12 train."""
    found = 0
    for path in (nuclei / "images").iterdir():
        with Image.open(path) as image:
            found += image.width * image.height
    return found


def test_a_batch_is_found_and_is_a_run_s_from_then_on(nuclei: Path, tmp_path: Path) -> None:
    """It is 5 % of the pixels of the training images here, and the run is the one that is given this number."""
    settings = (*AUTO, "--crop-size", "16", "--steps", "2", "--steps-per-epoch", "1")
    train(nuclei, tmp_path / "found", *settings)
    found = batch_size(tmp_path / "found")
    share = 0.05 * pixels(nuclei) / 16**2
    assert isinstance(found, int)
    assert round(share * 11 / 15) <= found <= round(share * 13 / 15)
    train(nuclei, tmp_path / "given", *settings, "--batch-size", str(found))
    same_runs(tmp_path / "found", tmp_path / "given")
    train_on = ["train", "--resume", str(tmp_path / "found"), "--steps", "3", "--quiet"]
    assert unetzoo.cli.main(train_on) == 0
    assert batch_size(tmp_path / "found") == found


def test_memory_limits_a_batch(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In little memory there are fewer than 5 % of all pixels, and in too little it is said how much two crops take."""
    monkeypatch.setattr(memory, "COVERED", 1.0)
    monkeypatch.setattr(memory, "size", lambda count: f"{count} bytes")  # no millions
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**18)
    error = refused(capsys, "--data", str(nuclei), "--out", str(tmp_path / "a"), *TINY, *AUTO, "--steps", "1")
    two, free = map(int, re.findall(r"(\d+) bytes", error))
    assert "a step of 2 crops of 32 × 32 takes" in error
    assert free == 2**18
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(memory, "free_memory", lambda device: two)
    train(nuclei, tmp_path / "b", *AUTO, "--steps", "1")
    assert batch_size(tmp_path / "b") == FEWEST
    monkeypatch.setattr(memory, "free_memory", lambda device: 3 * two)
    train(nuclei, tmp_path / "c", *AUTO, "--steps", "1")
    found = batch_size(tmp_path / "c")
    assert isinstance(found, int)
    assert 6 <= found < 3 * two / (32 * 32 * 4 * 4 * 10)  # ten maps of four channels at the least, of each crop


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--batch-size", "most"], "--batch-size most"),
        ([*AUTO, "--trainer.devices", "2"], "can be measured only in a single process: give a number"),
    ],
)
def test_batches_that_cannot_be_found_are_refused(
    asked: list[str], said: str, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "--data", str(nuclei), "--out", str(tmp_path / "a"), *TINY, *asked)
    assert said in error
    assert not (tmp_path / "a").exists()
