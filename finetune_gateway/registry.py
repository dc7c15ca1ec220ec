"""Names of backends and where their classes are, as strings: nothing here imports one.

A backend's module, and with it its SDK, is imported when the backend is first asked for.
Other distributions add theirs through the entry-point group ``finetune_gateway.backends``.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from finetune_gateway.errors import (
    GatewayError,
    MissingDependency,
    NotFoundError,
    SpecError,
    UnsupportedError,
    raise_alone,
    shown,
    unknown,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from finetune_gateway.backend import Backend
    from finetune_gateway.settings.home import Settings

AnyBackend = TypeVar("AnyBackend", bound="Backend")

GROUP = "finetune_gateway.backends"

BUILTIN = {
    "openai": "finetune_gateway.backends.openai.backend:OpenAIBackend",
    "local": "finetune_gateway.backends.local.backend:LocalBackend",
    "fake": "finetune_gateway.backends.fake:FakeBackend",
}

# Hosts of OpenAI's contract that have a name of their own: another name for the backend openai
# with the profile of this name.
HOSTS = ("azure", "nebius", "crusoe", "bedrock", "custom")


def names() -> list[str]:
    """Return the names of all backends, built in or installed. Imports none of them."""
    return sorted({*BUILTIN, *HOSTS, *_plugins()})


def default_backend(model: str) -> str:
    """Return where a model is trained when no backend is named: a folder, ``owner/name`` and
    ``builtin/tiny`` here, any other name at OpenAI. Raises SpecError for what is no text."""
    if not isinstance(model, str):
        raise SpecError(f"model must be text, not {shown(model)}.")
    return "local" if "/" in model or os.path.isdir(model) else "openai"


def refuse_unknown(model: str) -> None:
    """Raise NotFoundError for a name that is neither a folder nor one of OpenAI's models.

    With OPENAI_BASE_URL another host may be meant, whose models nobody here knows.
    """
    # Imported here: 'ftg validate' imports this module and reads no profiles.
    from finetune_gateway.estimation import profiles

    if default_backend(model) != "openai" or os.environ.get("OPENAI_BASE_URL"):
        return
    openai = profiles.load_profile("openai")
    if openai.model(model) is None:
        names = [row.model for row in openai.models]
        raise NotFoundError(
            f"{model!r} is neither a folder here nor one of OpenAI's models.",
            hint=_meant(model, names, profiles.hosts_of(model)),
        )


def _meant(model: str, names: list[str], hosts: list[str]) -> str:
    """Return what may be meant by a name that is not among these, but on the lists of hosts."""
    if hosts:
        return f"It can be trained at {' or '.join(hosts)}; choose that backend."
    if near := get_close_matches(model, names, 3, 0.5):
        return f"Did you mean {' or '.join(near)}? All of them: ftg models"
    return "See: ftg models. A model of the Hugging Face hub is named owner/name."


def require_known(name: str) -> None:
    """Raise NotFoundError with the names of all backends if this is not one of them."""
    if name not in (known := names()):
        raise NotFoundError(
            f"No backend named {name!r}; installed: {', '.join(known)}.", hint="Run: ftg backends"
        )


def require_openai_contract(name: str | None) -> None:
    """Raise UnsupportedError for a backend that does not speak OpenAI's contract."""
    if name in {"local", "fake", *_plugins()}:
        raise UnsupportedError(
            f"This command asks hosts of OpenAI's contract, and {name!r} is none.",
            hint=f"Its jobs are here: ftg list --backend {name}",
            backend=name,
            option="backend",
        )


def origin(name: str) -> str:
    """Return where a backend comes from: ``built in``, or the distribution that brought it."""
    if name in BUILTIN or name in HOSTS:
        return "built in"
    dist = _plugins()[name].dist
    return f"{dist.name} {dist.version}" if dist else "unknown"


def load_class(name: str) -> type[Backend]:
    """Import the class of a backend and return it.

    Raises NotFoundError for an unknown name, MissingDependency when its extra is missing,
    GatewayError when a plugin cannot be imported.
    """
    target = BUILTIN.get("openai" if name in HOSTS else name)
    if target is None:
        return _load_plugin(name)
    module, _, attribute = target.partition(":")
    try:
        loaded: type[Backend] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("finetune_gateway"):
            raise
        extra = "local" if name == "local" else ""
        raise MissingDependency(f"Backend {name!r} (module {exc.name!r})", extra) from exc
    return loaded


def load(name: str, options: dict[str, Any] | None = None) -> Backend:
    """Return a backend by name, built with its constructor's options.

    Raises SpecError when an option is not one of that backend's, BackendError for a plug-in that
    hangs while it is imported or built.
    """
    if name in BUILTIN or name in HOSTS:
        return _built(name, options)
    # Imported here: 'ftg --help' and 'ftg validate' read names alone.
    from finetune_gateway.backend import seam

    return seam.constructing(name, lambda: _built(name, options))


def _built(name: str, options: dict[str, Any] | None) -> Backend:
    backend = load_class(name)
    given = dict(options or {})
    if name in HOSTS and given.setdefault("profile", name) != name:
        raise SpecError(
            f"Backend {name!r} has the profile {name!r}, not {given['profile']!r}.",
            hint=f"Drop one: --backend {name} is --backend openai --profile {name}.",
        )
    _require_options(name, backend, given)
    try:
        return backend(**given)
    except GatewayError:
        raise
    except Exception as exc:  # whatever the constructor of a plug-in raises
        _raise_unusable(name, "built", exc)


