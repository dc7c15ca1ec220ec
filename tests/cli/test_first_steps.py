"""What a newcomer meets: words of other libraries as options, a binary file, a model that is not
there, a page that cannot be written, a job that has no event yet."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from support.cli import Ftg
from support.paths import DEMO_TRAIN

import finetune_gateway as gateway
from finetune_gateway.backends.fake import FakeBackend
from finetune_gateway.cli.watch import follow
from finetune_gateway.errors import DataError, GatewayError, SpecError
from finetune_gateway.events import JobStatus, Snapshot
from finetune_gateway.reports.charts import short

DATA = str(DEMO_TRAIN)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--lr", "Use: --set learning_rate=VALUE"),
        ("--batch_size", "Use: --set batch_size=VALUE"),
        ("--lora-r", "Use: --set lora_r=VALUE"),
        ("--epochs", "Did you mean --n-epochs?"),
        ("--zzz", "Run: ftg submit --help"),
    ],
)
def test_a_setting_that_is_no_option_is_answered_with_how_to_pass_it(
    option: str, hint: str, ftg: Ftg
) -> None:
    done = ftg("submit", DATA, "--model", "builtin/tiny", option, "3")
    assert done.returncode == 2 and done.stderr.endswith(f"hint:  {hint}\n")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_a_binary_file(seed: int, tmp_path: Path) -> None:
    """Not lines in another encoding, with the advice to convert them."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(random.Random(seed).randbytes(3000))
    assert [one.code for one in gateway.validate(path).findings] == ["not_text"]


def test_text_in_another_encoding_is_not_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(DEMO_TRAIN.read_bytes().replace(b"parcel", b"caf\xe9"))
    assert {one.code for one in gateway.validate(path).errors} == {"encoding_not_utf8"}


@pytest.mark.parametrize("command", ["preview", "estimate"])
def test_a_page_that_cannot_be_written_is_an_error_with_a_hint(
    command: str, ftg: Ftg, tmp_path: Path
) -> None:
    page = tmp_path / "none" / "page.html"
    done = ftg(command, DATA, "--model", "gpt-4.1-mini-2025-04-14", "--html", str(page))
    assert f"{page} cannot be written: No such file" in done.stderr and "hint:" in done.stderr


def test_a_builtin_model_that_is_not_there_is_not_sought_on_the_hub(ftg: Ftg) -> None:
    done = ftg("preview", DATA, "--model", "builtin/tin")
    assert (done.returncode, done.stderr) == (
        102,
        "error: There is no built-in model 'builtin/tin'.\nhint:  There is one: builtin/tiny\n",
    )


def test_an_empty_path_is_not_the_folder_one_is_in(home: Path) -> None:
    with pytest.raises(DataError, match="The path of the data is empty"):
        gateway.validate("")


def test_an_empty_row_has_no_keys_to_name(home: Path) -> None:
    messages = [one.message for one in gateway.validate([{}]).findings]
    assert any("The row is an empty object" in text for text in messages)
    with pytest.raises(GatewayError, match="The row is an empty object"):
        gateway.submit([{}], model="m", backend="fake")


@pytest.mark.parametrize("name", ["organization", "integrations", "dataset_text_field"])
def test_no_keyword_is_suggested_that_only_shares_letters(name: str, home: Path) -> None:
    with pytest.raises(SpecError) as caught:
        gateway.submit(DATA, model="m", **{name: 1})  # type: ignore[arg-type]  # unknown
    assert "Did you mean" not in caught.value.hint


def test_the_usage_of_a_repeated_argument_has_no_brace(ftg: Ftg) -> None:
    for name in ("wait", "rm"):
        shown = ftg(name, "--help").stdout
        assert shown.startswith(f"Usage: ftg {name} [OPTIONS] JOB...\n")
        assert "list[" not in shown and "<str>" not in shown


def test_a_row_without_an_answer_is_not_counted_as_one_answer(ftg: Ftg, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n' + DEMO_TRAIN.read_text())
    assert "one answer in" not in ftg("validate", str(path)).stdout


def test_an_approximate_count_says_so_once(ftg: Ftg) -> None:
    out = ftg("validate", DATA, "--model", "nosuch").stdout
    assert "tokens (approximation: UTF-8 bytes / 4)" in out


def test_a_name_that_is_nearly_one_of_a_host_says_which(ftg: Ftg) -> None:
    """Among those that still can be trained; the list of all of them is not on the screen."""
    out = " ".join(ftg("estimate", DATA, "--model", "gpt-4o").stdout.split())
    assert "did you mean gpt-4o-2024-08-06 or gpt-4o-mini-2024-07-18?" in out
    assert "davinci" not in out and "day of retirement not known" in out


def test_a_job_that_has_ended_gets_no_more_metrics(
    ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose host could not be reached has none, and none "yet" either."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    done = ftg("submit", DATA, "--model", "gpt-4.1-mini-2025-04-14", "--yes")
    assert done.returncode == 1 and "Could not reach" in done.stderr
    for name in ("metrics", "checkpoints"):
        assert ftg(name, "latest").stderr == f"No {name}.\n"
    resumed = ftg("resume", "latest").stderr
    assert re.search(r"nothing to resume: ftg-\w+ failed before it was sent\.", resumed)


def test_nothing_to_prune_says_of_which_age(ftg: Ftg) -> None:
    assert "ended more than 30 days ago." in ftg("prune").stderr
    assert "ended more than 1 day ago." in ftg("prune", "--older-than", "1d").stderr


def test_keys_are_set_or_not_set(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    out = " ".join(ftg("doctor").stdout.split())
    assert "OPENAI_API_KEY is set; not set: AWS_BEARER_TOKEN_BEDROCK, " in out


@pytest.mark.parametrize("columns", ["40", "60"])
def test_costs_keep_to_a_narrow_terminal(
    columns: str, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    ftg("submit", DATA, "--model", "gpt-4.1-mini-2025-04-14", "--backend", "fake", "-q")
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, ftg("costs").stdout.splitlines())) <= int(columns)


def test_a_last_day_with_a_plus_is_explained(ftg: Ftg) -> None:
    assert "2027-04-13+" in (out := ftg("models").stdout)
    assert "A day with +: at least until then" in out


def test_a_billion_is_b() -> None:
    assert short(1e9) == "1B"


class Building(FakeBackend):
    """Has a phase and no event in its first three polls."""

    polls = 0

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        """Return one more step of the phase, then what the fake plays."""
        self.polls += 1
        if self.polls > 3:
            return super().poll(provider_id, cursor)
        phase = f"building a model: step {self.polls} of 3"
        return Snapshot(status=JobStatus.RUNNING, phase=phase)


def test_a_job_without_events_says_what_it_does(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, once for a phase and not for each of its steps."""
    job = gateway.submit(DATA, model="m", backend=Building())
    follow(job)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "building" in line] == [
        f"{job.id}  running: building a model: step 1 of 3"
    ]
