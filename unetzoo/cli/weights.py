"""``unetzoo verify``, ``convert``, ``push`` and ``pull``: models between files and the Hugging Face Hub.

Parses first and imports late.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from unetzoo.cli._options import SAVED, option
from unetzoo.errors import ConfigError, UnetzooError
from unetzoo.printing import printable


def add(commands: Any) -> None:
    """Add the commands."""
    command = commands.add_parser(
        "verify",
        help="is a saved model whole?",
        description="Read every byte of saved models, and say what they are. A single changed bit is found.",
    )
    command.add_argument("models", nargs="+", metavar="MODEL", help=SAVED)
    command.set_defaults(run=_verify)

    _add_convert(commands)
    command = commands.add_parser(
        "push",
        help="a saved model to the Hugging Face Hub",
        description="Put a saved model into a repository of the Hugging Face Hub, in one commit, with a model card. "
        "Log in first: hf auth login, or HF_TOKEN.",
    )
    command.add_argument(
        "source", help="a trained model such as nuclei, the folder of a run or of a saved model, a .safetensors file"
    )
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
    command.set_defaults(run=_pull, writes=("out",))


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="a .pth file to one of ours",
        description="Write the network in a .pth, .pt, .pth.tar, .ckpt, .bin or .safetensors file as a file that says "
        "which model it is. Nothing in it is run. Public U-Nets (milesial's, NestedUNet, UNet 3+, smp's and others) "
        "are seen by the names of their tensors. Of a file of this package's names, channels, classes and extra heads "
        "are read off the tensors; last.ckpt of a run says all of it itself.",
    )
    command.add_argument("source", help="the checkpoint; FILE::place for the other of two networks in it")
    command.add_argument("target", help="the file to write; ends in .safetensors")
    command.add_argument(
        "--model",
        metavar="NAME",
        help="of the zoo, for a file of this package's names; 'unetzoo list' gives them",
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        type=option,
        metavar="NAME=VALUE",
        help="with which it was created, such as norm=group or class_names=cell,rim; give it once for each; 'unetzoo "
        "info NAME' lists them",
    )
    command.set_defaults(run=_convert, library_names={"name": "model"}, writes=("target",))


def _verify(options: argparse.Namespace) -> None:
    from unetzoo.saving import sources, weights

    failed = []
    for name in options.models:
        try:
            saved = weights.verify(sources.located(sources.trained_source(name)))
        except UnetzooError as error:
            print(f"unetzoo: {options.wording(str(error))}", file=sys.stderr)
            failed.append(name)
        else:
            print(f"{saved}; whole, sha256 {saved.sha256[:12]}…")
    if failed:
        raise UnetzooError(f"{len(failed)} of {len(options.models)} failed: {', '.join(failed)}")


def _convert(options: argparse.Namespace) -> None:
    from unetzoo.saving import conversion

    given = [f"--option {name}" for name, _ in options.option]
    twice = [f"{name} is given twice; give it once" for name in dict.fromkeys(given) if given.count(name) > 1]
    if twice:
        raise ConfigError("cannot convert", twice)
    print(conversion.convert(options.source, options.target, options.model, **dict(options.option)))


def _push(options: argparse.Namespace) -> None:
    from unetzoo.saving import publishing

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
    from unetzoo.saving import pulling, records, weights

    folder = pulling.pull_from_hub(options.repository, refresh=options.refresh)
    if options.out:
        weights.save(weights.load(folder), options.out)
    print(printable(options.out or folder))
    print(records.read_saved(options.out or folder), file=sys.stderr)
