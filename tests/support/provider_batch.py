"""The provider's batches: a file of chats, answered later and in another order.

A batch goes one stage further with each look at it: ``validating``, ``in_progress`` (none done),
``in_progress`` (half done), ``finalizing``, ``completed``; its answers are made, and sold, where
they count as done. ``batch_stage`` holds it where it is.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from support.provider_memory import ACCOUNT, JSON, Refused, is_own
from support.provider_models import base_of
from support.provider_stored import Stored

STAGES = ("validating", "in_progress", "in_progress", "finalizing", "completed")
HALF = 2  # the stage at which half is done
STATUSES = ("in_progress", "finalizing", "completed", "failed", "expired")
TIMES = tuple(f"{name}_at" for name in (*STATUSES, "cancelling", "cancelled"))
ENDPOINT = "/v1/chat/completions"
MOST_LINES = 50_000
WINDOW = 86400
NOT_DONE = {  # OpenAI's words for what expires
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}


class Batches(Stored):
    takes_batches: bool = True  # False: the endpoint is not there
    unbatched: tuple[str, ...] = ()  # models and bases that no batch takes, as at Azure
    batch_stage: int | None = None  # no batch goes beyond it
    batch_expires_after: int | None = None  # lines that are done when every batch expires
    batch_queue_tokens: int | None = None  # a batch with more of them fails

    def create_batch(self, body: JSON) -> JSON:
        if not self.takes_batches:
            raise Refused(404, "Invalid URL (POST /v1/batches)")
        file = self.files.get(str(body.get("input_file_id")))
        if file is None or not is_own(file) or file["purpose"] != "batch":
            raise ValueError("input_file_id must be a file of purpose batch", "input_file_id")
        if body.get("completion_window") != "24h":
            raise ValueError("completion_window must be 24h", "completion_window")
        if body.get("endpoint") != ENDPOINT:
            raise ValueError(f"endpoint must be {ENDPOINT}", "endpoint")
        with self.lock:
            batch: JSON = {
                "id": f"batch_{uuid.uuid4().hex}",
                "object": "batch",
                "endpoint": ENDPOINT,
                "model": None,
                "errors": None,
                "input_file_id": file["id"],
                "completion_window": "24h",
                "status": "validating",
                "output_file_id": None,
                "error_file_id": None,
                "created_at": int(time.time()),
                "expires_at": int(time.time()) + WINDOW,
                **dict.fromkeys(TIMES),
                "request_counts": {"total": 0, "completed": 0, "failed": 0},
                "usage": usage([]),
                "metadata": body.get("metadata"),
            }
            inside = {"account": ACCOUNT.get(), "stage": 0, "lines": [], "done": [], "file": file}
            self.batches[batch["id"]] = {**batch, "inside": inside}
            self.save()
            return shown(batch)

    def own_batch(self, name: str) -> JSON:
        batch = self.batches.get(name)
        if batch is None or not is_own(batch["inside"]):
            raise Refused(404, f"No batch found with id '{name}'.")
        return batch

    def batch(self, name: str) -> JSON:
        """Take it one stage further, and show it."""
        with self.lock:
            batch = self.own_batch(name)
            if batch["status"] == "cancelling":
                self.end(batch, "cancelled")
            elif batch["status"] in ("validating", "in_progress", "finalizing"):
                self.advance(batch)
            self.save()
            return shown(batch)

    def list_batches(self, query: dict[str, str]) -> JSON:
        """Newest first; a list takes none further."""
        kept = [shown(one) for one in [*self.batches.values()][::-1] if is_own(one["inside"])]
        return {"first_id": None, "last_id": None, **self.page(kept, query, 20)}

    def cancel_batch(self, name: str) -> JSON:
        with self.lock:
            batch = self.own_batch(name)
            if batch["status"] not in ("validating", "in_progress", "finalizing"):
                raise Refused(409, f"Cannot cancel a batch with status '{batch['status']}'.")
            batch.update(status="cancelling", cancelling_at=int(time.time()))
            self.save()
            return shown(batch)

    # Its way

    def advance(self, batch: JSON) -> None:
        inside = batch["inside"]
        if self.batch_stage is not None and inside["stage"] >= self.batch_stage:
            return
        if inside["stage"] == 0:
            faults = self.faults_of(batch)
            if faults:
                return self.fail(batch, faults)
        inside["stage"] += 1
        total, stage = len(inside["lines"]), inside["stage"]
        due = 0 if stage < HALF else total // 2 if stage == HALF else total
        most = self.batch_expires_after
        self.work(batch, due if most is None else min(due, most))
        if most is not None and due > most:
            return self.end(batch, "expired")
        if STAGES[stage] == "completed":
            return self.end(batch, "completed")
        batch["status"] = STAGES[stage]
        batch[f"{STAGES[stage]}_at"] = batch[f"{STAGES[stage]}_at"] or int(time.time())

    def faults_of(self, batch: JSON) -> list[JSON]:
        """Read the lines; return what is wrong with them, by OpenAI's codes."""
        raw = str(batch["inside"]["file"]["content"]).encode("latin-1")
        found: list[JSON] = []
        lines: list[JSON] = []
        for number, text in enumerate(raw.splitlines(), 1):
            try:
                line = json.loads(text)
                lines.append({key: line[key] for key in ("custom_id", "method", "url", "body")})
            except (ValueError, KeyError, TypeError):
                said = "This line is not parseable as valid JSON."
                found.append(fault("invalid_json_line", said, number))
        batch["inside"]["lines"] = lines
        batch["request_counts"]["total"] = len(lines)
        batch["model"] = lines[0]["body"].get("model") if lines else None
        if not lines and not found:
            found.append(fault("empty_file", "The input file contains no requests."))
        if len(lines) > MOST_LINES:
            found.append(fault("too_many_tasks", f"There are more than {MOST_LINES} requests."))
        return found + self.faults_of_lines(lines)

    def faults_of_lines(self, lines: list[JSON]) -> list[JSON]:
        found: list[JSON] = []
        names: set[str] = set()
        for number, line in enumerate(lines, 1):
            model = str(line["body"].get("model"))
            if line["custom_id"] in names:
                said = f"The custom_id '{line['custom_id']}' for this request is a duplicate."
                found.append(fault("duplicate_custom_id", said, number, "custom_id"))
            if (line["method"], line["url"]) != ("POST", ENDPOINT):
                said = "The URL provided for this request does not match the batch endpoint."
                found.append(fault("mismatched_url", said, number, "url"))
            if model != lines[0]["body"].get("model"):
                said = "The provided model does not match that of the first request."
                found.append(fault("mismatched_model", said, number, "body.model"))
            names.add(line["custom_id"])
        model = str(lines[0]["body"].get("model")) if lines else ""
        if lines and self.refuses_batches_of(model):
            said = f"The provided model '{model}' is not supported by the Batch API."
            found.append(fault("model_not_found", said, 1, "body.model"))
        queued = sum(self.token_count(line["body"].get("messages")) for line in lines)
        if self.batch_queue_tokens is not None and queued > self.batch_queue_tokens:
            said = (
                f"Enqueued token limit reached. Limit: {self.batch_queue_tokens} enqueued tokens."
            )
            found.append(fault("token_limit_exceeded", said))
        return found

    def refuses_batches_of(self, model: str) -> bool:
        if {model, base_of(model)} & {*self.unbatched}:
            return True
        try:
            self.require_answers(model)
        except Refused:
            return True
        return False

    def fail(self, batch: JSON, faults: list[JSON]) -> None:
        batch["errors"] = {"object": "list", "data": faults}
        batch.update(status="failed", failed_at=int(time.time()))

    def work(self, batch: JSON, due: int) -> None:
        """Answer lines, the last one first, until so many are done."""
        inside = batch["inside"]
        for line in inside["lines"][::-1][len(inside["done"]) : due]:
            inside["done"].append({**result(line), "response": self.response(line["body"])})
        failed = sum(one["response"]["status_code"] != 200 for one in inside["done"])
        batch["request_counts"].update(failed=failed, completed=len(inside["done"]) - failed)
        batch["usage"] = usage(inside["done"])

    def response(self, body: JSON) -> JSON:
        try:
            status, answer = 200, self.chat(body, batch=True)
        except Refused as refused:
            status, answer = refused.status, refused.body
        except ValueError as wrong:
            status, answer = 400, Refused(400, str(wrong.args[0]), code="invalid_value").body
        return {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": answer}

    def end(self, batch: JSON, status: str) -> None:
        """Write the files: what was done, and what failed or was not done."""
        inside = batch["inside"]
        good = [one for one in inside["done"] if one["response"]["status_code"] == 200]
        bad = [one for one in inside["done"] if one["response"]["status_code"] != 200]
        code = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(status)
        for line in inside["lines"][::-1][len(inside["done"]) :]:
            said = {"code": code, "message": NOT_DONE.get(str(code))}
            bad.append({**result(line), "response": None, "error": said})
        batch["output_file_id"] = self.lines_file(batch, "output", good)
        batch["error_file_id"] = self.lines_file(batch, "error", bad)
        batch.update({"status": status, f"{status}_at": int(time.time())})

    def lines_file(self, batch: JSON, kind: str, lines: list[JSON]) -> str | None:
        """None without a line, as it is at OpenAI where every request failed."""
        if not lines:
            return None
        raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
        name, account = f"{batch['id']}_{kind}.jsonl", batch["inside"]["account"]
        return self.keep_file("batch_output", name, raw, account=account)


def shown(batch: JSON) -> JSON:
    return {name: value for name, value in batch.items() if name != "inside"}


def fault(code: str, message: str, line: int | None = None, param: str | None = None) -> JSON:
    return {"code": code, "message": message, "line": line, "param": param}


def result(line: JSON) -> JSON:
    name = f"batch_req_{uuid.uuid4().hex}"
    return {"id": name, "custom_id": line["custom_id"], "response": None, "error": None}


def usage(done: list[JSON]) -> JSON:
    """The tokens of all answers, in the words of this API."""
    found: list[dict[str, Any]] = [one["response"]["body"].get("usage") or {} for one in done]
    read = sum(one.get("prompt_tokens", 0) for one in found)
    written = sum(one.get("completion_tokens", 0) for one in found)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
