"""Imports go down only, nothing heavy is imported before it is needed, and there is no cycle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import finetune_gateway

NAME = "finetune_gateway"
PACKAGE = Path(finetune_gateway.__file__).parent

# A folder stands for all that is in it. A module that is missing here is on no floor, and the
# test says so: put a new one on the lowest floor its imports allow.
FLOORS: dict[int, tuple[str, ...]] = {
    8: ("cli", "__main__"),
    6: ("gateway", "default", "__init__"),
    5: ("planning", "judging"),
    4: (
        "backends.openai",
        "backends.address",
        "backends.chat",
        "backends.wire",
        "backends.fake",
        "backends.local",
        "hubprices",
    ),
    3: ("job", "sending", "handle", "backends.base"),
    2: (
        "checks",
        "quality",
        "masks",
        "pages",
        "formats",
        "writing",
        "mending",
        "fixing",
        "splitting",
        "tokens",
        "tally",
        "encodings",
        "turns",
        "template",
        "rendering",
        "pricing",
        "pricetable",
        "catalogue",
        "serving",
        "curves",
        "guards",
        "spending",
        "ledger",
        "config",
        "profiles",
        "assumed",
        "hardware",
        "batches",
        "calibration",
        "gpus",
        "memory",
        "shape",
        "store",
        "settings",
        "backends.__init__",
    ),
    1: (
        "containers",
        "sharegpt",
        "spec",
        "dataset",
        "events",
        "locks",
        "records",
    ),
    0: ("errors", "strict", "clock", "checks.parallel"),
}
# Backends know nothing of each other.
FAMILIES = (
    ("backends.openai", "backends.address", "backends.chat", "backends.wire"),
    ("backends.local",),
    ("backends.fake",),
)

HEAVY = (
    *("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors"),
    "bitsandbytes",
)
SDKS = ("openai", "huggingface_hub", "httpx", "httpx2", "ray")
# The only modules that import training libraries when they are imported: the worker's and chat's.
TRAINING = {
    f"backends.local.{name}"
    for name in ("sft", "loading", "inference", "progress", "saving", "calibrate")
}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, where, and whether it runs when ``by`` is imported."""

    by: str
    target: str
    line: int
    at_once: bool

    def __str__(self) -> str:
        return f"{self.by} (line {self.line}) imports {self.target}"


def modules() -> dict[str, Path]:
    """Every module of the package, its path below it with dots; packages as ``.__init__``."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = modules()


def imports() -> list[Import]:
    """Every import that can happen at run time, at any depth; not those for the type checker."""
    return [
        Import(name, target, line, at_once)
        for name, path in MODULES.items()
        for target, line, at_once in _found(ast.parse(path.read_text(encoding="utf-8")), name, True)
    ]


def _found(node: ast.AST, name: str, at_once: bool) -> Iterator[tuple[str, int, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name}: relative import in line {child.lineno}"
            source = child.module or ""
            for alias in child.names:
                yield _resolved(source, alias.name), child.lineno, at_once
        else:
            yield from _found(child, name, at_once and not inside)


def _resolved(source: str, name: str) -> str:
    """``from package import module`` is an import of the module."""
    below = source.removeprefix(NAME).removeprefix(".")
    whole = f"{below}.{name}" if below else name
    if source.split(".")[0] != NAME:
        return source
    found = whole if {whole, f"{whole}.__init__"} & MODULES.keys() else below
    return f"{NAME}.{found}" if found else NAME


IMPORTS = imports()


def own(target: str) -> str | None:
    """The name in MODULES of something that was imported, or None when it is not ours."""
    if target.split(".")[0] != NAME:
        return None
    below = target.removeprefix(NAME).removeprefix(".")
    package = f"{below}.__init__" if below else "__init__"
    return package if package in MODULES else below


def floor_of(module: str) -> int | None:
    """The floor of a module or of the nearest folder above it; that of a file goes first."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        for floor, names in FLOORS.items():
            if name in names:
                return floor
    return None


