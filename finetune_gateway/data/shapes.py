"""Popular shapes of rows: data sets and trainers that have keys of their own.

Each is read where nothing is lost, and is one line in the table of ``formats``. What can only be
recognised is in ``unread``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from finetune_gateway.data.readers import (
    chat,
    pair_of,
    prompt_completion,
    question,
    question_answer,
)
from finetune_gateway.data.row_reader import SYSTEM_KEYS, Reader
from finetune_gateway.text.regex import LazyPattern

Json = dict[str, Any]

REFERENCES = ("ground_truth", "reference_answer", "reference_response", "reward_model")


# -- one question, one answer ------------------------------------------------------------------


def instruction_response(reader: Reader) -> Json:
    """Read Dolly (instruction, context, response) and GPTeacher (instruction, input, response).

    https://huggingface.co/datasets/databricks/databricks-dolly-15k
    """
    beside = "context" if "context" in reader.row else "input"
    return question_answer(reader, ("instruction", beside), "response")


def is_instruction_response(row: Json) -> bool:
    """Return True for an instruction with a response, and no output."""
    return "response" in row and "output" not in row


def prompt_response(reader: Reader) -> Json:
    """Read a prompt and its response, as Databricks and MosaicML have them."""
    return prompt_completion(reader, "response")


def query_response(reader: Reader) -> Json:
    """Read ms-swift's query, response and history.

    https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
    """
    return question_answer(reader, ("query",), "response")


TEXT_PAIRS = {
    "output_text": "input_text",  # text-bison of Vertex AI
    "targets": "inputs",  # FLAN, xP3
    "output": "input",  # watsonx, NeMo
}
_TUNED = "text_input"  # Gemini's first tuning API, beside output


def is_text_pair(row: Json) -> bool:
    """Return True for a text in and a text out under the keys of a service."""
    return bool(_text_pair(row))


def text_pair(reader: Reader) -> Json:
    """Read a text in and a text out.

    https://cloud.google.com/vertex-ai/generative-ai/docs/models/tune-text-models-supervised
    https://www.ibm.com/docs/en/watsonx/saas?topic=tuning-data-formats
    https://ai.google.dev/gemini-api/docs/model-tuning
    """
    asked, answered = _text_pair(reader.row)
    return question_answer(reader, (asked,), answered)


def _text_pair(row: Json) -> tuple[str, ...]:
    for answered, asked in (*TEXT_PAIRS.items(), ("output", _TUNED)):
        if isinstance(row.get(asked), str) and isinstance(row.get(answered), str):
            return asked, answered
    return ()


def is_task(row: Json) -> bool:
    """Return True for an instruction with instances."""
    return "instruction" in row and isinstance(row["instances"], list)


def one_instance(reader: Reader) -> Json:
    """Read a row of Self-Instruct with one instance of its task."""
    instances = reader.row["instances"]
    reader.used |= {"instances", "instruction"}
    if len(instances) != 1 or not isinstance(instances[0], dict):
        reader.refuse("instances", f"a task with {len(instances)} examples, which are one row each")
        return {"messages": []}
    beside = {key: reader.row[key] for key in SYSTEM_KEYS if key in reader.row}
    reader.used |= beside.keys()
    beside["instruction"] = reader.row["instruction"]
    flat = Reader({**beside, **instances[0]})
    read = question_answer(flat, ("instruction", "input"), "output", "missing_output")
    for error in flat.errors:
        place = error.path if error.path in beside else f"instances[0].{error.path}"
        reader.refuse(place, error.reason, error.code, error.fix)
    for key, (path, form) in flat.origins.items():
        inside = path if path in beside else f"instances[0].{path}"
        reader.origins[key] = inside, form
    others = (key for key in instances[0] if key not in flat.used)
    reader.unsent |= {f"instances[].{key}": None for key in others}
    reader.lists["messages"] = "instances[0].output"
    return read


# -- conversations -----------------------------------------------------------------------------

_ROUNDS = (
    ("human", "assistant"), ("input", "output"), ("question", "answer"), ("user", "assistant"),
)  # fmt: skip


def is_rounds(row: Json) -> bool:
    """Return True for a conversation of rounds, each with a question and an answer."""
    first = _first(row["conversation"] if "conversation" in row else row["conversations"])
    return any(asked in first and answered in first for asked, answered in _ROUNDS)


def rounds(reader: Reader) -> Json:
    """Read Firefly's rounds (human, assistant), XTuner's (input, output, and system) and others.

    https://xtuner.readthedocs.io/en/latest/training/multi_turn_conversation.html
    """
    key = "conversation" if "conversation" in reader.row else "conversations"
    reader.used.add(key)
    reader.lists["messages"] = key
    messages: list[Json] = []
    for index, one in enumerate(reader.row[key]):
        path = f"{key}[{index}]"
        if not isinstance(one, dict):
            reader.refuse_type(path, one, "an object with a question and an answer")
            continue
        messages += _round(reader, one, path, first=index == 0)
    return {"messages": reader.with_system(messages), **reader.tools()}


def _round(reader: Reader, one: Json, path: str, *, first: bool) -> list[Json]:
    keys = next((keys for keys in _ROUNDS if keys[0] in one or keys[1] in one), _ROUNDS[0])
    for key in (name for name in one if name not in (*keys, "system")):
        reader.refuse(f"{path}.{key}", "a chat message has no such key")
    messages: list[Json] = []
    if one.get("system"):
        if first:
            messages.append(reader.said("system", one["system"], f"{path}.system"))
        else:
            reader.refuse(f"{path}.system", "a system prompt after the first round")
    for key, role, missing in zip(
        keys, ("user", "assistant"), ("missing_prompt", "missing_completion"), strict=True
    ):
        if isinstance(one.get(key), str):
            messages.append(reader.said(role, one[key], f"{path}.{key}"))
        elif one.get(key) is None:
            reader.refuse(f"{path}.{key}", f"a round without {key!r}", missing)
        else:
            reader.refuse_text(f"{path}.{key}", one[key])
    return messages


_COHERE = {"system": "system", "user": "user", "chatbot": "assistant"}


def is_cohere(row: Json) -> bool:
    """Return True for messages in which the assistant is called Chatbot."""
    messages = row["messages"]
    return isinstance(messages, list) and any(
        isinstance(one, dict) and str(one.get("role")).lower() == "chatbot" for one in messages[:3]
    )


def cohere(reader: Reader) -> Json:
    """Read Cohere's messages: System, User, Chatbot.

    https://docs.cohere.com/v1/docs/chat-preparing-the-data
    """
    row = {**reader.row, "messages": [*map(_cohere_message, reader.row["messages"])]}
    reader.used |= {"messages", "tools"}
    read = chat(reader, row)
    return {"messages": read["messages"], **reader.tools()}


def _cohere_message(message: Any) -> Any:
    role = message.get("role") if isinstance(message, dict) else None
    meant = _COHERE.get(role.lower()) if isinstance(role, str) else None
    return {**message, "role": meant} if meant else message


_MOSS = LazyPattern(r"<\|[A-Za-z ]+\|>:(.*?)(?:<eo[a-z]>)?", re.DOTALL)
_MOSS_TURN = (("Human", "user"), ("MOSS", "assistant"))


def is_moss(row: Json) -> bool:
    """Return True for numbered turns, as in moss-003-sft-data."""
    return isinstance(row["chat"], dict) and "turn_1" in row["chat"]


def moss(reader: Reader) -> Json:
    """Read MOSS: numbered turns with markers, which are taken off.

    https://huggingface.co/datasets/fnlp/moss-003-sft-data
    """
    reader.used |= {"chat", "meta_instruction"}
    reader.lists["messages"] = "chat"
    messages: list[Json] = []
    if not reader.is_empty("meta_instruction"):
        text = reader.row["meta_instruction"]
        messages.append(reader.said("system", text, "meta_instruction"))
    for name, turn in reader.row["chat"].items():
        path = f"chat.{name}"
        if isinstance(turn, dict):
            messages += _moss_turn(reader, turn, path)
        else:
            reader.refuse_type(path, turn, "an object with Human and MOSS")
    return {"messages": reader.with_system(messages)}


def _moss_turn(reader: Reader, turn: Json, path: str) -> list[Json]:
    texts: dict[str, str] = {}
    for key, value in turn.items():
        if not isinstance(value, str):
            reader.refuse_text(f"{path}.{key}", value)
            continue
        marked = _MOSS.fullmatch(value.strip())
        texts[key] = (marked[1] if marked else value).strip()
        if key not in dict(_MOSS_TURN) and texts[key] not in ("", "None"):
            reader.refuse(f"{path}.{key}", "a chat message has no such key")
    return [
        reader.said(role, texts.get(key, ""), f"{path}.{key}")
        for key, role in _MOSS_TURN
        if not isinstance(turn.get(key), str) or key in texts
    ]


# -- pairs -------------------------------------------------------------------------------------


def is_pair_input(row: Json) -> bool:
    """Return True for the input of a pair in OpenAI's form."""
    return isinstance(row["input"], dict) and "messages" in row["input"]


