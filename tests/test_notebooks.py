"""The notebooks of ``examples/notebooks/``: stripped, explained, and run by a kernel that reaches no network."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

from unetzoo import drawing

FOLDER = ROOT / "examples" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
MACHINE = re.compile(r"/(?:home|root|work|tmp|Users|content|mnt|opt|usr)/|[A-Z]:\\\\")
"""Paths of somebody's machine."""
LOCAL = """
import socket

connect = socket.socket.connect


def connect_here(self, address):
    if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"tests use no network: {address}")
    return connect(self, address)


def resolve(host, *_, **__):
    raise socket.gaierror(f"tests use no network: {host}")


socket.socket.connect = connect_here
socket.getaddrinfo = resolve
"""
"""What a kernel begins with."""


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[Any]]:
    """Run a notebook, texts of it replaced, in a folder of its own; return the cells with their outputs."""
    for package in ("ipykernel", "nbclient"):
        pytest.importorskip(package, reason=f"pip install {package}: notebooks are run by it")
    import nbclient
    import nbformat

    def called(name: str, **replaced: str) -> list[Any]:
        (tmp_path / "start").mkdir()
        (tmp_path / "start" / "sitecustomize.py").write_text(LOCAL, encoding="utf-8")
        text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
        for old, new in replaced.items():
            assert text.count(f"{old} = ") == 1
            text = re.sub(rf"{old} = [^\\]*", f"{old} = {new}", text)
        work = tmp_path / "work"
        work.mkdir()
        book = nbformat.reads(text, as_version=4)
        resources = {"metadata": {"path": str(work)}}
        client = nbclient.NotebookClient(book, timeout=600, startup_timeout=300, resources=resources)
        places = (tmp_path / "start", ROOT, *filter(None, [os.environ.get("PYTHONPATH")]))
        client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "IPYTHONDIR": str(tmp_path)})
        return book.cells

    return called


def printed(cells: list[Any]) -> str:
    return "".join(
        output["text"]
        for cell in cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )


def displayed(cells: list[Any], kind: str) -> list[str]:
    """Return what cells showed of a kind, "image/png" or "text/html"."""
    return [
        output["data"][kind] for cell in cells for output in cell.get("outputs", ()) if kind in output.get("data", ())
    ]


def size_of(png: str) -> tuple[int, int]:
    """Return width and height, as the header has them."""
    data = base64.b64decode(png)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


# As they lie there


@pytest.mark.parametrize("name", NAMES)
def test_they_are_stripped_of_outputs_and_machines(name: str) -> None:
    book = read(name)
    for cell in book["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        else:
            assert "attachments" not in cell
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    # What an editor adds says which Python it ran in.
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert set(book["metadata"]["language_info"]) == {"name"}
    assert not MACHINE.search((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def test_the_check_sees_outputs_and_paths() -> None:
    for text in ("/home/me/cells", "C:\\\\Users", "/content/x", "/Users/me/a"):
        assert MACHINE.search(json.dumps(text) if "\\" not in text else text), text
    assert not MACHINE.search(
        "https://colab.research.google.com/github/OWNER/unetzoo/blob/main/examples/notebooks/a.ipynb"
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_cell_is_explained_and_the_badge_leads_to_it(name: str) -> None:
    cells = read(name)["cells"]
    assert cells[0]["source"][0].startswith("# ")
    for before, cell in itertools.pairwise(cells):
        assert cell["cell_type"] == "markdown" or before["cell_type"] == "markdown", "".join(cell["source"])
    text = "".join(line for cell in cells for line in cell["source"])
    place = rf"\(https://colab.research.google.com/github/([\w-]+)/unetzoo/blob/main/examples/notebooks/{name}.ipynb\)"
    (owner,) = re.findall(place, "".join(cells[0]["source"]))
    assert set(re.findall(r"github(?:\.com)?/([\w-]+)/", text)) == {owner}
    for target in re.findall(r"\]\(([\w]+\.ipynb)\)", text):
        assert (FOLDER / target).is_file()
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"[{name}.ipynb]({name}.ipynb)" in readme


# As they run


def test_first_masks(run: Callable[..., list[Any]]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="objects are found by SciPy")
    cells = run("1_first_masks")
    drawn = ndimage.label(drawing.draw_nuclei(256, 320, seed=1)[1].numpy(), structure=[[1] * 3] * 3)[1]
    counted = int(re.search(r"^(\d+) nuclei, \d+ pixels", printed(cells), re.MULTILINE)[1])
    assert abs(counted - drawn) <= 2
    of_plate = [int(number) for number in re.findall(r"^well_\d\.png (\d+) nuclei$", printed(cells), re.MULTILINE)]
    true = [
        ndimage.label(drawing.draw_nuclei(160, 160, seed=k)[1].numpy(), structure=[[1] * 3] * 3)[1] for k in range(3)
    ]
    assert all(abs(one - other) <= 2 for one, other in zip(of_plate, true, strict=True))
    shown = displayed(cells, "image/png")
    assert len(shown) == 2  # one that shows itself, and one by show()
    assert all(2 * 320 <= width <= 1000 and height >= 256 for width, height in map(size_of, shown))
    (table,) = displayed(cells, "text/html")
    assert f"<b>{counted} objects, of " in table
    assert "['labels.tif', 'mask.png', 'nuclei.geojson', 'outlines.png']" in displayed(cells, "text/plain")


@pytest.mark.slow
def test_train_on_your_folder(run: Callable[..., list[Any]]) -> None:
    pytest.importorskip("pytorch_lightning", reason="trainings stand on it")
    cells = run("2_train_on_your_folder", STEPS="4")
    report, trained = displayed(cells, "text/html")
    assert "no problems" in report
    assert "epoch 4 of 4" in trained or re.search(r"epoch \d of \d", trained)
    assert "data:image/png;base64," in trained  # the curves
    assert len(displayed(cells, "image/png")) == 1
    assert re.search(r"dice", printed(cells))


def test_an_interrupted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the cell again, after an interrupt, must not get the unfinished run for a finished one."""
    text = (ROOT / "examples" / "notebooks" / "2_train_on_your_folder.ipynb").read_text(encoding="utf-8")
    (cell,) = (found for cell in json.loads(text)["cells"] if "STEPS = " in (found := "".join(cell["source"])))
    monkeypatch.chdir(tmp_path)
    known = {"unetzoo": SimpleNamespace(fit=lambda *_, **how: how), "Path": Path, "DATA": Path("cells")}
    exec(cell, known)
    assert known["run"]["out"] == Path("run")
    (tmp_path / "run").mkdir()
    exec(cell, known)
    assert known["run"] == {"resume": Path("run")}


@pytest.mark.slow
def test_coming_from_smp(run: Callable[..., list[Any]]) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="the notebook comes from there")
    cells = run("3_coming_from_smp")
    assert float(re.search(r"largest difference: (\S+)", printed(cells))[1]) < 1e-5
    first, second = displayed(cells, "image/png")
    assert first == second  # the file is the model
    info, compared = displayed(cells, "text/html")
    assert "smp_unet_resnet18" in info
    assert compared.count("<tr>") == 5


@pytest.mark.slow
def test_a_kernel_reaches_no_network(tmp_path: Path) -> None:
    """Else the tests above would say nothing of that."""
    (tmp_path / "sitecustomize.py").write_text(LOCAL, encoding="utf-8")
    code = "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=5)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert "tests use no network" in done.stderr
