"""The exceptions of unetzoo: each also is the builtin a careful caller would already catch."""

from collections.abc import Sequence

from unetzoo.printing import printable, said_once


class UnetzooError(Exception):
    """Base of every error raised on purpose by unetzoo.

    ``str()`` is printable: a message names files, classes and settings, which may be anybody's, and ends on a terminal.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), lines=True)


class ConfigError(UnetzooError, ValueError):
    """A name, an argument or a configuration that cannot be built.

    Attributes:
        problems: a sentence for each thing that is wrong; the message lists them all, and what is wrong with several
            files once.
    """

    def __init__(self, headline: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems) or (headline,)
        said = said_once(problems)
        if len(said) == 1:
            headline = f"{headline}: {said[0]}"
        elif said:
            listed = "".join(f"\n  - {problem}" for problem in said)
            headline = f"{headline}; {len(problems)} things are wrong:{listed}"
        super().__init__(headline)


class InputError(UnetzooError, ValueError):
    """Images that a model cannot take: dimensions, type, channels or size."""


class WriteError(UnetzooError, OSError):
    """A file or a folder that cannot be written; what was there before is as it was."""


class WeightsError(UnetzooError, RuntimeError):
    """A file of weights that is missing, damaged, or made for another network."""


class DamagedError(WeightsError):
    """A file whose bytes are not those that were once written."""


class TrainingError(UnetzooError, RuntimeError):
    """A run that cannot go on: a loss or weights that are not finite, or no memory."""


class HubError(UnetzooError, OSError):
    """A repository of the Hugging Face Hub that cannot be read or written.

    Attributes:
        reason: "missing", "gated", "token", "revision", "conflict", "forbidden", "offline", "unreachable", "busy",
            "not_a_model", "pickle", "damaged" or "other".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
