"""A file of settings from a stranger: what it names is neither imported nor made, unless the user says it is theirs."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import unetzoo
from unetzoo import drawing
from unetzoo.cli import main
from unetzoo.errors import ConfigError
from unetzoo.plugins import import_modules
from unetzoo.train.trust import check_settings

pytestmark = pytest.mark.usefixtures("no_curves")

OWN = """
import pathlib
from pytorch_lightning.callbacks import Callback
import torch
from torch import nn
import os, subprocess

pathlib.Path("imported").touch()


class Mark(Callback):
    def __init__(self, note: str = ""):
        pathlib.Path("made").touch()


class Descent(torch.optim.SGD):
    pass


def halved(done):
    return 1 - done / 2


class Flip(nn.Module):
    def forward(self, image, mask):
        return image, mask


def edge(logits, target):
    return logits.sum() * 0
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of six images."""
    folder = tmp_path_factory.mktemp("shapes") / "data"
    drawing.write_shapes(folder, 6, size=(32, 32), seed=0)
    return folder


@pytest.fixture
def here(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder with data and a module of somebody's, which nobody has imported."""
    shutil.copytree(shapes, tmp_path / "data")
    (tmp_path / "strange.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("unetzoo.plugins._NAMED", set())
    yield tmp_path
    sys.modules.pop("strange", None)


def settings(**changed: Any) -> dict[str, Any]:
    """Return settings of a short run, with others by their full names, such as trainer__logger."""
    found: dict[str, Any] = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "model": {"name": "unet", "options": {"base_channels": 2}},
        "data": {
            "folder": "data",
            "crop_size": 16,
            "batch_size": 2,
            "workers": 0,
            "task": "multiclass",
            "num_classes": 5,
        },
    }
    found["data"]["num_classes"] = 5
    for name, value in changed.items():
        part, _, key = name.partition("__")
        if key:
            found[part][key] = value
        else:
            found[part] = value
    return found


def written(folder: Path, name: str = "config.yaml", **changed: Any) -> str:
    (folder / name).write_text(yaml.safe_dump(settings(**changed)), encoding="utf-8")
    return str(folder / name)


