"""Claims of finetune_gateway.tokens.counter: OpenAI's counts, by the published rules."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import SHARED

from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.tokens.encodings import APPROXIMATE, approximate_tokens
from finetune_gateway.tokens.local_counter import LocalCounter, SequenceTokens
from finetune_gateway.tokens.stats import Histogram, TokenStats

# The example conversation of openai-cookbook, How_to_count_tokens_with_tiktoken (MIT).
JARGON: list[dict[str, Any]] = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate "
        "jargon into plain English.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "New synergies will help drive top-line growth.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities "
        "for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client "
        "deliverable.",
    },
]
WEATHER: dict[str, Any] = {
    "messages": [
        {
            "role": "system",
            "content": "You are a helpful assistant that can answer to questions about the "
            "weather.",
        },
        {"role": "user", "content": "What's the weather like in San Francisco?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_current_weather",
                "description": "Get the current weather in a given location",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "location": {
                            "type": "string",
                            "description": "The city and state, e.g. San Francisco, CA",
                        },
                        "unit": {
                            "type": "string",
                            "description": "The unit of temperature to return",
                            "enum": ["celsius", "fahrenheit"],
                        },
                    },
                    "required": ["location"],
                },
            },
        }
    ],
}


@pytest.mark.parametrize(
    ("model", "prompt_tokens"),
    [("gpt-4o", 124), ("gpt-4o-mini", 124), ("gpt-3.5-turbo", 129), ("gpt-4", 129)],
)
def test_names_count_as_the_api_counts_them(model: str, prompt_tokens: int) -> None:
    """Six messages with names give the prompt_tokens that the API itself reported."""
    counted = HostedCounter(model).add({"messages": JARGON})
    assert (counted.total, counted.messages, counted.exact) == (prompt_tokens, 6, True)


@pytest.mark.parametrize(
    ("model", "prompt_tokens"),
    [("gpt-4o", 101), ("gpt-4o-mini", 101), ("gpt-3.5-turbo", 105), ("gpt-4", 105)],
)
def test_tools_count_as_the_api_counts_them(model: str, prompt_tokens: int) -> None:
    """One tool and two messages give the API's own prompt_tokens; the bill stays a range."""
    counted = HostedCounter(model).add(WEATHER)
    assert counted.total == prompt_tokens
    assert not counted.exact
    assert counted.billed_low < counted.billed < counted.billed_high


def test_deprecated_functions_count_like_tools() -> None:
    """A row with ``functions`` counts as the same row with ``tools``."""
    old = {**WEATHER, "functions": [tool["function"] for tool in WEATHER["tools"]]}
    del old["tools"]
    assert HostedCounter("gpt-4o").add(old).total == 101


@pytest.mark.shared
def test_the_report_tells_roles_and_lengths(tmp_path: Path) -> None:
    """Per role its messages and their tokens; every row in one bin."""
    counter = HostedCounter(None)
    for size in (1, 1, 5, 90, 1000):
        row = [{"role": "user", "content": "a " * size}, {"role": "assistant", "content": "b"}]
        counter.add({"messages": row})
    told = counter.stats().summary()
    assert told["roles"]["assistant"] == {"messages": 5, "tokens": 5}
    assert told["roles"]["user"]["messages"] == 5
    said = sum(role["tokens"] for role in told["roles"].values())
    assert told["total"] == said + 5 * (2 * 3 + 2 + 3)
    assert sum(rows for _, _, rows in told["histogram"]) == 5
    assert told["histogram"][0][0] <= told["min"] and told["max"] <= told["histogram"][-1][1]
    for (_, end, _), (start, _, _) in pairwise(told["histogram"]):
        assert start == end + 1


