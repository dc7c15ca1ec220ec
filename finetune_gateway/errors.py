"""Every error the gateway raises, and the exit code each gives the command line.

Knows nothing of the rest of the package. Each error says what is wrong in its
message and what to do next in ``hint``.

    GatewayError                          1
      DataError(ValueError)               3    .report      bad rows, with lines and fixes
        PrivateDataError                       .found .host personal data or secrets, not allowed
      SpecError(ValueError)               2                 contradictory or unknown settings
      UnsupportedError                    2    .backend .option
      BudgetError                         4                 over the limit, or not confirmed
      MissingDependency(ImportError)      1    .extra
      NotFoundError(LookupError)        102                 no such job, model, file
      StoreError(OSError)                 1                 disk full, store locked or damaged
      BackendError(RuntimeError)          1    .backend .status_code .code .maybe_applied .retryable
                                               .retry_after .turned_away .request_id
        AuthenticationError               5                 key missing, wrong or not allowed
          UnboundKeyError                    .variable .url .options  a key that was not sent
          MissingScopeError                  .scope         a restricted key lacks a permission
      JobError                                 .job_id
        JobFailed                       100
        JobNotFinished(TimeoutError)    101
        JobCancelled                    103
        JobRemoved(LookupError)         102                 its texts and its model are gone
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any, ClassVar, NoReturn, Protocol


class FindingsReport(Protocol):
    """The part of a ``findings.Report`` that a DataError needs."""

    @property
    def findings(self) -> list[Any]: ...

    @property
    def errors(self) -> list[Any]: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def shown(value: object) -> str:
    """Return a value for a message, in at most 60 characters."""
    try:
        text = str.__str__(repr(value))  # which may be of a class of its own
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    except Exception:  # an object of others that cannot even be shown
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


class GatewayError(Exception):
    """Base of all errors raised by finetune-gateway."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        # The message of a host, or of a plug-in, may have no end of its own.
        end = "." if self.hint and self.message[-1:].isalnum() else ""
        return f"{self.message}{end} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process with all attributes, whatever ``__init__`` takes."""
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[GatewayError], args: tuple[Any, ...]) -> GatewayError:
    """Return an error without its attributes, which pickle and copy set next."""
    error = kind.__new__(kind)
    error.args = args
    return error


class DataError(GatewayError, ValueError):
    """The dataset cannot be used as it is; ``report`` lists lines and fixes, ``command`` shows all
    of them, where that is known."""

    exit_code = 3
    command = ""

    def __init__(
        self, message: str, *, hint: str = "", report: FindingsReport | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class PrivateDataError(DataError):
    """Personal data or secrets would be sent to a host, and this was not allowed.

    ``found``: for each file its findings, with ``kind``, ``lines`` and ``path``. ``host``: where
    they would go.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        report: FindingsReport | None = None,
        found: dict[str, list[Any]] | None = None,
        host: str = "",
    ) -> None:
        super().__init__(message, hint=hint, report=report)
        self.found = found or {}
        self.host = host


class SpecError(GatewayError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""

    exit_code = 2


class UnsupportedError(GatewayError):
    """The chosen backend cannot do this; the message names those that can."""

    exit_code = 2

    def __init__(
        self, message: str, *, hint: str = "", backend: str = "", option: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.backend = backend
        self.option = option


class BudgetError(GatewayError):
    """The estimate is over the limit, or the price was not confirmed."""

    exit_code = 4


class MissingDependency(GatewayError, ImportError):
    """An optional part of the package is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs packages that are not installed.",
            hint=f"Run: pip install 'finetune-gateway{f'[{extra}]' if extra else ''}'",
        )
        self.extra = extra


class NotFoundError(GatewayError, LookupError):
    """There is no such job, model, dataset or backend."""

    exit_code = 102


class StoreError(GatewayError, OSError):
    """The home folder or its database cannot be read or written."""


