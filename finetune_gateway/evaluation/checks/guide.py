"""A behaviour guide: how a model should behave, in words and as checks. A YAML file:

.. code-block:: yaml

    system: You are the support desk of a web shop.
    tone: Short and friendly.
    checks:
      - json: object
      - name: no-apology
        must_not: '(?i)as an AI'
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from finetune_gateway.data.row_access import as_list
from finetune_gateway.evaluation.checks import functions, kinds, reading
from finetune_gateway.evaluation.checks.check import (
    About,
    Case,
    Check,
    Rubric,
    Single,
)
from finetune_gateway.evaluation.checks.conversations import (
    KINDS,
    TURNS,
    KeepsFormat,
    StaysInRole,
)
from finetune_gateway.evaluation.checks.reading import Keys
from finetune_gateway.evaluation.prompts import Prompt, fingerprint, prompt_of
from finetune_gateway.evaluation.results import ComparedRow, Score
from finetune_gateway.settings.arguments import as_path, several
from finetune_gateway.text.quoting import shortened

Json = dict[str, Any]

TEXTS = ("persona", "principles", "tone", "format", "length", "boundaries")
KEYS = (*TEXTS, "system", "prompts", "checks")
COMMON = ("name", "about", "prompts", "min_pass")
NO_JUDGE = "a judge decides it: --judge MODEL"
MOST_CHECKS, MOST_PROMPTS = 100, 1000
MOST_TURNS = 50
FORMATS = ("json", "schema", "must", "must_not", "contains", "not_contains", "length", "language")


@dataclass(frozen=True)
class Skipped(Check):
    """A check that does not run here, and why."""

    why: str = ""

    def judge_all(self, case: Case, answers: Any) -> Score:
        return Score(reason=self.why)


@dataclass(frozen=True)
class Guide:
    """How a model should behave. ``texts``: persona, tone, ... as far as they are said; for people,
    for a judge and for model cards. ``prompts``: asked where a run names no data."""

    path: Path
    checks: tuple[Check, ...]
    texts: dict[str, str]
    system: str = ""
    prompts: tuple[Prompt, ...] = ()
    fingerprint: str = ""  # of all that is said in it

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, code: Collection[str | os.PathLike[str]] = ()
    ) -> Self:
        """Read a guide. ``code``: files of Python whose functions it may run. Raises SpecError that
        names the line, and NotFoundError."""
        file = as_path(path, "a guide").expanduser()
        return cls._of(reading.read(file), [as_path(one, "code") for one in several(code, "code")])

    @classmethod
    def loads(cls, text: str, name: str = "behaviour.yaml") -> Self:
        """Read a guide from a text; ``name`` stands in errors."""
        return cls._of(reading.read_text(text, Path(name)), [])

    @classmethod
    def _of(cls, keys: Keys, code: Sequence[Path]) -> Self:
        keys.refuse_others(KEYS, "a guide")
        functions.require_files(code)
        texts = {name: _joined(keys, name) for name in TEXTS if name in keys}
        system = reading.text_at(keys, "system") if "system" in keys else ""
        guide = cls(
            path=keys.place.path,
            checks=(),
            texts=texts,
            system=system,
            prompts=tuple(_prompts(keys, system)) if "prompts" in keys else (),
            fingerprint=fingerprint(kinds.plain(keys)),
        )
        reader = _Reader(keys.place.path.parent, system, code)
        return replace(guide, checks=tuple(reader.checks(keys)))

    @property
    def text(self) -> str:
        """The words of the guide, for a judge: each with its title."""
        return "\n".join(f"{name.capitalize()}: {said}" for name, said in self.texts.items())

    @property
    def rubrics(self) -> list[Rubric]:
        """The checks that a judge decides."""
        return [one for one in self.checks if isinstance(one, Rubric)]

    def require(self) -> None:
        """Raise MissingDependency for a check that this machine cannot judge."""
        if any(one.about.kind == "language" for one in self.checks):
            kinds.needs_language()

    @property
    def running(self) -> list[Check]:
        """The checks that are not skipped."""
        return [one for one in self.checks if not isinstance(one, Skipped)]

    @property
    def wants_rows(self) -> bool:
        """True if a check that runs has no prompts of its own."""
        return any(not one.about.prompts for one in self.running)

    def with_system(self, system: str) -> Self:
        """Return the guide with this system prompt for its own prompts, unless it has one."""
        if self.system or not system:
            return self
        checks = [
            replace(one, about=replace(one.about, prompts=_led(one.about.prompts, system)))
            for one in self.checks
        ]
        prompts = _led(self.prompts, system)
        return replace(self, system=system, checks=tuple(checks), prompts=prompts)

    def without_judge(self) -> Self:
        """Return the guide with its rubrics skipped: nothing is asked for them."""
        checks = [
            Skipped(one.about, NO_JUDGE) if isinstance(one, Rubric) else one for one in self.checks
        ]
        return replace(self, checks=tuple(checks))

    def cases(self, rows: Sequence[ComparedRow]) -> list[Case]:
        """Return all conversations of all checks, on these rows where they have no prompts of their
        own. Checks that are skipped have none."""
        return [case for check in self.running for case in check.cases(rows)]


def _joined(keys: Keys, name: str) -> str:
    """Return a text, or a list of texts as lines."""
    texts = reading.texts_at(keys, name)
    return texts[0].strip() if len(texts) == 1 else "\n".join(f"- {one.strip()}" for one in texts)


class _Reader:
    """Reads the checks of a guide: those that name others come after them."""

    def __init__(self, folder: Path, system: str, code: Sequence[Path]) -> None:
        self.folder, self.system, self.code = folder, system, code
        self.made: dict[str, Check] = {}

    def checks(self, keys: Keys) -> Iterator[Check]:
        """Yield the checks in the order of the file."""
        listed = keys.get("checks")
        if not isinstance(listed, list) or not listed:
            raise keys.at("checks").error("a guide has a list of checks.", reading.HINT)
        if len(listed) > MOST_CHECKS:
            raise keys.at("checks").error(f"{len(listed)} checks; at most {MOST_CHECKS} are read.")
        for one in listed:
            check = self._check(_as_keys(one, keys))
            self.made[check.name] = check
            yield check

    def _check(self, keys: Keys) -> Check:
        kind = _kind_of(keys)
        known = (*COMMON, kind, *EXTRA.get(kind, ()))
        keys.refuse_others(known, f"a check of {kind}")
        name = reading.text_at(keys, "name") if "name" in keys else self._free_name(kind)
        if name in self.made:
            raise keys.at("name").error(f"two checks are named {name!r}.")
        prompts = tuple(_prompts(keys, self.system)) if "prompts" in keys else ()
        if not prompts and kind in kinds.KINDS and kinds.KINDS[kind].own_prompts:
            raise keys.at(kind).error(
                f"{kind} needs prompts.", "Say under prompts: what is to be asked."
            )
        about = About(
            name=name,
            kind=kind,
            title=reading.text_at(keys, "about") if "about" in keys else "",
            min_pass=_share(keys),
            prompts=prompts,
            line=keys.place.line,
            rows=reading.count_at(keys, "rows", 1) if "rows" in keys else None,
        )
        return self._build(keys, about)

    def _free_name(self, kind: str) -> str:
        names = [kind, *(f"{kind}-{number}" for number in range(2, MOST_CHECKS + 2))]
        return next(one for one in names if one not in self.made)

    def _build(self, keys: Keys, about: About) -> Check:
        kind = about.kind
        if kind in kinds.KINDS:
            title, look = kinds.KINDS[kind].build(keys, kind, self.folder)
            return Single(_titled(about, title), look=look)
        if kind == "function":
            title, judge = functions.build(keys, kind, self.folder, self.code)
            if isinstance(judge, str):
                return Skipped(_titled(about, title), judge)
            return Single(_titled(about, title), look=judge)
        if kind == "rubric":
            text = reading.text_at(keys, kind)
            titled = _titled(about, shortened(" ".join(text.split()), 60))
            return Rubric(titled, rubric=text, scale=_scale(keys))
        return self._keeps(keys, about) if kind == "keeps_format" else self._stays(keys, about)

    def _keeps(self, keys: Keys, about: About) -> Check:
        inner = self._checks_named(keys, "keeps_format")
        turns = reading.count_at(keys, "turns", 1) if "turns" in keys else TURNS
        if turns > MOST_TURNS:
            raise keys.at("turns").error(f"turns is at most {MOST_TURNS}.")
        follow_ups = tuple(reading.texts_at(keys, "follow_ups")) if "follow_ups" in keys else ()
        title = f"{', '.join(one.name for one in inner)} over {turns + 1} turns"
        return KeepsFormat(_titled(about, title), inner=inner, turns=turns, follow_ups=follow_ups)

    def _stays(self, keys: Keys, about: About) -> Check:
        wanted = keys["stays_in_role"]
        chosen = KINDS if wanted in (None, True) else reading.texts_at(keys, "stays_in_role")
        odd = next((one for one in chosen if one not in KINDS), None)
        if odd is not None:
            place = keys.at("stays_in_role")
            raise place.error(f"there are no attacks {odd!r}.", f"There are: {', '.join(KINDS)}.")
        must_not = (
            [one for one, _ in kinds.compiled(keys, "must_not")] if "must_not" in keys else []
        )
        return StaysInRole(
            _titled(about, f"Stays in role under {', '.join(chosen)}"),
            kinds=tuple(chosen),
            must_not=tuple(must_not),
            inner=self._checks_named(keys, "keeps") if "keeps" in keys else (),
            canary=_flag(keys, "canary", default=True),
        )

    def _checks_named(self, keys: Keys, key: str) -> tuple[Check, ...]:
        """Return the checks that a key names; those of the format before it for ``true``."""
        if keys[key] in (None, True):
            found = [one for one in self.made.values() if one.about.kind in FORMATS]
            if not found:
                raise keys.at(key).error("no check of a format comes before this one.")
            return tuple(found)
        names = reading.texts_at(keys, key)
        odd = next((one for one in names if one not in self.made), None)
        if odd is not None:
            known = ", ".join(self.made) or "none"
            raise keys.at(key).error(f"no check {odd!r} comes before this one.", f"Known: {known}.")
        return tuple(self.made[one] for one in names)


EXTRA = {
    **{name: kind.others for name, kind in kinds.KINDS.items()},
    "keeps_format": ("turns", "follow_ups", "rows"),
    "rubric": ("scale",),
    "stays_in_role": ("must_not", "keeps", "canary", "rows"),
}
ALL_KINDS = (*kinds.KINDS, "keeps_format", "stays_in_role", "function", "rubric")


def _as_keys(one: Any, parent: Keys) -> Keys:
    """Return a check as keys: a name of a kind alone stands for ``KIND: true``."""
    if isinstance(one, str):
        keys = Keys(parent.at("checks"))
        keys[one] = True
        return keys
    if not isinstance(one, Keys):
        raise parent.at("checks").error("a check is a kind with its value.", "Like: - json: true")
    return one


def _kind_of(keys: Keys) -> str:
    """Return the kind of a check; ``must_not`` is a key of another kind too."""
    found = [one for one in keys if one in ALL_KINDS]
    if "stays_in_role" in found:
        found = [one for one in found if one != "must_not"]
    if len(found) > 1:
        raise keys.at(found[1]).error(
            f"one check is of two kinds: {found[0]} and {found[1]}.", "Make two of it."
        )
    if not found:
        keys.refuse_others((*ALL_KINDS, *COMMON), "a check")
        raise keys.place.error("a check without a kind.", f"Kinds: {', '.join(ALL_KINDS)}.")
    return found[0]


def _titled(about: About, title: str) -> About:
    return about if about.title else replace(about, title=title)


def _share(keys: Keys) -> float:
    value = keys.get("min_pass", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise reading.wrong(keys, "min_pass", "a share above 0, at most 1")
    return float(value)


def _scale(keys: Keys) -> tuple[int, int]:
    """Return the lowest and the highest score of a rubric."""
    value = keys.get("scale", [1, 5])
    ends = value if isinstance(value, list) and len(value) == 2 else []
    if not ends or not all(type(end) is int and 0 <= end <= 100 for end in ends):
        raise reading.wrong(keys, "scale", "two whole numbers from 0 to 100, like [1, 10]")
    if ends[0] >= ends[1]:
        raise reading.wrong(keys, "scale", "the lower end first")
    return ends[0], ends[1]


def _flag(keys: Keys, key: str, *, default: bool) -> bool:
    value = keys.get(key, default)
    if not isinstance(value, bool):
        raise reading.wrong(keys, key, "true or false")
    return value


# -- prompts of a guide ----------------------------------------------------------------------


def _prompts(keys: Keys, system: str) -> list[Prompt]:
    """Return the prompts of a key: texts, or rows as they are in data."""
    written = keys["prompts"]
    listed = written if isinstance(written, list) else [written]
    if not listed or len(listed) > MOST_PROMPTS:
        raise reading.wrong(keys, "prompts", f"a text or a list of 1 to {MOST_PROMPTS}")
    prompts = [_prompt(one, keys, system, number) for number, one in enumerate(listed, 1)]
    return [*{one.id: one for one in prompts}.values()]


def _prompt(written: Any, keys: Keys, system: str, number: int) -> Prompt:
    place = written.place if isinstance(written, Keys) else keys.at("prompts")
    hint = "A text, or messages: [{role: user, content: ...}]."
    row: Json = {}
    if isinstance(written, str) and written.strip():
        row = {"messages": [{"role": "user", "content": written}]}
    elif isinstance(written, Keys):
        written.refuse_others(("messages", "tools", "parallel_tool_calls"), "a prompt")
        row = kinds.plain(written)
    messages = as_list(row.get("messages"))
    if system and messages and not _has_system(messages):
        row["messages"] = [{"role": "system", "content": system}, *messages]
    if not all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages):
        raise place.error(f"prompt {number} has a message without a role.", hint)
    prompt = prompt_of(row, place.line) if messages else None
    if prompt is None:
        raise place.error(f"prompt {number} asks nothing.", hint)
    return prompt


def _led(prompts: Sequence[Prompt], system: str) -> tuple[Prompt, ...]:
    """Return prompts with this system message before those that have none."""
    message = {"role": "system", "content": system}
    led = (
        one
        if _has_system(one.messages)
        else one.model_copy(update={"messages": [message, *one.messages]})
        for one in prompts
    )
    return tuple(one.model_copy(update={"id": fingerprint(one.asked)}) for one in led)


def _has_system(messages: Sequence[Any]) -> bool:
    return any(
        isinstance(one, dict) and one.get("role") in ("system", "developer") for one in messages
    )
