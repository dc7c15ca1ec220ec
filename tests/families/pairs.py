"""Is what a preference pair compares what serving asks for and what the template writes?

Each side is judged as a conversation, with the labels that both sides share given back to it; that
these stand on no token that both begin with, and on all behind it, is judged here.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

from families.judge import IGNORED, Judge, Trained
from families.planted import Json, Row
from families.serving import Serving
from families.verdicts import Family, Verdict, found

from finetune_gateway.errors import GatewayError
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.training_rows import encode_row

# What the two answers of each kind of pair are.
KINDS: dict[str, str] = {
    "texts": "two texts that begin with the same word",
    "history": "two texts behind a system prompt and an earlier answer",
    "call": "a call of a tool, and a text",
    "calls": "two calls of one tool",
    "reasoning": "two texts, each with its reasoning",
}


@dataclass(frozen=True)
class Pair:
    """A planted pair: two conversations with one prompt."""

    chosen: Row
    rejected: Row

    @property
    def row(self) -> Json:
        """Return it as a line of a data file. Earlier answers have no weight of their own."""
        *prompt, good = self.chosen.messages
        tools = {"tools": self.chosen.tools} if self.chosen.tools else {}
        bare = [{key: one[key] for key in one if key != "weight"} for one in prompt]
        return {
            "input": {"messages": bare, **tools},
            "preferred_output": [good],
            "non_preferred_output": [self.rejected.messages[-1]],
        }


def planted(kind: str) -> Pair:
    """Return a pair of a kind of KINDS."""
    prompt = Row(kind)
    if kind == "history":
        prompt.hears("system").hears("user").says(weight=0)
    prompt.hears("user")
    shared = prompt.word("shared") if kind == "texts" else ""
    chosen, rejected = prompt, deepcopy(prompt)
    rejected.word("skipped")  # its words are its own
    if kind == "calls":
        return _two_calls(prompt)
    chosen.says(text=kind != "call", calls=int(kind == "call"), reasoning=kind == "reasoning")
    rejected.says(reasoning=kind == "reasoning")
    rejected.tools = chosen.tools  # the same are offered to both
    rejected.heard += [one for one in chosen.heard if one not in rejected.heard]
    for side in (chosen, rejected) if shared else ():
        side.messages[-1]["content"] = f"{shared} {side.messages[-1]['content']}"
        side.said[len(side.messages) - 1].append(shared)
    return Pair(chosen, rejected)


def _two_calls(prompt: Row) -> Pair:
    """Return a pair of calls of one tool, with other arguments."""
    chosen = prompt.says(text=False, calls=1)
    rejected = deepcopy(chosen)
    [(turn, (name, value))] = rejected.said.items()
    other = rejected.word("value")
    function = rejected.messages[turn]["tool_calls"][0]["function"]
    function["arguments"] = function["arguments"].replace(value, other)
    rejected.said[turn] = [name, other]
    return Pair(chosen, rejected)


def judge(family: Family, pair: Pair) -> Verdict:
    """Return the verdict of a pair."""
    try:
        template = family.template(pair.chosen.reasons)
        sides = encode_row(template, pair.row)
        losses = [template.losses(row.row) for row in (pair.chosen, pair.rejected)]
    except GatewayError as exc:
        return Verdict("refused", exc.message, exc.hint or "")
    trained = [Trained(one.input_ids, one.labels, one.turns) for one in sides]
    faults = [*pair_faults(family.serving(template), template, pair, trained, losses)]
    lost = sorted(losses[0] | losses[1])
    return Verdict("wrong" if faults else "lost" if lost else "right", "; ".join(faults or lost))


def pair_faults(
    serving: Serving,
    template: ChatTemplate,
    pair: Pair,
    sides: list[Trained],
    losses: list[frozenset[str]],
) -> Iterator[str]:
    """Yield what is wrong with the two sequences of a pair, each in words."""
    chosen, rejected = sides
    if all(label == IGNORED for side in sides for label in side.labels):
        if not any(losses):  # of what is lost nothing can be compared
            yield "nothing is compared"
        return
    shared = 0
    for one, other in zip(chosen.input_ids, rejected.input_ids, strict=False):
        if one != other:
            break
        shared += 1
    for name, row, side, lost in zip(
        ("chosen", "rejected"), (pair.chosen, pair.rejected), sides, losses, strict=True
    ):
        *prompt, _ = row.messages
        asked = serving.ids(prompt, row.tools, ask=True)
        if shared < len(asked):
            yield f"{name}: the sides differ within the prompt that serving asks with"
        if any(label != IGNORED for label in side.labels[:shared]):
            yield f"{name}: a token that both begin with is compared"
        if side.labels[shared : shared + 1] != side.input_ids[shared : shared + 1]:
            yield f"{name}: the first token that differs is not compared"
        begun = [*side.labels[: len(asked)], *side.input_ids[len(asked) : shared]]
        whole = replace(side, labels=[*begun, *side.labels[len(begun) :]])
        judged = Judge(serving, row, [whole], template.stop_ids, lost)
        yield from (f"{name}: {fault}" for fault in found(judged))


def verdicts(family: Family) -> dict[str, Verdict]:
    """Return the verdict of each kind of pair."""
    return {kind: judge(family, planted(kind)) for kind in KINDS}
