"""A distribution of plug-ins of which one works, and the others spoil what they can."""

from __future__ import annotations

from pathlib import Path

MODULE = """
import sys
import threading

from support.hostile import Honest

never = threading.Event()


class Good(Honest):
    name = "good"


class Hangs(Honest):
    name = "hangs"

    def capabilities(self, model=None):
        never.wait(60)


class Sleeps(Honest):
    name = "sleeps"

    def __init__(self):
        never.wait(60)


class Quits(Honest):
    name = "quits"

    def __init__(self):
        sys.exit("no licence")


class Interrupts(Honest):
    name = "interrupts"

    def capabilities(self, model=None):
        raise KeyboardInterrupt


class Nothing(Honest):
    name = "nothing"

    def capabilities(self, model=None):
        return None


class Raises(Honest):
    name = "raises"

    def capabilities(self, model=None):
        raise LookupError("no such region")


class Keyless(Honest):
    name = "keyless"
    gateway_options = frozenset({"keys"})

    def account(self):
        return self.key("KEYLESS_API_KEY", "https://keyless.example") and "account-1"


def function():
    return Honest()
"""
POINTS = {
    **{
        name.lower(): name
        for name in ("Good", "Hangs", "Sleeps", "Quits", "Interrupts", "Nothing", "Raises")
    },
    "odd": "function",
    "keyless": "Keyless",
}
SAID = {
    "hangs": "gave no answer within",
    "sleeps": "gave no answer within",
    "quits": "sys.exit('no licence')",
    "interrupts": "broke: KeyboardInterrupt",
    "nothing": "must return a Capabilities, not None",
    "raises": "broke: LookupError: no such region",
    "odd": "no class of a Backend",
    "bursts": "ZeroDivisionError",
}  # by name: what is said of it


def installed(site: Path) -> None:
    """Write what pip leaves behind: two modules and the entry points."""
    about = site / "ftg_broken-0.1.dist-info"
    about.mkdir(parents=True)
    (site / "ftg_broken.py").write_text(MODULE, encoding="utf-8")
    (site / "ftg_bursts.py").write_text("1 / 0\n", encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ftg-broken\nVersion: 0.1\n")
    lines = [f"{name} = ftg_broken:{member}" for name, member in POINTS.items()]
    text = "\n".join(["[finetune_gateway.backends]", *lines, "bursts = ftg_bursts:Nobody", ""])
    (about / "entry_points.txt").write_text(text)
