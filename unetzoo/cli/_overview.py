"""The output of ``unetzoo`` without a command: commands to copy, from a first image to a network of your own."""

from __future__ import annotations

from importlib.util import find_spec

from unetzoo import __version__, trained

STEPS = (
    ("see it work", "unetzoo demo", None),
    ("segment images", "unetzoo predict nuclei *.png --out masks --overlay", None),
    ("check your data", "unetzoo data check FOLDER", None),
    ("train on it", "unetzoo train --model resunet18 --data FOLDER --out runs/a", ("pytorch_lightning", "train")),
    ("test the result", "unetzoo evaluate runs/a --data FOLDER --split test --report report", None),
    ("use it", "unetzoo predict runs/a IMAGES --out masks", None),
    ("in the browser", "unetzoo serve runs/a", ("gradio", "demo")),
    ("in other programs", "unetzoo export runs/a model.onnx", ("onnx", "export")),
    ("other networks", "unetzoo compare '*resnet18' resunet18", None),
)
"""Purpose, command, and the package and extra that the command needs."""


def overview() -> str:
    """Return the text. FOLDER and IMAGES stand for the reader's own; missing extras are named."""
    lines = []
    for purpose, command, needs in STEPS:
        missing = f"  # needs: pip install 'unetzoo[{needs[1]}]'" if needs and find_spec(needs[0]) is None else ""
        lines.append(f"  {purpose:<19}{command}{missing}\n")
    return (
        f"unetzoo {__version__}: image segmentation with U-Net, UNet++ and UNet 3+\n\n"
        f"{''.join(lines)}\n"
        "FOLDER has images/ and masks/ with files of the same names; other layouts are recognised too.\n"
        f"Trained models that come with the package: {', '.join(trained.names())}.\n\n"
        "'unetzoo --help' lists all commands, and 'unetzoo COMMAND --help' lists the options of one.\n"
    )
