"""Which host has which file, for which account: what was sent is not sent again.

The ``files`` of the store. A scope is one host and one account.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_gateway.backend import Backend
from finetune_gateway.errors import BackendError
from finetune_gateway.jobs.records import JobRecord, StoredFile
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import files as shared
from finetune_gateway.text.cleaning import visible

SPARE_SECONDS = 1800.0  # a host may need an upload for so long after its job was created


def scope_of(record: JobRecord, backend: Backend) -> str:
    """Return the key under which the uploads of a job are remembered."""
    return json.dumps([backend.name, backend.place(), record.account], sort_keys=True)


def find(store: Store, scope: str, sha256: str, *, lasting: bool = True) -> str | None:
    """Return the id under which a host has this content. ``lasting``: not if it deletes the file
    within half an hour."""
    row = store.query(
        "SELECT remote_id FROM files WHERE scope = ? AND sha256 = ?"
        " AND (expires_at IS NULL OR expires_at > ?)",
        (scope, sha256, time.time() + SPARE_SECONDS if lasting else 0.0),
    ).fetchone()
    return row["remote_id"] if row else None


@contextmanager
def alone(store: Store, scope: str, sha256: str) -> Iterator[None]:
    """Let one job at a time send this content to this host, of all threads and processes of the
    home: the others wait, and then ``find`` what it has sent."""
    name = hashlib.sha256(f"{scope} {sha256}".encode()).hexdigest()[:32]
    path = store.settings.locks / f"{name}.upload"
    with shared.locking(path):
        yield
        # Remembered by now, so who comes later and makes a new lock has nothing to send.
        path.unlink(missing_ok=True)


def sent_at(store: Store, scope: str, sha256: str) -> float | None:
    """Return when this content was sent; None if no upload of it is remembered."""
    row = store.query(
        "SELECT uploaded_at FROM files WHERE scope = ? AND sha256 = ?", (scope, sha256)
    ).fetchone()
    return row["uploaded_at"] if row else None


def remember(
    store: Store, scope: str, sha256: str, remote_id: str, expires_at: float | None
) -> None:
    """Commit that a host has this content, until then or for good. Raises BackendError if it has
    other content under this id: then one of the two answers was about another file."""
    with store.transaction() as db:
        held = db.execute(
            "SELECT 1 FROM files WHERE scope = ? AND remote_id = ? AND sha256 != ?"
            " AND (expires_at IS NULL OR expires_at > ?)",
            (scope, remote_id, sha256, time.time()),
        ).fetchone()
        if held:
            raise BackendError(
                f"The host answered the upload with {visible(remote_id)}, which is another file of "
                "yours.",
                hint="Nothing was trained. Try again later.",
                maybe_applied=True,
                retryable=True,
            )
        db.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
            (scope, sha256, remote_id, time.time(), expires_at),
        )


def forget(store: Store, scope: str, *files: StoredFile | None) -> None:
    """Forget uploads: the host may no longer have these files."""
    with store.transaction() as db:
        db.executemany(
            "DELETE FROM files WHERE scope = ? AND sha256 = ?",
            [(scope, file.sha256) for file in files if file is not None],
        )
