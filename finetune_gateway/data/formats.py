"""Training formats of rows, recognised by their keys: one table.

Each format has a reader, which makes the canonical row (``canonical``) that is judged in
``validation``. A new shape is a reader (``shapes``) and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from finetune_gateway.data import (
    beside,
    chat_texts,
    dialogues,
    function_sets,
    readers,
    shapes,
    sharegpt,
)
from finetune_gateway.data.cells import LABELS
from finetune_gateway.data.dataset import Kind
from finetune_gateway.data.row_reader import MARKS, SYSTEM_KEYS, Reader
from finetune_gateway.data.services.late import (
    anthropic,
    batch,
    bedrock,
    chatgpt_export,
    claude_export,
    cohere,
    encoded,
    evals,
    foreign,
    gemini,
    langchain,
    logs,
    palm,
    responses_api,
)
from finetune_gateway.methods import methods_for
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]
Matches = Callable[[Json], bool]
Candidates: TypeAlias = "tuple[tuple[Format, Matches | None], ...]"

MAX_KEYS = 8  # keys of an unknown row that are shown
_FEW_KEYS = 20  # of a row; those of longer ones are not kept


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: there is one of each
class Format:
    """A known format.

    ``name``: as in reports. ``kind``: of its rows. ``reader``: makes their canonical form.
    ``note``: the code of its note, if any. ``words``: what the note says of the rows, if it is not
    what the rule says. ``methods``: the training methods it suits.
    """

    name: str
    kind: Kind
    reader: Callable[[Reader], Json]
    note: str
    words: str
    methods: frozenset[str]


def _format(
    name: str, kind: Kind, reader: Callable[[Reader], Json], note: str = "", words: str = ""
) -> Format:
    methods = frozenset(methods_for(kind))
    # Reinforcement takes OpenAI's chat rows only, and those have no note.
    return Format(name, kind, reader, note, words, methods - {"reinforcement"} if note else methods)


def _shape(name: str, kind: Kind, reader: Callable[[Reader], Json], words: str) -> Format:
    rows = "pairs" if kind == "preference" else "chat rows"
    return _format(name, kind, reader, "format_shape", f"{words}; read as {rows}")


CHAT = _format("openai-chat", "chat", readers.chat)
PREFERENCE = _format("openai-preference", "preference", readers.preference, "format_preference")
TRL_PREFERENCE = _format(
    "trl-preference", "preference", readers.trl_preference, "format_trl_preference"
)


def _labelled(reader: Reader) -> Json:
    """Read a row of a conversation with a label, whatever the format of the conversation."""
    row, label = reader.row, reader.row["label"]
    rest = {key: value for key, value in row.items() if key != "label"}
    row_format = format_of(rest)
    if row_format is None or row_format in (CHAT, PROMPT_COMPLETION):
        return readers.unpaired(reader)
    reader.row = rest
    read = row_format.reader(reader)
    reader.row = row
    reader.used.add("label")
    return {**read, "label": label}


UNPAIRED = _format(
    "unpaired-preference", "unpaired_preference", _labelled, "format_unpaired_preference"
)
PROMPT_COMPLETION = _format(
    "prompt-completion", "prompt_completion", readers.prompt_completion, "format_prompt_completion"
)
ALPACA = _format("alpaca", "prompt_completion", readers.alpaca, "format_alpaca")
SHAREGPT = _format("sharegpt", "chat", readers.sharegpt, "format_sharegpt")
TEXT = _format("text", "text", readers.text, "format_text")

_DOLLY = _shape(
    "instruction-response", "prompt_completion", shapes.instruction_response,
    "rows of an instruction and its response (Dolly, GPTeacher)",
)  # fmt: skip
_PROMPT_RESPONSE = _shape(
    "prompt-response", "prompt_completion", shapes.prompt_response,
    "rows of a prompt and its response",
)  # fmt: skip
_QUERY_RESPONSE = _shape(
    "query-response", "prompt_completion", shapes.query_response,
    "rows of a query and its response (ms-swift)",
)  # fmt: skip
_TEXT_PAIR = _shape(
    "input-output", "prompt_completion", shapes.text_pair,
    "rows of a text in and a text out (PaLM, watsonx)",
)  # fmt: skip
_INSTANCES = _shape(
    "self-instruct", "prompt_completion", shapes.one_instance,
    "tasks with an instance (Self-Instruct)",
)  # fmt: skip
_ROUNDS = _shape(
    "rounds", "chat", shapes.rounds, "conversations of questions and answers (Firefly, XTuner)"
)
_COHERE = _shape("cohere", "chat", shapes.cohere, "chat rows of Cohere, whose Chatbot is assistant")
_COHERE_HISTORY = _shape(
    "cohere-history", "chat", cohere.read, "requests of Cohere's first Chat API"
)
_AUTHORS = _shape("palm-chat", "chat", palm.read, "chat rows of PaLM, with authors")
_CLAUDE_EXPORT = _shape(
    "claude-export", "chat", claude_export.read, "conversations that Claude's app has exported"
)
_CHATGPT_EXPORT = _shape(
    "chatgpt-export", "chat", chatgpt_export.read, "conversations that ChatGPT has exported"
)
CHAT_TEXT = _shape("chat-text", "chat", chat_texts.read, "conversations as one text in a template")
_MOSS = _shape("moss", "chat", shapes.moss, "conversations of numbered turns (MOSS)")
_HH = _shape(
    "hh-rlhf", "preference", dialogues.hh,
    "pairs of whole dialogues as texts (hh-rlhf), whose common beginning is the prompt",
)  # fmt: skip
_OUTPUT_PAIR = _shape(
    "output-pair", "preference", shapes.output_pair,
    "instructions with two outputs, of which the first is the better",
)  # fmt: skip

_NAMED_PAIR = _shape(
    "named-pair", "preference", beside.named_pair,
    "pairs as preferred and dispreferred, or accepted and rejected",
)  # fmt: skip
_CHOICE = _shape(
    "choice", "preference", beside.choice,
    "two answers, and which of them is the better (PKU-SafeRLHF)",
)  # fmt: skip
_TOOL_TURNS = _shape(
    "tool-turns", "chat", beside.tool_turns, "messages with roles for calls and results (ms-swift)"
)
_FUNCTIONS = _shape(
    "function-calls", "chat", function_sets.function_row,
    "questions with the functions and the calls that answer them (xLAM)",
)  # fmt: skip


# A label says nothing of two answers, of which one is the better anyway.
_BESIDE_PAIR = (*beside.WORSE, "label", "kto_tag")


def _rejected_beside(reader: Reader) -> Json:
    """Read ms-swift's pairs: a row of another format with a worse answer beside it."""
    if "chosen_response" in reader.row:
        return beside.two_responses(reader)
    inner = Reader({key: reader.row[key] for key in reader.row if key not in _BESIDE_PAIR})
    row_format = format_of(inner.row)
    made = row_format.reader(inner) if row_format else {"messages": []}
    reader.errors, reader.origins, reader.unsent = inner.errors, inner.origins, inner.unsent
    reader.lists = inner.lists
    reader.used |= inner.used
    return beside.pair(reader, made)


