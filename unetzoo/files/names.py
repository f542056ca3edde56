"""Names that some file system treats as the same."""

from __future__ import annotations

import unicodedata


def place_key(name: str) -> str:
    """Return a key that is equal for names that mean the same file or folder on some system.

    Such names differ in upper and lower case, in how an accent is stored, or in spaces and dots at the end.

    Args:
        name: with / between folders.
    """
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return "/".join(part.rstrip(" .") for part in composed.split("/"))
