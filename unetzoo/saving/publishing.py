"""Saving models to folders and pushing them to the Hugging Face Hub, each with a model card."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from unetzoo import trained
from unetzoo.errors import ConfigError, HubError, WeightsError
from unetzoo.files.offline import switched_off
from unetzoo.files.reaching import ANSWER_SECONDS
from unetzoo.files.tensors import check_file
from unetzoo.files.writing import make_folder, write_file
from unetzoo.saving.cards import ModelCard, read_card, write_card
from unetzoo.saving.hub_errors import LOG_IN, translated
from unetzoo.saving.pulling import connect
from unetzoo.saving.records import CARD_FILE, CONFIG_FILE, MODEL_FILE, read_saved
from unetzoo.saving.repositories import parse
from unetzoo.saving.sources import Source, located, trained_source
from unetzoo.saving.weights import save, unwrapped, verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class PushedModel:
    """The result of a push. ``str()`` is the name with which ``from_pretrained`` gets exactly this model.

    Attributes:
        name: of the repository.
        commit: of the push, 40 hexadecimal digits.
        url: of the commit's page, or of the pull request's.
    """

    name: str
    commit: str
    url: str

    def __str__(self) -> str:
        return f"{self.name}@{self.commit}"


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str], *, card: ModelCard | None = None) -> None:
    """Write a model to a folder with the files of a repository on the Hub: config.json, model.safetensors, README.md.

    ``model.safetensors`` is a file as ``save`` writes it, and the only one that loading needs; ``config.json`` repeats
    its config for other tools. In an existing README.md, the text of its owner is kept.

    Args:
        model: as ``save`` takes it.
        folder: created, with its parents, if it does not exist.
        card: licence, training data, metrics and text for the model card.

    Raises:
        WeightsError: as ``save``.
        WriteError: as ``save``; or the folder cannot be created.
    """
    _check_card(card)
    model = unwrapped(model)
    folder = Path(folder)
    make_folder(folder)
    earlier = read_card(_text_of(folder / CARD_FILE), folder / CARD_FILE)
    save(model, folder / MODEL_FILE)
    saved = read_saved(folder)
    write_file(folder / CONFIG_FILE, saved.config.to_json())
    write_file(folder / CARD_FILE, write_card(saved, folder.resolve().name, card, earlier))


def push_to_hub(
    source: nn.Module | str | os.PathLike[str],
    repo_id: str,
    *,
    card: ModelCard | None = None,
    private: bool | None = None,
    revision: str | None = None,
    parent_commit: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> PushedModel:
    """Push a model to a repository of the Hugging Face Hub: three files, one commit.

    The repository is created if it does not exist. In its README.md the text of its owner is kept, unless a folder is
    pushed whose own README.md has a different one.

    Args:
        source: a model, or what ``from_pretrained`` takes: a file that ``save`` wrote, a folder that
            ``save_pretrained`` wrote, or a trained model of the package or a repository, each with its card.
        repo_id: "owner/name".
        card: licence, training data, metrics and text for the model card.
        private: whether a new repository is private; None: as the owner's settings say. The visibility of an existing
            repository is not changed: if it is public and ``private=True``, nothing is pushed.
        revision: branch; None: "main".
        parent_commit: push only if this is the branch's last commit.
        create_pr: open a pull request instead of changing the branch.
        commit_message: None: the name of the model.
        token: None: the one of ``hf auth login`` or HF_TOKEN.
        endpoint: address of the Hub; None: HF_ENDPOINT, or huggingface.co.

    Raises:
        ConfigError: ``source`` is none of these, or a network of the zoo, whose weights are random; or the revision is
            a commit, to which nothing can be added.
        WeightsError: ``source`` is not a model, or damaged.
        HubError: there is no connection, no permission or no such branch, or the branch changed meanwhile; ``reason``
            says which.
    """
    name, branch = parse(repo_id, revision)
    if re.fullmatch("[0-9a-f]{40}", branch):
        raise ConfigError(
            f"a push goes to a branch, and {branch} is a commit: leave it out, or give it as parent_commit"
        )
    _check_card(card)
    pushed = _checked(source)
    _check_allowed(name, token)
    with tempfile.TemporaryDirectory() as scratch:
        file, readme, own = _prepared(pushed, Path(scratch))
        card = own if card is None else card.over(own)
        earlier = read_card(readme, file / CARD_FILE if readme else CARD_FILE)
        saved = verify(file)
        with translated(name, branch, endpoint):
            from huggingface_hub import CommitOperationAdd

            api = connect(endpoint, token)
            files = _repository(api, name, branch, private, parent_commit)
            _refuse_others(api, name, branch, files, scratch)
            if CARD_FILE in files:
                path = Path(api.hf_hub_download(name, CARD_FILE, revision=branch, local_dir=scratch))
                there = read_card(_text_of(path), f"{CARD_FILE} of {name}")
                earlier = earlier.about(saved.sha256).over(there.about(saved.sha256))
            text = write_card(saved, name, card, earlier)
            commit = api.create_commit(
                name,
                [
                    CommitOperationAdd(CONFIG_FILE, saved.config.to_json().encode()),
                    CommitOperationAdd(CARD_FILE, text.encode()),
                    CommitOperationAdd(MODEL_FILE, saved.path),
                ],
                commit_message=commit_message or f"{saved.config.name}, by unetzoo {saved.unetzoo_version}",
                revision=branch,
                parent_commit=parent_commit,
                create_pr=create_pr,
            )
            if create_pr and not commit.pr_url:
                raise HubError("conflict", f"{name} already holds exactly this model: no pull request was opened")
            if not create_pr:
                _forget(name, branch, commit.oid)
    return PushedModel(name, commit.oid, commit.pr_url or commit.commit_url)


def _prepared(source: nn.Module | Source, scratch: Path) -> tuple[Path, str | None, ModelCard]:
    """Return the file or folder to push, its README.md if there is one, and further facts for the card."""
    if isinstance(source, nn.Module):
        save(source, scratch / MODEL_FILE)
        return scratch / MODEL_FILE, None, ModelCard()
    path = located(source)
    if source.kind == "trained":
        return path, None, _card_of_package(source.text)
    return path, _text_of(path / CARD_FILE) if path.is_dir() else None, ModelCard()


def _card_of_package(name: str) -> ModelCard:
    """Return the card of a trained model of the package, without its title, as the repository gives one."""
    text = trained.card_of(name).read_text(encoding="utf-8")
    return ModelCard(license="mit", text=text.partition("\n")[2])


def _checked(source: nn.Module | str | os.PathLike[str]) -> nn.Module | Source:
    if isinstance(source, nn.Module):
        return source
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"cannot push a {type(source).__name__}: a model, or the name of a saved one, is needed")
    return trained_source(source)


def _check_allowed(name: str, token: str | bool | None) -> None:
    """Raise if a push cannot succeed: without a network, or without a token."""
    off = switched_off("UNETZOO_OFFLINE", "HF_HUB_OFFLINE")
    if off:
        raise HubError("offline", f"cannot push to {name}: {off} forbids the network")
    from huggingface_hub import get_token

    if token is False or (token in (None, True) and get_token() is None):
        raise HubError("token", f"cannot push to {name} without a login: {LOG_IN}")


def _check_card(card: object) -> None:
    if card is not None and not isinstance(card, ModelCard):
        raise ConfigError(f"card={card!r:.50}: a unetzoo.ModelCard is needed")


def _repository(api: HfApi, name: str, branch: str, private: bool | None, parent_commit: str | None) -> list[str]:
    """Return the names of the files in the repository, which is created if it does not exist."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(name, revision=branch, timeout=ANSWER_SECONDS)
    except RepositoryNotFoundError:
        api.create_repo(name, private=private, exist_ok=True)
        return []
    if private and info.private is False:
        raise HubError(
            "conflict",
            f"{name} already exists and is public: nothing was pushed. Make it private in its settings, or push to "
            "another name",
        )
    if parent_commit and not str(info.sha).startswith(parent_commit):
        raise HubError("conflict", f"{name} is at {info.sha}, not at {parent_commit}: pull it, and push again")
    return [file.rfilename for file in info.siblings or ()]


def _refuse_others(api: HfApi, name: str, branch: str, files: list[str], scratch: str) -> None:
    """Refuse to push over the model of another library."""
    if CONFIG_FILE not in files:
        return
    path = Path(api.hf_hub_download(name, CONFIG_FILE, revision=branch, local_dir=scratch))
    try:
        record = json.loads(path.read_bytes())
        ours = "decoder" in record and "encoder" in record
    except (ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise HubError(
            "conflict",
            f"{name} holds a model of another library: nothing was pushed. Push to another name, or delete its "
            f"{CONFIG_FILE} first",
        )


def _forget(name: str, branch: str, commit: str) -> None:
    """Remove the commit that the cache has for the branch, if the branch has just moved to another one."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    refs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "refs"
    if (refs / branch).is_file() and (refs / branch).read_text(encoding="utf-8").strip() != commit:
        (refs / branch).unlink()


def _text_of(path: Path) -> str | None:
    """Return the text of a README.md, None if there is none."""
    if not path.exists():
        return None
    check_file(path)
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}; fix it, or move it away") from error
