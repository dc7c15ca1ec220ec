"""Leaving a host before it stops: take stock of its fine-tunes, save them, plan where they go.

    from finetune_gateway import migration

    for one in migration.list_fine_tunes("openai").fine_tunes:
        print(one.model, one.days_left)

Each function imports what it needs when it is called: the SDK of hosted backends among it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from finetune_gateway.model import exact_keywords

if TYPE_CHECKING:
    from finetune_gateway.backend import Backend
    from finetune_gateway.backends.openai.management import ModelFacts
    from finetune_gateway.jobs.handle import ModelHandle
    from finetune_gateway.jobs.removal import Forgotten
    from finetune_gateway.migration.archived import Archive
    from finetune_gateway.migration.fetching import OnProgress
    from finetune_gateway.migration.inventory import Inventory
    from finetune_gateway.migration.moves import MovePlan


@exact_keywords
def list_fine_tunes(
    backends: str | Backend | Sequence[str | Backend] = "openai",
    models: str | Iterable[str] | None = None,
    *,
    admin: Backend | None = None,
    checkpoints: bool = True,
    every: bool = False,
    home: str | os.PathLike[str] | None = None,
    on_progress: Callable[[str], object] | None = None,
) -> Inventory:
    """Return every fine-tune that these keys see at their host: what is lost first comes first.

    One list of jobs, of models and of files is read for each key, and the checkpoints of each
    fine-tune. Nothing is changed or spent.

    Arguments:
        backends: A host by name, or an OpenAIBackend for each key of one host.
        models: These alone: ids of models, of jobs, or the last part of one. By default all.
        admin: The same host with an admin key: what was really paid, and the last use.
        checkpoints: False asks for none, which saves a request for each fine-tune.
        every: Jobs that failed or were cancelled without a model, too.
        home: The folder with your jobs, by default FTG_HOME: which fine-tunes are yours.
        on_progress: Called with what is being done.

    Raises SpecError for a backend that is no host of OpenAI's contract and for several hosts,
    AuthenticationError for a key that is not set, BackendError if no key was shown any job or
    model, NotFoundError for one of ``models`` that none of them sees.
    """
    from finetune_gateway.migration import listing

    return listing.list_fine_tunes(
        backends,
        models=models,
        admin=admin,
        checkpoints=checkpoints,
        every=every,
        home=home,
        on_progress=on_progress or (lambda text: None),
    )


@exact_keywords
def fetch(
    models: str | Iterable[str] | None = None,
    backends: str | Backend | Sequence[str | Backend] = "openai",
    *,
    stored: bool = False,
    home: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Archive:
    """Save what a host keeps of fine-tunes into the home folder, and return what is there: jobs,
    files, events, metrics, checkpoints. What is saved is not asked for again.

    Arguments:
        models: Ids of models or of their host's jobs, or the last part of one. By default all that
            these keys see.
        backends: A host by name, or an OpenAIBackend for each key.
        stored: Save stored completions too: what was asked in production, and the answers.
        home: Where to save, by default FTG_HOME.
        on_progress: Called with the fine-tunes done, those there are, and the one in work.
        on_wait: Called with seconds before a wait that the host asks for.

    Raises NotFoundError for a name that no key sees, BackendError if no key is shown any job,
    StoreError for what cannot be written, and while another process fetches. What a host refuses
    for one fine-tune is in the result.
    """
    from finetune_gateway.migration import fetching

    return fetching.fetch(
        models, backends, home, stored=stored, on_progress=on_progress, on_wait=on_wait
    )


@exact_keywords
def add_model(
    model: str,
    backends: str | Backend | Sequence[str | Backend] = "openai",
    *,
    home: str | os.PathLike[str] | None = None,
) -> ModelHandle:
    """Make a fine-tune of a host, or a checkpoint of one, a model of this home; return its handle.

    It is asked once, for at most 32 tokens, and ``ready`` when it has answered; why it has not is
    in ``warnings``. The system prompt is that of its training file, if that was fetched.

    Arguments:
        model: Its id at the host: ``ft:...`` or ``ft:...:ckpt-step-20``.
        backends: A host by name, or an OpenAIBackend for each key: the first that has it is kept.
        home: Where it is kept, by default FTG_HOME.

    Raises NotFoundError for a model that is not there, AuthenticationError for a key that is
    missing or may not be sent to the host.
    """
    from finetune_gateway.migration import adding

    return adding.add_model(model, backends, home)


@exact_keywords
def remove(name: str, *, home: str | os.PathLike[str] | None = None) -> list[Forgotten]:
    """Remove what was fetched and added of a model of a host, a checkpoint, or a job there, from
    this home; return what went. Nothing changes at the host.

    Raises StoreError for what cannot be deleted, and while a process fetches.
    """
    from finetune_gateway.jobs import removal
    from finetune_gateway.settings.home import Settings

    return removal.forget(Settings.load(home), name)


@exact_keywords
def plan(
    model: str,
    backends: str | Backend | Sequence[str | Backend] = "openai",
    *,
    local_models: Sequence[str] | None = None,
    azure_url: str | None = None,
    azure_models: Sequence[ModelFacts] | None = None,
    home: str | os.PathLike[str] | None = None,
) -> MovePlan:
    """Return where a fine-tune could go: Azure with the same base, this machine, other hosts; what
    becomes of each setting, price, time, until when, where the data go, and the command.

    The host is asked only for a fine-tune of which nothing was fetched. Nothing is sent elsewhere.

    Arguments:
        model: Its id, that of its job, or the last part of one.
        backends: The host that it is at, by name, or an OpenAIBackend for each key.
        local_models: Bases to propose for this machine. None of the usual ones is its equal.
        azure_url: The address of your resource at Azure.
        azure_models: What your subscription is shown of the models of a region there, as
            ``Management().models(subscription, region)`` returns it.
        home: Where it was fetched to, by default FTG_HOME.

    Raises NotFoundError for a fine-tune that is neither fetched nor seen by these keys.
    """
    from finetune_gateway.migration import moving

    proposed = moving.LOCAL_MODELS if local_models is None else local_models
    return moving.plan(
        model,
        backends,
        local_models=proposed,
        azure_url=azure_url,
        azure_models=azure_models,
        home=home,
    )
