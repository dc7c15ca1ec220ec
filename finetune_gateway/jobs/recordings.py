"""The folders of recordings, for those who count and remove them; ``evaluation`` reads them."""

from __future__ import annotations

from pathlib import Path

from finetune_gateway.errors import StoreError
from finetune_gateway.jobs import charges, deletion, removal
from finetune_gateway.jobs.journal import is_written, writing_alone
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings

PREFIX = "recorded:"  # begins the name of a recording wherever people see it


def folders(settings: Settings) -> list[Path]:
    """Return the folders of all recordings, by name."""
    return sorted(path for path in settings.recordings.glob("*") if path.is_dir())


def lock_of(settings: Settings, name: str) -> Path:
    """Return the file that is locked while a process asks for a recording."""
    return settings.locks / f"recording-{name}"


def touched_at(folder: Path) -> float:
    """Return when something was last written to a recording, in seconds since the epoch."""
    return max((path.lstat().st_mtime for path in folder.iterdir()), default=0.0)


def old(store: Store, before: float) -> list[Path]:
    """Return the recordings that nothing was written to since, and whose costs are settled: nobody
    asks for them, and no batch is under way."""
    open_ = charges.unsettled_names(store)
    return [
        folder
        for folder in folders(store.settings)
        if touched_at(folder) < before
        and f"{PREFIX}{folder.name}" not in open_
        and not is_written(lock_of(store.settings, folder.name), folder)
    ]


def remove(store: Store, folder: Path) -> None:
    """Remove a recording: its texts for good, its name from the ledger. Raises StoreError, also
    while a process asks for it."""
    with writing_alone(lock_of(store.settings, folder.name), folder) as ours:
        if not ours:
            raise StoreError(
                f"A process is asking for {PREFIX}{folder.name}.", hint="Wait until it has ended."
            )
        remove_locked(store, folder)


def remove_locked(store: Store, folder: Path) -> None:
    """Remove a recording, for who holds its lock. Raises StoreError; the folder goes last, so that
    a removal that was killed can be called again."""
    deletion.require_no_link(folder)
    charges.forget_name(store, f"{PREFIX}{folder.name}")
    removal.erase(store.settings.database)
    deletion.delete(folder)
    lock_of(store.settings, folder.name).unlink(missing_ok=True)
