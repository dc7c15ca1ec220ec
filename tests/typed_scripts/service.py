"""What a service and a notebook do with this package, every verb and keyword of it. Type checkers
read it, nobody runs it: ``make lint`` (mypy), ``make types`` (pyright)."""

from __future__ import annotations

import threading
from collections.abc import Sequence as SequenceOf
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Unpack, assert_type

import httpx2

import finetune_gateway as gateway
from finetune_gateway import (
    Actual,
    Advice,
    Budget,
    Comparison,
    Dataset,
    Estimate,
    Event,
    Failure,
    Gateway,
    Job,
    JobStatus,
    KeyRequest,
    Ledger,
    LocalBackend,
    Migration,
    OpenAIBackend,
    Option,
    Plan,
    Preview,
    Pruned,
    Removed,
    Report,
    TrainingOptions,
    TrainingSpec,
)
from finetune_gateway.backend import Backend
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.comparing import ComparePlan
from finetune_gateway.jobs.pruning import Item
from finetune_gateway.migration.running import MigrationPlan

# -- tenants -----------------------------------------------------------------------------


def key(asked: KeyRequest) -> str | None:
    return {("openai", "api.openai.com", "OPENAI_API_KEY"): "sk"}.get(
        (asked.backend, asked.host, asked.variable or "")
    )


def tenants() -> None:
    assert_type(gateway.__version__, str)
    with Gateway("home", monthly_usd=200, keys=key, proxy="http://proxy", timeout=30) as tenant:
        hurried = tenant.use(
            monthly_usd=Decimal(5), backends={"openai": {"request_timeout": 5}},
            keys={"openai": "sk"}, http_client=httpx2.Client(), proxy=None, timeout=5,
        )  # fmt: skip
        assert_type(hurried, Gateway)
        hurried.close()
    Gateway(
        Path("home"),
        backends={"gpu": OpenAIBackend(base_url="https://gpu/v1"), "azure": {"base_url": "x"}},
        http_client=httpx2.Client(),
    )
    assert_type(tenant.backend("openai"), Backend)
    assert_type(tenant.monthly_usd, Decimal | None)
    assert_type(tenant.settings.home, Path)
    assert_type(tenant.store.jobs()[0].status, JobStatus)
    assert_type(tenant.retention_days(older_than_days=3), float)
    assert_type(tenant.open([{"text": "x"}], {"body": "text"}, required=False).size, int)


def places() -> SequenceOf[Backend]:
    return [
        OpenAIBackend(
            base_url="https://gpu/v1", api_key="sk", api_key_env="KEY", profile="custom",
            request_timeout=5, settle_seconds=1, poll_seconds=0.5, longest_wait=60,
            allow_http=False, uploads_expire=3600, azure_training="global",
        ),
        LocalBackend(gpu="H200", usd_per_gpu_hour="3.50"),
        gateway.FakeBackend(script=[{"status": "succeeded"}], answer="Tomorrow.", faults={}),
    ]  # fmt: skip


# -- data --------------------------------------------------------------------------------


def data() -> None:
    rows = Dataset.open("train.jsonl", columns={"question": "prompt"}, spool=None, folder=None)
    train, held_out = rows.split(0.1, seed=1, folder=Path("parts"), stratify=True, near=False)
    assert_type(train, Dataset)
    assert_type(held_out.fingerprint, str)
    assert_type(rows.validate(model="m", against="y"), Report)
    assert_type(rows.preview(model="m", rows=[1]), list[Preview])
    assert_type(rows.convert("trl", "out.jsonl", force=True, drop=["id"]).rows, int)
    assert_type(rows.fix("fixed.jsonl", force=True, method="sft").out, str)
    assert_type([row.data for row in rows.rows()], list[dict[str, Any]])
    assert_type([line.number for line in rows.lines()], list[int])
    assert_type([raw for _, raw in rows.examples()], list[bytes])
    assert_type(rows.parse(1, b"{}"), dict[str, Any])
    assert_type(rows.system_prompt(), str | None)
    assert_type(rows.is_spooled, bool)
    assert_type(rows.copied(Path("copies")), Dataset)
    rows.rewritten(Path("copies"), lambda row: row)
    rows.by_content(spool=None).for_a_while().require_certain()


