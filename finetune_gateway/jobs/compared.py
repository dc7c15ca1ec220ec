"""The folders of comparisons, and of the answers that are kept for them, for those who count and
remove them; ``evaluation`` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune_gateway.data.row_access import as_list
from finetune_gateway.errors import NotFoundError, SpecError, StoreError
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.deletion import delete, require_no_link
from finetune_gateway.jobs.journal import is_written, writing_alone
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.requests import commit, spent_of
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible

Json = dict[str, Any]

ABOUT = "about.json"  # of kept answers: whose they are
CHARGES = "charges.jsonl"  # and what was reserved for them
DATA = "comparison.json"  # of a comparison: what was found
BEGUN = "begun.json"  # the same while its texts are written: a kill leaves no texts of nobody
ANSWERS, COMPARISON = "answers:", "cmp-"  # begin their names wherever people see them
SHORT = 12  # characters of a fingerprint that people see


def answer_folders(settings: Settings) -> list[Path]:
    """Return the folders of all models whose answers are kept, by name."""
    return sorted(path for path in settings.answers.glob("*") if path.is_dir())


def comparison_folders(settings: Settings) -> list[Path]:
    """Return the folders of all comparisons, by name."""
    return sorted(path for path in settings.comparisons.glob("*") if path.is_dir())


def lock_of(settings: Settings, name: str) -> Path:
    """Return the file that is locked while a process asks a model, by its fingerprint."""
    return settings.locks / f"answers-{name}"


def name_of(folder: Path) -> str:
    """Return the name of a folder as people see it."""
    if folder.name.startswith(COMPARISON):
        return folder.name
    return f"{ANSWERS}{folder.name[:SHORT]}"


def title_of(folder: Path) -> str:
    """Return what is in a folder, in words."""
    if folder.name.startswith(COMPARISON):
        titles = [str(one.get("title") or one.get("model")) for one in _models_in(folder)]
        return visible(f"comparison of {', '.join(titles) or 'models'}")
    models = [str(one.get("model")) for one in _models_in(folder)]
    return visible(f"answers of {', '.join(models) or 'a model'}")


# -- which of them -------------------------------------------------------------------------------


def find(settings: Settings, name: str) -> list[Path]:
    """Return the folders that a name means: a comparison by its id; kept answers by the beginning
    of their fingerprint, or by the name of the model. Raises NotFoundError, SpecError for the
    beginning of several fingerprints."""
    if name.startswith(COMPARISON):
        every = comparison_folders(settings)
        found = [one for one in every if one.name == name]
    else:
        every, wanted = answer_folders(settings), name.removeprefix(ANSWERS)
        found = [one for one in every if wanted and one.name.startswith(wanted)]
        if len(found) > 1:
            raise SpecError(
                f"More than one fingerprint begins with {wanted!r}.",
                hint=f"There are: {', '.join(map(name_of, found))}.",
            )
        found += [one for one in every if any(m.get("model") == wanted for m in _models_in(one))]
    if not found:
        some = ", ".join(map(name_of, every[:5]))
        raise NotFoundError(
            f"There is nothing kept under {name!r}.",
            hint=f"There are: {some}." if some else "Nothing of that kind is kept here.",
        )
    return [*dict.fromkeys(found)]


def of_job(store: Store, record: JobRecord) -> list[Path]:
    """Return the comparisons that a job's model is in, and the answers that are kept of it."""
    settings = store.settings
    names = {point.model for point in store.checkpoints(record.id)}
    names |= {record.result.model} if record.result else set()
    run = f"{settings.runs / (record.provider_id or record.id)}/"
    return [
        folder
        for folder in (*comparison_folders(settings), *answer_folders(settings))
        if any(_is_of(one, record.id, names, run) for one in _models_in(folder))
    ]


def of_nobody(settings: Settings) -> list[Path]:
    """Return the folders with texts of which nobody can tell whose models they are of: what says so
    is damaged, or not there."""
    every = (*comparison_folders(settings), *answer_folders(settings))
    return [one for one in every if _has_lines(one) and not _is_told(one)]


def _has_lines(folder: Path) -> bool:
    return any(path.stat().st_size for path in folder.glob("*.jsonl") if path.is_file())


