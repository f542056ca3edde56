"""Pages of HTML that need nothing else: no script, no other file, no network. Texts in them may be anybody's."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from torch import Tensor

from unetzoo.printing import printable
from unetzoo.sheets import Key

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


def escaped(text: object) -> str:
    """Return anybody's text as HTML shows it, without obeying it, in attributes too."""
    return html.escape(printable(text), quote=True)


def document(title: str, parts: Iterable[str]) -> str:
    """Return the page of a title and of parts that are HTML already."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{escaped(title)}</title>'
    )
    start = f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>'
    return "\n".join([start, f"<h1>{escaped(title)}</h1>", *parts, "</body></html>", ""])


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Return a list of sentences below a title; nothing without any."""
    listed = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return [f"<h2>{escaped(title)}</h2><ul>{listed}</ul>"] if lines else []


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, of which the first row has the titles."""
    titles, *others = rows
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in others)
    return f"<table><tr>{head}</tr>{body}</table>"


def legend(keys: Sequence[Key]) -> str:
    """Return names with their colours before them."""
    squares = ("".join(f'<i style="background:{colour}"></i>' for colour in key.colours) for key in keys)
    named = "".join(f"<span>{square}{escaped(key.name)}</span> " for square, key in zip(squares, keys, strict=True))
    return f'<p class="keys">{named}</p>'


def picture(image: Tensor, width: int) -> str:
    """Return an image, (3, H, W) uint8, shown at so many pixels: as JPEG, a tenth of a PNG of photographs."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90, subsampling=0)
    return embedded(file.getvalue(), "jpeg", width)


def embedded(data: bytes, kind: str, width: int) -> str:
    """Return a file of an image, "png" or "jpeg", within the page, shown at so many pixels."""
    return f'<img alt="" width="{width}" src="data:image/{kind};base64,{base64.b64encode(data).decode("ascii")}">'