def test_the_cookbook_file_gives_the_published_lengths() -> None:
    """The five rows of the cookbook's toy file: lengths, quantiles and total as published."""
    path = SHARED / "data/openai_cookbook_toy_chat/toy_chat_fine_tuning.jsonl"
    if not path.exists():
        pytest.skip("no data sets beside the checkout")
    counter = HostedCounter("gpt-3.5-turbo")
    rows = [counter.add(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    stats = counter.stats()
    assert [row.total for row in rows] == [45, 111, 26, 28, 8032]
    assert (min(row.trained for row in rows), max(row.trained for row in rows)) == (4, 8000)
    assert (stats.total, stats.min, stats.median, stats.p95, stats.max) == (
        8242,
        26,
        45,
        6448,
        8032,
    )
    assert stats.summary().keys() == {
        "encoding", "exact", "total", "trained", "min", "median", "p95", "max",
        "roles", "histogram",
    }  # fmt: skip


def words(count: int) -> str:
    """A text of exactly ``count`` tokens in both encodings."""
    return "a" + " a" * (count - 1)


def chat(*turns: tuple[str, int], **extra: Any) -> dict[str, Any]:
    """A chat row whose messages have the given numbers of tokens."""
    return {"messages": [{"role": role, "content": words(n)} for role, n in turns], **extra}


def test_billing_overhead_is_four_per_message_and_one_per_row() -> None:
    """Three messages cost 13 beyond their content, proven by bills, so nothing is left open
    below; other lengths keep a span."""
    row = HostedCounter("gpt-4o").add(chat(("system", 5), ("user", 6), ("assistant", 7)))
    assert (row.billed_low, row.billed, row.billed_high) == (31, 31, 33)
    long = HostedCounter("gpt-4o").add(chat(*[("user", 1), ("assistant", 1)] * 5))
    assert (long.billed_low, long.billed, long.billed_high) == (37, 51, 53)


def test_weight_zero_is_not_trained() -> None:
    """A turn with weight 0 is counted but not trained; whether it is billed stays open."""
    row = chat(("user", 5), ("assistant", 20), ("user", 5), ("assistant", 9))
    row["messages"][1]["weight"] = 0
    row["messages"][3]["weight"] = 1
    counted = HostedCounter("gpt-4o").add(row)
    assert counted.trained == 9
    assert counted.billed - counted.billed_low >= 20


def test_tool_calls_are_trained() -> None:
    """An assistant turn without content trains the name and the arguments of its calls."""
    call = {"function": {"name": words(2), "arguments": words(7)}, "id": "c", "type": "function"}
    row = chat(("user", 5))
    row["messages"].append({"role": "assistant", "content": None, "tool_calls": [call]})
    counted = HostedCounter("gpt-4o").add(row)
    assert (counted.trained, counted.exact) == (9, False)
    row["messages"][1] = {"role": "assistant", "function_call": call["function"]}
    assert HostedCounter("gpt-4o").add(row).trained == 9


def test_preference_rows_count_the_prompt_and_both_answers() -> None:
    """DPO rows in OpenAI's and TRL's form count alike: the input and both answers."""
    ask, good, bad = chat(("user", 10)), chat(("assistant", 5)), chat(("assistant", 7))
    hosted = {
        "input": ask,
        "preferred_output": good["messages"],
        "non_preferred_output": bad["messages"],
    }
    trl = {"prompt": words(10), "chosen": words(5), "rejected": words(7)}
    for row in (hosted, trl):
        counted = HostedCounter("gpt-4o").add(row)
        assert counted.trained == 12
        assert counted.billed_low == 22
        assert counted.billed == 22 + 3 * 4 + 1
        assert counted.billed_high == 2 * (14 + 3) + 9 + 11


def test_plain_rows_count_their_contents() -> None:
    """prompt/completion rows count as the chat rows they are sent as; of text rows all is
    trained."""
    row = {"prompt": words(8), "completion": words(3)}
    said = [
        {"role": "user", "content": words(8)},
        {"role": "assistant", "content": words(3)},
    ]
    pair = HostedCounter("babbage-002").add(row)
    assert pair == HostedCounter("babbage-002").add({"messages": said})
    assert pair.trained == 3
    text = HostedCounter("babbage-002").add({"text": words(30)})
    assert (text.total, text.trained, text.billed, text.exact) == (30, 30, 30, True)


def test_images_are_a_range() -> None:
    """An image without a size counts as one of 1024 x 1024, never by its base64 text."""
    parts = [
        {"type": "text", "text": words(4)},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9_000}},
    ]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]}
    counted = HostedCounter("gpt-4o").add(row)
    assert counted.billed == 4 + 765 + 1 + 9
    assert (counted.billed - counted.billed_low, counted.billed_high - counted.billed) == (680, 682)
    assert not counted.exact


