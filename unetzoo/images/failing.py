"""What reading an image runs into, as one error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from unetzoo.errors import InputError, UnetzooError
from unetzoo.files.absent import absent


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever reading an image raises into one error.

    Raises:
        InputError: with the file's name.
    """
    try:
        yield
    except UnetzooError:
        raise
    except FileNotFoundError as error:
        # Of a slide or an array of several files it may be another one.
        why = f"{str(path)!r} cannot be read as an image ({error})" if Path(path).exists() else absent(path)
        raise InputError(why) from error
    # Damaged files raise whatever the decoder that stumbled knows: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise InputError(f"{str(path)!r} cannot be read as an image ({type(error).__name__}: {error})") from error
