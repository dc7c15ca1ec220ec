"""Calls of tools as text, for a model whose chat template has no tools.

The list of tools, calls and results become texts before the model's own template sees them. This is
written into the template that is saved with the trained model, so whatever serves it asks in the
same way, and reads calls by the format's own parser.
"""

from __future__ import annotations

from finetune_gateway.errors import SpecError

# The format of Hermes (NousResearch, Hermes Function Calling), which vLLM reads with
# --tool-call-parser hermes: one JSON object for each call.
HERMES = """\
{#- The list of tools, calls and results as text, in the format of Hermes. -#}
{%- set as_text = namespace(messages=[], tools='', result='') -%}
{%- if tools -%}
    {%- set as_text.tools = 'You may call these tools:\\n<tools>' -%}
    {%- for tool in tools -%}
        {%- set as_text.tools = as_text.tools + '\\n' + (tool | tojson) -%}
    {%- endfor -%}
    {%- set as_text.tools = as_text.tools + '\\n</tools>\\nTo call one, write:\\n<tool_call>\\n' -%}
    {%- set as_text.tools = as_text.tools + '{"name": ..., "arguments": {...}}\\n</tool_call>' -%}
{%- endif -%}
{%- for message in messages -%}
    {%- set parts = message.content and message.content is not string -%}
    {%- set text = message.content | map(attribute='text') | join if parts else message.content -%}
    {%- set written = namespace(text=text or '') -%}
    {%- set result = message.role == 'tool' -%}
    {%- if result -%}
        {%- set written.text = '<tool_response>\\n' + written.text + '\\n</tool_response>' -%}
        {%- if not loop.first and loop.previtem.role == 'tool' -%}
            {%- set written.text = as_text.result + '\\n' + written.text -%}
            {%- set as_text.messages = as_text.messages[:-1] -%}
        {%- endif -%}
        {%- set as_text.result = written.text -%}
    {%- elif message.tool_calls -%}
        {%- for call in message.tool_calls -%}
            {%- set given = call.function.arguments -%}
            {%- set given = given if given is string else given | tojson -%}
            {%- set written.text = written.text + ('\\n' if written.text else '') -%}
            {%- set written.text = written.text + '<tool_call>\\n{"name": ' -%}
            {%- set written.text = written.text + (call.function.name | tojson) -%}
            {%- set written.text = written.text + ', "arguments": ' + given + '}\\n</tool_call>' -%}
        {%- endfor -%}
    {%- elif loop.first and as_text.tools -%}
        {%- set both = [written.text, as_text.tools] -%}
        {%- set both = both if message.role == 'system' else both | reverse | list -%}
        {%- set written.text = both | select | join('\\n\\n') -%}
    {%- endif -%}
    {%- set content = [dict(type='text', text=written.text)] if parts else written.text -%}
    {%- if result -%}
        {%- set as_text.messages = as_text.messages + [dict(role='user', content=content)] -%}
    {%- elif written.text == text -%}
        {%- set as_text.messages = as_text.messages + [message] -%}
    {%- else -%}
        {%- set message = dict(message, content=content, tool_calls=[]) -%}
        {%- set as_text.messages = as_text.messages + [message] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = as_text.messages -%}
{%- set tools = none -%}
"""
CALL_FORMATS = {"hermes": HERMES}


def with_calls_as_text(source: str, call_format: str | None) -> str:
    """Return the source of a chat template that is given calls as text in this format. Raises
    SpecError for an unknown one."""
    if call_format is None:
        return source
    if call_format not in CALL_FORMATS:
        raise SpecError(
            f"There is no call_format {call_format!r}.", hint=f"Use: {', '.join(CALL_FORMATS)}."
        )
    head = CALL_FORMATS[call_format]
    return source if source.startswith(head) else head + source
