"""The command line of it: exit code 1 if a figure differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.rederive import rederive
from support.rederive.scores import DECLINES, folded


def main() -> int:
    report = Path(sys.argv[4]).read_text("utf-8") if len(sys.argv) > 4 else ""
    if len(sys.argv) > 3:
        languages = json.loads(Path(sys.argv[3]).read_text("utf-8"))["languages"]
        DECLINES.extend(folded(phrase) for phrases in languages.values() for phrase in phrases)
    found = rederive(Path(sys.argv[1]), Path(sys.argv[2]), report)
    assert not any(name.startswith("finetune_gateway") for name in sys.modules)
    print(json.dumps({"checked": found.counts, "given": found.given, "wrong": found.wrong[:50]}))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
