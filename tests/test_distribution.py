"""What pip gets: the wheel holds the package, the sdist all that tests it, and the wheel alone works."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
from conftest import ROOT
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import unetzoo

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIST_INFO = f"unetzoo-{unetzoo.__version__}.dist-info"
LEFTOVERS = (
    ".venv/lib/leftover.py",
    "build/lib/unetzoo/leftover.py",
    "dist/leftover.whl",
    "docs/_build/html/leftover.html",
    "runs/leftover.safetensors",
    "shared/data/leftover.png",
    "tests/__pycache__/leftover.cpython-311.pyc",
    "unetzoo/__pycache__/leftover.cpython-311.pyc",
    "unetzoo/leftover.pyc",
    "unetzoo_demo.png",
)
"""What lies about in a checkout that somebody works in."""


@dataclass(frozen=True)
class Built:
    """What ``python -m build`` made of a tree: the sdist, the wheel from the sdist, and the wheel from the tree."""

    tree: Path
    sdist: Path
    wheel: Path
    direct: Path

    def sources(self, *names: str) -> dict[str, bytes]:
        """Return files of the tree, and those in its folders, by name; what was made from others is left out."""
        found = {}
        for start in (self.tree / name for name in names):
            paths = [path for path in start.rglob("*") if path.is_file()] if start.is_dir() else [start]
            found |= {path.relative_to(self.tree): path.read_bytes() for path in paths}
        made = {"__pycache__", "_build"}
        kept = {name.as_posix(): content for name, content in found.items() if not made & set(name.parts)}
        return {name: content for name, content in kept.items() if name not in LEFTOVERS}

    def in_wheel(self) -> dict[str, bytes]:
        with zipfile.ZipFile(self.wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def in_sdist(self) -> dict[str, bytes]:
        with tarfile.open(self.sdist) as archive:
            files = [member for member in archive.getmembers() if member.isfile()]
            assert len(files) == len(archive.getmembers()), "links, or something else that is no plain file"
            return {member.name: archive.extractfile(member).read() for member in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("distribution")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".*_cache", ".hypothesis", ".venv", "_build"))
    for name in LEFTOVERS:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"left over")
    build = [sys.executable, "-m", "build", "--no-isolation", str(tree)]
    for options in (["--outdir", str(folder / "dist")], ["--wheel", "--outdir", str(folder / "direct")]):
        done = subprocess.run([*build, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    (direct,) = (folder / "direct").glob("*.whl")
    return Built(tree, sdist, wheel, direct)


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    held = built.in_wheel()
    package = {name: content for name, content in held.items() if not name.startswith(f"{DIST_INFO}/")}
    assert package == built.sources("unetzoo")
    assert {"unetzoo/py.typed", "unetzoo/__init__.py", "unetzoo/__main__.py"} <= set(package)
    assert {PurePosixPath(name).suffix for name in package} <= {
        ".py",
        ".typed",
        ".safetensors",
        ".json",
        ".md",
        ".yaml",
    }
    about = {name.removeprefix(f"{DIST_INFO}/") for name in set(held) - set(package)}
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert held[f"{DIST_INFO}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert held[f"{DIST_INFO}/entry_points.txt"].decode().split() == [
        "[console_scripts]",
        "unetzoo",
        "=",
        "unetzoo.cli:main",
        "[napari.manifest]",
        "unetzoo",
        "=",
        "unetzoo.napari:napari.yaml",
    ]
    assert built.wheel.name == f"unetzoo-{unetzoo.__version__}-py3-none-any.whl"
    assert built.wheel.stat().st_size < 12_000_000
    # The record is what pip checks an installed file against.
    rows = {
        name: (digest, size) for name, digest, size in csv.reader(io.StringIO(held[f"{DIST_INFO}/RECORD"].decode()))
    }
    assert set(rows) == set(held)
    for name, content in held.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert rows[name] == (f"sha256={digest}", str(len(content))) or name == f"{DIST_INFO}/RECORD", name


def test_the_sdist_holds_all_that_tests_it_and_builds_the_same_wheel(built: Built) -> None:
    held = {name.removeprefix(f"unetzoo-{unetzoo.__version__}/"): content for name, content in built.in_sdist().items()}
    expected = built.sources(
        *("unetzoo", "tests", "docs", "examples", ".ci", ".github"),
        *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "RELEASING.md", "SECURITY.md"),
        *("hubconf.py", "pyproject.toml", ".gitignore", ".pre-commit-config.yaml"),
        *("packaging", "Dockerfile", ".dockerignore", "environment.yml"),
    )
    metadata = held.pop("PKG-INFO")
    assert sorted(held) == sorted(expected)
    assert held == expected
    assert built.wheel.read_bytes() == built.direct.read_bytes()
    assert metadata == built.in_wheel()[f"{DIST_INFO}/METADATA"]
    assert built.sdist.stat().st_size < 20_000_000


def test_the_metadata_says_what_pyproject_says(built: Built) -> None:
    raw = built.in_wheel()[f"{DIST_INFO}/METADATA"]
    metadata = Metadata.from_email(raw, validate=True)  # packaging's own reading of the standard
    assert (metadata.name, str(metadata.version)) == ("unetzoo", unetzoo.__version__)
    assert metadata.license_expression == PROJECT["license"] == "MIT"
    assert metadata.license_files == ["LICENSE"]
    assert str(metadata.requires_python) == PROJECT["requires-python"]
    assert metadata.classifiers == PROJECT["classifiers"]
    assert not [text for text in metadata.classifiers if text.startswith("License ::")]  # PyPI refuses both
    assert sorted(metadata.provides_extra) == sorted(PROJECT["optional-dependencies"])
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")
    needed = {(canonicalize_name(need.name), need.specifier) for need in metadata.requires_dist if need.marker is None}
    wanted = map(Requirement, PROJECT["dependencies"])
    assert needed == {(canonicalize_name(want.name), want.specifier) for want in wanted}
    for extra, texts in PROJECT["optional-dependencies"].items():
        chosen = [
            need
            for need in metadata.requires_dist
            if need.marker and need.marker.evaluate({"extra": extra}) and not need.marker.evaluate({"extra": ""})
        ]
        names = {canonicalize_name(need.name) for need in chosen}
        assert {canonicalize_name(Requirement(text).name) for text in texts} - {"unetzoo"} <= names, extra


def core() -> set[str]:
    """Return the distributions that unetzoo needs without extras, and those that they need, as installed here."""
    waiting = [Requirement(need) for need in PROJECT["dependencies"]]
    found: set[str] = set()
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name in found or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += map(Requirement, importlib.metadata.requires(need.name) or ())
    return found


def link_core(target: Path) -> None:
    """Link into a folder of packages what the core needs from where the tests have it."""
    for name in core():
        for file in importlib.metadata.files(name) or ():
            top = file.parts[0]
            if top not in {"..", "__pycache__"} and not (target / top).exists():
                (target / top).symlink_to(Path(file.locate()).parents[len(file.parts) - 1] / top)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links to folders take rights on Windows; release.yml does the same there")
def test_the_wheel_alone_works_in_a_fresh_environment(built: Built, tmp_path: Path) -> None:
    """Nothing is there but the wheel and what it says it needs: no extra, no checkout, no network."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    link_core(packages)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["UNETZOO_OFFLINE"] = "1"

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(python, "-m", "pip", "install", "--no-index", "--no-deps", built.wheel)
    run(python, "-m", "pip", "check")
    names = ("pytest", "matplotlib", "scipy", "tifffile", "onnx", "yaml")
    found = f"import importlib.util; print(*[name for name in {names} if importlib.util.find_spec(name)])"
    assert run(python, "-c", found).split() == ["yaml"]  # that of huggingface_hub
    where = run(python, "-c", "import unetzoo; print(unetzoo.__file__, unetzoo.__version__)").split()
    assert where == [str(packages / "unetzoo" / "__init__.py"), unetzoo.__version__]
    run(home / "bin" / "unetzoo", "demo")
    with Image.open(tmp_path / "unetzoo_demo.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100  # an image with its mask, not a blank one
    modules = {path.stem for path in (packages / "unetzoo").glob("*.py")} - {"__init__", "__main__"}
    run(python, "-c", "".join(f"import unetzoo.{name}\n" for name in sorted(modules)))


@pytest.mark.slow
def test_the_sdist_passes_the_project_s_own_tests(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "tests/test_house.py",
        "tests/test_project.py",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
