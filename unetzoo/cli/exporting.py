"""``unetzoo export``. Parses first and imports late."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from unetzoo.cli._options import SEVERAL, sides
from unetzoo.extras import check_installed


def add(commands: Any) -> None:
    """Add ``export`` to the commands of the command line."""
    command = commands.add_parser(
        "export",
        help="export a trained network to ONNX, torch.export or BioImage.IO",
        description="Write a saved model as a file that runs without unetzoo, compare its output with the model's, and "
        "print how well they agree. The file extension sets the format: .onnx (needs pip install 'unetzoo[export]'), "
        ".pt2 (torch.export), .aoti.pt2 (compiled for this kind of processor) or .zip (a BioImage.IO package for Fiji, "
        "QuPath, ilastik and napari; needs pip install 'unetzoo[bioimageio]', --author, and --license unless the model "
        "card states a license). It takes from seconds to minutes.",
    )
    command.add_argument("source", metavar="MODEL", help=SEVERAL)
    command.add_argument("target", metavar="TARGET", help="the file to write: .onnx, .pt2, .aoti.pt2 or .zip")
    command.add_argument(
        "--for",
        dest="consumer",
        metavar="PROGRAM",
        help="qgis: an .onnx for the QGIS plugin Deepness, with the metadata that it reads; --inputs is then the pixel "
        "type of the rasters: uint8, uint16, int16, uint32, int32 or float32 (default: that of training, or uint8)",
    )
    command.add_argument(
        "--resolution",
        type=float,
        metavar="CM",
        help="with --for qgis: the pixel size of the training images in centimetres",
    )
    command.add_argument(
        "--inputs",
        metavar="KIND",
        help="input of the exported network: normalised (float32), or uint8, uint16 or int16 (pixels as stored, which "
        "the network normalises) (default: normalised; for a package the type used in training, or uint8)",
    )
    command.add_argument(
        "--outputs",
        metavar="KIND",
        help="output of the exported network: logits, probabilities or mask (default: logits; for a package "
        "probabilities)",
    )
    command.add_argument(
        "--precision",
        default="float32",
        metavar="TYPE",
        help="float32, float16, bfloat16 (only .pt2) or int8 (only .onnx) (default: float32)",
    )
    command.add_argument(
        "--images",
        metavar="PATH",
        help="a folder of images, or one image, on which to compare masks; int8 needs them to set its value ranges",
    )
    command.add_argument(
        "--size",
        type=sides,
        metavar="HEIGHTxWIDTH",
        help="accept only images of this size; one number for a square (default: any size)",
    )
    _add_about(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_export, writes=("target",))


def _add_about(command: argparse.ArgumentParser) -> None:
    """Add the options about the contents of a package."""
    command.add_argument(
        "--author",
        dest="authors",
        action="append",
        default=[],
        metavar="NAME",
        help="author of a package; may be repeated",
    )
    command.add_argument(
        "--license", metavar="NAME", help="license of a package, as its SPDX identifier: MIT, CC-BY-4.0, …"
    )
    command.add_argument(
        "--cite",
        dest="citations",
        action="append",
        default=[],
        metavar="TEXT",
        help="citation for a package, with a DOI or a link; may be repeated",
    )


def _export(options: argparse.Namespace) -> None:
    needs = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".zip": ("bioimageio",)}
    suffix = Path(options.target).suffix.lower()
    check_installed([(package, f"a file that ends in {suffix}") for package in needs.get(suffix, ())])
    from unetzoo.exporting import About, export
    from unetzoo.saving.sources import separated

    about = About(authors=options.authors, license=options.license, citations=options.citations)
    print(f"exporting {options.source} and comparing the result …", file=sys.stderr)
    report = export(
        separated(options.source),
        options.target,
        inputs=options.inputs,
        outputs=options.outputs,
        precision=options.precision,
        images=options.images,
        consumer=options.consumer,
        resolution=options.resolution,
        size=(options.size, options.size) if isinstance(options.size, int) else options.size,
        about=about,
    )
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
