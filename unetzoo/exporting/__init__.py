"""Models as files that run without this library: ONNX, ``torch.export`` programs, AOTInductor packages."""

from unetzoo.exporting.outcome import (
    ExportReport as ExportReport,
    PictureAgreement as PictureAgreement,
    Port as Port,
    Trial as Trial,
)
from unetzoo.exporting.writing import export as export
