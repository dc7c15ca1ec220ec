"""What the rows of a dataset are made of: turns by role, the last ones, calls and their results,
characters that were lost. Figures alone; ``checks`` judges rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from finetune_gateway.validation.dataset.row_text import Gist
from finetune_gateway.validation.rows.chat import ROLES

Json = dict[str, Any]


class Makeup:
    """Counts, over all rows. Of a pair the turns are those of the prompt."""

    def __init__(self) -> None:
        self.roles: Counter[str] = Counter()
        self.last: Counter[str] = Counter()
        self.single = self.calls = self.answered = self.lost = 0

    def add(self, gist: Gist) -> None:
        self.lost += gist.said.count("\ufffd") + (gist.system or "").count("\ufffd")
        if not gist.roles:
            return
        # A row may hold any text for a role, and any number of them.
        roles = [role if role in ROLES else "other" for role in gist.roles]
        before = roles if gist.kind == "preference" else roles[:-1]
        self.roles.update(roles)
        self.last[roles[-1]] += 1
        self.single += "assistant" not in before
        self.calls += gist.calls
        self.answered += gist.answered

    def figures(self) -> Json:
        """``single_turn``: rows with no answer before the one to learn. ``unanswered``: calls
        without a result, as at the end of a row."""
        calls = {"calls": self.calls, "unanswered": self.calls - self.answered}
        return {
            "turns": dict(self.roles),
            "last_turns": dict(self.last),
            "single_turn": self.single,
            "tool_calls": {**calls, "results": self.roles["tool"] + self.roles["function"]},
            "replacement_characters": self.lost,
        }
