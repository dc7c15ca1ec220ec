"""The rows that findings name: messages as a conversation, other keys below their names, broken
JSON as it stands. What is shown of a row is bounded and masked; ``row.html`` draws it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.data import formats
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_access import is_too_deep
from finetune_gateway.findings import Finding, child, walk
from finetune_gateway.reports.finding_paths import FindingPath, finding_paths
from finetune_gateway.reports.html_text import Piece, excerpt, short_text

Json = dict[str, Any]
Named = Sequence[tuple[str, Finding]]  # findings that name a row, each with its anchor

FOLLOWING = 3  # lines shown below one that goes on in the next
ROW_CHARS = 3000  # shown of a row
FIELD_CHARS = 900  # of a field
MARKED_CHARS = 240  # of a marked field when those of the row are used up
RAW_CHARS = 900  # of a line that is no JSON
TURNS, KEYS = 12, 20  # messages of a conversation, keys of an object
MAX_PARSED = 2 << 20  # bytes; of a longer row the beginning is shown as it stands

_GOES_ON = frozenset({"pretty_printed", "json_control_char", "json_truncated"})
_ROLES = {"developer": "system", **formats.SHAREGPT_ROLES}  # words for a role -> the role
_MESSAGE_KEYS = {"role", "content", "from", "value"}


# -- what the template draws ---------------------------------------------------------------


class Node:
    """A part of a row; the template branches by ``kind``."""

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Raw(Node):
    """A line as it stands; ``end``: it ends too soon, ``cut``: its beginning is left out."""

    pieces: list[Piece]
    cut: bool = False
    end: bool = False


@dataclass(frozen=True)
class Label(Node):
    """The name of what comes below."""

    name: list[Piece]


@dataclass(frozen=True)
class Value(Node):
    """A value; ``note`` is a word on one that is empty."""

    pieces: list[Piece]
    note: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Pair(Node):
    """A key and its value in a line."""

    name: list[Piece]
    value: Value


@dataclass(frozen=True)
class Gap(Node):
    """What is left out: ``5 messages``."""

    count: int
    what: str


@dataclass(frozen=True)
class Missing(Node):
    """Paths that findings name and that are not drawn, each with the reason."""

    paths: list[tuple[list[Piece], str]]


@dataclass(frozen=True)
class Box(Node):
    """Parts in a frame, since a finding names all of them."""

    nodes: list[Node]


@dataclass(frozen=True)
class Turn(Node):
    """One message; one that is no object has a body alone."""

    speaker: str  # the usual name of its role, "" for an unknown one
    role: Value | None  # as written
    body: list[Node]
    is_object: bool = True


@dataclass(frozen=True)
class Call(Node):
    """A call of a tool; without a name it has no function."""

    name: Value | None
    others: list[Pair]
    body: list[Node]
    framed: bool = False


@dataclass(frozen=True)
class Tools(Node):
    """The tools on offer: closed, unless a finding is in them."""

    path: list[Piece]
    count: int
    names: list[list[Piece]]
    marked: bool
    is_open: bool
    body: list[Node]


@dataclass(frozen=True)
class Tag:
    """A link back to a finding, with the first paths it has in a row."""

    anchor: str
    finding: Finding
    paths: list[list[Piece]]
    more: int


@dataclass
class RowView:
    """A row, and the lines after it where it goes on."""

    number: int
    title: str
    size: int | None  # bytes of a row that is cut
    tags: list[Tag]
    nodes: list[Node]
    following: list[tuple[int, list[Piece]]] = field(default_factory=list)


# -- rows of a dataset ---------------------------------------------------------------------


def row_views(dataset: Dataset, wanted: Mapping[int, Named]) -> dict[int, RowView]:
    """Return the rows of these lines, read in one pass; one that is not there is left out."""
    views: dict[int, RowView] = {}
    word = dataset.reading.numbering.capitalize()
    last, until = max(wanted, default=0), 0
    for line in dataset.lines():
        if line.number in wanted:
            named = wanted[line.number]
            views[line.number] = _row_view(f"{word} {line.number:,}", line.number, line.body, named)
            goes_on = any(finding.code in _GOES_ON for _, finding in named)
            until = line.number + FOLLOWING if goes_on else 0
        elif line.number <= until:
            text = line.raw[: 2 * RAW_CHARS].decode("utf-8", "replace")
            views[until - FOLLOWING].following.append((line.number, excerpt(text, 300)))
        if line.number >= max(last, until):
            break
    return views


def _row_view(title: str, number: int, raw: bytes, named: Named) -> RowView:
    paths = finding_paths(raw, number, [finding for _, finding in named])
    tags = [_tag(anchor, finding, paths) for anchor, finding in named]
    size = len(raw) if len(raw) > MAX_PARSED else None
    nodes = row_nodes(raw, [one.path for one in paths if one.path])
    return RowView(number, title, size, tags, nodes)


def _tag(anchor: str, finding: Finding, paths: Sequence[FindingPath]) -> Tag:
    own = [short_text(one.path) for one in paths if one.finding is finding and one.path]
    return Tag(anchor, finding, own[:3], len(own) - 3)


# -- one row -------------------------------------------------------------------------------


def row_nodes(raw: bytes, marks: Sequence[str]) -> list[Node]:
    """Return a row as nodes, with the values at these paths marked."""
    if len(raw) > MAX_PARSED:
        return [_raw(raw[: 8 * RAW_CHARS].decode("utf-8", "replace"), None)]
    try:
        row = _parsed(raw)
    except UnicodeDecodeError as exc:
        text = exc.object.decode("utf-8", "replace")
        return [_raw(text, len(exc.object[: exc.start].decode()))]
    except json.JSONDecodeError as exc:
        return [_raw(exc.doc, exc.pos)]
    except (ValueError, RecursionError):
        return [_raw(raw.decode("utf-8", "replace"), None)]
    if not isinstance(row, dict):
        return [_raw(raw.decode("utf-8", "replace"), None)]
    return _Drawing(row, marks).nodes()


def _parsed(raw: bytes) -> Any:
    """Return the value of a line of JSON, read leniently. Raises ValueError when it is none, or
    when an object would not show all of it."""
    text = raw.decode()
    if is_too_deep(text):
        raise ValueError("too deep to show")
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key comes twice")
    return value


def _raw(text: str, at: int | None) -> Raw:
    if at is not None and text.strip() and at >= len(text):
        tail = text[-RAW_CHARS:]
        return Raw(excerpt(tail, RAW_CHARS), cut=len(tail) < len(text), end=True)
    return Raw(excerpt(text, RAW_CHARS, at) if text.strip() else [])


class _Drawing:
    """One row; counts what is drawn of it."""

    def __init__(self, row: Json, marks: Sequence[str]) -> None:
        self.row = row
        self.marks = marks
        self.drawn: set[str] = set()  # marks
        self.room = ROW_CHARS  # characters that may still be shown

    def nodes(self) -> list[Node]:
        return [*self._object(self.row, ""), *self._missing("")]

    def _object(self, value: Json, path: str) -> Iterator[Node]:
        """Yield keys and values; a list of messages as a conversation."""
        chosen = self._choose([child(path, key) for key in value], KEYS)
        for place, (key, inner) in enumerate(value.items()):
            if place not in chosen:
                continue
            here = child(path, key)
            if _is_conversation(inner):
                yield from self._conversation(inner, here)
            elif key in ("tools", "functions") and isinstance(inner, list):
                yield self._tools(inner, here)
            elif isinstance(inner, dict) and _is_conversation(inner.get("messages")):
                yield from self._object(inner, here)
            else:
                yield Label(short_text(here, 80))
                yield self._field(inner, here)
        if len(chosen) < len(value):
            yield Gap(len(value) - len(chosen), "key")

    def _conversation(self, turns: list[Any], path: str) -> list[Node]:
        paths = [f"{path}[{place}]" for place in range(len(turns))]
        nodes: list[Node] = [] if path == "messages" else [Label(short_text(path, 80))]
        previous = -1
        for place in sorted(self._choose(paths, TURNS)):
            if skipped := place - previous - 1:
                nodes.append(Gap(skipped, "message"))
            nodes.append(self._turn(turns[place], paths[place]))
            previous = place
        return self._framed(nodes, path)

    def _choose(self, paths: list[str], limit: int) -> set[int]:
        """Return the places that are shown: the first, those that are marked with what is before
        them, the last."""
        if len(paths) <= limit:
            return set(range(len(paths)))
        marked = [at for at, path in enumerate(paths) if self._holds_mark(path)][: limit // 3]
        chosen = {0, 1, len(paths) - 1, *marked, *(max(0, at - 1) for at in marked)}
        for place in range(len(paths)):
            if len(chosen) >= limit:
                break
            chosen.add(place)
        return chosen

    def _turn(self, turn: Any, path: str) -> Turn:
        if not isinstance(turn, dict):
            return Turn("", None, [self._field(turn, path)], is_object=False)
        key = "from" if "from" in turn and "role" not in turn else "role"
        role = turn.get(key)
        speaker = _ROLES.get(role, "") if isinstance(role, str) else ""
        name = self._inline(role, f"{path}.{key}", plain=bool(speaker)) if key in turn else None
        body = [*self._message(turn, path, key)]
        return Turn(speaker, name, self._framed([*body, *self._missing(path)], path))

    def _message(self, turn: Json, path: str, role_key: str) -> Iterator[Node]:
        for place, (key, value) in enumerate(turn.items()):
            here = child(path, key)
            if key == role_key or (place >= KEYS and not self._holds_mark(here)):
                continue
            if key in ("content", "value") and isinstance(value, list):
                yield from self._parts(value, here)
            elif key in ("content", "value"):
                yield self._field(value, here)
            elif key == "tool_calls" and isinstance(value, list):
                yield from self._calls(value, here)
            else:
                yield self._pair(key, value, here)

    def _parts(self, parts: list[Any], path: str) -> list[Node]:
        paths = [f"{path}[{place}]" for place in range(len(parts))]
        nodes: list[Node] = []
        for place in sorted(self._choose(paths, KEYS)):
            part = parts[place]
            text = part.get("text") if isinstance(part, dict) and len(part) <= 2 else None
            nodes.append(self._field(text if isinstance(text, str) else part, paths[place]))
        if hidden := len(parts) - len(nodes):
            nodes.append(Gap(hidden, "part"))
        return self._framed(nodes, path)

    def _calls(self, calls: list[Any], path: str) -> list[Node]:
        paths = [f"{path}[{place}]" for place in range(len(calls))]
        chosen = sorted(self._choose(paths, KEYS))
        return self._framed([self._call(calls[at], paths[at]) for at in chosen], path)

    def _call(self, call: Any, path: str) -> Call:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return Call(None, [], [self._field(call, path)])
        inner = f"{path}.function"
        name = self._inline(function.get("name"), f"{inner}.name", plain=True)
        others = [(key, value) for key, value in call.items() if key != "function"][:KEYS]
        pairs = [self._pair(key, value, child(path, key)) for key, value in others]
        arguments = self._field(function.get("arguments"), f"{inner}.arguments")
        body = [arguments, *self._missing(path)]
        self.drawn.update({path} & {*self.marks})
        return Call(name, pairs, body, framed=path in self.marks)

    def _tools(self, tools: list[Any], path: str) -> Tools:
        names = [short_text(name, 40) for name in map(_tool_name, tools[:KEYS]) if name]
        holds_mark = self._holds_mark(path)
        room, self.room = self.room, self.room if holds_mark else FIELD_CHARS
        paths = [f"{path}[{place}]" for place in range(len(tools))]
        chosen = sorted(self._choose(paths, KEYS))
        body: list[Node] = [self._field(tools[at], paths[at]) for at in chosen]
        self.room = self.room if holds_mark else room
        self.drawn.update({path} & {*self.marks})
        marked = path in self.marks
        return Tools(short_text(path), len(tools), names, marked, holds_mark, body)

    # -- values ----------------------------------------------------------------------------

    def _field(self, value: Any, path: str) -> Value:
        """Return a value that is a block of its own."""
        text, note = _as_text(value)
        marked = self._marks(path)
        limit = min(FIELD_CHARS, max(self.room, MARKED_CHARS if marked else 0))
        self.room -= min(limit, len(text))
        return Value(excerpt(text, limit) if text else [], note, marked)

    def _inline(self, value: Any, path: str, *, plain: bool = False) -> Value:
        """Return a value within a line, as JSON or ``plain``."""
        text = value if plain and isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        self.room -= min(len(text), 120)
        return Value(excerpt(text, 120), marked=self._marks(path))

    def _pair(self, key: str, value: Any, path: str) -> Pair:
        return Pair(short_text(key, 80), self._inline(value, path))

    def _framed(self, nodes: list[Node], path: str) -> list[Node]:
        """Return what holds others, in a frame when a finding names it itself."""
        if path not in self.marks:
            return nodes
        self.drawn.add(path)
        return [Box(nodes)]

    def _marks(self, path: str) -> bool:
        """Return True if a finding names this value or something in it; those are drawn with it."""
        within = [mark for mark in self.marks if _leads_into(mark, path)]
        self.drawn.update(within)
        return bool(within)

    def _holds_mark(self, path: str) -> bool:
        """Return True if a finding is here, drawn or not."""
        return any(_leads_into(mark, path) for mark in self.marks)

    def _missing(self, path: str) -> list[Node]:
        """Return what findings name below this path and is not drawn: most of it is not there."""
        missing = [m for m in self.marks if m not in self.drawn and _leads_into(m, path)]
        self.drawn.update(missing)
        below = [mark for mark in missing if mark != path]
        if not below:
            return []
        there = [at for at, _ in walk(self.row)]
        words = [any(_leads_into(at, mark) for at in there) for mark in below]
        pairs = zip(below, words, strict=True)
        return [Missing([(short_text(m), "not shown" if w else "not there") for m, w in pairs])]


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(one, dict) and not _MESSAGE_KEYS.isdisjoint(one) for one in value[:TURNS]
    )


def _leads_into(path: str, other: str) -> bool:
    """Return True if a path is another one or leads into it."""
    return not other or path == other or path.startswith((f"{other}.", f"{other}["))


def _as_text(value: Any) -> tuple[str, str]:
    """Return a value as text, and a word on a text that is empty."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False), ""
    return value, "" if value.strip() else "only spaces" if value else "empty text"


def _tool_name(tool: Any) -> str:
    function = tool.get("function", tool) if isinstance(tool, dict) else {}
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""
