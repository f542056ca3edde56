"""What a pickle would build, read from its instructions without building any of it.

Checkpoints are pickles. Torch's reader for strangers' ones calls a few functions alone, yet it builds whatever they ask
for: 600 bytes can hold a dictionary whose key takes longer to hash than anybody waits, and no Ctrl-C ends that. So each
is first gone through here, by instructions: what is built are text, numbers, tensors, and containers of these.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterable
from typing import Any

DEEPEST = 100
"""Containers in containers. Those of optimisers and of hyperparameters are less than ten deep."""
MOST_STEPS = 5_000_000
"""Instructions of a pickle: some 40 a tensor, and one or two a number in a list."""
LARGEST_KEY = 1 << 60
"""Whole numbers beyond it can have one hash, and a dictionary of many such takes for ever."""

_Buffer = bytes | mmap.mmap
_SCALARS = (str, int, float, bytes, type(None))  # bool is an int
_DTYPES = (
    "float16 bfloat16 float32 float64 uint8 uint16 uint32 uint64 int8 int16 int32 int64 bool complex32 complex64 "
    "complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu qint8 quint8 qint32"
)
_STORAGES = "Half BFloat16 Float Double Byte Char Short Int Long Bool ComplexFloat ComplexDouble QInt8 QUInt8 QInt32"
_VALUES = {f"torch.{name}" for name in (*_DTYPES.split(), "per_tensor_affine", "per_channel_affine")}
_KINDS_OF_STORAGE = {
    "torch.storage.UntypedStorage",
    *(f"torch.{place}{name}Storage" for name in _STORAGES.split() for place in ("", "cuda.")),
}


class Refused(Exception):  # noqa: N818 - the word that callers read
    """A pickle that is damaged, or would build what no state dict holds.

    Attributes:
        needed: the class or function that it would call, None where that is not what is wrong.
    """

    def __init__(self, reason: str, needed: str | None = None) -> None:
        super().__init__(reason)
        self.needed = needed


class Damaged(Refused):
    """A pickle that is cut off, or none."""


class _Made:
    """What an instruction would have built, known by its kind."""

    __slots__ = ("depth", "inside", "kind", "placed", "weight")

    def __init__(self, kind: str, inside: Iterable[Any] = ()) -> None:
        self.kind = kind
        self.inside: list[Any] = []  # of a dictionary: its keys
        self.weight = 1  # of all that is in it, counted as often as it is reached
        self.depth = 1
        self.placed = False  # in another: from then on it stays as it is, or it could come to hold itself
        for item in inside:
            self.inside.append(item)
            self.hold(item)

    def hold(self, item: Any) -> None:
        if isinstance(item, _Made):
            item.placed = True
            self.weight += item.weight
            self.depth = max(self.depth, item.depth + 1)
        else:
            self.weight += 1


class _Named:
    """A class or a function, by its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _is(value: Any, *kinds: str) -> bool:
    return isinstance(value, _Made) and value.kind in kinds


def _is_key(value: Any) -> bool:
    return isinstance(value, _SCALARS) and not (isinstance(value, int) and abs(value) > LARGEST_KEY)


def _are_pairs(args: list[Any]) -> bool:
    """Return whether arguments are none, or a list of keys and values, as Python 2 wrote ordered dictionaries."""
    if len(args) != 1 or not _is(args[0], "list"):
        return not args
    return all(
        _is(pair, "list", "tuple") and len(pair.inside) == 2 and _is_key(pair.inside[0]) for pair in args[0].inside
    )


def _are_of_tensor(args: list[Any]) -> bool:
    return bool(args) and (_is(args[0], "storage", "tensor") or isinstance(args[0], _Named))


