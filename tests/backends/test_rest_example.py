"""The example of a REST service: docs/example-rest, over the wire, in every command."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest
from support.cli import Ftg
from support.installed import install
from support.paths import ROOT
from support.rest_service import KEY, RestService
from support.rows import chat_rows
from support.safetensors import weights

from finetune_gateway import Gateway, ModelHandle
from finetune_gateway.backend import Backend, DataFile, TrainingSpec
from finetune_gateway.errors import BackendError, BudgetError, NotFoundError, SpecError
from finetune_gateway.jobs import deployments
from finetune_gateway.settings.home import Settings
from finetune_gateway.testing import BackendContract

EXAMPLE = ROOT / "docs" / "example-rest"
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": weights("w")}
SUBMIT = ("--model", "acme-7b", "--backend", "rest")


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ftg_rest", EXAMPLE / "ftg_rest.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def write_files(folder: Path) -> Path:
    folder.mkdir()
    for name, raw in FILES.items():
        (folder / name).write_bytes(raw)
    return folder


def flat(text: str) -> str:
    return " ".join(text.split())


class TestRest(BackendContract):
    """The contract, against the service."""

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestService]:
        with RestService(write_files(tmp_path_factory.mktemp("host") / "model")) as service:
            yield service

    @pytest.fixture(scope="class")
    @classmethod
    def secret(cls) -> Iterator[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REST_API_KEY", KEY)
            yield KEY

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, service: RestService, secret: str, settings: Settings) -> Backend:
        backend: Backend = module().RestBackend(url=service.url)
        backend.bind(settings)
        return backend

    @pytest.fixture(scope="class")
    @classmethod
    def odd_job(cls, service: RestService, backend: Backend, train: DataFile) -> str:
        backend.upload(train)
        sent = DataFile(train.path, train.sha256, train.rows, train.bytes, train.sha256)
        run = backend.start("ftg-odd", TrainingSpec(model="any-model"), sent, None)
        service.runs[run]["state"] = "HIBERNATING"
        return run

    @classmethod
    def advance(cls, backend: Backend) -> None:
        """Each look takes a run further."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RestService]:
    with RestService(write_files(tmp_path / "host-model")) as service:
        yield service


