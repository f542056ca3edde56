"""``unetzoo predict``. Parses first and imports late."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetzoo.cli._options import (
    PLANES,
    PLANES_HELP,
    SEVERAL,
    TILE_HELP,
    add_range,
    add_slides,
    asked_of_objects,
    note_of,
    numbers,
    pixels_or,
    slides_of,
    threshold,
    words,
)
from unetzoo.cli._wording import Wording
from unetzoo.errors import ConfigError
from unetzoo.extras import check_installed
from unetzoo.printing import counted, printable, said_of

if TYPE_CHECKING:
    from unetzoo.prediction.files import Outcome, Outputs, Report


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "predict",
        help="segment images of any size",
        description="Segment images, and write their masks under the images' names (PNG, or TIFF and zarr for these). "
        "Images that have a mask are skipped, unless they have changed since. An image that cannot be read does not "
        "stop the others: it is reported at the end, and the exit status is 1.",
    )
    command.add_argument("model", help=SEVERAL)
    command.add_argument("images", nargs="+", metavar="IMAGE", help="images, or folders of images")
    command.add_argument("--out", default="masks", metavar="FOLDER", help="folder for the masks (default: masks)")
    command.add_argument(
        "--overlay", nargs="?", const="filled", choices=("filled", "outline"),
        help="also write overlays/: the images with their masks drawn on them, filled (default) or as outlines; with "
        "--split, or a model that separates objects, neighbouring objects differ in colour",
    )  # fmt: skip
    command.add_argument(
        "--probabilities", action="store_true", help="also write probabilities/: .npy, (classes, height, width) float32"
    )
    command.add_argument(
        "--write", type=words, default=(), metavar="FORMAT,…",
        help="also write the objects for correction in other tools, one folder per format: coco, geojson, labelme, "
        "labels (label images), nifti (label images as .nii.gz; also needs unetzoo[medical]), rois (ImageJ; also needs "
        "unetzoo[annotations]) or yolo; several separated by commas; needs unetzoo[objects]",
    )  # fmt: skip
    views = "test-time augmentation: none, flips or d4 (flips and rotations) (default: none)"
    command.add_argument("--tta", metavar="VIEWS", help=views)
    command.add_argument(
        "--scales", type=numbers, default=[1.0], metavar="S,…",
        help="average over the image at these scales, such as 0.75,1,1.25 (default: 1)",
    )  # fmt: skip
    command.add_argument(
        "--tile", type=pixels_or("auto", "none"), default="auto", metavar="PIXELS", help=TILE_HELP,
    )  # fmt: skip
    command.add_argument(
        "--overlap", type=_share_or_pixels, default=0.25, metavar="N",
        help="overlap of the tiles: a fraction of their side such as 0.25, a number of pixels, or full, which gives "
        "the same result as the whole image (default: 0.25)",
    )  # fmt: skip
    command.add_argument(
        "--merge", default="probabilities", metavar="WHAT",
        help="what is averaged over tiles, views and models: probabilities or logits (default: probabilities)",
    )  # fmt: skip
    command.add_argument(
        "--threshold", type=threshold, metavar="P",
        help="probability above which a pixel belongs to a class: one number, or one per class separated by commas; or "
        "the file that 'unetzoo calibrate' wrote (default: 0.5)",
    )  # fmt: skip
    _add_objects(command)
    add_slides(command)
    add_range(command)
    command.add_argument("--planes", choices=PLANES, help=f"{PLANES_HELP}; split writes one mask per plane")
    _add_running(command)
    command.set_defaults(run=_predict, writes=("table", "counts"))


def _add_running(command: argparse.ArgumentParser) -> None:
    """Add the options that define how it is run, which change no mask but by rounding."""
    command.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="type to compute in (default: float32)"
    )
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    command.add_argument("--overwrite", action="store_true", help="segment all images again, and replace their masks")
    command.add_argument("--json", action="store_true", help="print one line of JSON per image")


def _add_objects(command: argparse.ArgumentParser) -> None:
    """Add the options that define objects."""
    command.add_argument(
        "--smallest",
        type=int,
        metavar="PIXELS",
        help="leave out connected parts of masks with fewer pixels, before --split separates objects, which may be "
        "smaller; needs SciPy",
    )
    command.add_argument(
        "--holes",
        type=pixels_or("all"),
        default=0,
        metavar="PIXELS",
        help="fill holes of up to this many pixels, or all; needs SciPy",
    )
    command.add_argument(
        "--table", metavar="FILE.csv",
        help="also write a table with one row per object of all images: class, area, position, shape and intensities "
        "of each channel, under scikit-image's names, also in µm where the pixel size is known; needs scikit-image",
    )  # fmt: skip
    command.add_argument(
        "--counts",
        metavar="FILE.csv",
        help="also write a table with one row per image, also for those without objects: how many objects it has, "
        "their area and share of the image, in µm² and per mm² where the pixel size is known; needs unetzoo[objects]",
    )
    command.add_argument(
        "--split", type=float, metavar="PIXELS",
        help="separate touching objects where the neck between them is narrower than both by more than this, in "
        "half-widths, such as 1.5; masks do not change; needs scikit-image (default: 1 for a model trained with --task "
        "instances, else 0: each connected component is an object)",
    )  # fmt: skip


def _predict(options: argparse.Namespace) -> int | None:
    filtered = bool(options.smallest or options.holes)
    check_installed(
        asked_of_objects(split=options.split, filtered=filtered, table=options.table, counts=options.counts)
    )
    import torch

    from unetzoo.devices import reuse_memory
    from unetzoo.prediction import Predictor, files
    from unetzoo.saving.sources import separated

    reuse_memory()
    # A warning of Pillow about large images: they are read by rows, or refused.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    table, counts = (None if path is None else Path(path) for path in (options.table, options.counts))
    outputs = files.Outputs(
        Path(options.out),
        options.overlay is not None,
        options.probabilities,
        options.write,
        table,
        options.overlay == "outline",
        counts,
    )
    outputs.writers()  # raises an error before any work
    _check_order(options.model, options.images)
    asked = slides_of(options)
    jobs = files.find_jobs(options.images, inside=outputs.folder, planes=options.planes, slides=asked)
    as_slides = bool({*asked.values()} - {None}) and any(job.slide is not None for job in jobs)
    predictor = Predictor(
        separated(options.model),
        device=options.device,
        tile=options.tile,
        overlap=options.overlap,
        tta=options.tta,
        scales=options.scales,
        merge=options.merge,
        threshold=options.threshold,
        smallest=options.smallest,
        holes=options.holes,
        split=options.split,
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        intensity_range=options.intensity_range,
    )
    note = note_of(predictor, options.threshold, options.smallest, options.split, options.tta)
    if note is not None:
        print(note, file=sys.stderr)
    with _Shown(len(jobs), options) as shown:
        report = files.predict_files(
            predictor,
            jobs,
            outputs,
            {**predictor.settings(), "planes": options.planes, "slides": asked if as_slides else None},
            overwrite=options.overwrite,
            tell=shown.tell,
        )
    written = outputs.of_model(predictor.config, predictor.split)
    _summarise(report, written, options, shown.objects if written.formats else None)
    return 1 if report.failed else None


def _check_order(model: str, images: Sequence[str]) -> None:
    """Raise if the model comes after the images; otherwise the message would be about a missing image.

    Raises:
        ConfigError: gives the words in the right order.
    """
    from unetzoo import trained
    from unetzoo.images import is_image
    from unetzoo.saving.records import model_in

    last, first = images[-1], Path(model)
    named = (last in trained.names() and not Path(last).exists()) or last.endswith(".safetensors")
    is_model = named or (Path(last).is_dir() and model_in(Path(last)) is not None)
    if is_model and ((first.is_file() and is_image(model)) or (first.is_dir() and model_in(first) is None)):
        words = " ".join(printable(word) for word in (last, model, *images[:-1]))
        raise ConfigError(f"the model comes first, then images: unetzoo predict {words}")


class _Shown:
    """Reports the outcome of each image: as lines of JSON, or as a progress bar on a terminal."""

    def __init__(self, count: int, options: argparse.Namespace) -> None:
        from huggingface_hub.utils.tqdm import tqdm

        self.as_json, self.wording = options.json, options.wording
        self.objects = 0
        quiet = self.as_json or not sys.stderr.isatty()
        self.bar: Any = tqdm(total=count, unit="image", disable=quiet)  # type: ignore[no-untyped-call]

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def tell(self, outcome: Outcome) -> None:
        if outcome.rows is not None:
            name = printable(outcome.job.source.name)
            self.bar.set_postfix_str(f"{name}: row {outcome.rows[0]:,} of {outcome.rows[1]:,}")
            if outcome.rows[0] < outcome.rows[1]:
                return
        self.bar.update()
        self.objects += outcome.objects or 0
        if outcome.background is not None and not self.as_json:
            said = f"{printable(outcome.job.source.name)}: {outcome.background:.0%} is not tissue and is skipped"
            self.bar.write(f"{said} (--background keep segments it)", file=sys.stderr)
        if outcome.shrunk is not None and outcome.shrunk > 1 and not self.as_json:
            from unetzoo.prediction.overlay_by_rows import scale_said

            size = scale_said(outcome.shrunk, outcome.microns)
            said = f"{printable(outcome.job.source.name)}: a pixel of the overlay is {size}"
            self.bar.write(said, file=sys.stderr)
        if self.as_json:
            print(json.dumps(_record(outcome, self.wording)), flush=True)


def _record(outcome: Outcome, wording: Wording) -> dict[str, Any]:
    """Return the JSON record of an image."""
    record: dict[str, Any] = {"image": str(outcome.job.source)}
    if outcome.error is not None:
        return {**record, "status": "failed", "error": wording(outcome.error)}
    new = outcome.found is not None or outcome.rows is not None
    record |= {"status": "segmented" if new else "there already", "mask": outcome.job.name}
    record |= {"corrected": True} if outcome.corrected else {}
    if outcome.found is not None:
        record |= {"size": list(outcome.found.mask.shape[-2:]), "shares": outcome.found.shares()}
    if outcome.background is not None:
        record["background"] = round(outcome.background, 4)
    if outcome.shrunk is not None:
        record["overlay_pixel"] = round(outcome.shrunk, 4)
    if outcome.objects is not None:
        record["objects"] = outcome.objects
    return record


def _summarise(report: Report, written: Outputs, options: argparse.Namespace, objects: int | None) -> None:
    for line in said_of((str(path), f": {options.wording(problem)}") for path, problem in report.failed.items()):
        print(f"unetzoo: {printable(line)}", file=sys.stderr)
    if options.json:
        return
    parts = [f"{len(report.done)} segmented"]
    parts += [] if objects is None or not report.done else [f"{counted(objects, 'object')} in them"]
    hand = f" ({len(report.corrected)} corrected by hand)" if report.corrected else ""
    parts += [f"{len(report.skipped)} there already{hand}"] if report.skipped else []
    parts += [f"{len(report.failed)} failed"] if report.failed else []
    places = written.places() if report.done or report.skipped else {}
    others = "".join(f"; {kind} in {printable(path)}" for kind, path in places.items())
    print(f"masks in {printable(written.folder)}: {', '.join(parts)}{others}")


def _share_or_pixels(text: str) -> float | int | str:
    if text == "full":
        return text
    return int(text) if text.isdigit() else float(text)


_share_or_pixels.__name__ = "fraction, a number of pixels, or full"
