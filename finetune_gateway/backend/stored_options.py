"""May a plug-in be asked with the options that a stored job or a handle names?

They may come from somebody else, and a plug-in sends a key wherever its options say. So they count
only if they are those that its class has by itself, or the user gave them in a call: such options
are kept in a file of the home folder, not in the job. Our own backends know which key goes where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finetune_gateway.errors import UnboundKeyError
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible

STORED = "stored_options"  # an attribute of a backend: its options of a job or a handle, its home
# What sends nothing, by the contract. Any other call may send a key.
OFFLINE = frozenset(
    ("capabilities", "options", "identity", "place", "display_name", "bind", "remember", "resolve")
    + ("counter", "estimate", "preview_renderer", "upload_lifetime", "deployment_price")
    + ("log_path", "kept_files", "close")
)
LONGEST_OPTION = 200  # characters of one in a message


def mark(backend: Any, options: Mapping[str, Any], settings: Settings) -> None:
    """Say of a plug-in that a job or a handle named these options."""
    vars(backend)[STORED] = (dict(options), settings)


def require_given(backend: Any, call: str) -> None:
    """Raise UnboundKeyError for a call that may send a key, of a plug-in with options that nothing
    of the user's names."""
    marked = vars(backend).get(STORED)
    if marked is None or call in OFFLINE:
        return
    options, settings = marked
    name = backend.name
    if _are_its_own(type(backend), options) or Bindings(settings).allow_options(name, options):
        vars(backend).pop(STORED, None)
        return
    made = f"{type(backend).__name__}(...)"
    raise UnboundKeyError(
        f"Backend {name!r} is not asked with {text_of(options)}: nothing of yours says that your "
        "keys may go where these options lead.",
        hint=f"If they may, use a backend of your own: handle.attach({made}), or for a job "
        f"Gateway().job(ID, backend={made}); or run ftg in a terminal, which asks you.",
        backend=name,
        options=options,
    )


def _are_its_own(kind: type, options: Mapping[str, Any]) -> bool:
    """Return True for what a backend has without any option: of its class, or the environment."""
    if not options:
        return True
    try:
        own = kind().options()
    except Exception:  # it cannot be built without, or whatever a plug-in raises
        return False
    return all(name in own and _same(own[name], value) for name, value in options.items())


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def text_of(options: Mapping[str, Any]) -> str:
    """Return options in one line: ``url='https://gpu.example', key_env='GPU_KEY'``."""
    pairs = (f"{name}={value!r}"[:LONGEST_OPTION] for name, value in options.items())
    return visible(", ".join(pairs))
