"""The rules about the inside of a row: severity, title, reason and fix of each code.

The rules about bytes, JSON, formats and the whole file are in ``file_rules``; ``collector`` joins
the two tables. Each rule has a severity for two families of backends: *hosted* (OpenAI's API) and
*local* (training on this machine). The rules come from OpenAI's guides and training schemas and
from public bug reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune_gateway.findings import Severity

Family = Literal["hosted", "local"]

E: Severity = "error"
W: Severity = "warning"
N: Severity = "note"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that a dataset can break. A severity of None: it does not count.

    ``autofix``: what ``--fix`` does; empty: nothing. ``unread``: a broken rule means that other
    rows were not checked, so it cannot be ignored.
    """

    hosted: Severity | None
    local: Severity | None
    title: str
    why: str
    fix: str
    autofix: str = ""
    unread: bool = False

    def severity(self, family: Family) -> Severity | None:
        """Return the severity for a family of backends."""
        return self.hosted if family == "hosted" else self.local


_SCHEMA = {
    "missing_messages": Rule(
        E, E, "no 'messages'", "A conversation is a list under the key 'messages'.",
        "Add it, or remove the row.",
    ),
    "empty_messages": Rule(
        E, E, "'messages' is empty", "It has nothing to learn.", "Remove the row.",
    ),
    "type_error": Rule(
        E, E, "a value of the wrong type", "OpenAI's training schema does not allow it here.",
        "Change the value to that type.",
    ),
    "missing_role": Rule(
        E, E, "a message without 'role'",
        "OpenAI refuses the file: \"Discriminator 'role' is missing in value\".",
        "Add role: system, user, assistant or tool.",
    ),
    "missing_content": Rule(
        E, E, "a message without 'content'",
        "Only an assistant message with tool calls may omit it.",
        "Add the text, or remove the message.",
    ),
    "empty_content": Rule(
        W, W, "an empty message", "It is usually a gap in the export.",
        "Fill it in, or remove the row.",
    ),
    "unknown_key": Rule(
        W, N, "a key that no training format has",
        "OpenAI may refuse the file because of it; local training ignores it.",
        "Remove the key.",
    ),
    "reasoning_key": Rule(
        W, None, "a key with reasoning, which OpenAI's format does not have",
        "OpenAI may refuse the file because of it; a local model learns it where its template "
        "writes reasoning (ftg validate --model says if it does not).",
        "For OpenAI, remove the key; for a local model, keep it.",
    ),
    "name_chars": Rule(
        W, None, "a name with characters that OpenAI does not accept",
        "Names have letters, digits, _ and -, at most 64.", "Rename it.",
    ),
    "null_key": Rule(
        W, N, "a key that is null", "Some validators treat null as a value of the wrong type.",
        "Remove the key.",
        autofix="Removes the key.",
    ),
}  # fmt: skip

_ROLES = {
    "unknown_role": Rule(
        E, E, "a role that does not exist",
        "The roles are system, developer, user, assistant, tool (and the deprecated function).",
        "Correct the role.",
        autofix="Replaces human by user, and gpt, bot, chatgpt, ai and model by assistant; fixes "
        "case and spaces; does not guess other words.",
    ),
    "developer_role": Rule(
        W, W, "the role 'developer'",
        "OpenAI's schema for supervised training has no such role, and local templates do not "
        "know it; it is treated as system.",
        "Change it to system.",
    ),
    "last_not_assistant": Rule(
        E, W, "the last message is not from the assistant",
        "Training teaches the assistant's answers; anything after the last one is not learned.",
        "Add the answer, or remove what follows the last one.",
    ),
    "no_assistant": Rule(
        E, E, "no assistant message", "There is no answer to learn.",
        "Add the answer, or remove the row.",
    ),
    "no_user": Rule(
        W, W, "no user message",
        "The model would learn to answer without a question; this is often an export error.",
        "Add the question, or remove the row.",
    ),
    "system_not_first": Rule(
        W, W, "a system message that is not the first",
        "Many local chat templates refuse or drop it.",
        "Move it to the start, or merge it with the first one.",
    ),
    "same_role_twice": Rule(
        W, W, "two messages of the same role in a row",
        "OpenAI accepts it; other providers and many local templates refuse it.",
        "Merge the two messages.",
    ),
    "assistant_first": Rule(
        W, W, "the assistant speaks first",
        "Several local templates refuse a conversation that does not start with the user.",
        "Start with a user message.",
    ),
    "empty_assistant": Rule(
        E, W, "an assistant message without content", "The model would learn to give no answer.",
        "Write the answer, or remove the row.",
    ),
}  # fmt: skip

