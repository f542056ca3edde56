"""A small Hugging Face Hub in memory: model repositories over HTTP, for the real client.

The client must run with HF_HUB_DISABLE_XET=1. Large files live on a host of their own ("localhost" instead of
"127.0.0.1"), as they do behind the Hub, so that a client that takes its token there is found out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".h5", ".onnx")
NOT_LOGGED_IN = "Invalid username or password."
REPO = "(?P<name>[^/]+(?:/[^/]+)?)"
REVISION = "(?P<revision>[^/]+)"
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Request:
    """What a client sent; the path is unquoted, names of headers are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Commit:
    """All files after the commit; ``operations`` are the paths that it named."""

    oid: str
    parent: str | None
    message: str
    files: dict[str, bytes]
    operations: tuple[str, ...]


@dataclass
class Repo:
    """A model repository; ``readers`` are the users let in beside its owner where it is private or gated."""

    name: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def owned_by(self, user: str | None) -> bool:
        return user == self.name.split("/")[0]

    def admits(self, user: str | None) -> bool:
        return self.owned_by(user) or user in self.readers

    def find(self, revision: str = "main") -> Commit:
        """Return the commit that a branch, an oid or at least 7 digits of one name."""
        oid = self.branches.get(revision, revision)
        for commit in self.commits:
            if len(oid) >= 7 and commit.oid.startswith(oid):
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(
        self,
        changes: Mapping[str, bytes | None],
        message: str = "Update",
        branch: str = "main",
        parent: str | None = None,
    ) -> Commit:
        """Add a commit to a branch, on ``parent`` or on its head; None deletes a file."""
        parent = parent or self.branches.get(branch)
        files = dict(self.find(parent).files) if parent else {}
        files |= {path: content for path, content in changes.items() if content is not None}
        kept = {path: files[path] for path in sorted(files) if changes.get(path, b"") is not None}
        seed = repr((self.name, len(self.commits), parent, message, [blob_oid(kept[path]) for path in kept]))
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, message, kept, tuple(changes))
        self.commits.append(commit)
        self.branches[branch] = commit.oid
        return commit


