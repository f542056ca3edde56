"""Training by folds: which image is where, each fold a run like any other, and what is chosen on what is held back."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SPAWNED
from PIL import Image
from pytorch_lightning.callbacks import Callback

import unetzoo
from unetzoo import ConfigError, Predictor, WeightsError
from unetzoo.cli import main
from unetzoo.data import Labels, find_samples
from unetzoo.data.splitting import deal
from unetzoo.evaluation.across_folds import best_views
from unetzoo.evaluation.speck_trials import SpeckTrials
from unetzoo.objects import cleaned

pytestmark = pytest.mark.usefixtures("no_curves")

SMALL = {"data.workers": 0, "model.options.base_channels": 4}


def write(folder: Path, count: int, size: int = 24, seed: int = 0) -> Path:
    """Write pictures of bright squares with their masks: name → squares of its own."""
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for k in range(count):
        mask = np.zeros((size, size), np.uint8)
        y, x = rng.integers(0, size - 10, 2)
        mask[y : y + 10, x : x + 10] = 255
        image = rng.integers(0, 90, (size, size, 3), dtype=np.uint8) + (mask // 2)[..., None]
        Image.fromarray(image).save(folder / "images" / f"{k:02}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{k:02}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("folds") / "data", 14)


@pytest.fixture(scope="module")
def whole(data: Path) -> unetzoo.Run:
    """Return a training by two folds."""
    return train(data, data.parent / "whole", folds=2)


def train(data: Path, out: Path, **how: object) -> unetzoo.Run:
    settings = {**SMALL, **how.pop("settings", {})}  # type: ignore[dict-item]
    return unetzoo.fit(
        "unet", data=data, out=out, steps=12, steps_per_epoch=4, batch_size=2, crop_size=16, lr=1e-2, quiet=True,
        settings=settings, **how,
    )  # fmt: skip


def names(samples: tuple) -> set[str]:
    return {sample.name for sample in samples}


class KillIn(Callback):
    """Kills its own process at the end of a training batch of a fold."""

    def __init__(self, fold: int, batch: int) -> None:
        self.fold, self.batch = fold, batch

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if (trainer.datamodule.fold, trainer.fit_loop.total_batch_idx + 1) == (self.fold, self.batch):
            os.kill(os.getpid(), signal.SIGKILL)


class TestParts:
    @pytest.mark.parametrize("folds", [2, 3, 5])
    def test_each_image_is_held_back_once_and_the_test_is_as_without_folds(self, data: Path, folds: int) -> None:
        plain = find_samples(data, Labels())
        parts = [find_samples(data, Labels(), fold=(k, folds)) for k in range(1, folds + 1)]
        every = names(plain["train"]) | names(plain["val"])
        assert all(names(part["test"]) == names(plain["test"]) for part in parts)
        assert all(names(part["train"]) == every - names(part["val"]) for part in parts)
        held = Counter(name for part in parts for name in names(part["val"]))
        assert held == Counter(every)
        sizes = [len(part["val"]) for part in parts]
        assert max(sizes) - min(sizes) <= 1

    def test_groups_stay_together_and_kinds_are_shared_alike(self, tmp_path: Path) -> None:
        write(tmp_path / "data", 36)
        rows = [f"data/images/{k:02}.png,data/masks/{k:02}.png,{'b' if k % 6 < 2 else 'a'}" for k in range(36)]
        (tmp_path / "list.csv").write_text("\n".join(["image,mask,kind", *rows]), encoding="utf-8")
        for fold in (1, 2, 3):
            part = find_samples(tmp_path / "list.csv", Labels(), fold=(fold, 3), ratios=(0.7, 0.3, 0))
            assert Counter(sample.kind for sample in part["val"]) == {"a": 8, "b": 4}
            tens = find_samples(tmp_path / "data", Labels(), fold=(fold, 3), ratios=(0.7, 0.3, 0), group=r"^\d")
            assert not {name[0] for name in names(tens["train"])} & {name[0] for name in names(tens["val"])}

    def test_sizes_are_as_even_as_the_best_of_all_ways(self) -> None:
        sizes = {"a": 7, "b": 5, "c": 4, "d": 3, "e": 2, "f": 1}
        homes = deal({"": sizes}, 2, seed=0)
        found = Counter[int]()
        for key, home in homes.items():
            found[home] += sizes[key]
        best = min(
            abs(sum(size * (1 if left else -1) for size, left in zip(sizes.values(), way, strict=True)))
            for way in product((False, True), repeat=len(sizes))
        )
        assert abs(found[1] - found[2]) == best == 0

    def test_another_seed_deals_otherwise(self) -> None:
        keys = {"": {str(k): 1 for k in range(30)}}
        assert deal(keys, 3, seed=0) == deal(keys, 3, seed=0) != deal(keys, 3, seed=1)

    def test_no_fold_is_empty_where_kinds_are_small(self) -> None:
        strata = {"a": {"1": 1, "2": 1}, "b": {"3": 5, "4": 5}}
        assert sorted(deal(strata, 4, seed=0).values()) == [1, 2, 3, 4]


class TestRuns:
    def test_a_fold_is_the_run_that_it_is_alone(self, whole: unetzoo.Run, data: Path, tmp_path: Path) -> None:
        alone = train(data, tmp_path / "alone", folds=2, fold=2)
        assert alone.folder == tmp_path / "alone" / "fold-2"
        for name in ("metrics.csv", "config.yaml", "data.json", "best.safetensors"):
            assert (alone.folder / name).read_bytes() == (whole.folder / "fold-2" / name).read_bytes()

    @pytest.mark.parametrize(("fold", "batch"), [(2, 6), pytest.param(1, 9, marks=pytest.mark.slow)])
    def test_folds_that_were_killed_go_on_bit_for_bit(
        self, fold: int, batch: int, whole: unetzoo.Run, data: Path, tmp_path: Path
    ) -> None:
        words = ["train", "--model", "unet", "--data", str(data), "--out", str(tmp_path / "cut"), "--folds", "2",
                 "--steps", "12", "--steps-per-epoch", "4", "--batch-size", "2", "--crop-size", "16", "--lr", "0.01",
                 *(f"--{name}={value}" for name, value in SMALL.items()), "--quiet", "--keep_steps", "1",
                 f"--trainer.callbacks+={__name__}.KillIn", "--trainer.callbacks.fold", str(fold),
                 "--trainer.callbacks.batch", str(batch)]  # fmt: skip
        killed = SPAWNED.Process(target=main, args=(words,))
        killed.start()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        assert (tmp_path / "cut" / f"fold-{fold}" / "last.ckpt").is_file()
        assert not (tmp_path / "cut" / f"fold-{fold + 1}").exists()
        resume = ["train", "--resume", str(tmp_path / "cut"), "--quiet", "--trainer.callbacks", "null", "--trust"]
        for _ in range(2):  # the second has nothing left to do
            assert main(resume) == 0
            for run in whole.folds:
                for name in ("metrics.csv", "best.safetensors", "data.json"):
                    assert (tmp_path / "cut" / run.folder.name / name).read_bytes() == (run.folder / name).read_bytes()
            assert (tmp_path / "cut" / "folds.json").read_bytes() == (whole.folder / "folds.json").read_bytes()

    def test_how_all_go_on_is_said_once_in_the_end(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        how = {"steps": 2, "steps_per_epoch": 1, "batch_size": 2, "crop_size": 16, "settings": SMALL, "style": "lines"}
        unetzoo.fit("unet", data=data, out=tmp_path / "new", folds=2, **how)
        unetzoo.fit(resume=tmp_path / "new", style="lines")
        for said in capsys.readouterr().out.split("fold 1 of 2")[1:]:
            assert said.count("continues") == 1
            assert said.count("all steps are done (2)\n") == 2
            first, second = f"unetzoo.fit(resume={str(tmp_path / 'new')!r}, steps=4) continues", "fold 2 of 2"
            assert said.index(second) < said.index(first) < said.index("folds.json")

    def test_a_run_of_folds_has_runs(self, whole: unetzoo.Run) -> None:
        assert [run.folder.name for run in whole.folds] == ["fold-1", "fold-2"]
        assert all(len(run.history) == 3 for run in whole.folds)
        record = json.loads((whole.folder / "folds.json").read_text(encoding="utf-8"))
        assert whole.best_dice == record["scores"]["dice"]
        assert "2 folds, out-of-fold Dice" in str(whole)
        with pytest.raises(WeightsError, match="2 networks"):
            whole.load()

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ({"fold": 1}, "of how many"),
            ({"folds": 2, "fold": 3}, "from 1 to 2"),
            ({"folds": 1}, "folds=1"),
            ({"folds": 40}, "cannot be split into 40 folds"),
            ({"folds": 2, "settings": {"trainer.devices": 2}}, "one command per fold"),
            ({"folds": 2, "settings": {"trainer.num_nodes": 2}}, "one command per fold"),
        ],
    )
    def test_what_cannot_be_is_refused(self, how: dict, said: str, data: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=said):
            train(data, tmp_path / "out", **how)
        assert not (tmp_path / "out").exists()

    def test_a_fold_alone_needs_a_folder_for_all(self, data: Path, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match="out=…, the folder for all folds"):
            unetzoo.fit("unet", data=data, steps=1, folds=2, fold=1, quiet=True)
        assert not (tmp_path / "runs").exists()

    def test_other_trainings_in_the_folder_are_refused(self, whole: unetzoo.Run, data: Path, tmp_path: Path) -> None:
        train(data, tmp_path / "out", folds=2, fold=1)
        train(data, tmp_path / "out", folds=3, fold=2)
        with pytest.raises(ConfigError, match="fold-1: folds=2, fold-2: folds=3"):
            unetzoo.fit(resume=tmp_path / "out", quiet=True)


class TestAverage:
    def test_the_predictor_averages_and_follows_the_file(self, whole: unetzoo.Run, data: Path) -> None:
        record = json.loads((whole.folder / "folds.json").read_text(encoding="utf-8"))
        image = data / "images" / "03.png"
        alone = [Predictor(run.folder / "best.safetensors", tta=record["tta"])(image) for run in whole.folds]
        said = whole.predictor()(image)
        expected = (alone[0].probabilities + alone[1].probabilities) / 2
        torch.testing.assert_close(said.probabilities, expected, atol=1e-6, rtol=1e-5)
        plain = (expected[0] > record["thresholds"][0]).byte()
        mask = cleaned(plain, "binary", 1, smallest=record["masks"]["smallest"])
        assert torch.equal(said.mask, mask)
        own = Predictor(whole.folder, threshold=0.5, tta="none")
        assert (own.thresholds, own.smallest, own.tta) == ((0.5,), 0, "none")

    def test_figures_are_those_of_a_plain_loop(self, whole: unetzoo.Run, data: Path) -> None:
        record = json.loads((whole.folder / "folds.json").read_text(encoding="utf-8"))
        for tta in ("none", "flips", "d4"):
            said, true = [], []
            for run in whole.folds:
                predictor = Predictor(run.folder, tta=tta)
                for name in json.loads((run.folder / "data.json").read_text(encoding="utf-8"))["val"]:
                    said.append(predictor(data / "images" / f"{name}.png").probabilities[0].numpy())
                    true.append(np.asarray(Image.open(data / "masks" / f"{name}.png")) > 0)
            pixels, truth = np.concatenate([one.ravel() for one in said]), np.concatenate([one.ravel() for one in true])
            cuts = np.arange(1000, dtype=np.float32) / 1000
            dice = [2 * (truth & (pixels > cut)).sum() / (truth.sum() + (pixels > cut).sum()) for cut in cuts]
            assert record["views"][tta] == pytest.approx(max(dice), abs=2e-4)
            if tta == record["tta"]:
                assert record["scores"]["dice"] == pytest.approx(dice[round(1000 * record["thresholds"][0])], abs=1e-9)
                assert record["scores"]["images"] == len(said) == 13

    def test_commands_take_the_folder(self, whole: unetzoo.Run, data: Path, tmp_path: Path, capsys) -> None:
        out = tmp_path / "masks"
        assert main(["predict", str(whole.folder), str(data / "images"), "--out", str(out)]) == 0
        assert "averaging 2 folds, with the settings from" in capsys.readouterr().err
        expected = whole.predictor()(data / "images" / "05.png").mask.numpy() * 255
        assert (np.asarray(Image.open(out / "05.png")) == expected).all()
        assert main(["evaluate", str(whole.folder), "--data", str(data), "--split", "test", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 1
        with pytest.raises(ConfigError, match=r"trained on; .*README\.md has the scores on each fold's held-out"):
            unetzoo.evaluate(whole.folder, data)
        chosen = json.loads((whole.folder / "folds.json").read_text(encoding="utf-8"))
        how = f"views {chosen['tta']}, threshold {chosen['thresholds'][0]:.3f}, parts of any size:\nfold  images "
        assert how in (whole.folder / "README.md").read_text(encoding="utf-8")
        with pytest.raises(ConfigError, match=r"none of the 2 models was trained on; .*README\.md has"):
            unetzoo.evaluate(whole.folder, data, split="val")
        with pytest.raises(WeightsError, match=r"holds 2 folds, whose networks.*fold-1"):
            unetzoo.from_pretrained(whole.folder)

    def test_folds_that_are_not_done_are_not_averaged(self, data: Path, tmp_path: Path) -> None:
        train(data, tmp_path / "out", folds=2, fold=1)
        assert len(Predictor(tmp_path / "out").networks.members) == 1
        begun = tmp_path / "out" / "fold-2"
        begun.mkdir()
        (begun / "config.yaml").write_text("data: {folds: 2}", encoding="utf-8")
        with pytest.raises(WeightsError, match="in fold-2: 'unetzoo train --resume"):
            Predictor(tmp_path / "out")


class TestChoices:
    def test_more_views_must_be_worth_their_time(self) -> None:
        assert best_views({"none": 0.9, "flips": 0.9009, "d4": 0.9009}) == "none"
        assert best_views({"none": 0.9, "flips": 0.902, "d4": 0.9025}) == "flips"
        assert best_views({"none": 0.9, "flips": 0.9, "d4": 0.91}) == "d4"
        assert best_views({"none": float("nan"), "flips": float("nan"), "d4": float("nan")}) == "none"

    @pytest.mark.parametrize(("task", "classes"), [("binary", 1), ("multilabel", 2), ("multiclass", 3)])
    def test_the_smallest_is_the_best_of_all_sizes(self, task: str, classes: int) -> None:
        rng, trials, pairs = np.random.default_rng(4), SpeckTrials(task), []
        for _ in range(4):
            shape = (classes, 40, 40) if task == "multilabel" else (40, 40)
            true = np.zeros(shape, np.int64)
            true[..., 5:20, 5:20] = 1
            true[..., 25:36, 22:38] = classes - 1 if task == "multiclass" else 1
            said = np.where(rng.random(shape) < 0.06, 1, true)
            said = np.where(rng.random(shape) < 0.02, 0, said)
            true[..., :3] = -100
            mask, target = torch.from_numpy(said).byte(), torch.from_numpy(true)
            trials.add(mask, target)
            pairs.append((mask, target))
        kinds = range(1, 3) if task == "multiclass" else range(classes)

        def dice(smallest: int) -> float:
            found = []
            for kind in kinds:
                hits = total = 0
                for mask, target in pairs:
                    kept = cleaned(mask, task, classes, smallest=smallest)
                    one, its = (kept == kind, target == kind) if task == "multiclass" else (kept == 1, target == 1)
                    if task == "multilabel":
                        one, its, counted = one[kind], its[kind], target[kind] != -100
                    else:
                        counted = target != -100
                    hits += int((one & its).sum())
                    total += int((one & counted).sum() + its.sum())
                found.append(2 * hits / total)
            return sum(found) / len(found)

        best = trials.best()
        assert best is not None
        every = [dice(size) for size in range(80)]
        assert best.plain == pytest.approx(every[0])
        assert best.dice == pytest.approx(max(every))
        assert best.smallest == every.index(max(every)) > 1
