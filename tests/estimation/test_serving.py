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
from finetune_gateway.estimation.assumptions import TargetDevice
from finetune_gateway.estimation.break_even import BreakEvenRange, Curve, find_break_even
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.gpus import GPUS
from finetune_gateway.estimation.local import estimate_local
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.estimation.price_table import new_price, prices, write_price
from finetune_gateway.estimation.serving import ServingCosts, ServingOption, serving_costs
from finetune_gateway.estimation.throughput import ServedModel
from finetune_gateway.estimation.traffic import Traffic
from finetune_gateway.reports.serving_text import amount_text
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

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


def way(found: ServingCosts, kind: str) -> ServingOption:
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


def test_a_base_that_serves_as_it_is_has_its_own_price() -> None:
    """800 x 0.40 + 200 x 1.60 are 0.00064 USD a request: a GPU of 795.70 USD is cheaper from
    1,243,282 on. No price of a fine-tune that nobody has made is shown."""
    found = costs(hosted=[], untuned=[("openai", MINI)])
    hosts = [(one.kind, one.model) for one in found.ways if one.where == "openai"]
    assert hosts == [("base", MINI)] and expected(found, "base") == D(192)
    (point,) = [one for one in found.break_even if "(always on)" in one.own]
    assert point.expected is not None and point.expected.first == 1_243_282
    both = costs(untuned=[("openai", MINI)])
    assert [one.title for one in both.ways if one.kind == "base"] == [way(found, "base").title]


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
    met = costs().break_even
    assert all(meet.expected and len(meet.expected.spans) == 1 for meet in met)
    found = {(meet.own, meet.hosted): meet.expected.always_from for meet in met if meet.expected}
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
        write_price(own, new_price(backend="azure", model=MINI, unit=unit, usd=usd,
                                as_of=TODAY, source="our contract"))  # fmt: skip
    found = costs(hosted=[("azure", "gpt-4.1-mini")], extra=own)
    assert expected(found, "deployment") == D("1433.00")
    assert all(meet.expected and meet.expected.always for meet in found.break_even)
    assert all(meet.text.endswith("at every volume.") for meet in found.break_even)
    assert any(row.unit == "hosting_hour" for way in found.ways for row in way.prices)


def test_the_price_rows_of_a_gpu_make_the_range() -> None:
    """The cheapest, the cheapest on demand and the dearest: 0.79, 1.09 and 1.80 USD."""
    found = costs(usd_per_hour=None)
    always = way(found, "always_on").monthly_usd
    assert always is not None
    assert (always.low, always.expected, always.high) == (D("576.7"), D("795.7"), D("1314"))
    said = "An hour of L40S costs $1.09, the cheapest on demand; rows range from $0.79 to $1.80."
    assert said in way(found, "always_on").assumptions
    assert not any("rows run" in text for text in way(costs(), "always_on").assumptions)


SHAPE = shape_of({
    "vocab_size": 152_000, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
})  # fmt: skip
PRICED = sorted({row.model for row in prices() if row.model in GPUS})


@pytest.mark.parametrize("gpu", PRICED)
def test_training_and_serving_take_the_same_hour(gpu: str) -> None:
    """Cost / hours of a training estimate is what serving pays for an hour: low, expected, high."""
    stats = TokenStats(encoding="o200k_base", exact=True, rows=12, total=600_000, trained=120_000,
                       max=50_000, median=50_000)  # fmt: skip
    spec = TrainingSpec(model="owner/model", n_epochs=3)
    trained = estimate_local(spec, stats, SHAPE, target=TargetDevice("gpu", gpu))
    served = way(costs(gpu=gpu, usd_per_hour=None), "always_on").monthly_usd
    assert trained.cost_usd and trained.seconds and served
    for name in ("low", "expected", "high"):
        hour = getattr(trained.cost_usd, name) * 3600 / D(str(getattr(trained.seconds, name)))
        assert hour == pytest.approx(getattr(served, name) / 730, rel=D("0.01")), name


