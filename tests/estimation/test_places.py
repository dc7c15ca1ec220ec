"""Where options run: GPUs and addresses that are named, and the names jobs are listed under."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.options import DATA, LARGE, MINI, TINY, bytes_read, chat, write
from support.provider import Provider

import finetune_gateway as gateway
from finetune_gateway import Gateway, OpenAIBackend
from finetune_gateway.cli.placement import Placement
from finetune_gateway.errors import DataError, SpecError

HOST = "https://gpu.example.com/v1"
BOTH = ("estimate", str(DATA), "--backend", "openai,local", "--model", MINI, "--model", TINY)


def words(text: str) -> str:
    return " ".join(text.split())


# -- a GPU -------------------------------------------------------------------------------


def test_a_gpu_nobody_knows_refuses_local_options_alone(ftg: Ftg) -> None:
    """Others have their figures, the local ones the names that are near; one option alone is
    the error itself."""
    done = ftg(*BOTH, "--gpu", "H1000")
    assert done.returncode == 0 and "openai   gpt-4.1-mini-2025-04-14  $0.187" in done.stdout
    said = f"local / {MINI}, local / {TINY}: No figures are known for GPU 'H1000'. Similar"
    assert said in words(done.stdout)
    explained = words(ftg(*BOTH, "--gpu", "H1000", "--explain").stdout)
    assert explained.count("No figures are known for GPU 'H1000'. Similar") == 2
    assert "https://developers.openai.com/api/docs/pricing" in explained
    told = json.loads(ftg(*BOTH, "--gpu", "H1000", "--json").stdout)
    assert "H100" in told[1]["error"]["hint"] and told[0]["cost_usd"]
    alone = ftg("estimate", str(DATA), "--model", TINY, "--gpu", "H1000")
    assert alone.returncode == 2 and "H100" in alone.stderr and alone.stdout == ""
    none = ftg("estimate", str(DATA), "--backend", "local,fake", "--model", TINY, "--gpu", "no")
    assert none.returncode == 0 and "Known: RTX 3060" in words(none.stdout)


def test_parts_of_memory_are_told_of_several_options_too(ftg: Ftg, tmp_path: Path) -> None:
    """On the screen within 80 columns, in JSON and on the page; energy with its source."""
    asked = (*BOTH, "--gpu", "H100")
    done = ftg(*asked, "--explain")
    assert max(len(line) for line in done.stdout.splitlines() if "http" not in line) <= 80
    page = tmp_path / "page.html"
    assert ftg(*asked, "--html", str(page)).returncode == 0
    for text in (words(done.stdout), words(unescape(page.read_text(encoding="utf-8")))):
        for said in ("memory by part: weights", "activations", "logits", "overhead", "optimizer",
                     "largest batch: ", "of H100",
                     "smallest GPU: RTX 3060 with the fewest rows at once (requested: H100)",
                     " kWh (",
                     "of the 700 W of H100 by NVIDIA's datasheet"):  # fmt: skip
            assert said in text, said
        assert "e-0" not in text
    local = json.loads(ftg(*asked, "--json").stdout)[3]
    assert sum(local["memory_parts"].values()) == local["memory_bytes"]["expected"]
    assert local["energy_kwh"]["low"] < local["energy_kwh"]["high"]


def test_energy_of_this_machine_is_not_known(ftg: Ftg) -> None:
    """It says so, alone and in the table."""
    for asked in (("estimate", str(DATA), "--model", TINY), BOTH):
        said = words(ftg(*asked, "--explain").stdout)
        assert "the power of this machine is not known" in said
        assert "energy: not known" in said


def test_an_old_price_of_a_gpu_hour_is_warned_of(ftg: Ftg) -> None:
    """As one of training tokens is, with vendor and market in its line."""
    asked = ("--backend", "me", "--model", "H200", "--unit", "gpu_hour", "--usd", "1")
    ftg("prices", "set", *asked, "--source", "a bill", "--as-of", "2026-01-02")
    priced = ("estimate", str(DATA), "--model", TINY, "--gpu", "h200")
    assert "why: --explain (2 more warnings)" in ftg(*priced).stdout
    said = words(ftg(*priced, "--explain").stdout)
    assert "Warnings The price 1 USD (gpu_hour) is from 2026-01-02" in said
    assert "$1 per GPU hour (me, on-demand), as of 2026-01-02, a bill" in said


# -- an address --------------------------------------------------------------------------


def test_a_compatible_host_is_priced_before_it_is_sent_to(ftg: Ftg) -> None:
    """By the words of submit: the same profile, the same host, the same figures."""
    ftg("prices", "set", "--backend", "custom", "--model", "m", "--unit", "train_mtok",
        "--usd", "2", "--source", "our contract")  # fmt: skip
    where = ("--model", "m", "--backend", "openai", "--base-url", HOST)
    found = json.loads(ftg("estimate", str(DATA), *where, "--json").stdout)[0]
    assert (found["backend"], found["host"]) == ("custom", "gpu.example.com")
    sent = json.loads(
        ftg("submit", str(DATA), *where, "--api-key-env", "PATH", "--dry-run", "--json").stdout
    )
    assert sent["estimate"] == found
    azure = ("--profile", "azure", "--base-url", "https://res.openai.azure.com/openai/v1/")
    named = ftg("estimate", str(DATA), "--model", MINI, "--backend", "openai", *azure).stdout
    assert named.startswith("azure / ") and "sent to res.openai.azure.com" in named
    assert "data     sent to gpu.example.com" in ftg("estimate", str(DATA), *where).stdout


def test_an_address_is_for_the_host_that_has_none() -> None:
    """Beside OpenAI it is for the other one; where that is not clear, or nobody takes one, the
    error says so."""

    def addresses(*names: str) -> list[Any]:
        placed = Placement(base_url=HOST).place([("m", name) for name in names])
        return [one[1] for one in placed if isinstance(one, tuple)]

    first, second, third = addresses("openai", "custom", "local")
    assert (first, third) == ("openai", "local")
    assert isinstance(second, OpenAIBackend) and second.host == "gpu.example.com"
    assert isinstance(addresses("openai", "local")[0], OpenAIBackend)
    for names, said in (
        (("azure", "custom"), "for one host"),
        (("openai", "nebius"), "for one host"),
        (("local", "fake"), "for a hosted backend"),
    ):
        with pytest.raises(SpecError, match=said):
            addresses(*names)


def test_an_address_that_is_none_refuses_its_options_alone(ftg: Ftg) -> None:
    """The others keep their figures."""
    wrong = ("--backend", "custom,local", "--model", TINY, "--base-url", "gpu")
    done = ftg("estimate", str(DATA), *wrong)
    assert done.returncode == 0
    assert f"left out: custom / {TINY}: base_url 'gpu' is not a URL." in words(done.stdout)
    local = ftg("estimate", str(DATA), "--model", TINY, "--base-url", HOST)
    assert local.returncode == 2 and "Backend 'local' has no setting 'base_url'." in local.stderr


def test_a_price_of_tokens_is_for_those_who_bill_them(ftg: Ftg) -> None:
    """--train-price beside a local option changes nothing there."""
    told = json.loads(ftg(*BOTH, "--train-price", "4", "--json").stdout)
    assert told[0]["prices"][0]["usd"] == "4" and told[3]["cost_usd"]["expected"] == "0"
    assert "is a model of" in told[1]["error"]["message"]


# -- what is printed ------------------------------------------------------------------------


def test_reinforcement_has_its_rate_and_is_not_sent(ftg: Ftg) -> None:
    """Dollars an hour with source and day, no sum; submit refuses before any upload."""
    asked = (str(DATA), "--method", "reinforcement", "--model", "o4-mini-2025-04-16")
    done = ftg("estimate", *asked)
    assert "billed by the hour of training, 100.00 USD each." in words(done.stdout)
    done = ftg("estimate", *asked, "--explain")
    said = words(done.stdout)
    assert done.returncode == 0 and "cost not known" in said
    assert "$100.00 per hour of training, as of 2026-10-05, https://" in said
    assert "billed by the hour of training, 100.00 USD each." in said
    assert "content + 4 tokens" not in said and "priced here, not sent" in said
    azure = ftg("estimate", *asked, "--backend", "azure", "--json")
    assert "--unit train_hour" in " ".join(json.loads(azure.stdout)[0]["unknown"])
    sent = ftg("submit", *asked, "--backend", "azure", "--base-url", HOST, "--yes")
    assert sent.returncode == 2 and "need a grader" in sent.stderr


def test_the_rule_behind_the_epochs_is_told(ftg: Ftg) -> None:
    """Who decides, and that it may be one more or less; a given number needs no rule."""
    asked = ("estimate", str(DATA), "--model", MINI)
    assert (
        "auto: the rule of OpenAI's cookbook; the provider decides, and may do one more or less"
        in words(ftg(*asked, "--explain").stdout)
    )
    assert "epochs: " not in ftg(*asked, "--n-epochs", "2", "--explain").stdout


def test_leaks_into_validation_data_are_looked_for_once(home: Path, tmp_path: Path) -> None:
    """Six options read both files as often as one does."""
    rows = [chat(f"Where is {n}? " + "so " * 300, f"{n} comes soon.") for n in range(1500)]
    train = write(tmp_path / "train.jsonl", rows)
    held_out = write(tmp_path / "held_out.jsonl", rows[:400])
    models, hosts, g = [MINI, LARGE], ["openai", "azure", "nebius"], Gateway()
    g.estimate(train, model=models, backend=hosts, validation=held_out)  # what is read once
    one = bytes_read(lambda: g.estimate(train, model=MINI, validation=held_out))
    assert one > 2 * train.stat().st_size
    six = bytes_read(lambda: g.estimate(train, model=models, backend=hosts, validation=held_out))
    assert six < one + train.stat().st_size / 10
    report = g.plan(train, model=MINI, validation=held_out).reports[0]
    assert any(found.code == "leak" for found in report.findings)


def test_hosts_that_judge_differently_are_each_told_so(home: Path, tmp_path: Path) -> None:
    """A row that ends with the user's turn is refused by OpenAI and counted for Nebius, whichever
    of them reads the file first."""
    turns = [{"role": role, "content": "Hello."} for role in ("user", "assistant", "user")]
    train = write(tmp_path / "train.jsonl", [{"messages": turns} for _ in range(12)])
    for hosts in (["openai", "nebius"], ["nebius", "openai"]):
        options = {one.backend: one for one in Gateway().estimate(train, model=MINI, backend=hosts)}
        assert isinstance(options["openai"].error, DataError)
        assert not isinstance(options["nebius"].error, DataError)
    alone = Gateway().estimate(train, model=MINI, backend=["nebius"])[0]
    assert str(options["nebius"].error) == str(alone.error)


# -- names in lists ----------------------------------------------------------------------


def test_jobs_are_listed_under_the_names_of_their_hosts(
    ftg: Ftg, home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azure is azure in the list, in its filter, in Python and in the ledger; a host without a
    name is custom, and found as openai too."""
    with Provider() as provider:
        monkeypatch.setenv("A_KEY", provider.api_key)
        where = ("--base-url", provider.url, "--api-key-env", "A_KEY", "--yes", "-q")
        asked = ("submit", str(train_file), "--model", MINI, *where)
        azure = ftg(*asked, "--backend", "azure").stdout.strip()
        other = ftg(*asked, "--backend", "openai", "--n-epochs", "2").stdout.strip()
        local = gateway.submit(train_file, model="any", backend="fake").id
    for name, jobs in {
        "azure": [azure], "openai": [other], "custom": [other], "fake": [local], "nebius": [],
    }.items():  # fmt: skip
        assert ftg("list", "-q", "--backend", name).stdout.split() == jobs
        assert [job.id for job in gateway.list_jobs(backend=name)] == jobs
    lines = ftg("list").stdout.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["fake", "custom", "azure"]
    assert max(map(len, lines)) <= 80
    told = json.loads(ftg("list", "--json", "--backend", "azure").stdout)
    assert (told[0]["called"], told[0]["backend"]) == ("azure", "openai")
    assert "azure at http://" in ftg("status", azure).stdout
    ledger = json.loads(ftg("costs", "--json").stdout)["jobs"]
    assert [line["backend"] for line in ledger] == ["azure", "custom", "fake"]
    assert "No matching jobs." in ftg("list", "--backend", "nebius").stderr