def report() -> None:
    found = gateway.validate(
        "train.jsonl", model="m", backend="openai", method="dpo", train_on="all", max_length=99,
        chat_template="x.jinja", chat_template_kwargs={"thinking": False}, call_format="hermes",
        columns={"question": "prompt"}, quality=True, against=[{"messages": []}], like=b"x",
        ignore=["pii"], on_progress=lambda done, total: print(done / total),
    )  # fmt: skip
    assert_type(found, Report)
    assert_type(Gateway().validate([{"messages": []}], quality=None), Report)
    assert_type(found.ok, bool)
    assert_type(found.errors + found.warnings, list[gateway.Finding])
    assert_type(found.outcome in ("accepted", "warned"), bool)
    assert_type(found.findings[0], gateway.Finding)
    assert_type(found.findings[0].lines, list[int])
    found.raise_for_errors()
    found.to_html("report.html", "train.jsonl", model="m", limit=9)
    assert_type(found.without(["pii"]), Report)
    assert_type(found.with_quality(found.findings, found.quality), Report)
    assert_type(Report.model_validate_json(found.model_dump_json()), Report)


def preview() -> None:
    assert_type(gateway.preview({"messages": []}, model="m", max_length=100), Preview)
    shown = gateway.preview(
        "x", model="m", backend=LocalBackend(), rows={1}, method="supervised", columns=None,
        train_on="last_assistant", max_length=9, chat_template=None, chat_template_kwargs=None,
        call_format=None,
    )  # fmt: skip
    assert_type(shown, list[Preview])
    [row] = Gateway().preview("x", model="m", rows=range(1, 2))
    assert_type((row.ok, row.is_pair), tuple[bool, bool])
    assert_type((row.total, row.trained, row.truncated), tuple[int, int, int])
    assert_type(row.tokens, list[gateway.Token])
    assert_type(row.tokens[0].visible, str)
    assert_type(Preview.from_json(row.as_json()), Preview)
    sequence = row.sequences[0]
    assert_type(sequence, gateway.Sequence)
    assert_type(sequence.left_out, int)
    assert_type((sequence.trained, sequence.truncated_trained), tuple[int, int])
    assert_type(gateway.Sequence.from_json(sequence.as_json()), gateway.Sequence)
    sequence.add([1], str, None, trained=True, role="user")


# -- what it would cost ------------------------------------------------------------------


def estimate(g: Gateway, several: list[str]) -> None:
    one = gateway.estimate("x", model="m", backend="openai", train_price="4.40", n_epochs=2)
    assert_type(one, Estimate)
    assert one.fits != "no"
    assert one.cost_usd is not None
    assert_type(one.cost_usd.expected, Decimal)
    assert_type(gateway.estimate("x", model=several), list[Option])
    assert_type(g.estimate("x", model="m", backend=("openai", LocalBackend())), list[Option])
    assert_type(g.estimate("x", backend="local", continue_from="latest"), Estimate)
    pairs: list[tuple[str, str | Backend | None]] = [("m", "openai"), ("n", None)]
    [option] = g.options("x", pairs, on_progress=lambda done, total: None, lora_r=4)
    assert_type(option.error, gateway.GatewayError | None)
    assert_type(Option.from_document(option.document()), Option)
    plan = g.plan("x", model="m", backend=None, packing=True, suffix="support")
    assert_type(plan, Plan)
    assert_type(plan.estimate, Estimate)
    plan.require_confirmed(lambda plan: plan.spec.n_epochs == 3)
    assert_type(g.equal_job(plan), Job | None)


def options() -> TrainingOptions:
    """Every training option, with a value."""
    return {
        "method": "sft", "n_epochs": "auto", "batch_size": 8, "learning_rate": 1e-4,
        "learning_rate_multiplier": None, "seed": 7, "suffix": "support", "train_on": "all",
        "training_type": "qlora", "max_steps": 10, "max_length": 512, "lora_r": 8,
        "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj"],
        "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.0,
        "gradient_accumulation_steps": 2, "gradient_checkpointing": "auto", "packing": False,
        "logging_steps": 1, "eval_steps": "auto", "save_steps": 5, "stop_on_divergence": True,
        "chat_template": "x.jinja", "chat_template_kwargs": {"thinking": True},
        "call_format": "hermes", "continue_from": "latest", "loss_type": "sigmoid", "beta": 0.1,
        "label_smoothing": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0,
        "use_dora": False, "use_rslora": True, "modules_to_save": "lm_head",
        "optim": "adamw_torch", "max_grad_norm": 1.0, "engine": "trl", "micro_batch_size": "auto",
        "bf16": True, "early_stopping_patience": 3, "load_best_model_at_end": "auto",
        "report_to": "trackio",
    }  # fmt: skip


def train(path: str, **given: Unpack[TrainingOptions]) -> Job:
    """A function of the user's that passes the options on."""
    return gateway.submit(path, model="m", **given)


