"""What a run trained, validated and tested on: names and fingerprints, kept in a file of the run."""

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
"""Its name in the folder of a run."""
BEFORE = "before"
"""Images that had been trained on by the model that a run began from."""
CHOSEN = "chosen"
"""Images that it had been validated on, by which it was chosen."""


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
    """What a run trained, validated and tested on.

    Attributes:
        splits: "train", "val" and "test" → name of an image → its :class:`Pair`.
        before: likewise, images that the model had been trained on before this run.
        chosen: likewise, others that it had been validated on before, to choose its best epoch or when to stop.
    """

    splits: Mapping[str, Mapping[str, Pair]]
    before: Mapping[str, Pair] = field(default_factory=dict)
    chosen: Mapping[str, Pair] = field(default_factory=dict)

    @classmethod
    def of(cls, splits: Mapping[str, Sequence[Sample]], before: Sequence[DataRecord] = ()) -> DataRecord:
        """Return the record of samples by split. Of each file 64 KiB are read at most.

        Args:
            splits: as ``unetzoo.data.find_samples`` returns them.
            before: of the run that made the model from which this one begins.

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
            ConfigError: the file cannot be read, or is none of these.
        """
        try:
            parts = _checked(strict_json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is no list of what a run was trained on ({error}); move it away") from error
        return cls({split: parts[split] for split in NAMES}, parts[BEFORE], parts[CHOSEN])

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, all or nothing, a line an image.

        Raises:
            WriteError: the file cannot be written.
        """
        write_file(path, "".join(self._text()))

    def trained(self) -> dict[str, Pair]:
        """Return all that the model was trained on, in this run and before it, by name."""
        return {**self.before, **self.splits["train"]}

    def validated(self) -> dict[str, Pair]:
        """Return all that the model was validated on, and so chosen by, in this run and before it, by name."""
        return {**self.chosen, **self.splits["val"]}

    def part(self, name: str) -> Mapping[str, Pair]:
        """Return the images of a :class:`Place`'s split."""
        return {**self.splits, BEFORE: self.before, CHOSEN: self.chosen}[name]

    def changes(self, now: DataRecord) -> list[str]:
        """Return what is otherwise in ``now``: a sentence an image, in the order of their names."""
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

    Of several that are alike, in one record or in several, it is the one that was trained on, if one was; else one that
    was validated on.

    Args:
        records: of runs.
        by: name and pair → fingerprint or name.
        before: with what was trained and validated on before the runs.
    """
    found = {}
    for part in ("test", CHOSEN, "val", BEFORE, "train") if before else ("test", "val", "train"):
        for record in records:
            for name, pair in record.part(part).items():
                found[by(name, pair)] = Place(part, name)
    return found


def fingerprints(samples: Sequence[Sample]) -> list[str]:
    """Return the fingerprint of each image: that of its files, and of one plane of many its number behind it, "…[3]".

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
    """Return the fingerprint of a mask; of one of several files that of all of theirs, in the order of the classes."""
    if isinstance(sample.mask, Drawing):
        return sample.mask.fingerprint
    if isinstance(sample.mask, Path):
        return fingerprint(sample.mask)
    return _digest_of(sample.mask)


def _together(files: tuple[Path, ...]) -> str:
    """Return the fingerprint of an image: its file's, or that of all of theirs."""
    return fingerprint(files[0]) if len(files) == 1 else _digest_of(files)


def _digest_of(files: Sequence[Path | None]) -> str:
    parts = ["" if path is None else fingerprint(path) for path in files]
    return hashlib.sha256(",".join(parts).encode()).hexdigest()[:24]


def _each(function: Callable[[Sample], str], samples: Sequence[Sample]) -> list[str]:
    """Return what a function returns of each sample; it reads files, which threads do side by side."""
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(function, samples))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _checked(found: Any) -> dict[str, dict[str, Pair]]:
    """Return the parts of a record that was read.

    Raises:
        ValueError: it is none.
    """
    wanted = (*NAMES, BEFORE, CHOSEN)
    if isinstance(found, dict):
        found = {CHOSEN: {}, **found}  # lists of before do not have it
    if not isinstance(found, dict) or found.keys() != {"format", *wanted} or found["format"] != 1:
        raise ValueError(f'an object with "format": 1 and {", ".join(wanted)} is needed')
    parts = {}
    for part in wanted:
        pairs = found[part]
        if not isinstance(pairs, dict) or not all(_is_pair(pair) for pair in pairs.values()):
            raise ValueError(f"{part}: an object with two texts for each image is needed")
        parts[part] = {name: Pair(*pair) for name, pair in pairs.items()}
    return parts


def _is_pair(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2 and all(isinstance(text, str) for text in found)