def _is_rejected_beside(row: Json) -> bool:
    if "chosen_response" in row:
        return "prompt" in row
    inner = {key: row[key] for key in row if key not in _BESIDE_PAIR}
    row_format = format_of(inner)
    return row_format is not None and row_format.kind in ("chat", "prompt_completion")


def _tagged(reader: Reader) -> Json:
    """Read a row of another format with LLaMA-Factory's label beside it.

    https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
    """
    inner = Reader({name: value for name, value in reader.row.items() if name != "kto_tag"})
    row_format = format_of(inner.row)
    made = row_format.reader(inner) if row_format else {"messages": []}
    reader.errors, reader.origins, reader.unsent = inner.errors, inner.origins, inner.unsent
    reader.lists = inner.lists | {"label": "kto_tag"}
    reader.used = inner.used | {"kto_tag"}
    return {**made, "label": reader.row["kto_tag"]}


def _is_tagged(row: Json) -> bool:
    if "label" in row:
        return False
    row_format = format_of({name: value for name, value in row.items() if name != "kto_tag"})
    return row_format is not None and row_format.kind in ("chat", "prompt_completion")


_REJECTED_BESIDE = _shape(
    "rejected-response", "preference", _rejected_beside,
    "answers with a worse one beside (ms-swift)",
)  # fmt: skip
_TAGGED = _shape(
    "labelled", "unpaired_preference", _tagged,
    "answers with a label, true or false (LLaMA-Factory's kto_tag)",
)  # fmt: skip