def spec() -> None:
    made = TrainingSpec(model="m", n_epochs=2, seed=7, lora_r=8)
    built = TrainingSpec.build(model="m", method="supervised", target_modules=["x"])
    assert_type(built, TrainingSpec)
    assert_type(TrainingSpec.build(model="m", **options()), TrainingSpec)
    assert_type(made.chosen, frozenset[str])
    assert_type(made.canonical(), dict[str, Any])


# -- a job -------------------------------------------------------------------------------


def confirm(plan: Plan) -> bool:
    return plan.estimate.cost_usd is not None


def submit(g: Gateway, earlier: Job) -> None:
    job = gateway.submit(
        "x", model="m", backend="local", validation="y", validation_split=0.1, columns=None,
        backend_params={"warmup_steps": 3}, train_price=Decimal("4.40"), max_cost_usd=Decimal(20),
        confirm=confirm, allow_pii=True,
        allow_secrets=True, allow_loss=True, allow_longer=True, allow_oversize=True, again=True,
        metadata={"team": "support"}, n_epochs=3, priority=3, after=["ftg-1"], at="18:30",
    )  # fmt: skip
    assert_type(job, Job)
    assert_type(g.submit("x", continue_from=earlier, max_cost_usd="$5"), Job)
    assert_type(train("x", n_epochs=3, lora_r=8), Job)
    assert_type(g.model_to_train(None, {"continue_from": earlier}), str)
    g.settle_latest("x", "m", None, {}, again=False)


def tell(job: Job, event: Event) -> None:
    print(job.id, event.number, event.level, event.message, event.data.get("step"))


def follow(g: Gateway, job: Job, stop: threading.Event) -> None:
    assert_type(gateway.get_job("latest", backend="openai"), Job)
    assert_type(g.job("ftg-1", backend=OpenAIBackend()), Job)
    newest = gateway.list_jobs(status="running", backend="local", metadata={"a": "b"}, limit=3)
    assert_type(newest, list[Job])
    assert_type(g.jobs(status=JobStatus.RUNNING), list[Job])
    assert_type(gateway.refresh_jobs(newest), list[Failure])
    assert_type(gateway.resume_all() + g.resume_all(), list[Failure])
    failures = gateway.wait_for_jobs(newest, 60, on_change=print, on_event=tell, stop=stop)
    assert_type(failures[0].error, gateway.GatewayError)
    assert_type(failures[0].jobs, list[Job])
    assert_type(g.refresh() + g.wait(newest, timeout=9, stop=stop), list[Failure])
    assert_type(job.refresh(send=True).reload(), Job)
    assert_type(job.wait(timeout=60, stop=stop, on_event=tell), Job)
    for event in job.watch(60, send=True, after=7, stop=stop, on_poll=print):
        assert_type(event, Event)
    assert_type(job.events(after=7, limit=100), list[Event])
    assert_type(job.metrics()[0], gateway.Metric)
    assert_type(job.metrics()[0].train_loss, float | None)
    assert_type(job.checkpoints()[0], gateway.Checkpoint)
    assert_type(job.log_path(), Path | None)
    assert_type((job.id, job.provider_id), tuple[str, str | None])
    assert_type(job.status, JobStatus)
    assert_type((job.status.final, JobStatus.parse("x")), tuple[bool, JobStatus])
    assert_type((job.phase, job.error), tuple[str, str | None])
    assert_type(job.actual, Actual | None)
    assert_type(job.metadata, dict[str, str])
    assert_type(job.to_dict(), dict[str, Any])
    assert_type(job.backend.name, str)
    assert_type((job.resumable, job.longest_wait()), tuple[bool, float])
    assert_type(job.store.read_only, bool)
    job.require_on_its_way()


def end(job: Job, stop: threading.Event) -> None:
    assert_type(job.cancel(on_wait=print), Job)
    assert_type(job.pause(), Job)
    assert_type(job.resume(step="best", allow_changed_versions=True), Job)
    assert_type(job.settle(created=None), Job)
    assert_type(job.result(60, stop=stop, on_event=tell, model="m", step=3), gateway.ModelHandle)
    assert_type(job.report("page.html", force=True, no_rows=True), Path)
    job.to_html("page.html", force=True)
    assert_type(job.remove(), Removed)


# -- the home ----------------------------------------------------------------------------


