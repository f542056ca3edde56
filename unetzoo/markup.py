"""Self-contained HTML: no script, no other file, no network. Texts in it may be untrusted.

For complete pages, and for the output of a notebook cell.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from unetzoo.printing import printable

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1120px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h1, p, li { overflow-wrap: anywhere; }
pre { background: #f3f3f3; padding: 0.7rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 0.8rem 0; font-variant-numeric: tabular-nums; }
td, th { text-align: right; padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; width: 256px; font-size: 0.85rem; }
.wide figure { width: 345px; } figcaption { overflow-wrap: anywhere; } svg { width: 100%; }
svg text { font-size: 11px; }
img { max-width: 256px; display: block; } .bad { color: #a40000; } .whole img { max-width: 100%; }
.keys span { margin-right: 0.9rem; white-space: nowrap; } .keys { margin: 0; }
.keys i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.3em; border-radius: 2px; }
"""

# Notebooks are light or dark, and have colours of their own: this uses them, and greys that are visible on both.
_SHOWN = """
.unetzoo { font-size: 0.95em; line-height: 1.45; } .unetzoo p, .unetzoo li, .unetzoo h2 { overflow-wrap: anywhere; }
.unetzoo p { margin: 0.3em 0; } .unetzoo h2 { font-size: 1.05em; margin: 0.9em 0 0.3em; }
.unetzoo pre { border: 1px solid rgba(128, 128, 128, 0.4); padding: 0.5em; white-space: pre-wrap; }
.unetzoo .scroll { max-height: 34em; overflow: auto; }
.unetzoo table { border-collapse: collapse; margin: 0.4em 0; font-variant-numeric: tabular-nums; }
.unetzoo td, .unetzoo th { text-align: right; padding: 0.2em 0.7em; }
.unetzoo tr { border-bottom: 1px solid rgba(128, 128, 128, 0.35); }
.unetzoo td:first-child, .unetzoo th:first-child { text-align: left; overflow-wrap: anywhere; }
.unetzoo .words td, .unetzoo .words th { text-align: left; } .unetzoo .words td:first-child { white-space: nowrap; }
.unetzoo .row { display: flex; flex-wrap: wrap; gap: 1em; } .unetzoo .wide figure { width: 345px; }
.unetzoo figure { margin: 0; width: 256px; font-size: 0.9em; } .unetzoo img { max-width: 100%; height: auto; }
.unetzoo svg { width: 100%; } .unetzoo svg text { font-size: 11px; fill: currentColor; }
.unetzoo .bad { font-weight: bold; } .unetzoo .keys span { margin-right: 0.9em; white-space: nowrap; }
.unetzoo .keys i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.3em; }
"""


@dataclass(frozen=True)
class Key:
    """A line of a legend.

    Attributes:
        name: of the class, or of what is painted; may be untrusted.
        colours: one, or several if they differ between images or objects.
    """

    name: str
    colours: tuple[str, ...]


def escaped(text: object) -> str:
    """Return untrusted text escaped for HTML, for attributes too."""
    return html.escape(printable(text), quote=True)


def document(title: str, parts: Iterable[str]) -> str:
    """Return a page with a title and parts that are already HTML."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{escaped(title)}</title>'
    )
    start = f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>'
    return "\n".join([start, f"<h1>{escaped(title)}</h1>", *parts, "</body></html>", ""])


def shown(title: str, parts: Iterable[str]) -> str:
    """Return a title and parts that are already HTML, for the output of a notebook cell, light or dark."""
    return "\n".join(
        [f'<div class="unetzoo"><style>{_SHOWN}</style>', f"<p><b>{escaped(title)}</b></p>", *parts, "</div>"]
    )


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Return a list of sentences below a title; nothing if there are no sentences."""
    listed = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return [f"<h2>{escaped(title)}</h2><ul>{listed}</ul>"] if lines else []


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row has the titles."""
    titles, *others = rows
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in others)
    return f"<table><tr>{head}</tr>{body}</table>"


def legend(keys: Sequence[Key]) -> str:
    """Return names, each after its colours."""
    squares = ("".join(f'<i style="background:{colour}"></i>' for colour in key.colours) for key in keys)
    named = "".join(f"<span>{square}{escaped(key.name)}</span> " for square, key in zip(squares, keys, strict=True))
    return f'<p class="keys">{named}</p>'


def picture(image: Tensor, width: int) -> str:
    """Return an image, (3, H, W) uint8, shown ``width`` pixels wide: as JPEG, a tenth of a PNG's size."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90, subsampling=0)
    return embedded(file.getvalue(), "jpeg", width)


def embedded(data: bytes, kind: str, width: int) -> str:
    """Return the file of an image, "png" or "jpeg", embedded in the page and shown ``width`` pixels wide."""
    return f'<img alt="" width="{width}" src="data:image/{kind};base64,{base64.b64encode(data).decode("ascii")}">'
