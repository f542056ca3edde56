"""Parts of one's own: modules that ``--import`` names, and packages that announce themselves by an entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import unetzoo
from unetzoo import drawing, losses, registry
from unetzoo.cli import main, parser
from unetzoo.errors import ConfigError
from unetzoo.plugins import GROUP, Plugins, import_modules

pytestmark = pytest.mark.usefixtures("no_curves")

MINE = '''
"""Parts that delegate to the zoo's, so that what they compute is known."""

import unetzoo
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS
from unetzoo.losses import register_loss

PLAIN = ENCODERS["plain"]


@unetzoo.register_decoder("{name}")
class Mine(DECODERS["unet"]):
    title, paper, summary = "Mine", "nobody 2026", "as the U-Net's"


@unetzoo.register_encoder("{name}net", title="Mine", paper="nobody 2026", options=PLAIN.options)
def build(*arguments):
    return PLAIN.build(*arguments)


@unetzoo.register_model("{name}_small")
def small(**options):
    return unetzoo.create("{name}_{name}net", **{{"base_channels": 4, **options}})


@register_loss("{name}_loss", tasks=("binary",))
def twice_bce(logits, target):
    return 2 * unetzoo.losses.build("bce", "binary")(logits, target)
'''


@pytest.fixture
def forgotten(registries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the modules of the test, and what they registered."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, forgotten: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with mine.py and drawn images beside it."""
    (tmp_path / "mine.py").write_text(MINE.format(name="mine"), encoding="utf-8")
    for part in ("images", "masks"):
        (tmp_path / "cells" / part).mkdir(parents=True)
    for k in range(12):
        image, mask = drawing.draw_nuclei(32, 32, seed=k)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "cells" / "images" / f"{k}.png")
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(tmp_path / "cells" / "masks" / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def forget() -> None:
    """Forget mine, as another process would not know it."""
    sys.modules.pop("mine", None)
    for known in (unetzoo.zoo.DECODERS, unetzoo.zoo.ENCODERS, unetzoo.naming.PRESETS, losses.LOSSES):
        for name in [name for name in known._entries if name.startswith("mine")]:
            del known._entries[name]


TRAIN = (
    "train --model mine_small --data cells --out run --loss mine_loss+dice --epochs 1 --crop-size 32 --batch-size 4 "
    "--data.workers 0 --data.repeats 1 --trainer.accelerator cpu --quiet"
)
COMMANDS = [
    TRAIN,
    "list mine_small",
    "info mine_minenet",
    "compare mine_small --size 32 --measure",
    "predict run cells/images/0.png --out masks",
    "evaluate run --data cells --split val",
    "calibrate run --data cells --split val",
    "export run mine.pt2 --size 32 32",
    "verify run/best.safetensors",
    "info run",
]


def test_every_command_honours_import(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k, command in enumerate(COMMANDS):
        words = command.split()
        forget()
        assert main(words) == 2, command
        assert "mine" in capsys.readouterr().err
        placed = [["--import", "mine", *words], [*words, "--import", "mine"], [*words, "--import=mine"]][k % 3]
        assert main(placed) == 0, (command, capsys.readouterr().err)
    model = unetzoo.load("run")
    assert (model.config.decoder, model.config.encoder) == ("mine", "minenet")
    program = torch.export.load("mine.pt2").module()
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(program(images), model(images), rtol=1e-4, atol=1e-4)
    for command in ("predict run cells/images/0.png --out again", "train --resume run --epochs 2"):
        forget()
        assert main(command.split()) == 2
        assert "--import" in capsys.readouterr().err


def test_help_of_all_commands_names_import() -> None:
    def parsers(top: object) -> Iterator[object]:
        yield top
        for action in top._actions:
            if isinstance(getattr(action, "choices", None), dict):
                for command in action.choices.values():
                    yield from parsers(command)

    found = list(parsers(parser()))
    assert len(found) > 12
    assert all("--import MODULE" in one.format_help() for one in found)


@pytest.mark.parametrize("words", [["--import"], ["list", "--import"], ["list", "--import", "--exclude", "a"]])
def test_import_needs_a_module(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert "argument --import: expected one argument" in capsys.readouterr().err


def test_the_script_finds_modules_beside_the_data(folder: Path) -> None:
    """As installed: the script lies elsewhere, and the folder's own modules come after all others."""
    site = write_package(folder / "site", "theirs", MINE.format(name="their"))
    script = folder / "bin" / "unetzoo"
    script.parent.mkdir()
    script.write_text("import sys\nfrom unetzoo.cli import main\nsys.exit(main())\n", encoding="utf-8")
    (folder / "textwrap.py").write_text("raise SystemExit('shadowed')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}
    done = subprocess.run(
        [sys.executable, str(script), "list", "mine_small", "their_small", "--import", "mine"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["mine_small", "their_small"], "")


# Modules that cannot be imported


@pytest.mark.parametrize("name", ["mine.py", "a-b", "my folder", "a..b", "./mine"])
def test_names_of_no_module_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_modules([name])
    assert re.search(rf"--import {re.escape(name)}: .*module .*'mine' or 'my_project\.parts'", str(caught.value))


def test_missing_modules_and_packages_are_named(forgotten: None, tmp_path: Path) -> None:
    sys.path.append(str(tmp_path))
    (tmp_path / "needs.py").write_text("import no_such_thing", encoding="utf-8")
    for name, missing in (("nowhere", "nowhere"), ("nowhere.parts", "nowhere"), ("unetzoo.nowhere", "unetzoo.nowhere")):
        with pytest.raises(ConfigError) as caught:
            import_modules([name])
        assert re.search(rf"--import {re.escape(name)}: .*no module {re.escape(repr(missing))}", str(caught.value))
    with pytest.raises(ConfigError) as caught:
        import_modules(["needs"])
    assert re.search("--import needs: .*module fails .*error", str(caught.value))
    assert "No module named 'no_such_thing'" in str(caught.value)


def test_errors_inside_a_module_show_its_traceback(forgotten: None, tmp_path: Path) -> None:
    sys.path.append(str(tmp_path))
    (tmp_path / "broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n", encoding="utf-8")
    (tmp_path / "unreadable.py").write_text("def f(:\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        import_modules(["broken"])
    lines = str(caught.value).splitlines()
    assert [line.rpartition(", ")[0] for line in lines if line.startswith("  File")] == [
        f'  File "{tmp_path / "broken.py"}", line {line}' for line in (4, 2)
    ]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(ConfigError, match=r"(?s)unreadable.py\", line 1.*SyntaxError"):
        import_modules(["unreadable"])


# Packages that announce themselves


def write_package(site: Path, name: str, text: str) -> Path:
    """Write an installed package, as pip leaves it: a module, its metadata and its entry point."""
    information = site / f"{name}-1.5.dist-info"
    information.mkdir(parents=True)
    (site / f"{name}.py").write_text(text, encoding="utf-8")
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n", encoding="utf-8")
    (information / "entry_points.txt").write_text(f"[{GROUP}]\nparts = {name}\n", encoding="utf-8")
    return site


@pytest.fixture
def site(tmp_path: Path, forgotten: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of installed packages, which are looked for anew."""
    sys.path.append(str(tmp_path / "site"))
    monkeypatch.setattr(registry, "PLUGINS", Plugins(GROUP))
    return tmp_path / "site"


def test_installed_parts_are_known_when_looked_for(site: Path) -> None:
    # One that looks into the registries while it is imported itself.
    write_package(site, "theirs", MINE.format(name="their") + "\nSEEN = unetzoo.list_models('their_small')\n")
    assert "theirs" not in sys.modules
    assert unetzoo.create("their_small").config.decoder == "their"
    assert sys.modules["theirs"].SEEN == ["their_small"]
    assert "their_loss" in losses.LOSSES
    assert "unet_theirnet" in unetzoo.list_models("unet_*")


def test_every_broken_package_is_named(site: Path) -> None:
    write_package(site, "first", "import no_such_thing")
    write_package(site, "second", "from unetzoo import register_decoder\nregister_decoder('unet')(object)")
    write_package(site, "third", MINE.format(name="third"))
    for _ in range(2):  # each time, not the first alone
        with pytest.raises(ConfigError) as caught:
            unetzoo.list_models()
        one, two = sorted(caught.value.problems)
        for words in ("first 1.5", "parts = first", "No module named 'no_such_thing'", "first.py, line 1", "uninstall"):
            assert words in one
        assert "second 1.5" in two
        assert "'unet' is taken" in two


def test_a_broken_package_is_an_error_of_the_command(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_package(site, "first", "1 / 0")
    assert main(["list"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unetzoo: ")
    assert error.count("\n") == 1
    assert "ZeroDivisionError" in error
