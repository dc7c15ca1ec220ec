"""The provider that tests are run against: chats and what they cost, batches, usage, limits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch
from openai.types.admin.organization import UsageCompletionsResponse, UsageCostsResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionStoreMessage
from support.provider import Provider
from support.provider_chat import duration, prompt_key
from support.provider_memory import BASES
from support.wire import JSON, ask, assert_valid, error

ADMIN, OTHER = "sk-admin-1", "sk-other"
MODEL = BASES[3]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "kind": {"enum": ["parcel", "letter"]}},
                "required": ["id", "kind"],
            },
        },
    }
    for name in ("find", "refund")
]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(keys={OTHER: "main proj_other"}, admin_keys={ADMIN: "main"}) as running:
        yield running


def request(text: str = "Where is my parcel?", **more: Any) -> JSON:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def chat(provider: Provider, text: str = "Where is my parcel?", **more: Any) -> httpx.Response:
    return ask(provider, "/chat/completions", post=request(text, **more))


def batch_file(provider: Provider, count: int, **changes: Any) -> str:
    """Upload so many requests; return the file's id."""
    lines = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": request(f"Question {number}?"),
            **changes,
        }
        for number in range(count)
    ]
    raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return str(provider.world.add_file("batch", "requests.jsonl", raw)["id"])


def begin(provider: Provider, file: str, **more: Any) -> httpx.Response:
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return ask(provider, "/batches", post={**asked, **more})


def walk(provider: Provider, name: str) -> list[JSON]:
    """Look at a batch until it has ended; return what each look showed."""
    seen: list[JSON] = []
    while not seen or seen[-1]["status"] in ("in_progress", "finalizing", "cancelling"):
        seen.append(ask(provider, f"/batches/{name}").json())
        assert len(seen) < 9
    return seen


def lines(provider: Provider, file: str | None) -> list[JSON]:
    return [json.loads(one) for one in ask(provider, f"/files/{file}/content").text.splitlines()]


# -- chat -------------------------------------------------------------------------------------


@pytest.mark.shared
def test_answers_are_those_of_the_contract(shared: Path, provider: Provider) -> None:
    """Text with log-probabilities, a call, and two choices."""
    for more in ({"logprobs": True, "top_logprobs": 3}, {"tools": TOOLS}, {"n": 2, "seed": 1}):
        body = chat(provider, **more).json()
        assert_valid(shared, "CreateChatCompletionResponse", body)


def test_log_probabilities_cover_the_text(provider: Provider) -> None:
    """Each token with its bytes and as many likely ones as were asked for."""
    body = chat(provider, logprobs=True, top_logprobs=2).json()
    (choice,) = ChatCompletion.model_validate(body).choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    said = choice.logprobs.content
    assert "".join(one.token for one in said) == choice.message.content
    for one in said:
        assert bytes(one.bytes or []).decode() == one.token and len(one.top_logprobs) == 2
        assert one.top_logprobs[0].token == one.token and one.logprob <= 0
    assert len(said) == body["usage"]["completion_tokens"]
    assert chat(provider).json()["choices"][0]["logprobs"] is None
    assert chat(provider, top_logprobs=2).status_code == 400


