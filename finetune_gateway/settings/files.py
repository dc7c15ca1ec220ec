"""Files that several processes share: written whole, locked, and private in the home folder.

A reader sees the old content or the new one, never half of it, whatever happens to the writer. The
kernel releases a lock when its holder dies: a locked file means that its holder is alive.

What is private is for this user alone from its first moment, whatever the umask. What the user
names (``-o``, ``--html``, ``handle.save``) follows the umask.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from finetune_gateway.errors import StoreError

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
# A name that is too long, or leads to something else than a file or folder that is there.
NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
OTHERS = 0o077  # what the group and all others may do


def write_atomic(
    path: Path, data: str | bytes, *, fsync: bool = True, private: bool = False
) -> None:
    """Write a file, in place of the one that is there. Raises OSError, and then changes nothing.

    ``fsync``: put it on the disk before this returns, so that a power cut keeps it.
    """
    with atomic_file(path, fsync=fsync, private=private) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path, *, fsync: bool = True, private: bool = False) -> Iterator[BinaryIO]:
    """Open a file that appears at ``path`` when the block ends, and never if the block raises.

    A link stays a link, and the mode of a file that is replaced stays as it is, unless it is
    ``private``. A device or a pipe, like /dev/stdout, is written to, not replaced.
    """
    target = Path(os.path.realpath(path))
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        with path.open("wb") as file:  # raises IsADirectoryError for a folder
            yield file
        return
    allowed = 0o666 if mode is None else stat.S_IMODE(mode)
    allowed = PRIVATE_FILE if private else allowed
    with _temporary(target.parent, target.name, lambda: target, fsync, allowed) as file:
        if mode is not None:
            os.fchmod(file.fileno(), allowed)  # whatever the umask is
        yield file


def _mode(path: Path) -> int | None:
    """Return the mode of the file that this path leads to; None if there is none."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def write_by_content(
    folder: Path,
    chunks: Iterable[bytes],
    name: Callable[[str], str],
    *,
    fsync: bool = True,
    replace: bool = True,
) -> tuple[Path, str]:
    """Write chunks to a file named by its content, for this user alone; return its path and the
    sha256 in hex.

    ``name``: gives the file's name for that hash. ``replace``: False to leave a file that is there
    whole as it is: it has the same content, and perhaps other names too.
    """
    digest = hashlib.sha256()

    def target() -> Path:
        return folder / name(digest.hexdigest())

    with _temporary(folder, "copy", target, fsync, PRIVATE_FILE, replace) as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    return target(), digest.hexdigest()


@contextmanager
def _temporary(
    folder: Path,
    name: str,
    target: Callable[[], Path],
    fsync: bool,
    mode: int,
    replace: bool = True,
) -> Iterator[BinaryIO]:
    """Open a file beside its target, and rename it when the block has ended well. It has this mode
    from its first moment, less what the umask forbids."""
    # Random: process ids are the same in two containers, and nobody can put a link in the way.
    # Short: a name may have 255 bytes.
    path = folder / f".{name[:40]}.tmp.{os.urandom(6).hex()}"
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(opened, "wb") as file:
            yield file
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        if not replace and _same_length(path, target()):
            path.unlink()
            return
        os.replace(path, target())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if fsync:
        with suppress(OSError):  # the file is in place; not every disk can sync a folder
            sync(folder)


def _same_length(path: Path, other: Path) -> bool:
    """Return False if the other is not there, too: a power cut may have left it empty."""
    return other.exists() and other.stat().st_size == path.stat().st_size


def append(path: Path, line: bytes) -> None:
    """Add a line to a private file in one write: a kill leaves it whole or away."""
    descriptor = open_private(path, os.O_WRONLY | os.O_APPEND)
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk: a rename survives a power cut only when
    its folder is on the disk too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- locks -----------------------------------------------------------------------------------


_held: set[int] = set()  # the descriptors of the locks of this process
_threads = threading.Condition()
_waited_for: set[Path] = set()  # locks that a thread has or waits for
_folders: dict[tuple[Path, Path, str], tuple[Path, int, int]] = {}  # their locks, how many use each


