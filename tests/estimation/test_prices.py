"""Price rows and ``ftg prices``: whole names, your own file, what has grown old."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

import finetune_gateway as gateway
from finetune_gateway import backend
from finetune_gateway.cli import main
from finetune_gateway.errors import BudgetError, SpecError
from finetune_gateway.estimation import genai_prices, price_table
from finetune_gateway.estimation.price_table import (
    Price,
    find_price,
    gpu_prices,
    new_price,
    write_price,
)
from finetune_gateway.reports.estimate_figures import price_text
from finetune_gateway.settings import clock

TODAY = date(2026, 11, 21)
MINI = "gpt-4.1-mini-2025-04-14"
OWN = """\
# Ours, from the contract of May.
[[price]]
backend = "azure"  # Sweden
model = "gpt-4.1-mini-2025-04-14"
usd = { train_mtok = "4.40", in_mtok = "0.44" }
as_of = 2026-05-01
source = "our contract"

# The machine in the cellar.
[[price]]
backend = "own"
model = "RTX 4090"
market = "on-demand"
usd = { gpu_hour = "0.11" }
as_of = 2026-11-01
source = "the electricity bill"
"""


def row(**changes: Any) -> Price:
    """A row of one's own."""
    fields = {"backend": "azure", "model": MINI, "unit": "train_mtok", "usd": "4.00",
              "as_of": TODAY, "source": "our contract, page 3"}  # fmt: skip
    return new_price(**(fields | changes))


# -- rows --------------------------------------------------------------------------------


def test_gpu_hours_have_a_market_and_no_other_row_has() -> None:
    """All three markets are there."""
    rows = price_table.packaged_prices()
    assert {r.market for r in rows if r.unit == "gpu_hour"} == {"on-demand", "spot", "community"}
    assert {r.market for r in rows if r.unit != "gpu_hour"} == {None}


def test_a_gpu_is_found_by_its_whole_name_cheapest_first() -> None:
    """H100 is not H100 PCIe, and a part of a name finds nothing."""
    found = gpu_prices("H100")
    assert [r.usd for r in found] == sorted(r.usd for r in found)
    assert {r.model for r in found} == {"H100"} and len({r.market for r in found}) == 3
    assert gpu_prices("H1") == gpu_prices("h100") == gpu_prices("") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"usd": "cheap"}, "usd cannot be 'cheap': it is not a number"),
        ({"usd": "-1"}, "usd cannot be '-1': it is less than 0"),
        ({"usd": "NaN"}, "usd cannot be 'NaN': it is not a number"),
        ({"usd": "1e999"}, "usd cannot be '1e999': it is above 1,000,000,000 USD"),
        ({"usd": "1000000000.01"}, "above 1,000,000,000 USD"),
        ({"unit": "per_token"}, "unit must "),
        ({"source": ""}, "source must "),
        ({"as_of": "yesterday"}, "as_of must "),
        ({"as_of": clock.today() + timedelta(days=2)}, "is in the future"),
        ({"market": "spot"}, "market belongs to gpu_hour"),
        ({"unit": "gpu_hour"}, "market belongs to gpu_hour"),
        ({"unit": "gpu_hour", "market": "moon"}, "market must "),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], said: str) -> None:
    """What a person typed is refused in words."""
    with pytest.raises(SpecError, match=said):
        row(**changes)


def test_a_row_is_written_beside_what_is_there(tmp_path: Path) -> None:
    """One amount is replaced; comments, other amounts and other rows stay as they were."""
    path = tmp_path / "home" / "prices.toml"
    assert write_price(path, row()) is False
    assert path.read_text().startswith("# Your own prices")
    path.write_text(OWN)
    assert write_price(path, row(note="new")) is True
    text = path.read_text()
    for line in ("# Ours, from the contract of May.", "# Sweden", "# The machine in the cellar."):
        assert line in text
    amounts = {(p.model, p.unit): (p.usd, p.source) for p in price_table.read_prices(path)}
    assert amounts == {
        (MINI, "train_mtok"): (Decimal("4.00"), "our contract, page 3"),
        (MINI, "in_mtok"): (Decimal("0.44"), "our contract"),
        ("RTX 4090", "gpu_hour"): (Decimal("0.11"), "the electricity bill"),
    }
    assert sorted(file.name for file in path.parent.iterdir()) == ["locks", "prices.toml"]


