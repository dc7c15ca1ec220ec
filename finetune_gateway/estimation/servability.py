"""Whether other tools will serve what a job makes, before it is trained: ranks, modules, families,
trained embeddings and tokenizers, against the dated table of ``serving_tools``.

Reads a model's config, tokenizer and template; no weights, and no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.serving_tools import TOOLS, ServingTool, serving_tools
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.go_template import go_template
from finetune_gateway.tokens.model_folder import has_template, has_tokenizer, read_tokenizer_files

Config = Mapping[str, Any]

MERGE = "Merged into its base it is served: ftg merge."


@dataclass(frozen=True)
class Subject:
    """What is to be served: an adapter by its settings, or a whole model; and its base."""

    config: Config  # config.json of the base
    rank: int | None = None  # None for a whole model
    modules: tuple[str, ...] = ()  # the last parts of their names; none where the base decides
    saved: tuple[str, ...] = ()  # trained whole beside the adapter
    dora: bool = False
    folder: Path | None = None  # with the tokenizer and the template
    switches: Mapping[str, Any] | None = None  # of the template

    @property
    def architecture(self) -> str:
        found = self.config.get("architectures")
        return str(found[0]) if isinstance(found, list) and found else ""


def of_spec(spec: TrainingSpec, config: Config, folder: Path) -> Subject:
    """Return what a job will make."""
    if spec.training_type == "full":
        return Subject(config, folder=folder, switches=spec.chat_template_kwargs)
    named = spec.target_modules
    listed = [] if isinstance(named, str) else named
    return Subject(
        config,
        spec.lora_r,
        _last_parts(listed),
        _last_parts(spec.modules_to_save),
        spec.use_dora,
        folder,
        spec.chat_template_kwargs,
    )


def of_adapter(adapter: Mapping[str, Any], config: Config) -> Subject:
    """Return an adapter by its adapter_config.json, on a base with this config."""
    named = adapter.get("target_modules") or []
    return Subject(
        config,
        max([adapter["r"], *(adapter.get("rank_pattern") or {}).values()]),
        _last_parts([named] if isinstance(named, str) else named),
        _last_parts(adapter.get("modules_to_save") or []),
        bool(adapter.get("use_dora")),
    )


def _last_parts(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.rpartition(".")[2] for name in names))


def add_notes(estimate: Estimate, spec: TrainingSpec, folder: Path, config: Config) -> None:
    """Say in the estimate of a job what other tools will refuse of its result, and what they must
    be started with."""
    subject = of_spec(spec, config, folder)
    if spec.method == "reward":
        return  # a reward model is served by none of them
    estimate.warnings.extend(
        [
            *refused_adapter(subject, "vllm"),
            *refused_adapter(subject, "sglang"),
            *refused_conversion(subject),
        ]
    )
    estimate.assumptions.extend(_started_with(subject, serving_tools()["vllm"]))


def by_tool(subject: Subject, tools: Sequence[str] = TOOLS) -> dict[str, list[str]]:
    """Return what each tool refuses or lacks, in words; nothing for one that takes it."""
    found: dict[str, list[str]] = {}
    for name in tools:
        said = list(refused_adapter(subject, name))
        if name == "vllm" and not said and subject.rank is not None:
            said += _started_with(subject, serving_tools()[name])
        if name == "gguf":
            said += refused_conversion(subject)
        if name == "ollama":
            said += _in_ollama(subject)
        found[name] = said
    return found


# -- adapters ------------------------------------------------------------------------------------


def refused_adapter(subject: Subject, name: str) -> list[str]:
    """Return why a tool will not serve this adapter; nothing for a whole model."""
    if subject.rank is None:
        return []
    tool = serving_tools()[name]
    reasons = {"vllm": _by_vllm, "sglang": _by_sglang, "ollama": _by_ollama}.get(name, _merged)
    return [f"{tool.title} {reason}" for reason in reasons(subject, subject.rank, tool)]


def _by_vllm(subject: Subject, rank: int, tool: ServingTool) -> Iterator[str]:
    if tool.rank_for(rank) is None:
        yield f"will refuse rank {rank}: it takes at most {max(tool.ranks)}. {MERGE}"
    if subject.dora:
        yield f"will refuse an adapter with DoRA (use_dora). {MERGE}"
    if subject.saved:
        yield f"will refuse an adapter with modules_to_save ({', '.join(subject.saved)}). {MERGE}"
    if subject.architecture in tool.whole_only:
        yield f"serves {subject.architecture} without adapters. {MERGE}"


def _by_sglang(subject: Subject, rank: int, tool: ServingTool) -> Iterator[str]:
    if subject.dora:
        yield f"will refuse an adapter with DoRA (use_dora). {MERGE}"
    if subject.saved:
        yield f"does not read modules_to_save ({', '.join(subject.saved)}). {MERGE}"
    if unknown := sorted(set(subject.modules) - tool.modules):
        yield f"has no adapters on {', '.join(unknown)}. {MERGE}"


def _by_ollama(subject: Subject, rank: int, tool: ServingTool) -> Iterator[str]:
    kind = subject.config.get("model_type")
    if kind not in tool.adapters:
        yield (
            f"takes adapters of {' and '.join(sorted(tool.adapters))} alone, and this base is "
            f"{kind or 'another'}. Merged it may be read: ftg export --to ollama."
        )
    elif subject.saved or subject.dora:
        what = "DoRA" if subject.dora else f"modules_to_save ({', '.join(subject.saved)})"
        yield f"does not read {what} of an adapter. {MERGE}"


def _merged(subject: Subject, rank: int, tool: ServingTool) -> Iterator[str]:
    """Nothing: the export merges it."""
    yield from ()


def _started_with(subject: Subject, tool: ServingTool) -> list[str]:
    rank = subject.rank or 0
    needed = tool.rank_for(rank)
    if rank <= tool.default_rank or needed is None:
        return []
    return [
        f"{tool.title} will refuse rank {rank} unless it is started with --max-lora-rank {needed}, "
        "as ftg export writes it."
    ]


# -- whole models --------------------------------------------------------------------------------


def refused_conversion(subject: Subject) -> list[str]:
    """Return why llama.cpp's converter will refuse the whole model."""
    tool = serving_tools()["gguf"]
    if subject.architecture and subject.architecture not in tool.architectures:
        return [
            f"llama.cpp's converter ({tool.version}) will refuse {subject.architecture}: there is "
            "no GGUF of it."
        ]
    if knows_tokenizer(subject, tool):
        return []
    return [
        "llama.cpp's converter will refuse the tokenizer: it knows byte-level BPE by the ids of a "
        "text, and these are of none that it knows. So there is no GGUF of this model."
    ]


