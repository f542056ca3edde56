"""Segment an image that is larger than memory: ``python examples/big_image.py MODEL slide.tif mask.tif``.

The image, a TIFF or a zarr array, is read by rows, and the mask, a .tif or .zarr, is written by rows. So only one row
of tiles is in memory, whatever the height. After a kill, the same command continues after the last finished rows.
Needs pip install "unetzoo[big]". ``unetzoo predict MODEL slide.tif --out masks --tile 1024`` does the same.
"""

import argparse
import resource
import sys

from unetzoo import Predictor

parser = argparse.ArgumentParser(description="Segment an image by rows of tiles.")
parser.add_argument("model", help="a trained model's name, a .safetensors file, the folder of a run, hf-hub:owner/name")
parser.add_argument("image", help="a .tif or .zarr of any size")
parser.add_argument("mask", help="a .tif or .zarr")
parser.add_argument("--tile", type=int, default=1024, help="side in pixels, including overlap (default: 1024)")
args = parser.parse_args()

Predictor(args.model, tile=args.tile).write_mask(args.image, args.mask, progress=True)
unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(f"{args.mask}: {peak / 2**20:.0f} MiB of memory at the peak")
