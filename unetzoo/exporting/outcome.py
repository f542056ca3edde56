"""The result of an export: sizes tried, differences, times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unetzoo.printing import printable


@dataclass(frozen=True)
class Port:
    """The one input, or the one output, of an exported file.

    Attributes:
        name: its name for runtimes.
        dtype: "uint8", "uint16", "int16" or "float32".
        shape: such as "(batch, 3, height, width)"; a dimension with a name is free.
        meaning: meaning of the values.
    """

    name: str
    dtype: str
    shape: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {self.shape}, {self.meaning}"


@dataclass(frozen=True)
class Check:
    """A batch that was run through the file, and through the model in float32, or the average of several.

    Attributes:
        batch, height, width: of the images.
        difference: largest difference of the logits, as a share of their spread. For a file that gives probabilities or
            masks, it is the smallest difference of logits that explains the output: a sigmoid has slopes up to 1/4, a
            softmax up to 1/2, and a class changes where its logit crosses another, or 0.
        agreement: share of the pixels whose mask is the same; of all classes together, if classes are independent.
        eager_ms, file_ms: milliseconds of the model (``model(images)``, not optimized) and of the file for the batch,
            median of three runs with the same number of threads.
    """

    batch: int
    height: int
    width: int
    difference: float
    agreement: float
    eager_ms: float
    file_ms: float


@dataclass(frozen=True)
class ImageAgreement:
    """How the masks of the file and of the model agree on given whole images, in tiles as prediction cuts them.

    Attributes:
        count: number of images.
        agreement: share of the pixels whose mask is the same, over all images.
        lowest: the same share on the image where it is lowest.
        iou: intersection over union of the two masks over all images, averaged over the classes; None if all masks are
            empty.
        share: share of the images' pixels that were compared: all, unless the images had more than 128 tiles.
    """

    count: int
    agreement: float
    lowest: float
    iou: float | None
    share: float = 1.0

    def __str__(self) -> str:
        iou = "–" if self.iou is None else f"{self.iou:.4f}"
        part = "" if self.share == 1 else f", {_percent(self.share)} of their pixels"
        return (
            f"{self.count} images{part}: the masks agree on {_percent(self.agreement)} of the pixels "
            f"({_percent(self.lowest)} on the worst), IoU {iou}"
        )


@dataclass(frozen=True)
class ExportReport:
    """What :func:`unetzoo.exporting.export` wrote, and how it compares with the model. ``str()`` is a table.

    Attributes:
        path: the file.
        format: "onnx", "pt2", "aoti" or "bioimageio".
        precision: of weights and arithmetic in the file.
        size_bytes: size of the file.
        seconds: time for exporting and comparing.
        input, output: input and output of the file.
        checks: three batches of different sizes, with odd ones among them unless the size is fixed.
        images: agreement on the given images; None without images.
    """

    path: str
    format: str
    precision: str
    size_bytes: int
    seconds: float
    input: Port
    output: Port
    checks: tuple[Check, ...]
    images: ImageAgreement | None

    def __str__(self) -> str:
        rows = [("images", "difference", "same mask", "eager, ms", "file, ms")]
        rows += [
            (
                f"{check.batch} × {check.height} × {check.width}",
                f"{check.difference:.1e}",
                _percent(check.agreement),
                f"{check.eager_ms:.1f}",
                f"{check.file_ms:.1f}",
            )
            for check in self.checks
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        size = f"{self.size_bytes / 1e6:.1f} MB"
        lines = [
            f"{printable(self.path)}: {self.format}, {self.precision}, {size}, in {self.seconds:.0f} s",
            f"in   {self.input}",
            f"out  {self.output}",
            *("  ".join(map(str.rjust, row, widths)) for row in rows),
        ]
        return "\n".join([*lines, *([] if self.images is None else [str(self.images)])])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as values for JSON."""
        return asdict(self)


def _percent(share: float) -> str:
    """Return a share as per cent, never rounded up to 100 %."""
    return "100 %" if share == 1 else f"{min(share, 0.99999):.3%}".replace("%", " %")
