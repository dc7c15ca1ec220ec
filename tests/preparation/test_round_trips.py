"""No converter loses anything: each format and each container, in and out, on made-up rows.

100 examples each by default; `make fuzz` runs 10,000 (--hypothesis-profile=deep).
"""

from __future__ import annotations

import csv
import io
import json
import string
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.rule_sets import LOCAL, OPENAI

from finetune_gateway import Dataset
from finetune_gateway.data.canonical import canonical, read
from finetune_gateway.data.formats import FORMATS, format_of
from finetune_gateway.data.row_access import blank, dumped
from finetune_gateway.data.sharegpt import as_string
from finetune_gateway.preparation.convert import TARGETS, convert_row
from finetune_gateway.preparation.fix_row import fix_row
from finetune_gateway.validation.rows.formats import row_defects

Json = dict[str, Any]

FEWER = settings() if settings().max_examples > 1000 else settings(max_examples=40)

# -- rows --------------------------------------------------------------------------------------

# Texts that look like something else.
ODD = ("", " ", "[]", "{}", "[1, 2]", '{"a": 1}', '[{"role": "user"}]', "null", "true", "0", "NaN",
       "a,b;c\td", '"', "'", "\\", "\r\n", "\r", "\n\n", "\u2028", "\x85", "\ufeff", "\0", "\x1b",
       "call_1", "=1+1", "None", "label", "<|im_end|>", "\u202e", "e\u0301", "1.0")  # fmt: skip
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(ODD)
SAID = TEXTS.filter(bool)
NAMES = st.text(string.ascii_letters + "_", min_size=1, max_size=6)
IDS = NAMES | st.sampled_from(("call_1", "call_2", "call_3"))
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=2)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={"description": TEXTS, "parameters": ARGUMENTS, "strict": st.booleans()},
    ).map(lambda function: {"type": "function", "function": function}),
    min_size=1,
    max_size=2,
)


def call(own: str, name: str, arguments: Json) -> Json:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": own, "type": "function", "function": function}


CALLS = st.lists(st.builds(call, IDS, NAMES, ARGUMENTS), min_size=1, max_size=2)


@st.composite
def turns(draw: st.DrawFn, plain: bool) -> list[Json]:
    """A conversation. ``plain``: as every format can hold it, so without names, developers,
    parts, refusals and texts beside calls."""
    messages: list[Json] = []
    if draw(st.booleans()):
        role = "system" if plain else draw(st.sampled_from(("system", "developer")))
        messages.append({"role": role, "content": draw(TEXTS)})
    for _ in range(draw(st.integers(1, 2))):
        messages += draw(exchange(plain))
    return messages


@st.composite
def exchange(draw: st.DrawFn, plain: bool) -> list[Json]:
    """A question, calls and their results now and then, an answer."""
    asked: Json = {"role": "user", "content": draw(TEXTS)}
    answer: Json = {"role": "assistant", "content": draw(TEXTS)}
    between: list[Json] = []
    if draw(st.booleans()):
        calls = draw(CALLS)
        between.append({"role": "assistant", "tool_calls": calls})
        between += [
            {"role": "tool", "tool_call_id": one["id"], "content": draw(TEXTS)} for one in calls
        ]
    if draw(st.booleans()):
        answer["weight"] = draw(st.sampled_from((0, 1)))
    if not plain:
        asked |= draw(st.sampled_from(({}, {"name": "jo"}, {"content": PARTS})))
        answer |= draw(st.sampled_from(({}, {"refusal": None}, {"name": "bot"})))
        if between:
            between[0] |= draw(st.sampled_from(({}, {"content": None}, {"content": "Wait."})))
    return [asked, *between, answer]