def is_output_pair(row: Json) -> bool:
    """Return True for an instruction with two texts as its output, the better one first."""
    output = row.get("output")
    return (
        isinstance(output, list)
        and len(output) == 2
        and all(isinstance(text, str) for text in output)
    )


def output_pair(reader: Reader) -> Json:
    """Read an instruction with a better and a worse output, as LLaMA-Factory had them."""
    reader.used.add("output")
    good, bad = (
        [reader.said("assistant", text, f"output[{at}]")]
        for at, text in enumerate(reader.row["output"])
    )
    prompt = question(reader, ("instruction", "input"))
    reader.lists["input.messages"] = "instruction"
    read = pair_of(reader, good, bad, prompt)
    reader.lists |= {"preferred_output": "output[0]", "non_preferred_output": "output[1]"}
    return read


# -- turns under another key -------------------------------------------------------------------


def is_turns(row: Json) -> bool:
    """Return True for ShareGPT turns under ``messages``."""
    first = _first(row["messages"])
    return "from" in first and "role" not in first


def is_conversation(row: Json) -> bool:
    """Return True for a list of turns or messages under ``conversation``."""
    first = _first(row["conversation"])
    return "from" in first or "role" in first


def _first(value: Any) -> Json:
    first = value[0] if isinstance(value, list) and value else None
    return first if isinstance(first, dict) else {}


