"""The checks of ``ftg doctor``: is this machine ready, and which hosted services close when."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil

from finetune_gateway import registry
from finetune_gateway.backend import Backend, Health
from finetune_gateway.backend.seam import within_time
from finetune_gateway.backends.local import fourbit, nvidia, spawning
from finetune_gateway.backends.local.backend import NO_QLORA
from finetune_gateway.backends.local.slots import find_slots
from finetune_gateway.backends.local.versions import STACK
from finetune_gateway.errors import GatewayError, SpecError, StoreError
from finetune_gateway.estimation import price_table, profiles
from finetune_gateway.estimation.engine import cores
from finetune_gateway.jobs import charges, compared, deletion, recordings, removal, schema
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.journal import is_written
from finetune_gateway.jobs.pruning import DAY
from finetune_gateway.jobs.store import Store
from finetune_gateway.reports.output import format_bytes, format_count
from finetune_gateway.settings import clock, config, files, network
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.home import Settings, may_write
from finetune_gateway.settings.money import format_usd

State = Literal["ok", "warning", "error"]
CORE = ("finetune-gateway", "openai", "huggingface-hub", "pydantic", "tiktoken", "typer")
# SQLite's write-ahead log needs shared memory, which these do not give (sqlite.org/wal.html).
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "lustre", "ceph"})
PROXY_SECONDS = 3.0  # a proxy is near
LITTLE_DISK = 5 << 30  # bytes; a 3B base in 16 bits with its checkpoints takes more


@dataclass(frozen=True)
class Check:
    """The result of one check; an error means that something required is broken."""

    name: str
    state: State
    found: str
    fix: str = ""


def check_machine(settings: Settings, backend: str | None) -> Iterator[Check]:
    """Yield all checks that ask no host; a proxy that is set is tried.

    Missing training packages are an error if ``backend`` is local, else a warning.
    """
    yield from _check_machine()
    yield from _check_home(settings)
    yield from _check_data(settings)
    yield from _check_files(settings)
    yield from _check_training(backend)
    yield from _check_keys(settings)
    yield from _check_proxies()
    yield from _check_dates()


def _check_machine() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in CORE))
    memory = psutil.virtual_memory()
    ram = f"{format_bytes(memory.total)} of memory, {format_bytes(memory.available)} free"
    yield Check("machine", "ok", f"{cores()} cores, {ram}")
    gpus = gpu_names()
    yield Check("gpu", "ok", "; ".join(gpus) or "none found by nvidia-smi; training uses the CPU")
    yield _check_slots()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(missing)"


def gpu_names() -> list[str]:
    """Return names and memory of NVIDIA GPUs from nvidia-smi; empty if it fails."""
    options = "--query-gpu=name,memory.total", "--format=csv,noheader"  # of nvidia-smi
    answer = nvidia.ask(*options)
    if answer is None or answer.trouble:
        return []
    return [line.strip() for line in answer.text.splitlines() if line.strip()]


def _check_slots() -> Check:
    """Say on which devices jobs of this shell would train, and why others are not used."""
    found = find_slots(os.environ, nvidia.list_devices())
    lines = "; ".join([str(found), *found.unused])
    state: State = "warning" if found.problems else "ok"
    return Check("slots", state, lines, " ".join(found.problems))


def _check_home(settings: Settings) -> Iterator[Check]:
    home = settings.home
    existing = next(path for path in (home, *home.parents) if path.exists())
    if settings.read_only:
        fix = "Its jobs can be listed and shown. To submit, set FTG_HOME to a folder of your own."
        yield Check("home", "warning", f"{home} can be read, but not written", fix)
        yield _check_store(settings)
        return
    for what, fix in settings.misplaced():
        yield Check("home", "error", what, fix)
    if not existing.is_dir():
        return
    if not may_write(existing):
        fix = "Set FTG_HOME or --home to a folder you can write to."
        yield Check("home", "error", f"{home} is not writable", fix)
        return
    missing = "" if home.exists() else ", not created yet"
    kind = filesystem(existing)
    if kind in NETWORK:
        fix = "Set FTG_HOME to a folder on a local disk."
        yield Check("home", "warning", f"{home} is on a network disk ({kind})", fix)
    else:
        yield Check("home", "ok", f"{home}{missing}")
    free = shutil.disk_usage(existing).free
    warning = "Models and checkpoints may not fit." if free < LITTLE_DISK else ""
    yield Check("disk", "warning" if warning else "ok", f"{format_bytes(free)} free", warning)
    yield _check_store(settings)
    yield _check_dispatcher(settings)


def _check_dispatcher(settings: Settings) -> Check:
    """Say whether what starts local jobs lives, and what it has died of."""
    if fault := spawning.fault(settings.locks):
        return Check("dispatcher", "warning", fault, "Any look, such as ftg list, starts it again.")
    lock = settings.locks / spawning.LOCK
    runs = lock.exists() and files.is_locked(lock)
    return Check("dispatcher", "ok", "runs" if runs else "not needed before a local job waits")


def _check_data(settings: Settings) -> Iterator[Check]:
    """Say how many bytes of data are kept, since when, and what should have gone."""
    parts = {
        "copies": [settings.files, settings.spool],
        "encoded rows": [settings.encoded],
        "run folders": [settings.runs],
        "fetched": [settings.fetched],
        "recordings": [settings.recordings],
        "comparisons": [settings.comparisons],
        "answers": [settings.answers],
        "store": [*settings.home.glob(f"{settings.database.name}*")],
    }
    sizes = {name: sum(map(deletion.size, paths)) for name, paths in parts.items()}
    saved = sum(map(deletion.size, settings.runs.glob("*/checkpoints")))
    more = {"run folders": f" ({format_bytes(saved)} of checkpoints)"} if saved else {}
    kept = ", ".join(
        f"{name} {format_bytes(size)}{more.get(name, '')}" for name, size in sizes.items() if size
    )
    if not kept:
        yield Check("data", "ok", "none are kept")
        return
    folders = (
        *(settings.files, settings.encoded, settings.runs, settings.fetched),
        *(settings.recordings, settings.comparisons, settings.answers),
    )
    data = (path for folder in folders for path in folder.rglob("*"))
    oldest = min((path.lstat().st_mtime for path in data if path.is_file()), default=None)
    since = "" if oldest is None else f"; the oldest file is of {date.fromtimestamp(oldest)}"
    found = f"{format_bytes(sum(sizes.values()))} are kept: {kept}{since}"
    fix = "" if settings.read_only else _data_to_remove(settings)
    yield Check("data", "warning" if fix else "ok", found, fix)
    for folder in compared.of_nobody(settings):
        name = compared.name_of(folder)
        what = f"{name} is kept, and whose it is cannot be read there"
        yield Check("answers", "warning", what, f"To remove it: ftg rm {name}")
    yield from _check_charges(settings)


def _check_charges(settings: Settings) -> Iterator[Check]:
    """Name the recordings and comparisons that have reserved money and whose processes have
    ended."""
    if not settings.database.exists():
        return
    try:
        open_ = charges.unsettled(Store(settings))
    except StoreError:  # another check says it
        return
    for one in open_:
        if one.name.startswith(charges.DEPLOYMENT):
            yield _check_deployment(one)
    left = sorted({one.name for one in open_ if one.name and not _is_asked_for(settings, one)})
    if left:
        fix = (
            f"They go on by the same command. To settle what was spent: ftg settle {left[0]}. A "
            "batch is settled when it is collected."
        )
        yield Check("reserved", "warning", f"not settled: {', '.join(left)}", fix)


def _check_deployment(charge: Charge) -> Check:
    """Say of a deployment that it goes on, and what it has cost until now."""
    job, _, name = charge.name.removeprefix(charges.DEPLOYMENT).partition("/")
    cost = f", {format_usd(charge.held_usd)} until now" if charge.prices else ""
    end = f"ftg deploy {job} --delete{f' --name {name}' if name else ''}"
    return Check("deployment", "ok", f"of {job} at {charge.host}{cost}; to end it: {end}")


def _is_asked_for(settings: Settings, charge: Charge) -> bool:
    """Return True while a process spends a charge, or a deployment goes on."""
    if charge.name.startswith(charges.DEPLOYMENT):
        return True
    if charge.name.startswith(recordings.PREFIX):
        name = charge.name.removeprefix(recordings.PREFIX)
        return is_written(recordings.lock_of(settings, name), settings.recordings / name)
    return compared.is_asked_for(settings, charge.id)


def _data_to_remove(settings: Settings) -> str:
    """Return what to run if a removal was interrupted, or data are older than the setting says."""
    if not settings.database.exists():
        return ""
    try:
        store = Store(settings)
        days = config.current_value(settings, "retention.days")
        interrupted = store.select("removed_at IS NOT NULL AND NOT erased", (), limit=1)
        if interrupted:
            return f"A removal was interrupted. To finish it, run: ftg rm {interrupted[0].id}"
        if days.amount is None:
            return ""
        old = removal.overdue(store, time.time() - float(days.amount) * DAY)
    except (StoreError, SpecError):  # other checks say it
        return ""
    if not old:
        return ""
    jobs = format_count(old, "job")
    return f"Data of {jobs} are older than retention.days ({days.text}). Run: ftg prune"


def _check_files(settings: Settings) -> Iterator[Check]:
    """Read the user's own files: a broken limit stops a submit, a broken price an estimate."""
    try:
        config.read_file(settings.config)
        values = [config.current_value(settings, name) for name in config.KEYS]
        limits = (
            f"{one.key.name} = {one.text}"
            for one in values
            if one.text is not None and one.origin != "default"
        )
        yield Check("config", "ok", ", ".join(limits) or "no limits are set")
    except SpecError as exc:
        yield Check("config", "error", exc.message, exc.hint)
    try:
        rows = len(price_table.read_prices(settings.prices))
        yield Check("prices", "ok", f"{format_count(rows, 'row')} of your own")
    except (SpecError, StoreError) as exc:
        fix = f"Fix it in an editor, then run: ftg prices check. {exc.hint}"
        yield Check("prices", "error", exc.message, fix)


