"""Rooms in reading order: an import, in whatever form, leads to a room before its own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import finetune_gateway

NAME = "finetune_gateway"
PACKAGE = Path(finetune_gateway.__file__).parent

# The modules and folders of the package root, in the order in which they are read. Each imports
# only those before it, and what is in it. The drawing is in docs/tour.md.
ROOMS = (
    *("errors", "model", "renderers", "spec", "events", "methods"),
    *("settings", "text", "data", "findings", "tokens", "estimation"),
    *("chat", "backend", "registry"),
    *("validation", "preparation", "jobs", "backends", "exports", "price_updates"),
    *("evaluation", "migration"),
    *("reports", "keywords", "evaluations", "gateway", "api", "dataset", "aio", "testing"),
    *("cli", "__init__", "__main__"),
)
MAX_ROOT_MODULES = 16
MAX_LINES = 450

# Modules that import by a name from their own table: every other string is an import in disguise.
TABLES = {
    "registry": "backends",
    "methods": "the file that trains",
    "cli.run": "the commands, listed in cli.commands",
    "__init__": "the public names",
    "renderers": "what draws a result",
    "evaluation.checks.functions": "the user's own file, named in a guide and at the command",
}

# Backends know nothing of each other.
FAMILIES = ("backends.openai", "backends.local", "backends.fake")

HEAVY = (
    *("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors"),
    "bitsandbytes",
)
SDKS = ("openai", "huggingface_hub", "httpx", "httpx2", "ray")
# The only modules that import training libraries when they are imported: the worker's and chat's.
TRAINING = {
    f"backends.local.{name}"
    for name in (
        *("methods.sft", "methods.kto", "methods.reward", "reference", "rewards"),
        *("loading", "inference", "answering", "batched", "likelihood"),
        *("configuration", "trainer", "trl_trainers", "start", "finishing", "precision", "scoring"),
        *("engine", "head", "lean", "merging", "shared_bases"),
        *("progress", "resuming", "saving", "calibrate", "encoding"),
        *("methods.dpo", "methods.orpo", "methods.pretrain", "pairs", "reference", "trl_orpo"),
    )
}


@dataclass(frozen=True)
class Import:
    """One import: who, what, where, how, and whether it runs when ``by`` is imported."""

    by: str
    target: str  # with the name of the package where it is ours
    line: int
    form: str  # top level | function | TYPE_CHECKING | import_module
    at_once: bool = False

    def __str__(self) -> str:
        return f"{self.by} (line {self.line}, {self.form}) imports {self.target}"


def module_names(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted path below it; a folder stands for its __init__."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[
            ".".join(
                parts
                if parts == ("__init__",)
                else parts[: -1 if parts[-1] == "__init__" else None]
            )
        ] = path
    return found


MODULES = module_names(PACKAGE)


def imports_of(source: str, by: str) -> Iterator[Import]:
    """Every import in a module's text, whatever its form."""
    tree = ast.parse(source)
    yield from _imports(tree, by, "top level")
    yield from _disguised(tree, by)


def _imports(node: ast.AST, by: str, form: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (_import(by, alias.name, child.lineno, form) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{by}: relative import in line {child.lineno}"
            source = child.module or ""
            yield from (
                _import(by, _whole(source, alias.name), child.lineno, form) for alias in child.names
            )
        elif isinstance(child, ast.Call) and _is_import_module(child.func):
            yield _by_string(child, by)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (
                found
                for inner in child.body
                for found in _imports(ast.Module([inner], []), by, "TYPE_CHECKING")
            )
            yield from (
                found
                for inner in child.orelse
                for found in _imports(ast.Module([inner], []), by, form)
            )
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, by, "function" if inside else form)


def _import(by: str, target: str, line: int, form: str) -> Import:
    return Import(by, target, line, form, at_once=form == "top level")


def _is_import_module(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] in ("import_module", "__import__")


# What imports without an import statement: functions by their names, and modules of such functions.
IMPORTERS = ("exec", "eval", "import_module", "__import__")
IMPORTING = ("import_module", "__import__", "exec_module", "load_module", "module_from_spec")
MODULES_THAT_IMPORT = ("runpy", "pkgutil", "builtins", "importlib.machinery", "zipimport")


def _disguised(tree: ast.AST, by: str) -> Iterator[Import]:
    """Every import whose target cannot be read off, and every text that names a module of ours."""
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call) and _is_import_module(node.func)]
    read = {id(part) for call in calls for part in (call.func, *call.args)}
    docstrings = (node.value for node in nodes if isinstance(node, ast.Expr))
    read |= {id(value) for value in docstrings if isinstance(value, ast.Constant)}
    for node in nodes:
        if id(node) in read:
            continue
        if _imports_unseen(node):
            yield Import(by, f"{NAME}.?", getattr(node, "lineno", 0), "import_module")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == NAME:
            # "import finetune_gateway.errors" binds the package, and with it every public name.
            target = f"{NAME}.{node.attr}" if node.attr in MODULES else NAME
            yield Import(by, target, node.lineno, "attribute")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _in_text(node.value, node.lineno, by)


