"""Names that are no text, or that would drive a terminal: of classes, images, folders and groups."""

from __future__ import annotations

import csv
import json
import os
import re
import traceback
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unetzoo
from unetzoo import ConfigError, Predictor, errors
from unetzoo.cli import main
from unetzoo.files.writing import write_file
from unetzoo.printing import aligned, printable

pytestmark = pytest.mark.usefixtures("no_curves")

EVIL = "a\x1b[31m\nb\r\x9b2J\u202ec"
"""A class: escape sequences of 7 and 8 bits, ends of lines, and a turn of the direction of writing."""
LATIN = os.fsdecode(b"caf\xe9")
"""A name that Linux keeps, and that is no UTF-8."""


def is_tame(text: str, lines: bool = True) -> bool:
    allowed = "\n\t" if lines else ""
    return all(x in allowed or unicodedata.category(x) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for x in text)


@pytest.mark.parametrize("text", ["cell", "Zelle é ß 細胞", "می\u200cخواهم", "", "a\u00adb", "5 µm × 3", "x\u00a0y"])
def test_words_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_what_is_escaped_is_seen() -> None:
    assert printable(EVIL) == r"a\x1b[31m\nb\r\x9b2J\u202ec"
    assert printable(f"{LATIN}\ud800\u2028") == r"caf\xe9\ud800\u2028"
    assert printable("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"
    assert printable(Path("a\x07b")) == r"a\x07b"


def test_no_character_gets_through() -> None:
    every = "".join(map(chr, range(0x110000)))
    assert is_tame(printable(every).translate(dict.fromkeys(map(ord, "\u200c\u200d\u00ad"))), lines=False)


def test_a_table_s_columns_stand_under_one_another() -> None:
    lines = aligned([["class", "n"], [EVIL, "10"], ["b", "7"]]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a data set of names that are no text."""
    place = tmp_path_factory.mktemp("names")
    torch.manual_seed(0)
    network = unetzoo.create("unet", base_channels=4, class_names=(EVIL,))
    unetzoo.save(network, place / "m.safetensors")
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (place / "set" / part).mkdir(parents=True)
        for k in range(6):
            array = generator.integers(0, 256, (32, 32, 3), np.uint8)
            array = array if part == "images" else (array[..., 0] > 127) * np.uint8(255)
            try:
                Image.fromarray(array).save(place / "set" / part / f"{LATIN}{k}\n\x1b[31m.png")
            except (OSError, UnicodeError):
                pytest.skip("names of files are text here")
    (place / "set" / "README.md").write_text("of the set", encoding="utf-8")
    return place


@pytest.mark.parametrize(
    "command",
    [
        ["data", "check", "SET"],
        ["data", "check", "SET", "--json"],
        ["data", "preview", "SET", "--out", "OUT/p.png"],
        ["data", "convert", "SET", "OUT/converted"],
        ["evaluate", "MODEL", "--data", "SET", "--report", "OUT/report"],
        ["evaluate", "MODEL", "--data", "SET", "--objects"],
        ["evaluate", "MODEL", "--data", "SET", "--json"],
        ["calibrate", "MODEL", "--data", "SET", "--out", "OUT/t.json"],
        ["predict", "MODEL", "SET", "--out", "OUT/masks", "--overlay", "--write", "geojson,coco,labelme,yolo"],
        ["predict", "MODEL", "SET", "--out", "OUT/masks", "--json"],
        ["predict", "MODEL", "SET", "--out", f"OUT/{LATIN}"],
        ["info", "MODEL"],
        ["info", "MODEL", "--json"],
        ["verify", "MODEL"],
        ["demo", "--model", "MODEL", "--out", "OUT/o.png"],
        ["export", "MODEL", "OUT/m.pt2", "--images", "SET", "--size", "32", "32"],
        ["train", "--model", "unet", "--data", "SET", "--epochs", "1", "--out", f"OUT/{LATIN}", "--crop-size", "32"],
    ],
    ids=lambda command: " ".join(word for word in command if word.isascii()).replace("/", " "),
)
def test_a_terminal_is_not_driven(
    command: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if "--objects" in command or "--write" in command:
        pytest.importorskip("scipy", reason="objects need SciPy")
    if command[0] == "train":
        command = [*command, "--model.options", "{base_channels: 4}"]
    words = {"SET": folder / "set", "MODEL": folder / "m.safetensors"}
    command = [str(words.get(word, word)).replace("OUT", str(tmp_path)) for word in command]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert is_tame(printed.out)
    assert is_tame(printed.err.replace("\r", ""))
    if command[0] in ("info", "calibrate"):
        assert (r"a\u001b[31m\nb" if "--json" in command else r"a\x1b[31m\nb") in printed.out
    for path in tmp_path.rglob("*.*"):
        if path.suffix in (".json", ".csv", ".txt", ".md", ".yaml", ".geojson"):
            assert is_tame(path.read_text(encoding="utf-8"))


def test_names_in_json_are_those_of_the_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("scipy", reason="objects need SciPy")
    out = tmp_path / "masks"
    command = ["predict", str(folder / "m.safetensors"), str(folder / "set"), "--out", str(out), "--json"]
    assert main([*command, "--write", "coco"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    there = {path.name for path in (folder / "set" / "images").iterdir()}
    assert {Path(line["image"]).name for line in lines} == there
    record = json.loads((out / "coco" / "annotations.json").read_text(encoding="utf-8"))
    assert {entry["file_name"] for entry in record["images"]} == there
    assert [entry["name"] for entry in record["categories"]] == [EVIL]
    assert all((out / line["mask"]).is_file() for line in lines)
    assert main(command) == 0
    assert {json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()} == {"there already"}


def test_a_report_of_images_is_a_table_of_text(folder: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(folder / "m.safetensors"), "--data", str(folder / "set")]
    assert main([*command, "--report", str(tmp_path)]) == 0
    with (tmp_path / "per_image.csv").open(encoding="utf-8", newline="") as file:
        names = sorted(row["name"] for row in csv.DictReader(file))
    assert names == [rf"caf\xe9{k}\n\x1b[31m" for k in range(6)]


def test_errors_name_the_image_in_a_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / f"{LATIN}\n\x1b[31m.png").write_bytes(b"no image")
    command = ["predict", str(folder / "m.safetensors"), str(tmp_path), "--out", str(tmp_path / "masks")]
    assert main(command) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(r"caf\\xe9\\n\\x1b\[31m\.png: cannot be read", printed)
    assert is_tame(printed)


def test_a_card_from_a_stranger_is_printed_tame(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    unetzoo.save_pretrained(unetzoo.load(folder / "m.safetensors"), tmp_path / "model")
    (tmp_path / "model" / "README.md").write_bytes(b"# Model\n\x1b]0;title\x07 caf\xe9\r\x9b\n")
    assert main(["info", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert is_tame(printed)
    assert "# Model\n\\x1b]0;title\\x07 caf" in printed


def test_what_a_file_says_of_its_version_is_printed_tame(folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from unetzoo.saving.records import read_saved

    saved = read_saved(folder / "m.safetensors")
    assert is_tame(str(replace(saved, unetzoo_version="\x1b[2J", path=Path("\x1b.safetensors"))), lines=False)


@pytest.mark.parametrize("kind", [getattr(errors, name) for name in dir(errors) if name.endswith("Error")])
def test_errors_are_printed_tame(kind: type) -> None:
    error = kind("missing", f"{EVIL}:\n  - {LATIN}") if kind is errors.HubError else kind(f"{EVIL}:\n  - {LATIN}")
    assert str(error) == "a\\x1b[31m\nb\\r\\x9b2J\\u202ec:\n  - caf\\xe9"
    assert is_tame("".join(traceback.format_exception(error)))
    assert is_tame(repr(error), lines=False)


def test_a_prediction_is_printed_tame(folder: Path) -> None:
    found = Predictor(folder / "m.safetensors")(torch.zeros(3, 32, 32, dtype=torch.uint8))
    assert is_tame(repr(found), lines=False)


def test_a_folder_that_no_run_could_note_is_refused(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / LATIN
    place.symlink_to(folder / "set")
    with pytest.raises(ConfigError, match=r"caf\\xe9: .*UTF-8.*rename"):
        unetzoo.fit(model="unet", data=place, out=tmp_path / "run", epochs=1, quiet=True)
    assert not (tmp_path / "run").exists()


def test_text_that_is_none_is_written_as_an_escape(tmp_path: Path) -> None:
    write_file(tmp_path / "a.json", json.dumps(LATIN, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == LATIN
