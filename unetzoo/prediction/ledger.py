"""A record of files that people may correct: a corrected file must not be overwritten."""

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
    """Digests of the files that were written into a folder, one per line in a file that only grows.

    Args:
        path: path of that file.
        overwrite: whether any file may be overwritten.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path, self.overwrite = path, overwrite
        self._lock = threading.Lock()
        self._known: dict[str, set[str]] = defaultdict(set)
        self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, NotADirectoryError):  # if it cannot be written, writing reports that
            return
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{str(self.path)!r} cannot be read: give another out=…, or overwrite=True") from error
        for line in lines:
            digest, _, name = line.partition(" ")
            self._known[name].add(digest)

    def check(self, path: Path) -> None:
        """Raise if a file exists that this command did not write, or that was changed since.

        Raises:
            InputError: there is such a file, and it is complete.
        """
        if not self.overwrite and self.is_changed(path):
            what = "was changed since it was written, perhaps corrected by hand"
            raise InputError(f"{printable(path)} exists and {what}: move it away, or give overwrite=True")

    def is_changed(self, path: Path) -> bool:
        """Return whether a complete file exists that this command did not write, or that was changed since."""
        if not path.exists():
            return False
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
        known = self._known[self._name(path)]
        if _short(digest) not in known:
            self._read()  # another process may have written it
        return _short(digest) not in known and not _is_cut_off(path)

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Write a file completely or not at all, and create its folder if there is none.

        Raises:
            WriteError: it cannot be written; a file that was there is unchanged.
        """
        make_folder(path.parent)
        digest = hashlib.sha256()
        with replacing(path) as stream:
            for piece in pieces:
                digest.update(piece)
                stream.write(piece)
            # Before the file takes its place: a noted digest of a file that was never written does no harm.
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
        """Return a path in the folder as a JSON string, which contains no line break."""
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
