"""Rows as the model sees them: the tokens and marks, the screen, the page, bad and huge rows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import ROOT
from tokenizers import Tokenizer, decoders, models

import finetune_gateway as gateway
from finetune_gateway.backends.local import builtin
from finetune_gateway.errors import DataError, NotFoundError, SpecError, UnsupportedError
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate
from finetune_gateway.tokens.encodings import TextCounter, encoding_for
from finetune_gateway.tokens.masks.local import LocalRenderer
from finetune_gateway.tokens.masks.preview import MAX_TOKENS, Preview, Sequence
from finetune_gateway.tokens.token_text import decode_bytes, text_by_id, visible

HOSTED = "gpt-4.1-mini-2025-04-14"
TINY = "builtin/tiny"
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"id": "A-1"}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find an order",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
    },
}


def turns(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}


PLAIN = turns(("user", "Where is my parcel?"), ("assistant", "On its way."))
HISTORY = turns(("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two"))
HISTORY["messages"][1]["weight"] = 0
WITH_TOOLS = {
    "messages": [
        {"role": "user", "content": "Find A-1"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "in the depot"},
        {"role": "assistant", "content": "In the depot."},
    ],
    "tools": [TOOL],
}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Where is my parcel?"}]},
    "preferred_output": [{"role": "assistant", "content": "It comes on Tuesday."}],
    "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
}
TRL_PAIR = {"prompt": "Where is my parcel?", "chosen": "It comes on Tuesday.", "rejected": "No."}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    """Template and tokenizer of the built-in model."""
    return ChatTemplate.load(builtin.ensure_tokenizer(tmp_path_factory.mktemp("model") / "tiny"))


def said(preview: Preview) -> str:
    """The trained text."""
    return "".join(token.text for token in preview.tokens if token.trained)


def written(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# -- tokens and marks ----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 12, 1000])
@pytest.mark.parametrize("row", [PLAIN, HISTORY, WITH_TOOLS], ids=["plain", "history", "tools"])
@pytest.mark.parametrize("train_on", ["assistant", "last_assistant", "all"])
def test_a_local_preview_is_what_training_computes(
    template: ChatTemplate, row: dict[str, Any], limit: int | None, train_on: Any
) -> None:
    """Ids and trained tokens up to the limit are those of ChatTemplate.encode; none is beyond."""
    masker = LocalRenderer(template, TINY, train_on=train_on, limit=limit)
    (sequence,) = masker.preview(row).sequences
    [encoded] = template.encode(row, train_on=train_on, max_length=limit)
    seen = [token for token in sequence.tokens if not token.truncated]
    assert [token.id for token in seen] == encoded.input_ids
    assert [token.id if token.trained else IGNORED for token in seen] == encoded.labels
    assert not any(token.trained for token in sequence.tokens if token.truncated)
    assert (sequence.total, sequence.trained) == (encoded.length, encoded.trained)
    assert sequence.truncated == encoded.length - len(encoded.input_ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=2, max_size=2))
def test_the_texts_of_local_tokens_are_the_rendered_row(
    template: ChatTemplate, texts: list[str]
) -> None:
    """Joined, with lone bytes put together again, they say what the template wrote."""
    row = turns(("user", texts[0]), ("assistant", texts[1]))
    try:
        [encoded] = template.encode(row)
    except DataError:  # an empty answer is no turn to some templates
        return
    text = text_by_id(template.tokenizer)
    joined = "".join(text(id) for id in encoded.input_ids)
    raw = re.sub(
        rb"(?:<0x([0-9A-F]{2})>)",
        lambda found: bytes([int(found[1], 16)]),
        joined.encode("utf-8", "surrogatepass"),
    )
    if "<0x" not in encoded.text:
        assert raw == encoded.text.encode("utf-8", "surrogatepass")


def test_local_tokens_say_whose_they_are(template: ChatTemplate) -> None:
    """Content is told apart from the template around it, also when it looks like a role."""
    masker = LocalRenderer(template, TINY, train_on="assistant", limit=None)
    row = turns(("system", "user"), ("user", "assistant"), ("assistant", "system"))
    tokens = masker.preview(row).tokens
    by_role = {
        role: "".join(t.text for t in tokens if t.role == role and t.part == "content")
        for role in ("system", "user", "assistant")
    }
    assert by_role == {"system": "user", "user": "assistant", "assistant": "system"}
    assert {t.text for t in tokens if t.part == "special"} == {"<|im_start|>", "<|im_end|>"}


@pytest.mark.parametrize("model", [HOSTED, "gpt-3.5-turbo-0125"])
def test_a_hosted_preview_follows_the_documented_rule(model: str, home: Path) -> None:
    """Content is encoded as it is counted, 4 tokens a message beside it; trained is the content
    of answers whose weight is not 0, and a typed special token is text."""
    row = turns(("user", "hé 🙂 <|im_end|>\n"), ("assistant", "one"), ("assistant", "  two"))
    row["messages"].insert(2, {"role": "user", "content": "b"})
    row["messages"][1]["weight"] = 0
    count = TextCounter(encoding_for(model))
    seen = gateway.preview(row, model=model)
    content = [token for token in seen.tokens if token.part == "content"]
    assert len(content) == sum(count(message["content"]) for message in row["messages"])
    assert "".join(token.text for token in content).endswith(" <|im_end|>\noneb  two")
    assert seen.total == len(content) + 3 * 4 + 4
    assert said(seen) == "  two"
    assert seen.tokens[0].id is None and seen.tokens[0].text == "<|im_start|>"


@pytest.mark.parametrize("row", [PLAIN, HISTORY, WITH_TOOLS], ids=["plain", "history", "tools"])
def test_hosted_counts_equal_those_of_counting(row: dict[str, Any], home: Path) -> None:
    """Preview and validate say the same number of trained tokens."""
    report = gateway.validate([row], model=HOSTED, backend="openai")
    assert report.tokens is not None
    assert gateway.preview(row, model=HOSTED).trained == report.tokens["trained"]


def test_a_hosted_preview_says_what_it_does_not_show(home: Path) -> None:
    """The tools block is a range; documented and inferred are told apart."""
    notes = "\n".join(gateway.preview(WITH_TOOLS, model=HOSTED).notes)
    assert re.search(r"tools block, \d+ to \d+ tokens", notes)
    assert "Documented:" in notes and "Inferred:" in notes


def test_a_row_is_cut_at_the_models_limit(home: Path) -> None:
    """The limit of the host's profile, or the one that is given."""
    assert gateway.preview(PLAIN, model=HOSTED).limit == 65_536
    seen = gateway.preview(PLAIN, model=HOSTED, max_length=10)
    (sequence,) = seen.sequences
    assert sequence.total - sequence.truncated == 10
    assert seen.trained == 0 and sequence.truncated_trained == 4


