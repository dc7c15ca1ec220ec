"""Whoever builds on this package with a type checker: ``tests/typed_scripts`` uses every public
name and keyword, and misspells settings. Pyright reads it by ``make types``."""

from __future__ import annotations

import ast
import inspect
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, is_typeddict

import pydantic
import pytest
from typed_scripts import misspelt

import finetune_gateway
from finetune_gateway import (
    Dataset,
    FakeBackend,
    Gateway,
    GatewayError,
    SpecError,
    aio,
    backend,
    evaluation,
    migration,
)

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tests" / "typed_scripts"
MODULES = (finetune_gateway, backend, evaluation, aio)
# Not part of the face: the ways of a backend are called by the gateway, and plugin.py has them all.
# Called by these, not by users.
OTHER_ROOMS = {"Job.result_by", "Job.wait_until", "Settings.misplaced"}
FIELDS_ONLY = ("FakeBackend", "LocalBackend", "OpenAIBackend")


def test_a_type_checker_reads_the_scripts_strictly() -> None:
    """By ``make lint`` and ``make types``. Where a misspelt setting passes, the comment that
    expects an error is unused, which is one."""
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    assert mypy["strict"] and "tests" in mypy["files"] and "warn_unused_ignores" not in mypy
    assert not any("typed" in str(one["module"]) for one in mypy["overrides"])
    pyright = json.loads((SCRIPTS / "pyrightconfig.json").read_text("utf-8"))
    assert pyright["typeCheckingMode"] == "strict" and pyright["include"] == ["."]
    assert pyright["reportUnnecessaryTypeIgnoreComment"] == "error"
    lines = (SCRIPTS / "misspelt.py").read_text("utf-8").splitlines()
    calls = [line for line in lines if line.lstrip().startswith('("')]
    assert len(calls) > 70 and all("  # type: ignore[" in line for line in calls)


# -- the whole face ----------------------------------------------------------------------


def test_the_scripts_use_the_whole_public_face() -> None:
    """Every public name, every method and property of the classes, every keyword."""
    nodes = [
        node for path in SCRIPTS.glob("*.py") if path.stem != "misspelt"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    ]  # fmt: skip
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    given: set[Any] = {node.arg for node in nodes if isinstance(node, ast.keyword)}
    given |= {node.value for node in nodes if isinstance(node, ast.Constant)}  # keys of options
    given |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    assert {one for one in _public() if one.rpartition(".")[2] not in names} == OTHER_ROOMS
    assert {one for one in _keywords() if one.rpartition(".")[2] not in given} == set()


def _public() -> Iterator[str]:
    for module in MODULES:
        for name in module.__all__:
            yield name
            value = getattr(module, name)
            face = isinstance(value, type) and module is not evaluation  # of a recording a part is
            if face and name not in FIELDS_ONLY:
                yield from (f"{name}.{one}" for one in _members(value))
    yield from (f"migration.{name}" for name, _ in _functions(migration))


def _members(cls: type) -> Iterator[str]:
    """Yield the methods and properties that a class has of this package."""
    for base in cls.__mro__:
        if base.__module__.startswith("finetune_gateway") and not is_typeddict(base):
            for name, value in vars(base).items():
                if not name.startswith(("_", "model_")) and _is_member(value):
                    yield name


def _is_member(value: object) -> bool:
    return isinstance(value, property | classmethod) or inspect.isfunction(value)


def _functions(module: ModuleType) -> list[tuple[str, Callable[..., Any]]]:
    return [
        (name, value) for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]  # fmt: skip


def _keywords() -> Iterator[str]:
    """Yield the keywords of public functions and methods that are given by name alone."""
    called = [one for module in (*MODULES, finetune_gateway.api) for one in _functions(module)]
    called += _functions(migration)
    for name in finetune_gateway.__all__:
        cls = getattr(finetune_gateway, name)
        if inspect.isclass(cls) and not issubclass(cls, pydantic.BaseModel | backend.Backend):
            called += [(f"{name}.{one}", getattr(cls, one)) for one in {*_members(cls)}]
    called += [(cls.__name__, cls) for cls in (Gateway, FakeBackend, finetune_gateway.LocalBackend)]
    called += [("OpenAIBackend", finetune_gateway.OpenAIBackend)]
    for name, value in called:
        if callable(value):
            for one in inspect.signature(value).parameters.values():
                if one.kind is one.KEYWORD_ONLY:
                    yield f"{name}.{one.name}"


# -- the same at run time ----------------------------------------------------------------


@pytest.fixture
def called(home: Path, train_file: Path) -> list[tuple[str, Callable[[], object]]]:
    """All calls with a misspelt setting."""
    g = Gateway()
    job = g.submit(train_file, model="m", backend=FakeBackend())
    handle = job.result()
    done = dict(job.record.estimate or {})
    return [
        *misspelt.settings(g),
        *misspelt.calls(g, job, handle, Dataset.open(train_file), g.validate(train_file)),
        *misspelt.parts(done),
    ]


def test_a_misspelt_setting_is_answered_with_the_one_that_was_meant(
    called: list[tuple[str, Callable[[], object]]],
) -> None:
    """Before anything is done, in one sentence, which names nothing that is not public."""
    assert len(called) > 60
    for meant, call in called:
        with pytest.raises(SpecError, match="has no setting") as caught:
            call()
        assert caught.value.hint == f"Did you mean {meant}?", str(caught.value)


def test_a_value_of_a_wrong_type_is_refused_by_its_name(home: Path, train_file: Path) -> None:
    g = Gateway()
    job = g.submit(train_file, model="m", backend=FakeBackend())
    for name, call in misspelt.values(g, job):
        with pytest.raises(GatewayError, match=name):
            call()


def test_what_is_read_may_have_names_that_are_not_known() -> None:
    """A later version may have written it; only who makes one has misspelt."""
    assert backend.Snapshot.model_validate({"status": "running", "event": []}).events == []
    assert backend.Event.model_validate({"id": "1", "mesage": "x"}).message == ""
    later = {"kind": "hosted", "model": "m", "quantized": {"bits": 4}}
    kept = backend.Result.model_validate(later).model_dump(mode="json")
    assert kept.items() >= later.items()
