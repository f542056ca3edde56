"""Costs as lines of a table: cells, and tables as Markdown."""

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


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown: the first column is left-aligned, all others are right-aligned."""
    titles, *rest = table
    rule = [":--" if i == 0 else "--:" for i in range(len(titles))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rule, *rest)) + "\n"
