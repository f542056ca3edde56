"""The images that a run trained, validated and tested on: names and fingerprints, kept in a file of the run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unetzoo.data.annotations import Drawing
from unetzoo.data.listing import Sample
from unetzoo.data.splitting import NAMES
from unetzoo.errors import ConfigError, InputError
from unetzoo.files import strict_json
from unetzoo.files.identity import fingerprint
from unetzoo.files.writing import write_file

FILE = "data.json"
"""Name of this file in the folder of a run."""
BEFORE = "before"
"""Images on which the model that a run started from had been trained."""
CHOSEN = "chosen"
"""Images on which that model had been validated, and by which it was chosen."""


class Pair(NamedTuple):
    """Fingerprints of an image and of its mask."""

    image: str
    mask: str


class Place(NamedTuple):
    """Where an image is in a record: "train", "val", "test", "before" or "chosen", and its name there."""

    split: str
    name: str


@dataclass(frozen=True)
class DataRecord:
    """The images that a run trained, validated and tested on.

    Attributes:
        splits: "train", "val" and "test" → name of an image → its :class:`Pair`.
        before: name → pair of images on which the model had been trained before this run.
        chosen: name → pair of other images on which the model had been validated before, to choose its best epoch or
            when to stop.
    """

    splits: Mapping[str, Mapping[str, Pair]]
    before: Mapping[str, Pair] = field(default_factory=dict)
    chosen: Mapping[str, Pair] = field(default_factory=dict)

    @classmethod
    def of(cls, splits: Mapping[str, Sequence[Sample]], before: Sequence[DataRecord] = ()) -> DataRecord:
        """Return the record of samples by split. At most 64 KiB of each file are read.

        Args:
            splits: as ``unetzoo.data.find_samples`` returns them.
            before: records of the runs that made the model from which this run starts.

        Raises:
            InputError: a file cannot be read.
        """
        samples = [sample for split in NAMES for sample in splits.get(split, ())]
        pairs = map(Pair, fingerprints(samples), _each(_mask_of, samples))
        found = {split: {sample.name: next(pairs) for sample in splits.get(split, ())} for split in NAMES}
        trained = {name: pair for record in before for name, pair in record.trained().items()}
        validated = {name: pair for record in before for name, pair in record.validated().items()}
        return cls(found, trained, {name: pair for name, pair in validated.items() if trained.get(name) != pair})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> DataRecord:
        """Return what :meth:`write` wrote.

        Raises:
            ConfigError: the file cannot be read, or is not such a record.
        """
        try:
            parts = _checked(strict_json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is not a record of what a run trained on ({error}); move it away") from error
        return cls({split: parts[split] for split in NAMES}, parts[BEFORE], parts[CHOSEN])

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON, all or nothing, with a line per image.

        Raises:
            WriteError: the file cannot be written.
        """
        write_file(path, "".join(self._text()))

    def trained(self) -> dict[str, Pair]:
        """Return all images on which the model was trained, in this run and before it, by name."""
        return {**self.before, **self.splits["train"]}

    def validated(self) -> dict[str, Pair]:
        """Return all images on which the model was validated and by which it was chosen, in this run and before it."""
        return {**self.chosen, **self.splits["val"]}

    def part(self, name: str) -> Mapping[str, Pair]:
        """Return the images of a :class:`Place`'s split."""
        return {**self.splits, BEFORE: self.before, CHOSEN: self.chosen}[name]

    def changes(self, now: DataRecord) -> list[str]:
        """Return what differs in ``now``: a sentence per image, in the order of their names."""
        before, after = (
            {(name, split): pair for split in NAMES for name, pair in record.splits[split].items()}
            for record in (self, now)
        )
        found = []
        for place in sorted(before.keys() | after.keys()):
            old, new, (name, split) = before.get(place), after.get(place), place
            if old is None or new is None:
                found.append(f"{name!r} is {'new' if old is None else 'gone'} in {split}")
            elif old != new:
                changed = " and ".join(part for part in Pair._fields if getattr(old, part) != getattr(new, part))
                found.append(f"{name!r} in {split}: another {changed}")
        return found

    def _text(self) -> Iterator[str]:
        yield '{\n"format": 1'
        for part in (*NAMES, BEFORE, CHOSEN):
            yield f",\n{json.dumps(part)}: {{"
            yield ",".join(f"\n{json.dumps(name)}: {json.dumps(pair)}" for name, pair in self.part(part).items())
            yield "}"
        yield "\n}\n"


def places(records: Sequence[DataRecord], by: Callable[[str, Pair], str], *, before: bool) -> dict[str, Place]:
    """Return the place of each image by its fingerprint, or by its name.

    If several have the same one, in one record or in several, an image of the training takes precedence; then one of
    the validation.

    Args:
        records: of runs.
        by: name and pair → fingerprint or name.
        before: include the images of training and validation before the runs.
    """
    found = {}
    for part in ("test", CHOSEN, "val", BEFORE, "train") if before else ("test", "val", "train"):
        for record in records:
            for name, pair in record.part(part).items():
                found[by(name, pair)] = Place(part, name)
    return found


def fingerprints(samples: Sequence[Sample]) -> list[str]:
    """Return the fingerprint of each image: that of its files; one plane of several adds its number, "…[3]".

    Raises:
        InputError: a file cannot be read.
    """
    return _each(lambda sample: _together(sample.files) + _plane(sample), samples)


def file_of(known: str) -> str:
    """Return the fingerprint of the file from that of an image."""
    return known.partition("[")[0]


def _plane(sample: Sample) -> str:
    return f"[{sample.planes}]" if isinstance(sample.planes, int) else ""


def _mask_of(sample: Sample) -> str:
    """Return the fingerprint of a mask; for several files one of all, in the order of the classes."""
    if isinstance(sample.mask, Drawing):
        return sample.mask.fingerprint
    if isinstance(sample.mask, Path):
        return fingerprint(sample.mask)
    return _digest_of(sample.mask)


def _together(files: tuple[Path, ...]) -> str:
    """Return the fingerprint of an image: of its file, or of all of its files."""
    return fingerprint(files[0]) if len(files) == 1 else _digest_of(files)


def _digest_of(files: Sequence[Path | None]) -> str:
    parts = ["" if path is None else fingerprint(path) for path in files]
    return hashlib.sha256(",".join(parts).encode()).hexdigest()[:24]


def _each(function: Callable[[Sample], str], samples: Sequence[Sample]) -> list[str]:
    """Return the result of a function for each sample, in threads, as the function reads files."""
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(function, samples))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error


def _checked(found: Any) -> dict[str, dict[str, Pair]]:
    """Return the parts of a record that was read.

    Raises:
        ValueError: it is not a record.
    """
    wanted = (*NAMES, BEFORE, CHOSEN)
    if isinstance(found, dict):
        found = {CHOSEN: {}, **found}  # older records do not have it
    if not isinstance(found, dict) or found.keys() != {"format", *wanted} or found["format"] != 1:
        raise ValueError(f'an object with "format": 1 and {", ".join(wanted)} is needed')
    parts = {}
    for part in wanted:
        pairs = found[part]
        if not isinstance(pairs, dict) or not all(_is_pair(pair) for pair in pairs.values()):
            raise ValueError(f"{part}: an object with two strings for each image is needed")
        parts[part] = {name: Pair(*pair) for name, pair in pairs.items()}
    return parts


def _is_pair(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2 and all(isinstance(text, str) for text in found)
