"""Runs one command, and turns exceptions into messages and exit codes."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from finetune_gateway.cli.commands import (
    ALIASES,
    COMMANDS,
    FAMILIES,
    GLOBAL_OPTIONS,
    second_words,
)
from finetune_gateway.cli.streams import discard_stdout, os_error_text
from finetune_gateway.errors import DataError, GatewayError, PrivateDataError, UnboundKeyError
from finetune_gateway.reports.output import print_error, print_message

BROKEN_PIPE = 141  # 128 + SIGPIPE, as for other tools in a pipeline
CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda word: word.replace("_", "-"),  # --n_epochs is --n-epochs
    "max_content_width": 80,
}


class Command(TyperCommand):
    """A command whose help has DATA, [KEY] and JOB..., not {DATA} <path>, [[KEY]] and JOB......"""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                vars(parameter)["display_type_rich"] = lambda ctx: ""
        super().format_help(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = [re.sub("[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]
        pieces = [re.sub(r"^\[\[(.*)\]\](\.\.\.)?$", r"[\1]", piece) for piece in pieces]
        return [re.sub(r"(\.\.\.)+$", "...", piece) for piece in pieces]


def run_one(name: str, args: list[str], *, debug: bool = False) -> int:
    """Run the command with its arguments and return the exit code."""
    json_wanted = "--json" in args[: args.index("--") if "--" in args else None]
    try:
        code = _run_guarded(name, args, debug, json_wanted)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        return BROKEN_PIPE
    except OSError as exc:  # the disk behind stdout is full
        discard_stdout()
        return _print_error(exc, os_error_text(exc), "", 1, False)
    return code


def _run_guarded(name: str, args: list[str], debug: bool, json_wanted: bool) -> int:
    """Run the command; print every exception, except for a closed stdout, and return its code."""
    try:
        return _invoke(name, args)
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, typer.Abort) as exc:
        return _print_error(exc, "Interrupted.", _notes(exc), 130, json_wanted)
    except typer.TyperException as exc:
        # Imported here: most command lines are right.
        from finetune_gateway.cli.usage import usage_error

        message, hint = usage_error(exc, name, args)
        return _print_error(exc, message, hint, exc.exit_code, json_wanted, "UsageError")
    except Exception as exc:  # bugs too are reported in two lines
        if debug:
            traceback.print_exc()
        if isinstance(exc, UnboundKeyError) and _bound(exc):
            return _run_guarded(name, args, debug, json_wanted)
        if isinstance(exc, GatewayError):
            return _print_gateway_error(exc, json_wanted)
        if isinstance(exc, OSError):
            return _print_error(exc, os_error_text(exc), _notes(exc), 1, json_wanted)
        bug = "" if debug else f"This is a bug. For the traceback: ftg --debug {name} ..."
        hint = f"{_notes(exc)} {bug}".strip()
        return _print_error(exc, f"{type(exc).__name__}: {exc}", hint, 1, json_wanted)


def _bound(exc: UnboundKeyError) -> bool:
    """Ask in a terminal whether a key belongs to an address; True if it does from now on."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    # Imported here: only this question needs them.
    from finetune_gateway.cli.options import confirm
    from finetune_gateway.settings.bindings import Bindings
    from finetune_gateway.settings.home import Settings
    from finetune_gateway.settings.network import origin

    print_message(exc.message)
    bindings = Bindings(Settings.load())
    if exc.options is not None:
        if agreed := confirm(f"Ask backend {exc.backend!r} with these options, now and later?"):
            bindings.keep_options(exc.backend, exc.options)
        return agreed
    if agreed := confirm(f"Send the key in {exc.variable} to {origin(exc.url)}, now and later?"):
        bindings.keep(exc.variable, exc.url)
    return agreed


def _notes(exc: BaseException) -> str:
    """Return what will become of the job that the command was about, where that is noted."""
    return " ".join(getattr(exc, "__notes__", ()))


