"""Results in a Python session: one line each, a small escaped table, a short completion."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

import finetune_gateway as gateway
from finetune_gateway import Gateway, ModelHandle, NotFoundError, OpenAIBackend
from finetune_gateway.migration.archived import Archive
from finetune_gateway.migration.inventory import Inventory, KeyView
from finetune_gateway.model import Model, deprecated_names
from finetune_gateway.renderers import RENDERERS, Shown, renderer
from finetune_gateway.reports.notebook import View

MINI = "gpt-4.1-mini-2025-04-14"
Rows = Callable[[int], list[dict[str, Any]]]


@pytest.fixture
def results(home: Path, rows: Rows) -> dict[str, Any]:
    """One result of each class."""
    from support.comparisons import comparison  # of modules not there before (tests/trust.py)

    g, data = Gateway(), rows(12)
    job = g.submit(data, model="m", backend="fake")
    handle = job.result()
    (preview,) = g.preview(data, model=MINI, rows=[3])
    return {
        "Advice": g.advise(data, model=MINI),
        "Archive": Archive(jobs=(), folder="f"),
        "Budget": g.budget(),
        "Comparison": comparison(home, rows=8, models=2),
        "Estimate": g.estimate(data, model=MINI, n_epochs=3),
        "Inventory": Inventory(fine_tunes=(), keys=(KeyView(variable="A_KEY", host="h"),), as_of=0),
        "Job": job,
        "Ledger": g.costs(),
        "ModelHandle": handle,
        "Option": g.estimate(data, model=[MINI], n_epochs=3)[0],
        "Plan": g.plan(data, model=MINI, n_epochs=3),
        "Preview": preview,
        "Report": g.validate(data),
        "Sequence": preview.sequences[0],
    }


FIGURES = r"\$[\d.]+( \(\$[\d.]+ to \$[\d.]+\))?, [\d,]+ tokens x 3 epochs"
PAGES = {"Comparison.to_html", "Job.to_html", "Report.to_html"}
# What results are written as, or turned into.
OTHERS = PAGES | {"Job.live", "Job.to_dict", "ModelHandle.box"}
OTHERS |= {f"ModelHandle.{name}" for name in ("card", "client", "export", "pull", "push")}
LINES = {
    "Advice": r"rows\S*: [a-z-]+ \([a-z]+\), rows: [a-z0-9 ]+, place: .+",
    "Archive": r"0 fine-tunes: nothing",
    "Budget": r"2\d{3}-\d\d: \$0\.00 spent, \$0\.00 reserved, no cap",
    "Comparison": r"cmp-3f9a2c1d: support-lora \(builtin/tiny\) answers best.*",
    "Estimate": rf"openai {MINI}: {FIGURES}",
    "Inventory": r"0 fine-tunes, as A_KEY sees them",
    "Job": r"ftg-\w{10} fake succeeded: m",
    "Ledger": r"1 job: \$0\.00 actual, \$0\.00 estimated",
    "ModelHandle": r"fake \S+ from m, ready",
    "Option": rf"openai {MINI}: {FIGURES}",
    "Plan": rf"sft of 12 rows: openai {MINI}: {FIGURES}",
    "Preview": r"line 3: \d+ tokens, \d+ trained, o200k_base",
    "Report": r"(accepted|warned): .* in 12 rows",
    "Sequence": r"\d+ tokens, \d+ trained",
}


def test_each_result_is_one_line(results: dict[str, Any]) -> None:
    """repr and str alike; and in a notebook the line and a table."""
    assert results.keys() == LINES.keys() == RENDERERS.keys() - OTHERS
    for name, result in results.items():
        text = repr(result)
        assert re.fullmatch(rf"{name}\({LINES[name]}\)", text), text
        assert str(result) == text and len(text) < 160
        html = result._repr_html_()
        assert html.strip().startswith("<div") and f"<strong>{name}</strong>" in html


def test_every_renderer_is_there() -> None:
    """Each name of the table imports."""
    assert all(callable(renderer(name)) for name in RENDERERS)


def test_a_subclass_is_shown_as_its_base(results: dict[str, Any]) -> None:
    """A class of somebody else's too."""

    class Mine(gateway.Preview):
        pass

    assert repr(Mine(line=1)).startswith("Preview(line 1: no findings")


def test_values_are_escaped_and_data_stay_out(home: Path, rows: Rows) -> None:
    """Names of models and files are text; personal data and keys are in no line and no table."""
    key = "sk-proj-" + "a1B2c3D4" * 6
    data = rows(12)
    data[2]["messages"][0]["content"] = f"<script>x</script> jo@example.com {key}"
    g = Gateway()
    backend = OpenAIBackend(base_url="http://127.0.0.1:9/v1", api_key=key, profile="custom")
    report = g.validate(data)
    shown = [report, *g.preview(data, model=MINI, rows=[3])]
    shown += [g.estimate(data, model="<b>m</b>", backend=backend)]
    shown += g.estimate(data, model=["<b>m</b>"], backend=backend)
    for result in shown:
        text = repr(result) + result._repr_html_()
        assert key not in text and "jo@example.com" not in text
        assert "<script>" not in result._repr_html_() and "<b>m" not in result._repr_html_()
    assert "&lt;b&gt;m" in shown[2]._repr_html_()
    assert report.warnings and report.warnings[0].code in report._repr_html_()


def test_words_of_hosts_steer_no_session() -> None:
    """A model's name: in the line of a handle, in its table, in the error without a deployment."""
    name = "\x1b[2J\u202e"
    handle = ModelHandle(kind="hosted", model=name, base_model=name, backend="b", deploy=name)
    with pytest.raises(NotFoundError) as caught:
        handle.require_deployed()
    for text in (repr(handle), handle._repr_html_(), str(caught.value), caught.value.hint):
        assert "\\u001b[2J\\u202e" in text and not set(name[0] + name[-1]) & set(text)


def test_a_failed_option_shows_its_error(home: Path, rows: Rows) -> None:
    """And what to do about it."""
    found = gateway.estimate(rows(12), model=["no-such/model"], backend="openai")[0]
    assert isinstance(found.error, NotFoundError)
    assert repr(found).startswith("Option(openai no-such/model: NotFoundError: ")
    assert "what to do" in found._repr_html_()


def test_a_long_table_ends_with_a_count() -> None:
    """Twenty rows are listed."""
    html = View("line", head=("n",), rows=[(str(n),) for n in range(50)]).html("Report")
    assert html.count("<tr><td") == 20 and "... and 30 more" in html


def test_deprecated_methods_do_not_fill_completion(results: dict[str, Any]) -> None:
    """dir() of our models leaves out what pydantic has deprecated, and nothing else."""
    assert {"dict", "json", "copy", "schema", "construct", "parse_obj"} <= deprecated_names()
    for result in results.values():
        names = dir(result)
        assert "_repr_html_" in names
        if isinstance(result, pydantic.BaseModel):
            assert not deprecated_names() & {*names}
            assert {"model_dump", *type(result).model_fields} <= {*names}


def test_every_public_model_is_of_this_kind() -> None:
    """No public pydantic model but has the common base; what is shown has a renderer."""
    public = [getattr(gateway, name) for name in gateway.__all__]
    models = [
        one for one in public if isinstance(one, type) and issubclass(one, pydantic.BaseModel)
    ]
    assert len(models) > 8 and all(issubclass(one, Model) for one in models)
    shown = {one.__name__ for one in public if isinstance(one, type) and issubclass(one, Shown)}
    # A comparison is public in its room, as all of evaluation.
    assert shown | {"Comparison"} == RENDERERS.keys() - OTHERS
