"""Judge a base model before any work: that its weights can be read, and that all of them are there.

Names and shapes alone are looked at, without torch. What only the model's own code knows, such as a
norm that is missing, is found when the model is loaded (``loading.py``).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from finetune_gateway.backends.local import quantization
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.weights import (
    INDEX,
    MAX_CONFIG,
    SINGLE,
    Tensor,
    listed,
    read_index,
    read_json,
    read_weights,
    weight_files,
)

ADAPTER = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
# Parts of a model that text does not go through: pictures, sound, tokens further ahead.
ASIDE = re.compile(r"(^|[._])(vision|visual|image|audio|speech|multi_modal|multimodal|mtp)([._]|$)")
LAYER = re.compile(
    r"(?P<stack>(?:.+?\.)?(?:layers|h|blocks|block))\.(?P<number>\d{1,6})\.(?P<rest>.+)"
)
EMBEDDING = re.compile(r"(^|[._])(emb(?!\w*pos)\w*|wte)\b.*weight$")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_layer|output|head)\.weight$")
NUMBERS_OF_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# What a layer may lack: buffers of older versions, and blocks that layers of Zamba2 share.
NOT_IN_EACH = re.compile(r"(inv_freq|position_ids|masked_bias)$|^shared_transformer\.")
MAX_KINDS = 64  # of layers in one model; real ones have up to four
TYPES_OF_WEIGHTS = frozenset({"F64", "F32", "F16", "BF16"})
# Endings of the parts of a linear layer, whatever quantised it.
PARTS = ("weight", "qweight", "weight_packed", "_blocks")
CONVERT = (
    "Save it as safetensors where you trust it: "
    "AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)."
)


def require_whole(
    name: str,
    folder: Path,
    config: dict[str, Any],
    training_type: str | None,
    at_hub: Collection[str] | None = None,
) -> None:
    """Raise SpecError for a base that cannot be trained as it is, with the way out.

    ``at_hub``: names of the files of a model of the hub, whose weights may not be here yet.
    """
    quantization.check_base(name, config, training_type)
    there = {*os.listdir(folder), *(at_hub or ())}
    require_weights(name, folder, there)
    if ADAPTER in there:
        raise SpecError(
            f"Beside the model in {name} lies an adapter ({ADAPTER}): which of them is meant?",
            hint="Move the adapter's files out of it, or merge the adapter into the model first.",
        )
    if config.get("transformers_weights"):
        raise SpecError(
            f"The config.json of {name} names its weights in a way that is not read here.",
            hint="Remove transformers_weights from it, and call the file model.safetensors.",
        )
    tensors = read_weights(folder) if at_hub is None else _as_far_as_here(folder)
    if tensors is None:
        return  # in one file, which is looked at when it is here
    _require_plain(name, config, tensors)
    _require_layers(name, config, tensors)
    _require_ends(name, config, tensors)


def tensor_names(folder: Path, *, at_hub: bool) -> Collection[str]:
    """Return the names of a base's tensors; none while its weights are not here."""
    return (_as_far_as_here(folder) or ()) if at_hub else read_weights(folder)


def _as_far_as_here(folder: Path) -> Mapping[str, Tensor | None] | None:
    """Return the tensors of a model of the hub; without their types while only the index is here,
    and None without that."""
    if all((folder / name).is_file() for name in weight_files(folder)):
        return read_weights(folder)
    return dict.fromkeys(read_index(folder)) if (folder / INDEX).is_file() else None


# -- what kind of folder it is ---------------------------------------------------------------


def require_weights(name: str, folder: Path, there: Collection[str]) -> None:
    """Raise SpecError for a folder with these files that has no weights we read."""
    if not {SINGLE, INDEX} & {*there}:
        raise _without_weights(name, folder, sorted(there))


def _without_weights(name: str, folder: Path, there: list[str]) -> SpecError:
    """Return the error that says what the folder is instead, and what to do."""
    if ADAPTER in there:
        base = _base_of_adapter(folder)
        return SpecError(
            f"{name} is an adapter, not a model: it has no weights of its own to train.",
            hint=f"Train its base: --model {base}. Or merge it into its base, and train that."
            if base
            else "Train its base, or merge it into its base and train that.",
        )
    if any(file.endswith(".gguf") for file in there):
        return SpecError(
            f"{name} has GGUF files only, which are made for answering, not for training.",
            hint="Use the model that they were made from, as safetensors.",
        )
    if pickled := [file for file in there if file.endswith(PICKLES) and "training" not in file]:
        return SpecError(
            f"{name} has no *.safetensors, only pickled weights ({listed(pickled)}): these are "
            "never loaded, because they can run code.",
            hint=CONVERT,
        )
    if other := [file for file in there if file.endswith(".safetensors")]:
        return SpecError(
            f"{name} has neither {SINGLE} nor {INDEX}, but {listed(other)}.",
            hint="Use the model in the layout of transformers.",
        )
    return SpecError(
        f"{name} has no *.safetensors.",
        hint="Is it a model folder, and was it copied whole? An estimate alone takes the name of a "
        "model of the Hugging Face Hub, whose small files it fetches: --model OWNER/NAME",
    )


def _base_of_adapter(folder: Path) -> str | None:
    try:
        base = read_json(folder / ADAPTER, MAX_CONFIG).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return base if isinstance(base, str) and base else None


# -- its tensors -----------------------------------------------------------------------------


