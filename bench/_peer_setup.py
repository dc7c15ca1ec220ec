"""Environments for the trainers of ``peers``, and why one could not be made or used.

pip installs torch, as it is configured. uv does the rest: for axolotl pip had not resolved the
versions after 280 s, uv took 5. It gets the index, folders and certificates that pip has, since it
does not read them itself; not pip's extra indexes: uv takes a version from the first index that has
it, even where its only wheel there is for another Python (multiprocess 0.70.19, seen).
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from _common import run, say

T = TypeVar("T")

FOLDER = Path(__file__).resolve().parents[1] / "build" / "peers"
# Of no use for texts. Their wheels are mostly for GPUs, and beside a torch for CPUs they break
# transformers: "operator torchvision::nms does not exist".
REMOVED = ("torchvision", "torchaudio")
# The settings of pip that uv needs, by its names, and what it separates several values by.
UV_NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
SHOWN = 600  # characters of a reason
ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b.*", re.M)


def installed(requirement: str, torch: str) -> str:
    """Install a trainer, once, with torch before it; the Python of its environment.

    Raises SystemExit with the last words of what failed.
    """
    place = FOLDER / requirement.partition("==")[0]
    python, stamp = str(place / "bin" / "python"), place / ".installed"
    wanted = f"{requirement} {torch}"
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return python
    tool = FOLDER / "uv"
    if not (tool / "bin" / "uv").exists():
        run([sys.executable, "-m", "venv", str(tool)])
        run([str(tool / "bin" / "python"), "-m", "pip", "install", "-q", "uv"])
    uv, env = str(tool / "bin" / "uv"), os.environ | uv_settings()
    say(f"installing {requirement} beside {torch} into {place}")
    run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], env)
    run([sys.executable, "-m", "pip", "--python", python, "install", "-q", torch])
    run([uv, "pip", "install", "--quiet", "--python", python, requirement, torch], env)
    run([uv, "pip", "uninstall", "--quiet", "--python", python, *REMOVED], env)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def uv_settings() -> dict[str, str]:
    """Return what pip is configured with as variables of uv."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    return as_uv_settings(listed.stdout.splitlines()) | {"UV_CACHE_DIR": str(FOLDER / "cache")}


def as_uv_settings(lines: Iterable[str]) -> dict[str, str]:
    """Translate the lines of ``pip config list``. Variables come before files, as in pip."""
    found = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        if name := UV_NAMES.get(key.rpartition(".")[2]):
            found[name[0]] = name[1].join(str(ast.literal_eval(value)).split())
    return found


def attempt(reasons: dict[str, str], peer: str, measure: Callable[[], T]) -> T | None:
    """Measure, unless the peer has failed before; note the reason if it fails now."""
    if peer in reasons:
        return None
    try:
        return measure()
    except SystemExit as failure:
        reasons[peer] = reason(str(failure))
        say(f"{peer}: {reasons[peer]}")
        return None


def reason(text: str) -> str:
    """Return what a failed process said last: its exception, else its last lines. Addresses are
    left out: one may be that of a private index, with its password."""
    code, _, said = text.partition("\n")
    errors = list(ERROR.finditer(said))
    last = said[errors[-1].start() :] if errors else "\n".join(said.strip().splitlines()[-4:])
    words = " ".join(re.sub(r"\w+://\S+", "...", last).split())
    return words[:SHOWN] or code.partition(" of ")[0]
