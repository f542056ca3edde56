"""A release before there is one: its recipe for conda, its environment, its image, and the version in its places."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rattler_build import RattlerBuildError, Stage0Recipe

import unetzoo

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RECIPE = ROOT / "packaging" / "conda" / "recipe.yaml"
ON_CONDA = {"torch": "pytorch"}
"""Name on PyPI → that on conda-forge, where it is another."""


def needed() -> dict[str, SpecifierSet]:
    """Return what the package needs to run, by its names on conda-forge."""
    found = map(Requirement, PROJECT["dependencies"])
    return {ON_CONDA.get(each.name, each.name): each.specifier for each in found}


def conda(requirements: list[str]) -> dict[str, SpecifierSet]:
    """Return name → versions of requirements as conda writes them: "pytorch >=2.11"."""
    parted = (re.fullmatch(r"([\w.-]+)\s*(.*)", text) for text in requirements if isinstance(text, str))
    return {match[1]: SpecifierSet(match[2]) for match in parted if match}


def test_the_recipe_is_read_by_rattler_build() -> None:
    text = RECIPE.read_text(encoding="utf-8")
    (variant,) = Stage0Recipe.from_yaml(text).render()
    recipe = variant.recipe.to_dict()
    assert (recipe["package"]["name"], str(recipe["package"]["version"])) == ("unetzoo", unetzoo.__version__)
    assert f"unetzoo-{unetzoo.__version__}.tar.gz" in json.dumps(recipe["source"])
    with pytest.raises(RattlerBuildError):  # it sees something
        Stage0Recipe.from_yaml(text.replace("license: MIT", "licence: MIT")).render()


def test_the_recipe_needs_what_the_package_needs() -> None:
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    run = recipe["requirements"]["run"]
    assert run[0] == "python >=${{ python_min }}"
    assert f">={recipe['context']['python_min']}" == PROJECT["requires-python"]
    assert conda(run[1:]) == needed()
    assert recipe["about"]["license"] == PROJECT["license"]
    assert (ROOT / recipe["about"]["license_file"]).is_file()
    assert recipe["about"]["summary"] == PROJECT["description"].split(":")[0]
    (entry,) = recipe["build"]["python"]["entry_points"]
    assert dict([entry.split(" = ")]) == PROJECT["scripts"]
    (hatchling,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert hatchling.replace(">=", " >=") in recipe["requirements"]["host"]


def test_the_environment_has_what_the_package_needs() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    found = conda(environment["dependencies"])
    lowest = SpecifierSet(PROJECT["requires-python"])
    assert set(found.pop("python")) >= set(lowest)
    found.pop("pip")
    assert found == needed()
    (by_pip,) = environment["dependencies"][-1]["pip"]
    extras = re.fullmatch(r"\.\[([\w,]+)\]", by_pip)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_image_installs_as_the_readme_does_and_is_tested_as_here() -> None:
    stages: dict[str, list[str]] = {}
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"FROM \S+ AS (\w+)", line):
            stage = stages.setdefault(match[1], [])
        elif line.startswith("RUN "):
            stage.append(line.removeprefix("RUN "))
    assert stages["ci"][-1] == ".ci/run"
    (first,) = re.findall(r"^pip install \. && (unetzoo demo)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert re.match(rf'pip install "\.\[[\w,]+\]" && {first}\b', stages["unetzoo"][0])


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_release", ROOT / ".github" / "prepare_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(script: ModuleType, tmp_path: Path) -> Path:
    """What the program changes, and its neighbours."""
    paths = [ROOT / name for name in (*script.PLACES, "CHANGELOG.md", "README.md", "RELEASING.md")]
    paths += [path for pattern in script.OWNED for path in ROOT.glob(pattern)]
    for path in {*paths, *(ROOT / "examples" / "notebooks").iterdir()}:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    changelog = tmp_path / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    if "## Unreleased\n" not in text:  # the commit of a release has none
        changelog.write_text(text.replace("\n## ", "\n## Unreleased\n\n- New.\n\n## ", 1), encoding="utf-8")
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_version_is_written_in_all_its_places(script: ModuleType, copy: Path) -> None:
    before, old = digests(copy), (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    for path, text in script.prepared(copy, "7.8.9", None, datetime.date(2030, 1, 2)).items():
        path.write_text(text, encoding="utf-8")
    changed = {name for name, digest in digests(copy).items() if digest != before[name]}
    assert changed == {"unetzoo/__init__.py", "CITATION.cff", "packaging/conda/recipe.yaml", "CHANGELOG.md"}
    assert '\n__version__ = "7.8.9"\n' in (copy / "unetzoo" / "__init__.py").read_text(encoding="utf-8")
    assert yaml.safe_load((copy / "CITATION.cff").read_text(encoding="utf-8"))["version"] == "7.8.9"
    assert (
        yaml.safe_load((copy / RECIPE.relative_to(ROOT)).read_text(encoding="utf-8"))["context"]["version"] == "7.8.9"
    )
    new = (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    assert new == old.replace("## Unreleased\n", "## 7.8.9 (2030-01-02)\n", 1)


def test_what_is_written_is_what_the_workflow_wants(script: ModuleType, copy: Path) -> None:
    """The tag of the version passes the check that the release begins with."""
    for path, text in script.prepared(copy, "7.8.9rc1", None, datetime.date(2030, 1, 2)).items():
        path.write_text(text, encoding="utf-8")
    (copy / ".github").mkdir()
    notes = shutil.copy(ROOT / ".github" / "release_notes.py", copy / ".github")
    done = subprocess.run([sys.executable, notes, "v7.8.9rc1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_owner_stands_wherever_the_repository_is_named(script: ModuleType, copy: Path) -> None:
    for path, text in script.prepared(copy, "7.8.9", "somebody", datetime.date(2030, 1, 2)).items():
        path.write_text(text, encoding="utf-8")
    left = {
        path.relative_to(copy).as_posix()
        for path in copy.rglob("*")
        if path.is_file() and re.search(r"OWNER/unetzoo", path.read_text(encoding="utf-8"))
    }
    assert left <= {"examples/notebooks/README.md"}  # which tells how to do it by hand
    kept, recipe = (
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in (RECIPE, copy / RECIPE.relative_to(ROOT))
    )
    (owner,) = kept["extra"]["recipe-maintainers"]
    owner = "somebody" if owner == "OWNER" else owner  # it is filled in once, and stays
    assert recipe["extra"]["recipe-maintainers"] == [owner]
    assert recipe["about"]["repository"].endswith(f"/{owner}/unetzoo")


@pytest.mark.parametrize(
    ("version", "changelog", "said"),
    [
        ("1.2", "## Unreleased\n\n- New.\n", "'1.2' is not a version.*0.2.0"),
        ("v1.2.3", "## Unreleased\n\n- New.\n", "'v1.2.3' is not a version"),
        ("1.2.3", "## Unreleased\n\n## 0.1.0\n\n- Old.\n", "nothing under '## Unreleased'"),
        ("1.2.3", "## 0.1.0\n\n- Old.\n", "nothing under '## Unreleased'"),
    ],
)
def test_what_cannot_be_released_is_refused_and_nothing_is_written(
    version: str, changelog: str, said: str, script: ModuleType, copy: Path
) -> None:
    (copy / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}", encoding="utf-8")
    before = digests(copy)
    with pytest.raises(SystemExit, match=said):
        script.prepared(copy, version, None, datetime.date(2030, 1, 2))
    assert digests(copy) == before
