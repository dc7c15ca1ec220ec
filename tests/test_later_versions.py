"""JSON of every public type goes to other versions and back with all that it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

import finetune_gateway as gateway
from finetune_gateway import backend
from finetune_gateway.backend.answers import CHECKS
from finetune_gateway.events import Snapshot
from finetune_gateway.model import Computing, Given, GivenOrStored, Model

LATER = {"later": {"x": [1]}}
PLAIN: dict[Any, Any] = {
    str: "a", int: 1, float: 1.5, bool: True, Decimal: "1.5", date: "2026-12-01", Any: {"a": 1},
}  # fmt: skip
ODD = {"unit": "train_mtok", "sha256": "a" * 64, "id": "cmp-1"}
BASES = {Given, GivenOrStored, Computing}
# Tables of the package and settings, in which a name that nobody knows is a mistake; and a part of
# an estimate, which is written whole.
OTHERS = {"Profile", "ModelRow", "Training", "DeploymentKind", "ImageTuning"} | {"BackendParams"}
PARTS = {"Quote", "Range", "TrainingSpec"}
# What of a stored estimate is used again: the estimate itself is never written from these.
READERS = {"StoredEstimate", "_CountedRows"}


def models(kind: type[Model] = Model) -> Iterator[type[Model]]:
    for one in kind.__subclasses__():
        ours = one.__module__.startswith("finetune_gateway")
        if ours and one not in BASES and "[" not in one.__name__:  # Range[int]
            yield one
        yield from models(one)


def public() -> list[type[Model]]:
    """Every model that comes with the public names, parts of results too."""
    for module in (gateway, backend):
        for name in module.__all__:
            getattr(module, name)
    return sorted({*models()}, key=lambda one: one.__name__)


def value(kind: Any, name: str = "") -> Any:
    """A value of a type as JSON, in which each object of a model has a field more."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return inner[0]
    if origin in (Union, UnionType):  # of an optional one, what it is if it is there
        return value(next(one for one in inner if one is not NoneType), name)
    if origin in (list, tuple):
        items = inner[:1] if origin is list or inner[-1] is ... else inner
        return [value(one, name) for one in items]
    if origin is dict or kind is dict:
        return {"a": value(inner[1])} if inner else {"a": 1}
    if isinstance(kind, type) and issubclass(kind, Model):
        return document(kind)
    if origin is Annotated:
        return value(inner[0], name)
    if isinstance(kind, type) and issubclass(kind, tuple):  # by names
        return [value(one) for one in get_type_hints(kind).values()]
    return ODD.get(name) if name in ODD and kind is str else PLAIN.get(kind) or [*kind][0]


def document(kind: type[Model]) -> dict[str, Any]:
    fields = {
        name: value(field.annotation, name)
        for name, field in kind.model_fields.items()
        if field.exclude is None
    }
    return fields | LATER


def kept(given: Any, written: Any) -> bool:
    """True if all that was given is there; what is computed may be there too."""
    if isinstance(given, dict):
        return all(name in written and kept(one, written[name]) for name, one in given.items())
    if isinstance(given, list):
        return len(given) == len(written) and all(map(kept, given, written))
    return bool(given == written)


def test_fields_of_a_later_version_are_kept_and_written_again() -> None:
    """At the top and in each object below it, on the way through JSON and through Python."""
    for kind in (one for one in public() if one.__name__ not in OTHERS | PARTS | READERS):
        later = document(kind)
        first = kind.model_validate_json(json.dumps(later))
        written = json.loads(first.model_dump_json())
        assert kept(later, written), kind
        assert json.loads(kind.model_validate(written).model_dump_json()) == written, kind


def test_the_store_keeps_fields_of_a_later_version(home: Path, train_file: Path) -> None:
    """Of what a job has reported; ``ftg rm`` removes them with the rest."""
    place = gateway.FakeBackend(
        script=[
            {"status": "succeeded", "result": {"kind": "hosted", "model": "m", **LATER}}
            | {"events": [{"id": "1", **LATER}, {"id": "2"}]}
            | {"checkpoints": [{"id": "a", "step": 1, "model": "m", **LATER}]}
        ]
    )
    job = gateway.submit(train_file, model="m", backend=place)
    job.wait(20)
    first, second = gateway.Gateway().job(job.id).events()
    [point] = job.store.checkpoints(job.id)
    result = job.record.result
    assert result and first.model_extra == point.model_extra == result.model_extra == LATER
    assert second.model_extra == {} and first.number == 1
    with job.store.transaction() as db:
        db.execute("UPDATE events SET more = '[1]'")
        db.execute("UPDATE checkpoints SET more = 'nonsense'")
    for read in (job.events, job.checkpoints):
        with pytest.raises(gateway.StoreError, match=f"(event|checkpoint) .* of {job.id} is damag"):
            read()


def test_what_no_json_has_of_an_answer_of_a_plugin_is_left_out() -> None:
    """Fields that a plug-in has read from its host are kept as far as they can be written."""
    odd = {"status": "succeeded", "result": {"kind": "hosted", "model": "m", "x": {1}, "y": 2}}
    points = [{"id": "a", "step": 1, "model": "m", "x": float("nan"), "y": 2}]
    given = Snapshot.model_validate(odd | {"checkpoints": points})
    found = CHECKS["poll"](given, None, ("", None), {})
    assert found.result.model_extra == found.checkpoints[0].model_extra == {"y": 2}
