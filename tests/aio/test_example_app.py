"""The service of the docs, asked over a socket by two tenants of one host."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.chaos import until
from support.example_app import APP, client, progress, serving
from support.hosted import MODEL
from support.provider import Provider
from support.rows import chat_rows

MINE = "sk-test-0123456789abcdef"
THEIRS = "sk-test-other-6789abcdef"  # of another account
WHERE = {"backend": "host", "model": MODEL}
ROWS = "".join(json.dumps(row) + "\n" for row in chat_rows(12))
CHAT = {"messages": [{"role": "user", "content": "Where is my parcel?"}]}


NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(steps=2, keys={THEIRS: "other"}) as provider:
        yield provider


def tenant(home: Path, provider: Provider, key: str) -> dict[str, Any]:
    """What the Gateway of a tenant is made with."""
    from finetune_gateway import OpenAIBackend

    fast: dict[str, Any] = {"poll_seconds": 0.005, "settle_seconds": 0.03}
    backend = OpenAIBackend(base_url=provider.url, profile="custom", **fast)
    return {"home": home, "keys": {"host": key}, "backends": {"host": backend}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[str]:
    """The address of a service with two tenants."""
    homes = tmp_path_factory.mktemp("homes")
    one, two = (
        tenant(homes / name, provider, key) for name, key in (("one", MINE), ("two", THEIRS))
    )
    with serving({"token-1": one, "token-2": {**two, "monthly_usd": 0.000001}}) as url:
        yield url


def submit(asked: httpx.Client, **given: Any) -> str:
    """Submit a job that no other test has submitted, and return its id."""
    suffix = f"number-{next(NUMBERS)}"
    answer = asked.post("/jobs", params=WHERE | {"suffix": suffix} | given, content=ROWS)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_a_tenant_submits_watches_and_chats(url: str, provider: Provider) -> None:
    """Events come as they happen, and again after the last one had; the answer comes in pieces."""
    with client(url, "token-1") as mine:
        job = submit(mine)
        *events, end = progress(mine, job)
        numbers = [int(event["id"]) for event in events]
        assert numbers == sorted({*numbers}) and len(numbers) > 2
        assert end["event"] == "end" and end["data"]["status"] == "succeeded"
        again = [int(event["id"]) for event in progress(mine, job, numbers[1]) if "id" in event]
        assert again == numbers[2:]
        with mine.stream("POST", f"/jobs/{job}/chat", json=CHAT) as answer:
            assert answer.status_code == 200 and len([*answer.iter_raw()]) > 1
        assert mine.get(f"/jobs/{job}").json()["status"] == "succeeded"
        assert mine.get("/jobs").json()[0]["id"] == job


def test_tenants_do_not_meet(url: str, provider: Provider) -> None:
    """A job of one is not there for the other, nor for who has no token; each has its account."""
    with client(url, "token-1") as mine, client(url, "token-2") as theirs:
        job = submit(mine)
        for path in (f"/jobs/{job}", f"/jobs/{job}/events"):
            assert theirs.get(path).status_code == 404
        assert theirs.post(f"/jobs/{job}/chat", json=CHAT).status_code == 404
        assert theirs.get("/jobs").json() == []
        answer = theirs.post("/jobs", params=WHERE, content=ROWS)  # its budget is spent
        assert answer.status_code == 402 and "budget" in answer.text
        with client(url, "token-3") as nobody:
            assert nobody.get(f"/jobs/{job}").status_code == 401
        assert {one["account"] for one in provider.jobs} == {"main"}


@pytest.mark.parametrize(
    "status, given, content",
    [
        (404, {"backend": "local", "model": "builtin/tiny"}, ROWS),
        (422, {"max_cost_usd": "much"}, ROWS),
        (402, {"max_cost_usd": "0.0000001"}, ROWS),
        (422, {}, '{"messages": []}\n'),
        (415, {}, "train.jsonl"),
        (415, {}, "PAR1 and so on"),
    ],
    ids=["another place", "no price", "too dear", "bad rows", "a path", "a table"],
)
def test_what_is_refused_says_why(
    url: str, provider: Provider, status: int, given: dict[str, str], content: str
) -> None:
    """Nothing is sent."""
    with client(url, "token-1") as mine:
        before = provider.posts.copy(), [one["id"] for one in mine.get("/jobs").json()]
        answer = mine.post("/jobs", params=WHERE | given, content=content)
        assert answer.status_code == status and len(answer.json()["error"]) > 20, answer.text
        assert (provider.posts, [one["id"] for one in mine.get("/jobs").json()]) == before


def test_who_goes_away_leaves_the_job(url: str, provider: Provider) -> None:
    """A browser that is closed while it watches ends nothing: the service looks on, and the job
    ends. One that is cancelled is cancelled at the host, and has no model."""
    provider.world.pace = 999.0  # nothing goes on by itself
    with client(url, "token-1") as mine:
        job = submit(mine)
        watched = progress(mine, job)
        next(watched)
        watched.close()
        provider.world.pace = None
        until(lambda: mine.get(f"/jobs/{job}").json()["status"] == "succeeded")
        provider.world.pace = 999.0
        other = submit(mine)
        assert mine.post(f"/jobs/{other}/cancel").json()["status"] in ("cancelling", "cancelled")
        until(lambda: mine.get(f"/jobs/{other}").json()["status"] == "cancelled")
        assert mine.post(f"/jobs/{other}/chat", json=CHAT).status_code == 422
        assert mine.post(f"/jobs/{job}/chat", content="{}").status_code == 422
    provider.world.pace = None


def test_nonsense_is_no_error_of_the_service(url: str) -> None:
    """Numbers that no JSON has, nesting without end and the number of an event that never was: each
    is answered in words, or as if it had not been there. No path of the machine is shown."""
    with client(url, "token-1") as mine:
        job = submit(mine)
        *events, end = progress(mine, job)
        assert "path" not in json.dumps(end["data"])
        for number in (10**30, 2**63):
            again = [event["id"] for event in progress(mine, job, number) if "id" in event]
            assert again == [event["id"] for event in events]
        deep = b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}"
        for more in ('"temperature":NaN', '"max_tokens":1e400', '"messages":[{"x":-Infinity}]'):
            content = f'{{"messages":[{{"role":"user","content":"hi"}}],{more}}}'
            assert mine.post(f"/jobs/{job}/chat", content=content).status_code == 422
        answer = mine.post(f"/jobs/{job}/chat", content=deep)
        assert answer.status_code == 422 and "plain JSON" in answer.json()["error"]
        bare = httpx.get(f"{url}/jobs", headers={"authorization": "token-1"}, trust_env=False)
        assert bare.status_code == 401 and bare.headers["www-authenticate"] == "Bearer"


def test_a_tenant_whose_home_is_damaged_holds_up_no_other(
    provider: Provider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer says that it is not reached now; why is in the log alone."""
    (tmp_path / "one").write_text("no folder")
    names = ("one", "two", "three")
    one, two, three = (tenant(tmp_path / name, provider, MINE) for name in names)
    tenants = {"token-1": one, "token-2": two, "token-3": {**three, "kyes": {}}}
    with serving(tenants) as url, client(url, "token-2") as mine:
        submit(mine)
        for token in ("token-1", "token-3"):
            with client(url, token) as other:
                answer = other.get("/jobs")
                assert answer.status_code == 503 and str(tmp_path) not in answer.text
        database = next((tmp_path / "two").glob("*.sqlite3"))
        database.rename(tmp_path / "elsewhere")
        database.write_bytes(b"junk" * 1000)
        answer = mine.get("/jobs")
        assert answer.status_code == 503 and str(tmp_path) not in answer.text
    assert "Tenant 1 is not served: " in caplog.text
    assert "Did you mean keys?" in caplog.text and str(database) in caplog.text


def test_a_service_that_starts_again_goes_on(
    provider: Provider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs that had not ended are watched from the start, by nobody's request; until then nothing
    is wrong with them."""
    tenants = {"token-1": tenant(tmp_path / "one", provider, MINE)}
    provider.world.pace = 999.0
    with serving(tenants) as url, client(url, "token-1") as mine:
        job = submit(mine)
    provider.world.pace = None
    assert "is watched no longer" not in caplog.text
    with serving(tenants) as url, client(url, "token-1") as mine:
        until(lambda: mine.get("/jobs").json()[0]["status"] == "succeeded")
        assert mine.get("/jobs").json()[0]["id"] == job


def test_the_example_is_short() -> None:
    """It can be read in one go."""
    lines = APP.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) < 190
