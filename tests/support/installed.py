"""A plug-in as pip installs it: its modules, and what says that they are there."""

from __future__ import annotations

import tomllib
from pathlib import Path


def install(site: Path, source: Path) -> None:
    """What pip leaves behind: the modules and their dist-info."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in named.items())
        for group, named in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(points))
    for path in source.glob("*.py"):
        (site / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
