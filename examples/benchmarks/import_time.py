"""How much ``import unetzoo`` adds to ``import torch``: ``python examples/benchmarks/import_time.py``.

Each import runs in a process of its own, alternating, and the medians are compared.
"""

import subprocess
import sys
import time
from statistics import median


def seconds(statement: str) -> float:
    """Return how long a fresh Python takes to run ``statement``."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


cases = {
    "import torch": [],
    "import torch, unetzoo": [],
    "import torch, unetzoo; unetzoo.list_models()": [],
    "import torch, unetzoo; unetzoo.create('resunet18')": [],
}
for _ in range(7):
    for statement, times in cases.items():
        times.append(seconds(statement))
base = median(cases["import torch"])
for statement, times in cases.items():
    print(f"{statement:52} {median(times):6.2f} s  +{median(times) - base:.2f} s  ({median(times) / base:.2f} ×)")
