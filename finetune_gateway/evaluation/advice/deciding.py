"""From what was counted and measured to the advice, by the rules of the table, in their order."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import PurePath

from finetune_gateway.evaluation.advice import places, rules
from finetune_gateway.evaluation.advice.advice import Advice, Point
from finetune_gateway.evaluation.advice.facts import Facts, lines_text
from finetune_gateway.evaluation.advice.measured import Measured
from finetune_gateway.evaluation.advice.rules import FIRST_GAINS, LEAST_ROWS, ROWS_A_CLASS
from finetune_gateway.evaluation.advice.signals import Signals
from finetune_gateway.jobs.planning import Option

CANT_TELL = "can't tell"


def decide(
    name: str,
    path: str,
    facts: Facts,
    measured: Measured | None,
    options: Sequence[Option],
    *,
    private: bool,
    today: date,
    comparison: str | None = None,
) -> Advice:
    """Return the advice on a data set. ``path``: as a command names it. ``private``: the user said
    that it must stay here."""
    approach, method = approach_of(facts, measured), method_of(facts)
    steps = method.answer.split("+") if method.answer != "none" else []
    place = places.point(options, steps, _private(facts, private), today)
    return Advice(
        data=name,
        kind=facts.kind,
        rows_read=facts.report.rows,
        distinct=facts.rows,
        approach=approach,
        method=method,
        rows=rows_of(facts),
        place=place,
        options=options,
        next_steps=tuple(_next_steps(path, facts, approach, method, places.base(options))),
        warnings=tuple(_warnings(facts, private)),
        comparison=comparison,
    )


# -- prompt, retrieval or training ---------------------------------------------------------------


def approach_of(facts: Facts, measured: Measured | None) -> Point:
    """Return what to do with the rows: the first rule that holds decides."""
    room_left = measured is not None and measured.rule == "room_left"
    found = (
        _unreadable(facts)
        or _damaged(facts)
        or _factual(facts)
        or _contradictory(facts)
        or _as_measured(measured)
        or _few(facts)
        or (None if room_left else _plain_format(facts))
        or _own_facts(facts)
        or _behaviour(facts)
    )
    return _with_measured(found, measured)


def _with_measured(found: Point, measured: Measured | None) -> Point:
    """Return the point with what a comparison of prompts adds to it, or that there is none."""
    if found.answer not in ("prompt", "fine-tune"):
        return found
    if measured is not None and measured.rule == "room_left":
        if found.answer != "fine-tune":
            return found
        return Point(
            found.answer, found.text, (measured.text, *found.evidence), ("room_left", *found.rules)
        )
    if measured is not None and measured.rule == "prompts_alone":
        return Point(
            found.answer,
            found.text,
            (*found.evidence, measured.text),
            (*found.rules, measured.rule),
        )
    if measured is not None and measured.rule != "not_measured":
        return found
    text = found.text.replace("Fine-tune:", "Fine-tune, if a measured prompt falls short:")
    return Point(found.answer, text, found.evidence, (*found.rules, "not_measured"))


def _unreadable(facts: Facts) -> Point | None:
    signals = facts.signals
    if signals.without_answer and not signals.rows:
        text = f"Prompts without answers: try a prompt, and write {FIRST_GAINS} good answers."
        seen = (f"{signals.without_answer:,} rows have a prompt and no answer",)
        return Point("prompt", text, seen, ("no_answers",))
    readable = max(signals.rows, 1)
    if signals.rows and facts.refused < rules.REFUSED * readable:
        return None
    first = facts.errors[0] if facts.errors else None
    seen = (f"{first.code}: {first.message}",) if first else ("no row can be read",)
    text = "Can't tell: the file has to be fixed first."
    return Point(CANT_TELL, text, seen, ("refused_rows",))


def _damaged(facts: Facts) -> Point | None:
    count, codes = facts.noisy
    if count < rules.REFUSED * max(facts.signals.rows, 1):
        return None
    text = "Can't tell: the texts are damaged; fix them first."
    return Point(CANT_TELL, text, (f"{', '.join(codes)}: {count:,} times",), ("damaged",))


def _contradictory(facts: Facts) -> Point | None:
    found = facts.contradicting()
    if facts.signals.share(found.count) < rules.CONTRADICTING:
        return None
    text = "Can't tell: rows contradict each other; settle first which are right."
    seen = facts.counted(found, "rows ask what another row answers otherwise")
    return Point(CANT_TELL, text, (seen,), ("contradictions",))


def _factual(facts: Facts) -> Point | None:
    signals = facts.signals
    if signals.kind == "text":
        return _documents(signals)
    differ, (held, counts) = signals.facts_differ(), signals.facts
    if signals.share(held.count) < rules.FACTS and signals.share(differ.count) < rules.FACTS:
        return None
    kinds = ", ".join(kind for kind, _ in counts.most_common(3))
    seen = []
    if held.count:
        seen.append(facts.counted(held, f"answers hold {kinds} that their prompts lack"))
    if differ.count:
        seen.append(facts.counted(differ, "rows ask the same and differ in facts alone"))
    text = "Retrieval: the answers hold facts that change; give them in the prompt."
    return Point("retrieval", text, tuple(seen), ("facts",))


def _documents(signals: Signals) -> Point | None:
    if signals.share(signals.dialogues) >= rules.ONE_FORMAT:
        return None
    text = "Retrieval, if the texts are to be known. Can't tell what else they are for."
    seen = (f"{signals.rows:,} texts without a prompt",)
    return Point("retrieval", text, seen, ("documents",))


def _as_measured(measured: Measured | None) -> Point | None:
    match measured.rule if measured else "":
        case "prompt_does":
            answer, text = "prompt", "Prompt: no training was measured to gain anything."
        case "tuned_better":
            answer, text = "fine-tune", "Fine-tune: it was measured to be better than a prompt."
        case "measured_undecided":
            answer, text = CANT_TELL, "Can't tell: the comparison could not."
        case _:
            return None
    assert measured is not None  # for the type checker
    return Point(answer, text, (measured.text,), (measured.rule,))


def _few(facts: Facts) -> Point | None:
    if facts.rows >= FIRST_GAINS:
        return None
    text = "Prompt first, with some of the rows as examples: they are few to train on."
    return Point("prompt", text, (_rows_text(facts),), ("few_rows",))


def _plain_format(facts: Facts) -> Point | None:
    signals = facts.signals
    if signals.kind == "text" or facts.kind in ("preference", "mixed"):
        return None
    if classes := signals.classes():
        fewest = min(classes.values())
        if fewest >= ROWS_A_CLASS:
            return None
        text = f"Prompt first: the answers are {len(classes)} labels, which a prompt can list."
        rows = f"{fewest:,} row{'s' if fewest > 1 else ''}"
        seen = f"{sum(classes.values()):,} answers are labels; the rarest is in {rows}"
        return Point("prompt", text, (seen,), ("one_format",))
    if signals.share(signals.copied) >= rules.ONE_FORMAT:
        text = "Prompt first: the answers are pieces of their prompts, which a prompt can ask for."
        seen = f"{signals.copied:,} of {signals.sampled:,} answers stand in their prompt"
        return Point("prompt", text, (seen,), ("one_format",))
    same_keys = max(signals.json_keys.values(), default=0)
    if signals.share(same_keys) >= rules.ONE_FORMAT:
        text = "Prompt first: the answers are JSON of one form, which a schema can ask for."
        seen = f"{same_keys:,} of {signals.sampled:,} answers are JSON with the same keys"
        return Point("prompt", text, (seen,), ("one_format",))
    different = len(signals.answers)
    if signals.share(different) < rules.FEW_ANSWERS:
        text = f"Prompt first: there are {different:,} different answers, which a prompt can list."
        if different == 1:
            text = "Prompt first: all answers are the same. Is that what the rows should teach?"
        return Point("prompt", text, (f"in {signals.sampled:,} rows",), ("few_answers",))
    return None


def _own_facts(facts: Facts) -> Point | None:
    signals = facts.signals
    found, held = signals.other_facts, signals.facts[0]
    share = signals.share(found.count) + signals.share(held.count)
    if share < rules.OTHER_FACTS or facts.common(style=True):
        return None
    text = (
        "Can't tell: does the base model know what the answers say? If not, retrieval; if so, a "
        "prompt."
    )
    seen = facts.counted(found, "answers are short, with names or figures that no prompt gives")
    return Point(CANT_TELL, text, (seen,), ("own_facts",))


def _behaviour(facts: Facts) -> Point:
    common = facts.common()
    if facts.kind in ("preference", "mixed", "unpaired_preference"):
        common = [*common, "the rows say which answers are better"]
    if facts.signals.kind == "text":
        common = [f"{facts.signals.dialogues:,} texts hold a question and its answer"]
    if common:
        common += [facts.length()] if facts.length() else []
        text = "Fine-tune: the rows show one behaviour."
        return Point("fine-tune", text, tuple(common), ("one_behaviour",))
    text = "Can't tell what the rows teach: nothing is common to the answers. Measure a prompt."
    seen = ("no system prompt, word, beginning, end or look is common to the answers",)
    return Point(CANT_TELL, text, seen, ("nothing_in_common",))


# -- by which method ----------------------------------------------------------------------------


def method_of(facts: Facts) -> Point:
    """Return the method that the rows suit."""
    signals = facts.signals
    pairs = signals.kinds["preference"] + (facts.pairs.kinds["preference"] if facts.pairs else 0)
    match facts.kind:
        case "mixed":
            text = "Both: SFT on the rows with one answer, then DPO from that model on the pairs."
            seen = f"{signals.imitated:,} rows with one answer, {pairs:,} pairs"
            return Point("sft+dpo", text, (seen,), ("both_kinds",))
        case "preference":
            text = "Both: SFT on the preferred answers first, then DPO from that model."
            return Point("sft+dpo", text, (f"{pairs:,} pairs",), ("pairs",))
        case "unpaired_preference":
            text = "SFT on the good answers, then KTO with all, where a place has it."
            seen = f"{signals.good:,} of {signals.rows:,} answers are labelled good"
            return Point("sft+kto", text, (seen,), ("labelled",))
        case "text" if signals.share(signals.dialogues) >= rules.ONE_FORMAT:
            text = "SFT, once each text is written as prompt and answer."
            return Point("sft", text, (), ("texts_with_answers",))
        case "text":
            return Point("pretrain", "Continued pretraining, if training at all.", (), ("texts",))
        case "unknown":
            return Point("none", "None: there is nothing to learn from.")
    return _imitation(facts)


def _imitation(facts: Facts) -> Point:
    signals = facts.signals
    several = signals.several_answers()
    if signals.scored.count and several.count >= FIRST_GAINS:
        text = "Both: SFT, then DPO on a better and a worse answer to each prompt."
        seen = (
            facts.counted(several, "rows answer a prompt that others answer too"),
            facts.counted(signals.scored, "rows have a score"),
        )
        return Point("sft+dpo", text, seen, ("could_be_pairs",))
    text = "SFT: each row shows one good answer."
    seen_scores = (facts.counted(signals.scored, "rows have a score, which SFT does not use"),)
    return Point("sft", text, seen_scores if signals.scored.count else (), ("imitate",))


# -- how many rows ------------------------------------------------------------------------------


def rows_of(facts: Facts) -> Point:
    """Return whether the rows are enough to begin, or how many more are needed."""
    count, classes = facts.rows, facts.signals.classes()
    if not facts.signals.rows and facts.signals.without_answer:
        return Point(CANT_TELL, "Can't tell: no row has an answer.", (), ("no_answers",))
    if not facts.signals.rows and facts.errors:
        return Point(CANT_TELL, "Can't tell: no row can be read.", (), ("refused_rows",))
    seen = (_rows_text(facts),)
    if count < FIRST_GAINS:
        missing = FIRST_GAINS - count
        text = f"{missing} more to {FIRST_GAINS}, where improvements begin to be seen."
        if count < LEAST_ROWS:
            text = f"{text} No host takes fewer than {LEAST_ROWS}."
        return Point(f"{missing} more", text, seen, ("more_rows",))
    fewest = min(classes.values(), default=ROWS_A_CLASS)
    if fewest < ROWS_A_CLASS:
        missing = ROWS_A_CLASS - fewest
        text = f"Enough to begin; {missing} more of the rarest label make {ROWS_A_CLASS}."
        return Point("enough", text, seen, ("enough_rows", "rows_a_class"))
    text = f"Enough to begin: {seen[0]}; gains are seen from {FIRST_GAINS} to 100."
    return Point("enough", text, (), ("enough_rows",))


def _rows_text(facts: Facts) -> str:
    signals = facts.signals
    total = signals.rows + (facts.pairs.rows if facts.pairs else 0)
    if facts.rows == total:
        return f"{total:,} different rows" if total != 1 else "1 row"
    return f"{facts.rows:,} different rows among {total:,}"


# -- private data, warnings, next steps ---------------------------------------------------------


def _private(facts: Facts, said: bool) -> Point | None:
    """Return why the data must stay here; None if they need not."""
    if said:
        return Point("local", "The data must stay here, as you said.", (), ("private",))
    secrets, found = facts.private("secret")
    marked = facts.signals.confidential
    if facts.signals.share(marked.count) >= rules.CONFIDENTIAL and not secrets:
        seen = facts.counted(marked, "rows say so")
        return Point("local", "The rows call themselves confidential.", (seen,), ("confidential",))
    people, also = facts.private("pii")
    if not secrets and people < rules.PRIVATE * max(facts.signals.rows, 1):
        return None
    what = "keys or passwords" if secrets else "personal data"
    lines = [line for one in (found or also) for line in one.lines][:5]
    seen = f"{what} found {secrets or people:,} times ({lines_text(lines)})"
    return Point("local", f"The rows hold {what}.", (seen,), ("private",))


def _warnings(facts: Facts, said: bool) -> Iterator[str]:
    """Yield what is to be looked at, whatever is done."""
    signals = facts.signals
    if facts.errors and facts.signals.rows:
        yield f"{facts.refused:,} errors in rows: fix them first (ftg validate)."
    contradicting = facts.contradicting()
    if rules.FEW_CONTRADICT <= signals.share(contradicting.count) < rules.CONTRADICTING:
        yield f"{facts.counted(contradicting, 'rows contradict others')}."
    if facts.similar >= rules.MADE_FROM_ONE * max(signals.rows, 1):
        yield f"{facts.similar:,} rows nearly repeat an earlier one, and add little to it."
    held = signals.facts[0]
    if rules.SOME_FACTS <= signals.share(held.count) < rules.FACTS:
        yield f"{facts.counted(held, 'answers hold facts that no prompt gives')}."
    people, found = facts.private("pii")
    if people and not said and _private(facts, said) is None:
        yield f"Personal data in {lines_text(found[0].lines[:5])}: look before you send."
    for one in facts.report.findings:
        if one.code in ("boilerplate_answer", "language_mix", "drift", "system_prompt_mix"):
            yield f"{one.code}: {one.message}"


def _next_steps(
    path: str, facts: Facts, approach: Point, method: Point, base: str
) -> Iterator[str]:
    """Yield what to do next, as commands where there is one."""
    if {"refused_rows", "damaged", "contradictions"} & {*approach.rules}:
        yield f"ftg validate {path}"
        return
    if approach.answer == "retrieval":
        yield "let a search or a tool put the facts into the prompts, and advise again"
        return
    if "few_rows" in approach.rules:  # too few to be divided, and for a comparison to tell
        yield f"try a prompt with a few of them as examples; advise again with {FIRST_GAINS} rows"
        return
    if facts.kind == "mixed" and facts.pairs is None:
        yield "put the pairs into a file of their own: no place takes both in one"
    if facts.kind == "preference" and method.answer == "sft+dpo":
        yield "make rows for SFT of prompts and preferred answers; keep the pairs"
    if "not_measured" in approach.rules or approach.answer == CANT_TELL:
        yield from _measuring(path, facts, base)
    elif approach.answer == "fine-tune" and method.answer == "sft":
        yield f"ftg submit {path} --model {base}"


def _measuring(path: str, facts: Facts, base: str) -> Iterator[str]:
    """Yield the commands that measure how far the rows' own prompts and examples get."""
    if not facts.signals.rows:
        return
    yield f"ftg split {path} --out parts"
    stem = PurePath(path.strip("'")).stem
    held_out, rest = (shlex.quote(f"parts/{stem}.{part}.jsonl") for part in ("validation", "train"))
    yield (f"ftg compare base:{base} few-shot:5:{base} --data {held_out} --examples {rest}")
