"""What is there already of an image's outputs: nothing, all of them, or masks that somebody corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unetzoo import images
from unetzoo.config import ModelConfig
from unetzoo.errors import InputError
from unetzoo.files import identity
from unetzoo.prediction.finished import check_corrected, label_images
from unetzoo.prediction.jobs import is_by_rows
from unetzoo.prediction.ledger import Ledger
from unetzoo.prediction.marks import Mark, is_cut_off, mark_in
from unetzoo.prediction.outputs import Job, Outputs, mask_paths
from unetzoo.prediction.predictor import Predictor
from unetzoo.prediction.results import shows_objects
from unetzoo.prediction.stored import SUFFIXES, is_big
from unetzoo.printing import printable

SIZE = "size"
"""Entry in the marks of masks: the size that was given for images whose files state none, in pm a pixel."""


@dataclass(frozen=True)
class There:
    """All outputs of an image.

    Attributes:
        corrected: whether somebody changed its masks, or the label images that tell its objects apart.
    """

    corrected: bool


def found_there(
    job: Job, outputs: Outputs, predictor: Predictor, made_under: Mapping[str, int], ledger: Ledger
) -> There | None:
    """Return the outputs of an image, if they all exist, are complete, and belong to the image as it is now.

    An ``overwrite`` that ended early, or that was given only some of the images, leaves masks of earlier settings next
    to its own: their marks show that these have to be done again. A mask that was corrected has no mark: whether its
    image has changed since is not known.

    Raises:
        InputError: an existing file belongs to another image; or it was corrected, and cannot be measured, or not all
            outputs are there.
    """
    config, split = predictor.config, predictor.split
    mask, others = outputs.mask(job), outputs.others(job, config)
    masks = mask_paths(mask, config)
    if (job.slide is not None or job.source.suffix.lower() in SUFFIXES) and mask.exists():
        masks = [mask]  # one file, written by rows
    marks = {path: mark_in(path) for path in masks if path.exists()}
    stranger = [path for path, mark in marks.items() if mark is not None and mark.place != identity.place(job.source)]
    stranger += [path for paths in others.values() for path in paths if path.exists() and mark_in(path) is not None]
    if stranger:
        raise InputError(
            f"{printable(stranger[0])} exists and belongs to another image: give another out=…, or overwrite=True"
        )
    lacking = [path for path in (*masks, *(path for paths in others.values() for path in paths)) if not path.exists()]
    corrected = [path for path, mark in marks.items() if mark is None and _is_whole(path)]
    if corrected and lacking:
        what = "was changed since it was written, perhaps corrected by hand"
        raise InputError(
            f"{printable(corrected[0])} exists and {what}, and {printable(lacking[0])} is missing, which belongs to "
            "the mask before: leave that output out, move the mask away, or give overwrite=True"
        )
    if corrected:
        check_corrected(job, outputs, config, corrected)
        return There(corrected=True)
    try:
        now = Mark.of(job.source)
    except OSError:
        return None  # reading it will report why
    if lacking or not all(mark is not None and mark.same_image(now) for mark in marks.values()):
        return None
    wanted = {**sizes_of(job, others, outputs, config, split), **made_under}
    redrawn = [path for path in label_images(job, outputs, config) if ledger.is_changed(path)]
    if redrawn:
        del wanted["labels"]
    if not all(_fits(mark, wanted, made_under) for mark in marks.values() if mark is not None):
        return None
    if redrawn:
        check_corrected(job, outputs, config, redrawn)
    return There(corrected=bool(redrawn))


def _fits(mark: Mark, wanted: Mapping[str, int], made_under: Mapping[str, int]) -> bool:
    """Return whether a mask was made as it would be now; marks of earlier versions do not record the settings.

    A mask without a size contradicts none that is given later; one with a size is made again without.
    """
    same_size = mark.others.get(SIZE) in (None, made_under.get(SIZE))
    return same_size and wanted.items() <= {**made_under, **mark.others}.items()


def sizes_of(
    job: Job, others: dict[str, list[Path]], outputs: Outputs, config: ModelConfig, split: float
) -> dict[str, int]:
    """Return the sizes in bytes of the files written with a mask, by the names that its mark uses for them."""
    objects = shows_objects(config, split) and not is_by_rows(job)
    return {outputs.marked(kind, objects): sum(path.stat().st_size for path in paths) for kind, paths in others.items()}


def _is_whole(path: Path) -> bool:
    """Return whether a file is a mask that can be read."""
    if path.is_dir():
        return True
    if is_cut_off(path):
        return False
    if is_big(path):
        return True
    try:
        images.read_values(path)
    except InputError:
        return False
    return True
