"""Chat templates of real models, out of archives that pip downloads.

They are read as files, kept under ``build/families``, and never imported or committed: TRL's wheel
is installed for the tests anyway, those of axolotl and llama-cpp-python are downloaded.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[2] / "build" / "families"
SUFFIX, TWIN = ".jinja", "_training"

# What has no place in the table, and why.
LEFT_OUT = {
    "fireworks-ai-llama-3-firefunction-v2": "needs the variables of its own server",
    "llama-cpp-rwkv-world": "writes a text without turns",
}


@dataclass(frozen=True)
class Archive:
    """A package that holds chat templates, as pip names it."""

    name: str
    requirement: str
    folder: str  # part of the path of its templates
    source: bool = False  # True if only its source archive has them
    licence: str = ""


AXOLOTL = Archive(
    "axolotl", "axolotl==0.19.0", "axolotl/utils/chat_templates/templates/", licence="Apache-2.0"
)
LLAMA_CPP = Archive(
    "llama.cpp",
    "llama-cpp-python==0.3.36",
    "/vendor/llama.cpp/models/templates/",
    source=True,
    licence="MIT",
)


@dataclass(frozen=True)
class Source:
    """One chat template, and where it is from."""

    archive: str
    name: str
    text: str
    twin: str | None = None  # TRL's template for training, with generation blocks

    @property
    def title(self) -> str:
        return f"{self.archive}/{self.name}"


def trl_folder() -> Path:
    """Return the folder of TRL's templates; TRL is not imported."""
    files = importlib.metadata.files("trl") or []
    path = next(file for file in files if file.match("trl/chat_templates/README.md"))
    return Path(str(path.locate())).parent


def trl() -> Iterator[Source]:
    """Yield the templates of TRL's wheel, each with its twin."""
    for path in sorted(trl_folder().glob(f"*{SUFFIX}")):
        if path.stem.endswith(TWIN):
            continue
        twin = path.with_name(f"{path.stem}{TWIN}{SUFFIX}")
        text = twin.read_text(encoding="utf-8") if twin.is_file() else None
        yield Source("trl", path.stem, path.read_text(encoding="utf-8"), text)


def downloaded(archive: Archive) -> Iterator[Source]:
    """Yield the templates of an archive. Raises OSError, with pip's words, if it cannot be had."""
    folder = CACHE / archive.name
    if not any(folder.glob(f"*{SUFFIX}")):
        _unpack(_download(archive), archive.folder, folder)
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        yield Source(archive.name, path.stem, path.read_text(encoding="utf-8"))


def _download(archive: Archive) -> Path:
    """Return the path of the downloaded archive."""
    CACHE.mkdir(parents=True, exist_ok=True)
    name = archive.requirement.split("==")[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-input", "--no-deps"]
    command += ["--no-binary" if archive.source else "--only-binary", name]
    done = subprocess.run(
        [*command, "-d", str(CACHE), archive.requirement],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    found = sorted(CACHE.glob(f"{name.replace('-', '_')}-*"))
    if done.returncode != 0 or not found:
        words = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
        raise OSError(f"pip could not download {archive.requirement}: {words[-1]}")
    return found[-1]


def _unpack(path: Path, inside: str, folder: Path) -> None:
    """Write the templates of a wheel or a source archive into a folder, all or none."""
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for name, content in _members(path, inside):
        (part / name).write_bytes(content)
    part.rename(folder)


def _members(path: Path, inside: str) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if inside in name and name.endswith(SUFFIX):
                    yield Path(name).name, wheel.read(name)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content and inside in member.name and member.name.endswith(SUFFIX):
                yield Path(member.name).name, content.read()
