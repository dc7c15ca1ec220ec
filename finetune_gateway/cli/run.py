"""Runs one command and turns what it raises into words and an exit code."""

from __future__ import annotations

import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from finetune_gateway.cli.commands import ALIASES, COMMANDS, EVERYWHERE
from finetune_gateway.cli.streams import silence
from finetune_gateway.errors import DataError, GatewayError
from finetune_gateway.reports import output

BROKEN_PIPE = 141  # 128 + SIGPIPE, what other tools of a pipeline end with
CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda word: word.replace("_", "-"),  # --n_epochs is --n-epochs
    "max_content_width": 80,
}


class Command(TyperCommand):
    """A command whose usage line says DATA, not {DATA}."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


def run_one(name: str, args: list[str], *, debug: bool = False) -> int:
    """Run the command with its arguments and return the exit code."""
    json_wanted = "--json" in args[: args.index("--") if "--" in args else None]
    try:
        code = _guarded(name, args, debug, json_wanted)
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        return BROKEN_PIPE
    except OSError as exc:  # the disk behind stdout is full
        silence()
        return _told(exc, str(exc), "", 1, False)
    return code


def _guarded(name: str, args: list[str], debug: bool, json_wanted: bool) -> int:
    """Every exception but that of a closed stdout as words and an exit code."""
    try:
        return _invoke(name, args)
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, typer.Abort) as exc:
        return _told(exc, "Interrupted.", "", 130, json_wanted)
    except typer.TyperException as exc:
        hint = f"Run: ftg {name} --help"
        return _told(exc, exc.format_message(), hint, exc.exit_code, json_wanted, "UsageError")
    except Exception as exc:  # the last net: also a bug is told in two lines
        if debug:
            traceback.print_exc()
        if isinstance(exc, GatewayError):
            return _gateway_error(exc, json_wanted)
        if isinstance(exc, OSError):
            return _told(exc, str(exc), "", 1, json_wanted)
        hint = "" if debug else f"This is a bug. For its place run: ftg --debug {name} ..."
        return _told(exc, f"{type(exc).__name__}: {exc}", hint, 1, json_wanted)


def _invoke(name: str, args: list[str]) -> int:
    command = typer.main.get_command(app(name))
    try:
        with command.make_context(f"ftg {name}", args) as context:
            return command.invoke(context) or 0
    except typer.Exit as exc:
        return exc.exit_code


class Group(TyperGroup):
    """Every command; the module of one is imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = ALIASES.get(cmd_name, cmd_name)
        return typer.main.get_command(app(name)) if name in COMMANDS else None


def run_all(args: list[str]) -> int:
    """The application with every command: what shell completion needs."""
    made = typer.Typer(cls=Group, rich_markup_mode=None, context_settings=CONTEXT)
    made.callback()(lambda: None)
    code = typer.main.get_command(made).main(args, prog_name="ftg", standalone_mode=False)
    return code if isinstance(code, int) else 0


def app(name: str) -> typer.Typer:
    """An application of one command, which is run without its name."""
    made = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=CONTEXT)
    text, examples = help_parts(function(name))
    register = made.command(name, cls=Command, help=text, epilog=examples, context_settings=CONTEXT)
    register(function(name))
    return made


def function(name: str) -> Callable[..., Any]:
    """The function behind a command; its module is imported now."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found: Callable[..., Any] = getattr(import_module(f"finetune_gateway.cli.{module}"), attribute)
    return found


def help_parts(command: Callable[..., Any]) -> tuple[str, str]:
    """The help of a command from its docstring: the text, and the examples for the foot."""
    text, _, examples = (inspect.getdoc(command) or "").partition("\nExamples:\n")
    listed = textwrap.indent(textwrap.dedent(examples).strip(), "  ")
    foot = f"\n\n\b\nExamples:\n{listed}" if listed else ""
    return text, f"\b\n{EVERYWHERE}{foot}"


def _gateway_error(exc: GatewayError, json_wanted: bool) -> int:
    kind, message, hint, more = type(exc).__name__, exc.message, exc.hint, {}
    if isinstance(exc, DataError) and exc.report is not None:
        if json_wanted:
            more = {"report": exc.report.model_dump(mode="json")}
        else:
            # Imported here: only this error needs that screen.
            from finetune_gateway.reports.validation_text import findings_text

            output.print_message(findings_text(exc.report.errors))
            message = "The data cannot be used as it is; nothing was sent."
            hint = "Mend these lines. All there is to say: ftg validate FILE"
    output.print_error(kind, message, hint, exc.exit_code, json_wanted=json_wanted, **more)
    return exc.exit_code


def _told(
    exc: BaseException, message: str, hint: str, code: int, json_wanted: bool, kind: str = ""
) -> int:
    kind = kind or type(exc).__name__
    output.print_error(kind, message, hint, code, json_wanted=json_wanted)
    return code
