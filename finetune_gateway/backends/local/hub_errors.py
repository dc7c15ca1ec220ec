"""The client of the Hugging Face Hub, and its errors in words. Imports it when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finetune_gateway.errors import (
    AuthenticationError,
    BackendError,
    GatewayError,
    NotFoundError,
    SpecError,
    raise_alone,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi  # for the type checker alone

LOGIN = "Set HF_TOKEN, or run: hf auth login"


def hub_client() -> HfApi:
    """Return a client for the Hub at HF_ENDPOINT. Raises BackendError with HF_HUB_OFFLINE."""
    # Read when it is imported; otherwise it sends the versions of other libraries, and which
    # program runs it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Imported here: it takes 0.2 s, and few commands need it.
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise BackendError(
            "HF_HUB_OFFLINE is set: the Hub is not asked.",
            hint="Unset HF_HUB_OFFLINE.",
            backend="local",
        )
    return HfApi()


@contextmanager
def hub_errors(repo: str, did: str) -> Iterator[None]:
    """Raise the errors of the Hub's client as ours. ``did``: what failed, as in ``sending it``."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except GatewayError:
        raise
    except HFValidationError:
        raise_alone(
            SpecError(f"{repo!r} is no name of a model on the Hub.", hint="Like: my-team/my-model")
        )
    except HfHubHTTPError as exc:
        status = exc.response.status_code if exc.response is not None else None
        raise_alone(_of_status(repo, did, status))
    except (OSError, ValueError) as exc:  # of httpx2 and of requests that cannot be sent
        raise_alone(_unreachable(did, exc))
    except Exception as exc:
        if not type(exc).__module__.startswith(("httpx", "huggingface_hub")):
            raise
        raise_alone(_unreachable(did, exc))


def _of_status(repo: str, did: str, status: int | None) -> GatewayError:
    """Return the error for an answer of the Hub: not its text, which may quote what was sent."""
    if status == 401:
        return AuthenticationError(f"The Hub takes no such token: {did} failed.", hint=LOGIN)
    if status == 403:
        return AuthenticationError(
            f"This token may not do that with {repo}: {did} failed (403).",
            hint="It needs the right to write there: https://huggingface.co/settings/tokens",
        )
    if status == 404:
        return NotFoundError(
            f"The Hub has no {repo}, or shows it to others alone: {did} failed.",
            hint=f"Check the name. {LOGIN}",
        )
    if status is not None and status < 500 and status not in (408, 429):
        return BackendError(
            f"The Hub refuses it: {did} failed ({status}).", backend="local", status_code=status
        )
    said = f"answered {status}" if status else "did not answer"
    return BackendError(
        f"The Hub {said}: {did} failed.",
        hint="The same command goes on where it broke off.",
        backend="local",
        status_code=status,
        retryable=True,
    )


def _unreachable(did: str, exc: Exception) -> GatewayError:
    return BackendError(
        f"The Hub cannot be reached: {did} failed ({type(exc).__name__}).",
        hint="Check the network, and HF_ENDPOINT. The same command goes on.",
        backend="local",
        retryable=True,
    )
