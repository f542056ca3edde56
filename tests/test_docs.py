"""What README.md and docs/ say is run: python blocks, the results written beside and below them, command lines.

In a ```python block, a bare expression with a comment on its last line must have that comment as its repr. A ```text
block that follows a ```python block is what that block prints, white space aside.
"""

import ast
import contextlib
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HUB_PORT, needs_links
from foreign_unets import Milesial
from hub_server import HubServer
from huggingface_hub import constants
from PIL import Image
from torchvision import models

from unetzoo import drawing, images, naming, objects
from unetzoo.cli import main
from unetzoo.decoders import DECODERS
from unetzoo.drawing import write_shapes
from unetzoo.encoders import ENCODERS
from unetzoo.losses import LOSSES
from unetzoo.testing import _decoders, _encoders
from unetzoo.train import choosing, reporting

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if "_build" not in path.relative_to(ROOT).parts
)
FENCE = re.compile(r"^(`{3,})(\w+)[^\n]*\n(.*?)^\1 *$", re.MULTILINE | re.DOTALL)


EMPTY_LINK = re.compile(r"(?<!!)\[\s*\]\(")
"""Sphinx fills such a link with the title that it leads to; where Markdown is read as it is, it shows nothing."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page on which the text starts."""

    language: str
    text: str
    line: int
    follows: str = ""


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        adjacent = bool(found) and not text[end : match.start()].strip()
        follows = found[-1].language if adjacent else ""
        found.append(Block(match[2], match[3], text.count("\n", 0, match.start(3)) + 1, follows))
        end = match.end()
    return found


def test_links_have_a_text() -> None:
    assert EMPTY_LINK.search("see [](zoo.md)")
    assert not EMPTY_LINK.search("see [All names](zoo.md) and ![](a.png)")
    folders = (ROOT / name for name in ("docs", "examples", "unetzoo"))  # whose .py and .ipynb hold Markdown, too
    files = [path for folder in folders for kind in ("md", "py", "ipynb") for path in folder.rglob(f"*.{kind}")]
    files = [*ROOT.glob("*.md"), *(path for path in files if "_build" not in path.parts)]
    assert len(files) > 300
    assert not [path for path in files if EMPTY_LINK.search(path.read_text(encoding="utf-8"))]


def markdown() -> list[str]:
    """Return all pages of Markdown: those of the documentation, and those beside code."""
    folders = [ROOT / name for name in ("docs", "examples", "unetzoo", ".github")]
    paths = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if "_build" not in path.parts)


