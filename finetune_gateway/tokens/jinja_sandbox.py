"""Run chat templates in a sandbox, as transformers does (utils/chat_template_utils.py), and in a
process of their own.

A template comes with a model, from anybody. It cannot reach Python's internals, and this process
ends when it takes too long or too much memory; ``template_process`` starts it and talks to it.
``{% generation %}`` records where its text is in the output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_gateway.settings.process_limits import end_after, limit_memory

Json = dict[str, Any]
Span = tuple[int, int]

LONGEST = 50_000_000  # characters of a rendered conversation
# Methods and tests by which a template looks into a text; what they look for is its own markup.
LOOKS = frozenset({"split", "rsplit", "partition", "startswith", "endswith", "find", "replace",
                   "rstrip", "lstrip", "strip", "index", "count"})  # fmt: skip


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` records where its text is in the output."""

    tags = {"generation"}
    blocks: list[str] | None = None
    spans: list[Span]

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_record")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _record(self, caller: Callable[[], str]) -> str:
        text = caller()
        if self.blocks is not None:
            start = sum(map(len, self.blocks))
            self.spans.append((start, start + len(text)))
        return text

    @contextmanager
    def recording(self, blocks: list[str], spans: list[Span]) -> Iterator[None]:
        self.blocks, self.spans = blocks, spans
        try:
            yield
        finally:
            self.blocks = None


class Sandbox:
    """One compiled template."""

    def __init__(self, source: str, now: datetime | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: (now or datetime.now()).strftime(form)
        tree = environment.parse(source)
        self.variables = sorted(jinja2.meta.find_undeclared_variables(tree))
        self.markup = sorted(_markup(tree))
        self._template = environment.from_string(source)
        extension = environment.extensions[_Generation.identifier]
        assert isinstance(extension, _Generation)  # for the type checker
        self._recording = extension.recording

    def render(self, variables: Json) -> tuple[str, list[Span]]:
        """Return the text, and where the template's generation blocks are in it."""
        blocks: list[str] = []
        spans: list[Span] = []
        length = 0
        with self._recording(blocks, spans):
            for block in self._template.generate(**variables):
                blocks.append(block)
                length += len(block)
                if length > LONGEST:
                    raise MemoryError
        return "".join(blocks), spans


def _markup(tree: jinja2.nodes.Template) -> Iterator[str]:
    """Yield the texts that a template looks for in the texts of messages."""
    for call in tree.find_all(jinja2.nodes.Call):
        looks = isinstance(call.node, jinja2.nodes.Getattr) and call.node.attr in LOOKS
        for argument in call.args if looks else ():
            if isinstance(argument, jinja2.nodes.Const) and isinstance(argument.value, str):
                yield argument.value
    for compare in tree.find_all(jinja2.nodes.Compare):
        looks = any(operand.op in ("in", "notin") for operand in compare.ops)
        for text in [compare.expr] if looks else ():
            if isinstance(text, jinja2.nodes.Const) and isinstance(text.value, str):
                yield text.value


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes HTML characters, which no model was trained with.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


# -- the process -------------------------------------------------------------------------


def serve() -> None:
    """Read one JSON object a line, write one a line: the template first, then conversations."""
    opening = json.loads(sys.stdin.buffer.readline())
    seconds = opening["seconds"]
    limit_memory(opening["memory"])
    now = datetime.fromtimestamp(opening["now"]) if opening["now"] is not None else None
    sandbox: Sandbox | None = None

    def compile_it() -> Json:
        nonlocal sandbox
        sandbox = Sandbox(opening["source"], now)
        return {"variables": sandbox.variables, "markup": sandbox.markup}

    _answer(compile_it, seconds)
    for line in sys.stdin.buffer:
        assert sandbox is not None  # nothing is asked of a template that could not be compiled
        _answer(partial(_rendered, sandbox, json.loads(line)), seconds)


def _rendered(sandbox: Sandbox, request: Json) -> Json:
    texts: list[tuple[str, list[Span]] | str] = []
    for messages, answer in request["wanted"]:
        chosen = [request["messages"][index] for index in messages]
        try:
            variables = {**request["variables"], "messages": chosen, "tools": request["tools"]}
            texts.append(sandbox.render({**variables, "add_generation_prompt": answer}))
        except MemoryError:
            raise
        except Exception as exc:  # a template raises whatever its expressions raise
            texts.append(_in_words(exc))
    return {"texts": texts}


def _answer(work: Callable[[], Json], seconds: float) -> None:
    end_after(seconds)
    try:
        reply = work()
    except MemoryError:
        reply = {"error": "memory"}
    except Exception as exc:  # as above
        reply = {"error": _in_words(exc)}
    end_after(0)
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    sys.stdout.buffer.flush()


def _in_words(exc: Exception) -> str:
    words = " ".join(str(exc).split())[:500] or type(exc).__name__
    known = isinstance(exc, jinja2.TemplateError)
    return words if known else f"{type(exc).__name__}: {words}"
