"""Load what every training method needs: the model, its tokenizer and its chat template.

Imports torch: only the worker and inference import this.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.utils import logging
from transformers.utils.import_utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar
from transformers.utils.quantization_config import Mxfp4Config

from finetune_gateway.backends.local import bases, fourbit, models, resuming
from finetune_gateway.backends.local.precision import (
    bf16_of,
    gpu_has_bf16,
    weights_dtype,
)
from finetune_gateway.backends.local.quantization import LOADED_BY, MXFP4, stored_method
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.step_plan import seed_of
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.estimation.engine import SMALL_MODEL, engine_of
from finetune_gateway.estimation.weights import listed
from finetune_gateway.tokens.chat_template import ChatTemplate, row_limit
from finetune_gateway.tokens.text_tokenizer import TextTokenizer

HEAD = "score.weight"  # of a reward model
FLASH = "flash_attention_2"
# What transformers calls such a table: in modeling_gpt2.py, modeling_opt.py, modeling_bert.py.
POSITIONS = ("wpe", "embed_positions", "position_embeddings")
THREADS = torch.get_num_threads()  # as many as there are cores


@dataclass(frozen=True, eq=False)
class Base:
    """The base model of a run, ready to be trained, and which it is."""

    folder: Path
    revision: str | None  # of a model of the hub
    sha256: str | None  # of the weights in a folder
    quantization: str | None  # how they were loaded: nf4, or as they are
    source: ChatTemplate | TextTokenizer  # what makes token ids of rows
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    bf16: bool  # what training computes in; else fp32

    @property
    def template(self) -> ChatTemplate:
        """The chat template: of all methods but pretrain, for which a base need not have one."""
        assert isinstance(self.source, ChatTemplate)
        return self.source

    @property
    def template_sha256(self) -> str | None:
        """What the chat template that is saved with the result is recognised by."""
        text = self.tokenizer.chat_template
        return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else None


def load_base(run: Run) -> Base:
    """Load the base model of a run, with its chat template and tokenizer, and keep which weights it
    has. Raises GatewayError if they changed since the run began, or if the template cannot mark
    what is trained."""
    spec = run.spec
    run.phase("loading the model")
    resuming.tell_changed(run)
    free_memory()  # of a try before this one that memory ran out in
    folder = models.with_weights(spec.model, run.settings, run.phase, run.base_revision)
    models.require_whole(spec.model, folder, spec.training_type)
    run.phase("hashing the weights of the base")
    weights = models.content_hash(folder, run.settings, anew=True)
    revision = models.revision_of(spec.model, folder)
    sha256 = None if revision else weights
    run.pin_base(revision, sha256, models.small_hashes(folder), weights)
    run.phase("loading the model")
    source = row_source(run, folder)
    source.check()
    tokenizer = load_tokenizer(folder, source, run.chat_template)
    # QLoRA: the base is frozen in 4 bits; the adapter is as with LoRA.
    quantization = fourbit.NF4 if spec.training_type == "qlora" else None
    bf16 = bf16_of(spec, models.shape_in(folder).parameters)
    dtype = weights_dtype(spec.training_type or "lora", bf16=bf16)
    if spec.method == "reward":
        set_seed(seed_of(spec))  # a new head is drawn by lot
        model = load_scoring_model(folder, quantization, dtype=dtype)
    else:
        flash = engine_of(spec) == "fast"
        model = load_model(folder, quantization, dtype=dtype, flash=flash)
    resuming.keep_threads(run)
    return Base(folder, revision, sha256, quantization, source, tokenizer, model, bf16)


def load_model(
    folder: Path,
    quantization: str | None = None,
    *,
    dtype: torch.dtype | None = None,
    flash: bool = False,
) -> PreTrainedModel:
    """Return the base model with weights of ``dtype``; to answer, if None, in bf16 on a GPU that
    has it, and in fp32 on a CPU. Safetensors only, no remote code. ``flash``: with flash attention
    on a GPU where it is installed and knows the model and the dtype.

    With ``quantization`` ("nf4") the linear layers of its blocks are quantised to 4 bits while they
    are read. Raises MissingDependency without bitsandbytes, and GatewayError if the weights are not
    those of this model: what is missing would be drawn by lot.
    """
    model, info = _load(auto_class(folder), folder, quantization, dtype, flash)
    require_all_weights(folder, info)
    return model


def load_scoring_model(
    folder: Path,
    quantization: str | None = None,
    *,
    dtype: torch.dtype | None = None,
    new_head: bool = True,
) -> PreTrainedModel:
    """Return a model that gives one score, in place of a token's probability, for what it reads; as
    ``load_model`` in all else. ``new_head``: if the folder has none, it is drawn by lot.

    Raises GatewayError if transformers has no such model of this family.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    family: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if not isinstance(family, type) or not issubclass(family, GenericForSequenceClassification):
        raise GatewayError(
            f"transformers has no reward model of the family {config.model_type}.",
            hint="Choose a base of another family, such as Qwen3 or Llama.",
        )
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # that the head is new is no matter to warn of
    try:
        model, info = _load(
            AutoModelForSequenceClassification, folder, quantization, dtype, num_labels=1
        )
    finally:
        logging.set_verbosity(told)
    expected = {HEAD} if new_head else set()
    missing = info["missing_keys"] - expected
    left_over = {one for one in info["unexpected_keys"] if not one.startswith("lm_head.")}
    require_all_weights(folder, info | {"missing_keys": missing, "unexpected_keys": left_over})
    return model