def test_tools_are_called_when_a_text_asks_for_it(provider: Provider) -> None:
    """By name, with what must be given; a text that names none gets an answer."""
    provider.world.calls = "asked"
    (choice,) = chat(provider, "Please refund it and find the other", tools=TOOLS).json()["choices"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["find", "refund"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"id": "text", "kind": "parcel"}
    assert len({call["id"] for call in calls}) == 2
    for more in ({"text": "Hello"}, {"text": "refund it", "tool_choice": "none"}):
        (choice,) = chat(provider, **more, tools=TOOLS).json()["choices"]
        assert choice["finish_reason"] == "stop" and "tool_calls" not in choice["message"]


def test_several_answers_are_told_apart(provider: Provider) -> None:
    """``n`` gives so many; where answers vary, those with a seed do not."""
    choices = chat(provider, n=3).json()["choices"]
    assert [one["index"] for one in choices] == [0, 1, 2]
    assert len({one["message"]["content"] for one in choices}) == 3
    assert chat(provider).json()["choices"] == chat(provider).json()["choices"]
    provider.world.varies = True
    assert chat(provider).json()["choices"] != chat(provider).json()["choices"]
    assert chat(provider, seed=1).json()["choices"] == chat(provider, seed=1).json()["choices"]


def test_a_limit_of_tokens_cuts_an_answer(provider: Provider) -> None:
    (choice,) = chat(provider, max_tokens=2).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == f"{MODEL} heard:"
    provider.world.fingerprint = None
    assert chat(provider).json()["system_fingerprint"] is None


def test_what_was_asked_and_sold_is_known(provider: Provider) -> None:
    """By prompt, with the tokens of each answer, also of one that did not come through."""
    first, again = chat(provider, "one").json(), chat(provider, "one").json()
    provider.fault("POST /chat/completions", "reset_after", "busy", seconds=0)
    with pytest.raises(httpx.TransportError):
        chat(provider, "two")
    assert chat(provider, "three").status_code == 429
    asked = [provider.world.asked[prompt_key(request(text))] for text in ("one", "two", "three")]
    assert asked == [2, 1, 0]
    charges = provider.world.charges
    assert len(charges) == 3 and charges[0].prompt_tokens == first["usage"]["prompt_tokens"]
    total = sum(one["usage"]["completion_tokens"] for one in (first, again, first))
    assert provider.world.spent(0.0, 1e6) == total
    provider.world.words_per_token = 0.5
    assert chat(provider, "one").json()["usage"]["total_tokens"] == (
        2 * first["usage"]["total_tokens"]
    )


def test_a_prompt_may_be_refused(provider: Provider) -> None:
    """With 400 for the prompt's sake, and nothing is sold."""
    provider.world.refused_words = ("bomb",)
    assert error(chat(provider, "a bomb"))[:2] == (400, "invalid_prompt")
    assert provider.world.charges == [] and chat(provider).status_code == 200


def test_a_stream_says_what_it_used(provider: Provider) -> None:
    client = openai.OpenAI(base_url=provider.url, api_key=provider.api_key, max_retries=0)
    asked: Any = request(stream=True, stream_options={"include_usage": True})
    chunks: list[ChatCompletionChunk] = list(client.chat.completions.create(**asked))
    usage = chunks[-1].usage
    assert usage is not None and chunks[-1].choices == []
    assert usage.prompt_tokens == provider.world.charges[0].prompt_tokens


# -- limits -----------------------------------------------------------------------------------


def test_what_is_left_stands_in_the_headers() -> None:
    """A request beyond the limit gets 429 and says when to come again; in the next window it is
    answered."""
    with Provider(request_limit=2, token_limit=1000) as provider:
        answers = [chat(provider) for _ in range(3)]
        assert [one.status_code for one in answers] == [200, 200, 429]
        names = [f"x-ratelimit-{what}-requests" for what in ("limit", "remaining")]
        shown = [[one.headers[name] for name in names] for one in answers]
        assert shown == [["2", "1"], ["2", "0"], ["2", "0"]]
        assert int(answers[0].headers["x-ratelimit-remaining-tokens"]) < 1000
        assert answers[0].headers["x-ratelimit-reset-requests"].endswith("s")
        assert error(answers[2])[1] == "rate_limit_exceeded" and provider.world.turned_away == 1
        assert 0 < int(answers[2].headers["retry-after"]) <= 60
        assert 0 < int(answers[2].headers["retry-after-ms"]) <= 60_000
        assert len(provider.world.charges) == 2
        assert "x-ratelimit-limit-requests" not in ask(provider, "/models").headers
        provider.world.window_seconds = 0.0  # it is over
        assert chat(provider).status_code == 200
        provider.world.window_seconds, provider.world.limits_all = 60.0, True
        assert ask(provider, "/models").headers["x-ratelimit-remaining-requests"] == "0"
        assert ask(provider, "/models").status_code == 429


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.12, "120ms"), (8.64, "8.64s"), (360, "6m0s"), (59.999, "60.00s")]
)
def test_durations_are_written_as_these_headers_do(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_an_answer_takes_its_time() -> None:
    with Provider(latency=(0.05, 0.1)) as provider:
        began = time.monotonic()
        assert chat(provider).status_code == 200
        assert time.monotonic() - began >= 0.05


# -- stored completions -----------------------------------------------------------------------


def test_stored_chats_are_listed_with_their_messages(provider: Provider) -> None:
    """By model, in pages, to the key of their project alone; others are not kept."""
    model = provider.world.add_fine_tune()["fine_tuned_model"]
    old = provider.world.add_stored(
        model, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        days_ago=30, metadata={"tier": "gold"},
    )  # fmt: skip
    chat(provider, "not kept")
    kept = [chat(provider, text, store=True, tools=TOOLS).json() for text in ("a", "b", "c")]
    assert len(provider.world.charges) == 4
    client = openai.OpenAI(base_url=provider.url, api_key=provider.api_key, max_retries=0)
    stored = client.chat.completions
    assert [one.id for one in stored.list(limit=2)] == [old["id"], *(one["id"] for one in kept)]
    assert [one.id for one in stored.list(model=model)] == [old["id"]]
    assert [one.id for one in stored.list(metadata={"tier": "gold"})] == [old["id"]]
    newest = ask(provider, "/chat/completions", order="desc", limit=1).json()
    assert newest["data"][0]["id"] == kept[2]["id"] and newest["has_more"]
    assert newest["data"][0]["tools"] == TOOLS
    ChatCompletion.model_validate(newest["data"][0])
    found = ask(provider, f"/chat/completions/{old['id']}/messages").json()["data"]
    assert [one["content"] for one in found] == ["Be kind.", "Hi"]
    for one in found:  # the SDK's class names the role of an answer alone
        ChatCompletionStoreMessage.model_validate({**one, "role": "assistant"})
    assert ask(provider, f"/chat/completions/{old['id']}").json() == old
    assert ask(provider, "/chat/completions", OTHER).json()["data"] == []
    path = f"/chat/completions/{old['id']}/messages"
    assert ask(provider, path, OTHER).status_code == 404


# -- batches ----------------------------------------------------------------------------------


def test_a_batch_answers_each_line_once(provider: Provider) -> None:
    """In another order, by custom_id, at half price; a line that is refused stands in a second
    file."""
    provider.world.refused_words = ("Question 3?",)
    file = batch_file(provider, 6)
    made = begin(provider, file, metadata={"ours": "1"}).json()
    assert made["status"] == "validating" and Batch.model_validate(made).output_file_id is None
    assert ask(provider, "/batches").json()["data"] == [made]
    seen = walk(provider, made["id"])
    for one in seen:
        Batch.model_validate(one)
    states = [one["status"] for one in seen]
    assert states == ["in_progress", "in_progress", "finalizing", "completed"]
    done = [one["request_counts"]["completed"] for one in seen]
    counts = seen[-1]["request_counts"]
    assert done == [0, 2, 5, 5] and counts == {"total": 6, "completed": 5, "failed": 1}
    good = lines(provider, seen[-1]["output_file_id"])
    assert [one["custom_id"] for one in good] == ["row-5", "row-4", "row-2", "row-1", "row-0"]
    for one in good:
        answer = ChatCompletion.model_validate(one["response"]["body"])
        assert str(answer.choices[0].message.content).endswith(f"Question {one['custom_id'][4:]}?")
    (bad,) = lines(provider, seen[-1]["error_file_id"])
    assert bad["custom_id"] == "row-3" and bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["code"] == "invalid_prompt"
    assert len(provider.world.charges) == 5 and max(provider.world.asked.values()) == 1
    tokens = seen[-1]["usage"]["total_tokens"]
    assert provider.world.spent(1e6, 1e6) == tokens / 2
    assert {"batch", "batch_output"} == {
        one["purpose"] for one in ask(provider, "/files").json()["data"]
    }


def test_a_batch_that_expires_keeps_what_was_done(provider: Provider) -> None:
    """The rest stands in the error file, with the code that says so, and is not sold."""
    provider.world.batch_expires_after = 2
    last = walk(provider, begin(provider, batch_file(provider, 5)).json()["id"])[-1]
    assert last["status"] == "expired" and last["expired_at"]
    assert len(lines(provider, last["output_file_id"])) == 2 == len(provider.world.charges)
    missing = lines(provider, last["error_file_id"])
    assert {one["error"]["code"] for one in missing} == {"batch_expired"} and len(missing) == 3


def test_a_batch_is_cancelled_in_its_midst(provider: Provider) -> None:
    """Cancelling at first; what was done stays."""
    name = begin(provider, batch_file(provider, 4)).json()["id"]
    for _ in range(2):
        ask(provider, f"/batches/{name}")
    assert ask(provider, f"/batches/{name}/cancel", post={}).json()["status"] == "cancelling"
    (last,) = walk(provider, name)
    assert last["status"] == "cancelled" and len(lines(provider, last["output_file_id"])) == 2
    assert ask(provider, f"/batches/{name}/cancel", post={}).status_code == 409


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"custom_id": "same"}, "duplicate_custom_id"),
        ({"url": "/v1/embeddings"}, "mismatched_url"),
        ({"body": {"model": "ft:none", "messages": []}}, "model_not_found"),
        ({}, "model_not_found"),
    ],
)
def test_a_batch_with_a_fault_in_its_file_fails(
    provider: Provider, changes: JSON, code: str
) -> None:
    """At its first look, with code and line, and nothing is sold: also one of a model that no
    batch takes."""
    provider.world.unbatched = () if changes else (MODEL,)
    last = walk(provider, begin(provider, batch_file(provider, 2, **changes)).json()["id"])[-1]
    assert last["status"] == "failed" and last["output_file_id"] is None
    errors = Batch.model_validate(last).errors
    assert errors is not None and code in {one.code for one in errors.data or ()}
    assert provider.world.charges == []


