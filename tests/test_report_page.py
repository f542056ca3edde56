"""``report.html`` of a run: what it says, that it needs nothing else, and that it obeys no text."""

from __future__ import annotations

import csv
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, once
from PIL import Image
from trainings import TINY, train

import unetzoo
from unetzoo.cli import main
from unetzoo.evaluation import evaluate

EVIL = "<img src=x onerror=alert(1)>"


class Read(HTMLParser):
    """What a browser sees of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    train(nuclei, out, "--epochs", "2", "--lr", "0.01")
    return out


def test_scores_are_those_of_the_best_epoch_with_their_intervals(run: Path, nuclei: Path) -> None:
    """Of two images, drawn twice: a quarter of the draws is of one of them alone, so that their scores are the ends."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        best = max(csv.DictReader(stream), key=lambda row: float(row["dice"]))
    images = evaluate(run, nuclei, split="val").rows
    assert len(images) == 2
    text = page(run)
    for name in ("dice", "iou", "recall", "boundary_f"):
        low, high = sorted(float(row[name]) for row in images)
        cells = f"<tr><td>{name}</td><td>{float(best[name]):.4f}</td><td>{low:.3f} – {high:.3f}</td></tr>"
        assert cells in text


def test_the_worst_image_comes_first_and_none_twice(run: Path, nuclei: Path) -> None:
    images = sorted(evaluate(run, nuclei, split="val").rows, key=lambda row: float(row["dice"]))
    said = Read(page(run)).text
    shown = [f"{row['name']}   dice {float(row['dice']):.3f}" for row in images]
    assert said.index("Worst images") < said.index(shown[0]) < said.index(shown[1])
    assert "Best images" not in said
    assert all(said.count(line) == 1 for line in shown)


def test_images_are_ranked_by_what_the_run_is_judged_by(nuclei: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    train(nuclei, out, "--epochs", "2", "--lr", "0.01", "--monitor", "recall_per_image")
    images = sorted(evaluate(out, nuclei, split="val").rows, key=lambda row: float(row["recall"]))
    said = Read(page(out)).text
    shown = [f"{row['name']}   dice {float(row['dice']):.3f}   recall {float(row['recall']):.3f}" for row in images]
    assert "By recall. Each row: the image" in said
    assert said.index("Worst images") < said.index(shown[0]) < said.index(shown[1])


def test_all_that_a_reader_asks_is_there(run: Path) -> None:
    said = Read(page(run)).text
    for text in ("Curves", "Data", "Settings", "12 training and 2 validation images", "base_channels: 4", "torch",
                 "Python", "this call took", "all epochs are done (2)",
                 "one class against the background"):  # fmt: skip
        assert text in said


def test_settings_are_a_table_that_says_what_is_not_usual(run: Path) -> None:
    text = page(run)
    assert "<h1>unet trained on nuclei0: a</h1>" in text
    head, _, rest = text.partition("<h2>Settings</h2>")[2].partition("<details>")
    for name, value, usual in (
        *(("model.name", "unet", ""), ("model.loss", "bce + dice", ""), ("model.lr", "0.01", "0.001")),
        *(("trainer.max_epochs", "2", "30"), ("data.ratios", "[0.8, 0.1, 0.1]", "")),
        ("model.options.base_channels", "4", "–"),
    ):
        assert f"<tr><td>{name}</td><td>{value}</td><td>{usual}</td></tr>" in head
    assert "trainer.strategy" not in head
    assert "gradient_clip_val: 12.0" in rest
    assert "task: null  # here binary" in rest


def columns_that_are_described(page: str, title: str) -> set[str]:
    """Return the names in the first cells of a table of a page, which has this title."""
    rows = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(title)[2].partition("\n\n")[0]
    return {name for row in rows.splitlines() for name in re.findall("`([^`]+)`", row.split("|")[1] if row else "")}


def plain_columns(folder: Path) -> set[str]:
    """Return the columns of ``metrics.csv``, those of classes and of images as that of all."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        return {name.partition("/")[0].removesuffix("_per_image") for name in next(csv.reader(stream))}


def test_every_column_is_described(run: Path) -> None:
    described = columns_that_are_described("training.md", "| column | |\n")
    assert plain_columns(run) == described - {"object_ap", "objects_true"}


def test_a_page_needs_nothing_else(run: Path) -> None:
    for tag, attributes in Read(page(run)).tags:
        assert tag not in ("script", "link", "iframe", "a")
        assert (attributes.get("src") or "data:").startswith("data:")
        assert "href" not in attributes
    assert "default-src 'none'" in page(run)


def test_the_same_run_makes_the_same_page_but_for_the_time(run: Path, nuclei: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    train(nuclei, out, "--epochs", "2", "--lr", "0.01")
    one, other = (page(folder).partition("<h2>Time and place")[0] for folder in (run, out))
    assert one == other


def test_the_time_of_all_calls_is_kept(nuclei: Path, tmp_path: Path) -> None:
    out, seconds = tmp_path / "a", []
    train(nuclei, out, "--epochs", "1")
    before = page(out)
    assert "all calls took" not in before
    assert main(["train", "--resume", str(out), "--quiet"]) == 0  # has nothing to do
    assert page(out) == before
    assert main(["train", "--resume", str(out), "--epochs", "2", "--quiet"]) == 0
    assert "all epochs are done (2)" in page(out)
    for text in (before, page(out)):
        seconds += re.findall(r"<!-- seconds of all calls: (\d+\.\d) -->", text)
    assert len(seconds) == 2
    assert float(seconds[1]) > float(seconds[0]) > 0
    assert "all calls took" in Read(page(out)).text
    (out / "report.html").unlink()
    assert main(["train", "--resume", str(out), "--quiet"]) == 0
    assert "all epochs are done (2)" in page(out)


def test_texts_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    """Names of images, of classes and of the folder, which are anybody's."""
    generator = np.random.default_rng(0)
    data = tmp_path / "a<b onclick=b>"
    for part in ("images", "masks"):
        (data / part).mkdir(parents=True)
    for k in range(12):
        mask = np.zeros((32, 32), np.uint8)
        mask[4:20, 4 + k : 12 + k] = 1
        noise = generator.integers(0, 40, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise + 90 * mask[..., None]).save(data / "images" / f"{EVIL}{k}.png")
        Image.fromarray(mask).save(data / "masks" / f"{EVIL}{k}.png")
    names = ["--task", "multiclass", "--class-names", f'ground,cell & "{EVIL}"']
    words = once("--data", str(data), *TINY, "--epochs", "1", *names, "--quiet")
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 0
    seen = Read(page(tmp_path / "run"))
    assert f'cell & "{EVIL}"' in seen.text
    assert re.search(rf"{re.escape(EVIL)}\d+   dice", seen.text)
    assert {tag for tag, _ in seen.tags} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "h1",
            "h2",
            "p",
            "div",
            "img",
            "ul",
            "li",
            "pre",
            "details",
            "summary",
        ),
        *("table", "tr", "th", "td", "span", "i"),
    }
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)


