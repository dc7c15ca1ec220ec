"""Claims of finetune_gateway.estimation.hosted: dated prices, real bills, no guesses."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_gateway.errors import SpecError, StoreError
from finetune_gateway.estimation.estimate import Estimate, Range, auto_epochs
from finetune_gateway.estimation.hosted import at_train_price, estimate_hosted, with_validation
from finetune_gateway.estimation.price_table import Price, find_price, prices
from finetune_gateway.estimation.profiles import load_profile
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.tokens.stats import TokenStats

TODAY = date(2026, 11, 21)
MINI = "gpt-4.1-mini-2025-04-14"
OPENAI = load_profile("openai")


def words(count: int) -> str:
    """A text of exactly ``count`` tokens in both encodings."""
    return "a" + " a" * (count - 1)


def counted(model: str, content: list[int]) -> TokenStats:
    """The figures of rows of three messages that hold so many tokens in all."""
    counter = HostedCounter(model, OPENAI.context(model))
    for total in content:
        parts = zip(("system", "user", "assistant"), (7, 1, total - 8), strict=True)
        counter.add({"messages": [{"role": role, "content": words(n)} for role, n in parts]})
    return counter.stats()


def quote(tokens: TokenStats, *, today: date = TODAY, **options: Any) -> Estimate:
    """An estimate on api.openai.com."""
    return estimate_hosted(TrainingSpec.build(**options), tokens, OPENAI, today=today)


@pytest.mark.parametrize(
    ("model", "content", "epochs", "trained_tokens"),
    [
        # Smit6/Sheldon-AI-Assistant @7bb9f7d: 138,422 tokens of content in 1,000 rows.
        ("gpt-3.5-turbo", [139] * 422 + [138] * 578, 3, 454_266),
        # Alforton97/photoswitch-inverse-design-llm @f47cd34: 20,789 + 7 per row in 405 rows.
        ("gpt-4o-mini-2024-07-18", [59] * 134 + [58] * 271, 5, 144_445),
        ("gpt-4o-mini-2024-07-18", [59] * 134 + [58] * 271, 3, 86_667),
    ],
)
def test_published_bills_are_reproduced(
    model: str, content: list[int], epochs: int, trained_tokens: int
) -> None:
    """Rows of the published sizes give the trained_tokens that OpenAI billed."""
    estimate = quote(counted(model, content), model=model, n_epochs=epochs)
    assert estimate.billed_tokens is not None
    assert estimate.billed_tokens.expected == trained_tokens
    assert estimate.billed_tokens.low == trained_tokens
    assert estimate.billed_tokens.high == trained_tokens + 2 * len(content) * epochs


# openai-cookbook, Chat_finetuning_data_prep, its toy file: the lengths of the five rows by the
# documented prompt rule, and the bill it works out at 4,096 tokens a row and 20 epochs.
TOY, TOY_EPOCHS, TOY_BILL = [45, 111, 26, 28, 8032], 20, 86_120


def cookbook_bill(counter: HostedCounter) -> tuple[int, int]:
    """The epochs of n_epochs="auto" and, with so many given, the high end of the bill."""
    tokens = counter.stats()
    auto = quote(tokens, model="gpt-3.5-turbo")
    given = quote(tokens, model="gpt-3.5-turbo", n_epochs=auto.n_epochs)
    assert given.billed_tokens is not None
    return auto.n_epochs, given.billed_tokens.high


def test_the_cookbooks_bill_is_the_high_estimate() -> None:
    """Rows of the toy file's lengths, cut at 4,096 tokens: 4,306 a pass, 20 epochs, 86,120."""
    counter = HostedCounter("gpt-3.5-turbo", max_context=4096)
    for total in TOY:
        content = total - 3 * 4 - 3  # three messages: 3 each and the role, 3 for the reply
        parts = zip(("system", "user", "assistant"), (7, 1, content - 8), strict=True)
        row = counter.add({"messages": [{"role": r, "content": words(n)} for r, n in parts]})
        assert row.total == total
    stats = counter.stats()
    assert (stats.billed_high, stats.rows, stats.truncated_rows) == (4306, 5, 1)
    assert cookbook_bill(counter) == (TOY_EPOCHS, TOY_BILL)


@pytest.mark.shared
def test_the_cookbooks_own_file_gives_its_bill(shared: Path) -> None:
    """The same from the file itself, with the mean and the quantiles that are published."""
    path = shared / "data/openai_cookbook_toy_chat/toy_chat_fine_tuning.jsonl"
    counter = HostedCounter("gpt-3.5-turbo", max_context=4096)
    for line in path.read_text("utf-8").splitlines():
        counter.add(json.loads(line))
    stats = counter.stats()
    assert cookbook_bill(counter) == (TOY_EPOCHS, TOY_BILL)
    assert Decimal(stats.total) / stats.rows == Decimal("1648.4")
    lengths = counter.totals().lengths
    assert (lengths.quantile(0.1), lengths.quantile(0.9)) == (round(26.8), round(4863.6))


