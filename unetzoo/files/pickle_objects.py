"""The objects that the instructions of a pickle would build, by kind, and the classes and functions that they name.

Torch's reader for untrusted checkpoints builds tensors, containers, and what these consist of. Nothing else, such as an
``argparse.Namespace`` next to a state dict, is ever imported or called, so its name does no harm; but names that no
honest checkpoint needs are refused, as whoever wrote such a file meant harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

LARGEST_KEY = 1 << 60
"""Larger whole numbers can share one hash, and a dictionary with many such keys would take forever."""

_SCALARS = (str, int, float, bytes, type(None))  # bool is an int
_DTYPES = (
    "float16 bfloat16 float32 float64 uint8 uint16 uint32 uint64 int8 int16 int32 int64 bool complex32 complex64 "
    "complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu qint8 quint8 qint32"
)
_STORAGES = "Half BFloat16 Float Double Byte Char Short Int Long Bool ComplexFloat ComplexDouble QInt8 QUInt8 QInt32"
VALUES = {f"torch.{name}" for name in (*_DTYPES.split(), "per_tensor_affine", "per_channel_affine")}
KINDS_OF_STORAGE = {
    "torch.storage.UntypedStorage",
    *(f"torch.{place}{name}Storage" for name in _STORAGES.split() for place in ("", "cuda.")),
}

_MODULES = (
    "os posix nt sys subprocess _posixsubprocess popen2 commands shutil socket _socket ctypes _ctypes importlib imp "
    "_frozen_importlib runpy pty code codeop timeit cProfile profile pdb bdb webbrowser urllib http ftplib smtplib "
    "telnetlib pip ensurepip setuptools multiprocessing pickle _pickle cPickle shelve"
)
_BUILTINS = "eval exec execfile compile open file __import__ input raw_input breakpoint exit quit globals locals"
_HARMFUL = {*_MODULES.split(), *(f"builtins.{name}" for name in _BUILTINS.split())}


class Made:
    """An object that an instruction would have built, of which only the kind is known."""

    __slots__ = ("depth", "inside", "kind", "placed", "weight")

    def __init__(self, kind: str, inside: Iterable[Any] = ()) -> None:
        self.kind = kind
        self.inside: list[Any] = []  # for a dictionary, its keys
        self.weight = 1  # the number of objects in it, counted as often as they are reached
        self.depth = 1
        self.placed = False  # inside another object; then it must not change, or it could come to contain itself
        for item in inside:
            self.inside.append(item)
            self.hold(item)

    def hold(self, item: Any) -> None:
        """Count an object that is put into this one."""
        if isinstance(item, Made):
            item.placed = True
            self.weight += item.weight
            self.depth = max(self.depth, item.depth + 1)
        else:
            self.weight += 1


class Named:
    """A class or a function, known by its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Foreign(Made):
    """A class or a function that torch's reader does not know, or the object it would have made. It becomes a tuple."""

    __slots__ = ("name",)

    def __init__(self, name: str, inside: Iterable[Any] = ()) -> None:
        super().__init__("foreign", inside)
        self.name = name


def is_made(value: Any, *kinds: str) -> bool:
    """Return whether a value is an object of one of these kinds that an instruction would have built."""
    return isinstance(value, Made) and value.kind in kinds


def is_key(value: Any) -> bool:
    """Return whether a value may be the key of a dictionary, as it takes no time to hash."""
    if isinstance(value, Foreign):
        return not value.inside  # only a name, which becomes text
    return isinstance(value, _SCALARS) and not (isinstance(value, int) and abs(value) > LARGEST_KEY)


def _are_pairs(args: list[Any]) -> bool:
    """Return whether there are no arguments, or a list of keys and values, as Python 2 wrote ordered dictionaries."""
    if len(args) != 1 or not is_made(args[0], "list"):
        return not args
    return all(
        is_made(pair, "list", "tuple") and len(pair.inside) == 2 and is_key(pair.inside[0]) for pair in args[0].inside
    )


def _are_of_tensor(args: list[Any]) -> bool:
    return bool(args) and (is_made(args[0], "storage", "tensor") or isinstance(args[0], Named))


CALLS: dict[str, tuple[str, Callable[[list[Any]], bool]]] = {
    "collections.OrderedDict": ("dict", _are_pairs),
    "collections.Counter": ("dict", lambda args: all(is_made(arg, "dict") for arg in args)),
    "builtins.set": ("set", lambda args: all(is_made(arg, "list") and all(map(is_key, arg.inside)) for arg in args)),
    "builtins.complex": ("number", lambda args: all(isinstance(arg, int | float) for arg in args)),
    "_codecs.encode": ("bytes", lambda args: len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1"),
    "torch.Size": ("tuple", lambda args: all(is_made(arg, "list", "tuple") for arg in args)),
    "torch.device": ("device", lambda args: all(isinstance(arg, str | int) for arg in args)),
    "torch.serialization._get_layout": ("layout", lambda args: all(isinstance(arg, str) for arg in args)),
    "torch._utils._rebuild_sparse_tensor": ("tensor", lambda args: is_made(args[0], "layout")),
    **dict.fromkeys(
        (
            f"torch._utils._rebuild_{name}"
            for name in ("tensor", "tensor_v2", "tensor_v3", "qtensor", "parameter", "parameter_with_state",
                         "meta_tensor_no_storage")
        ),
        ("tensor", _are_of_tensor),
    ),
}  # fmt: skip
"""Function → kind of its result, and whether it accepts given arguments. Torch's reader knows all of them."""


def is_harmful(name: str) -> bool:
    """Return whether a function of this full name runs programs, opens files or connections, or imports."""
    return name in _HARMFUL or name.partition(".")[0] in _HARMFUL
