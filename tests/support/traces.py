"""Where a word is left in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path


def traces(folder: Path, word: str) -> list[str]:
    """The files of a folder that have a word in their bytes or in their names, whatever they are:
    write-ahead log, free pages, hidden ones. JSON has it as it is: there is nothing to escape."""
    # By another process: one that closes a database which it has open loses its locks (POSIX).
    search = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", word, str(folder)]
    done = subprocess.run(search, capture_output=True, text=True)
    paths = [*map(Path, done.stdout.splitlines())]
    paths += [path for path in folder.rglob("*") if word in path.name]
    return sorted({str(path.relative_to(folder)) for path in paths})