def test_a_gpu_needs_no_speed_from_the_user() -> None:
    """That of its datasheet is a range, which the costs carry: low at the highest speed."""
    found = costs(gpu="A10G", usd_per_hour=None, tokens_per_second=None)
    always = way(found, "always_on")
    assert expected(found, "always_on") == D(730)
    (said,) = [one for one in always.assumptions if "tokens per second" in one]
    speed = always.tokens_per_second
    assert speed is not None and speed.low < speed.expected < speed.high and always.curves
    assert f"{speed.low:,f} to {speed.high:,f} by its bandwidth and FLOP/s, not measured" in said
    assert "8 billion parameters" in said and "64 requests at once" in said
    rates = (speed.high, speed.expected / 2, speed.low / 4)
    assert [one.capacity for one in always.curves] == [int(2628 * rate) for rate in rates]


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
    large = costs(gpu="H100", usd_per_hour=None, tokens_per_second=None, served=ServedModel(70))
    own = way(large, "always_on")
    assert own.monthly_usd is None and own.prices and "do not fit it" in own.unknown[0]


@pytest.mark.parametrize("amount", [D(0), D(-1), D("NaN"), D("Infinity"), D("1e999"), D("1e-999")])
def test_an_amount_that_is_none_is_refused(amount: Decimal) -> None:
    """The price and the speed of a GPU have bounds, which are said."""
    for name, span in (("usd_per_hour", "0.001 to 10,000 USD"),
                       ("tokens_per_second", "0.1 to 10,000,000 tokens")):  # fmt: skip
        with pytest.raises(
            SpecError, match=f"--serve-{name.replace('_', '-')} .* out of bounds"
        ) as no:
            costs(**{name: amount})
        assert span in no.value.hint


def test_figures_at_the_bounds_are_told() -> None:
    """Every corner of what is accepted has a cost, or a word on why not; none breaks."""
    asked = [(1, 0, 0), (1, 10**7, 10**7), (10**10, 0, 1), (10**10, 10**7, 10**7)]
    for requests, tokens_in, tokens_out in asked:
        traffic = Traffic(requests=requests, tokens_in=tokens_in, tokens_out=tokens_out)
        for usd, speed in ((D("0.001"), D("0.1")), (D(10_000), D(10_000_000)), (D(10_000), D(9))):
            found = costs(traffic=traffic, usd_per_hour=usd, tokens_per_second=speed)
            own = way(found, "always_on")
            assert own.monthly_usd or "longer than a month" in own.unknown[0]


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
    assert always.text.endswith("at any volume.")


# -- where the lines cross ---------------------------------------------------------------

STEPS = {"usd_per_hour": D("3.82"), "tokens_per_second": D(1473), "gpu": "A10G"}
LONG = Traffic(requests=1_300_000, tokens_in=1000, tokens_out=500)


def test_a_second_gpu_makes_the_host_cheaper_again() -> None:
    """3.82 x 730 = 2,788.60 USD a GPU, 0.0024 USD a request: k GPUs are earned at k x 1,161,916.7
    requests, and hold k x 1,290,348. The step after k hurts while (k + 1) x 1,161,916.7 is more
    than that: up to k = 9."""
    found = costs(traffic=LONG, **STEPS)
    meet = next(m for m in found.break_even if "always" in m.own)
    assert meet.expected is not None
    spans = [(span.first, span.last, span.gpus) for span in meet.expected.spans]
    assert spans == [
        (1_161_917, 1_290_348, 1), (2_323_834, 2_580_696, 2), (11_619_167, None, 10),
    ]  # fmt: skip
    assert meet.expected.left_out
    assert meet.text.endswith(
        "from 1,200,000 up to 1,300,000 requests a month, which 1 GPU serves; again from 2,300,000 "
        "up to 2,600,000, with 2 GPUs; and so on; for good from 12,000,000, with 10 GPUs. With the "
        "high estimate of its cost: never. With the low one: from 1,200,000."
    )


