"""The seam: every call into a backend passes here, and so does every answer.

Code of others stands behind it. An exception that is not ours becomes a ``BackendError`` that names
the backend, the method and its package; a doubtful one where something may have been bought. What
comes back has the promised type and sane figures, or is such an error too. A call of a plug-in that
hangs is cut off: it goes on in a thread of its own, and its caller gets an error.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial, wraps
from pathlib import Path
from traceback import clear_frames, extract_tb
from typing import Any, TypeVar

from finetune_gateway.backend import answer_texts
from finetune_gateway.backend.answers import CHECKS
from finetune_gateway.backend.rebuilt import Wrong
from finetune_gateway.backend.snapshots import given_cursor
from finetune_gateway.backend.stored_options import require_given
from finetune_gateway.errors import BackendError, GatewayError, raise_alone
from finetune_gateway.text.redaction import redact

# Calls that may have taken effect, and cost money, when they broke.
BUYS = frozenset({"start", "upload", "deploy"})
CALLS = (
    *("capabilities", "options", "identity", "place", "account", "display_name"),
    *("bind", "remember", "resolve", "check_model", "check", "connect", "close"),
    *("counter", "estimate", "preview_renderer", "models", "health"),
    *("upload", "upload_lifetime", "find_upload", "find_uploads", "quote", "start", "find"),
    *("poll", "statuses", "cancel", "pause", "resume", "rewind", "checkpoint"),
    "allow_changed_versions",
    *("deployment_price", "deploy", "end_deployment", "download"),
    *("open", "log_path", "kept_files", "delete_file", "delete_model"),
)
# What our own backends answer by typed code of ours: no host, and nobody else, has a part in it.
COMPUTED = frozenset({"capabilities", "options", "identity", "place", "resolve", "estimate"})
# Calls about one job, or another thing, by the id that the provider gave it: a 404 says that it has
# no such thing for the key at hand.
BY_ID = frozenset({"poll", "cancel", "pause", "resume", "rewind", "checkpoint", "delete_file"})
SCREEN_SECONDS = 5.0  # for one call of a plug-in, on screens that show other things too
CALL_SECONDS = 120.0  # for one elsewhere, if its class does not say
UPLOAD_RATE = 100_000.0  # bytes per second: an upload has more time
UNLIMITED = frozenset({"download"})
MOST_HUNG = 8  # calls of one method of a backend that go on though nobody waits for them
LONGEST_TEXT = 300  # characters of an exception of others in a message

Returned = TypeVar("Returned")

_seconds: ContextVar[float | None] = ContextVar("seconds for a call of a plug-in", default=None)
_running = threading.local()  # .objects: ids of the backends that this thread is in a call of
# Calls that go on, each by its process: a fork has none of their threads. Those that nobody waits
# for with the id of their backend, which they keep alive, and the method; start and deploy by our
# id of the job.
_hung: set[tuple[int, int, str, Future[Any]]] = set()
_running_calls: dict[tuple[int, str, Any], Future[Any]] = {}


def guard_calls(cls: type, contract: type, opened: Callable[[Any, Any], Any]) -> None:
    """Let each call that a class has of its own, or from a class that is no backend, pass here.
    ``opened``: returns what callers get of a model of a plug-in, and its backend."""
    for name in CALLS:
        owner = next(one for one in cls.__mro__ if name in vars(one))
        if owner is cls or not issubclass(owner, contract):
            setattr(cls, name, _guarded(name, vars(owner)[name], opened))


def _guarded(name: str, attribute: Any, opened: Callable[[Any, Any], Any]) -> Any:
    if name == "display_name":
        return property(lambda self: _call(self, name, partial(_get, attribute, self), (), {}))

    @wraps(getattr(attribute, "__func__", attribute))
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = attribute.__get__(self, type(self)) if hasattr(attribute, "__get__") else attribute
        if name == "poll" and not _inside(self):
            return _poll(self, bound, *args, **kwargs)
        if name == "open" and is_plugin(type(self)) and not _inside(self):
            model = _call(self, name, lambda: bound(*args, **kwargs), args, kwargs)
            return opened(model, self)
        return _call(self, name, lambda: bound(*args, **kwargs), args, kwargs)

    return call


def _get(attribute: Any, backend: Any) -> Any:
    """Return what a property gives; a class may have a text or a method in its place."""
    found = (
        attribute.__get__(backend, type(backend)) if hasattr(attribute, "__get__") else attribute
    )
    return found() if callable(found) else found


def _poll(backend: Any, bound: Callable[..., Any], provider_id: str, cursor: str | None) -> Any:
    """Poll from the cursor that the backend has given; ours may count events of it too."""
    given = given_cursor(cursor)
    return _call(backend, "poll", lambda: bound(provider_id, given), (provider_id, cursor), {})


def _call(
    backend: Any, name: str, ask: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return the checked answer of a call. A call that a backend makes of itself is its own
    matter."""
    if _inside(backend):
        return ask()
    keys: set[str] = set()  # that the plug-in has asked for in this call

    def run() -> Any:
        _running.objects = objects = getattr(_running, "objects", frozenset()) | {id(backend)}
        earlier, _running.keys = getattr(_running, "keys", None), keys
        try:
            if backend.restored:
                require_given(backend, name)
            answer = ask()
        finally:
            _running.objects, _running.keys = objects - {id(backend)}, earlier
        answer = _checked(backend, name, answer, args, kwargs)
        if not is_plugin(type(backend)):
            return answer
        if answer_texts.holds_key(name, answer, keys):
            raise refused(backend, name, "returned a key or password, which would be stored")
        return answer_texts.cleaned(name, answer_texts.writable(answer), keys)

    seconds = limit_of(backend, name, args)
    try:
        answer = (
            run() if seconds is None else cut_off(backend, name, seconds, partial(begin, run), args)
        )
    except GatewayError as exc:
        error = readable(backend, name, exc, keys)
        if error is not exc:
            raise_alone(error, in_words(exc, keys))
        _note_absence(backend, exc, name)
        raise
    except Exception as exc:  # whatever a plug-in raises
        error = answer_texts.clean_error(_broken(backend, name, exc), keys)
        raise_alone(error, in_words(exc, keys))
    return answer


