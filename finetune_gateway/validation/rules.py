"""Every code a finding can carry: how severe it is where, why it matters, what to do.

The table is in two halves: here the rules about what is inside a row, in ``file_rules`` those
about bytes, JSON, formats and the file as a whole; ``findings`` joins them. Two families of
backends are judged: *hosted* (OpenAI's wire contract) and *local* (training on this machine).
The rules and their outcomes come from OpenAI's guides and training schemas and from public bug
reports.
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
    """One thing that can be said about a dataset. A severity of None: nothing is said.

    ``mends``: what ``--fix`` does about it; empty: nothing. ``unread``: where it is found, other
    rows were not looked at, so it cannot be ignored.
    """

    hosted: Severity | None
    local: Severity | None
    title: str
    why: str
    fix: str
    autofix: str = ""
    unread: bool = False

    def severity(self, family: Family) -> Severity | None:
        """How severe this is for one family of backends."""
        return self.hosted if family == "hosted" else self.local


_SCHEMA = {
    "missing_messages": Rule(
        E, E, "no 'messages'", "A conversation is a list under the key 'messages'.",
        "Add it, or remove the row.",
    ),
    "empty_messages": Rule(
        E, E, "'messages' is empty", "There is nothing to learn from it.", "Remove the row.",
    ),
    "type_error": Rule(
        E, E, "a value of the wrong type", "OpenAI's training schema does not allow it here.",
        "Write it as the type that is named.",
    ),
    "missing_role": Rule(
        E, E, "a message without 'role'",
        "OpenAI refuses the file: \"Discriminator 'role' is missing in value\".",
        "Add role: system, user, assistant or tool.",
    ),
    "missing_content": Rule(
        E, E, "a message without 'content'", "Only an assistant that calls tools may leave it out.",
        "Add the text, or remove the message.",
    ),
    "empty_content": Rule(
        W, W, "an empty message", "It is usually a gap in the export.",
        "Fill it in, or remove the row.",
    ),
    "unknown_key": Rule(
        W, N, "a key that no training format has",
        "OpenAI may refuse the file for it; local training does not read it.",
        "Remove the key.",
    ),
    "name_chars": Rule(
        W, None, "a name with characters OpenAI does not take",
        "Letters, digits, _ and - are safe, 64 at most.", "Rename it.",
    ),
    "null_key": Rule(
        W, N, "a key that is null", "Some validators take null for a value of the wrong type.",
        "Leave the key out.",
        autofix="Leaves the key out.",
    ),
}  # fmt: skip

_ROLES = {
    "unknown_role": Rule(
        E, E, "a role that does not exist",
        "Roles are system, developer, user, assistant, tool (and the old function).",
        "Correct the role.",
        autofix="Writes user for human, assistant for gpt, bot, chatgpt, ai and model, and "
        "fixes case and spaces; another word is not guessed.",
    ),
    "developer_role": Rule(
        W, W, "the role 'developer'",
        "OpenAI's schema for supervised training has no such role, and local templates do not "
        "know it; it is read as system.",
        "Write system.",
    ),
    "last_not_assistant": Rule(
        E, W, "the last message is not from the assistant",
        "Training teaches the assistant's answers; what follows the last one is not learnt.",
        "Add the answer, or remove what follows the last one.",
    ),
    "no_assistant": Rule(
        E, E, "no assistant message", "There is no answer to learn.",
        "Add the answer, or remove the row.",
    ),
    "no_user": Rule(
        W, W, "no user message", "The model would learn to answer nobody; often an export fault.",
        "Add the question, or remove the row.",
    ),
    "system_not_first": Rule(
        W, W, "a system message that is not the first",
        "Many local chat templates refuse it or drop it.",
        "Move it to the front, or merge it with the first one.",
    ),
    "same_role_twice": Rule(
        W, W, "two messages of the same role in a row",
        "OpenAI takes it; other providers and many local templates refuse it.",
        "Join the two messages.",
    ),
    "assistant_first": Rule(
        W, W, "the assistant speaks first",
        "Several local templates refuse a conversation that no user begins.",
        "Begin with a user message.",
    ),
    "empty_assistant": Rule(
        E, W, "an assistant message that says nothing", "The model would learn to stay silent.",
        "Write the answer, or remove the row.",
    ),
}  # fmt: skip

_TOOLS = {
    "tools_json": Rule(
        E, E, "'tools' is not a list", "OpenAI wants a list of tools, not a string.",
        'Write a list: "tools": [{"type": "function", "function": {...}}].',
    ),
    "tools_missing": Rule(
        W, W, "tools are called, but the row lists none",
        "The model would learn to call functions that nobody offered.",
        "Add the list 'tools' to the row.",
    ),
    "tools_empty": Rule(
        W, None, "an empty list of tools", "OpenAI's chat API refuses an empty list.",
        "Leave the key out.",
    ),
    "tools_too_many": Rule(
        E, None, "more than 128 tools", "OpenAI takes 128 at most.", "Offer fewer tools.",
    ),
    "tool_type": Rule(
        E, W, "'type' must be \"function\"", "It is the only kind of tool in training data.",
        'Add "type": "function".',
    ),
    "tool_name": Rule(
        E, E, "a function without a usable name",
        "Names are letters, digits, _ and -, 64 at most.", "Give it such a name.",
    ),
    "tool_duplicate": Rule(
        W, W, "the same tool twice", "It costs tokens and confuses.", "Keep one of them.",
    ),
    "tool_schema": Rule(
        E, E, "the parameters of a tool are no JSON Schema",
        "OpenAI refuses the file, and templates would show the model nonsense.",
        'Write {"type": "object", "properties": {...}}; leave the key out where there are none.',
    ),
    "tool_schema_top": Rule(
        E, None, "the parameters of a tool are combined from others",
        "OpenAI takes no anyOf, oneOf, allOf, not or enum at the top of the parameters.",
        "Write the properties of one object there; the keyword may stand inside a property.",
    ),
    "tool_schema_items": Rule(
        E, None, "an array parameter without 'items'",
        "OpenAI answers \"array schema missing items\".", 'Add "items".',
    ),
    "tool_schema_required": Rule(
        W, W, "'required' names a parameter that is not declared",
        "The model cannot know what to fill in.", "Declare it, or take it out of 'required'.",
    ),
    "tool_calls_role": Rule(
        E, E, "tool calls on a message that is not the assistant's",
        "Only the assistant calls tools.", "Move them to an assistant message.",
    ),
    "tool_calls_empty": Rule(
        W, None, "an empty list of tool calls", "Some validators refuse an empty list.",
        "Leave the key out.",
    ),
    "tool_id_missing": Rule(
        E, W, "a tool call or result without its id",
        "Results are matched to calls by their id.", "Add the id.",
    ),
    "tool_id_duplicate": Rule(
        E, W, "two tool calls with the same id", "A result could belong to either.",
        "Give each call an id of its own.",
    ),
    "tool_id_reused": Rule(
        W, W, "the id of an earlier tool call is used again",
        "A result could belong to either.", "Give each call an id of its own.",
    ),
    "tool_undeclared": Rule(
        E, W, "a tool is called that the row does not offer",
        "The model would learn to invent functions.",
        "Correct the name, or add the tool to 'tools'.",
    ),
    "tool_args_type": Rule(
        E, W, "tool arguments are not a string",
        "On OpenAI's wire they are JSON in a string, in Hugging Face templates an object.",
        "Write them with json.dumps(arguments).",
        autofix="Writes an object as JSON in a string.",
    ),
    "tool_args_json": Rule(
        E, E, "tool arguments are not valid JSON", "The model would learn to write broken calls.",
        'Write a JSON object in a string; "{}" for no arguments.',
        autofix="Writes {} for an empty text; anything else is not guessed.",
    ),
    "tool_args_object": Rule(
        E, E, "tool arguments are JSON, but not an object",
        "Arguments are given by name.", "Write a JSON object in a string.",
    ),
    "tool_args_double_encoded": Rule(
        W, W, "tool arguments are encoded twice",
        "The model would learn to write a string of JSON instead of JSON.",
        "Call json.dumps once.",
        autofix="Takes the second encoding off.",
    ),
    "tool_args_schema": Rule(
        W, W, "tool arguments that do not fit the tool's parameters",
        "OpenAI takes them, and the model would learn to call the tool wrongly.",
        "Correct the arguments, or the parameters of the tool.",
    ),
    "tool_result_orphan": Rule(
        E, W, "a tool result without a call before it",
        "OpenAI refuses a tool message that answers no call.",
        "Add the call, or remove the result.",
    ),
    "tool_result_missing": Rule(
        E, W, "a tool call that is never answered",
        "Every call must be answered by a tool message before the conversation goes on.",
        "Add the result, or end the row with the call.",
    ),
    "tool_result_order": Rule(
        None, W, "tool results in another order than their calls",
        "Many local templates show results without ids, so the order is all the model sees.",
        "Put the results into the order of the calls.",
    ),
    "tools_and_functions": Rule(
        E, W, "both 'tools' and the old 'functions'", "One or the other can be offered.",
        "Keep 'tools'.",
    ),
    "deprecated_functions": Rule(
        W, W, "the old form: functions, function_call, role function",
        "OpenAI has deprecated it, and local templates do not know it.",
        "Write tools, tool_calls and role tool.",
    ),
    "parallel_without_tools": Rule(
        W, None, "parallel_tool_calls without tools",
        "OpenAI takes it only where tools are listed.",
        "Leave it out.",
    ),
}  # fmt: skip

_WEIGHTS_AND_PARTS = {
    "weight_role": Rule(
        E, E, "a weight on a message that is not the assistant's",
        "Only answers are trained, so only they can be weighted.", "Remove the weight.",
    ),
    "weight_value": Rule(
        E, E, "a weight that is not 0 or 1", "OpenAI's schema takes the integers 0 and 1 only.",
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
        "Write the part in that form.",
    ),
    "part_type": Rule(
        E, E, "a content part of an unknown type",
        "Parts are text and image_url; refusal on answers.",
        "Use one of these types.",
    ),
    "part_unsupported": Rule(
        W, E, "audio or a file as a content part",
        "Fine-tuning guides know text and images only; local training reads text.",
        "Leave it out.",
    ),
    "image_role": Rule(
        E, E, "an image outside a user message", "Only users can show images.",
        "Move it to a user message.",
    ),
    "image_local": Rule(
        None, E, "an image", "Local training here reads text only.",
        "Use a hosted vision model, or leave the image out.",
    ),
    "image_url_forbidden": Rule(
        E, E, "an image address that must not be fetched",
        "Plain http, other schemes and addresses inside a network are refused; "
        "the gateway itself never fetches one.",
        "Use a public https address or a data: URL.",
    ),
    "image_path": Rule(
        E, E, "an image given as a file path",
        "A provider cannot see your files, and the gateway opens none that a row names.",
        "Use an image_url part with a data: URL.",
    ),
    "media_beside": Rule(
        E, E, "sound or video beside the messages",
        "No fine-tuning format here takes sound or video, and the gateway opens no file that a "
        "row names.",
        "Remove the key, and the marks in the texts that stand for it.",
    ),
    "image_data": Rule(
        E, E, "a data: URL that is no usable image",
        "OpenAI takes JPEG, PNG and WEBP, base64, up to 10 MB.",
        "Encode the image as data:image/png;base64,...",
    ),
    "image_count": Rule(
        E, None, "more than 10 images in a row", "OpenAI takes 10 per example.",
        "Split the example.",
    ),
}  # fmt: skip

_PREFERENCE = {
    "method_mismatch": Rule(
        E, E, "the rows do not fit the training method",
        "OpenAI answers that the input file is in another format than the method takes.",
        "Choose the method that fits the rows, or convert the rows.",
    ),
    "missing_input": Rule(
        E, E, "a preference row without 'input'", "Both answers need the question they answer.",
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
        E, E, "an outdated key", "The service reads preferred_output and non_preferred_output.",
        "Rename preferred_completion to preferred_output, likewise the other.",
        autofix="Renames the keys.",
    ),
    "preference_role": Rule(
        E, E, "an answer of a pair that is not the assistant's",
        "Both sides of a pair are assistant messages.", "Write role assistant.",
    ),
    "preference_turns": Rule(
        E, W, "more than one message in an answer of a pair",
        "OpenAI takes one assistant message on each side.", "Move the earlier turns to 'input'.",
    ),
    "preference_input_end": Rule(
        W, W, "the input of a pair ends with the assistant",
        "The answers would follow an answer.", "End 'input' with the user's message.",
    ),
    "preference_identical": Rule(
        W, W, "both answers of a pair are the same", "There is no preference to learn.",
        "Remove the row.",
    ),
    "preference_prompt_differs": Rule(
        E, E, "the two answers belong to different prompts",
        "A pair compares two answers to the same question.",
        "Give both the same messages up to the last one.",
    ),
    "preference_text_only": Rule(
        E, E, "an image in a preference row", "Preference training takes text only.",
        "Leave the image out.",
    ),
    "label": Rule(
        E, E, "'label' is not true or false", "KTO reads a boolean.", "Write true or false.",
    ),
}  # fmt: skip

ROW_GROUPS: dict[str, dict[str, Rule]] = {
    "Messages": _SCHEMA,
    "Roles and their order": _ROLES,
    "Tools": _TOOLS,
    "Weights, parts and images": _WEIGHTS_AND_PARTS,
    "Preferences": _PREFERENCE,
}
