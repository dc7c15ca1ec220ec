"""What is known of a model that was not there whenever it was asked."""

from __future__ import annotations

from difflib import get_close_matches

from finetune_gateway.backends.openai import inventory, wire
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import BackendError, GatewayError, NotFoundError
from finetune_gateway.evaluation import asking
from finetune_gateway.settings import clock
from finetune_gateway.tokens.encodings import base_model


def not_there(
    error: BackendError, model: str, base: str, backend: OpenAIBackend, kept: str, go_on: str
) -> GatewayError:
    """Say of a model that was not there, whenever it was asked, what its date and the list of the
    host say: the same answer may mean that it was shut down, or that this key may not see it.
    ``kept``, ``go_on``: what to do in these cases."""
    life = backend.profile.life_cycle(base)
    tries = 1 + len(asking.COLD_SECONDS)
    asked = f"{model!r} was asked {tries} times in a minute: {error.message}"
    if life.retires_on and life.retires_on <= clock.today():
        return NotFoundError(
            f"{asked} Fine-tunes of {base} were shut down on {life.retires_on} "
            f"(as of {life.as_of}, {life.source}).",
            hint=kept,
        )
    listed, near = _listed(model, backend)
    if listed is None:
        said = "The list of models could not be read."
    elif listed:
        said = "The list of models has it: it may be starting, try again later."
    else:
        said = "The list of models that this key sees does not have it: it was deleted, or belongs "
        said += "to another project."
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return NotFoundError(f"{asked} {said}", hint=f"{meant}See: ftg migrate list. {go_on}")


def _listed(model: str, backend: OpenAIBackend) -> tuple[bool | None, list[str]]:
    """Return whether the list of the host has a model, None if that cannot be known; and the
    fine-tunes that have nearly its id."""
    try:
        listed, whole = inventory.models(backend)
    except GatewayError:
        return None, []
    names = [name for one in listed if (name := wire.text_of(one.get("id")))]
    if model in names:
        return True, []
    near = get_close_matches(model, [name for name in names if base_model(name) != name], 2, 0.8)
    return (False if listed and whole else None), near
