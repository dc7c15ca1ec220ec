"""Judge all templates, write ``docs/families.md``, and end with 1 if a bound is missed."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from families import pairs, planted, sources
from families.page import Compared, Line, bounds, page
from families.sources import AXOLOTL, LEFT_OUT, LLAMA_CPP, TWIN, Source
from families.verdicts import Family, marks, verdicts, verdicts_as_text

BLOCK = re.compile(r"\{%-?\s*generation\b")
PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def gather() -> tuple[list[Source], list[str]]:
    """Return the templates that can be had, and what cannot."""
    found, missing = list(sources.trl()), []
    for archive in (AXOLOTL, LLAMA_CPP):
        try:
            found += sources.downloaded(archive)
        except OSError as exc:
            missing.append(str(exc))
    return [source for source in found if source.name not in LEFT_OUT], missing


def distinct(found: Iterable[Source]) -> dict[str, list[Source]]:
    """Return them by their text: some archives hold the same."""
    by_text: dict[str, list[Source]] = {}
    for source in found:
        by_text.setdefault(source.text, []).append(source)
    return by_text


def judged(by_text: dict[str, list[Source]], folder: Path) -> Iterator[Line]:
    """Yield each template with its verdicts."""
    for number, (first, *others) in enumerate(by_text.values(), 1):
        if sys.stderr.isatty():
            print(f"\r{number} of {len(by_text)}: {first.title:60}", end="", file=sys.stderr)
        family = Family(folder / str(number), first)
        as_text = {} if family.writes_calls() else verdicts_as_text(family)
        also = tuple(other.title for other in others)
        yield Line(family, verdicts(family), as_text, also, pairs.verdicts(family))


def compared(marking: Iterable[Source], folder: Path) -> Compared:
    """Return how labels compare with transformers' of templates that mark them."""
    counts: Compared = {}
    for source in marking:
        for name, text in ((source.name, source.text), (f"{source.name}{TWIN}", source.twin)):
            if text is None or not BLOCK.search(text):
                continue
            marked = Source(source.archive, name, text)
            family = Family(folder / marked.title.replace("/", "-"), marked)
            kinds = [kind for kind in planted.KINDS if kind != "weight"]  # transformers has none
            found = [marks(family, planted.planted(kind)) for kind in kinds]
            wrong = next((fault for mark, fault in found if mark == "transformers wrong"), "")
            counts[marked.title] = Counter(mark for mark, _ in found), wrong
    return counts


def main() -> int:
    """Return 0 if all bounds hold."""
    found, missing = gather()
    for words in missing:
        print(f"left out: {words}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        lines = sorted(judged(distinct(found), Path(name)), key=lambda line: line.title.lower())
        counts = compared(found, Path(name))
        missed = bounds(lines, counts)
        text = page(lines, counts, LEFT_OUT)
    if missing:
        print(f"{PAGE.name} is left as it is: not all templates could be had.", file=sys.stderr)
    else:
        PAGE.write_text(text, encoding="utf-8")
    for words in missed:
        print(f"missed: {words}")
    print(f"{len(lines)} templates, {len(missed)} bounds missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