def family_of(module: str) -> int | None:
    for number, names in enumerate(FAMILIES):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    return None


def top(target: str) -> str:
    return target.split(".")[0]


def test_every_module_has_a_floor() -> None:
    """No module is outside the house, and none on the list is gone."""
    assert [name for name in MODULES if floor_of(name) is None] == []
    listed = {name for names in FLOORS.values() for name in names}
    there = {name for name in listed if name in MODULES or f"{name}.__init__" in MODULES}
    assert listed == there


def test_imports_go_down() -> None:
    """No import, at whatever depth, reaches a higher floor."""
    up = []
    for found in IMPORTS:
        target = own(found.target)
        if target is None:
            continue
        here, there = floor_of(found.by), floor_of(target)
        assert here is not None and there is not None, found
        if there > here:
            up.append(f"{found}: floor {here} to {there}")
    assert up == []


def test_backends_know_nothing_of_each_other() -> None:
    """A backend can be taken out without touching another one."""
    crossing = [
        str(found)
        for found in IMPORTS
        if family_of(found.by) is not None
        and (target := own(found.target)) is not None
        and family_of(target) not in (None, family_of(found.by))
    ]
    assert crossing == []


def test_there_is_no_cycle() -> None:
    """No module leads back to itself. The root of the command line runs its commands by name,
    so what it imports inside functions does not count."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        target = own(found.target)
        by_name = found.by == "cli.__init__" and not found.at_once
        if target is not None and not by_name:
            graph[found.by].add(target)
    assert _cycle(graph) == []


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """A way from a module back to it, or nothing."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if around := walk(target, [*way, name]):
                return around
        done.add(name)
        return []

    return next((around for name in graph if (around := walk(name, []))), [])


def test_libraries_for_training_stay_in_the_local_backend() -> None:
    """torch and its company are imported by backends.local alone; when a module is imported,
    only by those that the worker and chat name."""
    astray = [
        str(found)
        for found in IMPORTS
        if top(found.target) in HEAVY
        and (found.at_once or not found.by.startswith("backends.local."))
        and found.by not in TRAINING
    ]
    assert astray == []


def test_sdks_stay_on_the_fourth_floor() -> None:
    """No module below or above the backends imports an SDK, at whatever depth."""
    astray = [
        str(found) for found in IMPORTS if top(found.target) in SDKS and floor_of(found.by) != 4
    ]
    assert astray == []


LAZY = (*HEAVY, *SDKS, "tiktoken")
ENTRIES = {
    "import finetune_gateway": "import finetune_gateway",
    "import the gateway": "import finetune_gateway.gateway",
    "the local backend": "import finetune_gateway.backends.local.backend",
    "ftg --help": "import finetune_gateway.cli as cli; cli.main(['--help'])",
    "every public name but the hosted backend": (
        "import finetune_gateway as g; [getattr(g, n) for n in g.__all__ if n != 'OpenAIBackend']"
    ),
    "the help of every command": (
        "from finetune_gateway.cli import COMMANDS, main;"
        "assert not any([main([name, '--help']) for name in COMMANDS])"
    ),
}


def loaded(code: str) -> set[str]:
    """The top modules in a fresh process after this code."""
    shown = "import sys; print('\\nLOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{shown}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize("entry", ENTRIES)
def test_nothing_heavy_is_loaded(entry: str) -> None:
    """The way in costs no SDK and no training library."""
    assert loaded(ENTRIES[entry]) & {*LAZY} == set()


def test_help_loads_next_to_nothing() -> None:
    """The root help does without typer, pydantic and rich."""
    assert (
        loaded(ENTRIES["ftg --help"]) & {"typer", "click", "pydantic", "rich", "sqlite3"} == set()
    )


def test_the_module_runs_as_the_command() -> None:
    """python -m finetune_gateway --help prints the same help and loads as little."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", NAME, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: ftg")
    seen = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert seen & {*LAZY, "typer", "click", "pydantic", "rich"} == set()
