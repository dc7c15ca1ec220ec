"""What serving costs a month: figures worked out by hand, break-evens, the screen, the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_gateway.cli import main
from finetune_gateway.errors import SpecError
from finetune_gateway.pricetable import priced, write_price
from finetune_gateway.serving import (
    Curve,
    ServingCosts,
    Traffic,
    Way,
    break_even,
    serving_costs,
)
from finetune_gateway.tokens import TokenStats

MINI = "gpt-4.1-mini-2025-04-14"
TODAY = date(2026, 11, 21)
TRAFFIC = Traffic(requests=300_000, tokens_in=800, tokens_out=200)
D = Decimal


def costs(**changes: Any) -> ServingCosts:
    """gpt-4.1-mini at OpenAI against a GPU of 1.09 USD an hour that does 2,500 tokens a second."""
    fields: dict[str, Any] = {"gpu": "L40S", "usd_per_hour": D("1.09"), "today": TODAY,
                              "tokens_per_second": D(2500)}  # fmt: skip
    traffic, hosted = changes.pop("traffic", TRAFFIC), changes.pop("hosted", [("openai", MINI)])
    return serving_costs(traffic, hosted, **(fields | changes))


def way(found: ServingCosts, kind: str) -> Way:
    """The only way of a kind."""
    (one,) = [way for way in found.ways if way.kind == kind]
    return one


def expected(found: ServingCosts, kind: str) -> Decimal:
    monthly = way(found, kind).monthly_usd
    assert monthly is not None
    return monthly.expected


# -- by hand -----------------------------------------------------------------------------


def test_tokens_times_prices_times_requests() -> None:
    """800 x 0.80 + 200 x 3.20 = 1,280 USD per million requests: 384 USD for 300,000. By batch
    (0.40, 1.60) and for the base (0.40, 1.60) half of that."""
    found = costs()
    assert expected(found, "tokens") == D(384)
    assert expected(found, "batch") == D(192)
    assert expected(found, "base") == D(192)
    assert way(found, "tokens").model == f"ft:{MINI}"
    assert [str(row.usd) for row in way(found, "tokens").prices] == ["0.80", "3.20"]


def test_a_gpu_always_on_costs_its_hours() -> None:
    """730 hours of 1.09 USD are 795.70. 1,000 tokens at 2,500 a second, half of the time busy,
    are 0.8 s a request: 3,285,000 a month fit; with 3,285,001 a second one is needed."""
    found = costs()
    always = way(found, "always_on")
    assert expected(found, "always_on") == D("795.70")
    assert always.machines == 1 and always.curves is not None
    assert [curve.capacity for curve in always.curves] == [6_570_000, 3_285_000, 1_642_500]
    at_most = costs(traffic=TRAFFIC.model_copy(update={"requests": 3_285_000}))
    beyond = costs(traffic=TRAFFIC.model_copy(update={"requests": 3_285_001}))
    assert (way(at_most, "always_on").machines, way(beyond, "always_on").machines) == (1, 2)
    assert expected(beyond, "always_on") == D("1591.40")


def test_a_gpu_on_demand_costs_its_work_and_its_starts() -> None:
    """300,000 x 0.8 s = 66 2/3 hours, and 30 starts of 10 minutes are 5 hours: 71 2/3 hours of
    1.09 USD = 78.116667."""
    assert expected(costs(), "on_demand") == D("78.116667")


def test_break_evens_by_hand() -> None:
    """795.70 / 0.00128 = 621,640.6, so from 621,641 on; started once a day: 5.45 USD over
    0.00128 - 0.8 x 1.09 / 3600 = 0.0010377..., so from 5,252; against batch from 13,702."""
    found = {(meet.own, meet.hosted): meet.expected for meet in costs().break_even}
    tokens, batch = f"openai ft:{MINI} (by the token)", f"openai ft:{MINI} (batch, within 24 hours)"
    assert found == {
        ("own L40S (always on)", tokens): 621_641,
        ("own L40S (on demand, once a day)", tokens): 5_252,
        ("own L40S (on demand, once a day)", batch): 13_702,
    }


def test_a_deployment_by_the_hour_adds_the_bases_tokens(tmp_path: Path) -> None:
    """1.70 x 730 = 1,241 USD and 192 USD of tokens at the base's price; the GPU is cheaper from
    the first request."""
    own = tmp_path / "prices.toml"
    for unit, usd in (("in_mtok", "0.40"), ("out_mtok", "1.60")):
        write_price(own, priced(backend="azure", model=MINI, unit=unit, usd=usd,
                                as_of=TODAY, source="our contract"))  # fmt: skip
    found = costs(hosted=[("azure", "gpt-4.1-mini")], extra=own)
    assert expected(found, "deployment") == D("1433.00")
    assert {meet.expected for meet in found.break_even} == {1}
    assert any("1.70 USD (azure hosting_hour) is of 2026-03-19" in x for x in found.warnings)


def test_the_price_rows_of_a_gpu_make_the_range() -> None:
    """Cheapest of any market, the middle and the dearest on demand: 0.79, 1.09 and 1.80 USD."""
    always = way(costs(usd_per_hour=None), "always_on").monthly_usd
    assert always is not None
    assert (always.low, always.expected, always.high) == (D("576.7"), D("795.7"), D("1314"))


def test_the_known_throughput_is_that_of_its_source() -> None:
    """An A10G needs no figure from the user: 1,473 tokens a second, with its source."""
    found = costs(gpu="A10G", usd_per_hour=None, tokens_per_second=None)
    always = way(found, "always_on")
    assert expected(found, "always_on") == D(730)
    assert any("nm-vllm" in said and "1473 tokens" in said for said in always.assumptions)


# -- what is not known -------------------------------------------------------------------


def test_no_figure_without_a_row_or_a_speed() -> None:
    """An unknown model, a GPU without a price and one without a speed: no cost, no break-even,
    and what to give."""
    found = costs(hosted=[("openai", "gpt-9")], usd_per_hour=None, tokens_per_second=None, gpu="X1")
    assert [one.monthly_usd for one in found.ways] == [None] * 3
    assert found.break_even == []
    said = " ".join(text for one in found.ways for text in one.unknown)
    for text in ("ft:gpt-9", "ftg prices set --backend openai", "--serve-usd-per-hour",
                 "--serve-tokens-per-second"):  # fmt: skip
        assert text in said
    slow = costs(gpu="H100", usd_per_hour=None, tokens_per_second=None)
    assert way(slow, "always_on").monthly_usd is None and way(slow, "always_on").prices


@pytest.mark.parametrize("amount", [D(0), D(-1), D("NaN"), D("Infinity")])
def test_an_amount_that_is_none_is_refused(amount: Decimal) -> None:
    """A GPU has a price and a speed above 0."""
    for name in ("usd_per_hour", "tokens_per_second"):
        with pytest.raises(SpecError, match="of a GPU cannot be"):
            costs(**{name: amount})


def test_lengths_are_the_datasets_own_unless_given() -> None:
    """12 rows of 600 tokens in all, 120 of them answers: 40 in, 10 out; a pair has two."""
    stats = TokenStats(encoding="o200k_base", exact=True, rows=12, total=600, trained=120)
    own = Traffic.like(stats, 5)
    assert (own.tokens_in, own.tokens_out, own.lengths) == (
        40,
        10,
        "the mean of the dataset's rows",
    )
    assert Traffic.like(stats, 5, answers=2).tokens_out == 5
    given_ = Traffic.like(stats, 5, tokens_in=7, tokens_out=0)
    assert (given_.tokens_in, given_.tokens_out, given_.lengths) == (7, 0, "as given")


def test_a_full_gpu_that_costs_more_is_never_cheaper() -> None:
    """At 40 tokens a second a GPU is full long before its fee is earned."""
    always = next(m for m in costs(tokens_per_second=D(40)).break_even if "always" in m.own)
    assert (always.low, always.expected, always.high) == (None, None, None)


money = st.decimals(min_value=0, max_value=2000, places=4)


@settings(max_examples=300, deadline=None)
@given(fixed=money, each=money, capacity=st.none() | st.integers(1, 400), theirs=money, fee=money)
def test_a_break_even_is_the_first_cheaper_volume(
    fixed: Decimal, each: Decimal, capacity: int | None, theirs: Decimal, fee: Decimal
) -> None:
    """Against a search through every volume up to 2,000."""
    own = Curve(fixed=fixed, per_request=each / 1000, capacity=capacity)
    hosted = Curve(fixed=fee, per_request=theirs / 1000)
    first = next((n for n in range(1, 2001) if own.at(n) < hosted.at(n)), None)
    found = break_even(own, hosted)
    assert found == first if first is not None else found is None or found > 2000


# -- the command -------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ftg(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args: str) -> tuple[int, str, str]:
        code = main(list(args))
        return code, *capfd.readouterr()

    return run


ASKED = ("--model", MINI, "--monthly-requests", "300000", "--tokens-in", "800", "--tokens-out",
         "200", "--serve-gpu", "L40S", "--serve-tokens-per-second", "2500")  # fmt: skip


def test_the_screen_tells_costs_and_where_they_meet(ftg: Run, train_file: Path) -> None:
    """80 columns; each way, its sum, the break-even, the rows with their dates."""
    code, out, _ = ftg("estimate", str(train_file), *ASKED)
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "http" not in line) <= 80
    flat = " ".join(out.split())
    for text in ("Serving 300,000 requests a month", "$384.00", "always on, 1 GPU", "$795.70",
                 "from 621,641 requests a month", "prices of 2026-10-05",
                 "stops answering on 2027-01-14"):  # fmt: skip
        assert text in flat, text


def test_json_holds_both_parts(ftg: Run, train_file: Path) -> None:
    """Estimates and serving in one document; without serving the list alone."""
    told = json.loads(ftg("estimate", str(train_file), *ASKED, "--json")[1])
    assert told["estimates"][0]["model"] == MINI
    again = ServingCosts.model_validate(
        {**told["serving"], "ways": [{k: v for k, v in w.items() if k != "title"}
                                     for w in told["serving"]["ways"]]}
    )  # fmt: skip
    assert again.traffic == TRAFFIC
    assert D(told["serving"]["ways"][0]["monthly_usd"]["expected"]) == 384
    plain = json.loads(ftg("estimate", str(train_file), "--model", MINI, "--json")[1])
    assert isinstance(plain, list)


def test_options_of_serving_need_serving(ftg: Run, train_file: Path) -> None:
    """None of them is ignored, and the page never overwrites the data."""
    asked = ("estimate", str(train_file), "--model", MINI)
    for option in (("--tokens-in", "5"), ("--serve-gpu", "L4"), ("--serve-usd-per-hour", "1")):
        code, _, err = ftg(*asked, *option)
        assert code == 2 and option[0] in err and "--monthly-requests" in err
    for wrong in (("--serve-usd-per-hour", "much"), ("--serve-tokens-per-second", "0")):
        assert ftg(*asked, "--monthly-requests", "10", *wrong)[0] == 2
    before = train_file.read_bytes()
    assert ftg(*asked, "--monthly-requests", "10", "--html", str(train_file))[0] == 2
    assert train_file.read_bytes() == before


def test_the_page_draws_every_way_and_loads_nothing(
    ftg: Run, train_file: Path, tmp_path: Path
) -> None:
    """A line per way, a dot per break-even, and no address that a browser would fetch."""
    page = tmp_path / "serving.html"
    code, _, err = ftg("estimate", str(train_file), *ASKED, "--html", str(page))
    assert code == 0 and "Wrote" in err
    text = page.read_text(encoding="utf-8")
    start = text.index('<svg class="wide"')
    wide = text[start : text.index("</svg>", start)]
    assert wide.count("<polyline") == 5 and wide.count("<circle") == 3
    assert "nan" not in wide.lower() and "inf" not in wide.lower()
    numbers = [float(n) for n in re.findall(r"[xy]\d?=\"(-?[\d.]+)\"", wide)]
    assert min(numbers) >= 0 and max(numbers) <= 900
    assert not re.search(r"(\ssrc=|href=\"[^#]|@import|url\()", text)
    assert "from 621,641 requests a month" in unescape(text)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser on this machine")
def test_a_browser_shows_the_page(ftg: Run, train_file: Path, tmp_path: Path) -> None:
    """Chromium lays the page out: headings, the table and the picture are in its tree."""
    page = tmp_path / "serving.html"
    ftg("estimate", str(train_file), *ASKED, "--html", str(page))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "<h3>Break-even</h3>" in done.stdout and "$795.70" in done.stdout
