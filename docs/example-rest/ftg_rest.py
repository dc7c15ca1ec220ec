"""A backend for a service with an API of its own: own states, paid by the GPU hour, a model that
answers only while it is deployed, and an adapter that can be downloaded.

The service is made up, its prices too: PUT /datasets/SHA256, POST /runs, GET /runs?label=JOB,
/runs/ID, /runs/ID/files/NAME, POST /runs/ID/stop, PUT and DELETE /endpoints/NAME, POST .../chat.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2

import finetune_gateway.backend as ftg

STATES = {
    "WAITING": ftg.JobStatus.QUEUED,
    "BOOTING": ftg.JobStatus.QUEUED,
    "TRAINING": ftg.JobStatus.RUNNING,
    "SAVING": ftg.JobStatus.RUNNING,
    "DONE": ftg.JobStatus.SUCCEEDED,
    "BROKEN": ftg.JobStatus.FAILED,
    "STOPPED": ftg.JobStatus.CANCELLED,
}
TOKENS_A_SECOND = 4_000  # trained on one A100, as the service says


class RestBackend(ftg.Backend):
    """Trains a LoRA at the service. ``key_env``: the variable that holds the key."""

    name = "rest"
    gateway_options = frozenset({"keys", "http_client", "proxy", "timeout"})

    def __init__(
        self, url: str = "https://rest.example/v1", key_env: str = "REST_API_KEY", gpu: str = "A100"
    ) -> None:
        self.url, self.key_env, self.gpu = url.rstrip("/"), key_env, gpu
        self.settings = ftg.Settings.load()

    def bind(self, settings: ftg.Settings) -> None:
        self.settings = settings

    def options(self) -> dict[str, Any]:
        return {"url": self.url, "key_env": self.key_env, "gpu": self.gpu}

    def identity(self) -> dict[str, Any]:
        return {"url": self.url, "gpu": self.gpu}

    def account(self) -> str | None:
        key = self.key(self.key_env, self.url)
        return self.settings.fingerprint(self.url, key) if key else None

    # -- before anything is sent: no key, no network ------------------------------------

    def capabilities(self, model: str | None = None) -> ftg.Capabilities:
        return ftg.Capabilities(
            hosted=True,
            methods=frozenset({"sft"}),
            training_types=frozenset({"lora"}),
            options=frozenset({"learning_rate", "lora_r"}),
            refuses=frozenset({"suffix", "seed"}),
            poll_seconds=(0.2, 30.0),
            settle_seconds=10.0,
        )

    def check(self, spec: ftg.TrainingSpec) -> None:
        self.required_key(self.key_env, self.url)

    def counter(self, spec: ftg.TrainingSpec) -> ftg.HostedCounter:
        return ftg.HostedCounter(spec.model)

    def price(self) -> ftg.Price:
        """Return the price of a GPU hour: a row of the user's, else the list price."""
        own = ftg.find_price(self.name, self.gpu, "gpu_hour", extra=self.settings.prices)
        return own or ftg.Price(
            backend=self.name, model=self.gpu, unit="gpu_hour", usd=Decimal("2.10"),
            as_of=date(2026, 11, 2), source="the price list of the service",
        )  # fmt: skip

    def estimate(
        self,
        spec: ftg.TrainingSpec,
        tokens: ftg.TokenStats,
        validation: ftg.TokenStats | None = None,
    ) -> ftg.Estimate:
        *epochs, rule = ftg.epochs_of(spec, tokens.rows)
        low, expected, high = (tokens.total * int(n) / TOKENS_A_SECOND for n in epochs)
        seconds = {"low": low / 2 + 60, "expected": expected + 120, "high": high * 2 + 600}
        usd = {name: self.price().usd * round(each) / 3600 for name, each in seconds.items()}
        return ftg.Estimate(
            backend=self.name, model=spec.model, method=spec.method, n_epochs=int(epochs[1]),
            n_epochs_rule=rule, tokens=tokens, gpu=self.gpu, seconds=ftg.Range(**seconds),
            cost_usd=ftg.Range(**usd), prices=[self.price()], data_leaves_machine=True,
        )  # fmt: skip

    # -- the job ------------------------------------------------------------------------

    def upload(self, file: ftg.DataFile) -> str:
        self.send("PUT", f"/datasets/{file.sha256}", content=file.path.read_bytes())
        return file.sha256

    def find_upload(self, file: ftg.DataFile) -> str | None:
        there = self.send("GET", f"/datasets/{file.sha256}", absent=True)
        return None if there is None else file.sha256

    def start(
        self,
        job_id: str,
        spec: ftg.TrainingSpec,
        train: ftg.DataFile,
        validation: ftg.DataFile | None,
    ) -> str:
        # The label is ours alone: a run whose answer was lost is found by it.
        wanted = {"label": job_id, "base": spec.model, "gpu": self.gpu, "dataset": train.remote_id}
        wanted |= {"held_out": validation.remote_id} if validation else {}
        wanted |= spec.model_dump(include={"n_epochs", "learning_rate", "lora_r"})
        return str(self.send("POST", "/runs", json=wanted)["id"])

    def find(self, intent: ftg.Intent) -> str | None:
        runs = self.send("GET", f"/runs?label={intent.job_id}")["runs"]
        return runs[0]["id"] if runs else None

    def poll(self, provider_id: str, cursor: str | None) -> ftg.Snapshot:
        run = self.send("GET", f"/runs/{provider_id}?after={cursor or 0}")
        status, result = STATES.get(run["state"], ftg.JobStatus.UNKNOWN), None
        if status is ftg.JobStatus.SUCCEEDED:
            files = [ftg.Artifact(kind="adapter", **one) for one in run["files"]]
            result = ftg.Result(
                kind="hosted", model=provider_id, deploy=ftg.BY_FTG, artifacts=files
            )
        return ftg.Snapshot(
            status=status, raw_status=run["state"], job_id=run["label"], result=result,
            events=[ftg.Event(**line) for line in run["log"]], cursor=str(run["lines"]),
            cost_usd=run["usd"], seconds=run["gpu_seconds"], error=run["error"],
            progress=run["done"], place_in_line=run["place"],
        )  # fmt: skip

    def cancel(self, provider_id: str) -> None:
        self.send("POST", f"/runs/{provider_id}/stop")

    # -- the model ----------------------------------------------------------------------

    def download(self, artifact: ftg.Artifact, handle: ftg.HandleData, folder: Path) -> None:
        raw = self.send("GET", f"/runs/{handle.model}/files/{artifact.name}")
        (folder / artifact.name).write_bytes(raw)

    def deployment_price(self, handle: ftg.HandleData) -> ftg.Price:
        return self.price()

    def deploy(self, handle: ftg.HandleData, name: str) -> str:
        return str(self.send("PUT", f"/endpoints/{name}", json={"run": handle.model})["name"])

    def end_deployment(self, handle: ftg.HandleData, name: str) -> bool:
        return self.send("DELETE", f"/endpoints/{name}", absent=True) is not None

    def open(self, handle: ftg.HandleData) -> RestChat:
        return RestChat(self, handle.model)

    def send(self, method: str, path: str, *, absent: bool = False, **body: Any) -> Any:
        """Return the answer, as JSON or bytes; None for a 404, where something may be absent."""
        key, writes = self.required_key(self.key_env, self.url), method != "GET"
        client, headers = self.http_client(self.url), {"Authorization": f"Bearer {key}"}
        try:
            answer = client.request(method, path, headers=headers, **body)
        except httpx2.HTTPError as exc:
            sent = writes and not isinstance(exc, httpx2.ConnectError)  # it may have arrived
            why = f"No answer from {self.url}: {type(exc).__name__}."
            error = {"backend": self.name, "retryable": True, "maybe_applied": sent}
            raise ftg.BackendError(why, **error) from None
        code, wait = answer.status_code, answer.headers.get("retry-after")
        if code == 404 and absent:
            return None
        if code in (401, 403):
            raise ftg.AuthenticationError("The service refuses the key.", backend=self.name)
        if answer.is_error:
            raise ftg.BackendError(
                f"The service says {code}: {answer.text[:200]}", backend=self.name,
                status_code=code, retryable=code == 429 or code >= 500,
                maybe_applied=writes and code >= 500, retry_after=float(wait) if wait else None,
            )  # fmt: skip
        return answer.json() if "json" in answer.headers["content-type"] else answer.content


class RestChat:
    """A deployment that answers."""

    def __init__(self, backend: RestBackend, endpoint: str) -> None:
        self.backend, self.path = backend, f"/endpoints/{endpoint}/chat"

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ftg.ChatReply:
        answer = self.backend.send("POST", self.path, json={"messages": messages, **sampling})
        return ftg.ChatReply(**answer)

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        yield self.chat(messages, **sampling).text
