"""The result of a job: a small JSON object that any process can load and chat with.

It names its backend; the backend's ``open`` does the chatting.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import PrivateAttr, ValidationError

from finetune_gateway import registry
from finetune_gateway.backend import BY_FTG, Backend, ChatModel, ChatReply, ChatStream
from finetune_gateway.backend.stored_options import require_given
from finetune_gateway.chat import (
    Completes,
    Conversation,
    GivesScores,
    TellsLosses,
    chat_many,
    check_messages,
    parts_of,
    require_encodable,
)
from finetune_gateway.errors import (
    GatewayError,
    NotFoundError,
    SpecError,
    UnsupportedError,
    shown,
    validation_error_text,
)
from finetune_gateway.jobs import downloads, merges
from finetune_gateway.jobs.exported import Exported
from finetune_gateway.model import exact_methods
from finetune_gateway.renderers import renderer
from finetune_gateway.settings.arguments import as_path, require_function
from finetune_gateway.settings.files import write_atomic
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible
from finetune_gateway.tokens.model_folder import has_template, has_tokenizer

if TYPE_CHECKING:
    from openai import OpenAI  # for the type checker alone

FILE_NAME, MANIFEST = downloads.FILE_NAME, downloads.MANIFEST
PROBE_TOKENS = 32  # of a first answer
ROWS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx")  # what files of rows end in

Found = TypeVar("Found")


@exact_methods
class ModelHandle(Exported):
    """A fine-tuned model: where it is, what it was made from, and how to chat with it."""

    _model: ChatModel | None = PrivateAttr(default=None)
    _backend: Backend | None = PrivateAttr(default=None)
    # Raises for a key of another account than that of its job.
    _require_account: Callable[[], None] | None = PrivateAttr(default=None)

    def chat(
        self, messages: str | list[dict[str, Any]], *, system: str | None = None, **sampling: Any
    ) -> ChatReply:
        """Return the answer to a prompt or a list of messages.

        A plain prompt gets the system prompt of the training data, unless ``system`` is another
        one ("" for none). ``sampling``: max_tokens, temperature, top_p, seed, stop, tools. A local
        model refuses others with SpecError; to a host all are sent.
        """
        started = time.perf_counter()
        reply = self._answering().chat(self.as_messages(messages, system), **sampling)
        return reply.model_copy(update={"seconds": time.perf_counter() - started})

    def stream(
        self, messages: str | list[dict[str, Any]], *, system: str | None = None, **sampling: Any
    ) -> ChatStream:
        """Return the answer as an iterator over pieces of its text; arguments as for ``chat``. Its
        ``reply`` is the whole answer once they have ended."""
        return ChatStream(self._answering().stream(self.as_messages(messages, system), **sampling))

    def complete(self, text: str, **sampling: Any) -> ChatReply:
        """Return what goes on with a text, without chat template and system prompt: of a model of
        this machine. ``sampling``: max_tokens, temperature, top_p, seed, stop.

        Raises UnsupportedError for a model of a host.
        """
        started = time.perf_counter()
        reply = self._completing().complete(text, **sampling)
        return reply.model_copy(update={"seconds": time.perf_counter() - started})

    def stream_completion(self, text: str, **sampling: Any) -> ChatStream:
        """Return what goes on with a text as an iterator over its pieces; as ``complete``."""
        return ChatStream(self._completing().stream_completion(text, **sampling))

    def _completing(self) -> Completes:
        self.require_answers()
        model = self._open()
        if not isinstance(model, Completes):
            raise UnsupportedError(
                f"{self.model} does not go on with texts: it answers chats alone.",
                hint="Ask it in a chat, or use a model of this machine.",
                backend=self.backend,
                option="complete",
            )
        return model

    @property
    def has_template(self) -> bool:
        """False for a model folder without a chat template whose model goes on with texts:
        ``complete``."""
        if self.kind == "hosted" or not Path(self.model).is_dir() or has_template(self.model):
            return True
        if self.kind == "adapter" and not has_tokenizer(self.model):
            return True  # its base has them
        return not isinstance(self._open(), Completes)  # a plug-in's folder may be of another kind

    def chat_many(
        self, conversations: Sequence[Conversation], *, system: str | None = None, **sampling: Any
    ) -> list[ChatReply | GatewayError]:
        """Return the answer to each conversation, or the error why there is none: at once where
        the model can, as local ones, else one after the other.

        A conversation is ``{"messages": [...], "tools": [...]}``, the latter if it has tools;
        ``system`` and ``sampling`` are as for ``chat`` and hold for all. An error that is no matter
        of one conversation is raised.
        """
        model = self._answering()
        return self._each(conversations, system, lambda some: chat_many(model, some, **sampling))

    def reference_loss(
        self,
        messages: str | list[dict[str, Any]],
        reference: dict[str, Any],
        tools: list[Any] | None = None,
        *,
        system: str | None = None,
    ) -> float:
        """Return how unlikely a local model finds this answer: its mean negative log-likelihood, in
        nats per token that training on it alone would train, the one that ends it included.

        Raises UnsupportedError for a model that does not tell, as hosted ones.
        """
        row = {"messages": self.as_messages(messages, system), "reference": reference}
        [loss] = self.reference_losses([{**row, "tools": tools}])
        if isinstance(loss, GatewayError):
            raise loss
        return loss

    def reference_losses(self, rows: Sequence[Mapping[str, Any]]) -> list[float | GatewayError]:
        """Return ``reference_loss`` of each row, ``{"messages", "reference", "tools"}``, or the
        error why it has none."""
        model = self._answering()
        if not isinstance(model, TellsLosses):
            raise UnsupportedError(
                f"{self.model} does not tell how likely it finds a given answer.",
                hint="Only models on this machine do.",
                backend=self.backend,
                option="reference_loss",
            )
        return model.reference_losses(rows)

    def score(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None = None,
        *,
        system: str | None = None,
    ) -> float:
        """Return the score that a reward model gives to the last answer of a conversation: higher
        is better, and only differences between answers to one prompt say something.

        Raises UnsupportedError for a model that answers, SpecError for a conversation that does not
        end in an answer, or is too long.
        """
        [found] = self.score_many([{"messages": messages, "tools": tools}], system=system)
        if isinstance(found, GatewayError):
            raise found
        return found

    def score_many(
        self, conversations: Sequence[Conversation], *, system: str | None = None
    ) -> list[float | GatewayError]:
        """Return ``score`` of each conversation, ``{"messages": [...], "tools": [...]}``, or the
        error why it has none."""
        model = self._open()
        if self.kind != "reward" or not isinstance(model, GivesScores):
            raise UnsupportedError(
                f"{visible(self.model)} is no reward model: it gives answers, and no scores.",
                hint="Train one on preference pairs: method='reward'.",
                backend=self.backend,
                option="score",
            )
        return self._each(conversations, system, model.scores)

    def _each(
        self,
        conversations: Sequence[Conversation],
        system: str | None,
        ask: Callable[[list[Conversation]], list[Found | GatewayError]],
    ) -> list[Found | GatewayError]:
        """Return what ``ask`` finds of each conversation, with its system prompt; of what is none
        the error in its place."""
        given: object = conversations
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise SpecError(f"conversations is a list, not {shown(given)}.")
        asked: list[Conversation] = []
        wrong: dict[int, GatewayError] = {}
        for index, one in enumerate(conversations):
            try:
                messages = self.as_messages(parts_of(one)[0], system)
            except SpecError as exc:
                wrong[index] = exc
            else:
                asked.append({**one, "messages": messages})
        found = iter(ask(asked))
        return [wrong[at] if at in wrong else next(found) for at in range(len(conversations))]

    def require_answers(self) -> None:
        """Raise UnsupportedError for a reward model: it gives scores, and no answers."""
        if self.kind == "reward":
            name = visible(self.job_id or self.model)
            raise UnsupportedError(
                f"{name} is a reward model: it scores answers, and gives none.",
                hint=f"To score: handle.score(messages), or ftg chat {name} < FILE.jsonl",
                backend=self.backend,
                option="chat",
            )

    def as_messages(
        self, messages: str | list[dict[str, Any]], system: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the messages that ``chat`` sends for these arguments. Raises SpecError for what is
        no conversation."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        check_messages(messages)
        if system is not None and not isinstance(system, str):
            raise SpecError(
                f"system is a text, not {shown(system)}.", hint="Leave it out, or give a text."
            )
        require_encodable(system or "", "system")
        has_system = any(message.get("role") in ("system", "developer") for message in messages)
        prompt = self.system_prompt if system is None else system
        if has_system or not prompt:
            return list(messages)
        return [{"role": "system", "content": prompt}, *messages]

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out what holds a key, or a loaded model: another process opens its own."""
        state = super().__getstate__()
        names = ("_model", "_backend", "_settings", "_require_account")
        private: dict[str, Any] = dict.fromkeys(names)
        private["_allows_changed_base"] = False
        return state | {"__pydantic_private__": {**(self.__pydantic_private__ or {}), **private}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy of the data that chats through the same backend."""
        memo = {} if memo is None else memo
        shared = (self._model, self._backend, self._settings, self._require_account)
        memo |= {id(one): one for one in shared if one is not None}
        return super().__deepcopy__(memo)

    def attach(
        self,
        backend: Backend,
        settings: Settings | None = None,
        require_account: Callable[[], None] | None = None,
    ) -> None:
        """Use this backend object rather than one built from the stored options; ``settings``: of
        the home that the model is of; ``require_account``: called before anything is asked, raises
        for a key of another account. Raises SpecError for what is no backend."""
        if not isinstance(backend, Backend):
            raise SpecError(f"{shown(backend)} is no backend.")
        self._backend, self._model = backend, backend.open(self)
        self._settings = settings or self._settings
        self._require_account = require_account

    def download(
        self,
        to: str | os.PathLike[str] | None = None,
        *,
        base: str | None = None,
        report: Callable[[str], object] = lambda text: None,
    ) -> Self:
        """Bring the files of this model onto this machine, and return the handle of what is there:
        it answers without the host. Each file is checked by its size and its hash, the folder is
        there whole or not at all, and the same call goes on after a kill.

        Arguments:
            to: A folder that is not there yet; by default one in the home folder.
            base: The base of an adapter here, where it has another name than at the host.
            report: Called with what is being done.

        Raises UnsupportedError for a model that its host gives no files of, SpecError for a folder
        that holds something else, BackendError, StoreError.
        """
        require_function(report, "report", "what is being done")
        settings = self._settings or Settings.load()
        backend = self._backend
        if backend is None:
            backend = registry.restore(self.backend, self.backend_options, settings)
            require_given(backend, "download")  # before a folder is made
        backend.connect()
        if self._require_account is not None:
            self._require_account()
        trained = self.model_copy(update={"model": self.deployment.get("trained", self.model)})
        folder = downloads.folder_of(trained, settings.create()) if to is None else to
        private = to is None
        return self.load(
            downloads.download(trained, backend, folder, base=base, private=private, report=report)
        )

    def merge(
        self,
        to: str | os.PathLike[str],
        *,
        weight: float = 1.0,
        others: Sequence[tuple[ModelHandle, float]] = (),
        dtype: str | None = None,
        report: Callable[[str], None] = merges.say_nothing,
    ) -> Self:
        """Merge this adapter into its base in full precision, and return the handle of the whole
        model: any tool loads it without PEFT. The folder is there whole or not at all, after the
        logits of what was written were compared with those of the adapter on its base.

        Arguments:
            to: A folder that is not there yet.
            weight: How much of the adapter is added.
            others: Adapters on the same base that are added too, and how much of each. Nobody has
                trained their sum: compare it before you use it.
            dtype: float32, bfloat16 or float16; by default that of the base.
            report: Called with what is being done.

        Raises UnsupportedError for what is no adapter on this machine, SpecError for adapters that
        cannot be merged and a folder that holds something, GatewayError if the merged model answers
        otherwise, StoreError.
        """
        merges.require(others, dtype, report)
        parts: list[tuple[ModelHandle, float]] = [(self, weight), *others]
        for one, share in parts:
            merges.require_part(one, share)
        settings = self._settings or Settings.load()
        models = [(one._open(), share) for one, share in parts]
        folder = downloads.place_of(to)
        kept = merges.what_stays(self, parts)
        merged = type(self)(kind="merged", model=str(folder), **kept)
        merges.merge(models, folder, settings.create(), merged.save, dtype, report)
        return self.load(folder)

    def client(self) -> OpenAI:
        """Return a client of OpenAI's SDK that this model answers, in this process: give it to code
        that asks by ``client.chat.completions.create(model=handle.model, ...)``. All that holds for
        ``chat`` holds here: its options, the system prompt of the training data, its guards; errors
        are the SDK's. One answer a request. Raises UnsupportedError for a reward model."""
        self.require_answers()
        found: OpenAI = renderer("ModelHandle.client")(self)
        return found

    def release(self) -> None:
        """Let go of a model that is loaded; the next chat loads it again."""
        if self._backend is not None:
            self._model = self._backend.open(self)

    def connect(self, *, allow_changed_base: bool = False) -> None:
        """Get ready to chat; raise for what makes that impossible, such as a key that is missing or
        may not be sent to this host. Sends nothing.

        ``allow_changed_base``: let an adapter answer although the weights of its base, in a folder
        of this machine, are no longer those that it was trained on. By default it does not.
        """
        if allow_changed_base and self.kind not in ("adapter", "reward"):
            raise SpecError(
                "Only an adapter on this machine has a base that may have changed.",
                hint="Leave --allow-changed-base (allow_changed_base) out.",
            )
        self._allows_changed_base = allow_changed_base
        self._open()
        if self._backend is not None:
            self._backend.connect()

    def require_deployed(self) -> None:
        """Raise NotFoundError for a model that has no deployment to answer through."""
        if self.deploy is not None:
            job, model, deploy = self.job_id or "JOB", visible(self.model), visible(self.deploy)
            ours = (
                f"ftg deploy {job}, or: " if self.backend_options.get("profile") == "azure" else ""
            )
            raise NotFoundError(
                f"Succeeded, not deployed: {model} answers only through a deployment.",
                hint=f"Run: {deploy}, then: ftg chat {job}"
                if deploy.startswith(BY_FTG)
                else f"To deploy it: {ours}{deploy} Then run: ftg chat {job} --model DEPLOYMENT",
            )

    def _answering(self) -> ChatModel:
        self.require_answers()
        return self._open()

    def _open(self) -> ChatModel:
        self.require_deployed()
        if self._model is None:
            self.attach(registry.restore(self.backend, self.backend_options))
            assert self._model is not None  # for the type checker
        if self._require_account is not None:
            self._require_account()
        return self._model

    def save(self, path: str | os.PathLike[str], *, private: bool = False) -> Path:
        """Write the handle as JSON and return the path; in a folder, ``finetune_gateway.json``.

        ``private``: for this user alone, whatever the umask; it holds the system prompt.
        """
        target = as_path(path, "path")
        target = target / FILE_NAME if target.is_dir() else target
        write_atomic(target, self.model_dump_json(indent=2) + "\n", private=private)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a handle from its file, or from the folder that holds it."""
        source = as_path(path, "path")
        source = source / FILE_NAME if source.is_dir() else source
        try:
            handle = cls.model_validate_json(source.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFoundError(
                f"There is no model handle at {str(path)!r}.", hint="Run: ftg list"
            ) from None
        except (ValidationError, UnicodeDecodeError) as exc:
            wrong = isinstance(exc, ValidationError) and validation_error_text(exc)
            raise SpecError(
                f"{source} is not a model handle: {wrong or 'it is not UTF-8 text'}.",
                hint=(
                    "It looks like rows. A model stands here; rows are named where a command asks "
                    "for data, such as --data FILE."
                    if source.suffix.lower() in ROWS
                    else "Was it written by ftg?"
                ),
            ) from None
        # The folder may have been moved, or copied to another machine.
        if handle.kind != "hosted" and (source.parent / MANIFEST).exists():
            handle.model = str(source.parent.absolute())
        return handle
