"""The order of the house: who may import whom, and what the README and CI agree on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "unetzoo"
LAYERS = [
    {"errors", "plain", "trained"},
    {"plugins"},
    {"devices", "extras", "files", "nn", "registry"},
    {"checks", "encoders"},
    {"decoders"},
    {"config", "pretrained"},
    {"model"},
    {"zoo", "folding", "parameter_groups"},
    {"information", "trials"},
    {"images", "metrics", "losses", "augmentation", "drawing", "objects"},
    {"sheets"},
    {"comparing"},
    {"saving"},
    {"hub", "data"},
    {"prediction"},
    {"evaluation", "exporting"},
    {"serving"},
    {"train"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up: a module imports only from its own folder and from lower rows."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the parts of unetzoo that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "unetzoo":
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("unetzoo.")}
    return found - {"__version__"}


def test_every_module_has_its_row() -> None:
    assert {part(path) for path in MODULES} == set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    row = next(i for i, parts in enumerate(LAYERS) if part(path) in parts)
    allowed = set().union(*LAYERS[:row]) | ({part(path)} if path.parent != PACKAGE else set())
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_core_imports_what_it_declares(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    assert declared == {"torch", "torchvision", "huggingface_hub", "safetensors"}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    # PIL: torchvision needs it; yaml: huggingface_hub does.
    optional = {
        "cards": {"yaml"},
        "comparison": {"matplotlib"},
        "data": {"PIL", "numpy"},
        "drawing": {"PIL"},
        "evaluation": {"yaml"},
        "exporting": {"numpy", "onnx", "onnxruntime", "onnxscript"},
        "images": {"PIL", "tifffile"},
        "objects": {"numpy", "scipy"},
        "prediction": {"PIL", "numpy", "tifffile", "zarr"},
        "serving": {"gradio", "tifffile"},
        "train": {"jsonargparse", "lightning_fabric", "pytorch_lightning", "tensorboard", "yaml"},
    }.get(part(path), set())
    assert found - set(sys.stdlib_module_names) <= declared | {"unetzoo"} | optional


def test_no_module_bears_the_name_of_a_public_function() -> None:
    import unetzoo

    assert not {path.stem for path in PACKAGE.iterdir()} & set(unetzoo.__all__)


def test_the_readme_s_two_commands_are_ci_s() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^(pip install .*&&.*)$", readme, re.MULTILINE)
    assert commands == ["pip install . && unetzoo demo", 'pip install -e ".[dev]" && pytest']
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    ran = [line for line in script.splitlines() if line.startswith("pip install") and "&&" in line]
    assert ran == commands


def test_files_name_no_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".sh"} and path.is_file():
            text = path.read_text(encoding="utf-8").replace(r"/(?:work|root)/", "")
            assert not re.search(r"/(?:work|root)/", text), name


def test_type_checkers_see_every_public_name() -> None:
    """The names imported for type checkers are those that are fetched when first used, from the same modules."""
    import unetzoo

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {node.module.removeprefix("unetzoo."): {alias.asname for alias in node.names} for node in block.body}
    assert seen == {home: set(names) for home, names in unetzoo._HOMES.items()}


def test_the_version_is_one() -> None:
    import unetzoo

    assert re.fullmatch(r"\d+\.\d+\.\d+", unetzoo.__version__)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changes or unetzoo.__version__ in changes


def test_examples_are_short() -> None:
    examples = [*(ROOT / "examples").glob("*.py")]
    assert examples
    for path in examples:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, path


def test_the_parameter_example_agrees() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "compare_parameters.py"), "unet", "resunet18"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2 of 2 published sizes agree" in done.stdout


def test_modules_are_found_as_attributes() -> None:
    code = "import unetzoo; print(unetzoo.losses.build('dice', 'binary').task, unetzoo.metrics.METRICS[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["binary", "dice"]
