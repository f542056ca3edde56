"""BioImage.IO packages that this zoo wrote: the file of tensors in them, read defensively.

They are untrusted zip archives. Two members are read, the description and the safetensors file that it names; the
program (TorchScript) is never opened, nothing is unpacked to disk, and no member takes more memory than it states.
"""

from __future__ import annotations

import hashlib
import mmap
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from unetzoo.errors import DamagedError, WeightsError
from unetzoo.files import strict_yaml
from unetzoo.files.names import place_key
from unetzoo.files.tensors import TensorFile, check_file, read_mapped

SUFFIX = ".zip"
MODEL = "model.safetensors"
"""Name of the model in a package of ours."""
OWN = "unetzoo"
"""Name of our section in the description's ``config``."""
DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml")
MOST_MEMBERS = 1000
LONGEST_DESCRIPTION = 100_000
"""Most bytes of a description."""
MOST_PACKED = 8
"""Most bytes of tensors per byte of the archive: weights hardly compress, and a zip bomb has a ratio of a thousand."""
_PIECE = 1 << 20


def is_package(path: Path) -> bool:
    """Return whether a file is a zip archive with a description in it."""
    if path.suffix.lower() != SUFFIX or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name in DESCRIPTIONS for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_package(path: Path) -> TensorFile:
    """Return the file of tensors in a package of this zoo, as if it were a file of its own.

    Raises:
        WeightsError: the file is missing, not a package, from another program, or an unsafe archive.
        DamagedError: it is cut off, or was changed after it was written.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            described = _description(path, archive, members)
            name, digest = _model(path, described)
            if name not in members:
                raise DamagedError(f"{path} lacks {name!r}, which its description names: fetch or export it again")
            member = members[name]
            if member.file_size > MOST_PACKED * path.stat().st_size:
                raise WeightsError(
                    f"{path} is not opened: {name!r} would unpack to {member.file_size:,} bytes, from an archive of "
                    f"{path.stat().st_size:,} bytes"
                )
            content = _mapped(path, archive, member, digest)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DamagedError(f"{path} cannot be read as a zip archive ({error}): fetch or export it again") from error
    except (OSError, RuntimeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} cannot be read: {error}") from error
    return read_mapped(path, content)


def _members(path: Path, archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    """Return the members by name, if all names are distinct on every system and stay inside the archive."""
    found = archive.infolist()
    if len(found) > MOST_MEMBERS:
        raise WeightsError(f"{path} is not opened: it holds {len(found):,} files; {MOST_MEMBERS:,} at most are read")
    places: set[str] = set()
    for member in found:
        name = member.filename
        problem = None
        if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
            problem = "leads out of it"
        elif stat.S_ISLNK(member.external_attr >> 16):
            problem = "is a link"
        elif member.flag_bits & 1:
            problem = "is encrypted"
        elif place_key(name) in places:
            problem = "is in it twice"
        if problem is not None:
            raise WeightsError(f"{path} is not opened: {name!r:.200} {problem}")
        places.add(place_key(name))
    return {member.filename: member for member in found}


def _description(path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> Mapping[str, Any]:
    name = next((name for name in DESCRIPTIONS if name in members), None)
    if name is None:
        raise WeightsError(f"{path} is not a BioImage.IO package: it holds no {' and no '.join(DESCRIPTIONS)}")
    if members[name].file_size > LONGEST_DESCRIPTION:
        raise WeightsError(f"{path} is not opened: {name} is longer than {LONGEST_DESCRIPTION:,} bytes")
    with archive.open(members[name]) as stream:
        text = stream.read(LONGEST_DESCRIPTION + 1)
    try:
        return strict_yaml.loads(text.decode())
    except ValueError as error:
        raise WeightsError(f"{path}: {name} cannot be read: {error}") from error


def _model(path: Path, described: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and the sha256 of the file of tensors."""
    config = described.get("config")
    own = config.get(OWN) if isinstance(config, Mapping) else None
    name = own.get("model") if isinstance(own, Mapping) else None
    if not isinstance(name, str):
        raise WeightsError(
            f"{path} is a package that unetzoo did not write: it holds no network of unetzoo, and the programs in it "
            "are not run here; use bioimageio.core"
        )
    attached = described.get("attachments")
    for entry in attached if isinstance(attached, list) else []:
        if isinstance(entry, Mapping) and entry.get("source") == name and isinstance(entry.get("sha256"), str):
            return name, entry["sha256"]
    raise WeightsError(f"{path}: its description has no sha256 of {name!r:.200} among its attachments")


def _mapped(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, promised: str) -> mmap.mmap:
    """Return the bytes of a member, in separate memory, if they have the sha256 that the description states."""
    digest = hashlib.sha256()
    content = mmap.mmap(-1, max(member.file_size, 1))
    with archive.open(member) as stream:
        # The reader stops at the size that the archive states, and compares its checksum there.
        while piece := stream.read(_PIECE):
            digest.update(piece)
            content.write(piece)
    if content.tell() != member.file_size or digest.hexdigest() != promised.lower():
        raise DamagedError(
            f"{path} was changed after it was written: the sha256 of {member.filename} is "
            f"{digest.hexdigest()[:12]}…, but {promised[:12]!r}… in its description; fetch or export it again"
        )
    return content
