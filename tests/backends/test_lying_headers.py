"""Headers that lie: about the encoding of an answer, or about when to ask again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.hosted import LIST, begin, connect, data_file
from support.provider import CREATE, Provider
from support.recordings import CHAT, recorded, rows

from finetune_gateway import BackendError
from finetune_gateway.backends.openai import inventory

# Encodings of Python that are none of text, raise, or know no errors="replace".
CHARSETS = ("undefined", "hex", "zlib", "idna", "punycode", "rot13", "no-such", "")


def page(charset: str) -> dict[str, Any]:
    """A page of a proxy, said to be in this encoding."""
    said = {"Content-Type": f"text/html; charset={charset}"}
    return {"status": 400, "body": b"<html>\xff\xfe oops", "headers": said}


def test_an_answer_is_read_whatever_encoding_it_claims(tmp_path: Path) -> None:
    """Also one that says what became of a job."""
    with Provider() as provider:
        backend, file = connect(provider), data_file(tmp_path / "rows.jsonl")
        for charset in CHARSETS:
            for endpoint in (LIST, CREATE):
                provider.fault(endpoint, "raw", **page(charset))
            with pytest.raises(BackendError, match=r"list the jobs \(400\)"):
                inventory.jobs(backend)
            with pytest.raises(BackendError, match=r"create the job \(400\)"):
                begin(backend, file)


def test_a_recording_goes_on_past_headers_that_lie(home: Path) -> None:
    """An error in any encoding is one; a host of which nothing is left of a limit for a hundred
    years is asked all the same, and may refuse."""
    never = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "36500d"}
    answer = {"choices": [{"message": {"role": "assistant", "content": "Yes."}}]}
    waits: list[float] = []
    with Provider() as provider:
        provider.fault(CHAT, "body", body=answer, headers=never)
        for charset in CHARSETS:
            provider.fault(CHAT, "raw", **page(charset))
        recording = recorded(
            provider, rows(10), at_once=1, on_wait=lambda seconds, _: waits.append(seconds)
        )
        assert {error.status for error in recording.errors()} == {400}
        assert len([*recording.errors()]) == len(CHARSETS)
        assert len([*recording.answers()]) == 2 and not waits
