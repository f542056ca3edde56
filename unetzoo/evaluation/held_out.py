"""Chooses the images on which a model is evaluated: those of a split, without images that it has seen.

Images that the model was trained on are refused; images that it was validated on, to choose its best epoch, get a
warning. The images that its initial model has seen count, too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetzoo import trained
from unetzoo.data.listing import Listing, Sample, Source, title_of
from unetzoo.data.record import BEFORE, CHOSEN, FILE, DataRecord, Place, file_of, fingerprints, places
from unetzoo.data.remarks import FEW
from unetzoo.data.splitting import NAMES, divide, group_keys, lacks_val
from unetzoo.errors import ConfigError
from unetzoo.prediction import Predictor
from unetzoo.printing import counted
from unetzoo.saving.folds import fold_folder, folds_in
from unetzoo.saving.records import CARD_FILE

SHOWN = 5
"""Largest number of images that a message names."""

_logger = logging.getLogger("unetzoo")


@dataclass(frozen=True)
class Seen:
    """What is known about the data that models have seen.

    Attributes:
        models: name of the models in messages.
        records: the lists of data of the models that have one.
        missing: the models that have none.
        folds: the folder of folds, if the models are all of its folds.
    """

    models: str
    records: tuple[DataRecord, ...]
    missing: tuple[str, ...]
    folds: Path | None = None

    @property
    def elsewhere(self) -> str:
        """Where to find the scores of the images that each fold held out."""
        return "" if self.folds is None else f"; {self.folds / CARD_FILE} has the scores on each fold's held-out images"


def seen_by(predictor: Predictor) -> Seen:
    """Return what is known about the data of a predictor's models.

    Raises:
        ConfigError: a list of data cannot be read.
    """
    return seen_at(
        [("the model" if origin is None else trained.title_of(origin), origin) for origin in predictor.origins]
    )


def seen_at(models: Sequence[tuple[str, Path | None]]) -> Seen:
    """Return what is known about the data of models.

    Args:
        models: name of each in messages, and its file or folder, if it has one.

    Raises:
        ConfigError: a list of data cannot be read.
    """
    found: list[tuple[str, DataRecord | None]] = []
    for name, origin in models:
        path = None if origin is None else record_file(origin)
        found.append((name, DataRecord.read(path) if path is not None and path.is_file() else None))
    return Seen(
        " and ".join(dict.fromkeys(name for name, _ in found)),
        tuple(record for _, record in found if record is not None),
        tuple(dict.fromkeys(name for name, record in found if record is None)),
        _folder_of_folds([origin for _, origin in models]),
    )


def _folder_of_folds(origins: Sequence[Path | None]) -> Path | None:
    """Return the folder of folds if the models are exactly all of its folds, else None."""
    folders = {None if origin is None else origin.parent for origin in origins}
    folder = folders.pop() if len(folders) == 1 else None
    whole = folder is not None and len(origins) > 1 and {*origins} == {fold_folder(folder, k) for k in folds_in(folder)}
    return folder if whole else None


def tell(run: DataRecord, seen: Seen) -> None:
    """Log which held-out images of a run have been seen by the run's initial model.

    Args:
        run: the images that the run trains, validates and tests on.
        seen: the data that the initial model has seen.
    """
    for model in seen.missing:
        _logger.warning(
            "no %s says what %s was trained on: it may have seen the validation or test images of this run",
            FILE,
            model,
        )
    fix = "to hold them out, give ratios=…, seed=… and group=… as in that training, or leave these images out"
    for split in ("val", "test"):
        prints = {name: pair.image for name, pair in run.splits[split].items()}
        known = _places(prints, seen, before=True)
        learned = [name for name, place in known.items() if place.split in ("train", BEFORE)]
        chosen = [name for name, place in known.items() if place.split in ("val", CHOSEN) and split == "test"]
        if learned:
            _warn(learned, prints, split, f"were trained on by {seen.models} ({fix})")
        if chosen:
            _warn(chosen, prints, split, f"were used to validate {seen.models} and to choose its best epoch ({fix})")


def choose(
    source: Source,
    listing: Listing,
    split: str | None,
    reading: Mapping[str, Any],
    seen: Seen,
    *,
    anew: bool,
    calibrating: bool = False,
) -> tuple[Sample, ...]:
    """Return the images of a split, as ``unetzoo.evaluate`` says.

    Args:
        source: the source of ``listing``.
        listing: all images.
        split: "train", "val", "test", "all" or None.
        reading: "ratios", "seed" and "group" of the split.
        seen: what the models were trained on.
        anew: split by ``reading`` only, and not by the models' lists.
        calibrating: the images are for ``unetzoo.calibrate``, whose default is another, and few give a warning.

    Raises:
        ConfigError: there is no such split; or the models were trained on images in it.
    """
    own = "" not in listing.samples
    asked = "test" if split is None and own else split
    if calibrating and split is None:
        asked = _to_calibrate(listing, seen, anew)
    divided = asked in ("train", "val") and lacks_val(listing)
    if calibrating and split is None and asked == "train":
        divided = False  # a new model has seen none of them
    asked = None if asked == "all" else asked
    if asked is None:
        found = tuple(sample for samples in listing.samples.values() for sample in samples)
    elif own and not divided:
        found = listing.samples.get(asked, ())
    else:
        how = {name: reading[name] for name in ("ratios", "seed", "group")}
        found = divide(listing, **how, kept=None if anew else _kept(listing, how["group"], seen))[asked]
    if not found and split is None and own:
        raise ConfigError(f"{title_of(source)!r} has splits, but no test images: give another one, such as split='val'")
    if not found:
        several = ""
        if asked == "val" and len(seen.records) > 1:
            several = f" that none of the {len(seen.records)} models was trained on{seen.elsewhere}"
        raise ConfigError(f"{title_of(source)!r} has no images{'' if asked is None else f' in {asked}'}{several}")
    if calibrating and asked is None:
        _tell_missing(seen, title_of(source))
    if asked != "train":
        _check(found, asked, source, seen)
    if calibrating and len(found) < FEW:
        _tell_few(found, asked, listing, source)
    return tuple(found)


def _to_calibrate(listing: Listing, seen: Seen, anew: bool) -> str:
    """Return the default split of a calibration: "val" of images that a model learned from, else all but "test"."""
    samples = [sample for found in listing.samples.values() for sample in found]
    known = _places(_prints(samples, seen), seen, before=True)
    learned = any(place.split != "test" for place in known.values())
    if anew or learned or listing.samples.get("val"):
        return "val"
    if "" in listing.samples:
        return "all"
    return "train" if listing.samples.get("train") else "test"


def _tell_few(found: Sequence[Sample], asked: str | None, listing: Listing, source: Source) -> None:
    """Warn that few images are used to calibrate."""
    total = sum(map(len, listing.samples.values()))
    fix = "add images"
    if asked is not None and total >= FEW:
        fix = f"add images there, or give split='all' for all {total} if the model was trained on none of them"
    _logger.warning(
        "only %s of %s to calibrate on, which %s little about others: %s",
        counted(len(found), "image"),
        title_of(source) if asked is None else f"{asked} of {title_of(source)}",
        "say" if len(found) > 1 else "says",
        fix,
    )


def _kept(listing: Listing, group: str | None, seen: Seen) -> dict[str, str] | None:
    """Return the split of each group of images that is in the models' lists; None if no image is."""
    samples = listing.samples.get("", listing.samples.get("train", ()))
    found = _places(_prints(samples, seen), seen, before=False)
    if not found:
        return None
    kept: dict[str, str] = {}
    for sample, key in zip(samples, group_keys(samples, group), strict=True):
        if sample.name in found:
            split = found[sample.name].split
            kept[key] = min(split, kept.get(key, split), key=NAMES.index)  # train, if one of the group was trained on
    return kept


