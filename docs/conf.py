"""Sphinx configuration. A build fails where tables or drawings of the pages are not what the package gives."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import _made  # noqa: E402
import _reference  # noqa: E402
import _tables  # noqa: E402

import unetzoo  # noqa: E402

project = "unetzoo"
author = "The unetzoo developers"
copyright = author  # noqa: A001
version = release = unetzoo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # What autodoc reads from annotations of other libraries, or from private names, has no page here.
    ("py:.*", r"(torch|numpy|collections|typing|pathlib|os|abc|pytorch_lightning)\..*"),
    (
        "py:.*",
        r"(nn\.Module|Module|Tensor|Any|Callable|Mapping|Sequence|Iterable|Options|ConvStyle|Size|Checkpointed)",
    ),
    ("py:.*", r"unetzoo\.augmentation\.composing\.Entry|unetzoo\.losses\._base\.M|unetzoo\.model\.ForTraining"),
    ("py:.*", r"unetzoo\.objects\.writing\.F|unetzoo\.data\.examples\.Example"),
    ("py:.*", r"unetzoo\.prediction\.(inputs|tiles|marks|strips|beside_rows)\..*"),
    (
        "py:.*",
        r"unetzoo\.(nn\.layers|registry|nn\.heads|encoders\._base|decoders\._base)\..*|unetzoo\.zoo\.[A-Z]|unetzoo\.costs\..*",
    ),
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"unetzoo {version}"
html_static_path = ["_static"]
html_css_files = ["unetzoo.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False


def check_made(_: Sphinx) -> None:
    """Refuse to build pages with tables or drawings that are out of date."""
    if problems := _made.stale():
        raise ExtensionError("\n".join(problems))


def for_the_site(_: Sphinx, page: str, source: list[str]) -> None:
    """Put in what GitHub cannot show: the reference by autodoc, the filter of the table of names, the sidebar."""
    if page == "api":
        source[0] = _made.on_site(source[0], "api", _reference.autodoc())
    elif page == "zoo":
        source[0] = _made.on_site(source[0], "zoo", _tables.zoo_page())
    elif page == root_doc:
        source[0] += sidebar(source[0])


def sidebar(text: str) -> str:
    """Return the tables of contents: a page's links below "All pages", with their sections as captions."""
    parts = re.split(r"^### (.+)\n", text.partition("\n## All pages\n")[2], flags=re.MULTILINE)
    trees = []
    for caption, body in zip(parts[1::2], parts[2::2], strict=True):
        links = "\n".join(re.findall(r"^- \[[^\]]+\]\((\S+)\.md\)", body, flags=re.MULTILINE))
        trees.append(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{links}\n```\n")
    return "".join(trees)


def join_names(*arguments: Any) -> None:
    """Write "mean/std: …" for "mean, std: …" in a docstring: Sphinx takes "mean," for the type of "std"."""
    lines = arguments[-1]
    for number, line in enumerate(lines):
        entry = re.match(r"( +\w+(?:, \w+)+)(:.*)", line)
        if entry:
            lines[number] = entry[1].replace(", ", "/") + entry[2]


def drop_module_signature(*arguments: Any) -> tuple[str, str] | None:
    """Show nothing where torch's Module is all that says how a class is called."""
    return ("", "") if arguments[-2] == "(*args: Any, **kwargs: Any)" else None


def load_filter(app: Sphinx, page: str, *_: Any) -> None:
    """Load the filter of the table of all names, on its page alone."""
    if page == "zoo":
        app.add_js_file("zoo.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", check_made)
    app.connect("source-read", for_the_site)
    app.connect("autodoc-process-docstring", join_names, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", drop_module_signature)
    app.connect("html-page-context", load_filter)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
