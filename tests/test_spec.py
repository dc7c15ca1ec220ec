"""What was chosen: a backend honours what was given, or refuses it; stored specs keep it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import (
    FakeBackend,
    Gateway,
    OpenAIBackend,
    SpecError,
    TrainingSpec,
    UnsupportedError,
    methods,
)
from finetune_gateway.backend import NEUTRAL
from finetune_gateway.cli.options import LISTS, parse_settings
from finetune_gateway.methods import METHODS
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import LATER_FIELDS, TrainingOptions

MODEL = "gpt-4.1-mini-2025-04-14"
FIELDS = TrainingSpec.model_fields
DEFAULTS = {
    name: FIELDS[name].default
    for name in TrainingOptions.__annotations__
    if FIELDS[name].default is not None
}


def change(home: Path, columns: str, *values: str) -> None:
    """Change the stored jobs, as an older version may have written them."""
    with sqlite3.connect(Settings.load(home).database) as db:
        db.execute(f"UPDATE jobs SET {columns}", values)


@pytest.mark.parametrize("host", ["openai", "azure", "nebius", "custom", "local"])
def test_a_given_default_is_refused_like_any_value(host: str) -> None:
    """``lora_r=16`` was dropped silently for a hosted job, while 8 was refused."""
    backend = Gateway().backend(host) if host == "local" else OpenAIBackend(profile=host)
    limits = backend.capabilities()
    for name, value in DEFAULTS.items():
        # A setting of some methods with one of them: others refuse it on any backend.
        having = {
            method
            for method in limits.methods
            if name in getattr(METHODS[method], "options", ())  # not there before (tests/trust.py)
        }
        method = "sft" if "sft" in having else min(having, default="sft")
        spec = TrainingSpec.build(**{"model": MODEL, "method": method, name: value})
        if name in NEUTRAL | limits.options or (limits.hosted and name == "train_on"):
            limits.require(host, spec)
            continue
        with pytest.raises(UnsupportedError, match=name) as caught:
            limits.require(host, spec)
        assert caught.value.option == name


def test_a_setting_that_a_host_lacks_sends_nothing(home: Path) -> None:
    """The same for its default; None chooses nothing."""
    with Provider() as provider:
        backend = OpenAIBackend(base_url=provider.url, api_key=provider.api_key)
        for given in ({"lora_r": 16}, {"lora_r": 8}, {"packing": False}):
            with pytest.raises(UnsupportedError, match=next(iter(given))):
                Gateway().submit(chat_rows(10), model=MODEL, backend=backend, **given)
        assert not provider.requests
        Gateway().submit(chat_rows(10), model=MODEL, backend=backend, max_steps=None, seed=None)
        assert len(provider.jobs) == 1


def test_a_rule_that_hosts_have_may_be_named() -> None:
    """Hosts train what the assistant says: to ask for it is no error, for anything else it is."""
    limits = OpenAIBackend(profile="openai").capabilities()
    limits.require("openai", TrainingSpec(model=MODEL, train_on="assistant"))
    with pytest.raises(UnsupportedError, match="train_on"):
        limits.require("openai", TrainingSpec(model=MODEL, train_on="all"))


@pytest.mark.parametrize("name", ["lora_r", "lora_alpha", "lora_dropout", "target_modules"])
def test_full_training_has_no_adapter(name: str) -> None:
    """Settings of an adapter were dropped silently there."""
    limits = Gateway().backend("local").capabilities()
    spec = TrainingSpec.build(model="m", training_type="full", **{name: DEFAULTS[name]})
    with pytest.raises(UnsupportedError, match=name):
        limits.require("local", spec)


def test_what_was_chosen_is_stored(home: Path) -> None:
    """Also for a spec that an older version has stored, which says nothing of it."""
    job = Gateway().submit(chat_rows(10), model="m", backend=FakeBackend(), lora_r=16, seed=7)
    assert Gateway(home).job(job.id).record.spec.chosen == {"model", "lora_r", "seed"}
    stored: dict[str, Any] = job.record.spec.canonical()
    change(home, "spec = ?", json.dumps(stored))
    old = Gateway(home).job(job.id).record.spec
    assert old.chosen == {"model", "seed"} and old == job.record.spec


def test_a_default_makes_no_other_job(home: Path) -> None:
    """Who names a default asks for the same job, and gets it."""
    backend = FakeBackend()
    jobs = [
        Gateway().submit(chat_rows(10), model="m", backend=backend, **given)
        for given in ({}, {"lora_r": 16}, {"method": "supervised", "n_epochs": "auto"})
    ]
    assert len({job.id for job in jobs}) == len(backend.started) == 1
    # What jobs of older stores are recognised by: every field that they have, and nothing else.
    assert jobs[1].record.spec.canonical().keys() == FIELDS.keys() - set(LATER_FIELDS)


OTHER: dict[str, Any] = {
    "backend_params": {"warmup_steps": 3},
    "stop_on_divergence": False,
    "chat_template_kwargs": {"enable_thinking": False},
    "call_format": "hermes",
    "continue_from": "ftgjob-1",
    "loss_type": "dft",
    "beta": 0.2,
    "label_smoothing": 0.1,
    "desirable_weight": 1.5,
    "undesirable_weight": 1.5,
    "use_dora": True,
    "use_rslora": True,
    "modules_to_save": ["lm_head"],
    "optim": "adafactor",
    "max_grad_norm": 0.5,
    "engine": "trl",
    "micro_batch_size": 2,
    "bf16": False,
    "early_stopping_patience": 2,
    "load_best_model_at_end": False,
    "report_to": "tensorboard",
}


@pytest.mark.parametrize("name", LATER_FIELDS)
def test_a_later_field_makes_another_job_only_when_it_is_set(name: str) -> None:
    """A job that a version without it has stored is found again; another value is another job."""
    named = TrainingSpec.build(model="m", **{name: FIELDS[name].default})
    other = TrainingSpec.build(model="m", **{name: OTHER[name]})
    assert named.canonical() == TrainingSpec(model="m").canonical() != other.canonical()
    assert other.canonical()[name] == OTHER[name]


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("lm_head", ("lm_head",)),
        ("embed_tokens, lm_head", ("embed_tokens", "lm_head")),
        ("lm_head,", ("lm_head",)),
        ('["embed_tokens", "lm_head"]', ("embed_tokens", "lm_head")),
    ],
)
def test_a_list_of_names_is_written_with_commas(written: str, names: tuple[str, ...]) -> None:
    """On the command line, for each setting that takes several; one name needs none. Of
    target_modules one text is a pattern."""
    given = parse_settings([f"modules_to_save={written}"])
    assert TrainingSpec.build(model="m", **given).modules_to_save == names
    spec = TrainingSpec.build(model="m", **parse_settings([f"target_modules={written}"]))
    assert spec.target_modules == (written if written == "lm_head" else names)


def test_every_setting_with_several_names_takes_commas() -> None:
    types = get_type_hints(TrainingSpec)
    several = {
        name
        for name in TrainingSpec.model_fields
        if tuple in {get_origin(arm) for arm in (types[name], *get_args(types[name]))}
    }
    assert several == {*LISTS}


@pytest.mark.parametrize("chosen", ["all", 3, None, {"model": 1}])
def test_only_a_list_says_what_was_chosen(chosen: object) -> None:
    with pytest.raises(SpecError, match="'chosen'"):
        TrainingSpec.build(model="m", chosen=chosen)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [
        ("a:b", "':'"),
        ("../a", "'/'"),
        ("a\\b", "separates"),
        ("a\nb", "control character"),
        ("a\u202eb", "control character"),
        ("a\x1b[2J", "control character"),
        (" a", "blank"),
        ("a ", "blank"),
        ("", "text of 1 to 64 characters"),
        ("x" * 65, "text of 1 to 64 characters"),
    ],
)
@pytest.mark.parametrize("backend", ["openai", "azure", "local", "fake"])
def test_a_suffix_is_one_part_of_a_name(suffix: str, reason: str, backend: str) -> None:
    """``ft:base:org:a:b:id`` is ambiguous; refused everywhere, in words, before any work."""
    model = "builtin/tiny" if backend == "local" else MODEL
    with pytest.raises(SpecError, match="suffix") as caught:
        Gateway().plan(chat_rows(10), model=model, backend=backend, suffix=suffix)
    assert reason in caught.value.message and caught.value.message.isprintable()


def test_a_suffix_may_have_other_characters() -> None:
    """The contract limits its length alone: what a host refuses beside these, it says itself."""
    for suffix in ("support-v2", "v1.5", "my bot", "zürich", "客服"):
        assert TrainingSpec.build(model="m", suffix=suffix).suffix == suffix


def test_a_job_with_an_old_suffix_stays_in_reach(home: Path) -> None:
    """A rule of today keeps nobody from a job of yesterday."""
    gateway = Gateway()
    job = gateway.submit(chat_rows(10), model="m", backend=FakeBackend(), suffix="ab")
    change(home, "spec = json_set(spec, '$.suffix', 'a:b')")
    assert gateway.job(job.id).record.spec.suffix == "a:b"


@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_a_factor_of_a_loss_that_makes_it_no_number_is_refused(name: str, value: float) -> None:
    """The job would end at its first step, and blame the learning rate."""
    given: dict[str, Any] = {name: value}
    with pytest.raises(SpecError, match=f"{name} must be a number from 0.0001 to 10000, not 1e"):
        TrainingSpec.build(model="m", method="kto", **given)


@pytest.mark.parametrize(
    ("method", "setting", "reason"),
    [
        ("sft", {"beta": 0.1}, "beta is no setting of sft. Leave it out; dpo, orpo, kto have it."),
        ("dpo", {"desirable_weight": 2.0}, "desirable_weight is no setting of dpo"),
        ("dpo", {"loss_type": "nll"}, "dpo has no loss_type 'nll'. It has: sigmoid, hinge"),
        ("orpo", {"loss_type": "sigmoid"}, "loss_type is no setting of orpo"),
        ("reward", {"engine": "fast"}, "reward cannot be trained with engine='fast'"),
        ("pretrain", {"chat_template": "x.jinja"}, "chat_template is no setting of pretrain"),
        ("pretrain", {"packing": False}, "pretrain always packs its texts"),
        ("kto", {"train_on": "all"}, "train_on='all' is no setting of kto"),
        ("dpo", {"packing": True}, "packing is no setting of dpo"),
    ],
)
def test_a_method_refuses_settings_of_others(
    method: str, setting: dict[str, Any], reason: str
) -> None:
    spec = TrainingSpec.build(**{"model": "m", "method": method, **setting})
    with pytest.raises(SpecError) as caught:
        methods.require(spec)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["n_epochs", "learning_rate", "seed", "max_steps", "lora_r"])
def test_true_is_no_number(name: str) -> None:
    """Python takes True for 1: a learning rate of 1, one epoch."""
    given: dict[str, Any] = {name: True}
    with pytest.raises(SpecError, match=f"^{name} must be a .*number.*, not True"):
        TrainingSpec.build(model="m", **given)
    assert TrainingSpec.build(model="m", packing=True, stop_on_divergence=False).packing


@pytest.mark.parametrize("value", [10**30, 10**400, str(10**20)])
@pytest.mark.parametrize("name", ["max_steps", "lora_alpha", "gradient_accumulation_steps"])
def test_a_count_that_no_float_holds_is_refused(name: str, value: Any) -> None:
    """Estimates and PEFT compute with floats: there it would be an error of theirs."""
    with pytest.raises(SpecError, match=f"^{name} must be at most 1,000,000,000,000,000, not"):
        TrainingSpec.build(model="m", **{name: value})
