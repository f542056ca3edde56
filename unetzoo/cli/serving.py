"""``unetzoo serve``. Parses first and imports late."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from unetzoo.cli._options import SAVED, asked_of_objects
from unetzoo.extras import check_installed


def add(commands: Any) -> None:
    """Add ``serve`` to the commands of the command line."""
    command = commands.add_parser(
        "serve",
        help="serve a web page for a trained network",
        description="Serve a web page on this machine, where you drop images, see their masks, count objects and "
        "download results. Nothing is sent anywhere else. Ctrl-C stops it. Needs pip install 'unetzoo[demo]'.",
    )
    command.add_argument(
        "source",
        metavar="MODEL",
        help=SAVED,
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 lets other machines in, without a password (default: 127.0.0.1)",
    )
    command.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="host name under which visitors reach the page, such as a proxy's masks.example.org; addresses, localhost "
        "and this machine's name are known; may be repeated",
    )
    command.add_argument("--port", type=int, default=7860, metavar="N", help="port to listen on (default: 7860)")
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    command.add_argument(
        "--split",
        type=float,
        metavar="PIXELS",
        help="count objects; touching ones are separated where the neck between them is narrower than both by more "
        "than this, in half-widths, such as 1.5; needs scikit-image (default: only models that separate objects count "
        "them)",
    )
    command.add_argument(
        "--max-megabytes", type=float, default=50, metavar="N", help="largest file that is accepted (default: 50)"
    )
    command.add_argument(
        "--max-megapixels", type=float, default=25, metavar="N", help="largest image that is accepted (default: 25)"
    )
    names = {"megabytes": "max_megabytes", "megapixels": "max_megapixels"}
    command.set_defaults(run=_serve, library_names=names)


def _serve(options: argparse.Namespace) -> None:
    from unetzoo.serving import Limits, serve

    limits = Limits(options.max_megabytes, options.max_megapixels)
    check_installed([("gradio", "the page"), *asked_of_objects(split=options.split)])
    print(f"loading {options.source} …", file=sys.stderr)
    with (
        contextlib.suppress(KeyboardInterrupt),
        _ended_by_sigterm(),
        serve(
            options.source,
            host=options.host,
            port=options.port,
            device=options.device,
            split=options.split,
            limits=limits,
            names=options.name,
        ) as address,
    ):
        print(f"{address} (Ctrl-C stops it)", flush=True)
        while True:
            time.sleep(3600)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM stop the server as Ctrl-C does, so that the temporary folder is removed either way."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
