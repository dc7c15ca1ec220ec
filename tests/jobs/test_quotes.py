"""A price that a host names once the files are there: compared with the limit and the budget before
anything is bought, and stored."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.acme import Acme
from support.cli import Ftg
from support.interrupts import press_ctrl_c
from support.plugins import installed

from finetune_gateway import BackendError, BudgetError, Gateway, JobStatus

USD = Decimal("3.50")  # of Acme's quotes; its estimate is 4


def unpriced(backend: Acme) -> Any:
    """The backend without a price in its estimates."""
    honest = type(backend).estimate

    class Unpriced(type(backend)):  # type: ignore[misc]
        def estimate(self, *args: Any, **kwargs: Any) -> Any:
            return honest(self, *args, **kwargs).model_copy(update={"cost_usd": None})

    made = Unpriced()
    made.__dict__.update(backend.__dict__)
    return made


def at(usd: str | None) -> Acme:
    backend = Acme()
    backend.quoted = None if usd is None else Decimal(usd)
    return backend


def test_a_quote_takes_the_place_of_the_estimate(home: Path, train_file: Path) -> None:
    """In the budget while the job goes on, and as its cost when no figure says more."""
    gateway, backend = Gateway(home, monthly_usd=10), at("3.50")
    job = gateway.submit(train_file, model="m", backend=backend, max_cost_usd=5)
    assert (job.record.quote_usd, job.record.max_cost_usd) == (USD, Decimal(5))
    assert gateway.budget().reserved_usd == USD
    assert job.to_dict()["quote_usd"] == "3.50"
    assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
    assert job.actual and job.actual.cost_usd == USD
    assert job.actual.basis == "as acme quoted it before it was created"
    assert gateway.budget().spent_usd == USD
    [line] = gateway.costs().jobs
    assert (line.estimated_high_usd, line.actual_usd) == (USD, USD)


def test_a_quote_above_the_limit_buys_nothing(home: Path, train_file: Path) -> None:
    """The job ends with the reason, its share is free again, and a submit with room goes on from
    the files that are there."""
    gateway, backend = Gateway(home, monthly_usd=5), at("4.501")
    with pytest.raises(BudgetError, match=r"acme quotes 4\.501 USD .* limit of 4\.50") as error:
        gateway.submit(train_file, model="m", backend=backend, max_cost_usd="4.50")
    [job] = gateway.jobs()
    assert job.status is JobStatus.FAILED and "nothing was created" in str(job.error)
    assert "for the next submit" in error.value.hint and gateway.budget().reserved_usd == 0
    assert not backend.market.bought and len(backend.market.files) == 1
    again = gateway.submit(train_file, model="m", backend=backend, max_cost_usd=5)
    assert again.record.quote_usd == Decimal("4.501") and len(backend.market.bought) == 1


def test_a_quote_above_the_budget_buys_nothing(home: Path, train_file: Path) -> None:
    """The month has room for the estimate and not for the quote."""
    gateway, backend = Gateway(home, monthly_usd=4), at("4.20")
    with pytest.raises(BudgetError, match=r"may cost 4\.20 USD, and 4\.00 of the 4\.00"):
        gateway.submit(train_file, model="m", backend=backend)
    assert not backend.market.bought and gateway.budget().reserved_usd == 0
    [job] = gateway.jobs()
    assert job.status is JobStatus.FAILED and "Not created: " in str(job.error)


def test_two_quotes_share_one_budget(home: Path, train_file: Path, tmp_path: Path) -> None:
    """Both jobs have uploaded before either asks: the month has room for one of them alone."""
    both = threading.Barrier(2)

    class Meeting(Acme):
        def quote(self, *args: Any) -> Decimal | None:
            both.wait(30)
            return Decimal(4)

    backend, ended = unpriced(Meeting()), list[str]()

    def submit(model: str) -> None:
        try:
            Gateway(home, monthly_usd=6).submit(train_file, model=model, backend=backend)
            ended.append("sent")
        except BudgetError:
            ended.append("refused")

    threads = [threading.Thread(target=submit, args=(f"m{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ended) == ["refused", "sent"] and len(backend.market.bought) == 1
    assert Gateway(home, monthly_usd=6).budget().reserved_usd == 4


def test_without_a_price_before_the_quote_is_it(home: Path, train_file: Path) -> None:
    """A limit and a budget are compared with the quote, and refuse where there is none."""
    gateway, backend = Gateway(home, monthly_usd=5), unpriced(at("3.50"))
    job = gateway.submit(train_file, model="m", backend=backend, max_cost_usd=4)
    assert job.record.quote_usd == USD and gateway.budget().reserved_usd == USD
    with pytest.raises(BudgetError, match=r"may cost 3\.50 USD, and 1\.50 of the"):
        gateway.submit(train_file, model="other", backend=backend)
    silent = unpriced(at(None))
    with pytest.raises(BudgetError, match=r"names no price for this job, so a limit of 4\.00"):
        gateway.submit(train_file, model="m3", backend=silent, max_cost_usd=4)
    with pytest.raises(BudgetError, match="No price is known for 'm4'"):
        gateway.submit(train_file, model="m4", backend=silent)
    assert not silent.market.bought and len(backend.market.bought) == 1
    assert gateway.budget().reserved_usd == USD


def test_no_quote_leaves_the_estimate(home: Path, train_file: Path) -> None:
    """Of a backend that has none for this job, and of one that has none at all."""
    gateway, backend = Gateway(home, monthly_usd=4), at(None)
    job = gateway.submit(train_file, model="m", backend=backend, max_cost_usd=4)
    assert job.record.quote_usd is None and gateway.budget().reserved_usd == 4
    assert backend.gives_quotes and not gateway.backend("fake").gives_quotes


def test_the_limit_is_kept_for_whoever_goes_on(home: Path, train_file: Path) -> None:
    """The first process dies after the upload: the next one compares the quote with its limit, and
    with that of a later submit."""

    class Dies(Acme):
        alive = False

        def quote(self, *args: Any) -> Decimal | None:
            if not self.alive:
                press_ctrl_c()
            return super().quote(*args)

    backend: Any = Dies()
    backend.quoted = Decimal(6)
    gateway = Gateway(home)
    with pytest.raises(KeyboardInterrupt):
        gateway.submit(train_file, model="m", backend=backend, max_cost_usd=5)
    Dies.alive = True
    [job] = gateway.jobs()
    assert not job.status.final
    ended = gateway._job(job.record, backend).wait(timeout=30)
    assert ended.status is JobStatus.FAILED and "over the limit of 5.00" in str(ended.error)
    Dies.alive = False
    with pytest.raises(KeyboardInterrupt):
        gateway.submit(train_file, model="m", backend=backend, max_cost_usd=5)
    Dies.alive = True
    job = gateway.submit(train_file, model="m", backend=backend, max_cost_usd=7)
    assert job.wait(timeout=30).status is JobStatus.SUCCEEDED and len(backend.market.bought) == 1


@pytest.mark.parametrize(
    "answer", ["3.50", True, Decimal("NaN"), float("inf"), -1, Decimal(10**10), [1]]
)
def test_a_quote_that_is_no_amount_buys_nothing(home: Path, train_file: Path, answer: Any) -> None:
    """The error names the method; the share is free."""

    class Odd(Acme):
        def quote(self, *args: Any) -> Any:
            return answer

    gateway, backend = Gateway(home, monthly_usd=4), Odd()
    with pytest.raises(BackendError, match=r"quote\(\) of backend 'acme' must return an amount"):
        gateway.submit(train_file, model="m", backend=backend)
    assert not backend.market.bought and gateway.budget().reserved_usd == 0


def test_a_quote_that_breaks_buys_nothing(home: Path, train_file: Path) -> None:
    """The job has failed in words, and can be submitted again."""

    class Breaks(Acme):
        def quote(self, *args: Any) -> Any:
            raise KeyError("price")

    gateway, backend = Gateway(home, monthly_usd=4), Breaks()
    with pytest.raises(BackendError, match=r"quote\(\) of backend 'acme' broke: KeyError"):
        gateway.submit(train_file, model="m", backend=backend)
    assert not backend.market.bought and gateway.jobs()[0].status is JobStatus.FAILED
    assert gateway.submit(train_file, model="m", backend=at("1")).wait(timeout=30)


def test_a_host_that_cannot_say_yet_is_asked_again(home: Path, train_file: Path) -> None:
    """It still reads the file: the job waits here, and goes on by itself."""
    asked: list[int] = []

    class Reading(Acme):
        def quote(self, *args: Any) -> Decimal | None:
            asked.append(1)
            if len(asked) < 3:
                raise BackendError("The file is being read.", retryable=True, retry_after=0.01)
            return USD

    gateway, backend = Gateway(home), Reading()
    job = gateway.submit(train_file, model="m", backend=backend, max_cost_usd=4)
    assert job.provider_id is None and not job.status.final
    assert job.wait(timeout=60).status is JobStatus.SUCCEEDED
    assert (len(asked), len(backend.market.bought), len(backend.market.files)) == (3, 1, 1)
    asked.clear()  # the file is known by now: nothing is sent before the quote
    job = gateway.submit(train_file, model="other", backend=backend, max_cost_usd=4)
    assert job.record.waits_here and job.wait(timeout=60).status is JobStatus.SUCCEEDED


def test_a_quote_above_the_estimate_is_noted(home: Path, train_file: Path) -> None:
    """Without a limit it is no reason to end the job."""
    job = Gateway(home).submit(train_file, model="m", backend=at("4.10"))
    assert [event.message for event in job.events()] == [
        "acme quotes 4.10 USD; the estimate was at most 4.00."
    ]


def test_the_command_line_says_it(
    ftg: Ftg, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the question, after the submit, in the status; and exit 4 when it is too dear."""
    installed(tmp_path / "site", "support.acme:Acme")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    words = ("submit", str(train_file), "--model", "m", "--backend", "acme", "--yes")
    low = ftg(*words, "--max-cost", "3", "--again")
    assert low.returncode == 4  # by the estimate
    sent = ftg(*words, "--max-cost", "4")
    text = " ".join(sent.stderr.split())
    assert sent.returncode == 0 and "names its price once the files are there" in text
    assert "acme quotes $3.50 for it." in text
    assert "quote         $3.50" in ftg("status", sent.stdout.strip()).stdout
    document = json.loads(ftg("status", sent.stdout.strip(), "--json").stdout)
    assert (document["quote_usd"], document["max_cost_usd"]) == ("3.50", "4")
