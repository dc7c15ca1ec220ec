"""The past of an organisation with two projects, and what is true of each of its fine-tunes.

    with Provider(**TWO_PROJECTS) as provider:
        past = make_past(provider.world)      # 300 that succeeded, and some that did not
        past.deleted, past.hidden, past.lost  # models that are gone, hidden from SIDE; lost files

Files belong to the project of their job, in turn; jobs are listed to both keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from support.provider_memory import BASES, JSON
from support.provider_state import World

SHOP, SIDE = "sk-shop-0123456789", "sk-side-0123456789"
PROJECTS = {SHOP: "main proj_shop", SIDE: "main proj_side"}
ADMIN = "sk-admin-0123456789"
TWO_PROJECTS: dict[str, Any] = {
    "keys": PROJECTS,
    "admin_keys": {ADMIN: "main"},
    "jobs_by_project": False,
}
UNFINISHED = ("failed", "cancelled", "paused", "pausing")


@dataclass
class Past:
    """What was made, as the provider shows it, and what was done to it since."""

    jobs: list[JSON]  # all, oldest first
    deleted: set[str] = field(default_factory=set)  # models
    hidden: set[str] = field(default_factory=set)  # models that the key SIDE does not see
    lost: set[str] = field(default_factory=set)  # files that are there no more
    stored: dict[str, list[str]] = field(default_factory=dict)  # by model: ids of its chats
    owners: dict[str, str] = field(default_factory=dict)  # by job: the key that sees its files

    @property
    def succeeded(self) -> list[JSON]:
        return [job for job in self.jobs if job["status"] == "succeeded"]


def make_past(world: World, count: int = 300, **each: Any) -> Past:
    """Let an organisation have so many fine-tunes, and lose some models and files since."""
    jobs = world.add_fine_tunes(count, accounts=[*PROJECTS.values()], **each)
    past = Past([*jobs])
    for number, job in enumerate(jobs):
        account = world.jobs[job["id"]]["account"]
        past.owners[job["id"]] = next(key for key, one in PROJECTS.items() if one == account)
        model = job["fine_tuned_model"]
        if number % 9 == 3:
            world.deleted.add(model)
            past.deleted.add(model)
        elif number % 7 == 6:
            world.hide(model, PROJECTS[SIDE])
            past.hidden.add(model)
        lost = [job[f"{kind}_file"] for kind in ("training", "validation") if number % 11 == 5]
        lost += job["result_files"] if number % 13 == 9 else []
        past.lost.update(lost)
    for name in past.lost:
        del world.files[name]
    for number, job in enumerate(jobs[:: max(count // 5, 1)]):
        model, account = job["fine_tuned_model"], PROJECTS[past.owners[job["id"]]]
        asked = [{"role": "user", "content": f"A question of production, {number}"}]
        kept = [world.add_stored(model, asked, account=account, days_ago=day) for day in (9, 2)]
        past.stored[model] = [one["id"] for one in kept]
        world.add_usage(model, days_ago=5 + number, requests=10 + number, account=account)
    account = PROJECTS[SHOP]
    for number, status in enumerate(UNFINISHED):
        base, days = BASES[number], float(number + 1)
        job = world.add_fine_tune(base=base, status=status, account=account, days_ago=days)
        past.owners[job["id"]] = SHOP
        past.jobs.append(job)
    past.jobs.sort(key=lambda job: int(job["created_at"]))
    return past
