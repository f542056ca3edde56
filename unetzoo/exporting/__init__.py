"""Models as files that run without this library: ONNX, ``torch.export`` programs, AOTInductor packages, BioImage.IO."""

from unetzoo.exporting.about import About as About
from unetzoo.exporting.outcome import (
    Check as Check,
    ExportReport as ExportReport,
    ImageAgreement as ImageAgreement,
    Port as Port,
)
from unetzoo.exporting.writing import export as export