PARTS = [
    {"type": "text", "text": "What?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]


@st.composite
def rows(draw: st.DrawFn, kind: str, plain: bool) -> Json:
    """A canonical row."""
    if kind == "text":
        return {"text": draw(TEXTS)}
    messages = draw(turns(plain))
    more: Json = {"tools": draw(TOOLS)} if draw(st.booleans()) else {}
    if not plain and draw(st.booleans()):
        more["parallel_tool_calls"] = draw(st.booleans())
    if kind == "pair":
        good, bad = ({"role": "assistant", "content": draw(TEXTS)} for _ in range(2))
        asked = {"messages": messages[:-1], **more}
        return {"input": asked, "preferred_output": [good], "non_preferred_output": [bad]}
    label = {"label": draw(st.booleans())} if kind == "kto" else {}
    rest = {} if plain else draw(st.dictionaries(st.sampled_from(("id", "n", "é")), VALUES))
    return {"messages": messages, **more, **label, **rest}


def meaning(value: Any, key: str = "") -> Any:
    """A row to be compared: null keys left out, arguments parsed, 1 told from 1.0 and true."""
    if key == "arguments" and isinstance(value, str):
        return meaning(json.loads(value))
    if isinstance(value, dict):
        return {k: meaning(inner, k) for k, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [meaning(inner) for inner in value]
    return type(value).__name__, value


def same(made: Json, row: Json) -> None:
    """A row that was written says, read again, what it said."""
    assert meaning(canonical(json.loads(dumped(made)))) == meaning(row)


# -- formats out, and in again -------------------------------------------------------------------


@given(st.sampled_from(("chat", "pair")).flatmap(lambda kind: rows(kind, plain=False)))
def test_openai(row: Json) -> None:
    """Chat and pairs, with all that OpenAI knows."""
    same(convert_row(row, "openai"), row)


@given(st.sampled_from(("chat", "pair", "kto", "text")).flatmap(lambda kind: rows(kind, False)))
def test_trl(row: Json) -> None:
    """All kinds; arguments are objects there."""
    made = convert_row(row, "trl")
    same(made, row)
    calls = [call for message in made.get("messages", []) for call in message.get("tool_calls", [])]
    assert all(isinstance(one["function"]["arguments"], dict) for one in calls)


@given(st.sampled_from(("chat", "pair", "text")).flatmap(lambda kind: rows(kind, plain=True)))
def test_together(row: Json) -> None:
    """Chat, pairs and texts of plain messages."""
    same(convert_row(row, "together"), row)


@given(st.sampled_from(("chat", "pair", "kto")).flatmap(lambda kind: rows(kind, plain=True)))
def test_sharegpt(row: Json) -> None:
    """Chat, pairs and labels; ids of calls and weights survive."""
    same(convert_row(row, "sharegpt"), row)


def said_something(text: str | None) -> bool:
    return bool(text and not blank(text))


# -- formats in --------------------------------------------------------------------------------


@given(SAID, st.none() | TEXTS, TEXTS, st.none() | TEXTS, st.lists(st.tuples(TEXTS, TEXTS)))
def test_alpaca(
    asked: str, more: str | None, answer: str, system: str | None, history: Any
) -> None:
    """Each text is in its place, and an empty input or system prompt is none."""
    assume(said_something(asked) or said_something(more))
    row: Json = {"instruction": asked, "input": more, "output": answer, "system": system}
    row["history"] = [list(pair) for pair in history]
    wanted = [{"role": "system", "content": system}] if system and not blank(system) else []
    for one, other in history:
        wanted += [{"role": "user", "content": one}, {"role": "assistant", "content": other}]
    said = "\n\n".join(text for text in (asked, more) if text and not blank(text))
    wanted += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
    assert canonical(row) == {"messages": wanted}


# Popular shapes of one question with one answer, or with a better and a worse one.
SHAPES: tuple[Callable[[str, str], Json], ...] = (
    lambda asked, said: {"instruction": asked, "context": "", "response": said},
    lambda asked, said: {"instruction": " ", "input": asked, "response": said},
    lambda asked, said: {"prompt": asked, "response": said},
    lambda asked, said: {"query": asked, "response": said, "history": []},
    lambda asked, said: {"instruction": asked, "instances": [{"input": "", "output": said}]},
    lambda asked, said: {"conversation": [{"human": asked, "assistant": said}]},
    lambda asked, said: {"conversation": [{"input": asked, "output": said}]},
    lambda asked, said: {
        "messages": [{"role": "User", "content": asked}, {"role": "Chatbot", "content": said}]
    },
    lambda asked, said: {
        "conversation": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    },
)
PAIR_SHAPES: tuple[Callable[[str, str, str], Json], ...] = (
    lambda asked, good, bad: {"instruction": asked, "output": [good, bad]},
    lambda asked, good, bad: {"question": asked, "chosen": good, "rejected": bad},
    lambda asked, good, bad: {
        "conversations": [{"from": "human", "value": asked}],
        "chosen": {"from": "gpt", "value": good},
        "rejected": {"from": "gpt", "value": bad},
    },
)
READ = SAID.filter(said_something)


@given(st.sampled_from(SHAPES), READ, TEXTS, TEXTS)
def test_popular_shapes(shape: Callable[[str, str], Json], asked: str, said: str, n: str) -> None:
    """Each text is in its place, and every format can hold it, with the key beside it."""
    wanted = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    row = {**shape(asked, said), "n": n}
    assert canonical(row) == {"messages": wanted, "n": n}
    for to in ("openai", "trl", "sharegpt"):
        same(convert_row(canonical(row), to), {"messages": wanted, "n": n})


@given(st.sampled_from(PAIR_SHAPES), READ, TEXTS, TEXTS)
def test_popular_shapes_of_pairs(
    shape: Callable[[str, str, str], Json], asked: str, good: str, bad: str
) -> None:
    """The same for a better and a worse answer."""
    sides = [{"role": "assistant", "content": text} for text in (good, bad)]
    wanted: Json = {"input": {"messages": [{"role": "user", "content": asked}]}}
    wanted |= {"preferred_output": sides[:1], "non_preferred_output": sides[1:]}
    read = canonical(shape(asked, good, bad))
    assert read == wanted
    for to in ("openai", "trl", "together", "sharegpt"):
        same(convert_row(read, to), wanted)


@given(turns(plain=False), st.booleans(), st.booleans(), st.none() | st.booleans(), TOOLS)
def test_prompt_completion(
    messages: list[Json], listed: bool, tools: bool, label: bool | None, offered: list[Json]
) -> None:
    """Plain texts and TRL's lists of messages, with a label or without."""
    *asked, answer = messages
    row: Json = {"prompt": asked, "completion": [answer]}
    wanted = [*asked, answer]
    if not listed:
        texts = str(asked[-1].get("content")), str(answer["content"])
        row = dict(zip(("prompt", "completion"), texts, strict=True))
        wanted = [{"role": role, "content": text}
                  for role, text in zip(("user", "assistant"), texts, strict=True)]  # fmt: skip
    row |= ({"tools": offered} if tools else {}) | ({} if label is None else {"label": label})
    if listed and label is None:  # only the completion is learnt
        wanted = [{"weight": 0, **one} if one["role"] == "assistant" else one for one in wanted]
        wanted[-1] = answer
    read = canonical(row)
    assert meaning(read.pop("messages")) == meaning(wanted)
    assert read == {key: row[key] for key in ("tools", "label") if key in row}


@given(turns(plain=False), TEXTS, TEXTS, st.booleans(), st.booleans())
def test_trl_pairs(messages: list[Json], good: str, bad: str, implicit: bool, plain: bool) -> None:
    """The prompt by itself or at the start of both sides, texts or messages."""
    asked = messages[:-1]
    sides = [{"role": "assistant", "content": text} for text in (good, bad)]
    row: Json = {"prompt": asked, "chosen": [sides[0]], "rejected": [sides[1]], "score": 0.5}
    if implicit:
        del row["prompt"]
        row |= {"chosen": [*asked, sides[0]], "rejected": [*asked, sides[1]]}
    if plain:
        row |= {"prompt": "Hi", "chosen": good, "rejected": bad}
        asked = [{"role": "user", "content": "Hi"}]
    read = canonical(row)
    assert meaning(read) == meaning(
        {"input": {"messages": asked}, "preferred_output": sides[:1],
         "non_preferred_output": sides[1:], "score": 0.5}
    )  # fmt: skip


@given(rows("chat", plain=True), st.none() | SAID, st.none() | SAID)
def test_sharegpt_in(row: Json, system: str | None, own: str | None) -> None:
    """Turns with other names of the speakers, a system prompt beside them, keys carried along."""
    messages = row["messages"]
    if messages[0]["role"] == "system":
        messages.pop(0)
    made = convert_row(row, "sharegpt")
    for turn in made["conversations"]:
        turn["from"] = {"human": "user", "gpt": "chatgpt", "observation": "tool"}.get(
            turn["from"], turn["from"]
        )
    made |= ({"system": system} if system else {}) | ({"id": own} if own else {})
    if said_something(system):
        messages.insert(0, {"role": "system", "content": system})
    same(made, {**row, **({"id": own} if own else {})})


@given(
    st.sampled_from(("chat", "pair", "kto", "text")).flatmap(lambda kind: rows(kind, False)),
    st.sampled_from(("openai", "trl", "sharegpt")),
)
def test_mending_loses_nothing(row: Json, to: str) -> None:
    """--fix brings a row of any format into the canonical form, with all that was in it."""
    try:
        made = json.loads(dumped(convert_row(row, to)))
    except ValueError:  # a format that cannot hold it
        made = row
    same(fix_row(made)[0], row)


def errors_of(row: Json) -> set[tuple[str, str]]:
    """What each backend would refuse of a row."""
    row_format = format_of(row)
    if row_format is None:
        return {("all", "unknown_format")}
    found = {one.code for one in row_defects(row, row_format, read(row))}
    return {
        (name, code)
        for name, rules in (*OPENAI.items(), *LOCAL.items())
        for code in found
        if rules.severity(code) == "error"
    }


@FEWER
@given(
    st.sampled_from(("chat", "pair", "kto", "text")).flatmap(lambda kind: rows(kind, False)),
    st.sampled_from(sorted(TARGETS)),
    st.booleans(),
    st.sampled_from(("", "[]", "{}", " ")) | st.none() | ARGUMENTS,
)
def test_mending_makes_no_row_worse(row: Json, to: str, null: bool, result: Any) -> None:
    """What a backend would take of a row of any format it takes after --fix too, and nothing is
    lost."""
    # A label beside turns is carried along; of labelled messages the last answer alone is learned.
    assume(not ("label" in row and to == "sharegpt"))
    for message in row.get("messages", []):
        if message["role"] == "tool" and result is not None:
            message["content"] = result
    try:
        made = json.loads(dumped(convert_row(row, to)))
    except ValueError:  # a format that cannot hold it
        made = row
    made |= {"tools": None} if null and "tools" not in made else {}
    mended, _ = fix_row(made)
    assert errors_of(mended) <= errors_of(made)
    assert fix_row(mended) == (mended, [])
    if not (before := read(made)).errors:
        after, beside = read(mended), {key: made[key] for key in before.others}
        assert not after.errors
        assert as_learned({**mended, **after.row}) == as_learned({**beside, **before.row})


def as_learned(row: Json) -> Any:
    """A row to be compared, with results of tools as the text that is learned."""
    row = json.loads(dumped(row))
    for message in row.get("messages", []):
        content = message.get("content")
        if message.get("role") == "tool" and isinstance(content, dict):
            message["content"] = as_string(content)
    return meaning(row)


@given(
    st.dictionaries(
        st.sampled_from((
            "messages", "prompt", "completion", "chosen", "rejected", "input", "label", "text",
            "tools", "conversations", "instruction", "output", "history", "system", "id",
            "preferred_output", "non_preferred_output", "functions", "parallel_tool_calls",
        )),
        VALUES | turns(plain=False) | TOOLS | st.builds(lambda m: {"messages": m}, turns(False)),
    )
)  # fmt: skip
def test_any_row_keeps_its_keys(row: Json) -> None:
    """Keys that the format of a row does not know are carried along, or the row is refused."""
    found = format_of(row)
    try:
        read = canonical(row)
    except ValueError:
        return
    assert found in FORMATS
    assert canonical(read) == read
    known = dumped(read)
    for key, value in row.items():
        if key in ("id", "label") and value is not None:
            assert f"{dumped(key)}:" in known


# -- containers --------------------------------------------------------------------------------

OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=3)


def opened(raw: bytes | None, name: str, made: Any = None) -> list[Json]:
    """The rows of a file with this name, or of an object in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if raw is not None:
            path.write_bytes(raw)
        elif made is not None:
            made(path)
        return [row.data for row in Dataset.open(path, spool=Path(folder) / "spool").rows()]


@given(st.lists(OBJECTS, max_size=3), st.sampled_from((None, 0, 1, "\t")), st.booleans(),
       st.booleans(), st.sampled_from(("", "\n", " \r\n\t")))  # fmt: skip
def test_json_array(objects: Any, indent: Any, escaped: bool, mark: bool, around: str) -> None:
    """However it is laid out, with a byte order mark or without."""
    text = json.dumps(objects, indent=indent, ensure_ascii=escaped)
    raw = (b"\xef\xbb\xbf" if mark else b"") + f"{around}{text}{around}".encode()
    assert meaning(opened(raw, "rows.json")) == meaning(objects)


@given(st.lists(OBJECTS, min_size=1, max_size=3), st.booleans(), st.sampled_from(("\n", "\r\n")),
       st.booleans())  # fmt: skip
def test_json_lines(objects: Any, escaped: bool, end: str, last: bool) -> None:
    """Escaped or not, any line end, the last one there or not."""
    text = end.join(json.dumps(one, ensure_ascii=escaped) for one in objects) + (
        end if last else ""
    )
    assert meaning(opened(text.encode(), "rows.jsonl")) == meaning(objects)


@given(st.lists(OBJECTS, min_size=1, max_size=3))
def test_rows_in_memory(objects: Any) -> None:
    """An iterable of dicts."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset.open(iter(objects), spool=Path(folder))
        assert meaning([row.data for row in dataset.rows()]) == meaning(objects)


COLUMNS = ("prompt", "completion", "instruction", "input", "output", "system", "text", "é")
CSV = st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, TEXTS)), max_size=3)
)


