"""The command ``unetzoo``. Parses first and imports late, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from unetzoo import __version__
from unetzoo.cli import data, demo, exporting, prediction, serving, training, weights, zoo
from unetzoo.errors import UnetzooError


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in a line, as all other errors are said."""

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(2, f"unetzoo: {message}; '{self.prog} --help' has what there is\n")


def parser() -> Parser:
    """Return the parser of the whole command line; each command's ``run`` is what it does."""
    top = Parser(prog="unetzoo", description="A zoo of U-Nets for PyTorch.")
    top.set_defaults(takes_rest=False)
    top.add_argument("--version", action="version", version=f"unetzoo {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    for group in (zoo, training, data, prediction, exporting, serving, weights, demo):
        group.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1 where some pictures failed, 2 where nothing could be done."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: Windows' encodings have no ✓
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest and not options.takes_rest:
        _refuse(rest, top, list(sys.argv[1:] if arguments is None else arguments))
    options.rest = rest
    try:
        status: int | None = options.run(options)
    except UnetzooError as error:
        print(f"unetzoo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("unetzoo: interrupted", file=sys.stderr)
        return 130  # as shells count it
    except BrokenPipeError:
        # The reader, such as head, has seen enough; keep Python from complaining when it flushes.
        sys.stdout = None
        status = 0
    return status or 0


def _refuse(rest: Sequence[str], top: Parser, arguments: Sequence[str]) -> NoReturn:
    """End the program, as nobody takes ``rest``."""
    from unetzoo.registry import suggest

    (commands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    command: Parser = next((commands.choices[word] for word in arguments if word in commands.choices), top)
    known = [option for action in command._actions for option in action.option_strings]
    hints = "".join(suggest(word.partition("=")[0], known) for word in rest if word.startswith("-"))
    command.error(f"unknown: {' '.join(rest)}{hints}")


if __name__ == "__main__":
    sys.exit(main())