def named(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


STOPPING = "pytorch_lightning.callbacks.EarlyStopping"
HARMFUL: dict[str, dict[str, Any]] = {
    "a program": {"trainer__callbacks": [named("subprocess.Popen", args=["touch", "made"])]},
    "a program, as logger": {"trainer__logger": named("subprocess.Popen", args=["touch", "made"])},
    "a shell": {"trainer__profiler": named("os.system", command="touch made")},
    "a reader of pickles": {"trainer__plugins": [named("torch.load", f="x.pt")]},
    "a module that is there": {"trainer__callbacks": [named("strange.Mark")]},
    "a name alone": {"trainer__callbacks": "strange.Mark"},
    "names alone": {"trainer__callbacks": ["strange.Mark"]},
    "a short name": {"trainer__callbacks": "ModelCheckpoint"},
    "a writer": {"trainer__callbacks": [named("pytorch_lightning.callbacks.ModelCheckpoint", dirpath="elsewhere")]},
    "a writer of logs": {"trainer__logger": named("pytorch_lightning.loggers.CSVLogger", save_dir="elsewhere")},
    "a sender": {"trainer__logger": named("pytorch_lightning.loggers.WandbLogger")},
    "what calls": {"trainer__callbacks": named("pytorch_lightning.callbacks.LambdaCallback", setup="os.system")},
    "what calls, inside": {"trainer__callbacks": named(STOPPING, monitor="os.system")},
    "a class in a class": {
        "trainer__callbacks": named("pytorch_lightning.callbacks.EarlyStopping", monitor=named("a.B"))
    },
    "other arguments": {
        "trainer__callbacks": {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "dict_kwargs": {}}
    },
    "a strategy": {"trainer__strategy": named("pytorch_lightning.strategies.DDPStrategy", ddp_comm_hook="os.system")},
    "a profiler": {"trainer__profiler": "pytorch"},
    "a registry": {"trainer__model_registry": "somebody/model"},
    "another file": {"trainer__callbacks": "other.yaml"},
    "another file of the trainer": {"trainer": "other.yaml"},
    "another file of all": {"config": "other.yaml"},
    "a dotted setting": {"trainer.callbacks": "strange.Mark"},
    "an added setting": {"trainer__callbacks+": "strange.Mark"},
    "a loss": {"model__loss": "bce + 0.5 * strange.edge"},
    "a loss with options": {"model__loss": "strange.deeper.Edge(a=1)"},
    "an optimiser": {"model__optimiser": "strange.Descent"},
    "torch's own reader, as optimiser": {"model__optimiser": "torch.hub.load"},
    "a schedule": {"model__schedule": "strange.halved"},
    "a class among an optimiser's options": {"model__optimiser_options": {"betas": named("strange.Mark")}},
    "a transform": {"data__augmentation": ["light", "strange.Flip"]},
    "a transform with options": {"data__augmentation": [{"strange.Flip": {}}]},
    "a transform in another": {"data__augmentation": [{"RandomApply": {"transforms": ["strange.Flip"]}}]},
    "a class elsewhere": {"model__options": {"base_channels": 2, "norm": named("strange.Mark")}},
}


@pytest.mark.parametrize(
    ("title", "way"),
    [
        *((title, "config") for title in HARMFUL),
        *((title, way) for title in ("a program", "a name alone", "a loss") for way in ("resume", "fit", "print")),
    ],
)
def test_what_a_file_names_is_not_imported(
    title: str, way: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run").mkdir()
    (here / "other.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": "strange.Mark"}}), encoding="utf-8")
    path = written(here / "run", **HARMFUL[title])
    before = sorted(here.rglob("*"))
    if way == "fit":
        with pytest.raises(ConfigError, match="trust=True"):
            unetzoo.fit(config=path, out="out")
    else:
        words = {
            "config": ["--config", path, "--out", "out"],
            "resume": ["--resume", "run"],
            "print": ["--config", path, "--print-config"],
        }
        assert main(["train", *words[way], "--quiet"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("unetzoo: ")
        assert re.search(r"config\.yaml .*--trust", said)
    assert "strange" not in sys.modules
    assert sorted(here.rglob("*")) == before


def test_references_that_unfold_are_refused(here: Path) -> None:
    """Nine lists of nine references each to the last."""
    lines = ["a0: &a0 [x]"] + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)]
    for text in ("\n".join(lines), "[" * 5000, "a" * (1 << 21), "a: \x00", "a: ["):
        (here / "config.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"config\.yaml .*trust=True"):
            check_settings(here / "config.yaml")


HARMLESS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "words": {"trainer__strategy": "auto", "trainer__logger": False, "trainer__profiler": None},
    "callbacks": {
        "trainer__callbacks": [
            named("pytorch_lightning.callbacks.EarlyStopping", monitor="val/loss"),
            named("pytorch_lightning.callbacks.early_stopping.EarlyStopping", monitor="val/dice"),
            named("unetzoo.train.Clock"),
        ]
    },
    "losses": {"model__loss": "0.5*bce + tversky(alpha=0.3, beta=0.7)"},
    "optimisers": {"model__optimiser": "sgd", "model__optimiser_options": {"momentum": 0.9}},
    "transforms": {"data__augmentation": [{"RandomBrightness": {"strength": 0.2}}, "RandomVerticalFlip"]},
}


@pytest.mark.parametrize("title", HARMLESS)
def test_what_runs_leave_and_usual_callbacks_are_followed(title: str, here: Path) -> None:
    check_settings(Path(written(here, **HARMLESS[title])))


def test_a_run_of_usual_settings_goes_on_without_a_word(here: Path) -> None:
    run = unetzoo.fit(config=written(here, **HARMLESS["callbacks"]), out="run", quiet=True)
    unetzoo.fit(resume=run, epochs=2, quiet=True)
    assert len(run.history) == 2


