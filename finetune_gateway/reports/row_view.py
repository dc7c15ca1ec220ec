"""A row as HTML: its messages as a conversation, other keys below their names, broken JSON as
it stands with the place where it breaks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from finetune_gateway.data import formats
from finetune_gateway.findings import child, walk
from finetune_gateway.reports import html_text
from finetune_gateway.reports.places import read

Json = dict[str, Any]

ROW_CHARS = 3000  # shown of a row
FIELD_CHARS = 900  # of a field
SOME_CHARS = 240  # of a marked field when those of the row are used up
RAW_CHARS = 900  # of a line that is no JSON
TURNS, KEYS = 12, 20  # messages of a conversation, keys of an object
MAX_PARSED = 2 << 20  # bytes; of a longer row the beginning is shown as it stands

_ROLES = {"developer": "system", **formats.SHAREGPT_ROLES}  # words for a role -> the role
_TALK = {"role", "content", "from", "value"}


def drawn(raw: bytes, marks: Sequence[str]) -> str:
    """A row, with the fields at these paths marked."""
    if len(raw) > MAX_PARSED:
        return _raw(raw[: 8 * RAW_CHARS].decode("utf-8", "replace"), None)
    try:
        row = read(raw)
    except UnicodeDecodeError as exc:
        text = exc.object.decode("utf-8", "replace")
        return _raw(text, len(exc.object[: exc.start].decode()))
    except json.JSONDecodeError as exc:
        return _raw(exc.doc, exc.pos)
    except (ValueError, RecursionError):
        return _raw(raw.decode("utf-8", "replace"), None)
    if not isinstance(row, dict):
        return _raw(raw.decode("utf-8", "replace"), None)
    return _Drawing(row, marks).drawn()


def _raw(text: str, at: int | None) -> str:
    if not text.strip():
        return '<p class="extra"><i class="soft">an empty line</i></p>'
    if at is not None and at >= len(text):  # it ends too soon
        end = '<mark class="here">ends here</mark>'
        tail = text[-RAW_CHARS:]
        before = "[...] " if len(tail) < len(text) else ""
        return f'<pre class="raw" dir="ltr">{before}{html_text.shown(tail, RAW_CHARS)}{end}</pre>'
    return f'<pre class="raw" dir="ltr">{html_text.shown(text, RAW_CHARS, at)}</pre>'


class _Drawing:
    """One row. ``left``: characters that may still be shown of it."""

    def __init__(self, row: Json, marks: Sequence[str]) -> None:
        self.data = row
        self.marks = marks
        self.met: set[str] = set()  # marks that were drawn
        self.left = ROW_CHARS

    def drawn(self) -> str:
        """All of it."""
        body = "".join(self._object(self.data, ""))
        return f'<div class="fields">{body}{self._missing("")}</div>'

    def _object(self, value: Json, path: str) -> Iterator[str]:
        """Keys and values; a list of messages as a conversation."""
        wanted = self._chosen([child(path, key) for key in value], KEYS)
        for place, (key, inner) in enumerate(value.items()):
            if place not in wanted:
                continue
            here = child(path, key)
            if _is_talk(inner):
                yield self._talk(inner, here)
            elif key in ("tools", "functions") and isinstance(inner, list):
                yield self._tools(inner, here)
            elif isinstance(inner, dict) and _is_talk(inner.get("messages")):
                yield from self._object(inner, here)
            else:
                yield f"{_label(here)}{self._field(inner, here)}"
        if len(wanted) < len(value):
            yield _hidden(len(value) - len(wanted), "key")

    def _talk(self, turns: list[Any], path: str) -> str:
        wanted = self._chosen([f"{path}[{place}]" for place in range(len(turns))], TURNS)
        parts = [] if path == "messages" else [_label(path)]
        skipped = 0
        for place, turn in enumerate(turns):
            if place not in wanted:
                skipped += 1
                continue
            parts += [_hidden(skipped, "message")] if skipped else []
            parts.append(self._turn(turn, f"{path}[{place}]"))
            skipped = 0
        parts += [_hidden(skipped, "message")] if skipped else []
        return self._around("".join(parts), path)

    def _chosen(self, paths: list[str], limit: int) -> set[int]:
        """Places of those that are shown: the first, those that are marked with what is before
        them, the last."""
        if len(paths) <= limit:
            return set(range(len(paths)))
        marked = [at for at, path in enumerate(paths) if self._holds(path)][: limit // 3]
        chosen = {0, 1, len(paths) - 1, *marked, *(max(0, at - 1) for at in marked)}
        for place in range(len(paths)):
            if len(chosen) >= limit:
                break
            chosen.add(place)
        return chosen

    def _turn(self, turn: Any, path: str) -> str:
        if not isinstance(turn, dict):
            return f'<div class="turn"><div></div><div>{self._field(turn, path)}</div></div>'
        role_key = "from" if "from" in turn and "role" not in turn else "role"
        role = turn.get(role_key)
        kind = _ROLES.get(role, "") if isinstance(role, str) else ""
        name = "no role"
        if role_key in turn:
            name = self._short(role, f"{path}.{role_key}", plain=bool(kind))
        rest = "".join(self._inside(turn, path, role_key))
        body = self._around(f"{rest}{self._missing(path)}", path)
        return (
            f'<div class="turn {kind}"><div class="role">{name}</div>'
            f'<div class="body">{body}</div></div>'
        )

    def _inside(self, turn: Json, path: str, role_key: str) -> Iterator[str]:
        for place, (key, value) in enumerate(turn.items()):
            here = child(path, key)
            if key == role_key or (place >= KEYS and not self._holds(here)):
                continue
            if key in ("content", "value"):
                yield self._content(value, here)
            elif key == "tool_calls" and isinstance(value, list):
                yield self._calls(value, here)
            else:
                yield f'<p class="extra">{_label(key, "span")} {self._short(value, here)}</p>'

    def _content(self, value: Any, path: str) -> str:
        if not isinstance(value, list):
            return self._field(value, path)
        wanted = self._chosen([f"{path}[{place}]" for place in range(len(value))], KEYS)
        parts = []
        for place in sorted(wanted):
            part = value[place]
            text = part.get("text") if isinstance(part, dict) and len(part) <= 2 else None
            parts.append(self._field(text if isinstance(text, str) else part, f"{path}[{place}]"))
        more = _hidden(len(value) - len(wanted), "part") if len(wanted) < len(value) else ""
        return self._around(f"{''.join(parts)}{more}", path)

    def _calls(self, calls: list[Any], path: str) -> str:
        wanted = self._chosen([f"{path}[{place}]" for place in range(len(calls))], KEYS)
        drawn = [self._call(calls[place], f"{path}[{place}]") for place in sorted(wanted)]
        return self._around("".join(drawn), path)

    def _call(self, call: Any, path: str) -> str:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return f'<div class="call">{self._field(call, path)}</div>'
        inner = f"{path}.function"
        name = self._short(function.get("name"), f"{inner}.name", plain=True)
        others = [(key, value) for key, value in call.items() if key != "function"][:KEYS]
        small = "".join(
            f"{_label(key, 'span')} {self._short(value, child(path, key))} "
            for key, value in others
        )
        arguments = self._field(function.get("arguments"), f"{inner}.arguments")
        body = f'<p class="extra">calls <b>{name}</b> {small}</p>{arguments}{self._missing(path)}'
        return f'<div class="call">{self._around(body, path)}</div>'

    def _tools(self, tools: list[Any], path: str) -> str:
        """Closed, unless a finding is in them."""
        head = f"<code>{html_text.line(path)}</code> ({len(tools):,}): "
        head += ", ".join(
            html_text.line(name, 40) for name in map(_tool_name, tools[:KEYS]) if name
        )
        head = _mark(head) if path in self.marks else head
        marked = self._holds(path)
        left, self.left = self.left, self.left if marked else FIELD_CHARS
        wanted = self._chosen([f"{path}[{place}]" for place in range(len(tools))], KEYS)
        body = "".join(self._field(tools[at], f"{path}[{at}]") for at in sorted(wanted))
        self.left = self.left if marked else left
        self.met.update({path} & {*self.marks})
        return f"<details{' open' if marked else ''}><summary>{head}</summary>{body}</details>"

    # -- values ----------------------------------------------------------------------------

    def _field(self, value: Any, path: str) -> str:
        """A value as a block of its own."""
        text, word = _as_text(value)
        marked = self._hit(path)
        limit = min(FIELD_CHARS, max(self.left, SOME_CHARS if marked else 0))
        self.left -= min(limit, len(text))
        shown = f'{word}<span dir="auto">{html_text.shown(text, limit)}</span>' if text else word
        return f'<div class="text">{_mark(shown) if marked else shown}</div>'

    def _short(self, value: Any, path: str, *, plain: bool = False) -> str:
        """A value in a line of text, as in JSON or ``plain``."""
        text = value if plain and isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        self.left -= min(len(text), 120)
        inner = f"<bdi>{html_text.shown(text, 120)}</bdi>"
        return _mark(inner) if self._hit(path) else inner

    def _around(self, html: str, path: str) -> str:
        """Something that holds others, marked when a finding names it itself."""
        if path not in self.marks:
            return html
        self.met.add(path)
        return f'<div class="around">{html}</div>'

    def _hit(self, path: str) -> bool:
        """Whether a finding names this value or something in it."""
        within = [mark for mark in self.marks if _under(mark, path)]
        self.met.update(within)
        return bool(within)

    def _holds(self, path: str) -> bool:
        """Whether a finding is here, drawn or not."""
        return any(_under(mark, path) for mark in self.marks)

    def _missing(self, path: str) -> str:
        """What findings name below this path and was not drawn: most of it is not there."""
        gone = [mark for mark in self.marks if mark not in self.met and _under(mark, path)]
        self.met.update(gone)
        named = [mark for mark in gone if mark != path]
        if not named:
            return ""
        there = [at for at, _ in walk(self.data)]
        parts = []
        for mark in named:
            word = "not shown" if any(_under(at, mark) for at in there) else "not there"
            parts.append(f"{_mark(f'<code>{html_text.line(mark)}</code>')} is {word}")
        return f'<p class="extra">{", ".join(parts)}</p>'


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(one, dict) and not _TALK.isdisjoint(one) for one in value[:TURNS]
    )


def _under(path: str, other: str) -> bool:
    """Whether a path is another one or leads into it."""
    return not other or path == other or path.startswith((f"{other}.", f"{other}["))


def _as_text(value: Any) -> tuple[str, str]:
    """A value as text, and a word on it where it is no text or an empty one."""
    if isinstance(value, str):
        word = "" if value.strip() else "empty text" if not value else "only spaces"
        return value, f'<i class="soft">{word}</i>' if word else ""
    return json.dumps(value, ensure_ascii=False), ""


def _tool_name(tool: Any) -> str:
    function = tool.get("function", tool) if isinstance(tool, dict) else {}
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _label(name: str, tag: str = "p") -> str:
    return f'<{tag} class="key">{html_text.line(name, 80)}</{tag}>'


def _mark(html: str) -> str:
    return f"<mark>{html}</mark>"


def _hidden(count: int, what: str) -> str:
    return f'<p class="cut">[... {count:,} {what}{"" if count == 1 else "s"} more ...]</p>'
