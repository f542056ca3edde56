"""The start-up time compared with ``import torch``: ``python examples/benchmarks/import_time.py``.

It measures imports, the list of names, and a first mask by a trained model for a drawn image of 256². Each runs in a
separate process, alternately, and the medians are compared.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image

from unetzoo.drawing import draw_nuclei

CASES = (
    ("-c", "import torch"),
    ("-c", "import torch, unetzoo"),
    ("-c", "import torch, unetzoo; unetzoo.list_models()"),
    ("-c", "import torch, unetzoo; unetzoo.create('resunet18')"),
    ("-m", "unetzoo", "list"),
    ("-m", "unetzoo", "predict", "nuclei", "image.png", "--out", "masks", "--overwrite"),
)

times: dict[tuple[str, ...], list[float]] = {case: [] for case in CASES}
with tempfile.TemporaryDirectory() as folder:
    Image.fromarray(draw_nuclei(256, 256)[0].permute(1, 2, 0).numpy()).save(Path(folder, "image.png"))
    for _ in range(7):
        for case, found in times.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *case], check=True, cwd=folder, capture_output=True)
            found.append(time.perf_counter() - start)
base = median(times[CASES[0]])
for case, found in times.items():
    said = case[1] if case[0] == "-c" else " ".join(case[1:])
    print(f"{said:66} {median(found):6.2f} s  +{median(found) - base:.2f} s  ({median(found) / base:.2f} ×)")
