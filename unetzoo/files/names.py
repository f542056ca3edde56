"""Names that some file system takes for one."""

from __future__ import annotations

import unicodedata


def place_key(name: str) -> str:
    """Return what is equal of names that are one file's, or folder's, on some system.

    They differ in upper and lower case, in how an accent is stored, or in spaces and dots at their end.

    Args:
        name: with / between folders.
    """
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return "/".join(part.rstrip(" .") for part in composed.split("/"))
