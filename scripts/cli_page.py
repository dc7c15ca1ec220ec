"""The page docs/cli.md, made from the help of the commands.

Run ``python -m scripts.cli_page > docs/cli.md`` after a command has changed.
"""

from __future__ import annotations

import typer.main

from finetune_gateway.cli.commands import ALIASES, COMMANDS, GROUPS
from finetune_gateway.cli.run import build_app

INTRO = """\
# The command line

<!-- Made by: python -m scripts.cli_page > docs/cli.md -->

`ftg` (long name `finetune-gateway`, or `python -m finetune_gateway`).

- **stdout is the result**, stderr everything else: progress, questions, warnings, hints.
- `--json` on every command prints one document on stdout; `watch`, `events` and `logs` print
  one a line. An error is `{"error": {"type", "message", "hint", "code"}}`.
- Nothing is sent or spent without a yes at the prompt or `--yes`. Keys come from the
  environment, never from an option.
- A reader that leaves (`ftg list | head -1`) ends the command with 141, a full disk behind stdout
  with 1. A closed stdout is an empty one, and stderr may be closed or full: the exit code stays.
- On a terminal, lines are wrapped at words; a command to copy stays on one line, and so does a name
  of several words in a list. In a pipe an error is one line, and so is its hint.
- Dashes and underscores are both accepted: `--n-epochs`, `--n_epochs`.

Everywhere: `--home DIR` (or `FTG_HOME`: where jobs are kept), `--no-color` (or `NO_COLOR`),
`--debug` (tracebacks), `-h`. Without a command: `--version`, `--install-completion`,
`--show-completion`.

JOB is an id, a unique beginning of it, the provider's id, or `latest`.

## Exit codes

| code | meaning |
|---|---|
| 0 | ok |
| 1 | provider or runtime error |
| 2 | usage: an unknown option, setting, or something the backend cannot do |
| 3 | the data is invalid |
| 4 | over the cost limit, or nobody confirmed |
| 5 | key missing or refused |
| 100 | the job failed |
| 101 | the job has not ended (yet) |
| 102 | no such job, model, file or backend |
| 103 | the job was cancelled |
| 130 | interrupted by Ctrl-C |
"""


def page() -> str:
    """Return the whole page."""
    parts = [INTRO, _contents()]
    parts += [f"## ftg {name}\n\n```text\n{command_help(name)}\n```\n" for name in COMMANDS]
    return "\n".join(parts)


def command_help(name: str) -> str:
    """Return what ``ftg NAME --help`` prints at 80 columns."""
    command = typer.main.get_command(build_app(name))
    context = command.make_context(f"ftg {name}", [], resilient_parsing=True, terminal_width=78)
    with context:
        return command.get_help(context)


def _contents() -> str:
    lines = ["## Commands", "", "| command | what it does | also |", "|---|---|---|"]
    for group in GROUPS:
        for name, (_, text, own) in COMMANDS.items():
            also = ", ".join(f"`{alias}`" for alias, real in ALIASES.items() if real == name)
            if own == group:
                lines.append(f"| [`{name}`](#ftg-{name.replace(' ', '-')}) | {text} | {also} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
