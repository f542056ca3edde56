"""Segment an image with an exported file, without unetzoo and torch: needs onnxruntime, NumPy and Pillow.

unetzoo export runs/nuclei nuclei.onnx --inputs uint8 --outputs mask
python examples/onnx_in_onnxruntime.py nuclei.onnx image.png mask.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def main(file: str, source: str, target: str) -> None:
    """Write the mask of ``source`` to ``target``."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    if (facts["inputs"], facts["outputs"]) != ("uint8", "mask"):
        sys.exit(f"{file} takes {facts['input']}; export it with --inputs uint8 --outputs mask")
    (image,) = session.get_inputs()
    print("in  ", facts["input"])
    print("out ", facts["output"])

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[image.shape[1]]
    pixels = np.asarray(Image.open(source).convert(mode))
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)  # (height, width, channels) to channels first
    (mask,) = session.run(None, {image.name: pixels[None]})[0]

    names = json.loads(facts["classes"]) or [f"class {k}" for k in range(int(facts["num_classes"]))]
    layers = (
        [mask == k for k in range(len(names))] if facts["task"] == "multiclass" else mask.reshape(-1, *mask.shape[-2:])
    )
    for name, layer in zip(names, layers, strict=True):
        print(f"{name}: {layer.mean():.1%} of the image")
    # Evenly spaced grey levels; where classes overlap, that of the last one.
    levels = mask if facts["task"] == "multiclass" else np.max([k * layer for k, layer in enumerate(layers, 1)], axis=0)
    highest = len(layers) - 1 if facts["task"] == "multiclass" else len(layers)
    Image.fromarray((levels * (255 // highest)).astype(np.uint8)).save(target)
    print(f"mask: {target}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
