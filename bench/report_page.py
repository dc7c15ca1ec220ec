"""How fast the page of a comparison of 1,000 rows and 5 models opens and is filtered, in Chromium.

The bounds: its first paint takes at most 5 times that of an empty page; a filter, until the rows
are laid out, at most 0.2 of the page's first paint. ``filter_frame`` is until the frame after it,
which waits for the next tick of the screen (16 ms). Pages are loaded from the disk in turn. Answers
are words of random letters, which hardly compress: those of a model are smaller on a page.
"""

from __future__ import annotations

import random
import string
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from _common import Bench, arguments, say, versions  # noqa: E402  (as above)
from support.browser import Browser, browser  # noqa: E402
from support.comparisons import comparison  # noqa: E402

from finetune_gateway.reports.comparison_page import page  # noqa: E402

PAINT, FILTER, BESIDES = 5.0, 0.2, 1_000_000  # bytes of a page besides its rows
WORDS = ("number 1", "number 12", "voucher", "no such word", "")
EMPTY = "<!doctype html><meta charset=utf-8><title>empty</title><p>."
PAINTED = """new Promise(done => (function look() {
  const [first] = performance.getEntriesByName("first-contentful-paint");
  first ? done(first.startTime) : setTimeout(look, 5) })())"""
READY = """new Promise(done => (function look() {
  document.getElementById("filters").hidden ? setTimeout(look, 5) : done(1) })())"""
TYPED = """new Promise(done => {
  const find = document.getElementById("find"), began = performance.now();
  find.value = WORD; find.dispatchEvent(new Event("input")); document.body.offsetHeight;
  const laid = performance.now() - began, channel = new MessageChannel();
  channel.port1.onmessage = () => done([laid, performance.now() - began]);
  requestAnimationFrame(() => channel.port2.postMessage(0)) })"""


def main() -> int:
    asked = arguments(__doc__, runs=15, rows=1000, models=5, words=90)
    bench = Bench("report_page", versions("finetune-gateway", "jinja2"))
    found: dict[str, list[float]] = {"empty": [], "page": [], "laid": [], "frame": []}
    with TemporaryDirectory() as name:
        folder = Path(name)
        answer = words(asked.words)
        compared = comparison(folder, asked.rows, asked.models, said=lambda row, key: answer())
        whole, bare = page(compared), page(compared, no_rows=True)
        pages = {"empty": EMPTY, "page": whole}
        for side, html in pages.items():
            (folder / f"{side}.html").write_text(html, encoding="utf-8")
        with browser(folder) as tab:
            say(str(tab.call("Browser.getVersion")["product"]))
            for _ in range(asked.runs):
                for side in pages:
                    tab.open(folder / f"{side}.html")
                    found[side].append(value(tab, PAINTED))
                value(tab, READY)
                typed = [value(tab, TYPED.replace("WORD", repr(word))) for word in WORDS]
                found["laid"].append(median(laid for laid, _ in typed))
                found["frame"].append(median(frame for _, frame in typed))
    bench.figure("first_paint", found["page"], found["empty"], "ms", at_most=PAINT)
    bench.figure("filter", found["laid"], found["page"], "ms", at_most=FILTER)
    bench.figure("filter_frame", found["frame"], found["page"], "ms")
    bench.figure("bytes_without_rows", [len(bare.encode())], [BESIDES], "bytes", at_most=1.0)
    return bench.end(asked.out)


def words(count: int) -> Callable[[], str]:
    """What makes an answer of so many words, of 20,000 that mean nothing."""
    chance = random.Random(1)
    known = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 9)))
             for _ in range(20_000)]  # fmt: skip
    return lambda: " ".join(chance.choices(known, k=count))


def value(tab: Browser, promise: str) -> Any:
    """What a promise in the page comes to."""
    found = tab.call(
        "Runtime.evaluate", expression=promise, awaitPromise=True, returnByValue=True
    )  # fmt: skip
    return found["result"]["value"]


if __name__ == "__main__":
    sys.exit(main())