def _prints(samples: Sequence[Sample], seen: Seen) -> dict[str, str]:
    """Return the fingerprint of each image by its name; nothing if no model has a list to look it up in."""
    return dict(zip((sample.name for sample in samples), fingerprints(samples), strict=True)) if seen.records else {}


def _places(prints: Mapping[str, str], seen: Seen, *, before: bool, asked: str | None = None) -> dict[str, Place]:
    """Return the places of the images that the models know, by name; empty if they know none of the images.

    An image is recognised by its bytes. Its name counts only if other images of the source are recognised by their
    bytes, since images of other data sets are called "001", too; if several splits have the name, it is in ``asked``.

    Args:
        prints: name → fingerprint.
        seen, before, asked: see above, and :func:`unetzoo.data.record.places`.
    """
    # An image is also recognised by another plane of its file.
    by_file = places(seen.records, lambda _, pair: file_of(pair.image), before=before)
    by_bytes = by_file | places(seen.records, lambda _, pair: pair.image, before=before)
    if not any(file_of(known) in by_file for known in prints.values()):
        return {}
    by_name = places(seen.records, lambda name, _: name, before=before)
    if asked is not None:
        by_name |= {name: Place(asked, name) for record in seen.records for name in record.splits[asked]}
    found = {}
    for name, known in prints.items():
        place = by_bytes.get(known) or by_file.get(file_of(known)) or by_name.get(name)
        if place is not None:
            found[name] = place
    return found


