"""What reading an image runs into, as one error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from unetzoo.errors import InputError, UnetzooError


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever reading a picture raises into one error.

    Raises:
        InputError: with the file's name.
    """
    try:
        yield
    except UnetzooError:
        raise
    # Damaged files raise whatever the decoder that stumbled knows: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise InputError(f"{str(path)!r} cannot be read as a picture ({type(error).__name__}: {error})") from error
