"""Where data are, by name: a path of this machine, or the URL of an object store.

URLs are read by fsspec, and only those of stores whose names lead to a service of its own: a text
that a client has sent must not make a server ask its own network (http, ftp, sftp, ...).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

from finetune_gateway.errors import (
    DataError,
    GatewayError,
    MissingDependency,
    NotFoundError,
    StoreError,
    shown,
)

CHUNK = 1 << 20  # bytes read at a time
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
_URL = re.compile(r"([a-z][a-z0-9+.-]+)(://|::)(.*)", re.IGNORECASE | re.DOTALL)
_PATH = re.compile(r"([a-z][a-z0-9+.-]+):/([^/].*)", re.IGNORECASE | re.DOTALL)
# user:password@ (a key of AWS has slashes in it), token@ unless it is a box at Azure, a signature.
_SECRET = re.compile(
    r"(?<=://)[^/@:]*:[^@]*@|(?<!abfs://)(?<!abfss://)(?<=://)[^/@:]+@|(?<=[?#]).*", re.DOTALL
)


def existing(path: Path) -> Path:
    """Return a path that can be read. Raises NotFoundError, DataError for a folder that is no
    dataset and for a file without the right."""
    try:
        there = path.exists()
    except PermissionError:
        raise DataError(
            f"{str(path)!r} cannot be read: permission denied.",
            hint=f"Ask for rights on the folder {path.parent}.",
        ) from None
    except (OSError, ValueError):  # the name is too long, or holds a NUL
        there = False
    if not there:
        raise not_there(path)
    if path.is_dir() and not is_dataset(path):
        raise DataError(
            f"{str(path)!r} is a folder, not a file.", hint="Name the JSONL file in it."
        )
    if not os.access(path, os.R_OK):
        raise DataError(
            f"{str(path)!r} cannot be read: permission denied.", hint=f"Run: chmod u+r {path}"
        )
    return path


def not_there(path: Path) -> NotFoundError:
    """Return the error for a path at which nothing is."""
    text = str(path)
    if "\n" in text or text.lstrip().startswith(("{", "[")):  # rows of somebody: not repeated
        return NotFoundError(
            f"There is no file of this name of {len(text):,} characters: it looks like rows.",
            hint="A text is taken for a path. Pass the rows as bytes: text.encode().",
        )
    return NotFoundError(
        f"There is no file {text!r}.", hint=f"You are in {os.getcwd()}; check the path."
    )


def is_dataset(folder: Path) -> bool:
    """Return True for a folder of the datasets library, or of Parquet files."""
    return (folder / "state.json").exists() or any(folder.glob("*.parquet"))


# -- URLs --------------------------------------------------------------------------------------


def url_of(source: str | os.PathLike[str]) -> str | None:
    """Return the URL that this is; None for a path. A ``Path`` of a URL has lost one of its two
    slashes, so one is a URL where no such file is here."""
    text = os.fspath(source)
    if _URL.match(text):
        return text
    match = None if isinstance(source, str) else _PATH.match(text)
    if match is None or os.path.exists(text):
        return None
    return f"{match[1]}://{match[2]}"


def without_secrets(url: str) -> str:
    """Return a URL without passwords, and without what follows a question mark: signatures."""
    return _SECRET.sub("***", url)


def name_of(url: str) -> str:
    """Return the last part of a URL, the name of the file."""
    return re.split(r"[?#]", url)[0].rstrip("/").rpartition("/")[2] or "data"


def url_chunks(url: str, folder: Path) -> Generator[bytes, None, None]:
    """Yield the bytes of a URL, for a file in ``folder``.

    Raises DataError for a URL that is not read here, or not to its end; NotFoundError;
    MissingDependency without the extra [fsspec]; StoreError if the disk is too small for it.
    """
    files, path = _filesystem(url)
    with _TranslatedErrors(url):
        files.invalidate_cache(path)  # a listing of an hour ago would be believed
        about = files.info(path)
    if about.get("type") == "directory":
        raise DataError(
            f"{without_secrets(url)!r} is a folder, not a file.", hint="Name the file in it."
        )
    size = about.get("size")
    if isinstance(size, int) and folder.exists() and size > shutil.disk_usage(folder).free:
        raise StoreError(
            f"{without_secrets(url)} has {size:,} bytes, more than are free in {folder}.",
            hint="Free some space there, or set FTG_HOME to a folder on another disk.",
        )
    received = 0
    with _TranslatedErrors(url), files.open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            received += len(chunk)
            yield chunk
    if isinstance(size, int) and received != size:
        raise DataError(
            f"{without_secrets(url)} has {size:,} bytes, and {received:,} came.", hint="Try again."
        )


def _filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, and the path in it."""
    match = _URL.match(url)
    scheme, mark = (match[1].lower(), match[2]) if match else ("", "")
    if scheme not in STORES or mark != "://":
        raise _refused(url, scheme)
    try:
        import fsspec
    except ImportError:
        raise MissingDependency(f"Reading {scheme}://", "fsspec") from None
    try:
        with _TranslatedErrors(url):
            files, path = fsspec.core.url_to_fs(scheme + url[len(scheme) :])
    except ImportError:  # of the store's own package
        raise MissingDependency(f"Reading {scheme}://", "fsspec") from None
    return files, path


def _refused(url: str, scheme: str) -> DataError:
    shown_url = without_secrets(url)
    if scheme == "file":
        return DataError(f"{shown_url!r} is not read.", hint="Write the path itself.")
    if scheme in ("http", "https"):
        return DataError(
            f"{shown_url!r} is not fetched: an address in the data of a service could lead into "
            "its own network.",
            hint="Download it first, or open it yourself and pass that: "
            "urllib.request.urlopen(url).",
        )
    known = ", ".join(f"{name}://" for name in STORES)
    return DataError(
        f"{shown_url!r} is not read: only {known}.",
        hint="Open it yourself and pass that: fsspec.open(url).open().",
    )


class _TranslatedErrors:
    """Raises what a store's library raises as one of ours, without the secrets of the URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        # Each store has errors of its own: ClientError, HttpError, ClientConnectorError, ...
        if not isinstance(exc, Exception) or isinstance(exc, ImportError | GatewayError):
            return
        name = without_secrets(self._url)
        if isinstance(exc, FileNotFoundError):
            raise NotFoundError(f"There is no {name!r}.", hint="Check the URL.") from None
        if isinstance(exc, IsADirectoryError):
            raise DataError(f"{name!r} is a folder, not a file.", hint="Name the file in it.")
        reason = self._masked(str(exc).partition("\n")[0]) or "no reason is given"
        raise DataError(
            f"{name!r} cannot be read: {type(exc).__name__}: {shown(reason)}.",
            hint="Check the URL, and that this process may read it: its library takes the "
            "credentials from where it always does.",
        ) from None

    def _masked(self, reason: str) -> str:
        for match in _SECRET.finditer(self._url):
            for secret in re.split(r"[:@&=]", match[0]):
                reason = reason.replace(secret, "***") if len(secret) > 3 else reason
        return without_secrets(reason)
