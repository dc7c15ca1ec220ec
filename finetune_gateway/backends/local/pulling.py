"""Bring a model of anybody's from the Hugging Face Hub onto this machine: its files at one commit,
and of an adapter the base that it answers on, at one commit too.

What somebody has put there is not trusted: safetensors and settings are taken, no pickle and no
code, and what an adapter says of itself is compared with its weights before either is loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from finetune_gateway.backend import Artifact, HandleData
from finetune_gateway.backends.local.bases import PICKLES
from finetune_gateway.backends.local.hub_errors import hub_client, hub_errors
from finetune_gateway.backends.local.public_files import ADAPTER_WEIGHTS, AS_THEY_ARE, SETTINGS
from finetune_gateway.backends.local.pushing import parse_base
from finetune_gateway.errors import NotFoundError, SpecError, shown
from finetune_gateway.estimation import weights
from finetune_gateway.jobs import downloads
from finetune_gateway.jobs.base_names import COMMIT, HubBase, is_hub_name
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.publishing import PullPlan
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible

if TYPE_CHECKING:
    from huggingface_hub import HfApi  # for the type checker alone

ADAPTER = "adapter_config.json"
MOST_RANK = 4096
# How an adapter's weights begin: others than these take something from the base when it is put on.
_STARTS = (None, True, False, "gaussian", "orthogonal")
# What somebody else's handle may say: switches of the template, how the base was loaded.
_FACTS = ("chat_template_kwargs", "base_quantization", "template_hash", "job_id", "step")


def pull(
    repo: str,
    settings: Settings,
    *,
    revision: str | None,
    base: str | None,
    to: Any,
    confirm: Callable[[PullPlan], bool],
    report: Callable[[str], object],
) -> ModelHandle | None:
    """See ``ModelHandle.pull``."""
    named = parse_base(base) if base is not None else None
    api = hub_client()
    with hub_errors(repo, "looking at it"):
        info = api.model_info(repo, revision=revision, files_metadata=True)
    commit, sizes = str(info.sha), {one.rfilename: one for one in info.siblings or ()}
    kind = _kind_of(repo, sizes.keys())
    wanted = _wanted(kind, sizes.keys())
    about = _settings_of(api, repo, commit, ADAPTER if kind == "adapter" else "config.json")
    _require_no_code(repo, about)
    found = None
    if kind == "adapter":
        found = named or _base_of(repo, about)
        _require_sound(repo, about, _shapes(api, repo, commit))
        found = _pinned(api, found)
    elif named is not None:
        raise SpecError(f"{repo} is a whole model: it needs no base.", hint="Leave --base out.")
    plan = PullPlan(
        repo=repo,
        commit=commit,
        kind=kind,
        base=found.name if found else None,
        base_commit=found.revision if found else None,
        bytes=sum(int(sizes[name].size or 0) for name in wanted),
        files=tuple(wanted),
    )
    if not confirm(plan):
        return None
    artifacts = [_artifact(sizes[name], kind) for name in wanted]
    handle = HandleData(
        kind=kind,
        model=repo,
        base_model=found.name if found else repo,
        base_revision=found.revision if found else None,
        backend="local",
        artifacts=artifacts,
        **(_facts_of(api, repo, commit) if downloads.FILE_NAME in sizes else {}),
    )
    place = to if to is not None else settings.create().models / _folder_name(repo, commit)
    source = _Repo(api, repo, commit)
    folder = downloads.download(handle, source, place, private=to is None, report=report)
    return ModelHandle.load(folder)


def _artifact(file: Any, kind: Any) -> Artifact:
    """Return a file of the Hub's listing; of a large one its hash is known."""
    digest = file.lfs.sha256 if file.lfs else None
    return Artifact(name=file.rfilename, kind=kind, bytes=int(file.size or 0), sha256=digest)


class _Repo:
    """Where ``downloads`` gets its files from."""

    name = "local"

    def __init__(self, api: HfApi, repo: str, commit: str) -> None:
        self._api, self._repo, self._commit = api, repo, commit

    @property
    def display_name(self) -> str:
        return f"{self._repo} on the Hub"

    def download(self, artifact: Artifact, handle: HandleData, folder: Path) -> None:
        """Bring a file; one that came in part goes on where it broke off."""
        kept = folder / f".{artifact.name[:200]}.hub"
        with hub_errors(self._repo, f"downloading {artifact.name}"):
            path = self._api.hf_hub_download(
                self._repo, artifact.name, revision=self._commit, local_dir=kept
            )
        Path(path).replace(folder / artifact.name)
        shutil.rmtree(kept, ignore_errors=True)


def _folder_name(repo: str, commit: str) -> str:
    return f"{repo.replace('/', '--')}@{commit[:12]}"


# -- what there is ---------------------------------------------------------------------------


