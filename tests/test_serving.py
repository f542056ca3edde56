"""The page of ``unetzoo serve``: what it says, what it refuses, and the whole of it in a browser.

What needs gradio, Playwright and Chromium skips without them: ``pip install "unetzoo[demo]" playwright``.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import csv
import functools
import html.parser
import http.client
import http.server
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import tomllib
import types
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from PIL import EpsImagePlugin, Image

import unetzoo
from unetzoo import cli, drawing, images
from unetzoo.errors import ConfigError, InputError
from unetzoo.objects.table import table_file
from unetzoo.prediction import Predictor
from unetzoo.serving import Limits, answers, counts, files, parts, pictures, serve
from unetzoo.serving.events import VIEWS, Events
from unetzoo.serving.heading import heading
from unetzoo.serving.limits import FILES
from unetzoo.serving.samples import samples

NAMES = {
    "binary": ("nucleus",),
    "multiclass": ("ground", "nucleus", "<b>border</b>", "debris"),
    "multilabel": ("nucleus", "../../cell"),
}


def network(task: str, **options: Any) -> Any:
    """Return a small network whose masks have much of every class, and which nobody else holds."""
    return copy.deepcopy(made(task, **options))


@functools.cache
def made(task: str, names: tuple[str, ...] = (), **options: Any) -> Any:
    torch.manual_seed(2)
    names = names or NAMES[task]
    model = unetzoo.create("unet", base_channels=4, task=task, num_classes=len(names), class_names=names, **options)
    model.train()
    with torch.no_grad():
        for _ in range(20):  # running statistics of such images, or all pixels would be alike
            model(drawing.draw_nuclei(64, 64)[0][None, : model.config.in_channels] / 255)
        model.head.conv.weight.mul_(8)
    return model.eval()


def image(folder: Path, name: str = "cells.png", height: int = 90, width: int = 130, seed: int = 0) -> Path:
    path = folder / name
    Image.fromarray(drawing.draw_nuclei(height, width, seed=seed)[0].permute(1, 2, 0).numpy()).save(path)
    return path


def pixels(shown: str) -> np.ndarray[Any, Any]:
    """Return the pixels of the image in HTML."""
    (content,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    return np.array(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def seen(task: str, path: Path, **options: Any) -> answers.Segmented:
    return answers.answer(Predictor(network(task), device="cpu", **options), path, Limits()).at(0.5)


# What the page says of an image


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("threshold", [0.0, 0.37, 0.5, 0.71])
def test_a_moved_threshold_gives_the_mask_that_a_predictor_of_that_threshold_gives(
    task: str, threshold: float, tmp_path: Path
) -> None:
    model = network(task)
    path = image(tmp_path)
    kept = answers.answer(Predictor(model, device="cpu"), path, Limits())
    moved = kept.at(threshold).prediction
    own = {} if task == "multiclass" else {"threshold": threshold}
    expected = Predictor(model, device="cpu", **own)(path)
    assert torch.equal(moved.mask, expected.mask)
    if threshold == 0.5:
        assert moved.mask.unique().numel() > 1


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "grey"])
def test_files_are_byte_for_byte_those_of_a_prediction(task: str, kind: str, tmp_path: Path) -> None:
    drawn = drawing.draw_nuclei(70, 50)[0]
    path = tmp_path / "cells.tif"
    if kind == "uint8":
        path = image(tmp_path)
    elif kind == "grey":
        Image.fromarray(drawn[0].numpy()).save(path)
    else:
        pixels = drawn[0].numpy().astype(kind) * 3 + 7
        Image.fromarray(pixels / 999 if kind == "float32" else pixels).save(path)
    predictor = Predictor(network(task), device="cpu")
    plain, seen = predictor(path), answers.answer(predictor, path, Limits()).at(0.5)
    plain.overlay(tmp_path / "expected.png")
    written = files.write_overlay(seen, 0.5, tmp_path)
    assert written.name == "cells_overlay.png"
    assert written.read_bytes() == (tmp_path / "expected.png").read_bytes()
    if task != "multilabel":
        plain.save(tmp_path / "mask" / "expected.png")
        mask = files.write_masks(seen, tmp_path)
        assert mask.name == "cells_mask.png"
        assert mask.read_bytes() == (tmp_path / "mask" / "expected.png").read_bytes()


def test_masks_of_a_multi_label_model_are_a_zip_whose_names_lead_nowhere(tmp_path: Path) -> None:
    """Names of classes come with a model of anybody's: ``../../cell`` must not leave a folder, here or there."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    found = seen("multilabel", image(tmp_path))
    with zipfile.ZipFile(files.write_masks(found, inner)) as archive:
        assert archive.namelist() == ["0_nucleus/cells_mask.png", "1__cell/cells_mask.png"]
        for k, name in enumerate(archive.namelist()):
            mask = np.array(Image.open(io.BytesIO(archive.read(name))))
            assert np.array_equal(mask, found.prediction.mask[k].numpy() * 255)
            assert 0 < mask.mean() < 255
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.iterdir()) == ["a", "cells.png"]


@pytest.mark.parametrize("task", NAMES)
def test_what_is_kept_is_no_more_than_the_page_needs(task: str, tmp_path: Path) -> None:
    kept = answers.answer(Predictor(network(task), device="cpu"), image(tmp_path, height=200, width=300), Limits())
    for threshold in (0.5, 0.7):
        kept.at(threshold)
        assert len(pickle.dumps(kept)) <= 200 * 300 * (4 if task == "multiclass" else 3 + 5 * len(NAMES[task])) + 9000


@pytest.mark.parametrize("task", NAMES)
def test_the_legend_counts_what_a_person_would_count(task: str, tmp_path: Path) -> None:
    found = seen(task, image(tmp_path))
    rows, mask = counts.legend(found), found.prediction.mask.numpy()
    red, green, yellow = images.COLOURS[:3]
    if task == "binary":
        expected = [("background", None, (mask == 0).sum()), ("nucleus", red, (mask == 1).sum())]
    elif task == "multiclass":
        colours = (None, red, green, yellow)
        expected = [(name, colours[k], (mask == k).sum()) for k, name in enumerate(NAMES[task])]
    else:
        expected = [("nucleus", red, mask[0].sum(dtype=int)), ("../../cell", green, mask[1].sum(dtype=int))]
    assert [(row.name, row.colour, row.pixels) for row in rows] == expected
    assert [row.share for row in rows] == pytest.approx([count / (90 * 130) for _, _, count in expected])
    assert max(row.pixels for row in rows) > 255  # of what bytes would count wrongly


@pytest.mark.parametrize(
    ("task", "classes", "expected"),
    [
        ("binary", 1, ["background", "foreground"]),
        ("multiclass", 3, ["background", "class_1", "class_2"]),
        ("multilabel", 2, ["class_0", "class_1"]),
    ],
)
def test_classes_without_names_have_one_in_the_legend(
    task: str, classes: int, expected: list[str], tmp_path: Path
) -> None:
    model = unetzoo.create("unet", base_channels=2, task=task, num_classes=classes).eval()
    kept = answers.answer(Predictor(model, device="cpu"), image(tmp_path, height=32, width=32), Limits())
    assert [row.name for row in counts.legend(kept.at(0.5))] == expected


def test_the_legend_is_a_table_whose_names_are_text() -> None:
    rows = [counts.Row("<script>x</script>", None, None, 1234567, 0.25), counts.Row("a & b", "#e6194b", None, 0, 0.0)]

    class Reader(html.parser.HTMLParser):
        cells: list[str] = []  # noqa: RUF012
        tags: set[str] = set()  # noqa: RUF012

        def handle_starttag(self, tag: str, _: object) -> None:
            self.tags.add(tag)

        def handle_data(self, data: str) -> None:
            self.cells.append(data)

    reader = Reader()
    reader.feed(parts.legend_html(rows))
    assert reader.cells[4:] == ["<script>x</script>", "1,234,567", "25.0%", "a & b", "0", "0.0%"]
    assert reader.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td", "span"}


def test_the_painted_mask_has_the_colours_of_the_legend(tmp_path: Path) -> None:
    for task in NAMES:
        found = seen(task, image(tmp_path))
        painted, mask = pictures.picture(found).painted().permute(1, 2, 0).numpy(), found.prediction.mask.numpy()
        expected = np.zeros_like(painted)
        if task == "binary":
            expected[mask == 1] = 255
        else:
            layers = mask if task == "multilabel" else [mask == k for k in (1, 2, 3)]
            for layer, colour in zip(layers, images.COLOURS, strict=False):
                expected[layer.astype(bool)] = [*bytes.fromhex(colour[1:])]
        assert np.array_equal(painted, expected)


