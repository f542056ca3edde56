"""Options that are given twice: refused, as only one of the two could count."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

import unetzoo
from unetzoo.cli import main, parser
from unetzoo.errors import ConfigError
from unetzoo.train.refusals import repeated


def commands(top: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list]]:
    """Yield the words of each command, and the options it takes."""
    inner = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for name, command in action.choices.items():
            yield from commands(command, (*words, name))
    if not inner:
        yield words, [action for action in top._actions if action.option_strings]


OPTIONS = [(words, action) for words, actions in commands(parser()) for action in actions]
ONCE = [
    (words, action)
    for words, action in OPTIONS
    if not isinstance(action, argparse._AppendAction | argparse._HelpAction)
]
MANY = {(*words, action.dest) for words, action in OPTIONS if isinstance(action, argparse._AppendAction)}


def test_what_may_be_repeated_is_stated() -> None:
    assert {(*words, name) for *words, name in MANY if name != "import"} == {
        ("convert", "option"),
        ("export", "authors"),
        ("export", "citations"),
        ("list", "exclude"),
        ("compare", "exclude"),
        ("serve", "name"),
    }


@pytest.mark.parametrize("form", ["apart", "joined"])
@pytest.mark.parametrize(("words", "action"), ONCE, ids=lambda x: x.option_strings[-1] if hasattr(x, "dest") else x[-1])
def test_no_option_is_taken_twice(
    form: str, words: tuple[str, ...], action: argparse.Action, capsys: pytest.CaptureFixture[str]
) -> None:
    count = action.nargs if isinstance(action.nargs, int) else 1
    said = [*(action.choices or ["1", "2"])][:2]
    values = [] if action.nargs == 0 else [[str(value)] * count for value in said]
    option = action.option_strings[-1]
    if form == "joined" and values and count == 1:
        given = [f"{option}={value}" for (value,) in values]
    else:
        given = [word for value in values or [[], []] for word in (option, *value)]
    with pytest.raises(SystemExit) as caught:
        main([*words, *given])
    assert caught.value.code == 2
    shown = "" if not values else ": " + " and ".join(" ".join(value) for value in values)
    assert re.match(f"unetzoo: {option} is given twice{re.escape(shown)}; give it once", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "a.csv", "--data.folder", "b.csv"], "--data=a.csv and --data.folder=b.csv"),
        (["--data=a.csv", "--data.folder=b.csv"], "--data=a.csv and --data.folder=b.csv"),
        (["--data.folder", "a.csv", "--data=b.csv"], "--data=b.csv and --data.folder=a.csv"),
        (["--data", "a", "--model.ema", "0.9", "--model.ema=0.99"], "--model.ema=0.9 and --model.ema=0.99"),
        (["--data", "a", "--seed", "1", "--seed_everything", "2"], "--seed=1 and --seed_everything=2"),
        (["--data", "a", "--patience=3", "--data.repeats", "-1", "--data.repeats", "-1"], "--data.repeats=-1 and"),
    ],
)
def test_short_and_full_names_are_one_setting(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--model", "unet", *words, "--print-config"]) == 2
    assert f"{said}" in capsys.readouterr().err


def test_lists_that_grow_may_be_repeated() -> None:
    item = ["--trainer.callbacks+=mine.A", "--trainer.callbacks.at", "1"]
    assert repeated({"data": "a"}, [*item, *item, "--model.ema", "0.9"]) == []
    assert len(repeated({"data": "a"}, [*item, "--trainer.callbacks.at", "2"])) == 1


def test_keywords_are_refused_as_flags_are(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"'data\.folder' is also given as data"):
        unetzoo.fit("unet", data=tmp_path, settings={"data.folder": "b"})


def test_one_option_of_a_network_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "a.pth", "b.safetensors", "--model", "unet", "--option", "norm=group", "--option=norm=none"]
    assert main(words) == 2
    assert "--option norm is given twice" in capsys.readouterr().err
