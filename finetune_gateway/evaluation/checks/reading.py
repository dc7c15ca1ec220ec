"""A behaviour guide as YAML: read safely, with the line of everything that is wrong.

What is read is a part of YAML: texts, numbers, true and false, lists and keys. Tags and aliases are
refused, so that a file is never larger than it looks; ``no``, ``on`` and dates are texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from finetune_gateway.errors import NotFoundError, SpecError, shown
from finetune_gateway.text.quoting import json_type

Json = dict[str, Any]

MAX_BYTES = 1_000_000
HINT = "For a commented guide to begin with: ftg check --init DATA"


@dataclass(frozen=True)
class Place:
    """Where something stands: a file and a line from 1 up."""

    path: Path
    line: int

    def error(self, what: str, hint: str = "") -> SpecError:
        """Return the error for what stands here."""
        return SpecError(f"{self.path}, line {self.line}: {what}", hint=hint)


class Keys(dict[str, Any]):
    """An object of the file, with the place of each key and its own."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.places: dict[str, Place] = {}

    def refuse_others(self, known: Collection[str], what: str) -> None:
        """Raise SpecError for a key that is not known, with the nearest name."""
        for key in self:
            if key not in known:
                near = next(iter(get_close_matches(key.lower(), known, 1, 0.6)), None)
                hint = f"Did you mean {near}?" if near else f"It takes: {', '.join(known)}."
                raise self.at(key).error(f"{what} has no key {shown(key)}.", hint)

    def at(self, key: str) -> Place:
        """Return where a key stands."""
        return self.places.get(key, self.place)


def read(path: Path) -> Keys:
    """Return the object of a YAML file. Raises NotFoundError, and SpecError with the line."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.", hint=HINT) from None
    except OSError as exc:
        raise SpecError(f"{path} cannot be read: {exc.strerror}.", hint=HINT) from None
    if len(raw) > MAX_BYTES:
        raise SpecError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB.", hint=HINT)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw[: exc.start].count(b"\n") + 1
        raise Place(path, line).error("this is not UTF-8.", "Save it as UTF-8.") from None
    return read_text(text, path)


def read_text(text: str, path: Path) -> Keys:
    """Return the object of a YAML text; ``path`` is named in errors."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else _Builder(path).build(node)
    except SpecError:
        raise
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = Place(path, mark.line + 1 if mark else 1)
        raise place.error(f"{exc.problem or exc.context}.", _yaml_hint(text, place.line)) from None
    except (yaml.YAMLError, ValueError) as exc:
        raise SpecError(f"{path} is no YAML: {str(exc).splitlines()[0]}.", hint=HINT) from None
    except RecursionError:
        raise SpecError(f"{path} is nested too deep.", hint=HINT) from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(value, Keys):
        kind = "empty" if value is None else f"{json_type(value)}, not keys"
        raise SpecError(f"{path} is {kind}.", hint=HINT)
    return value


def _yaml_hint(text: str, line: int) -> str:
    written = text.splitlines()[line - 1 : line]
    if written and re.search(r"(?:^|[\s\[,])\*\w", written[0]):
        return "Write the value out; a text that begins with * stands in 'single quotes'."
    if written and "\t" in written[0]:
        return "Indent with blanks: YAML takes no tabs."
    if written and re.search(r""":\s+["'].*\\""", written[0]):
        return "In double quotes a backslash is written twice; in single quotes once."
    return "A text with : # ? { [ or a backslash is written in 'single quotes'."


class _Loader(yaml.SafeLoader):
    """Reads true and false alone as such, and no dates: ``no`` is a language too."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node. Raises for an alias: a few of them make gigabytes."""
        if self.check_event(yaml.AliasEvent):
            peek: Any = self.peek_event
            mark = peek().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read", problem_mark=mark)
        return super().compose_node(parent, index)


for _first, _tag, _pattern in (
    ("tTfF", "bool", r"^(?:true|True|TRUE|false|False|FALSE)$"),
    ("-+0123456789", "int", r"^[-+]?(?:0|[1-9][0-9]*)$"),
    ("-+.0123456789", "float", r"^[-+]?(?:0|[1-9][0-9]*)?(?:\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    (["~", "n", "N", ""], "null", r"^(?:~|null|Null|NULL|)$"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), [*_first])


PREFIX = "tag:yaml.org,2002:"
SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": float,
}
TAGS = {
    yaml.ScalarNode: {f"{PREFIX}{name}" for name in SCALARS},
    yaml.MappingNode: {f"{PREFIX}map"},
    yaml.SequenceNode: {f"{PREFIX}seq"},
}


class _Builder:
    """Makes values of nodes, by their tags alone: nothing is constructed by name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def build(self, node: yaml.Node) -> Any:
        place = Place(self.path, node.start_mark.line + 1)
        if node.tag not in TAGS[type(node)]:
            raise place.error(f"the tag {node.tag} is not read.", "Leave it out.")
        if isinstance(node, yaml.MappingNode):
            return self._keys(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(one) for one in node.value]
        return _scalar(node)

    def _keys(self, node: yaml.MappingNode, place: Place) -> Keys:
        keys = Keys(place)
        for named, node_of_value in node.value:
            name = self.build(named)
            here = Place(self.path, named.start_mark.line + 1)
            if name == "<<" or isinstance(name, dict | list):
                raise here.error("this is no key.", "Keys are texts.")
            key = name if isinstance(name, str) else str(named.value)
            if key in keys:
                first = keys.places[key].line
                raise here.error(f"{shown(key)} is there twice; first in line {first}.")
            keys[key] = self.build(node_of_value)
            keys.places[key] = here
        return keys


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    return SCALARS[node.tag.removeprefix(PREFIX)](text)


# -- values of one kind ----------------------------------------------------------------------


def text_at(keys: Keys, key: str, default: str = "") -> str:
    """Return a text. Raises SpecError for anything else."""
    value = keys.get(key, default)
    if not isinstance(value, str) or (key in keys and not value.strip()):
        raise wrong(keys, key, "a text")
    return value


def texts_at(keys: Keys, key: str) -> list[str]:
    """Return one text or several as a list. Raises SpecError for anything else."""
    value = keys.get(key)
    listed: list[Any] = value if isinstance(value, list) else [value]
    texts = [one for one in listed if isinstance(one, str) and one]
    if not listed or len(texts) < len(listed):
        raise wrong(keys, key, "a text, or a list of texts")
    return texts


def count_at(keys: Keys, key: str, least: int = 0) -> int:
    """Return a whole number from ``least`` up. Raises SpecError for anything else."""
    value = keys[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(keys, key, f"a whole number from {least} up")
    return value


def keys_at(keys: Keys, key: str) -> Keys:
    """Return an object. Raises SpecError for anything else."""
    value = keys[key]
    if not isinstance(value, Keys):
        raise wrong(keys, key, "keys with values")
    return value


def wrong(keys: Keys, key: str, wanted: str) -> SpecError:
    """Return the error for a value of another kind."""
    value = keys.get(key)
    given = "empty" if value in (None, "") else shown(value)
    quote = isinstance(value, int | float) and "text" in wanted
    hint = f"Write it in quotes: '{value}'." if quote else ""
    return keys.at(key).error(f"{key} must be {wanted}, not {given}.", hint)
