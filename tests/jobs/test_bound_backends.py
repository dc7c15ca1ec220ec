"""A backend belongs to one Gateway, and goes with it: its home, its keys, its connections."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from support.hostile import Honest

from finetune_gateway import Gateway, LocalBackend, OpenAIBackend

URL = "http://127.0.0.1:1/v1"


class Asking(Honest):
    """Takes all that a Gateway was given."""

    gateway_options = frozenset({"keys", "http_client", "proxy", "timeout"})


def test_what_a_gateway_has_built_is_copied_for_another(tmp_path: Path) -> None:
    """Not taken away from the first, whose jobs and keys it had: by its name, or of its own."""
    first, second = Gateway(tmp_path / "first"), Gateway(tmp_path / "second")
    mine = first.backend("local")
    theirs = second.backend(mine)
    assert isinstance(mine, LocalBackend) and isinstance(theirs, LocalBackend)
    assert mine.queue.settings.home == tmp_path / "first"
    assert theirs.queue.settings.home == tmp_path / "second"
    assert first.backend("local") is first.backend(mine) is mine
    assert second.backend(mine) is theirs is second.backend(theirs)


def test_an_object_has_its_name_whichever_way_it_is_meant(tmp_path: Path) -> None:
    """And so its key, also where another Gateway has it: under each of its names its own."""
    shared, host = Asking(), OpenAIBackend(base_url=URL, api_key_env="GPU_KEY")
    keys = {"gpu": "key-of-the-gpu", "a": "key-of-a", "b": "key-of-b"}
    for name in ("first", "second"):
        places = {"gpu": host, "a": shared, "b": shared}
        with Gateway(tmp_path / name, keys=keys, backends=places) as gateway:
            gpu = gateway.backend("gpu")
            assert gateway.backend(host) is gpu is gateway.backend(gpu)
            for one, key in keys.items():
                assert gateway.backend(one).key("GPU_KEY", URL) == key
            asking = gateway.use(keys=lambda asked: f"of-{asked.backend}")
            assert asking.backend("a").key("GPU_KEY", URL) == "of-a"


@pytest.mark.parametrize("closed", [True, False])
def test_a_gateway_leaves_no_key_and_no_connection(tmp_path: Path, closed: bool) -> None:
    """However long an object lives that it had a copy of; closed, or forgotten."""
    shared = Asking()
    Gateway(tmp_path / "first").backend(shared)
    gateway = Gateway(tmp_path / "second", keys={"gpu": "k"}, backends={"gpu": shared})
    backend = gateway.backend("gpu")
    assert backend is not shared
    client, kept = backend.http_client(URL), weakref.ref(gateway.settings.client)
    if closed:
        gateway.close()
    del gateway, backend
    gc.collect()
    assert kept() is None and client.is_closed
