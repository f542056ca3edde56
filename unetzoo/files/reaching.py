"""Whether a host answers at all, asked before a client is let loose whose own retries take a minute."""

from __future__ import annotations

import socket
import threading
import urllib.request
from urllib.parse import urlparse

ANSWER_SECONDS = 4.5


def silence(address: str, seconds: float | None = None) -> OSError | None:
    """Return why the host of an address takes no connection; None where it does, or where a proxy is to be asked.

    Args:
        address: a URL; its path plays no part.
        seconds: to wait at most; None: :data:`ANSWER_SECONDS`.
    """
    seconds = ANSWER_SECONDS if seconds is None else seconds
    parts = urlparse(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(host):
        return None  # whether the proxy reaches it is the proxy's to say
    outcome: list[OSError | None] = []

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    # In a thread, as looking up a name cannot be given a limit.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else TimeoutError(f"no answer within {seconds:g} s")
