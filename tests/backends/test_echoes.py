"""A host that echoes the key it was sent: no form of it is stored, shown or raised."""

from __future__ import annotations

import html
import json
import re
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from support.cli import Ftg
from support.hosted import EVENTS, MODEL, RETRIEVE, connect
from support.provider import CREATE, Fault, Provider

from finetune_gateway import BackendError, Gateway, OpenAIBackend
from finetune_gateway.text.redaction import MARK, Stream, redact, without

KEYS = [
    "gpu-canary-0123456789",
    "aws/Canary+0123456789=abc",
    "sk-proj-" + "aB3_" * 8,
    'odd"key\\with%41&<signs>',
]
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON in JSON": lambda key: json.dumps(json.dumps(key)),
    "JSON, in capitals of Unicode": lambda key: "".join(f"\\u00{ord(c):02X}" for c in key),
    "a URL": lambda key: quote(key, safe=""),
    "a URL in a URL": lambda key: quote(quote(key, safe=""), safe=""),
    "a URL, each character": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "HTML": html.escape,
    "HTML, each character": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "base64": lambda key: b64encode(key.encode()).decode(),
    "the header of Basic": lambda key: b64encode(f"user:{key}".encode()).decode(),
    "base64, one further": lambda key: b64encode(f"x:{key}:y".encode()).decode(),
    "base64 of URLs": lambda key: urlsafe_b64encode(f"a{key}".encode()).decode(),
    "hex": lambda key: key.encode().hex(),
    "hex in capitals": lambda key: key.encode().hex().upper(),
    "lines": lambda key: "\r\n  ".join(key[at : at + 7] for at in range(0, len(key), 7)),
    "lines in JSON": lambda key: "\\n".join(key[at : at + 7] for at in range(0, len(key), 7)),
    "lines of base64": lambda key: re.sub("(.{16})", r"\1\n", b64encode(key.encode()).decode()),
}
KEY = "gpu-canary-0123456789"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", KEYS, ids=["plain", "signs", "long", "odd"])
def test_no_form_of_the_key_is_left(key: str, form: str) -> None:
    """In the middle of a text whose rest stays; of a form that nobody knows, nothing stays."""
    echo = FORMS[form](key)
    left = without(f"Invalid key {echo} for 7.", key)
    assert MARK in left and not any(echo[at : at + 12] in left for at in range(len(echo) - 12))
    assert left == MARK or (left.startswith("Invalid key ") and left.endswith(" for 7."))
    assert without(f"Invalid key {echo[: len(echo) // 2]}.", key).startswith("Invalid key ")


def test_words_stay_as_they_are() -> None:
    """What is no key of ours, and a key that is a word, are left alone."""
    text = "50% & more: \\n gpu-canary-012345678\\u0039x or %zz EMPTY &amp; a key"
    assert without(text, "another-key-0123456789") == text
    assert without(text, "EMPTY") == text and without(text, None) == text
    assert redact("Authorization: Bearer of.another") == f"Authorization: Bearer {MARK}"
    assert redact("The key EMPTY is not EMPTYING.", "EMPTY") == f"The key {MARK} is not EMPTYING."


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_stream_that_splits_the_key(size: int) -> None:
    """Its beginning is held back until it is clear that it is none; all else comes at once."""
    text = f"gpu-can is no key, {KEY} is one, and gpu-canary-0123 at the end"
    stream = Stream(KEY)
    pieces = [stream.ready(text[at : at + size]) for at in range(0, len(text), size)]
    shown = "".join(pieces) + stream.rest()
    assert shown == text.replace(KEY, MARK)
    assert KEY[:9] not in "".join(pieces[:3]) or size == 1000
    longest, stream = KEY.encode().hex(), Stream(KEY)
    assert [stream.ready(longest[:-1]), stream.ready(longest[-1])] == ["", MARK]


@pytest.mark.parametrize("form", ["as it is", "the header of Basic"])
def test_nothing_of_an_echo_is_stored(
    home: Path, train_file: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """In ids, words, events, errors, metrics, the model's name and its answers: no file of the home
    folder and no screen has it."""
    echo = FORMS[form](KEY)
    monkeypatch.setenv("GPU_KEY", KEY)
    with Provider(api_key=KEY) as provider:
        backend = OpenAIBackend(base_url=provider.url, api_key_env="GPU_KEY", poll_seconds=0.02)
        provider.fault(CREATE, Fault("overlay", body={"user_provided_suffix": echo}))
        event = {"id": f"e-{echo}", "created_at": 5, "message": f"Got {echo}", "data": {echo: echo}}
        provider.fault(EVENTS, *[Fault("body", body={"data": [event], "has_more": False})] * 9)
        provider.world.extra = {"error": {"code": echo, "message": echo}, "tags": [echo]}
        job = Gateway().submit(train_file, model=MODEL, backend=backend)
        job.refresh()
        cut = "x" * 490 + echo  # messages are cut after 500 characters
        provider.fault(RETRIEVE, Fault("status", status=400, code=echo, message=cut))
        with pytest.raises(BackendError) as caught:
            job.refresh()
        provider.jobs[0]["stage"] = 99
        provider.world.extra = {"status": f"odd {echo}"}
        job.refresh()
        provider.world.extra = {}
        answer = job.wait(20).result().chat(f"Say {echo}").text
        streamed = "".join(job.result().stream(f"Say {echo}"))
        shown = ftg("events", job.id).stdout + ftg("status", job.id, "--json").stdout
    said = [str(caught.value), str(caught.value.code), answer, streamed, shown]
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    for text in (KEY, echo):
        assert not any(text[:12] in one for one in said), said
        assert text.encode() not in kept


def test_a_redirect_that_carries_the_key_is_told_without_it() -> None:
    """The address that a host names in a header is a text of the host, too."""
    with Provider(api_key=KEY) as provider:
        provider.fault(RETRIEVE, Fault("redirect", location=f"https://{KEY}.example/?k={KEY}"))
        with pytest.raises(BackendError, match="redirects to") as caught:
            connect(provider).poll("ftjob-1", None)
        assert KEY not in str(caught.value)
        provider.fault(RETRIEVE, Fault("redirect", location="https://me:pa55word@login.example/"))
        with pytest.raises(BackendError, match=r"redirects to '\*\*\*@login.example'"):
            connect(provider).poll("ftjob-1", None)


ODD = "".join(8 * "\\" + f"u00{ord(char):02x}" for char in KEY[:8])


@pytest.mark.parametrize("message", [f"{KEY} {ODD}!", f"&#{'1' * 5000};"], ids=["ways", "digits"])
def test_no_echo_takes_for_ever(message: str) -> None:
    """A host knows the key, and can send its beginning in a form that can be read in many ways, or
    an entity of 5,000 digits, which Python does not read: the rest is there at once."""
    with Provider(api_key=KEY) as provider:
        provider.fault(
            RETRIEVE,
            "body",
            body={"id": "ftjob-1", "status": "failed", "error": {"message": message}},
        )
        began = time.monotonic()
        try:
            error = connect(provider).poll("ftjob-1", None).error or ""
        except ValueError as exc:
            error = f"ValueError: {exc}"
        assert time.monotonic() - began < 2 and "ValueError" not in error
        assert error and KEY not in error
