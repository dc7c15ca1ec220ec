"""The provider's chat: answers, what each costs, who asked what how often, and limits of requests.

world.asked[prompt_key(body)]     how often a prompt was answered
world.charges                     what was sold: tokens in and out of every answer
"""

from __future__ import annotations

import json
import math
import random
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from support import provider_answers as answers
from support.provider_fine_tunes import FineTunes
from support.provider_memory import ACCOUNT, JSON, Refused

FLAGGED = (  # OpenAI's words
    "Invalid prompt: your prompt was flagged as potentially violating our usage policy."
)


@dataclass(frozen=True)
class Charge:
    """One answer that was sold, whether or not it came through."""

    model: str
    account: str
    prompt_tokens: int
    completion_tokens: int
    at: float
    batch: bool = False  # at half price


class Chat(FineTunes):
    calls: str = "always"  # or asked: when tools are called (provider_answers.called)
    fingerprint: str | None = "fp_test"  # system_fingerprint
    varies: bool = False  # two answers to the same prompt differ, unless it has a seed
    answer_with: Callable[[JSON], str] | None = None  # another text than the echo
    planted: dict[str, JSON] = {}  # part of a model's name: {"file": of rows, "right": share}
    refused_words: tuple[str, ...] = ()  # a prompt with one of these gets 400
    words_per_token: float = 1.0  # below 1: more is charged than a word each
    refused_keys: tuple[str, ...] = ()  # a chat with one of these gets 400 that names it
    streams: bool = True  # False: an answer comes whole, whatever was asked
    latency: tuple[float, float] | None = None  # seconds, at least and at most, of a chat
    request_limit: int | None = None  # chats of an account in a window; those beyond get 429
    token_limit: int | None = None  # tokens of prompts, likewise
    window_seconds: float = 60.0
    limits_all: bool = False  # every request counts, not chats alone

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.asked: Counter[str] = Counter()  # by prompt_key: answers given
        self.charges: list[Charge] = []
        self.turned_away = 0  # requests beyond a limit
        self.random = random.Random(0)
        self.windows: dict[str, list[float]] = {}  # by account: since when, requests, tokens

    def chat(self, body: JSON, *, batch: bool = False) -> JSON:
        """Answer, and write down what it costs."""
        choices = [self.choice(body, number) for number in range(int(body.get("n") or 1))]
        messages = [choice["message"] for choice in choices]
        said = [part for one in messages for part in (one["content"], one.get("tool_calls"))]
        read = self.token_count(body["messages"], body.get("tools"))
        written = self.token_count(*said)
        with self.lock:
            self.asked[prompt_key(body)] += 1
            sold = Charge(body["model"], ACCOUNT.get(), read, written, time.time(), batch)
            self.charges.append(sold)
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex[:24]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": choices,
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            },
            "service_tier": "default",
            "system_fingerprint": self.fingerprint,
        }

    def choice(self, body: JSON, number: int) -> JSON:
        message, reason = answers.planted(body, self.planted) or answers.reply_to(
            body, self.calls, number
        )
        if any(word in str(body["messages"]) for word in self.refused_words):
            raise Refused(400, FLAGGED, code="invalid_prompt")
        if message["content"] is not None:
            text = self.answer_with(body) if self.answer_with else message["content"]
            if self.varies and body.get("seed") is None:
                text += f" [{self.random.randrange(10**6)}]"
            most = body.get("max_completion_tokens") or body.get("max_tokens")
            message, reason = answers.cut_short({**message, "content": text}, reason, most)
        top = int(body.get("top_logprobs") or 0)
        if top and not body.get("logprobs"):
            raise ValueError("logprobs must be set if top_logprobs is", "top_logprobs")
        if not 0 <= top <= 20:
            raise ValueError("top_logprobs must be between 0 and 20", "top_logprobs")
        chances = answers.logprobs(message["content"], top) if body.get("logprobs") else None
        return {"index": number, "message": message, "finish_reason": reason, "logprobs": chances}

    def token_count(self, *texts: Any) -> int:
        return math.ceil(answers.count(*texts) / self.words_per_token)

    def require_keys(self, body: JSON) -> None:
        """Refuse what this host does not know."""
        for name in self.refused_keys:
            if name in body:
                raise Refused(400, f"Unrecognized request argument supplied: {name}")

    def stream(self, body: JSON) -> Iterator[JSON]:
        """The pieces of an answer, which is sold whole."""
        return pieces(
            self.chat(body), bool((body.get("stream_options") or {}).get("include_usage"))
        )

    def spent(self, usd_in: float, usd_out: float, model: str | None = None) -> float:
        """What was charged, at these prices per million tokens; batches at half of them."""
        return sum(
            (one.prompt_tokens * usd_in + one.completion_tokens * usd_out)
            / 1e6
            * (0.5 if one.batch else 1)
            for one in self.charges
            if model in (None, one.model)
        )

    def wait(self) -> None:
        """Take the time that an answer takes."""
        if self.latency:
            with self.lock:
                seconds = self.random.uniform(*self.latency)
            time.sleep(seconds)

    # Limits

    def admit(self, body: JSON | None = None) -> dict[str, str]:
        """Count a request; return the headers that say what is left. Beyond a limit: 429."""
        if self.request_limit is None and self.token_limit is None:
            return {}
        asked = self.token_count(body.get("messages")) if body else 0
        with self.lock:
            now, account = time.monotonic(), ACCOUNT.get()
            window = self.windows.setdefault(account, [now, 0, 0])
            if now - window[0] >= self.window_seconds:
                window[:] = [now, 0, 0]
            left = window[0] + self.window_seconds - now
            full = [
                kind
                for kind, most, used, more in self.limits(window, asked)
                if most is not None and used + more > most
            ]
            if full:
                self.turned_away += 1
                raise over(full[0], left, self.headers(window, left))
            window[1] += 1
            window[2] += asked
            return self.headers(window, left)

    def limits(self, window: list[float], asked: int) -> list[tuple[str, int | None, float, int]]:
        return [
            ("requests", self.request_limit, window[1], 1),
            ("tokens", self.token_limit, window[2], asked),
        ]

    def headers(self, window: list[float], left: float) -> dict[str, str]:
        shown = {}
        for kind, most, used, _ in self.limits(window, 0):
            if most is not None:
                shown[f"x-ratelimit-limit-{kind}"] = str(most)
                shown[f"x-ratelimit-remaining-{kind}"] = str(max(int(most - used), 0))
                shown[f"x-ratelimit-reset-{kind}"] = duration(left)
        return shown


