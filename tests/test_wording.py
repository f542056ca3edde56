"""What commands say: the library's arguments as the options that are typed, and the fix as it is typed next."""

from __future__ import annotations

import ast
import functools
import json
import logging
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import unetzoo
from unetzoo.cli import main, parser
from unetzoo.cli._wording import Wording, warnings_in
from unetzoo.data import labels_of
from unetzoo.files.notes import DESCRIPTION
from unetzoo.train.refusals import other_names

OPTIONS = {
    "train": ["train"],
    "check": ["data", "check", "x"],
    "predict": ["predict", "nuclei", "x"],
    "evaluate": ["evaluate", "nuclei", "--data", "x"],
    "serve": ["serve", "nuclei"],
}


def wording(command: str) -> Wording:
    options = parser().parse_args(OPTIONS[command])
    found = Wording(options.command, settings=options.takes_rest)
    if command == "train":
        found.know(other_names())
    return found


def test_what_describes_a_network_is_no_option(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("unetzoo")
    with warnings_in(wording("train")):
        logger.warning("here unet, num_classes=2", extra=DESCRIPTION)
        logger.warning("give num_classes=2")
    assert caplog.messages == ["here unet, num_classes=2", "give --num-classes 2"]


@pytest.mark.parametrize("classes", [1, 3])
def test_a_head_drawn_anew_is_no_option_that_was_given(
    classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unetzoo.save(unetzoo.create("unet", base_channels=4, num_classes=2), tmp_path / "two.safetensors")
    with warnings_in(wording("train")):
        unetzoo.load(tmp_path / "two.safetensors", num_classes=classes)
    assert re.search(rf"head is re-initialised.* {classes} class.* 2.*head\.conv\.weight", caplog.text)
    assert ("--num-classes 2 and --colours '#000000,#ffffff'" in caplog.text) == (classes == 1)


@pytest.mark.parametrize(
    ("command", "said", "typed"),
    [
        ("check", "ids are foreground='any'", "ids are --foreground any"),
        ("check", "task='multiclass' with num_classes=16", "--task multiclass with --num-classes 16"),
        ("check", "(ignore=-1)", "(--ignore -1)"),
        ("check", "give ignore=… for it", "give --ignore for it"),
        ("check", "colours=('#000000', '#ffffff')", "--colours '#000000,#ffffff'"),
        ("check", "class_names=['a', 'b c']", "--class-names 'a,b c'"),
        ("check", "ratios=(0.5, 0.5, 0.0): no", "--ratios 0.5 0.5 0.0: no"),
        ("check", "group='(a|b)': no", "--group '(a|b)': no"),
        ("check", "seed=None is none", "seed=None is none"),
        ("check", "in_channels=3 and model.ema=0.9", "in_channels=3 and model.ema=0.9"),
        ("check", "'my seed=3.png' and 'seed=3' are files", "'my seed=3.png' and 'seed=3' are files"),
        ("check", "the run's seed=3 isn't that of seed=4", "the run's --seed 3 isn't that of --seed 4"),
        ("check", "runs/seed=3/a and reseed=3", "runs/seed=3/a and reseed=3"),
        ("check", "planes='spl ... it': one of", "--planes 'spl ... it': one of"),
        ("check", "planes='cut off", "--planes 'cut off"),
        ("train", "ratios=(0.5, 0.5, 0.0)", "--ratios 0.5 0.5 0.0"),
        ("train", "colours=('#000000', '#ffffff')", "--colours '#000000,#ffffff'"),
        ("train", "pretrained=True, pretrained=False", "--pretrained, pretrained=False"),
        ("train", "lr=1e-05: small", "--lr 1e-05: small"),
        ("train", "trainer.max_epochs=0 and data.repeats=4", "--epochs 0 and --data.repeats 4"),
        ("train", "model.options.norm='group', model.ema=True", "--model.options.norm group, --model.ema true"),
        ("train", "ema=0.9 and repeats=4: no", "--model.ema 0.9 and --data.repeats 4: no"),
        ("train", "data.batch_size=2: it was 4; seed_everything=3", "--batch-size 2: it was 4; --seed 3"),
        ("train", "name=3 and options=… are", "name=3 and --model.options are"),
        ("train", "out=runs/a: leave it out", "--out runs/a: leave it out"),
        ("train", "crop_size=(32, 48)", "--crop-size 32,48"),
        ("predict", "scales=(0.75, 1)", "--scales 0.75,1"),
        ("predict", "tile=512, overlap='full'", "--tile 512, --overlap full"),
        ("predict", "tile=None is whole, dtype=None", "--tile none is whole, dtype=None"),
        ("predict", "dtype=torch.bfloat16, batch_size=1", "--dtype bfloat16, batch_size=1"),
        ("predict", "task='binary'", "task='binary'"),
        ("evaluate", "split='test'", "--split test"),
        ("serve", "max_megabytes=3", "--max-megabytes 3"),
    ],
)  # fmt: skip
def test_arguments_are_options(command: str, said: str, typed: str) -> None:
    assert wording(command)(said) == typed


@pytest.mark.parametrize("name", ["foreground", "num_classes", "colours", "class_names", "ratios", "ignore", "seed"])
def test_an_option_reads_back_as_the_argument(name: str) -> None:
    """By the parser itself."""
    values: dict[str, Any] = {
        "foreground": "any", "num_classes": 7, "colours": ("#00ff00", "#ffffff"), "class_names": ("a", "b c'd"),
        "ratios": (0.25, 0.5, 0.25), "ignore": -1, "seed": 3,
    }  # fmt: skip
    typed = wording("check")(f"{name}={values[name]!r}")
    options = parser().parse_args(["data", "check", "x", *shlex.split(typed)])
    found = getattr(options, name)
    assert (tuple(found) if name == "ratios" else found) == values[name]


# Through commands


def data_of(folder: Path, *levels: int) -> Path:
    """Write images with masks of squares that have these values."""
    mask = np.zeros((32, 32), np.uint8)
    for k, level in enumerate(levels):
        mask[4 * k : 4 * k + 3, 2:30] = level
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
        for k in range(4):
            pixels = mask if part == "masks" else np.full((32, 32, 3), 50 + k, np.uint8)
            Image.fromarray(pixels).save(folder / part / f"{k}.png")
    return folder


FIXES = {
    "any": ((1, 3, 7), "--foreground any"),
    "classes": ((1, 2, 3), "--task multiclass with --num-classes 4"),
    "void": ((5, 15, 255), "--task multiclass with --num-classes 16 and --ignore 255"),
    "greys": ((85, 170, 255), "--task multiclass with --colours '#000000,#555555,#aaaaaa,#ffffff'"),
}


@pytest.mark.parametrize("kind", FIXES)
def test_the_fix_is_typed_as_it_is_said(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels, fix = FIXES[kind]
    source = str(data_of(tmp_path / "data", *levels))
    words = ["data", "check", source]
    assert main(words) == 2
    said = capsys.readouterr()
    assert fix in said.out
    assert not re.search(r"\b(task|foreground|num_classes|ignore|colours)=", said.out + said.err)
    assert main([*words, "--json"]) == 2
    assert fix in " ".join(json.loads(capsys.readouterr().out)["problems"])
    assert main([*words, *shlex.split(fix.replace(" with ", " ").replace(" and ", " "))]) == 0
    with pytest.raises(unetzoo.ConfigError, match=r"foreground='any'|task='multiclass'"):
        unetzoo.data.check(source, labels_of(source)).raise_for_problems()


def test_a_training_says_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(data_of(tmp_path / "data", 1, 3, 7))
    words = ["train", "--model", "unet", "--data", source, "--out", str(tmp_path / "run")]
    for more, said in [
        ([], "--foreground any"),
        (["--task", "multiclass"], "--task multiclass needs --num-classes"),
        (["--epochs", "ten"], "--epochs ten: a whole number"),
        (["--task", "tree"], "--task tree: one of"),
        (["--trainer.max_epochs", "0"], "--epochs 0: "),
        (
            ["--foreground", "any", "--batch-size", "64", "--epochs", "1", "--data.repeats", "1"],
            r"--data\.repeats \d+, or --batch-size \d",
        ),
    ]:
        assert main([*words, *more]) == 2
        assert re.search(said, capsys.readouterr().err), said
    with pytest.raises(unetzoo.ConfigError, match="task='multiclass' needs num_classes=…"):
        unetzoo.fit("unet", data=source, out=tmp_path / "run", task="multiclass")


def test_a_prediction_and_a_warning_say_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 32, 32), np.uint8), metadata={"axes": "ZYX"})
    assert main(["predict", "nuclei", str(tmp_path / "stack.tif"), "--out", str(tmp_path / "out"), "--json"]) == 1
    captured = capsys.readouterr()
    for text in (captured.err, json.loads(captured.out)["error"]):
        assert "--planes split" in text
        assert "planes=" not in text
    with pytest.raises(unetzoo.InputError, match="planes='split'"):
        unetzoo.images.read_image(tmp_path / "stack.tif")
    assert main(["predict", "nuclei", str(tmp_path), "--out", str(tmp_path / "new"), "--tile", "-1"]) == 2
    assert "--tile -1" in capsys.readouterr().err