def test_the_table_and_the_break_even_agree() -> None:
    """At each end of a span, and one request beyond, the costs of the table say the same."""
    found = costs(traffic=LONG, **STEPS)
    meet = next(m for m in found.break_even if "always" in m.own)
    assert meet.expected is not None
    for span in meet.expected.spans:
        ends = {span.first: True, span.first - 1: False}
        ends |= {span.last: True, span.last + 1: False} if span.last else {}
        for requests, own_wins in ends.items():
            asked = LONG.model_copy(update={"requests": requests})
            seen = costs(traffic=asked, **STEPS)
            assert (expected(seen, "always_on") < expected(seen, "tokens")) is own_wins, requests


def cheaper_at(found: BreakEvenRange | None, volume: int) -> bool | None:
    """What the spans say of a volume; None: it lies in those left out."""
    spans = found.spans if found else ()
    if any(span.first <= volume and (span.last or volume) >= volume for span in spans):
        return True
    if found and found.left_out:
        second, after = spans[1].last, spans[2].first if len(spans) > 2 else volume + 1
        assert second is not None
        return None if second < volume < after else False
    return False


REACH = 600
money = st.decimals(min_value=0, max_value=2000, places=4) | st.integers(0, 30).map(Decimal)


@settings(max_examples=1500, deadline=None)
@given(fixed=money, each=money, capacity=st.none() | st.integers(1, 60), theirs=money, fee=money)
def test_spans_are_where_the_costs_say(
    fixed: Decimal, each: Decimal, capacity: int | None, theirs: Decimal, fee: Decimal
) -> None:
    """Against a comparison of both costs at every volume up to 600: hosts by the token and by
    the hour, GPUs with room and without, by the month and by the request."""
    own = Curve(fixed=fixed, per_request=each / 10, capacity=capacity)
    hosted = Curve(fixed=fee, per_request=theirs / 10)
    found = find_break_even(own, hosted)
    wins = [own.at(n) < hosted.at(n) for n in range(1, REACH + 1)]
    for volume, won in enumerate(wins, start=1):
        said = cheaper_at(found, volume)
        assert said is None or said is won, (volume, found)
    if found and found.left_out:  # on and off between: both are seen
        first, last = found.spans[1].last, (found.spans[2:] or found.spans[1:])[0].first
        between = wins[(first or 0) : last - 1]
        assert last > REACH or len(found.spans) == 2 or {True, False} == set(between)
    if found:
        for span in found.spans:
            at = span.last or span.first
            assert span.gpus == (own.machines(at) if capacity else None) or not fixed
        assert found.words() and found.brief()


@settings(max_examples=300, deadline=None)
@given(
    fixed=st.integers(1, 10**6), theirs=st.integers(1, 500), capacity=st.integers(1, 10**5),
    fee=st.integers(0, 10**6), step=st.integers(1, 3000),
)  # fmt: skip
def test_spans_far_out_are_where_the_costs_say(
    fixed: int, theirs: int, capacity: int, fee: int, step: int
) -> None:
    """The same around the ends of spans and of many machines, at volumes without a limit."""
    own = Curve(fixed=D(fixed), capacity=capacity)
    hosted = Curve(fixed=D(fee), per_request=D(theirs))
    found = find_break_even(own, hosted)
    ends = [n for span in (found.spans if found else ()) for n in (span.first, span.last or 1)]
    ends += [capacity * k for k in (1, 2, 3, step, 10**6)]
    for volume in (max(1, end + beside) for end in ends for beside in (-1, 0, 1)):
        said = cheaper_at(found, volume)
        assert said is None or said is (own.at(volume) < hosted.at(volume)), (volume, found)


