"""What a model's name means: the same at every door, in a folder where names, files and folders are mixed up."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unetzoo
from unetzoo import ConfigError, UnetzooError, WeightsError, cli, trained, zoo
from unetzoo.cli import main
from unetzoo.evaluation import evaluate
from unetzoo.exporting import export
from unetzoo.nn.meta import on_meta
from unetzoo.saving import records, sources, weights
from unetzoo.serving import serve, server
from unetzoo.train import building

PACKAGE = "the file of the package"
NETWORK = "the network"
RANDOM = "network .*weights .*random: .*'unetzoo train --model"
HIDDEN = r"network .*weights .*random: .*'\./unet'"
TWO = r"give '\./nuclei'"
NOTHING = r"no file [^']*'(?:cells\.safetensors|(?:\./)?unet)'"

TABLE: list[tuple[str | Path, str, str, str]] = [
    # The text, what is here besides, what networks without trained weights may be, what must be trained
    ("unet", "", NETWORK, RANDOM),
    ("unet_resnet18", "", NETWORK, RANDOM),
    ("unet", "unet/notes.txt", NETWORK, RANDOM),
    ("unet", "unet/model.safetensors", NETWORK, HIDDEN),
    ("unet", "unet/best.safetensors", NETWORK, HIDDEN),
    ("./unet", "unet/best.safetensors", "unet", "unet"),
    (Path("unet"), "unet/model.safetensors", "unet", "unet"),
    ("nuclei", "", PACKAGE, PACKAGE),
    ("nuclei", "nuclei/images/1.png", PACKAGE, PACKAGE),
    ("nuclei", "nuclei/model.safetensors", PACKAGE, TWO),
    ("./nuclei", "nuclei/model.safetensors", "nuclei", "nuclei"),
    ("cells.safetensors", "cells.safetensors", "cells.safetensors", "cells.safetensors"),
    ("a,b.safetensors", "a,b.safetensors", "a,b.safetensors", "a,b.safetensors"),
    ("runs/a", "runs/a/best.safetensors", "runs/a", "runs/a"),
    ("me/it", "", "hub: me/it", "hub: me/it"),
    ("me/it@v1", "", "hub: me/it@v1", "hub: me/it@v1"),
    ("me/it", "me/it/model.safetensors", "me/it", "me/it"),
    ("hf-hub:me/it", "me/it/model.safetensors", "hub: hf-hub:me/it", "hub: hf-hub:me/it"),
    ("hf-hub:unet", "", "is not the name of a repository", "is not the name of a repository"),
    ("runs/b", "runs/a/best.safetensors", "repository .*hf-hub:runs/b", "hf-hub:runs/b"),
    ("cells.safetensors", "", NOTHING, NOTHING),
    ("./unet", "", NOTHING, NOTHING),
    (Path("unet"), "", NOTHING, NOTHING),
    ("unett", "", "did you mean 'unet'", "did you mean 'unet'"),
    ("nucleii", "", "did you mean 'nuclei'", "did you mean 'nuclei'"),
]


class ReachedError(Exception):
    """A file is about to be read, or a repository to be pulled."""


def command(*words: str) -> None:
    options = cli.parser().parse_args(words)
    options.wording = str
    with contextlib.redirect_stdout(io.StringIO()):
        options.run(options)


def verify(text: str) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command("verify", text)
    except UnetzooError as error:  # which counts those that failed; each was told of before
        raise UnetzooError(said.getvalue()) from error


def train(text: str) -> None:
    labels = SimpleNamespace(num_classes=1, task="binary", class_names=None)
    facts = SimpleNamespace(in_channels=3, mean=None, std=None, normalisation="fixed", pixels="uint8")
    data: Any = SimpleNamespace(labels=labels, facts=facts, resize=1.0, normalise_as=lambda known: None)
    building.built(SimpleNamespace(name=text, options=None, pretrained=False), data)


def serving(text: str) -> None:
    with serve(text):
        pass


UNTRAINED: dict[str, Callable[[Any], object]] = {
    "create": unetzoo.create,
    "compare": lambda text: unetzoo.compare([text], size=32),
    "unetzoo info": lambda text: command("info", text),
    "unetzoo compare": lambda text: command("compare", text, "--size", "32"),
    "unetzoo train": train,
}
TRAINED: dict[str, Callable[[Any], object]] = {
    "from_pretrained": unetzoo.from_pretrained,
    "Predictor": unetzoo.Predictor,
    "Predictor of a list": lambda text: unetzoo.Predictor([text]),
    "evaluate": lambda text: evaluate(text, "data"),
    "calibrate": lambda text: unetzoo.calibrate(text, "data"),
    "export": lambda text: export(text, "it.pt2", size=(32, 32)),
    "serve": serving,
    "push_to_hub": lambda text: unetzoo.push_to_hub(text, "me/other", token="hf_me"),
    "unetzoo predict": lambda text: command("predict", text, "image.png"),
    "unetzoo evaluate": lambda text: command("evaluate", text, "--data", "data"),
    "unetzoo calibrate": lambda text: command("calibrate", text, "--data", "data"),
    "unetzoo export": lambda text: command("export", text, "it.pt2", "--size", "32", "32"),
    "unetzoo serve": lambda text: command("serve", text),
    "unetzoo demo": lambda text: command("demo", "--model", text),
    "unetzoo verify": verify,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, from which nothing is read and nothing pulled."""
    monkeypatch.chdir(tmp_path)

    def read(path: Path, *_told: object) -> None:
        raise ReachedError(PACKAGE if Path(path).parent == trained.FOLDER else Path(path).as_posix())

    def pull(text: str, **how: object) -> None:
        raise ReachedError(f"hub: {text}")

    for module in (weights, records):
        monkeypatch.setattr(module, "read_record", read)
    monkeypatch.setattr(sources, "pull_from_hub", pull)
    monkeypatch.setattr(server, "needed", lambda *_, **__: None)
    monkeypatch.setattr("unetzoo.cli.serving.check_installed", lambda needs: None)  # the page is not opened here
    return tmp_path


