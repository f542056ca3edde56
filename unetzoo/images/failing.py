"""Errors of reading an image, as one kind of error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from unetzoo.errors import InputError, UnetzooError
from unetzoo.files.absent import absent


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error of reading an image into one.

    Raises:
        InputError: with the file's name.
    """
    try:
        yield
    except UnetzooError:
        raise
    except FileNotFoundError as error:
        # For a slide or an array of several files, the missing one may be another file.
        why = f"{str(path)!r} cannot be read as an image ({error})" if Path(path).exists() else absent(path)
        raise InputError(why) from error
    # Damaged files raise any error of the decoder: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise InputError(f"{str(path)!r} cannot be read as an image ({type(error).__name__}: {error})") from error
