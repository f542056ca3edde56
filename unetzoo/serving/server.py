"""The server of the page: its address, its limits, and its files."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator

from unetzoo.errors import ConfigError
from unetzoo.extras import needed
from unetzoo.prediction import Predictor
from unetzoo.prediction.networks import Model
from unetzoo.serving.gate import Gate
from unetzoo.serving.heading import heading
from unetzoo.serving.limits import Limits
from unetzoo.serving.page import build, theme
from unetzoo.serving.style import CSS, LABEL

VISITORS = 8
"""Visitors whose images are kept: a ninth replaces the one who was inactive longest."""


@contextlib.contextmanager
def serve(
    model: Model,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    split: float | None = None,
    limits: Limits | None = None,
    names: Iterable[str] = (),
) -> Iterator[str]:
    """Serve a page for a model while the block runs, and yield its address.

    The page takes images, shows their masks, and applies another threshold without running the network again. If the
    model separates objects, the page counts and measures them, and shows each in its own colour. One image is
    segmented at a time; others wait. Files are in a temporary folder that is removed at the end; nothing else is read
    or written for a visitor, and nothing is sent to anybody else. Meanwhile the process has no other temporary folder.

    Args:
        model: as :class:`unetzoo.prediction.Predictor` takes it.
        host: "127.0.0.1" can be reached only from this machine, "0.0.0.0" from every network it is connected to.
            There is no password, and no encryption.
        port: from 1 to 65535.
        device: "auto" (a GPU if there is one), "cpu", "cuda", …
        split: as :class:`unetzoo.prediction.Predictor` takes it; if it is above 0, objects are counted for any model.
        limits: of the images; None: ``Limits()``.
        names: further names under which visitors reach the page, such as that of a proxy, "masks.example.org".
            IP addresses, "localhost", ``host`` and this machine's own name are always allowed. A request that names
            another server, or comes from a page of another server, is refused.

    Raises:
        ConfigError: gradio is missing, host and port cannot be used, a name, ``device`` or ``split`` is not valid, or
            ``split`` is given but a package to divide objects is not installed.
        WeightsError: the model cannot be loaded.
        HubError: the model cannot be fetched.
    """
    limits = limits or Limits()
    _check_address(host, port)
    public, machine = _checked(names), ["localhost", host, socket.gethostname()]
    with _own_folder(), contextlib.ExitStack() as stack:
        gradio = needed("gradio", "the page")
        middleware = needed("starlette.middleware", "the page", extra="demo")
        predictor = Predictor(model, device=device, split=split)
        name, line = heading(model, predictor.config)
        page = build(gradio, predictor, name, line, limits)
        stack.callback(page.close, verbose=False)
        page.launch(
            server_name=f"[{host}]" if ":" in host else host,  # as an address on the web is written
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            max_file_size=limits.max_bytes,
            state_session_capacity=VISITORS,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            css=CSS,
            js=LABEL,
            theme=theme(gradio),
            app_kwargs={"middleware": [middleware.Middleware(Gate, machine, public, limits.max_bytes)]},
        )
        yield str(page.local_url).rstrip("/")


def _check_address(host: str, port: int) -> None:
    """Raise, before a model is loaded, if the server could not start.

    Raises:
        ConfigError: says how to fix it.
    """
    if type(port) is not int or not 0 < port < 65536:
        raise ConfigError(f"port={port!r}: a number from 1 to 65535 is needed")
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as tried:
            if os.name == "posix":  # as the server does: a port that is closing counts as free
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port={port}: another program uses this port; give another") from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"port={port}: not allowed here; give one above 1023") from error
        raise ConfigError(
            f"host={host!r}: this machine has no such address ({error.strerror}); 127.0.0.1 serves only this machine, "
            "0.0.0.0 everyone who can reach it"
        ) from error


def _checked(names: Iterable[str]) -> list[str]:
    """Return host names, or raise if one is not valid.

    Raises:
        ConfigError: lists them.
    """
    listed = [names] if isinstance(names, str) else list(names)
    problems = [
        f"name={name!r:.100}: give a host name such as 'masks.example.org', without http:// and port"
        for name in listed
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name)
    ]
    if problems:
        raise ConfigError("cannot serve", problems)
    return listed


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Put all temporary files of the process into a separate folder, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="unetzoo_serve_", ignore_cleanup_errors=True) as folder:
        wanted = {
            "GRADIO_TEMP_DIR": os.path.realpath(folder),
            "GRADIO_ALLOWED_PATHS": "",  # gradio reads it if allowed_paths is empty
            "GRADIO_ANALYTICS_ENABLED": "False",
            "MPLCONFIGDIR": folder,  # gradio imports Matplotlib if installed, which makes a folder in the home folder
        }
        before = {name: os.environ.get(name) for name in wanted}
        folder_before = tempfile.tempdir
        os.environ |= wanted
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = folder_before
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
