"""Settings of the home folder: typed, known, in one order, and written without losing comments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from threading import Thread

import pytest
from support.paths import ROOT

from finetune_gateway import Gateway, SpecError
from finetune_gateway.cli import main
from finetune_gateway.settings import config
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.home import Settings

Ftg = Callable[..., tuple[int, str, str]]
MONTH = "budget.monthly_usd"


@pytest.fixture
def ftg(home: Path, capsys: pytest.CaptureFixture[str]) -> Ftg:
    """Runs a command line in this process: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_set_get_unset(ftg: Ftg, home: Path) -> None:
    """The way round, to the last digit; stdout is the result alone."""
    assert ftg("config", "get", MONTH)[:2] == (0, "")
    said = (0, f"{MONTH} = 12.50\n", f"Saved in {home}/config.toml\n")
    assert ftg("config", "set", MONTH, "12.50") == said
    assert ftg("config", "get", MONTH) == (0, "12.50\n", "")
    assert Gateway().monthly_usd == Decimal("12.50")
    assert ftg("config", "unset", MONTH)[:2] == (0, f"{MONTH} removed\n")
    assert ftg("config", "unset", MONTH)[:2] == (0, f"{MONTH} was not set\n")
    assert Gateway().monthly_usd is None


def test_the_order_is_argument_environment_file_default(
    ftg: Ftg, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes before the next, and list says who won."""
    settings = Settings(home)
    assert config.current_value(settings, MONTH).origin == "default"
    ftg("config", "set", MONTH, "50")
    expected = config.Value(config.KEYS[MONTH], Decimal(50), "file")
    assert config.current_value(settings, MONTH) == expected
    monkeypatch.setenv("FTG_BUDGET_MONTHLY_USD", "$40.10")
    assert config.current_value(settings, MONTH).usd == Decimal("40.10")
    assert "environment (FTG_BUDGET_MONTHLY_USD)" in ftg("config")[1]
    assert "overrides the file" in ftg("config", "set", MONTH, "60")[2]
    assert config.current_value(settings, MONTH, 7.5) == config.Value(
        config.KEYS[MONTH], Decimal("7.5"), "argument"
    )
    assert Gateway(monthly_usd=7.5).monthly_usd == Decimal("7.5")
    found = json.loads(ftg("config", "list", "--json")[1])
    assert found[0] == {"key": MONTH, "value": "40.10", "from": "environment"}
    assert found[1] == {"key": "budget.job_usd", "value": None, "from": "default"}


def test_comments_and_other_keys_stay(ftg: Ftg, home: Path) -> None:
    """A file somebody wrote by hand is edited, not written anew; a link stays a link."""
    home.mkdir()
    real = home / "elsewhere.toml"
    real.write_text("# ours\n[budget] # money\njob_usd = 5 # a job\nmonthly_usd = 20\n")
    (home / "config.toml").symlink_to(real)
    assert ftg("config", "set", MONTH, "0.10")[0] == 0
    assert real.read_text() == (
        "# ours\n[budget] # money\njob_usd = 5 # a job\nmonthly_usd = 0.10\n"
    )
    assert (home / "config.toml").is_symlink()
    ftg("config", "unset", MONTH)
    assert real.read_text() == "# ours\n[budget] # money\njob_usd = 5 # a job\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "budget.montly_usd", "50"), "Did you mean budget.monthly_usd?"),
        (("get", "nothing.like.it"), "Keys: budget.monthly_usd, budget.job_usd"),
        (("set", MONTH, "plenty"), "cannot be 'plenty'"),
        (("set", MONTH, "-1"), "-1"),
        (("set", MONTH, "nan"), "cannot be 'nan'"),
        (("set", MONTH, "inf"), "cannot be 'inf'"),
        (("set", MONTH, "1e999999"), "cannot be '1e999999'"),
        (("set", MONTH), "takes 2 arguments"),
        (("get",), "takes 1 argument,"),
        (("list", MONTH), "takes 0 arguments"),
        (("change", MONTH), "There is no 'config change'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    ftg: Ftg, home: Path, words: tuple[str, ...], said: str
) -> None:
    """Exit 2 with the next step, and no file is written."""
    code, out, err = ftg("config", *words)
    assert code == 2 and out == "" and said in err
    assert not (home / "config.toml").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[budget]\nmontly_usd = 50\n", "Did you mean budget.monthly_usd?"),
        ("[budget]\nmonthly_usd = true\n", "budget.monthly_usd cannot be True"),
        ("[budget]\nmonthly_usd = nan\n", "cannot be"),
        ("[budget]\nmonthly_usd = [1]\n", "cannot be"),
        ("budget = 50\n", "There is no setting 'budget.'"),
        ("[budget\n", "line 1"),
        ("# ours\nbudget = [", "line 2"),
        ("[budget]\n# mine\nmontly_usd = 50\n", "config.toml, line 3: There is no setting"),
        ("# ours\nbudget = { job_usd = -1 }\n", "config.toml, line 2: budget.job_usd cannot be"),
    ],
)
def test_a_file_that_is_wrong_is_no_limit_lifted(
    ftg: Ftg, home: Path, train_file: Path, text: str, said: str
) -> None:
    """A misspelt cap stops a submit instead of letting it through, names the file, and is not
    written over."""
    home.mkdir()
    (home / "config.toml").write_text(text)
    for words in (
        ("submit", str(train_file), "--model", "m", "--backend", "fake"),
        ("config", "list"),
        ("config", "set", MONTH, "5"),
    ):
        code, _, err = ftg(*words)
        assert code == 2 and said in err and "config.toml" in err
    assert (home / "config.toml").read_text() == text
    assert ftg("config", "path")[1] == f"{home}/config.toml\n"
    assert Gateway().store.jobs() == []


def test_a_variable_that_is_no_amount_is_named(
    ftg: Ftg, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FTG_BUDGET_MONTHLY_USD=fifty is an error, not no limit."""
    monkeypatch.setenv("FTG_BUDGET_MONTHLY_USD", "fifty")
    code, _, err = ftg("submit", str(train_file), "--model", "m", "--backend", "fake")
    assert code == 2 and "FTG_BUDGET_MONTHLY_USD cannot be 'fifty'" in err


@pytest.mark.parametrize("flag", ["--max-cost", "--max-cost-usd"])
def test_the_limit_is_shown_to_its_last_digit(
    ftg: Ftg, train_file: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    """Cents, or all that was given; by both names; what is no amount names the flag."""
    words = ["submit", str(train_file), "--model", "gpt-4o-mini-2024-07-18", "--dry-run", flag]
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    for given, shown in (("0.0234", "0.0234"), ("20", "20.00"), ("$1234.5", "1,234.50"),
                         ("0.123456789012", "0.123456789012")):  # fmt: skip
        code, _, err = ftg(*words, given)
        assert code == 0 and f"; limit ${shown}\n" in err
    for wrong in ("inf", "nan", "-1", "much"):
        code, _, err = ftg(*words, wrong)
        assert code == 2 and f"--max-cost cannot be '{wrong}'" in err
    with pytest.raises(SpecError, match="max_cost_usd cannot be inf"):
        Gateway().submit(train_file, model="m", backend="fake", max_cost_usd=float("inf"))


def test_two_who_write_at_once_both_count(home: Path) -> None:
    """One process at a time reads, changes and replaces the file."""
    settings = Settings(home)
    names = [name for name, key in config.KEYS.items() if key.unit != "regions"]

    def write(number: int) -> None:
        config.write(settings, names[number % len(names)], str(4000 + number))  # all take that

    threads = [Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(config.read_file(settings.config)) == set(names)


KEEP = """
import sys
from pathlib import Path
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.home import Settings
bindings = Bindings(Settings(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
for number in range(100):
    if sys.argv[2] == "forget":
        bindings.keep("OTHER", "https://other.example/v1")
        bindings.keep_options("other", {"url": "u"})
        assert bindings.forget("OTHER") and bindings.forget_options("other")
    else:
        bindings.keep("KEY", f"https://host-{number}.example/v1")
        bindings.keep_options("mine", {"url": number})
"""


def test_what_is_kept_while_another_process_forgets_stays(home: Path) -> None:
    """A line that is added to a file which is replaced at that moment would be lost."""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", KEEP, str(home), what],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for what in ("keep", "forget")
    ]
    for process in both:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        process.communicate()
        assert process.returncode == 0
    bindings = Bindings(Settings(home))
    assert len(bindings.kept()) == 100 == len(bindings.kept_options())


def test_the_limit_of_a_job_can_be_a_setting(ftg: Ftg, home: Path, train_file: Path) -> None:
    """budget.job_usd is --max-cost for whoever gives none; what is given goes first."""
    ftg("config", "set", "budget.job_usd", "0.0001")
    words = ["submit", str(train_file), "--model", "gpt-4o-mini-2024-07-18", "--backend", "openai"]
    words += ["--base-url", "http://127.0.0.1:9/v1", "--api-key-env", "A_KEY"]
    words += ["--train-price", "1000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_KEY", "k")
        code, _, err = ftg(*words)
        assert code == 4 and "over the limit of 0.000100" in err
        code, _, err = ftg(*words, "--max-cost", "5")
        assert code == 4 and "no terminal to confirm" in err
    with pytest.raises(SpecError, match="cannot be 'x'"):
        config.write(Settings(home), MONTH, "x")


def test_regions_are_countries(ftg: Ftg, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their two letters; their national numbers are found in rows and masked in what is quoted,
    and in no other home."""
    number = "0301234 5678"
    answer = {"role": "assistant", "content": "Noted."}
    rows = [
        {"messages": [{"role": "user", "content": f"{n}: {number}"}, answer]} for n in range(10)
    ]
    assert not [one for one in Gateway().validate(rows).findings if one.code == "pii"]
    assert ftg("config", "set", "pii.regions", "de, US")[:2] == (0, "pii.regions = DE, US\n")
    assert json.loads(ftg("config", "get", "pii.regions", "--json")[1])["value"] == "DE, US"
    (found,) = [one for one in Gateway().validate(rows).findings if one.code == "pii"]
    assert (found.kind, found.count) == ("a telephone number", 10) and number not in found.message
    other = Gateway(home / "other")
    assert not [one for one in other.validate(rows).findings if one.code == "pii"]
    assert ftg("config", "set", "pii.regions", "Germany")[0] == 2
    monkeypatch.setenv("FTG_PII_REGIONS", "XX")
    with pytest.raises(SpecError, match="FTG_PII_REGIONS cannot be 'XX'"):
        Gateway().validate(rows)
