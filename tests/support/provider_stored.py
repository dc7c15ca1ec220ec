"""What the provider keeps of chats with ``store``: listed by model, with their messages."""

from __future__ import annotations

import time
from typing import Any

from support.provider_chat import Chat
from support.provider_memory import ACCOUNT, JSON, MAIN, Refused, is_own

INSIDE = ("account", "messages")  # what is kept of a completion and shown elsewhere
ECHOED = ("tools", "tool_choice", "seed", "temperature", "top_p", "response_format", "metadata")


class Stored(Chat):
    keeps_stored: bool = True

    def chat(self, body: JSON, *, batch: bool = False) -> JSON:
        answer = super().chat(body, batch=batch)
        if body.get("store") and self.keeps_stored:
            with self.lock:
                self.keep_completion(body, answer)
                self.save()
        return answer

    def keep_completion(self, body: JSON, answer: JSON, account: str | None = None) -> JSON:
        asked = {name: body.get(name) for name in ECHOED}
        asked["metadata"] = asked["metadata"] or {}
        more = {"request_id": f"req_{answer['id'][9:]}", "input_user": None}
        inside = {"account": account or ACCOUNT.get(), "messages": body["messages"]}
        kept = {**answer, **asked, **more, **inside}
        kept.update(presence_penalty=0.0, frequency_penalty=0.0)
        self.stored[answer["id"]] = kept
        return kept

    def add_stored(
        self,
        model: str,
        messages: list[JSON],
        *,
        account: str = MAIN,
        days_ago: float = 1.0,
        **body: Any,  # more of the request: tools, metadata, n
    ) -> JSON:
        """Keep a production chat of some days ago; return it as it is listed. Not charged."""
        with self.lock:
            charges, asked = [*self.charges], self.asked.copy()
            request = {"model": model, "messages": messages, **body}
            answer = {**self.chat(request), "created": int(time.time() - days_ago * 86400)}
            self.charges, self.asked = charges, asked
            kept = self.keep_completion(request, answer, account)
            self.save()
            return shown(kept)

    def own_completion(self, name: str) -> JSON:
        kept = self.stored.get(name)
        if kept is None or not is_own(kept):
            raise Refused(404, f"Chat completion '{name}' not found.", param="completion_id")
        return kept

    def list_stored(self, query: dict[str, str]) -> JSON:
        """Oldest first, unless ``order=desc``; by ``model`` and ``metadata[key]``."""
        wanted = {k[9:-1]: v for k, v in query.items() if k.startswith("metadata[")}
        kept = [
            one
            for one in sorted([*self.stored.values()], key=lambda one: int(one["created"]))
            if is_own(one)
            and query.get("model") in (None, one["model"])
            and wanted.items() <= one["metadata"].items()
        ]
        return self.listed([shown(one) for one in kept], query)

    def stored_messages(self, name: str, query: dict[str, str]) -> JSON:
        """The prompt's messages; the answer is in the completion."""
        messages = [
            {
                "name": None,
                **message,
                "id": f"{name}-{at}",
                "content": None if parts(message) else message.get("content"),
                "content_parts": parts(message),
            }
            for at, message in enumerate(self.own_completion(name)["messages"])
        ]
        return self.listed(messages, query)

    def listed(self, items: list[JSON], query: dict[str, str]) -> JSON:
        """One page, with ``first_id`` and ``last_id`` on an empty one too."""
        ordered = items[::-1] if query.get("order") == "desc" else items
        return {"first_id": None, "last_id": None, **self.page(ordered, query, 20)}

    def completion(self, name: str) -> JSON:
        return shown(self.own_completion(name))

    def delete_completion(self, name: str) -> JSON:
        with self.lock:
            self.own_completion(name)
            del self.stored[name]
            self.save()
        return {"id": name, "object": "chat.completion.deleted", "deleted": True}


def shown(kept: JSON) -> JSON:
    return {name: value for name, value in kept.items() if name not in INSIDE}


def parts(message: JSON) -> list[JSON] | None:
    """The parts of a content that came in parts."""
    content = message.get("content")
    return content if isinstance(content, list) else None
