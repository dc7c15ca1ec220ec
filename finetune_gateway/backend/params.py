"""Settings that a backend has beside those of ``TrainingSpec``: typed by its author."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, Self

from pydantic import ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from finetune_gateway.backend.seam import guarding
from finetune_gateway.backend.secret_values import holds_key, texts
from finetune_gateway.errors import (
    BackendError,
    SpecError,
    UnsupportedError,
    shown,
    unknown,
    validation_error_text,
)
from finetune_gateway.model import Model, type_words
from finetune_gateway.spec import TrainingSpec

# Names of settings and of variables that hold keys.
_KEYS = re.compile(r"(?i)(^|_)(api_?key|key|token|secret|password)$")


class BackendParams(Model):
    """The settings of one backend. Its author derives a class with a typed field for each::

        class AcmeParams(BackendParams):
            warmup_steps: Annotated[int, Field(ge=0, description="Steps of warm-up")] = 0

        class AcmeBackend(Backend):
            params = AcmeParams

    Users give ``backend_params={"warmup_steps": 10}``. Names that it lacks and values of another
    type are refused before anything is sent. The values are stored and shown: never a secret.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True, protected_namespaces=()
    )

    @classmethod
    def of(cls, spec: TrainingSpec) -> Self:
        """Return the settings of a spec, with their defaults. Raises SpecError in words."""
        try:
            given = json.dumps(spec.backend_params or {}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise SpecError(f"backend_params must be plain JSON: {exc}.") from None
        try:
            return cls.model_validate_json(given, strict=True)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
                known = cls.model_fields
                raise unknown("backend_params", str(first["loc"][0]), known) from None
            raise SpecError(f"backend_params: {validation_error_text(exc)}.") from None


class HasParams(Protocol):
    """A backend, as far as its settings go."""

    name: ClassVar[str]
    params: ClassVar[type[BackendParams] | None]

    @property
    def display_name(self) -> str: ...


def lines_of(backend: HasParams) -> Iterator[tuple[str, str, str]]:
    """Yield of each setting of a backend its name, what it may be and its default in words, and its
    meaning. Raises BackendError."""
    kind = _kind(backend)
    for name, field in (kind.model_fields if kind else {}).items():
        default = "required" if field.is_required() else f"default {_default(field)}"
        words = type_words(field.annotation, field) or getattr(field.annotation, "__name__", "")
        yield name, f"{words}; {default}", field.description or ""


def _default(field: FieldInfo) -> str:
    return shown(field.get_default(call_default_factory=True, validated_data={}))


def with_params(spec: TrainingSpec, backend: HasParams) -> TrainingSpec:
    """Return the spec with the settings of its backend as the backend reads them. Raises SpecError
    for a wrong name or value, UnsupportedError where the backend has none."""
    kind = _kind(backend)
    if kind is None:
        if spec.backend_params:
            raise UnsupportedError(
                f"Backend {backend.display_name!r} has no settings of its own, so it cannot "
                f"honour backend_params: {', '.join(map(str, spec.backend_params))}.",
                hint="Leave them out.",
                backend=backend.name,
                option="backend_params",
            )
        return spec
    params = _read(kind, spec, backend)
    given = _plain(params, exclude_unset=True) or None
    if given == spec.backend_params:
        return spec
    stored = spec.model_copy(update={"backend_params": given})
    _require_same(kind, params, stored, backend)
    return stored


def canonical(spec: TrainingSpec, backend: HasParams) -> dict[str, Any]:
    """Return what equal specs have in common, however they were written: a setting that is given
    at its default is none."""
    fields, kind = spec.canonical(), _kind(backend)
    if "backend_params" in fields and kind is not None:
        own = _plain(_read(kind, spec, backend), exclude_defaults=True)
        fields["backend_params"] = own
        if not own:
            del fields["backend_params"]
    return fields


def _plain(params: BackendParams, **which: Any) -> dict[str, Any]:
    """Return settings as JSON, the same in each process: Python gives the texts of a set in another
    order in each."""
    values = params.model_dump(**which)
    return {
        name: _in_order(values[name], one)
        for name, one in params.model_dump(mode="json", **which).items()
    }


def _in_order(value: Any, plain: Any) -> Any:
    """Return a value as JSON with its sets in order; ``plain``: as pydantic gives it."""
    if isinstance(value, set | frozenset):
        return sorted(plain, key=json.dumps)
    if isinstance(value, dict):
        pairs = zip(plain.items(), value.values(), strict=True)
        return {name: _in_order(inner, one) for (name, one), inner in pairs}
    if isinstance(value, list | tuple):
        return [_in_order(inner, one) for inner, one in zip(value, plain, strict=True)]
    return plain


def _require_same(
    kind: type[BackendParams], given: BackendParams, stored: TrainingSpec, backend: HasParams
) -> None:
    """Raise BackendError for settings that are others once they were stored: the job would be
    trained with those."""
    try:
        again = kind.of(stored)
    except SpecError:
        again = None
    if again != given:
        raise BackendError(
            f"The settings of backend {backend.name!r} are not the same when they come from the "
            "store. Nothing was sent.",
            hint=f"Report it to the author of {type(backend).__module__.partition('.')[0]}: "
            f"{kind.__name__}.",
            backend=backend.name,
        )


def _kind(backend: HasParams) -> type[BackendParams] | None:
    """Return the class of a backend's settings. Raises BackendError for what is none."""
    kind: object = backend.params
    if kind is None or (isinstance(kind, type) and issubclass(kind, BackendParams)):
        return kind
    raise BackendError(
        f"params of backend {backend.name!r} must be a class of BackendParams, not {shown(kind)}.",
        hint=f"Report it to the author of {type(backend).__module__.partition('.')[0]}.",
        backend=backend.name,
    )


def _read(kind: type[BackendParams], spec: TrainingSpec, backend: HasParams) -> BackendParams:
    with guarding(backend, "params"):
        for name in spec.backend_params or {}:
            _require_no_key(str(name), (spec.backend_params or {})[name])
        return kind.of(spec)


def _require_no_key(name: str, value: object) -> None:
    """Raise SpecError for a key or a password: a spec is stored and shown."""
    found = [text for _, text in texts(name, value)]
    keys = [value for variable, value in os.environ.items() if _KEYS.search(variable)]
    if any(holds_key(text, keys) for text in found) or (found and _KEYS.search(name)):
        raise SpecError(
            f"backend_params: {shown(name)} holds a key or a password, and settings are stored and "
            "shown.",
            hint="A backend takes keys from the environment: see its documentation.",
        )