def _check(found: Sequence[Sample], asked: str | None, source: Source, seen: Seen) -> None:
    """Refuse images that the models were trained on; warn of validation images, and of what is not known."""
    where = title_of(source) if asked is None else f"{asked} of {title_of(source)}"
    if asked is not None:
        _tell_missing(seen, where)
    known = _places(_prints(found, seen), seen, before=True, asked=asked)
    learned = [name for name, place in known.items() if place.split in ("train", BEFORE)]
    if learned:
        named = [f"{name!r}" + (f" (as {at!r})" if (at := known[name].name) != name else "") for name in learned]
        fix = "say which split, such as split='test'" if asked is None else "leave them out"
        raise ConfigError(
            f"{len(learned)} of {len(found)} images of {where} were trained on by {seen.models}, so their scores say "
            f"nothing about new images: {fix}; split='train' scores the images that a model was trained on"
            f"{seen.elsewhere}. They are {_some(named)}"
        )
    for split, whom in (("val", seen.models), (CHOSEN, f"the initial model of {seen.models}")):
        chosen = [name for name, place in known.items() if place.split == split]
        if asked != "val" and chosen:
            _warn(chosen, found, where, f"were used to validate {whom} and to choose its best epoch")
    new = [sample.name for sample in found if sample.name not in known]
    if seen.records and new and (known or asked is not None):
        _warn(new, found, where, f"are new: they were in no split when {seen.models} was trained")
    if known and asked is not None:
        gone = {name for record in seen.records for name in record.splits[asked]} - {at.name for at in known.values()}
        if gone:
            listed = {name for record in seen.records for name in record.splits[asked]}
            named, of = [repr(name) for name in sorted(gone)], counted(len(listed), f"{asked} image")
            what = "%d of the %s of %s are not in %s: %s"
            _logger.warning(what, len(gone), of, seen.models, title_of(source), _some(named))


def _tell_missing(seen: Seen, where: str) -> None:
    """Warn of models that have no list of the images that they have seen."""
    if seen.missing:
        models = ", ".join(seen.missing)
        _logger.warning("no %s says what %s was trained on: it may have seen images of %s", FILE, models, where)


def _warn(names: Sequence[str], found: Sized, where: str, said: str) -> None:
    _logger.warning("%d of %d images of %s %s: %s", len(names), len(found), where, said, _some([*map(repr, names)]))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def record_file(origin: Path) -> Path:
    """Return the path of a model's list of data, from the model's file or folder."""
    if origin.parent == trained.FOLDER:
        return trained.data_of(origin.stem)
    return (origin if origin.is_dir() else origin.parent) / FILE
