"""Generate the pages in docs/rules/ from the table of rules.

Run ``python -m scripts.rules_page docs/rules`` after changing a rule or an example.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from finetune_gateway.validation.examples import example, visible
from finetune_gateway.validation.rules import RULES, Rule, topics

MADE = "<!-- Made by: python -m scripts.rules_page docs/rules -->"

INTRO = f"""\
# Rules

{MADE}

What [`ftg validate`](../data.md#checking) checks. Each rule has a code, which never changes its
meaning, and a severity for each family of backends: here for *openai* (OpenAI's fine-tuning API)
and *trl* (training on this machine); a dash means that it does not count there. The page of a rule
has all families, with their sources. In the terminal: `ftg rules`, and `ftg rules CODE` for one.

Each example is placed among good rows of its kind. **--fix** marks the rules that
`ftg validate FILE --fix OUT` fixes.
"""


def pages() -> dict[str, str]:
    """Return all pages by file name."""
    return {"index.md": _index(), **{f"{code}.md": page(code) for code in RULES}}


def page(code: str) -> str:
    """Return the page of one rule."""
    rule = RULES[code]
    parts = [f"# {code}", MADE, f"{_sentence(rule.title)} {_escaped(rule.why)}"]
    parts.append(f"About: [{rule.topic.lower()}](index.md#{_anchor(rule.topic)}).")
    parts.append("\n".join(["| family | severity | source |", "|---|---|---|", *_severities(rule)]))
    parts.append(f"**What to do.** {_escaped(rule.fix)}")
    parts.append(f"**--fix.** {_escaped(rule.autofix or 'Leaves it and lists it.')}")
    parts.append(f"**--ignore.** {_ignoring(code, rule)}")
    return "\n\n".join([*parts, *_example(code)]) + "\n"


def write(folder: Path) -> None:
    """Write all pages and remove those of deleted rules."""
    folder.mkdir(parents=True, exist_ok=True)
    current = pages()
    for old in folder.glob("*.md"):
        if old.name not in current:
            old.unlink()
    for name, text in current.items():
        (folder / name).write_text(text, encoding="utf-8")


def _index() -> str:
    return "\n".join([INTRO, *(_table(title, group) for title, group in topics().items())])


def _table(title: str, group: dict[str, Rule]) -> str:
    rows = [
        f"| [`{code}`]({code}.md) | {rule.severity('openai') or '-'} | "
        f"{rule.severity('trl') or '-'} | "
        f"{_escaped(rule.title)} | {'yes' if rule.autofix else ''} |"
        for code, rule in group.items()
    ]
    head = ["| code | openai | trl | what | --fix |", "|---|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *head, *rows, ""])


def _severities(rule: Rule) -> Iterator[str]:
    for names, severity, source in rule.judged():
        yield f"| {', '.join(names)} | {severity or 'does not count'} | {_source(source)} |"


def _source(source: str) -> str:
    if source.startswith("docs/"):
        return f"[{source}](../{source.removeprefix('docs/')})"
    return f"<{source}>" if source.startswith("https://") else _escaped(source)


def _ignoring(code: str, rule: Rule) -> str:
    if rule.unread:
        return "No: it means that rows were not checked."
    return f"`ftg validate FILE --ignore {code}` leaves it out and reports how often it occurred."


def _example(code: str) -> list[str]:
    shown = example(code)
    if shown.without:
        return ["## Example", _escaped(shown.without)]
    parts = ["## Breaks it", _block(shown.breaks or "")]
    for option, rows in (("--against", shown.against), ("--like", shown.like)):
        if rows is not None:
            parts += [f"The file of `{option}`:", _block(rows)]
    parts += ["\n".join(f"- {_escaped(remark)}" for remark in shown.remarks)]
    if shown.fixed is not None:
        parts += ["## Fixed", _block(shown.fixed)]
    return [part for part in parts if part]


def _block(lines: str) -> str:
    text = visible(lines)
    return f"```{'json' if _is_json(text) else 'text'}\n{text}\n```"


def _is_json(text: str) -> bool:
    try:
        for line in text.splitlines():
            json.loads(line)
    except ValueError:
        return False
    return True


def _sentence(text: str) -> str:
    return f"{_escaped(text[:1].upper() + text[1:])}."


def _escaped(text: str) -> str:
    """Return the text with Markdown characters escaped."""
    for sign in ("\\", "*", "<", "[", "|", "_"):
        text = text.replace(sign, f"\\{sign}")
    return text


def _anchor(title: str) -> str:
    kept = "".join(char for char in title.lower() if char.isalnum() or char in " -")
    return kept.replace(" ", "-")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/rules"))