def test_a_pair_is_charged_for_both_answers() -> None:
    """10 DPO rows of 10 + 5 + 7 tokens in 3 messages: 35 each, 2 epochs at 25 USD a million;
    from the contents alone (22) to the prompt with each answer (54)."""
    counter = HostedCounter("gpt-4.1-2025-04-14")
    for _ in range(10):
        counter.add({"prompt": words(10), "chosen": words(5), "rejected": words(7)})
    estimate = quote(counter.stats(), model="gpt-4.1-2025-04-14", method="dpo", n_epochs=2)
    assert estimate.billed_tokens == Range[int](low=440, expected=700, high=1080)
    assert estimate.cost_usd is not None
    assert estimate.cost_usd.expected == Decimal("0.0175")
    assert estimate.cost_usd.high == Decimal("0.027")
    assert any("answer pairs" in said for said in estimate.assumptions)


def test_a_row_beyond_the_context_costs_what_the_context_holds() -> None:
    """One row of 70,000 tokens is billed as 65,536: 0.32768 USD at 5 USD a million."""
    tokens = counted(MINI, [70_000])
    estimate = quote(tokens, model=MINI, n_epochs=1)
    assert estimate.billed_tokens == Range[int](low=65_536, expected=65_536, high=65_536)
    assert estimate.cost_usd is not None
    assert estimate.cost_usd.expected == Decimal("0.32768")


def test_validation_tokens_are_told_and_not_charged() -> None:
    """They stand beside the bill: free by the page of the host, or not known to be."""
    plain = quote(counted(MINI, [100] * 10), model=MINI, n_epochs=1)
    for name, free in (("azure", True), ("openai", False), ("nebius", False), ("custom", False)):
        both = with_validation(plain, counted(MINI, [50] * 3), load_profile(name))
        assert (plain.validation_tokens, both.validation_tokens) == (None, 3 * 63)
        assert both.cost_usd == plain.cost_usd
        sourced = [said for said in both.assumptions if "189 validation tokens are not" in said]
        doubts = [said for said in both.unknown if "bills the 189 validation tokens" in said]
        assert (len(sourced), len(doubts)) == ((1, 0) if free else (0, 1)), name
        assert not free or "cost-management" in sourced[0]


def test_cost_is_tokens_times_epochs_times_price() -> None:
    """1,000 rows of 113 billed tokens, 2 epochs, 5 USD per million."""
    estimate = quote(counted(MINI, [100] * 1_000), model=MINI, n_epochs=2)
    assert estimate.cost_usd is not None
    assert estimate.cost_usd.expected == Decimal("1.13")
    assert estimate.n_epochs_rule == "given"
    (price,) = estimate.prices
    assert (price.usd, price.unit) == (Decimal("5.00"), "train_mtok")
    assert price.source.startswith("https://")


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(0, 3), (1, 25), (4, 25), (10, 10), (33, 3), (34, 3), (8_333, 3), (8_334, 2), (99_999, 1)],
)
def test_auto_epochs_follow_the_cookbook(rows: int, epochs: int) -> None:
    """The cookbook's rule; 10 rows gave 10 epochs in a published job."""
    assert auto_epochs(rows) == epochs


def test_auto_epochs_widen_the_range() -> None:
    """With auto the provider decides: one epoch more or less is in the range, and said."""
    estimate = quote(counted(MINI, [100] * 1_000), model=MINI)
    assert estimate.billed_tokens == Range[int](low=226_000, expected=339_000, high=460_000)
    assert "the provider decides" in estimate.n_epochs_rule


def test_the_whole_table_is_there() -> None:
    """Every model of the published table has its training and inference prices."""
    table = {
        "gpt-4.1-2025-04-14": ("25.00", "3.00", "0.75", "12.00"),
        MINI: ("5.00", "0.80", "0.20", "3.20"),
        "gpt-4o-2024-08-06": ("25.00", "3.75", "1.875", "15.00"),
        "gpt-4o-mini-2024-07-18": ("3.00", "0.30", "0.15", "1.20"),
        "gpt-4.1-nano-2025-04-14": ("1.50", "0.20", "0.05", "0.80"),
        "gpt-3.5-turbo": ("8.00", "3.00", None, "6.00"),
        "davinci-002": ("6.00", "12.00", None, "12.00"),
        "babbage-002": ("0.40", "1.60", None, "1.60"),
    }
    for model, (train, *used) in table.items():
        found = [find_price("openai", model, "train_mtok")]
        for unit in ("in_mtok", "cached_in_mtok", "out_mtok"):
            found.append(find_price("openai", f"ft:{model}", unit))
        assert [price and str(price.usd) for price in found] == [train, *used]
    hour = find_price("openai", "o4-mini-2025-04-16", "train_hour")
    assert hour is not None and hour.usd == 100


