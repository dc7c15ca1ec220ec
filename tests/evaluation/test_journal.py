"""Journals: what waits for the disk when one is closed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from finetune_gateway.jobs.journal import Journal, read_lines


def test_a_journal_is_closed_while_lines_wait(tmp_path: Path) -> None:
    """One of several models has ended: its lines are on the disk, and what waits for that ends."""

    async def end() -> None:
        with Journal(tmp_path / "lines.jsonl", gather=0.02) as journal:
            journal.write({"id": "1"})
            waited = journal.flush_soon()
        await asyncio.wait_for(waited, 5)

    asyncio.run(end())
    assert [*read_lines(tmp_path / "lines.jsonl", checked=False)] == [{"id": "1"}]