def test_the_opacity_is_how_much_the_colour_covers(tmp_path: Path) -> None:
    drawn = pictures.picture(seen("binary", image(tmp_path)))
    inside = drawn.mask.bool()
    assert torch.equal(drawn.overlaid(0), drawn.image)
    full = drawn.overlaid(1)
    assert torch.equal(full[:, ~inside], drawn.image[:, ~inside])
    assert set(full[:, inside].T.unique(dim=0).flatten().tolist()) == {0xE6, 0x19, 0x4B}


def test_large_images_are_shown_small_and_small_ones_as_they_are(tmp_path: Path) -> None:
    small = pictures.picture(seen("multiclass", image(tmp_path)))
    assert torch.equal(small.fitted().mask, small.mask)
    assert torch.equal(small.fitted().image, small.image)
    numbers = torch.arange(90 * 130, dtype=torch.int32).reshape(90, 130) + 2**24
    wide = pictures.Picture(small.image.repeat(1, 4, 20), small.mask.repeat(4, 20), numbers.repeat(4, 20), small.config)
    shown = wide.fitted()
    assert shown.image.shape[1:] == shown.mask.shape == (round(360 * 1200 / 2600), 1200)
    # The nearest pixel of each, by hand: classes are not mixed to others.
    rows = np.floor((np.arange(shown.mask.shape[0]) + 0.5) * 360 / shown.mask.shape[0]).astype(int)
    columns = np.floor((np.arange(1200) + 0.5) * 2600 / 1200).astype(int)
    assert np.array_equal(shown.mask.numpy(), wide.mask.numpy()[rows][:, columns])
    assert np.array_equal(shown.labels.numpy(), wide.labels.numpy()[rows][:, columns])


def test_the_network_is_asked_once_a_image_however_often_sliders_move(tmp_path: Path) -> None:
    predictor = Predictor(network("binary"), device="cpu")
    asked: list[object] = []

    def counted(path: object) -> Any:
        asked.append(path.name)  # type: ignore[attr-defined]
        return predictor(path)

    counted.config, counted.split = predictor.config, predictor.split  # type: ignore[attr-defined]
    events = Events(types.SimpleNamespace(update=dict), counted, Limits())  # type: ignore[arg-type]
    path = str(image(tmp_path))
    kept, _, *first = events.ask([path], None, 0, 0.5, 0.5, VIEWS[0])
    legends = [events.shown(kept, threshold, 0.5, VIEWS[0])[3] for threshold in (0.2, 0.4, 0.5)]
    assert len({re.findall(r"[\d,]+</td>", legend)[-1] for legend in legends}) == 3
    assert first[3] == events.shown(kept, 0.5, 0.1, VIEWS[2])[3]
    assert asked == [Path(path).name]
    nothing = [events.invitation, "", "", "", "", *[{"interactive": False}] * 3]
    assert events.shown(None, 0.5, 0.5, VIEWS[0]) == events.ask(None, kept, 0, 0.5, 0.5, VIEWS[0])[2:] == nothing


# Objects


@pytest.mark.parametrize("threshold", [0.5, 0.45])
@pytest.mark.parametrize(
    ("task", "names", "split"),
    [
        ("instances", NAMES["binary"], None),
        ("instances", NAMES["multilabel"], None),
        *((task, names, 1.5) for task, names in NAMES.items()),
    ],
)
def test_objects_are_counted_and_coloured_as_predictions_have_them(
    task: str, names: tuple[str, ...], split: float | None, threshold: float, tmp_path: Path
) -> None:
    pytest.importorskip("skimage")
    model, path = network(task, names=names), image(tmp_path)
    own = {} if task == "multiclass" else {"threshold": threshold}
    expected = Predictor(model, device="cpu", split=split, **own)(path)
    found = answers.answer(Predictor(model, device="cpu", split=split), path, Limits()).at(threshold)
    kinds = [row["class_name"] for row in expected.instances().rows(names)]
    counted = [name for name in names if name != "ground"]
    rows = [(row.name, row.objects) for row in counts.legend(found)]
    assert rows[-len(counted) :] == [(name, kinds.count(name)) for name in counted]
    assert [number for _, number in rows[: -len(counted)]] == [None] * (len(rows) - len(counted))
    assert len(kinds) > 5
    expected.overlay(tmp_path / "expected.png")
    assert files.write_overlay(found, 0.5, tmp_path).read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_objects_are_found_once_a_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    finding = Mock(wraps=unetzoo.objects.instances)
    monkeypatch.setattr("unetzoo.objects.instances", finding)
    model = network("instances", names=NAMES["binary"])
    events = Events(types.SimpleNamespace(update=dict), Predictor(model, device="cpu"), Limits())
    kept, _, note, *first = events.ask([str(image(tmp_path))], None, 0, 0.5, 0.5, VIEWS[0])
    assert "objects" not in note.lower()
    numbers = [re.findall(r"<td>([\d,]*)</td>", legend)[3] for legend in [first[2], *(
        events.shown(kept, threshold, opacity, VIEWS[0])[3]
        for threshold, opacity in ((0.5, 0.1), (0.45, 0.1), (0.45, 0.9))
    )]]  # fmt: skip
    events.repaint(kept, 0.45, 0.5, VIEWS[1])
    assert finding.call_count == 2
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]


def test_connected_pieces_are_not_called_objects(tmp_path: Path) -> None:
    found = seen("binary", image(tmp_path))
    assert [row.objects for row in counts.legend(found)] == [None, None]
    assert "objects" not in parts.legend_html(counts.legend(found))


def test_without_what_finds_objects_there_are_masks_and_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    model, path = network("instances", names=NAMES["binary"]), image(tmp_path)
    predictor = Predictor(model, device="cpu")
    events = Events(types.SimpleNamespace(update=dict), predictor, Limits())
    kept, _, note, _, *shown = events.ask([str(path)], None, 0, 0.5, 0.5, VIEWS[0])
    assert re.search(r"not counted.*pip install .*unetzoo\[objects\]", note)
    assert "objects" not in shown[1]
    assert shown[2] == ""
    assert events.files == ["mask", "overlay"]
    expected = predictor(path)
    found = kept.seen(0.5).prediction
    assert torch.equal(found.mask, expected.mask)
    assert np.array_equal(pixels(shown[0]), images.overlay(found.image, expected.mask > 0).permute(1, 2, 0))


# What is refused


def refused(path: Path, limits: Limits | None = None, task: str = "binary", **options: Any) -> str:
    """Return why an image is refused, after it is certain that the reason is one line which names no folder."""
    with pytest.raises(InputError) as caught:
        answers.answer(Predictor(network(task, **options), device="cpu"), path, limits or Limits())
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) not in message
    assert path.name in message
    return message


def test_a_file_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    path = image(tmp_path)
    size = path.stat().st_size
    assert refused(path, Limits(megabytes=(size - 0.5) / 2**20)).endswith("MB are taken")
    answers.answer(Predictor(network("binary"), device="cpu"), path, Limits(megabytes=(size + 0.5) / 2**20))


def test_a_image_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    """The file ends where its pixels would begin: whoever decodes it says something else."""
    path = tmp_path / "wide.png"
    Image.new("L", (6000, 5000)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    assert re.search(r"6000 × 5000 = 30 megapixels: .*\b25 ", refused(path))
    assert "megapixels" not in refused(path, Limits(megapixels=30))


def test_a_small_tiff_that_unfolds_to_much_is_refused(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "bands.tif"
    array = np.zeros((40, 300, 300), np.uint8)
    tifffile.imwrite(path, array, compression="zlib", photometric="minisblack", planarconfig="separate")
    assert path.stat().st_size < 20_000
    assert re.search(r"3\.6 million .*bands .*\b0\.4 ", refused(path, Limits(megapixels=0.1)))
    # A model of so many bands takes them.
    Limits(megapixels=0.1).check(path, in_channels=40)
    tifffile.imwrite(path, array, compression="zlib", photometric="minisblack")
    assert "40 pages: send one of them" in refused(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.png", b"no image, but words"),
        ("empty.png", b""),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("page.tif", b"<html></html>"),
    ],
)
def test_files_of_other_kinds_are_refused_whatever_their_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name) == f"{name} is not a PNG, JPEG, TIFF, WebP, GIF or BMP file"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".gif", ".bmp"])
def test_every_kind_that_is_named_is_taken_and_damaged_ones_are_refused(suffix: str, tmp_path: Path) -> None:
    path = image(tmp_path, f"cells{suffix}")
    assert seen("binary", path).prediction.image.shape == (3, 90, 130)
    path.write_bytes(path.read_bytes()[:40])
    assert "cannot be read" in refused(path)