@pytest.mark.parametrize(
    "text",
    [
        'price = [{ backend = "azure", model = "' + MINI + '", as_of = 2026-01-01, source = "s", '
        'usd = { train_mtok = "1", in_mtok = "2" } }]\n',
        '[[price]]\nbackend = "azure"\nmodel = "' + MINI + '"\nas_of = 2026-01-01\nsource = "s"\n'
        '[price.usd]\ntrain_mtok = "1"\nin_mtok = "2"\n',
        "price = []\n",
        "# nothing but a comment\n",
        "",
    ],
)
def test_a_table_in_any_form_of_toml_takes_a_row(tmp_path: Path, text: str) -> None:
    """Inline rows, sub-tables, nothing at all: the file can be read afterwards, with the row."""
    path = tmp_path / "prices.toml"
    path.write_text(text)
    replaced = write_price(path, row())
    amounts = {p.unit: p.usd for p in price_table.read_prices(path)}
    others = {"in_mtok": Decimal(2)} if "in_mtok" in text else {}
    assert amounts == {"train_mtok": Decimal("4.00"), **others}
    assert replaced == bool(others)


def test_a_broken_file_is_not_written_over(tmp_path: Path) -> None:
    """A file that is no price table stays as it is, and the error says what is wrong in it."""
    path = tmp_path / "prices.toml"
    path.write_text(OWN.replace("in_mtok", "in_token"))
    before = path.read_bytes()
    with pytest.raises(SpecError, match=r"prices\.toml is not a price table: unit must .*in_token"):
        write_price(path, row())
    assert path.read_bytes() == before


def test_doubts_are_age_repeats_dates_and_closed_models(tmp_path: Path) -> None:
    """Each thing once: what is old by its source, what is there twice, what is shut down."""
    path = tmp_path / "prices.toml"
    again = OWN.replace("[[price]]", "[[price]]  # again", 1).replace("4.40", "4.60")
    ahead = OWN[OWN.index("# The machine") :].replace("2026-11-01", "2027-01-01")
    path.write_text(OWN + again[: again.index("# The machine")] + ahead.replace("own", "their"))
    found = price_table.check_prices(path, TODAY)
    mine = [issue.message for issue in found if issue.where == str(path)]
    assert len(mine) == 4, mine
    assert any("train_mtok is there twice (4.40 and 4.60 USD)" in said for said in mine)
    assert any("in_mtok is there twice" in said for said in mine)
    assert any("2027-01-01 is in the future" in said for said in mine)
    assert any("4 rows are from 2026-05-01, 204 days ago; check our contract" in x for x in mine)
    others = [issue for issue in found if issue.where == "the package"]
    assert any("Shut down on 2026-10-23 at openai: babbage-002" in x.message for x in others)
    late = [issue.message for issue in price_table.check_prices(None, date(2027, 1, 8))]
    assert any("2026-10-05, 95 days ago; check https://developers.openai.com" in x for x in late)


def test_an_older_row_of_yours_before_a_newer_one_is_said(tmp_path: Path) -> None:
    """Your file goes first even where the package knows better, and check says so."""
    path = tmp_path / "prices.toml"
    write_price(path, row(backend="openai", as_of=date(2026, 9, 1), usd="4.50"))
    price = find_price("openai", MINI, "train_mtok", extra=path)
    assert price is not None and price.usd == Decimal("4.50")
    said = [issue.message for issue in price_table.check_prices(path, TODAY)]
    assert any("overrides the newer 5.00 USD of 2026-10-05" in text for text in said)


# -- genai-prices ------------------------------------------------------------------------


