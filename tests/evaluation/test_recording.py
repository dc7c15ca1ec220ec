"""Recordings: what is asked, what is kept, what it costs, and how it goes on."""

from __future__ import annotations

import asyncio
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.hosted import connect
from support.modes import umask
from support.provider import Fault, Provider
from support.recordings import CHAT, TOOL, asked, recorded, rows, spent, tuned, wide

from finetune_gateway import (
    BackendError,
    BudgetError,
    DataError,
    Gateway,
    NotFoundError,
    OpenAIBackend,
    SpecError,
)
from finetune_gateway.backends.openai import async_chat
from finetune_gateway.errors import PrivateDataError, StoreError
from finetune_gateway.evaluation import Recording, asking, planning
from finetune_gateway.evaluation.planning import RecordPlan
from finetune_gateway.evaluation.prompts import drawn, prompt_of
from finetune_gateway.evaluation.recording import default_name
from finetune_gateway.evaluation.subjects import Subject
from finetune_gateway.jobs import journal
from finetune_gateway.jobs.journal import Journal, read_lines
from finetune_gateway.jobs.store import Store
from finetune_gateway.reports.recording_text import plan_text
from finetune_gateway.settings.home import Settings

# -- what is asked -------------------------------------------------------------------------------


def test_a_row_is_asked_up_to_its_last_answer() -> None:
    """With its tools; what is for training alone is not sent; a prompt alone is asked as it is."""
    calls = [{"id": "c1", "type": "function", "function": {"name": "track", "arguments": "{}"}}]
    row: Any = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "weight": 0},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": None, "tool_calls": calls},
        ],
        "tools": [TOOL],
        "parallel_tool_calls": False,
    }
    found = prompt_of(row, 1)
    assert found is not None
    assert [one["content"] for one in found.messages] == ["a", "b", "c"]
    assert "weight" not in found.messages[1] and found.references[0]["tool_calls"] == calls
    assert found.beside == {"tools": [TOOL], "parallel_tool_calls": False}
    alone = prompt_of({"messages": row["messages"][:3], "tools": [TOOL]}, 2)
    assert alone is not None and len(alone.messages) == 3 and not alone.references
    texts = prompt_of({"prompt": "Where?", "completion": "Here."}, 3)
    assert texts is not None and texts.messages == [{"role": "user", "content": "Where?"}]
    only = prompt_of({"prompt": "Where?"}, 4)
    assert only is not None and only.id == texts.id and not only.references
    pair: Any = {"input": {"messages": row["messages"][:1], "tools": [TOOL]}}
    pair["preferred_output"] = [{"role": "assistant", "content": "good"}]
    better = prompt_of(pair, 5)
    assert better is not None and better.references[0]["content"] == "good" and better.beside
    empty: list[Any] = [{"text": "a"}, {"messages": []}, {"messages": row["messages"][3:]}]
    assert [prompt_of(nothing, 6) for nothing in empty] == [None] * 3


def test_rows_are_drawn_by_content() -> None:
    """Others in the file, or another order, move none of them; another seed draws others."""
    every = [found for row in rows(40) if (found := prompt_of(row, 1))]
    few = {one.id for one in drawn(every, 8, seed=1)}
    assert len(few) == 8 and {one.id for one in drawn(every[::-1], 8, seed=1)} == few
    assert {one.id for one in drawn(every, 8, seed=2)} != few
    others = {one.id for one in drawn(every[:30], 8, seed=1)}
    assert few & others == few & {one.id for one in every[:30]}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("ft:gpt-4.1-mini-2025-04-14:org:support:AbC", "support-2026-12-01"),
        ("ft:gpt-4.1-mini-2025-04-14:org::AbC", "gpt-4.1-mini-2025-04-14-2026-12-01"),
        ("ft:gpt-4o:org:a b/c:AbC:ckpt-step-9", "a-b-c-ckpt-step-9-2026-12-01"),
        ("../../etc", "etc-2026-12-01"),
    ],
)
def test_a_recording_is_named_by_suffix_and_day(model: str, name: str) -> None:
    """A name that is a folder's, whatever the model is called."""
    assert default_name(model, 1796087104.0) == name