def test_a_image_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    path = image(tmp_path)
    with pytest.raises(InputError, match=r"image of 3 channels: unet .*\b1\b"):
        answers.answer(Predictor(network("binary", in_channels=1), device="cpu"), path, Limits())


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "50", True])
def test_limits_that_are_none_are_all_named(wrong: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Limits(wrong, wrong)
    assert [text.partition("=")[0] for text in caught.value.problems] == ["megabytes", "megapixels"]


# The heading


def test_the_heading_is_the_model_s_name_and_what_its_card_says(tmp_path: Path, monkeypatch: Any) -> None:
    model = network("binary")
    line = "U-Net on the plain encoder."
    assert heading(model, model.config) == ("unet", line)
    unetzoo.save(model, tmp_path / "cells.safetensors")
    assert heading(tmp_path / "cells.safetensors", model.config) == ("cells", line)
    card = unetzoo.ModelCard(training_data="Twelve images of <cells>.")
    unetzoo.save_pretrained(model, tmp_path / "blobs", card=card)
    expected = ("blobs", f"{line} Trained on: Twelve images of <cells>.")
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / "blobs", "blobs", "blobs/", f"{tmp_path}/blobs/"):
        assert heading(source, model.config) == expected
    monkeypatch.chdir(tmp_path / "blobs")
    assert heading(".", model.config) == expected
    # One that is not there, and, as no network is asked, in no cache.
    assert heading("hf-hub:me/blobs", model.config) == ("me/blobs", line)
    (tmp_path / "blobs" / "README.md").write_bytes(b"---\n: [\n---\n\xff")
    assert heading(tmp_path / "blobs", model.config) == ("blobs", line)


@pytest.mark.parametrize("name", unetzoo.list_models(pretrained=True))
def test_the_heading_of_a_model_of_the_package_is_its_name(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    model = unetzoo.from_pretrained(name)
    line = "U-Net on the plain encoder."
    first = {
        "nuclei": "Finds the nuclei of cells in fluorescence and histology images, and separates those that touch.",
        "vessels": "Segments the blood vessels of the retina in colour photographs of the fundus.",
    }
    assert heading(name, model.config) == (name, f"{first[name]} {line}")
    unetzoo.save_pretrained(model, tmp_path / name, card=unetzoo.ModelCard(training_data="Others."))
    assert heading(f"./{name}", model.config) == (name, f"{line} Trained on: Others.")


# The server, without gradio


def test_without_gradio_the_extra_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    before = dict(os.environ), tempfile.tempdir
    with pytest.raises(ConfigError, match=r"gradio .*pip install 'unetzoo\[demo\]'"):
        serve(network("binary"), port=free_port()).__enter__()
    assert (dict(os.environ), tempfile.tempdir) == before


def test_an_address_that_cannot_be_served_is_refused_before_the_model_is_loaded() -> None:
    for port in (0, 65536, -1, "7860", True):
        with pytest.raises(ConfigError, match=f"port={re.escape(repr(port))}: .*1 to 65535"):
            serve("no/such/model", port=port).__enter__()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port}: .*another program"):
            serve("no/such/model", port=port).__enter__()
    with pytest.raises(ConfigError, match=r"host='203\.0\.113\.1': .*no such address .*127\.0\.0\.1 .*0\.0\.0\.0"):
        serve("no/such/model", host="203.0.113.1", port=free_port()).__enter__()


def test_the_command_refuses_bad_limits_and_ports(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetzoo.cli.serving.check_installed", lambda needs: None)  # also where gradio is not
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["serve", "x", "--max-megabytes", "0"]) == 2
    assert re.search(r"--max-megabytes 0\.0: .*above 0", capsys.readouterr().err)
    assert cli.main(["serve", "x", "--port", "70000"]) == 2
    assert re.search("--port 70000: .*1 to 65535", capsys.readouterr().err)
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_space_is_of_the_gradio_that_the_extra_allows() -> None:
    folder = ROOT / "examples" / "space"
    front = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "gradio"
    assert (folder / front["app_file"]).is_file()
    assert front["colorFrom"], front["colorTo"]
    assert (folder / "requirements.txt").read_text(encoding="utf-8").split() == ["unetzoo[demo,objects]"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (asked,) = (text for text in extras["demo"] if text.startswith("gradio"))
    lowest, below = re.fullmatch(r"gradio>=([\d.]+),<(\d+)", asked).groups()
    version = [int(part) for part in front["sdk_version"].split(".")]
    assert [int(part) for part in lowest.split(".")] <= version < [int(below)]


# The server, with gradio


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Site:
    """A server of its own process, home, temporary and working folder.

    Attributes:
        url: of the page.
        folder: holds ``home``, ``tmp`` and ``cwd``.
        model: its file.
        process: of the server.
    """

    url: str
    folder: Path
    model: Path
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body; the path goes out as it stands, ``..`` and all."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def upload(self, name: str, content: bytes) -> tuple[int, bytes]:
        body = (
            f'--xx\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
            + content
            + b"\r\n--xx--\r\n"
        )
        return self.request("POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=xx"})

    def ask(self, path: str) -> str:
        """Send the event of a new image at ``path`` on the server; return all that comes of it."""
        status, config = self.request("GET", "/config")
        assert status == 200
        config = json.loads(config)
        (file,) = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "file")
        (event,) = (event for event in config["dependencies"] if [file, "change"] in event["targets"])
        data = [[{"path": path, "meta": {"_type": "gradio.FileData"}}], None, 0, 0.5, 0.5, VIEWS[0]]
        body = {"data": data, "fn_index": event["id"], "session_hash": "test", "event_data": None}
        status, answer = self.request(
            "POST", "/gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        assert status == 200, answer
        return self.request("GET", "/gradio_api/queue/data?session_hash=test")[1].decode()

    def files(self, part: str) -> list[str]:
        folder = self.folder / part
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@contextlib.contextmanager
def serving(folder: Path, task: str = "binary", command: list[str] | None = None, **variables: str) -> Iterator[Site]:
    """Start the server; end it, and make sure that it spoke to nobody else."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip('gradio is not installed: pip install "unetzoo[demo]"')
    for part in ("home", "tmp", "cwd"):
        (folder / part).mkdir()
    unetzoo.save(network(task), folder / "cells.safetensors")
    (folder / "cwd" / "secret.txt").write_text("not for visitors", encoding="utf-8")
    limits = ["--max-megabytes", "1", "--max-megapixels", "0.5"]
    port, model = free_port(), folder / "cells.safetensors"
    command = command or ["-m", "unetzoo", "serve", str(model), "--port", str(port), "--device", "cpu", *limits]
    with socket.create_server(("127.0.0.1", 0)) as outward:
        outward.setblocking(False)
        proxy = f"http://127.0.0.1:{outward.getsockname()[1]}"
        variables |= {
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost,0.0.0.0"),
            "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_PORT": str(port), "MODEL": str(model),
        }  # fmt: skip
        hidden = ("SPACE_ID", "HF_ENDPOINT", "PYTHONWARNINGS")
        env = {name: value for name, value in os.environ.items() if name not in hidden} | variables
        with (
            (folder / "log.txt").open("w") as log,
            subprocess.Popen(
                [sys.executable, *command], cwd=folder / "cwd", env=env, text=True, stdout=subprocess.PIPE, stderr=log
            ) as process,
        ):
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, (folder / "log.txt").read_text(encoding="utf-8")
                url = f"http://127.0.0.1:{re.search(r'http://[^ ]+:([0-9]+)', line)[1]}"
                yield Site(url, folder, model, process)
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
        with pytest.raises(BlockingIOError):
            outward.accept()  # all that would leave this machine comes here


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("site")) as running:
        yield running


def test_a_model_of_the_package_is_served_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    path = image(tmp_path, height=200, width=260, seed=3)
    alone, alone_parts = (len(Predictor("nuclei", split=split)(path).instances()) for split in (None, 0))
    assert alone > alone_parts
    command = ["-m", "unetzoo", "serve", "nuclei", "--port", str(free_port()), "--device", "cpu", "--split", "0"]
    with serving(tmp_path, command=command) as site:
        assert b">nuclei<" in site.request("GET", "/config")[1]
        _, answer = site.upload("cells.png", path.read_bytes())
        assert f"nucleus</th><td>{alone_parts}</td>" in site.ask(json.loads(answer)[0])


def test_the_end_leaves_nothing_and_nothing_was_sent_anywhere(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        status, answer = site.upload("cells.png", image(tmp_path).read_bytes())
        assert status == 200
        assert "segmented in" in site.ask(json.loads(answer)[0])
        (own,) = {name.partition("/")[0] for name in site.files("tmp")}
        assert own.startswith("unetzoo_serve_")
        assert any(name.endswith("/cells.png") for name in site.files("tmp"))
    assert site.process.returncode == 0
    assert site.files("tmp") == []
    assert site.files("home") == []
    assert site.files("cwd") == ["secret.txt"]


def test_it_listens_on_the_loopback_alone(site: Site) -> None:
    socket.create_connection(("127.0.0.1", site.port)).close()
    if not sys.platform.startswith("linux"):
        pytest.skip("all of 127.0.0.0/8 is the loopback on Linux alone")
    with pytest.raises(ConnectionRefusedError):  # whoever listens everywhere answers here
        socket.create_connection(("127.0.0.2", site.port))


def test_files_outside_its_folder_are_not_served(site: Site) -> None:
    status, answer = site.upload("cells.png", image(site.folder).read_bytes())
    (sent,) = json.loads(answer)
    assert site.request("GET", f"/gradio_api/file={sent}") == (200, (site.folder / "cells.png").read_bytes())
    inside, secret = Path(sent).parent.as_posix(), (site.folder / "cwd" / "secret.txt").as_posix()
    up = "/".join(".." for _ in inside.split("/"))
    for path in (
        "/etc/passwd", secret, "secret.txt", site.model.as_posix(), sys.executable, "/proc/self/environ",
        f"{inside}/{up}/etc/passwd", f"{inside}/{up}{secret}", f"{inside}/../../../cwd/secret.txt", f"//{secret}",
        f"file://{secret}", inside,
    ):  # fmt: skip
        for shown in (path, urllib.parse.quote(path, safe=""), urllib.parse.quote(path).replace("..", "%2e%2e")):
            for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/theme.css/../"):
                status, body = site.request("GET", f"{route}{shown}")
                assert status in (400, 401, 403, 404, 405, 422), (route, shown, status)
                assert b"not for visitors" not in body
                assert b"root:" not in body


def test_images_outside_its_folder_are_not_read(site: Site) -> None:
    """A visitor who names a file instead of sending one."""
    path = image(site.folder, "other.png")
    for name in (str(path), "/etc/passwd", "secret.txt"):
        said = site.ask(name)
        assert '"success":false' in said
        assert "segmented in" not in said


def test_what_is_sent_stays_in_the_folder_whatever_its_name(site: Site) -> None:
    for name in ("../../../evil.png", "/tmp/evil.png", "..%2f..%2fevil.png", "a/../../evil.png", "..\\evil.png"):
        status, answer = site.upload(name, b"evil")
        if status == 200:
            (path,) = json.loads(answer)
            assert Path(path).resolve().is_relative_to(site.folder / "tmp")
            assert Path(path).read_bytes() == b"evil"
    assert site.files("cwd") == ["secret.txt"]
    assert not [path for path in site.folder.iterdir() if "evil" in path.name]


def test_too_many_bytes_are_not_taken_in(site: Site) -> None:
    before = site.files("tmp")
    status, answer = site.upload("large.png", bytes(1_100_000))
    assert status == 413, answer
    assert all((site.folder / "tmp" / name).stat().st_size < 1_100_000 for name in set(site.files("tmp")) - set(before))


@pytest.mark.skipif(os.name == "nt", reason="the program that is not to be called is a shell's")
def test_postscript_that_is_sent_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own name and an image's, and with DOS's header before it; Pillow itself calls ``gs``."""
    called, programs = tmp_path / "called", tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\necho $@ >> {called}\n", encoding="utf-8")
    (programs / "gs").chmod(0o755)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) (w) file\nshowpage\n%%EOF\n"
    dos = struct.pack("<I6IH", 0xC6D3D0C5, 30, len(script), 0, 0, 0, 0, 0xFFFF) + script
    with serving(tmp_path, PATH=os.pathsep.join([str(programs), os.environ["PATH"]])) as site:
        for name, content in (("plot.png", script), ("dos.tif", dos), ("plot.eps", script), ("plot.ps", script)):
            status, answer = site.upload(name, content)
            assert status == 200, answer
            # Of other endings than an image's, gradio itself says which may be sent.
            own = f"{name} is not a PNG, JPEG, TIFF, WebP, GIF or BMP file"
            said = own if name[-3:] in ("png", "tif") else "Invalid file type"
            assert said in site.ask(json.loads(answer)[0])
        status, answer = site.upload("cells.png", image(tmp_path).read_bytes())
        assert "segmented in" in site.ask(json.loads(answer)[0])
    assert not called.exists()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    with pytest.raises(OSError), Image.open(io.BytesIO(script)) as opened:  # noqa: PT011
        opened.load()
    assert called.exists()


