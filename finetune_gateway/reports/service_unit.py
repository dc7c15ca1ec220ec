"""What lets the system bring local jobs back after a restart of the machine: a unit of systemd's
user manager, or an agent of launchd (macOS). It has no secrets: it names where they come from.

Directives: systemd.service(5), systemd.exec(5), systemd.kill(5), loginctl(1), and of macOS
launchd.plist(5).
"""

from __future__ import annotations

import plistlib
import sys
from dataclasses import dataclass
from pathlib import Path

from finetune_gateway.errors import SpecError
from finetune_gateway.settings import interpreter
from finetune_gateway.settings.home import Settings

NAME = "finetune-gateway"
LABEL = f"io.github.{NAME}"
STOP_SECONDS = 120  # for a step and its checkpoint; as long as systemd's user@.service has itself


@dataclass(frozen=True)
class Service:
    """A file that the system reads: of which system, where it goes, and what is in it."""

    system: str
    path: Path
    text: str


def service_of(settings: Settings, platform: str = sys.platform) -> Service:
    """Return the file for this home and this Python. Raises SpecError for a path that cannot be
    written into it."""
    command = interpreter.module("finetune_gateway", "resume", "--all")
    for word in (*command, str(settings.home)):
        if not word.isprintable():
            raise SpecError(
                f"{word!r} has characters that no unit file can have.",
                hint="Move the home folder, or install the package at another path.",
            )
    if platform == "darwin":
        path = Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        return Service("launchd", path, _agent(command, settings.home))
    path = Path.home() / ".config" / "systemd" / "user" / f"{NAME}.service"
    return Service("systemd", path, _unit(command, settings.home))


def _unit(command: list[str], home: Path) -> str:
    return f"""\
# Brings the local jobs of {home} back after a restart of the machine.
#
#   ftg doctor --service > ~/.config/systemd/user/{NAME}.service
#   systemctl --user daemon-reload
#   systemctl --user enable --now {NAME}
#   loginctl enable-linger      # else it starts with your first login, and ends with your last
#
# Keys (HF_TOKEN, those of trackers) and other variables that jobs need are not in this file. Jobs
# get them from the file below, if there is one: lines of NAME=value. Let nobody else read it:
#
#   touch ~/.config/{NAME}.env && chmod 600 ~/.config/{NAME}.env

[Unit]
Description=Local fine-tuning jobs of {_specifiers(str(home))}
# Five starts in ten minutes, then it stays down: systemctl --user status {NAME}
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
# The command starts the dispatcher of the jobs and ends; the dispatcher and the workers stay here.
Type=oneshot
RemainAfterExit=yes
Environment={_quoted(f"FTG_HOME={home}")}
EnvironmentFile=-%h/.config/{NAME}.env
ExecStart={" ".join(_quoted(word, command=True) for word in command)}
Restart=on-failure
RestartSec=30
# A stop sends SIGTERM to all: each worker saves a checkpoint after its step. SIGKILL comes after so
# many seconds; then the job goes on from the checkpoint before. At a shutdown the manager of the
# user has a limit of its own, 120 s: systemctl edit user@.service
KillMode=control-group
TimeoutStopSec={STOP_SECONDS}
# If the kernel kills a worker for lack of memory, the dispatcher sees to it; the others go on.
OOMPolicy=continue

[Install]
WantedBy=default.target
"""


def _specifiers(word: str) -> str:
    return word.replace("%", "%%")


def _quoted(word: str, *, command: bool = False) -> str:
    """Return a word as systemd reads it back: quoted, without specifiers, and in a command line
    without variables."""
    text = _specifiers(word).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + (text.replace("$", "$$") if command else text) + '"'


def _agent(command: list[str], home: Path) -> str:
    about = {
        "Label": LABEL,
        "ProgramArguments": command,
        "EnvironmentVariables": {"FTG_HOME": str(home)},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        # The dispatcher and the workers outlive the command, and have time to save at its end.
        "AbandonProcessGroup": True,
        "ExitTimeOut": STOP_SECONDS,
        "ProcessType": "Background",
        "StandardErrorPath": str(Path.home() / "Library" / "Logs" / f"{NAME}.log"),
    }
    head, root, rest = plistlib.dumps(about, sort_keys=False).decode().partition("<plist")
    return f"""{head}<!--
Brings local jobs back at your login after a restart of the machine:

  launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/{LABEL}.plist

Keys (HF_TOKEN, those of trackers) are not in this file. Jobs get what launchd has at their start:
  launchctl setenv HF_TOKEN ...       (until the next restart)
-->
{root}{rest}"""
