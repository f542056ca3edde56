"""The names of repositories on the Hugging Face Hub: "owner/name" and "owner/name@revision"."""

from __future__ import annotations

import re
from urllib.parse import urlparse

from unetzoo.errors import ConfigError
from unetzoo.files.tensors import SUFFIX

PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"(?P<id>\w[\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)


def is_repository(text: str) -> bool:
    """Return whether a text has the form of a repository's name, and not that of a file."""
    return text.startswith(PREFIX) or (_matched(text) is not None and not text.endswith(SUFFIX))


def parse(repo_id: str, revision: str | None) -> tuple[str, str]:
    """Return the name and the revision of a repository, "main" if none is given.

    Raises:
        ConfigError: it is not such a name, or two revisions are given.
    """
    if not isinstance(repo_id, str):
        raise ConfigError(f"a repository's name, 'owner/name', is needed, not {type(repo_id).__name__}")
    match = _matched(repo_id.removeprefix(PREFIX))
    if match is None:
        raise ConfigError(
            f"{repo_id!r} is not the name of a repository: 'owner/name' or 'owner/name@revision' is needed"
            f"{behind_the_host(repo_id)}"
        )
    if match["revision"] and revision and match["revision"] != revision:
        raise ConfigError(f"{repo_id!r} and revision={revision!r} contradict each other: give one")
    return match["id"], match["revision"] or revision or "main"


def _matched(text: str) -> re.Match[str] | None:
    match = _REPOSITORY.fullmatch(text)
    # The Hub accepts neither "--" nor "..".
    return None if match is None or "--" in match["id"] or ".." in match["id"] else match


def behind_the_host(address: str) -> str:
    """Return which part to use of an address that was copied from a browser."""
    path = urlparse(address).path.strip("/").split("/") if "://" in address else []
    return f"; from this address, use {'/'.join(path[:2])!r}" if len(path) >= 2 else ""


def title_of(name: str, revision: str) -> str:
    """Return the name of a revision of a repository for messages."""
    return name if revision == "main" else f"{name}@{revision}"