# -- what is kept --------------------------------------------------------------------------------


def test_answers_are_kept_whole_with_all_that_was_asked(home: Path) -> None:
    """Text, calls, finish reason, usage, latency, log-probabilities, fingerprint; the exact prompt
    and tools; rows that need no call too; equal rows once. For this user alone."""
    data = [{**row, "tools": [TOOL]} for row in rows(6)]
    data[1]["messages"][1]["content"] += " Please track it."
    data += [data[0], *rows(2, answer=None)]
    with Provider(calls="asked") as provider, umask(0):
        recording = recorded(provider, data, name="whole", store=True, top_logprobs=2)
        assert recording.run is not None and recording.run.answers == 8
        assert asked(provider) == {1: 8} and len(provider.world.stored) == 8
    found = Recording.load("recorded:whole")
    answers = [*found.answers()]
    prompts = {prompt.id: prompt for prompt in found.prompts()}
    assert len(answers) == 8 == len(prompts)
    for answer in answers:
        prompt = prompts[answer.row]
        assert prompt.messages[0] == data[0]["messages"][0]
        assert answer.usage["prompt_tokens"] and answer.system_fingerprint == "fp_test"
        assert answer.seconds is not None and answer.finish_reason in ("stop", "tool_calls")
        if answer.finish_reason == "stop":
            assert answer.text and answer.logprobs and answer.logprobs["content"]
    with_tools = [one for one in answers if prompts[one.row].beside]
    assert len(with_tools) == 6 and 0 < sum(bool(one.tool_calls) for one in with_tools) < 6
    assert prompts[answers[0].row].lines or found.about.rows == 8
    assert {line for one in prompts.values() for line in one.lines} == set(range(1, 10))
    about = found.about
    assert (about.model, about.base_model) == (tuned(provider), "gpt-4o-2024-08-06")
    assert about.parameters == {
        "temperature": 0, "max_tokens": 1024, "logprobs": True, "top_logprobs": 2, "store": True,
    }  # fmt: skip
    assert about.system_fingerprints == {"fp_test": 8} and about.retires_on == "2027-01-14"
    assert wide(home) == [] and repr(found).startswith("Recording(recorded:whole: 8 answers of ft:")


def test_samples_are_answers_to_the_same_prompt(home: Path) -> None:
    """Each with a seed of its own, at the host's temperature."""
    with Provider(varies=True) as provider:
        recording = recorded(provider, rows(3), samples=4, seed=7)
        assert asked(provider) == {4: 3}
    assert recording.about.parameters == {"max_tokens": 1024, "logprobs": True, "seed": 7}
    assert sorted(one.sample for one in recording.answers()) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_errors_are_kept_apart(home: Path) -> None:
    """A row that is refused is not asked again; one that the host failed at is."""
    with Provider(refused_words=("parcel 3",)) as provider:
        provider.fault(CHAT, *["error_after"] * 3)
        first = recorded(provider, rows(5), name="a", at_once=1)
        assert first.run is not None and (first.run.answers, first.run.errors) == (3, 2)
        assert {error.status for error in first.errors()} == {400, 500}
        before = len(provider.requests)
        second = recorded(provider, rows(5), name="a")
        assert second.run is not None and second.run.asked == 1
        assert len(provider.requests) == before + 1
    assert [error.code for error in second.errors()] == ["invalid_prompt"]
    assert len([*second.answers()]) == 4


# -- again ---------------------------------------------------------------------------------------


