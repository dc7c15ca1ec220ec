"""Run chat templates in a sandbox, as transformers does (utils/chat_template_utils.py).

A template cannot reach Python's internals. ``{% generation %}`` records where its text is in the
output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_gateway.errors import SpecError

Span = tuple[int, int]


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


def compile_template(source: str) -> tuple[Callable[..., Any], Callable[..., Iterator[str]]]:
    """Return a context manager that records spans in ``(blocks, spans)``, and the render function.

    Raises SpecError for invalid Jinja.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        template = environment.from_string(source)
    except jinja2.TemplateError as exc:
        raise SpecError(
            f"The chat template cannot be read: {exc}.", hint="Check its Jinja syntax."
        ) from None
    extension = environment.extensions[_Generation.identifier]
    assert isinstance(extension, _Generation)  # for the type checker
    return extension.recording, template.generate


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes HTML characters, which no model was trained with.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
