"""Options shared by several commands, and the values they stand for."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_gateway import registry
from finetune_gateway.errors import BackendError, BudgetError, SpecError, StoreError, shown, unknown
from finetune_gateway.reports.output import format_duration, print_message, print_warning
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import TrainingOptions

if TYPE_CHECKING:
    from finetune_gateway.backend import Backend
    from finetune_gateway.backends.openai.backend import OpenAIBackend
    from finetune_gateway.data.dataset import Dataset
    from finetune_gateway.gateway import Gateway
    from finetune_gateway.jobs.job import Job

LISTS = ("target_modules", "modules_to_save")  # settings that may be several names
_MAPPED = re.compile(r'(?:"[^"]*"|[^,"])+')  # a pair of --map, whose column may be quoted

# What cannot be read is refused when it is opened, as in Python: readable=False.
Data = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="JSONL file or URL.", show_default=False, readable=False),
]
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="Id, its beginning, or 'latest'.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone.")]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="sft (default), dpo, orpo, kto, pretrain, reward.", show_default=False
    ),
]
TrainingType = Annotated[
    str | None, typer.Option(metavar="NAME", help="lora (default), qlora or full; local only.")
]
TrainOn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="assistant (default), last_assistant or all; local only."),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Jinja file in place of the model's template; local only."),
]
Epochs = Annotated[str | None, typer.Option(metavar="N", help="1 to 50, or auto (default).")]
Split = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the rows to hold out (0.1 from 50 rows on); 0 trains all.",
    ),
]
ContinueFrom = Annotated[
    str | None,
    typer.Option(metavar="JOB", help="Train on from a job's model: JOB, JOB@STEP, latest; local."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other training setting; repeatable."),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata", metavar="KEY=VALUE", help="Your own notes on the job; repeatable. No secrets."
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="COLUMN=KEY,...",
        help="Read your columns as keys: question=prompt,answer=completion.",
    ),
]
NoRows = Annotated[
    bool, typer.Option("--no-rows", help="With --html: no text of the rows on the page.")
]
Force = Annotated[bool, typer.Option("--force", help="With --html: replace OUT whatever it is.")]
TrainPrice = Annotated[
    str | None,
    typer.Option(metavar="USD", help="Your own price per million training tokens."),
]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="Another host with OpenAI's API.")]
KeyName = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="NAME", help="Environment variable that holds the key."),
]
AllowHttp = Annotated[
    bool, typer.Option("--allow-http", help="Ask that host by http:// (no encryption).")
]
Profile = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="openai, azure, nebius, crusoe, bedrock or custom."),
]
AzureTraining = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where Azure trains: standard (default), global, datazone or developer.",
    ),
]
HostName = Annotated[
    str | None,
    typer.Option("--profile", "--backend", metavar="NAME", help="openai (default), azure, ..."),
]
KeyNames = Annotated[
    list[str] | None,
    typer.Option(
        "--key-env",
        metavar="NAME",
        help="Variable of another key of that host; repeatable. Without --api-key-env, these "
        "alone.",
    ),
]

# Of commands that ask models.
MaxCost = Annotated[
    str | None,
    typer.Option("--max-cost", "--max-cost-usd", metavar="USD", help="Stop before this is passed."),
]
HostKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--key-env", metavar="HOST=NAME", help="Variable with the key of a host; repeatable."
    ),
]
AllowHttpHosts = Annotated[
    bool, typer.Option("--allow-http", help="Ask hosts by http:// (no encryption).")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan, then stop.")]
AllowPii = Annotated[bool, typer.Option("--allow-pii", help="Send personal data that was found.")]
AllowSecrets = Annotated[
    bool, typer.Option("--allow-secrets", help="Send keys and passwords that were found.")
]
MaxTokens = Annotated[int | None, typer.Option(metavar="N", help="Of an answer; 1024 by default.")]
DrawnRows = Annotated[
    int | None, typer.Option(metavar="N", help="At most so many rows, drawn by content.")
]
Checks = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A behaviour guide: ftg check --init.")
]
Code = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Python that --checks may run; repeatable."),
]
AtOnce = Annotated[int, typer.Option(metavar="N", help="Requests on their way to a host at once.")]


def build_backend(name: str, **options: Any) -> str | Backend:
    """Return the name, or a backend built with the options that were given.

    Raises SpecError when the backend takes none of them.
    """
    given = {key: value for key, value in options.items() if value not in (None, False)}
    return registry.load(name, given) if given else name


def key_backends(
    profile: str | None,
    base_url: str | None,
    api_key_env: str | None,
    key_env: list[str] | None,
    allow_http: bool,
) -> list[OpenAIBackend]:
    """Return a backend for each key of one host: those whose variables were named, each once, else
    the host's own.

    Raises SpecError for an address or a variable that cannot be one, NotFoundError for a profile.
    """
    from finetune_gateway.backends.openai.backend import OpenAIBackend  # loads an SDK

    registry.require_openai_contract(profile)
    named = dict.fromkeys([*([api_key_env] if api_key_env else []), *(key_env or [])])
    return [
        OpenAIBackend(
            base_url=base_url, profile=profile, api_key_env=variable, allow_http=allow_http
        )
        for variable in named or (None,)
    ]


def named_backend(name: str | None, model: str, **options: Any) -> str | Backend | None:
    """Return the backend built with the options that were given; None, for the gateway to choose,
    when neither a name nor an option was given. Raises SpecError."""
    if name is None and all(value in (None, False) for value in options.values()):
        return None
    return build_backend(name or registry.default_backend(model), **options)


def models_to_train(
    gateway: Gateway, models: list[str] | None, fields: dict[str, Any]
) -> list[str]:
    """Return the models that are named, else that of the job which ``fields`` continue; its name
    becomes one that stays. Raises SpecError without either."""
    if not models and "continue_from" not in fields:
        raise SpecError(
            "--model MODEL is missing.",
            hint="Like --model builtin/tiny; for others: ftg models. To go on from a job's model: "
            "--continue-from JOB",
        )
    options: Any = fields  # names were checked
    named: list[str | None] = [*models] if models else [None]
    return [gateway.model_to_train(model, options) for model in named]


def parse_settings(settings: list[str] | None, **named: Any) -> dict[str, Any]:
    """Return fields of TrainingSpec: the named ones that were given, then each KEY=VALUE.

    Raises SpecError for one without ``=`` and for an unknown name; the spec checks values.
    """
    fields = {name: value for name, value in named.items() if value is not None}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals:
            raise SpecError(f"--set {setting!r} is not KEY=VALUE.", hint="Like: --set lora_r=8")
        key = key.strip().replace("-", "_")
        if key in fields or key == "model":
            raise SpecError(f"{key!r} is given twice.", hint=f"Drop --set {setting}.")
        if key not in (known := TrainingOptions.__annotations__):
            raise unknown("--set", key, known)
        fields[key] = _parse_value(key, value.strip())
    return fields


def _parse_value(key: str, value: str) -> Any:
    """Return a list or an object if the text is one, else the text: the spec reads numbers
    itself."""
    if value.startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            is_list = value.startswith("[")
            kind = "a list" if is_list else "an object"
            like = '["q_proj"]' if is_list else '{"enable_thinking": false}'
            raise SpecError(
                f"--set {key}: {shown(value)} is not {kind}.", hint=f"Write it like {like}."
            ) from None
    if key in LISTS and "," in value:
        return [name for part in value.split(",") if (name := part.strip())]
    return value


def parse_metadata(pairs: list[str] | None) -> dict[str, str]:
    """Return the KEY=VALUE pairs of ``--metadata``. Raises SpecError for one without ``=`` and for
    a key that is given twice."""
    metadata: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SpecError(
                f"--metadata {shown(pair)} is not KEY=VALUE.", hint="Like: --metadata team=support"
            )
        if key in metadata:
            raise SpecError(f"--metadata {shown(key)} is given twice.", hint="Drop one.")
        metadata[key] = value
    return metadata


def parse_map(given: list[str] | None) -> dict[str, str] | None:
    """Return the columns of ``--map``, by the key that each is read as; None without one. A name
    with a comma stands in quotes. Raises SpecError for what is no COLUMN=KEY."""
    if given is None:
        return None
    columns: dict[str, str] = {}
    for pair in (pair for text in given for pair in _MAPPED.findall(text) if pair.strip()):
        column, equals, key = (part.strip() for part in pair.rpartition("="))
        if len(column) > 1 and column[0] == column[-1] == '"':
            column = column[1:-1]
        if not equals or not column:
            raise SpecError(
                f"--map {shown(pair)} is not COLUMN=KEY.",
                hint="Like: --map question=prompt,answer=completion",
            )
        if column in columns:
            raise SpecError(f"--map names the column {shown(column)} twice.", hint="Drop one.")
        columns[column] = key
    return columns


def with_map(data: Path | None, columns: list[str] | None) -> Path | Dataset | None:
    """Return a file, with its columns read as ``--map`` says. Raises SpecError for a map alone."""
    from finetune_gateway.gateway import Gateway  # imported here: few commands are given a map

    if columns and not data:
        raise SpecError("--map is for the columns of a file.", hint="Name the file too.")
    return Gateway().open(data, parse_map(columns)) if columns and data else data


def open_job(name: str, *, quiet: bool = False) -> Job:
    """Return a job, refreshed; if its backend cannot be asked, as last seen, with a warning."""
    from finetune_gateway.gateway import Gateway  # here: 'ftg validate' needs no jobs

    job = Gateway().job(name)
    refresh_or_warn(job, quiet=quiet)
    return job


def refresh_or_warn(job: Job, *, quiet: bool = False) -> None:
    """Ask the backend once; a failure is a warning, and so is a store that takes no more."""
    try:
        job.refresh()
    except (BackendError, StoreError) as exc:
        hindered = job.store.read_only or type(exc.__cause__).__name__ == "OperationalError"
        if isinstance(exc, StoreError) and not hindered:
            raise
        print_warning(f"{job.id} is shown as last seen: {exc}", quiet=quiet)


def parse_amount(name: str, text: str | None) -> Decimal | None:
    """Return the amount of USD typed for ``--name``; None if not given. Raises SpecError."""
    return None if text is None else parse_usd(text, f"--{name}")


def parse_key_envs(given: list[str] | None) -> dict[str, str]:
    """Return the variables with keys by host. Raises SpecError for what is no HOST=NAME."""
    found = {}
    for one in given or []:
        host, equals, name = one.partition("=")
        if not (host and equals and name):
            raise SpecError(
                "--key-env takes a host and the name of a variable, never a key.",
                hint="Like: --key-env api.example.com=EXAMPLE_KEY",
            )
        found[host] = name
    return found


def parse_number(name: str, text: str | None) -> Decimal | None:
    """Return the number from 0 up typed for ``--name``; None if it was not given. Raises
    SpecError."""
    if text is None:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise SpecError(f"--{name} {text!r} is not a number from 0 up.")
    return number


def confirm(question: str, *, default: bool = False) -> bool:
    """Ask on stderr; True for a yes, ``default`` for an empty line, False for anything else and for
    end of input. Ctrl-C is raised on a line of its own."""
    print(f"{question} {'[Y/n]' if default else '[y/N]'} ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes", *([""] if default else []))
    except (EOFError, KeyboardInterrupt) as exc:
        print_message("")
        if isinstance(exc, KeyboardInterrupt):
            raise
        return False


CONFIRM_PRICE = "Pass --yes, and --max-cost USD to set a limit."


def require_yes(question: str, undone: str, *, of: str = "", hint: str = "Pass --yes.") -> None:
    """Ask at the terminal. Raises BudgetError without a yes, and where there is no terminal.

    ``undone``: what has not happened without one, in words; ``of``: what is confirmed.
    """
    if not sys.stdin.isatty():
        raise BudgetError(f"{undone}: there is no terminal to confirm {of}at.", hint=hint)
    try:
        confirmed = confirm(question)
    except KeyboardInterrupt as exc:
        exc.add_note(f"{undone}.")
        raise
    if not confirmed:
        raise BudgetError(f"{undone}: the answer was not yes.")


def on_host_rest(*, quiet: bool) -> Callable[[float, str], None]:
    """Return what says that a host asks to wait."""

    def say(seconds: float, why: str) -> None:
        print_message(f"A host rests for {format_duration(seconds)}: {why}.", quiet=quiet)

    return say


def parse_temperature(text: str | None) -> float | str | None:
    """Return the number, or the word, which is judged where all are."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def command_line(named: Callable[[str], str] | None = None) -> str:
    """Return the command that is running, as a shell takes it; each word by ``named``, if any."""
    words = ["ftg", *sys.argv[1:]]
    return shlex.join(map(named, words) if named else words)