@dataclass
class Answer:
    """What goes back to the client."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Self:
        return cls(status, json.dumps(data).encode(), {"Content-Type": "application/json"} | dict(headers or {}))


class HubError(Exception):
    """A refusal, in the words and headers that the client turns into its exceptions."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        codes = {"X-Error-Code": code} if code else {}
        named = codes | {"X-Error-Message": message} | dict(headers or {})
        self.answer = Answer.json({"error": message}, status, named)


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests that match."""

    pattern: re.Pattern[str]
    status: int | None
    times: int
    cut: int | None
    flip: int | None
    hang: float
    headers: dict[str, str]

    def spoils(self, body: bytes) -> bool:
        """Say whether the body is long enough to be cut or flipped there."""
        return any(place is not None and place < len(body) for place in (self.cut, self.flip))


class HubServer:
    """A Hub on a port of 127.0.0.1 (0: a free one) while the ``with`` block runs; afterwards connections are refused.

    Everything may be looked at and changed at any time: ``tokens`` (token: user), ``repos``, ``objects`` (large files
    by sha256), ``requests`` (all that came in; clear it to count anew) and ``faults`` (clear it to heal the Hub).
    """

    def __init__(self, port: int = 0) -> None:
        self.tokens = {"hf_me": "me", "hf_other": "other"}
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.closing = threading.Event()
        self._lock = threading.RLock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.hub = self
        port = self._server.server_address[1]
        self.endpoint, self.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away, also before the block ends; whatever is under way is cut off."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()

    def add_repo(
        self, name: str, files: Mapping[str, bytes] | None = None, *, private: bool = False, gated: bool = False
    ) -> Repo:
        """Create a repository with the Hub's initial commit and, given files, a second one."""
        repo = self.repos[name] = Repo(name, private, gated)
        rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.commit({".gitattributes": rules.encode()}, "initial commit")
        if files:
            repo.commit(files, "Add files")
        return repo

    def fail(
        self,
        pattern: str,
        status: int | None = None,
        *,
        times: int = 1,
        cut: int | None = None,
        flip: int | None = None,
        hang: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Spoil the next ``times`` requests in whose "METHOD path" the pattern is found.

        Without anything else the answer is a 500.

        - ``status``, ``headers``: that answer, and nothing else happens.
        - ``hang``: seconds before the answer, which then is the usual one unless there is a status.
        - ``cut``: so many bytes of the body, of which all were promised; ``hang`` seconds later the connection closes.
        - ``flip``: the lowest bit of this byte of the body is wrong.

        The last two wait for a body that is long enough: a HEAD or a redirect does not use them up.
        """
        assert status is None or (cut, flip) == (None, None), "only the usual answer is cut or flipped"
        if (cut, flip, hang) == (None, None, 0.0):
            status = status or 500
        self.faults.append(Fault(re.compile(pattern), status, times, cut, flip, hang, dict(headers or {})))

    def take_fault(self, request: Request, body: bytes | None = None) -> Fault | None:
        """Use up and return the fault for a request or, where it has one, for the body of its answer."""
        with self._lock:
            for fault in self.faults:
                late = fault.cut is not None or fault.flip is not None
                due = not late if body is None else late and fault.spoils(body)
                if due and fault.times > 0 and fault.pattern.search(str(request)):
                    fault.times -= 1
                    return fault
        return None

    def answer(self, request: Request, target: str) -> Answer:
        """Answer a request; what the client asks for and this Hub does not know is a 501."""
        try:
            with self._lock:
                if not target.startswith("/lfs/"):
                    self.user(request)
                for pattern, route in _ROUTES:
                    if match := pattern.fullmatch(f"{request.method} {target}"):
                        found = {key: unquote(text) for key, text in match.groupdict().items() if text}
                        return route(self, request, **found)
            raise HubError(501, f"This Hub has no {request}")
        except HubError as error:
            return error.answer
        except Exception:  # a 501 is not retried, so that the test fails at once and shows it
            return Answer.json({"error": traceback.format_exc()}, 501)

    def user(self, request: Request) -> str | None:
        """Return who asks, None without a token."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        token = header.removeprefix("Bearer ")
        if token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def known(self, request: Request, name: str) -> Repo:
        """Return a repository that the user may know of."""
        user, repo = self.user(request), self.repos.get(name)
        if repo and (not repo.private or repo.admits(user)):
            return repo
        # Over https the client takes any 401 for a missing repository; over http it wants the code.
        raise HubError(*((404, "Repository not found") if user else (401, NOT_LOGGED_IN)), "RepoNotFound")

    def readable(self, request: Request, name: str) -> Repo:
        """Return a repository whose files the user may read."""
        user, repo = self.user(request), self.known(request, name)
        if not repo.gated or repo.admits(user):
            return repo
        start = f"Access to model {name} is restricted"
        if user is None:
            raise HubError(401, f"{start}. You must be authenticated to access it.", "GatedRepo")
        raise HubError(403, f"{start} and you are not in the authorized list.", "GatedRepo")

    def writable(self, request: Request, name: str) -> Repo:
        """Return a repository that the user may change or, for a pull request, may propose to change."""
        user, repo = self.user(request), self.known(request, name)
        if user is None:
            raise HubError(401, NOT_LOGGED_IN, "RepoNotFound")
        if not repo.owned_by(user) and "create_pr" not in request.query:
            raise HubError(403, "You do not have write access to this repository")
        return repo


def is_lfs(path: str, size: int) -> bool:
    """Say whether a file is stored as a large one; the client never sends empty ones so."""
    return size > 0 and path.endswith(LFS_SUFFIXES)


def blob_oid(content: bytes) -> str:
    """Return git's name for the content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def file_info(path: str, content: bytes) -> dict[str, Any]:
    """Describe a file as the tree of a repository does."""
    info: dict[str, Any] = {"type": "file", "path": path, "oid": blob_oid(content), "size": len(content)}
    if is_lfs(path, len(content)):
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        lfs = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": len(pointer)}
        info |= {"oid": blob_oid(pointer), "lfs": lfs}
    return info


def file_answer(request: Request, content: bytes, headers: Mapping[str, str]) -> Answer:
    """Return a file or the range of it that was asked for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | dict(headers)
    size = len(content)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None or not any(match.groups()):
        return Answer(200, content, headers)
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        return Answer(416, headers={"Content-Range": f"bytes */{size}"})
    return Answer(206, content[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})


Route = Callable[..., Answer]
_ROUTES: list[tuple[re.Pattern[str], Route]] = []


def _route(pattern: str) -> Callable[[Route], Route]:
    def register(function: Route) -> Route:
        _ROUTES.append((re.compile(pattern), function))
        return function

    return register


@_route("GET /api/whoami-v2")
def _whoami(hub: HubServer, request: Request) -> Answer:
    user = hub.user(request)
    if user is None:
        raise HubError(401, NOT_LOGGED_IN)
    access = {"accessToken": {"displayName": "test", "role": "write"}}
    return Answer.json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": access})


@_route("POST /api/repos/create")
def _create(hub: HubServer, request: Request) -> Answer:
    user, asked = hub.user(request), request.json()
    if user is None:
        raise HubError(401, NOT_LOGGED_IN)
    owner = asked.get("organization") or user
    name = f"{owner}/{asked['name']}"
    url = f"{hub.endpoint}/{name}"
    if owner != user:
        raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    if name in hub.repos:
        message = f"You already created this model repo: {name}"
        return Answer.json({"error": message, "url": url}, 409, {"X-Error-Message": message})
    hub.add_repo(name, private=asked.get("visibility") == "private")
    return Answer.json({"url": url, "name": name})


@_route("POST /api/validate-yaml")
def _validate_yaml(hub: HubServer, request: Request) -> Answer:
    bare = not request.json()["content"].startswith("---\n")
    warnings = [{"message": "empty or missing yaml metadata in repo card"}] if bare else []
    return Answer.json({"errors": [], "warnings": warnings})


@_route(f"GET /api/models/{REPO}(?:/revision/{REVISION})?")
def _info(hub: HubServer, request: Request, name: str, revision: str = "main") -> Answer:
    repo = hub.known(request, name)
    commit = repo.find(revision)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
    if "blobs" in request.query:
        for sibling, info in zip(siblings, (file_info(*item) for item in commit.files.items()), strict=True):
            sibling |= {"blobId": info["oid"], "size": info["size"]}
            sibling |= {"lfs": info["lfs"]} if "lfs" in info else {}
    gated = "manual" if repo.gated else False
    facts = {"id": name, "modelId": name, "author": name.split("/")[0], "sha": commit.oid, "private": repo.private}
    counts = {"downloads": 0, "likes": 0, "createdAt": DATE, "lastModified": DATE}
    return Answer.json(facts | counts | {"gated": gated, "disabled": False, "tags": [], "siblings": siblings})


@_route(f"GET /api/models/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?")
def _tree(hub: HubServer, request: Request, name: str, revision: str, folder: str = "") -> Answer:
    commit = hub.known(request, name).find(revision)
    deep = request.query.get("recursive", "false").lower() in ("1", "true")
    top = PurePosixPath(folder)
    entries = [
        entry
        for path, entry in _entries(commit).items()
        if top in PurePosixPath(path).parents and (deep or PurePosixPath(path).parent == top)
    ]
    if folder and not entries:
        raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return Answer.json(entries)


@_route(f"POST /api/models/{REPO}/paths-info/{REVISION}")
def _paths_info(hub: HubServer, request: Request, name: str, revision: str) -> Answer:
    entries = _entries(hub.known(request, name).find(revision))
    paths = parse_qs(request.body.decode()).get("paths", [])
    return Answer.json([entries[path] for path in paths if path in entries])


def _entries(commit: Commit) -> dict[str, dict[str, Any]]:
    """Return the files of a commit and the folders that they make, by path."""
    above = {str(folder) for path in commit.files for folder in PurePosixPath(path).parents} - {"."}
    folders = {
        path: {"type": "directory", "path": path, "size": 0, "oid": blob_oid(path.encode())} for path in sorted(above)
    }
    return folders | {path: file_info(path, content) for path, content in commit.files.items()}


@_route(f"POST /api/models/{REPO}/preupload/{REVISION}")
def _preupload(hub: HubServer, request: Request, name: str, revision: str) -> Answer:
    there = hub.writable(request, name).find(revision).files
    files = []
    for asked in request.json()["files"]:
        path = asked["path"]
        mode = "lfs" if is_lfs(path, asked["size"]) else "regular"
        info = file_info(path, there[path]) if path in there else {}
        oid = info.get("lfs", info).get("oid")
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Answer.json({"files": files})


@_route(f"POST /{REPO}[.]git/info/lfs/objects/batch")
def _lfs_batch(hub: HubServer, request: Request, name: str) -> Answer:
    if hub.user(request) is None:
        raise HubError(401, NOT_LOGGED_IN)
    hub.known(request, name)  # no right to write: what is uploaded may be for a pull request
    objects = []
    for asked in request.json()["objects"]:
        upload = {"actions": {"upload": {"href": f"{hub.storage}/lfs/{asked['oid']}"}}}
        objects.append({"oid": asked["oid"], "size": asked["size"]} | ({} if asked["oid"] in hub.objects else upload))
    return Answer.json({"transfer": "basic", "objects": objects})


@_route("PUT /lfs/(?P<oid>[0-9a-f]{64})")
def _lfs_put(hub: HubServer, request: Request, oid: str) -> Answer:
    _refuse_token(request)
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, "The content does not have the promised sha256")
    hub.objects[oid] = request.body
    return Answer()