_TOOLS = {
    "tools_json": Rule(
        E, E, "'tools' is not a list", "OpenAI requires a list of tools, not a string.",
        'Write a list: "tools": [{"type": "function", "function": {...}}].',
    ),
    "tools_missing": Rule(
        W, W, "tools are called, but the row lists none",
        "The model would learn to call functions that were not offered.",
        "Add the list 'tools' to the row.",
    ),
    "tools_empty": Rule(
        W, None, "an empty list of tools", "OpenAI's chat API refuses an empty list.",
        "Remove the key.",
    ),
    "tools_too_many": Rule(
        E, None, "more than 128 tools", "OpenAI accepts at most 128.", "Offer fewer tools.",
    ),
    "tool_type": Rule(
        E, W, "'type' must be \"function\"", "It is the only kind of tool in training data.",
        'Add "type": "function".',
    ),
    "tool_name": Rule(
        E, E, "a function without a valid name",
        "Names have letters, digits, _ and -, at most 64.", "Rename the function.",
    ),
    "tool_duplicate": Rule(
        W, W, "the same tool twice", "It costs tokens and can confuse the model.",
        "Keep one of them.",
    ),
    "tool_schema": Rule(
        E, E, "the parameters of a tool are not a JSON Schema",
        "OpenAI refuses the file, and templates would show the model invalid parameters.",
        'Write {"type": "object", "properties": {...}}; omit the key if there are none.',
    ),
    "tool_schema_top": Rule(
        E, None, "the parameters of a tool have a combination at the top level",
        "OpenAI accepts no anyOf, oneOf, allOf, not or enum at the top of the parameters.",
        "Write the properties of one object there; a property may use the keyword.",
    ),
    "tool_schema_items": Rule(
        E, None, "an array parameter without 'items'",
        "OpenAI reports \"array schema missing items\".", 'Add "items".',
    ),
    "tool_schema_required": Rule(
        W, W, "'required' names a parameter that is not declared",
        "The model cannot know what to fill in.", "Declare it, or remove it from 'required'.",
    ),
    "tool_calls_role": Rule(
        E, E, "tool calls in a message that is not the assistant's",
        "Only the assistant calls tools.", "Move them to an assistant message.",
    ),
    "tool_calls_empty": Rule(
        W, None, "an empty list of tool calls", "Some validators refuse an empty list.",
        "Remove the key.",
    ),
    "tool_id_missing": Rule(
        E, W, "a tool call or result without its id",
        "Results are matched to calls by their id.", "Add the id.",
    ),
    "tool_id_duplicate": Rule(
        E, W, "two tool calls with the same id", "A result could belong to either.",
        "Give each call its own id.",
    ),
    "tool_id_reused": Rule(
        W, W, "the id of an earlier tool call is used again",
        "A result could belong to either.", "Give each call its own id.",
    ),
    "tool_undeclared": Rule(
        E, W, "a call of a tool that the row does not offer",
        "The model would learn to invent functions.",
        "Correct the name, or add the tool to 'tools'.",
    ),
    "tool_args_type": Rule(
        E, W, "tool arguments are not a string",
        "OpenAI's API has them as JSON in a string, Hugging Face templates as an object.",
        "Write them with json.dumps(arguments).",
        autofix="Writes an object as JSON in a string.",
    ),
    "tool_args_json": Rule(
        E, E, "tool arguments are not valid JSON", "The model would learn to write broken calls.",
        'Write a JSON object in a string; "{}" for no arguments.',
        autofix="Replaces an empty text by {}; does not guess anything else.",
    ),
    "tool_args_object": Rule(
        E, E, "tool arguments are JSON, but not an object",
        "Arguments are passed by name.", "Write a JSON object in a string.",
    ),
    "tool_args_double_encoded": Rule(
        W, W, "tool arguments are encoded twice",
        "The model would learn to write a JSON string instead of JSON.",
        "Call json.dumps once.",
        autofix="Removes the second encoding.",
    ),
    "tool_args_schema": Rule(
        W, W, "tool arguments that do not fit the tool's parameters",
        "OpenAI accepts them, and the model would learn to call the tool incorrectly.",
        "Correct the arguments, or the parameters of the tool.",
    ),
    "tool_result_orphan": Rule(
        E, W, "a tool result without a call before it",
        "OpenAI refuses a tool message without a matching call.",
        "Add the call, or remove the result.",
    ),
    "tool_result_missing": Rule(
        E, W, "a tool call without a result",
        "Every call needs a tool message before the conversation continues.",
        "Add the result, or end the row with the call.",
    ),
    "tool_result_order": Rule(
        None, W, "tool results in another order than their calls",
        "Many local templates show results without ids, so the model sees only their order.",
        "Put the results in the order of the calls.",
    ),
    "tools_and_functions": Rule(
        E, W, "both 'tools' and the deprecated 'functions'", "Only one of them can be used.",
        "Keep 'tools'.",
    ),
    "deprecated_functions": Rule(
        W, W, "the deprecated form: functions, function_call, role function",
        "OpenAI has deprecated it, and local templates do not know it.",
        "Use tools, tool_calls and role tool.",
    ),
    "parallel_without_tools": Rule(
        W, None, "parallel_tool_calls without tools",
        "OpenAI accepts it only together with tools.",
        "Remove it.",
    ),
}  # fmt: skip