def prose(page: str) -> str:
    return re.sub(r"^(`{3,}).*?^\1 *$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> list[str]:
    """Return what GitHub makes of a page's headings: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", markdown())
def test_links_lead_to_a_file_and_a_heading_on_github(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if heading and target.suffix == ".md":
            assert heading in anchors(target.resolve().relative_to(ROOT).as_posix()), link


@pytest.mark.parametrize("page", markdown())
def test_a_page_reads_on_github(page: str) -> None:
    """There is no directive and no role of Sphinx, which GitHub shows as it is written."""
    directives_and_targets = r"^(?:`{3,}|:{3,})\{.*|^\([\w-]+\)=$"
    assert not re.findall(directives_and_targets, (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert not re.findall(r"\{[a-z:]+\}CODE", re.sub(r"`[^`]*`", "CODE", prose(page)))


def pages_with(*languages: str) -> list[str]:
    return [page for page in PAGES if any(block.language in languages for block in blocks(page))]


def execute(block: Block, page: str, namespace: dict[str, Any]) -> str:
    """Run a block, hold its expressions against the comments behind them, and return what it prints."""
    printed = io.StringIO()
    lines = block.text.splitlines()
    with contextlib.redirect_stdout(printed):
        for node in ast.parse(block.text).body:
            ast.increment_lineno(node, block.line - 1)
            if not isinstance(node, ast.Expr):
                exec(compile(ast.Module([node], []), page, "exec"), namespace)
                continue
            value = eval(compile(ast.Expression(node.value), page, "eval"), namespace)
            last = lines[node.end_lineno - block.line].encode()
            promised = last[node.end_col_offset :].decode().strip()
            if promised:
                where = f"{page}:{node.end_lineno}"
                assert f"# {value!r}" == promised, f"{where} promises {promised!r}, and gives {value!r}"
    return printed.getvalue()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision writes it, under a name with its hash, in a TORCH_HOME of its own."""
    home = tmp_path_factory.mktemp("torch_home")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    new = folder / "new.pth"
    torch.save(models.resnet18(weights=None).state_dict(), new)
    digest = hashlib.sha256(new.read_bytes()).hexdigest()
    return new.rename(folder / f"resnet18-{digest[:8]}.pth")


@pytest.fixture
def reader(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder: a clone's files that pages name, ImageNet's weights in the cache, a Hub where he is "me".

    What a page registers is gone afterwards.
    """
    monkeypatch.setenv("TORCH_HOME", str(checkpoint.parent.parent.parent))
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", f"https://example.invalid/{checkpoint.name}")
    shutil.copy(checkpoint, tmp_path / "resnet18.pth")
    torch.save(Milesial().state_dict(), tmp_path / "theirs.pth")
    if (ROOT / "hubconf.py").exists():
        shutil.copy(ROOT / "hubconf.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    monkeypatch.setattr(choosing, "SIDE", 64)  # of the image by which predictions are timed
    registries = [DECODERS, ENCODERS, naming.PRESETS, LOSSES]
    before = [dict(registry._entries) for registry in registries]
    torch.manual_seed(0)
    with HubServer(HUB_PORT):
        yield tmp_path
    for registry, entries in zip(registries, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)


NARROW_RESNET = '"unet", settings={"model.options.base_channels": 4, "data.workers": 0},'
LIGHTER = {
    "README.md": {
        "250, 333)\n": "50, 67)\n",
        '"resunet50", in': '"unet", base_channels=8, in',
    },
    "docs/choosing.md": {},
    "docs/models.md": {
        'create("unetpp_resnet18", num_classes=4': 'create("unetpp", base_channels=4, num_classes=4',
        'create("unet3p_resnet18", num_classes=4': 'create("unet3p", base_channels=4, branch_channels=4, num_classes=4',
        'create("resunet18", num_classes=4)\nprob': 'create("unet", base_channels=4, num_classes=4)\nprob',
        "size=64": "size=32",
    },
    "docs/coming_from_smp.md": {"256": "32"},
    "docs/faq.md": {'"unet3p", base_channels=8': '"unet", base_channels=8'},
    "docs/export.md": {"levels=2, base_channels=8": "levels=1, base_channels=4"},
    "docs/training.md": {'"resunet18",': NARROW_RESNET, "runs/resunet18": "runs/unet"},
    "docs/add_a_decoder.md": {},
    "docs/add_an_encoder.md": {},
}
"""Page → what is written there, and the smaller that takes its place; the results that the page gives are the same."""
FAULTY = {
    "the decoder 'hasty_fpn'": ("building", "images_apart", "optimizing"),
    "the encoder 'floored'": ("building", "sizes_rounded_up"),
}
"""Part that a page shows with faults → the checks that find them, and the first."""


def executed() -> list[Any]:
    """Return the pages with Python, and whether they run as they are written.

    A Trainer of the reader's own, in one of them, shows Lightning's own warnings.
    """
    marks = {"docs/training_settings.md": [pytest.mark.filterwarnings("ignore")]}
    pages = [pytest.param(page, page not in LIGHTER, marks=marks.get(page, ())) for page in pages_with("python")]
    return [*pages, *(pytest.param(page, True, marks=[*marks.get(page, ()), pytest.mark.slow]) for page in LIGHTER)]


def lighten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run trials of networks in this process, and of parts with faults the checks that find them.

    What has no faults is checked on the plain encoder, and no run paints its curves; the commands below do.
    """

    def train(command: list[str], _: Any) -> int:
        assert command[:3] == [sys.executable, "-m", "unetzoo"]
        return main(command[3:])

    monkeypatch.setattr(choosing, "_status", train)
    monkeypatch.setattr(reporting.History, "_write_curves", lambda *_: None)
    for room in (_decoders, _encoders):

        def some(part: str, checks: list[Any], run: Callable[..., None] = room.run) -> None:
            found = FAULTY.get(part)
            run(part, [check for check in checks if (check.func.__name__ in found if found else on_small(check))])

        monkeypatch.setattr(room, "run", some)


def on_small(check: Any) -> bool:
    """Return whether a check is of a part alone, or on the plain encoder: on ResNet-18 it takes ten times as long."""
    return "resnet" not in str(check.args[0])


@pytest.mark.parametrize(("page", "whole"), executed())
def test_the_blocks_of_a_page_run_and_give_what_it_says(
    page: str, whole: bool, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless ``whole``, some networks and images are smaller, and what takes long runs once or in this process."""
    if not whole:
        lighten(monkeypatch)
    left = {} if whole else dict(LIGHTER[page])
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        if block.language == "python":
            text = block.text
            for written, smaller in {} if whole else LIGHTER[page].items():
                if written in text:
                    text, left = text.replace(written, smaller), {k: v for k, v in left.items() if k != written}
            printed = execute(replace(block, text=text), page, namespace)
        elif block.language == "text" and block.follows == "python":
            assert printed.split() == block.text.split(), f"{page}:{block.line}: printed is\n{printed}"
    assert not left, f"{page} no longer says {list(left)}"


def commands() -> list[str]:
    """Return the unetzoo command lines of all pages."""
    found = []
    for page in pages_with("console", "sh"):
        for block in blocks(page):
            if block.language in ("console", "sh"):
                for line in block.text.replace("\\\n", " ").splitlines():
                    command = line.removeprefix("$ ").strip()
                    if command.startswith("unetzoo "):
                        found.append(command)
    return found


@pytest.mark.parametrize("command", commands())
def test_the_command_line_takes_what_a_page_shows(command: str) -> None:
    from unetzoo.cli import parser

    parsed, rest = parser().parse_known_args(shlex.split(command, comments=True)[1:])
    assert not rest or parsed.takes_rest
    if hasattr(parsed, "import"):  # the names are those of a reader's own module
        return
    named = [getattr(parsed, "name", None), getattr(parsed, "model", None)]
    saved = (".safetensors", ".zip", "/a", "/nuclei")  # files, and folders of runs
    named = [name for name in named if isinstance(name, str) and not name.endswith(saved)]
    for pattern in [*getattr(parsed, "patterns", []), *filter(None, named)]:
        if pattern.startswith("hf-hub:"):
            continue
        assert naming.list_models(pattern) or naming.list_models(pattern, pretrained=True), f"{pattern} fits no name"


ON_DATA = ("data", "train", "evaluate", "predict", "calibrate", "export")
SMALL = ["--epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu", "--data.workers", "0"]
"""What makes a run of the pages short. (A single batch cannot be said: Lightning takes 1 for 1.0, which is all.)"""
ON_RESNET = ("README.md", "docs/getting_started.md", "docs/training.md", "docs/training_settings.md")
"""Pages whose networks stand on a ResNet-18."""
NARROW = ["--model.options.base_channels", "4"]


def on_plain(text: str) -> str:
    """Return a text in which networks on a ResNet-18 are those on the plain encoder."""
    return re.sub(r"\b(?:res(unet)18|(\w+)_resnet18)\b", r"\1\2", text)


def changed(words: list[str], settings: list[str]) -> list[str]:
    """Return a command with other values of its options, each of which may be given once."""
    words = [*words]
    for option, value in zip(settings[::2], settings[1::2], strict=True):
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return words


@needs_links
@pytest.mark.parametrize(
    ("page", "whole"),
    [
        *((page, False) for page in (*ON_RESNET, "docs/data.md", "docs/prediction.md", "docs/objects.md")),
        *(pytest.param(page, True, marks=pytest.mark.slow) for page in ON_RESNET),
    ],
)
def test_the_commands_and_settings_on_data_run_in_their_order(
    page: str, whole: bool, reader: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command runs as it stands, on drawn images; trainings are cut to two batches of small crops.

    Unless ``whole``, a ResNet-18 is replaced by a narrow plain encoder, nothing runs in two processes, and only the
    README's runs paint their curves.
    """
    if not whole and page != "README.md":
        monkeypatch.setattr(reporting.History, "_write_curves", lambda *_: None)
    write_shapes("shapes", 10, size=(64, 64), task="multiclass", seed=0)
    in_two_processes = whole and page == "docs/training_settings.md"  # each of which validates
    write_nuclei(reader / "cells", 29 if in_two_processes else 10, told_apart=page == "docs/objects.md")
    images.write_png(drawing.draw_nuclei(64, 64)[0], reader / "cells.png")
    (reader / "nuclei").symlink_to(reader / "cells")
    (reader / "new").symlink_to(reader / "cells" / "images")
    if page in ("docs/prediction.md", "docs/training_settings.md"):
        assert main(["train", "--model", "unet", *NARROW, "--data", "cells", "--out",
                     "runs/a", *SMALL, "--crop-size", "32", "--quiet"]) == 0  # fmt: skip
    ran = 0
    for block in blocks(page):
        if block.language == "yaml" and "trainer" in block.text:
            text = block.text if whole else on_plain(block.text)
            (reader / "settings.yaml").write_text(text, encoding="utf-8")
        for line in block.text.replace("\\\n", " ").splitlines() if block.language == "sh" else ():
            words = shlex.split(line if whole else on_plain(line), comments=True)
            needs_gpus = "--trainer.sync_batchnorm" in words and not torch.cuda.is_available()
            too_many = "--trainer.devices" in words and not whole
            if words[:1] != ["unetzoo"] or words[1] not in ON_DATA or needs_gpus or too_many:
                continue
            if words[1] == "train" and "--resume" not in words:
                settings = [*SMALL, "--crop-size", "32", "--batch-size", "2", *([] if whole else NARROW)]
                settings += ["--model.options.branch_channels", "4"] if "unet3p" in words else []
                words = changed(words, settings)
            if "--trainer.devices" in words:
                run = [sys.executable, "-m", *words]
                done = subprocess.run(run, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
                assert done.returncode == 0, line
            else:
                assert main(words[1:]) == 0, (line, capfd.readouterr().err)
            ran += 1
    assert ran > 1


def write_nuclei(folder: Path, count: int, *, told_apart: bool = False) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for k in range(count):
        image, mask = drawing.draw_nuclei(64, 64, seed=k)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{k}.png")
        numbers = objects.instances(mask > 0, "binary", 1).labels.numpy().astype("uint16")
        Image.fromarray(numbers if told_apart else mask.numpy()).save(folder / "masks" / f"{k}.png")


def test_every_page_of_an_architecture_has_an_example() -> None:
    assert commands()
    pages = {page for page in PAGES if page.startswith("docs/architectures/")}
    assert pages
    assert pages <= set(pages_with("python"))