def _imports_unseen(node: ast.AST) -> bool:
    """True for exec, for import_module under another name or passed on, for runpy and the like."""
    if isinstance(node, ast.Name):
        return node.id in IMPORTERS
    if isinstance(node, ast.Attribute):
        return node.attr in IMPORTING
    if isinstance(node, ast.ImportFrom):
        renamed = [alias for alias in node.names if alias.name in IMPORTING and alias.asname]
        return node.module in MODULES_THAT_IMPORT or bool(renamed)
    return isinstance(node, ast.Import) and any(
        alias.name in MODULES_THAT_IMPORT for alias in node.names
    )


def _in_text(text: str, line: int, by: str) -> Iterator[Import]:
    """A module that a text names can be imported by it: sys.modules, python -m, python -c."""
    for below in re.findall(rf"\b{NAME}\.(\w+(?:\.\w+)*)", text):
        if room_of(below) in ROOMS and by not in TABLES:
            yield Import(by, f"{NAME}.{below}", line, "text")


def _by_string(call: ast.Call, by: str) -> Import:
    """A literal is an import like any other; what is computed could be anything of ours."""
    first = call.args[0] if call.args else None
    named = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
    relative = named.startswith(".")  # import_module(".api", package)
    target = f"{NAME}.?" if relative or not named else named
    return Import(by, target, call.lineno, "import_module")


def _whole(source: str, name: str) -> str:
    """``from package import module`` is an import of the module."""
    if source.split(".")[0] != NAME:
        return source
    below = f"{source}.{name}".removeprefix(f"{NAME}.")
    return f"{NAME}.{below}" if below in MODULES else source


def own(target: str) -> str | None:
    """The name in MODULES of something imported, or None when it is not ours."""
    top, _, below = target.partition(".")
    return (below or "__init__") if top == NAME else None


def room_of(module: str) -> str:
    return module.split(".")[0]


def upward(found: Import) -> bool:
    """True if an import leads to a room behind its own, or hides where it leads."""
    target = own(found.target)
    if target is None:
        return False
    if found.form == "import_module":
        return found.by not in TABLES
    return ROOMS.index(room_of(target)) > ROOMS.index(room_of(found.by))


IMPORTS = [
    found
    for name, path in MODULES.items()
    for found in imports_of(path.read_text(encoding="utf-8"), name)
]


def test_every_room_is_in_the_order() -> None:
    """Nothing of the package root is outside the reading order, and nothing listed is gone."""
    there = {room_of(name) for name in MODULES}
    assert there - {*ROOMS} == set()
    assert {*ROOMS} - there == set()


def test_the_package_root_stays_small() -> None:
    """A reader meets at most 16 modules in the package root."""
    root = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(root) <= MAX_ROOT_MODULES, root


