"""The table of all names as HTML, and the form that filters it, which ``_static/zoo.js`` shows and answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from unetzoo import ModelInfo

COLUMNS = (
    ("Name, aliases", "name", "text"),
    ("Architecture", "architecture", "text"),
    ("Encoder", "encoder", "text"),
    ("Parameters", "parameters", "number"),
    ("GFLOPs at 256²", "gflops", "number"),
    ("Published", "published", "number"),
    ("Channels", "", ""),
    ("Strides", "", ""),
)
"""Title, key in an address, and how the column is sorted; empty where it is not."""

FILTER = """\
<form class="zoo-filter" id="zoo-filter" hidden>
<label>Name <input type="search" name="name" placeholder="unetpp_*" autocomplete="off" spellcheck="false"></label>
<label>Architecture <select name="architecture"><option value="">all</option>{architectures}</select></label>
<label>Encoders <select name="encoders"><option value="">all</option>{families}</select></label>
<label>Most parameters (M) <input type="number" name="parameters" min="0" step="any"></label>
<label>Most GFLOPs <input type="number" name="gflops" min="0" step="any"></label>
<button type="reset">Clear</button>
<output aria-live="polite"></output>
</form>"""

TABLE = """\
<div class="table-wrapper docutils container"><table class="docutils align-default" id="zoo" aria-label="All names">
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def page(members: Sequence[tuple[ModelInfo, float]]) -> str:
    """Return the filter and the table of networks and their GFLOPs, in the order given."""
    architectures = options(info.architecture for info, _ in members)
    families = options(family(info.encoder) for info, _ in members)
    head = "".join(f'<th scope="col"{sorted_by(key, how)}>{title}</th>' for title, key, how in COLUMNS)
    rows = "\n".join(row(info, gflops) for info, gflops in members)
    return FILTER.format(architectures=architectures, families=families) + "\n" + TABLE.format(head=head, rows=rows)


def options(values: Iterable[str]) -> str:
    """Return the choices of a list, each once."""
    return "".join(f"<option>{escape(value)}</option>" for value in dict.fromkeys(values))


def family(encoder: str) -> str:
    """Return the title of an encoder without its size: ResNet of ResNet-50, ResEnc of ResEnc small."""
    return re.split(r"-| (?=[a-z])", encoder)[0]


def sorted_by(key: str, how: str) -> str:
    return f' data-key="{key}" data-sort="{how}"' if key else ""


def row(info: ModelInfo, gflops: float) -> str:
    """Return a line of the table. What scripts read stands in ``data-value``, as it is shown, but without commas."""
    names = "<br>".join(f'<code class="docutils literal">{escape(name)}</code>' for name in (info.name, *info.aliases))
    number, agrees = published(info)
    cells = (
        f"<td>{names}</td>",
        f"<td>{escape(info.architecture)}</td>",
        f'<td data-family="{escape(family(info.encoder))}">{escape(info.encoder)}</td>',
        f'<td data-value="{info.parameters}">{info.parameters:,}</td>',
        f'<td data-value="{gflops:.1f}">{gflops:,.1f}</td>',
        f'<td data-value="{number}">{number}M {agrees}</td>' if number else "<td></td>",
        *(f"<td>{', '.join(map(str, values))}</td>" for values in (info.channels, info.strides)),
    )
    return f"<tr>{''.join(cells)}</tr>"


def published(info: ModelInfo) -> tuple[str, str]:
    """Return the published millions of parameters, and a mark: whether ours, rounded alike, are as many."""
    if info.published is None:
        return "", ""
    number = f"{info.published:.2f}"
    return number, "✓" if f"{info.parameters / 1e6:.2f}" == number else "✗"
