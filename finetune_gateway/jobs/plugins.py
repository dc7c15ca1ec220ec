"""What a backend must be like before anything is bought there: another process has to find it again
by what is stored, which holds no key."""

from __future__ import annotations

import json
import os
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend, Capabilities, gateway_options
from finetune_gateway.backend.seam import constructing, in_words, is_plugin, name_of, words_of
from finetune_gateway.backend.secret_values import holds_key, texts
from finetune_gateway.errors import BackendError, GatewayError, raise_alone, shown


def restorable_options(backend: Backend) -> dict[str, Any]:
    """Return what the job of a backend is stored with. Raises BackendError for one of another
    package that a job must not be bought with: see ``check_restorable``. Ours are tested."""
    return check_restorable(backend) if is_plugin(type(backend)) else backend.options()


def check_restorable(backend: Backend) -> dict[str, Any]:
    """Return the options of a backend, asked for once: what is stored is what was checked. Raises
    BackendError for a backend that no other process can build again, whose options hold a key, or
    that does not say how long a sent create may take effect."""
    limits, options = backend.capabilities(), backend.options()
    _require_name(backend)
    _require_steady(backend, limits, options)
    _require_settle_seconds(backend, limits, options)
    _require_no_secret(backend, options)
    _require_equal(backend, options)
    return options


def _require_name(backend: Backend) -> None:
    name: object = getattr(backend, "name", None)
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise _error(backend, f"has the name {shown(name)}: it must be a text")


def _require_steady(backend: Backend, limits: Capabilities, options: dict[str, Any]) -> None:
    """Refuse a backend that says another thing each time it is asked: an equal submit would be
    bought again, and a file sent again. Keys may rotate: ``accounts`` tries each."""
    answers: dict[str, tuple[object, object]] = {
        "options": (options, backend.options()),
        "identity": (backend.identity(), backend.identity()),
        "place": (backend.place(), backend.place()),
    }
    decides = [(one.hosted, one.settle_seconds) for one in (limits, backend.capabilities())]
    answers["capabilities"] = decides[0], decides[1]
    for name, (first, second) in answers.items():
        if first != second:
            raise _error(
                backend,
                f"gives another answer each time {name}() is called: the same submit could be "
                "bought twice",
                f"Its author lets {name}() depend on what the backend is built with alone: not on "
                "the time, nor on chance.",
            )


def _require_settle_seconds(
    backend: Backend, limits: Capabilities, options: dict[str, Any]
) -> None:
    """Refuse a host that may create a job after ``find`` has not seen it: it would be bought twice.
    Zero that the user has chosen stands in the options."""
    if limits.hosted and limits.settle_seconds == 0 and "settle_seconds" not in options:
        raise _error(
            backend,
            "is hosted and its capabilities() have no settle_seconds: a create whose answer was "
            "lost could be sent twice",
            "Its author sets settle_seconds to the seconds that a sent request may still take "
            "effect: the longest time-out, and 10 for the host's list.",
        )


def _require_no_secret(backend: Backend, options: dict[str, Any]) -> None:
    """Refuse options with the value of a variable that they name, or with what looks like a key:
    they are stored and shown."""
    shown_of = {"options()": options, "identity()": backend.identity(), "place()": backend.place()}
    found = [pair for where, value in shown_of.items() for pair in texts(where, value)]
    keys = [os.environ.get(name) for _, name in found if name.isidentifier()]
    for path, text in found:
        if holds_key(text, keys):
            raise _error(
                backend,
                f"has a key or password in {path}, and that is stored and shown",
                "Its author keeps the name of the key's variable there, like "
                "api_key_env='ACME_API_KEY', never its value.",
            )


def _require_equal(backend: Backend, options: dict[str, Any]) -> None:
    """Build the backend again as another process does, and compare."""
    stored = json.loads(json.dumps(options))
    try:
        built = _built(backend, stored)
        gateway_options.bind_as(built, backend)
        again, goes = built.options(), (built.identity(), built.place())
    except Exception as exc:  # whatever the constructor of a plug-in raises
        why = exc.message if isinstance(exc, GatewayError) else words_of(exc)
        error = _error(
            backend,
            f"cannot be built again from its options(), by another process: {why.rstrip('.')}",
        )
        raise_alone(error, in_words(exc))
    if json.loads(json.dumps(again)) != stored:
        names = sorted(name for name in {*stored, *again} if stored.get(name) != again.get(name))
        raise _error(
            backend,
            "is another one when it is built again from its options(), by another process: not the "
            f"same {', '.join(names)}",
        )
    if goes != (backend.identity(), backend.place()):
        raise _error(
            backend,
            "is another one when it is built again from its options(), by another process: its "
            "identity() or place() is not the same, and the same submit could be bought twice",
        )


def _built(backend: Backend, options: dict[str, Any]) -> Backend:
    """Return the backend that a stored job of this one gets: the class that is known by its name;
    where none is, its own."""
    known = backend.name in registry.BUILTIN or backend.name in registry.names()
    if known:
        return registry.load(backend.name, options)
    return constructing(backend.name, lambda: type(backend)(**options))


def _error(backend: Backend, wrong: str, hint: str = "") -> BackendError:
    package = type(backend).__module__.partition(".")[0]
    return BackendError(
        f"Backend {name_of(backend)!r} {wrong}. Nothing was sent.",
        hint=hint or f"Report it to the author of {package}: {type(backend).__name__}.",
        backend=name_of(backend),
    )