def require_writable(path: Path, *inputs: Path | None) -> None:
    """Raise SpecError, before anything is paid or read, for a file that cannot be written: in no
    folder, in one without the right, a folder itself, or one of the inputs."""
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise SpecError(f"There is no folder for {path}.", hint="Make it, or choose another.")
    if path.is_dir():
        raise SpecError(f"{path} is a folder.", hint="Choose a file to write.")
    if any(one and one.exists() and path.exists() and one.samefile(path) for one in inputs):
        raise SpecError(f"{path} is read here.", hint="Choose another file to write.")
    if not os.access(folder, os.W_OK):
        raise SpecError(f"{folder} is not yours to write to.", hint="Choose another folder.")


def refuse_foreign_page(path: Path | None, force: bool, *inputs: Path) -> None:
    """Raise SpecError if a page may not be written to this path, before any work."""
    if path is not None:
        # Imported here: only --html needs it.
        from finetune_gateway.reports.layout import raise_if_foreign

        raise_if_foreign(path, force=force, inputs=inputs)


def require_page(html: Path | None, no_rows: bool) -> None:
    """Raise SpecError for --no-rows without a page."""
    if no_rows and html is None:
        raise SpecError("--no-rows is about a page.", hint="Give --html OUT too.")


def write_page(path: Path, text: str, *, quiet: bool, private: bool = False) -> None:
    """Write an HTML page, whole or not at all; ``private``: for this user alone. Raises StoreError
    if it cannot be written."""
    # Imported here: only --html needs it.
    from finetune_gateway.preparation.convert import whole_file

    with whole_file(path, private=private) as file:
        file.write(text.encode())
    print_message(f"Wrote {path}.", quiet=quiet)
