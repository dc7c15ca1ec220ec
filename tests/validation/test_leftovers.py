"""What an export or a template left half done in texts is found, and what is meant is not."""

from __future__ import annotations

from typing import Any

import pytest
from support.rule_sets import rules_of

from finetune_gateway import Dataset, registry
from finetune_gateway.data.canonical import read_as
from finetune_gateway.data.formats import format_of
from finetune_gateway.data.row_access import dumped
from finetune_gateway.findings import Report
from finetune_gateway.preparation.fix_row import fix_row
from finetune_gateway.text.regex import searcher
from finetune_gateway.validation import pipeline, run
from finetune_gateway.validation.dataset.analysis import AnalysisOptions
from finetune_gateway.validation.fast_path import Prefilter
from finetune_gateway.validation.file_bytes import FLAGGED, UNSURE
from finetune_gateway.validation.rows.leftovers import HINTS, leftover_defects

Json = dict[str, Any]
OPENAI, TRL = rules_of("openai"), rules_of("local")


def chat(asked: str, answer: Any, **more: Any) -> Json:
    said = {"role": "assistant", "content": answer, **more}
    return {"messages": [{"role": "user", "content": asked}, said]}


LEFT = [
    (chat("Who are you?", "I am {{name}}, made by {{ author }}."), "placeholder_left"),
    (chat("Who are you?", "I am <NAME>, by <AUTHOR>."), "placeholder_left"),
    (chat("Who made you?", "I was made by [Your Company]."), "placeholder_left"),
    (chat("Who are you?", "I am {name}, your assistant."), "placeholder_left"),
    (chat("A parcel?", "Dear {customer_name}, it is on its way. {{agent}}"), "placeholder_left"),
    (chat("A parcel?", "[INSERT ANSWER HERE]"), "placeholder_left"),
    (chat("Which shop?", "Johnson &amp; Sons, it&#39;s on the left."), "html_entities"),
    (chat(r"Is it so?\n\nAnswer: ", "Yes."), "literal_newline"),
    (chat("Human: Hi\nAssistant: Hello\nHuman: Bye", "Bye."), "dialogue_in_text"),
    ({"text": "<user>: Hi <bot>: Hello"}, "dialogue_in_text"),
    ({"prompt": "### Human: Hi\n### Assistant:", "completion": "Hello"}, "dialogue_in_text"),
    (chat("On?", '<tool_call>\n{"name": "lamp"}\n</tool_call>'), "call_as_text"),
    (chat("On?", '{"name": "lamp", "arguments": {"room": "hall"}}'), "call_as_text"),
    (chat("Dark?", "<think>\nNo window. Yes."), "think_unclosed"),
    (chat("Dark?", "<thinking>No window. Yes."), "think_unclosed"),
    (chat("Dark?", "[THINK]No window. Yes."), "think_unclosed"),
    (chat("Dark?", "<think>\nNo window.\n</think>\n\nYes."), "think_inline"),
    (chat("Dark?", "\n <thinking>No window.</thinking>Yes."), "think_inline"),
    (chat("Dark?", "<reasoning>No window.</reasoning> Yes."), "think_inline"),
    (chat("Dark?", "[THINK]No window.[/THINK]Yes."), "think_inline"),
    (chat("Dark?", "No window.\n</think>\n\nYes."), "think_inline"),
    (chat("Dark?", "<|channel|>analysis<|message|>No window.<|end|>Yes."), "think_inline"),
    (chat("Dark?", "<|START_THINKING|>No window.<|END_THINKING|>Yes."), "think_inline"),
    ({"prompt": "Dark?", "completion": "<think>No.</think> Yes."}, "think_inline"),
]
MEANT = [
    chat("Write a template.", "```\nHello {{name}}\n```"),
    chat("In Vue?", "<p>{{ name }}</p>"),
    chat("In C?", "The body is {name}, as in\nstruct person {\n  char name[20];\n}"),
    chat("In Python?", 'Write print(f"Hello {name}") there.'),
    chat("In LaTeX?", r"\newcommand{name}{\frac{{name}}{2}}"),
    chat("Fill in Hello {{name}}!", "Hello {{name}}!"),
    chat("A cover letter?", "Dear Ms. Lee,\nI apply ...\nSincerely,\n[Your Name]"),
    chat("XML?", "<NAME>Ada</NAME>"),
    chat("How do I write & in HTML?", "Write &amp; there."),
    chat("A page?", "<p>Salt &amp; pepper</p>"),
    chat(r"What does '\n' do in C?", "It breaks the line."),
    chat(r"Simplify \nabla f: \nu X", "Done."),
    chat("Two\nlines with C:\\new. \\nNo", "Yes."),
    chat("A sample chat?", "User: Hi\nBot: Hello"),
    chat("A press release?", "[Company Name] announces a shop."),
    chat("Summarize.\nUser: Hi\nAssistant: Hello", "They greet."),
    chat("As JSON?", '{"name": "Ada", "age": 36}'),
    chat("What does <think> mean?</think>", "It opens a think block."),
    chat("A tag?", "Write <thinking> around it, and </think> after it."),
    chat("Who?", "I am {{name}}.", weight=0),
]


