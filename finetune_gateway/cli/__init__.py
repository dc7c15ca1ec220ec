"""The command line ``ftg`` and its root help. ``ftg --help`` costs no more than a bare Python: the
module of a command is imported when it is named.
"""

from __future__ import annotations

import os
import sys

from finetune_gateway.cli.commands import ALIASES, COMMANDS, COUNTING, EVERYWHERE, EXAMPLES, GROUPS
from finetune_gateway.cli.streams import silence, tolerate


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    tolerate()
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
        from importlib.metadata import version

        return _print(f"finetune-gateway {version('finetune-gateway')}")
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
    from finetune_gateway.tokens.encodings import DEFAULT_ENCODING, encoding_for, preload

    named = [
        encoding for word in args if (encoding := encoding_for(word.partition("=")[2] or word))
    ]
    if named or not any(word.partition("=")[0] in ("--model", "-m") for word in args):
        preload(named[0] if named else DEFAULT_ENCODING)


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
    from finetune_gateway.reports.output import print_error

    print_error("UsageError", message, hint, 2, json_wanted=json_wanted)
    return 2


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence()
    return 0