def _load(
    loader: Any,
    folder: Path,
    quantization: str | None,
    dtype: torch.dtype | None,
    flash: bool = False,
    **more: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a model in its dtype, and which weights were missing or left over."""
    disable_progress_bar()  # it would overwrite the caller's screen
    on_gpu = torch.cuda.is_available()
    if dtype is None:
        dtype = torch.bfloat16 if gpu_has_bf16() else torch.float32
    config = models.config_of(folder)
    stays_quantised = stored_method(config) in LOADED_BY
    model, info = loader.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        device_map={"": 0} if on_gpu and stays_quantised else None,
        attn_implementation=FLASH if flash and has_flash(folder, dtype) else None,
        quantization_config=four_bits(dtype) if quantization else full_precision(config),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the caller names them
        **more,
    )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads_for(model.num_parameters()))
    if quantization or stays_quantised:
        keep_differentiable(model)
        unmap_weights(model)
        free_memory()
        return model, info  # already on the GPU, if there is one
    return model.cuda() if on_gpu else model, info


def auto_class(folder: Path) -> Any:
    """Return the class that loads a model to train it on text: some that read pictures too have no
    class for text alone."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    for_text = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForCausalLM if for_text else AutoModelForImageTextToText


def has_flash(folder: Path, dtype: torch.dtype) -> bool:
    """Return whether flash attention is installed, and takes this model in this dtype."""
    if dtype == torch.float32 or not torch.cuda.is_available() or not is_flash_attn_2_available():
        return False
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return bool(getattr(known, "_supports_flash_attn", False))


def threads_for(parameters: int) -> int:
    """Return how many threads compute: one for a small model, else one for each core that others
    leave free. Two threads on one core wait for each other in a loop: 20 steps then took 66 to 116
    s of CPU instead of 39."""
    if parameters < SMALL_MODEL:
        return 1
    others = max(0, int(os.getloadavg()[0] - 1)) if hasattr(os, "getloadavg") else 0
    return max(1, THREADS - others)


def not_for_text(model: PreTrainedModel) -> str | None:
    """Return a pattern of the modules that text does not pass through, such as a vision tower: an
    adapter there would learn nothing. None if there are none."""
    aside = any(bases.ASIDE.search(name) for name, _ in model.named_modules())
    return rf".*{bases.ASIDE.pattern}.*" if aside else None


def require_all_weights(folder: Path, info: dict[str, Any]) -> None:
    """Raise GatewayError with the names of tensors that are missing, of another shape or left over.

    ``info``: of ``from_pretrained``, which leaves out tied weights and what each model says may be
    missing or left over.
    """
    shapes = [
        f"{name} ({_sides(stored)} in the file, {_sides(wanted)} in the model)"
        for name, stored, wanted in sorted(info["mismatched_keys"])
    ]
    left_over = [name for name in sorted(info["unexpected_keys"]) if not bases.ASIDE.search(name)]
    wrong = {
        "missing": sorted(info["missing_keys"]),
        "of another shape": shapes,
        "not part of the model": left_over,
    }
    said = [f"{len(names)} {how}: {listed(names)}" for how, names in wrong.items() if names]
    if said:
        raise GatewayError(
            f"The weights in {folder} are not those of the model in its config.json; "
            f"{'; '.join(said)}.",
            hint="Copy or download the model again, or use the config.json that belongs to it.",
        )


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return a config of NF4 with double quantisation, computed in ``dtype``; the embedding, the
    head and the norms stay in ``dtype`` too."""
    fourbit.import_quietly()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=fourbit.NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def full_precision(config: dict[str, Any]) -> Mxfp4Config | None:
    """Return a config that unpacks a base stored as MXFP4 (gpt-oss); None for any other base.

    Left to itself, transformers 5.23 decides to unpack it too late on a CPU: the experts are then
    drawn by lot. Packed they could not be trained.
    """
    if stored_method(config) != MXFP4:
        return None
    stored = config.get("quantization_config") or {}
    kept = stored.get("modules_to_not_convert")
    return Mxfp4Config(modules_to_not_convert=kept, dequantize=True)


def keep_differentiable(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking its weights for inference.

    On CPUs with AVX512-BF16 the first evaluation repacks them for a kernel that has no backward
    pass and computes in bfloat16 (bitsandbytes 0.50). They stay so when training continues: no
    gradient passes any more, and there is only a warning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a plain flag


def unmap_weights(model: PreTrainedModel) -> None:
    """Copy the weights that were not quantised out of the weights file.

    The file stays mapped into memory as long as one tensor is a view of it, with the pages of all
    quantised weights (253 MB for a model of 96 million parameters).
    """
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def free_memory() -> None:
    """Return unused memory to the system: a trainer refers to itself, so it stays until it is
    collected, and glibc keeps memory that was freed in small pieces."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def row_source(run: Run, folder: Path) -> ChatTemplate | TextTokenizer:
    """Return what makes token ids of the rows of a run: the chat template as its spec wants it, on
    the day of the submit; of texts the tokenizer alone."""
    if run.spec.method == "pretrain":
        return TextTokenizer.load(folder)
    return ChatTemplate.load(
        folder,
        run.chat_template,
        chat_template_kwargs=run.spec.chat_template_kwargs or {},
        call_format=run.spec.call_format,
        now=run.file.created_at,
    )


def load_tokenizer(
    folder: Path, source: ChatTemplate | TextTokenizer, given: Path | None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer to save with the result, with the template that is trained. Trained on
    texts it keeps its own, if it has one, or that of the job it continues (``given``)."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    if isinstance(source, ChatTemplate):
        tokenizer.chat_template = source.source
    elif given is not None:
        tokenizer.chat_template = given.read_text("utf-8")
    return tokenizer


def max_length_for(run: Run, model: PreTrainedModel) -> int:
    """Return the tokens per row at which rows are cut, as in previews.

    Raises SpecError where that is more than a model has positions, if it has learned each: the
    first longer row, maybe a held-out one, would end the training.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    limit = row_limit(run.spec.max_length, context)
    if context and limit > context and _has_learned_positions(model):
        raise SpecError(
            f"max_length {limit:,} is above the {context:,} positions of {run.spec.model}, which "
            "has learned each of them and has no more: it cannot read a longer row at all.",
            hint=f"Set max_length to at most {context}: longer rows are cut there.",
        )
    return limit


def _has_learned_positions(model: PreTrainedModel) -> bool:
    """Return True if positions are looked up in a table, as in GPT-2 and OPT, not computed."""
    return any(
        isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in POSITIONS
        for name, module in model.named_modules()
    )
