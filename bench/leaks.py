"""How many planted training rows a comparison finds among its rows, and how many others it accuses.

Rows of the training part of a data set are planted as they are and changed: words replaced or
swapped, reordered, cut to 70 %, with another answer or another system prompt. The other side: what
was planted; for false hits, the rows that were held out by who made the data, and a tenth drawn by
lot where nobody has. The data sets beside the checkout are used, without them made-up rows.
"""

from __future__ import annotations

import copy
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, arguments, say, versions
from _rows import chat_rows

from finetune_gateway.evaluation.prompts import Prompt, prompt_of
from finetune_gateway.evaluation.row_matching import matches

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
Row = dict[str, Any]
Change = Callable[[Row, random.Random, list[str]], None]


def said(row: Row, role: str) -> Row:
    return next(one for one in reversed(row["messages"]) if one["role"] == role)


def replace_words(row: Row, rng: random.Random, words: list[str]) -> None:
    """A tenth of the question, two words at least."""
    text = said(row, "user")["content"].split(" ")
    for place in rng.sample(range(len(text)), min(len(text), max(2, len(text) // 10))):
        text[place] = rng.choice(words)
    said(row, "user")["content"] = " ".join(text)


def swap_words(row: Row, rng: random.Random, words: list[str]) -> None:
    text = said(row, "user")["content"].split(" ")
    one, two = rng.sample(range(len(text)), 2) if len(text) > 1 else (0, 0)
    text[one], text[two] = text[two], text[one]
    said(row, "user")["content"] = " ".join(text)


def reorder(row: Row, rng: random.Random, words: list[str]) -> None:
    """Its last sentence first, else its last words."""
    text = said(row, "user")["content"]
    parts = re.split(r"(?<=[.?!])\s+", text)
    parts = parts if len(parts) > 1 else text.split(" ")
    at = len(parts) // 2
    said(row, "user")["content"] = " ".join([*parts[at:], *parts[:at]])


def cut(row: Row, rng: random.Random, words: list[str]) -> None:
    text = said(row, "user")["content"]
    said(row, "user")["content"] = text[: len(text) * 7 // 10]


def cut_all(row: Row, rng: random.Random, words: list[str]) -> None:
    """Question and answer."""
    cut(row, rng, words)
    text = said(row, "assistant").get("content") or ""
    said(row, "assistant")["content"] = text[: len(text) * 7 // 10]


def other_answer(row: Row, rng: random.Random, words: list[str]) -> None:
    said(row, "assistant")["content"] = " ".join(rng.choices(words, k=6))


def other_system(row: Row, rng: random.Random, words: list[str]) -> None:
    rest = [one for one in row["messages"] if one["role"] != "system"]
    row["messages"] = [{"role": "system", "content": "Be of use."}, *rest]


CHANGES: tuple[Change, ...] = (
    replace_words, swap_words, reorder, cut, cut_all, other_answer, other_system,
)  # fmt: skip


def read(name: str) -> list[Row]:
    lines = (DATA / name).read_text("utf-8").splitlines()
    return [_row(json.loads(line)) for line in lines]


def _row(row: Row) -> Row:
    """As a chat; WikiSQL is plain text."""
    if "text" not in row:
        return row
    question, _, answer = row["text"].partition("\nA:")
    turns = (("user", question), ("assistant", answer.strip()))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def by_lot(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    mixed = random.Random(seed).sample(rows, len(rows))
    at = max(1, int(len(rows) * share))
    return mixed[at:], mixed[:at]


def data_sets(rows: int) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """Name, training rows, held-out rows."""
    if not DATA.is_dir():
        made = [row for row in chat_rows(rows, tools=0) if said(row, "user")]
        yield "made_up", *by_lot(made, 0.1, 0)
        return
    wikisql = read("mlx_wikisql_text/train.jsonl")
    yield "text2sql", *by_lot(read("fireworks_text2sql/text2sql_dataset.jsonl"), 0.2, 0)
    gsm8k = "foundry_gsm8k_chat/chat_{}.jsonl"
    yield "gsm8k", read(gsm8k.format("train")), read(gsm8k.format("validation"))
    held_out = read("mlx_wikisql_text/test.jsonl") + read("mlx_wikisql_text/valid.jsonl")
    yield "wikisql", wikisql, held_out
    yield "wikisql_by_lot", *by_lot(wikisql, 0.1, 0)
    yield "coqa", *by_lot(read("together_coqa/small_coqa_10.jsonl"), 0.2, 0)


def prompts(rows: list[Row]) -> list[Prompt]:
    found = (prompt_of(row, line) for line, row in enumerate(rows, 1))
    return list({one.id: one for one in found if one is not None}.values())


def main() -> int:
    asked = arguments(__doc__, rows=2_000, planted=40, runs=1)
    bench = Bench("leaks", versions("finetune-gateway"))
    for name, train, held_out in data_sets(asked.rows):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "train.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in train), encoding="utf-8")
            measure(bench, name, train, held_out, path, asked.planted)
    return bench.end(asked.out)


def measure(
    bench: Bench, name: str, train: list[Row], held_out: list[Row], path: Path, count: int
) -> None:
    rng = random.Random(1)
    words = [word for row in train for word in said(row, "user")["content"].split()]
    began = time.process_time()
    others = prompts(held_out)
    false = matches(others, path)
    seconds = time.process_time() - began
    say(f"{name}: {len(others)} rows against {len(train)} in {seconds:.2f} s of CPU")
    # Among rows drawn by lot there are real ones: the same question in other words.
    most = None if name.endswith("_by_lot") else 0.01
    bench.figure(f"{name}_false", [len(false)], [len(others)], "rows held out", at_most=most)
    chosen = rng.sample(train, min(count, len(train)))
    exact = matches(prompts(chosen), path)
    kept = sum(one.kind == "exact" for one in exact.values())
    bench.figure(f"{name}_exact", [kept], [len(prompts(chosen))], "rows planted", at_least=1)
    for change in CHANGES:
        changed = copy.deepcopy(chosen)
        for row in changed:
            change(row, rng, words)
        planted = prompts(changed)
        found = len(matches(planted, path))
        what = f"rows planted, {change.__name__.replace('_', ' ')}"
        metric = f"{name}_{change.__name__}"
        bench.figure(metric, [found], [len(planted)], what, at_least=0.75)


if __name__ == "__main__":
    sys.exit(main())