def _is_told(folder: Path) -> bool:
    """Return True if it is known whose models a folder is of."""
    models = _models_in(folder)
    is_jobs = (isinstance(one.get("jobs", []), list) for one in models)
    return bool(models) and all(isinstance(m.get("model"), str) for m in models) and all(is_jobs)


def _is_of(model: Json, job_id: str, names: set[str], run: str) -> bool:
    """Return True for a model of this job: by its id, by the name of the model, or by the run
    folder in which it lies."""
    name = str(model.get("model"))
    ours = job_id == model.get("job_id") or job_id in as_list(model.get("jobs"))
    return ours or name in names or f"{name}/".startswith(run)


def _models_in(folder: Path) -> list[Json]:
    """Return what is known of the models of a folder; nothing of one that cannot be read."""
    if not folder.name.startswith(COMPARISON):
        return _dicts([_read(folder / ABOUT)])
    every = map(_read, (folder / DATA, folder / BEGUN))
    return [one for read in _dicts(every) for one in _dicts(as_list(read.get("models")))]


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _dicts(values: Iterable[Any]) -> list[Json]:
    return [one for one in values if isinstance(one, dict)]


def old(store: Store, before: float) -> list[Path]:
    """Return the comparisons and kept answers that nothing was written to since, and of which no
    process asks for more."""
    settings = store.settings
    return [
        folder
        for folder in (*comparison_folders(settings), *answer_folders(settings))
        if _touched_at(folder) < before and not is_written(lock_of(settings, folder.name), folder)
    ]


def _touched_at(folder: Path) -> float:
    return max((path.lstat().st_mtime for path in folder.iterdir()), default=0.0)


def remove(store: Store, folder: Path) -> None:
    """Remove a comparison, or the kept answers of a model; what they cost stays in the ledger.
    Raises StoreError, also while a process asks that model."""
    require_no_link(folder)
    lock = lock_of(store.settings, folder.name)
    if folder.name.startswith(COMPARISON):
        delete(folder)
        lock.unlink(missing_ok=True)
        return
    with writing_alone(lock, folder) as ours:
        if not ours:
            raise StoreError(
                f"A process is asking for {title_of(folder)}.", hint="Wait until it has ended."
            )
        try:
            settle(store, folder)
        except StoreError:  # its lines were changed: it goes all the same
            _settle_lost(_open_of(store, folder), store)
        delete(folder)
        lock.unlink(missing_ok=True)


# -- money ---------------------------------------------------------------------------------------


def charges_of(folder: Path) -> Iterator[str]:
    """Yield the ids of all charges that were noted in a folder of answers."""
    with suppress(FileNotFoundError):
        for line in (folder / CHARGES).read_text(encoding="utf-8", errors="replace").splitlines():
            # Half a line, of a kill: it was not committed.
            with suppress(ValueError, TypeError, KeyError):
                yield str(json.loads(line)["charge"])


def is_asked_for(settings: Settings, charge: str) -> bool:
    """Return True while a process asks a model under this charge."""
    return any(
        is_written(lock_of(settings, folder.name), folder) and charge in charges_of(folder)
        for folder in answer_folders(settings)
    )


def settle(store: Store, folder: Path) -> None:
    """Settle the charges of runs that have ended, also by a kill, by the requests that they wrote
    down. For who holds the lock of the folder. Raises StoreError for lines that were changed."""
    for charge in _open_of(store, folder):
        commit(store, charge, spent_of(folder, charge.id))


def _open_of(store: Store, folder: Path) -> list[Charge]:
    """Return the charges of a folder that have not ended."""
    noted = {*charges_of(folder)}
    return [one for one in charges.unsettled(store) if one.id in noted] if noted else []


def settle_lost(store: Store, name: str) -> None:
    """Settle the charges of this name whose requests are in no folder any more: all that was
    reserved counts."""
    noted = {one for folder in answer_folders(store.settings) for one in charges_of(folder)}
    _settle_lost([one for one in charges.unsettled(store, name) if one.id not in noted], store)


def _settle_lost(lost: Sequence[Charge], store: Store) -> None:
    for charge in lost:
        basis = "not known: its requests are gone"
        charges.settle(store, charge.id, charge.reserved_usd, basis)