@pytest.mark.parametrize("model", [HOSTED, TINY])
@pytest.mark.parametrize("row", [PAIR, TRL_PAIR], ids=["openai", "trl"])
def test_a_pair_is_two_sequences(row: dict[str, Any], model: str, home: Path) -> None:
    """They share the prompt; trained are the two answers."""
    seen = gateway.preview(row, model=model)
    chosen, rejected = seen.sequences
    assert (chosen.name, rejected.name) == ("chosen", "rejected")
    assert chosen.tokens[: chosen.prompt] == rejected.tokens[: rejected.prompt]
    assert chosen.tokens[chosen.prompt].trained and rejected.tokens[chosen.prompt].trained
    texts = ["".join(t.text for t in one.tokens if t.trained) for one in seen.sequences]
    assert texts[0].startswith("It comes on Tuesday.") and texts[1].startswith("No")


def test_answers_inside_the_prompt_of_a_pair_are_not_trained(home: Path) -> None:
    """Only what is compared carries a loss, with the prompt given or shared by both answers."""
    whole = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "before"}]
    whole.append({"role": "user", "content": "r"})
    good, bad = ([{"role": "assistant", "content": text}] for text in ("yes", "no"))
    given_prompt = {"prompt": whole, "chosen": good, "rejected": bad}
    shared_prompt = {"chosen": [*whole, *good], "rejected": [*whole, *bad]}
    for row in (given_prompt, shared_prompt):
        assert said(gateway.preview(row, model=HOSTED)) == "yesno"