def _kind_of(repo: str, names: Any) -> Any:
    """Return adapter or merged. Raises SpecError for what is neither, as safetensors."""
    if ADAPTER in names and ADAPTER_WEIGHTS in names:
        return "adapter"
    whole = {weights.SINGLE, weights.INDEX} & {*names}
    if ADAPTER not in names and "config.json" in names and whole:
        return "merged"
    pickled = sorted(name for name in names if name.endswith(PICKLES))
    why = (
        f"its weights are pickles ({pickled[0]}), which can run code"
        if pickled
        else ("it has no adapter and no weights as safetensors")
    )
    raise SpecError(
        f"{visible(repo)} cannot be used: {visible(why)}.",
        hint="Ask who made it for safetensors." if pickled else "Check the name and the revision.",
    )


def _wanted(kind: str, names: Any) -> list[str]:
    """Return the files that are needed to load it."""
    rest = ("config.json",) if kind == "adapter" else (ADAPTER,)
    found = [name for name in (*SETTINGS, *AS_THEY_ARE) if name in names and name not in rest]
    if kind == "adapter":
        return sorted([*found, ADAPTER_WEIGHTS])
    shards = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if weights.INDEX in names:
        return sorted([*found, weights.INDEX, *(one for one in shards if one != weights.SINGLE)])
    return sorted([*found, weights.SINGLE])


def _settings_of(api: HfApi, repo: str, commit: str, name: str) -> dict[str, Any]:
    with hub_errors(repo, f"reading its {name}"):
        path = Path(api.hf_hub_download(repo, name, revision=commit))
    try:
        about = weights.read_json(path, weights.MAX_CONFIG)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise SpecError(f"{name} of {repo} is no JSON object.", hint="Ask who made it.")
    return about


def _facts_of(api: HfApi, repo: str, commit: str) -> dict[str, Any]:
    """Return what the handle of who has pushed it says, where that is one."""
    try:
        given = _settings_of(api, repo, commit, downloads.FILE_NAME)
        found = HandleData.model_validate_json(json.dumps(given))
    except (SpecError, ValidationError, NotFoundError):
        return {}
    return {name: getattr(found, name) for name in _FACTS}


# -- what is not taken on trust --------------------------------------------------------------


def _require_no_code(repo: str, about: Mapping[str, Any]) -> None:
    if about.get("auto_map"):
        raise SpecError(
            f"{repo} needs code of its own (auto_map), which is never run.",
            hint="Choose a model that transformers knows.",
        )


def _base_of(repo: str, about: Mapping[str, Any]) -> HubBase:
    """Return the base that an adapter names. Raises SpecError for a folder of a machine."""
    name, revision = about.get("base_model_name_or_path"), about.get("revision")
    if not isinstance(name, str) or not is_hub_name(name):
        raise SpecError(
            f"{repo} names no base on the Hub, but {shown(name)}.",
            hint="If you know it: --base OWNER/NAME@COMMIT",
        )
    pinned = isinstance(revision, str) and COMMIT.fullmatch(revision)
    return HubBase(name, str(revision) if pinned else None)


def _pinned(api: HfApi, base: HubBase) -> HubBase:
    """Return a base with its commit: the newest one, if none is known."""
    with hub_errors(base.name, "looking at the base"):
        info = api.model_info(base.name, revision=base.revision)
    return HubBase(base.name, str(info.sha))


def _shapes(api: HfApi, repo: str, commit: str) -> dict[str, Sequence[int]]:
    """Return the shapes of an adapter's weights, by their header alone."""
    from huggingface_hub.errors import SafetensorsParsingError

    with hub_errors(repo, f"reading the header of {ADAPTER_WEIGHTS}"):
        try:
            found = api.parse_safetensors_file_metadata(repo, ADAPTER_WEIGHTS, revision=commit)
        except SafetensorsParsingError:
            raise SpecError(
                f"{ADAPTER_WEIGHTS} of {repo} holds no weights.", hint="Ask who made it."
            ) from None
    return {name: one.shape for name, one in found.tensors.items()}


def _require_sound(
    repo: str, about: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Raise SpecError for an adapter that is no LoRA, or whose weights are not as it says: PEFT
    makes room for what the configuration says before it reads them."""
    why = _unsound(about, shapes)
    if why:
        raise SpecError(f"{repo} cannot be used: {why}.", hint="Ask who made it.")


def _unsound(about: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> str:
    if about.get("peft_type") != "LORA":
        return f"it is no LoRA adapter, but {shown(about.get('peft_type'))}"
    if about.get("init_lora_weights") not in _STARTS:
        start = shown(about["init_lora_weights"])
        return f"it changes its base when it is put on (init_lora_weights: {start})"
    given = about.get("rank_pattern") or {}
    ranks = [about.get("r"), *(given.values() if isinstance(given, dict) else [given])]
    wrong = [one for one in ranks if type(one) is not int or not 0 < one <= MOST_RANK]
    if wrong:
        return f"its rank cannot be {shown(wrong[0])}"
    real = {shape[0] for name, shape in shapes.items() if ".lora_A." in name and shape}
    if not real:
        return "its weights have no LoRA in them"
    if strange := sorted(real - {*ranks}):
        return f"it says rank {ranks[0]}, and its weights have {strange[0]}"
    return ""
