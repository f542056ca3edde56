"""Models from the Hugging Face Hub, or from its cache: pulled, verified, and returned as a folder.

``huggingface_hub`` is imported only when a repository is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from unetzoo import __version__
from unetzoo.errors import ConfigError, DamagedError, HubError, WeightsError
from unetzoo.files.offline import switched_off
from unetzoo.files.reaching import ANSWER_SECONDS, silence
from unetzoo.files.tensors import SUFFIX
from unetzoo.foreign import smp
from unetzoo.saving.hub_errors import translated, unreachable
from unetzoo.saving.records import CARD_FILE, CONFIG_FILE, MODEL_FILE, read_config, read_saved
from unetzoo.saving.repositories import parse, title_of
from unetzoo.saving.weights import verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


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
    """Return the folder of huggingface_hub's cache with a repository's model, which is fetched if needed and verified.

    Args:
        repo_id: "owner/name" or "owner/name@revision".
        revision: branch, tag or commit; None is "main". A commit is always the same model; for a branch, the cache
            keeps the commit that the branch had when it was last fetched.
        token: for the Hub; None: the one of ``hf auth login`` or HF_TOKEN; False: none.
        cache_dir: None: that of huggingface_hub (HF_HOME).
        local_files_only: take the model from the cache, or fail; UNETZOO_OFFLINE=1 and HF_HUB_OFFLINE=1 do the same.
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
                f"{title_of(name, revision)} is not in the cache, and {off} forbids the network; fetch it once with a "
                f"network: unetzoo pull {title_of(name, revision)}",
            )
        if folder is None:
            folder = _fetched(connect(endpoint, token), name, revision, cache_dir)
    try:
        _verified(folder)
    except DamagedError as error:
        raise _dropped(folder, name, error) from error
    return folder


def _verified(folder: Path) -> None:
    """Check a model against its digests; one of segmentation_models_pytorch against the Hub's digest."""
    if smp.network_in(folder / CONFIG_FILE) is None:
        verify(folder)
        return
    path = Path(os.path.realpath(folder / MODEL_FILE))
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if re.fullmatch("[0-9a-f]{64}", path.name) and found != path.name:
        raise DamagedError(f"the sha256 of {MODEL_FILE} is {found[:12]}…, but {path.name[:12]}… on the Hub")
    read_saved(folder)


def connect(endpoint: str | None, token: str | bool | None) -> HfApi:
    """Return the client, after a check that the Hub answers at all: the client's own retries take half a minute.

    Raises:
        HubError: no connection within :data:`ANSWER_SECONDS`.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token, library_name="unetzoo", library_version=__version__)
    problem = silence(api.endpoint)
    if problem is not None:
        raise unreachable(api.endpoint, problem) from problem
    return api


def _cached(name: str, revision: str, cache_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of the cache with that revision, if the model there is complete."""
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(name, file, cache_dir=None if cache_dir is None else str(cache_dir), revision=revision)
        for file in (CONFIG_FILE, MODEL_FILE)
    ]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None  # type: ignore[arg-type]


def _fetched(api: HfApi, name: str, revision: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    """Download a revision and return its folder in the cache; small files that may lead to a refusal come first."""
    info = api.model_info(name, revision=revision, timeout=ANSWER_SECONDS)
    files = [file.rfilename for file in info.siblings or ()]
    _refuse_others(name, revision, files)

    place = None if cache_dir is None else str(cache_dir)

    def fetch(file: str, at: str) -> Path:
        return Path(api.hf_hub_download(name, file, revision=at, cache_dir=place))

    config = fetch(CONFIG_FILE, revision)
    commit = config.parent.name  # the branch may move to another commit meanwhile
    try:
        if smp.network_in(config) is None:
            read_config(config)
    except (WeightsError, ConfigError) as error:
        raise HubError("not_a_model", f"{title_of(name, revision)} is not a model of unetzoo: {error}") from error
    if CARD_FILE in files:
        fetch(CARD_FILE, commit)
    return fetch(MODEL_FILE, commit).parent


def _refuse_others(name: str, revision: str, files: list[str]) -> None:
    if CONFIG_FILE in files and MODEL_FILE in files:
        return
    title = title_of(name, revision)
    pickles = [file for file in files if file.endswith(_PICKLES)]
    if pickles and not any(file.endswith(SUFFIX) for file in files):
        raise HubError(
            "pickle",
            f"{title} holds only pickles ({', '.join(pickles[:3])}), which can run any code and are never opened. Ask "
            "its owner for safetensors; or download one: if it holds only tensors, 'unetzoo convert' takes it",
        )
    raise HubError(
        "not_a_model",
        f"{title} is not a model of unetzoo: it lacks "
        f"{' and '.join(file for file in (CONFIG_FILE, MODEL_FILE) if file not in files)}; it holds "
        f"{', '.join(files[:8]) or 'nothing'}",
    )


def _dropped(folder: Path, name: str, error: DamagedError) -> HubError:
    """Remove a damaged model from the cache, so that the next pull fetches it again; return the error."""
    for file in (CONFIG_FILE, MODEL_FILE):
        path = folder / file
        blob = Path(os.path.realpath(path))
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
    return HubError("damaged", f"{name} is damaged and was removed from the cache; pull it again ({error})")
