"""Trackers of experiments that get the metrics of a job too (``report_to``): whether one is there,
what it sends where, where its logs lie. Imports none of them.

A tracker goes by variables of the environment. Those of the submit count for all attempts at the
job, whoever starts a worker later: what was said of it then holds. Sources: the trackers' pages on
their variables (docs.wandb.ai/guides/track/environment-variables, mlflow.org/docs/latest/tracking,
huggingface.co/docs/trackio), and transformers' integrations 5.23.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from finetune_gateway.errors import GatewayError, SpecError

PROJECT = "finetune-gateway"
# Without these W&B sends the diff of the folder, code and what is printed; MLflow and others count
# their users.
PRIVATE = {
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


@dataclass(frozen=True)
class Tracker:
    """One tracker: its name for people, its package, and the variables that say where it writes."""

    title: str
    package: str
    variables: tuple[str, ...]


TRACKERS = {
    "tensorboard": Tracker("TensorBoard", "tensorboard", ()),
    "trackio": Tracker("Trackio", "trackio", ("TRACKIO_DIR", "TRACKIO_SPACE_ID")),
    "wandb": Tracker(
        "Weights & Biases",
        "wandb",
        ("WANDB_MODE", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR")
        + ("WANDB_LOG_MODEL", "WANDB_WATCH"),
    ),
    "mlflow": Tracker(
        "MLflow",
        "mlflow",
        ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "HF_MLFLOW_LOG_ARTIFACTS")
        + ("MLFLOW_RUN_ID", "MLFLOW_NESTED_RUN", "MLFLOW_TAGS"),
    ),
}
# What else is sent where a variable says so.
SENT = {
    "WANDB_LOG_MODEL": "the model",
    "WANDB_WATCH": "how its weights or gradients are distributed",
    "HF_MLFLOW_LOG_ARTIFACTS": "the model",
}
# Parts of an address that databases and servers read a secret from.
SECRET = re.compile(r"passw(or)?d|^pass$|pwd|secret|token|api_?key|signature|^sig$", re.IGNORECASE)
# Variables with an address, and where the secret belongs that it must not hold.
INSTEAD = {
    "MLFLOW_TRACKING_URI": "Put it into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN; that of a database into its own file, such as ~/.pgpass.",
    "WANDB_BASE_URL": "Leave it out; the key of W&B is WANDB_API_KEY.",
}


class MissingTracker(GatewayError, ImportError):
    """The tracker that a job is to report to is not installed."""


def require(name: str, environment: Mapping[str, str]) -> None:
    """Raise MissingTracker for a tracker that is not installed, SpecError for one that could not
    begin: it would end the job once its turn has come."""
    if name == "none":
        return
    tracker = TRACKERS[name]
    if find_spec(tracker.package) is None:
        raise MissingTracker(
            f"report_to={name!r} needs {tracker.title}, which is not installed.",
            hint=f"Run: pip install {tracker.package}. Without: 'ftg metrics' has them all.",
        )
    _require_addresses(name, environment)
    if name == "mlflow":
        _require_tags(environment.get("MLFLOW_TAGS", ""))
    if name == "wandb" and _is_remote(name, environment) and not _has_wandb_key(environment):
        raise SpecError(
            "report_to='wandb' has no key of Weights & Biases, and a job cannot ask for one.",
            hint="Run: wandb login, or set WANDB_API_KEY. To keep it here: WANDB_MODE=offline.",
        )


def _require_addresses(name: str, environment: Mapping[str, str]) -> None:
    """Raise SpecError for a tracker's address that cannot be read, or holds a secret."""
    for variable in TRACKERS[name].variables:
        if variable in INSTEAD and environment.get(variable):
            _require_address(variable, environment[variable])


def _require_address(variable: str, address: str) -> None:
    """Raise SpecError for an address that cannot be read, or with a secret: it is shown and kept.
    On the web a name alone is one too: tokens stand in that place."""
    try:
        parts = urlsplit(address)
        asked = [key for key, _ in parse_qsl(f"{parts.query}&{parts.fragment}")]
    except ValueError as exc:
        raise SpecError(f"{variable} is no address: {exc}.", hint="Correct it.") from None
    of_web = parts.scheme in ("http", "https")
    if parts.password or of_web and parts.username or any(map(SECRET.search, asked)):
        raise SpecError(
            f"{variable} holds a password or a token, which would be kept with the job.",
            hint=INSTEAD[variable],
        )


def _require_tags(text: str) -> None:
    """Raise SpecError for tags that end the job as it begins to train."""
    try:
        tags = json.loads(text or "{}")
    except ValueError:
        tags = None
    if not isinstance(tags, dict):
        raise SpecError(
            "MLFLOW_TAGS is no JSON object of names and values.",
            hint='Like MLFLOW_TAGS=\'{"team": "support"}\'.',
        )