# Of other services, and logs of requests.
_ANTHROPIC = _shape("anthropic", "chat", anthropic.read, "rows of Anthropic's Messages API")
_BEDROCK = _shape("bedrock-converse", "chat", bedrock.read, "rows of Bedrock's Converse API (Nova)")
_GEMINI = _shape("gemini", "chat", gemini.read, "rows of Gemini, whose model is assistant")
_VERTEX_PAIR = _shape(
    "vertex-preference", "preference", gemini.read_pair, "scored completions of Vertex AI"
)
_RESPONSES = _shape("openai-responses", "chat", responses_api.read, "items of the Responses API")
_BATCH = _shape("batch", "chat", batch.read, "lines of batches")
_LANGCHAIN = _shape("langchain", "chat", langchain.read, "messages of LangChain")
_LOG = _shape("request-log", "chat", logs.read, "logged requests with their answers")
_IDEAL = _shape("evals", "chat", evals.read_ideal, "inputs with their ideal answer (evals)")
_ITEM = _shape("evals-item", "chat", evals.read_item, "items of evals")
_ENCODED = _shape("encoded-turns", "chat", encoded.read, "conversations as JSON in a text")

_ROLES = ("user", "system", "assistant", "developer", "tool")


def _is_chat(row: Json) -> bool:
    """Return True for messages that begin with a role of OpenAI's, without a label."""
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        return False
    first = messages[0]
    return (
        isinstance(first, dict)
        and first.get("role") in _ROLES
        and not ("label" in row and is_label(row["label"]))
        and not _is_foreign(row, messages)
        and (len(row) == 1 or not _is_log(row))
    )


_LABELS = (*LABELS, "positive", "negative", "")


def is_label(value: Any) -> bool:
    """Return True for what says good or bad, or is of a wrong type; a category, a text or a number,
    is no label."""
    if isinstance(value, str):
        return value.strip().lower() in _LABELS
    return value in (-1, 0, 1) if isinstance(value, int | float) else True


def _is_labelled(row: Json) -> bool:
    """Return True for a conversation of any format with a label."""
    if not is_label(row["label"]):
        return False
    rest = format_of({key: row[key] for key in row if key not in ("label", "kto_tag")})
    return rest is not None and rest.kind in ("chat", "prompt_completion")


def _is_log(row: Json) -> bool:
    """Return True for messages without their answer, which is beside them."""
    return not _ANSWERS.isdisjoint(row) and bool(logs.is_log(row))


def _is_foreign(row: Json, messages: list[Any]) -> bool:
    """Return True for messages in the form of a service, which has lists as contents or as the
    system text, or with roles of calls: few rows have either."""
    has_parts = type(row.get("system")) is list
    for one in messages:
        if type(one) is dict:
            if one.get("role") in beside.CALL_ROLES:
                return True
            has_parts = has_parts or type(one.get("content")) is list
    return has_parts and foreign.service_of(row) is not None


def _is_of(service: str) -> Matches:
    """Return what is True for messages in the form of a service."""
    return lambda row: foreign.service_of(row) == service