def test_long_rows_are_billed_up_to_the_context() -> None:
    """What is beyond the context is cut by the provider: not billed, and said."""
    counter = HostedCounter("gpt-4o", max_context=100)
    counter.add(chat(("user", 50), ("assistant", 141)))
    counter.add(chat(("user", 5), ("assistant", 5)))
    stats = counter.stats()
    assert (stats.truncated_rows, stats.truncated_tokens) == (1, 100)
    assert (stats.billed, stats.billed_high) == (100 + 19, 100 + 21)
    assert stats.max > 100


def test_unknown_models_are_approximated_and_labelled() -> None:
    """A model without a known encoding gives bytes / 4 and never says exact."""
    counter = HostedCounter("some/model")
    counter.add(chat(("user", 10), ("assistant", 10)))
    stats = counter.stats()
    assert (stats.encoding, stats.exact, stats.approximate) == (APPROXIMATE, False, True)
    assert [approximate_tokens(text) for text in ("", "abc", "abcde", "é" * 4)] == [0, 1, 2, 2]
    assert not HostedCounter("some/model").stats().exact


def test_local_counter_takes_the_template_at_its_word() -> None:
    """LocalCounter adds up what the model's own template reports."""
    counter = LocalCounter(
        lambda row: [SequenceTokens(len(row["text"]), 2)], encoding="Qwen template"
    )
    counter.add({"text": "12345"})
    counter.add({"text": "123"})
    assert counter.stats() == TokenStats(
        encoding="Qwen template", exact=True, rows=2, total=8, trained=4, billed=8, billed_low=8,
        billed_high=8, min=3, median=4, p95=5, max=5, histogram=[(3, 3, 1), (4, 4, 0), (5, 5, 1)],
        lengths={3: 1, 5: 1},
    )  # fmt: skip


def test_a_row_of_an_unknown_kind_is_not_called_exact() -> None:
    """A row without messages, prompt or text counts as nothing, and not as exactly nothing."""
    counted = HostedCounter("gpt-4o").add({"question": "Say hi.", "answer": "hi"})
    assert (counted.total, counted.exact) == (0, False)


def test_no_model_counts_as_those_that_can_be_trained() -> None:
    """Without a model the encoding is that of every model still open on OpenAI."""
    assert HostedCounter(None).encoding == "o200k_base"


def test_no_rows_give_zeros() -> None:
    """An empty file has zeros everywhere, not an error."""
    assert HostedCounter("gpt-4o").stats() == TokenStats(encoding="o200k_base", exact=True)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
KEYS = ["messages", "role", "content", "tools", "functions", "function", "tool_calls", "weight",
        "function_call", "input", "prompt", "completion", "text", "chosen", "rejected", "name",
        "parameters", "properties", "enum", "image_url", "type", "arguments",
        "preferred_output", "non_preferred_output"]  # fmt: skip
rows = st.dictionaries(
    st.sampled_from(KEYS),
    json_values
    | st.lists(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4), max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), json_values, max_size=3),
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(row=rows)
def test_any_json_object_is_counted(row: dict[str, Any]) -> None:
    """However bad a row is, it gets a count, and low <= billed <= high."""
    counted = HostedCounter("gpt-4o").add(row)
    assert 0 <= counted.billed_low <= counted.billed <= counted.billed_high
    assert 0 <= counted.trained <= counted.total


@given(values=st.lists(st.integers(0, 50), min_size=1, max_size=40), q=st.floats(0, 1))
def test_quantiles_are_numpys(values: list[int], q: float) -> None:
    """The histogram's quantile is numpy's, rounded to a whole token."""
    numpy = pytest.importorskip("numpy")
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert abs(histogram.quantile(q) - float(numpy.quantile(values, q))) <= 0.5 + 1e-6


def test_importing_tokens_loads_no_vocabulary() -> None:
    """The module is light: neither splintr nor tiktoken is imported with it."""
    code = (
        "import sys, finetune_gateway.tokens\n"
        "print(sorted({'splintr', 'tiktoken', 'torch', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
