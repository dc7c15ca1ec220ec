"""Export a model for another tool: a folder that is there whole, tried as far as this machine can,
or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from finetune_gateway.backends.local import models
from finetune_gateway.backends.local.checkpoints import GENERATION_CONFIG
from finetune_gateway.errors import GatewayError, SpecError, StoreError, UnsupportedError
from finetune_gateway.estimation import servability
from finetune_gateway.estimation.serving_tools import ServingTool, serving_tools
from finetune_gateway.exports import commands, gguf, go
from finetune_gateway.exports.commands import Base, Served
from finetune_gateway.exports.modelfile import holds, modelfile
from finetune_gateway.exports.readme import Described, readme
from finetune_gateway.exports.request import Request, request_of
from finetune_gateway.jobs import downloads
from finetune_gateway.jobs.handle import MANIFEST, ModelHandle
from finetune_gateway.settings import files, sealed
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import encodable, visible
from finetune_gateway.tokens.go_template import conversations, go_template
from finetune_gateway.tokens.model_folder import (
    has_template,
    has_tokenizer,
    read_model_files,
    read_tokenizer_files,
)

README, MODELFILE, SYSTEM_FILE = "README.md", "Modelfile", "system_prompt.txt"
PICKLES = (".bin", ".pt", ".pth", ".pkl")

Report = Callable[[str], None]


@dataclass
class Draft:
    """An export while it is being written."""

    handle: ModelHandle
    request: Request
    settings: Settings
    folder: Path  # where it is written; it is renamed at the end
    target: Path
    report: Report
    weights: str = "merged"
    limits: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    template_hash: str | None = None

    @property
    def tool(self) -> ServingTool | None:
        return serving_tools().get(self.request.to)


def export(
    handle: ModelHandle,
    settings: Settings,
    place: Path,
    to: str,
    weights: str | None,
    name: str | None,
    converter: str | os.PathLike[str] | None,
    outtype: str,
    report: Report,
) -> dict[str, Any]:
    """Write a model for a tool to a folder, and return its manifest; see ``ModelHandle.export``."""
    known = handle.job_id or Path(handle.model).name
    request = request_of(to, name, weights, converter, outtype, default_name=known)
    _require_here(handle)
    return _export(handle, settings, request, place, report)


def _export(
    handle: ModelHandle, settings: Settings, request: Request, place: Path, report: Report
) -> dict[str, Any]:
    settings = settings.create()
    converter = None
    if request.to == "gguf":
        converter = gguf.find_converter(request.converter, serving_tools()["gguf"])
    with _writing(place, settings) as folder:
        draft = Draft(handle, request, settings, folder, place, report)
        draft.weights = _weights(draft)
        models.require_as_saved(Path(handle.model), settings)
        if draft.weights == "adapter":
            _copy(Path(handle.model), folder / "adapter")
        else:
            _whole(draft)
        words = _words(draft)
        if has_template(words):
            source = read_model_files(words).source
            draft.template_hash = sha256(source.encode()).hexdigest()
        if converter is not None:
            _gguf(draft, converter)
        if request.to == "ollama":
            _ollama(draft)
        if request.to in commands.PORTS:
            _scripts(draft)
        return _finish(draft)


def _require_here(handle: ModelHandle) -> None:
    name = visible(handle.job_id or handle.model)
    if handle.kind == "hosted":
        raise UnsupportedError(
            f"{name} answers at its host: there are no weights here to export.",
            hint=f"Where the host gives its files, bring them here first: ftg download {name}",
            backend=handle.backend,
            option="export",
        )
    if handle.kind == "reward":
        raise UnsupportedError(
            f"{name} is a reward model: it gives scores, which these tools do not serve.",
            backend=handle.backend,
            option="export",
        )


@contextmanager
def _writing(place: Path, settings: Settings) -> Iterator[Path]:
    """Yield a folder beside a place that is free, and rename it to that at the end."""
    digest = sha256(encodable(str(place)).encode()).hexdigest()[:16]
    with (
        files.storing("The export cannot be written", place.parent),
        files.try_locking(settings.locks / f"export-{digest}") as ours,
    ):
        if not ours:
            raise StoreError(
                f"Another process is writing {visible(str(place))}.",
                hint="Wait until it has ended.",
            )
        if downloads.is_taken(place):
            raise SpecError(
                f"{visible(str(place))} is there already: nothing was written.",
                hint="Name a folder that is not there yet: --out FOLDER",
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f".{place.name}.part.*"):
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
        folder = place.with_name(f".{place.name}.part.{os.getpid()}")
        folder.mkdir()
        try:
            yield folder
            if place.is_dir():
                place.rmdir()  # it is empty
            folder.rename(place)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        files.sync(place.parent)


# -- weights -------------------------------------------------------------------------------------


def _weights(draft: Draft) -> str:
    """Return adapter or merged: as asked for, else what the tool takes. Raises SpecError for an
    adapter that it does not take."""
    handle, request, tool = draft.handle, draft.request, draft.tool
    asked = request.weights
    if handle.kind == "merged":
        if asked == "adapter":
            raise SpecError("This is a whole model: there is no adapter.", hint="Leave it out.")
        return "merged"
    if asked == "merged" or request.to in ("merged", "gguf", "transformers"):
        if asked == "adapter":
            raise SpecError(
                f"{tool.title if tool else 'A merged folder'} takes no adapter.",
                hint="Leave weights out: it is merged.",
            )
        return "merged"
    assert tool is not None  # what is left are tools with adapters
    why = _refusal(draft, tool)
    if asked == "adapter" and why:
        raise SpecError(why, hint="Merge it: --weights merged")
    if why and request.to != "ollama":
        draft.limits.append(f"{why} So it was merged into its base.")
    takes = request.to != "ollama" or asked == "adapter"
    return "adapter" if takes and not why else "merged"


def _refusal(draft: Draft, tool: ServingTool) -> str:
    """Return why a tool does not take this adapter, or nothing."""
    config = _adapter_config(draft.handle)
    subject = servability.of_adapter(config, models.config_of(_small_base(draft)))
    found = servability.refused_adapter(subject, draft.request.to)
    return next(iter(found), "")


def _adapter_config(handle: ModelHandle) -> dict[str, Any]:
    path = Path(handle.model) / "adapter_config.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise GatewayError(f"{path} cannot be read: {exc}") from None
    return found


def _small_base(draft: Draft) -> Path:
    handle = draft.handle
    name = models.located(handle.base_model, handle.base_sha256, draft.settings)
    return models.small_files(name, draft.settings)


def _base(draft: Draft, *, with_folder: bool) -> Base:
    """Return how a tool finds the base: by its name at the hub, else in its folder."""
    handle = draft.handle
    name = handle.hub_base or handle.base_model
    if not os.path.isabs(name) and "/" in name and not name.startswith("builtin/"):
        return Base(name, handle.base_revision)
    if not with_folder:
        return Base(name)
    return Base(str(models.base_of(handle, draft.settings, draft.report)))


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a model: no pickle, nothing of ours."""
    target.mkdir()
    for path in downloads.saved_files(source):
        if path.is_file() and path.suffix not in PICKLES:
            shutil.copyfile(path, target / path.name)


