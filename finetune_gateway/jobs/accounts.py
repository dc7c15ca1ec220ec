"""Whose key is at hand: a job is looked for, sent, polled and cancelled by its own account alone.

An account is known by the salted fingerprints of its keys (``Backend.account``); its name is the
first of them. Keys rotate: a new key that can read a job of an account belongs to it. A key of
which the host says for several such jobs that it has none belongs to another account, and decides
nothing about this one. Any other error says nothing, nor does a page with 404 of a server in
between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune_gateway.backend import NOT_SETTLED, Backend, gateway_options
from finetune_gateway.errors import AuthenticationError, BackendError, SpecError
from finetune_gateway.events import Snapshot
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import LIVE, Store
from finetune_gateway.text.cleaning import visible

OTHER_ACCOUNT = "other_account"  # the code of the error for a key of another account
OTHER_JOB = "other_job"  # and for an answer about another job
TRIED = 5  # jobs of an account that a new key is tried on: hosts may lose some


def of(store: Store, backend: Backend) -> str | None:
    """Return the account of the key at hand; None if the backend has no accounts, or no key.

    A new key is tried on a job of each account that is known at the host. A key that can read none
    of them is of a new account.
    """
    key = backend.account()
    known = _known(store, key)
    if key is None or known is not None:
        return known
    certain = True
    for account in _at_host(store, backend, key):
        try:
            reads = _reads(store, backend, account)
        except BackendError:  # says nothing: the key is tried again next time
            reads = None
        if reads:
            _join(store, key, account)
            return account
        certain = certain and reads is False
    if certain:
        _join(store, key, key)
    return key


def equal(store: Store, intent: JobRecord, backend: Backend) -> JobRecord | None:
    """Return the job that an equal submit has made, live or succeeded. Asks no host: None also
    with a key that is new here, whose account nobody knows yet."""
    key = backend.account()
    account = _known(store, key)
    if key is not None and account is None:
        return None
    return store.equal(intent.model_copy(update={"account": account}))


def proven(store: Store, record: JobRecord, backend: Backend) -> bool:
    """Return True if the key at hand is of the job's account, or one of the two is not known; False
    if nothing shows it, because no job of that account is known at the host.

    Raises AuthenticationError for a key of another account, BackendError if it cannot be tried.
    """
    key = backend.account()
    if key is None or not _is_strange(store, key, record):
        return True
    reads = _reads(store, backend, record.account or key, record)
    if reads is False:
        raise _other(record, backend)
    if reads:
        adopt(store, record, backend)
    return bool(reads)


def required(store: Store, record: JobRecord, backend: Backend) -> Callable[[], None]:
    """Return what raises AuthenticationError, or BackendError, unless the key at hand is known to
    be of the account of a job. Each key is tried once."""
    known: set[str | None] = {None}

    def require() -> None:
        key = backend.account()
        if key not in known:
            if not proven(store, record, backend):
                raise not_proven(record, backend)
            known.add(key)

    return require


def require_key_for(store: Store, job_id: str | None, backend: Backend) -> None:
    """Raise AuthenticationError, or BackendError, before a model is asked at the host that has made
    it with a key that is not known to be of its job's account. ``job_id``: of a job that may be
    none of this home."""
    for record in store.select("id = ? AND provider_id IS NOT NULL", (job_id or "",)):
        if record.backend_options.get("base_url") == backend.options().get("base_url"):
            required(store, record, backend)()


def is_own(store: Store, record: JobRecord, backend: Backend) -> bool:
    """Return True if the key at hand is known to be of the account of a job. Asks no host."""
    key = backend.account()
    return key is not None and not _is_strange(store, key, record)


def require_key_of(store: Store, record: JobRecord, backend: Backend) -> None:
    """Raise BackendError unless the key at hand is known to be of the account of a job that is
    about to be sent: with another one it would be bought twice, or for somebody else."""
    key = backend.account()
    if key is not None and _is_strange(store, key, record):
        raise not_proven(record, backend)


@contextmanager
def reading(store: Store, record: JobRecord, backend: Backend) -> Iterator[None]:
    """Wrap a request about a job by its provider's id, which shows whose key is at hand.

    Raises AuthenticationError if it is the key of another account.
    """
    key = backend.account()
    strange = key is not None and _is_strange(store, key, record)
    try:
        yield
    except BackendError as exc:
        if strange and exc.not_there:
            proven(store, record, backend)
        if exc.not_there and not record.status.final:
            raise _missing(record, exc) from exc
        raise
    if strange or record.account is None:
        adopt(store, record, backend)


def poll(record: JobRecord, backend: Backend) -> Snapshot:
    """Ask for a job by its provider's id. Raises BackendError for an answer about another job."""
    snapshot = backend.poll(record.provider_id or "", record.cursor)
    if not is_about(snapshot, record):
        raise BackendError(
            f"{record.host} has {record.provider_id} for another job than {record.id}: for "
            f"{visible(snapshot.job_id or '')}. Nothing of the answer is kept.",
            hint=f"If that is the wrong id, run: ftg settle {record.id} --created ID",
            backend=record.backend,
            status_code=200,
            code=OTHER_JOB,
            retryable=True,
        )
    return snapshot


