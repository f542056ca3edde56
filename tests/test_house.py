"""The order of the house: who may import whom, how long a page may be, and what the README and CI agree on."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

PACKAGE = ROOT / "unetzoo"
LAYERS = [
    {"printing", "progress"},
    {"errors", "trained"},
    {"plugins"},
    {"devices", "extras", "files", "markup", "nn", "registry"},
    {"checks"},
    {"encoders"},
    {"decoders"},
    {"config", "pretrained"},
    {"model"},
    {"naming", "folding", "parameter_groups"},
    {"zoo"},
    {"information", "trials"},
    {"costs"},
    {"images", "metrics", "losses", "objects"},
    {"augmentation", "drawing", "sheets", "slides"},
    {"foreign"},
    {"saving"},
    {"hub", "data"},
    {"prediction"},
    {"evaluation", "exporting", "comparing"},
    {"serving"},
    {"train"},
    {"napari"},
    {"testing"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up: a module imports only from its own folder and from lower rows."""

GROUND = {"files", "nn"}
"""Parts on which everything stands: of unetzoo they import the errors alone."""

# PIL: torchvision needs it; yaml: huggingface_hub does.
OPTIONAL = {
    "comparing": {"matplotlib"},
    "data": {"PIL", "numpy", "roifile", "yaml"},
    "drawing": {"PIL"},
    "evaluation": {"numpy", "yaml"},
    "exporting": {"PIL", "bioimageio", "numpy", "onnx", "onnxruntime", "onnxscript", "yaml"},
    "files": {"yaml"},
    "images": {"PIL", "imagecodecs", "nibabel", "numpy", "pydicom", "tifffile"},
    "napari": {"napari", "numpy", "qtpy"},
    "nn": {"triton"},
    "objects": {"PIL", "numpy", "scipy", "skimage", "yaml"},
    "markup": {"PIL"},
    "prediction": {"PIL", "numpy", "tifffile", "zarr"},
    "saving": {"yaml"},
    "serving": {"gradio", "tifffile"},
    "sheets": {"PIL", "numpy"},
    "slides": {"numpy", "openslide", "tifffile", "zarr"},
    "testing": {"numpy"},
    "train": {"jsonargparse", "lightning_fabric", "pytorch_lightning", "tensorboard", "yaml"},
}
"""What a part may import beyond the declared dependencies."""

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path != PACKAGE / "__init__.py"]


def shown(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> frozenset[tuple[str, str | None]]:
    """Return what a file imports, wherever in it: ``(module, name)`` for ``from module import name``."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}: imports are written in full"
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
    return frozenset(found)


@functools.cache
def home(dotted: str) -> Path | None:
    """Return the file of a module of unetzoo, None if there is none of that name."""
    place = ROOT.joinpath(*dotted.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@functools.cache
def imported(path: Path) -> frozenset[Path]:
    """Return the files of unetzoo that a file imports; its door, ``unetzoo/__init__.py``, is none of them."""
    named = {home(f"{module}.{name}") or home(module) for module, name in imports(path) if module.startswith("unetzoo")}
    return frozenset(named) - {None, PACKAGE / "__init__.py"}


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function's name and its number of lines, decorators and docstring not counted."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
            yield node.name, node.end_lineno - node.lineno + 1 - docstring


# Rooms


def test_every_module_has_its_row() -> None:
    assert {part(path) for path in MODULES} == set().union(*LAYERS)


def test_imports_go_down() -> None:
    wrong = []
    for path in MODULES:
        row = next(i for i, parts in enumerate(LAYERS) if part(path) in parts)
        allowed = {"errors"} if part(path) in GROUND else set().union(*LAYERS[:row])
        own = {part(path)} if path.parent != PACKAGE else set()
        wrong += [f"{shown(path)} → {shown(other)}" for other in imported(path) if part(other) not in allowed | own]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself() -> None:
    """Neither through others, for type checkers alone, nor late: two that need each other are one."""
    above = {}  # what each file reaches
    for start in MODULES:
        above[start], left = set(), [start]
        while left:
            new = imported(left.pop()) - above[start]
            above[start] |= new
            left += new
    circles = {", ".join(shown(b) for b in MODULES if b in above[a] and a in above[b]) for a in MODULES} - {""}
    assert not circles, "\n".join(circles)


def test_only_declared_packages_are_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    assert declared == {"torch", "torchvision", "huggingface_hub", "safetensors"}
    wrong = []
    for path in MODULES:
        found = {module.split(".")[0] for module, _ in imports(path)} - set(sys.stdlib_module_names)
        extra = found - declared - {"unetzoo"} - OPTIONAL.get(part(path), set())
        wrong += [f"{shown(path)}: {name}" for name in extra]
    assert not wrong, "\n".join(wrong)


def test_imports_are_light_and_late() -> None:
    """The package itself needs Python alone; a name or a module that is used as such comes when it is asked for."""
    code = """
import sys
before = set(sys.modules)
import unetzoo
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
unetzoo.list_models()
print(*{"torchvision", "huggingface_hub", "matplotlib", "PIL"} & set(sys.modules))
print(unetzoo.losses.build("dice", "binary").task, unetzoo.metrics.METRICS[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["unetzoo", "", "binary dice"]


def test_a_mask_needs_no_compiler_and_none_of_torchvision_s_models(tmp_path: Path) -> None:
    """Each takes about a second to import, more than all the rest of a first small mask."""
    code = """
import sys
from unetzoo import cli, drawing
drawing.write_shapes("drawn", 1, size=(64, 64), task="multiclass", seed=0)
cli.main(["predict", "nuclei", "drawn/images", "--out", "masks", "--overlay"])
print(*{"torchvision", "torch._dynamo", "sympy", "triton", "IPython", "matplotlib"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "", done.stdout


def test_no_module_is_a_public_function_s_namesake() -> None:
    import unetzoo

    assert not {path.stem for path in PACKAGE.iterdir()} & set(unetzoo.__all__)


# Pages


def test_files_are_short() -> None:
    long = [f"{shown(path)}: {lines(path)} lines" for path in FILES if lines(path) >= 400]
    assert not long, "\n".join(long)


def test_functions_are_short() -> None:
    long = [f"{shown(p)}: {name}, {length} lines" for p in FILES for name, length in functions(p) if length >= 60]
    assert not long, "\n".join(long)


def test_few_modules_are_flat() -> None:
    assert len({path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}) <= 20


def test_examples_are_short() -> None:
    examples = [*(ROOT / "examples").glob("*.py")]
    assert examples
    assert not [path.name for path in examples if lines(path) >= 60]


# What is said twice


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

    (block,) = (node for node in tree(PACKAGE / "__init__.py").body if isinstance(node, ast.If))
    seen = {node.module.removeprefix("unetzoo."): {alias.asname for alias in node.names} for node in block.body}
    assert seen == {home: set(names) for home, names in unetzoo._HOMES.items()}


def test_the_version_is_one() -> None:
    import unetzoo

    assert re.fullmatch(r"\d+\.\d+\.\d+", unetzoo.__version__)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changes or unetzoo.__version__ in changes
