"""What ``unetzoo data check`` says, the page that it writes, and previews of any augmentation."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import save
from PIL import Image

import unetzoo
from unetzoo.cli import main, parser
from unetzoo.data import DataReport, Labels, check, find_samples, labels_of, looks
from unetzoo.data.histograms import histogram
from unetzoo.errors import WriteError
from unetzoo.printing import said_by_kind
from unetzoo.train.flags import FLAGS

SIZE = (40, 48)
BINARY = Labels()


def smooth(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return an image of soft stains, as photographs have: uint8 (H, W, 3)."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(grid).resize(size[::-1], Image.Resampling.BICUBIC))


def discs(seed: int, count: int = 4) -> np.ndarray:
    """Return ids of discs, some of which touch: (H, W) uint8."""
    generator, ids = np.random.default_rng(seed), np.zeros(SIZE, np.uint8)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for k in range(count):
        top, left = generator.integers(5, 35), generator.integers(5, 43)
        ids[(y - top) ** 2 + (x - left) ** 2 <= 25] = k + 1
    return ids


def make(folder: Path, count: int = 10, *, ids: bool = False) -> Path:
    for k in range(count):
        save(smooth(k), folder / "images" / f"p{k}.png")
        save(discs(k) if ids else discs(k) > 0, folder / "masks" / f"p{k}.png")
    return folder


def splits(folder: Path, count: int = 3) -> Path:
    for number, split in enumerate(("train", "val", "test")):
        for k in range(count):
            save(smooth(10 * number + k), folder / split / "images" / f"{split}{k}.png")
            save(discs(k) > 0, folder / split / "masks" / f"{split}{k}.png")
    return folder


# What is said


def test_problems_of_a_kind_are_one_line() -> None:
    sentences = [f"'masks/{k}.png' is {k + 9}×8 pixels, but its image is 8×8" for k in range(222)]
    others = ["'a.png' is empty", "'b.png' is empty"]
    said = said_by_kind([*sentences, *others], "--json lists all")
    named = ", ".join(f"'masks/{k}.png'" for k in range(1, 10))
    assert said == [
        f"{sentences[0]}; and 221 others of this kind: {named}, …; --json lists all",
        "'a.png' is empty; and 1 other: 'b.png'",
    ]
    assert said_by_kind(sentences[:10], "all") == [f"{sentences[0]}; and 9 others of this kind: {named}"]
    assert said_by_kind([], "") == []


def test_of_one_file_the_places_are_named() -> None:
    said = said_by_kind([f"a.json: annotation {k}: no corners" for k in range(3)], "")
    assert said == ["a.json: annotation 0: no corners; and 2 others of this kind: annotation 1, annotation 2"]


def test_of_many_kinds_some_are_said() -> None:
    said = said_by_kind([f"{'x' * (k + 1)} is wrong" for k in range(33)], "see all")
    assert len(said) == 21
    assert said[-1] == "… and 13 more, of other kinds; see all"


def test_the_page_of_a_folder_with_many_problems_is_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(30):
        save(np.zeros((8, 8), np.uint8), tmp_path / "images" / f"{k:02}.png")
        save(np.zeros((8, 9 + k), np.uint8), tmp_path / "masks" / f"{k:02}.png")
    assert main(["data", "check", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert out.count("its image is 8×8") == 1
    assert "and 29 others of this kind" in out
    assert "'unetzoo data check --json' lists all" in out
    assert "train with" not in out


def test_classes_that_never_occur_are_one_line_a_split(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for k in range(2):
            save(smooth(k + len(split)), tmp_path / split / "images" / f"{k}.png")
            save(np.full(SIZE, {"train": 3, "val": 0}.get(split, 4), np.uint8), tmp_path / split / "masks" / f"{k}.png")
    report = check(tmp_path, Labels(task="multiclass", num_classes=5, class_names=tuple("abcde")))
    assert [text for text in report.warnings if "never" in text] == [
        "'a', 'b', 'c', 'e' never occur in train",
        "'b', 'c', 'd', 'e' never occur in val",
        "'a', 'b', 'c', 'd' never occur in test",
    ]
    many = check(tmp_path, Labels(task="multiclass", num_classes=150))
    (said,) = [text for text in many.warnings if "never" in text and "train" in text]
    assert "and 129 more never occur in train" in said
    assert len(said) < 500


def test_stacks_are_counted(tmp_path: Path) -> None:
    for k in range(4):
        for part in ("images", "masks"):
            (tmp_path / part).mkdir(exist_ok=True)
            stack = np.stack(
                [smooth(9 * k + z)[..., 0] if part == "images" else discs(z) > 0 for z in range(2 + k % 2)]
            )
            tifffile.imwrite(tmp_path / part / f"{k}.tif", np.uint8(stack) * (1 if part == "images" else 255),
                             photometric="minisblack", metadata={"axes": "ZYX"})  # fmt: skip
    report = check(tmp_path, Labels(planes="split"))
    assert not report.problems
    assert report.stacks == {2: 2, 3: 2}
    assert sum(report.counts.values()) == 10
    assert "files with several planes: 2 (2), 3 (2); planes='split'" in str(report)


# Images that occur twice


def test_equal_pixels_are_found_in_another_format(tmp_path: Path) -> None:
    source = splits(tmp_path)
    save(smooth(0), source / "val" / "images" / "val0.png")
    (source / "test" / "images" / "test1.png").unlink()
    tifffile.imwrite(source / "test" / "images" / "test1.tif", smooth(0), photometric="rgb")
    report = check(source, BINARY)
    (said,) = [text for text in report.warnings if "image" in text]
    assert said.startswith(
        "the same image is 'train0' in train and 'val0' in val; 'train0' in train and 'test1' in test"
    )
    quick = check(source, BINARY, closely=False)
    assert [text for text in quick.warnings if "image" in text] == [said]


def test_images_of_a_single_colour_are_no_duplicates(tmp_path: Path) -> None:
    source = splits(tmp_path)
    for split in ("train", "val", "test"):
        save(np.full((*SIZE, 3), 7, np.uint8), source / split / "images" / f"{split}0.png")
    assert not [text for text in check(source, BINARY).warnings if "same" in text or "like" in text]


def test_images_that_look_alike_are_one_line(tmp_path: Path) -> None:
    """Smaller, brighter and in JPEG; another image of the same split is not compared."""
    for split, seed in (("train", 0), ("val", 50), ("test", 90)):
        for k in range(8):
            image, mask = Image.fromarray(smooth(seed + k, (160, 192))), Image.fromarray(discs(k) > 0)
            if split == "val" and k < 7:
                image = Image.fromarray(smooth(k, (160, 192))).resize((130, 100)).point(lambda value: value * 0.8 + 20)
            (tmp_path / split / "images").mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / split / "images" / f"{split}{k}.jpg", quality=70)
            save(np.asarray(mask.resize(image.size)), tmp_path / split / "masks" / f"{split}{k}.png")
    (said,) = [text for text in check(tmp_path, BINARY).warnings if "look" in text]
    assert said.startswith("7 images look like one of another split")
    assert "64 and 1120 bits: 'train0' in train and 'val0' in val; 'train1' in train and 'val1' in val; " in said
    assert "; and 2 more: look at them" in said


def dhash(array: np.ndarray) -> int:
    """Return the difference hash as imagehash defines it, of means of fields instead of Lanczos' interpolation."""
    grey = array.astype(np.float64).mean(2)
    fields = grey.reshape(8, grey.shape[0] // 8, 9, grey.shape[1] // 9).mean((1, 3))
    bits = [str(int(right > left)) for row in fields for left, right in itertools.pairwise(row)]
    return int("".join(bits), 2)


@pytest.mark.parametrize("seed", range(4))
def test_the_hash_is_the_difference_hash(seed: int) -> None:
    array = smooth(seed, (64, 72))
    look = looks.look_of(torch.from_numpy(array.copy()).permute(2, 0, 1))
    assert look.coarse == dhash(array)
    assert len(look.fine) * 8 == 1120


def test_buckets_find_what_comparing_all_finds() -> None:
    generator = np.random.default_rng(0)
    first = [int(number) for number in generator.integers(0, 2**63, 300)]
    near = [number ^ sum(1 << int(bit) for bit in generator.choice(64, 1 + k % 5, replace=False))
            for k, number in enumerate(first)]  # fmt: skip
    split = [(split, f"{split} {k}".encode(), looks.Look(number, b"\xff" * 140))
             for split, numbers in (("train", first), ("val", near)) for k, number in enumerate(numbers)]  # fmt: skip
    pairs, left_out = looks.alike(split)
    wanted = {300 + k for k, number in enumerate(near) if any((number ^ other).bit_count() <= 3 for other in first)}
    assert {other for _, other in pairs} == wanted
    assert len(wanted) > 150
    assert left_out == 0


def test_a_flood_of_one_hash_is_left_out_and_said() -> None:
    flood = [(split, f"{split}{k}".encode(), looks.Look(5, b"\0" * 140)) for split in ("a", "b") for k in range(300)]
    assert looks.alike(flood) == ([], 600)
    assert looks.alike([one for one in flood if one[0] == "a"]) == ([], 0)


def test_retinas_are_not_alike_but_their_copies_are(shared_data: Path) -> None:
    """All retinas look alike to the coarse hash."""
    found, copies = [], []
    for path in sorted((shared_data / "vessels" / "images").iterdir()):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((image.width // 2, image.height // 2))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=50)
        for array, kept, split in ((small, found, path.name), (Image.open(file), copies, "copy")):
            tensor = torch.from_numpy(np.array(array)).permute(2, 0, 1)
            kept.append((split, looks.digest_of(tensor), looks.look_of(tensor)))
    near = [(a, b) for a in range(20) for b in range(a) if (found[a][2].coarse ^ found[b][2].coarse).bit_count() <= 3]
    assert len(near) > 10
    assert looks.alike(found) == ([], 0)
    assert looks.alike([*found, *copies]) == ([(k, 20 + k) for k in range(20)], 0)


# Objects


def test_objects_are_those_of_scikit_image(tmp_path: Path) -> None:
    measure = pytest.importorskip("skimage.measure")
    source = make(tmp_path)
    report = check(source, BINARY)
    for split, samples in find_samples(source, BINARY).items():
        regions = [measure.regionprops(measure.label(np.array(Image.open(sample.mask)), connectivity=2))
                   for sample in samples]  # fmt: skip
        objects = report.splits[split].objects
        assert objects.how == "connected components"
        assert objects.images == len(samples)
        assert objects.total == sum(map(len, regions))
        assert objects.most == max(map(len, regions))
        assert objects.median == np.median([*map(len, regions)])
        assert objects.area == np.median([region.area for found in regions for region in found])
        assert objects.touching is None


def test_classes_make_objects_of_their_own(tmp_path: Path) -> None:
    measure = pytest.importorskip("skimage.measure")
    masks = {f"p{k}": discs(k) % 3 for k in range(10)}
    for name, mask in masks.items():
        save(smooth(len(name)), tmp_path / "images" / f"{name}.png")
        save(mask, tmp_path / "masks" / f"{name}.png")
    report = check(tmp_path, Labels(task="multiclass", num_classes=3))
    total = sum(measure.label(mask, background=0, connectivity=2).max() for mask in masks.values())
    assert sum(split.objects.total for split in report.splits.values()) == total


def touching(ids: np.ndarray) -> int:
    """Return how many objects have a neighbour among the eight around one of their pixels that is another."""
    found = set()
    for (y, x), number in np.ndenumerate(ids):
        around = ids[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        if number and ((around != 0) & (around != number)).any():
            found.add(number)
    return len(found)


def test_ids_tell_objects_apart_and_which_of_them_touch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)  # not needed
    source = make(tmp_path, ids=True)
    report = check(source, Labels(foreground="any"))
    every = [discs(k) for k in range(10)]
    objects = [split.objects for split in report.splits.values()]
    assert {one.how for one in objects} == {"told apart by the masks"}
    assert sum(one.total for one in objects) == sum(len(np.unique(ids)) - 1 for ids in every)
    assert sum(one.touching for one in objects) == sum(map(touching, every)) > 4
    assert "objects: told apart by the masks; counted in 10 of 10 images" in str(report)


def test_drawn_objects_are_counted_by_themselves(tmp_path: Path) -> None:
    """Two that touch, and one that lies alone; the classes that do not count are left out."""
    boxes = ["0 0 0 .5 0 .5 .5 0 .5", "0 .5 0 1 0 1 .5 .5 .5", "0 .1 .7 .3 .7 .3 .9 .1 .9"]
    for k in range(10):
        save(smooth(k), tmp_path / "images" / f"p{k}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / f"p{k}.txt").write_text("\n".join(boxes), encoding="utf-8")
    objects = check(tmp_path, BINARY).splits["train"].objects
    assert (objects.median, objects.most) == (3, 3)
    assert objects.touching == 2 * objects.images
    assert objects.area == SIZE[0] * SIZE[1] / 4


def test_without_scipy_it_is_said_that_objects_were_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    report = check(make(tmp_path), BINARY)
    assert {split.objects for split in report.splits.values()} == {None}
    assert "pip install 'unetzoo[objects]'" in str(report)


# The command that follows


def settings_of(command: str) -> dict[str, Any]:
    """Return what ``unetzoo train`` understands of a command."""
    options, rest = parser().parse_known_args(shlex.split(command)[1:])
    assert not rest or rest[0].startswith("--data.")
    found = {flag.name: getattr(options, flag.name) for flag in FLAGS}
    found |= {word.removeprefix("--data."): text for word, text in zip(rest[::2], rest[1::2], strict=True)}
    (found["data"],) = found["data"]
    return {name: str(value) for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("labels", "options", "needed"),
    [
        ({}, {}, {}),
        ({"ignore": -1}, {}, {"ignore": "-1"}),
        ({"foreground": "any"}, {}, {"foreground": "any"}),
        ({"masks": "masks/{name}.png"}, {}, {"masks": "masks/{name}.png"}),
        ({"class_names": ("a cell",)}, {}, {"class_names": "a cell"}),
        ({"class_names": ("one, two",)}, {}, {"class_names": '["one, two"]'}),
        ({"task": "multiclass", "num_classes": 3}, {}, {"task": "multiclass", "num_classes": "3"}),
        (
            {"task": "multiclass", "num_classes": 2, "class_names": ("bg", "it's")},
            {"seed": 3, "group": r"p(\d)", "crop_size": 32},
            {"task": "multiclass", "class_names": "bg,it's", "seed": "3", "group": r"p(\d)", "crop_size": "32"},
        ),
        (
            {"colours": ("#000000", "#ffffff")},
            {"ratios": (0.5, 0.25, 0.25), "crop_size": (16, 32)},
            {"colours": "#000000,#ffffff", "ratios": "[0.5, 0.25, 0.25]", "crop_size": "(16, 32)"},
        ),
    ],
)
def test_the_command_has_the_flags_that_are_needed(
    tmp_path: Path, labels: dict[str, Any], options: dict[str, Any], needed: dict[str, str]
) -> None:
    folder = tmp_path / "my 'cells' & more"
    for k in range(10):
        save(smooth(k), folder / "images" / f"p{k}.png")
        save(np.uint8(discs(k) > 0) if labels.get("task") else np.uint8(discs(k) > 0) * 255,
             folder / "masks" / f"p{k}.png")  # fmt: skip
    if "colours" in labels:
        for path in (folder / "masks").iterdir():
            save(np.array(Image.open(path).convert("RGB")), path)
    report = check(folder, Labels(**labels), **options)
    assert not report.problems
    assert str(report).splitlines()[-1] == report.command
    assert report.to_dict()["command"] == report.command
    found = settings_of(report.command)
    assert found.pop("model") == "resunet18"
    assert found.pop("data") == str(folder)
    assert found == needed
    call = eval(report.call, {"unetzoo": SimpleNamespace(fit=lambda *names, **given: (names, given))})
    assert call[0] == ("resunet18",)
    assert call[1].pop("data") == str(folder)
    training = {name: call[1].pop(name) for name in ("ratios", "seed", "group", "crop_size") if name in call[1]}
    assert labels_of(folder, **call[1]) == report.labels
    assert training == {name: value for name, value in options.items() if name in training}
    shown = report._repr_html_()
    assert "unetzoo.fit(" in shown
    assert "unetzoo train" not in shown


def test_what_a_folder_says_needs_no_flag(tmp_path: Path) -> None:
    for name in ("cell", "rim"):
        for k in range(10):
            save(smooth(k), tmp_path / "images" / f"p{k}.png")
            save(discs(k) > 0, tmp_path / "masks" / name / f"p{k}.png")
    report = check(tmp_path, labels_of(tmp_path, task="multilabel"))
    assert settings_of(report.command).keys() - {"model", "data"} == {"task"}
    coco = {
        "images": [{"id": k, "file_name": f"p{k}.png", "height": SIZE[0], "width": SIZE[1]} for k in range(10)],
        "categories": [{"id": k, "name": f"kind {k}"} for k in (1, 2)],
        "annotations": [
            {"id": k + 1, "image_id": k, "category_id": 1 + k % 2, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]}
            for k in range(10)
        ],
    }
    (tmp_path / "masks").rename(tmp_path.parent / "away")
    (tmp_path / "all.json").write_text(json.dumps(coco), encoding="utf-8")
    assert settings_of(check(tmp_path, labels_of(tmp_path)).command).keys() == {"model", "data"}
    picked = labels_of(tmp_path, classes=("kind 2",))
    assert settings_of(check(tmp_path, picked).command).keys() - {"model", "data"} == {"classes"}


@pytest.mark.usefixtures("no_curves")
def test_the_command_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "it's mine"
    for k in range(10):
        save(smooth(k), source / "images" / f"p{k}.png")
        save(discs(k) % 3, source / "masks" / f"p{k}.png")
    monkeypatch.chdir(tmp_path)
    report = check(source, labels_of(source, task="multiclass", class_names=("bg", "a, b", "c")), crop_size=16)
    words = shlex.split(report.command)
    small = ["--epochs", "1", "--trainer.accelerator", "cpu",
             "--data.workers", "0", "--quiet", "--out", "run"]  # fmt: skip
    assert main([*words[1:], *small]) == 0
    assert unetzoo.from_pretrained("run").config.class_names == ("bg", "a, b", "c")


# The page


class Reader(HTMLParser):
    """Keeps what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def pictures(self) -> Iterator[np.ndarray]:
        for tag, attributes in self.tags:
            if tag == "img":
                head, _, code = attributes["src"].partition(",")
                assert head == "data:image/jpeg;base64"
                yield np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))


def page_of(report: DataReport, path: Path) -> Reader:
    report.write_html(path)
    return Reader(path.read_text(encoding="utf-8"))


ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "pre", "ul", "li", "table", "tr", "th", "td"),
    *("div", "figure", "figcaption", "svg", "polygon", "text", "img", "span", "i", "br"),
}


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    report = check(make(tmp_path / "in", 40), BINARY)
    page = page_of(report, tmp_path / "report.html")
    assert {tag for tag, _ in page.tags} <= ALLOWED
    assert {tag for tag, _ in page.tags} >= {"svg", "img", "table", "pre"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "action")], tag
    assert "default-src 'none'" in str(page.tags)
    assert not re.search(r"https?:|url\(|@import", (tmp_path / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.texts)
    for words in (report.command, report.understood, "no problems", "objects in an image", "channel 2 ("):
        assert words in text
    assert len([*page.pictures()]) == 24
    splits = [example.split for example in report.examples]
    assert min(map(splits.count, ("train", "val", "test"))) >= 1


def test_masks_are_drawn_on_the_images(tmp_path: Path) -> None:
    mask = np.zeros((600, 400), bool)
    mask[100:300, 100:300] = True
    for k in range(10):
        save(np.random.default_rng(k).integers(90, 110, (600, 400), np.uint8), tmp_path / "images" / f"{k}.png")
        save(mask, tmp_path / "masks" / f"{k}.png")
    for shown in page_of(check(tmp_path, BINARY), tmp_path / "report.html").pictures():
        assert max(shown.shape) == 256
        colour = np.abs(shown.astype(int) - shown[..., ::-1].astype(int)).max(-1) > 40  # red is not blue
        small = np.array(Image.fromarray(mask).resize(shown.shape[1::-1], Image.Resampling.NEAREST))
        assert (colour & small).sum() / (colour | small).sum() > 0.95


def test_names_of_strangers_are_text(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'\u202e"
    source = tmp_path / "a <script>alert(2)<"
    for k in range(10):
        save(smooth(k), source / "images" / f"{evil}{k}.png")
        save(discs(k) % 3, source / "masks" / f"{evil}{k}.png")
    names = ("<b>", "</style><script>alert(3)</script>", "x")
    page = page_of(check(source, Labels(task="multiclass", num_classes=3, class_names=names)), tmp_path / "a.html")
    assert {tag for tag, _ in page.tags} <= ALLOWED
    assert all(attributes["src"].startswith("data:") for tag, attributes in page.tags if tag == "img")
    text = "".join(page.texts)
    assert "<img src=x onerror=alert(1)>&\"'\\u202e0" in text
    assert "</style><script>alert(3)</script>" in text
    save(np.full(SIZE, 9, np.uint8), source / "masks" / f"{evil}3.png")
    broken = page_of(check(source, Labels(task="multiclass", num_classes=3, class_names=names)), tmp_path / "b.html")
    assert {tag for tag, _ in broken.tags} <= ALLOWED
    assert "values outside the classes" in "".join(broken.texts)


def test_the_page_of_broken_data_shows_what_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(tmp_path / "in")
    (source / "images" / "p1.png").write_bytes(b"none")
    (source / "masks" / "p2.png").write_bytes(b"none")
    assert main(["data", "check", str(source), "--html", str(tmp_path / "report.html")]) == 2
    assert str(tmp_path / "report.html") in capsys.readouterr().err
    page = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len([*page.pictures()]) == 9
    assert "p1.png' cannot be read" in "".join(page.texts)
    assert "table" not in {tag for tag, _ in page.tags}


@pytest.mark.parametrize("kind", ["bands", "multilabel", "sixteen", "nodata"])
def test_pages_of_all_kinds_of_images(tmp_path: Path, kind: str) -> None:
    labels = Labels(task="multilabel", num_classes=2) if kind == "multilabel" else BINARY
    for k in range(10):
        path = tmp_path / "in" / "images" / f"{k}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = smooth(k)
        if kind == "bands":
            array = np.concatenate([array, array, array[..., :1]], 2).astype(np.int16)
        elif kind == "sixteen":
            array = array[..., 0].astype(np.uint16) * 256
        elif kind == "nodata":
            array = array[..., 0].astype(np.float32)
            array[3:9] = np.nan
        form = {"photometric": "minisblack"} | ({"planarconfig": "contig"} if kind == "bands" else {})
        tifffile.imwrite(path, array, **({"photometric": "rgb"} if kind == "multilabel" else form))
        for folder in ("a", "b") if kind == "multilabel" else ("",):
            save(discs(k) > 0, tmp_path / "in" / "masks" / folder / f"{k}.png")
    report = check(tmp_path / "in", labels)
    assert not report.problems
    shown = [*page_of(report, tmp_path / "report.html").pictures()]
    assert len(shown) == 10
    assert all(image.std() > 5 for image in shown)


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    report = check(make(tmp_path / "in", 5), BINARY)
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError):
        report.write_html(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_thousands_of_images_make_no_larger_page(tmp_path: Path) -> None:
    """Their masks lack all classes but two, and their names are long."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    save(smooth(0)[:8, :8], tmp_path / "a.png")
    save(np.eye(8, dtype=np.uint8), tmp_path / "m.png")
    rows = [f"a.png,m.png,{split}" for split in ("train", "val", "test") for _ in range(1)]
    (tmp_path / "l.csv").write_text("image,mask,split\n" + "\n".join(rows), encoding="utf-8")
    small = check(tmp_path / "l.csv", Labels(task="multiclass", num_classes=200))
    small.write_html(tmp_path / "small.html")
    for k in range(300):
        name = f"{k:03}" + "n" * 200 + ".png"
        (tmp_path / "images" / name).write_bytes((tmp_path / "a.png").read_bytes())
        (tmp_path / "masks" / name).write_bytes((tmp_path / "m.png").read_bytes())
    many = check(tmp_path, Labels(task="multiclass", num_classes=200))
    many.write_html(tmp_path / "many.html")
    assert len(many.examples) == 24
    assert (tmp_path / "many.html").stat().st_size < (tmp_path / "small.html").stat().st_size + 24 * 4000
    assert len(json.dumps(many.to_dict())) < 100_000


def test_the_rarest_class_is_shown(tmp_path: Path) -> None:
    for k in range(200):
        save(smooth(k, (8, 8)), tmp_path / "images" / f"{k:03}.png")
        mask = np.zeros((8, 8), np.uint8)
        mask[:4] = 1
        mask[0, 0] = 2 if k == 77 else 1
        save(mask, tmp_path / "masks" / f"{k:03}.png")
    report = check(tmp_path, Labels(task="multiclass", num_classes=3, class_names=("ground", "cell", "rare")))
    (example,) = [example for example in report.examples if "'rare'" in example.why]
    assert example.sample.name == "077"


# Histograms


def test_histograms_are_numpy_s(tmp_path: Path) -> None:
    source = make(tmp_path)
    found = {one.title.partition(" (")[0]: one for one in check(source, BINARY).histograms}
    sides = found["side of the images"]
    assert {name: sum(counts) for name, counts in sides.counts.items()} == {"height": 10, "width": 10}
    values = found["pixel values, sampled from each image"]
    stacked = np.concatenate([smooth(k).reshape(-1, 3) for k in range(10)])  # so few that all are taken
    for k in range(3):
        wanted, edges = np.histogram(stacked[:, k], 32, (stacked.min(), stacked.max()))
        np.testing.assert_allclose(values.edges, edges)
        assert values.counts[f"channel {k}"] == tuple(wanted)


def test_bins_hold_every_number() -> None:
    whole = histogram("n", {"a": [1, 2, 2, 70], "b": [5]}, whole=True)
    assert {name: sum(counts) for name, counts in whole.counts.items()} == {"a": 4, "b": 1}
    assert all(edge % 1 == 0.5 for edge in whole.edges)
    log = histogram("n", {"a": [1, 10, 100]}, log=True)
    np.testing.assert_allclose(np.divide(log.edges[1:], log.edges[:-1]), 100 ** (1 / 32))
    assert sum(log.counts["a"]) == 3
    assert sum(histogram("n", {"a": [7, 7]}).counts["a"]) == 2
    assert sum(histogram("n", {"a": [7, 7]}, log=True).counts["a"]) == 2
    assert histogram("n", {"a": [], "b": [np.nan]}) is None


# Previews

OWN = """
import pathlib
from torch import nn

pathlib.Path("imported").touch()


class Salt(nn.Module):
    def __init__(self, share: float = 0.2):
        super().__init__()
        self.share = share

    def forward(self, image, mask):
        image = image.clone()
        image[..., : int(image.shape[-1] * self.share)] = 1
        return image, mask
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a current folder with data, and with a module that nobody has imported."""
    make(tmp_path / "in")
    (tmp_path / "salty.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("unetzoo.plugins._NAMED", set())
    yield tmp_path
    sys.modules.pop("salty", None)


def preview(augmentation: str, *options: str) -> int:
    return main(["data", "preview", "in", "--augmentation", augmentation, "--count", "2", *options])


@pytest.mark.parametrize("text", [
    "[none, RandomHorizontalFlip: {p: 1.0}]",
    "- none\n- RandomHorizontalFlip: {p: 1.0}\n",
    "augmentation: [{RandomHorizontalFlip: {p: 1.0}}]\n",
    "data:\n  folder: elsewhere\n  augmentation:\n    - RandomHorizontalFlip: {p: 1.0}\nmodel: {name: unet}\n",
])  # fmt: skip
def test_previews_of_lists_and_files(here: Path, text: str) -> None:
    assert preview("none") == 0
    plain = np.asarray(Image.open("preview.png"))
    (here / "settings.yaml").write_text(text, encoding="utf-8")
    assert preview(text if "\n" not in text else "settings.yaml") == 0
    shown = np.asarray(Image.open("preview.png"))
    tiles = [(4, 4 + SIZE[1]), (4 + SIZE[1] + 4, 4 + 2 * SIZE[1] + 4)]
    for left, right in tiles:
        assert np.array_equal(shown[4:-4, left:right], plain[4:-4, left:right][:, ::-1])


def test_a_preview_of_a_class_of_one_s_own(here: Path) -> None:
    assert preview("salty.Salt") == 0
    shown = np.asarray(Image.open("preview.png"))
    (here / "own.yml").write_text("- salty.Salt: {share: 0.2}\n", encoding="utf-8")
    for options in (["--trust"], ["--import", "salty"]):
        Path("preview.png").unlink()
        assert preview("own.yml", *options) == 0
        assert np.array_equal(np.asarray(Image.open("preview.png")), shown)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- salty.Salt\n", r"names 'salty\.Salt'"),
        ("data: {augmentation: [{RandomApply: {transforms: [salty.Salt]}}]}", r"names 'salty\.Salt'"),
        ("- os.system: {command: touch made}\n", r"names 'os\.system'"),
        ("model: {name: unet}\n", r"neither a list"),
        ("", r"neither a list"),
        ("&a [*a]", r"refers to its own parts"),
        ("- [", r"cannot be read as YAML"),
        ("- storng\n", r"did you mean 'strong'"),
    ],
)
def test_files_that_are_not_followed(here: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    (here / "settings.yaml").write_text(text, encoding="utf-8")
    assert preview("settings.yaml") == 2
    assert re.search(said, capsys.readouterr().err)
    assert not {"imported", "made", "preview.png"} & {path.name for path in here.iterdir()}


@pytest.mark.parametrize("text", ["missing.yaml", "[", "[light", "nobody.Knows"])
def test_augmentations_that_are_none(here: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert preview(text) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (here / "preview.png").exists()
