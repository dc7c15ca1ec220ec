"""Whether a backend can be used now: its key and its reach."""

from __future__ import annotations

from pydantic import ConfigDict

from finetune_gateway.model import Given


class Health(Given):
    """The answer of ``Backend.health``, in a sentence without a key: ``api.acme.com answers and
    accepts the key``, or what is wrong. ``latency_s``: how long its host took to answer."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    ok: bool
    detail: str
    latency_s: float | None = None