@pytest.fixture
def rest(
    service: RestService, ftg: Ftg, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Ftg:
    """A command line where the example is installed, talks to the service and has its key."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in ("ftg_rest.py", "pyproject.toml"):
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        text = text.replace("https://rest.example/v1", service.url)
        (source / name).write_text(text.replace("(0.2, 30.0)", "(0.01, 0.02)"))
    install(site, source)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "ftg_rest", raising=False)
    monkeypatch.setenv("REST_API_KEY", KEY)
    monkeypatch.setattr(deployments, "PAUSE", 0.01)
    return ftg


def submitted(rest: Ftg, file: Path) -> str:
    """A job that has succeeded."""
    done = rest("submit", str(file), *SUBMIT, "--yes", "--wait", "-q")
    assert done.returncode == 0, done.stderr
    return str(re.findall(r"ftg-\w+", done.stdout)[0])


def test_the_example_is_short_and_imports_the_contract_alone() -> None:
    """Below 200 lines; of ours nothing but ``finetune_gateway.backend``."""
    text = (EXAMPLE / "ftg_rest.py").read_text(encoding="utf-8")
    assert text.count("\n") < 200
    nodes = [*ast.walk(ast.parse(text))]
    names = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    ours = {name for name in names if name.startswith("finetune_gateway")}
    assert ours == {"finetune_gateway.backend"}


def test_every_command_works_with_it(
    rest: Ftg, service: RestService, train_file: Path, tmp_path: Path
) -> None:
    """From its line in the list of backends to the last trace of its job."""
    assert "rest" in rest("backends").stdout
    assert rest("validate", str(train_file), "--backend", "rest").returncode == 0
    estimated = rest("estimate", str(train_file), *SUBMIT, "--explain")
    assert "2.10 per GPU hour" in flat(estimated.stdout), estimated
    assert "machine A100" in flat(estimated.stdout)
    job = submitted(rest, train_file)
    status = flat(rest("status", job).stdout)
    assert "succeeded, not deployed" in status and "cost $0.10: as rest bills it" in status
    page = ("--out", str(tmp_path / "r.html"))
    for words in (("events", job), ("metrics", job), ("logs", job), ("checkpoints", job),
                  ("report", job, *page), ("list", "--refresh"), ("wait", job)):  # fmt: skip
        done = rest(*words)
        assert done.returncode == 0, (words, done)
    assert "Now TRAINING." in rest("events", job).stdout
    asked = rest("chat", job, "Hello")
    assert asked.returncode != 0 and f"ftg deploy {job}" in flat(asked.stderr)
    assert rest("deploy", job, "--yes").returncode == 0
    assert rest("chat", job, "Hello").stdout.strip() == "run-0001 heard: Hello"
    held_out, guide = tmp_path / "held_out.jsonl", str(tmp_path / "behaviour.yaml")
    held_out.write_text("".join(f"{json.dumps(row)}\n" for row in chat_rows(14)[12:]))
    asked_of = ("--data", str(held_out), "--rows", "2", "--yes")
    assert rest("compare", job, *asked_of).returncode == 0
    assert rest("check", "--init", str(train_file), "-o", guide).returncode == 0
    assert "passed" in rest("check", job, guide, *asked_of).stdout
    assert rest("deploy", job, "--delete", "--yes").returncode == 0
    for again, code in ((("cancel", job, "--yes"), 0), (("resume", job, "--yes"), 2),
                        (("settle", job, "--not-created"), 2), (("watch", job), 0)):  # fmt: skip
        assert rest(*again).returncode == code, again
    assert rest("download", job, "-q").stdout.strip() == str(tmp_path / "home" / "models" / job)
    assert rest("doctor").returncode == 0
    costs = flat(rest("costs").stdout)
    assert "as rest bills it" in costs and f"deployment:{job}" in costs
    assert rest("rm", job, "--yes").returncode == 0
    assert service.asked["POST runs"] == 1 and service.endpoints == {}
    assert KEY not in (tmp_path / "home" / "gateway.sqlite3").read_bytes().decode("latin-1")


def test_while_it_waits_and_trains_it_says_how_far_it_is(rest: Ftg, train_file: Path) -> None:
    """Its place, then its share, then its cost, in what other programs read."""
    sent = rest("submit", str(train_file), *SUBMIT, "--yes", "--json")
    job = Gateway().job(json.loads(sent.stdout)["id"])
    seen = []
    while not job.status.final:
        document = job.refresh().to_dict()
        seen.append((document["place_in_line"], document["progress"], document["cost_usd"]))
    assert (1, 0.0, "0.0000") in seen and (None, 0.8, "0.0750") in seen
    assert seen[-1] == (None, 1.0, "0.1000")
    assert job.actual is not None and job.actual.cost_usd == Decimal("0.1000")


def test_a_price_of_the_user_is_found_again(rest: Ftg, train_file: Path) -> None:
    """A row for its GPU hour, set by the command, is what the next estimate rests on."""
    row = ("--backend", "rest", "--model", "A100", "--unit", "gpu_hour", "--usd", "1.05")
    assert rest("prices", "set", *row, "--source", "our contract").returncode == 0
    estimated = flat(rest("estimate", str(train_file), *SUBMIT, "--explain").stdout)
    assert "1.05 per GPU hour" in estimated and "our contract" in estimated


def test_a_lost_answer_makes_one_run(rest: Ftg, service: RestService, train_file: Path) -> None:
    """The create was carried out, and its answer never came: the run is found by its label."""
    service.faults["POST runs"] = ["drop"]
    rest("submit", str(train_file), *SUBMIT, "--yes", "-q")
    assert Gateway().job("latest").wait(60).status == "succeeded"
    assert len(service.runs) == 1 and service.asked["POST runs"] == 1


# -- deployments -----------------------------------------------------------------------------


def test_a_run_that_the_service_has_lost_is_ended(
    rest: Ftg, service: RestService, train_file: Path
) -> None:
    """Its 404 says so: each look names the way, and what it may have cost counts as spent."""
    sent = rest("submit", str(train_file), *SUBMIT, "--yes", "-q")
    assert sent.returncode == 0, sent.stderr
    job = Gateway().job("latest")
    job.refresh()
    service.runs.clear()
    for words in (["events", job.id], ["cancel", job.id, "--yes"]):
        done = rest(*words)
        assert f"ftg settle {job.id} --not-created" in flat(done.stderr), (words, done)
    settled = rest("settle", job.id, "--not-created")
    assert settled.returncode == 0, settled.stderr
    ended = Gateway().job(job.id)
    assert ended.status == "failed" and "has no" in str(ended.error)
    assert rest("rm", job.id, "--yes").returncode == 0


def test_a_deployment_is_made_once_and_its_cost_is_counted(
    rest: Ftg, service: RestService, train_file: Path
) -> None:
    """The price comes before the question; without a yes nothing is made. While it is there, it
    takes of the month what it has cost, and its job is not removed."""
    job = submitted(rest, train_file)
    refused = rest("deploy", job)
    assert refused.returncode == 4 and service.endpoints == {}
    assert "It costs $2.10 an hour, used or not, $1,533.00 in a month" in flat(refused.stderr)
    for _ in range(2):
        assert rest("deploy", job, "--yes", "--name", "mine").returncode == 0
        assert [*service.endpoints] == ["mine"]
    status = flat(rest("status", job).stdout)
    assert "deployment mine, since" in status and "$2.10 an hour" in status
    assert Gateway().budget().reserved_usd == Decimal("2.10")
    assert f"to end it: ftg deploy {job} --delete" in flat(rest("doctor").stdout)
    assert rest("rm", job, "--yes").returncode == 2
    assert rest("deploy", job, "--yes", "--name", "other").returncode != 0
    assert rest("deploy", job, "--delete", "--yes", "--name", "other").returncode == 102
    assert [*service.endpoints] == ["mine"]
    service.endpoints.clear()  # its host has ended it
    done = rest("deploy", job, "--delete", "--yes")
    assert done.returncode == 0 and "gone already" in done.stderr
    assert Gateway().budget().reserved_usd == 0
    assert rest("rm", job, "--yes").returncode == 0


def test_a_deployment_by_the_gateway(rest: Ftg, service: RestService, train_file: Path) -> None:
    """What it may cost an hour is a limit; a full month refuses it; the handle answers, and no more
    once it was ended."""
    job, gateway = submitted(rest, train_file), Gateway()
    with pytest.raises(BudgetError, match="at most 1"):
        gateway.deploy(job, max_usd_per_hour=1)
    with pytest.raises(BudgetError, match=r"may cost 2\.10 USD"):
        Gateway(monthly_usd=1).deploy(job)
    assert service.endpoints == {} and not gateway.costs().charges
    handle = gateway.deploy(job, max_usd_per_hour="2.10")
    assert handle.ready and handle.chat("Hello").text == "run-0001 heard: Hello"
    assert gateway.end_deployment(job) is True
    with pytest.raises(NotFoundError, match="answers only through a deployment"):
        gateway.job(job).result().chat("Hello")
    with pytest.raises(NotFoundError, match="no deployment"):
        gateway.end_deployment(job)


def test_a_deployment_whose_answer_never_came_is_known(
    rest: Ftg, service: RestService, train_file: Path
) -> None:
    """It may be there and cost: it counts, the same call makes no second, and it can be ended. One
    that was refused is nothing."""
    job, gateway = submitted(rest, train_file), Gateway()
    service.faults["PUT endpoints"] = [400]
    with pytest.raises(BackendError, match="400"):
        gateway.deploy(job)
    assert gateway.budget().reserved_usd == 0
    with pytest.raises(NotFoundError, match="no deployment"):
        gateway.end_deployment(job)
    service.faults["PUT endpoints"] = ["drop"]
    with pytest.raises(BackendError) as lost:
        gateway.deploy(job)
    assert lost.value.maybe_applied and [*service.endpoints] == [job]
    assert gateway.budget().reserved_usd == Decimal("2.10")
    gateway.deploy(job)
    assert [*service.endpoints] == [job] and len(gateway.costs().charges) == 2
    ended = rest("deploy", job, "--delete", "--yes")
    assert ended.returncode != 0 and "a request to make" in flat(ended.stderr)
    assert service.endpoints == {} and gateway.budget().reserved_usd == Decimal("2.10")
    with gateway.store.transaction() as db:  # the lost one can no longer take effect
        db.execute("UPDATE jobs SET handle = json_remove(handle, '$.deployment.unsettled')")
    assert gateway.end_deployment(job) is False and gateway.budget().reserved_usd == 0


def test_what_needs_no_deployment_gets_none(ftg: Ftg, home: Path, train_file: Path) -> None:
    """A job of another backend: said, and nothing is made; nor has it files."""
    words = ("submit", str(train_file), "--model", "m", "--backend", "fake", "--wait", "-q")
    job = re.findall(r"ftg-\w+", ftg(*words).stdout)[0]
    for command in (("deploy", job, "--yes"), ("download", job)):
        done = ftg(*command)
        assert done.returncode == 2 and job in done.stderr, done


def test_options_of_azure_belong_to_azure(rest: Ftg, train_file: Path) -> None:
    job = submitted(rest, train_file)
    done = rest("deploy", job, "--yes", "--sku", "developer")
    assert done.returncode == 2 and "--sku is of deployments at Azure" in flat(done.stderr)


# -- the files of a model --------------------------------------------------------------------


def test_a_download_says_what_is_in_its_way(
    rest: Ftg, service: RestService, train_file: Path, tmp_path: Path
) -> None:
    """A job without a model, another file than the host has said, one that it has lost."""
    sent = rest("submit", str(train_file), *SUBMIT, "--yes", "--json")
    job, to = json.loads(sent.stdout)["id"], ("--to", str(tmp_path / "model"))
    done = rest("download", job, *to)
    assert done.returncode == 101 and "has no model yet" in done.stderr
    Gateway().job(job).wait(60)
    service.altered["adapter_model.safetensors"] = b"weighty" * 100
    assert "is not what the host says" in flat(rest("download", job, *to).stderr)
    service.altered["adapter_model.safetensors"] = None
    assert "404" in rest("download", job, *to).stderr
    assert not (tmp_path / "model").exists()
    service.altered.clear()
    document = rest("download", job, *to, "--json").stdout
    assert ModelHandle.model_validate_json(document).model == str(tmp_path / "model")
    shown = flat(rest("download", job, *to).stderr)
    assert "The adapter: adapter_config.json, adapter_model.safetensors (" in shown
    assert "). It answers on acme-7b." in shown
    with pytest.raises(SpecError, match="nothing was written"):
        Gateway().job(job).handle().download(tmp_path)


@pytest.fixture(scope="session")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA as PEFT saves it, with weights that change what the base says, and no tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads what transformers has renamed
        torch.manual_seed(1)
        get_peft_model(base, settings).save_pretrained(str(folder))
    (folder / "README.md").unlink()
    return folder


def test_a_downloaded_adapter_answers_here(
    adapter: Path, tiny_folder: Path, rest: Ftg, service: RestService, train_file: Path
) -> None:
    """A real one: on its base, found by the name that it has here, without the host; and it is the
    adapter that answers, not the base alone."""
    service.model = {path.name: path.read_bytes() for path in sorted(adapter.iterdir())}
    job = submitted(rest, train_file)
    folder = rest("download", job, "--base", str(tiny_folder), "-q").stdout.strip()
    before = sum(service.asked.values())
    assert rest("chat", folder, "Hello", "--max-tokens", "8").returncode == 0
    handle = ModelHandle.load(folder)
    base = handle.model_copy(update={"kind": "merged", "model": str(tiny_folder)})
    base.release()
    answer = {"role": "assistant", "content": "Parcel 3 comes on day 3."}
    losses = [one.reference_loss("Where is parcel 3?", answer) for one in (handle, base)]
    assert losses[0] != losses[1]
    assert sum(service.asked.values()) == before
