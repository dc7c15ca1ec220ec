"""The fine-tunes of a host on the screen and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from finetune_gateway.jobs.ledger import csv_cell
from finetune_gateway.migration.inventory import FineTune, Inventory, KeyView
from finetune_gateway.reports import inventory_view as view
from finetune_gateway.reports.leaving import PAGE
from finetune_gateway.reports.output import apply_style, format_count, wrap_text
from finetune_gateway.text.cleaning import visible


def inventory_text(inventory: Inventory) -> str:
    """Return the fine-tunes, by the day on which they stop, each with all that is known of it."""
    lines = [wrap_text(f"{view.headline(inventory)}."), *view.shortfall_lines(inventory), ""]
    for title, found in view.groups(inventory):
        lines += [apply_style(wrap_text(title), "bold")]
        sources = dict.fromkeys(view.stops_by(one) for one in found)
        lines += [wrap_text(f"By {source}.", "  ") for source in sources if source]
        lines += [""] if any(sources) else []
        for one in found:
            lines += [*_fine_tune(one, inventory.keys), ""]
    return "\n".join(lines).rstrip()


def _fine_tune(one: FineTune, keys: Sequence[KeyView]) -> Iterator[str]:
    yield visible(one.name)
    facts = {
        "model": _joined(*view.model_parts(one)),
        "job": _joined(view.job_text(one), view.seen_by(one, keys)),
        "files": view.files_text(one),
        "trained": _joined(view.training_text(one)),
        "": _joined(view.tokens_text(one), view.cost_text(one), view.billed_text(one)),
    }
    for name, text in facts.items():
        yield wrap_text(text, " " * 10, f"  {name:<8}")


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)


def totals_text(inventory: Inventory, host: str = "") -> str:
    """Return what comes next, and how much was asked. ``host``: the options that name it and its
    keys."""
    requests = format_count(inventory.requests, "request")
    if not inventory.fine_tunes:
        return f"{requests}. A key sees its own project: name those of others with --key-env."
    which = inventory.fine_tunes[0].name if len(inventory.fine_tunes) == 1 else "--all"
    return f"{requests}. Save what can be saved: ftg migrate fetch {visible(which)}{host}; {PAGE}"


# -- CSV ---------------------------------------------------------------------------------------


def inventory_csv(inventory: Inventory) -> str:
    """Return a line per fine-tune. Text that a spreadsheet would run as a formula begins with an
    apostrophe; what is not known is empty."""
    rows = [_row(one) for one in inventory.fine_tunes]
    target = io.StringIO()
    writer = csv.DictWriter(target, list(_row(_EMPTY)), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: csv_cell(_plain(value)) for name, value in row.items()})
    return target.getvalue()


def _plain(value: Any) -> Any:
    return visible(value) if isinstance(value, str) else value


def _row(one: FineTune) -> dict[str, Any]:
    points, cost = one.checkpoints, one.cost
    row: dict[str, Any] = {
        "model": one.model,
        "base_model": one.base_model,
        "shutdown_date": one.shutdown_date,
        "shutdown_from": one.shutdown_from,
        "days_left": one.days_left,
        "model_state": one.model_state,
        "checkpoints": None if points is None else " ".join(point.model for point in points),
        "job_id": one.job_id,
        "job_status": one.job_status,
        "created_at": None if one.created_at is None else view.day_of(one.created_at),
        "method": one.method,
        "hyperparameters": _settings(one),
        "trained_tokens": one.trained_tokens,
        "cost_usd": cost and cost.usd,
        "cost_is_estimated": cost and cost.estimated,
        "billed_usd": one.billed and one.billed.usd,
        "last_used": one.last_used,
    }
    for name, file in (("training", one.training_file), ("validation", one.validation_file)):
        row[f"{name}_file"] = file and file.id
        row[f"{name}_file_state"] = file and file.state
        row[f"{name}_file_bytes"] = file and file.bytes
    row["result_files"] = " ".join(f"{file.id} {file.state}" for file in one.result_files)
    return row | {"keys": " ".join(one.keys), "our_job": one.our_job}


def _settings(one: FineTune) -> str | None:
    if one.hyperparameters is None:
        return None
    return " ".join(f"{name}={value}" for name, value in one.hyperparameters.items())


_EMPTY = FineTune(model=None, base_model=None, job_id=None, host="", profile="", keys=())