def try_lock(path: Path) -> int | None:
    """Lock a file without waiting and return its descriptor, for ``unlock``; None if another holds
    the lock.

    A program that inherits the descriptor (``pass_fds``) holds the lock too. A fork does not.
    """
    with suppress(BlockingIOError):
        return lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return None


def lock(path: Path, how: int = fcntl.LOCK_EX) -> int:
    """Lock a file, as soon as it is free, and return its descriptor. One that was removed meanwhile
    excludes nobody: the file that lies there is locked."""
    while True:
        descriptor = open_private(path, os.O_RDWR)
        _held.add(descriptor)
        try:
            fcntl.flock(descriptor, how)
        except BaseException:
            unlock(descriptor)
            raise
        if is_in_place(descriptor, path):
            return descriptor
        unlock(descriptor)


def is_in_place(descriptor: int, path: Path) -> bool:
    """Return False once a file that is open, such as that of a lock, was removed or replaced."""
    try:
        found = os.stat(path)
    except OSError as exc:
        return exc.errno not in NO_PLACE
    own = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def lock_again(descriptor: int, path: Path) -> int:
    """Return a lock that is held; that of its new file, if the old one was removed or replaced, and
    nobody has locked it since."""
    if is_in_place(descriptor, path):
        return descriptor
    with suppress(OSError):  # its folder is gone too, or may not be written
        if (found := try_lock(path)) is not None:
            unlock(descriptor)
            return found
    return descriptor


def unlock(descriptor: int) -> None:
    """Release a lock. In a fork, that of its parent stays as it is."""
    if descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


def adopt(descriptor: int) -> None:
    """Hold a lock that was inherited: neither a fork nor a program that is started holds it too."""
    os.set_inheritable(descriptor, False)
    _held.add(descriptor)


def _leave_locks() -> None:
    """Leave a parent its locks: its fork would hold them too, and for longer."""
    global _threads
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
    _threads = threading.Condition()  # a thread that is not here may hold it
    _waited_for.clear()
    _folders.clear()


os.register_at_fork(after_in_child=_leave_locks)


def is_locked(path: Path) -> bool:
    """Return True if a living process holds this lock. Raises OSError if it may not be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno not in NO_PLACE:
            raise
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def try_locking(path: Path) -> Iterator[bool]:
    """Yield True while we hold the lock; False if another process holds it."""
    descriptor = try_lock(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            unlock(descriptor)


@contextmanager
def locking(path: Path) -> Iterator[int]:
    """Hold the lock; wait for it as long as it takes. Yields its descriptor: of the threads of a
    process that wait for the same lock, one has any."""
    with _alone(path):
        descriptor = lock(path)
        try:
            yield descriptor
        finally:
            unlock(descriptor)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one thread of this process at a time pass."""
    with _threads:
        while path in _waited_for:
            _threads.wait()
        _waited_for.add(path)
    try:
        yield
    finally:
        with _threads:
            _waited_for.discard(path)
            _threads.notify_all()


@contextmanager
def storing(failure: str, folder: Path) -> Iterator[None]:
    """Raise StoreError for an OSError of the block."""
    try:
        yield
    except OSError as exc:
        raise StoreError(
            f"{failure} in {folder}: {exc.strerror or exc}.", hint=_way_out(exc)
        ) from None


def _way_out(exc: OSError) -> str:
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Set FTG_HOME to a folder that you may write to."
    if exc.errno in (*NO_PLACE, errno.EEXIST):
        return "Look at what is there, and name another folder."
    return "Free some space there, or set FTG_HOME to a folder on another disk."


# -- private files and folders ---------------------------------------------------------------


def folder(path: Path) -> Path:
    """Return a folder for this user alone, made if it is not there, as what is missing above it
    is: ``mkdir(parents=True)`` would give those to everybody."""
    if not path.is_dir():
        folder(path.parent)
        path.mkdir(PRIVATE_FOLDER, exist_ok=True)
    return path


