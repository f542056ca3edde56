"""Analysis of what a pickle would build, from its instructions, without building any of it.

Checkpoints are pickles. Torch's reader for untrusted ones calls only a few functions, but builds anything with them:
600 bytes can hold a dictionary whose key takes almost forever to hash, and Ctrl-C does not stop that. So the
instructions of each pickle are first checked here: only text, numbers, tensors, and containers of these are built.

Other objects next to them, such as ``argparse.Namespace`` or numpy numbers, are never built. The pickle can be
rewritten without them: each becomes a tuple of the name of its class, as text, and its arguments. Torch's reader then
reads text and tuples, and its own list of allowed functions does not change.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import Any

from unetzoo.files.pickle_objects import (
    CALLS,
    KINDS_OF_STORAGE,
    VALUES,
    Foreign,
    Made,
    Named,
    is_harmful,
    is_key,
    is_made,
)

DEEPEST = 100
"""Most levels of nested containers. Those of optimisers and hyperparameters have less than ten."""
MOST_STEPS = 5_000_000
"""Most instructions of a pickle: a tensor takes about 40, and a number in a list one or two."""

_Buffer = bytes | mmap.mmap


class Refused(Exception):  # noqa: N818 - the word that callers read
    """A pickle that is damaged, or would build something that no state dict contains.

    Attributes:
        needed: the class or function that it would call, None if this is not the problem.
    """

    def __init__(self, reason: str, needed: str | None = None) -> None:
        super().__init__(reason)
        self.needed = needed


class Damaged(Refused):
    """A pickle that is cut off, or not a pickle at all."""


class Pickle:
    """A pickle in a buffer.

    Args:
        content: bytes, of which the pickle may be a part.
        start: where it begins.
        strict: refuse a pickle that names a class or a function that torch's reader does not know.

    Attributes:
        foreign: names of the classes and functions that torch's reader does not know, in the order of the pickle.
    """

    def __init__(self, content: _Buffer, start: int = 0, *, strict: bool = False) -> None:
        self.content, self.place, self.start = content, start, start
        self.strict = strict
        self.foreign: dict[str, None] = {}
        self.edits: list[tuple[int, int, bytes]] = []  # start, stop, and the replacement
        self.begun = start  # start of the current instruction
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def check(self) -> Any:
        """Check all instructions, and stop after the last one.

        Returns:
            The result, if it is a number, text or None; otherwise something without meaning.

        Raises:
            Refused: the result would not consist of text, numbers, tensors and containers of these; or it names
                something harmful, or is damaged.
        """
        try:
            for _ in range(MOST_STEPS):
                self.begun = self.place
                code = self.take(1)
                if code == b".":
                    return self.stack.pop()
                self.step(code)
                top = self.stack[-1] if self.stack else None
                if isinstance(top, Made):
                    self.bound(top)
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise Damaged(f"it is damaged ({type(error).__name__})") from error
        raise Refused(f"it has more than {MOST_STEPS:,} instructions")

    def check_content(self) -> Any:
        """Check it as the pickle of a checkpoint, which must not itself be a foreign object; see :meth:`check`."""
        found = self.check()
        if isinstance(found, Foreign):
            raise Refused(f"it is a complete pickled object, which needs {found.name:.200}", needed=found.name)
        return found

    def without_foreign(self) -> bytes:
        """Return the pickle, after :meth:`check`, with tuples of text instead of what torch's reader does not know.

        Raises:
            Refused: the result is too large or too deeply nested for readers.
        """
        pieces, at = [], self.start
        for start, stop, instead in self.edits:
            pieces += [self.content[at:start], instead]
            at = stop
        written = b"".join([*pieces, self.content[at : self.place]])
        if self.edits:
            Pickle(written, strict=True).check()  # so that safety does not depend on the lines above alone
        return written

    def bound(self, made: Made) -> None:
        """Refuse an object that is too large or too deeply nested for readers."""
        if made.depth > DEEPEST:
            raise Refused(f"it nests containers more than {DEEPEST} levels deep")
        if made.weight > 10 * (self.place - self.start) + 1000:
            raise Refused(
                "it holds the same containers inside each other, and would expand beyond the size of the file"
            )

    def step(self, code: bytes) -> None:
        """Apply one instruction to the stack."""
        if code in _NUMBERS:
            form = _NUMBERS[code]
            (number,) = struct.unpack(form, self.take(struct.calcsize(form)))
            self.stack.append(number)
        elif code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code in _EMPTY:
            self.stack.append(Made(_EMPTY[code]))
        elif code in _STEPS:
            _STEPS[code](self)
        else:
            raise Refused(f"it is damaged, or of a kind that torch.save does not write (instruction {code!r})")

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        end = self.place + count
        if end > len(self.content):
            raise Damaged("it is damaged: it ends too early")
        found = self.content[self.place : end]
        self.place = end
        return found

    def line(self) -> str:
        """Return the next line, without its end."""
        found = bytearray()
        while (letter := self.take(1)) != b"\n":
            found += letter
            if len(found) > 1000:
                raise Damaged("it is damaged: a name has more than 1,000 characters")
        return found.decode()

    def since_mark(self) -> list[Any]:
        """Remove and return the items on the stack since the last mark."""
        found, self.stack = self.stack, self.marked.pop()
        return found

    def name(self) -> None:
        """Push a class or a function."""
        module, name = self.line(), self.line()
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if full in VALUES or full in CALLS or full in KINDS_OF_STORAGE:
            self.stack.append(Named(full))
            return
        if self.strict or is_harmful(full):
            raise Refused(f"it needs {full:.200}", needed=full)
        self.foreign[full] = None
        self.stack.append(Foreign(full))
        text = full.encode()
        self.instead(b"X" + struct.pack("<I", len(text)) + text)

    def instead(self, instructions: bytes) -> None:
        """Record the replacement for the current instruction."""
        self.edits.append((self.begun, self.place, instructions))

    def become(self, parts: list[Any], instructions: bytes) -> None:
        """Replace the foreign object on the stack by a tuple of it and what it was given."""
        self.stack.append(Foreign(self.stack.pop().name, parts))
        self.instead(instructions)

    def is_foreign(self) -> bool:
        """Return whether a foreign object is on top of the stack."""
        return isinstance(self.stack[-1], Foreign)

    def call(self) -> None:
        """Call a function with a tuple of arguments."""
        args, called = self.stack.pop(), self.stack[-1]
        if self.is_foreign():
            self.become([called, args], _TWO)
            return
        self.stack.pop()
        name = called.name if isinstance(called, Named) else None
        if name not in CALLS:
            raise Refused(f"it calls {name or 'something that is not a function'}", needed=name)
        kind, allowed = CALLS[name]
        if not is_made(args, "tuple") or not allowed(args.inside):
            raise Refused(f"it calls {name} with arguments that torch.save does not write", needed=name)
        made = Made(kind, args.inside)
        if kind == "tuple":  # torch.Size: it has the contents of its argument
            made.inside = [item for arg in args.inside for item in arg.inside]
        self.stack.append(made)

    def new(self) -> None:
        """Create an object of a class from a tuple of arguments."""
        args, kind = self.stack.pop(), self.stack[-1]
        if not self.is_foreign():
            raise Refused("it creates an object of a class that torch.save does not write")
        self.become([kind, args], _TWO)

    def storage(self) -> None:
        """Push the storage of a tensor, which is elsewhere in the file."""
        what = self.stack.pop()
        inside = what.inside if is_made(what, "tuple") else []
        if len(inside) > 1 and inside[0] == "module" and isinstance(inside[1], Foreign):
            # Torch before 1.6 stored a module's class in this way, with its source. The tuple is kept.
            self.stack.append(Foreign(inside[1].name, [what]))
            self.instead(b"")
            return
        if len(inside) < 5 or inside[0] not in ("storage", b"storage") or not isinstance(inside[1], Named):
            raise Refused("it refers to external data that is not the storage of a tensor")
        if inside[1].name not in KINDS_OF_STORAGE:
            raise Refused(f"it uses {inside[1].name} as the type of a storage", needed=inside[1].name)
        self.stack.append(Made("storage"))

    def attributes(self) -> None:
        """Set attributes: only the metadata that ``state_dict`` adds to its tensors."""
        noted = self.stack.pop()
        owner = self.stack[-1]
        if self.is_foreign():
            self.become([owner, noted], _TWO)
            return
        if not (is_made(owner, "dict") and is_made(noted, "dict") and set(noted.inside) <= {"_metadata"}):
            raise Refused("it sets attributes that torch.save does not write")
        owner.hold(noted)

    def append(self, items: list[Any], collected: bytes = b"") -> None:
        """Append to the list on the stack; ``collected`` makes a tuple of the items above a mark."""
        if self.is_foreign():
            self.become([self.stack[-1], *items], collected + _TWO)
            return
        grown = self.grown("list")
        for item in items:
            grown.inside.append(item)
            self.put_into(grown, item)

    def set_items(self, items: list[Any], instructions: bytes) -> None:
        """Add keys and values to the dictionary on the stack; ``instructions`` make a tuple of all of them."""
        if self.is_foreign():
            self.become([self.stack[-1], *items], instructions)
            return
        grown = self.grown("dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise Refused("it has a dictionary with a key that is neither text nor a number of usual size")
            grown.inside.append(key)
            grown.hold(key)
            self.put_into(grown, value)

    @staticmethod
    def put_into(grown: Made, item: Any) -> None:
        """Count an item that is added to a container."""
        if item is grown:
            raise Refused("it adds a container to itself")
        grown.hold(item)

    def grown(self, kind: str) -> Made:
        """Return the container on the stack, to which something is added."""
        found = self.stack[-1]
        if not is_made(found, kind):
            raise Refused(f"it is damaged: it adds items to something that is not a {kind}")
        if found.placed:
            raise Refused("it adds items to a container inside another one, which could come to contain itself")
        made: Made = found
        return made

    def tuple_of(self, count: int | None) -> None:
        """Make a tuple of the top ``count`` items of the stack, or of all since the last mark."""
        items = self.since_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(Made("tuple", items))

    def mark(self) -> None:
        """Set a mark, from which items are collected."""
        self.marked.append(self.stack)
        self.stack = []

    def text(self) -> None:
        """Push text, which begins with its length."""
        (length,) = struct.unpack("<I", self.take(4))
        self.stack.append(self.take(length).decode("utf-8", "surrogatepass"))

    def remember(self, form: str) -> None:
        """Store the top of the stack under a number."""
        (number,) = struct.unpack(form, self.take(struct.calcsize(form)))
        self.memo[number] = self.stack[-1]

    def recall(self, form: str) -> None:
        """Push what was stored under a number."""
        (number,) = struct.unpack(form, self.take(struct.calcsize(form)))
        self.stack.append(self.memo[number])

    def pair(self) -> None:
        """Add a key and a value to the dictionary below them on the stack."""
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value], _THREE)


_ALL, _TWO, _THREE = b"t", b"\x86", b"\x87"
"""Make a tuple: of all since the last mark, of two, of three."""
_NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_EMPTY = {b")": "tuple", b"]": "list", b"}": "dict", b"\x8f": "set"}
_STEPS: dict[bytes, Callable[[Pickle], object]] = {
    b"\x80": lambda it: it.take(1),
    b"c": Pickle.name,
    b"R": Pickle.call,
    b"\x81": Pickle.new,
    b"Q": Pickle.storage,
    b"b": Pickle.attributes,
    b"a": lambda it: it.append([it.stack.pop()]),
    b"e": lambda it: it.append(it.since_mark(), _ALL),
    b"s": Pickle.pair,
    b"u": lambda it: it.set_items(it.since_mark(), _ALL + _TWO),
    b"(": Pickle.mark,
    _ALL: lambda it: it.tuple_of(None),
    b"\x85": lambda it: it.tuple_of(1),
    _TWO: lambda it: it.tuple_of(2),
    _THREE: lambda it: it.tuple_of(3),
    b"X": Pickle.text,
    b"U": lambda it: it.stack.append(it.take(it.take(1)[0])),
    b"\x8a": lambda it: it.stack.append(int.from_bytes(it.take(it.take(1)[0]), "little", signed=True)),
    b"h": lambda it: it.recall("<B"),
    b"j": lambda it: it.recall("<I"),
    b"q": lambda it: it.remember("<B"),
    b"r": lambda it: it.remember("<I"),
}
"""The instructions that torch's reader for untrusted files knows; it refuses all others too."""