def test_a_batch_needs_a_file_for_batches(provider: Provider) -> None:
    training = provider.world.add_fine_tune()["training_file"]
    assert begin(provider, training).status_code == 400
    provider.world.takes_batches = False
    assert begin(provider, batch_file(provider, 1)).status_code == 404


def test_a_batch_outlives_its_provider(tmp_path: Path) -> None:
    """What was done before stays done, and is sold once."""
    state = tmp_path / "state.json"
    with Provider(state_file=state) as provider:
        name = begin(provider, batch_file(provider, 4)).json()["id"]
        for _ in range(2):
            ask(provider, f"/batches/{name}")
    with Provider(state_file=state) as provider:
        last = walk(provider, name)[-1]
        assert last["request_counts"]["completed"] == 4 and len(provider.world.charges) == 2


# -- usage and costs --------------------------------------------------------------------------


def test_usage_and_costs_are_for_admin_keys(provider: Provider) -> None:
    """Others hear which scope is missing, and an admin key gets nothing else."""
    for path in ("/organization/usage/completions", "/organization/costs"):
        status, _, said = error(ask(provider, path, start_time=1))
        assert status == 403 and "api.usage.read" in said
        assert ask(provider, path, ADMIN).status_code == 400  # start_time is required
        assert ask(provider, path, ADMIN, start_time=int(time.time())).status_code == 200
    provider.admin_refusal = 401
    assert error(ask(provider, "/organization/costs"))[:2] == (401, "missing_scope")
    assert ask(provider, "/files", ADMIN).status_code == 401
    checkpoint = "/fine_tuning/checkpoints/ft:x/permissions"
    assert ask(provider, checkpoint, ADMIN).json()["data"] == []