def test_a_dataset_shows_its_own_rows(home: Path, train_file: Path) -> None:
    """Dataset.preview is Gateway.preview of that dataset."""
    (seen,) = gateway.Dataset.open(train_file).preview(model=HOSTED, rows=[4])
    assert seen == gateway.preview(train_file, model=HOSTED, rows=[4])[0]
    assert (seen.line, said(seen)) == (4, "Parcel 3 comes on day 3.")


@pytest.mark.parametrize("model", [HOSTED, TINY])
def test_every_format_has_a_preview(model: str, home: Path) -> None:
    """Alpaca, ShareGPT, prompt and completion, labelled and plain text."""
    rows: list[dict[str, Any]] = [
        {"instruction": "Say", "input": "x", "output": "hello"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "hello"}]},
        {"prompt": "q", "completion": "hello"},
        {"prompt": "q", "completion": "hello", "label": True},
        {"text": "hello"},
    ]
    for row in rows:
        seen = gateway.preview(row, model=model)
        assert seen.ok, seen.findings
        assert said(seen).startswith("hello")


def test_what_a_preview_cannot_do_is_refused(home: Path, train_file: Path) -> None:
    """An unknown encoding, another train_on at a host, an option that changes nothing, a line
    that is not there."""
    with pytest.raises(UnsupportedError, match="encoding of 'mistral-large'"):
        gateway.preview(PLAIN, model="mistral-large", backend="openai")
    with pytest.raises(UnsupportedError, match="train_on"):
        gateway.preview(PLAIN, model=HOSTED, train_on="all")
    with pytest.raises(SpecError, match="seed"):
        wrong: Any = {"seed": 3}
        gateway.preview(PLAIN, model=HOSTED, **wrong)
    with pytest.raises(NotFoundError, match="no line 13"):
        gateway.preview(train_file, model=HOSTED, rows=[1, 13])
    with pytest.raises(SpecError, match="from 1"):
        gateway.preview(train_file, model=HOSTED, rows=[0])


# -- signs ---------------------------------------------------------------------------------


@given(st.text())
def test_nothing_stays_hidden(text: str) -> None:
    """Whatever the text, every shown character prints, and none is a space."""
    shown = visible(text)
    assert shown.isprintable() and " " not in shown


@given(st.binary())
def test_bytes_become_text(raw: bytes) -> None:
    """Valid UTF-8 is decoded; each other byte is named."""
    text = decode_bytes(raw)
    try:
        assert text == raw.decode()
    except UnicodeDecodeError:
        assert re.search(r"<0x[0-9A-F]{2}>", text)


def test_signs() -> None:
    """Whitespace has signs; direction marks, controls and combining marks are named."""
    assert visible("a b\n\t\r") == "a␣b⏎⇥␍"
    assert visible("\u202e\x1b[31m\u200b") == "<U+202E><U+001B>[31m<U+200B>"
    assert visible("\u0301x") == "◌\u0301x"
    assert decode_bytes(b"\x99\x82 a\xf0\x9f") == "<0x99><0x82> a<0xF0><0x9F>"


def test_a_huge_sequence_is_counted_but_not_kept() -> None:
    """Memory stays bounded; the figures are of all tokens."""
    sequence = Sequence()
    sequence.add([7] * (MAX_TOKENS + 5), str, MAX_TOKENS + 2, True)
    assert (len(sequence.tokens), sequence.left_out) == (MAX_TOKENS, 5)
    figures = (sequence.total, sequence.trained, sequence.truncated, sequence.truncated_trained)
    assert figures == (MAX_TOKENS + 5, MAX_TOKENS + 2, 3, 3)


# -- the command ---------------------------------------------------------------------------


