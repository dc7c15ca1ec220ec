"""The picture of the README: what ``ftg preview`` prints on a terminal, as SVG.

Run ``python -m scripts.readme_picture > docs/images/preview.svg`` after a preview has changed.
"""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 80
COMMAND = ("preview", "examples/shop.jsonl", "--row", "2", "--model", "gpt-4.1-mini-2025-04-14")
# rich's own frame loads a font from another host; a picture of ours loads nothing.
FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def picture(text: str) -> str:
    """Return what was printed as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"$ ftg {' '.join(COMMAND)}\n{text}"), soft_wrap=True)
    return console.export_svg(
        title="ftg preview: underlined is what the model learns",
        theme=MONOKAI,
        code_format=FRAME,
        unique_id="ftg",
    )


def printed() -> str:
    """Return what the command prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    env |= {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune_gateway", *COMMAND],
        cwd=ROOT, env=env, stdout=theirs, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while chunk := read(ours):
        text += chunk
    if process.wait():
        raise SystemExit(f"ftg {' '.join(COMMAND)} ended with {process.returncode}")
    return text.decode().replace("\r\n", "\n").rstrip()


def read(terminal: int) -> bytes:
    """Return what comes next; nothing at the end, where Linux has an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


if __name__ == "__main__":
    print(picture(printed()), end="")