def filesystem(path: Path) -> str:
    """Return the type of the file system a path is on, such as ``ext4``."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    resolved = path.resolve()
    return next((mounts[p] for p in (resolved, *resolved.parents) if p in mounts), "")


def _check_store(settings: Settings) -> Check:
    database = settings.database
    if not database.exists():
        return Check("store", "ok", "no jobs yet")
    try:
        with closing(_open_store(settings)) as db:
            verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            jobs = db.execute("SELECT count(*) FROM jobs").fetchone()[0]
    except StoreError as exc:
        return Check("store", "warning", exc.message, exc.hint)
    except sqlite3.Error as exc:
        verdict, jobs = str(exc), 0
    if verdict != "ok":
        fix = f"Move {database} away, but keep it: jobs may be recovered from it."
        return Check("store", "error", f"damaged: {verdict}", fix)
    found = f"{format_count(jobs, 'job')}, integrity ok"
    if database.stat().st_mode & files.OTHERS:  # we close our own, where a disk has modes
        fix = "It is another user's, or its disk has no modes. Choose another FTG_HOME."
        return Check("store", "warning", f"{found}; others can read it", fix)
    return Check("store", "ok", found)


def _open_store(settings: Settings) -> sqlite3.Connection:
    if settings.read_only:
        return schema.connect_read_only(settings.database)
    return sqlite3.connect(f"{settings.database.as_uri()}?mode=ro", uri=True, timeout=5)


def _check_training(backend: str | None) -> Iterator[Check]:
    missing = [name for name in STACK if find_spec(name) is None]
    if not missing:
        versions = ", ".join(f"{name} {_version(name)}" for name in (*STACK[:4], fourbit.PACKAGE))
        unused = bool(gpu_names()) and "+cpu" in _version("torch")
        fix = "This build of torch has no CUDA: the GPU is not used." if unused else ""
        fix = fix or ("" if fourbit.installed() else NO_QLORA)
        yield Check("training", "warning" if unused else "ok", versions, fix)
        return
    state: State = "error" if backend == "local" else "warning"
    fix = "To train on this machine: pip install 'finetune-gateway[local]'"
    yield Check("training", state, f"not installed: {', '.join(missing)}", fix)


def _check_keys(settings: Settings) -> Iterator[Check]:
    names = {profiles.load_profile(name).api_key_env for name in profiles.profile_names()}
    variables = [*sorted(names), "HF_TOKEN"]
    found = [f"{name} is set" for name in variables if os.environ.get(name)]
    missing = [name for name in variables if not os.environ.get(name)]
    without = [f"not set: {', '.join(missing)}"] if missing else []
    yield Check("keys", "ok", "; ".join([*found, *without]))
    try:
        bound = [f"{variable} to {place}" for variable, place in Bindings(settings).kept()]
    except StoreError as exc:
        yield Check("keys go", "error", exc.message)
        return
    if bound:
        fix = "To end that: ftg config unset keys.VARIABLE"
        yield Check("keys go", "ok", f"as given with a job: {', '.join(bound)}", fix)


def _check_proxies() -> Iterator[Check]:
    """Connect to each proxy that is set, and send it nothing."""
    for proxy in sorted(set(network.proxies().values()), key=lambda one: one.variable):
        try:
            _try(proxy)
        except (ImportError, ValueError, OSError) as exc:
            why = proxy.hide(str(exc)).rstrip(".") or type(exc).__name__
            fix = f"Hosts are asked through it. Set {proxy.variable or 'it'} right, or unset it."
            yield Check("proxy", "warning", f"{proxy.shown} cannot be used: {why}", fix)
        else:
            yield Check("proxy", "ok", f"{proxy.shown} takes connections")


def _try(proxy: network.Proxy) -> None:
    if proxy.is_socks and find_spec("socksio") is None:
        raise ImportError("it needs a package: pip install socksio")
    socket.create_connection(proxy.endpoint, timeout=PROXY_SECONDS).close()


def _check_dates() -> Iterator[Check]:
    today = clock.today()
    for name in profiles.profile_names():
        host = profiles.load_profile(name)
        dates = [*_closing_dates(host, today), *_retirement_dates(host, today)]
        stale = [life for life in _life_cycles(host) if life.stale(today)]
        if dates or (stale and name != "custom"):
            source = host.life_cycle(host.models[0].model if host.models else "")
            text = " ".join([f"{host.title}:", *dates])
            as_of = f"(as of {source.as_of}, {source.source})"
            yield Check(name, "warning", f"{text} {as_of}", _age_warning(stale, today))


def _life_cycles(host: profiles.Profile) -> list[profiles.LifeCycle]:
    """Return the dates of a host and of each of its models."""
    return [host.life_cycle(""), *(host.life_cycle(row.model) for row in host.models)]


def _closing_dates(host: profiles.Profile, today: date) -> Iterator[str]:
    """Yield until when jobs can be created, and by whom."""
    end, last = host.no_new_jobs_from, host.no_new_jobs_after
    open_models = [row for row in host.models if row.trainable(today)]
    earliest = [row.may_close_from for row in open_models if row.may_close_from]
    if end and end <= today:
        yield f"no new jobs since {end}."
        return
    if end:
        left = profiles.in_days(end, today)
        yield f"new jobs until {last}, none from {end} ({left})."
    elif earliest:
        yield f"training may end from {min(earliest)}, model by model."
    if only := host.life_cycle("").only_for(today):
        yield f"Only {only} can create jobs."


def _retirement_dates(host: profiles.Profile, today: date) -> Iterator[str]:
    """Yield when base and fine-tuned models retire that have not yet."""
    bases = {
        day: who for day, who in _models_by_day(host, "base_retires_on").items() if day > today
    }
    tuned = {day: who for day, who in _models_by_day(host, "retires_on").items() if day > today}
    if bases == tuned and len(bases) == 1:
        (day, names), *_ = bases.items()
        yield f"{', '.join(names)} and their fine-tuned models retire on {day}."
        return
    if bases:
        yield f"Base models retire from {min(bases)}."
    if tuned:
        yield f"Fine-tuned models retire from {min(tuned)}."
    if bases or tuned:
        yield f"For each model: ftg models --backend {host.name}"


def _models_by_day(host: profiles.Profile, field: str) -> dict[date, list[str]]:
    """Return the models by the day in a field of their dates."""
    days: dict[date, list[str]] = {}
    for row in host.models:
        if day := getattr(host.life_cycle(row.model), field):
            days.setdefault(day, []).append(row.model)
    return days


def _age_warning(stale: list[profiles.LifeCycle], today: date) -> str:
    if not stale:
        return ""
    oldest = min(stale, key=lambda life: life.as_of)
    days = (today - oldest.as_of).days
    return f"Some dates are from {oldest.as_of}, {days} days ago; check {oldest.source}"


def _unasked(backend: Backend) -> Health | None:
    """Return what is wrong with a host that there is nothing to ask of: its key may be missing."""
    backend.connect()
    tells_accounts = type(backend).account is not Backend.account
    if tells_accounts and "keys" in backend.gateway_options and backend.account() is None:
        return Health(ok=False, detail="it finds no key: set the variable that its page names")
    return None


def check_backend(name: str, options: Mapping[str, Any] | None = None) -> Check:
    """Build a backend, and ask it how it is; a plug-in that hangs is cut off."""

    def look() -> Health | None:
        backend = registry.load(name, dict(options) if options else None)
        backend.bind(Settings.load())
        hosted, health = backend.capabilities().hosted, backend.health()
        return _unasked(backend) if hosted and health is None else health

    ours = name in registry.BUILTIN or name in registry.HOSTS
    try:
        health = look() if ours else within_time(f"Backend {name!r}", look)
    except GatewayError as exc:
        return Check(name, "error", exc.message, exc.hint)
    if health is None:
        return Check(name, "ok", f"can be loaded ({registry.origin(name)})")
    took = "" if health.latency_s is None else f" ({health.latency_s:.2f} s)"
    return Check(name, "ok" if health.ok else "error", f"{health.detail}{took}")