def ftg(*args: object, columns: int = 80) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": str(columns), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "finetune_gateway", "preview", *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_the_screen(home: Path, tmp_path: Path) -> None:
    """Marks stand below the trained tokens; lines fit 80 columns; a bad row is reported as validate
    does, with its line, and the command ends with 3."""
    answer = "It comes on Tuesday, by noon. " * 8
    bad = '{"messages": [{"role": "usr", "content": "\\u202e"}]}'
    long = turns(("user", "Where \u202e is it?"), ("assistant", answer.strip()))
    data = written(tmp_path / "train.jsonl", PLAIN, bad, long, "", "{broken")
    done = ftg(data, "--model", HOSTED, "--row", 1, "--row", 2, "--row", 3, "--row", 5)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    below = lines[lines.index("<|im_start|>assistant<|im_sep|>On␣its␣way.<|im_end|>") + 1]
    assert below == " " * 31 + "^-^---^---^"
    assert "[unknown_role]" in done.stdout and "[json_syntax]" in done.stdout
    assert "line 5" in done.stdout and "<0xAE>" in done.stdout and "\u202e" not in done.stdout
    assert max(map(len, lines)) <= 80


def test_the_default_is_the_first_three_rows(home: Path, train_file: Path) -> None:
    """Without --row; blank lines are not counted as rows."""
    done = ftg(train_file, "--model", TINY, "--json")
    rows = json.loads(done.stdout)["rows"]
    assert [row["line"] for row in rows] == [1, 2, 3] and done.returncode == 0
    token = rows[0]["sequences"][0]["tokens"][0]
    assert token["text"] == "<|im_start|>" and token["trained"] is False


def test_one_token_a_line(home: Path, train_file: Path) -> None:
    """--tokens lists id, state, speaker, part and text of each."""
    done = ftg(train_file, "--model", TINY, "--row", 2, "--tokens", "--set", "max_length=20")
    listed = [line.split() for line in done.stdout.splitlines()]
    specials = [words for words in listed if words[-1:] == ["<|im_start|>"]]
    assert specials[0] == ["1", "-", "special", "<|im_start|>"]
    assert any("trained" in words for words in listed)
    assert any(words[1:3] == ["cut", "off"] for words in listed)


