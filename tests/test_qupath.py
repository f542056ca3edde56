"""The script for QuPath: its command is one that is there, and what it imports is what QuPath's reader takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import unetzoo
from unetzoo import drawing, images
from unetzoo.cli import main, parser

SCRIPT = ROOT / "examples" / "qupath" / "import_objects.groovy"


def command(folder: Path) -> list[str]:
    """Return the command that the script runs, its strings filled in as Groovy does."""
    (listed,) = re.findall(r"^def command = \[(.*)\]$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    words = re.findall(r'"([^"]*)"', listed)
    assert ", ".join(f'"{word}"' for word in words) == listed  # nothing else is in it
    return [re.sub(r"\$\{folder\}|\$folder", lambda _: str(folder), word) for word in words]


def imported_from(folder: Path, image: Path) -> Path:
    """Return where the script looks for the objects of an image."""
    assert '"${folder}_masks/geojson/${folder.relativize(image)}".replaceFirst(/\\.[^.]*$/, ".geojson")' in (
        SCRIPT.read_text(encoding="utf-8")
    )
    return Path(re.sub(r"\.[^.]*$", ".geojson", f"{folder}_masks/geojson/{image.relative_to(folder)}"))


def test_its_command_is_one_of_ours(tmp_path: Path) -> None:
    program, *words = command(tmp_path)
    assert program == "unetzoo"
    options = parser().parse_args(words)
    assert (options.model, options.images) == ("nuclei", [str(tmp_path)])
    assert (options.out, tuple(options.write)) == (f"{tmp_path}_masks", ("geojson",))


def test_what_it_imports_is_what_qupath_reads(tmp_path: Path) -> None:
    """By QuPath's PathObjectTypeAdapters.java, which makes annotations of whatever it does not know."""
    pytest.importorskip("scipy", reason="objects are found by SciPy")
    torch.manual_seed(1)
    model, folder = tmp_path / "any.safetensors", tmp_path / "my images"
    unetzoo.save(unetzoo.create("unet", base_channels=2, class_names=("cell",)), model)
    for name in ("a.png", "inside/b.c.png"):
        images.write_png(drawing.draw_nuclei(48, 48, seed=1)[0], folder / name)
    words = command(folder)[1:]
    words[words.index("nuclei")] = str(model)
    assert main(words) == 0
    for name in ("a.png", "inside/b.c.png"):
        read = json.loads(imported_from(folder, folder / name).read_text(encoding="utf-8"))
        assert set(read) == {"type", "features"}
        assert read["features"]
        for feature in read["features"]:
            assert set(feature) == {"type", "geometry", "properties"}  # an "id" would have to be a UUID
            assert feature["geometry"]["type"] in {"Polygon", "MultiPolygon"}
            properties = feature["properties"]
            assert properties["objectType"] == "detection"
            assert properties["classification"] == {"name": "cell"}
            assert 0 <= properties["measurements"]["score"] <= 1
            assert not {"name", "color", "isLocked", "isMissing", "metadata", "type", "object_type"} & set(properties)


@pytest.mark.slow
def test_groovy_compiles_it(tmp_path: Path) -> None:
    groovyc = shutil.which("groovyc")
    if groovyc is None:
        pytest.skip("there is no Groovy: apt-get install groovy")
    stub = tmp_path / "qupath" / "lib" / "io" / "PathIO.groovy"
    stub.parent.mkdir(parents=True)
    stub.write_text("package qupath.lib.io\nclass PathIO {}\n", encoding="utf-8")
    home = Path(os.path.realpath(shutil.which("java") or "java")).parents[1]
    for script, status in ((SCRIPT.read_text(encoding="utf-8"), 0), ("for (a in b ?: [null]) {", 1)):
        path = tmp_path / "script.groovy"
        path.write_text(script, encoding="utf-8")
        done = subprocess.run(
            [groovyc, "-d", str(tmp_path / "out"), str(stub), str(path)],
            capture_output=True, text=True, check=False, env={**os.environ, "JAVA_HOME": str(home)},
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
