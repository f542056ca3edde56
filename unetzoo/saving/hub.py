"""Models from the Hugging Face Hub, from its cache, or from a folder or file: one name for all.

``huggingface_hub`` is imported when a repository is asked for, not before.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import torch

from unetzoo import __version__, trained
from unetzoo.errors import ConfigError, DamagedError, HubError, UnetzooError, WeightsError
from unetzoo.files.offline import switched_off
from unetzoo.model import SegmentationModel
from unetzoo.registry import suggest
from unetzoo.saving.weights import CONFIG_FILE, MODEL_FILE, SUFFIX, load, model_in, read_config, verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf-hub:"
CARD_FILE = "README.md"
ANSWER_SECONDS = 4.5
LOG_IN = "'hf auth login', or the variable HF_TOKEN"
_REPOSITORY = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
    refresh: bool = False,
    **options: Any,
) -> SegmentationModel:
    """Return a trained model, in evaluation mode: by its name, from a file, a folder, or the Hugging Face Hub.

    ``list_models(pretrained=True)`` gives the names. Their weights come with the package, are kept in half precision
    and are read as float32 unless ``dtype`` says otherwise. A folder that bears such a name is ``./<name>``.

    A repository that is in the cache at the revision asked for is taken from there, and no network is touched; what
    comes from the Hub is verified, byte for byte, each time.

    Args:
        source: a name such as "nuclei"; a ``.safetensors`` file or a folder, if there is one of this name; otherwise
            a repository such as "me/cells", "me/cells@<branch, tag or commit>", or "hf-hub:me/cells".
        revision, token, cache_dir, local_files_only, endpoint, refresh: for repositories, see :func:`pull_from_hub`.
        **options: as ``load`` takes them, ``num_classes`` or ``device`` for instance.

    Raises:
        HubError: there is no such repository, or it cannot be reached or read; ``reason`` says which, and the message
            what to do.
        WeightsError: the model does not fit what it says it is.
        ConfigError: lists all that is wrong with the arguments.
    """
    known = inspect.signature(load).parameters
    unknown = [f"unknown option {name!r}{suggest(name, known)}" for name in options if name not in list(known)[1:]]
    if unknown:
        raise ConfigError("cannot load a saved model", unknown)
    path = located(
        source,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        endpoint=endpoint,
        refresh=refresh,
    )
    if source in trained.names():
        options = {"dtype": torch.float32, **options}
    elif not _is_here(source):
        options["verify"] = False  # pull_from_hub has done it
    return load(path, **options)


def located(source: str | os.PathLike[str], *, revision: str | None = None, **how: Any) -> Path:
    """Return the file or folder of what :func:`from_pretrained` takes; a repository is pulled, if need be.

    Args:
        source: as there.
        revision, **how: as :func:`pull_from_hub` takes them.

    Raises:
        HubError, WeightsError, ConfigError: as there.
    """
    if source in trained.names():
        if revision is not None:
            raise ConfigError(f"revision={revision!r} is for repositories; {source!r} comes with the package")
        return file_of_trained(str(source))
    if _is_here(source):
        if revision is not None:
            raise ConfigError(f"revision={revision!r} is for repositories; {str(source)!r} is a file or folder here")
        empty = Path(source).is_dir() and model_in(Path(source)) is None
        if empty and isinstance(source, str) and is_repository(source):
            raise WeightsError(f"the folder {source} here has no {MODEL_FILE}; {PREFIX}{source} is the repository")
        return Path(source)
    source = str(source)
    if not source.startswith(PREFIX) and str(Path(source).parent) != "." and Path(source).parent.is_dir():
        raise WeightsError(f"there is no file or folder {source!r}; a repository of that name is {PREFIX}{source}")
    if not is_repository(source):
        raise WeightsError(
            f"there is no file or folder {source!r}, it is no trained model of the package "
            f"({', '.join(trained.names())}), and no name of a repository: those are 'owner/name' or "
            f"'owner/name@revision'{_behind_the_host(source)}"
        )
    try:
        return pull_from_hub(source, revision=revision, **how)
    except HubError as error:
        if source.startswith(PREFIX) or error.reason not in ("missing", "offline", "unreachable"):
            raise
        raise HubError(error.reason, f"there is no file or folder {source!r} here; as a repository, {error}") from error


def _is_here(source: str | os.PathLike[str]) -> bool:
    """Return whether it is the path of something, rather than the name of a repository."""
    return not isinstance(source, str) or (not source.startswith(PREFIX) and Path(source).exists())


def file_of_trained(name: str) -> Path:
    """Return the file of a model of the package, unless a folder here could be meant.

    Raises:
        ConfigError: a folder of this name holds a model too.
    """
    if Path(name).is_dir() and model_in(Path(name)) is not None:
        raise ConfigError(f"{name!r} is a model of the package, and a folder with a model here: say './{name}' for it")
    return trained.weights_of(name)


def is_saved(source: str) -> bool:
    """Return whether :func:`from_pretrained` may take it: a trained model, and not the bare name of a network."""
    return source in trained.names() or Path(source).exists() or is_repository(source)


def pull_from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
    refresh: bool = False,
) -> Path:
    """Return the folder of huggingface_hub's cache that holds a repository's model, fetched if need be, and verified.

    Args:
        repo_id: "owner/name" or "owner/name@revision".
        revision: branch, tag or commit; None is "main". A commit is the same model for ever; of a branch, the cache
            keeps what it was when it was last asked for.
        token: of the Hub; None: the one of ``hf auth login`` or HF_TOKEN; False: none.
        cache_dir: None: huggingface_hub's own (HF_HOME).
        local_files_only: take it from the cache, or fail; so do UNETZOO_OFFLINE=1 and HF_HUB_OFFLINE=1.
        endpoint: address of the Hub; None: HF_ENDPOINT, or huggingface.co.
        refresh: ask the Hub for a newer commit even if the revision is in the cache.

    Raises:
        HubError: its ``reason`` says what is wrong, its message what to do.
    """
    name, revision = parse(repo_id, revision)
    off = "local_files_only=True" if local_files_only else switched_off("UNETZOO_OFFLINE", "HF_HUB_OFFLINE")
    if off and refresh:
        raise HubError("offline", f"refresh asks the Hub, and {off} forbids the network: leave one of them out")
    with translated(name, revision, endpoint):
        folder = None if refresh else _cached(name, revision, cache_dir)
        if folder is None and off:
            raise HubError(
                "offline",
                f"{_title(name, revision)} is not in the cache, and {off} forbids the network; fetch it once with it: "
                f"unetzoo pull {_title(name, revision)}",
            )
        if folder is None:
            folder = _fetched(connect(endpoint, token), name, revision, cache_dir)
    try:
        verify(folder)
    except DamagedError as error:
        raise _dropped(folder, name, error) from error
    return folder


def is_repository(source: str) -> bool:
    """Return whether it is written as the name of a repository, and not as that of a file."""
    name = source.removeprefix(PREFIX)
    return _REPOSITORY.fullmatch(name) is not None and not name.endswith(SUFFIX)


def parse(repo_id: str, revision: str | None) -> tuple[str, str]:
    """Return the name and the revision of a repository, "main" where none is said.

    Raises:
        ConfigError: it is no such name, or the revision is said twice.
    """
    if not isinstance(repo_id, str):
        raise ConfigError(f"a repository's name, 'owner/name', is needed, not {type(repo_id).__name__}")
    match = _REPOSITORY.fullmatch(repo_id.removeprefix(PREFIX))
    if match is None or "--" in match["id"] or ".." in match["id"]:
        raise ConfigError(
            f"{repo_id!r} is no repository: 'owner/name' or 'owner/name@revision' is needed{_behind_the_host(repo_id)}"
        )
    if match["revision"] and revision and match["revision"] != revision:
        raise ConfigError(f"{repo_id!r} and revision={revision!r} contradict each other: give one")
    return match["id"], match["revision"] or revision or "main"


def _behind_the_host(address: str) -> str:
    """Return what to take of an address that was copied from a browser."""
    path = urlparse(address).path.strip("/").split("/") if "://" in address else []
    return f"; of this address, {'/'.join(path[:2])!r}" if len(path) >= 2 else ""


def connect(endpoint: str | None, token: str | bool | None) -> HfApi:
    """Return the client, once the Hub is known to answer at all: its own retries take half a minute.

    Raises:
        HubError: no connection within :data:`ANSWER_SECONDS`.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token, library_name="unetzoo", library_version=__version__)
    address = urlparse(api.endpoint)
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    if urllib.request.getproxies().get(address.scheme) and not urllib.request.proxy_bypass(host):
        return api  # whether the proxy reaches it is the proxy's to say
    outcome: list[OSError | None] = []

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    # In a thread, as looking up a name cannot be given a limit.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    problem = outcome[0] if outcome else TimeoutError(f"no answer within {ANSWER_SECONDS} s")
    if problem is not None:
        raise _unreachable(api.endpoint, problem) from problem
    return api