def _require_plain(name: str, config: dict[str, Any], tensors: Mapping[str, Tensor | None]) -> None:
    """Raise SpecError for quantised weights of which config.json says nothing, and for those of an
    adapter."""
    if lora := sorted(key for key in tensors if ".lora_A." in key or ".lora_B." in key):
        raise SpecError(
            f"The weights of {name} hold an adapter that was not merged ({listed(lora)}).",
            hint="Merge it into the model, and save that.",
        )
    if quantization.stored_method(config) is not None:
        return
    quantised = sorted(
        f"{key} ({tensor.dtype})"
        for key, tensor in tensors.items()
        if tensor and tensor.dtype not in TYPES_OF_WEIGHTS and key.endswith(PARTS)
    )
    if quantised:
        raise SpecError(
            f"The weights of {name} are stored quantised, and its config.json does not say how: "
            f"{listed(quantised)}.",
            hint=quantization.FULL_PRECISION,
        )


def _require_layers(name: str, config: dict[str, Any], tensors: Collection[str]) -> None:
    """Raise SpecError if a layer, or a tensor of one, is missing, or there are more layers than
    config.json says."""
    flat = _flat(config)
    number = next((flat[key] for key in NUMBERS_OF_LAYERS if key in flat), None)
    layers = _layers(tensors)
    if not isinstance(number, int) or layers is None:
        return
    lacking = number - sum(one < number for one in layers)
    if lacking > 0:
        first = next(one for one in range(number) if one not in layers)
        raise SpecError(
            f"{name} lacks {lacking} of its {number} layers, layer {first} first.",
            hint="Copy or download it again, or use a model that was not cut.",
        )
    ahead = flat.get("num_nextn_predict_layers")  # further tokens: transformers leaves them out
    known = number + (ahead if isinstance(ahead, int) else 0)
    if extra := sorted(one for one in layers if one >= known):
        raise SpecError(
            f"{name} has weights of layer {extra[0]}; by its config.json it has {number} layers.",
            hint="Its config.json belongs to another model, or num_hidden_layers is wrong.",
        )
    for kind in _kinds(flat, number):
        _require_alike(name, {one: layers[one] for one in kind})


def _layers(tensors: Collection[str]) -> dict[int, frozenset[str]] | None:
    """Return the names of the tensors in each layer; None if it is not clear which are layers."""
    stacks: dict[str, dict[int, set[str]]] = {}
    for tensor in tensors:
        found = LAYER.match(tensor)
        if found and not ASIDE.search(found["stack"]):
            # The first number counts layers, a later one experts.
            stack = stacks.setdefault(found["stack"], {})
            names = stack.setdefault(int(found["number"]), set())
            if not NOT_IN_EACH.search(found["rest"]):
                names.add(found["rest"])
    if len(stacks) != 1:
        return None
    [layers] = stacks.values()
    return {number: frozenset(names) for number, names in layers.items()}


def _kinds(flat: dict[str, Any], number: int) -> list[list[int]]:
    """Return the layers by kind, as far as config.json tells: those of one kind hold the same
    tensors."""
    types, shared = flat.get("layer_types"), flat.get("num_kv_shared_layers")
    if not isinstance(types, list) or len(types) < number:
        types = [""] * number
    first_shared = number - shared if isinstance(shared, int) else number
    kinds: dict[tuple[str, bool], list[int]] = {}
    for one in range(number):
        kinds.setdefault((str(types[one]), one >= first_shared), []).append(one)
    return list(kinds.values())


def _require_alike(name: str, layers: dict[int, frozenset[str]]) -> None:
    """Raise SpecError for a layer that lacks what all others like it have.

    Where many lack it the model is made so: some have two kinds of layers without a word.
    """
    counts = Counter(layers.values())
    if len(counts) > MAX_KINDS:
        return  # nothing is usual in it
    for number, names in sorted(layers.items()):
        for other, times in counts.items():
            if names < other and (counts[names] == 1 or counts[names] * 10 <= times):
                raise SpecError(
                    f"Layer {number} of {name} lacks {listed(sorted(other - names))}.",
                    hint="Copy or download the model again.",
                )


def _require_ends(name: str, config: dict[str, Any], tensors: Mapping[str, Tensor | None]) -> None:
    """Raise SpecError for an embedding or a head that is missing, and for an embedding of another
    vocabulary than config.json has."""
    flat = _flat(config)
    own = {key: tensor for key, tensor in tensors.items() if not ASIDE.search(key)}
    embedding = [key for key in own if EMBEDDING.search(key) and not LAYER.match(key)]
    head = any(map(HEAD.search, own))
    tied = any(one.get("tie_word_embeddings") is not False for one in (config, flat))
    if not embedding and not (tied and head):
        raise SpecError(
            f"{name} lacks its embedding (such as model.embed_tokens.weight).",
            hint="Copy or download the model again.",
        )
    if not tied and not head:
        raise SpecError(
            f"{name} lacks its head (lm_head.weight), which config.json does not tie to the "
            "embedding: it would be drawn by lot.",
            hint="Copy or download the model again; or, if the head is the embedding, set "
            "tie_word_embeddings in config.json to true.",
        )
    for key in embedding:
        tensor, size = own[key], flat.get("vocab_size")
        usual = key.endswith(("embed_tokens.weight", "wte.weight"))
        if not usual or tensor is None or len(tensor.shape) != 2 or not isinstance(size, int):
            continue
        if tensor.shape[0] < size:  # some have more: Mllama has 8 for pictures
            raise SpecError(
                f"{key} of {name} has {tensor.shape[0]:,} tokens; by its config.json they should "
                f"be {size:,}.",
                hint="Its config.json belongs to another model, or vocab_size is wrong.",
            )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with that of its text model on top, where it has several parts."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config
