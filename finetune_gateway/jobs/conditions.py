"""Conditions in SQL that jobs of the store are selected by, and their values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CREATED_WITHIN = "created_at >= ?1 AND (?2 IS NULL OR created_at < ?2)"
# A damaged row hides no other.
_PROFILE = (
    "CASE WHEN backend = 'openai' AND json_valid(backend_options)"
    " THEN json_extract(backend_options, '$.profile') END"
)


def wanted(
    status: str | None, backend: str | None, metadata: Mapping[str, str] | None
) -> tuple[str, tuple[Any, ...]]:
    """Return the SQL condition for jobs with these, each of which may be left open, and its
    values: as of ``Store.jobs``."""
    where = (
        "(?1 IS NULL OR status = ?1) AND (?2 IS NULL"
        f" OR coalesce({_PROFILE}, backend) = ?2 OR (backend = ?2 AND {_PROFILE} = 'custom'))"
    )
    if not metadata:
        return where, (status, backend)
    has_all = (
        " AND NOT EXISTS (SELECT 1 FROM json_each(?3) AS wanted WHERE NOT EXISTS (SELECT 1 FROM"
        " json_each(iif(json_valid(jobs.metadata), jobs.metadata, '{}')) AS had"
        " WHERE had.key = wanted.key"
        " AND had.value = wanted.value))"
    )
    return where + has_all, (status, backend, json.dumps(dict(metadata)))
