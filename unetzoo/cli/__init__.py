"""The command ``unetzoo``. It parses first and imports late, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import difflib
import errno
import io
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from unetzoo import __version__, plugins
from unetzoo.checks import shortened, unknown
from unetzoo.cli import (
    _output,
    _overview,
    _replacing,
    data,
    demo,
    exporting,
    prediction,
    serving,
    training,
    weights,
    zoo,
)
from unetzoo.cli._options import sides, wanted
from unetzoo.cli._wording import Wording, warnings_in
from unetzoo.errors import UnetzooError
from unetzoo.printing import printable
from unetzoo.registry import suggest
from unetzoo.train.words import other_word

IMPORT = "--import"


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line, as all other errors are reported, for every command.

    Each option has one name: abbreviations are refused, since one may match another option in the next version.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self._words: list[str] = []
        self.set_defaults(command=self)  # the innermost, where parsers are nested
        self.add_argument_group("your own code").add_argument(
            IMPORT,
            action="append",
            metavar="MODULE",
            default=argparse.SUPPRESS,
            help="import this module first, such as 'mine' for mine.py in the current folder; the decoders, encoders, "
            "names and losses that it registers can then be used; may be repeated",
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; end the program if an option that may be given only once is given twice."""
        self._given: dict[str, str] = {}
        self._words = self._joined(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._words, namespace)

    def _joined(self, words: Sequence[str]) -> list[str]:
        """Return the words, with height and width joined where they are two words: ``--size 64 96``.

        An option with an optional value takes the next word only if that is one of its choices, or close to one and
        not a file: in ``--overlay a.png``, a.png is an image.
        """
        optional = {
            option: action
            for action in self._actions
            if action.nargs == "?" and action.choices is not None
            for option in action.option_strings
        }
        sized = {option for action in self._actions if action.type is sides for option in action.option_strings}
        found: list[str] = []
        for word in words:
            if found and found[-1] in optional:
                known = [*map(str, optional[found[-1]].choices or ())]
                if word in known or (not word.startswith("-") and suggest(word, known) and not Path(word).exists()):
                    found[-1] += f"={word}"
                    continue
                found[-1] += f"={optional[found[-1]].const}"
            if len(found) > 1 and found[-2] in sized and found[-1].isdecimal() and word.isdecimal():
                found[-1] += f"x{word}"
            else:
                found.append(word)
        return found

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Return the values of an option or an argument; argparse calls this once each time it is given."""
        if action.option_strings and not isinstance(action, argparse._AppendAction):
            option, said = action.option_strings[-1], " ".join(arg_strings)
            if option in self._given:
                values = f": {self._given[option]} and {said}" if said else ""
                self.error(f"{option} is given twice{values}; give it once")
            self._given[option] = said
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Return a value; of an invalid one, say what is needed and in which unit."""
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            kind = wanted(action, arg_string)
            if kind is None:
                raise
            name = action.option_strings[-1] if action.option_strings else action.dest
            raise argparse.ArgumentError(None, f"{name} {arg_string}: {kind}") from error

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a word that is not one of the choices."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            if isinstance(action, argparse._SubParsersAction):
                self.error(unknown("command", value, known))
            self.error(
                f"{action.option_strings[-1]} {value}: one of {', '.join(known)} is needed{suggest(value, known)}"
            )

    def error(self, message: str) -> NoReturn:
        """End the program; name unknown options too, which may be misspelt forms of what is missing."""
        inner = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)
        own = itertools.takewhile(lambda word: word != "--" and (word.startswith("-") or not inner), self._words)
        strange = [
            word for word in own
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions
        ]  # fmt: skip
        self.end(f"{message}; {self.unknown(strange)}" if strange and not self.get_default("takes_rest") else message)

    def unknown(self, words: Sequence[str]) -> str:
        """Return the message about words that no command takes."""
        known = [option for action in self._actions for option in action.option_strings]
        hints = (self._hint(word.partition("=")[0], known) for word in words if word.startswith("-"))
        return f"unknown: {' '.join(words)}{''.join(hints)}"

    def _hint(self, word: str, known: Sequence[str]) -> str:
        """Return the hint for an unknown option: options that it begins first, then values, then similar names."""
        begins = any(option.startswith(word) for option in known)
        return other_word(word, known) or (not begins and self._value(word)) or suggest(word, known)

    def _value(self, word: str) -> str:
        """Return the hint for a word that resembles the value of an option, as --outlines does --overlay outline."""
        named = [action for action in self._actions if action.option_strings and action.choices]
        values = {
            str(value): f"{action.option_strings[-1]} {value}" for action in named for value in action.choices or ()
        }
        near = difflib.get_close_matches(word.lstrip("-"), values, n=1, cutoff=0.85)
        return f"; did you mean '{values[near[0]]}'?" if near else ""

    def end(self, message: str) -> NoReturn:
        """End the program with a one-line message."""
        self.exit(2, f"unetzoo: {printable(message, lines=True)}; '{self.prog} --help' shows the usage\n")


