"""``docs/families.md``: what was found, as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from families.pairs import KINDS as PAIRS
from families.planted import KINDS, PLAIN, TOOLS
from families.verdicts import CALL_FORMAT, Family, Marks, Verdict

# The families that are tuned most, in the order of their use, by their templates.
MOST_TUNED = (
    *("trl/qwen3", "trl/qwen3_5_think", "trl/qwen3_5_nothink", "trl/qwen3_6", "trl/qwen2_5"),
    *("trl/llama3_1", "trl/llama3_2", "llama.cpp/meta-llama-Llama-3.3-70B-Instruct"),
    *("trl/gemma3", "trl/gemma4", "trl/gemma4_v5", "llama.cpp/google-gemma-4-31B-it"),
    *("trl/gptoss", "trl/qwen3_instruct_2507", "trl/qwen3_vl", "axolotl/mistral_v2v3"),
    "llama.cpp/mistralai-Mistral-Nemo-Instruct-2407",
    "llama.cpp/Mistral-Small-3.2-24B-Instruct-2506",
    "llama.cpp/mistralai-Ministral-3-14B-Reasoning-2512",
    "llama.cpp/unsloth-mistral-Devstral-Small-2507",
    *("axolotl/phi_4", "trl/deepseek_r1_distill", "trl/llama3", "axolotl/chatml"),
    *("llama.cpp/HuggingFaceTB-SmolLM3-3B", "trl/qwen3_8", "llama.cpp/ibm-granite-granite-4.0"),
    *("trl/lfm2_2_5", "trl/phi3_5", "trl/nemotron_3_nano", "trl/glm4moe"),
)
MOST_REFUSED_PLAIN = 0.10  # of all templates
MOST_REFUSED_TOOLS = 0.15  # of those that take tools
HEADS = dict(zip(KINDS, ("plain", "system", "turns", "dev", "w0", "tools", "call", "two", "null",
                         "beside", "r1", "r2", "inline"), strict=True))  # fmt: skip


LEGEND = {
    "w": "right: the whole row is one sequence",
    "t": "right: a sequence for each turn, which the template shows to later ones in another form",
    "c": "right: the label is cut from the turn; around it the template writes another form",
    "b": "right: the prompt opens a think block, which the label closes",
    "L": "the template drops something, which is named; the job stops unless you allow it",
    "-": "refused, with both texts or the template's own words",
}


@dataclass(frozen=True)
class Line:
    """A template with its verdicts."""

    family: Family
    verdicts: dict[str, Verdict]
    as_text: dict[str, Verdict]  # rows with tools, where the template writes no calls
    also: tuple[str, ...] = ()  # other archives that hold the same template
    pairs: dict[str, Verdict] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.family.source.title

    @property
    def titles(self) -> tuple[str, ...]:
        return (self.title, *self.also)

    @property
    def takes_tools(self) -> bool:
        """Return True if the template writes calls."""
        return not self.as_text

    def refused(self, kinds: Iterable[str]) -> bool:
        return any(self.verdicts[kind].outcome == "refused" for kind in kinds)


# By template: how often labels compare so, and a fault of transformers', if there is one.
Compared = dict[str, tuple[Counter[Marks], str]]


def bounds(lines: Sequence[Line], compared: Compared) -> list[str]:
    """Return what is not as it has to be."""
    missed = [
        f"{line.title}, {kind}: {verdict.why}"
        for line in lines
        for kind, verdict in (
            *line.verdicts.items(),
            *line.as_text.items(),
            *((f"pair of {kind}", verdict) for kind, verdict in line.pairs.items()),
        )
        if verdict.outcome == "wrong"
    ]
    missed += [f"{name}: labels differ from the markers, wrongly"
               for name, (counts, _) in compared.items() if counts["package wrong"]]  # fmt: skip
    tuned = {title for line in lines for title in line.titles if line.refused(PLAIN)}
    missed += [f"{title} refuses plain chat" for title in MOST_TUNED if title in tuned]
    plain = [line for line in lines if line.refused(PLAIN)]
    if len(plain) > MOST_REFUSED_PLAIN * len(lines):
        missed.append(f"{len(plain)} of {len(lines)} templates refuse plain chat")
    taking = [line for line in lines if line.takes_tools]
    refusing = [line for line in taking if line.refused(TOOLS)]
    if len(refusing) > MOST_REFUSED_TOOLS * max(1, len(taking)):
        missed.append(f"{len(refusing)} of {len(taking)} templates refuse rows with tools")
    missed += [fault for line in lines if not line.takes_tools for fault in _untold(line)]
    return missed


def _untold(line: Line) -> Iterator[str]:
    """Yield rows with tools that a template without tools trains, or refuses without a way out."""
    for kind in TOOLS:
        verdict = line.verdicts[kind]
        if verdict.outcome == "right":
            yield f"{line.title}, {kind}: right, but the template writes no calls"
        refused = verdict.outcome == "refused" and line.verdicts["plain"].outcome != "refused"
        if refused and not all(way in verdict.hint for way in ("whose template", "as text")):
            yield f"{line.title}, {kind}: refused without a way out: {verdict.hint}"


def page(lines: Sequence[Line], compared: Compared, left_out: dict[str, str]) -> str:
    """Return the page."""
    return "\n".join(
        [*_head(lines), *_table(lines), *_needs(lines), *_markers(compared), *_sources(left_out)]
    )


def _head(lines: Sequence[Line]) -> Iterator[str]:
    cells = [verdict for line in lines for verdict in line.verdicts.values()]
    counts = Counter(verdict.outcome for verdict in cells)
    taking = [line for line in lines if line.takes_tools]
    yield "# Families of chat templates"
    yield ""
    yield "<!-- Made by: make families -->"
    yield ""
    yield (
        "Each model writes a conversation in its own way, and asks for an answer in its own way. "
        "This page shows, for the chat templates of real models, which rows are trained as "
        "serving will ask for them. What holds for a row that is right: the prompt that serving "
        "sends is, token for token, the beginning of what is trained; the label is what the "
        "template writes for that turn, with the token that stops it; and no text of anybody else "
        "is trained."
    )
    yield ""
    yield (
        "The judge knows nothing of how labels are found. Every text of a row is a word that "
        "stands nowhere else; transformers renders the row by the model's original template; the "
        "two are compared as token ids. `make families` runs it and writes this page."
    )
    yield ""
    yield f"* {len(lines)} templates, {len(cells)} rows: {counts['right']} right, " \
          f"{counts['lost']} in which the template drops something that is named, " \
          f"{counts['refused']} refused, {counts['wrong']} wrong."  # fmt: skip
    plain = sum(line.refused(PLAIN) for line in lines)
    yield f"* Plain chat: {plain} of {len(lines)} templates refuse a row of it."
    tools = sum(line.refused(TOOLS) for line in taking)
    yield f"* {len(taking)} templates write calls; {tools} of them refuse a kind of row with tools."
    others = [line for line in lines if not line.takes_tools]
    right = sum(all(one.outcome == "right" for one in line.as_text.values()) for line in others)
    pairs = Counter(verdict.outcome for line in lines for verdict in line.pairs.values())
    yield (
        f"* {pairs.total()} preference pairs of {len(PAIRS)} kinds ({'; '.join(PAIRS.values())}): "
        f"{pairs['right']} right, {pairs['lost']} in which something is dropped and named, "
        f"{pairs['refused']} refused, {pairs['wrong']} wrong. Right: what serving asks with begins "
        "both sides, no token that both begin with is compared, and all of the answers behind "
        "these is, their stops included."
    )
    yield (
        f"* {len(others)} write none: they lose or refuse such rows. {right} of these train all of "
        f"them with `call_format={CALL_FORMAT}`."
    )
    yield ""


def _table(lines: Sequence[Line]) -> Iterator[str]:
    yield "## What is trained"
    yield ""
    yield "| in a cell | |"
    yield "|---|---|"
    for letter, text in LEGEND.items():
        yield f"| `{letter}` | {text} |"
    yield ""
    yield "| column | the row |"
    yield "|---|---|"
    for kind, text in KINDS.items():
        yield f"| {HEADS[kind]} | {text} |"
    yield ""
    yield f"| template | {' | '.join(HEADS.values())} |"
    yield f"|---|{'---|' * len(HEADS)}"
    for line in lines:
        cells = " | ".join(letters(verdict) for verdict in line.verdicts.values())
        yield f"| {line.title} | {cells} |"
    yield ""


def letters(verdict: Verdict) -> str:
    """Return a verdict as letters."""
    if verdict.outcome != "right":
        return {"lost": "L", "refused": "-", "wrong": "WRONG"}[verdict.outcome]
    split = "t" if verdict.sequences > 1 else ""
    cut = "c" if "cut" in verdict.origins else ""
    closed = "b" if "closed" in verdict.origins else ""
    return f"{split}{cut}{closed}" or "w"


def _needs(lines: Sequence[Line]) -> Iterator[str]:
    yield "## What each needs"
    yield ""
    yield (
        "Switches are kept with the model and sent when it is asked. A stop is added where the "
        "template ends a turn only with what follows it. *Tools as text*: the rows with tools that "
        f"are right with `call_format={CALL_FORMAT}`, where the template writes no calls."
    )
    yield ""
    heads = ("template", "the same in", "switch, plain", "switch, reasoning", "sequences by turn",
             "stop added", "dropped", "refused", "tools as text")  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for line in lines:
        found = line.verdicts
        yield "| " + " | ".join((
            line.title,
            ", ".join(line.also),
            _switch(found["plain"]),
            _switch(found["reasonings"]),
            _kinds(found, lambda one: one.outcome == "right" and one.sequences > 1),
            ", ".join(f"`{_plain(token)}`" for token in line.family.added_stops()),
            _dropped(found),
            _refusals(found),
            _kinds(line.as_text, lambda one: one.outcome == "right"),
        )) + " |"  # fmt: skip
    yield ""


def _switch(verdict: Verdict) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in verdict.switches.items())


def _kinds(verdicts: dict[str, Verdict], holds: Callable[[Verdict], bool]) -> str:
    return ", ".join(HEADS[kind] for kind, verdict in verdicts.items() if holds(verdict))


def _dropped(verdicts: dict[str, Verdict]) -> str:
    """Return the kinds of what is dropped, in words."""
    lost = (one.why.split("; ") for one in verdicts.values() if one.outcome == "lost")
    return ", ".join(sorted({kind.replace("_", " ") for kinds in lost for kind in kinds}))


def _refusals(verdicts: dict[str, Verdict]) -> str:
    """Return why rows are refused, with the kinds of each reason."""
    reasons: dict[str, list[str]] = {}
    for kind, verdict in verdicts.items():
        if verdict.outcome == "refused":
            reasons.setdefault(_reason(verdict.why), []).append(HEADS[kind])
    return "; ".join(f"{', '.join(kinds)}: {why}" for why, kinds in reasons.items())


def _reason(why: str) -> str:
    said = why.removeprefix("The model's chat template refuses this conversation: ")
    if said != why:
        return _plain(said.rstrip("."))
    return "asks in another form than it writes" if "another form" in why else "no stop token"


def _plain(text: str) -> str:
    """Return a text for a cell."""
    return (
        text.replace("|", "\\|").replace("<", "&lt;") if "`" in text else text.replace("|", "\\|")
    )


def _markers(compared: Compared) -> Iterator[str]:
    yield "## Templates with generation blocks"
    yield ""
    yield (
        "Some templates mark what the assistant writes (`{% generation %}`); so do those that TRL "
        "keeps for training. Ids and labels are compared with transformers' "
        "`return_assistant_tokens_mask`, and the judge decides where they differ. *Longer*: the "
        "block holds a line break behind the stop token, which no model has to write. *Wrong*: "
        "transformers' labels do not pass the judge, ours do."
    )
    yield ""
    yield "| template | equal | both pass | theirs longer | theirs wrong | refused | such as |"
    yield "|---|---|---|---|---|---|---|"
    for name, (counts, fault) in compared.items():
        order: tuple[Marks, ...] = (
            "equal",
            "both right",
            "longer",
            "transformers wrong",
            "refused",
        )
        numbers = " | ".join(str(counts[one]) for one in order)
        yield f"| {name} | {numbers} | {_plain(fault)} |"
    yield ""


def _sources(left_out: dict[str, str]) -> Iterator[str]:
    yield "## Where the templates are from"
    yield ""
    yield (
        "TRL's wheel and axolotl's (both Apache-2.0) and the source archive of llama-cpp-python "
        "(MIT), which holds those of llama.cpp; pip downloads them, and nothing of them is kept "
        "here. Each gets a small tokenizer with the special tokens of its family, byte-level or "
        "SentencePiece, and the stop tokens that the family publishes. Left out:"
    )
    yield ""
    for name, why in left_out.items():
        yield f"* {name}: {why}"
    yield ""