def test_objects_are_judged_by_objects(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    for part in ("images", "instances"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for k in range(15):
        ids = np.zeros((32, 32), np.uint8)
        ids[4:14, 4:14], ids[4 : 10 + k, 15:25] = 1, 2
        Image.fromarray((ids > 0) * np.uint8(200)).save(tmp_path / "data" / "images" / f"{k}.png")
        Image.fromarray(ids).save(tmp_path / "data" / "instances" / f"{k}.png")
    train(tmp_path / "data", tmp_path / "run", "--epochs", "1")
    objects = {name for name in plain_columns(tmp_path / "run") if name.startswith("object")}
    known = columns_that_are_described("objects.md", "false negative (FN):\n\n| name | |\n")
    assert {name for name in objects if not re.fullmatch(r"object_ap_[6-9]\d", name)} <= known
    seen = Read(page(tmp_path / "run"))
    assert "objects, each told apart (instances)" in seen.text
    assert "neighbours differ in colour" in seen.text
    assert "object_ap_50" in seen.text
    with Image.open(tmp_path / "run" / "predictions" / "epoch_0001.png") as image:
        colours = {tuple(colour) for colour in np.asarray(image).reshape(-1, 3).tolist()}
    assert {(230, 25, 75), (60, 180, 75)} <= colours  # of the legend, and of rims


def test_intervals_are_over_groups_where_there_are(tmp_path: Path) -> None:
    """Four images in two groups, whose scores are the ends: a quarter of the draws is of one group alone."""
    folder, out, rng = tmp_path / "data", tmp_path / "a", np.random.default_rng(0)
    for k in range(10):
        mask = np.kron(rng.random((8, 8)) < 0.3 + 0.4 * (k % 4 < 2), np.ones((4, 4))).astype(np.uint8)
        noise = rng.integers(0, 90, (32, 32, 3), np.uint8)
        for part, pixels in (("images", noise + 150 * mask[..., None]), ("masks", 255 * mask)):
            place = folder / ("val" if k < 4 else "train") / part / f"{k // 2}_{k % 2}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place)
    train(folder, out, "--epochs", "2", "--lr", "0.01", "--group", r"^\d+")
    text = page(out)
    assert "The 2 groups of the 4 validation images, each with all of its images, were resampled" in text
    ends = []
    for k in (0, 1):
        for part in ("images", "masks"):
            (tmp_path / f"g{k}" / part).mkdir(parents=True)
            for path in (folder / "val" / part).glob(f"{k}_*"):
                shutil.copy(path, tmp_path / f"g{k}" / part)
        ends.append(evaluate(unetzoo.load(out / "best.safetensors"), tmp_path / f"g{k}").scores.to_dict()["dice"])
    low, high = sorted(ends)
    assert re.search(rf"<td>dice</td><td>[\d.]+</td><td>{low:.3f} – {high:.3f}</td>", text)
