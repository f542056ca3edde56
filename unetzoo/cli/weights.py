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
        help="check that saved models are intact",
        description="Read every byte of saved models, and print what they are. Even a single changed bit is found.",
    )
    command.add_argument("models", nargs="+", metavar="MODEL", help=SAVED)
    command.set_defaults(run=_verify)

    _add_convert(commands)
    command = commands.add_parser(
        "push",
        help="upload a saved model to the Hugging Face Hub",
        description="Upload a saved model to a repository of the Hugging Face Hub, in one commit, with a model card. "
        "Log in first: with 'hf auth login', or by setting HF_TOKEN.",
    )
    command.add_argument(
        "source", help="a trained model such as nuclei, the folder of a run or of a saved model, or a .safetensors file"
    )
    command.add_argument("repository", metavar="OWNER/NAME", help="the repository; created if there is none")
    command.add_argument(
        "--license",
        metavar="NAME",
        help="licence of the weights: mit, cc-by-4.0, … (default: unchanged)",
    )
    command.add_argument(
        "--private", action="store_true", default=None, help="create the repository as private if it is new"
    )
    command.add_argument("--revision", metavar="BRANCH", help="branch to commit to (default: main)")
    command.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    command.add_argument("--message", metavar="TEXT", help="commit message")
    command.set_defaults(run=_push)

    command = commands.add_parser(
        "pull",
        help="download a model from the Hugging Face Hub",
        description="Download a model from the Hugging Face Hub into its cache, verify it, and print its folder.",
    )
    command.add_argument(
        "repository", metavar="OWNER/NAME[@REVISION]", help="the repository, and a branch, tag or commit of it"
    )
    command.add_argument(
        "--refresh", action="store_true", help="look for a newer commit even if the model is in the cache"
    )
    command.add_argument("--out", metavar="FILE", help="also copy the model to this .safetensors file")
    command.set_defaults(run=_pull, writes=("out",))


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="convert a .pth file to a file of this package",
        description="Write the network in a .pth, .pt, .pth.tar, .ckpt, .bin or .safetensors file as a file that "
        "states which model it is. No code in the checkpoint is run. Public U-Nets (milesial's, NestedUNet, UNet 3+, "
        "smp's and others) are recognised by the names of their tensors. If the tensors have this package's names, "
        "channels, classes and extra heads are read from them; last.ckpt of a run states everything itself.",
    )
    command.add_argument("source", help="the checkpoint; FILE::PLACE selects the other network if it holds two")
    command.add_argument("target", help="the file to write; ends in .safetensors")
    command.add_argument(
        "--model",
        metavar="NAME",
        help="network of the zoo, for tensors with this package's names; 'unetzoo list' prints all networks",
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        type=option,
        metavar="NAME=VALUE",
        help="option with which the network was created, such as norm=group or class_names=cell,rim; repeat it for "
        "each; 'unetzoo info NAME' lists them",
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
            print(f"{saved}; intact, sha256 {saved.sha256[:12]}…")
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
    from unetzoo.saving import cards, publishing

    pushed = publishing.push_to_hub(
        options.source,
        options.repository,
        card=cards.ModelCard(license=options.license),
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