def is_about(snapshot: Snapshot, record: JobRecord) -> bool:
    """Return False for a job that carries the tag of another one."""
    return snapshot.job_id in (None, record.id)


def adopt(store: Store, record: JobRecord, backend: Backend) -> None:
    """Commit that the key at hand is of the job's account."""
    key = backend.account()
    if key is None:
        return
    if record.account is not None:
        _join(store, key, record.account)
    else:
        store.set_account(record.id, _known(store, key) or key)


def of_intent(
    store: Store,
    intent: JobRecord,
    backend: Backend,
    look: Callable[[JobRecord, Backend], JobRecord],
) -> JobRecord:
    """Return the intent with the account of the key at hand: that of an equal job, live or
    succeeded, if the key, a new one, is of its account. Raises BackendError if it cannot be known.

    ``look``: adopts an unsent job that the host shows.
    """
    account = of(store, backend)
    for twin in _twins(store, intent, account or ""):
        if _is_of(store, twin, backend, look):
            account = twin.account
    return intent.model_copy(update={"account": account})


def _is_of(
    store: Store, twin: JobRecord, backend: Backend, look: Callable[[JobRecord, Backend], JobRecord]
) -> bool:
    try:
        if proven(store, twin, backend):
            return True
    except BackendError as exc:
        if exc.code != OTHER_ACCOUNT:
            raise _not_known(twin, backend, exc) from exc
        return False
    if look(twin, backend).unsent:
        raise not_proven(twin, backend)
    return True


def require_own(record: JobRecord, backend: Backend, provider_id: str) -> None:
    """Raise SpecError if the host shows that it has a job for another one than this, BackendError
    if it does not show it to the key at hand."""
    tag = backend.poll(provider_id, None).job_id
    if tag not in (None, record.id):
        raise SpecError(
            f"{visible(provider_id)} is not {record.id}: {record.host} has it for the job "
            f"{visible(tag)}.",
            hint=f"Look there for one with {record.id} in its metadata.",
        )


def other_provider_ids(store: Store, record: JobRecord) -> frozenset[str]:
    """Return the provider's ids of all other jobs of the same backend, host and account; where no
    account is known, those of all."""
    rows = store.query(
        "SELECT provider_id FROM jobs WHERE backend = ? AND id != ? AND provider_id IS NOT NULL"
        " AND json_extract(backend_options, '$.base_url') IS ? AND coalesce(account = ?, TRUE)",
        (record.backend, record.id, record.backend_options.get("base_url"), record.account),
    )
    return frozenset(row["provider_id"] for row in rows)


def is_contested(store: Store, record: JobRecord) -> bool:
    """Return True if another job without a provider's id may have been created at the same host, on
    the same file and model, in another way: the host may show one of the two."""
    rivals = store.select(
        "backend = ? AND id != ? AND provider_id IS NULL AND sent_at IS NOT NULL AND NOT settled"
        f" AND {LIVE} AND json_extract(backend_options, '$.base_url') IS ?"
        " AND coalesce(account = ?, TRUE) AND json_extract(train, '$.sha256') = ?",
        (
            record.backend,
            record.id,
            record.backend_options.get("base_url"),
            record.account,
            record.train.sha256,
        ),
    )
    return any(
        one.spec.model == record.spec.model and _work(one) != _work(record) for one in rivals
    )


def _work(record: JobRecord) -> object:
    held_out = record.validation
    way = record.backend_options.get("azure_training")
    return record.spec.canonical(), held_out.sha256 if held_out else None, way


def require_only(store: Store, record: JobRecord, account: str | None) -> None:
    """Raise SpecError if the account that an unsent job would get has an equal job, live or
    succeeded."""
    equal = store.select(
        "id != ? AND submit_key = ? AND account = ? AND status NOT IN ('failed', 'cancelled')",
        (record.id, record.submit_key, account),
        limit=1,
    )
    if equal:
        raise SpecError(
            f"{record.id} is not sent: with this key, {equal[0].id} trains the same, and is "
            f"{equal[0].status}.",
            hint=f"Use that one, and end this one: ftg cancel {record.id}",
        )


def _twins(store: Store, intent: JobRecord, account: str) -> list[JobRecord]:
    """Return the jobs of other accounts that are equal to an intent, live or succeeded."""
    return store.select(
        "submit_key IN (?, ?) AND account != ? AND status NOT IN ('failed', 'cancelled')",
        (intent.submit_key, intent.old_submit_key, account),
    )


