"""The command line ``ftg``. Its table of commands and the root help are here and import nothing,
so that ``ftg --help`` costs a bare Python; the module of a command is imported when it is named.
"""

from __future__ import annotations

import os
import sys

# name -> (module:function below this package, one line of help, group)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("demo:demo", "Train a tiny model here and chat with it: no key, no GPU", "Start"),
    "doctor": ("doctor:doctor", "Check this machine: home, packages, GPU, keys, dates", "Start"),
    "backends": ("about:backends", "Where a job can run, and what each place can do", "Start"),
    "models": ("about:models", "Models that can be trained, and until when", "Start"),
    "prices": ("prices:prices", "What things cost, by whom and when; your own rows", "Start"),
    "config": ("config:config", "Your limits: a budget for the month, for a job", "Start"),
    "validate": ("validate:validate", "Check a dataset; needs no key and no network", "Before"),
    "rules": ("rules:rules", "What validate looks for, and why; 'rules CODE' for one", "Before"),
    "convert": ("convert:convert", "Write a dataset in another format, without loss", "Before"),
    "split": ("split:split", "Cut a dataset into train and validation", "Before"),
    "preview": ("preview:preview", "Rows as the model sees them, trained tokens marked", "Before"),
    "estimate": ("estimate:estimate", "Price, time and memory of each option, offline", "Before"),
    "submit": ("submit:submit", "Check, price, confirm, then start a job", "Jobs"),
    "list": ("jobs:list_jobs", "Jobs, newest first", "Jobs"),
    "status": ("jobs:status", "One job: where it stands and what came of it", "Jobs"),
    "watch": ("watch:watch", "Live screen of a job; Ctrl-C leaves it running", "Jobs"),
    "wait": ("watch:wait", "Block until jobs end; the exit code says how", "Jobs"),
    "logs": ("reports:logs", "The raw log of a job, or its events", "Jobs"),
    "events": ("reports:events", "What a job has said", "Jobs"),
    "metrics": ("reports:metrics", "Losses and rates by step", "Jobs"),
    "checkpoints": ("reports:checkpoints", "Models saved during training", "Jobs"),
    "report": ("report:report", "What jobs cost, beside what was estimated", "Jobs"),
    "cancel": ("jobs:cancel", "Stop a job", "Jobs"),
    "chat": ("chat:chat", "Talk to a trained model, or to a base model", "Models"),
}
COUNTING = frozenset(("validate", "estimate", "submit"))  # what begins with a count of tokens
ALIASES = {
    "ls": "list",
    "ps": "list",
    "get": "status",
    "retrieve": "status",
    "create": "submit",
    "train": "submit",
}
GROUPS = {
    "Start": "Get started",
    "Before": "Before you pay",
    "Jobs": "Jobs (JOB: an id, its beginning, or 'latest')",
    "Models": "Trained models",
}
EXAMPLES = (
    ("ftg demo", "the whole way in a minute"),
    ("ftg validate train.jsonl", "what is wrong, line by line"),
    ("ftg estimate train.jsonl --model gpt-4.1-mini-2025-04-14", ""),
    ("ftg submit train.jsonl --model builtin/tiny --backend local", ""),
    ("ftg watch latest", ""),
)
EVERYWHERE = "Everywhere: --home DIR  --no-color  --debug  -h, --help"


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    _tolerant_streams()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # while modules are imported; a command handles its own
        return 130


def _run(argv: list[str]) -> int:
    try:
        words, debug = _everywhere(argv)
    except ValueError as exc:
        return _usage(str(exc), "Like: ftg --home ./jobs list", "--json" in argv)
    if "_FTG_COMPLETE" in os.environ or words[:1] in (
        ["--install-completion"],
        ["--show-completion"],
    ):
        from finetune_gateway.cli.run import run_all

        return run_all(words)
    if not words or words[0] in ("-h", "--help") or words == ["help"]:
        return _print(root_help())
    if words[0] in ("--version", "-V"):
        from finetune_gateway import __version__

        return _print(f"finetune-gateway {__version__}")
    return _command(words, debug)