def _whole(draft: Draft) -> None:
    """Write the whole model: merged, or as it is."""
    handle, target = draft.handle, draft.folder / "model"
    if handle.kind == "merged":
        draft.report("copying")
        _copy(Path(handle.model), target)
        draft.tried.append("The files are those of the model, by their sha256.")
        return
    merged = handle.merge(target, report=draft.report)
    about = sealed.read(target / MANIFEST, "")
    apart = about["logits_difference"]
    draft.tried.append(
        "Loaded by transformers from its files: its logits differ from those of the adapter on its "
        f"base by {apart:.1g} of the largest ({about['dtype']})."
    )
    del merged
    for name in (MANIFEST, downloads.FILE_NAME):  # the export has its own, and no path of here
        (target / name).unlink(missing_ok=True)


# -- tools ---------------------------------------------------------------------------------------


def _words(draft: Draft) -> Path:
    """Return the folder with the tokenizer and the template that were trained."""
    folder = draft.folder / ("model" if draft.weights == "merged" else "adapter")
    return folder if has_tokenizer(folder) else _small_base(draft)


def _gguf(draft: Draft, converter: Path) -> None:
    draft.report("converting")
    model, outtype = draft.folder / "model", draft.request.outtype
    gguf.convert(converter, model, draft.folder / "model.gguf", outtype)
    shutil.rmtree(model)
    draft.tried.append(f"Converted by {converter.name} ({outtype}), which did not complain.")


def _ollama(draft: Draft) -> None:
    tool = serving_tools()["ollama"]
    folder, handle, request = _words(draft), draft.handle, draft.request
    tokens = read_tokenizer_files(folder)
    if not has_template(folder):
        raise SpecError("The model has no chat template, and Ollama asks in chats.")
    draft.stops = _stops(tokens.tokenizer, tokens.stop_ids)
    without = _put_first(tokens.tokenizer, tokens.special_tokens.get("bos_token", ""))
    template = go_template(folder, handle.chat_template_kwargs, without=without)
    draft.limits += template.limits
    _try_template(draft, template.text, [template.render(one) for one in conversations()])
    system = handle.system_prompt
    if system and not holds(system):
        draft.limits.append(
            "The system prompt of the training data cannot stand in a Modelfile: send it with each "
            f"request. It is in {SYSTEM_FILE}."
        )
        (draft.folder / SYSTEM_FILE).write_text(system, encoding="utf-8")
        system = None
    source, adapter, fetch = "./model", None, list[str]()
    if draft.weights == "adapter":
        base = _base(draft, with_folder=True)
        source, adapter = base.name, "./adapter"
        if not os.path.isabs(base.name):
            # The hub's cache has links, which Ollama refuses as insecure.
            source = "./base"
            fetch = commands.fetch(base)
    else:
        _require_known(draft, tool)
    text = modelfile(source, adapter, template.text, draft.stops, system)
    (draft.folder / MODELFILE).write_text(text, encoding="utf-8")
    create = ["ollama", "create", request.name, "-f", MODELFILE]
    words = [fetch, create] if fetch else [create]
    _write_script(draft, "create.sh", commands.script(tool, *words))


