"""What agrees, and what differs."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any


class Checked:
    """Counts what agrees, and keeps what differs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.given: Counter[str] = Counter()
        self.wrong: list[str] = []

    def same(self, kind: str, where: str, shown: Any, ours: Any) -> None:
        self.counts[kind] += 1
        if not equal(shown, ours):
            self.wrong.append(f"{kind} {where}: shown {shown}, derived {ours}")


def equal(shown: Any, ours: Any) -> bool:
    if isinstance(shown, list | tuple) and isinstance(ours, list | tuple):
        return len(shown) == len(ours) and all(map(equal, shown, ours))
    if shown is None or ours is None or isinstance(shown, str) and not _number(shown):
        return bool(shown == ours)
    return math.isclose(float(shown), float(ours), rel_tol=1e-6, abs_tol=1e-9)


def _number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(E-?\d+)?", text) is not None
