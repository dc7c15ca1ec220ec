"""A chat template of Jinja in Go's text/template, the language of Ollama: derived from what it
renders, and compared on conversations.

No Jinja is translated. A planted conversation shows what the template writes before, between and
after the texts, and that is written down in Go. What a template does beyond that, such as trimming
a text, Go cannot be made to do: it is named, or the template is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_gateway.errors import SpecError
from finetune_gateway.tokens.model_folder import ModelFiles, read_model_files
from finetune_gateway.tokens.template_process import template_process

Message = dict[str, Any]
Render = Callable[[Sequence[Message]], str | None]

SYSTEM, USERS, ANSWERS = "qsystemq", ("qasksoneq", "qaskstwoq", "qasksthreeq"), ("qsaysoneq",
    "qsaystwoq")  # fmt: skip
NOW, LATER = 1_700_000_000.0, 1_735_000_000.0  # two days
HINT = "Serve it by vLLM, SGLang or transformers, which read the template itself."
TOOL = {
    "type": "function",
    "function": {
        "name": "qlookq",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
    },
}


@dataclass(frozen=True)
class GoTemplate:
    """What a chat template writes around texts. Each part is that before a text, from the end of
    the one before it."""

    first: str  # before the first message of a user
    system: str | None  # before a system prompt; None if the template takes none
    behind_system: str  # before the first message of a user, behind a system prompt
    answer: str
    later: str  # before any other message of a user
    opening: str  # of the answer that is asked for
    limits: tuple[str, ...] = ()  # what the trained template does and this one does not

    @property
    def text(self) -> str:
        """Return it in Go. ``Messages``, ``Role`` and ``Content`` are what Ollama fills in."""
        system = "" if self.system is None else f"{literal(self.system)}{{{{ $m.Content }}}}"
        return (
            '{{ range $i, $m := .Messages }}{{ if eq $m.Role "system" }}'
            f"{system}"
            '{{ else if eq $m.Role "user" }}{{ if eq $i 0 }}'
            f"{literal(self.first)}"
            '{{ else if and (eq $i 1) (eq (index $.Messages 0).Role "system") }}'
            f"{literal(self.behind_system)}"
            "{{ else }}"
            f"{literal(self.later)}"
            "{{ end }}{{ $m.Content }}"
            '{{ else if eq $m.Role "assistant" }}'
            f"{literal(self.answer)}{{{{ $m.Content }}}}"
            "{{ end }}{{ end }}"
            f"{literal(self.opening)}"
        )

    def render(self, messages: Sequence[Message]) -> str:
        """Return what Go makes of it, without Go."""
        made = []
        for index, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if role == "system":
                made += [] if self.system is None else [self.system, content]
            elif role == "user":
                behind = index == 1 and messages[0]["role"] == "system"
                before = self.behind_system if behind else self.later
                made += [self.first if index == 0 else before, content]
            elif role == "assistant":
                made += [self.answer, content]
        return "".join([*made, self.opening])


def literal(text: str) -> str:
    """Return a text so that Go writes it as it is, and a Modelfile keeps it: as it stands, or as a
    string of Go where it would mean something, or Ollama would drop a character."""
    plain = all(one.isprintable() or one in "\n\t" for one in text)
    if plain and not re.search(r"\{\{|\}\}|\"\"\"|^\}|\{$", text):
        return text
    quoted = json.dumps(text)
    # JSON writes what is beyond 16 bits as two halves, which Go refuses.
    quoted = re.sub(
        r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})",
        lambda found: f"\\U{_joined(found[1], found[2]):08x}",
        quoted,
    )
    return f"{{{{ {quoted} }}}}"


def _joined(high: str, low: str) -> int:
    return 0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00


def go_template(folder: Path, switches: Mapping[str, Any], *, without: str = "") -> GoTemplate:
    """Return the chat template of a model folder in Go.

    ``switches``: those that it was trained with. ``without``: a token that the tokenizer puts first
    itself, so that the text of a prompt begins after it. Raises SpecError for a template that Go
    cannot express, and says what it does.
    """
    files = read_model_files(folder)
    render = _rendering(files, switches, NOW)
    found = _derive(render, without)
    for messages in conversations():
        wanted, got = render(messages), found.render(messages)
        if wanted is None and _asks_of_system(messages) and found.system is None:
            continue
        if wanted is None or wanted.removeprefix(without) != got:
            raise _cannot(f"it writes {_place(messages)} in a form that depends on more")
    return replace(found, limits=tuple(_limits(files, switches, render, found, without)))


def conversations() -> Iterator[list[Message]]:
    """Yield 20 conversations on which the two are compared: with a system prompt and without, of
    one to four turns, with texts that mean something in a template."""
    texts = (
        "Where is my parcel?",
        "Line one.\n\nLine two.",
        "Grüße, 你好, 🙂",
        '{{ .System }} and {% if x %} and """ and {"a": [1, 2]}',
        "a < b && c > d \\ \\n `code` $HOME",
    )
    for number in range(20):
        said = [texts[(number + step) % len(texts)] for step in range(8)]
        made: list[Message] = []
        if number % 2:
            made.append({"role": "system", "content": f"Be brief. {said[7]}"})
        for turn in range(number // 2 % 4):
            made.append({"role": "user", "content": said[turn]})
            made.append({"role": "assistant", "content": f"{said[turn + 1]} Answered."})
        made.append({"role": "user", "content": f"{said[6]} Asked."})
        yield made


# -- how it is derived ---------------------------------------------------------------------------


def _rendering(files: ModelFiles, switches: Mapping[str, Any], now: float) -> Render:
    process = template_process(files.source, now)
    variables = {**files.special_tokens, **switches}

    def render(messages: Sequence[Message]) -> str | None:
        asked = [(list(range(len(messages))), True)]
        [found] = process.render(list(messages), None, asked, variables)
        return None if isinstance(found, str) else found.text

    return render


def _derive(render: Render, without: str) -> GoTemplate:
    asked = [
        {"role": role, "content": text}
        for role, text in zip(
            ("user", "assistant") * 3, _woven(), strict=False
        )  # three questions, two answers
    ]
    plain = _parts(render(asked), [one["content"] for one in asked], without)
    first, answer, later, *_, opening = plain
    if plain[3] != answer or plain[4] != later:
        raise _cannot("it writes a later turn in another form than an earlier one")
    system = {"role": "system", "content": SYSTEM}
    whole = render([system, *asked])
    if whole is None or SYSTEM not in whole:
        return GoTemplate(first, None, first, answer, later, opening)
    texts = [SYSTEM, *(one["content"] for one in asked)]
    before, behind, *rest = _parts(whole, texts, without)
    if rest != [answer, later, answer, later, opening]:
        raise _cannot("with a system prompt it writes the turns in another form")
    return GoTemplate(first, before, behind, answer, later, opening)


def _woven() -> list[str]:
    return [USERS[0], ANSWERS[0], USERS[1], ANSWERS[1], USERS[2]]


def _parts(text: str | None, texts: Sequence[str], without: str) -> list[str]:
    """Return what stands before each of these texts, and behind the last one."""
    if text is None:
        raise _cannot("it refuses a conversation of questions and answers")
    parts, rest = [], text.removeprefix(without)
    for one in texts:
        before, found, rest = rest.partition(one)
        if not found or one in rest:
            raise _cannot("it does not write each text once, and in the order of the messages")
        parts.append(before)
    return [*parts, rest]


# -- what it cannot express ----------------------------------------------------------------------


def _limits(
    files: ModelFiles,
    switches: Mapping[str, Any],
    render: Render,
    found: GoTemplate,
    without: str,
) -> Iterator[str]:
    """Yield what the trained template does and Go does not, each as a sentence."""

    def differs(*messages: Message) -> bool:
        wanted = render(messages)
        return wanted is not None and wanted.removeprefix(without) != found.render(messages)

    ask = {"role": "user", "content": USERS[0]}
    more = {"role": "user", "content": USERS[1]}
    thought = {"role": "assistant", "content": "<think>\nqthinksq\n</think>\n\n" + ANSWERS[0]}
    if found.system is None:
        yield "The template takes no system prompt: one that is given is left out."
    if differs({"role": "user", "content": f"  {USERS[0]}\n"}):
        yield "The trained template trims texts; Ollama sends spaces around them as they are."
    if differs(ask, thought, more):
        yield "The trained template leaves out the reasoning of earlier answers; Ollama keeps it."
    if "tools" in template_process(files.source, NOW).variables:
        yield "Tools are not in it: Ollama offers none to this model, and reads no calls."
    later = _rendering(files, switches, LATER)([ask])
    if later != render([ask]):
        yield "The trained template writes the day; here it is one that stays as it is."


def _asks_of_system(messages: Sequence[Message]) -> bool:
    return bool(messages[0]["role"] == "system")


def _place(messages: Sequence[Message]) -> str:
    system = "with a system prompt" if _asks_of_system(messages) else "without a system prompt"
    return f"a conversation of {len(messages)} messages {system}"


def _cannot(why: str) -> SpecError:
    return SpecError(
        f"The chat template cannot be written in Go's template language, as Ollama has it: {why}.",
        hint=HINT,
    )