def _require_known(draft: Draft, tool: ServingTool) -> None:
    [architecture] = models.config_of(draft.folder / "model").get("architectures") or [""]
    if architecture not in tool.architectures:
        raise SpecError(
            f"{tool.named} reads no safetensors of {architecture or 'this model'}.",
            hint="Export it as GGUF, and name that in a Modelfile: --to gguf",
        )


def _try_template(draft: Draft, text: str, wanted: list[str]) -> None:
    count = len(wanted)
    draft.tried.append(f"The template equals the trained one on {count} conversations.")
    if not go.has_go():
        draft.tried.append("Go is not on this machine: the template was not rendered by Go.")
        return
    made = go.render(text, [*conversations()])
    if made is None:
        draft.tried.append("Go could not run here: the template was not rendered by Go.")
    elif made != wanted:
        raise GatewayError("Go renders the template in another form than the one that was trained.")
    else:
        draft.tried.append(f"Go's own text/template renders these {count} conversations alike.")


def _stops(tokenizer: Any, ids: frozenset[int]) -> list[str]:
    found = [tokenizer.id_to_token(one) for one in sorted(ids)]
    return [one for one in found if one]


def _put_first(tokenizer: Any, bos: str) -> str:
    """Return the token that the tokenizer puts before each text itself, or nothing."""
    first = tokenizer.encode("a", add_special_tokens=True).ids[:1]
    return bos if bos and first == [tokenizer.token_to_id(bos)] else ""


def _scripts(draft: Draft) -> None:
    """Write the commands that serve it."""
    to, name, tool = draft.request.to, draft.request.name, serving_tools()[draft.request.to]
    served = Served(name)
    if draft.weights == "adapter":
        config, adapter = _adapter_config(draft.handle), draft.folder / "adapter"
        served = Served(
            name,
            _base(draft, with_folder=True),
            config["r"],
            _modules(config),
            (adapter / "chat_template.jinja").is_file(),
            (adapter / GENERATION_CONFIG).is_file(),
        )
        draft.tried.append(f"Its rank, modules and settings are those that {tool.named} takes.")
        _write_script(draft, "load_adapter.sh", commands.load_adapter(to, name))
    words = {
        "vllm": lambda: commands.vllm(served, tool),
        "sglang": lambda: commands.sglang(served),
        "transformers": commands.transformers,
    }[to]()
    _write_script(draft, "serve.sh", commands.script(tool, words))
    draft.tried.append(f"{tool.title} itself was not run.")


def _modules(config: dict[str, Any]) -> tuple[str, ...]:
    found = config.get("target_modules") or []
    names = [found] if isinstance(found, str) else found
    return tuple(sorted({one.rpartition(".")[2] for one in names}))


def _write_script(draft: Draft, name: str, text: str) -> None:
    (draft.folder / name).write_text(text, encoding="utf-8")


# -- the end -------------------------------------------------------------------------------------


def _finish(draft: Draft) -> dict[str, Any]:
    handle, request, folder, tool = draft.handle, draft.request, draft.folder, draft.tool
    base = _base(draft, with_folder=False)
    if handle.system_prompt and request.to != "ollama":
        (folder / SYSTEM_FILE).write_text(handle.system_prompt, encoding="utf-8")
    about = Described(
        request.to, request.name, tool, draft.weights, base, draft.limits, draft.tried
    )
    (folder / README).write_text(readme(handle, about), encoding="utf-8")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        files.sync(path)
    draft.report("hashing")
    manifest: dict[str, Any] = {
        "kind": "export",
        "to": request.to,
        "name": request.name,
        "weights": draft.weights,
        "base_model": base.name,
        "base_revision": handle.base_revision,
        "base_sha256": handle.base_sha256,
        "template_sha256": handle.template_hash or draft.template_hash,
        "chat_template_kwargs": handle.chat_template_kwargs,
        "job_id": handle.job_id,
        "step": handle.step,
        "stops": draft.stops,
        "limits": draft.limits,
        "tried": draft.tried,
        "tool": tool
        and {one: getattr(tool, one) for one in ("title", "version", "as_of", "source")},
        "files": {str(path.relative_to(folder)): files.sha256_of(path) for path in paths},
    }
    sealed.write(folder / MANIFEST, manifest)
    shutil.copymode(folder / README, folder / MANIFEST)  # a sealed file is for this user alone
    return manifest