def test_the_same_again_asks_nothing(home: Path) -> None:
    """And so it is with the name alone; with other rows or parameters it is refused with words."""
    with Provider() as provider:
        recorded(provider, rows(4), name="a")
        before = len(provider.requests)
        for more in ({"data": rows(4)}, {"data": rows(4)[::-1]}, {"data": None}):
            again = recorded(provider, name="a", **more)
            assert again.run is not None and again.run.asked == 0
        wrong: dict[str, dict[str, Any]] = {
            "temperature 0, not 0.5": {"temperature": 0.5},
            "max_tokens 1024, not 5": {"max_tokens": 5},
            "rows 4, not 5": {"data": rows(5)},
            "other rows": {"data": rows(5)[1:]},
            "samples 1, not 2": {"samples": 2},
        }
        for words, options in wrong.items():
            with pytest.raises(SpecError, match=words):
                recorded(provider, name="a", **{"data": rows(4), **options})
        assert len(provider.requests) == before


def test_what_was_in_flight_is_asked_again_and_counted(home: Path) -> None:
    """Here three that were written down by a process that died; a torn line says nothing."""
    with Provider() as provider:
        provider.fault(CHAT, *[Fault("reset_after")] * 0)
        first = recorded(provider, rows(6), name="a")
        kept = [*read_lines(first.folder / "answers.jsonl")]
        lines = "".join(json.dumps(line) + "\n" for line in kept[:3])
        (first.folder / "answers.jsonl").write_text(lines + json.dumps(kept[3])[:40])
        provider.world.asked.clear()
        again = recorded(provider, rows(6), name="a")
        assert again.run is not None and (again.run.again, again.run.answers) == (3, 3)
        assert asked(provider) == {1: 3}
    assert len([*again.answers()]) == 6


