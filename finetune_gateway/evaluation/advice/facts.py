"""What the report and the signals say, put as the rules ask for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from finetune_gateway.evaluation.advice import rules
from finetune_gateway.evaluation.advice.signals import Places, Signals
from finetune_gateway.findings import Finding, Report

# Errors that say nothing against a row: how many there are, and that two kinds are in one file.
OF_THE_FILE = frozenset({"too_few_examples", "mixed_formats"})
NOISE = frozenset({"mojibake", "replacement_char", "special_tokens_in_text"})


@dataclass(frozen=True)
class Facts:
    """A data set as the rules see it. ``pairs``: of a second file with preference pairs."""

    report: Report
    signals: Signals
    pairs: Signals | None = None

    @property
    def rows(self) -> int:
        """Different rows to learn from, those of both files."""
        return self.signals.distinct + (self.pairs.distinct if self.pairs else 0)

    @property
    def similar(self) -> int:
        """Rows that differ from an earlier one in a few words only."""
        return int((self.report.quality or {}).get("similar_rows") or 0)

    @property
    def noisy(self) -> tuple[int, list[str]]:
        """Return how many texts are damaged, and by which rules."""
        found = [one for one in self.report.findings if one.code in NOISE]
        return sum(one.count for one in found), list(dict.fromkeys(one.code for one in found))

    @property
    def kind(self) -> str:
        """The kind of the rows; ``mixed`` with rows to imitate and pairs."""
        if self.pairs and self.pairs.kinds["preference"] and self.signals.imitated:
            return "mixed"
        return self.signals.kind

    @cached_property
    def errors(self) -> list[Finding]:
        """Errors in rows, as every place would refuse them."""
        return [one for one in self.report.errors if one.code not in OF_THE_FILE]

    @property
    def refused(self) -> int:
        """About how many rows have an error: a row with two is counted twice."""
        return sum(one.count for one in self.errors)

    def contradicting(self) -> Places:
        """Return the rows that contradict others; of answers with a label, those that are called
        good and bad."""
        if self.signals.kind != "unpaired_preference":
            return self.signals.contradicting()
        found = [one for one in self.report.findings if one.code == "contradictions"]
        return Places(
            2 * sum(one.count for one in found), [line for one in found for line in one.lines][:5]
        )

    def private(self, code: str) -> tuple[int, list[Finding]]:
        """Return how often private data of a sort, ``secret`` or ``pii``, were found, and where."""
        found = [one for one in self.report.findings if one.code == code]
        return sum(one.count for one in found), found

    # -- in words --------------------------------------------------------------------------

    def counted(self, places: Places, what: str) -> str:
        """Return ``212 of 300 answers hold ... (lines 1, 4, 9)``."""
        return f"{places.count:,} of {self.signals.sampled:,} {what} ({lines_text(places.lines)})"

    def common(self, *, style: bool = False) -> list[str]:
        """Return what the rows have in common; empty for nothing. ``style``: what the answers
        have in common in how they are written, alone."""
        signals, classes = self.signals, self.signals.classes()
        if classes:
            fewest = min(classes.values())
            return [f"the answers are {len(classes)} labels, the rarest in {fewest:,} rows"]
        return [
            text
            for text in (
                "" if style else _system_text(signals),
                _marker_text(signals),
                _edge_text(signals, signals.openings, "begin"),
                _edge_text(signals, signals.closings, "end"),
                _look_text(signals),
                _calls_text(signals),
            )
            if text
        ]

    def length(self) -> str:
        """Return how long the answers are, if most are of one length: alone, that tells little."""
        return _length_text(self.signals)


def lines_text(lines: Sequence[int]) -> str:
    """Return ``line 3`` or ``lines 1, 4, 9``."""
    listed = ", ".join(f"{line}" for line in lines)
    return f"line {listed}" if len(lines) == 1 else f"lines {listed}"


def _system_text(signals: Signals) -> str:
    most = max(signals.systems.values(), default=0)
    if signals.share(most) < rules.ONE_SYSTEM:
        return ""
    return f"{most:,} rows have one system prompt"


def _marker_text(signals: Signals) -> str:
    found = signals.marker() if signals.length_quantile(0.5) <= rules.SHORT else None
    if found is None or found[1] < rules.ALIKE:
        return ""
    return f"{found[1]:.0%} of the answers have a word in common that the prompts lack"


def _edge_text(signals: Signals, edges: Counter[str], verb: str) -> str:
    (_, most), *_ = edges.most_common(1) or [("", 0)]
    share, few = signals.share(most), signals.share(_count_of(edges, rules.WAYS))
    if share >= rules.ALIKE:
        return f"{share:.0%} of the answers {verb} with the same words"
    return (
        f"{few:.0%} of the answers {verb} in one of {rules.WAYS} ways"
        if few >= rules.IN_WAYS
        else ""
    )


def _count_of(edges: Counter[str], ways: int) -> int:
    return sum(count for _, count in edges.most_common(ways))


def _look_text(signals: Signals) -> str:
    """Return how the answers look, if most of them do and few prompts."""
    for look, count in signals.looks.most_common():
        share, asked = signals.share(count), signals.share(signals.asked_looks[look])
        if share >= rules.ONE_LOOK and asked < share / 2:
            return f"{share:.0%} of the answers {look}"
    return ""


def _calls_text(signals: Signals) -> str:
    share = signals.share(signals.calling)
    return f"{share:.0%} of the rows call tools" if share >= rules.CALLING else ""


def _length_text(signals: Signals) -> str:
    short, long = signals.length_quantile(0.1), signals.length_quantile(0.9)
    if not short or long > rules.ONE_LENGTH * short:
        return ""
    return f"the answers are of one length: mostly {short} to {long} words"
