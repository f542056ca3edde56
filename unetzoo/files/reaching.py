"""A check whether a host answers at all, before a client is used whose own retries take a minute."""

from __future__ import annotations

import socket
import threading
import urllib.request
from urllib.parse import urlparse

ANSWER_SECONDS = 4.5
"""Longest time to wait for an answer."""


def silence(address: str) -> OSError | None:
    """Return why the host of an address accepts no connection; None if it does, or if a proxy is used.

    Args:
        address: a URL; its path is ignored.
    """
    parts = urlparse(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(host):
        return None  # only the proxy knows whether it can reach the host
    outcome: list[OSError | None] = []

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    # In a thread, as looking up a name has no timeout.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return outcome[0] if outcome else TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")
