"""Whole files: a reader sees the old content or the new one, whatever ends the writer."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.settings import spool
from finetune_gateway.settings.files import atomic_file, folder, write_atomic, write_by_content

# arguments: a file. Writes 1 MB of "a", then of "b", again and again, until it is killed.
WRITER = """
import sys
from pathlib import Path
from finetune_gateway.settings.files import write_atomic
path = Path(sys.argv[1])
while True:
    for letter in "ab":
        write_atomic(path, letter * 1_000_000)
        print(letter, flush=True)
"""

# arguments: a file. Writes 1 MB where no file may be longer than 100 kB.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from finetune_gateway.settings.files import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_atomic(Path(sys.argv[1]), "b" * 1_000_000)
except OSError as exc:
    print(exc.errno)
"""


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Killed with -9 at any moment, never half a file."""
    path = tmp_path / "whole.txt"
    moments = random.Random(0)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()  # it has begun
            time.sleep(moments.uniform(0, 0.02))
            writer.kill()
        assert path.read_bytes() in (b"a" * 1_000_000, b"b" * 1_000_000)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """The error is an OSError, and the temporary file is gone."""
    path = tmp_path / "whole.txt"
    write_atomic(path, "old")
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "27"  # EFBIG
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_block_changes_nothing(tmp_path: Path) -> None:
    """Also when the file is new."""
    path = tmp_path / "whole.txt"
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_mode_and_link_are_kept(tmp_path: Path) -> None:
    """A private file stays private, and a link still leads to the file."""
    path, link = tmp_path / "whole.txt", tmp_path / "link.txt"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)
    write_atomic(link, "new", fsync=False)
    assert link.is_symlink() and path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_directly() -> None:
    """``-o /dev/stdout`` gives the content to whoever reads the pipe."""
    script = (
        "from pathlib import Path; from finetune_gateway.settings.files import write_atomic;"
        "write_atomic(Path('/dev/stdout'), 'text')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "text"


def test_a_file_named_by_its_content(tmp_path: Path) -> None:
    """The same chunks give the same file; an error on the way leaves none."""
    path, digest = write_by_content(tmp_path, [b"a", b"b"], lambda digest: f"{digest}.txt")
    assert path.name == f"{digest}.txt" and path.read_bytes() == b"ab"
    assert write_by_content(tmp_path, [b"ab"], lambda digest: f"{digest}.txt")[0] == path
    with pytest.raises(ZeroDivisionError):
        write_by_content(tmp_path, (b"%d" % (1 // n) for n in (1, 0)), str)
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    """A device such as /dev/stdout is never replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, "text")
    reader.join(10)
    assert read == [b"text"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Nothing is left beside it either."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(folder, "text")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_link_that_leads_to_itself_is_an_os_error(tmp_path: Path) -> None:
    """Callers turn an OSError into words, and nothing else."""
    link = tmp_path / "loop"
    link.symlink_to(link)
    with pytest.raises(OSError, match="symbolic links"):
        write_atomic(link, "text")


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    """The temporary name is not longer; two files with the same beginning do not meet."""
    one, other = tmp_path / ("x" * 254 + "1"), tmp_path / ("x" * 254 + "2")
    with atomic_file(one) as first, atomic_file(other) as second:
        first.write(b"1")
        second.write(b"2")
    assert (one.read_text(), other.read_text()) == ("1", "2")


@pytest.mark.parametrize("write", ["whole", "by content"])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after the rename would else leave an empty file of that name."""
    synced: set[int] = set()
    sync, rename = os.fsync, os.replace
    renamed: list[bool] = []

    def watched_sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def watched_rename(source: Path, target: Path) -> None:
        renamed.append(source.stat().st_ino in synced)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_rename)
    if write == "whole":
        write_atomic(tmp_path / "whole.txt", "new")
    else:
        write_by_content(tmp_path, [b"new"], lambda sha256: sha256)
    assert renamed == [True] and tmp_path.stat().st_ino in synced


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is in place then: an error would say that nothing has changed."""

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomic(tmp_path / "whole.txt", "new")
    assert (tmp_path / "whole.txt").read_text() == "new"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads and forks
def test_a_fork_leaves_its_parent_the_rows_of_the_spool(tmp_path: Path) -> None:
    """They go with the reader that the parent has, not with the copy of it in a child."""
    path = tmp_path / "1" / "rows.jsonl"
    write_atomic(folder(path.parent) / path.name, "{}\n")
    readers = [threading.Event()]
    spool.remove_with(readers[0], path)
    child = os.fork()
    if child == 0:
        readers.clear()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0 and path.exists()
    readers.clear()
    assert not path.exists()


def test_spools_that_are_gone_hold_no_descriptor(tmp_path: Path) -> None:
    """Each keeps a lock while it is there; a process of many homes runs out of descriptors else."""
    before = psutil.Process().num_fds()
    for number in range(40):
        home = tmp_path / str(number)
        assert len(list(Dataset.open([{"text": "a"}], spool=home).rows())) == 1
        shutil.rmtree(home)
    assert psutil.Process().num_fds() <= before + 2
