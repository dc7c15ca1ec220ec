"""The fine-tunes of a host on the screen."""

from __future__ import annotations

from finetune_gateway.migration.inventory import Inventory
from finetune_gateway.reports.output import format_count, format_table


def inventory_text(inventory: Inventory) -> str:
    """Return a line per fine-tune."""
    rows = [
        (one.name, one.base_model or "not known", str(one.job_status or "not known"))
        for one in inventory.fine_tunes
    ]
    found = format_count(len(rows), "fine-tune")
    keys = ", ".join(key.variable for key in inventory.keys)
    return f"{found}, as {keys} sees them\n\n{format_table(('model', 'base', 'job'), rows)}"