def _checked(
    backend: Any, name: str, answer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if inspect.iscoroutine(answer):
        answer.close()
        raise refused(backend, name, "is async: it must return its answer, not a coroutine")
    computed = name in COMPUTED and not is_plugin(type(backend))
    check = None if computed else CHECKS.get(name)
    try:
        return check(answer, backend, args, kwargs) if check else answer
    except GatewayError:
        raise
    except Exception as exc:  # Wrong, or an object of the plug-in's that breaks whoever reads it
        wrong = "" if isinstance(exc, Wrong) else "returned what cannot be read: "
        raise_alone(refused(backend, name, wrong + words_of(exc)))


def _inside(backend: Any) -> bool:
    return id(backend) in getattr(_running, "objects", ())


@contextmanager
def guarding(backend: Any, name: str) -> Iterator[None]:
    """Turn what the objects of a plug-in raise in this block into our errors: those that ``open``
    and ``counter`` return."""
    try:
        yield
    except GatewayError as exc:
        error = readable(backend, name, exc)
        if error is not exc:
            raise_alone(error, in_words(exc))
        raise
    except Exception as exc:  # whatever a plug-in raises
        raise_alone(_broken(backend, name, exc), in_words(exc))


# -- time --------------------------------------------------------------------------------


@contextmanager
def time_limit(seconds: float | None = None) -> Iterator[None]:
    """Give each call of a plug-in so many seconds in this block, by default ``SCREEN_SECONDS``:
    one that hangs is an error."""
    token = _seconds.set(SCREEN_SECONDS if seconds is None else seconds)
    try:
        yield
    finally:
        _seconds.reset(token)


def limit_of(backend: Any, name: str, args: tuple[Any, ...] = ()) -> float | None:
    """Return the seconds that a call may take; None for one of ours, which have time-outs of their
    own, and for one that may take long."""
    if not is_plugin(type(backend)) or name in UNLIMITED:
        return None
    if (screen := _seconds.get()) is not None:
        return screen
    size = getattr(args[0], "bytes", 0) if args and name == "upload" else 0
    given = getattr(type(backend), "call_seconds", None)
    usable = isinstance(given, int | float) and 0 < given < threading.TIMEOUT_MAX
    return (given if usable else CALL_SECONDS) + size / UPLOAD_RATE  # type: ignore[operator]


def running_call(name: str, job_id: str) -> Future[Any] | None:
    """Return a ``start`` or ``deploy`` that has not returned: what it buys may come at any time."""
    call = _running_calls.get((os.getpid(), name, job_id))
    return None if call is None or call.done() else call


def cut_off(
    backend: Any,
    name: str,
    seconds: float,
    made: Callable[[], Future[Returned]],
    args: tuple[Any, ...] = (),
    what: str = "answer",
) -> Returned:
    """Return what the call that ``made`` begins does within so many seconds. Raises TooSlow for
    one that does not return, and at once for one more where many hang."""
    which = (os.getpid(), id(backend), name)
    hung = sum(one[:3] == which for one in _hung.copy())
    if hung >= MOST_HUNG:
        raise TooSlow(f"no {what}: {hung} earlier calls of it still hang")
    call = made()
    if name in ("start", "deploy") and args:
        bought = (os.getpid(), name, getattr(args[0], "job_id", args[0]))
        _running_calls[bought] = call
        call.add_done_callback(lambda ended: _running_calls.pop(bought, None))
    try:
        return _answer(call, seconds, what)
    finally:
        if not call.done():
            _hung.add((*which, call))
            call.add_done_callback(lambda ended: _hung.discard((*which, ended)))


def within_time(what: str, make: Callable[[], Returned], seconds: float | None = None) -> Returned:
    """Return what ``make`` does: of a plug-in that is not there yet its import and constructor.
    ``what``: who that is. Raises BackendError after so many ``seconds`` (by default
    ``SCREEN_SECONDS``), and for what it raises."""
    try:
        found = _within(SCREEN_SECONDS if seconds is None else seconds, make)
    except GatewayError:
        raise
    except Exception as exc:  # whatever a plug-in raises
        did = "gave" if isinstance(exc, TooSlow) else "broke:"
        error = BackendError(
            f"{what} {did} {words_of(exc)}.", hint=f"Report it to its author{_where(exc)}."
        )
        raise_alone(error, in_words(exc))
    return found


class TooSlow(Exception):
    """A call did not return in time."""


class PluginException(Exception):
    """What code of others raised, in words: the exception itself may hold a request, with its
    key."""


class _Ended(Exception):
    """A call wanted to end the process, or its caller."""


def constructing(name: str, make: Callable[[], Returned]) -> Returned:
    """Return what ``make`` does: import and build the plug-in of this name. Raises BackendError
    for one that hangs, as ``within_time``."""
    return within_time(f"Backend {name!r}", make, _seconds.get() or CALL_SECONDS)


def _within(seconds: float, run: Callable[[], Returned]) -> Returned:
    return _answer(begin(run), seconds)


def begin(run: Callable[[], Returned]) -> Future[Returned]:
    """Call a function in a thread that ends with the process."""
    call: Future[Returned] = Future()
    work = partial(copy_context().run, settle, call, run)
    threading.Thread(target=work, daemon=True).start()
    return call


def settle(call: Future[Returned], run: Callable[[], Returned]) -> None:
    """Call a function, and let a future have what comes of it."""
    try:
        call.set_result(run())
    except Exception as exc:  # raised again in the caller's thread
        call.set_exception(exc)
    except BaseException as exc:  # its own: Ctrl-C, and a cancelled task, come to no thread of ours
        did = f"sys.exit({exc.code!r})" if isinstance(exc, SystemExit) else type(exc).__name__
        ended = _Ended(did)
        ended.__cause__ = exc
        call.set_exception(ended)


def _answer(call: Future[Returned], seconds: float, what: str = "answer") -> Returned:
    if not wait([call], seconds).done:
        raise TooSlow(f"no {what} within {seconds:.3g} s")
    return call.result()


# -- keys --------------------------------------------------------------------------------


def note_key(value: str) -> None:
    """Remember until the end of the call that a plug-in was given this key: hosts echo keys, and
    what a plug-in hands on is stored and shown."""
    if (keys := getattr(_running, "keys", None)) is not None:
        keys.add(value)


# -- errors ------------------------------------------------------------------------------


def is_plugin(cls: type) -> bool:
    """Return True for the class of a backend that is not in this package."""
    return not f"{cls.__module__}.".startswith("finetune_gateway.")


def name_of(backend: Any) -> str:
    """Return the name of a backend for a message, whatever it has in place of one."""
    name = getattr(type(backend), "name", None)
    return name if isinstance(name, str) and name.strip() else type(backend).__name__


def _broken(backend: Any, name: str, exc: Exception) -> BackendError:
    """Return our error for one of others."""
    lost = isinstance(exc, ConnectionError | TimeoutError | TooSlow)
    what = "gave" if isinstance(exc, TooSlow) else "broke:"
    return BackendError(
        f"{name}() of backend {name_of(backend)!r} {what} {words_of(exc)}.",
        hint=_hint(backend, name, _where(exc)),
        backend=name_of(backend),
        maybe_applied=name in BUYS,
        retryable=lost,
    )


def refused(backend: Any, name: str, wrong: str) -> BackendError:
    """Return the error for an answer that breaks the contract."""
    return BackendError(
        f"{name}() of backend {name_of(backend)!r} {wrong}.",
        hint=_hint(backend, name),
        backend=name_of(backend),
        maybe_applied=name in BUYS,
    )


def _hint(backend: Any, name: str, where: str = "") -> str:
    package = type(backend).__module__.partition(".")[0]
    return f"Report it to the author of {package}: {type(backend).__name__}.{name}{where}."


def words_of(exc: BaseException) -> str:
    """Return an exception of others in words, in one line, without what looks like a key."""
    if isinstance(exc, TooSlow | _Ended | Wrong):
        return redact(answer_texts.text_of(str(exc)))
    try:
        said = answer_texts.text_of(" ".join(str(exc).split()))
        text = redact(said)[:LONGEST_TEXT].rstrip(".")
    except Exception:  # its own text is broken too
        text = "it cannot be shown"
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def in_words(exc: BaseException, keys: Set[str] = frozenset()) -> PluginException:
    """Return what stands for an exception of others as the cause of ours: its words and its lines,
    without what it holds and leads to, and without these keys."""
    clear_frames(exc.__traceback__)
    words = answer_texts.text_of(words_of(exc), keys)
    return PluginException(words).with_traceback(exc.__traceback__)


def readable(
    backend: Any, name: str, error: GatewayError, keys: Set[str] = frozenset()
) -> GatewayError:
    """Return an error of ours that a plug-in raised with plain texts and numbers, without keys; in
    place of one that cannot be read, one that says so."""
    if not is_plugin(type(backend)):
        return error
    try:
        answer_texts.clean_error(error, keys, in_doubt=name in BUYS)
        _without_requests(error, keys)
    except Exception:  # whatever an object of a plug-in raises
        return answer_texts.clean_error(_broken(backend, name, error), keys)
    return error


def _note_absence(backend: Any, error: GatewayError, name: str) -> None:
    """Let a plug-in's 404, or 410, for what is asked for by its id say that it is not there."""
    if (
        name in BY_ID
        and is_plugin(type(backend))
        and isinstance(error, BackendError)
        and error.status_code in (404, 410)
    ):
        error.not_there = True


def _without_requests(error: GatewayError, keys: Set[str] = frozenset()) -> None:
    """Let an error of ours that a plug-in raised lead to the words of what it came of."""
    came_of = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if not isinstance(came_of, PluginException):
        error.__cause__ = None if came_of is None else in_words(came_of, keys)
    error.__context__ = None


def _where(exc: Exception) -> str:
    """Return the line that raised it: ``, acme.py line 42``."""
    raised = exc.__cause__ if isinstance(exc, TooSlow | _Ended) else exc
    frames = extract_tb(raised.__traceback__) if raised else []
    return f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
