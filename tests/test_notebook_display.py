"""What shows itself: images and tables of notebooks, short lines, and ``Prediction.show``."""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow
from torch import Tensor

import unetzoo
from unetzoo import data, drawing, images, markup, sheets
from unetzoo.objects import instances
from unetzoo.objects.separating import separable
from unetzoo.prediction import Prediction
from unetzoo.train.runs import Run

EVIL = "<script>alert('x')</script>\n\x1b[31m&"


def found(image: Tensor, mask: Tensor, task: str = "binary", classes: int = 1, **more: Any) -> Prediction:
    """Return a prediction of which everything is known."""
    names = more.pop("class_names", None)
    model = unetzoo.create("unet", base_channels=1, num_classes=classes, task=task, class_names=names)
    layers = mask.reshape(-1, *mask.shape[-2:])
    if task == "multiclass":
        layers = mask == torch.arange(classes)[:, None, None]
    return Prediction(layers.float(), mask, image, model.config, **more)


def pixels(png: bytes | Path) -> np.ndarray:
    with Image.open(png if isinstance(png, Path) else io.BytesIO(png)) as image:
        return np.asarray(image)


def overlaid(prediction: Prediction, folder: Path, **options: bool) -> np.ndarray:
    prediction.overlay(folder / "overlay.png", **options)
    return pixels(folder / "overlay.png")


def shapes(height: int, width: int) -> Prediction:
    image, mask = drawing.draw_shapes(height, width, seed=3)
    return found(image, mask, "multiclass", 5, class_names=drawing.CLASSES, name="a.png")


def colours(rows: np.ndarray) -> set[str]:
    return {"#" + bytes(colour).hex() for colour in rows.reshape(-1, 3)} & {*images.COLOURS}


# Images


def test_an_image_is_shown_beside_what_was_found(tmp_path: Path) -> None:
    prediction = shapes(200, 260)
    shown = pixels(prediction._repr_png_())
    gap = sheets.GAP
    tiles = shown[-200 - gap : -gap]
    assert (tiles[:, gap : gap + 260] == prediction.image.permute(1, 2, 0).numpy()).all()
    assert (tiles[:, -gap - 260 : -gap] == overlaid(prediction, tmp_path)).all()
    there = {images.COLOURS[k - 1] for k in prediction.mask.unique().tolist() if k}
    assert 0 < len(there) < 4
    assert colours(shown[: -200 - gap]) == there  # the legend


def test_objects_are_shown_as_overlays_have_them(tmp_path: Path) -> None:
    if not separable(1.0):
        pytest.skip("scikit-image is not there: objects are not told apart")
    image, mask = drawing.draw_nuclei(240, 200, seed=2)
    prediction = found(image, mask.byte(), split=1.5)
    shown = pixels(prediction._repr_png_())
    gap = sheets.GAP
    right = shown[-240 - gap : -gap, -gap - 200 : -gap]
    assert (right == overlaid(prediction, tmp_path)).all()
    assert len(colours(shown[: -240 - gap])) == len(images.COLOURS)


def test_small_images_are_enlarged_and_large_ones_made_smaller(tmp_path: Path) -> None:
    small, gap = shapes(60, 64), sheets.GAP
    shown = pixels(small._repr_png_())
    assert (shown[-180 - gap : -gap, -gap - 192 : -gap] == np.kron(overlaid(small, tmp_path), np.ones((3, 3, 1)))).all()
    large = found(torch.full((3, 400, 1200), 100, dtype=torch.uint8), torch.zeros(400, 1200, dtype=torch.uint8))
    large.mask[100:300, 300:900] = 1
    shown = pixels(large._repr_png_())
    assert shown.shape[1] == 2 * 480 + 3 * gap
    right = shown[-160 - gap : -gap, -gap - 480 : -gap]
    assert (right[:, :110] == 100).all()
    assert (right[50:110, 130:350] == right[80, 240]).all()
    assert (right[80, 240] != 100).any()


def test_of_many_classes_some_are_said() -> None:
    mask = torch.zeros(40, 50, dtype=torch.int32)
    mask[:10], mask[10:12, :25] = 7, 250
    prediction = found(torch.zeros(3, 40, 50, dtype=torch.uint8), mask, "multiclass", 300)
    assert repr(prediction).startswith("Prediction(40 × 50: background 72.5%, class_7 25.0%, class_250 2.5%, ")
    assert repr(prediction).endswith(" and 294 more)")
    assert pixels(prediction._repr_png_()).shape[0] < 400  # the legend has two of them


