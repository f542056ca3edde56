"""What a package says about a model in addition to the model's own data: its authors, licence and citations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from unetzoo import trained
from unetzoo.errors import ConfigError
from unetzoo.registry import suggest
from unetzoo.saving.cards import EarlierCard, read_card
from unetzoo.saving.records import CARD_FILE
from unetzoo.saving.sources import source_of

LICENCES = {
    name.lower(): name
    for name in (
        *("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "CC0-1.0", "CC-BY-4.0"),
        *("CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "CC-BY-3.0"),
        *("GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "LGPL-3.0-only", "AGPL-3.0-only"),
        *("AGPL-3.0-or-later", "LGPL-3.0-or-later", "LGPL-2.1-only", "Unlicense", "ODbL-1.0", "ODC-By-1.0"),
    )
}
"""Lower-case names, as on the Hub and the command line → SPDX names. Others must be written exactly as in SPDX."""
_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9_+\- ()]{5,128}")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_LINK = re.compile(r"https?://[^\s<>\"]+[^\s<>\".,;)]")
_DOI = re.compile(r"\b10\.\d{4,9}/[^\s<>\"]+[^\s<>\".,;)]")


@dataclass(frozen=True, kw_only=True)
class About:
    """What a BioImage.IO package says about a model in addition to the model's own data.

    Attributes:
        authors: names of the authors; required.
        license: as in SPDX or on the Hub, "MIT" or "cc-by-4.0". None: that of the model card next to the model.
        citations: what to cite, each with a DOI or a link; the paper of the network is always included.
        name: name of the package: 5 to 128 letters, digits, spaces and ``_+-()``. None: the network and its classes.
        description: a sentence or two. None: a sentence about the network and its classes.

    Raises:
        ConfigError: lists all that is wrong.
    """

    authors: Sequence[str] = ()
    license: str | None = None
    citations: Sequence[str] = ()
    name: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError("cannot describe a model with these arguments", problems)
        licence = None if self.license is None else LICENCES.get(self.license.lower(), self.license)
        object.__setattr__(self, "license", licence)

    def _problems(self) -> Iterator[str]:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("authors", "citations"):
                if isinstance(value, str) or not all(isinstance(each, str) and each.strip() for each in value):
                    yield f"{field.name}={value!r:.100}: a list of texts is needed"
            elif value is not None and (not isinstance(value, str) or not value.strip()):
                yield f"{field.name}={value!r:.100}: a text is needed"
        if isinstance(self.name, str) and not _NAME.fullmatch(self.name):
            yield f"name={self.name!r:.150}: 5 to 128 letters, digits, spaces and _+-() are allowed"
        if isinstance(self.license, str) and not _LICENCE.fullmatch(self.license):
            yield f"license={self.license!r:.50}: give the SPDX name of a licence, such as 'MIT' or 'CC-BY-4.0'"
        if isinstance(self.description, str) and len(self.description) > 1024:
            yield f"description has {len(self.description)} characters; 1024 are allowed"
        if not isinstance(self.citations, str):
            for text in self.citations:
                if isinstance(text, str) and not (_LINK.search(text) or _DOI.search(text)):
                    yield f"citations: {text!r:.100} has no DOI and no link: add one, so that people can find it"

    def over(self, card: EarlierCard | None) -> About:
        """Return the same, with the licence of the model's own card if none is given."""
        found = None if card is None else card.card.license
        return replace(self, license=found) if self.license is None and found not in (None, "other") else self

    def differs(self, card: EarlierCard | None) -> str:
        """Return a sentence if the given licence differs from that of the model's own card, else ""."""
        found = None if card is None else card.card.license
        found = None if found in (None, "other") else LICENCES.get(found.lower(), found)
        if None in (self.license, found) or self.license == found:
            return ""
        return f"the licence of this package is {self.license}, as it was given; the model card says {found}"

    def unsaid(self) -> Iterator[str]:
        """Give a sentence for each argument that was given but only packages can hold."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value:
                yield f"{field.name}={value!r:.100} goes with a package, .zip: leave it out, or give a name with .zip"

    def missing(self) -> Iterator[str]:
        """Give a sentence for each thing that a package needs and that was not given."""
        if not self.authors:
            yield "a package names its authors: give authors=['Ada Lovelace'] (unetzoo.exporting.About)"
        if self.license is None:
            yield (
                "a package states its licence, and no model card does: give license='CC-BY-4.0' "
                "(unetzoo.exporting.About)"
            )
        elif not _is_known(self.license):
            near = suggest(self.license, LICENCES.values())
            yield f"license={self.license!r} is not in SPDX's list of licences, unlike 'MIT' or 'CC-BY-4.0'{near}"


def _is_known(licence: str) -> bool:
    """Return whether a package may have a licence; True if bioimageio is not installed, which another check reports."""
    try:
        from bioimageio.spec.generic.v0_3 import LicenseId
    except ImportError:
        return True
    try:
        LicenseId(licence)
    except ValueError:
        return False
    return True


def reference(text: str) -> dict[str, str]:
    """Return a citation for a package: the text, and its DOI or its link."""
    doi, link = _DOI.search(text), _LINK.search(text)
    if doi is not None:
        return {"text": text, "doi": doi.group()}
    assert link is not None
    return {"text": text, "url": link.group()}


def card_beside(model: object) -> tuple[EarlierCard | None, str]:
    """Return the model card next to a model, and its text below the front matter; None and "" if there is none.

    Args:
        model: as ``export`` takes it; only the names of trained models, and folders, have cards.
    """
    if isinstance(model, list | tuple) and len(model) == 1:  # as the command line gives it
        model = model[0]
    if not isinstance(model, str | os.PathLike):
        return None, ""
    source = source_of(model)
    path: Path | None = None
    if source.kind == "trained":
        path = trained.card_of(source.text)
    elif source.kind == "folder" and source.path is not None:
        path = source.path / CARD_FILE
    if path is None or not path.is_file():
        return None, ""
    text = path.read_text(encoding="utf-8")
    card = read_card(text, path)
    if source.kind == "trained":
        card = replace(card, card=replace(card.card, license="mit"))  # that of the package, see publishing
    return card, _FRONT_MATTER.sub("", text, count=1)