def found(row: Json) -> list[str]:
    """The codes for a row, which a line with it would be searched for too."""
    row_format = format_of(row)
    assert row_format is not None
    text = dumped(row)
    codes = [one.code for one in leftover_defects(text, row, read_as(row, row_format))]
    assert not codes or Prefilter().flags_of([text.encode()])[0] in (FLAGGED, UNSURE)
    return codes


@pytest.mark.parametrize(("row", "code"), LEFT)
def test_what_was_left_is_found(row: Json, code: str) -> None:
    """One finding, of this rule."""
    assert found(row) == [code]


@pytest.mark.parametrize("row", MEANT)
def test_what_is_meant_is_left_alone(row: Json) -> None:
    """Code, LaTeX, HTML, letters to fill in, and what the prompt has too."""
    assert found(row) == []


def test_earlier_answers_and_the_last_are_told_apart() -> None:
    """Templates treat the blocks of earlier turns otherwise; a pair has its last answer alone."""
    block = "<think>No window.</think>Yes."
    earlier, last = chat("Dark?", block), chat("Dark?", block)
    row = {"messages": [*earlier["messages"], *chat("And cold?", "Yes.")["messages"]]}
    for one, which in ((row, "an earlier answer"), (last, "the last answer")):
        (note,) = judged(one, OPENAI).findings
        assert (note.code, note.severity, note.kind) == ("think_inline", "note", which)
        assert f"{which} begins with <think>...</think>" in note.message.lower()
        assert "reasoning_content" in note.fix and "leave it in the text" in note.fix
    assert fix_row(row) == (row, [])
    pair = {"prompt": "Dark?", "chosen": block, "rejected": "No."}
    assert found(pair) == ["think_inline"]


def test_the_path_is_the_users() -> None:
    """A finding names the field of the row as it was written."""
    row = {"instruction": "Who are you?", "input": "", "output": "I am {{name}}."}
    row_format = format_of(row)
    assert row_format is not None
    (defect,) = leftover_defects(dumped(row), row, read_as(row, row_format))
    assert (defect.code, defect.path) == ("placeholder_left", "output")
    assert searcher(*HINTS)(dumped(row))
    report = run.validate(Dataset.open([chat(f"Who is {n}?", "I am {{name}}.") for n in range(12)]))
    (one,) = report.warnings
    assert (one.code, one.path, one.count) == ("placeholder_left", "messages[1].content", 12)


# -- parts, reasoning, what is cut -------------------------------------------------------------

CALL = {"id": "call_1", "type": "function", "function": {"name": "lamp", "arguments": "{}"}}
EMPTY: list[Any] = ["", None, "  ", [], [{"type": "text", "text": ""}]]


def called(content: Any, result: Any, **call: Any) -> Json:
    """A row with a call, the content beside it, and its result."""
    messages = [
        {"role": "user", "content": "Is the lamp on?"},
        {"role": "assistant", "content": content, **(call or {"tool_calls": [CALL]})},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
        {"role": "assistant", "content": "It is."},
    ]
    function = {"name": "lamp", "parameters": {"type": "object", "properties": {}}}
    return {"messages": messages, "tools": [{"type": "function", "function": function}]}


def judged(row: Json, rules: Any) -> Report:
    """The report on twelve such rows."""
    report = run.validate(Dataset.open([row] * 12), backends=rules)
    kept = [one for one in report.findings if one.code != "duplicates"]
    return report.model_copy(update={"findings": kept})


@pytest.mark.parametrize("content", EMPTY)
def test_an_empty_content_beside_calls_is_no_defect(content: Any) -> None:
    """However it is written: playgrounds export an empty part."""
    assert judged(called(content, "yes"), OPENAI).findings == []


def test_parts_of_a_result_are_written_as_one_text() -> None:
    """OpenAI is warned of them; local templates are shown the text; --fix writes it."""
    row = called(None, [{"type": "text", "text": "It is "}, {"type": "text", "text": "on."}])
    (one,) = judged(row, OPENAI).findings
    assert (one.code, one.severity, one.path) == ("tool_parts", "warning", "messages[2].content")
    assert judged(row, TRL).findings == []
    mended, changes = fix_row(row)
    assert mended["messages"][2]["content"] == "It is on."
    assert "tool_parts" in {change.code for change in changes}


def test_an_object_as_a_result_is_written_as_json() -> None:
    """It is an error, which names --fix as the way out."""
    row = called(None, {"on": True})
    (one,) = judged(row, OPENAI).errors
    assert one.code == "type_error" and "--fix" in one.fix
    mended, _ = fix_row(row)
    assert mended["messages"][2]["content"] == '{"on": true}'
    assert judged(mended, OPENAI).findings == []


def test_nothing_left_to_learn_is_an_error() -> None:
    """Answers that are all cut off leave nothing; where a part is left it is a warning with its
    share, the limit, and what raises it."""
    rows = [chat(f"{number} " + "word " * 900, "Yes.") for number in range(12)]
    backend = registry.load("local")
    report = pipeline.validate(Dataset.open(rows), model="builtin/tiny", runner=backend)
    (error,) = report.errors
    assert error.code == "nothing_left" and "--set max_length" in error.fix
    rows[0] = chat("Is it on?", "Yes.")
    report = pipeline.validate(Dataset.open(rows), model="builtin/tiny", runner=backend)
    (cut,) = (one for one in report.warnings if one.code == "row_cut")
    assert not report.errors and "11 of 12 rows" in cut.message and "max_length" in cut.fix


