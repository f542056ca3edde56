"""Recognises, by its first bytes, a file that should hold weights but does not: downloads go wrong in few ways."""

from __future__ import annotations

import codecs
import re

SEEN = 512
"""Number of bytes that are read."""
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def no_weights(start: bytes) -> str | None:
    """Return what a file that begins with these bytes is, and what to do; None if it may hold tensors.

    Args:
        start: its first ``SEEN`` bytes, or all if it has fewer.
    """
    if not start:
        return "it is empty: download or save it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the file itself: 'git lfs pull' fetches the file"
    # Both kinds of tensor files have bytes within the first eight that no text has.
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return None
    if _CONTROL.search(text):
        return None
    if text.lstrip().startswith("<"):
        return "it is a web page (HTML), not a file of weights: download it again, from the link to the file itself"
    return "it is text, not a file of weights"