@contextlib.contextmanager
def translated(name: str, revision: str, endpoint: str | None) -> Iterator[None]:
    """Turn whatever the client raises into a :class:`HubError` that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2, as the client has it

    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is no repository: {error}") from error
    except HfHubHTTPError as error:
        raise _refused(error, name, revision) from error
    except LocalEntryNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _refused(cause, name, revision) from error
        raise _unreachable(endpoint or _endpoint(), cause or error) from error
    except httpx.HTTPError as error:
        raise _unreachable(endpoint or _endpoint(), error) from error
    except (OSError, RuntimeError) as error:
        if isinstance(error, UnetzooError):
            raise
        if isinstance(error.__cause__, HfHubHTTPError):  # of an upload
            raise _refused(error.__cause__, name, revision) from error
        raise HubError("other", f"{name}: {error}; if the transfer broke off, start it again") from error


def _cached(name: str, revision: str, cache_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of the cache with that revision, if all of the model is there."""
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(name, file, cache_dir=None if cache_dir is None else str(cache_dir), revision=revision)
        for file in (CONFIG_FILE, MODEL_FILE)
    ]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None  # type: ignore[arg-type]


def _fetched(api: HfApi, name: str, revision: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of the cache with that revision, downloaded: what is small, and may say no, first."""
    info = api.model_info(name, revision=revision, timeout=ANSWER_SECONDS)
    files = [file.rfilename for file in info.siblings or ()]
    _refuse_others(name, revision, files)

    place = None if cache_dir is None else str(cache_dir)

    def fetch(file: str, at: str) -> Path:
        return Path(api.hf_hub_download(name, file, revision=at, cache_dir=place))

    config = fetch(CONFIG_FILE, revision)
    commit = config.parent.name  # the branch may move on meanwhile
    try:
        read_config(config)
    except WeightsError as error:
        raise HubError("not_a_model", f"{_title(name, revision)} is no model of unetzoo: {error}") from error
    if CARD_FILE in files:
        fetch(CARD_FILE, commit)
    return fetch(MODEL_FILE, commit).parent


def _refuse_others(name: str, revision: str, files: list[str]) -> None:
    if CONFIG_FILE in files and MODEL_FILE in files:
        return
    title = _title(name, revision)
    pickles = [file for file in files if file.endswith(_PICKLES)]
    if pickles and not any(file.endswith(SUFFIX) for file in files):
        raise HubError(
            "pickle",
            f"{title} holds only pickles ({', '.join(pickles[:3])}), which can run any code and are never opened. Ask "
            "its owner for safetensors; or download one, and if it holds tensors alone, 'unetzoo convert' takes it",
        )
    raise HubError(
        "not_a_model",
        f"{title} is no model of unetzoo: it lacks "
        f"{' and '.join(file for file in (CONFIG_FILE, MODEL_FILE) if file not in files)}; it holds "
        f"{', '.join(files[:8]) or 'nothing'}",
    )


def _dropped(folder: Path, name: str, error: DamagedError) -> HubError:
    """Take a damaged model out of the cache, so that the next pull fetches it anew; return what to say."""
    for file in (CONFIG_FILE, MODEL_FILE):
        path = folder / file
        blob = Path(os.path.realpath(path))
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
    return HubError("damaged", f"{name} came damaged, and was removed from the cache; pull it again ({error})")


def _refused(error: Any, name: str, revision: str) -> HubError:
    """Return what an answer of the Hub means."""
    from huggingface_hub import errors

    status = getattr(error.response, "status_code", 0)
    said = str(error).strip().splitlines()[-1] if str(error).strip() else ""
    match error:
        case errors.GatedRepoError():
            return HubError(
                "gated", f"{name} is gated: accept its conditions on its page, log in ({LOG_IN}), and retry"
            )
        case errors.DisabledRepoError():
            return HubError("missing", f"{name} was disabled by the Hub")
        case errors.RepositoryNotFoundError():
            return HubError(
                "missing",
                f"there is no model repository {name}, or it is private and you may not see it: check the name; if it "
                f"is private, log in ({LOG_IN})",
            )
        case errors.RevisionNotFoundError():
            return HubError("revision", f"{name} has no revision {revision!r}: give a branch, a tag or a whole commit")
        case errors.EntryNotFoundError():
            return HubError("not_a_model", f"{_title(name, revision)} lacks a file of a unetzoo model: {said}")
    match status:
        case 401 if "authorization" in getattr(getattr(error.response, "request", None), "headers", {}):
            return HubError("token", f"the Hub does not know the token: make a new one, and log in ({LOG_IN})")
        case 401:
            return HubError("token", f"the Hub wants to know who asks for {name}: log in ({LOG_IN})")
        case 403:
            return HubError(
                "forbidden", f"your token may not do this with {name}: it needs the right to write there ({said})"
            )
        case 409 | 412:
            return HubError("conflict", f"{name} has changed meanwhile: pull it, and push anew ({said})")
        case 429:
            return HubError("busy", f"the Hub wants fewer requests: wait a few minutes, or log in ({LOG_IN}) for more")
    if status >= 500:
        return HubError("busy", f"the Hub has a fault of its own ({status}); try again later")
    first = str(error).strip().partition("\n")[0]
    return HubError("other", f"the Hub refuses {name} ({first}); check HF_ENDPOINT, if it is set")


def _unreachable(endpoint: str, error: BaseException) -> HubError:
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    mend = "check the network, HF_ENDPOINT and proxies"
    if "xet" in str(error).lower():
        mend = "this Hub seems to have no Xet storage: set HF_HUB_DISABLE_XET=1 before Python starts"
    return HubError("unreachable", f"the Hub at {endpoint} cannot be reached ({said}); {mend}")


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _title(name: str, revision: str) -> str:
    return name if revision == "main" else f"{name}@{revision}"
