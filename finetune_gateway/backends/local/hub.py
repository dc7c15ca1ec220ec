"""Fetch a model from the Hugging Face hub: only what is needed, one revision. Imports no torch.

What is fetched lies in the hub's own cache; what was fetched in part goes on where it broke off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_gateway.backends.local.umask import by_the_users_umask
from finetune_gateway.errors import BackendError, NotFoundError

MB = 1_000_000
# Enough to count and to estimate: config, tokenizer, template, the index of the weights.
SMALL_FILES = ("*.json", "*.jinja", "tokenizer*", "*.tiktoken", "merges.txt", "vocab.*")
# Not in folders: those hold the same model for other programs (onnx/, original/, gguf/).
ELSEWHERE = ["*/*"]


def fetch(
    model: str,
    patterns: list[str] | tuple[str, ...] = SMALL_FILES,
    *,
    revision: str | None = None,
    report: Callable[[str], None] | None = None,
    offline: bool = False,
) -> Path:
    """Return the folder of a model in the hub's cache, after fetching the files that match.

    ``revision``: a commit; by default the newest. ``report`` is called with what has come.
    ``offline``: fetch nothing. Raises NotFoundError, and BackendError if the hub cannot be reached.
    """
    # Imported here: the hub's client takes 0.2 s and only hub models need it.
    # It reads this when it is imported; otherwise it sends the versions of other libraries, and
    # which program runs it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    with _errors_in_words(model):
        with by_the_users_umask():
            bar = reporting_bar(model, report) if report else None
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=[*patterns],
                ignore_patterns=ELSEWHERE,
                tqdm_class=bar,
                local_files_only=offline,
            )
        )


@contextmanager
def _errors_in_words(model: str) -> Iterator[None]:
    """Raise the errors of the hub's client as ours."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    hint = f"Check the name, run: hf download {model}, or use --model builtin/tiny to try things."
    try:
        yield
    except HFValidationError:
        raise NotFoundError(f"{model!r} is not a model id.", hint=hint) from None
    except LocalEntryNotFoundError:
        raise BackendError(
            f"Model {model!r} is not on this machine and the hub cannot be reached.",
            hint=hint,
            backend="local",
        ) from None
    except RepositoryNotFoundError:
        raise NotFoundError(
            f"The hub has no model {model!r}, or it needs an access token (HF_TOKEN).", hint=hint
        ) from None
    except (HfHubHTTPError, OSError) as exc:
        raise BackendError(
            f"Model {model!r} could not be downloaded: {exc}.", hint=hint, backend="local"
        ) from None


def file_names(model: str, revision: str) -> list[str]:
    """Return the names of the files of a model that ``fetch`` has listed; none if they are not
    known. Asks nobody."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(model, revision=revision)
    except CachedRepoTreeNotFoundError:
        return []
    return [file.path for file in tree if "/" not in file.path]


def reporting_bar(model: str, report: Callable[[str], None]) -> type[Any]:
    """Return a bar for the hub's client that draws nothing, and reports the megabytes that have
    come, once a second."""
    from tqdm.auto import tqdm

    class Reported(tqdm):  # type: ignore[misc]  # tqdm has no types
        reported = 0.0

        def display(self, *args: Any, **kwargs: Any) -> None:
            """Draw nothing: this runs in a worker."""

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            # One bar counts files, one what comes from the network, one what is on the disk.
            on_disk = self.unit == "B" and not str(self.desc).startswith("Downloading")
            if on_disk and self.total and time.monotonic() - self.reported > 1:
                self.reported = time.monotonic()
                report(f"downloading {model}: {self.n / MB:.0f} of {self.total / MB:.0f} MB")

    return Reported
