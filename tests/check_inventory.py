"""Holds an inventory against the provider's own state, field by field, without our reading code.

    ftg migrate list --json > inventory.json
    python -m check_inventory http://127.0.0.1:PORT/v1 inventory.json A_KEY=sk-... B_KEY=sk-...

Everything is derived anew from what the provider stores: which key sees what, what is gone, hidden
or refused. Imports nothing of the package; prices and dates are read from its tables as TOML.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from support.paths import ROOT

JSON = dict[str, Any]

PROFILE = "openai"  # the one that the inventory was taken by
TABLES = ROOT / "finetune_gateway" / "estimation"
WORDS = {"supervised": "sft"}
STATES = {"pausing": "running"}  # a word of ours that comes nearest
FINAL = ("succeeded", "failed", "cancelled")
SCOPES = {
    "jobs": "api.fine_tuning.jobs.read",
    "models": "api.model.read",
    "files": "api.files.read",
}


@cache
def table(name: str) -> JSON:
    return tomllib.loads((TABLES / name).read_text("utf-8"))


class State:
    """What the provider stores, as each of these keys sees it."""

    def __init__(self, stored: JSON, keys: Mapping[str, str], today: date) -> None:
        self.stored = stored
        self.accounts = {name: stored["accounts"][key] for name, key in keys.items()}
        self.lacks = {name: set(stored["lacks"].get(key, ())) for name, key in keys.items()}
        self.today = today
        self.jobs: dict[str, JSON] = {job["id"]: job for job in stored["jobs"]}

    def may(self, key: str, what: str) -> bool:
        return SCOPES[what] not in self.lacks[key]

    def who(self, what: str) -> list[str]:
        return [key for key in self.accounts if self.may(key, what)]

    def owns(self, key: str, job: JSON) -> bool:
        mine, owner = self.accounts[key], job["account"]
        if self.stored["jobs_by_project"]:
            return bool(mine == owner)
        return bool(mine.split()[0] == owner.split()[0])

    def seen_by(self, job: JSON) -> list[str]:
        return [key for key in self.who("jobs") if self.owns(key, job)]

    def lists_model(self, key: str, job: JSON) -> bool:
        name, base = job["fine_tuned_model"], job["model"]
        hidden = set(self.stored["hidden"].get(name, ())) & {"*", self.accounts[key]}
        gone = name in self.stored["deleted"] or {name, base} & {*self.stored["retired"]}
        shown = name is not None and self.owns(key, job) and self.may(key, "models")
        return shown and not (hidden or gone)

    def lists_name(self, key: str, job: JSON, name: str) -> bool:
        """Does a list of models have a checkpoint?"""
        mine = {self.accounts[key], "*"} & set(self.stored["hidden"].get(name, ()))
        shown = self.stored["lists_checkpoints"] and job["status"] == "succeeded" and not mine
        return shown and self.lists_model(key, job) and name not in self.stored["deleted"]

    def counts(self, key: str) -> dict[str, int]:
        """Return how many jobs, models and files the lists of a key have."""
        owned = [job for job in self.jobs.values() if self.owns(key, job)]
        made = [job for job in owned if job["status"] == "succeeded"]
        bases = [name for name in self.stored["bases"] if name not in self.stored["retired"]]
        points = (
            self.lists_name(key, job, name)
            for job in made
            for one in job["points"]
            if (name := one["fine_tuned_model_checkpoint"]) != job["fine_tuned_model"]
        )
        models = len(bases) + sum(self.lists_model(key, job) for job in made) + sum(points)
        files = sum(one["account"] == self.accounts[key] for one in self.stored["files"].values())
        return {"jobs": len(owned), "models": models, "files": files}

    def lists_file(self, key: str, file_id: str) -> bool:
        file = self.stored["files"].get(file_id)
        return bool(file and file["account"] == self.accounts[key] and self.may(key, "files"))


def expected(state: State, job: JSON) -> JSON:
    """Return what the inventory has to say of this job."""
    name = job["fine_tuned_model"]
    stops, whose, source = shutdown(state, job)
    gone_by = (date.fromisoformat(stops) - state.today).days if stops else None
    row: JSON = {
        "model": name,
        "base_model": job["model"],
        "method": WORDS.get(kind(job), kind(job)),
        "job_id": job["id"],
        "created_at": float(job["created_at"]),
        "finished_at": job["finished_at"] and float(job["finished_at"]),
        "raw_status": job["status"],
        "job_status": STATES.get(job["status"], job["status"]),
        "host": state.stored["host"],
        "profile": PROFILE,
        "keys": state.seen_by(job),
        "shutdown_date": stops,
        "shutdown_from": whose,
        "shutdown_source": source,
        "days_left": gone_by,
        "model_state": model_state(state, job, gone_by),
        "training_file": file_of(state, job, job["training_file"]),
        "validation_file": file_of(state, job, job["validation_file"]),
        "result_files": [file_of(state, job, one) for one in job["result_files"]],
        "hyperparameters": hyperparameters(job),
        "suffix": job["user_provided_suffix"],
        "seed": job["seed"],
        "trained_tokens": job["trained_tokens"] or None,
        "cost": cost(job),
        "billed": None,
        "last_used": None,
        "unused_since": None,
    }
    if job["status"] in FINAL:
        points = job["points"]
        row["checkpoints"] = [
            {
                "model": made,
                "step": one["step_number"],
                "state": "there"
                if any(state.lists_name(key, job, made) for key in state.who("models"))
                else "unknown",
            }
            for one in points
            if (made := one["fine_tuned_model_checkpoint"]) != name
        ]
    else:
        row["checkpoints"] = None
    return row


def kind(job: JSON) -> str:
    return str((job["method"] or {}).get("type", "supervised"))


def hyperparameters(job: JSON) -> JSON | None:
    """Those of the method where it has some, those of the job else; a job has one or the other,
    or both alike."""
    inner = (job["method"] or {}).get(kind(job), {}).get("hyperparameters") or {}
    outer = job["hyperparameters"] or {}
    return {**outer, **{k: v for k, v in inner.items() if v != "auto"}} or None


def shutdown(state: State, job: JSON) -> tuple[str | None, str | None, str]:
    """Return the day, whose it is, and who says so: of the model where a key is shown one, else of
    the base."""
    listing = f"the list of models of {state.stored['host']}"
    dates = state.stored["shutdown_dates"]
    listed = any(state.lists_model(key, job) for key in state.accounts)
    own = dates.get(job["fine_tuned_model"])
    if state.stored["dates_fine_tunes"]:
        own = own or dates.get(job["model"])
    if listed and own:
        return own, "model", listing
    listed = job["model"] not in state.stored["retired"]
    if listed and state.who("models") and dates.get(job["model"]):
        return dates[job["model"]], "base", listing
    profile = table("profiles.toml")[PROFILE]
    row: JSON = next((one for one in profile["models"] if one["model"] == job["model"]), {})
    if "retires_on" not in row:
        return None, None, ""
    source, day = ({**profile, **row}[name] for name in ("source", "as_of"))
    return str(row["retires_on"]), "base", f"{source} (as of {day})"


def model_state(state: State, job: JSON, days_left: int | None) -> set[str]:
    """Return the words that are true of the model."""
    if job["fine_tuned_model"] is None or not state.who("models"):
        return {"unknown"} if days_left is None or days_left > 0 else {"unknown", "retired"}
    if any(state.lists_model(key, job) for key in state.accounts):
        return {"there"}
    if days_left is not None and days_left <= 0:
        return {"retired"}
    asked = [key for key in state.seen_by(job) if state.may(key, "models")]
    return {"not_visible"} if asked else {"unknown"}


def file_of(state: State, job: JSON, file_id: str | None) -> JSON | None:
    if file_id is None:
        return None
    file = state.stored["files"].get(file_id)
    if any(state.lists_file(key, file_id) for key in state.accounts):
        assert file is not None
        name, size = file["filename"], file["bytes"]
        return {"id": file_id, "state": {"there"}, "name": name, "bytes": size}
    others = {job["training_file"], job["validation_file"], *job["result_files"]} - {file_id}
    known = any(one and state.lists_file(key, one) for key in state.accounts for one in others)
    assert not (known and file and file["account"] == job["account"]), "a file that is there"
    if known:
        words = {"gone"}
    elif any(state.may(key, "files") for key in state.seen_by(job)):
        words = {"not_visible"}
    else:  # those who see the job may not list files
        words = {"refused"}
    return {"id": file_id, "state": words, "name": None, "bytes": None}


def cost(job: JSON) -> JSON | None:
    """Return trained tokens x the price of the base; None where either is not known."""
    if not job["trained_tokens"] or kind(job) == "reinforcement":
        return None
    rows = table("prices.toml")["price"]
    row = next(row for row in rows if row["backend"] == PROFILE and row["model"] == job["model"])
    price, tokens = row["usd"]["train_mtok"], job["trained_tokens"]
    said = f"{tokens:,} trained tokens x {price} USD per million, as of {row['as_of']}, "
    return {
        "usd": Decimal(tokens) * Decimal(price) / 1_000_000,
        "estimated": True,
        "source": said + row["source"],
    }


def spending(state: State, job: JSON, since: str) -> JSON:
    """Return what an admin key is shown of a fine-tune since a day: dollars, and the last day."""
    name, every = job["fine_tuned_model"], state.stored["used"]
    used = [one for one in every if one["model"].split(":ckpt-")[0] == name]
    if not state.stored["names_fine_tunes"]:
        return {}
    if not used:
        return {"unused_since": since if every and name else None}
    price_in, price_out = state.stored["usd_per_million"]
    usd = sum(one["input_tokens"] * price_in + one["output_tokens"] * price_out for one in used)
    last = datetime.fromtimestamp(max(one["day"] for one in used), UTC).date()
    source = f"lines of the bill that name it, since {since}"
    billed = {"usd": Decimal(str(usd)) / 1_000_000, "estimated": False, "source": source}
    return {"billed": billed, "last_used": str(last)}


# -- held against it ---------------------------------------------------------------------------


def complaints(
    inventory: JSON,
    stored: JSON,
    keys: Mapping[str, str],
    today: date,
    *,
    admin: bool = False,
    ours: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yield each field that is not what the provider's state says. ``ours``: jobs of the home, by
    their ids at the provider."""
    state = State(stored, keys, today)
    named = [one for one in inventory["fine_tunes"] if one["job_id"] is not None]
    shown = {one["job_id"]: one for one in named}
    if len(shown) != len(named):
        yield "a job is listed twice"
    visible = {id_: job for id_, job in state.jobs.items() if state.seen_by(job)}
    left_out = {id_ for id_, job in visible.items() if job["status"] in ("failed", "cancelled")}
    since = first_day([visible[id_] for id_ in visible.keys() - left_out], inventory["as_of"])
    if shown.keys() != visible.keys() - left_out:
        yield f"jobs: {shown.keys() ^ (visible.keys() - left_out)}"
    if inventory["without_model"] != len(left_out):
        yield f"without_model is {inventory['without_model']}, not {len(left_out)}"
    for id_ in shown.keys() & visible.keys():
        wanted = {**expected(state, visible[id_]), "our_job": (ours or {}).get(id_)}
        if admin:
            wanted |= spending(state, visible[id_], since)
        if wanted.keys() != shown[id_].keys():
            yield f"{id_}: fields {wanted.keys() ^ shown[id_].keys()}"
        for name, value in wanted.items():
            if not agrees(value, shown[id_][name]):
                yield f"{id_}: {name} is {shown[id_][name]!r}, not {value!r}"
    yield from _without_job(inventory, state)
    yield from _keys(inventory, state, admin=admin)
    yield from _order(inventory)