def test_usage_comes_by_day_and_model_in_pages(provider: Provider) -> None:
    """What was used long ago and what was chatted just now; with and without the ft: id."""
    model = provider.world.add_fine_tune()["fine_tuned_model"]
    provider.world.add_usage(model, days_ago=40, input_tokens=70, output_tokens=7, requests=2)
    chat(provider)
    query: JSON = {"start_time": int(time.time()) - 45 * 86400, "group_by": "model", "limit": 31}

    def results() -> list[JSON]:
        first = ask(provider, "/organization/usage/completions", ADMIN, **query).json()
        assert first["has_more"] and len(first["data"]) == 31
        query["page"] = first["next_page"]
        second = ask(provider, "/organization/usage/completions", ADMIN, **query).json()
        del query["page"]
        for page in (first, second):
            UsageCompletionsResponse.model_validate(page)
        days = [bucket["start_time"] for page in (first, second) for bucket in page["data"]]
        assert days == sorted({*days}) and not second["has_more"] and len(days) == 46
        buckets = [*first["data"], *second["data"]]
        return [one for bucket in buckets for one in bucket["results"]]

    old, new = results()
    assert (old["model"], old["input_tokens"], old["num_model_requests"]) == (model, 70, 2)
    assert new["model"] == MODEL and new["output_tokens"] > 0
    provider.world.names_fine_tunes = False
    assert {one["model"] for one in results()} == {MODEL}
    query["limit"] = 32
    assert ask(provider, "/organization/usage/completions", ADMIN, **query).status_code == 400


def test_costs_come_by_line_item(provider: Provider) -> None:
    """In dollars, each model's input and output apart; all in one without it."""
    provider.world.add_usage(MODEL, days_ago=100, input_tokens=10**6, output_tokens=10**6)
    query = {"start_time": int(time.time()) - 150 * 86400, "limit": 180}
    page = ask(provider, "/organization/costs", ADMIN, **query, **{"group_by[]": "line_item"})
    UsageCostsResponse.model_validate(page.json())
    found = [one for bucket in page.json()["data"] for one in bucket["results"]]
    assert {one["line_item"]: one["amount"]["value"] for one in found} == {
        f"{MODEL}, input_tokens": pytest.approx(0.8),
        f"{MODEL}, output_tokens": pytest.approx(3.2),
    }
    whole = ask(provider, "/organization/costs", ADMIN, **query).json()
    (one,) = [one for bucket in whole["data"] for one in bucket["results"]]
    assert one["line_item"] is None and one["amount"]["value"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    "path", ["/batches", "/chat/completions", "/chat/completions/*", "/models", "/batches/*"]
)
def test_each_endpoint_meets_faults(provider: Provider, path: str) -> None:
    """By its starred name, and the next request passes."""
    stored = chat(provider, store=True).json()["id"]
    name = begin(provider, batch_file(provider, 1)).json()["id"]
    ids = {"/chat/completions/*": stored, "/batches/*": name}
    real = path.replace("*", ids.get(path, ""))
    provider.fault(f"GET {path}", "busy", "error_after", seconds=0)
    assert [ask(provider, real).status_code for _ in range(3)] == [429, 500, 200]


def test_faults_may_come_at_random_on_all(provider: Provider) -> None:
    provider.chaos, provider.chaos_on = {"busy": 0.5}, ["*"]
    statuses = [ask(provider, "/models").status_code for _ in range(30)]
    assert {*statuses} == {200, 429}
