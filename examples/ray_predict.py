"""Segment a folder of images with many processes or machines: ``python examples/ray_predict.py MODEL FOLDER OUT``.

Starts Ray on this machine, or joins the cluster at RAY_ADDRESS, whose machines must have FOLDER and OUT under the same
paths. Existing masks are kept: a worker that replaces a killed one, or a run that is started again, makes the others.
"""

import argparse
import os
import sys
from pathlib import Path

import ray

from unetzoo import Predictor
from unetzoo.errors import UnetzooError
from unetzoo.prediction.files import Job, Outputs, check_outputs, find_jobs, predict_files

SHARD = 8  # images that a worker gets at a time


class Worker:
    """A process that keeps the model and segments shards of the folder."""

    def __init__(self, predictor, outputs, settings):
        self.predictor, self.outputs, self.settings = predictor, outputs, settings

    def __call__(self, batch):
        """Write the missing masks of a shard; return the images that failed, and why."""
        jobs = [Job(Path(source), *map(str, names)) for source, *names in zip(*batch.values(), strict=True)]
        failed = predict_files(self.predictor, jobs, self.outputs, self.settings).failed
        return {"image": [str(path) for path in failed], "problem": list(failed.values())}


parser = argparse.ArgumentParser(description="Segment a folder of images with Ray.")
parser.add_argument("model", help="a .safetensors file, the folder of a run, or a repository of the Hub")
parser.add_argument("folder", help="folder of images; its sub-folders are searched too")
parser.add_argument("out", help="folder for the masks; each model needs its own")
parser.add_argument("--actors", type=int, default=2, help="number of processes, with one CPU each")
args = parser.parse_args()
outputs, settings = Outputs(Path(args.out).absolute()), {"model": args.model, "tile": 1024}
try:
    predictor = Predictor(**settings)  # tile="auto" would depend on the memory that each machine has free
    check_outputs(jobs := find_jobs([Path(args.folder).absolute()], inside=outputs.folder), outputs, predictor.config)
    predict_files(predictor, [], outputs, settings)  # refuses a folder of another model's masks before Ray starts
except UnetzooError as error:
    parser.error(str(error))
ray.init(**({} if "RAY_ADDRESS" in os.environ else {"num_cpus": args.actors, "object_store_memory": 2**28}))
gpus = ray.cluster_resources().get("GPU", 0)
rows = [{"source": str(job.source), "name": job.name, "image": job.image} for job in jobs]
results = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // SHARD)).map_batches(
    Worker,
    fn_constructor_args=(predictor, outputs, settings),
    batch_size=SHARD,
    compute=ray.data.ActorPoolStrategy(size=args.actors),
    num_gpus=1 / -(-args.actors // gpus) if gpus else None,
)
problems = sorted(f"{row['image']}: {row['problem']}" for row in results.iter_rows())
print(f"{len(jobs) - len(problems)} of {len(jobs)} images have their masks in {args.out}")
sys.exit("\n".join(problems) or 0)
