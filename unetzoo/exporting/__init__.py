"""Models as files that run without this library: ONNX, ``torch.export`` programs, AOTInductor packages."""

from unetzoo.exporting.outcome import (
    Check as Check,
    ExportReport as ExportReport,
    PictureAgreement as PictureAgreement,
    Port as Port,
)
from unetzoo.exporting.writing import export as export
