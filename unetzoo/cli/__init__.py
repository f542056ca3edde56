"""The command ``unetzoo``. Parses first and imports late, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import ast
import io
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from unetzoo import __version__
from unetzoo.cli import data, demo, exporting, prediction, serving, training
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

    names = Parser(add_help=False)
    names.add_argument(
        "patterns",
        nargs="*",
        default=[],
        metavar="PATTERN",
        help="name, or wildcard such as 'unet3p*' (default: all)",
    )
    names.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave these names out")

    command = commands.add_parser(
        "list", parents=[names], help="names of the zoo", description="List names of the zoo."
    )
    command.add_argument(
        "--pretrained", action="store_true", help="instead the trained models that come with the package"
    )
    command.set_defaults(run=_list)

    command = commands.add_parser("info", help="all there is to know of a name", description="Describe a network.")
    command.add_argument("name", help="of the zoo; a trained model, a .safetensors file, a folder, or owner/name")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_info)

    command = commands.add_parser(
        "compare",
        parents=[names],
        help="networks side by side",
        description="Compare networks: parameters, arithmetic, memory. Nothing is allocated or downloaded. With "
        "--results also what they reached in training.",
    )
    command.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of the image (default: 256)")
    command.add_argument("--in-channels", type=int, default=3, metavar="N", help="channels of the image (default: 3)")
    command.add_argument("--num-classes", type=int, default=1, metavar="N", help="classes (default: 1)")
    command.add_argument("--measure", action="store_true", help="also time one image on the CPU, and weigh its memory")
    command.add_argument(
        "--results",
        metavar="FILE",
        help="of examples/choose_architecture.py: add Dice, minutes, memory and time; without PATTERN, of those in it",
    )
    command.add_argument("--format", choices=("text", "md", "csv", "json"), default="text", help="(default: text)")
    command.add_argument(
        "--plot",
        metavar="FILE",
        help="draw parameters against GFLOPs, or with --results Dice against minutes and memory (.png, .svg, .pdf)",
    )
    command.set_defaults(run=_compare)

    training.add(commands)
    data.add(commands)
    prediction.add(commands)
    exporting.add(commands)
    serving.add(commands)
    _add_weights_commands(commands)

    demo.add(commands)
    return top


def _add_weights_commands(commands: Any) -> None:
    """Add what moves models between files and the Hugging Face Hub."""
    command = commands.add_parser(
        "verify",
        help="is a saved model whole?",
        description="Read every byte of saved models, and say what they are. A single changed bit is found.",
    )
    command.add_argument("files", nargs="+", metavar="FILE", help="a .safetensors file, or a folder that holds a model")
    command.set_defaults(run=_verify)

    command = commands.add_parser(
        "convert",
        help="a .pth file to one of ours",
        description="Write a state dict, of a .pth, .pt, .ckpt, .bin or .safetensors file, as a file that says which "
        "model it is. Nothing in it is run. Channels, classes and extra heads are read off the tensors.",
    )
    command.add_argument("source", help="the checkpoint")
    command.add_argument("target", help="the file to write; ends in .safetensors")
    command.add_argument("--model", required=True, metavar="NAME", help="of the zoo; 'unetzoo list' gives them")
    command.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="with which it was created, such as norm=group or class_names=cell,rim; give it once for each; 'unetzoo "
        "info NAME' lists them",
    )
    command.set_defaults(run=_convert)

    command = commands.add_parser(
        "push",
        help="a saved model to the Hugging Face Hub",
        description="Put a saved model into a repository of the Hugging Face Hub, in one commit, with a model card. "
        "Log in first: hf auth login, or HF_TOKEN.",
    )
    command.add_argument("source", help="a .safetensors file, or a folder that holds a model")
    command.add_argument("repository", metavar="OWNER/NAME")
    command.add_argument(
        "--private", action="store_true", default=None, help="if the repository is new, nobody else sees it"
    )
    command.add_argument("--revision", metavar="BRANCH", help="(default: main)")
    command.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    command.add_argument("--message", metavar="TEXT", help="of the commit")
    command.set_defaults(run=_push)

    command = commands.add_parser(
        "pull",
        help="a model from the Hugging Face Hub",
        description="Fetch a model from the Hugging Face Hub into its cache, verify it, and print where it lies.",
    )
    command.add_argument("repository", metavar="OWNER/NAME[@REVISION]")
    command.add_argument("--refresh", action="store_true", help="ask for a newer commit even if it is in the cache")
    command.add_argument("--out", metavar="FILE", help="also copy it to this .safetensors file")
    command.set_defaults(run=_pull)


def _option(text: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``: numbers, true, false, none, lists with commas; all else is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=VALUE is needed")
    found = _value(value)
    listed = name in ("class_names", "mean", "std") or "," in value
    return name, tuple(map(_value, value.split(","))) if listed and not isinstance(found, list | tuple) else found


def _refuse(rest: Sequence[str], top: Parser, arguments: Sequence[str]) -> NoReturn:
    """End the program, as nobody takes ``rest``."""
    from unetzoo._registry import suggest

    (commands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    command: Parser = next((commands.choices[word] for word in arguments if word in commands.choices), top)
    known = [option for action in command._actions for option in action.option_strings]
    hints = "".join(suggest(word.partition("=")[0], known) for word in rest if word.startswith("-"))
    command.error(f"unknown: {' '.join(rest)}{hints}")


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


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


def _list(options: argparse.Namespace) -> None:
    from unetzoo import zoo

    patterns = options.patterns or ["*"]
    found = zoo.list_models(patterns, exclude=options.exclude, pretrained=options.pretrained)
    if not found:
        from unetzoo._registry import suggest

        wanted = " ".join(patterns)
        if zoo.list_models(patterns):
            raise UnetzooError(f"names fit {wanted!r}, but --exclude or --pretrained leaves none of them")
        raise UnetzooError(f"no name fits {wanted!r}{suggest(wanted, zoo.names())}; 'unetzoo list' gives all")
    print("\n".join(found))


def _info(options: argparse.Namespace) -> None:
    from unetzoo import hub, information, zoo

    if options.name not in zoo.names() and hub.is_saved(options.name):
        _info_of_saved(options.name, options.json)
        return
    info = information.model_info(options.name)
    if options.json:
        print(json.dumps(asdict(info), indent=2))
        return
    published = "" if info.published is None else f" (published: {info.published:.2f}M)"
    lines: dict[str, Any] = {
        info.name: f"{info.architecture} on {info.encoder}: {info.summary}",
        "aliases": ", ".join(info.aliases) or "–",
        "parameters": f"{info.parameters:,}{published}",
        "maps": ", ".join(f"{c} channels at stride {s}" for c, s in zip(info.channels, info.strides, strict=True)),
        "paper": info.paper,
        "encoder's": info.encoder_paper,
        "pretrained": ", ".join(info.pretrained) or "–",
    }
    width = max(map(len, lines))
    for title, text in lines.items():
        print(f"{title:{width}}  {text}")
    print("options and their defaults:")
    for name, default in info.options.items():
        print(f"  {name} = {default!r}")
        print(textwrap.fill(info.meanings.get(name, ""), 100, initial_indent=" " * 8, subsequent_indent=" " * 8))


def _info_of_saved(name: str, as_json: bool) -> None:
    """Print what the file of a trained model says, and its card."""
    from unetzoo import hub, trained, weights

    if name in trained.names():
        path, card = hub.file_of_trained(name), trained.card_of(name)
    else:
        path = Path(name) if Path(name).exists() else hub.pull_from_hub(name)
        card = path / hub.CARD_FILE
    saved = weights.read_saved(path)
    if as_json:
        record = {"name": name, "parameters": saved.parameters, "bytes": saved.bytes, "config": saved.config.to_dict()}
        print(json.dumps(record, indent=2))
        return
    print(saved)
    if card.is_file():
        print(f"\n{card.read_text(encoding='utf-8')}", end="")


def _compare(options: argparse.Namespace) -> None:
    from unetzoo import comparison

    if options.plot:
        comparison.require_plot(options.plot)
    table = comparison.compare(
        options.patterns or None,
        exclude=options.exclude,
        size=options.size,
        in_channels=options.in_channels,
        num_classes=options.num_classes,
        measure=options.measure,
        results=options.results,
        progress=sys.stderr.isatty(),
    )
    print(table.render(options.format), end="")
    if options.plot:
        table.plot(options.plot)
        print(f"plot: {Path(options.plot).resolve()}", file=sys.stderr)


def _verify(options: argparse.Namespace) -> None:
    from unetzoo import hub, trained, weights

    failed = []
    for file in options.files:
        try:
            saved = weights.verify(hub.file_of_trained(file) if file in trained.names() else file)
            print(f"{saved}; whole, sha256 {saved.sha256[:12]}…")
        except UnetzooError as error:
            print(f"unetzoo: {error}", file=sys.stderr)
            failed.append(file)
    if failed:
        raise UnetzooError(f"{len(failed)} of {len(options.files)} failed: {', '.join(failed)}")


def _convert(options: argparse.Namespace) -> None:
    from unetzoo import conversion

    print(conversion.convert(options.source, options.target, options.model, **dict(options.option)))


def _push(options: argparse.Namespace) -> None:
    from unetzoo import publishing

    pushed = publishing.push_to_hub(
        options.source,
        options.repository,
        private=options.private,
        revision=options.revision,
        create_pr=options.create_pr,
        commit_message=options.message,
    )
    print(f"{pushed.url}\nunetzoo.from_pretrained({str(pushed)!r})")


def _pull(options: argparse.Namespace) -> None:
    from unetzoo import hub, weights

    folder = hub.pull_from_hub(options.repository, refresh=options.refresh)
    if options.out:
        weights.save(weights.load(folder), options.out)
    print(options.out or folder)
    print(weights.read_saved(options.out or folder), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
