"""Train networks on your data with the same settings, and compare them: Dice, time, memory.

    python examples/choose_architecture.py --data nuclei --epochs 8 --crop-size 128 --lr 2e-3

Options that this program does not have are passed to ``unetzoo train``. If you stop it, the same command continues.
``unetzoo compare --results runs/choice/results.json`` prints the table again later.
"""

import argparse
from pathlib import Path

import unetzoo
from unetzoo.train import run_trials

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
)
parser.add_argument("--models", nargs="+", default=["*_resnet18"], metavar="NAME", help="names, or wildcards")
parser.add_argument("--out", default="runs/choice", metavar="FOLDER", help="for the runs and the results")
parser.add_argument(
    "--import", dest="imports", action="append", default=[], metavar="MODULE", help="module with your own parts"
)
options, settings = parser.parse_known_args()
try:
    results = run_trials(options.models, settings, options.out, imports=options.imports)
    table = unetzoo.compare(results=results)
    print(table)
    table.plot(Path(options.out) / "choice.svg")
except unetzoo.UnetzooError as error:
    raise SystemExit(f"{parser.prog}: {error}") from error
print(f"results: {results}; plot: {Path(options.out) / 'choice.svg'}")
