"""What every part of the provider's world stands on: whose request it is, settings, pages, a file.

Settings are attributes of the class that uses them, with a default that changes nothing for who
does not set them: ``World(steps=1)``, ``world.steps = 1`` and ``Provider(steps=1)`` are the same.
"""

from __future__ import annotations

import json
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any

JSON = dict[str, Any]

BASES = (
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini-2025-04-14",
)
MAIN = "main"
# Whose request this is, each in a thread of its own: an organisation, and after a space a project
# where one is named: "main", "main proj_shop".
ACCOUNT = ContextVar("account", default=MAIN)
KEPT = ("files", "jobs", "stored", "batches")  # what outlives the process, besides ``deleted``


class Refused(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = headers or {}


class Memory:
    """Files, jobs, stored completions and batches by their ids, kept in a file if there is one."""

    honours_after: bool = True
    page_size: int | None = None  # the longest page of a list, whatever ``limit`` says
    organisation: str = "test-org"  # the slug in model names and ``owned_by``

    def __init__(self, *, state_file: Path | None = None, **settings: Any) -> None:
        unknown = [name for name in settings if not hasattr(type(self), name)]
        if unknown:
            raise TypeError(f"The provider has no setting {', '.join(unknown)}.")
        for name, value in settings.items():
            setattr(self, name, value)
        self.state_file = state_file
        self.files: dict[str, JSON] = {}
        self.jobs: dict[str, JSON] = {}
        self.stored: dict[str, JSON] = {}  # chat completions
        self.batches: dict[str, JSON] = {}
        self.deleted: set[str] = set()  # models
        self.lock = threading.RLock()
        if state_file and state_file.exists():
            saved = json.loads(state_file.read_text())
            for name in KEPT:
                setattr(self, name, saved.get(name, {}))
            self.deleted = {*saved["deleted"]}

    def save(self) -> None:
        if self.state_file:
            temporary = self.state_file.with_suffix(".tmp")
            kept = {name: getattr(self, name) for name in KEPT}
            temporary.write_text(json.dumps({**kept, "deleted": [*self.deleted]}))
            temporary.replace(self.state_file)

    def page(self, items: list[JSON], query: dict[str, str], default: int) -> JSON:
        limit = int(query.get("limit", default))
        if not 1 <= limit <= 10000:
            raise ValueError(f"limit {limit} is not in 1..10000", "limit")
        limit = min(limit, self.page_size or limit)
        after, start = query.get("after"), 0
        if after and self.honours_after:
            ids = [item["id"] for item in items]
            start = ids.index(after) + 1 if after in ids else len(ids)
        data = items[start : start + limit]
        more = start + limit < len(items) or not self.honours_after
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"object": "list", "data": data, "has_more": more, **ends}


def is_own(thing: JSON) -> bool:
    """Does this file or job belong to the account and project that asks?"""
    return bool(thing.get("account", MAIN) == ACCOUNT.get())


def is_of_organisation(thing: JSON) -> bool:
    """Does this belong to the organisation that asks, whatever the project?"""
    asking, owner = ACCOUNT.get(), str(thing.get("account", MAIN))
    return owner.partition(" ")[0] == asking.partition(" ")[0]