def _command(words: list[str], debug: bool) -> int:
    json_wanted = "--json" in words
    leading = 0  # flags of the command are also taken before its name
    while words[leading : leading + 1] and words[leading] in ("--json", "-q", "--quiet"):
        leading += 1
    if leading == len(words):
        return _usage("No command was given.", "Run: ftg --help", json_wanted)
    name, args = words[leading], [*words[:leading], *words[leading + 1 :]]
    if name == "help":
        name, args = args[0], ["--help"]
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        return _usage(f"There is no command {name!r}.", _did_you_mean(name), json_wanted)
    if name in COUNTING and not {"-h", "--help"} & set(args):
        _begin_counting(args)
    from finetune_gateway.cli.run import run_one

    return run_one(name, args, debug=debug)


def _begin_counting(args: list[str]) -> None:
    """Load the tables that tokens are counted with beside the imports: 0.2 s of 0.6 (measured
    on 1,000 rows with two processors)."""
    # Imported here: other commands count nothing.
    from finetune_gateway.encodings import USUAL, begin, encoding_for

    named = [
        encoding for word in args if (encoding := encoding_for(word.partition("=")[2] or word))
    ]
    if named or not any(word.partition("=")[0] in ("--model", "-m") for word in args):
        begin(named[0] if named else USUAL)


def root_help() -> str:
    """What ``ftg --help`` prints, in 80 columns."""
    lines = [
        "Usage: ftg COMMAND [OPTIONS]",
        "",
        "Fine-tune on OpenAI's wire contract or on your own machine: check the data,",
        "price every option, train, chat. Nothing is sent or spent before you say yes.",
    ]
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [
            f"  {name:<12} {text}" for name, (_, text, own) in COMMANDS.items() if own == group
        ]
    lines += ["", EVERYWHERE]
    lines += ["            --json for one JSON document (streams: one a line), --version,"]
    lines += ["            --install-completion"]
    lines += ["Exit codes: 0 ok, 1 error, 2 usage, 3 bad data, 4 over the limit or no yes,"]
    lines += ["            5 key, 130 interrupted; jobs: 100 failed, 101 not finished,"]
    lines += ["            102 not found, 103 cancelled"]
    lines += ["", "Examples:"]
    lines += [f"  {call:<40}{'  # ' + why if why else ''}".rstrip() for call, why in EXAMPLES]
    return "\n".join(lines)


def _everywhere(argv: list[str]) -> tuple[list[str], bool]:
    """The words without ``--home DIR``, ``--no-color`` and ``--debug``, which are taken at any
    place before ``--``. Home and colour go into the environment, for child processes too.

    Raises ValueError when ``--home`` has no folder.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    words, rest, debug = [], list(argv[:end]), False
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if word == "--debug":
            debug = True
        elif word in ("--no-color", "--no_color"):
            os.environ["NO_COLOR"] = "1"
        elif flag == "--home":
            value = value if equals else rest.pop(0) if rest else ""
            if not value:
                raise ValueError("--home needs a folder.")
            os.environ["FTG_HOME"] = value
        else:
            words.append(word)
    return words + argv[end:], debug


def _did_you_mean(name: str) -> str:
    # Imported here: difflib costs as much as the rest of the root help.
    from difflib import get_close_matches

    near = get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
    return f"Did you mean: ftg {near[0]}" if near else "Run: ftg --help"


def _usage(message: str, hint: str, json_wanted: bool) -> int:
    from finetune_gateway.cli.output import error

    error("UsageError", message, hint, 2, json_wanted=json_wanted)
    return 2


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence()
    return 0


def silence() -> None:
    """The reader of our stdout is gone (``ftg list | head -1``): write into nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tolerant_streams() -> None:
    """A character the terminal cannot show is escaped rather than a crash."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
