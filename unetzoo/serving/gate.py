"""Which requests reach the page: those to its own addresses, from its own pages, with files only as uploads. ASGI."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any

from unetzoo.files import strict_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
# Only what the page's own scripts request: gradio has other addresses, some of which fetch further URLs.
READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/(?:assets|static)/.*"
    rf"|/gradio_api/(?:queue/data|upload_progress|startup-events|heartbeat/\w+)|{FILE}.+",
    re.DOTALL,
)
WRITTEN = (UPLOAD, "/gradio_api/queue/join")
LONGEST_EVENT = 1 << 18
"""Most bytes of an event: it holds the paths of uploads and the values of two sliders."""
AROUND_FILES = 1 << 16
"""Bytes of an upload apart from its files: their names, and separators."""
NOTHING = 404, "there is nothing here"
_ELSEWHERE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:/|[\\/]{2})", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(?::(\d{1,5}))?", re.IGNORECASE)
_PORTS = {"http": "80", "https": "443"}


class Gate:
    """Middleware that refuses requests that no visitor of the page sends.

    A page of another site, opened in the browser of somebody who can reach this server, can send requests here, and
    read the answers if the owner of a domain name points it at this address (DNS rebinding). A request must therefore
    name this server: by an IP address, which nobody else can redirect, by the machine's name, or by one of ``public``.
    If the browser says from which page the request comes, that page must be of the same server.

    Args:
        app: the guarded application.
        machine: names of this machine, such as "localhost".
        public: names under which visitors reach this server through a proxy.
        most: bytes of all files of one upload together.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], machine: Iterable[str], public: Iterable[str], most: int
    ) -> None:
        self.app = app
        self.most = most
        self.public = {name.lower().rstrip(".") for name in public}
        self.names = self.public | {name.lower().rstrip(".") for name in machine}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request in, or answer that it is refused."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        hosts = _headers(scope, b"host") + _headers(scope, b"x-forwarded-host")
        refused = self._refusal(scope, hosts)
        if refused is None and scope["method"] == "POST" and scope["path"] != UPLOAD:
            body = await _read(receive)
            refused = self._event_refusal(body, hosts)
            receive = _replayed(body, receive)
        if refused is None:
            await self.app(scope, receive, send)
            return
        status, reason = refused
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": f"{reason}\n".encode(errors="replace")})

    def _refusal(self, scope: Message, hosts: list[str]) -> tuple[int, str] | None:
        """Return status and reason if a request to ``hosts`` is refused whatever it carries."""
        if scope["type"] != "http":
            return NOTHING
        if len(_headers(scope, b"host")) != 1 or not all(map(self._is_ours, hosts)):
            named = ", ".join(hosts)
            return 400, f"this page is not served as {named!r:.200}; 'unetzoo serve --name NAME' adds a name"
        origins = _headers(scope, b"origin")  # none: no browser, or one that reads a page of this server
        if not all(self._is_own_page(origin, hosts) for origin in origins):
            return 403, f"requests from {', '.join(origins)!r:.200} are refused; only those of this page are answered"
        path = scope["path"]
        if scope["method"] == "POST":
            known = path in WRITTEN
        else:
            known = scope["method"] in ("GET", "HEAD") and READ.fullmatch(path) is not None
        if known and scope["method"] == "POST" and path == UPLOAD:
            return self._upload_refusal(_headers(scope, b"content-length"))
        if not known or (path.startswith(FILE) and _ELSEWHERE.match(path[len(FILE) :])):
            return NOTHING
        return None

    def _upload_refusal(self, lengths: list[str]) -> tuple[int, str] | None:
        """Return status and reason if an upload does not declare its length, or is too long."""
        if len(lengths) != 1 or re.fullmatch(r"[0-9]{1,18}", lengths[0]) is None:
            return 411, "an upload must have a Content-Length"
        if int(lengths[0]) > self.most + AROUND_FILES:
            return 413, f"files of up to {self.most / 2**20:g} MB together are accepted"
        return None

    def _is_ours(self, host: str) -> bool:
        """Return whether a name, with or without a port, is this server's."""
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts[1].lower().rstrip(".")
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in self.names
        return True

    def _is_own_page(self, address: str, hosts: Iterable[str]) -> bool:
        """Return whether an address is on this server, for a request that is addressed to ``hosts``."""
        scheme, separator, rest = address.partition("://")
        if not separator or scheme not in _PORTS:
            return False
        where = rest.partition("/")[0]
        parts = _HOST.fullmatch(where)
        if parts is None:
            return False
        # A proxy may use another name than its visitors do; the visitors' names were given.
        if parts[1].lower().rstrip(".") in self.public:
            return True
        return any(_with_port(where, scheme) == _with_port(host, scheme) for host in hosts)

    def _event_refusal(self, body: bytes | None, hosts: list[str]) -> tuple[int, str] | None:
        """Return status and reason if an event is too long, not JSON, or names a file that was not uploaded."""
        if body is None:
            return 413, f"events of up to {LONGEST_EVENT} bytes are accepted"
        try:
            event = strict_json.loads(body.decode())  # UTF-8 only, no duplicate names: it can be read in only one way
        except ValueError:
            return 400, "an event must be JSON"
        for kind, place in _places(event):
            # The page's scripts give the path of an upload, and its address on this server.
            if _ELSEWHERE.match(place) and not (kind == "url" and self._is_own_page(place, hosts)):
                return 400, "files must be uploaded: nothing is fetched from an address"
        return None


def _headers(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def _with_port(host: str, scheme: str) -> tuple[str, str] | None:
    parts = _HOST.fullmatch(host)
    return None if parts is None else (parts[1].lower().rstrip("."), parts[2] or _PORTS[scheme])


def _places(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the paths and URLs of files in JSON, each after its key."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            yield from ((name, inner[name]) for name in ("path", "url") if isinstance(inner.get(name), str))
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request, None if it is too long."""
    body = b""
    while len(body) <= LONGEST_EVENT:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):  # or the sender has disconnected
            return body if len(body) <= LONGEST_EVENT else None
    return None


def _replayed(body: bytes | None, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body that was read, and then whatever comes next."""
    waiting: list[Message] = [{"type": "http.request", "body": body or b"", "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