def not_proven(record: JobRecord, backend: Backend) -> BackendError:
    """Return the error for an unsent job and a key of which nothing shows whose it is."""
    return BackendError(
        f"It cannot be known whether {record.host} has job {record.id}: nothing shows that "
        f"{_key(record, backend)} belongs to the account it was submitted with. Set the key it was "
        f"submitted with.{_scope(record)}",
        hint="If there is none any more, look there yourself, then run: "
        f"ftg settle {record.id} --created ID, or: ftg settle {record.id} --not-created",
        backend=record.backend,
        code=NOT_SETTLED,
        maybe_applied=True,
    )


def _not_known(twin: JobRecord, backend: Backend, exc: BackendError) -> BackendError:
    """Return the error for a key of which the host does not say whether an equal job is its own."""
    return type(exc)(
        f"Nothing was sent: it cannot be known whether {_key(twin, backend)} belongs to the "
        f"account of {twin.id}, which trains the same. {exc.message}",
        hint=f"{exc.hint} To make another job whatever there is: --again.".strip(),
        backend=twin.backend,
        status_code=exc.status_code,
        code=exc.code,
        retryable=exc.retryable,
        retry_after=exc.retry_after,
        request_id=exc.request_id,
    )


def _missing(record: JobRecord, exc: BackendError) -> BackendError:
    return BackendError(
        exc.message,
        hint=f"If it is gone there for good, ftg settle {record.id} --not-created ends it here.",
        backend=record.backend,
        status_code=exc.status_code,
        code=exc.code,
        not_there=True,
        request_id=exc.request_id,
    )


def _other(record: JobRecord, backend: Backend) -> AuthenticationError:
    return AuthenticationError(
        f"T{_key(record, backend)[1:]} belongs to another account of {record.host} than job "
        f"{record.id}. Set a key of the account that it was submitted with.",
        hint=f"The job is left as it is.{_scope(record)}",
        backend=record.backend,
        code=OTHER_ACCOUNT,
    )


def _scope(record: JobRecord) -> str:
    if record.display_name != "openai":
        return ""
    return " OPENAI_ORG_ID and OPENAI_PROJECT_ID have to be as they were, too."


def _key(record: JobRecord, backend: Backend) -> str:
    """Return which key is at hand: by its variable, if the environment is where it is from."""
    if words := getattr(backend, "key_words", ""):
        return str(words)
    if not gateway_options.options_of(backend).ambient:
        return "the key that this Gateway was given"
    variable = record.backend_options.get("api_key_env")
    return f"the key in {variable}" if variable else "the key"


def _known(store: Store, key: str | None) -> str | None:
    row = store.query("SELECT account FROM keys WHERE fingerprint = ?", (key,)).fetchone()
    return row["account"] if row else None


def _is_strange(store: Store, key: str, record: JobRecord) -> bool:
    """Return True if a key is not known to be of the account of a job."""
    return record.account is not None and (_known(store, key) or key) != record.account


def _reads(
    store: Store, backend: Backend, account: str, first: JobRecord | None = None
) -> bool | None:
    """Return True if the key at hand can read one of the last jobs of this account, or the
    ``first``; False if the host says of each that it has none; None if no job of it is known at the
    host. Raises BackendError."""
    sent = "account = ? AND provider_id IS NOT NULL AND NOT gone"
    jobs = {job.id: job for job in store.select(sent, (account,), limit=TRIED)}
    if first and first.provider_id is not None:
        jobs = {first.id: first, **jobs}
    for job in jobs.values():
        if _is_shown(job, backend):
            return True
    return False if jobs else None


def _is_shown(job: JobRecord, backend: Backend) -> bool:
    try:
        poll(job, backend)
    except BackendError as exc:
        if not exc.not_there:
            raise
        return False
    return True


def _at_host(store: Store, backend: Backend, key: str) -> list[str]:
    """Return the accounts other than that of this key which have jobs at the host."""
    rows = store.query(
        "SELECT DISTINCT account FROM jobs WHERE account != ? AND backend = ?"
        " AND json_extract(backend_options, '$.base_url') IS ?",
        (key, backend.name, backend.options().get("base_url")),
    )
    return [row["account"] for row in rows]


def _join(store: Store, key: str, account: str) -> None:
    """Commit that a key, and all that was taken for its account, belongs to an account."""
    before = _known(store, key) or key
    with store.transaction() as db:
        db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (key, account))
        db.execute("UPDATE keys SET account = ? WHERE account = ?", (account, before))
        db.execute("UPDATE OR IGNORE jobs SET account = ? WHERE account = ?", (account, before))