def outcome(door: Callable[[Any], object], text: str | Path) -> str:
    try:
        with on_meta():
            door(text)
    except ReachedError as reached:
        return str(reached)
    except UnetzooError as error:
        return f"refused: {error}"
    return NETWORK


@pytest.mark.parametrize(("text", "beside", "untrained", "trained"), TABLE)
def test_every_door_takes_it_alike(text: str | Path, beside: str, untrained: str, trained: str, here: Path) -> None:
    if beside:
        (here / beside).parent.mkdir(parents=True, exist_ok=True)
        (here / beside).touch()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("image.png")
    for doors, expected in ((UNTRAINED, untrained), (TRAINED, trained)):
        for name, door in doors.items():
            if isinstance(text, Path) and name.startswith("unetzoo "):
                continue
            found = outcome(door, text)
            if found.startswith("refused: "):
                assert re.search(expected, found), name
            else:
                assert found == expected, name


def test_a_hidden_folder_is_named_once(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    for text, what in (("unet", "the network of the zoo"), ("nuclei", "the trained model of the package")):
        (here / text).mkdir()
        (here / text / "best.safetensors").touch()
        for name, door in UNTRAINED.items():
            caplog.clear()
            with caplog.at_level(logging.WARNING, logger="unetzoo"):
                outcome(door, text)
            assert caplog.messages == [f"{text!r} is {what}; the folder here is './{text}'"], name


@pytest.mark.parametrize(("text", "kind"), [
    ("unett", ConfigError), (None, ConfigError), ("", ConfigError), (["unet"], ConfigError),
    ("cells.safetensors", WeightsError), ("./unet", WeightsError), (Path("unet"), WeightsError),
])  # fmt: skip
def test_words_and_paths_fail_by_kind(text: Any, kind: type[Exception], here: Path) -> None:
    for door in (unetzoo.create, unetzoo.from_pretrained, sources.source_of):
        with pytest.raises(kind):
            door(text)


def test_the_registry_creates_alone(here: Path) -> None:
    for text in ("nuclei", "me/it", "cells.safetensors", "hf-hub:me/it"):
        with pytest.raises(ConfigError, match="from_pretrained takes saved models"):
            zoo.create(text)


def test_commas_separate_what_is_no_path(here: Path) -> None:
    (here / "a,b").mkdir()
    assert sources.separated("a,b") == ["a,b"]
    assert sources.separated("a, c,hf-hub:me/it@v1") == ["a", "c", "hf-hub:me/it@v1"]


def test_what_a_source_says(here: Path) -> None:
    (here / "runs").mkdir()
    kinds = {text: sources.source_of(text).kind for text in ("unet", "vessels", "runs", "me/it", "hf-hub:me/it@v1")}
    assert list(kinds.values()) == ["network", "trained", "folder", "repository", "repository"]
    tagged = sources.source_of("hf-hub:me/it@v1")
    assert (tagged.repository, tagged.revision, tagged.path) == ("me/it", "v1", None)
    assert sources.source_of("me/it").revision is None
    assert sources.source_of("runs").path == Path("runs")


def test_a_run_without_an_epoch_and_a_folder_of_runs_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "i.png"
    Image.new("RGB", (32, 32)).save(image)
    begun = tmp_path / "runs/v"
    begun.mkdir(parents=True)
    (begun / "config.yaml").write_text("{}", encoding="utf-8")
    assert main(["predict", "runs/v", str(image)]) == 2
    said = capsys.readouterr().err
    assert "runs/v has finished no epoch yet: 'unetzoo train --resume runs/v' continues it" in said
    assert "hf-hub" not in said
    assert "last.ckpt" not in said
    (begun / "last.ckpt").touch()
    with pytest.raises(WeightsError, match=r"no epoch yet.*so far is runs/v/last\.ckpt"):
        unetzoo.load("runs/v")
    for name in ("a", "b"):
        unetzoo.save_pretrained(unetzoo.create("unet", base_channels=2), tmp_path / "runs" / name)
    assert main(["predict", "runs", str(image)]) == 2
    assert "holds several models: give one of them, runs/a, runs/b" in capsys.readouterr().err