class BackendError(GatewayError, RuntimeError):
    """A backend refused, failed or could not be reached.

    ``maybe_applied`` is True if the request may have taken effect although no answer
    came back (time-out, reset, 5xx). Such a request is never simply sent again, see
    ``jobs.submission``. ``retry_after``: seconds that the backend asks to wait, where it does.
    ``not_there``: True if the backend says, in the form of its contract, that it has no such job.
    ``param``: the field of the request that it names, where it does. ``request_id``: the backend's
    own id of the request, where it gave one: its support asks for that.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        backend: str = "",
        status_code: int | None = None,
        code: str | None = None,
        maybe_applied: bool = False,
        retryable: bool = False,
        retry_after: float | None = None,
        not_there: bool = False,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.backend = backend
        self.not_there = not_there
        self.param = param
        self.request_id = request_id
        self.status_code = status_code
        self.code = code
        self.maybe_applied = maybe_applied
        self.retryable = retryable
        self.retry_after = retry_after

    @property
    def turned_away(self) -> bool:
        """True if the backend has refused the request for now, and has not applied it."""
        answered = self.status_code is not None or self.retry_after is not None
        return answered and self.retryable and not self.maybe_applied


class AuthenticationError(BackendError):
    """The key is missing, wrong, or not allowed to do this."""

    exit_code = 5


class UnboundKeyError(AuthenticationError):
    """Nothing binds the key in ``variable`` to the address ``url``, or that of a plug-in to where
    its ``options``, of a job or a handle, lead: nothing was sent there."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        backend: str = "",
        variable: str = "",
        url: str = "",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, backend=backend)
        self.variable = variable
        self.url = url
        self.options = options