def leaving(name: str, environment: Mapping[str, str]) -> str:
    """Return what of a job leaves the machine for its tracker; empty if nothing does. Raises
    SpecError for an address that must not be shown."""
    if name == "none":
        return ""
    _require_addresses(name, environment)
    if not _is_remote(name, environment):
        return ""
    what = "Its losses, settings and the model's name, and no rows, are sent"
    more = [f"{it} ({by})" for by, it in SENT.items() if _is_on(name, by, environment)]
    also = f" Sent too: {', '.join(more)}." if more else ""
    return f"{what} to {_place(name, environment)} (report_to={name}).{also}"


def chosen_variables(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a tracker that are set, to be kept with a job; never a key."""
    if name == "none":
        return {}
    known = TRACKERS[name].variables
    return {variable: environment[variable] for variable in known if environment.get(variable)}


def variables(name: str, folder: Path, job_id: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a tracker in a worker.

    ``folder``: of the run, where its logs lie unless the user has set another place. ``chosen``:
    the variables as they were at the submit.
    """
    defaults = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")},
        "trackio": {},
        "wandb": {"WANDB_PROJECT": PROJECT, "WANDB_DIR": str(folder)},
        "mlflow": {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_EXPERIMENT_NAME": PROJECT,
        },
    }
    one_run = {"WANDB_RUN_ID": job_id, "WANDB_RESUME": "allow"}  # however often it is continued
    return {**PRIVATE, **defaults[name], **chosen, **(one_run if name == "wandb" else {})}


def prepare(name: str, folder: Path, job_id: str, chosen: Mapping[str, str]) -> str:
    """Set the environment of this process for a tracker; return where its logs lie, in words."""
    for variable in TRACKERS[name].variables:  # of whoever has started this worker
        os.environ.pop(variable, None)
    found = variables(name, folder, job_id, chosen)
    os.environ.update(found)
    return logs_text(name, folder, job_id, found)


def logs_text(name: str, folder: Path, job_id: str, found: Mapping[str, str]) -> str:
    """Return where the logs of a run lie, and how to look at them."""
    if name == "tensorboard":
        logs, runs = found["TENSORBOARD_LOGGING_DIR"], folder.parent
        return f"TensorBoard has its logs in {logs}. All jobs: tensorboard --logdir {runs}"
    place = _place(name, found) if _is_remote(name, found) else "this machine"
    if name == "trackio":
        return f"Trackio has run {job_id} on {place}: trackio show --project {PROJECT}"
    if name == "mlflow":
        uri = found["MLFLOW_TRACKING_URI"]
        return f"MLflow has run {job_id} at {uri}: mlflow ui --backend-store-uri {uri}"
    if _is_remote(name, found):
        project = found["WANDB_PROJECT"]
        return f"Weights & Biases has run {job_id} of project {project} at {place}"
    return f"Weights & Biases keeps run {job_id} in {found['WANDB_DIR']}: wandb sync --help"


def _is_remote(name: str, environment: Mapping[str, str]) -> bool:
    if name == "trackio":
        return bool(environment.get("TRACKIO_SPACE_ID"))
    if name == "wandb":
        return environment.get("WANDB_MODE", "online") not in ("offline", "disabled", "dryrun")
    uri = environment.get("MLFLOW_TRACKING_URI", "")
    databricks = uri.startswith("databricks")  # also databricks-uc, without a colon
    is_elsewhere = urlsplit(uri).scheme not in ("", "file", "sqlite") or databricks
    return name == "mlflow" and is_elsewhere


def _place(name: str, environment: Mapping[str, str]) -> str:
    """Return the host that a remote tracker writes to."""
    if name == "trackio":
        return f"the Hugging Face Space {environment['TRACKIO_SPACE_ID']}"
    if name == "wandb":
        return environment.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    return environment["MLFLOW_TRACKING_URI"]


def _is_on(name: str, variable: str, environment: Mapping[str, str]) -> bool:
    wanted = environment.get(variable, "false").lower()
    known = variable in TRACKERS[name].variables
    return known and wanted not in ("", "false", "0", "no", "off")


def _has_wandb_key(environment: Mapping[str, str]) -> bool:
    """Return True if W&B has a key, by its variable or as ``wandb login`` leaves it."""
    if environment.get("WANDB_API_KEY"):
        return True
    path = Path(environment.get("NETRC") or "~/.netrc").expanduser()
    try:
        return "wandb" in path.read_text("utf-8", "replace")
    except OSError:
        return False