def _require_options(name: str, backend: type[Backend], given: dict[str, Any]) -> None:
    """Raise SpecError for an option that the constructor of a backend does not have."""
    taken = inspect.signature(backend).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return
    for option in given:
        if option not in taken:
            raise unknown(f"Backend {name!r}", option, taken)


def restore(
    name: str,
    options: dict[str, Any],
    settings: Settings | None = None,
    kind: type[Backend] | None = None,
) -> Backend:
    """Return a backend from what a job or a handle says of it, for a home: by default the user's
    own. It may come from somebody else: naming a variable and an address there sends no key.
    ``kind``: its class, where none is installed by this name."""
    # Imported here: 'ftg --help' and 'ftg validate' read names alone.
    from finetune_gateway.backend import seam, stored_options
    from finetune_gateway.settings.home import Settings

    made = None if kind is None else partial(kind, **options)
    backend = load(name, options) if made is None else seam.constructing(name, made)
    home = settings or Settings.load()
    backend.restored = True
    backend.bind(home)
    if seam.is_plugin(type(backend)):
        stored_options.mark(backend, options, home)
    return backend


def remember(backend: Backend, settings: Settings, options: Mapping[str, Any]) -> None:
    """Keep in the home folder what a later process has to know of the user's call: what the backend
    wants to, and which ``options`` of a plug-in the user has given, as they were checked."""
    # Imported here: 'ftg --help' and 'ftg validate' read names alone.
    from finetune_gateway.backend import seam
    from finetune_gateway.settings.bindings import Bindings

    backend.remember()
    if seam.is_plugin(type(backend)) and not backend.restored:
        Bindings(settings).keep_options(backend.name, options)


def takes(name: str, option: str) -> bool:
    """Return True if the constructor of a backend has this option."""
    return option in inspect.signature(load_class(name)).parameters


_binding = threading.Lock()


def bound(backend: AnyBackend, settings: Settings) -> AnyBackend:
    """Return a backend object for the home and the keys of one Gateway: itself, or a copy if
    another Gateway has it, whose jobs would go to this home. Raises SpecError for one that cannot
    be copied."""
    # Imported here: 'ftg --help' and 'ftg validate' read names alone.
    from finetune_gateway.backend import gateway_options

    with _binding:
        earlier = vars(backend).get(gateway_options.BOUND)
        if earlier == settings:
            return backend
        found: AnyBackend = backend if earlier is None else _copied(backend)
        found.bind(settings)
        return found


def _copied(backend: AnyBackend) -> AnyBackend:
    # Imported here: 'ftg --help' and 'ftg validate' read names alone.
    from finetune_gateway.backend import gateway_options

    try:
        found: AnyBackend = gateway_options.copied(backend)
        return found
    except Exception as exc:  # whatever a plug-in's object holds
        error = SpecError(
            f"This {type(backend).__name__} is used by another Gateway, and cannot be copied: "
            f"{type(exc).__name__}.",
            hint="Build one for each Gateway.",
        )
        raise_alone(error)


def _load_plugin(name: str) -> type[Backend]:
    require_known(name)
    try:
        loaded: type[Backend] = _plugins()[name].load()
    except Exception as exc:  # whatever a module of others raises when it is imported
        _raise_unusable(name, "imported", exc)
    # Imported here: 'ftg --help' and 'ftg validate' read names alone.
    from finetune_gateway.backend import Backend

    if not isinstance(loaded, type) or not issubclass(loaded, Backend):
        raise GatewayError(
            f"Backend {name!r} of {origin(name)} is {shown(loaded)}, no class of a Backend.",
            hint="Reinstall that package, or choose another backend.",
        )
    return loaded


def _raise_unusable(name: str, verb: str, exc: Exception) -> NoReturn:
    # Imported here: 'ftg --help' and 'ftg validate' read names alone.
    from finetune_gateway.backend.seam import in_words, words_of

    why = str(exc) if isinstance(exc, ImportError) else words_of(exc)
    error = GatewayError(
        f"Backend {name!r} of {origin(name)} cannot be {verb}: {why}.",
        hint="Reinstall that package, or choose another backend.",
    )
    raise_alone(error, in_words(exc))


def _plugins() -> Mapping[str, EntryPoint]:
    return _plugins_of(tuple(_folder_state(one) for one in sys.path))


def _folder_state(folder: str) -> tuple[object, ...]:
    """Return what changes when a package comes into a folder of the import path, or goes."""
    try:
        found = os.stat(folder or os.curdir)
    except (OSError, ValueError):
        return (folder,)
    return (folder, found.st_dev, found.st_ino, found.st_mtime_ns)


@lru_cache(maxsize=1)
def _plugins_of(path: tuple[object, ...]) -> Mapping[str, EntryPoint]:
    """Read the entry points of all packages again once the import ``path`` is another: each submit
    with a plug-in asks for them, and those of 100 packages take 4 ms."""
    # Imported here: it takes a tenth of the imports of 'ftg validate', which seldom needs it.
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in BUILTIN or point.name in HOSTS or point.name in found:
            other = _dist(found[point.name]) if point.name in found else "finetune-gateway"
            raise GatewayError(
                f"Two packages offer a backend named {point.name!r}: {other} and {_dist(point)}.",
                hint="Uninstall one of them.",
            )
        found[point.name] = point
    return found


def _dist(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