# -- recognised, but not read ------------------------------------------------------------------


def is_tree_message(row: Json) -> bool:
    """Return True for one message of a tree, as in oasst1."""
    return "parent_id" in row and "role" in row


def is_scored(row: Json) -> bool:
    """Return True for an instruction with several scored answers, as in UltraFeedback."""
    return isinstance(row.get("completions"), list) and "output" not in row


def unread(row: Json) -> tuple[str, str] | None:
    """Return what a row is that no reader takes, and the way out; None if it is not known."""
    for key, matches, what, fix in _UNREAD:
        if key in row and (matches is None or matches(row)):
            return what, fix
    return None


_TREE = "this is a tree of messages (OpenAssistant), not a conversation"
_PATHS = (
    "Write one row for each path from a prompt to an answer: "
    '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}.'
)
_UNREAD: tuple[tuple[str, Callable[[Json], bool] | None, str, str], ...] = (
    (
        "cells",
        lambda row: "nbformat" in row,
        "this is a notebook (Jupyter)",
        "If it makes rows, run it and write them to a file, one a line.",
    ),
    ("message_tree_id", None, _TREE, _PATHS),
    *(
        (
            key,
            lambda row, other=other: other in row,
            f"these are two answers, {key!r} and {other!r}, and a score that says which is better",
            'Write the better one as chosen, the other as rejected: {"prompt": ..., "chosen": ..., '
            '"rejected": ...}; a tie makes no pair.',
        )
        for key, other in (
            ("response1", "response2"),
            ("response_a", "response_b"),
            ("human_ref_A", "human_ref_B"),
            ("answer_0", "answer_1"),
        )
    ),
    (
        "summaries",
        lambda row: "choice" in row,
        "these are several summaries, and the number of the better one",
        'Write {"prompt": the text, "chosen": the better summary, "rejected": the other}.',
    ),
    *(
        (
            key,
            lambda row: not {"negative", "neg", "negatives"}.isdisjoint(row),
            "these are texts that are alike and texts that are not, for an embedding model",
            "Models that answer are not trained on them; as a pair: prompt, chosen, rejected.",
        )
        for key in ("positive", "pos", "positives")
    ),
    (
        "attributes.llm.input_messages",
        None,
        "these are attributes of a trace (OpenInference)",
        'Write its messages as {"messages": [...]}: the content of each by its role.',
    ),
    ("replies", None, _TREE, _PATHS),
    ("parent_id", is_tree_message, "this is one message of a tree (OpenAssistant)", _PATHS),
    (
        "completions",
        lambda row: "instruction" in row,
        "this is one instruction with several scored answers (UltraFeedback)",
        "Take a better and a worse answer: prompt, chosen, rejected.",
    ),
    (
        "conversation_a",
        lambda row: "conversation_b" in row,
        "these are two conversations, of which a key names the better one (Chatbot Arena)",
        'Write it as chosen and the other as rejected: {"chosen": [...], "rejected": [...]}; a tie '
        "makes no pair.",
    ),
    (
        "mapping",
        lambda row: isinstance(row["mapping"], dict) and "title" in row,
        "this is a conversation as ChatGPT exports it, with branches: a tree of messages",
        f"{_PATHS} The one that was shown last ends with the node 'current_node'.",
    ),
    (
        "choices",
        lambda row: row.get("object") == "chat.completion.chunk",
        "this is a piece of a streamed answer",
        "Join the pieces of each answer, and write it beside its request: "
        '{"request": {"messages": [...]}, "response": {"choices": [...]}}.',
    ),
    (
        "turns",
        lambda row: "question_id" in row,
        "these are questions without answers (MT-bench)",
        "Join them with answers to the same question_id: "
        '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}.',
    ),
    (
        "choices",
        lambda row: "question_id" in row,
        "these are a model's answers without their questions (MT-bench)",
        "Join them with the questions of the same question_id: "
        '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}.',
    ),
    *(
        (
            key,
            lambda row: "messages" not in row and isinstance(row.get("id"), str),
            "this is an answer without its request, as stored completions and logs have it",
            "Write both on a line: "
            '{"request": the body of the request, "response": the whole answer}.',
        )
        for key in ("choices", "candidates")
    ),
    (
        "gen_ai.input.messages",
        None,
        "these are attributes of a trace (OpenTelemetry)",
        'Write its messages as {"messages": [...]}: the content of each part by its role.',
    ),
    (
        "plain_text",
        lambda row: "num_turns" in row or "[Human]:" in str(row["plain_text"])[:200],
        "this is a dialogue as one text with markers (MOSS)",
        'Write its turns as {"messages": [...]}.',
    ),
    (
        "chat",
        lambda row: str(row["chat"]).lstrip()[:5] == "USER:",
        "this is a conversation as one text, with USER: and ASSISTANT: before its turns (Glaive)",
        'Write its turns as {"messages": [...], "tools": [...]}, a <functioncall> as tool_calls.',
    ),
    *(
        (
            key,
            None,
            f"a question with {key!r} and without an answer looks like reinforcement data",
            'For reinforcement write {"messages": [...]} that ends with the user and keep the key '
            "beside it (--method reinforcement); for other methods add the answer.",
        )
        for key in REFERENCES
    ),
)
