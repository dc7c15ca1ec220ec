"""Special tokens that somebody types stay text, and change nothing around them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from families.judge import BLOCKS, IGNORED
from families.serving import Serving

from finetune_gateway.tokens.chat_template import ChatTemplate, Encoded

ANSWER, QUESTION = "zqanswerx", "zqquestionx"


def typed_texts(serving: Serving, seed: int, count: int) -> Iterator[str]:
    """Yield texts between words in which special tokens are typed."""
    chosen = random.Random(seed)
    tokens = typeable(serving)
    for _ in range(count):
        some = chosen.choices([*tokens, " ", "\n", "ab", "é", "<", "|>"], k=chosen.randint(1, 6))
        yield f"zqtypedx{''.join(some)}zqendx"


def typeable(serving: Serving) -> list[str]:
    """Return the special tokens that no template reads in an answer, as it does those of a block
    for reasoning."""
    blocks = "".join(word for pair in BLOCKS for word in pair)
    return sorted(token for token in serving.special if token not in blocks)


def typed_faults(template: ChatTemplate, serving: Serving, text: str) -> Iterator[str]:
    """Yield what differs when ``text``, in which special tokens are typed, is the question or the
    answer."""
    special = frozenset(serving.special.values())
    plain = _encode(template, QUESTION, ANSWER)
    prompt = plain.input_ids[: _first(plain)]

    asked = _encode(template, text, ANSWER)
    if text not in serving.written(asked.input_ids):
        yield f"the question {text!r} is not what is trained"
    if _labels(asked) != _labels(plain):
        yield f"the question {text!r} changes the label"
    if _count(asked.input_ids, special) != _count(plain.input_ids, special):
        yield f"the question {text!r} has special tokens"

    said = _encode(template, QUESTION, text)
    if text not in serving.written(_labels(said)):
        yield f"the answer {text!r} is not what is trained"
    if said.input_ids[: _first(said)] != prompt:
        yield f"the answer {text!r} changes the prompt"
    if _count(said.input_ids, special) != _count(plain.input_ids, special):
        yield f"the answer {text!r} has special tokens"


def _encode(template: ChatTemplate, question: str, answer: str) -> Encoded:
    asked = {"role": "user", "content": question}
    [encoded] = template.encode({"messages": [asked, {"role": "assistant", "content": answer}]})
    return encoded


def _first(encoded: Encoded) -> int:
    return next(i for i, label in enumerate(encoded.labels) if label != IGNORED)


def _labels(encoded: Encoded) -> list[int]:
    return [label for label in encoded.labels if label != IGNORED]


def _count(ids: Sequence[int], special: frozenset[int]) -> int:
    return sum(id in special for id in ids)
