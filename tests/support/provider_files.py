"""The provider's files: uploads, results of jobs and of batches, and why a content is refused."""

from __future__ import annotations

import time
import uuid

from support.provider_memory import ACCOUNT, JSON, Memory, Refused, is_own

# Those of the contract that may be uploaded.
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
INSIDE = ("content", "account")  # what is kept of a file and not shown
FREE_ACCOUNT = (  # OpenAI's words
    "To help mitigate abuse, downloading of fine-tune training files is disabled for free accounts."
)


class Files(Memory):
    free_account: bool = False  # the content of training files is refused
    refused_purposes: tuple[str, ...] = ()  # the content of files of these purposes is refused

    def add_file(self, purpose: str, name: str, content: bytes, expiry: JSON | None = None) -> JSON:
        """Take an upload, as ``POST /files`` does."""
        expiry = expiry or {}
        seconds = int(expiry["seconds"]) if expiry.get("anchor") == "created_at" else None
        if expiry and not (seconds and 3600 <= seconds <= 2_592_000):
            raise ValueError(f"expires_after cannot be {expiry}", "expires_after")
        if purpose not in PURPOSES:
            raise ValueError(f"'{purpose}' is not one of {[*PURPOSES]}", "purpose")
        with self.lock:
            file_id = self.keep_file(purpose, name, content, seconds=seconds)
            self.save()
            return self.file(file_id)

    def keep_file(
        self,
        purpose: str,
        name: str,
        content: bytes,
        *,
        account: str | None = None,
        at: float | None = None,
        seconds: int | None = None,
    ) -> str:
        """Keep a file of whatever purpose, for an account; return its id."""
        created = int(at or time.time())
        file: JSON = {
            "id": f"file-{uuid.uuid4().hex[:22]}",
            "object": "file",
            "bytes": len(content),
            "created_at": created,
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
            "expires_at": created + seconds if seconds else None,
        }
        held = {"content": content.decode("latin-1"), "account": account or ACCOUNT.get()}
        self.files[file["id"]] = {**file, **held}
        return str(file["id"])

    def own_file(self, file_id: str) -> JSON:
        """A file of the project that asks; those of others are said not to be there."""
        held = self.files.get(file_id)
        if held is None or not is_own(held):
            raise Refused(404, f"No such File object: {file_id}", param="id")
        return held

    def file(self, file_id: str) -> JSON:
        return {k: v for k, v in self.own_file(file_id).items() if k not in INSIDE}

    def content(self, file_id: str) -> bytes:
        held = self.own_file(file_id)
        if held["purpose"] in self.refused_purposes:
            purpose = held["purpose"]
            raise Refused(400, f"Not allowed to download files of purpose: {purpose}")
        if self.free_account and held["purpose"] == "fine-tune":
            raise Refused(400, FREE_ACCOUNT)
        return str(held["content"]).encode("latin-1")

    def delete_file(self, file_id: str) -> JSON:
        with self.lock:
            self.own_file(file_id)
            del self.files[file_id]
            self.save()
        return {"id": file_id, "object": "file", "deleted": True}

    def list_files(self, query: dict[str, str]) -> JSON:
        wanted = query.get("purpose")
        files = [self.file(held["id"]) for held in [*self.files.values()][::-1] if is_own(held)]
        return self.page([f for f in files if wanted in (None, f["purpose"])], query, 10000)