# In order of precedence: a row that has the key, and that the function takes, is of the format.
_TABLE: tuple[tuple[str, Format, Matches | None], ...] = (
    ("preferred_output", PREFERENCE, None),
    ("non_preferred_output", PREFERENCE, None),
    ("preferred_completion", PREFERENCE, None),
    ("non_preferred_completion", PREFERENCE, None),
    ("rejected_response", _REJECTED_BESIDE, _is_rejected_beside),
    ("rejected_messages", _REJECTED_BESIDE, _is_rejected_beside),
    ("kto_tag", _TAGGED, _is_tagged),
    ("preferred", _NAMED_PAIR, beside.is_named_pair),
    ("accepted", _NAMED_PAIR, beside.is_named_pair),
    ("chosen", _HH, dialogues.is_hh),
    ("chosen", TRL_PREFERENCE, beside.is_side),
    ("rejected", TRL_PREFERENCE, beside.is_side),
    *((key, _CHOICE, beside.is_choice_beside) for key in beside.FIRST),
    ("messages", CHAT, _is_chat),  # most rows
    ("label", UNPAIRED, _is_labelled),
    ("messages", CHAT_TEXT, chat_texts.is_in_text),
    ("custom_id", _BATCH, batch.is_line),
    ("response", _LOG, logs.is_log),
    ("response_body", _LOG, logs.is_log),
    ("choices", _LOG, logs.is_log),
    ("outputs", _LOG, logs.is_log),
    ("response_obj", _LOG, logs.is_log),
    ("responseBody", _LOG, logs.is_log),
    ("modelOutput", _LOG, logs.is_log),
    ("expectedOutput", _LOG, logs.is_log),
    ("expected_output", _LOG, logs.is_log),
    ("message", _LOG, lambda row: "messages" in row and logs.is_log(row)),
    ("output", _RESPONSES, lambda row: type(row["output"]) is list and responses_api.is_row(row)),
    ("output", _LOG, lambda row: "instruction" not in row and logs.is_log(row)),
    ("completion", _LOG, lambda row: type(row.get("prompt")) is not str and logs.is_log(row)),
    ("messages", SHAREGPT, shapes.is_turns),
    ("messages", _TOOL_TURNS, beside.is_tool_turns),
    ("messages", _COHERE, shapes.is_cohere),
    ("messages", _AUTHORS, palm.is_row),
    ("messages", _LANGCHAIN, lambda row: langchain.are_messages(row["messages"])),
    ("messages", _ANTHROPIC, _is_of("anthropic")),
    ("messages", _BEDROCK, _is_of("bedrock")),
    ("messages", _RESPONSES, _is_of("responses")),
    ("messages", CHAT, None),
    ("answers", _FUNCTIONS, function_sets.is_function_row),
    ("conversations", _ROUNDS, shapes.is_rounds),
    ("conversations", SHAREGPT, lambda row: isinstance(row["conversations"], list)),
    ("conversation", _ROUNDS, shapes.is_rounds),
    ("conversation", SHAREGPT, shapes.is_conversation),
    ("chat", _MOSS, shapes.is_moss),
    ("chat_history", _COHERE_HISTORY, cohere.is_row),
    ("chat_messages", _CLAUDE_EXPORT, claude_export.is_row),
    ("mapping", _CHATGPT_EXPORT, chatgpt_export.is_row),
    ("instances", _INSTANCES, shapes.is_task),
    ("instruction", _OUTPUT_PAIR, shapes.is_output_pair),
    ("instruction", _DOLLY, shapes.is_instruction_response),
    ("instruction", ALPACA, lambda row: not shapes.is_scored(row)),
    ("completion", PROMPT_COMPLETION, lambda row: "prompt" in row),
    ("contents", _VERTEX_PAIR, gemini.is_pair),
    ("contents", _GEMINI, None),
    ("item", _ITEM, evals.is_item),
    ("ideal", _IDEAL, evals.is_ideal),
    *((key, CHAT_TEXT, chat_texts.is_in_text) for key in ("conversations", "conversation")),
    ("conversations", _ENCODED, encoded.is_encoded),
    ("conversation", _ENCODED, encoded.is_encoded),
    ("input", PREFERENCE, shapes.is_pair_input),
    ("input", _RESPONSES, responses_api.is_row),
    ("response", _PROMPT_RESPONSE, lambda row: isinstance(row.get("prompt"), str | list)),
    ("response", _QUERY_RESPONSE, lambda row: "query" in row),
    *((key, _CHOICE, beside.is_choice) for key in beside.FIRST),
    ("output_text", _TEXT_PAIR, shapes.is_text_pair),
    ("targets", _TEXT_PAIR, shapes.is_text_pair),
    ("output", _TEXT_PAIR, shapes.is_text_pair),
    ("prompt", PROMPT_COMPLETION, lambda row: isinstance(row["prompt"], str)),
    ("completion", PROMPT_COMPLETION, lambda row: isinstance(row["completion"], str)),
    ("text", TEXT, lambda row: not shapes.is_tree_message(row)),
)  # fmt: skip

