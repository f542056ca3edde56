"""What a pickle would build, read from its instructions without building any of it.

Checkpoints are pickles. Torch's reader for strangers' ones calls a few functions alone, yet it builds whatever they ask
for: 600 bytes can hold a dictionary whose key takes longer to hash than anybody waits, and no Ctrl-C ends that. So each
is first gone through here, by instructions: what is built are text, numbers, tensors, and containers of these.

Other objects beside them, ``argparse.Namespace`` or numbers of numpy, are never built. The pickle can be written anew
without them: each becomes a tuple of its class's name, as text, and of what it would have been made of. Torch's reader
then sees text and tuples, and its own list of what may be built stays as it is.
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
"""Containers in containers. Those of optimisers and of hyperparameters are less than ten deep."""
MOST_STEPS = 5_000_000
"""Instructions of a pickle: about 40 a tensor, and one or two a number in a list."""

_Buffer = bytes | mmap.mmap


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


class Pickle:
    """A pickle in a buffer.

    Args:
        content: bytes, of which the pickle may be a part.
        start: where it begins.
        strict: refuse whatever names a class or a function that torch's reader does not know.

    Attributes:
        foreign: names of the classes and functions that it does not know, in the order in which they come.
    """

    def __init__(self, content: _Buffer, start: int = 0, *, strict: bool = False) -> None:
        self.content, self.place, self.start = content, start, start
        self.strict = strict
        self.foreign: dict[str, None] = {}
        self.edits: list[tuple[int, int, bytes]] = []  # from, to, and what shall stand there instead
        self.begun = start  # of the instruction that is done
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def check(self) -> Any:
        """Go through the instructions, and stand behind the last one.

        Returns:
            What would have been built, where it is a number, text or nothing; else something without meaning.

        Raises:
            Refused: it would build other things than text, numbers, tensors and containers of these, or beside them
                such as no honest program keeps; or it is damaged.
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
        """Check it as the pickle of a checkpoint, which is no foreign object as a whole; see :meth:`check`."""
        found = self.check()
        if isinstance(found, Foreign):
            raise Refused(f"it is a whole pickled object, which needs {found.name:.200}", needed=found.name)
        return found

    def without_foreign(self) -> bytes:
        """Return the pickle, once it was checked, with tuples of text in place of what torch's reader does not know.

        Raises:
            Refused: what comes of it is larger or deeper than readers can go through.
        """
        pieces, at = [], self.start
        for start, stop, instead in self.edits:
            pieces += [self.content[at:start], instead]
            at = stop
        written = b"".join([*pieces, self.content[at : self.place]])
        if self.edits:
            Pickle(written, strict=True).check()  # so that nothing rests on the lines above alone
        return written

    def bound(self, made: Made) -> None:
        """Refuse what would be deeper or larger than readers can go through."""
        if made.depth > DEEPEST:
            raise Refused(f"it nests containers more than {DEEPEST} deep")
        if made.weight > 10 * (self.place - self.start) + 1000:
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
            self.stack.append(Made(_EMPTY[code]))
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
        """Note what shall stand in place of the instruction that is done."""
        self.edits.append((self.begun, self.place, instructions))

    def become(self, parts: list[Any], instructions: bytes) -> None:
        """Put on the stack, for what a foreign object would have become, a tuple of it and what it was given."""
        self.stack.append(Foreign(self.stack.pop().name, parts))
        self.instead(instructions)

    def is_foreign(self) -> bool:
        """Return whether a foreign object is on top of the stack."""
        return isinstance(self.stack[-1], Foreign)

    def call(self) -> None:
        """A function with a tuple of arguments."""
        args, called = self.stack.pop(), self.stack[-1]
        if self.is_foreign():
            self.become([called, args], _TWO)
            return
        self.stack.pop()
        name = called.name if isinstance(called, Named) else None
        if name not in CALLS:
            raise Refused(f"it calls {name or 'what is no function'}", needed=name)
        kind, allowed = CALLS[name]
        if not is_made(args, "tuple") or not allowed(args.inside):
            raise Refused(f"it calls {name} with arguments that torch.save does not write", needed=name)
        made = Made(kind, args.inside)
        if kind == "tuple":  # torch.Size: what is in it is that of its argument
            made.inside = [item for arg in args.inside for item in arg.inside]
        self.stack.append(made)

    def new(self) -> None:
        """An object of a class, of a tuple of arguments."""
        args, kind = self.stack.pop(), self.stack[-1]
        if not self.is_foreign():
            raise Refused("it makes an object of a class of which torch.save writes none")
        self.become([kind, args], _TWO)

    def storage(self) -> None:
        """The numbers of a tensor, which lie elsewhere in the file."""
        what = self.stack.pop()
        inside = what.inside if is_made(what, "tuple") else []
        if len(inside) > 1 and inside[0] == "module" and isinstance(inside[1], Foreign):
            # Torch before 1.6 kept a module's class so, with its source. The tuple stays where it is.
            self.stack.append(Foreign(inside[1].name, [what]))
            self.instead(b"")
            return
        if len(inside) < 5 or inside[0] not in ("storage", b"storage") or not isinstance(inside[1], Named):
            raise Refused("it asks for something else than the numbers of a tensor")
        if inside[1].name not in KINDS_OF_STORAGE:
            raise Refused(f"it takes {inside[1].name} for the kind of a tensor's numbers", needed=inside[1].name)
        self.stack.append(Made("storage"))

    def attributes(self) -> None:
        """What ``state_dict`` notes beside its tensors."""
        noted = self.stack.pop()
        owner = self.stack[-1]
        if self.is_foreign():
            self.become([owner, noted], _TWO)
            return
        if not (is_made(owner, "dict") and is_made(noted, "dict") and set(noted.inside) <= {"_metadata"}):
            raise Refused("it sets attributes that torch.save does not write")
        owner.hold(noted)

    def append(self, items: list[Any], collected: bytes = b"") -> None:
        """Add to the list on the stack; ``collected`` makes a tuple of what stands above a mark."""
        if self.is_foreign():
            self.become([self.stack[-1], *items], collected + _TWO)
            return
        grown = self.grown("list")
        for item in items:
            grown.inside.append(item)
            self.put_into(grown, item)

    def set_items(self, items: list[Any], instructions: bytes) -> None:
        """Add keys and values to the dictionary on the stack; ``instructions`` make a tuple of all of it."""
        if self.is_foreign():
            self.become([self.stack[-1], *items], instructions)
            return
        grown = self.grown("dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise Refused("a key of a dictionary in it is neither text nor a number of a usual size")
            grown.inside.append(key)
            grown.hold(key)
            self.put_into(grown, value)

    @staticmethod
    def put_into(grown: Made, item: Any) -> None:
        """Count what is added to a container."""
        if item is grown:
            raise Refused("it adds a container to itself")
        grown.hold(item)

    def grown(self, kind: str) -> Made:
        """Return the container on the stack, to which something is added."""
        found = self.stack[-1]
        if not is_made(found, kind):
            raise Refused(f"it is damaged: it adds to what is no {kind}")
        if found.placed:
            raise Refused("it adds to a container that is in another, which could come to hold itself")
        made: Made = found
        return made

    def tuple_of(self, count: int | None) -> None:
        """A tuple of so many on top of the stack, or of all since the last mark."""
        items = self.since_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(Made("tuple", items))

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
"""What torch's reader for strangers' files knows; the other instructions are refused by it as well."""
