"""A server with the routes and answers of Together's fine-tuning API, as the types of its package
(3.1.1) have them: files, prices, jobs, events, models, chats.

    with TogetherHost() as host:
        together.Together(api_key=host.key, base_url=host.root)

A job goes a stage further with each look at it. ``host.fault("POST /v1/fine-tunes", "html")`` as of
the other providers: see ``provider_faults.Fault``.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.provider_faults import NOT_APPLIED, Answering
from support.provider_memory import JSON
from support.provider_server import Host

BASES = ("Qwen/Qwen3-4B", "meta-llama/Llama-3.3-8B", "openai/gpt-oss-20b")
STAGES = ("pending", "queued", "running", "compressing", "uploading", "completed")
ENDED = ("completed", "cancelled", "error")
LIMITS = {
    "default_gradient_accumulation_steps": 1, "max_learning_rate": 0.1, "min_learning_rate": 1e-8,
    "max_num_checkpoints": 10, "max_num_epochs": 20, "max_num_evals": 100,
    "max_seq_length_dpo": 8192, "max_seq_length_sft": 32768, "min_max_seq_length": 512,
    "merge_output_lora": False, "supports_full_training": True, "supports_reasoning": False,
    "supports_tools": True, "supports_vision": False,
    "lora_training": {"default_rank": 64, "max_batch_size": 96, "max_batch_size_dpo": 48,
                      "max_rank": 128, "min_batch_size": 8, "target_modules": ["q_proj"]},
    "full_training": {"max_batch_size": 96, "max_batch_size_dpo": 48, "min_batch_size": 8},
}  # fmt: skip


class Refusal(Exception):
    """A request that is refused: a status and a sentence."""


class TogetherHandler(Answering):
    provider: TogetherHost

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_PUT(self) -> None:
        self.do_POST()

    def _answer(self, raw: Any) -> None:
        self.more = {}
        split, host = urlsplit(self.path), self.provider
        path = re.sub(r"/(file|ft)-\w+", "/*", split.path)
        host.requests.append((self.command, split.path, raw))
        fault = host.next_fault(f"{self.command} {path}")
        if fault and fault.kind in NOT_APPLIED:
            return self.fail_before(fault)
        try:
            if path.startswith("/v") and self.headers["Authorization"] != f"Bearer {host.key}":
                raise Refusal(401, f"Invalid API key: {self.headers['Authorization']}")
            with host.lock:
                status, body = host.answer(self.command, split.path, split.query, raw, self.more)
        except Refusal as exc:
            status, body = exc.args[0], {"error": {"message": exc.args[1]}}
        if fault:
            return self.fail_after(fault, status, body)
        self.send(status, body)


class TogetherHost(Host):
    """The host's state: ``files`` (their JSON), ``contents``, ``jobs`` (their JSON, oldest first)
    and what each was created with in ``created``.

    ``price``: of each job, in USD; None where it does not say. ``reads``: how many prices are
    refused because a file is still read. ``keeps_suffix``: False for a host that drops it.
    """

    key = "tgp-4fJ2kLm9QwErTy7UiOp3"

    def __init__(self, *, price: float | None = 2.5, reads: int = 0, **host: Any) -> None:
        super().__init__(TogetherHandler, **host)
        self.price, self.reads, self.keeps_suffix = price, reads, True
        self.files: dict[str, JSON] = {}
        self.contents: dict[str, bytes] = {}
        self.checksums: dict[str, str] = {}
        self.jobs: dict[str, JSON] = {}
        self.events: dict[str, list[JSON]] = {}
        self.created: list[JSON] = []

    def answer(
        self, method: str, path: str, query: str, raw: bytes, more: dict[str, str]
    ) -> tuple[int, Any]:
        """Return the status and the body of an answer; ``more`` gets its headers."""
        parts = path.strip("/").split("/")
        match method, parts:
            case "POST", ["v1", "files"]:
                return self._announce(raw, more)
            case "PUT", ["put", name]:
                self.contents[name] = raw
                self.files[name] |= {"bytes": len(raw)}
                return 200, {}
            case "POST", ["v1", "files", name, "preprocess"]:
                self.files[name]["processing_status"] = "COMPLETED"
                return 200, self.files[name]
            case "GET", ["v1", "files"]:
                return 200, {"data": [one for one in self.files.values() if one["bytes"]]}
            case "GET", ["v1", "files", name]:
                return 200, self._of(self.files, name)
            case "GET", ["v2", "supported-models"]:
                return self._models(query)
            case "POST", ["v1", "chat", "completions"]:
                return self._chat(json.loads(raw))
            case _, ["v1", "fine-tunes", *rest]:
                return self._fine_tunes(method, rest, query, raw)
        raise Refusal(404, f"There is no {method} {path}")

    def _of(self, things: dict[str, JSON], name: str) -> JSON:
        if name not in things:
            raise Refusal(404, f"{name} was not found")
        return things[name]

    def _announce(self, raw: bytes, more: dict[str, str]) -> tuple[int, Any]:
        """Give an upload its address; a content that is there is refused with its id."""
        form = {name: values[0] for name, values in parse_qs(raw.decode()).items()}
        pairs = re.findall(rb'name="(\w+)"\r\n\r\n(.*?)\r\n', raw)
        form |= {name.decode(): value.decode() for name, value in pairs}
        if known := self.checksums.get(form["checksum"]):
            return 409, {"file_id": known}
        name = f"file-{len(self.files) + 1}"
        self.checksums[form["checksum"]] = name
        self.files[name] = {
            "id": name, "bytes": 0, "created_at": 1, "filename": form["file_name"],
            "FileType": "jsonl", "object": "file", "purpose": "fine-tune",
            "processing_status": "PENDING",
        }  # fmt: skip
        more |= {"Location": f"{self.root}/put/{name}", "X-Together-File-Id": name}
        return 302, {}

    def _models(self, query: str) -> tuple[int, Any]:
        assert parse_qs(query)["product"] == ["PRODUCT_FINE_TUNING"]
        after = parse_qs(query).get("after", ["0"])[0]
        page = BASES[int(after) : int(after) + 2]
        end = int(after) + 2
        return 200, {
            "data": [{"id": one.lower(), "name": one} for one in page],
            "next_cursor": str(end) if end < len(BASES) else None,
        }

    def _fine_tunes(self, method: str, rest: list[str], query: str, raw: bytes) -> tuple[int, Any]:
        match method, rest:
            case "GET", ["models", "limits"]:
                [model] = parse_qs(query)["model_name"]
                if model not in BASES:
                    raise Refusal(404, f"Model {model} cannot be fine-tuned")
                return 200, {"model_name": model, **LIMITS}
            case "POST", ["estimate-price"]:
                return self._estimate(json.loads(raw))
            case "GET", []:
                return 200, {"data": [*self.jobs.values()]}
            case "POST", []:
                return self._create(json.loads(raw))
            case "GET", [name]:
                return 200, self._look(name)
            case "GET", [name, "events"]:
                self._of(self.jobs, name)
                return 200, {"data": self.events[name]}
            case "POST", [name, "cancel"]:
                job = self._of(self.jobs, name)
                if job["status"] in ENDED:
                    raise Refusal(400, "The job has ended")
                self._move(job, "cancel_requested")
                return 200, job
        raise Refusal(404, f"There is no {method} {rest}")

    def _estimate(self, asked: JSON) -> tuple[int, Any]:
        self._of(self.files, asked["training_file"])
        if self.reads:
            self.reads -= 1
            reason = "train_file_not_validated"
            return 200, {"estimation_available": False, "unavailable_reason": reason}
        if self.price is None:
            reason = "multimodal_dataset"
            return 200, {"estimation_available": False, "unavailable_reason": reason}
        whole = self.price * asked["n_epochs"] + asked.get("n_evals", 0)
        return 200, {
            "estimation_available": True, "allowed_to_proceed": True,
            "estimated_total_price": whole, "estimated_train_token_count": 1000,
        }  # fmt: skip

    def _create(self, asked: JSON) -> tuple[int, Any]:
        self._of(self.files, asked["training_file"])
        self.created.append(asked)
        name = f"ft-{len(self.jobs) + 1}"
        job = {
            **{k: asked.get(k) for k in ("model", "training_file", "n_epochs", "n_evals")},
            "id": name, "status": STAGES[0], "user_id": "u", "created_at": _now(),
            "updated_at": _now(), "suffix": asked.get("suffix") if self.keeps_suffix else None,
            "model_output_name": None, "adapter_output_name": None, "queue_depth": 2,
        }  # fmt: skip
        self.jobs[name], self.events[name] = job, []
        self._report(name, "job_pending", "The job waits.")
        return 200, job

    def _look(self, name: str) -> JSON:
        """Return a job, a stage further than it was."""
        job = self._of(self.jobs, name)
        if job["status"] == "cancel_requested":
            self._move(job, "cancelled")
        elif job["status"] in STAGES and job["status"] != STAGES[-1]:
            self._move(job, STAGES[STAGES.index(job["status"]) + 1])
        return job

    def _move(self, job: JSON, status: str) -> None:
        job |= {"status": status, "queue_depth": None, "updated_at": _now()}
        self._report(job["id"], "job_start", f"The job is {status}.")
        if status == "completed":
            job |= {
                "model_output_name": f"user/{job['model'].rpartition('/')[2]}-{job['suffix']}",
                "token_count": 1234,
                "total_price": int((self.price or 0) * 10**9),
            }

    def _report(self, name: str, kind: str, message: str) -> None:
        event = {"object": "fine-tune-event", "type": kind, "message": message}
        self.events[name].append({**event, "created_at": _now(), "level": "info"})

    def _chat(self, asked: JSON) -> tuple[int, Any]:
        tuned = {job["model_output_name"] for job in self.jobs.values()}
        if asked["model"] not in tuned:
            raise Refusal(404, f"Model {asked['model']} does not answer")
        text = f"You said: {asked['messages'][-1]['content']}"
        same = {"id": "chat-1", "created": 1, "model": asked["model"]}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": text}
            return 200, {
                **same, "object": "chat.completion", "prompt": [],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
            }  # fmt: skip
        pieces = (
            {"index": 0, "delta": {"role": "assistant", "content": f"{word} "}}
            for word in text.split()
        )
        chunk = {**same, "object": "chat.completion.chunk"}
        return 200, iter([{**chunk, "choices": [piece]} for piece in pieces])


def _now() -> str:
    return datetime.now(UTC).isoformat()