def test_rows_have_source_and_date_and_are_unique() -> None:
    """No price without its source and date; no two for the same thing."""
    rows = prices()
    assert len({row.key for row in rows}) == len(rows)
    assert all(
        row.source.startswith("https://") and row.as_of and row.as_of <= TODAY for row in rows
    )


def test_names_are_matched_whole() -> None:
    """A fine-tune's id finds its base's row; a part of a name finds nothing."""
    tuned = find_price("openai", f"ft:{MINI}:org::abc", "out_mtok")
    base = find_price("openai", MINI, "out_mtok")
    assert tuned is not None and base is not None
    assert (tuned.usd, base.usd) == (Decimal("3.20"), Decimal("1.60"))
    train = find_price("openai", f"ft:{MINI}:org::abc", "train_mtok")
    assert train is not None and train.model == MINI
    for name in ("gpt-4.1-mini", "gpt-4.1", "mini", "", "gpt-4.1-mini-2025-04-14x"):
        assert find_price("openai", name, "train_mtok") is None
    assert find_price("azure", MINI, "train_mtok") is None


def test_an_alias_is_priced_as_its_model() -> None:
    """The estimate for a documented alias uses the row of the model it stands for."""
    estimate = quote(counted(MINI, [100] * 10), model="gpt-4.1-mini", n_epochs=1)
    assert estimate.cost_usd is not None
    assert estimate.prices[0].model == MINI


def test_an_unknown_model_has_no_price() -> None:
    """No default price: the cost is unknown, and what to do is said."""
    estimate = quote(counted("gpt-9", [100] * 10), model="gpt-9")
    assert estimate.cost_usd is None
    assert any("no price known; give --train-price or add a row" in x for x in estimate.unknown)
    assert any("approximation" in said for said in estimate.assumptions)


def test_an_approximation_widens_the_range() -> None:
    """When bytes were counted instead of tokens, the range spans the measured errors."""
    tokens = counted("gpt-9", [100] * 10)
    billed = quote(tokens, model="gpt-9", n_epochs=1).billed_tokens
    assert billed is not None
    assert billed.low <= 0.76 * billed.expected
    assert billed.high >= 2.2 * billed.expected


def test_a_given_price_is_used_and_recorded() -> None:
    """A given price is taken and kept as a row that says who gave it; it goes before a row of
    the table, and no complaint about that row is left."""
    tokens = counted(MINI, [100] * 10)
    unknown = quote(tokens, model="gpt-9", n_epochs=1)
    estimate = at_train_price(unknown, Decimal("7"), TODAY)
    assert estimate.cost_usd is not None
    assert estimate.cost_usd.expected == Decimal(1_130 * 7) / 1_000_000
    assert estimate.prices[0].source.startswith("given on the command line")
    assert estimate.prices[0].as_of == TODAY
    assert not any("price known" in said for said in estimate.unknown)
    late = quote(tokens, today=date(2027, 1, 6), model=MINI, n_epochs=1)
    assert any(said.startswith("The price 5.00") for said in late.warnings)
    dearer = at_train_price(late, Decimal("6"), date(2027, 1, 6))
    assert [(price.usd, price.unit) for price in dearer.prices] == [(Decimal(6), "train_mtok")]
    assert not any(said.startswith("The price 5.00") for said in dearer.warnings)
    for wrong in ("-1", "NaN", "Infinity"):
        with pytest.raises(SpecError, match="cannot be"):
            at_train_price(unknown, Decimal(wrong), TODAY)


def test_a_token_price_is_refused_where_tokens_are_not_billed() -> None:
    """Reinforcement is billed by the hour, a local run not at all."""
    hourly = quote(counted(MINI, [9] * 10), model="o4-mini", method="reinforcement")
    local = hourly.model_copy(update={"method": "sft", "billed_tokens": None})
    for estimate in (hourly, local):
        with pytest.raises(SpecError, match="is not billed by tokens"):
            at_train_price(estimate, Decimal(1))


def test_a_user_file_adds_and_replaces_rows(tmp_path: Path) -> None:
    """Rows of the user's file win over the package's; the others stay."""
    own = tmp_path / "prices.toml"
    own.write_text(
        f'[[price]]\nbackend = "openai"\nmodel = "{MINI}"\nusd = {{ train_mtok = 4.5 }}\n'
        'as_of = 2026-11-20\nsource = "our contract"\n'
    )
    price = find_price("openai", MINI, "train_mtok", extra=own)
    assert price is not None
    assert (price.usd, price.source) == (Decimal("4.5"), "our contract")
    assert len(prices(own)) == len(prices())
    assert find_price("openai", MINI, "in_mtok", extra=own) is not None
    assert prices(tmp_path / "none.toml") == prices()


