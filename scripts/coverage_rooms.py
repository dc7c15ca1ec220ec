"""What share of the lines the tests run, room by room: reads the data that ``make cover`` gathers.

python -m scripts.coverage_rooms
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from coverage import Coverage

from scripts.function_sizes import PACKAGE


@dataclass
class Lines:
    """Lines that can run, and how many of them did not."""

    total: int = 0
    missing: int = 0

    def add(self, total: int, missing: int) -> None:
        self.total += total
        self.missing += missing

    def row(self, name: str) -> str:
        share = 100 * (1 - self.missing / self.total) if self.total else 100.0
        return f"{name:<16}{self.total:>8}{self.missing:>9}{share:>8.1f} %"


def by_room(coverage: Coverage) -> dict[str, Lines]:
    """Return the lines of each folder of the package, and of the modules of its root, by name."""
    rooms: dict[str, Lines] = defaultdict(Lines)
    for path in sorted(PACKAGE.rglob("*.py")):
        folder, *rest = path.relative_to(PACKAGE).parts
        _, lines, _, missing, _ = coverage.analysis2(str(path))
        rooms[folder if rest else "(root)"].add(len(lines), len(missing))
    return dict(sorted(rooms.items()))


def main() -> None:
    coverage = Coverage(config_file=str(Path(__file__).resolve().parents[1] / "pyproject.toml"))
    coverage.load()
    rooms, total = by_room(coverage), Lines()
    print(f"{'room':<16}{'lines':>8}{'missing':>9}{'covered':>10}")
    for name, lines in rooms.items():
        total.add(lines.total, lines.missing)
        print(lines.row(name))
    print(total.row("all"))


if __name__ == "__main__":
    main()