@functools.cache
def texts(path: Path) -> list[tuple[int, str]]:
    """Return the strings of a file that are no docstrings."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    told = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    strings = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [(node.lineno, str(node.value)) for node in strings if id(node) not in told]


def test_the_library_writes_arguments_with_their_sign() -> None:
    """Else no command could know them for arguments: "give ignore" is no way to say it."""
    names = set()
    for command in OPTIONS:
        names |= {action.dest for action in parser().parse_args(OPTIONS[command]).command._actions}
    bare = re.compile(
        rf"\b(?:give|leave|needs?) (?:{'|'.join(names - {'model', 'data', 'images', 'masks', 'out'})})\b(?!=)"
    )
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in (ROOT / "unetzoo").rglob("*.py")
        for line, text in texts(path)
        if bare.search(text)
    ]
    assert not found


COMMANDS = (
    *("data/commanding.py", "train/command.py", "train/choosing.py", "train/flags.py", "train/places.py"),
    *("train/stopping.py", "train/words.py", "napari/training.py"),
)
"""They write command lines, and read them."""
ELSE = {
    "plugins.py": "--import",
    "registry.py": "on the command line: --import",
    "losses/text.py": "on the command line: --import",
    "train/refusals.py": "--",
    "train/trust.py": "--import",
    "serving/style.py": "--border",
    "saving/records.py": " --model NAME' writes",
    "saving/cards.py": "--out masks",
}
"""What is only of commands; what the parser is told and says; style sheets; whole commands over two lines."""


def test_the_library_writes_no_options() -> None:
    """They are nothing to who calls it from Python. Whole commands, in quotes, are."""
    found = []
    for path in (ROOT / "unetzoo").rglob("*.py"):
        name = path.relative_to(ROOT / "unetzoo").as_posix()
        if name.startswith("cli/") or name in COMMANDS:
            continue
        for line, text in texts(path):
            bare = re.sub(r"'(?:unetzoo [^']*| --[^']*)(?:'|$)", "", text)
            if re.search(r"(?<![\w-])--[a-z]", bare) and ELSE.get(name, "\0") not in text:
                found.append(f"{name}:{line}: {text}")
    assert not found


def test_what_a_command_calls_otherwise_than_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--max-megabytes", "--max-megapixels"):
        assert main(["serve", "nuclei", option, "0"]) == 2
        said = capsys.readouterr().err
        assert f"{option} 0.0: " in said
        assert not re.search(r"\bmega\w+=", said)


def test_convert_asks_for_a_name_in_its_caller_s_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    source, target = tmp_path / "own.pth", tmp_path / "a.safetensors"
    torch.save({"net": unetzoo.create("unet", base_channels=2).state_dict()}, source)
    assert main(["convert", str(source), str(target)]) == 2
    said = capsys.readouterr().err
    assert "give --model" in said
    assert "name=" not in said
    with pytest.raises(unetzoo.ConfigError, match="give name=…"):
        unetzoo.convert(source, target)


def test_want_of_memory_is_said_in_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from unetzoo.train.refusals import explained

    with pytest.raises(unetzoo.TrainingError) as caught, explained():
        raise RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed.")
    assert "data.workers=0" in str(caught.value)
    assert "resume=…" in str(caught.value)
    typed = wording("train")(str(caught.value))
    assert "--data.workers 0" in typed
    assert "--resume continues" in typed


NO_CALLS = {
    "cli/weights.py": "unetzoo.from_pretrained(",  # of the model that was pushed, for who loads it
    "costs/measuring.py": "import sys; ",
    "evaluation/across_folds.py": "```python",
    "exporting/description.py": "```python",
    "information.py": "unetzoo.create(",
    "saving/cards.py": "unetzoo.Predictor(",
    "saving/records.py": "is unetzoo.",  # and then a name, as below
}
"""Texts that show Python to who writes it: cards, pages, docstrings; or run it."""
OF_PYTHON = {
    "exporting/request.py": ("a SegmentationModel is needed", "to unetzoo.objects.instances"),
    "zoo.py": ("a SegmentationModel is needed",),
    "folding.py": ("a SegmentationModel is needed",),
    "foreign/loading.py": (
        "convert it, then load(…, ",
        "is a saved model of this package",
    ),
    "losses/_own.py": ("unetzoo.testing.check_loss",),
    "losses/supervision.py": ("a loss of unetzoo.losses is needed",),
    "saving/weights.py": ("a SegmentationModel is needed",),
    "testing/_annotations.py": ("unetzoo.data.annotations.Document",),
    "train/__init__.py": ("has no attribute",),
    "train/fitting.py": ("unetzoo.save(model, path)",),
}
"""What no command can bring about, since it passes no objects; or who reads it writes Python."""
CALL = re.compile(r"\bunetzoo\.[a-z]\w+(?:\.\w+)*|(?<![.\w])(?:create|load|save|fit|Predictor|Labels|About)\(")


def test_commands_name_no_functions_of_python() -> None:
    """What the library says to who calls it, is said of commands as commands, or cannot be said by one."""
    inside, found = wording("train"), []
    for path in (ROOT / "unetzoo").rglob("*.py"):
        name = path.relative_to(ROOT / "unetzoo").as_posix()
        if name == "cli/_wording.py" or name in COMMANDS:
            continue
        for line, text in texts(path):
            if " " not in text.strip() or NO_CALLS.get(name, "\0") in text:
                continue  # names of modules and files
            if CALL.search(inside(text)) and not any(part in text for part in OF_PYTHON.get(name, ())):
                found.append(f"{name}:{line}: {text}")
    assert not found


def test_a_call_is_said_as_the_command_that_does_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    folder, state = tmp_path / "empty", tmp_path / "own.pth"
    folder.mkdir()
    torch.save({"some.weight": torch.ones(2, 2)}, state)
    saved = str(tmp_path / "a.safetensors")
    unetzoo.save(unetzoo.create("unet", base_channels=2), saved)
    new = str(tmp_path / "new.safetensors")
    for words, said in [
        (["info", "resenc_small"], r"unknown model 'resenc_small'.*\('unetzoo list' gives all names; and there is no"),
        (["info", "./nothing/here"], r"not a network of the zoo \('unetzoo list' gives all names\)"),
        (["predict", "resnut50", saved], r"did you mean 'resunet50', .*'unetzoo list'"),
        (["convert", str(state), new], r"an encoder alone goes to 'unetzoo train --pretrained FILE'$"),
        (["convert", str(state), new, "--model", "nuclei"], r"'nuclei'; the name of a network is needed"),
        (["convert", saved, new], "is one already: every command takes it"),
        (["verify", str(state)], r"an encoder alone goes to 'unetzoo train --pretrained FILE'"),
        (["verify", str(folder)], r"the folder \S+ holds no model\.safetensors$"),
    ]:
        assert main(words) == 2
        text = capsys.readouterr().err
        assert re.search(said, text, re.MULTILINE), text
        assert not re.search(r"unetzoo\.[a-z]\w+[ (]", text), text
    with pytest.raises(unetzoo.ConfigError, match=r"\(unetzoo\.list_models\(\) gives all names; and"):
        unetzoo.Predictor("resnut50")
    said = wording("train")
    assert said("the network of the zoo is unetzoo.create('unet')") == "the network of the zoo is 'unet'"
    assert (
        said("convert it, then load(…, num_classes=3) of the file made") == "convert it, then train from the file made"
    )