@given(CSV, st.sampled_from(",;\t"), st.booleans(), st.sampled_from(("\r\n", "\n")))
def test_csv(cells: list[dict[str, str]], mark: str, quoted: bool, end: str) -> None:
    """Cells with anything in them, JSON that is a text among them; an empty one is no key."""
    cells = [row for row in cells if any(row.values())]
    if not cells:
        return
    if len(cells[0]) == 1:
        mark = ","  # nothing in the head tells
        if all(text.lstrip().startswith("{") for row in cells for text in row.values()):
            return  # JSON lines that a spreadsheet has saved
    file = io.StringIO()
    # The writer of Python 3.11 leaves a carriage return unquoted, which no reader can tell.
    odd = any("\r" in text for row in cells for text in row.values())
    table = csv.DictWriter(
        file,
        [*cells[0]],
        delimiter=mark,
        quoting=csv.QUOTE_ALL if quoted or odd else csv.QUOTE_MINIMAL,
        lineterminator=end,
    )
    table.writeheader()
    table.writerows(cells)
    wanted = [{key: text for key, text in row.items() if text} for row in cells]
    assert opened(file.getvalue().encode(), "rows.csv") == wanted


@given(st.lists(st.tuples(turns(plain=True), TOOLS), min_size=1, max_size=2))
def test_csv_with_nested_cells(given_rows: list[tuple[list[Json], list[Json]]]) -> None:
    """Messages and tools are JSON in their cells."""
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(["messages", "tools"])
    table.writerows([json.dumps(cell) for cell in row] for row in given_rows)
    wanted = [{"messages": messages, "tools": tools} for messages, tools in given_rows]
    assert opened(file.getvalue().encode(), "rows.csv") == wanted


