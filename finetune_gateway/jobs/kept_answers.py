"""The folders of kept answers, for those who count and remove them; ``evaluation`` reads them."""

from __future__ import annotations

from pathlib import Path

from finetune_gateway.settings.home import Settings

ABOUT = "about.json"  # of a folder: whose answers these are
CHARGES = "charges.jsonl"  # and what was reserved for them
PREFIX = "answers:"  # begins the name of a folder wherever people see it


def folders(settings: Settings) -> list[Path]:
    """Return the folders of all models whose answers are kept, by name."""
    return sorted(path for path in settings.answers.glob("*") if path.is_dir())


def lock_of(settings: Settings, name: str) -> Path:
    """Return the file that is locked while a process asks a model."""
    return settings.locks / f"answers-{name}"