@pytest.mark.parametrize(
    ("title", "proposed"),
    [
        ("a loss", True),
        ("names alone", True),
        ("a transform in another", True),
        ("a loss with options", False),  # there is no strange/deeper.py
        ("a program", False),
        ("torch's own reader, as optimiser", False),
        ("a class elsewhere", False),
        ("another file", False),
        ("a registry", False),
        ("a short name", False),
    ],
)
def test_an_import_is_proposed_where_it_is_enough_and_only_of_one_s_own(title: str, proposed: bool, here: Path) -> None:
    sys.path.append(str(here))  # as the command does
    path = Path(written(here, **HARMFUL[title]))
    with pytest.raises(ConfigError, match=r"trust=True allows it") as caught:
        check_settings(path)
    assert ("trust=True allows it, or in a command --import strange; or" in str(caught.value)) == proposed
    assert "--import" not in str(caught.value).replace("--import strange;", "") or proposed
    assert "strange" not in sys.modules
    if proposed:
        import_modules(["strange"])
        check_settings(path)


def test_an_import_is_proposed_for_all_that_is_named_or_not_at_all(here: Path) -> None:
    sys.path.append(str(here))
    (here / "parts").mkdir()
    for name in ("__init__", "inner"):
        (here / "parts" / f"{name}.py").write_text(OWN, encoding="utf-8")
    path = Path(written(here, model__loss="strange.edge + parts.inner.edge", model__optimiser="parts.Descent"))
    with pytest.raises(ConfigError, match=r"in a command --import parts --import parts\.inner --import strange; or"):
        check_settings(path)
    path = Path(written(here, model__loss="strange.edge", model__optimiser="torch.optim.SGD"))
    with pytest.raises(ConfigError, match="trust=True allows it; or give"):
        check_settings(path)


@pytest.mark.parametrize("given", [["--import", "strange"], ["--trust"], []])
def test_the_command_that_goes_on_works_as_it_is_printed(
    given: list[str], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first run and of the resumed one, each in a process of its own, which knows of no import before."""
    words = ["--config", written(here), "--out", "a", "--model.loss", "dice + strange.edge", "--epochs", "1", *given]
    for epochs in (1, 2, 4):
        monkeypatch.setattr("unetzoo.plugins._NAMED", set())
        sys.modules.pop("strange", None)
        assert main(["train", *words]) == 0, capsys.readouterr().err
        assert len(unetzoo.Run("a").history) == epochs
        (said,) = re.findall(r"'unetzoo train (--resume .*)' continues", capsys.readouterr().out)
        assert " ".join(given or ["--trust"]) in said
        assert ("--trust" in said) == (given != ["--import", "strange"])
        words = shlex.split(said)


OWNED = {
    "trainer__callbacks": [named("strange.Mark", note="a")],
    "model__loss": "dice + strange.edge",
    "model__optimiser": "strange.Descent",
    "model__schedule": "strange.halved",
    "data__augmentation": ["light", "strange.Flip"],
}


def test_with_trust_it_is_followed(here: Path) -> None:
    path = written(here, **OWNED)
    words = ["train", "--config", path, "--quiet"]
    assert main([*words, "--out", "a"]) == 2
    assert not (here / "imported").exists()
    assert main([*words, "--out", "a", "--trust"]) == 0
    assert (here / "made").exists()
    assert main(["train", "--resume", "a", "--epochs", "2", "--quiet"]) == 2
    assert main(["train", "--resume", "a", "--epochs", "2", "--quiet", "--trust"]) == 0
    assert len(unetzoo.fit(config=path, out="b", quiet=True, trust=True).history) == 1


def test_a_module_that_the_user_names_is_followed_and_what_it_imports_is_not(here: Path) -> None:
    path = written(here, **OWNED)
    assert main(["train", "--import", "strange", "--config", path, "--out", "a", "--quiet"]) == 0
    for name in ("strange.os.system", "strange.subprocess.Popen", "strange.Callback", "strange.nothing"):
        with pytest.raises(ConfigError, match=re.escape(name)):
            check_settings(Path(written(here, "b.yaml", trainer__callbacks=name)))


def test_what_flags_name_is_the_user_s_word(here: Path) -> None:
    words = ["train", "--config", written(here), "--out", "a", "--quiet", "--trainer.callbacks+=strange.Mark"]
    assert main(words) == 0
    assert (here / "made").exists()
