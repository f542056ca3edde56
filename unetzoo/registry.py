"""Name → entry. Refuses a taken name, suggests near names for an unknown one."""

from __future__ import annotations

import difflib
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from unetzoo.errors import ConfigError
from unetzoo.plugins import PLUGINS

T = TypeVar("T")


OWN = "; if it is your own, import what registers it first (of a command: --import)"
"""What to say of a name that is known nowhere, and near to none."""


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a', 'b'?"`` for the known names that ``wrong`` begins, or is near to, or ``""``.

    Where there are none, it is for those that begin ``wrong``, as "val" does "validation". One that differs in capital
    letters, hyphens and underscores alone is the only one.
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
    """Return a name without what people write otherwise: capital letters, hyphens, underscores."""
    return name.lower().replace("-", "").replace("_", "")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping that grows by :meth:`register` alone.

    Whoever looks into it sees what installed packages add, too: they are imported when one is first looked into.

    A family is of entries that another package has, too many to list: they are found by their names, which begin with
    the family's, and are not among those that the registry goes through.

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
            ConfigError: the name is taken, or is no Python-style name in small letters.
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
            find: name without the prefix → entry; raises ``ConfigError`` for one that cannot be had.
            names: all that may be had, without the prefix; raises ``ConfigError`` where their package is missing.
        """
        self._families[prefix] = find, names

    def families(self) -> dict[str, Callable[[], Iterable[str]]]:
        """Return prefix → what gives the names of the family, without it."""
        return {prefix: names for prefix, (_, names) in self._families.items()}

    def _found(self, name: object) -> T | None:
        """Return the entry of a family; None where the name begins with none.

        Raises:
            ConfigError: it begins with one, and there is no such entry.
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
    """Refuse a name that could not be a torch.hub entry: those are Python functions."""
    fits = isinstance(name, str) and name.isidentifier() and name == name.lower() and not name.startswith("_")
    if not fits or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a {kind}: use small letters, digits and underscores, starting with a letter"
        )


def imported(path: str) -> Any:
    """Return what a dotted path names, a class of somebody's for instance; its module is imported for that.

    Raises:
        ConfigError: it is no dotted path, the module cannot be imported, or it holds nothing of that name.
    """
    home, _, last = path.rpartition(".")
    if not home or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{path!r:.100} is no dotted path, such as 'my_project.parts.Name'")
    try:
        module = import_module(home)
    except Exception as error:  # somebody else's module: whatever it raises
        raise ConfigError(f"{path}: {home} cannot be imported ({type(error).__name__}: {error})") from error
    if not hasattr(module, last):
        raise ConfigError(f"{path}: {home} has no {last!r}{suggest(last, dir(module))}")
    return getattr(module, last)