@given(st.lists(TEXTS.map(lambda text: text.replace("\n", " ").strip("\r")), max_size=4))
def test_text(texts: list[str]) -> None:
    """A line is a row, unless the lines are JSON."""
    if "".join(texts).lstrip("\ufeff").strip()[:1] in ("{", "["):
        return
    raw = "".join(f"{text}\n" for text in texts).encode()
    wanted = [{"text": text} for text in texts if text]
    # A mark at the very start is the file's.
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = b"\xef\xbb\xbf" + raw
    assert opened(raw, "rows.txt") == wanted


ARROW = st.lists(
    st.fixed_dictionaries({
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(("user", "assistant")), "content": TEXTS},
                optional={"weight": st.sampled_from((0, 1)), "name": NAMES},
            ),
            min_size=1,
            max_size=3,
        ),
        "tools": TOOLS.map(json.dumps),
        "score": st.floats(allow_nan=False, allow_infinity=False),
    }),
    min_size=1,
    max_size=3,
)  # fmt: skip


@given(ARROW)
def test_parquet(objects: list[Json]) -> None:
    """What Arrow pads is taken out again."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(objects)
    found = opened(None, "rows.parquet", lambda path: parquet.write_table(table, path))
    assert meaning(found) == meaning(objects)


@given(ARROW)
def test_frame(objects: list[Json]) -> None:
    """A pandas frame of the same rows."""
    pandas = pytest.importorskip("pandas")
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset.open(pandas.DataFrame(objects), spool=Path(folder))
        assert meaning([row.data for row in dataset.rows()]) == meaning(objects)


# -- whole files -------------------------------------------------------------------------------

TARGETS_OF = {
    "openai": False,
    "openai-bom": False,
    "trl": False,
    "together": True,
    "sharegpt": True,
}


@pytest.mark.parametrize("to", TARGETS_OF)
def test_whole_files(to: str) -> None:
    """A file converted and opened again; with a byte order mark where it is asked for."""

    @given(st.lists(rows("chat", TARGETS_OF[to]), min_size=1, max_size=3))
    def check(objects: list[Json]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "rows.jsonl", Path(folder) / "out.jsonl"
            source.write_text("".join(f"{dumped(row)}\n" for row in objects), encoding="utf-8")
            done = Dataset.open(source).convert(to, out)
            assert done.rows == len(objects)
            assert out.read_bytes().startswith(b"\xef\xbb\xbf") == (to == "openai-bom")
            assert [meaning(one) for one in read_again(out)] == [meaning(one) for one in objects]

    check()


def read_again(path: Path) -> Iterator[Json]:
    return (canonical(row.data) for row in Dataset.open(path).rows())
