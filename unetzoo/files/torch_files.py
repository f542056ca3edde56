"""Files that ``torch.save`` wrote, opened as data.

Nothing in them runs, and none takes more time or memory than its own size calls for. They are archives of a pickle
and of the tensors' bytes, and before torch 1.6 some pickles in a row.
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
    """Return what ``torch.save`` wrote, read as text, numbers, tensors, and containers of these.

    Raises:
        WeightsError: missing, damaged, or a pickle that would build anything else; none of it is built then.
    """
    return read_pickle(path, strict=True)[0]


def read_pickle(path: Path, *, strict: bool) -> tuple[Any, tuple[str, ...]]:
    """Return what ``torch.save`` wrote, and the names of classes and functions whose objects were not built.

    In their place stand tuples of text; ``strict`` refuses a file that has any.
    """
    check_file(path)
    try:
        instead, foreign = _looked_through(path, strict)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickles that it refuses in the end
            return torch.load(instead or path, map_location="cpu", weights_only=True), foreign
    except WeightsError:
        raise
    except zipfile.BadZipFile as error:
        why = "it is cut off or damaged: the list of contents at its end is not whole; download or copy it again"
        raise WeightsError(_UNREADABLE.format(path=path, why=why)) from error
    except pickles.Damaged as error:
        raise WeightsError(_UNREADABLE.format(path=path, why=error)) from error
    except (pickle.UnpicklingError, pickles.Refused) as error:
        needed = error.needed if isinstance(error, pickles.Refused) else None
        why = f"{error}, and to unpickle that can run any code" if needed else first_line(error)
        raise WeightsError(
            f"{path} is not opened: {why}. In the program that made it, torch.save(model.state_dict(), 'weights.pth') "
            "writes tensors alone; take that file"
        ) from error
    # Damaged archives raise whatever the layer that stumbled knows: KeyError, EOFError, struct.error and more.
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise WeightsError(_UNREADABLE.format(path=path, why=why)) from error


def _looked_through(path: Path, strict: bool) -> tuple[io.BytesIO | None, tuple[str, ...]]:
    """Refuse what would take more memory or time than the file has bytes, or build what no state dict is kept with.

    Returns:
        The file with tuples of text in place of foreign objects, None where it has none; and their classes' names.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        other = no_weights(stream.read(SEEN))
    if other is not None:
        raise WeightsError(f"{path} cannot be read: {other}")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"PK\3\4":  # torch tells by these
            return _check_legacy(content, strict)
        with zipfile.ZipFile(path) as archive:
            _refuse_programs(path, archive)
            inside = sum(member.file_size for member in archive.infolist())
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
            twofold = archive.start_dir != _directory(content)
            if packed or twofold or inside > size:
                raise WeightsError(
                    f"{path} cannot be read: it would unpack to {inside:,} bytes or more from {size:,}; what "
                    "torch.save writes is not compressed, and has one list of contents"
                )
            return _check_archive(archive, strict)


def _refuse_programs(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse archives of torch's that hold a program with its weights."""
    names = {name.partition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        kind, state = "TorchScript file, as torch.jit.save writes", "torch.jit.load(path).state_dict()"
    elif "archive_format" in names:
        kind, state = "program that torch.export wrote", "torch.export.load(path).state_dict"
    else:
        return
    raise WeightsError(
        f"{path} is not opened: it is a {kind}, a program with its weights. Where it may run, "
        f"torch.save({state}, 'weights.pth') writes its tensors alone; take that file"
    )


def _check_archive(archive: zipfile.ZipFile, strict: bool) -> tuple[io.BytesIO | None, tuple[str, ...]]:
    """Go through the pickles of a file of torch's, which is an archive."""
    rewritten: dict[zipfile.ZipInfo, bytes] = {}
    foreign: dict[str, None] = {}
    for member in archive.infolist():
        # Torch's reader takes no notice of capitals.
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
        warnings.simplefilter("ignore")  # that a name is there twice
        for member in archive.infolist():
            copy.writestr(member.filename, rewritten.get(member) or archive.read(member))
    instead.seek(0)
    return instead, tuple(foreign)


def _check_legacy(content: mmap.mmap, strict: bool) -> tuple[io.BytesIO | None, tuple[str, ...]]:
    """Go through the pickles at the beginning of a file of torch before 1.6.

    They are a number that marks such files, the version, notes on the machine, what was saved, and the storages' names.
    """
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=content, mode="r:"):
        raise pickles.Refused("it is an archive as torch wrote before 0.2")
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
    """Return where a zip file says that its list of contents begins: there torch reads it, Python elsewhere."""
    end = content.rfind(b"PK\5\6")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    if start != 0xFFFFFFFF:
        return start
    wide = int.from_bytes(content[end - 12 : end - 4], "little")  # of the zip64 locator just before
    return int.from_bytes(content[wide + 48 : wide + 56], "little")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without the colours that torch gives it."""
    line = str(error).partition("\n")[0] or type(error).__name__
    return re.sub(r"\x1b\[[0-9;]*m", "", line)