_WEIGHTS_AND_PARTS = {
    "weight_role": Rule(
        E, E, "a weight on a message that is not the assistant's",
        "Only answers are trained, so only they can have a weight.", "Remove the weight.",
    ),
    "weight_value": Rule(
        E, E, "a weight that is not 0 or 1", "OpenAI's schema accepts only the integers 0 and 1.",
        "Write 0 (do not train on it) or 1.",
    ),
    "nothing_to_learn": Rule(
        E, E, "every answer has weight 0", "No token of the row would be trained.",
        "Give one answer weight 1, or remove the row.",
    ),
    "part_field": Rule(
        E, E, "a content part is malformed",
        'A text part is {"type": "text", "text": "..."}, an image part '
        '{"type": "image_url", "image_url": {"url": "..."}}.',
        "Use that form.",
    ),
    "part_type": Rule(
        E, E, "a content part of an unknown type",
        "The types are text and image_url, and refusal in answers.",
        "Use one of these types.",
    ),
    "part_unsupported": Rule(
        W, E, "audio or a file as a content part",
        "Hosted fine-tuning supports only text and images, local training only text.",
        "Remove it.",
    ),
    "image_role": Rule(
        E, E, "an image outside a user message", "Only user messages can have images.",
        "Move it to a user message.",
    ),
    "image_local": Rule(
        None, E, "an image", "Local training supports only text.",
        "Use a hosted vision model, or remove the image.",
    ),
    "image_url_forbidden": Rule(
        E, E, "an image URL that must not be fetched",
        "Plain http, other schemes and addresses inside a network are refused; "
        "the gateway itself never fetches images.",
        "Use a public https URL or a data: URL.",
    ),
    "image_path": Rule(
        E, E, "an image given as a file path",
        "A provider cannot read your files, and the gateway opens no file that a row names.",
        "Use an image_url part with a data: URL.",
    ),
    "media_beside": Rule(
        E, E, "audio or video next to the messages",
        "No supported fine-tuning format accepts audio or video, and the gateway opens no file "
        "that a row names.",
        "Remove the key, and its placeholders in the texts.",
    ),
    "image_data": Rule(
        E, E, "a data: URL that is not a valid image",
        "OpenAI accepts JPEG, PNG and WEBP in base64, up to 10 MB.",
        "Encode the image as data:image/png;base64,...",
    ),
    "image_count": Rule(
        E, None, "more than 10 images in a row", "OpenAI accepts 10 per example.",
        "Split the example.",
    ),
}  # fmt: skip

_PREFERENCE = {
    "method_mismatch": Rule(
        E, E, "the rows do not fit the training method",
        "A method trains rows of its own kind, and no others.",
        "Choose the method for these rows, or convert the rows.",
    ),
    "missing_input": Rule(
        E, E, "a preference row without 'input'", "Both answers need their question.",
        'Add "input": {"messages": [...]}.',
    ),
    "missing_preferred": Rule(
        E, E, "the better answer is missing", "A pair needs both answers.",
        "Add it, or remove the row.",
    ),
    "missing_non_preferred": Rule(
        E, E, "the worse answer is missing", "A pair needs both answers.",
        "Add it, or remove the row.",
    ),
    "preference_key": Rule(
        E, E, "an outdated key", "The API reads preferred_output and non_preferred_output.",
        "Rename preferred_completion to preferred_output, and the other likewise.",
        autofix="Renames the keys.",
    ),
    "preference_role": Rule(
        E, E, "an answer of a pair that is not the assistant's",
        "Both sides of a pair are assistant messages.", "Use the role assistant.",
    ),
    "preference_turns": Rule(
        E, W, "more than one message in an answer of a pair",
        "OpenAI accepts one assistant message on each side.", "Move the earlier turns to 'input'.",
    ),
    "preference_input_end": Rule(
        W, W, "the input of a pair ends with the assistant",
        "The answers would follow an answer.", "End 'input' with the user's message.",
    ),
    "preference_identical": Rule(
        E, E, "both answers of a pair are the same", "There is no preference to learn.",
        "Remove the row.",
    ),
    "preference_whitespace": Rule(
        W, W, "the answers of a pair differ in nothing but whitespace",
        "What is learned from it is where to put spaces and line breaks.",
        "Remove the row, unless that is what is meant.",
    ),
    "preference_prompt_differs": Rule(
        E, E, "the two answers belong to different prompts",
        "A pair compares two answers to the same question.",
        "Give both the same messages except the last one.",
    ),
    "preference_text_only": Rule(
        E, E, "an image in a preference row", "Preference training supports only text.",
        "Remove the image.",
    ),
    "label": Rule(
        E, E, "'label' is not true or false", "KTO needs a boolean.", "Write true or false.",
    ),
}  # fmt: skip

ROW_GROUPS: dict[str, dict[str, Rule]] = {
    "Messages": _SCHEMA,
    "Roles and their order": _ROLES,
    "Tools": _TOOLS,
    "Weights, parts and images": _WEIGHTS_AND_PARTS,
    "Preferences": _PREFERENCE,
}
