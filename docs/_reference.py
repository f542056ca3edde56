"""The reference: on the built site by autodoc, and on GitHub as a list of names with what each does and where it is."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import unetzoo

FIRST = (
    *("saving.sources", "zoo", "model", "config", "comparing.comparison", "comparing.table", "parameter_groups"),
    *("encoders", "decoders"),
)
"""Modules of public names that come first."""
SPOKEN_OF = {
    "comparing.table": ("ComparisonRow",),
    "encoders": ("EncoderSpec", "Options"),
    "decoders": ("Pruned",),
}
"""Module → what its public names speak of."""
MODULES = {
    "For parts of your own: `unetzoo.nn`": (
        "nn.convolutions.ConcatConv: forward",
        "nn.convolutions.Upsampled",
        "nn.convolutions.Activated",
        "nn.resampling.upsample_conv",
        "nn.resampling.resize",
        "nn.layers.Foldable: foldable",
    ),
    "Data: `unetzoo.data`": (
        "data.Labels",
        "data.Sample",
        "data.object_ids.ObjectIds: read",
        "data.find_samples",
        "data.list_samples",
        "data.check",
        "data.Listing",
        "data.SplitReport",
        "data.ObjectsReport",
        "data.Histogram",
        "data.DataReport: raise_for_problems, to_dict, write_html",
        "data.convert",
        "data.preview",
        "data.SegmentationDataset: targets, sizes",
        "data.edges.edges_of",
        "augmentation.build",
        "augmentation.Augmentation: describe",
        "drawing.draw_nuclei",
        "drawing.write_shapes",
    ),
    "Annotations: `unetzoo.data.annotations`": (
        "data.annotations.read",
        "data.annotations.register_annotation_format",
        "data.annotations.Document",
        "data.annotations.Drawing: fingerprint",
        "data.annotations.Annotation",
        "data.annotations.AnnotationFormat",
        "data.annotations.Region: pixels, fingerprint",
        "data.annotations.Part: slices",
        "data.annotations.Polygons",
        "data.annotations.Pixels",
        "data.annotations.MaskFile",
    ),
    "Losses: `unetzoo.losses`": (
        "losses.Loss: forward, parts",
        "losses.SingleLoss",
        "losses.Sum",
        "losses.build",
        "losses.register_loss",
        "losses.DeepSupervision: forward, parts",
        "losses.class_weights_from",
        "losses.LabelledData",
    ),
    "Checks of your own parts: `unetzoo.testing`": (
        "testing.check_decoder",
        "testing.check_encoder",
        "testing.check_loss",
        "testing.check_annotation_format",
        "testing.ContractError",
    ),
    "Metrics: `unetzoo.metrics`; settings of a run": (
        "metrics",
        *(f"metrics.{name}: *" for name in ("SegmentationMetrics", "Scores", "ClassScores", "ImageScores")),
        "evaluation.settings_of_run",
        "evaluation.object_trials.Separation",
    ),
    "Training: `unetzoo.train`": (
        "train.Recipe",
        "train.FolderData",
        "train.Facts",
        "train.run_callbacks",
        "train.WholeFiles",
        "train.run_trials",
        "train.Clock",
        "trials.TrainingTrial: best, minutes, to_dict",
        "trials.Epoch",
        "trials.read_trials",
    ),
    "Exports: `unetzoo.exporting`": (
        "exporting.About",
        "exporting.Port",
        "exporting.Check",
        "exporting.ImageAgreement",
    ),
    "Objects: `unetzoo.objects`": (
        "objects",
        "objects.cleaned",
        "objects.instances",
        "objects.Instances: rows",
        "objects.matched",
        "objects.ObjectScores: true, found, met, pooled, per_image, row, to_dict",
        "objects.ClassObjects: pooled, per_image",
        "objects.table",
        "objects.counts",
        "objects.polygons",
        "objects.to_geojson",
        "objects.to_coco",
        "objects.to_labelme",
        "objects.to_rois",
        "objects.to_yolo",
        "objects.register_writer",
        "objects.Writer: *",
        "objects.Annotated: *",
    ),
    "A page: `unetzoo.serving`": ("serving.serve", "serving.Limits: check"),
}
"""Title → what else is documented; behind a colon the members of a class that are, a * for all."""


def sections() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each section's title and entries: the public names by their modules, then the other modules."""
    homes = sorted(unetzoo._HOMES, key=lambda home: FIRST.index(home) if home in FIRST else len(FIRST))
    for home in homes:
        if importlib.util.find_spec(f"unetzoo.{home}") is not None:
            names = (*unetzoo._HOMES[home], *SPOKEN_OF.get(home, ()))
            yield f"`unetzoo.{home}`", tuple(f"{home}.{name}: *" for name in names)
    yield from MODULES.items()


def found(entry: str) -> tuple[str, Any, str]:
    """Return the full name, the object and the members of an entry."""
    name, _, members = entry.partition(":")
    if importlib.util.find_spec(f"unetzoo.{name.partition('.')[0]}") and "." not in name:
        return f"unetzoo.{name}", importlib.import_module(f"unetzoo.{name}"), ""
    home, _, last = name.rpartition(".")
    return f"unetzoo.{name}", getattr(importlib.import_module(f"unetzoo.{home}"), last), members.strip()


def autodoc() -> str:
    """Return autodoc's directives for every entry."""
    parts = []
    for title, entries in sections():
        parts.append(f"## {title}\n")
        for entry in entries:
            full, value, members = found(entry)
            options = ""
            if isinstance(value, ModuleType):
                kind = "automodule"
            elif inspect.isclass(value):
                kind = "autoexception" if issubclass(value, Exception) else "autoclass"
            else:
                kind = "autofunction"
            if members and kind == "autoclass":
                # Decoder.Options is the class Options, which has an entry of its own.
                everything = members == "*"
                options = "   :members:\n   :exclude-members: Options\n" if everything else f"   :members: {members}\n"
            parts.append(f"```{{eval-rst}}\n.. {kind}:: {full}\n{options}```\n")
    return "\n".join(parts)


def overview() -> str:
    """Return a list of every entry: its name, the first line of its docstring, and a link to its source."""
    lines = []
    for title, entries in sections():
        lines.append(f"\n## {title}\n")
        for entry in entries:
            full, value, _ = found(entry)
            if isinstance(value, ModuleType):
                continue
            short = full.removeprefix("unetzoo.")
            shown = f"unetzoo.{short.rpartition('.')[2]}" if title == f"`unetzoo.{short.rpartition('.')[0]}`" else full
            first = re.sub(r"``(.*?)``", r"`\1`", " ".join((value.__doc__ or "").strip().split("\n\n")[0].split()))
            lines.append(f"- [`{shown}`]({source(value)}): {first}")
    return "\n".join(lines)


def source(value: Any) -> str:
    """Return where a class or a function is defined, as a link from ``docs/``."""
    root = Path(unetzoo.__file__).resolve().parent.parent
    return f"../{Path(inspect.getfile(inspect.unwrap(value))).resolve().relative_to(root).as_posix()}"