@pytest.mark.parametrize(
    ("own", "hosted", "words", "brief"),
    [
        ((1, 0, None), (0, 1), "from 2 requests a month", "from 2"),
        ((1, 0, 5), (20, 0), "up to 95 requests a month, which 19 GPUs serve", "up to 95"),
        ((12, 0, 5), (7, 2), "from 3 up to 5 requests a month, which 1 GPU serves; again from 9 up "
         "to 10, with 2 GPUs; last at 15, with 3 GPUs", "from 3 up to 5, and again beyond"),
        ((10, 0, 5), (4, 2), "from 4 up to 5 requests a month, which 1 GPU serves; again from 9 up "
         "to 10, with 2 GPUs; and so on without end", "from 4 up to 5, and again beyond"),
        ((10, 0, 8), (0, 2), "from 6 up to 8 requests a month, which 1 GPU serves; for good from "
         "11, with 2 GPUs", "from 6 up to 8, for good from 11"),
    ],
)  # fmt: skip
def test_spans_in_words(
    own: tuple[int, int, int | None], hosted: tuple[int, int], words: str, brief: str
) -> None:
    """One wording for a long sentence and one for a short, whatever the lines do."""
    mine = Curve(fixed=D(own[0]), per_request=D(own[1]), capacity=own[2])
    found = find_break_even(mine, Curve(fixed=D(hosted[0]), per_request=D(hosted[1])))
    assert found is not None
    assert (found.words(), found.brief()) == (words, brief)


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
    """80 columns; each way, its sum, the break-even; with --explain the rows with their dates."""
    short = ftg("estimate", str(train_file), *ASKED)[1]
    assert "own L40S (on demand, once a day) is cheaper than openai" in short
    assert "prices as of" not in short and short.count("--explain") == 1
    code, out, _ = ftg("estimate", str(train_file), *ASKED, "--explain")
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "http" not in line) <= 80
    flat = " ".join(out.split())
    for text in ("Serving 300,000 requests a month", "$384.00", "always on, 1 GPU", "$800 (",
                 "from 620,000 requests a month", "prices as of 2026-10-05",
                 "stops answering on 2027-01-14"):  # fmt: skip
        assert text in flat, text


TWICE = ("--model", MINI, "--monthly-requests", "1300000", "--tokens-in", "1000", "--tokens-out",
         "500", "--serve-usd-per-hour", "3.82", "--serve-tokens-per-second", "1473")  # fmt: skip


def test_text_json_and_page_say_where_it_is_cheaper(
    ftg: Run, train_file: Path, tmp_path: Path
) -> None:
    """The same sentence three times, beside a table in which two GPUs cost more than the host."""
    page = tmp_path / "costs.html"
    said = (
        "from 1,200,000 up to 1,300,000 requests a month, which 1 GPU serves; again from 2,300,000 "
        "up to 2,600,000, with 2 GPUs; and so on; for good from 12,000,000, with 10 GPUs."
    )
    _, out, _ = ftg("estimate", str(train_file), *TWICE, "--explain", "--html", str(page))
    assert said in " ".join(out.split()) and "always on, 2 GPUs" in out and "$5,600" in out
    assert said in unescape(page.read_text(encoding="utf-8"))
    serving = json.loads(ftg("estimate", str(train_file), *TWICE, "--json")[1])["serving"]
    meet = serving["break_even"][0]
    assert said in meet["text"]
    assert meet["expected"]["spans"][0] == {"first": 1_161_917, "last": 1_290_348, "gpus": 1}
    assert meet["expected"]["spans"][2] == {"first": 11_619_167, "last": None, "gpus": 10}


@pytest.mark.parametrize(
    ("columns", "requests", "usd"),
    [(80, n, usd) for n in ("1", "1300000", "123456789", "10000000000")
     for usd in ("0.001", "3.82", "9999.99")] + [(40, "1300000", "3.82")],
)  # fmt: skip
def test_the_table_keeps_to_its_columns(
    ftg: Run, train_file: Path, monkeypatch: pytest.MonkeyPatch, columns: int, requests: str,
    usd: str,
) -> None:  # fmt: skip
    """However long the amounts are: the range goes to a line of its own."""
    monkeypatch.setenv("COLUMNS", str(columns))
    asked = [*TWICE, "--monthly-requests", requests, "--serve-usd-per-hour", usd]
    code, out, _ = ftg("estimate", str(train_file), *asked)
    assert code == 0
    lines = out[out.index("Serving ") :].splitlines()
    assert max(len(line) for line in lines if "http" not in line) <= columns