def _without_job(inventory: JSON, state: State) -> Iterator[str]:
    """Models whose job no key may list: only what the list of models says is known of them."""
    rows = {one["model"]: one for one in inventory["fine_tunes"] if one["job_id"] is None}
    wanted = {
        job["fine_tuned_model"]: job
        for job in state.jobs.values()
        if job["fine_tuned_model"] and not state.seen_by(job)
        if any(state.lists_model(key, job) for key in state.accounts)
    }
    if rows.keys() != wanted.keys():
        yield f"models without a job: {rows.keys() ^ wanted.keys()}"
    for name in rows.keys() & wanted.keys():
        job = wanted[name]
        of_a_job = expected(state, job)
        copied = ("model", "base_model", "host", "profile", "shutdown_date", "shutdown_from")
        known = {field: of_a_job[field] for field in (*copied, "shutdown_source", "days_left")}
        known |= {"model_state": "there", "created_at": float(job["finished_at"])}
        known["keys"] = [key for key in state.accounts if state.lists_model(key, job)]
        for field, given in rows[name].items():
            if field in ("billed", "last_used", "unused_since"):  # told to an admin key alone
                continue
            if (given or None) != known.get(field):
                yield f"{name}: {field} is {given!r}, not {known.get(field)!r}"


def agrees(wanted: Any, given: Any) -> bool:
    """A set is the words that would be true; a Decimal an amount; an object has no other field."""
    if isinstance(wanted, set):
        return isinstance(given, str) and given in wanted
    if isinstance(wanted, Decimal):
        return isinstance(given, str) and abs(Decimal(given) - wanted) < Decimal("1e-9")
    if isinstance(wanted, dict) and isinstance(given, dict):
        fields = wanted.keys() == given.keys()
        return fields and all(agrees(value, given[name]) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(given, list):
        pairs = zip(wanted, given, strict=False)
        return len(wanted) == len(given) and all(agrees(one, other) for one, other in pairs)
    return bool(wanted == given)


def first_day(jobs: list[JSON], now: float) -> str:
    """Return the day from which an admin key was asked: the first job's, a year ago at most."""
    first = min((job["created_at"] for job in jobs), default=now)
    return str(datetime.fromtimestamp(max(first, now - 366 * 86400), UTC).date())


def _keys(inventory: JSON, state: State, *, admin: bool) -> Iterator[str]:
    views = {one["variable"]: one for one in inventory["keys"] if not one["admin"]}
    if views.keys() != state.accounts.keys() or (admin and len(views) == len(inventory["keys"])):
        yield f"keys: {[one['variable'] for one in inventory['keys']]}"
    for one in inventory["keys"]:
        if (one["host"], one["cut"]) != (state.stored["host"], []):
            yield f"{one['variable']}: {one['host']}, {one['cut']}"
    for name in views.keys() & state.accounts.keys():
        view, counts = views[name], state.counts(name)
        refused = {what for what in SCOPES if not state.may(name, what)}
        wanted: JSON = {what: None if what in refused else counts[what] for what in SCOPES}
        wanted |= {"missing_scopes": {SCOPES[what] for what in refused}, "refused": refused}
        for what, value in wanted.items():
            if (set(view[what]) if isinstance(value, set) else view[what]) != value:
                yield f"{name}: {what} is {view[what]}, not {value}"


def _order(inventory: JSON) -> Iterator[str]:
    """What is lost first comes first, what is lost already last."""
    rows = inventory["fine_tunes"]
    lost = [one["model_state"] in ("retired", "deleted") for one in rows]
    if lost != sorted(lost):
        yield "one that is lost already stands before one that is not"
    for group in (False, True):
        days = [
            one["shutdown_date"] or "9999"
            for one, is_lost in zip(rows, lost, strict=True)
            if is_lost is group
        ]
        if days != sorted(days):
            yield f"not in the order of their last days: {days}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("inventory", type=Path)
    parser.add_argument("keys", nargs="+", metavar="VARIABLE=KEY")
    parser.add_argument("--admin", action="store_true")
    given = parser.parse_args()
    address = given.url.removesuffix("/v1") + "/_provider?whole"
    with urllib.request.urlopen(address) as answer:
        stored = json.load(answer)
    inventory = json.loads(given.inventory.read_text("utf-8"))
    today = date.fromisoformat(os.environ.get("FTG_TODAY") or str(date.today()))
    keys = dict(pair.split("=", 1) for pair in given.keys)
    found = [*complaints(inventory, stored, keys, today, admin=given.admin)]
    print(*found or [f"{len(inventory['fine_tunes'])} fine-tunes are as the provider has them"],
          sep="\n")  # fmt: skip
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