def test_the_space_serves_the_model_that_its_variable_names(tmp_path: Path) -> None:
    with serving(tmp_path, command=[str(ROOT / "examples" / "space" / "app.py")]) as site:
        status, answer = site.upload("cells.png", image(tmp_path).read_bytes())
        assert status == 200
        assert "segmented in" in site.ask(json.loads(answer)[0])


# Who may ask, and for what

PUBLIC = """import sys
import safehttpx

async def loopback(host):
    return "127.0.0.1"

safehttpx.async_validate_url = loopback
import unetzoo.cli
sys.exit(unetzoo.cli.main(sys.argv[1:]))
"""
"""The command, for whom every host that a visitor names lies here, as if it were a public one."""


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Yield a site that has a name of its own."""
    folder = tmp_path_factory.mktemp("named")
    unetzoo.save(network("binary"), folder / "cells.safetensors")
    port = str(free_port())
    command = ["-c", PUBLIC, "serve", str(folder / "cells.safetensors"), "--port", port, "--name", "masks.example.org"]
    with serving(folder, command=[*command, "--device", "cpu"]) as running:
        yield running


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of another server, and what it was asked for."""
    asked: list[str] = []

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_no_address_that_a_visitor_names_is_fetched(named: Site, stranger: tuple[str, list[str]]) -> None:
    """Each input of each event, each way to send one, each address that gradio has for a file of elsewhere."""
    elsewhere, asked = stranger
    as_json = {"Content-Type": "application/json"}
    routes = ("file=", "proxy=", "file/", "file=/", "file=%20")
    for k, route in enumerate(f"{prefix}/{name}" for prefix in ("/gradio_api", "") for name in routes):
        for shown in (f"{elsewhere}/{k}.png", urllib.parse.quote(f"{elsewhere}/{k}.png", safe="")):
            for method in ("GET", "HEAD"):
                status, _ = named.request(method, f"{route}{shown}")
                assert 400 <= status < 500, (route, status)
    events = json.loads(named.request("GET", "/config")[1])["dependencies"]
    tried = 0
    for event in events:
        for k in range(len(event["inputs"])):
            for place in ("path", "url", "both"):
                name = f"{elsewhere}/{event['id']}_{k}_{place}.png"
                file = {"path": name if place != "url" else "x.png", "meta": {"_type": "gradio.FileData"}}
                file |= {"url": name} if place != "path" else {}
                data: list[Any] = [None] * len(event["inputs"])
                for value in (file, [file], {"inside": [file]}):
                    data[k] = value
                    body = {"data": data, "fn_index": event["id"], "session_hash": "a", "event_data": None}
                    body |= {"trigger_id": None, "event_id": "b"}
                    sent = json.dumps(body).encode()
                    for route in ("queue/join", "run/predict", f"api/{event['id']}", f"call/{event['id']}", "stream/b"):
                        status, _ = named.request("POST", f"/gradio_api/{route}", sent, as_json)
                        assert 400 <= status < 500, (route, status)
                        tried += 1
    assert tried > 200
    assert asked == []


def test_an_event_that_readers_could_take_in_two_ways_is_refused(named: Site, stranger: tuple[str, list[str]]) -> None:
    elsewhere, asked = stranger
    whole = json.dumps({"data": [{"path": f"{elsewhere}/x", "meta": {"_type": "gradio.FileData"}}, 0.5, 0.5]})
    for body, expected in (
        (whole.replace('{"path"', '{"path": "/tmp/x", "path"').encode(), 400),
        (whole.encode("utf-16"), 400),
        (b"\xef\xbb\xbf" + whole.encode(), 400),
        (b"\xff", 400),
        (b"[" * 60_000, 400),
        (b"[" + b"0," * 140_000 + b"0]", 413),
    ):
        status, _ = named.request("POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"})
        assert status == expected, body[:40]
    assert asked == []