_CALLS: dict[str, tuple[str, Callable[[list[Any]], bool]]] = {
    "collections.OrderedDict": ("dict", _are_pairs),
    "collections.Counter": ("dict", lambda args: all(_is(arg, "dict") for arg in args)),
    "builtins.set": ("set", lambda args: all(_is(arg, "list") and all(map(_is_key, arg.inside)) for arg in args)),
    "builtins.complex": ("number", lambda args: all(isinstance(arg, int | float) for arg in args)),
    "_codecs.encode": ("bytes", lambda args: len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1"),
    "torch.Size": ("tuple", lambda args: all(_is(arg, "list", "tuple") for arg in args)),
    "torch.device": ("device", lambda args: all(isinstance(arg, str | int) for arg in args)),
    "torch.serialization._get_layout": ("layout", lambda args: all(isinstance(arg, str) for arg in args)),
    "torch._utils._rebuild_sparse_tensor": ("tensor", lambda args: _is(args[0], "layout")),
    **dict.fromkeys(
        (
            f"torch._utils._rebuild_{name}"
            for name in ("tensor", "tensor_v2", "tensor_v3", "qtensor", "parameter", "parameter_with_state",
                         "meta_tensor_no_storage")
        ),
        ("tensor", _are_of_tensor),
    ),
}  # fmt: skip
"""Function → what it makes, and whether it may be called with such arguments. All are torch's own reader's, too."""


class Pickle:
    """A pickle in a buffer.

    Args:
        content: bytes, of which the pickle may be a part.
        start: where it begins.
    """

    def __init__(self, content: _Buffer, start: int = 0) -> None:
        self.content, self.place = content, start
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def check(self) -> Any:
        """Go through the instructions, and stand behind the last one.

        Returns:
            What would have been built, where it is a number, text or nothing; else something without meaning.

        Raises:
            Refused: it would build more than text, numbers, tensors and containers of these; or it is damaged.
        """
        begun = self.place
        try:
            for _ in range(MOST_STEPS):
                code = self.take(1)
                if code == b".":
                    return self.stack.pop()
                self.step(code)
                top = self.stack[-1] if self.stack else None
                if isinstance(top, _Made):
                    self.bound(top, begun)
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise Damaged(f"it is damaged ({type(error).__name__})") from error
        raise Refused(f"it has more than {MOST_STEPS:,} instructions")

    def bound(self, made: _Made, begun: int) -> None:
        """Refuse what would be deeper or larger than readers can go through."""
        if made.depth > DEEPEST:
            raise Refused(f"it nests containers more than {DEEPEST} deep")
        if made.weight > 10 * (self.place - begun) + 1000:
            raise Refused("it holds the same containers in each other, and would unfold to more than the file has")

    def step(self, code: bytes) -> None:
        """Do what one instruction does to the stack."""
        if code in _NUMBERS:
            form = _NUMBERS[code]
            (number,) = struct.unpack(form, self.take(struct.calcsize(form)))
            self.stack.append(number)
        elif code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code in _EMPTY:
            self.stack.append(_Made(_EMPTY[code]))
        elif code in _STEPS:
            _STEPS[code](self)
        else:
            raise Refused(f"it is damaged, or of a kind that torch.save does not write (instruction {code!r})")

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        end = self.place + count
        if end > len(self.content):
            raise Damaged("it is damaged: it ends too soon")
        found = self.content[self.place : end]
        self.place = end
        return found

    def line(self) -> str:
        """Return the next line, without its end."""
        found = bytearray()
        while (letter := self.take(1)) != b"\n":
            found += letter
            if len(found) > 1000:
                raise Damaged("it is damaged: a name has more than 1,000 letters")
        return found.decode()

    def since_mark(self) -> list[Any]:
        """Return what was put on the stack since the last mark, and take it off."""
        found, self.stack = self.stack, self.marked.pop()
        return found

    def name(self) -> None:
        """A class or a function."""
        module, name = self.line(), self.line()
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if full not in _VALUES and full not in _CALLS and full not in _KINDS_OF_STORAGE:
            raise Refused(f"it needs {full}", needed=full)
        self.stack.append(_Named(full))

    def call(self) -> None:
        """A function with a tuple of arguments."""
        args, called = self.stack.pop(), self.stack.pop()
        name = called.name if isinstance(called, _Named) else None
        if name not in _CALLS:
            raise Refused(f"it calls {name or 'what is no function'}", needed=name)
        kind, allowed = _CALLS[name]
        if not _is(args, "tuple") or not allowed(args.inside):
            raise Refused(f"it calls {name} with arguments that torch.save does not write", needed=name)
        made = _Made(kind, args.inside)
        if kind == "tuple":  # torch.Size: what is in it is that of its argument
            made.inside = [item for arg in args.inside for item in arg.inside]
        self.stack.append(made)

    def storage(self) -> None:
        """The numbers of a tensor, which lie elsewhere in the file."""
        what = self.stack.pop()
        inside = what.inside if _is(what, "tuple") else []
        if len(inside) < 5 or inside[0] not in ("storage", b"storage") or not isinstance(inside[1], _Named):
            raise Refused("it asks for something else than the numbers of a tensor")
        if inside[1].name not in _KINDS_OF_STORAGE:
            raise Refused(f"it takes {inside[1].name} for the kind of a tensor's numbers", needed=inside[1].name)
        self.stack.append(_Made("storage"))

    def attributes(self) -> None:
        """What ``state_dict`` notes beside its tensors."""
        noted = self.stack.pop()
        owner = self.stack[-1]
        if not (_is(owner, "dict") and _is(noted, "dict") and set(noted.inside) <= {"_metadata"}):
            raise Refused("it sets attributes that torch.save does not write")
        owner.hold(noted)

    def append(self, items: list[Any]) -> None:
        """Add to the list on the stack."""
        grown = self.grown("list")
        for item in items:
            grown.inside.append(item)
            self.put_into(grown, item)

    def set_items(self, items: list[Any]) -> None:
        """Add keys and values to the dictionary on the stack."""
        grown = self.grown("dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _is_key(key):
                raise Refused("a key of a dictionary in it is neither text nor a number of a usual size")
            grown.inside.append(key)
            grown.hold(key)
            self.put_into(grown, value)

    @staticmethod
    def put_into(grown: _Made, item: Any) -> None:
        """Count what is added to a container."""
        if item is grown:
            raise Refused("it adds a container to itself")
        grown.hold(item)

    def grown(self, kind: str) -> _Made:
        """Return the container on the stack, to which something is added."""
        found = self.stack[-1]
        if not _is(found, kind):
            raise Refused(f"it is damaged: it adds to what is no {kind}")
        if found.placed:
            raise Refused("it adds to a container that is in another, which could come to hold itself")
        made: _Made = found
        return made

    def tuple_of(self, count: int | None) -> None:
        """A tuple of so many on top of the stack, or of all since the last mark."""
        items = self.since_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(_Made("tuple", items))

    def mark(self) -> None:
        """Begin to collect."""
        self.marked.append(self.stack)
        self.stack = []

    def text(self) -> None:
        """Text, of a length that it says first."""
        (length,) = struct.unpack("<I", self.take(4))
        self.stack.append(self.take(length).decode("utf-8", "surrogatepass"))

    def remember(self, form: str) -> None:
        """Note what is on top of the stack under a number."""
        (number,) = struct.unpack(form, self.take(struct.calcsize(form)))
        self.memo[number] = self.stack[-1]

    def recall(self, form: str) -> None:
        """Put what was noted on the stack again."""
        (number,) = struct.unpack(form, self.take(struct.calcsize(form)))
        self.stack.append(self.memo[number])

    def pair(self) -> None:
        """Add a key and a value to the dictionary below them."""
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])


_NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_EMPTY = {b")": "tuple", b"]": "list", b"}": "dict", b"\x8f": "set"}
_STEPS: dict[bytes, Callable[[Pickle], object]] = {
    b"\x80": lambda it: it.take(1),
    b"c": Pickle.name,
    b"R": Pickle.call,
    b"Q": Pickle.storage,
    b"b": Pickle.attributes,
    b"a": lambda it: it.append([it.stack.pop()]),
    b"e": lambda it: it.append(it.since_mark()),
    b"s": Pickle.pair,
    b"u": lambda it: it.set_items(it.since_mark()),
    b"(": Pickle.mark,
    b"t": lambda it: it.tuple_of(None),
    b"\x85": lambda it: it.tuple_of(1),
    b"\x86": lambda it: it.tuple_of(2),
    b"\x87": lambda it: it.tuple_of(3),
    b"X": Pickle.text,
    b"U": lambda it: it.stack.append(it.take(it.take(1)[0])),
    b"\x8a": lambda it: it.stack.append(int.from_bytes(it.take(it.take(1)[0]), "little", signed=True)),
    b"h": lambda it: it.recall("<B"),
    b"j": lambda it: it.recall("<I"),
    b"q": lambda it: it.remember("<B"),
    b"r": lambda it: it.remember("<I"),
}
"""What torch's reader for strangers' files knows; the other instructions are refused by it as well."""
