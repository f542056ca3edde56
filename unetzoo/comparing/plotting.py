"""Plots that compare networks."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unetzoo.costs.counting import Costs
from unetzoo.errors import ConfigError
from unetzoo.extras import needed
from unetzoo.files.writing import make_folder, write_file


def require_plot(path: str | os.PathLike[str]) -> type:
    """Return matplotlib's figure class, before any work is done; the folder of ``path`` is created.

    Raises:
        ConfigError: matplotlib is not installed, or does not support the file extension.
        WriteError: the folder cannot be created.
    """
    figure: type = needed("matplotlib.figure", "a plot").Figure
    known = needed("matplotlib.backends.backend_agg", "a plot").FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".") not in known:
        raise ConfigError(f"a plot cannot be written to {str(path)!r}: file extensions are {', '.join(known)}")
    make_folder(Path(path).absolute().parent)
    return figure


def write_plot(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format of the file extension.

    Raises:
        WriteError: it cannot be written.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format=Path(path).suffix.removeprefix("."), dpi=150)
    write_file(path, stream.getvalue())


def draw_costs(figure: Any, rows: Sequence[Costs], size: int) -> None:
    """Plot parameters against GFLOPs for ``size`` × ``size`` pixels: colours are architectures, markers encoders."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.add_subplot()
    colours = {family: f"C{k}" for k, family in enumerate(dict.fromkeys(row.architecture for row in rows))}
    encoders = dict.fromkeys(row.encoder for row in rows)
    markers = dict(zip(encoders, itertools.cycle("os^vDPX*<>phd"), strict=False))
    for row in rows:
        point = (row.parameters / 1e6, row.gflops)
        axes.plot(*point, markers[row.encoder], color=colours[row.architecture], markersize=8)
    keys = [axes.plot([], [], "o", color=colour, label=family)[0] for family, colour in colours.items()]
    figure.legend(handles=keys, loc="outside right upper")
    keys = [axes.plot([], [], marker, color="grey", label=encoder)[0] for encoder, marker in markers.items()]
    figure.legend(handles=keys, loc="outside right lower")
    axes.set(
        xlabel="parameters (millions)",
        ylabel=f"GFLOPs for one {size} × {size} image",
        xscale="log",
        yscale="log",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
        axis.set_minor_locator(NullLocator())
    axes.grid(which="both", lw=0.3)
