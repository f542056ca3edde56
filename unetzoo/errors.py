"""The exceptions of unetzoo: each is also a subclass of the built-in exception that callers would expect."""

from collections.abc import Sequence

from unetzoo.printing import printable, said_once


class UnetzooError(Exception):
    """Base of every error raised on purpose by unetzoo.

    ``str()`` is printable: a message names files, classes and settings, which may be untrusted, and is shown on a
    terminal.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), lines=True)


class ConfigError(UnetzooError, ValueError):
    """A name, an argument or a configuration that cannot be built.

    Attributes:
        problems: one sentence per problem. The message lists them all, and a problem that several files share once.
        total: the number of problems; larger than that of ``problems`` where a sentence stands for several of a kind.
    """

    def __init__(self, headline: str, problems: Sequence[str] = (), *, total: int | None = None) -> None:
        self.problems = tuple(problems) or (headline,)
        self.total = len(self.problems) if total is None else total
        said = said_once(problems)
        if len(said) == 1:
            headline = f"{headline}: {said[0]}"
        elif said:
            listed = "".join(f"\n  - {problem}" for problem in said)
            kinds = ", grouped by kind" if self.total > len(self.problems) else ""
            headline = f"{headline}; {self.total} things are wrong{kinds}:{listed}"
        super().__init__(headline)


class InputError(UnetzooError, ValueError):
    """Images that a model cannot take, because of their dimensions, type, channels or size."""


class WriteError(UnetzooError, OSError):
    """A file or a folder that cannot be written; what was there before is unchanged."""


class WeightsError(UnetzooError, RuntimeError):
    """A file of weights that is missing, damaged, or made for another network."""


class DamagedError(WeightsError):
    """A file whose bytes have changed since it was written."""


class TrainingError(UnetzooError, RuntimeError):
    """A run that cannot continue: its loss or weights are not finite, or there is too little memory."""


class HubError(UnetzooError, OSError):
    """A repository of the Hugging Face Hub that cannot be read or written.

    Attributes:
        reason: "missing", "gated", "token", "revision", "conflict", "forbidden", "offline", "unreachable", "busy",
            "not_a_model", "pickle", "damaged" or "other".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