@_route("(?:GET|HEAD) /lfs/(?P<oid>[0-9a-f]{64})/.+")
def _lfs_get(hub: HubServer, request: Request, oid: str) -> Answer:
    _refuse_token(request)
    if oid not in hub.objects:
        raise HubError(404, "There is no such object")
    return file_answer(request, hub.objects[oid], {"ETag": f'"{oid}"'})


def _refuse_token(request: Request) -> None:
    if "authorization" in request.headers:  # S3 does so too
        raise HubError(400, "Only one auth mechanism allowed: the token went to the storage of large files")


@_route(f"POST /api/models/{REPO}/commit/{REVISION}")
def _commit(hub: HubServer, request: Request, name: str, revision: str) -> Answer:
    repo = hub.writable(request, name)
    header, *operations = [json.loads(line) for line in request.body.splitlines()]
    if revision not in repo.branches:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    base, branch = repo.find(revision), revision
    parent = header["value"].get("parentCommit") or base.oid
    if "create_pr" in request.query:
        number = 1 + sum(known.startswith("refs/pr/") for known in repo.branches)
        base, branch = repo.find(parent), f"refs/pr/{number}"
    elif not base.oid.startswith(parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    text = "\n\n".join(filter(None, (header["value"]["summary"], header["value"].get("description"))))
    commit = repo.commit(_changes(hub, base, operations), text, branch, base.oid)
    data = {"success": True, "commitOid": commit.oid, "commitUrl": f"{hub.endpoint}/{name}/commit/{commit.oid}"}
    if branch != revision:
        data["pullRequestUrl"] = f"{hub.endpoint}/{name}/discussions/{number}"
    return Answer.json(data | {"hookOutput": ""})


def _changes(hub: HubServer, base: Commit, operations: Iterable[dict[str, Any]]) -> dict[str, bytes | None]:
    """Return what the lines of a commit do to the files."""
    changes: dict[str, bytes | None] = {}
    for operation in operations:
        value, path = operation["value"], operation["value"]["path"]
        if operation["key"] == "file":
            changes[path] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                raise HubError(400, f"An LFS pointer pointed to a file that does not exist: {path}")
            changes[path] = hub.objects[value["oid"]]
        else:
            gone = [known for known in base.files if known == path or known.startswith(path.rstrip("/") + "/")]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            changes |= dict.fromkeys(gone)
    return changes


@_route(f"(?:GET|HEAD) /{REPO}/resolve/{REVISION}/(?P<path>.+)")
def _resolve(hub: HubServer, request: Request, name: str, revision: str, path: str) -> Answer:
    commit = hub.readable(request, name).find(revision)
    headers = {"X-Repo-Commit": commit.oid}
    if path not in commit.files:
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    content = commit.files[path]
    info = file_info(path, content)
    headers["ETag"] = f'"{info["oid"]}"'
    if "lfs" not in info:
        return file_answer(request, content, headers)
    sha256 = info["lfs"]["sha256"]
    hub.objects[sha256] = content
    headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
    return Answer(302, headers=headers | {"Location": f"{hub.storage}/lfs/{sha256}/{quote(path)}"})


class _Server(ThreadingHTTPServer):
    """A server that knows its open connections, so that it can close them."""

    daemon_threads = True
    request_queue_size = 64
    hub: HubServer

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that gives up: many tests are about that."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """End the connections that clients keep alive and wait for their threads."""
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 5
        while self.connections and time.monotonic() < deadline:
            time.sleep(0.005)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets: the second would wait 40 ms
    server: _Server

    def do_GET(self) -> None:
        hub, request = self.server.hub, self.receive()
        hub.requests.append(request)
        fault = hub.take_fault(request)
        if fault and hub.closing.wait(fault.hang):
            self.close_connection = True
            return
        if fault and fault.status:
            error = HubError(fault.status, "This was asked for with fail()", headers=fault.headers)
            self.send(request, error.answer)
        else:
            self.send(request, hub.answer(request, urlsplit(self.path).path))

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the base class wants these names

    def receive(self) -> Request:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        size = int(headers.get("content-length", 0))
        body = self.chunks() if "transfer-encoding" in headers else self.rfile.read(size)
        return Request(self.command, unquote(url.path), query, headers, body)

    def chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, request: Request, answer: Answer) -> None:
        hub, body = self.server.hub, answer.body
        self.send_response(answer.status)
        for key, value in (answer.headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if request.method == "HEAD":
            return
        fault = hub.take_fault(request, body)
        if fault and fault.flip is not None:
            body = body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :]
        if fault and fault.cut is not None:
            self.close_connection = True
            self.wfile.write(body[: fault.cut])
            hub.closing.wait(fault.hang)
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
        """Print nothing."""
