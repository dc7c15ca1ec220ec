"""``ftg migrate run``: train what was fetched, compare with what was recorded, go or no-go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.provider import Provider
from support.provider_memory import BASES

from finetune_gateway import (
    BudgetError,
    Gateway,
    NotFoundError,
    OpenAIBackend,
    SpecError,
    UnsupportedError,
    evaluation,
    migration,
)
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.evaluation.prompts import read_prompts
from finetune_gateway.evaluation.results import (
    AnswerFigures,
    ComparisonData,
    DataFacts,
    Difference,
    Interval,
    Measure,
    MeasureFigure,
    Verdict,
)
from finetune_gateway.evaluation.thresholds import Threshold, decide
from finetune_gateway.migration import moving, running, sides
from finetune_gateway.migration.destinations import destination
from finetune_gateway.migration.inventory import FineTune
from finetune_gateway.migration.outcome import Migration
from finetune_gateway.migration.running import MigrationPlan
from finetune_gateway.settings.home import Settings

Json = dict[str, Any]

KEY = "sk-test-0123456789abcdef"
DROP = {"normalized_match": 0.2}


@pytest.fixture
def provider(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("A_KEY", KEY)
    with Provider(api_key=KEY) as started:
        yield started


def host(provider: Provider, **more: Any) -> OpenAIBackend:
    return OpenAIBackend(base_url=provider.url, api_key_env="A_KEY", **more)


def fetched(provider: Provider, **more: Any) -> str:
    """A fine-tune that was fetched, with 40 held-out rows."""
    given = {"base": BASES[3], "rows": 30, "validation_rows": 40, "suffix": "support", **more}
    model = str(provider.world.add_fine_tune(**given)["fine_tuned_model"])
    migration.fetch(model, host(provider, profile="openai"))
    return model


def recorded(provider: Provider, model: str) -> None:
    evaluation.record(model, name="support", backend=host(provider, profile="openai"))


def line(provider: Provider, model: str, *more: str) -> list[str]:
    """The command that trains it at the same provider, under a profile without models."""
    to = ["--to", f"custom:{BASES[3]}", "--to-url", provider.url, "--to-key-env", "A_KEY"]
    return ["migrate", "run", model, *to, "--yes", *more]


def migrated(provider: Provider, model: str, **more: Any) -> Migration:
    """The same, as a call."""
    there = {"base_url": provider.url, "api_key_env": "A_KEY", "poll_seconds": 0.01}
    given = {"max_drop": {"normalized_match": 0.01}, "to_options": there, **more}
    return Gateway().migrate(model, f"custom:{BASES[3]}", **given)


def chats(provider: Provider) -> int:
    return sum(one[1].endswith("/chat/completions") for one in provider.requests)


def test_it_trains_compares_and_decides_once(provider: Provider, ftg: Ftg) -> None:
    """After the model has been shut: 404. Go or no-go is the exit code; what cannot be told is a
    no-go and says how many rows would tell; the same command again trains and asks nothing."""
    model = fetched(provider)
    recorded(provider, model)
    provider.world.retired.add(model)
    done = migrated(provider, model)
    assert done.decision.text == "no-go: can't tell" and not done.go
    [found] = done.decision.findings
    assert found.rows_needed and found.rows_needed > 40 and "rows would tell" in found.text
    assert (done.trained_rows, done.left_out, done.against) == (30, 0, "recorded:support")
    before = chats(provider), len(provider.jobs)
    go = ftg(*line(provider, model, "--max-drop", "normalized_match=0.2"))
    assert go.returncode == 0 and go.stdout.startswith("go\n"), go
    low = ftg(*line(provider, model, "--min", "normalized_match=0.5", "--json"))
    said = json.loads(low.stdout)
    assert (low.returncode, said["text"], said["job"]) == (1, "no-go", done.job_id)
    assert (chats(provider), len(provider.jobs)) == before


def test_a_live_model_that_is_shut_stops_it_before_anything_is_trained(
    provider: Provider,
) -> None:
    """There is nothing to compare with. While it answers it is asked the same rows."""
    model = fetched(provider, validation_rows=10)
    jobs = len(provider.jobs)
    provider.world.retired.add(model)
    with pytest.raises(NotFoundError, match="does not answer any more"):
        migrated(provider, model)
    assert len(provider.jobs) == jobs
    provider.world.retired.clear()
    asked: list[MigrationPlan] = []

    def agree(plan: MigrationPlan) -> bool:
        asked.append(plan)
        return True

    done = migrated(provider, model, confirm=agree)
    assert len(asked) == 1 and asked[0].training and asked[0].asking_usd is None
    assert done.against == f"{model}, as it answers now" and done.comparison.data.data.rows == 10


def test_what_cannot_be_is_refused_before_anything_is_sent(provider: Provider) -> None:
    """No threshold, one of what is not measured, no such place, a file that is not here, a limit
    without a price, a no."""
    model = fetched(provider, validation_rows=10)
    recorded(provider, model)
    sent = len(provider.requests)
    cases: list[tuple[type[Exception], str, Json]] = [
        (SpecError, "no threshold", {"max_drop": {}}),
        (SpecError, "is not measured on these rows", {"max_drop": {"tool_arguments": 0.1}}),
        *(
            (SpecError, "is a share from 0 to 1", {kind: {"normalized_match": wrong}})
            for kind, wrong in (("max_drop", 5), ("max_drop", 1), ("at_least", 80), ("at_least", 0))
        ),
        (SpecError, "answers its own rows alone", {"data": [{"prompt": "Where?"}]}),
        (SpecError, "is no recording", {"against": "gpt-4"}),
        (NotFoundError, "There is no recording", {"against": "recorded:other"}),
        (BudgetError, "No price is known", {"max_cost_usd": 1}),
        (BudgetError, "not confirmed", {"confirm": lambda plan: False}),
    ]
    for error, text, more in cases:
        with pytest.raises(error, match=text):
            migrated(provider, model, **more)
    with pytest.raises(NotFoundError, match="training file of ft:other"):
        migrated(provider, "ft:other:o::1")
    for to, wrong in {
        "": SpecError,
        "nebius": SpecError,
        "gpt-4": SpecError,
        "azure": SpecError,
    }.items():
        with pytest.raises(wrong):
            Gateway().migrate(model, to, max_drop=DROP)
    assert len(provider.requests) == sent


def test_a_place_that_does_not_train_by_its_method_is_none(home: Path) -> None:
    """By the profile of a host, or by what the backend says of itself."""
    one = FineTune(
        model="ft:a:o::1", base_model=BASES[0], job_id=None, host="api.openai.com",
        profile="openai", keys=(),
    )  # fmt: skip
    settings = Settings.load().create()
    for to, words in (("nebius:Qwen/Qwen3-32B", "does not support 'reinforcement'"),
                      ("local:builtin/tiny", "not by reinforcement")):  # fmt: skip
        assert destination(to, one, {}, settings).method == "sft"
        with pytest.raises(UnsupportedError, match=words):
            destination(to, one.model_copy(update={"method": "reinforcement"}), {}, settings)


def test_a_limit_leaves_room_for_the_dearest_answers(provider: Provider) -> None:
    """What asking the new model may cost is kept free before the training is priced."""
    model = fetched(provider, validation_rows=10)
    recorded(provider, model)
    plans: list[MigrationPlan] = []

    def refuse(plan: MigrationPlan) -> bool:
        plans.append(plan)
        return False

    def refused(match: str, **more: Any) -> None:
        there = {"base_url": provider.url, "api_key_env": "A_KEY", "profile": "openai"}
        given = {"max_drop": DROP, "to_options": there, "confirm": refuse, **more}
        with pytest.raises(BudgetError, match=match):
            Gateway().migrate(model, f"openai:{BASES[3]}", **given)

    refused("not confirmed")
    cost = plans[0].asking_usd
    assert cost is not None and 0 < cost.expected < cost.high
    refused("Asking the models can cost", max_cost_usd=cost.expected)


def test_rows_that_are_compared_are_not_trained_on(provider: Provider) -> None:
    """Of a model without a validation file a tenth was recorded: these rows, and those that nearly
    repeat one, are left out, and of the rest no row is held out again."""
    model = fetched(provider, rows=60, validation_rows=0)
    recorded(provider, model)
    [source] = [one for one in [moving.fetched_source(model, Gateway().settings)] if one]
    assert source.train is not None
    recording = evaluation.Recording.load("recorded:support")
    found = sides.of_recording(recording, source.train, Gateway().store)
    left = {prompt.id for prompt in read_prompts(found.train)}
    asked = {prompt.id for prompt in recording.prompts()}
    assert found.left_out >= len(asked) > 0 and not left & asked
    assert len(left) == 60 - found.left_out
    done = migrated(provider, model)
    record = Gateway().job(done.job_id).record
    assert record.train.rows == done.trained_rows == len(left) and record.held_out is None
    assert {one.id for one in read_prompts(Dataset(Path(record.train.path)))} == left


def data(
    low: float,
    high: float,
    *,
    errors: int = 0,
    better: str = "higher",
    name: str = "m",
    unjudged: dict[str, int] | None = None,
    pairs: int = 100,
) -> ComparisonData:
    """A comparison of two models, whose difference and whose new figure have this interval."""
    mean = (low + high) / 2
    interval = Interval(mean=mean, low=low, high=high, n=100, clusters=100)
    measure = {"name": name, "title": "m", "better": better}
    of_both = interval.model_copy(update={"n": pairs})
    return ComparisonData(
        id="cmp-1",
        created_at=0.0,
        data=DataFacts(words="", rows=100),
        models=[],
        measures=[Measure.model_validate(measure)],
        figures={name: {"new": MeasureFigure(interval=interval, unjudged=unjudged or {})}},
        differences=[Difference(measure=name, first="new", second="old", interval=of_both)],
        answers={"new": AnswerFigures(answers=100 - errors, errors=errors)},
        verdict=Verdict(text="", measure="m"),
    )


@pytest.mark.parametrize(
    ("typed", "low", "high", "outcome", "rows"),
    [
        ("max-drop m=0.1", -0.05, 0.15, "holds", None),
        ("max-drop m=0.1", -0.2, 0.1, "can't tell", 900),
        ("max-drop m=0.1", -0.4, -0.2, "fails", None),
        ("max-drop m=0.1", -0.2, 0.0, "can't tell", None),  # its middle is the limit
        ("min m=0.5", 0.5, 0.7, "holds", None),
        ("min m=0.5", 0.4, 0.8, "can't tell", 400),
        ("min m=0.5", 0.2, 0.4, "fails", None),
    ],
)
def test_a_limit_holds_with_its_whole_interval(
    typed: str, low: float, high: float, outcome: str, rows: int | None
) -> None:
    """Else it fails, or cannot be told; then about so many rows would tell."""
    kind, _, text = typed.partition(" ")
    limit = Threshold.read(kind, text)  # type: ignore[arg-type]
    [found] = decide(data(low, high), "new", "old", [limit]).findings
    assert (found.outcome, found.rows_needed) == (outcome, rows)


def test_the_good_side_is_that_of_the_measure() -> None:
    """Of what less is better, less is no drop; --min is refused, --max-drop turns; and a new model
    that leaves rows without an answer is a no-go whatever its figures are."""
    drop, least = Threshold("max-drop", "m", 0.1), Threshold("min", "m", 0.1)
    most = Threshold("max", "m", 0.5)
    assert decide(data(-0.4, -0.2, better="lower"), "new", "old", [drop, most]).go
    assert not decide(data(0.2, 0.4, better="lower"), "new", "old", [drop]).go
    with pytest.raises(SpecError, match="Use --max"):
        decide(data(0, 1, better="lower"), "new", "old", [least])
    gone = decide(data(0.2, 0.4, errors=6), "new", "old", [drop])
    assert not gone.go and "6 of 100 rows have no answer" in gone.notes[0]
    for text in ("m", "=0.1", "m=x", "m=nan", "m=-1"):
        with pytest.raises(SpecError):
            Threshold.read("max-drop", text)


@pytest.mark.parametrize(
    ("why", "count", "is_go"),
    [
        ("it raised ValueError", 5, True),
        ("it raised ValueError", 6, False),
        ("undecided: it asks back", 99, True),
        ("undecided: it asks back", 101, False),
    ],
)
def test_what_was_not_judged_is_no_go(why: str, count: int, is_go: bool) -> None:
    """However good the few are that were; of answers that show neither, a half. The share is
    said."""
    shown = data(0.9, 1.0, name="check:m", unjudged={why: count})
    for limit in (Threshold("min", "check:m", 0.8), Threshold("max-drop", "check:m", 0.1)):
        decision = decide(shown, "new", "old", [limit])
        assert decision.go is is_go
        said = f"{count} of {100 + count} answers were not judged ({why})"
        assert (said in decision.findings[0].text) is not is_go


def test_a_drop_is_one_of_most_answers() -> None:
    """An old model that has answered few rows says little of the others."""
    drop = Threshold("max-drop", "m", 0.1)
    assert decide(data(0.2, 0.4, pairs=50), "new", "old", [drop]).go
    few = decide(data(0.2, 0.4, pairs=49), "new", "old", [drop])
    assert not few.go and "only 49 of 100 answers have one of the old" in few.findings[0].text


@pytest.mark.chaos
def test_the_same_on_this_machine(provider: Provider, ftg: Ftg) -> None:
    """A tiny model is trained on the fetched file, and is no match for the recording."""
    model = fetched(provider)
    recorded(provider, model)
    provider.world.retired.add(model)
    call = ["migrate", "run", model, "--to", "builtin/tiny", "--min", "normalized_match=0.99"]
    done = ftg(*call, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["trained_rows"] == 30
    again = ftg(*call, "--quiet")
    assert again.returncode == 1 and again.stdout.startswith("no-go")


def test_no_clock_decides_which_recording_is_the_newest(provider: Provider, home: Path) -> None:
    """It was set back between the two; a damaged one of another name is no hindrance."""
    model = fetched(provider, rows=4)
    for name in ("first", "second"):
        evaluation.record(model, name=name, rows=2, backend=host(provider, profile="openai"))
        about = Settings(home).recordings / name / "recording.json"
        known = json.loads(about.read_text())
        about.write_text(json.dumps({**known, "created_at": 2e9 - known["created_at"]}))
        if name == "first":
            (about.parent.with_name("another") / about.name).mkdir(parents=True)
    shutil.rmtree(about.parent.with_name("another"))
    source = moving.fetched_source(model, Settings(home))
    assert source is not None
    found = running._old(None, source, Gateway().store)
    assert found is not None and found.about.name == "second"
