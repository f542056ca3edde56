"""Files that ``torch.save`` wrote, opened as data.

No code in them is run, and none takes more time or memory than its size justifies. They are archives of a pickle and
the bytes of the tensors; before torch 1.6, they were several pickles in sequence.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from unetzoo.errors import WeightsError
from unetzoo.files import pickles
from unetzoo.files.strangers import SEEN, no_weights
from unetzoo.files.tensors import check_file

_UNREADABLE = (
    "{path} cannot be read as a file of tensors ({why}); it must be what torch.save(model.state_dict(), path) writes"
)


def load_pickle(path: Path) -> Any:
    """Return what ``torch.save`` wrote, as text, numbers, tensors, and containers of these.

    Raises:
        WeightsError: the file is missing, damaged, or a pickle that would build anything else; then nothing is built.
    """
    return read_pickle(path, strict=True)[0]


def read_pickle(path: Path, *, strict: bool) -> tuple[Any, tuple[str, ...]]:
    """Return what ``torch.save`` wrote, and the names of classes and functions whose objects were not built.

    Tuples of text replace these objects; ``strict`` refuses a file that has any.
    """
    check_file(path)
    try:
        instead, foreign = _looked_through(path, strict)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it refuses later
            return torch.load(instead or path, map_location="cpu", weights_only=True), foreign
    except WeightsError:
        raise
    except zipfile.BadZipFile as error:
        why = "it is cut off or damaged: the list of contents at its end is incomplete; download or copy it again"
        raise WeightsError(_UNREADABLE.format(path=path, why=why)) from error
    except pickles.Damaged as error:
        raise WeightsError(_UNREADABLE.format(path=path, why=error)) from error
    except (pickle.UnpicklingError, pickles.Refused) as error:
        needed = error.needed if isinstance(error, pickles.Refused) else None
        why = f"{error}, and to unpickle that can run any code" if needed else first_line(error)
        raise WeightsError(
            f"{path} is not opened: {why}. In the program that made it, torch.save(model.state_dict(), 'weights.pth') "
            "writes only tensors; use that file"
        ) from error
    # Damaged archives raise the exceptions of whichever layer fails: KeyError, EOFError, struct.error and more.
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise WeightsError(_UNREADABLE.format(path=path, why=why)) from error


def _looked_through(path: Path, strict: bool) -> tuple[io.BytesIO | None, tuple[str, ...]]:
    """Refuse a file that would take more memory or time than its size justifies, or would build harmful objects.

    Returns:
        The file with tuples of text instead of foreign objects, None if it has none; and the names of their classes.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        other = no_weights(stream.read(SEEN))
    if other is not None:
        raise WeightsError(f"{path} cannot be read: {other}")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"PK\3\4":  # torch decides by these bytes
            return _check_legacy(content, strict)
        with zipfile.ZipFile(path) as archive:
            _refuse_programs(path, archive)
            inside = sum(member.file_size for member in archive.infolist())
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
            twofold = archive.start_dir != _directory(content)
            if packed or twofold or inside > size:
                raise WeightsError(
                    f"{path} cannot be read: it would unpack to {inside:,} bytes or more from {size:,} bytes; files of "
                    "torch.save are not compressed, and have one list of contents"
                )
            return _check_archive(archive, strict)


def _refuse_programs(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse torch archives that hold a program with its weights."""
    names = {name.partition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        kind, state = "TorchScript file, as torch.jit.save writes", "torch.jit.load(path).state_dict()"
    elif "archive_format" in names:
        kind, state = "program that torch.export wrote", "torch.export.load(path).state_dict"
    else:
        return
    raise WeightsError(
        f"{path} is not opened: it is a {kind}, a program with its weights. Where you trust it, "
        f"torch.save({state}, 'weights.pth') writes only its tensors; use that file"
    )


def _check_archive(archive: zipfile.ZipFile, strict: bool) -> tuple[io.BytesIO | None, tuple[str, ...]]:
    """Check the pickles of a torch file that is an archive."""
    rewritten: dict[zipfile.ZipInfo, bytes] = {}
    foreign: dict[str, None] = {}
    for member in archive.infolist():
        # Torch's reader ignores upper and lower case.
        if member.filename.lower().endswith(".pkl"):
            found = pickles.Pickle(archive.read(member), strict=strict)
            found.check_content()
            if found.foreign:
                foreign |= found.foreign
                rewritten[member] = found.without_foreign()
    if not rewritten:
        return None, ()
    instead = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(instead, "w") as copy:
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names
        for member in archive.infolist():
            copy.writestr(member.filename, rewritten.get(member) or archive.read(member))
    instead.seek(0)
    return instead, tuple(foreign)


def _check_legacy(content: mmap.mmap, strict: bool) -> tuple[io.BytesIO | None, tuple[str, ...]]:
    """Check the pickles at the beginning of a file of torch before 1.6.

    They are a magic number, the version, facts about the machine, the saved object, and the names of the storages.
    """
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=content, mode="r:"):
        raise pickles.Refused("it is an archive of torch before 0.2")
    place = 0
    foreign: dict[str, None] = {}
    rewritten = []
    for k in range(5):
        found = pickles.Pickle(content, place, strict=strict or k != 3)
        if found.check_content() != torch.serialization.MAGIC_NUMBER and k == 0:
            raise pickles.Refused("it is a pickle that torch.save did not write")
        place = found.place
        foreign |= found.foreign
        rewritten.append(found.without_foreign())
    if not foreign:
        return None, ()
    return io.BytesIO(b"".join([*rewritten, content[place:]])), tuple(foreign)


def _directory(content: mmap.mmap) -> int:
    """Return where a zip file states that its list of contents begins: torch reads it there, Python may not."""
    end = content.rfind(b"PK\5\6")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    if start != 0xFFFFFFFF:
        return start
    wide = int.from_bytes(content[end - 12 : end - 4], "little")  # from the zip64 locator just before
    return int.from_bytes(content[wide + 48 : wide + 56], "little")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the colour codes that torch adds."""
    line = str(error).partition("\n")[0] or type(error).__name__
    return re.sub(r"\x1b\[[0-9;]*m", "", line)