OWN = ("127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "192.168.1.5:81", "[::1]:{port}", "masks.example.org",
       "Masks.Example.org.:443")  # fmt: skip
FOREIGN = ("evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example:{port}",
           "evil.example@127.0.0.1", "masks.example.org.evil.example", "amasks.example.org", "127.0.0.1:{port}/x",
           "[evil.example]", "127.0.0.1 evil.example", "")  # fmt: skip
ASKED = (("GET", "/"), ("GET", "/config"), ("HEAD", "/"), ("POST", "/gradio_api/queue/join"), ("GET", "/theme.css"),
         ("POST", "/gradio_api/upload"), ("PUT", "/"), ("OPTIONS", "/"), ("GET", "/nothing"))  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN)
def test_a_request_that_names_another_host_is_refused(host: str, named: Site) -> None:
    """DNS rebinding: evil.example leads here, and its page reads what this one says."""
    host = host.format(port=named.port)
    for method, path in ASKED:
        status, answer = named.request(method, path, None if method == "GET" else b"{}", {"Host": host})
        assert 400 <= status < 500, (method, path)
        assert b"gradio" not in answer
    status, answer = named.request("GET", "/config", None, {"X-Forwarded-Host": host})
    assert (status, b"gradio" in answer) == (400, False)


@pytest.mark.parametrize("host", OWN)
def test_a_request_that_names_this_host_is_answered(host: str, named: Site) -> None:
    host = host.format(port=named.port)
    status, answer = named.request("GET", "/config", None, {"Host": host})
    assert (status, b"gradio" in answer) == (200, True)
    scheme = "https" if host.endswith(":443") else "http"
    for method, path in (("GET", "/config"), ("GET", "/")):
        assert named.request(method, path, None, {"Host": host, "Origin": f"{scheme}://{host}"})[0] == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://evil.example:{port}", "null", "http://127.0.0.1:1", "http://localhost:{port}",
     "https://127.0.0.1:{port}.evil.example", "file://", "http://127.0.0.1:{port}@evil.example", "127.0.0.1:{port}",
     "chrome-extension://127.0.0.1:{port}"],
)  # fmt: skip
def test_a_request_of_another_page_is_refused(origin: str, named: Site) -> None:
    origin = origin.format(port=named.port)
    before = named.files("tmp")
    for method, path in ASKED:
        body = None if method == "GET" else b"{}"
        status, answer = named.request(method, path, body, {"Origin": origin})
        assert 400 <= status < 500, (method, path)
        assert b"gradio" not in answer
    body = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\na\r\n--xx--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=xx", "Origin": origin}
    assert named.request("POST", "/gradio_api/upload", body, headers)[0] == 403
    assert named.files("tmp") == before


def test_a_proxy_may_ask_under_another_name_than_its_visitors(named: Site) -> None:
    here, named_one = f"127.0.0.1:{named.port}", "https://masks.example.org"
    assert named.request("GET", "/config", None, {"Host": here, "Origin": named_one})[0] == 200
    assert named.request("GET", "/config", None, {"Host": here, "X-Forwarded-Host": "masks.example.org"})[0] == 200


def test_names_that_are_none_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        serve("no/such/model", port=free_port(), names=["a.b", "http://a.b", "a b", "a.b:80", ""]).__enter__()
    assert [text.partition(":")[0] for text in caught.value.problems] == [
        "name='http", "name='a b'", "name='a.b", "name=''"
    ]  # fmt: skip


# The page, in a browser


class Visitor:
    """Somebody at the page."""

    def __init__(self, browser: Any, site: Site, **options: Any) -> None:
        self.site = site
        self.page = browser.new_page(**options)
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(site.url)
        self.page.wait_for_selector("#file input[type=file]", state="attached")

    def send(self, path: Path) -> None:
        clear = self.page.locator("#file [aria-label=Clear]")
        if clear.count():
            clear.first.click()
        self.page.set_input_files("#file input[type=file]", path)

    def wait_for(self, selector: str, text: str) -> None:
        self.page.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)", arg=[selector, text]
        )

    def download(self, button: str) -> tuple[str, bytes]:
        with self.page.expect_download() as caught:
            self.page.click(button)
        return caught.value.suggested_filename, Path(caught.value.path()).read_bytes()

    def counts(self) -> list[tuple[str, int]]:
        rows = self.page.locator("#legend tbody tr").all()
        cells = [row.locator("th, td").all_inner_texts() for row in rows]
        return [(name.strip(), int(count.replace(",", ""))) for name, count, _ in cells]

    def shown(self, view: str) -> np.ndarray[Any, Any]:
        """Return the pixels of an image on the page."""
        return pixels(self.page.locator(f"#{view}").inner_html())


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Callable[..., Visitor]]:
    visitors: list[Visitor] = []

    def arrive(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, site, **options))
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        outside = [url for url in visitor.asked if not url.startswith((site.url, "data:", "blob:"))]
        visitor.page.close()
        assert not outside
        assert len(visitor.asked) > 5


def test_a_real_image_comes_back_as_the_predictor_segments_it(
    visit: Callable[..., Visitor], shared_data: Path, tmp_path: Path
) -> None:
    source = min((shared_data / "nuclei" / "images").glob("*.png"), key=lambda path: (path.stat().st_size, path.name))
    path = Path(shutil.copy(source, tmp_path / "real one.png"))
    visitor = visit()
    visitor.send(path)
    visitor.wait_for("#note", "segmented in")
    threshold = 0.5
    for step in range(3):
        expected = Predictor(visitor.site.model, device="cpu", threshold=threshold)(path)
        inside = int(expected.mask.sum())
        visitor.wait_for("#legend", f"{inside:,}")
        assert visitor.counts() == [("background", expected.mask.numel() - inside), ("nucleus", inside)]
        expected.save(tmp_path / "mask.png")
        expected.overlay(tmp_path / "overlay.png")
        name, content = visitor.download("#save-mask")
        assert (name, content) == ("real one_mask.png", (tmp_path / "mask.png").read_bytes())
        name, content = visitor.download("#save-overlay")
        assert (name, content) == ("real one_overlay.png", (tmp_path / "overlay.png").read_bytes())
        assert np.array_equal(visitor.shown("overlay"), np.array(Image.open(tmp_path / "overlay.png")))
        assert 0.01 < inside / expected.mask.numel() < 0.99
        slider = visitor.page.locator("#threshold input[type=range]")
        if step == 0:
            slider.focus()
            for _ in range(4):
                slider.press("ArrowRight")
        else:
            number = visitor.page.locator("#threshold input[type=number]")
            number.fill("0.43")
            number.blur()
        threshold = float(slider.input_value())
        assert threshold == pytest.approx((0.54, 0.43, 0.43)[step])


