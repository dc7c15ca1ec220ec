"""The provider's endpoints: what each answers from, and the scope that a restricted key needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.provider_faults import NOT_APPLIED, Answering, Fault
from support.provider_memory import ACCOUNT, JSON, Refused
from support.provider_state import World

if TYPE_CHECKING:
    from support.provider import Provider

# The part of a path that is an id, where it is not the one after the first.
ID_AT = {
    "/fine_tuning/": 3,
    "/chat/completions": 3,
    "/organization/": 99,
}
LACKING = (  # OpenAI's words (issue 32989 of microsoft/PowerToys)
    "You have insufficient permissions for this operation. Missing scopes: {}. Check that you have "
    "the correct role in your organization (Reader, Writer, Owner) and project (Member, Owner), "
    "and if you're using a restricted API key, that it has the necessary scopes."
)


class Handler(Answering):
    """One connection: who asks, for what, and which fault is due."""

    provider: Provider

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        if split.path == "/_provider":
            return self.control()
        self.query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.route = unquote(split.path).removeprefix("/v1")
        sent = {name.lower(): value for name, value in self.headers.items()}
        with self.provider.lock:
            self.provider.given_up[self.route] += self.command == "POST" and self.is_given_up()
        self.provider.count(self.command, self.route, sent)
        endpoint = f"{self.command} {starred(self.route)}"
        self.answer(endpoint, self.provider.next_fault(endpoint))

    do_POST = do_DELETE = do_GET

    def control(self) -> None:
        """What a test in another process wants to know, and to change."""
        asked = json.loads(self.body) if self.command == "POST" else {}
        for name in {"keys", "admin_keys", "lacks"} & {*asked}:  # from now on these, and no others
            setattr(self.provider, name, asked[name])
        if "fine_tunes" in asked:  # arguments of World.add_fine_tunes
            self.world.add_fine_tunes(**asked["fine_tunes"])
        for name, value in asked.get("world", {}).items():
            setattr(self.world, name, value)
        if "endpoint" in asked:
            self.provider.fault(asked.pop("endpoint"), Fault(**asked))
        self.more = {}
        whole = urlsplit(self.path).query == "whole"
        self.send_json(200, self.provider.whole_report() if whole else self.provider.report())

    def answer(self, endpoint: str, fault: Fault | None) -> None:
        kind = fault.kind if fault else "ok"
        self.more = {}
        if fault and kind in NOT_APPLIED:
            return self.fail_before(fault)
        if fault and kind == "slow":
            self.provider.sleep(fault.seconds)
        status, body = self.applied(endpoint)
        if fault:
            return self.fail_after(fault, status, body)
        self.send(status, body)

    def applied(self, endpoint: str) -> tuple[int, Any]:
        try:
            self.authorise(endpoint)
            action = ROUTES.get(endpoint)
            if action is None:
                raise Refused(404, f"Invalid URL ({self.command} {self.path})")
            if self.world.limits_all and action is not Handler.chat:
                self.more |= self.world.admit()
            return 200, action(self)
        except Refused as refused:
            self.more |= refused.headers
            return refused.status, refused.body
        except KeyError as missing:
            what = missing.args[0]
            return 404, Refused(404, f"No such object: {what}", code="not_found", param="id").body
        except ValueError as wrong:
            message, param = (*wrong.args, None)[:2]
            return 400, Refused(400, str(message), code="invalid_value", param=param).body

    def authorise(self, endpoint: str) -> None:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        given = given or self.headers.get("api-key") or ""  # Azure's header
        provider, admin = self.provider, starred(self.route).startswith(ADMIN)
        account = (provider.admin_keys if admin else provider.keys).get(given)
        if account is None and given in {**provider.keys, **provider.admin_keys}:
            scope = "api.usage.read" if admin else SCOPES.get(endpoint, "model.request")
            code = "missing_scope" if provider.admin_refusal == 401 else None
            raise Refused(provider.admin_refusal, LACKING.format(scope), code=code)
        if account is None:
            shown = f"{given[:7]}{'*' * 12}{given[-4:]}"
            raise Refused(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")
        scope = SCOPES.get(endpoint, "")
        if scope in provider.lacks.get(given, ()):
            raise Refused(401, LACKING.format(scope), code="missing_scope")
        project = self.headers.get("OpenAI-Project")
        ACCOUNT.set(f"{account} {project}" if project else account)

    # What each route needs

    @property
    def world(self) -> World:
        return self.provider.world

    @property
    def id(self) -> str:
        return self.route.split("/")[id_at(self.route)]

    def json(self) -> JSON:
        try:
            body = json.loads(self.body or b"{}")
        except ValueError:
            raise Refused(400, "We could not parse the JSON body of your request.") from None
        if not isinstance(body, dict):
            raise Refused(400, "The body must be a JSON object.")
        return body

    def chat(self) -> JSON | Iterator[JSON]:
        body = self.json()
        self.more |= self.world.admit(body)
        self.world.require_answers(str(body.get("model")))
        self.world.require_keys(body)
        streamed = body.get("stream") and self.world.streams
        answer = self.world.stream(body) if streamed else self.world.chat(body)
        self.world.wait()
        return answer


def id_at(path: str) -> int:
    return next((at for start, at in ID_AT.items() if path.startswith(start)), 2)


def starred(path: str) -> str:
    """``/files/file-1/content`` -> ``/files/*/content``: the name of an endpoint."""
    parts, at = path.split("/"), id_at(path)
    if len(parts) > at:
        parts[at] = "*"
    return "/".join(parts)


def multipart(handler: Handler) -> tuple[str, str, bytes, JSON]:
    """(purpose, file name, content, ``expires_after``) of an upload, cut exactly at the
    boundaries."""
    marker = handler.headers.get("Content-Type", "").partition("boundary=")[2].strip('"')
    if not marker:
        raise Refused(400, "Expected multipart/form-data.")
    purpose, name, content = "", "", b""
    expiry: JSON = {}
    for part in handler.body.split(b"--" + marker.encode())[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        value = value.removesuffix(b"\r\n")
        if b'name="purpose"' in head:
            purpose = value.decode()
        elif b'name="file"' in head:
            name = head.partition(b'filename="')[2].partition(b'"')[0].decode()
            content = value
        elif b'name="expires_after[' in head:
            expiry[head.partition(b"[")[2].partition(b"]")[0].decode()] = value.decode()
    return purpose, name, content, expiry


ROUTES: dict[str, Callable[[Handler], Any]] = {
    "POST /files": lambda h: h.world.add_file(*multipart(h)),
    "GET /files": lambda h: h.world.list_files(h.query),
    "GET /files/*": lambda h: h.world.file(h.id),
    "DELETE /files/*": lambda h: h.world.delete_file(h.id),
    "GET /files/*/content": lambda h: h.world.content(h.id),
    "POST /fine_tuning/jobs": lambda h: h.world.create(h.json()),
    "GET /fine_tuning/jobs": lambda h: h.world.list_jobs(h.query),
    "GET /fine_tuning/jobs/*": lambda h: h.world.retrieve(h.id),
    "GET /fine_tuning/jobs/*/events": lambda h: h.world.list_events(h.id, h.query),
    "GET /fine_tuning/jobs/*/checkpoints": lambda h: h.world.list_checkpoints(h.id, h.query),
    "POST /fine_tuning/jobs/*/cancel": lambda h: h.world.cancel(h.id),
    "POST /fine_tuning/jobs/*/pause": lambda h: h.world.pause(h.id),
    "POST /fine_tuning/jobs/*/resume": lambda h: h.world.resume(h.id),
    "GET /models": lambda h: h.world.list_models(),
    "GET /models/*": lambda h: h.world.model(h.id),
    "DELETE /models/*": lambda h: h.world.delete_model(h.id),
    "POST /chat/completions": Handler.chat,
    "GET /chat/completions": lambda h: h.world.list_stored(h.query),
    "GET /chat/completions/*": lambda h: h.world.completion(h.id),
    "DELETE /chat/completions/*": lambda h: h.world.delete_completion(h.id),
    "GET /chat/completions/*/messages": lambda h: h.world.stored_messages(h.id, h.query),
    "POST /batches": lambda h: h.world.create_batch(h.json()),
    "GET /batches": lambda h: h.world.list_batches(h.query),
    "GET /batches/*": lambda h: h.world.batch(h.id),
    "POST /batches/*/cancel": lambda h: h.world.cancel_batch(h.id),
    "GET /organization/usage/completions": lambda h: h.world.usage(h.query),
    "GET /organization/costs": lambda h: h.world.costs(h.query),
    "GET /fine_tuning/checkpoints/*/permissions": lambda h: h.world.list_permissions(h.query),
}

# Read in tests of the Terraform provider for OpenAI and in refusals people posted; those of
# writing are formed alike. Batches and stored completions have scopes that no source names.
SCOPES = {
    endpoint: scope
    for scope, endpoints in {
        "api.model.read": ("GET /models", "GET /models/*"),
        "api.files.read": ("GET /files", "GET /files/*", "GET /files/*/content"),
        "api.files.write": ("POST /files", "DELETE /files/*"),
        "api.fine_tuning.jobs.read": (
            *("GET /fine_tuning/jobs", "GET /fine_tuning/jobs/*"),
            *("GET /fine_tuning/jobs/*/events", "GET /fine_tuning/jobs/*/checkpoints"),
        ),
        "api.fine_tuning.jobs.write": (
            *("POST /fine_tuning/jobs", "POST /fine_tuning/jobs/*/cancel"),
            *("POST /fine_tuning/jobs/*/pause", "POST /fine_tuning/jobs/*/resume"),
        ),
        "model.request": ("POST /chat/completions",),
    }.items()
    for endpoint in endpoints
}
ADMIN = ("/organization/", "/fine_tuning/checkpoints/")  # for these an admin key is needed
