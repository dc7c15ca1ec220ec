"""What every bench shares: whole processes measured, medians, one JSON line per figure.

Imports the standard library alone, so that the process that measures stays small: on Linux
the peak memory of a child begins with that of its parent.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
MISSED = 3  # exit code when a figure is outside its bound
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


@dataclass(frozen=True)
class Process:
    """A process that has ended: seconds of wall and of CPU, peak resident MB, what it said."""

    wall: float
    cpu: float
    peak_mb: float
    out: str
    err: str


def run(
    command: Sequence[str], env: Mapping[str, str] | None = None, *, session: bool = False
) -> Process:
    """Run a command from start to end, in a ``session`` of its own if wanted.

    Our modules may be compiled to files, as they are where the package is installed. Raises
    SystemExit with its last words when it fails.
    """
    env = {**(os.environ if env is None else env)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    with TemporaryFile("w+") as err:
        began = time.perf_counter()
        started = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=err,
            env=env,
            text=True,
            start_new_session=session,
        )
        assert started.stdout is not None  # for the type checker: it is a pipe
        with started.stdout:
            out = started.stdout.read()
        _, status, used = os.wait4(started.pid, 0)
        wall = time.perf_counter() - began
        started.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        said = err.read()
    if started.returncode != 0:
        raise SystemExit(f"exit {started.returncode} of {' '.join(command)}\n{said[-3000:]}")
    peak = used.ru_maxrss * MAXRSS_BYTES / 1e6
    return Process(wall, used.ru_utime + used.ru_stime, peak, out, said)


def alternate(sides: Mapping[str, Callable[[], T]], runs: int) -> dict[str, list[T]]:
    """Measure each side in turn, A B A B, so that the drift of a busy machine meets all alike."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(runs):
        for name, measure in sides.items():
            found[name].append(measure())
            say(f"  run {number + 1} of {runs}: {name}")
    return found


@contextmanager
def checked_out(commit: str) -> Iterator[dict[str, str]]:
    """Check a commit out to a temporary folder; give the environment of a process with its code.
    Such a process is started with ``python -P``, which leaves out the folder it runs in."""
    with TemporaryDirectory() as name:
        folder = str(Path(name) / "before")
        _git("worktree", "add", "--quiet", "--detach", folder, commit)
        try:
            # As ours is: compiled, whatever the environment says of that.
            for tree in (Path(folder), ROOT):
                compileall.compile_dir(tree / "finetune_gateway", quiet=1)
            yield {**os.environ, "PYTHONPATH": folder}
        finally:
            _git("worktree", "remove", "--force", folder)


def _git(*words: str) -> None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"git {words[0]} {words[1]}: {done.stderr.strip()}")


def say(text: str) -> None:
    """Figures are for stdout; the rest is for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of the named packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def arguments(doc: str | None, **options: Any) -> argparse.Namespace:
    """Command line of a bench: ``--NAME`` for each option, of its default's type, and --out."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    for name, default in options.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"default {default}")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    return parser.parse_args()


@dataclass
class Bench:
    """Collects the figures of one bench and prints each as soon as it is known."""

    name: str
    versions: dict[str, str]
    figures: list[dict[str, Any]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def figure(
        self,
        metric: str,
        ours: Sequence[float],
        baseline: Sequence[float],
        unit: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> float | None:
        """Print the medians of both sides and their ratio; a bound is on the ratio."""
        mine, other = median(ours), median(baseline)
        ratio = mine / other if other else None
        line = {
            "bench": self.name,
            "metric": metric,
            "ours": round(mine, 4),
            "baseline": round(other, 4),
            "ratio": None if ratio is None else round(ratio, 3),
            "unit": unit,
            "runs": len(ours),
            "versions": self.versions,
        }
        self.figures.append(line)
        print(json.dumps(line), flush=True)
        say(f"{metric}: {_shown(ours)} against {_shown(baseline)} {unit}")
        if ratio is not None:
            self._judge(metric, ratio, at_most, at_least)
        return ratio

    def unmeasured(self, metric: str, reason: str) -> None:
        """Print why there is no figure."""
        line = {"bench": self.name, "metric": metric, "unmeasured": reason}
        self.figures.append(line | {"versions": self.versions})
        print(json.dumps(self.figures[-1]), flush=True)
        say(f"{metric}: not measured: {reason}")

    def _judge(
        self, metric: str, ratio: float, at_most: float | None, at_least: float | None
    ) -> None:
        for bound, word, kept in (
            (at_most, "at most", at_most is None or ratio <= at_most),
            (at_least, "at least", at_least is None or ratio >= at_least),
        ):
            if bound is None:
                continue
            say(f"{metric}: ratio {ratio:.3f}, {word} {bound:g}: {'kept' if kept else 'MISSED'}")
            if not kept:
                self.missed.append(metric)

    def end(self, out: Path | None, **more: Any) -> int:
        """Write the figures where they were asked for, with what ``more`` there is to know; the
        exit code."""
        load = " ".join(f"{average:.1f}" for average in os.getloadavg())
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        say(f"{self.name}: {machine}, load {load}")
        if out is not None:
            about = {
                "bench": self.name,
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine,
                "load_average_after": load,
                **more,
                "figures": self.figures,
            }
            out.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return MISSED if self.missed else 0


def _shown(values: Sequence[float]) -> str:
    spread = f" ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else ""
    return f"{median(values):.4g}{spread}"
