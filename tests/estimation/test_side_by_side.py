"""Options side by side: one pass for those that count alike, one table, dates, names of hosts."""

from __future__ import annotations

import json
import os
import random
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.browser import browser
from support.cli import Ftg
from support.options import DATA, LARGE, MINI, SMALL, TINY, Json, bytes_read, chat, write
from support.provider import Provider

import finetune_gateway as gateway
from finetune_gateway import (
    DataError,
    FakeBackend,
    Gateway,
    NotFoundError,
    OpenAIBackend,
    Option,
    SpecError,
    UnsupportedError,
    registry,
)
from finetune_gateway.backend import Backend
from finetune_gateway.cli.estimate import pair_up
from finetune_gateway.estimation.profiles import load_profile
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.validation import parallel
from finetune_gateway.validation import run as validation_run


class OnDay(OpenAIBackend):
    """OpenAI as of a day."""

    day = date(2026, 11, 21)

    def today(self) -> date:
        return self.day


class TooLate(OnDay):
    day = date(2027, 1, 7)


class Broken(FakeBackend):
    """A backend with a bug."""

    def estimate(self, spec: TrainingSpec, tokens: object, validation: object = None) -> Any:
        raise RuntimeError("no such table")


# -- what is counted ---------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "find", "description": "Find a parcel.",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}}  # fmt: skip
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Where is it?"}]},
    "preferred_output": [{"role": "assistant", "content": "It comes on Monday."}],
    "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
}
# As many words as make the whole prompt 65,536 tokens: with its tools it may be billed for more.
FULL = 65_536 - HostedCounter(MINI).measure(chat("a", "b 5") | {"tools": [TOOL]}).total
FILES: dict[str, tuple[str, list[Json]]] = {
    "plain": ("sft", [chat("Be brief.", f"Where is {n}?", f"{n} comes soon.") for n in range(30)]),
    "tools": ("sft", [chat(f"Find {n}", "Here.") | {"tools": [TOOL]} for n in range(12)]),
    "pairs": ("dpo", [
        PAIR | {"input": {"messages": [{"role": "user", "content": f"Where is {n}?"}]}}
        for n in range(12)]),
    "one row beyond the context": ("sft", [chat("a" + " a" * (70_000 if n == 5 else 7), f"b {n}")
                                          for n in range(12)]),
    "one row billed up to the context": ("sft", [
        chat("a" + " a" * (FULL if n == 5 else 7), f"b {n}") | {"tools": [TOOL]}
        for n in range(12)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_each_option_is_what_it_would_be_alone(home: Path, tmp_path: Path, kind: str) -> None:
    """Shared passes change no figure, also where hosts differ in their limit, and where rows are
    beyond the limit of one of them."""
    method: Any
    method, rows = FILES[kind]
    path = write(tmp_path / "data.jsonl", rows)
    custom = OpenAIBackend(base_url="http://127.0.0.1:9/v1", profile="custom")
    hosts: list[str | Backend] = [custom, "openai", "azure"]
    g = Gateway()
    models = [MINI, LARGE]
    found = g.estimate(path, model=models, backend=hosts, method=method)
    assert [(option.model, option.backend) for option in found] == [
        (model, name) for model in models for name in ("custom", "openai", "azure")
    ]
    for option, host in zip(found, hosts * 2, strict=True):
        asked: dict[str, Any] = {"model": option.model, "backend": host, "method": method}
        if option.error is None:
            assert option.estimate == g.estimate(path, **asked)
        else:
            with pytest.raises(type(option.error), match="An example of 70,0"):
                g.estimate(path, **asked)
    refused = 4 if kind == "one row beyond the context" else 0
    assert sum(option.error is not None for option in found) == refused
    if kind == "one row billed up to the context":
        bills = {o.estimate.tokens.billed_high for o in found if o.estimate and o.estimate.tokens}
        assert len(bills) == 2  # the host without a limit bills all of it


@pytest.mark.parametrize("processes", [1, 2])
def test_many_options_read_the_file_as_often_as_validate(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Ten hosted options cost what one validation does; a local model, which counts with a
    template of its own, one pass more. The same when several processes share the file."""
    for limit in ("_PARALLEL_BYTES", "_PARALLEL_BYTES_LOCAL"):
        monkeypatch.setattr(validation_run, limit, 600_000 if processes > 1 else 1 << 40)
    if processes > parallel.count_processors():
        pytest.skip("needs two processors")
    pick = random.Random(0)
    words = ["where", "is", "my", "parcel", "it", "should", "have", "come", "says", "the", "letter"]
    rows = [
        chat("Be brief.", " ".join(pick.choices(words, k=60)), " ".join(pick.choices(words, k=60)))
        for _ in range(3000)
    ]
    path = write(tmp_path / "data.jsonl", rows)
    size, g = path.stat().st_size, Gateway()
    assert size > 2_000_000
    custom = OpenAIBackend(base_url="http://127.0.0.1:9/v1", profile="custom")
    hosts: list[str | Backend] = ["openai", "azure", "nebius", custom]
    models = [MINI, LARGE, SMALL]
    both: dict[str, Any] = {"model": [MINI, TINY], "backend": ["openai", "local"]}
    whole: dict[str, Any] = {"validation_split": 0}  # what is held out is looked for once more
    g.estimate(DATA, model=[MINI, TINY], backend=[*hosts, "local"])  # what is read once
    around = bytes_read(lambda: g.estimate(DATA, **both))  # templates, price tables

    once = bytes_read(lambda: g.validate(path, model=MINI, backend="openai", quality=False))
    assert once >= size  # and, of several processes, what they tell each other
    block = 1 << 20  # read once more, to see the format of the first row
    assert processes > 1 or once < 1.1 * size + block
    for call in (
        lambda: g.estimate(path, model=MINI, **whole),
        lambda: g.estimate(path, model=models, backend=hosts, **whole),
    ):
        assert abs(bytes_read(call) - once) < size / 20
    alone = bytes_read(lambda: g.validate(path, model=TINY, backend="local", quality=False))
    # What processes say to each other varies, and so does what the template's own one answers.
    assert bytes_read(lambda: g.estimate(path, **both, **whole)) < once + alone + around + 2 * size


# -- Python ------------------------------------------------------------------------------


def test_one_failure_hides_no_other(home: Path, train_file: Path) -> None:
    """A name nobody has, a hosted model here, a local one there, and a backend with a bug: each
    stands in its place and says why."""
    hosts: list[str | Backend] = ["openai", "frob", "local", Broken(), "fake", "bedrock"]
    found = gateway.estimate(train_file, model=[MINI, TINY], backend=hosts)
    assert isinstance(found[0], Option) and found[0].estimate is not None
    assert found[0].estimate.cost_usd is not None
    said = [option.error.message if option.error else "" for option in found[:6]]
    assert [bool(text) for text in said] == [False, True, True, True, False, True]
    assert "frob" in said[1] and "is a model of OpenAI" in said[2]
    assert "RuntimeError: no such table" in said[3] and "'bedrock' cannot do" in said[5]
    tiny = {option.backend: option for option in found[6:]}
    assert tiny["openai"].error is not None
    assert "none of the 10 models of OpenAI" in tiny["openai"].error.message
    assert tiny["local"].estimate is not None and tiny["local"].estimate.cost_usd is not None
    assert tiny["local"].document()["backend"] == "local"
    assert tiny["openai"].document()["error"]["type"] == "NotFoundError"


def test_bad_data_is_refused_where_it_is_refused(home: Path, tmp_path: Path) -> None:
    """A row without an answer: no figures for a host, in the name of each; a missing file and a
    wrong field are wrong for all."""
    path = write(tmp_path / "data.jsonl", [chat("a", "b"), {"messages": [{"role": "user"}]}])
    found = gateway.estimate(path, model=MINI, backend=["openai", "azure"])
    for option in found:
        assert isinstance(option.error, DataError) and option.error.report is not None
        assert option.error.report.errors[0].backends == [option.backend]
    with pytest.raises(NotFoundError):
        gateway.estimate(tmp_path / "none.jsonl", model=[MINI], backend="openai")
    wrong: Any = {"lora_q": 1}
    with pytest.raises(SpecError):
        gateway.estimate(path, model=[MINI], backend="openai", **wrong)


def test_a_price_of_ones_own_goes_before_what_is_known(home: Path, train_file: Path) -> None:
    """A name no list has is priced when the user says what it costs, alone and among others."""
    own = gateway.estimate(train_file, model="acme/m", backend="openai", train_price=Decimal(2))
    assert own.cost_usd is not None and own.cost_usd.expected > 0
    found = gateway.estimate(
        train_file, model=["acme/m", MINI], backend="openai", train_price=Decimal(2)
    )
    assert found[0].estimate == own and found[1].estimate is not None
    with pytest.raises(NotFoundError, match="none of the 10 models"):
        gateway.estimate(train_file, model="acme/m", backend="openai")


# -- names of hosts ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["azure", "nebius", "bedrock", "custom"])
def test_a_host_is_a_backend_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as the openai backend with that profile; stored as that, and in every list."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gpu.example.com/v1")
    by_name = registry.load(name)
    by_profile = registry.load("openai", {"profile": name})
    assert by_name.options() == by_profile.options() and by_name.name == "openai"
    assert registry.load("openai", by_name.options()).options() == by_name.options()
    assert name in registry.names() and registry.origin(name) == "built in"
    with pytest.raises(SpecError, match="has the profile"):
        registry.load(name, {"profile": "openai"})


def test_azure_by_name_everywhere(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """validate, estimate, submit, doctor and models take it; only sending needs the address."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k-123")
    told = json.loads(
        ftg("estimate", str(DATA), "--model", MINI, "--backend", "azure", "--json").stdout
    )
    assert (told[0]["backend"], told[0]["host"]) == ("azure", None)
    assert ftg("validate", str(DATA), "--backend", "azure", "--model", MINI).returncode == 0
    submit = ("submit", str(DATA), "--model", MINI, "--backend", "azure", "--dry-run")
    missing = ftg(*submit)
    assert missing.returncode == 2 and "RESOURCE.openai.azure.com" in missing.stderr
    done = ftg(*submit, "--base-url", "https://res.openai.azure.com/openai/v1/")
    assert done.returncode == 0 and "uploaded to\nres.openai.azure.com" in done.stderr
    assert "azure / " in done.stderr and "Trained as 'standard'" in done.stderr
    assert ftg("doctor", "--backend", "azure").returncode == 1  # no address to ask
    assert "2027-04-13+" in ftg("models", "--backend", "azure").stdout


# -- the command line --------------------------------------------------------------------

ASKED = ("estimate", str(DATA), "--backend", "openai,azure,local",
         "--model", MINI, "--model", TINY)  # fmt: skip


def test_names_are_crossed_or_paired() -> None:
    """Names with commas meet every model; a --backend for each --model pairs them."""
    assert pair_up(["a", "b"], ["x,y"]) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert pair_up(["a", "b"], ["x", "y"]) == [("a", "x"), ("b", "y")]
    assert pair_up(["a"], ["x", "y,x"]) == [("a", "x"), ("a", "y")]
    assert pair_up(["a", "b/c"], []) == [("a", "openai"), ("b/c", "local")]
    with pytest.raises(SpecError, match="pair"):
        pair_up(["a", "b"], ["x", "y", "z"])


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_the_table_fits_its_terminal(
    ftg: Ftg, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Every option that is possible, whatever the width, the cheapest first; what is not is named,
    and --explain says why, with each note once."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for asked in (ASKED, (*ASKED, "--explain")):
        done = ftg(*asked)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert max(len(line) for line in lines if "http" not in line) <= columns
        places = [done.stdout.index(f"{backend} ") for backend in ("local", "openai", "azure")]
        assert places == sorted(places)
        assert "2027-01-05" in done.stdout and "fits" in done.stdout
    words = " ".join(done.stdout.split())
    assert "local / gpt-4.1-mini-2025-04-14: 'gpt-4.1-mini-2025-04-14' is a model of" in words
    assert words.count("'builtin/tiny' is none of the 1") == 2
    assert words.count("reproduces seven published OpenAI bills") == 1
    assert "retired on 2027-01-14" in words
    assert "Nothing was sent anywhere." in " ".join(done.stderr.split())


def test_all_refused_still_shows_every_reason(ftg: Ftg) -> None:
    """Nothing can be done: the answer is why, and the exit code is that of the first."""
    done = ftg("estimate", str(DATA), "--backend", "frob,openai", "--model", TINY)
    assert done.returncode == 102
    assert "frob / builtin/tiny: No backend named 'frob'" in done.stdout
    assert "openai / builtin/tiny: 'builtin/tiny' is none of the 10" in done.stdout


def test_json_has_what_the_table_has(ftg: Ftg) -> None:
    """An array in the order of the table: figures, dates with source, or the error."""
    told = json.loads(ftg(*ASKED, "--format", "json").stdout)
    assert told == json.loads(ftg(*ASKED, "--json").stdout)
    openai, azure, _, refused, _, local = told
    assert openai["life_cycle"]["retires_on"] == "2027-01-14"
    assert azure["life_cycle"]["source"].startswith("https://learn.microsoft.com/")
    assert refused["error"]["type"] == "NotFoundError" and refused["error"]["hint"]
    assert local["life_cycle"] is None and local["memory_available_bytes"] > 0
    wrong = ftg(*ASKED, "--format", "pdf")
    assert wrong.returncode == 2 and "human, json or html" in wrong.stderr


def test_the_page_fits_two_screens_and_loads_nothing(ftg: Ftg, tmp_path: Path) -> None:
    """One file; no sideways scrolling at 1280 and 360 pixels, light and dark; cost beside cost
    first, and what it rests on folded away; data in names stays text."""
    page = tmp_path / "page.html"
    odd = tmp_path / "<b>odd.jsonl"
    odd.write_bytes(DATA.read_bytes())
    done = ftg("estimate", str(odd), *ASKED[2:], "--html", str(page))
    assert done.returncode == 0 and "Wrote" in done.stderr
    text = ftg("estimate", str(odd), *ASKED[2:], "--format", "html").stdout
    assert text.strip() == page.read_text(encoding="utf-8").strip()
    assert ftg("estimate", str(odd), *ASKED[2:], "--html", str(odd)).returncode == 2
    with browser(tmp_path) as tab:
        for width in (1280, 360):
            for dark in (False, True):
                tab.open(page, width=width, dark=dark)
                assert tab.js("document.documentElement.scrollWidth") <= width
                assert tab.js("getComputedStyle(document.body).backgroundColor") == (
                    "rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)"
                )
        costs = tab.js("[...document.querySelectorAll('.costs b')].map(b => b.textContent)")
        assert costs == ["$0.00", "$0.187", "not known"]
        assert tab.js("document.querySelectorAll('.costs svg').length") == 2
        assert tab.js("document.querySelector('.costs').getBoundingClientRect().bottom") < 500
        assert tab.js("document.querySelectorAll('details:not([open])').length") == 2
        assert tab.js("document.body.innerText.split('https://').length") == 1
        assert tab.js("document.querySelector('h1').textContent").endswith("<b>odd.jsonl")
        assert [said for said in tab.said if not said.startswith("data:")] == []


# -- dates -------------------------------------------------------------------------------


def test_a_certain_refusal_comes_before_any_upload(home: Path, train_file: Path) -> None:
    """After the last day, and for a base that can no longer be trained: the host is not asked
    for anything, and no job is written down."""
    with Provider() as provider:
        where: dict[str, Any] = {
            "base_url": provider.url,
            "api_key": provider.api_key,
            "profile": "openai",
        }
        for backend, model in ((TooLate(**where), MINI), (OnDay(**where), "gpt-4.1-nano")):
            with pytest.raises(UnsupportedError, match="since 2027-01-06|shut down on 2026-10-23"):
                Gateway().submit(train_file, model=model, backend=backend)
        assert provider.requests == []
    assert Gateway().jobs() == []


def test_a_refusal_is_told_in_the_estimate(home: Path, train_file: Path) -> None:
    """The figures stand, with the refusal first; the table says closed."""
    from finetune_gateway.reports.estimate_figures import new_jobs_until_text

    late = Gateway().estimate(train_file, model=MINI, backend=TooLate())
    assert late.warnings[0].startswith("This job cannot be created: OpenAI has taken no new")
    assert new_jobs_until_text(late, date(2027, 1, 7)) == "closed 2027-01-06"
    assert new_jobs_until_text(late, date(2027, 1, 6)) == "closed 2027-01-06"
    assert new_jobs_until_text(late, date(2027, 1, 5)) == "2027-01-05"


def test_a_base_that_is_shut_down_takes_no_jobs(
    ftg: Ftg, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal, the table and the lists say the same, and nothing is said of new jobs."""
    asked = ("estimate", str(train_file), "--model", MINI, "--backend", "azure")
    for day, until in (("2027-10-13", "2027-04-13 or later"), ("2027-10-14", "closed 2027-10-14")):
        monkeypatch.setenv("FTG_TODAY", day)
        said = " ".join(ftg(*asked).stdout.split())
        over = day == "2027-10-14"
        assert f"until {until}" in said
        assert ("was shut down on 2027-10-14" in said) == over
        assert (
            ("New jobs may have ended since" in said) == ("can create jobs" in said) == (not over)
        )
        rows = ftg("models", "--backend", "azure", "--all").stdout.splitlines()
        row = next(line.split() for line in rows if MINI in line)
        assert row[-2] == ("closed" if over else "2027-04-13+")
        assert (MINI in ftg("models", "--backend", "azure").stderr) == (not over)  # only for whom


def test_a_handle_knows_when_it_retires(home: Path, train_file: Path) -> None:
    """From the profile's row; a host nobody knows dates of has none."""
    for profile, day in (("openai", "2027-01-14"), ("custom", None)):
        with Provider() as provider:
            backend = OnDay(
                base_url=provider.url, api_key=provider.api_key, profile=profile,
                request_timeout=1.0, settle_seconds=0.2, poll_seconds=0.05,
            )  # fmt: skip
            handle = Gateway().submit(train_file, model=MINI, backend=backend).result()
        assert handle.retires_on == day


@pytest.mark.parametrize(
    ("day", "there", "gone"),
    [
        (date(2026, 11, 21), "new jobs until 2027-01-05, none from 2027-01-06 (in 46 days)",
         "are from 2026-11-21"),
        (date(2027, 1, 6), "no new jobs since 2027-01-06", "can create jobs"),
        (date(2027, 3, 1), "no new jobs since 2027-01-06", "fine-tuned models retire on"),
    ],
)  # fmt: skip
def test_doctor_tells_dates_with_source_and_age(
    ftg: Ftg, monkeypatch: pytest.MonkeyPatch, day: date, there: str, gone: str
) -> None:
    """What closes when, for whom, as of when; what was looked up more than 90 days ago."""
    monkeypatch.setenv("FTG_TODAY", str(day))
    told = {one["name"]: one for one in json.loads(ftg("doctor", "--json").stdout)["checks"]}
    found = told["openai"]["found"]
    assert there in found and gone not in found
    assert "(as of 2026-11-21, https://developers.openai.com" in found
    only = "used a fine-tuned model in the past 60 days (since 2026-07-02)"
    assert (only in found) == (day < date(2027, 1, 6))
    assert bool(told["openai"]["fix"]) == (day == date(2027, 3, 1))
    assert "Some dates are from 2026-03-05" in told["azure"]["fix"]


def test_models_tell_dates_with_source_and_age(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last day, the retirement, who may, and what has grown old."""
    monkeypatch.setenv("FTG_TODAY", "2026-11-21")
    done = ftg("models")
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"openai  {MINI}"))
    assert row.split()[-2:] == ["2027-01-05", "2027-01-14"]
    said = " ".join(done.stderr.split())
    assert "only organisations that have fine-tuned before (since 2026-05-07)" in said
    assert "this is 261 days old: check it" in said
    rows = json.loads(ftg("models", "--backend", "azure", "--json").stdout)
    mini = next(row for row in rows if row["model"] == MINI)
    assert (mini["retires_on"], mini["base_retires_on"]) == ("2027-10-14", "2027-04-14")
    assert mini["only_for"] == "existing customers (from 2027-04-14)" and not mini["stale"]
    monkeypatch.setenv("FTG_TODAY", "2027-01-06")
    assert MINI not in ftg("models", "--backend", "openai").stdout


def test_another_day_can_be_asked_about(
    ftg: Ftg, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FTG_TODAY: a job that will be refused is refused, with its date; no day is an error."""
    submit = ("submit", str(train_file), "--model", MINI, "--yes")
    monkeypatch.setenv("FTG_TODAY", "2027-01-07")
    late = ftg(*submit)
    assert late.returncode != 0 and "2027-01-06" in late.stderr
    monkeypatch.setenv("FTG_TODAY", "tomorrow")
    odd = ftg(*submit)
    assert odd.returncode == 2 and "FTG_TODAY is 'tomorrow', not a date" in odd.stderr


def test_life_cycles_have_source_and_day() -> None:
    """Of each row; a row may have its own, and 91 days on it is stale."""
    azure = load_profile("azure").life_cycle(MINI)
    assert azure.as_of == date(2026, 9, 2) and azure.new_jobs_until is None
    assert not azure.stale(date(2026, 12, 1)) and azure.stale(date(2026, 12, 2))
    warned = load_profile("azure").warnings(MINI, date(2026, 12, 2))
    assert any(f"The dates of {MINI} are from 2026-09-02" in text for text in warned)
    for name in ("openai", "azure"):
        profile = load_profile(name)
        for row in profile.models:
            life = profile.life_cycle(row.model)
            assert life.source.startswith("https://") and life.as_of <= date(2026, 11, 30)
    assert not load_profile("nebius").life_cycle("any").known


def test_no_key_and_no_network_are_needed(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every socket that is opened fails; no key is set."""
    import socket

    def refused(*_: object) -> None:
        raise OSError("the network is unplugged")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert not [name for name in os.environ if name.endswith("_API_KEY")]
    assert ftg(*ASKED).returncode == 0