def test_each_request_is_on_the_disk_before_it_is_sent(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, and synced."""
    synced: dict[str, int] = {}
    real_sync, real_ask = journal._sync, async_chat.Session.ask

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced[name] = len(os.pread(descriptor, 10**6, 0).splitlines())

    async def ask(session: async_chat.Session, body: Any) -> async_chat.Answer:
        lines = [*read_lines(home / "recordings" / "a" / "requests.jsonl")]
        prompt = prompt_of({"messages": body["messages"]}, 1)
        assert prompt is not None
        at = next(n for n, line in enumerate(lines, 1) if line["id"] == f"{prompt.id[:32]}-0")
        assert synced["requests.jsonl"] >= at
        return await real_ask(session, body)

    monkeypatch.setattr(journal, "_sync", sync)
    monkeypatch.setattr(async_chat.Session, "ask", ask)
    with Provider() as provider:
        done = recorded(provider, rows(12), name="a")
    assert done.run is not None and done.run.answers == 12


def test_it_records_in_a_loop_that_runs_already(home: Path) -> None:
    """As in a notebook."""

    async def cell(provider: Provider) -> Recording:
        return recorded(provider, rows(3), name="a")

    with Provider() as provider:
        done = asyncio.run(cell(provider))
    assert done.run is not None and done.run.answers == 3


def test_rows_that_were_changed_are_no_recording(home: Path) -> None:
    """Nobody can say what the answers belong to."""
    with Provider() as provider:
        first = recorded(provider, rows(3), name="a")
        path = first.folder / "rows.jsonl"
        path.write_text(path.read_text().replace("parcel 1", "parcel 9"))
        with pytest.raises(SpecError, match="other rows|rows"):
            recorded(provider, rows(2), name="a")
        with pytest.raises(StoreError, match="are not those that it was made with") as caught:
            (first.folder / "rows.jsonl").write_text("")
            first.prompts()
    assert "rows.jsonl" in caught.value.hint


# -- money ---------------------------------------------------------------------------------------


def test_the_price_comes_first_and_the_cost_is_the_hosts(home: Path) -> None:
    """Low, expected and high with source and date; afterwards a line by the host's usage."""
    plans: list[RecordPlan] = []

    def refuse(plan: RecordPlan) -> bool:
        plans.append(plan)
        return False

    with Provider() as provider:
        with pytest.raises(BudgetError, match="not confirmed"):
            recorded(provider, rows(9), name="a", confirm=refuse)
        assert provider.posts["/chat/completions"] == 0 and not (home / "recordings").exists()
        (plan,) = plans
        cost = plan.cost
        assert cost is not None and cost.low < cost.expected < cost.high
        read = plan.tokens.low * Decimal("3.75") / 10**6
        assert cost.low == read + 9 * Decimal(15) / 10**6
        recording = recorded(provider, rows(9), name="a")
        charged = spent(provider)
    assert recording.run is not None and recording.run.spent_usd is not None
    assert float(recording.run.spent_usd) == pytest.approx(charged)
    (line,) = Gateway().costs().charges
    assert line.job_id == "recorded:a" and line.actual_usd == recording.run.spent_usd
    assert line.price_source and str(line.price_as_of) == "2026-10-05"
    assert line.estimated_high_usd == cost.high and Gateway().budget().reserved_usd == 0


def test_azure_is_priced_by_its_dearest_kind_of_deployment(home: Path) -> None:
    """Whatever the deployment is called: which of the kinds answers is not known."""
    url = "https://contoso.openai.azure.com/openai/v1/"
    azure = OpenAIBackend(base_url=url, profile="azure", api_key="k")
    azure.bind(settings := Settings.load())
    store = Store(settings.create())
    subject = Subject("my-deployment", "gpt-4.1-nano-2025-04-14", azure)
    plan = planning.plan(subject, rows(3), planning.Request(), store)
    store.close()
    assert (
        plan.cost is not None
        and [one.tier for one in plan.work.costing.prices.rows] == ["standard"] * 3
    )
    high = plan.tokens.high * Decimal("0.11") + 3 * 1024 * Decimal("0.44")  # the package's rows
    assert plan.cost.high == high / 1_000_000
    assert "by a standard deployment" in " ".join(plan_text(plan, None).split())


@pytest.mark.parametrize("at_once", [1, 16])
def test_a_limit_is_never_passed(home: Path, at_once: int) -> None:
    """However many are asked at once; a higher one goes on."""
    with Provider(answer_with=lambda body: "word " * 100) as provider:
        options: dict[str, Any] = {"name": "a", "max_tokens": 200, "at_once": at_once}
        first = recorded(provider, rows(60), max_cost_usd="0.05", **options)
        assert 0.045 < spent(provider) <= 0.05
        assert first.run is not None and "could pass the limit of 0.0500" in first.run.stopped
        assert Gateway().budget().reserved_usd == 0
        more = recorded(provider, rows(60), max_cost_usd="0.05", **options)
        assert (
            more.run is not None and "limit of 0.0500 USD" in more.run.stopped
        )  # not what is left
        assert spent(provider) <= 0.05
        with pytest.raises(BudgetError, match="over the limit of 0.0450, of which 0.04"):
            recorded(provider, rows(60), max_cost_usd="0.045", **options)
        rest = recorded(provider, rows(60), **options)
        assert rest.run is not None and not rest.run.stopped
        assert asked(provider) == {1: 60}
    assert float(Gateway().budget().spent_usd) == pytest.approx(spent(provider))


def test_a_dry_run_stores_and_sends_nothing(home: Path) -> None:
    """From Python too, with or without a question."""
    with Provider() as provider:
        before = len(provider.requests)
        done = recorded(provider, rows(3), name="a", dry_run=True)
        assert len(provider.requests) == before and not (home / "recordings").exists()
    assert done.about.rows == 3 and done.run is None and Gateway().costs().charges == ()


def test_a_batch_near_the_last_day_is_warned_of(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take a day; in time nothing is said."""
    plans: list[RecordPlan] = []

    def refuse(plan: RecordPlan) -> bool:
        plans.append(plan)
        return False

    with Provider() as provider:
        for today in ("2027-01-11", "2027-01-12"):
            monkeypatch.setenv("FTG_TODAY", today)
            with pytest.raises(BudgetError):
                recorded(provider, rows(2), name="a", batch=True, confirm=refuse)
    assert ["A batch may take 24 hours" in " ".join(plan.notes) for plan in plans] == [False, True]


def test_a_limit_below_the_least_is_refused(home: Path) -> None:
    """And one that cannot be checked, for want of a price."""
    with Provider() as provider:
        with pytest.raises(BudgetError, match="cost at least"):
            recorded(provider, rows(9), name="a", max_cost_usd="0.00001")
        unpriced = connect(provider)
        with pytest.raises(BudgetError, match="No price is known for answers of"):
            recorded(provider, rows(9), name="a", max_cost_usd=5, backend=unpriced)
        assert provider.posts["/chat/completions"] == 0
        done = recorded(provider, rows(9), name="a", backend=connect(provider))
    assert done.run is not None and done.run.spent_usd is None and done.run.answers == 9


def test_the_month_has_to_have_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the high estimate, or for --max-cost below it; a refusal leaves nothing behind."""
    monkeypatch.setenv("FTG_BUDGET_MONTHLY_USD", "0.05")
    with Provider() as provider:
        with pytest.raises(BudgetError, match="It may cost"):
            recorded(provider, rows(9), name="a")
        assert not (home / "recordings" / "a").exists()
        with pytest.raises(BudgetError, match="It may cost"):  # the budget of a Gateway
            recorded(provider, rows(9), name="a", monthly_usd="0.04", max_cost_usd="0.045")
        done = recorded(provider, rows(9), name="a", max_cost_usd="0.04")
        assert done.run is not None and done.run.answers == 9
        assert spent(provider) <= 0.04


def test_what_a_kill_has_reserved_is_settled_by_what_was_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it stays reserved; a request without an answer counts at its most."""
    from finetune_gateway import evaluation
    from finetune_gateway.evaluation import recorder, work

    with Provider() as provider:
        with monkeypatch.context() as patch:
            patch.setattr(recorder, "settle_one", lambda *_: None)  # as if killed before
            first = recorded(provider, rows(4), name="a")
        lines = [*read_lines(first.folder / "answers.jsonl")]
        kept = "".join(json.dumps(line) + "\n" for line in lines[:3])
        (first.folder / "answers.jsonl").write_text(kept)
        reserved = Gateway().budget().reserved_usd
        assert reserved > 0
        usd = evaluation.settle("recorded:a")
        most = [Decimal(one["usd"]) for one in read_lines(first.folder / "requests.jsonl")]
        assert usd == sum(Decimal(line["usd"]) for line in lines[:3]) + most[0]
        assert Gateway().budget().reserved_usd == 0 and Gateway().budget().spent_usd == usd
        assert "1 without one counted at their most" in Gateway().costs().charges[0].basis
        assert evaluation.settle("a") == 0 and work is not None


# -- what is not sent ----------------------------------------------------------------------------


def test_private_data_is_not_sent_unless_it_is_allowed(home: Path) -> None:
    """What is asked counts, not what the data answer."""
    data = rows(3, answer="Write to anna.kowalska@gmail.com.")
    with Provider() as provider:
        assert recorded(provider, data, name="a").run is not None
        data[1]["messages"][1]["content"] += " I am anna.kowalska@gmail.com."
        with pytest.raises(PrivateDataError, match="an e-mail address in messages.1..content") as e:
            recorded(provider, data, name="b")
        assert "--allow-pii" in e.value.hint and asked(provider) == {1: 3}
        done = recorded(provider, data, name="b", allow_pii=True)
        assert done.run is not None and done.run.answers == 3


def test_rows_without_a_question_are_named(home: Path) -> None:
    """By their lines; nothing is sent."""
    data = [*rows(2), {"messages": [{"role": "system", "content": "x"}]}]
    with Provider() as provider, pytest.raises(DataError, match="nothing to ask in line 3"):
        recorded(provider, data, name="a")


@pytest.mark.parametrize(
    "option",
    [
        {"samples": 0}, {"top_logprobs": 21}, {"temperature": 3}, {"temperature": "warm"},
        {"max_tokens": True}, {"rows": -1}, {"name": "../x"}, {"name": ""} | {"samples": 101},
    ],
)  # fmt: skip
def test_wrong_numbers_are_refused(home: Path, option: dict[str, Any]) -> None:
    """Before anything is read."""
    with Provider() as provider, pytest.raises(SpecError):
        recorded(provider, rows(2), **option)


# -- models that are not there ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("today", "words"),
    [
        ("2026-12-01", "that this key sees does not have it: it was deleted, or belongs"),
        ("2027-01-15", "Fine-tunes of gpt-4o-2024-08-06 were shut down on 2027-01-14"),
    ],
)
def test_a_dead_model_is_said_to_be_so_by_date_and_list(
    home: Path, monkeypatch: pytest.MonkeyPatch, today: str, words: str
) -> None:
    """After two probes; what it cost is nothing."""
    monkeypatch.setattr(asking, "COLD_SECONDS", (0.01, 0.01))
    monkeypatch.setenv("FTG_TODAY", today)
    with Provider() as provider:
        model = tuned(provider)
        provider.world.deleted.add(model)
        from finetune_gateway import evaluation

        backend = connect(provider, profile="openai")
        with pytest.raises(NotFoundError, match="was asked 3 times") as caught:
            evaluation.record(model, rows(3), backend=backend, name="a")
    assert words in str(caught.value) and Gateway().budget().spent_usd == 0


def test_an_id_with_a_slip_is_answered_with_the_nearest(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "COLD_SECONDS", (0.01, 0.01))
    with Provider() as provider:
        from finetune_gateway import evaluation

        model, backend = tuned(provider), connect(provider, profile="openai")
        with pytest.raises(NotFoundError) as caught:
            evaluation.record(f"{model[:-1]}~", rows(2), backend=backend)
    assert f"Did you mean {model}?" in caught.value.hint


def test_a_parameter_that_a_host_refuses_ends_it_with_the_way_out(home: Path) -> None:
    """The first refusal, not one for each row."""
    refusal = Fault("raw", status=400, body=json.dumps({"error": {
        "message": "logprobs are not supported with this model.", "param": "logprobs",
        "code": "unsupported_parameter", "type": "invalid_request_error"}}).encode())  # fmt: skip
    with Provider() as provider:
        provider.fault(CHAT, *[refusal] * 20)
        with pytest.raises(BackendError, match="logprobs are not supported") as caught:
            recorded(provider, rows(40), name="a")
        assert provider.posts["/chat/completions"] <= 16
        assert "--no-logprobs" in caught.value.hint
        done = recorded(provider, rows(4), name="b", logprobs=False)
    assert done.run is not None and "logprobs" not in done.about.parameters


# -- journals ------------------------------------------------------------------------------------


def test_lines_that_wait_together_share_an_fsync(tmp_path: Path) -> None:
    """And each is on the disk before its ``flushed`` returns."""
    synced: list[int] = []

    async def write(journal: Journal, number: int) -> None:
        journal.write({"n": number})
        await journal.flushed()
        assert synced[-1] > number

    async def run() -> None:
        with Journal(tmp_path / "a.jsonl") as journal:
            real = journal.sync

            def sync() -> None:
                count = len([*read_lines(journal.path)])
                real()
                synced.append(count)

            journal.sync = sync  # type: ignore[method-assign]
            await asyncio.gather(*(write(journal, number) for number in range(50)))

    asyncio.run(run())
    assert len(synced) < 10 and len([*read_lines(tmp_path / "a.jsonl")]) == 50


def test_a_torn_line_is_cut_off_and_never_read(tmp_path: Path) -> None:
    """It said nothing: what it was about did not happen."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":')
    assert [*read_lines(path)] == [{"n": 1}]
    with Journal(path) as journal:
        journal.write({"n": 2})
    assert [*read_lines(path)] == [{"n": 1}, {"n": 2}]