# -- prices that are asked for -----------------------------------------------------------

Json = dict[str, Any]


def machine(name: str, model: str, quantity: str, vram: str, micro_usd: int) -> Json:
    """As the hub's client reads it (huggingface_hub 2.4, ``JobHardwareInfo``)."""
    gpu = {"type": "gpu", "model": model, "quantity": quantity, "vram": vram}
    return {
        "name": name, "prettyName": name, "cpu": "4 vCPU", "ram": "15 GB",
        "accelerator": {**gpu, "manufacturer": "Nvidia"} if model else None,
        "unitCostMicroUSD": micro_usd, "unitCostUSD": micro_usd / 1e6, "unitLabel": "minute",
    }  # fmt: skip


@contextmanager
def hub(answer: object) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A hub on this machine; its address, and what it was asked with which key."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("authorization")))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_gpu_hours_of_the_hub_become_rows_of_yours(
    ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cheapest machine with one of each GPU, by its name here; asked once, without a key;
    an estimate then uses it."""
    answer = [
        machine("CPU basic", "", "", "", 167),
        machine("T4 medium", "T4", "1", "16 GB", 10_000),
        machine("T4 small", "T4", "1", "16 GB", 6_000),
        machine("A100 large", "A100", "1", "80 GB", 50_000),
        machine("H200 x2", "H200", "2", "282 GB", 160_000),
        machine("Odd", "Z9", "1", "12 GB", 1_000),
    ]
    with hub(answer) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        done = ftg("prices", "update", "--json")
    assert asked == [("/api/jobs/hardware", None)]
    rows = json.loads(done.stdout)["rows"]
    assert {row["model"]: row["usd"] for row in rows} == {
        "T4": "0.36", "A100-80GB": "3", "Z9": "0.06"
    }  # fmt: skip
    told = json.loads(ftg("estimate", str(DATA), "--model", TINY, "--gpu", "T4", "--json").stdout)
    assert told[0]["prices"][0]["source"] == f"{address}/api/jobs/hardware"
    assert ftg("prices", "check").returncode == 0


def test_one_odd_machine_hides_no_other(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free ones, those in a form that is new, and a name of two GPUs are left out by name; seconds
    and an accelerator without memory are read."""
    by_second = {**machine("T4 by the second", "T4", "1", "16 GB", 100), "unitLabel": "second"}
    bare = machine("L4 small", "L4", "1", "24 GB", 10_000)
    del bare["accelerator"]["vram"]
    free = machine("Zero", "Z9", "1", "12 GB", 0)
    moon = {**machine("Moon", "T4", "1", "16 GB", 1), "unitLabel": "moon"}
    which = machine("Any", "A100", "1", "", 1)
    with hub([free, by_second, {"prettyName": "Empty"}, bare, moon, "text", which]) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        done = ftg("prices", "update", "--json")
        rows = json.loads(done.stdout)["rows"]
        assert {row["model"]: row["usd"] for row in rows} == {"T4": "0.36", "L4": "0.6"}
        left = [line for line in done.stderr.splitlines() if "Left out" in line]
        names = ("Zero", "Empty", "Moon", "without a name", "Any: it does not say which, A100-40GB")
        assert all(name in line for name, line in zip(names, left, strict=True))
    with hub([free]) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert "in an unknown form" in ftg("prices", "update").stderr


@pytest.mark.parametrize(
    ("answer", "said"), [({"error": "no"}, "in an unknown form"), (None, "did not answer")]
)
def test_without_an_answer_the_table_stands(
    ftg: Ftg, monkeypatch: pytest.MonkeyPatch, answer: object, said: str
) -> None:
    """Nothing is written, and the error says what holds."""
    with hub(answer) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address if answer else "http://127.0.0.1:9")
        done = ftg("prices", "update")
    assert done.returncode == 1 and said in done.stderr and "hint:" in done.stderr
    assert "does not exist yet" in ftg("prices", "path").stdout
    assert ftg("prices", "update", "--model", "T4").returncode == 2


def test_a_gpu_to_serve_on_is_known_however_it_is_written(ftg: Ftg) -> None:
    """a10g is the A10G of the tables; dates say of which host they are."""
    asked = ("--backend", "openai,azure", "--monthly-requests", "1000", "--serve-gpu", "a10g")
    said = words(ftg("estimate", str(DATA), "--model", MINI, *asked, "--explain").stdout)
    assert "own A10G always on, 1 GPU $730.00" in said
    assert "warning: azure: A fine-tune of" in said