def open_private(path: Path, flags: int) -> int:
    """Return a descriptor of a file, which is made for this user alone if it is not there."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)


def make_private(path: Path) -> None:
    """Make an empty file for this user alone, unless there is one: for what libraries write, which
    go by the umask.

    One that is there is not opened: to close it would drop the locks that SQLite holds on it for
    another connection of this process (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    with suppress(FileExistsError):
        os.close(open_private(path, os.O_WRONLY | os.O_EXCL))


def sha256_of(path: str | Path) -> str:
    """Return the sha256 of a file's content, in hex. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_private(source: Path, target: Path) -> None:
    """Copy a file for this user alone."""
    make_private(target)
    shutil.copyfile(source, target)


def narrow(path: str | Path) -> None:
    """Take a file or folder, with all that is in it, from the group and all others. What belongs
    to another user stays as it is, and so do links and what they lead to."""
    with suppress(OSError):  # another process may have removed it
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return
        if mode & OTHERS:
            os.chmod(path, stat.S_IMODE(mode) & ~OTHERS)
        if stat.S_ISDIR(mode):
            with os.scandir(path) as entries:
                for entry in entries:
                    narrow(entry.path)


@contextmanager
def private_folder(parent: Path, locks: Path, name: str) -> Iterator[Path]:
    """Yield a new folder for this user alone, and remove it at the end. It is in one of ``parent``
    that all threads of this process share, with its lock, while one of them uses it. Raises
    OSError."""
    key, here = (parent, locks, name), os.getpid()
    remove_left_folders(*key)
    with _threads:
        folder, lock, users = _folders.get(key) or (*open_private_folder(*key), 0)
        _folders[key] = folder, lock, users + 1
    inner = folder / os.urandom(6).hex()
    try:
        inner.mkdir(PRIVATE_FOLDER)
        yield inner
    finally:
        if os.getpid() == here:  # a fork leaves it to its parent
            shutil.rmtree(inner, ignore_errors=True)
            _leave(key)


def _leave(key: tuple[Path, Path, str]) -> None:
    with _threads:
        folder, lock, users = _folders.pop(key)
        if users > 1:
            _folders[key] = folder, lock, users - 1
        else:
            remove_private_folder(folder, key[1], lock)


def open_private_folder(parent: Path, locks: Path, name: str) -> tuple[Path, int]:
    """Return a new folder in ``parent`` for this user alone, and the descriptor of its lock.

    A lock in ``locks`` says that its owner is alive: what dead ones have left is removed by
    ``remove_left_folders``. Raises OSError.
    """
    folder = parent / f".{name}-{os.urandom(6).hex()}"
    held = lock(lock_of(folder, locks))  # before there is a folder to remove
    try:
        folder.mkdir(PRIVATE_FOLDER)
    except BaseException:
        remove_private_folder(folder, locks, held)
        raise
    return folder, held


def remove_private_folder(folder: Path, locks: Path, lock: int) -> None:
    """Remove a folder of ``open_private_folder`` and its lock."""
    _remove_folder(folder, locks)
    unlock(lock)


def remove_left_folders(parent: Path, locks: Path, name: str) -> None:
    """Remove those private folders of this name whose owners are dead."""
    for left in left_folders(parent, locks, name):
        _remove_folder(left, locks)


def left_folders(parent: Path, locks: Path, name: str) -> list[Path]:
    """Return those private folders of this name whose owners are dead."""
    folders = parent.glob(f".{name}-*")
    return [folder for folder in folders if not is_locked(lock_of(folder, locks))]


def lock_of(folder: Path, locks: Path) -> Path:
    """Return the lock of a private folder's owner."""
    return locks / folder.name.lstrip(".")


def _remove_folder(folder: Path, locks: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock_of(folder, locks).unlink(missing_ok=True)


def remove_old_temporaries(folder: Path, seconds: float) -> None:
    """Remove the temporary files of writers that died at least so long ago."""
    for path in folder.glob(".*.tmp.*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()