def deploy(g: Gateway, job: Job, handle: gateway.ModelHandle) -> None:
    assert_type(g.deploy(job, "support", max_usd_per_hour="4.50"), gateway.ModelHandle)
    assert_type(g.end_deployment(job.id), bool)
    assert_type(handle.download(to="adapter"), gateway.ModelHandle)
    assert_type(handle.card(checks="behaviour.yaml", repo="acme/support"), str)
    pushed = handle.push(
        "acme/support", merged=True, public=False, branch="main", tag="v1", base="a/b",
        checks="behaviour.yaml", confirm=lambda plan: plan.bytes < 10**9, report=print,
    )  # fmt: skip
    if pushed is not None:
        assert_type((pushed.url, pushed.commit, pushed.new), tuple[str, str, bool])
    pulled = gateway.ModelHandle.pull(
        "acme/support", revision="v1", base="a/b", to="mine",
        confirm=lambda plan: plan.base == "a/b", report=print,
    )  # fmt: skip
    assert_type(pulled, gateway.ModelHandle | None)
    assert_type(
        handle.merge("whole", weight=0.5, others=[(handle, 0.5)], dtype="float32", report=print),
        gateway.ModelHandle,
    )
    made = handle.export(
        "gguf", "out", weights="merged", name="bot", converter="llama.cpp", outtype="f16",
        report=print,
    )  # fmt: skip
    assert_type(made, dict[str, Any])


def going(items: list[Item]) -> bool:
    return bool(items)


def home(g: Gateway, job: Job) -> None:
    assert_type(g.removable([job]) + g.remove([job]) + gateway.remove_jobs([job]), list[Removed])
    assert_type(gateway.prune(30, remote=True, confirm=going), Pruned)
    assert_type(g.prune(older_than_days=3).bytes, int)
    month = gateway.budget()
    assert_type(month, Budget)
    assert_type(g.budget().left_usd, Decimal | None)
    assert_type((month.spent_usd, month.reserved_usd), tuple[Decimal, Decimal])
    assert_type(month.summary(), dict[str, str | None])
    ledger = gateway.costs(since=date(2026, 11, 1), until=None)
    assert_type(ledger, Ledger)
    assert_type(g.costs().to_csv(), str)
    assert_type([line.job_id for line in ledger.lines], list[str])


# -- which model is better ---------------------------------------------------------------


def weigh(g: Gateway, guide: Guide) -> None:
    advice = gateway.advise(
        "x", preferences="y", columns={"q": "prompt"}, comparison="latest", model=["m"],
        backend="openai", private=True, on_progress=lambda done, total: None,
    )  # fmt: skip
    assert_type(advice, Advice)
    assert_type(g.advise("x").next_steps, tuple[str, ...])
    assert_type(advice.points["method"].answer, str)
    assert_type(advice.unreadable, bool)
    assert_type(advice.document(), dict[str, Any])
    found = gateway.compare(
        ["latest", guide], "held_out.jsonl", columns=None, checks=guide, code=["checks.py"],
        judge="m", by="checks", rows=20, seed=3, samples=1, temperature="host", max_tokens=9,
        at_once=4, max_cost_usd="$1", monthly_requests=10, examples="train.jsonl",
        backends=[OpenAIBackend()], key_envs={"gpu": "KEY"}, allow_http=True, allow_pii=True,
        allow_secrets=True, confirm=affordable, on_progress=lambda done, total, model: None,
        on_wait=lambda seconds, why: None, command="ftg compare",
    )  # fmt: skip
    assert_type(found, Comparison)
    assert_type(g.compare(["latest"]).id, str)
    assert_type((g.comparison("latest"), g.comparisons()), tuple[Comparison, list[Comparison]])
    assert_type(Comparison.load("latest", home="home"), Comparison)
    assert_type(Comparison.at(g.settings, "latest"), Comparison)
    assert_type(found.verdict.text, str)
    assert_type(found.report(force=True, no_rows=True), Path)
    found.to_html("page.html", force=True, no_rows=True)
    found.answers()[0]
    found.rows()[0]
    assert_type(next(found.judgements()), dict[str, Any])


def affordable(plan: ComparePlan) -> bool:
    return bool(plan)


def leave(g: Gateway, guide: Guide) -> None:
    moved = gateway.migrate(
        "ft:m", "local", at_least={"checks": 0.9}, at_most=None, max_drop={"checks": 0.1},
        against="live", data="x", checks=guide, code=[Path("c.py")], max_tokens=9,
        max_cost_usd=5, to_options={"base_url": "x"}, backends=[OpenAIBackend()],
        allow_pii=True, allow_secrets=True, allow_loss=True, allow_longer=True,
        allow_oversize=True, confirm=lambda plan: worthwhile(plan), dry_run=True,
        wait=Job.wait, on_progress=lambda done, total, model: None,
        on_wait=lambda seconds, why: None, command="ftg migrate",
    )  # fmt: skip
    assert_type(moved, Migration)
    assert_type(g.migrate("ft:m", "local").go, bool)
    assert_type(moved.document(), dict[str, Any])


def worthwhile(plan: MigrationPlan) -> bool:
    return bool(plan)