def test_the_lines_of_gpus_have_upright_steps(ftg: Run, train_file: Path, tmp_path: Path) -> None:
    """The second GPU at 1,290,349 requests doubles the cost within a pixel; dots lie where the
    line of the GPU crosses that of the host, and on the picture."""
    page = tmp_path / "costs.html"
    ftg("estimate", str(train_file), *TWICE, "--html", str(page))
    text = page.read_text(encoding="utf-8")
    wide = text[text.index('<svg class="wide"') :].partition("</svg>")[0]
    line = re.search(r'points="([^"]*)"><title>own A10G \(always on\)', wide)
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line[1].split()]
    rises = [y - later for (x, y), (next_x, later) in zip(points, points[1:], strict=False)
             if y != later and next_x - x < 0.2]  # fmt: skip
    steps = [a[1] - b[1] for a, b in zip(points, points[1:], strict=False) if a[1] != b[1]]
    assert len(rises) >= 20 and rises[0] == max(steps)
    assert rises[0] / rises[1] == pytest.approx(1 / 0.585, rel=0.02)  # log 2 to log 1.5
    dots = [float(x) for x in re.findall(r'<circle class="dot break-even" cx="([\d.]+)"', wide)]
    assert "$1M<" in wide
    assert len(dots) == 3 + 1 and max(dots) <= 900  # on demand crosses once


def test_the_note_of_a_price_is_shown(ftg: Run, train_file: Path, tmp_path: Path) -> None:
    """Azure's tokens are taken from OpenAI's list: the screen, the page and JSON say so."""
    pytest.importorskip("genai_prices")
    page, note = tmp_path / "costs.html", "OpenAI's price, assumed for Microsoft Azure."
    asked = ("estimate", str(train_file), "--model", MINI, "--backend", "azure",
             "--monthly-requests", "1000")  # fmt: skip
    assert note in " ".join(ftg(*asked, "--explain", "--html", str(page))[1].split())
    assert note in unescape(page.read_text(encoding="utf-8"))
    ways = json.loads(ftg(*asked, "--json")[1])["serving"]["ways"]
    assert any(note in row["note"] for way in ways for row in way["prices"])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--serve-usd-per-hour", "1e999"), ("--serve-usd-per-hour", "0"),
        ("--serve-usd-per-hour", "inf"), ("--serve-usd-per-hour", "1e-999"),
        ("--serve-tokens-per-second", "1e-999"), ("--serve-tokens-per-second", "1e999"),
        ("--serve-tokens-per-second", "nan"), ("--monthly-requests", "1" + "0" * 30),
        ("--tokens-in", "1" + "0" * 30), ("--tokens-out", "10000001"),
    ],
)  # fmt: skip
def test_figures_out_of_sense_are_refused(
    ftg: Run, train_file: Path, flag: str, value: str
) -> None:
    """A usage error that names the option, before the data is read."""
    code, out, err = ftg("estimate", str(train_file), *TWICE, flag, value)
    assert code == 2 and flag in err and "bug" not in err and not out


@pytest.mark.parametrize(
    ("low", "expected", "high", "said"),
    [
        ("36.57", "146.9", "1318.67", "$150 ($37 to $1,300)"),
        ("9.999", "10.01", "14.2", "$10 ($10 to $14)"),
        ("5.00", "5.04", "5.2633", "$5.00 ($5.00 to $5.30)"),
        ("730", "730", "730", "$730.00"),
    ],
)
def test_two_digits_of_a_range(low: str, expected: str, high: str, said: str) -> None:
    """From 10 on they have no cents, also where that is what 9.999 is rounded to."""
    amount = Range[Decimal](low=D(low), expected=D(expected), high=D(high))
    way = ServingOption(
        kind="on_demand", where="own", model="L4", monthly_usd=amount, data_leaves_machine=False
    )
    assert amount_text(way) == said


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
    assert "from 620,000 requests a month" in unescape(text)


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
    assert "<h3>Break-even</h3>" in done.stdout and "$800" in done.stdout