_ANSWERS = frozenset(key for key, row_format, _ in _TABLE if row_format is _LOG)
FORMATS = tuple(dict.fromkeys(row_format for _, row_format, _ in _TABLE))

# OpenAI's own: they leave byte for byte, unless a rule of REWRITTEN is broken (``canonical``).
SENT_UNCHANGED = (CHAT, PREFERENCE)
REWRITTEN = frozenset({"system_beside", "tools_beside", "tools_json", "weight_key"})
_SYSTEM = frozenset(SYSTEM_KEYS)

SHAREGPT_ROLES = sharegpt.ROLES


def format_of(row: Json) -> Format | None:
    """Return the format of a row, or None if it is unknown."""
    few = len(row) <= _FEW_KEYS
    for row_format, matches in _of_keys(tuple(row)) if few else _candidates(row):
        if matches is None or matches(row):
            return row_format
    return None


def _candidates(keys: Container[str]) -> Candidates:
    """Return the formats that a row with these keys may be of, in order of precedence."""
    return tuple((row_format, matches) for key, row_format, matches in _TABLE if key in keys)


_of_keys = lru_cache(maxsize=256)(_candidates)  # the rows of a file have the same keys


def is_unchanged(row: Json, row_format: Format | None) -> bool:
    """Return True for a row of OpenAI's own formats that is sent as it is."""
    if row_format is CHAT:
        if len(row) > 1 and not (_SYSTEM.isdisjoint(row) and type(row.get("tools")) is not str):
            return False
        messages = row["messages"]
        return type(messages) is not list or not any(
            type(one) is dict and len(one) > 2 and not MARKS.isdisjoint(one) for one in messages
        )
    if row_format is not PREFERENCE:
        return False
    pair_input = row.get("input")
    held = pair_input if isinstance(pair_input, dict) else {}
    return (
        _SYSTEM.isdisjoint(row)
        and _SYSTEM.isdisjoint(held)
        and not isinstance(held.get("tools"), str)
        and ("tools" not in row or "tools" in held)
    )


def by_name(name: str) -> Format:
    """Return the format of this name."""
    return next(one for one in FORMATS if one.name == name)


def no_format_text(row: Json) -> str:
    """Return why the format of a row is not known."""
    known = shapes.unread(row)
    if known:
        return known[0]
    keys = quoted_keys(row)
    only = next(iter(row.values()), None) if len(row) == 1 else None
    if isinstance(only, dict) and only:
        keys += f", which holds an object with the keys {quoted_keys(only)}"
    return f"no known training format has the keys {keys}" if keys else "the row is an empty object"


def quoted_keys(row: Json) -> str:
    """Return the keys of a row, quoted, bounded in number and length."""
    shown = ", ".join(quoted(key) for key in list(row)[:MAX_KEYS])
    more = len(row) - MAX_KEYS
    return f"{shown} and {more} more" if more > 0 else shown