# Showing


def bare(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Take away what a screen is known by, and put these there."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_without_a_screen_a_file_is_named(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare(monkeypatch, **({} if system == "linux" else {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}))
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(ImageShow, "show", lambda *_: pytest.fail("nobody sees it"))
    prediction = shapes(60, 64)
    assert prediction.show() is None
    path = Path(capsys.readouterr().out.rstrip("\n"))
    assert (path.parent, path.suffix) == (tmp_path, ".png")
    assert path.read_bytes() == prediction._repr_png_()


@pytest.mark.parametrize("viewer", [True, False])
@pytest.mark.parametrize(("system", "variable"), [("linux", "DISPLAY"), ("linux", "WAYLAND_DISPLAY"), ("darwin", None)])
def test_on_a_screen_pillow_s_viewer_has_it(
    system: str, variable: str | None, viewer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bare(monkeypatch, **({} if variable is None else {variable: ":0"}))
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[Any] = []
    monkeypatch.setattr(ImageShow, "show", lambda image, title: seen.append((image, title)) or viewer)
    prediction = shapes(200, 260)
    prediction.show(outline=True)
    ((image, title),) = seen
    assert title == "a.png"
    assert (np.asarray(image)[-204:-4, -264:-4] == overlaid(prediction, tmp_path, outline=True)).all()
    assert bool(capsys.readouterr().out) == (not viewer)  # without any viewer it is a file


def test_a_terminal_s_ipython_is_no_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That a kernel displays it, ``test_notebooks.py`` shows."""
    bare(monkeypatch)
    shell = SimpleNamespace(config={"TerminalIPythonApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    shapes(60, 64).show()
    path = Path(capsys.readouterr().out.rstrip("\n"))
    assert path.suffix == ".png"
    path.unlink()


# Tables


class Reader(HTMLParser):
    """Reads tables, and what might do harm."""

    VOID = ("img", "br", "polygon", "line", "meta")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.style = ""
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += text
        elif self.open and self.open[-1] == "style":
            self.style += text
        self.text += text


def harmless(shown: Any) -> Reader:
    """Read what a notebook shows of something, if nothing in it runs, is fetched, or is seen on one ground alone."""
    read = Reader(shown._repr_html_())
    assert not read.open
    assert not {"script", "iframe", "object", "link", "meta", "a", "form"} & {*read.tags}
    for name, value in read.attributes:
        assert not name.startswith("on"), name
        assert name != "src" or (value or "").startswith("data:image/"), value
    # All but grey, which is seen on white and on black, is of the notebook.
    named = re.findall(r"(?:color|background|fill): ?([^;}]+)", read.style)
    assert set(named) == {"currentColor"}
    assert set(re.findall(r"#\w+|rgba?\([^)]*\)", read.style)) <= {
        "rgba(128, 128, 128, 0.4)", "rgba(128, 128, 128, 0.35)"
    }  # fmt: skip
    assert all(".unetzoo" in rule for rule in read.style.split("}") if rule.strip())  # the page's own stay as they are
    return read


def one_line(shown: Any) -> str:
    said = repr(shown)
    assert "\n" not in said
    assert "tensor(" not in said
    assert len(said) < 250
    return said


def test_objects() -> None:
    pytest.importorskip("scipy", reason="objects are found by SciPy")
    mask = torch.zeros(30, 90, dtype=torch.uint8)
    for k in range(12):
        mask[2 : 4 + k, 7 * k : 7 * k + 5] = 1 + k % 2
    several = instances(mask, "multiclass", 3)
    assert one_line(several) == "Instances(12 objects (class_1 6, class_2 6) in 30 × 90)"
    read = harmless(several)
    (table,) = read.tables
    assert len(table) == 11
    assert table[0][:4] == ["id", "class", "class_name", "area"]
    assert [row[3] for row in table[1:]] == [str(5 * (2 + k)) for k in range(10)]
    assert [row[8] for row in table[1:]] == [f"{7 * k + 2.5:.2f}" for k in range(10)]  # x
    assert "… and 2 more" in read.text
    none = instances(torch.zeros(4, 5, dtype=torch.uint8), "binary", 1)
    assert one_line(none) == "Instances(0 objects in 4 × 5)"
    assert harmless(none).tables == []
    single = instances(torch.ones(4, 5, dtype=torch.uint8), "binary", 1)
    assert one_line(single) == "Instances(1 object in 4 × 5)"


def test_what_there_is_to_know_of_a_name() -> None:
    info = unetzoo.model_info("unetpp_resnet18")
    assert one_line(info) == "ModelInfo('unetpp_resnet18': UNet++ on ResNet-18, 15,665,937 parameters)"
    facts, options = harmless(info).tables
    assert ["parameters", "15,665,937"] in facts
    assert [row[:2] for row in options[1:]] == [[name, repr(default)] for name, default in info.options.items()]
    assert all(row[2] for row in options[1:])
    odd = replace(info, summary=EVIL, options={EVIL: EVIL}, meanings={EVIL: EVIL})
    assert "alert('x')" in harmless(odd).text
    one_line(odd)


def test_networks_side_by_side() -> None:
    compared = unetzoo.compare(["unet", "resunet18", "unetpp_resnet18", "unet3p_lite"])
    assert one_line(compared) == "Comparison(unet, resunet18, unetpp_resnet18 and 1 more; 256 × 256 pixels)"
    (table,) = harmless(compared).tables
    rows = list(csv.DictReader(io.StringIO(compared.render("csv"))))
    assert [row[0] for row in table[1:]] == [row["name"] for row in rows]
    assert [row[1] for row in table[1:]] == [f"{int(row['parameters']):,}" for row in rows]
    odd = replace(compared, rows=(replace(compared.rows[0], name=EVIL),))
    assert "alert('x')" in harmless(odd).text


def history(folder: Path, epochs: int, best: int) -> Path:
    folder.mkdir(parents=True)
    rows = [f"{k},{2 / k},{3 / k if k > 1 else ''},0.{k},,{best}" for k in range(1, epochs + 1)]
    text = "\n".join(["epoch,loss,val_loss,dice,object_ap_50,best", *rows, ""])
    (folder / "metrics.csv").write_text(text, encoding="utf-8")
    (folder / "config.yaml").write_text("", encoding="utf-8")
    return folder


def test_a_run(tmp_path: Path) -> None:
    run = Run(history(tmp_path / "<b>run", 7, 6))
    one_line(run)
    read = harmless(run)
    assert "validation Dice 0.6000 in epoch 6 of 7" in read.text
    (table,) = read.tables
    assert table[0] == ["epoch", "loss", "val_loss", "dice"]  # columns that have values
    assert [row[0] for row in table[1:]] == ["3", "4", "5", "6", "7"]
    assert table[1] == ["3", "0.6667", "1", "0.3"]
    assert "img" not in read.tags
    images.write_png(torch.zeros(3, 4, 5, dtype=torch.uint8), run.folder / "curves.png")
    (run.folder / "report.html").write_text("", encoding="utf-8")
    read = harmless(run)
    assert read.tags.count("img") == 1
    assert "<b>run" in read.text
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("", encoding="utf-8")
    assert "no epoch has been validated yet" in harmless(Run(tmp_path / "new")).text


def test_folds(tmp_path: Path) -> None:
    from unetzoo.saving.folds import fold_folder

    for fold in (1, 2):
        history(fold_folder(tmp_path, fold), 2 + fold, 1 + fold)
    run = Run(tmp_path)
    (table,) = harmless(run).tables
    assert [row[1:] for row in table] == [["Dice", "best epoch"], ["0.2", "2"], ["0.3", "3"]]


def test_a_data_set(nuclei: Path) -> None:
    report = data.check(nuclei, data.labels_of(nuclei))
    assert re.fullmatch(r"DataReport\('.*': 12 train, 2 val, 1 test; no problems(, \d+ warnings?)?\)", one_line(report))
    read = harmless(report)
    assert read.tags.count("img") == 6
    assert len(report.examples) > 6
    assert read.tables[0] == report.tables()[0]
    assert "unetzoo.fit(" in read.text
    odd = replace(report, source=EVIL, problems=(f"{EVIL}: no",), warnings=(EVIL,), examples=())
    read = harmless(odd)
    assert "alert('x')" in read.text
    assert "\x1b" not in read.text
    one_line(odd)


def test_a_page_keeps_its_own_style() -> None:
    page = markup.document("a", [])
    assert ".unetzoo" not in page
    assert "Content-Security-Policy" in page
