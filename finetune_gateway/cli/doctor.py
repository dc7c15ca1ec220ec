"""``ftg doctor``: is this machine ready, and what closes when."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer

from finetune_gateway import registry
from finetune_gateway.backends.local import fourbit
from finetune_gateway.backends.local.backend import NO_QLORA, STACK
from finetune_gateway.cli import calibrate as calibration
from finetune_gateway.cli.options import BaseUrl, Json, KeyName, build_backend
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.estimation import local as local_estimation
from finetune_gateway.estimation import price_table, profiles
from finetune_gateway.reports import output
from finetune_gateway.reports.output import apply_style, format_bytes, print_result, wrap_text
from finetune_gateway.settings import clock, config
from finetune_gateway.settings.home import Settings

State = Literal["ok", "warning", "error"]
CORE = ("finetune-gateway", "openai", "huggingface-hub", "pydantic", "tiktoken", "typer")
# SQLite's write-ahead log needs shared memory, which these do not give (sqlite.org/wal.html).
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "lustre", "ceph"})
LITTLE_DISK = 5 << 30  # bytes; a 3B base in 16 bits with its checkpoints takes more


@dataclass(frozen=True)
class Check:
    """One thing looked at; an error is something needed that is broken."""

    name: str
    state: State
    found: str
    fix: str = ""


def doctor(
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Ask this backend too (openai: network).")
    ] = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure how fast this machine trains, and keep it.")
    ] = False,
    json: Json = False,
) -> int:
    """Check this machine: Python, packages, home folder, store, your settings and prices, GPU,
    keys (names only), and the closing dates of hosted services. Ends with 1 when something needed
    is broken.

    Without --backend nothing is asked over the network. --calibrate trains small models for
    about a minute instead; ``ftg estimate`` then knows how long a job takes here.

    Examples:
      ftg doctor
      ftg doctor --backend openai
      ftg doctor --calibrate
      ftg doctor --json
    """
    if calibrate:
        found = calibration.calibrate(Settings.load(), quiet=json)
        if json:
            output.print_json(calibration.document(found))
        else:
            print_result(calibration.screen(found))
        return 0
    home = Settings.load()
    checks = [*_machine(), *_home(home), *_files(home), *_stack(backend), *_keys(), *_dates()]
    if backend is not None:
        checks.append(_backend(backend, base_url, api_key_env))
    broken = any(check.state == "error" for check in checks)
    if json:
        output.print_json({"ok": not broken, "checks": [asdict(check) for check in checks]})
    else:
        print_result("\n".join(map(_line, checks)))
        print_result("Something needed is broken." if broken else "Ready.")
    return 1 if broken else 0


def _line(check: Check) -> str:
    mark = {"ok": "ok  ", "warning": "note", "error": "FAIL"}[check.state]
    first = f"{mark} {check.name:<10} "
    text = wrap_text(check.found, " " * len(first), first)
    if check.fix:
        text += "\n" + wrap_text(check.fix, " " * (len(first) + 3), f"{' ' * len(first)}-> ")
    return text.replace(mark, apply_style(mark, check.state), 1)


def _machine() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in CORE))
    memory = psutil.virtual_memory()
    ram = f"{format_bytes(memory.total)} of memory, {format_bytes(memory.available)} free"
    yield Check("machine", "ok", f"{local_estimation.cores()} cores, {ram}")
    gpus = gpu_names()
    yield Check("gpu", "ok", "; ".join(gpus) or "none found by nvidia-smi; training uses the CPU")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(missing)"


def gpu_names() -> list[str]:
    """Names and memory of NVIDIA GPUs, as nvidia-smi tells; none when it cannot."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _home(settings: Settings) -> Iterator[Check]:
    home = settings.home
    there = next(path for path in (home, *home.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        fix = "Set FTG_HOME, or pass --home, to a folder you may write to."
        yield Check("home", "error", f"{home} cannot be written", fix)
        return
    made = "" if home.exists() else ", not made yet"
    kind = filesystem(there)
    if kind in NETWORK:
        fix = "Set FTG_HOME to a folder on a local disk."
        yield Check("home", "warning", f"{home} is on a network disk ({kind})", fix)
    else:
        yield Check("home", "ok", f"{home}{made}")
    free = shutil.disk_usage(there).free
    little = "Models and checkpoints may not fit." if free < LITTLE_DISK else ""
    yield Check("disk", "warning" if little else "ok", f"{format_bytes(free)} free", little)
    yield _store(settings.database)


def _files(settings: Settings) -> Iterator[Check]:
    """What a person wrote: a limit that cannot be read stops a submit, a price an estimate."""
    try:
        config.of_file(settings.config)
        values = [config.value(settings, name) for name in config.KEYS]
        told = (f"{one.key.name} = {one.usd:f}" for one in values if one.usd is not None)
        yield Check("config", "ok", ", ".join(told) or "no limits are set")
    except SpecError as exc:
        yield Check("config", "error", exc.message, exc.hint)
    try:
        rows = len(price_table.read_prices(settings.prices))
        yield Check("prices", "ok", f"{rows} row{'' if rows == 1 else 's'} of your own")
    except SpecError as exc:
        fix = f"Mend it in an editor, and look: ftg prices check. {exc.hint}"
        yield Check("prices", "error", exc.message, fix)


def filesystem(path: Path) -> str:
    """The kind of file system a path is on, as the system names it."""
    places = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    resolved = path.resolve()
    return next((places[p] for p in (resolved, *resolved.parents) if p in places), "")


def _store(database: Path) -> Check:
    if not database.exists():
        return Check("store", "ok", "no jobs yet")
    try:
        with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5) as db:
            said = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            jobs = db.execute("SELECT count(*) FROM jobs").fetchone()[0]
        db.close()
    except sqlite3.Error as exc:
        said, jobs = str(exc), 0
    if said != "ok":
        fix = f"Move {database} away, and keep it: jobs may be read from it."
        return Check("store", "error", f"damaged: {said}", fix)
    return Check("store", "ok", f"{jobs:,} job{'' if jobs == 1 else 's'}, integrity ok")


def _stack(backend: str | None) -> Iterator[Check]:
    missing = [name for name in STACK if find_spec(name) is None]
    if not missing:
        found = ", ".join(f"{name} {_version(name)}" for name in (*STACK[:4], fourbit.PACKAGE))
        unused = bool(gpu_names()) and "+cpu" in _version("torch")
        fix = "torch is a build without CUDA: the GPU is not used." if unused else ""
        fix = fix or ("" if fourbit.installed() else NO_QLORA)
        yield Check("training", "warning" if unused else "ok", found, fix)
        return
    state: State = "error" if backend == "local" else "warning"
    fix = "To train on this machine: pip install 'finetune-gateway[local]'"
    yield Check("training", state, f"not installed: {', '.join(missing)}", fix)


def _keys() -> Iterator[Check]:
    names = {profiles.load_profile(name).api_key_env for name in profiles.profile_names()}
    told = (f"{name} {'is set' if os.environ.get(name) else '-'}" for name in sorted(names))
    token = "is set" if os.environ.get("HF_TOKEN") else "-"
    yield Check("keys", "ok", ", ".join([*told, f"HF_TOKEN {token}"]))


def _dates() -> Iterator[Check]:
    today = clock.today()
    for name in profiles.profile_names():
        host = profiles.load_profile(name)
        told = [*_closing(host, today), *_retiring(host, today)]
        old = [life for life in _lives(host) if life.stale(today)]
        if told or (old and name != "custom"):
            source = host.life_cycle(host.models[0].model if host.models else "")
            found = " ".join([f"{host.title}:", *told])
            yield Check(
                name,
                "warning",
                f"{found} (as of {source.as_of}, {source.source})",
                _age(old, today) if old else "",
            )


def _lives(host: profiles.Profile) -> list[profiles.LifeCycle]:
    """All that is known of its dates, with the day it was looked up."""
    return [host.life_cycle(""), *(host.life_cycle(row.model) for row in host.models)]


def _closing(host: profiles.Profile, today: date) -> Iterator[str]:
    """Until when jobs can be created, and by whom."""
    end, last = host.no_new_jobs_from, host.no_new_jobs_after
    open_ = [row for row in host.models if row.trainable(today)]
    earliest = [row.may_close_from for row in open_ if row.may_close_from]
    if end and end <= today:
        yield f"no new jobs since {end}."
        return
    if end:
        left = profiles.in_days(end, today)
        yield f"new jobs until {last}, none from {end} on ({left})."
    elif earliest:
        yield f"training may end from {min(earliest)} on, model by model."
    if only := host.life_cycle("").only_for(today):
        yield f"Only {only} can create jobs."


def _retiring(host: profiles.Profile, today: date) -> Iterator[str]:
    """When bases and fine-tunes go that have not gone yet."""
    bases = {day: who for day, who in _days(host, "base_retires_on").items() if day > today}
    tuned = {day: who for day, who in _days(host, "retires_on").items() if day > today}
    if bases == tuned and len(bases) == 1:
        (day, names), *_ = bases.items()
        yield f"{', '.join(names)} and their fine-tunes retire on {day}."
        return
    if bases:
        yield f"Bases retire from {min(bases)} on."
    if tuned:
        yield f"Fine-tunes stop answering from {min(tuned)} on."
    if bases or tuned:
        yield f"Each: ftg models --backend {host.name}"


def _days(host: profiles.Profile, what: str) -> dict[date, list[str]]:
    """The models by their day."""
    found: dict[date, list[str]] = {}
    for row in host.models:
        if day := getattr(host.life_cycle(row.model), what):
            found.setdefault(day, []).append(row.model)
    return found


def _age(old: list[profiles.LifeCycle], today: date) -> str:
    first = min(old, key=lambda life: life.as_of)
    days = (today - first.as_of).days
    return f"Some of it is of {first.as_of}, {days} days ago; check {first.source}"


def _backend(name: str, base_url: str | None, api_key_env: str | None) -> Check:
    try:
        chosen = build_backend(name, base_url, api_key_env, None)
        found = registry.load(chosen) if isinstance(chosen, str) else chosen
        if name == "openai" or name in registry.HOSTS:
            return _endpoint(name, found)
    except GatewayError as exc:
        return Check(name, "error", exc.message, exc.hint)
    return Check(name, "ok", f"can be loaded ({registry.origin(name)})")


def _endpoint(name: str, backend: object) -> Check:
    """Ask the host for its models: tells whether it answers and takes the key."""
    # Imported here: the SDK takes a second, and only this check needs it.
    from finetune_gateway.backends.openai.backend import OpenAIBackend
    from finetune_gateway.backends.openai.retries import retried

    assert isinstance(backend, OpenAIBackend)
    with backend.calling("list the models") as (client, _):
        names = [model.id for model in retried(client.models.list)]
    tuned = sum(one.startswith("ft:") for one in names)
    found = f"{backend.host} answers and takes the key: {len(names)} models, {tuned} fine-tuned"
    return Check(name, "ok", found)
