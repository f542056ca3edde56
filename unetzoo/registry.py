"""Name → entry. Refuses a taken name, suggests similar names for an unknown one."""

from __future__ import annotations

import difflib
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from unetzoo.errors import ConfigError
from unetzoo.plugins import PLUGINS

T = TypeVar("T")


OWN = "; if it is your own, import the module that registers it first (on the command line: --import)"
"""The hint for a name that is unknown and similar to no known name."""


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a', 'b'?"`` for known names that start with ``wrong`` or resemble it, or ``""``.

    If there are none, names that ``wrong`` starts with are suggested, as "val" for "validation". A name that differs
    only in capital letters, hyphens and underscores is suggested alone.
    """
    small = {name.lower(): name for name in known}
    same = [name for name in small if _letters(name) == _letters(wrong)]
    if same:
        return f"; did you mean {small[same[0]]!r}?"
    begun = [name for name in small if wrong and name.startswith(wrong.lower())]
    near = [*dict.fromkeys((*begun, *difflib.get_close_matches(wrong.lower(), small, n=3, cutoff=0.6)))][:3]
    near = near or [name for name in small if len(name) > 2 and wrong.lower().startswith(name)]
    return f"; did you mean {', '.join(repr(small[name]) for name in near)}?" if near else ""


def _letters(name: str) -> str:
    """Return a name without what people often write differently: capital letters, hyphens, underscores."""
    return name.lower().replace("-", "").replace("_", "")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping that grows only by :meth:`register`.

    It includes what installed plug-ins add: they are imported when any registry is first read.

    A family holds entries that another package provides, too many to list: they are found by their names, which begin
    with the family's prefix, and iteration leaves them out.

    Args:
        kind: what the entries are, for messages ("encoder").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._families: dict[str, tuple[Callable[[str], T], Callable[[], Iterable[str]]]] = {}

    def register(self, name: str, entry: T) -> T:
        """Add ``entry`` as ``name`` and return it.

        Raises:
            ConfigError: the name is taken, or is not a Python identifier in lower case.
        """
        check_name(self.kind, name)
        if name in self._entries:
            raise ConfigError(f"the {self.kind} name {name!r} is taken; choose another")
        self._entries[name] = entry
        return entry

    def register_family(self, prefix: str, find: Callable[[str], T], names: Callable[[], Iterable[str]]) -> None:
        """Add a family.

        Args:
            prefix: of its names, with a slash at the end, such as "timm/".
            find: name without the prefix → entry; raises ``ConfigError`` for a name that is not available.
            names: returns all available names without the prefix; raises ``ConfigError`` if the package is missing.
        """
        self._families[prefix] = find, names

    def families(self) -> dict[str, Callable[[], Iterable[str]]]:
        """Return prefix → function that returns the names of the family, without the prefix."""
        return {prefix: names for prefix, (_, names) in self._families.items()}

    def entries(self) -> tuple[tuple[str, T], ...]:
        """Return names and entries as they are now, without families: equal as long as nothing is registered."""
        PLUGINS.load()
        return tuple(self._entries.items())

    def _found(self, name: object) -> T | None:
        """Return the entry of a family; None if the name does not begin with the prefix of one.

        Raises:
            ConfigError: it begins with a prefix, but there is no such entry.
        """
        for prefix, (find, _) in self._families.items():
            if isinstance(name, str) and name.startswith(prefix):
                return find(name.removeprefix(prefix))
        return None

    def __getitem__(self, name: str) -> T:
        PLUGINS.load()
        found = self._found(name)
        if found is not None:
            return found
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(
                f"unknown {self.kind} {name!r}{suggest(name, self._entries)} (known: {', '.join(self._entries)})"
            ) from None

    def __contains__(self, name: object) -> bool:
        PLUGINS.load()
        return isinstance(name, str) and (name in self._entries or self._found(name) is not None)

    def __iter__(self) -> Iterator[str]:
        PLUGINS.load()
        return iter(self._entries)

    def __len__(self) -> int:
        PLUGINS.load()
        return len(self._entries)


def check_name(kind: str, name: str) -> None:
    """Refuse a name that cannot be an entry point of torch.hub, as those are Python functions."""
    fits = isinstance(name, str) and name.isidentifier() and name == name.lower() and not name.startswith("_")
    if not fits or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a {kind}: use lower-case letters, digits and underscores, starting with a letter"
        )


def imported(path: str) -> Any:
    """Return the object that a dotted path names, such as a user's class; its module is imported for this.

    Raises:
        ConfigError: it is not a dotted path, the module cannot be imported, or it has nothing of that name.
    """
    home, _, last = path.rpartition(".")
    if not home or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{path!r:.100} is not a dotted path, such as 'my_project.parts.Name'")
    try:
        module = import_module(home)
    except Exception as error:  # somebody else's module may raise anything
        raise ConfigError(f"{path}: {home} cannot be imported ({type(error).__name__}: {error})") from error
    if not hasattr(module, last):
        raise ConfigError(f"{path}: {home} has no {last!r}{suggest(last, dir(module))}")
    return getattr(module, last)
