"""Claims of finetune_gateway.estimation.profiles: dated facts, certain refusals, whole names."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from finetune_gateway import registry
from finetune_gateway.errors import NotFoundError
from finetune_gateway.estimation.profiles import load_profile, profile_names
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.encodings import encoding_for

TODAY = date(2026, 11, 21)
MINI = "gpt-4.1-mini-2025-04-14"


def test_the_profiles_are_known_and_others_are_named() -> None:
    """Unknown names raise NotFoundError, which lists the known ones."""
    assert profile_names() == ["azure", "bedrock", "crusoe", "custom", "nebius", "openai"]
    assert {*profile_names()} == {"openai", *registry.HOSTS}
    with pytest.raises(NotFoundError, match="azure, bedrock, crusoe, custom, nebius, openai"):
        load_profile("opanai")


@pytest.mark.parametrize("name", ["azure", "bedrock", "crusoe", "custom", "nebius", "openai"])
def test_profiles_are_whole(name: str) -> None:
    """Each has a source, a date, an address or its form, and honours only fields there are."""
    profile = load_profile(name)
    assert profile.source.startswith("https://")
    assert profile.as_of <= date(2026, 11, 30)  # nothing from after the day it was read
    assert profile.base_url or profile.base_url_hint
    assert profile.options | profile.hyperparameters.keys() <= set(TrainingSpec.model_fields)
    assert not profile.options & profile.hyperparameters.keys()
    assert all(way.source and way.data for way in profile.trainings.values())
    names = [name for row in profile.models for name in (row.model, *row.aliases)]
    assert len(names) == len(set(names))
    for row in profile.models:
        assert row.methods <= profile.methods
        assert set(row.trainings) <= profile.trainings.keys()
        assert row.source
        assert not row.retires_on or (row.no_new_jobs_from or TODAY) <= row.retires_on


def test_openai_limits_and_dates() -> None:
    """The limits and the last day for jobs on api.openai.com."""
    openai = load_profile("openai")
    assert (openai.min_rows, openai.max_file_bytes) == (10, 512 * 2**20)
    assert openai.no_new_jobs_from == date(2027, 1, 6)  # as the source has it
    assert openai.no_new_jobs_after == date(2027, 1, 5)
    assert openai.context(MINI) == 65_536
    assert openai.context("gpt-3.5-turbo") == 16_385
    assert openai.trainable("sft", TODAY) == [
        "gpt-4.1-2025-04-14",
        MINI,
        "gpt-4o-2024-08-06",
        "gpt-4o-mini-2024-07-18",
    ]
    assert openai.trainable("sft", date(2027, 1, 5)) == openai.trainable("sft", TODAY)
    assert openai.trainable("sft", date(2027, 1, 6)) == []


def test_every_openai_model_has_an_encoding() -> None:
    """No model in OpenAI's table would be counted by approximation."""
    assert all(encoding_for(row.model) for row in load_profile("openai").models)


@pytest.mark.parametrize(
    "name", ["gpt-4.1-mini", MINI, f"ft:{MINI}:org::abc", f"{MINI}.ft-0a1b", f"ft:{MINI}:o:s:i"]
)
def test_documented_names_find_their_row(name: str) -> None:
    """Aliases and fine-tunes of a base give the row of the base."""
    row = load_profile("openai").model(name)
    assert row is not None
    assert row.model == MINI


@pytest.mark.parametrize(
    "name", ["gpt-4", "gpt-4.1-min", "xgpt-4.1-mini", "GPT-4.1-MINI", "", "ft:"]
)
def test_a_part_of_a_name_finds_no_other_row(name: str) -> None:
    """Names are matched whole."""
    row = load_profile("openai").model(name)
    assert row is None or name in (row.model, *row.aliases)


@pytest.mark.parametrize(
    ("model", "method", "today", "word"),
    [
        (MINI, "sft", date(2027, 1, 6), "has taken no new fine-tuning jobs since 2027-01-06"),
        (MINI, "sft", date(2027, 1, 7), "has taken no new fine-tuning jobs since 2027-01-06"),
        ("gpt-4.1-nano-2025-04-14", "sft", TODAY, "shut down on 2026-10-23"),
        ("gpt-4.1-nano-2025-04-14", "sft", date(2026, 10, 23), "shut down on 2026-10-23"),
        ("gpt-3.5-turbo", "sft", TODAY, "shut down on 2026-10-23"),
        (MINI, "kto", TODAY, "does not support 'kto'"),
        ("o4-mini", "sft", date(2026, 10, 1), "does not support 'sft'"),
        ("unheard-of", "orpo", TODAY, "OpenAI does not support 'orpo'"),
    ],
)
def test_certain_refusals_carry_their_date(model: str, method: str, today: date, word: str) -> None:
    """What is certainly impossible is refused, with the date and the source."""
    refusal = load_profile("openai").refusal(model, method, today)
    assert refusal is not None
    assert word in refusal
    assert "https://developers.openai.com" in refusal