def knows_tokenizer(subject: Subject, tool: ServingTool) -> bool:
    """Return False for a byte-level BPE that the converter does not recognise."""
    folder = subject.folder
    if folder is None or (folder / "tokenizer.model").is_file() or not has_tokenizer(folder):
        return True  # SentencePiece, or none that can be judged here
    tokenizer = read_tokenizer_files(folder).tokenizer
    model = tokenizer.model
    if type(model).__name__ != "BPE" or model.byte_fallback:
        return True
    ids = tokenizer.encode(tool.pre_tokenizer_text, add_special_tokens=True).ids
    return hashlib.sha256(str(ids).encode()).hexdigest() in tool.pre_tokenizers


def _in_ollama(subject: Subject) -> Iterator[str]:
    tool = serving_tools()["ollama"]
    if subject.architecture and subject.architecture not in tool.architectures:
        yield (
            f"{tool.title} reads no safetensors of {subject.architecture}: it takes it as GGUF "
            "(ftg export --to gguf)."
        )
    if subject.folder is None or not has_template(subject.folder):
        return
    try:
        template = go_template(subject.folder, subject.switches or {})
    except GatewayError as exc:
        yield f"{tool.title}: {exc.message}"
        return
    for limit in template.limits:
        yield f"{tool.title}: {limit}"
