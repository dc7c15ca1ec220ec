"""The command line ``ftg`` and its root help.

The module of a command is imported when the command is run, so that ``ftg --help`` starts as fast
as a bare Python.
"""

from __future__ import annotations

import os
import sys

from finetune_gateway.cli.commands import (
    ALIASES,
    COMMANDS,
    COUNTING,
    ELSEWHERE,
    EXAMPLES,
    FAMILIES,
    FLAGS,
    GLOBAL_OPTIONS,
    GROUPS,
    MEANT,
    second_words,
    split_name,
)
from finetune_gateway.cli.streams import (
    discard_stdout,
    escape_unprintable,
    open_missing,
    os_error_text,
)


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    open_missing()
    escape_unprintable()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # while modules are imported; a command handles its own
        return 130


def _run(argv: list[str]) -> int:
    try:
        words, debug = _take_global_options(argv)
    except ValueError as exc:
        return _usage_error(str(exc), "Like: ftg --home ./jobs list", "--json" in argv)
    if "_FTG_COMPLETE" in os.environ or words[:1] in (
        ["--install-completion"],
        ["--show-completion"],
    ):
        from finetune_gateway.cli.run import run_all

        return run_all(words)
    if not words or words[0] in ("-h", "--help") or words == ["help"]:
        return _print(root_help())
    if words[0] in ("--version", "-V"):
        from importlib.metadata import version

        return _print(f"finetune-gateway {version('finetune-gateway')}")
    return _run_command(words, debug)


def _run_command(words: list[str], debug: bool) -> int:
    json_wanted = "--json" in words
    leading = 0  # flags of the command are accepted before its name too
    while words[leading : leading + 1] and words[leading] in FLAGS:
        leading += 1
    if leading == len(words):
        return _usage_error("No command was given.", "Run: ftg --help", json_wanted)
    name, args = split_name([*words[leading:], *words[:leading]])
    if name == "help":
        name, args = split_name(args)
        args = [*(args if name in FAMILIES else []), "--help"]
    if name == "report" and "costs" in args:  # its name until 0.1
        name = "costs"
        args.remove("costs")
        print("'ftg report costs' is now: ftg costs", file=sys.stderr)
    if name in FAMILIES:
        return _run_family(name, args, json_wanted)
    if name not in COMMANDS:
        return _usage_error(f"There is no command {name!r}.", _did_you_mean(name), json_wanted)
    if name in COUNTING and not {"-h", "--help"} & set(args):
        _preload_counter(args)
    from finetune_gateway.cli.run import run_one

    return run_one(name, args, debug=debug)


def _run_family(first: str, args: list[str], json_wanted: bool) -> int:
    """List the commands with this first word, or say that none has such a second word."""
    second = next((word for word in args if not word.startswith("-")), None)
    if second is not None:
        name = f"{first} {second}"
        return _usage_error(f"There is no command {name!r}.", _did_you_mean(name), json_wanted)
    if args and not {"-h", "--help"} & {*args}:
        message = f"ftg {first} {args[0]} names no command."
        return _usage_error(message, f"Run: ftg {first} --help", json_wanted)
    return _print(family_help(first))


def _preload_counter(args: list[str]) -> None:
    """Load the encoding while other modules are imported.

    This saves 0.2 s of 0.6 (measured on 1,000 rows with two processors).
    """
    # Imported here: other commands do not count tokens.
    from finetune_gateway.tokens.encodings import DEFAULT_ENCODING, encoding_for, preload

    named = [
        encoding for word in args if (encoding := encoding_for(word.partition("=")[2] or word))
    ]
    if named or not any(word.partition("=")[0] in ("--model", "-m") for word in args):
        preload(named[0] if named else DEFAULT_ENCODING)


def root_help() -> str:
    """Return what ``ftg --help`` prints, in 80 columns."""
    lines = [
        "Usage: ftg COMMAND [OPTIONS]",
        "",
        "Fine-tune with OpenAI's API or on your own machine: check the data, compare the",
        "cost of every option, train, chat. Nothing is sent or spent until you confirm.",
    ]
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [
            f"  {name:<14}  {text}" for name, (_, text, own) in COMMANDS.items() if own == group
        ]
    lines += ["", GLOBAL_OPTIONS]
    lines += ["            -q for the result alone, --json for one JSON document (streams: one"]
    lines += ["            per line), --version, --install-completion"]
    lines += ["Exit codes: 0 ok, 1 error, 2 usage, 3 bad data, 4 over limit or unconfirmed,"]
    lines += ["            5 key, 130 interrupted; jobs: 100 failed, 101 not finished,"]
    lines += ["            102 not found, 103 cancelled"]
    lines += ["", "Examples:"]
    lines += [f"  {call:<40}{'  # ' + why if why else ''}".rstrip() for call, why in EXAMPLES]
    return "\n".join(lines)


def family_help(first: str) -> str:
    """Return what ``ftg migrate --help`` prints: the commands that begin with this word."""
    lines = [f"Usage: ftg {first} COMMAND [OPTIONS]", "", FAMILIES[first], "", "Commands:"]
    names = [f"{first} {word}" for word in second_words(first)]
    width = max(map(len, names))
    lines += [f"  {name:<{width}}  {COMMANDS[name][1]}" for name in names]
    lines += ["", f"Options of one: ftg {names[0]} --help", GLOBAL_OPTIONS]
    return "\n".join(lines)


def _take_global_options(argv: list[str]) -> tuple[list[str], bool]:
    """Return the words without ``--home DIR``, ``--no-color`` and ``--debug``, and whether
    ``--debug`` was among them.

    They are accepted anywhere before ``--``. Home and colour go into the environment, so that
    child processes see them. Raises ValueError when ``--home`` has no folder.
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

    if name in ELSEWHERE:
        return ELSEWHERE[name]
    first, _, second = name.partition(" ")
    if second:
        near = get_close_matches(second, second_words(first), n=1)
        return f"Did you mean: ftg {first} {near[0]}" if near else f"Run: ftg {first} --help"
    near = get_close_matches(name, [*COMMANDS, *FAMILIES, *ALIASES], n=1)
    meant = MEANT.get(name) or (near[0] if near else "")
    return f"Did you mean: ftg {meant}" if meant else "Run: ftg --help"


def _usage_error(message: str, hint: str, json_wanted: bool) -> int:
    return _error("UsageError", message, hint, 2, json_wanted)


def _error(kind: str, message: str, hint: str, code: int, json_wanted: bool = False) -> int:
    from finetune_gateway.reports.output import print_error

    print_error(kind, message, hint, code, json_wanted=json_wanted)
    return code


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_stdout()
    except OSError as exc:  # the disk behind stdout is full
        discard_stdout()
        return _error("OSError", os_error_text(exc), "", 1)
    return 0