class MissingScopeError(AuthenticationError):
    """A restricted key lacks a permission: ``scope``, empty where the host does not name it."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        backend: str = "",
        status_code: int | None = None,
        scope: str,
    ) -> None:
        super().__init__(
            message, hint=hint, backend=backend, status_code=status_code, code="missing_scope"
        )
        self.scope = scope


class JobError(GatewayError):
    """A job did not end with a model."""

    def __init__(self, message: str, *, hint: str = "", job_id: str = "") -> None:
        super().__init__(message, hint=hint)
        self.job_id = job_id


class JobFailed(JobError):
    """The job ended as ``failed``; the message carries its reason."""

    exit_code = 100


class JobNotFinished(JobError, TimeoutError):
    """The wait ended before the job did. The job continues."""

    exit_code = 101


class JobCancelled(JobError):
    """The job was cancelled."""

    exit_code = 103


class JobRemoved(JobError, LookupError):
    """The job was removed: only what it cost is kept."""

    exit_code = 102


def raise_alone(error: GatewayError, cause: BaseException | None = None) -> NoReturn:
    """Raise an error that leads to no other, or to this ``cause`` alone: what it came of may hold a
    request, with its key."""
    try:
        raise error from cause
    finally:
        error.__context__ = None


def asked_wait(error: BaseException | None) -> float:
    """Return the seconds that a backend asks to wait with this error; 0 if it does not."""
    return (error.retry_after or 0.0) if isinstance(error, BackendError) else 0.0


def toml_error_text(error: object, text: str) -> str:
    """Return the message of a tomllib error, with the line number where it only says the end."""
    last = len(text.splitlines()) or 1
    return str(error).replace("at end of document", f"at the end, line {last}")


_WANTED = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "bool": "true or false",
    "date": "a date like 2026-11-21",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
}


def validation_error_text(error: Any) -> str:
    """Return the first problem of a pydantic error in our words: ``as_of must be a date like
    2026-11-21, not 'soon'``."""
    first = error.errors(include_url=False)[0]
    name, kind, context = ".".join(map(str, first["loc"])), first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return f"it is not valid JSON ({context['error']})"
    if kind in ("missing", "extra_forbidden"):
        return f"{name} {'is missing' if kind == 'missing' else 'is not known'}"
    if kind == "value_error":
        return f"{name}: {context['error']}" if name else str(context["error"])
    wanted = context.get("expected") or _WANTED.get(kind.partition("_")[0], "another value")
    bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    limits = [f"{words} {context[key]}" for key, words in bounds.items() if key in context]
    return f"{name or 'it'} must be {' and '.join(limits) or wanted}, not {shown(first['input'])}"


# -- keywords that a verb does not have ---------------------------------------------------

# Words of TRL, transformers, peft, Unsloth, Axolotl and OpenAI's SDK -> ours.
OTHER_WORDS = {
    "epochs": "n_epochs",
    "num_epochs": "n_epochs",
    "num_train_epochs": "n_epochs",
    "lr": "learning_rate",
    "lr_multiplier": "learning_rate_multiplier",
    "r": "lora_r",
    "rank": "lora_r",
    "lora_rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_modules": "target_modules",
    "data_path": "data",
    "dataset": "data",
    "file": "data",
    "train_dataset": "data",
    "train_file": "data",
    "training_file": "data",
    "eval_dataset": "validation",
    "eval_file": "validation",
    "validation_data": "validation",
    "validation_dataset": "validation",
    "validation_file": "validation",
    "test_size": "validation_split",
    "val_set_size": "validation_split",
    "base_model": "model",
    "model_id": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "provider": "backend",
    "max_cost": "max_cost_usd",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "sequence_len": "max_length",
    "cutoff_len": "max_length",
    "per_device_train_batch_size": "batch_size",
    "lr_scheduler": "lr_scheduler_type",
    "random_seed": "seed",
    "random_state": "seed",
    "stage": "method",
    "finetuning_type": "training_type",
    "ignore_rules": "ignore",
    "max_norm": "max_grad_norm",
    "optimizer": "optim",
    "pref_loss": "loss_type",
    "pref_beta": "beta",
    "dpo_beta": "beta",
    "resume_from_checkpoint": "continue_from",
    "adapter_name_or_path": "continue_from",
    "callback": "on_progress",
}

_HOST = "It belongs to the backend: backend=OpenAIBackend({}=...), or --{} on the command line."
_OF_A_HOST = ("base_url", "api_key_env", "profile", "azure_training")
_GPU = "It belongs to the backend: backend=LocalBackend({}=...), or --{} on the command line."

# Words that stand for something other than a keyword -> what to write.
OTHER_WAYS = {
    **{name: _HOST.format(name, name.replace("_", "-")) for name in _OF_A_HOST},
    "api_key": "It belongs to the backend: backend=OpenAIBackend(api_key=...), or set the "
    "environment variable OPENAI_API_KEY.",
    "gpu": _GPU.format("gpu", "gpu"),
    "usd_per_gpu_hour": _GPU.format("usd_per_gpu_hour", "usd-per-gpu-hour"),
    "home": "It belongs to the gateway: Gateway(home=...), or the variable FTG_HOME.",
    "output_dir": "The gateway keeps results in its home folder: Gateway(home=...).",
    "load_in_4bit": "Use training_type='qlora'.",
    "use_lora": "Use training_type='lora'.",
    "train_on_inputs": "Use train_on='all', or 'assistant' (the default) for answers alone.",
    "assistant_only_loss": "That is the default; train_on='all' trains every token.",
    "completion_only_loss": "That is the default; train_on='all' trains every token.",
    "integrations": "Metrics stay on this machine: job.metrics(), or ftg metrics JOB --csv.",
    "hyperparameters": "Pass each by its name: n_epochs=3, batch_size=8, ...",
}


def unknown(verb: str, name: str, known: Collection[str]) -> SpecError:
    """Return the error for a keyword that ``verb`` does not have, with what was probably meant."""
    meant = OTHER_WORDS.get(name)
    if meant not in known:
        meant = next(iter(get_close_matches(name, known, 1, 0.7)), None)
    if meant in known:
        hint = f"Did you mean {meant}?"
    elif name in OTHER_WAYS:
        hint = OTHER_WAYS[name]
    else:
        hint = f"It takes: {', '.join(sorted(known)) or 'none'}."
    return SpecError(f"{verb} has no setting {name!r}.", hint=hint)