def _invoke(name: str, args: list[str]) -> int:
    command = typer.main.get_command(build_app(name))
    try:
        with command.make_context(f"ftg {name}", [*args]) as context:
            return command.invoke(context) or 0
    except typer.Exit as exc:
        return exc.exit_code


class Group(TyperGroup):
    """All commands, or those whose first word is ``first``; the module of each is imported when it
    is first needed."""

    first = ""

    def list_commands(self, ctx: Any) -> list[str]:
        if self.first:
            return second_words(self.first)
        return list(dict.fromkeys(name.split()[0] for name in COMMANDS))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = f"{self.first} {ALIASES.get(cmd_name, cmd_name)}".strip()
        if second_words(name):
            return _family(name)
        return typer.main.get_command(build_app(name)) if name in COMMANDS else None


def _family(first: str) -> Group:
    """Return the commands with this first word; it may be a command by itself, too."""
    own = typer.main.get_command(build_app(first)) if first in COMMANDS else None
    text = COMMANDS[first][1] if own else FAMILIES[first]
    group = Group(name=first, params=own.params if own else [], help=text)
    group.first = first
    return group


def run_all(args: list[str]) -> int:
    """Run the application with every command, as shell completion needs it."""
    full_app = typer.Typer(cls=Group, rich_markup_mode=None, context_settings=CONTEXT)
    full_app.callback()(lambda: None)
    code = typer.main.get_command(full_app).main(args, prog_name="ftg", standalone_mode=False)
    return code if isinstance(code, int) else 0


def build_app(name: str) -> typer.Typer:
    """Return an application of one command, which runs without its name."""
    single_app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=CONTEXT)
    command = load_command(name)
    text, examples = _split_help(name, command)
    register = single_app.command(
        name, cls=Command, help=text, epilog=examples, context_settings=CONTEXT
    )
    register(command)
    return single_app


def load_command(name: str) -> Callable[..., Any]:
    """Import the module of a command and return its function."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command: Callable[..., Any] = getattr(
        import_module(f"finetune_gateway.cli.{module}"), attribute
    )
    return command


def _split_help(name: str, command: Callable[..., Any]) -> tuple[str, str]:
    """Return a command's docstring as the help text, with the commands that begin with its name,
    and the examples."""
    text, _, examples = (inspect.getdoc(command) or "").partition("\nExamples:\n")
    others = ", ".join(f"ftg {name} {word}" for word in second_words(name))
    text += f"\n\nSee also: {others}" if others else ""
    listed = textwrap.indent(textwrap.dedent(examples).strip(), "  ")
    foot = f"\n\n\b\nExamples:\n{listed}" if listed else ""
    return text, f"\b\n{GLOBAL_OPTIONS}{foot}"


def _print_gateway_error(exc: GatewayError, json_wanted: bool) -> int:
    kind, message, hint, more = type(exc).__name__, exc.message, exc.hint, {}
    if isinstance(exc, DataError) and exc.report is not None:
        if json_wanted:
            more = {"report": exc.report.model_dump(mode="json")}
            if isinstance(exc, PrivateDataError):
                more["found"] = {
                    name: [one.model_dump(mode="json") for one in findings]
                    for name, findings in exc.found.items()
                }
        else:
            # Imported here: only this error needs it.
            from finetune_gateway.reports.validation_text import findings_text, private_data_text

            if isinstance(exc, PrivateDataError):
                print_message(private_data_text(exc.found))
                message = f"Nothing was sent: this would go to {exc.host}."
            elif exc.report.errors:  # without one, it is the message that says what is wrong
                print_message(findings_text(exc.report.errors))
                message = "The data has errors; nothing was sent."
                hint = f"All findings: {exc.command or 'ftg validate FILE'}"
    print_error(kind, message, hint, exc.exit_code, json_wanted=json_wanted, **more)
    return exc.exit_code


def _print_error(
    exc: BaseException, message: str, hint: str, code: int, json_wanted: bool, kind: str = ""
) -> int:
    kind = kind or type(exc).__name__
    print_error(kind, message, hint, code, json_wanted=json_wanted)
    return code
