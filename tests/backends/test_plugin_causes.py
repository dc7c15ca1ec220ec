"""No error leads to an exception of a plug-in, which may hold a request with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.hostile import breaking

from finetune_gateway import BackendError, Gateway
from finetune_gateway.backend.seam import PluginException, within_time

KEY = "acme-1234567890"


def unreachable() -> httpx2.ConnectError:
    request = httpx2.Request("GET", "https://acme.test", headers={"Authorization": KEY})
    return httpx2.ConnectError("no route", request=request)


def raises(*_: Any, **_sampling: Any) -> Any:
    try:
        raise unreachable()
    except httpx2.ConnectError:
        raise unreachable() from ValueError(KEY)


def raises_ours(*_: Any) -> Any:
    try:
        raises()
    except httpx2.ConnectError as exc:
        raise BackendError("The host is away.") from exc


def raises_ours_meanwhile(*_: Any) -> Any:
    try:
        raises()
    except httpx2.ConnectError:
        raise BackendError("The host is away.")  # noqa: B904


def require_words(error: BaseException) -> None:
    """Assert that an error leads to words alone, with the lines that raised them."""
    cause = error.__cause__
    assert isinstance(cause, PluginException) and str(cause) == "ConnectError: no route"
    assert cause.__cause__ is cause.__context__ is error.__context__ is None
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None and trace.tb_frame.f_code.co_name == "raises"
    assert not trace.tb_frame.f_locals


@pytest.mark.parametrize("how", [raises, raises_ours, raises_ours_meanwhile])
def test_an_error_leads_to_the_words_of_a_plugin(how: Any) -> None:
    backend = breaking({"models": how})
    with pytest.raises(BackendError) as caught:
        backend.models()
    require_words(caught.value)


def test_a_constructor_and_an_unreadable_answer_too() -> None:
    with pytest.raises(BackendError) as caught:
        within_time("Backend 'acme'", raises)
    require_words(caught.value)
    backend = breaking({"account": lambda *_: 3})
    with pytest.raises(BackendError) as caught:
        backend.account()
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_model_too(home: Path, train_file: Path) -> None:
    class Broken:
        chat = stream = raises

    backend = breaking({"open": lambda *_: Broken()})
    job = Gateway().submit(train_file, model="m", backend=backend)
    with pytest.raises(BackendError, match=r"chat\(\) of backend") as caught:
        job.result(30).chat("Hi")
    require_words(caught.value)