def prompt_key(body: JSON) -> str:
    """What makes two requests the same prompt: model, messages and tools."""
    return json.dumps([body["model"], body["messages"], body.get("tools")], sort_keys=True)


def pieces(whole: JSON, with_usage: bool) -> Iterator[JSON]:
    head = {key: whole[key] for key in ("id", "created", "model", "system_fingerprint")}
    head |= {"object": "chat.completion.chunk"} | ({"usage": None} if with_usage else {})
    first = whole["choices"][0]
    for delta in deltas(first["message"]):
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    last = {"index": 0, "delta": {}, "finish_reason": first["finish_reason"]}
    yield {**head, "choices": [last]}
    if with_usage:
        yield {**head, "choices": [], "usage": whole["usage"]}


def deltas(message: JSON) -> Iterator[JSON]:
    """A message in pieces: its text word by word, and each call with its arguments in two."""
    text = message["content"] or ""
    for piece in re.findall(r"\s*\S+\s*$|\s*\S+|^$", text):
        yield {"role": "assistant", "content": piece if message["content"] is not None else None}
    for index, call in enumerate(message.get("tool_calls") or []):
        said = call["function"]["arguments"]
        for at, part in enumerate((said[: len(said) // 2], said[len(said) // 2 :])):
            named = {"id": call["id"], "type": "function"} if at == 0 else {}
            name = {"name": call["function"]["name"]} if at == 0 else {}
            yield {
                "tool_calls": [{"index": index, **named, "function": {**name, "arguments": part}}]
            }


def over(kind: str, left: float, headers: dict[str, str]) -> Refused:
    """The 429 that names what is used up and when there is more."""
    message = f"Rate limit reached on {kind} per min. Please try again in {duration(left)}."
    waits = {"Retry-After": str(math.ceil(left)), "retry-after-ms": f"{left * 1000:.0f}"}
    return Refused(
        429, message, code="rate_limit_exceeded", kind=kind, headers={**headers, **waits}
    )


def duration(seconds: float) -> str:
    """As these headers have it: 120ms, 8.64s, 6m0s."""
    if seconds < 1:
        return f"{max(math.ceil(seconds * 1000), 1)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:.0f}s" if minutes else f"{seconds:.2f}s"
