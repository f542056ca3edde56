"""What was written for correction, and so must not be written over once it was corrected."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from unetzoo.errors import InputError, WriteError
from unetzoo.files.writing import make_folder, replacing
from unetzoo.prediction.marks import is_cut_off
from unetzoo.printing import printable

_PIECE = 2**20


class Ledger:
    """Digests of the files that were written into a folder: a line each in a file that only grows.

    Args:
        path: of that file.
        overwrite: whether files may be written over, whatever they are.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path, self.overwrite = path, overwrite
        self._lock = threading.Lock()
        self._known: dict[str, set[str]] = defaultdict(set)
        self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, NotADirectoryError):  # what cannot be written says so by itself
            return
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{str(self.path)!r} cannot be read: give another out=…, or overwrite=True") from error
        for line in lines:
            digest, _, name = line.partition(" ")
            self._known[name].add(digest)

    def check(self, path: Path) -> None:
        """Raise if something is there that was not written by this command, or was changed since.

        Raises:
            InputError: it is, and it is whole.
        """
        if self.overwrite or not path.exists():
            return
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
        known = self._known[self._name(path)]
        if _short(digest) not in known:
            self._read()  # another process may have written it
        if _short(digest) not in known and not _is_cut_off(path):
            what = "and not as it was written, corrected by hand perhaps"
            raise InputError(f"{printable(path)} is there, {what}: move it away, or overwrite=True")

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Write a file all or nothing, and make its folder where there is none.

        Raises:
            WriteError: it cannot be written; what was there is as it was.
        """
        make_folder(path.parent)
        digest = hashlib.sha256()
        with replacing(path) as stream:
            for piece in pieces:
                digest.update(piece)
                stream.write(piece)
            # Before the file takes its place: what is written down and was not written does no harm.
            self._note(path, _short(digest))

    def _note(self, path: Path, digest: str) -> None:
        name = self._name(path)
        with self._lock:
            if digest in self._known[name]:
                return
            try:
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write(f"{digest} {name}\n")
            except OSError as error:
                raise WriteError(f"{self.path} cannot be written: {error.strerror}") from error
            self._known[name].add(digest)

    def _name(self, path: Path) -> str:
        """Return a path in the folder as JSON's text, in which a line ends nowhere."""
        return json.dumps(path.relative_to(self.path.parent).as_posix())


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:16]


def _is_cut_off(path: Path) -> bool:
    """Return whether a file ends too early, as a full disk leaves it."""
    import gzip
    import zipfile
    import zlib

    if path.suffix in (".json", ".geojson"):
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(stream.tell() - 10, 0))
            return not stream.read().rstrip().endswith(b"}")
    if path.suffix == ".zip":
        return not zipfile.is_zipfile(path)
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as packed:
                while packed.read(2**20):
                    pass
        except (OSError, EOFError, zlib.error):
            return True
    if path.suffix == ".tif" and is_cut_off(path):
        return True
    return path.stat().st_size == 0