def test_a_refusal_names_what_is_still_open() -> None:
    """A shut model's refusal lists the models that can still be trained."""
    refusal = load_profile("openai").refusal("gpt-4.1-nano", "sft", TODAY)
    assert refusal is not None
    assert f"Still open here: gpt-4.1-2025-04-14, {MINI}" in refusal


@pytest.mark.parametrize(
    ("model", "today"),
    [
        (MINI, TODAY),
        (MINI, date(2027, 1, 5)),
        ("gpt-4.1-nano", date(2026, 10, 22)),
        ("gpt-9", TODAY),
    ],
)
def test_what_is_possible_or_unknown_is_not_refused(model: str, today: date) -> None:
    """The last day is still open, and a name we do not know is not refused."""
    assert load_profile("openai").refusal(model, "sft", today) is None


def test_warnings_count_the_days() -> None:
    """Closing dates come with the days that are left; unknown names are said to be unknown."""
    openai = load_profile("openai")
    jobs, only, answers = openai.warnings(MINI, TODAY)
    assert only.startswith("Only organisations that have fine-tuned before (since 2026-05-07)")
    until = "New jobs are possible until 2027-01-05; none from 2027-01-06 on"
    assert jobs == f"{until} (in 46 days)."
    assert answers == f"A fine-tune of {MINI} stops answering on 2027-01-14 (in 54 days)."
    assert openai.warnings(MINI, date(2027, 1, 5))[0] == f"{until} (in 1 day)."
    assert "'gpt-9' is not among the models known for OpenAI" in openai.warnings("gpt-9", TODAY)[0]
    assert "is not known whether" in load_profile("custom").warnings("m", TODAY)[0]
    assert "By invitation only." in load_profile("azure").warnings("gpt-5", TODAY)


@pytest.mark.parametrize("host", ["openai", "azure"])
def test_sentences_and_refusals_agree_on_every_day(host: str) -> None:
    """While a job is refused nothing speaks of new jobs; while it is not, nothing says closed;
    the first refused day is the one the source names."""
    profile = load_profile(host)
    for row in profile.models:
        life, (method, *_) = profile.life_cycle(row.model), row.methods or profile.methods
        days = [date(2026, 10, 1) + timedelta(days=n) for n in range(450)]
        refused = [day for day in days if profile.refusal(row.model, method, day)]
        for day in days:
            said = " ".join(profile.warnings(row.model, day))
            assert bool(life.closed_on(day)) == (day in refused)
            assert not (day in refused and ("ew jobs" in said or "can create" in said))
            answers = "stops answering" in said
            assert answers == bool(life.retires_on and day < life.retires_on)
        ends = [day for day in (profile.no_new_jobs_from, row.no_new_jobs_from, row.retires_on)
                if day]  # fmt: skip
        assert refused[:1] == [day for day in [min(ends, default=None)] if day in days]
        assert not ends or life.closed_on(days[-1]) == min(ends)


def test_where_no_end_is_announced_the_first_possible_day_is_told() -> None:
    """Azure: "not before 2027-04-14" may be that day, so the day before is the last sure one."""
    azure = load_profile("azure")
    assert azure.life_cycle(MINI).new_jobs_at_least_until == date(2027, 4, 13)
    assert azure.warnings(MINI, TODAY)[1].startswith("New jobs may end on any day from 2027-04-14")


def test_who_may_train_at_azure_is_told_with_its_doubts() -> None:
    """What the sources do not settle is said to be not verified, and refuses nothing."""
    azure = load_profile("azure")
    for model, word in (("gpt-4o-2024-08-06", "Deprecated"), (MINI, "Legacy")):
        first = azure.warnings(model, TODAY)[0]
        assert first.startswith(f"Marked {word}") and "not verified" in first
        assert azure.refusal(model, "sft", TODAY) is None
    o4 = azure.life_cycle("o4-mini")
    assert (o4.base_retires_on, o4.retires_on) == (date(2026, 11, 19), date(2027, 11, 19))
    assert o4.new_jobs_at_least_until == date(2027, 5, 18)
    for model in ("Qwen3.6-35B-A3B", "Qwen3.8-27B", "Muse-Glimmer-30B", "gpt-oss-120b"):
        assert any("is not verified" in text for text in azure.warnings(model, TODAY))
        assert not azure.refusal(model, "sft", TODAY) and model not in azure.trainable("sft", TODAY)
    assert any("names no figure" in note for note in azure.notes)


def test_an_old_table_says_so() -> None:
    """90 days after it was looked up, a profile warns of its age."""
    openai = load_profile("openai")
    for days, warned in ((90, False), (91, True)):
        said = openai.warnings("gpt-9", openai.as_of + timedelta(days=days))
        assert any("are from 2026-11-21" in warning for warning in said) == warned


def test_a_rate_means_what_the_service_says() -> None:
    """Nebius takes an absolute rate, OpenAI a multiplier; neither takes the other's."""
    nebius, openai = load_profile("nebius").hyperparameters, load_profile("openai").options
    assert "learning_rate" in nebius and "learning_rate_multiplier" not in nebius
    assert "learning_rate_multiplier" in openai and "learning_rate" not in openai
