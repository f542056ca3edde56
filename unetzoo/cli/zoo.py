"""``unetzoo list``, ``info`` and ``compare``: the networks of the zoo. Parses first and imports late."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetzoo.cli._options import SAVED
from unetzoo.errors import UnetzooError
from unetzoo.printing import printable

if TYPE_CHECKING:
    from unetzoo.saving.sources import Source


def add(commands: Any) -> None:
    """Add the commands."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave these names out")
    wildcard = "name, or wildcard such as 'unet3p*' (default: all)"

    command = commands.add_parser(
        "list", parents=[shared], help="list the networks of the zoo", description="List the networks of the zoo."
    )
    command.add_argument("patterns", nargs="*", default=[], metavar="PATTERN", help=wildcard)
    command.add_argument(
        "--pretrained", action="store_true", help="list the trained models that come with the package instead"
    )
    command.set_defaults(run=_list)

    command = commands.add_parser(
        "info",
        help="describe a network or a trained model",
        description="Describe a network of the zoo and its options, or a trained model.",
    )
    command.add_argument("name", help=f"a network of the zoo, or {SAVED}")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_info)

    command = commands.add_parser(
        "compare",
        parents=[shared],
        help="compare networks side by side",
        description="Compare networks by parameters, operations and memory, without allocating them; with --results, "
        "also by their results in training.",
    )
    command.add_argument(
        "models",
        nargs="*",
        default=[],
        metavar="MODEL",
        help=f"{wildcard}; or {SAVED}; several, separated by commas, are averaged, and their costs are added up",
    )
    command.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of the image (default: 256)")
    command.add_argument("--in-channels", type=int, default=3, metavar="N", help="channels of the image (default: 3)")
    command.add_argument("--num-classes", type=int, default=1, metavar="N", help="classes (default: 1)")
    command.add_argument("--measure", action="store_true", help="also measure time and memory for one image on the CPU")
    command.add_argument(
        "--results",
        metavar="FILE",
        help="results of examples/choose_architecture.py: adds columns for Dice, minutes, memory and time; without "
        "MODEL, compares the networks in this file",
    )
    command.add_argument(
        "--format", choices=("text", "md", "csv", "json"), default="text", help="format of the table (default: text)"
    )
    command.add_argument(
        "--plot",
        metavar="FILE",
        help="draw parameters against GFLOPs, or with --results Dice against minutes and memory (.png, .svg, .pdf)",
    )
    command.set_defaults(run=_compare, writes=("plot",))


def _list(options: argparse.Namespace) -> None:
    from unetzoo import naming

    patterns = options.patterns or ["*"]
    found = naming.list_models(patterns, exclude=options.exclude, pretrained=options.pretrained)
    if not found:
        from unetzoo.registry import suggest

        wanted = " ".join(patterns)
        if not options.pretrained and naming.list_models(patterns, pretrained=True):
            raise UnetzooError(f"no name matches {wanted!r}; 'unetzoo list --pretrained' lists it")
        if naming.list_models(patterns):
            raise UnetzooError(f"names match {wanted!r}, but --exclude or --pretrained leaves none of them")
        raise UnetzooError(f"no name matches {wanted!r}{suggest(wanted, naming.names())}; 'unetzoo list' lists all")
    print("\n".join(found))


def _info(options: argparse.Namespace) -> None:
    from unetzoo import information
    from unetzoo.saving import sources

    source = sources.named_source(options.name)
    if source.kind != "network":
        _info_of_saved(source, options.json)
        return
    info = information.model_info(source.text)
    if options.json:
        print(json.dumps(asdict(info), indent=2))
        return
    lines = info.facts()
    width = max(map(len, lines))
    for title, text in lines.items():
        print(f"{title:{width}}  {text}")
    print("options and their defaults:")
    for name, default in info.options.items():
        print(f"  {name} = {default!r}")
        print(textwrap.fill(info.meanings.get(name, ""), 100, initial_indent=" " * 8, subsequent_indent=" " * 8))


def _info_of_saved(source: Source, as_json: bool) -> None:
    """Print the record in the file of a trained model, and its model card."""
    from unetzoo import trained
    from unetzoo.saving import records, sources

    path = sources.located(source)
    card = trained.card_of(source.text) if source.kind == "trained" else path / records.CARD_FILE
    saved = records.read_saved(path)
    if as_json:
        record = {
            "name": source.text,
            "parameters": saved.parameters,
            "bytes": saved.bytes,
            "origin": saved.origin,
            "config": saved.config.to_dict(),
        }
        print(json.dumps(record, indent=2))
        return
    print(saved)
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="backslashreplace")
        print(f"\n{printable(text, lines=True)}", end="")


def _compare(options: argparse.Namespace) -> None:
    from unetzoo.comparing.comparison import compare
    from unetzoo.comparing.plotting import require_plot
    from unetzoo.saving.sources import separated

    if options.plot:
        require_plot(options.plot)
    table = compare(
        [parts if len(parts) > 1 else parts[0] for parts in map(separated, options.models)] or None,
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
        print(f"plot: {printable(Path(options.plot).resolve())}", file=sys.stderr)