@pytest.mark.parametrize(
    "text",
    [
        "price = 3",
        "[[prices]]\n",
        "not toml",
        '[[price]]\nbackend = "x"\nmodel = "m"\nas_of = 2026-01-01\nsource = "s"\n',
        '[[price]]\nbackend = "x"\nmodel = "m"\nas_of = 2026-01-01\nsource = "s"\n'
        'usd = { train_mtok = "cheap" }\n',
        '[[price]]\nbackend = "x"\nmodel = "m"\nas_of = 2026-01-01\nsource = "s"\n'
        'usd = { train_mtok = "-1" }\n',
        '[[price]]\nbackend = "x"\nmodel = "m"\nas_of = 2026-01-01\nsource = "s"\n'
        'usd = { per_token = "1" }\n',
        '[[price]]\nmodel = "m"\nusd = { train_mtok = "1" }\n',
        "\x00",
    ],
)
def test_a_bad_user_file_is_named(tmp_path: Path, text: str) -> None:
    """A table that cannot be read is an error that names the file and shows a good row."""
    own = tmp_path / "prices.toml"
    own.write_text(text)
    with pytest.raises(SpecError, match="prices.toml is not a price table") as caught:
        prices(own)
    assert "[[price]]" in caught.value.hint


def test_a_folder_in_place_of_the_user_file_is_named(tmp_path: Path) -> None:
    """What cannot be opened is an error in words too."""
    with pytest.raises(StoreError, match="cannot be read: Is a directory"):
        prices(tmp_path)


def test_old_prices_are_warned_of() -> None:
    """After 90 days a price is still used, with a warning of its age."""
    tokens = counted(MINI, [100] * 10)
    price = find_price("openai", MINI, "train_mtok")
    assert price is not None and price.as_of is not None
    for days, warned in ((90, False), (91, True)):
        estimate = quote(tokens, model=MINI, today=price.as_of + timedelta(days=days))
        said = [x for x in estimate.warnings if x.startswith("The price 5.00 USD")]
        assert bool(said) == warned


def test_closing_dates_and_refusals_are_warned_of() -> None:
    """The estimate carries the profile's dates, and says when a job cannot be created."""
    tokens = counted(MINI, [100] * 10)
    assert any("2027-01-14 (in 54 days)" in x for x in quote(tokens, model=MINI).warnings)
    late = quote(tokens, model=MINI, today=date(2027, 1, 7)).warnings
    assert late[0].startswith("This job cannot be created: OpenAI has taken no new fine-tuning")


def test_reinforcement_has_no_token_price() -> None:
    """Reinforcement is billed by the hour: the rate is shown, the cost is unknown."""
    estimate = quote(counted(MINI, [9] * 10), model="o4-mini", method="reinforcement")
    assert estimate.cost_usd is None
    assert [price.unit for price in estimate.prices] == ["train_hour"]
    assert any("billed by the hour" in said for said in estimate.unknown)


def test_azure_has_a_hosting_price_and_no_training_price() -> None:
    """Azure's hosting fee is named, with its source, and left out of the sum."""
    spec = TrainingSpec(model=MINI, n_epochs=1)
    estimate = estimate_hosted(spec, counted(MINI, [99] * 10), load_profile("azure"), today=TODAY)
    assert estimate.cost_usd is None
    assert [price.unit for price in estimate.prices] == ["hosting_hour"]
    assert any("1.70 USD an hour. Standard and Global" in said for said in estimate.assumptions)


def test_truncated_rows_are_warned_of() -> None:
    """Rows beyond the context are billed as cut, and counted in a warning."""
    counter = HostedCounter(MINI, max_context=50)
    counter.add({"messages": [{"role": "assistant", "content": words(100)}]})
    assert any(
        "1 row is longer than the context: 55 tokens" in x
        for x in quote(counter.stats(), model=MINI).warnings
    )


def test_estimates_are_plain_json() -> None:
    """An estimate survives JSON; money is a string, so no digit is lost."""
    estimate = quote(counted(MINI, [100] * 10), model=MINI, n_epochs=1)
    data = estimate.model_dump(mode="json")
    assert data["cost_usd"]["expected"] == "0.00565"
    assert data["host"] == "api.openai.com"
    assert data["data_leaves_machine"] is True
    assert Estimate.model_validate_json(estimate.model_dump_json()) == estimate


def test_ranges_are_ordered() -> None:
    """low <= expected <= high, or it is no range."""
    with pytest.raises(ValidationError, match="does not hold"):
        Range[int](low=2, expected=1, high=3)


def test_prices_cannot_be_changed() -> None:
    """A price row in a job record stays what it was."""
    price = prices()[0]
    assert isinstance(price, Price)
    with pytest.raises(ValidationError):
        price.usd = Decimal(0)
