"""Words of other programs on the command line: each is told what it is here, before anything slow is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_cli import commands

from unetzoo.cli import main, parser, training
from unetzoo.objects.writing import OF_PROGRAMS, WRITERS
from unetzoo.train.flags import FLAGS
from unetzoo.train.words import ALSO_CALLED, unknown_words

ON_X = ("--model", "unet", "--data", "x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--data", "x"],
            "model is needed, as in --model resunet18; or --config, a settings file; or --resume",
        ),
        (["--model", "unet"], "data is needed, as in --data cells; or --config"),
        ([*ON_X, "--learning-rate", "1"], "unknown: --learning-rate; did you mean '--lr'?"),
        ([*ON_X, "--image-size=64"], "unknown: --image-size; did you mean '--crop-size'?"),
        ([*ON_X, "--batch_size", "4"], "unknown: --batch_size; did you mean '--batch-size'?"),
        ([*ON_X, "--images-every", "4"], "unknown: --images-every; did you mean '--images_every'?"),
        (
            [*ON_X, "--backbone", "resnet34"],
            "did you mean '--model'? The encoder is part of the name",
        ),
    ],
)
def test_a_training_refuses_words_before_it_loads_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr(training, "needed", None)  # what loads Lightning
    assert main(["train", *arguments]) == 2
    out, error = capsys.readouterr()
    assert said in error
    assert error.startswith("unetzoo: cannot train: ")
    assert not out


def test_words_that_are_refused_at_once_are_no_settings() -> None:
    """Those of the parser that reads the settings pass: full names, in any form, and what has neither dot nor flag."""
    from unetzoo.train.command import RunCLI

    class Names(RunCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise KeyError([option for action in parser._actions for option in action.option_strings])

    with pytest.raises(KeyError) as caught:
        Names([], lambda name, fold: Path(name), "quiet", lambda config: [], False)
    options = [option for option in caught.value.args[0] if option.startswith("--")]
    flags = {f"--{flag.name}" for flag in FLAGS}
    assert "--data.workers" in options
    assert not unknown_words([option for option in options if option not in flags])
    assert not unknown_words(["--trainer.callbacks+=mine.Stop", "--logger+=csv", "no option", "-1"])


def test_other_programs_words_are_for_options_that_there_are() -> None:
    known = {option for _, command in commands(parser()) for option in command._option_string_actions}
    assert {option for options in ALSO_CALLED.values() for option in options} <= known


def test_programs_are_no_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert OF_PROGRAMS.keys().isdisjoint(WRITERS)
    assert {*OF_PROGRAMS.values()} <= WRITERS.keys()
    assert main(["predict", "nuclei", "x.png", "--write", "QuPath"]) == 2
    assert "'QuPath' is a program, and reads the format 'geojson'" in capsys.readouterr().err