LONG = "word " * 300
CUT: dict[str, tuple[str, Any, str]] = {  # the method, a row, and what is said of twelve of it
    "a prompt longer than the limit": (
        "sft", {"prompt": LONG, "completion": "Yes."}, "nothing_left"),
    "an answer that is cut": ("sft", {"prompt": "Hi", "completion": LONG}, "row_cut"),
    "a last turn that is cut": (
        "sft", {"messages": [*chat("Hi", "Yes.")["messages"], *chat(LONG, "No.")["messages"]]},
        "row_cut"),
    "a system text longer than the limit": (
        "sft", {"system": LONG, "prompt": "Hi", "completion": "Yes."}, "nothing_left"),
    "a pair behind a long prompt": (
        "dpo", {"prompt": LONG, "chosen": "Yes.", "rejected": "No."}, "nothing_left"),
    "a pair that differs behind the limit": (
        "orpo", {"prompt": "Hi", "chosen": f"{LONG}a", "rejected": f"{LONG}b"}, "nothing_left"),
    "a labelled answer behind a long prompt": (
        "kto", {"prompt": LONG, "completion": "Yes.", "label": True}, "nothing_left"),
}  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_what_the_limit_cuts_away_is_said_in_every_format(name: str) -> None:
    """An error where nothing is left, else a warning with the rows, the share and the limit."""
    method, row, code = CUT[name]
    report = pipeline.validate(
        Dataset.open([row] * 12), model="builtin/tiny", runner=registry.load("local"),
        method=method, training={"max_length": 64}, options=AnalysisOptions(quality=False),
    )  # fmt: skip
    found = {one.code: one for one in report.errors + report.warnings}
    assert code in found and report.ok == (code == "row_cut")
    words = found["row_cut"].message
    assert "longer than 64 tokens" in words and "% of the tokens to train are cut off" in words
    assert all("--set max_length=N" in one.fix for one in report.errors)


def test_the_key_with_reasoning_is_not_to_be_removed() -> None:
    """The advice keeps what the model should learn, where its template drops it too."""
    rows = [chat(f"Is room {n} dark?", "Yes.", reasoning_content="No window.") for n in range(12)]
    report = pipeline.validate(
        Dataset.open(rows), model="builtin/tiny", runner=registry.load("local")
    )
    (dropped,) = (one for one in report.warnings if one.code == "template_drops")
    assert dropped.fix.startswith("Keep the key.") and "<think>" in dropped.fix
    (hosted,) = run.validate(Dataset.open(rows), backends=OPENAI).warnings
    assert hosted.code == "reasoning_key" and "<think>" in hosted.fix


BROKEN = r"It is on.\n\nIt is warm."  # the two characters \ and n


def with_arguments(text: str) -> Json:
    """A row of which a call has this text among its arguments."""
    function = {"name": "lamp", "arguments": dumped({"note": text, "times": 2})}
    return called(None, "yes", tool_calls=[{**CALL, "function": function}])


def is_looked_at(line: str) -> bool:
    """True if the texts of the row are looked at one by one."""
    flag = Prefilter().flags_of([line.encode()])[0]
    return flag in (FLAGGED, UNSURE) and searcher(*HINTS)(line)


@pytest.mark.parametrize("spaces", [("", ""), (" ", "\t "), ("\t", "\r")])
@pytest.mark.parametrize(
    "row",
    [
        chat(BROKEN, "Yes."),
        chat("Is it?", [{"text": BROKEN, "type": "text"}]),
        {"arguments": [], **chat("Is it?", BROKEN)},
        {"prompt": f'"{BROKEN}" is a text', "completion": "Yes."},
        {"history": [[BROKEN, "Yes."]], "instruction": "Is it?", "output": "Yes."},
        *(
            {name: BROKEN}
            for name in ("arms", "parts", "moments", "contents", "documents", "xguments")
        ),
        {"messages": [*called(None, BROKEN)["messages"], *chat("Is it?", "Yes.")["messages"]]},
    ],
)
def test_no_line_break_is_passed_over_but_in_arguments(row: Json, spaces: tuple[str, str]) -> None:
    """Whatever the key is called and whatever stands around its colon."""
    line = dumped(row).replace('": ', f'"{spaces[0]}:{spaces[1]}')
    assert BROKEN.replace("\\", "\\\\") in line
    assert is_looked_at(line)


def test_line_breaks_in_arguments_need_no_second_look() -> None:
    """There they are how JSON writes a line break: nearly all calls with a longer text have one."""
    row = with_arguments("It is on.\n\nIt is warm.")
    assert r"\\n" in dumped(row) and not is_looked_at(dumped(row))
    row["messages"][0]["content"] = BROKEN
    assert is_looked_at(dumped(row))
    assert found(row) == ["literal_newline"]
