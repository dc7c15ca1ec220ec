"""Write the table of rules into docs/advise.md.

Run ``python -m scripts.advice_page`` after a rule of ``ftg advise`` has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune_gateway.evaluation.advice.rules import RULES, Rule

PAGE = Path(__file__).parent.parent / "docs" / "advise.md"
BEGIN = "<!-- Made by: python -m scripts.advice_page -->"
END = "<!-- end of the table -->"
TOPICS = {
    "approach": "Prompt, retrieval or training",
    "method": "By which method",
    "rows": "How many rows",
    "place": "Where",
}


def with_table(text: str) -> str:
    """Return the page with the table as the code has it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def table() -> str:
    """Return the rules by topic."""
    return "".join(f"\n### {title}\n\n{_rows(topic)}\n" for topic, title in TOPICS.items())


def _rows(topic: str) -> str:
    lines = ["| rule | if | then | from |", "|---|---|---|---|"]
    lines += [
        f"| `{code}` | {rule.when} | {rule.says} | {' · '.join(_from(rule))} |"
        for code, rule in RULES.items()
        if rule.topic == topic
    ]
    return "\n".join(lines) + "\n"


def _from(rule: Rule) -> Iterator[str]:
    for source in rule.sources:
        yield f"[{source.title}]({source.url}), read {source.read}"
    if rule.note:
        yield rule.note


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
