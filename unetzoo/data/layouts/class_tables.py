"""Files that say which mask value or colour is which class.

- ``labelmap.txt`` of CVAT and Datumaro: ``name:r,g,b:parts:actions`` on each line.
- ``label_colors.txt`` of CamVid: ``r g b name``.
- ``class_dict.csv`` of CamVid copies: ``name,r,g,b`` after a header line.
- ``class_names.txt`` of labelme, ``classes.txt``: a name on each line; the first is 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unetzoo import images
from unetzoo.data.layouts._base import Meaning
from unetzoo.data.listing import Tree
from unetzoo.errors import ConfigError, InputError

_FILES = ("labelmap.txt", "label_colors.txt", "class_dict.csv", "class_names.txt")
_BACKGROUNDS = ("background", "_background_", "bg")
_IGNORED = ("ignored", "ignore", "__ignore__")
"""Names of classes that do not count."""
_NUMBERS = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"


@dataclass(frozen=True)
class Table:
    """Classes in the order of a file.

    Attributes:
        path: the file.
        names: of the classes.
        colours: "#rrggbb" of each; None if the file has only names.
    """

    path: Path
    names: tuple[str, ...]
    colours: tuple[str, ...] | None

    def meaning(self, masks: list[Path], ignore: int | None = None) -> Meaning:
        """Return the meaning of masks with this table; its colours are used if the first mask is painted.

        Args:
            masks: files.
            ignore: index value that does not count.

        Raises:
            ConfigError: the first mask cannot be read.
        """
        counted = [k for k, name in enumerate(self.names) if name.lower() not in _IGNORED]
        # Background becomes the first class, wherever it is in the file.
        counted.sort(key=lambda k: self.names[k].lower() not in _BACKGROUNDS)
        names = tuple(self.names[k] for k in counted)
        labels: dict[str, Any] = {"class_names": names}
        if self.colours is not None and masks and _is_painted(masks[0], self.colours):
            labels["colours"] = tuple(self.colours[k] for k in counted)
            left = [self.colours[k] for k in range(len(self.names)) if k not in counted]
            return Meaning(labels=labels | ({"ignore_colour": left[0]} if left else {}))
        codes = tuple(counted.index(k) if k in counted else -100 for k in range(len(self.names)))
        labels |= {} if codes == tuple(range(len(codes))) else {"codes": codes}
        return Meaning(labels=labels | ({} if ignore is None else {"ignore": ignore}))


def found_in(tree: Tree, folder: str) -> Table | None:
    """Return the table in a folder, "" or one that ends in /; None if there is none.

    Raises:
        ConfigError: there are two tables, or the table cannot be read.
    """
    files = {inner.lower(): path for inner, path in tree.under(folder.rstrip("/")).items()}
    found = [files[name] for name in _FILES if name in files]
    if len(found) > 1:
        raise ConfigError(f"{' and '.join(map(str, found))} both name classes: move one away")
    return read(found[0]) if found else None


def read(path: Path) -> Table:
    """Return the classes that a file names.

    Raises:
        ConfigError: the file cannot be read, or has none of these formats.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as text: {error}") from error
    rows = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if path.suffix.lower() == ".csv":
        rows = rows[1:]
    found = [_row(row) for row in rows]
    wrong = [row for row, one in zip(rows, found, strict=True) if one is None or not one[0]]
    names = tuple(one[0] for one in found if one is not None)
    painted = {one[1] is None for one in found if one is not None}
    twice = sorted({name for name in names if names.count(name) > 1})
    if wrong or twice or len(painted) != 1:
        said = f"; the first wrong line is {wrong[0]!r:.80}" if wrong else ""
        said = f"; {twice[0]!r} is there twice" if twice and not wrong else said
        raise ConfigError(
            f"{str(path)!r} is not a list of classes: each line must have a name, and all or none a colour{said}"
        )
    colours = tuple(one[1] for one in found if one is not None and one[1] is not None)
    return Table(path, names, colours or None)


def text_of(names: Sequence[str]) -> str | None:
    """Return the text of a ``class_names.txt`` for these classes; None if it would be read back differently."""
    alike = Table(Path(), tuple(names), None).meaning([]).labels == {"class_names": tuple(names)}
    fits = alike and all(_row(name) == (name, None) and not name.startswith("#") for name in names)
    return "".join(f"{name}\n" for name in names) if fits else None


def _row(line: str) -> tuple[str, str | None] | None:
    for pattern, name, first in (
        (rf"([^:]*):{_NUMBERS}(?::.*)?", 1, 2),
        (rf"{_NUMBERS}[\s,;]+(.+)", 4, 1),
        (rf"(.+?)\s*[,;]\s*{_NUMBERS}", 1, 2),
    ):
        match = re.fullmatch(pattern, line)
        if match is not None:
            colour = [int(match[first + k]) for k in range(3)]
            return (match[name].strip(), "#{:02x}{:02x}{:02x}".format(*colour)) if max(colour) < 256 else None
    return line.strip(), None


def _is_painted(mask: Path, colours: tuple[str, ...]) -> bool:
    """Return whether a mask is painted: it is RGB, or has a palette whose used colours are all among these."""
    try:
        palette = images.palette_of(mask)
        values = images.read_values(mask)
    except InputError as error:
        raise ConfigError(str(error)) from error
    if palette is None:
        return values.shape[0] in (3, 4)
    used = [index for index in torch.unique(values).tolist() if index < len(palette)]
    return all("#{:02x}{:02x}{:02x}".format(*palette[index]) in colours for index in used)