def test_bad_images_are_refused_in_a_line_and_the_next_one_is_taken(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    (tmp_path / "notes.png").write_text("no image, but words", encoding="utf-8")
    cut = tmp_path / "cut.png"
    cut.write_bytes(image(tmp_path).read_bytes()[:300])
    wide = image(tmp_path, "wide.png", 600, 900)
    for path, reason in (
        (tmp_path / "notes.png", "notes.png is not a PNG, JPEG, TIFF, WebP, GIF or BMP file"),
        (cut, "'cut.png' cannot be read"),
        (wide, "900 × 600 = 0.54 megapixels: up to 0.5"),
    ):
        visitor.send(path)
        visitor.wait_for("[role=alert].refusal", reason)
        assert visitor.page.locator("#overlay img").count() == 0
        assert visitor.page.locator("#save-mask").is_disabled()
        visitor.send(tmp_path / "cells.png")
        visitor.wait_for("#note", "130 × 90 pixels, segmented in")
        assert visitor.page.locator(".refusal").count() == 0
        assert visitor.page.locator("#save-mask").is_enabled()


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    visitor = visit()
    large = tmp_path / "large.bmp"
    large.write_bytes(bytes(1_100_000))
    visitor.send(large)
    visitor.page.get_by_text(re.compile("maximum allowed size|exceeds", re.IGNORECASE)).first.wait_for()
    visitor.send(image(tmp_path))
    visitor.wait_for("#note", "segmented in")


def test_a_narrow_screen_shows_all_of_it(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    visitor = visit(viewport={"width": 360, "height": 740})
    visitor.send(image(tmp_path))
    visitor.wait_for("#legend", "nucleus")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 360
    for part in ("#file", "#overlay img", "#legend table", "#save-mask", "#save-overlay"):
        box = visitor.page.locator(part).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_page_of_several_classes_has_their_legend(task: str, browser: Any, tmp_path: Path) -> None:
    path = image(tmp_path)
    with serving(tmp_path, task) as site:
        visitor = Visitor(browser, site)
        visitor.send(path)
        visitor.wait_for("#note", "segmented in")
        expected = Predictor(site.model, device="cpu")(path)
        layers = expected.mask if task == "multilabel" else [expected.mask == k for k in range(4)]
        visitor.wait_for("#legend", NAMES[task][-1])
        assert visitor.counts() == [(name, int(m.sum())) for name, m in zip(NAMES[task], layers, strict=True)]
        assert (visitor.page.locator("#threshold").count() == 0) == (task == "multiclass")
        name, content = visitor.download("#save-mask")
        if task == "multiclass":
            assert name == "cells_mask.png"
            assert np.array_equal(np.array(Image.open(io.BytesIO(content))), expected.mask.numpy())
        else:
            assert name == "cells_masks.zip"
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                assert len(archive.namelist()) == 2
        visitor.page.close()


# Objects and their files


def counted(folder: Path, task: str = "instances", names: tuple[str, ...] = ("nucleus",), **options: Any) -> Any:
    """Return a predictor that tells objects apart, an image, and what is found in it."""
    pytest.importorskip("skimage")
    path = options.pop("path", None) or image(folder)
    predictor = Predictor(network(task, names=names, **options), device="cpu", split=1.5)
    return predictor, path, answers.answer(predictor, path, Limits()).at(0.5)


@pytest.mark.parametrize("kind", ["grey", "coloured", "uint16"])
@pytest.mark.parametrize("names", [("nucleus",), ("nucleus", "cell")])
def test_the_table_has_what_the_package_s_own_has(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    drawn = drawing.draw_nuclei(90, 130)[0]
    path = tmp_path / "cells.tif"
    if kind == "uint16":
        Image.fromarray(drawn[0].numpy().astype("uint16") * 201 + 7).save(path)
    else:
        drawn = drawn if kind == "grey" else torch.stack([drawn[0], drawn[1] // 2, 255 - drawn[2]])
        Image.fromarray(drawn.permute(1, 2, 0).numpy()).save(path)
    predictor, path, found = counted(tmp_path, names=names, path=path)
    plain = predictor(path)
    expected = unetzoo.objects.table(plain.instances(), plain.image, class_names=names)
    rows = counts.measured(found, 10_000)
    assert len(rows) > 5
    assert [row.number for row in rows] == expected["label"].tolist()
    assert [row.name for row in rows] == expected["class"].tolist()
    assert [row.area for row in rows] == expected["area"].tolist()
    titles = counts.intensity_names(found)
    assert titles == (
        [f"mean intensity, {colour}" for colour in ("red", "green", "blue")]
        if kind == "coloured"
        else ["mean intensity"]
    )
    for k in range(len(titles)):
        assert [row.intensities[k] for row in rows] == pytest.approx(expected[f"intensity_mean-{k}"].tolist())
    largest = counts.measured(found, 3)
    assert [row.number for row in largest] == sorted(
        sorted(expected["label"].tolist(), key=lambda k: -expected["area"][k - 1])[:3]
    )
    if kind != "uint16":  # with opacity, opaque and not: that is no measurement
        for opacity in (255, 200):
            Image.open(path).convert("RGB").save(tmp_path / "rgb.png")
            with Image.open(tmp_path / "rgb.png") as plain_rgb:
                plain_rgb.putalpha(opacity)
                plain_rgb.save(tmp_path / "rgba.png")
            _, _, seen = counted(tmp_path, names=names, path=tmp_path / "rgba.png")
            assert counts.intensity_names(seen) == titles
            assert counts.measured(seen, 10_000) == rows
    shown = parts.object_table(largest, titles, len(rows))
    assert f"The 3 largest of {len(rows)} objects" in shown


@pytest.mark.parametrize("task", NAMES)
def test_objects_are_written_by_the_package_s_own_writers(task: str, tmp_path: Path) -> None:
    predictor, path, found = counted(tmp_path, task, NAMES[task])
    plain = predictor(path)
    for kind, suffix in (("geojson", ".geojson"), ("coco", ".json"), ("labels", ".tif")):
        plain.save_annotations(tmp_path / "own" / f"x{suffix}", kind)
        written = files.write_objects(found, kind, tmp_path)
        if kind == "labels" and task != "binary":
            assert written.name == "cells_labels.zip"
            with zipfile.ZipFile(written) as archive:
                labels = [np.array(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
                assert archive.namelist()[0].endswith("_nucleus/cells_labels.tif")
                assert not any(".." in name or name.startswith("/") for name in archive.namelist())
            kinds = {"multiclass": (1, 2, 3), "multilabel": (0, 1)}[task]
            for layer, k in zip(labels, kinds, strict=True):
                assert layer.dtype == np.uint16
                assert np.array_equal(layer, plain.instances().of_class(k).labels.numpy())
        else:
            assert written.name == f"cells_{kind}{suffix}"
            assert written.read_bytes() == (tmp_path / "own" / f"x{suffix}").read_bytes()


def test_an_overlay_may_have_outlines_alone(tmp_path: Path) -> None:
    predictor, path, found = counted(tmp_path)
    predictor(path).overlay(tmp_path / "expected.png", outline=True)
    written = files.write_overlay(found, 0.5, tmp_path, outline=True)
    assert written.read_bytes() == (tmp_path / "expected.png").read_bytes()
    events = Events(types.SimpleNamespace(update=dict), predictor, Limits())
    kept = events.ask([str(path)], None, 0, 0.5, 0.5, VIEWS[0])[0]
    for view, expected in (
        (VIEWS[1], Image.open(tmp_path / "expected.png")),
        (VIEWS[2], Image.fromarray(found.prediction.mask.numpy() * 255)),
        (VIEWS[3], Image.open(path)),
    ):
        assert np.array_equal(pixels(events.repaint(kept, 0.5, 0.5, view)), np.array(expected.convert("RGB")))


FORMULAS = ("=HYPERLINK(1)", "+1", "-2+3", "@SUM(1)", ' =1"', "'=1")


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    """Names of files and classes are anybody's: a spreadsheet would run what begins with one of four signs."""
    predictor, path, found = counted(tmp_path, names=("=cmd|' /C calc'!A0",))
    plain = predictor(path)
    with table_file(tmp_path / "own.csv", 3) as write:
        columns = unetzoo.objects.table(plain.instances(), plain.image)
        write("cells.png", columns)
    named = [(f"{name}.png", found) for name in FORMULAS]
    (tmp_path / "out").mkdir()
    files.write_all([*named, ("cells.png", found)], 0.5, tmp_path / "out", outline=False, measures=True)
    with zipfile.ZipFile(tmp_path / "out" / "results.zip") as archive:
        for table in ("objects.csv", "counts.csv"):
            rows = list(csv.reader(io.StringIO(archive.read(table).decode())))
            words = [cell for row in rows for cell in row if not re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell)]
            assert not [cell for cell in words if cell.lstrip(" '\"")[:1] in tuple("=+-@") and cell[0] != "'"]
            assert {"'=HYPERLINK(1).png", "'+1.png", "cells.png"} <= {row[0] for row in rows}
        own = list(csv.reader(io.StringIO((tmp_path / "own.csv").read_text(encoding="utf-8"))))
        rows = list(csv.reader(io.StringIO(archive.read("objects.csv").decode())))
    assert rows[0] == own[0]
    assert [[row[0], *row[3:]] for row in rows if row[0] == "cells.png"] == [[row[0], *row[3:]] for row in own[1:]]
    assert {row[2] for row in rows[1:]} == {"'=cmd|' /C calc'!A0"}


def test_folders_in_the_zip_lead_nowhere_and_are_each_one_image_s() -> None:
    names = [
        "a.png",
        "A.tif",
        "../../a.png",
        "/etc/passwd",
        "..\\x.png",
        "<img src=x>.png",
        "..png",
        "CON.png",
        "a\n.png",
    ]
    found = files.folders([*names, f"{'n' * 300}.png", ".png", "é.png", "class_1.png"])
    assert len({name.casefold() for name in found}) == len(found)
    for name in found:
        assert re.fullmatch(r"[\w ()+,-]{1,90}", name)
        assert name.casefold() not in ("con", "")
    assert found[:2] == ["a", "A_2"]
    assert found[-1] == "class_1"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>.png", '" onerror="alert(1).png', "${alert(1)}{{x}}.png"])
def test_names_on_the_page_are_text(name: str) -> None:
    rows = [counts.Row(name, None, 1, 1, 0.5)]
    thumbnails = [parts.Thumbnail(name, "data:x", current=True), parts.Thumbnail(name, "", name)]
    drawn = parts.view(torch.zeros(3, 2, 2, dtype=torch.uint8), parts.description(name, (2, 2), "x", rows))
    table = parts.object_table([counts.Measured(1, name, 3, (0.5,))], [name], 1)
    texts: list[str] = []
    tags: dict[str, set[str]] = {}

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            tags.setdefault(tag, set()).update(dict(attributes))
            texts.extend(value for _, value in attributes if value)

        def handle_data(self, data: str) -> None:
            texts.append(data)

    for shown in (parts.strip(thumbnails, name), drawn, table, parts.note(name), parts.refusal(name)):
        Reader().feed(shown)
    assert sum(name in text for text in texts) >= 9
    assert "script" not in tags
    assert not [attribute for inner in tags.values() for attribute in inner if attribute.startswith("on")]


# Several images


def asked_for(events: Events, paths: list[Path]) -> list[Any]:
    """Return what the page has after all turns."""
    tray, turn = None, 0
    while True:
        tray, following, *shown = events.ask([str(path) for path in paths], tray, turn, 0.5, 0.5, VIEWS[0])
        if following == turn:
            return [tray, *shown]
        turn = following


def test_images_in_a_row_are_segmented_one_a_turn(tmp_path: Path) -> None:
    predictor = Predictor(network("binary"), device="cpu")
    events = Events(types.SimpleNamespace(update=dict), predictor, Limits())
    (tmp_path / "bad.png").write_text("words")
    paths = [image(tmp_path, "a.png"), tmp_path / "bad.png", image(tmp_path, "b.png", 60, 70, seed=4)]
    given = list(map(str, paths))
    tray, turn, note, strip, *_ = events.ask(given, None, 0, 0.5, 0.5, VIEWS[0])
    assert (turn, tray.current.name, strip.count("waiting")) == (1, "a.png", 2)
    assert "1 of 3 images are done" in note
    tray, turn, note, strip, *same = events.ask(given, tray, turn, 0.5, 0.5, VIEWS[0])
    assert same[:3] == [{}, {}, {}]  # what is looked at stays
    assert "bad.png is not a PNG" in note
    tray, turn, note, strip, *_ = events.ask(given, tray, turn, 0.5, 0.5, VIEWS[0])
    assert (turn, tray.current.name, "3 of 3" in note) == (2, "a.png", True)
    for wrong in (1, 3, -1, True, "2", None, 2.0):
        assert pixels(events.choose(wrong, tray, 0.5, 0.5, VIEWS[3])[2]).shape == (90, 130, 3)
    assert np.array_equal(pixels(events.choose(2, tray, 0.5, 0.5, VIEWS[3])[2]), np.array(Image.open(paths[2])))
    assert [torch.equal(found.prediction.mask, predictor(path).mask) for (_, found), path in
            zip(tray.all_seen(0.5), (paths[0], paths[2]), strict=True)] == [True, True]  # fmt: skip
    # One that comes later is looked at; what is taken out of the list is dropped.
    later = image(tmp_path, "later.png", 40, 50)
    tray, *_ = events.ask([*given, str(later)], tray, turn, 0.5, 0.5, VIEWS[0])
    assert tray.current.name == "later.png"
    tray, *_ = events.ask(given[2:], tray, turn, 0.5, 0.5, VIEWS[0])
    assert [entry.name for entry in tray.entries] == ["b.png"]
    assert tray.current is tray.entries[0]


def test_visitors_see_what_is_told_of_the_values_of_their_images(tmp_path: Path, caplog: Any) -> None:
    tifffile = pytest.importorskip("tifffile", reason="16 bits of RGB need tifffile")
    model = network("binary", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    events = Events(types.SimpleNamespace(update=dict), Predictor(model, device="cpu"), Limits())
    drawn = drawing.draw_nuclei(60, 70)[0].permute(1, 2, 0).numpy()
    files = {"a": drawn.astype("uint16") * 12, "b": drawn.astype("uint16"), "c": (drawn / 7).astype("float32")}
    for name, values in {**files, "d": np.full_like(drawn, 255), "e": drawn.astype("uint16") * 257}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="rgb")
    paths = [tmp_path / f"{name}.tif" for name in "abcde"]
    tray, note, *_ = asked_for(events, paths)
    warned = re.findall(r'<p class="warning" role="status">(.*?)</p>', note)
    assert [each.split(" to this model")[0].split(". There")[0] for each in warned] == [
        "a.tif and 1 other image are nearly black", "d.tif is of one brightness everywhere",
    ]  # fmt: skip
    assert f"{12 * int(drawn.max()):,} of a possible 65,535" in warned[0]
    (refused,) = re.findall(r'<p class="refusal" role="alert">(.*?)</p>', note)
    assert refused.startswith("c.tif: a floating-point image")
    assert "intensity_range" not in note
    assert all("Type › 8-bit" in each and "the person who runs this page" in each for each in (warned[0], refused))
    assert not caplog.messages  # nobody reads there what a visitor is to know
    assert 'class="warning"' not in asked_for(events, [paths[4], image(tmp_path)])[1]
    assert "a.tif is nearly black" in events.ask([str(paths[0])], tray, 0, 0.5, 0.5, VIEWS[0])[2]  # the rest is gone


def test_all_images_of_a_visitor_keep_to_what_one_may_have(tmp_path: Path) -> None:
    limits = Limits(megapixels=0.03)
    events = Events(types.SimpleNamespace(update=dict), Predictor(network("binary"), device="cpu"), limits)
    paths = [image(tmp_path, f"{k}.png", 100, 100, seed=k) for k in range(5)]
    tray, note, *_ = asked_for(events, paths)
    assert len(tray.all_seen(0.5)) == 3
    assert len(re.findall(r"role=.alert.>\d.png: too large together with the others", note)) == 2
    tray.current.answer.at(0.7)
    thumbnails = sum(len(entry.thumbnail) for entry in tray.entries)
    assert len(pickle.dumps([entry.answer for entry in tray.entries])) <= 0.03e6 * 8 + 3 * 9000
    assert thumbnails < 3 * 40_000
    size = sum(path.stat().st_size for path in paths[:2])
    events.limits = Limits(megabytes=(size + 0.5) / 2**20)
    assert len(asked_for(events, paths)[0].all_seen(0.5)) == 2


def test_objects_are_measured_in_the_image_as_its_file_has_it_and_it_is_kept_once(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    drawn = drawing.draw_nuclei(200, 300)[0]
    Image.fromarray(drawn[0].numpy().astype("uint16") * 201).save(tmp_path / "grey.tif")
    predictor = Predictor(network("binary"), device="cpu", split=1.5)
    for path, kept in ((image(tmp_path, "rgb.png", 200, 300), 3), (tmp_path / "grey.tif", 5)):
        found = answers.answer(predictor, path, Limits())
        expected = predictor(path).image
        assert torch.equal(found.at(0.5).measured, expected if kept == 5 else found.image)
        table = 80 * len(found.at(0.5).objects)
        assert len(pickle.dumps(found)) <= 200 * 300 * (kept + 5 + 4) + table + 9000


def test_too_many_images_are_refused_and_the_others_taken(tmp_path: Path) -> None:
    model = unetzoo.create("unet", base_channels=1, task="binary", num_classes=1).eval()
    events = Events(types.SimpleNamespace(update=dict), Predictor(model, device="cpu"), Limits())
    paths = [image(tmp_path, f"{k}.png", 16, 16) for k in range(FILES + 2)]
    tray, note, *_ = asked_for(events, paths)
    assert len(tray.all_seen(0.5)) == FILES
    assert re.findall(r"(\d+)\.png: at most 20 images", note) == ["20", "21"]


def test_samples_are_drawn_and_of_as_many_channels_as_the_model_takes(tmp_path: Path) -> None:
    for channels, count in ((1, 2), (3, 2), (4, 0)):
        model = unetzoo.create("unet", base_channels=1, in_channels=channels, task="binary", num_classes=1).eval()
        drawn = samples(model.config)
        assert len(drawn) == count
        for sample in drawn:
            (tmp_path / sample.file).write_bytes(sample.content)
            answers.answer(Predictor(model, device="cpu"), tmp_path / sample.file, Limits())
    for name in unetzoo.list_models(pretrained=True):
        for sample in samples(unetzoo.from_pretrained(name).config):
            (tmp_path / sample.file).write_bytes(sample.content)
            mask = Predictor(name, device="cpu")(tmp_path / sample.file).mask
            assert 0.02 < mask.float().mean() < 0.5
    events = Events(types.SimpleNamespace(update=dict), Predictor(network("binary"), device="cpu"), Limits())
    for wrong in (-1, 2, True, "0", None):
        assert events.sample(wrong, ["a"]) == ["a"]
    assert events.sample(9, None) == []


# Doors for several files


def test_an_upload_says_how_long_it_is_and_all_its_files_keep_to_the_limit(site: Site) -> None:
    before = site.files("tmp")
    kind = {"Content-Type": "multipart/form-data; boundary=xx"}
    # What is too long is refused by what it says of itself: nothing of it has to be sent.
    status, answer = site.request("POST", "/gradio_api/upload", None, {**kind, "Content-Length": "1200300"})
    assert (status, b"together" in answer) == (413, True)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)) as connection:
        connection.putrequest("POST", "/gradio_api/upload")
        for name, value in {**kind, "Transfer-Encoding": "chunked"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == 411
    for wrong in ("-1", "1e3", "9" * 30, ""):
        status, _ = site.request("POST", "/gradio_api/upload", None, {**kind, "Content-Length": wrong})
        assert status in (400, 411)
    assert site.files("tmp") == before


def words(content: str) -> list[str]:
    """Return what somebody reads, of what a page says of itself."""
    return re.findall(r"[a-z]+", content.lower())


def test_the_page_is_used_by_keys_alone(browser: Any, tmp_path: Path) -> None:
    """A drawn image, two more, outlines, the table, files: no mouse; and names for whoever hears the page."""
    pytest.importorskip("skimage")
    command = ["-m", "unetzoo", "serve", "nuclei", "--port", str(free_port()), "--device", "cpu"]
    with serving(tmp_path, command=command) as site:
        visitor = Visitor(browser, site, accept_downloads=True)
        page = visitor.page

        def reach(name: str) -> Any:
            """Press Tab until the element of a name has the focus, which has to be seen."""
            for _ in range(80):
                page.keyboard.press("Tab")
                focused = page.locator(":focus")
                if focused.count() and name in (focused.get_attribute("aria-label") or focused.inner_text()):
                    style = focused.evaluate(
                        "(e) => [getComputedStyle(e).outlineStyle, getComputedStyle(e).outlineWidth]"
                    )
                    assert style == ["solid", "3px"], name
                    return focused
            raise AssertionError(f"{name} is not reached")

        page.wait_for_selector("#samples button")
        reach("Drawn nuclei")
        page.keyboard.press("Enter")
        visitor.wait_for("#note", "drawn_nuclei.png: 320 × 256 pixels, segmented in")
        reach("Fewer nuclei")
        page.keyboard.press("Space")
        visitor.wait_for("#note", "fewer_nuclei.png: 160 × 128 pixels, segmented in")
        visitor.wait_for("#note", "2 of 2 images are done")
        reach("drawn_nuclei.png")
        page.keyboard.press("Enter")
        visitor.wait_for("#note", "320 × 256")
        assert page.locator("#strip [aria-current=true]").inner_text().startswith("drawn_nuclei")
        sample, other = samples(unetzoo.from_pretrained("nuclei").config)
        for drawn in (sample, other):
            (tmp_path / drawn.file).write_bytes(drawn.content)
        path = tmp_path / sample.file
        plain = Predictor("nuclei", device="cpu")(path)
        table = unetzoo.objects.table(plain.instances(), plain.image, class_names=("nucleus",))
        visitor.wait_for("#objects caption", f"{len(plain.instances())} objects")

        page.locator("#view input").first.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#overlay img[alt*='outlines only']")
        assert page.locator("#overlay img").get_attribute("alt") == (
            f"drawn_nuclei.png, 320 × 256 pixels, outlines only: background {1 - plain.mask.float().mean():.1%} of the "
            f"image; nucleus {len(plain.instances())} objects, {plain.mask.float().mean():.1%} of the image"
        )
        plain.overlay(tmp_path / "outline.png", outline=True)
        assert np.array_equal(visitor.shown("overlay"), np.array(Image.open(tmp_path / "outline.png")))

        reach("area (pixels)")
        for direction, downward in (("descending", True), ("ascending", False)):
            page.keyboard.press("Enter")
            assert page.locator("#objects th[aria-sort]").get_attribute("aria-sort") == direction
            shown = [int(text) for text in page.locator("#objects tbody td:nth-child(3)").all_inner_texts()]
            assert shown == sorted(table["area"].tolist(), reverse=downward)
        with table_file(tmp_path / "own.csv", 3) as write:
            write("drawn_nuclei.png", table)
        for kind, suffix in (("geojson", "geojson"), ("coco", "json"), ("labels", "tif")):
            plain.save_annotations(tmp_path / f"own.{suffix}", kind)
        for title, name, own in (
            ("Download label image", "drawn_nuclei_labels.tif", "own.tif"),
            ("Download outlines (GeoJSON)", "drawn_nuclei_geojson.geojson", "own.geojson"),
            ("Download outlines (COCO)", "drawn_nuclei_coco.json", "own.json"),
            ("Download table", "drawn_nuclei_objects.csv", "own.csv"),
        ):
            reach(title)
            with page.expect_download() as caught:
                page.keyboard.press("Enter")
            assert caught.value.suggested_filename == name
            assert Path(caught.value.path()).read_bytes() == (tmp_path / own).read_bytes()
        reach("Download all results")
        with page.expect_download() as caught:
            page.keyboard.press("Enter")
        with zipfile.ZipFile(caught.value.path()) as archive:
            kinds = ("coco.json", "geojson.geojson", "labels.tif", "mask.png", "overlay.png")
            expected = [f"{stem}/{stem}_{kind}" for stem in ("drawn_nuclei", "fewer_nuclei") for kind in kinds]
            assert sorted(archive.namelist()) == sorted([*expected, "counts.csv", "objects.csv"])
            labels = np.array(Image.open(io.BytesIO(archive.read("fewer_nuclei/fewer_nuclei_labels.tif"))))
            second = Predictor("nuclei", device="cpu")(tmp_path / other.file).instances()
            assert np.array_equal(labels, second.labels.numpy())
            assert archive.read("drawn_nuclei/drawn_nuclei_overlay.png") == (tmp_path / "outline.png").read_bytes()

        tree = page.locator("main").aria_snapshot()
        for part in ('heading "nuclei" [level=1]', 'list "Your images"', 'button "fewer_nuclei.png"', "- status:",
                     'radio "Outlines only" [checked]', 'region "Table of objects"', 'columnheader "mean intensity"',
                     'slider "range slider for How sure the model has to be', 'table "Classes and their colours"',
                     'rowheader "nucleus"'):  # fmt: skip
            assert part in tree, part
        assert "common." not in tree
        assert not {"logits", "argmax", "binary", "multiclass", "multilabel", "tensor", "inference"} & {*words(tree)}
        assert page.locator("html").get_attribute("lang")
        faint = page.evaluate(CONTRAST)
        assert faint == []
        visitor.page.close()


CONTRAST = """() => {
  const channels = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const found = [];
  const read = '.heading h1, .heading p, p.note, table th, table td, .strip .name, h2, [id^=save-]';
  for (const e of document.querySelectorAll(read)) {
    let ground = null, opacity = 1;
    for (let up = e; up; up = up.parentElement) {
      const style = getComputedStyle(up), paint = channels(style.backgroundColor);
      opacity *= Number(style.opacity);
      if (ground === null && (paint.length === 3 || paint[3] === 1)) ground = paint.slice(0, 3);
    }
    ground = ground ?? [255, 255, 255];
    const ink = channels(getComputedStyle(e).color).slice(0, 3).map((v, k) => v * opacity + ground[k] * (1 - opacity));
    const [dark, bright] = [light(ground), light(ink)].sort((a, b) => a - b), ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < 4.5) found.push([e.className || e.tagName, ratio]);
  }
  return found;
}"""
"""WCAG's ratio of text that the page itself has to what is behind it: lower than 4.5 is hard to read."""


def test_files_that_are_too_large_together_are_refused_and_the_next_are_taken(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    for k in range(3):
        (tmp_path / f"{k}.bmp").write_bytes(bytes(500_000))
    visitor.page.set_input_files("#file input[type=file]", [tmp_path / f"{k}.bmp" for k in range(3)])
    visitor.page.get_by_text(re.compile("together", re.IGNORECASE)).nth(1).wait_for()
    visitor.send(image(tmp_path))
    visitor.wait_for("#note", "segmented in")
