"""Errors of the Hugging Face Hub: each exception of its client becomes a :class:`HubError` that names a fix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from unetzoo.errors import ConfigError, HubError, UnetzooError
from unetzoo.saving.repositories import title_of

LOG_IN = "'hf auth login', or the variable HF_TOKEN"


@contextlib.contextmanager
def translated(name: str, revision: str, endpoint: str | None) -> Iterator[None]:
    """Turn any exception of the client into a :class:`HubError` that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2, as the client has it

    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is not the name of a repository: {error}") from error
    except HfHubHTTPError as error:
        raise _refused(error, name, revision) from error
    except LocalEntryNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _refused(cause, name, revision) from error
        raise unreachable(endpoint or _endpoint(), cause or error) from error
    except httpx.HTTPError as error:
        raise unreachable(endpoint or _endpoint(), error) from error
    except (OSError, RuntimeError) as error:
        if isinstance(error, UnetzooError):
            raise
        if isinstance(error.__cause__, HfHubHTTPError):  # from an upload
            raise _refused(error.__cause__, name, revision) from error
        raise HubError("other", f"{name}: {error}; if the transfer was interrupted, start it again") from error


def _refused(error: Any, name: str, revision: str) -> HubError:
    """Return the error for a refusal of the Hub."""
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
                f"there is no model repository {name}, or it is private and you have no access: check the name; if it "
                f"is private, log in ({LOG_IN})",
            )
        case errors.RevisionNotFoundError():
            return HubError(
                "revision", f"{name} has no revision {revision!r}: give a branch, a tag or a complete commit"
            )
        case errors.EntryNotFoundError():
            return HubError("not_a_model", f"{title_of(name, revision)} lacks a file of a unetzoo model: {said}")
    match status:
        case 401 if "authorization" in getattr(getattr(error.response, "request", None), "headers", {}):
            return HubError("token", f"the Hub does not accept the token: create a new one, and log in ({LOG_IN})")
        case 401:
            return HubError("token", f"the Hub requires a login for {name}: log in ({LOG_IN})")
        case 403:
            return HubError(
                "forbidden", f"your token does not allow this for {name}: it needs permission to write ({said})"
            )
        case 409 | 412:
            return HubError("conflict", f"{name} has changed meanwhile: pull it, and push again ({said})")
        case 429:
            return HubError("busy", f"too many requests to the Hub: wait a few minutes, or log in ({LOG_IN}) for more")
    if status >= 500:
        return HubError("busy", f"the Hub has an internal error ({status}); try again later")
    first = str(error).strip().partition("\n")[0]
    return HubError("other", f"the Hub refused the request for {name} ({first}); check HF_ENDPOINT, if it is set")


def unreachable(endpoint: str, error: BaseException) -> HubError:
    """Return the error for a Hub that does not answer."""
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    fix = "check the network, HF_ENDPOINT and proxies"
    if "xet" in str(error).lower():
        fix = "this Hub does not seem to support Xet storage: set HF_HUB_DISABLE_XET=1 before Python starts"
    return HubError("unreachable", f"the Hub at {endpoint} cannot be reached ({said}); {fix}")


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