def parser() -> Parser:
    """Return the parser of the complete command line; ``run`` of each command is the function that it calls."""
    top = Parser(prog="unetzoo", description="A zoo of U-Nets for PyTorch.")
    # ``library_names``: arguments whose names in the library differ from the options.
    top.set_defaults(takes_rest=False, names_code=False, library_names={}, writes=())
    top.add_argument("--version", action="version", version=f"unetzoo {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    for group in (zoo, training, data, prediction, exporting, serving, weights, demo):
        group.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0: success; 1: some images failed; 2: nothing could be done; 130: Ctrl-C ended it. If nobody reads what is printed,
    the work is done all the same, and the status is that of the work.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: encodings on Windows have no ✓
    with _output.unbroken():
        status = _told(lambda: _run(arguments))
        # A full disk may be reported only now.
        return _told(sys.stdout.flush) if sys.stdout is not None and status == 0 else status


def _told(act: Callable[[], int | None]) -> int:
    """Return the exit status of ``act``; where it fails, print why in one line."""
    try:
        return act() or 0
    except UnetzooError as error:
        print(f"unetzoo: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno is None or error.strerror is None:
            raise  # from somebody's code, not from the system
        of = f" ({shortened(str(error.filename), 200)!r})" if error.filename is not None else ""
        fix = "; 'ulimit -n 1024' allows more" if error.errno == errno.EMFILE else ""
        print(f"unetzoo: the operating system reports: {error.strerror}{of}{fix}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("unetzoo: interrupted", file=sys.stderr)
        return 130  # the convention of shells


def _run(arguments: Sequence[str] | None) -> int:
    """Parse the command line and run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(_overview.overview(), end="")
        return 0
    modules, words = _taken_out(arguments)
    options, rest = parser().parse_known_args(words)
    if rest and not options.takes_rest:
        options.command.end(options.command.unknown(rest))
    options.rest = rest
    if (
        modules or options.takes_rest or options.names_code
    ):  # no other command imports modules that are not named: see SECURITY.md
        _look_in_the_current_folder()
    if modules:
        plugins.import_modules(modules)
    options.wording = Wording(options.command, settings=options.takes_rest)
    options.wording.know(options.library_names)
    try:
        with _output.log_shown(), warnings_in(options.wording), _replacing.told(options):
            status: int | None = options.run(options)
    except UnetzooError as error:
        raise UnetzooError(options.wording(str(error))) from error
    return status or 0


def _taken_out(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the modules that ``--import`` names, and the other words.

    The option may come before or after the command, even where argparse would read the next word as something else.
    """
    modules: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != IMPORT:
            others.append(word)
            continue
        module = value if equals else next(words, "")
        if module and not module.startswith("-"):
            modules.append(module)
        else:
            others += [IMPORT, module] if module else [IMPORT]  # for argparse to refuse
    return modules, others


def _look_in_the_current_folder() -> None:
    """Let ``mine.py`` next to the data be found, but last, so that it does not replace another module."""
    folder = str(Path.cwd())
    if not {"", folder} & set(sys.path):
        sys.path.append(folder)


if __name__ == "__main__":
    sys.exit(main())