def test_base_models_come_from_the_catalogue_by_whole_names() -> None:
    """Labelled with its version and page; a beginning, a part and a fine-tune find nothing,
    although the library itself would match them."""
    library = pytest.importorskip("genai_prices")
    price = find_price("openai", "gpt-4.1-mini", "out_mtok")
    assert price is not None
    assert (
        price.usd
        == library.calc_price(
            library.Usage(output_tokens=1_000_000), model_ref="gpt-4.1-mini", provider_id="openai"
        ).total_price
    )
    assert price.source.startswith(f"genai-prices {library.__version__} (https://")
    assert price.as_of is None and "does not say on which day" in price.note
    ft = library.calc_price(
        library.Usage(input_tokens=1), model_ref="ft:gpt-4o-2024-08-06", provider_id="openai"
    )
    assert ft.model.id == "ft:gpt-4o"  # matched there by its beginning
    for name in ("ft:gpt-4o-2024-08-06", "gpt-4.1-mini-x", "o4-mini-2025", "4.1", ""):
        assert genai_prices.find("openai", name) is None
    assert genai_prices.find("nobody", "gpt-4.1-mini") is None


def test_a_price_without_a_day_has_no_age(
    ftg: Run, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release has no day on which a price was read: changes of other models, past or
    scheduled, are not taken for one, and no age is warned of; where a model's own price has a
    change in force, that price is used."""
    pytest.importorskip("genai_prices")
    asked = ("estimate", str(train_file), "--model", MINI, "--n-epochs", "1", "--monthly-requests",
             "1000", "--explain")  # fmt: skip
    for day in ("2026-11-21", "2027-06-01"):
        monkeypatch.setenv("FTG_TODAY", day)
        shown = " ".join(ftg("prices", "--model", MINI)[1].split())
        assert "date not known, genai-prices" in shown
        assert "The release does not say on which day the price was read." in shown
        said = " ".join(ftg(*asked)[1].split())
        assert "prices date not known, genai-prices" in said and "ago; check genai" not in said
        told = json.loads(ftg("prices", "--backend", "openai", "--model", MINI, "--json")[1])
        days = {one["as_of"] for one in told if one["origin"] == "genai-prices"}
        assert days == {None}


def test_a_scheduled_change_is_in_force_from_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process too: what is found goes by the day that is asked about."""
    pytest.importorskip("genai_prices")
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import StartDateConstraint

    changes = (
        (host.id, info.id, price.constraint.start_date)
        for host in get_snapshot().providers
        for info in host.models
        if isinstance(info.prices, list)
        for price in info.prices[-1:]
        if isinstance(price.constraint, StartDateConstraint)
    )
    for host, model, day in changes:
        found = []
        for asked in (day - timedelta(days=1), day):
            monkeypatch.setenv("FTG_TODAY", str(asked))
            found.append(genai_prices.find(host, model))
        if None not in found and found[0] != found[1]:
            return
    pytest.fail("no price changes on any day")


def test_a_price_taken_from_another_host_says_so() -> None:
    """The catalogue prices Azure's models as OpenAI's; the row carries that."""
    pytest.importorskip("genai_prices")
    price = find_price("azure", MINI, "in_mtok")
    assert price is not None and price.backend == "azure"
    assert "OpenAI's price, assumed for" in price.note


def test_your_own_row_goes_before_the_catalogue(tmp_path: Path) -> None:
    """Yours, then genai-prices, then the package."""
    path = tmp_path / "prices.toml"
    path.write_text(OWN)
    price = find_price("azure", MINI, "in_mtok", extra=path)
    assert price is not None and price.source == "our contract"


def test_a_row_for_one_fine_tune_goes_before_that_of_its_base(tmp_path: Path) -> None:
    """A message about a missing price names the fine-tune by its whole id."""
    path, tuned = tmp_path / "prices.toml", "ft:gpt-4.1-mini-2025-04-14:acme:shop:1"
    rows = ((tuned, "7"), ("ft:gpt-4.1-mini-2025-04-14", "5"))
    path.write_text(
        "".join(
            f'[[price]]\nbackend = "custom"\nmodel = "{model}"\nusd = {{in_mtok = "{usd}"}}\n'
            'as_of = 2026-12-02\nsource = "test"\n'
            for model, usd in rows
        ),
        encoding="utf-8",
    )
    found = [find_price("custom", one, "in_mtok", extra=path) for one in (tuned, f"{tuned}2")]
    assert [price.usd for price in found if price] == [Decimal(7), Decimal(5)]


def test_without_the_catalogue_the_package_knows(tmp_path: Path) -> None:
    """In a Python where genai-prices cannot be found, base prices are those of the package."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['genai_prices'] = None\n"
        "import importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'genai_prices' else real(n, *a)\n"
    )
    code = (
        "from finetune_gateway.estimation.price_table import find_price\n"
        f"print(find_price('openai', '{MINI}', 'out_mtok').source)\n"
        f"print(find_price('azure', '{MINI}', 'out_mtok'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["https://developers.openai.com/api/docs/pricing", "None"]


WRITE = """
import sys
from pathlib import Path
from finetune_gateway.estimation.price_table import new_price, write_price
print("ready", flush=True)
sys.stdin.readline()
for number in range(6):
    row = {"backend": "custom", "model": f"model-{sys.argv[2]}-{number}", "source": "ours"}
    write_price(Path(sys.argv[1]), new_price(**row, unit="in_mtok", usd="1", as_of="2026-11-01"))
"""


def test_processes_that_write_at_once_lose_no_price(tmp_path: Path) -> None:
    """Each reads the file, adds a row and replaces it: one at a time."""
    path = tmp_path / "prices.toml"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path), str(number)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert len(price_table.read_prices(path)) == 24
    private = (tmp_path / "locks").stat().st_mode & 0o777
    assert private == 0o700


# -- the command -------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ftg(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args: str) -> tuple[int, str, str]:
        code = main(list(args))
        return code, *capfd.readouterr()

    return run


def test_the_table_fits_and_says_where_it_is_from(ftg: Run) -> None:
    """80 columns except for addresses; units of tokens, hours and GPUs; closed models on demand."""
    code, out, err = ftg("prices")
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "http" not in line) <= 80
    for text in ("BATCH IN / CACHED / OUT", "azure standard deployment", "GPU  ", "2026-10-05"):
        assert text in out
    assert "gpt-3.5-turbo" not in out and "--all" in err
    assert "gpt-3.5-turbo" in ftg("prices", "show", "--all")[1]


def test_rows_are_filtered_by_whole_names(ftg: Run) -> None:
    """By host, unit, market; a model's alias finds it, a part of its name does not."""
    told = json.loads(ftg("prices", "--unit", "gpu_hour", "--market", "spot", "--json")[1])
    assert {one["market"] for one in told} == {"spot"}
    alias = json.loads(ftg("prices", "--backend", "openai", "--model", "gpt-4.1-mini", "--json")[1])
    assert {one["model"] for one in alias} == {MINI, f"ft:{MINI}"}
    assert {one["origin"] for one in alias} <= {"package", "genai-prices"}
    code, out, _ = ftg("prices", "--model", "gpt-4.1-min", "--json")
    assert (code, json.loads(out)["error"]["type"]) == (102, "NotFoundError")
    assert ftg("prices", "--unit", "stone")[0] == 2
    assert ftg("prices", "--market", "moon")[0] == 2
    assert ftg("prices", "frob")[0] == 2
    assert ftg("prices", "show", "--usd", "3")[0] == 2


def test_set_writes_a_row_that_estimate_then_uses(ftg: Run, home: Path, train_file: Path) -> None:
    """From no price, by one command, to a price with its source, stored with the job."""
    asked = ("estimate", str(train_file), "--model", "gpt-9", "--n-epochs", "1")
    assert "no price known; give --train-price or add a row" in " ".join(ftg(*asked)[1].split())
    assert ftg("prices", "set", "--backend", "openai", "--model", "gpt-9")[0] == 2
    made = ("prices", "set", "--backend", "openai", "--model", "gpt-9", "--unit", "train_mtok",
            "--usd", "7.50", "--source", "a letter", "--as-of", "2026-11-20")  # fmt: skip
    code, out, _ = ftg(*made)
    assert code == 0 and out.startswith("added")
    assert ftg(*made)[1].startswith("replaced")
    (kept,) = tomllib.loads((home / "prices.toml").read_text())["price"]
    assert kept["usd"] == {"train_mtok": "7.50"} and kept["as_of"] == date(2026, 11, 20)
    (told,) = json.loads(ftg(*asked, "--json")[1])
    assert told["prices"][0]["source"] == "a letter"
    assert Decimal(told["cost_usd"]["expected"]) == (
        Decimal(told["billed_tokens"]["expected"]) * Decimal("7.50") / 1_000_000
    )
    shown = ftg("prices", "--backend", "openai")[1]
    assert "7.50*" in shown and "your own row" in shown


def test_a_gpu_hour_of_yours_is_on_demand_unless_said(ftg: Run, home: Path) -> None:
    """The market need not be typed."""
    made = ("prices", "set", "--backend", "own", "--model", "L4", "--unit", "gpu_hour",
            "--usd", "0.2", "--source", "the bill")  # fmt: skip
    assert ftg(*made)[0] == 0
    assert gpu_prices("L4", extra=home / "prices.toml")[0].market == "on-demand"


def test_check_ends_with_three_when_your_file_cannot_be_read(ftg: Run, home: Path) -> None:
    """Warnings end with 0; a file that is no table with 3, in words, and as JSON."""
    assert ftg("prices", "check")[0] == 0
    home.mkdir(exist_ok=True)
    (home / "prices.toml").write_text(OWN.replace("train_mtok", "tokens"))
    code, out, _ = ftg("prices", "check")
    assert code == 3 and "not a price table: unit must " in " ".join(out.split())
    assert "(row 1, from line 2)" in " ".join(out.split())
    told = json.loads(ftg("prices", "check", "--json")[1])
    assert told["ok"] is False and told["findings"][-1]["severity"] == "error"
    assert str(home / "prices.toml") in ftg("prices", "path")[1]
    assert json.loads(ftg("prices", "path", "--json")[1])["exists"] is True


def test_an_absurd_price_is_refused_wherever_it_comes_from(
    ftg: Run, home: Path, train_file: Path
) -> None:
    """Above 1,000,000,000 USD for one unit: typed, in a row of yours, for once."""
    made = ("prices", "set", "--backend", "openai", "--model", "gpt-9", "--unit", "train_mtok",
            "--source", "a slip", "--usd")  # fmt: skip
    code, _, err = ftg(*made, "1e999")
    assert code == 2 and "'1e999': it is above 1,000,000,000 USD" in err
    assert not (home / "prices.toml").exists()
    assert ftg(*made, "1000000000")[0] == 0
    asked = ("estimate", str(train_file), "--n-epochs", "1", "--model")
    for more in (("gpt-9", "--train-price", "1e10"),
                 ("builtin/tiny", "--usd-per-gpu-hour", "1e999")):  # fmt: skip
        code, out, err = ftg(*asked, *more)
        assert code == 2 and "at most 1,000,000,000" in " ".join((out + err).split())
    (home / "prices.toml").write_text(OWN.replace('"0.44"', '"1e999"'))
    code, out, _ = ftg("prices", "check")
    text = " ".join(out.split())
    assert code == 3 and "usd cannot be '1e999': it is above 1,000,000,000 USD. (row 1" in text
    code, _, err = ftg(*asked, "gpt-9")
    assert code == 2 and "not a price table" in err


def test_a_typed_training_price_is_priced_and_kept(ftg: Run, train_file: Path) -> None:
    """--train-price on estimate; a wrong amount is refused; a local run is not billed so."""
    asked = ("estimate", str(train_file), "--model", "gpt-9", "--n-epochs", "1", "--train-price")
    (told,) = json.loads(ftg(*asked, "$4.40", "--json")[1])
    assert told["prices"][0]["usd"] == "4.40"
    assert told["prices"][0]["source"].startswith("given on the command line")
    assert told["unknown"] == ["How long a hosted job waits and trains."]
    for wrong in ("much", "-1", "NaN"):
        assert ftg(*asked, wrong)[0] == 2
    code, _, err = ftg(*asked, "1", "--backend", "fake")
    assert code == 2 and "not billed by tokens" in err


def test_validation_tokens_are_told(ftg: Run, train_file: Path, tmp_path: Path) -> None:
    """estimate --validation-file counts it and leaves it out of the bill."""
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"messages": [{"role": "user", "content": "Ahoy there"}, '
                        '{"role": "assistant", "content": "Ahoy"}]}\n')  # fmt: skip
    asked = ("estimate", str(train_file), "--model", MINI, "--n-epochs", "1", "--json")
    (plain,) = json.loads(ftg(*asked)[1])
    (both,) = json.loads(ftg(*asked, "--validation-file", str(held_out))[1])
    assert plain["validation_tokens"] is None
    assert both["validation_tokens"] > 9
    assert both["cost_usd"] == plain["cost_usd"]


def test_submit_keeps_a_given_price_with_the_plan(home: Path, train_file: Path) -> None:
    """The limit is judged at that price, and the plan that is confirmed carries its row."""
    seen: list[gateway.Plan] = []

    def no(plan: gateway.Plan) -> bool:
        seen.append(plan)
        return False

    def submit(limit: float) -> None:
        gateway.Gateway(home).submit(
            train_file,
            model=MINI,
            backend=gateway.OpenAIBackend(api_key="k"),
            train_price=Decimal(1000),
            max_cost_usd=limit,
            confirm=no,
        )

    with pytest.raises(BudgetError, match="over the limit"):
        submit(0.01)
    with pytest.raises(BudgetError, match="not confirmed"):
        submit(1000)
    assert seen[0].estimate.prices[0].usd == 1000


# -- units of plug-ins -----------------------------------------------------------------------


def test_a_row_in_a_unit_of_a_plugin_is_found_again(ftg: Run, home: Path) -> None:
    """Set by the command, found by the look-up of plug-ins, shown in a table of its own."""
    given = ("--backend", "acme", "--model", "a100", "--usd", "0.25", "--source", "our contract")
    for unit in ("acme_credit", "gpu_hour"):
        assert ftg("prices", "set", *given, "--unit", unit)[0] == 0
        price = backend.find_price("acme", "a100", unit, extra=home / "prices.toml")
        assert price is not None and (price.usd, price.unit) == (Decimal("0.25"), unit)
        assert Price.model_validate_json(price.model_dump_json()) == price
        shown = price_text(price)
        assert ("$0.25 per acme_credit of a100," in shown) == (unit == "acme_credit"), shown
    spot = backend.find_price("acme", "a100", "gpu_hour", extra=home / "prices.toml", market="spot")
    assert spot is None
    assert "acme   a100  acme_credit  0.25*" in ftg("prices", "--backend", "acme")[1]
    for words in (("--unit", "acme_credit"), ("--model", "a100")):
        assert "acme_credit" in ftg("prices", *words)[1]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("acme", "gpu_hours"), ("acme", "other_credit"), ("acme", "acme_"), ("acme", "acme_A b")],
)
def test_a_unit_that_is_a_mistake_is_refused(ftg: Run, home: Path, name: str, unit: str) -> None:
    """A near miss, a unit of another backend, what is no word."""
    code, _, err = ftg("prices", "set", "--backend", name, "--model", "m", "--unit", unit,
                       "--usd", "1", "--source", "s")  # fmt: skip
    assert code == 2 and "unit must be one of train_mtok" in " ".join(err.split())
    assert not (home / "prices.toml").exists()