def test_no_file_is_too_long() -> None:
    """A file has at most 450 lines."""
    lines = {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8").count("\n")
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_imports_lead_to_rooms_before() -> None:
    """No import leads to a later room: at the top, in a function, for the type checker, or by a
    string outside the five tables."""
    assert [str(found) for found in IMPORTS if upward(found)] == []


FORMS = {
    "top level": "from finetune_gateway.cli import run",
    "function": "def f():\n    import finetune_gateway.gateway",
    "method": "class A:\n    def f(self):\n        from finetune_gateway import api",
    "TYPE_CHECKING": "if TYPE_CHECKING:\n    from finetune_gateway.jobs.job import Job",
    "typing.TYPE_CHECKING": "if typing.TYPE_CHECKING:\n    import finetune_gateway.jobs.job",
    "else of TYPE_CHECKING": "if TYPE_CHECKING:\n    pass\nelse:\n    import finetune_gateway.api",
    "import_module of a literal": "import_module('finetune_gateway.reports.layout')",
    "import_module, computed": "importlib.import_module(f'finetune_gateway.{name}')",
    "import_module of a variable": "import_module(name)",
    "__import__": "__import__('finetune_gateway.api')",
    "import_module of a relative name": "import_module('.api', 'finetune_gateway')",
    "an alias of import_module": "from importlib import import_module as load",
    "import_module, passed on": "list(map(import_module, names))",
    "importlib.import_module, passed on": "load = importlib.import_module",
    "__import__, passed on": "load = __import__",
    "getattr of importlib": "getattr(importlib, 'import_module')('finetune_gateway.api')",
    "exec": "exec(text)",
    "eval": "eval(text)",
    "runpy": "import runpy",
    "from runpy": "from runpy import run_module",
    "pkgutil": "from pkgutil import resolve_name",
    "a module by its file": "spec.loader.exec_module(module)",
    "sys.modules": "sys.modules['finetune_gateway.api']",
    "python -m": "run([sys.executable, '-m', 'finetune_gateway.cli'])",
    "in code as text": "run([sys.executable, '-c', 'import finetune_gateway.api'])",
    "the package, renamed": "import finetune_gateway as g",
    "a public name": "from finetune_gateway import Gateway",
    "the package itself": "from finetune_gateway import __version__",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_upward_import_is_seen(form: str) -> None:
    """Written into a module of the room data, each form is found out; one that leads down, or
    to a package that is not ours, is not."""
    assert any(upward(found) for found in imports_of(FORMS[form], "data.dataset"))
    assert not any(map(upward, imports_of("from finetune_gateway import errors", "data.dataset")))
    assert not any(map(upward, imports_of("import_module('pandas')", "data.dataset")))
    assert not any(map(upward, imports_of("'finetune_gateway.errors'", "data.dataset")))


def test_the_package_bound_by_an_import_of_a_part_is_seen() -> None:
    """``import finetune_gateway.errors`` binds the package, and with it every public name."""
    source = "import finetune_gateway.errors\nfinetune_gateway."
    for attribute in ("Gateway", "gateway", "submit"):
        assert any(map(upward, imports_of(source + attribute, "data.dataset")))
    assert not any(map(upward, imports_of(source + "errors", "data.dataset")))


def test_backends_know_nothing_of_each_other() -> None:
    """A backend can be taken out without touching another one."""
    crossing = [
        str(found)
        for found in IMPORTS
        if _family(found.by) is not None
        and _family(own(found.target) or "") not in (None, _family(found.by))
    ]
    assert crossing == []


def _family(module: str) -> str | None:
    return next((name for name in FAMILIES if f"{module}.".startswith(f"{name}.")), None)


def test_there_is_no_cycle() -> None:
    """No module leads back to itself, whatever the form of the imports on the way."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        target = own(found.target)
        if target in MODULES and found.form != "text":  # python -m: another process
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
        if _top(found.target) in HEAVY
        and found.form != "TYPE_CHECKING"
        and (found.at_once or not found.by.startswith("backends.local."))
        and found.by not in TRAINING
    ]
    assert astray == []


def test_sdks_stay_in_the_rooms_of_hosts() -> None:
    """No room but the backends and the price updates imports an SDK, at whatever depth, except for
    the client that plug-ins use, and for types."""
    astray = [
        str(found)
        for found in IMPORTS
        if _top(found.target) in SDKS
        and found.form != "TYPE_CHECKING"
        and room_of(found.by) not in ("backends", "price_updates")
        and found.by != "backend.http"
    ]
    assert astray == []


def _top(target: str) -> str:
    return target.split(".")[0]


LAZY = (*HEAVY, *SDKS, "tiktoken")
ENTRIES = {
    "import finetune_gateway": "import finetune_gateway",
    "import the gateway": "import finetune_gateway.gateway",
    "the local backend": "import finetune_gateway.backends.local.backend",
    "ftg --help": "import finetune_gateway.cli as cli; cli.main(['--help'])",
    "import the awaited verbs": "from finetune_gateway import aio",
    "every public name but the hosted backend": (
        "import finetune_gateway as g; [getattr(g, n) for n in g.__all__ if n != 'OpenAIBackend']"
    ),
    "the help of every command": (
        "from finetune_gateway.cli import main; from finetune_gateway.cli.commands import COMMANDS;"
        "assert not any([main([*name.split(), '--help']) for name in COMMANDS])"
    ),
}


@cache
def imported(code: str) -> frozenset[str]:
    """The modules in a fresh process after this code."""
    shown = "import sys; print('\\nLOADED', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{shown}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return frozenset(done.stdout.rpartition("LOADED ")[2].split())


def loaded(code: str) -> set[str]:
    """The top modules in a fresh process after this code."""
    return {name.split(".")[0] for name in imported(code)}


@pytest.mark.parametrize("entry", ENTRIES)
def test_nothing_heavy_is_loaded(entry: str) -> None:
    """The way in costs no SDK and no training library."""
    assert loaded(ENTRIES[entry]) & {*LAZY} == set()


def test_awaited_verbs_are_imported_when_they_are_named() -> None:
    """No other entry imports them, and the package itself does without asyncio."""
    assert "asyncio" not in loaded(ENTRIES["import finetune_gateway"]) - loaded("")
    for entry in ("import the gateway", "every public name but the hosted backend"):
        assert "finetune_gateway.aio" not in imported(ENTRIES[entry])


def test_help_loads_next_to_nothing() -> None:
    """The root help does without typer, pydantic and rich."""
    modules = loaded(ENTRIES["ftg --help"]) - loaded("")  # measuring coverage loads sqlite3
    assert modules & {"typer", "click", "pydantic", "rich", "sqlite3"} == set()


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
