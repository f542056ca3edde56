"""Costs as the lines of a table: cells, and cells as text or Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from unetzoo.costs.counting import Costs


def header(size: int) -> list[str]:
    """Return the titles of the columns, for images of ``size`` × ``size`` pixels."""
    return ["model", "parameters", "published", f"GFLOPs at {size}²", "training MiB"]


def cells(costs: Costs) -> list[str]:
    """Return the cells of a network."""
    published = "–" if costs.published is None else f"{costs.published:.2f}M {'✓' if costs.agrees else '✗'}"
    return [costs.name, f"{costs.parameters:,}", published, f"{costs.gflops:.1f}", f"{costs.activation_mib:.0f}"]


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return a table as text: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown, aligned likewise."""
    titles, *rest = table
    rule = [":--" if i == 0 else "--:" for i in range(len(titles))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rule, *rest)) + "\n"
