"""What a file is that is called weights and holds none, told by its first bytes: downloads go wrong in few ways."""

from __future__ import annotations

import codecs
import re

SEEN = 512
"""Bytes that are looked at."""
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def no_weights(start: bytes) -> str | None:
    """Return what a file is that begins so, and what to do; None where it may hold tensors.

    Args:
        start: its first ``SEEN`` bytes, or all where it has fewer.
    """
    if not start:
        return "it is empty: download or save it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, which stands for the file: 'git lfs pull' fetches the file itself"
    # Both kinds of file of tensors have bytes within the first eight that no text has.
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return None
    if _CONTROL.search(text):
        return None
    if text.lstrip().startswith("<"):
        return "it is a web page (HTML), not a file of weights: download it again, by the link to the file itself"
    return "it is text, not a file of weights"
