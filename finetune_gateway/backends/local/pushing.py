"""Send a model to the Hugging Face Hub: all that is needed to load it, in one commit.

Nothing is kept here of how far a push has come. What the Hub has is not sent again, and no commit
is made that would change nothing: so the same call goes on after a kill, and ends in one commit.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.backends.local.hub_errors import hub_client, hub_errors
from finetune_gateway.backends.local.public_files import Content, public_files
from finetune_gateway.errors import SpecError, UnsupportedError
from finetune_gateway.jobs.base_names import COMMIT, HubBase, hub_base, is_hub_name
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.publishing import Pushed, PushFile, PushPlan
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible

if TYPE_CHECKING:
    from huggingface_hub import HfApi  # for the type checker alone

CARD = "README.md"
MESSAGE = "Upload by finetune-gateway"
# Files of an earlier push that would be loaded in the place of the new ones.
_OF_A_MODEL = (".safetensors", ".safetensors.index.json", "adapter_config.json", "config.json")


def push(
    handle: ModelHandle,
    settings: Settings,
    repo: str,
    *,
    merged: bool,
    public: bool,
    branch: str | None,
    tag: str | None,
    base: str | None,
    checks: Any,
    confirm: Callable[[PushPlan], bool],
    report: Callable[[str], None],
) -> Pushed | None:
    """See ``ModelHandle.push``."""
    if handle.kind == "hosted":
        raise UnsupportedError(
            f"{visible(handle.model)} answers at its host: its files are not here.",
            hint=f"Where the host gives them: ftg download {visible(handle.job_id or 'JOB')}",
            backend=handle.backend,
            option="push",
        )
    named = parse_base(base) if base is not None else hub_base(handle)
    if named is None and handle.kind != "merged" and not merged:
        raise SpecError(
            "Its base is on no Hub that is known here, and nobody can load an adapter without.",
            hint="Name it there: --base OWNER/NAME@COMMIT, or send the whole model: --merged",
        )
    api = hub_client()
    with _model(handle, settings, merged, report) as sent:
        content = dict(public_files(sent, repo, named))
        about = handle.model_copy(update=_of_base(named)) if named else handle
        if merged and handle.kind == "adapter":
            about = about.model_copy(update={"kind": "merged"})
        content[CARD] = about.card(checks=checks, repo=repo).encode()
        plan = _plan(api, repo, content, kind=sent.kind, public=public, branch=branch, tag=tag)
        if not confirm(plan):
            return None
        return _send(api, plan, content, report)


def parse_base(text: str) -> HubBase:
    """Return a base that is named ``OWNER/NAME`` or ``OWNER/NAME@COMMIT``. Raises SpecError."""
    name, _, revision = text.partition("@")
    if not is_hub_name(name) or (revision and not COMMIT.fullmatch(revision)):
        raise SpecError(
            f"{text!r} is no base on the Hub.",
            hint="Like: Qwen/Qwen3-0.6B, or with the 40 digits of a commit: OWNER/NAME@COMMIT",
        )
    return HubBase(name, revision or None)


def _of_base(base: HubBase) -> dict[str, Any]:
    return {"hub_base": base.name, "base_revision": base.revision}


@contextmanager
def _model(
    handle: ModelHandle, settings: Settings, merged: bool, report: Callable[[str], None]
) -> Iterator[ModelHandle]:
    """Yield the model that is sent: this one, or merged into its base for the time of the push."""
    if not merged or handle.kind == "merged":
        yield handle
        return
    files.folder(settings.create().spool)
    folder = settings.spool / f"push-{handle.job_id or 'model'}"
    shutil.rmtree(folder, ignore_errors=True)  # a push that was killed has left it
    try:
        yield handle.merge(folder, report=report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _plan(
    api: HfApi,
    repo: str,
    content: dict[str, Content],
    *,
    kind: str,
    public: bool,
    branch: str | None,
    tag: str | None,
) -> PushPlan:
    """Return what would be sent to whom. Asks the Hub who we are, and what is there."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with hub_errors(repo, "asking whose token it is"):
        account = str(api.whoami()["name"])
    with hub_errors(repo, "looking at it"):
        try:
            found = api.model_info(repo)
        except RepositoryNotFoundError:
            found = None
    if found is not None:
        _require_as_asked(repo, public, is_private=bool(found.private))
    return PushPlan(
        repo=repo,
        account=account,
        kind=kind,
        public=public,
        exists=found is not None,
        branch=branch,
        tag=tag,
        files=tuple(
            PushFile(name, one.stat().st_size if isinstance(one, Path) else len(one))
            for name, one in sorted(content.items())
        ),
    )


def _require_as_asked(repo: str, public: bool, *, is_private: bool) -> None:
    """Raise SpecError for a repository that others can read, or can't, otherwise than asked."""
    if is_private is public:
        now, option = ("private", "without --public") if public else ("public", "with --public")
        raise SpecError(
            f"{repo} is {now} on the Hub, and stays so: nothing was sent.",
            hint=f"Push {option}, or to another name.",
        )


def _send(
    api: HfApi, plan: PushPlan, content: dict[str, Content], report: Callable[[str], object]
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo, branch = plan.repo, plan.branch or "main"
    if not plan.exists:
        with hub_errors(repo, "making it"):
            api.create_repo(repo, private=not plan.public, exist_ok=True)
    if branch != "main":
        with hub_errors(repo, f"making the branch {branch}"):
            api.create_branch(repo, branch=branch, exist_ok=True)
    with hub_errors(repo, "looking at its files"):
        there = api.list_repo_files(repo, revision=branch)
        before = api.model_info(repo, revision=branch)
    _require_as_asked(repo, plan.public, is_private=bool(before.private))
    stale = [name for name in there if name.endswith(_OF_A_MODEL) and name not in content]
    operations: list[Any] = [CommitOperationDelete(name) for name in stale if "/" not in name]
    operations += [
        CommitOperationAdd(name, one if isinstance(one, bytes) else str(one))
        for name, one in sorted(content.items())
    ]
    report(f"sending {len(content)} files to {repo}")
    with hub_errors(repo, "sending it"), _quiet_logs():
        commit = api.create_commit(
            repo, operations, commit_message=MESSAGE, revision=branch, num_threads=2
        )
    if plan.tag is not None:
        _tag(api, repo, plan.tag, str(commit.oid))
    return Pushed(
        repo=repo,
        commit=str(commit.oid),
        url=f"{api.endpoint}/{repo}",
        new=commit.oid != before.sha,
        public=plan.public,
        tag=plan.tag,
    )


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Let the Hub's client not warn that nothing has changed: we say it."""
    log = logging.getLogger("huggingface_hub.hf_api")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _tag(api: HfApi, repo: str, tag: str, commit: str) -> None:
    """Name a commit. Raises SpecError for a tag that another one has."""
    with hub_errors(repo, f"looking at its tags for {tag}"):
        tags = {one.name: one.target_commit for one in api.list_repo_refs(repo).tags}
    if tag in tags:
        if tags[tag] != commit:
            raise SpecError(
                f"{repo} has the tag {tag} already, at another commit ({tags[tag][:12]}). The "
                f"files were sent: {commit[:12]}.",
                hint="Name another one: --tag NAME",
            )
        return
    with hub_errors(repo, f"making the tag {tag}"):
        api.create_tag(repo, tag=tag, revision=commit)