def test_colours_underline_what_is_trained(home: Path, train_file: Path) -> None:
    """On a terminal a trained token is underlined and green; NO_COLOR brings the marks back."""
    code = (
        "import pty, os, sys; os.environ['COLUMNS'] = '80';"
        f"sys.exit(os.waitstatus_to_exitcode(pty.spawn([{sys.executable!r}, '-m',"
        f"'finetune_gateway', 'preview', {str(train_file)!r}, '--model', {HOSTED!r}])))"
    )
    for colour in (True, False):
        env = os.environ | {"TERM": "xterm", "PYTHONPATH": str(ROOT)}
        env = {k: v for k, v in env.items() if k != "NO_COLOR"} | (
            {} if colour else {"NO_COLOR": "1"}
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0
        assert ("\x1b[4;32m" in done.stdout) is colour
        assert ("^--" in done.stdout) is not colour


def test_a_local_pair_shows_what_is_compared(home: Path, tiny_at_home: None) -> None:
    """What both sides begin with is marked on neither, though it is an answer's; a pair without a
    difference within the limit says that it is left out."""
    pair = {"prompt": "Where?", "chosen": "It comes today.", "rejected": "It comes never."}
    seen = gateway.preview(pair, model=TINY)
    assert [said(Preview(1, sequences=[one])) for one in seen.sequences] == [
        " today.<|im_end|>", " never.<|im_end|>",
    ]  # fmt: skip
    shared = seen.sequences[0].tokens[: seen.sequences[0].prompt]
    assert "".join(token.text for token in shared).endswith("It comes")
    assert any(note.startswith("Compared is what differs") for note in seen.notes)
    cut = gateway.preview(pair, model=TINY, max_length=seen.sequences[0].prompt)
    assert cut.ok and cut.trained == 0
    assert any(note.startswith("There is nothing to compare") for note in cut.notes)


def test_a_label_marks_the_last_answer_alone(home: Path, tiny_at_home: None) -> None:
    chat = [("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two")]
    seen = gateway.preview({**turns(*chat), "label": False}, model=TINY)
    assert said(seen) == "two<|im_end|>"
    assert "The answer is labelled bad; training makes it less likely." in seen.notes
    assert [one.name for one in seen.sequences] == ["labelled bad"]


def test_texts_are_shown_without_a_chat_template(
    home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """By what the rows are, or by the method that is named; a row that is none of its is judged."""
    base = shutil.copytree(tiny_tokenizer, tmp_path / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": None}))
    rows = written(tmp_path / "texts.jsonl", {"text": "Where is my parcel?"})
    [seen] = gateway.preview(rows, model=str(base))
    assert said(seen) == "Where is my parcel?<|im_end|>"
    assert [token.part for token in seen.tokens].count("special") == 1
    [by_name] = gateway.preview(rows, model=str(base), method="pretrain", max_length=8)
    assert by_name.tokens == seen.tokens and by_name.truncated == 0
    assert "pieces of 8 tokens" in by_name.notes[0]
    with pytest.raises(SpecError, match="no chat template"):
        gateway.preview(PLAIN, model=str(base))
    with pytest.raises(SpecError, match="train_on is no setting of pretrain"):
        gateway.preview(rows, model=str(base), train_on="assistant")
    wrong = gateway.preview(PLAIN, model=TINY, backend="local", method="dpo")
    assert [one.code for one in wrong.findings if one.severity == "error"] == ["method_mismatch"]


@pytest.mark.parametrize("columns", [79, 80])
def test_answers_of_a_pair_stand_side_by_side_where_they_fit(
    columns: int, home: Path, tmp_path: Path
) -> None:
    """In 80 columns beside each other, in fewer below."""
    done = ftg(written(tmp_path / "pairs.jsonl", PAIR), "--model", HOSTED, columns=columns)
    lines = done.stdout.splitlines()
    beside = any("Tuesday" in line and "No␣idea" in line for line in lines)
    assert beside is (columns == 80)
    assert max(map(len, lines)) <= columns


def test_a_huge_row_is_cut_on_the_screen(home: Path, tmp_path: Path) -> None:
    """A megabyte in one row: a bounded screen that says what it leaves out."""
    data = written(tmp_path / "big.jsonl", turns(("user", "q"), ("assistant", "word " * 200_000)))
    done = ftg(data, "--model", HOSTED)
    assert len(done.stdout) < 40_000
    assert "tokens left out" in done.stdout and "cut off at 65,536" in done.stdout


def test_the_page(home: Path, tmp_path: Path) -> None:
    """One file: data is escaped, nothing is loaded, trained tokens carry their ids."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    data = written(tmp_path / "a<b>.jsonl", turns(("user", evil), ("assistant", evil)), PAIR, "[")
    out = tmp_path / "page.html"
    done = ftg(data, "--model", HOSTED, "--html", out, "-q")
    assert done.returncode == 3 and done.stdout == f"{out}\n"
    page = out.read_text(encoding="utf-8")
    assert not re.search(r"<(script|img|link|iframe)|https?://|@import|url\(", page)
    spans = re.findall(
        r'<span class="t[^"]*trained[^"]*" title="id \d+[^"]*">(.*?)</span><wbr>', page
    )
    shown = "".join(unescape(re.sub(r"<.*?>", "", span)) for span in spans)
    assert evil.replace(" ", "␣") in shown
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert 'id="line-3"' in page


def test_the_page_never_replaces_the_data(home: Path, train_file: Path) -> None:
    """--html with the data's own name is refused."""
    before = train_file.read_bytes()
    done = ftg(train_file, "--model", HOSTED, "--html", train_file)
    assert done.returncode == SpecError.exit_code
    assert train_file.read_bytes() == before and "is the data file" in done.stderr


@pytest.mark.shared
def test_bad_files_give_findings(home: Path, shared: Path) -> None:
    """Every bad file beside the checkout: a preview, findings or a refusal; no other error."""
    masker = gateway.Gateway()
    for path in sorted((shared / "data" / "bad_inputs").iterdir()):
        if path.name == "manifest.json" or path.is_dir():
            continue
        try:
            rows = masker.preview(path, model=HOSTED)
        except (DataError, NotFoundError):
            continue
        assert all(row.ok or row.findings for row in rows), path.name


def test_pieces_of_sentencepiece_are_read() -> None:
    """Models of the Llama 2 kind write a space as U+2581 and lone bytes as <0xE2>."""
    tokenizer = Tokenizer(models.BPE({"▁a": 0, "<0xE2>": 1, "b": 2}, []))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    assert [text_by_id(tokenizer)(id) for id in (0, 1, 2)] == [" a", "<0xE2>", "b"]
