"""What pip leaves behind of a package with a backend."""

from __future__ import annotations

from pathlib import Path


def installed(site: Path, target: str, name: str = "acme") -> None:
    """Make a backend known by name in a folder of the import path; its module is elsewhere."""
    about = site / f"ftg_{name}-0.1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ftg-{name}\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(f"[finetune_gateway.backends]\n{name} = {target}\n")
