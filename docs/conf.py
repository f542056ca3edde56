"""Sphinx configuration. Before a build it computes tables and drawings from the registry into ``generated/``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import unetzoo  # noqa: E402

project = "unetzoo"
author = "The unetzoo developers"
copyright = author  # noqa: A001
version = release = unetzoo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "generated"]
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


class Diagram(SphinxDirective):
    """``:::{diagram} NAME`` shows NAME_light.svg or NAME_dark.svg, as the page's theme is, with a caption below."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        name, alt = self.arguments[0], self.options["alt"]
        figure = nodes.figure(align="default")
        for theme in ("light", "dark"):
            file = f"/generated/{name}_{theme}.svg"
            figure += nodes.image(uri=file, alt=alt, classes=[f"only-{theme}", "diagram"])
        if self.content:
            inline, _ = self.state.inline_text(" ".join(self.content), self.lineno)
            figure += nodes.caption("", "", *inline)
        self.set_source_info(figure)
        return [figure]


def generate(_: Sphinx) -> None:
    """Compute what the pages include."""
    import _diagrams
    import _tables

    _tables.write_all(HERE / "generated")
    _diagrams.draw_all(HERE / "generated")


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
    app.add_directive("diagram", Diagram)
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", join_names, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", drop_module_signature)
    app.connect("html-page-context", load_filter)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
