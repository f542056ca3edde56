"""The table that compares networks, in all its formats."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict, dataclass, fields

from unetzoo import markup
from unetzoo.checks import one_of
from unetzoo.comparing.plotting import draw_costs, require_plot, write_plot
from unetzoo.costs.counting import Costs
from unetzoo.costs.tables import cells, header, markdown
from unetzoo.errors import ConfigError
from unetzoo.printing import aligned, some_of
from unetzoo.trials import TrainingTrial, draw

FORMATS = ("text", "md", "csv", "json")


@dataclass(frozen=True)
class ComparisonRow(Costs):
    """One network, or several whose outputs are averaged: then all numbers are sums.

    Attributes:
        name, architecture, encoder, parameters, published, agrees, gflops, activation_mib: as in
            :class:`unetzoo.costs.counting.Costs`.
        latency_ms: median time for one image on this machine's CPU in milliseconds; None unless measured.
        peak_mib: peak memory in MiB of the process that does this, beyond a process that has only imported torch;
            None unless measured, which needs Linux.
        dice, iou: validation scores of the best epoch; these and the following are None without training results.
        minutes: wall-clock time of the training.
        training_mib: peak memory in MiB of the training process, beyond what it held before; None on systems other
            than Linux.
        times_resunet18: prediction time on the CPU relative to that of ``resunet18``.
    """

    latency_ms: float | None = None
    peak_mib: float | None = None
    dice: float | None = None
    iou: float | None = None
    minutes: float | None = None
    training_mib: float | None = None
    times_resunet18: float | None = None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Rows, for images of ``size`` × ``size`` pixels. ``str()`` is the text table.

    Attributes:
        rows: one per network.
        size: of the images for which ``gflops`` and ``activation_mib`` are counted.
        trials: training results of the networks that were trained, with their curves, in the order of the rows.
    """

    rows: tuple[ComparisonRow, ...]
    size: int
    trials: tuple[TrainingTrial, ...] = ()

    def __str__(self) -> str:
        return self.render("text")

    def __repr__(self) -> str:
        return (
            f"Comparison({some_of([row.name for row in self.rows], 3, quoted=False)}; {self.size} × {self.size} pixels)"
        )

    def _repr_html_(self) -> str:
        count = f"{len(self.rows)} network{'s' * (len(self.rows) != 1)}"
        table = f'<div class="scroll">{markup.table(self._cells())}</div>'
        return markup.shown(f"{count}, for images of {self.size} × {self.size} pixels", [table])

    def render(self, form: str) -> str:
        """Return the table as "text", "md" (Markdown), "csv" or "json".

        Raises:
            ConfigError: unknown format.
        """
        match form:
            case "text":
                return aligned(self._cells())
            case "md":
                return markdown(self._cells())
            case "csv":
                text = io.StringIO()
                writer = csv.DictWriter(text, [field.name for field in fields(ComparisonRow)], lineterminator="\n")
                writer.writeheader()
                writer.writerows(map(asdict, self.rows))
                return text.getvalue()
            case "json":
                return json.dumps({"size": self.size, "models": [asdict(row) for row in self.rows]}, indent=2) + "\n"
        raise ConfigError(one_of("format", form, FORMATS)[0])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Plot to a file (.png, .svg, .pdf).

        With training results: validation Dice over minutes, one curve per network, and best Dice over the peak memory
        of the training. Without: parameters against GFLOPs, one colour per architecture.

        Raises:
            ConfigError: matplotlib is not installed, or does not support the file extension.
            WriteError: the file cannot be written.
        """
        figure = require_plot(path)(figsize=(9, 6), layout="constrained")
        if self.trials:
            figure.set_size_inches(10, 5)
            draw(figure, self.trials)
        else:
            draw_costs(figure, self.rows, self.size)
        write_plot(figure, path)

    def _cells(self) -> list[list[str]]:
        measured = any(row.latency_ms is not None for row in self.rows)
        reached = ["Dice", "IoU", "minutes", "MiB of the run", "prediction / resunet18"] if self.trials else []
        table = [header(self.size) + (["ms", "peak MiB"] if measured else []) + reached]
        for row in self.rows:
            line = cells(row)
            if measured:
                line += [_number(row.latency_ms), _number(row.peak_mib)]
            if self.trials:
                line += [_number(row.dice, 4), _number(row.iou, 4), _number(row.minutes, 1)]
                line += [_number(row.training_mib), _number(row.times_resunet18, 2)]
            table.append(line)
        return table


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
