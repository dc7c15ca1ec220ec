"""Variables of the shell of a submit that its worker needs, also after a restart of the machine,
when that shell is gone. Tokens are never kept: of these, only the names are."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

# huggingface.co/docs/huggingface_hub/package_reference/environment_variables
PLACES = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_XET_CACHE", "HF_ENDPOINT", "HF_TOKEN_PATH"),
    "XDG_CACHE_HOME",
)
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class Shell(BaseModel):
    """Where models are looked for, and the names of the variables with tokens that were set."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    places: dict[str, str] = {}
    tokens: tuple[str, ...] = ()


def of(environment: Mapping[str, str]) -> Shell:
    """Return what is kept of a shell; no address that may hold a password."""
    found = {name: environment[name] for name in PLACES if environment.get(name)}
    return Shell(
        places={name: value for name, value in found.items() if "@" not in urlsplit(value).netloc},
        tokens=tuple(name for name in TOKENS if environment.get(name)),
    )


def bring(environment: MutableMapping[str, str], shell: Shell) -> None:
    """Set what was kept, where this environment says nothing else."""
    for name, value in shell.places.items():
        environment.setdefault(name, value)


def missing(environment: Mapping[str, str], shell: Shell, job_id: str) -> str:
    """Return that tokens of the submit are not here, and how to give them; empty if they are."""
    lacking = [name for name in shell.tokens if not environment.get(name)]
    if not lacking:
        return ""
    return (
        f"{' and '.join(lacking)} was set when the job was submitted, and is not set now: tokens "
        "are not kept. A download that needs it fails. Set it in your shell and run: "
        f"ftg pause {job_id}, then ftg resume {job_id}. For a unit of systemd write it into "
        "~/.config/finetune-gateway.env."
    )
