"""The base of a local job: which folder it is, what lies in it, and that it stays the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bases import Shapes, change_config, make_base, shapes, split
from support.chaos import end_workers, slots_taken
from support.cli import Ftg
from support.hub import serving
from support.rows import chat_rows

from finetune_gateway import BudgetError, Gateway, GatewayError, Job, ModelHandle, SpecError
from finetune_gateway.backend import DataFile
from finetune_gateway.backends.local import models, quantization
from finetune_gateway.backends.local.run import Run
from finetune_gateway.estimation import weights
from finetune_gateway.estimation.weights import INDEX, SINGLE
from finetune_gateway.jobs import planning
from finetune_gateway.jobs.planning import Plan
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.chat_template import ChatTemplate

Rows = Callable[[int], list[dict[str, Any]]]
SHARDS = ("model-1.safetensors", "model-2.safetensors")


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def test_paths_are_absolute_in_the_spec(
    home: Path, tiny_folder: Path, tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is found from the user's own folder, whatever it is called: by every verb, and as
    the same path however it is written. Other names stay as they are."""
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(tiny_folder)
    (tmp_path / "my.jinja").write_text(ChatTemplate.load(tiny_folder).source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    gateway = Gateway()
    given: dict[str, Any] = {"backend": "local", "chat_template": "my.jinja"}
    for written in (
        "owner/name",
        "./owner/name",
        "~/owner/name",
        "owner/../owner/name",
        tiny_folder,
    ):
        plan = gateway.plan(rows(12), model=str(written), **given)
        assert plan.spec.model == plan.estimate.model == str(tiny_folder)
        assert plan.spec.chat_template == str(tmp_path / "my.jinja")
        assert plan.spec.chosen == {"model", "chat_template"}
        assert plan.backend.resolve(plan.spec) is plan.spec
    [option] = gateway.options(rows(12), [("./owner/name", "local")])
    assert option.error is None
    assert gateway.preview(rows(12), model="./owner/name", backend="local")[0].tokens
    assert gateway.validate(rows(12), model="owner/name", backend="local").ok
    local = gateway.backend("local")
    for name in ("acme/small", "builtin/tiny", "./none"):
        spec = plan.spec.model_copy(update={"model": name})
        assert local.resolve(spec).model == name


def test_an_edited_template_makes_another_job(
    home: Path, tiny_folder: Path, tmp_path: Path, train_file: Path
) -> None:
    """Two submits are the same while the file that they name is."""
    template = tmp_path / "my.jinja"
    template.write_text(ChatTemplate.load(tiny_folder).source)
    gateway, keys = Gateway(), []

    def refuse(plan: Plan) -> bool:
        keys.append(planning.intent(plan, gateway.settings.files).submit_key)
        return False

    options: dict[str, Any] = {"backend": "local", "chat_template": str(template)}
    for text in ("", "", "\n{# edited #}"):
        template.write_text(template.read_text() + text)
        with pytest.raises(BudgetError, match="not confirmed"):
            gateway.submit(train_file, model=str(tiny_folder), confirm=refuse, **options)
    assert keys[0] == keys[1] != keys[2]


# -- what cannot be trained -------------------------------------------------------------------


def refused(folder: Path, **options: Any) -> str:
    """What an estimate and a submit say of this base, both the same; no job exists then."""
    said = []
    for verb in (Gateway().estimate, Gateway().submit):
        with pytest.raises(SpecError) as caught:
            verb(chat_rows(12), model=str(folder), backend="local", **options)
        said.append(str(caught.value))
    assert said[0] == said[1] and Gateway().jobs() == []
    assert str(folder) in said[0] and len(caught.value.hint) > 10
    return said[0]


def test_a_base_is_judged_before_the_data_are_read(
    home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """To read them may take minutes."""
    folder = make_base(tmp_path / "base", tiny_tokenizer, {})
    data = tmp_path / "no-rows.jsonl"
    data.write_text("no JSON\n" * 12)
    for verb in (Gateway().estimate, Gateway().submit):
        with pytest.raises(SpecError, match="lacks 3 of its 3 layers|lacks its embedding"):
            verb(data, model=str(folder), backend="local")


# How config.json says that a base is quantised -> the word for it in the error.
QUANTISED: dict[str, dict[str, Any]] = {
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    "awq": {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}},
    "fp8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "fbgemm_fp8": {"quantization_config": {"quant_method": "fbgemm_fp8"}},
    "compressed-tensors": {"quantization_config": {"quant_method": "compressed-tensors"}},
    "nvfp4 of ModelOpt": {"quantization_config": {"quant_algo": "nvfp4 of ModelOpt"}},
    "torchao": {"text_config": {"quantization_config": {"quant_method": "torchao"}}},
    "MLX": {"quantization": {"group_size": 64, "bits": 4}},
    "bitsandbytes, 8 bits": {"quantization_config": {"load_in_8bit": True}},
    "stored in 4 bits": {"quantization_config": {"load_in_4bit": True}},
    "by an unnamed method": {"compression_config": "yes"},
}


@pytest.mark.parametrize("method", QUANTISED)
def test_a_quantised_base_is_refused_with_its_method(
    method: str, home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """Each kind by what config.json says, whether a package is missing or nothing could load it."""
    folder = make_base(tmp_path / "base", tiny_tokenizer)
    change_config(folder, **QUANTISED[method])
    said = refused(folder)
    assert method in said and "full-precision" in said
    if method in ("gptq", "awq"):
        assert "not installed: gptqmodel" in said and "pip install gptqmodel" in said
        assert "cannot be trained by full" in refused(folder, training_type="full")


def test_what_can_be_trained_on_a_quantised_base_is_not_refused(tmp_path: Path) -> None:
    """QLoRA on 4 bits of bitsandbytes alone: MXFP4, GPTQ and AWQ are quantised already."""
    quantization.check_base("m", QUANTISED["stored in 4 bits"], "qlora")
    gpt_oss = {"quantization_config": {"quant_method": "mxfp4"}}
    quantization.check_base("m", gpt_oss, None)
    for config in (gpt_oss, QUANTISED["gptq"], QUANTISED["awq"]):  # these are quantised already
        with pytest.raises(SpecError, match="cannot be trained by qlora"):
            quantization.check_base("m", config, "qlora")


def without(*names: str) -> Shapes:
    return {name: kind for name, kind in shapes().items() if not name.startswith(names)}


NO_WEIGHTS: dict[str, tuple[dict[str, bytes], str]] = {
    "pickles": ({"pytorch_model.bin": b"\x80"}, "only pickled weights (pytorch_model.bin)"),
    "GGUF": ({"m-q4.gguf": b"GGUF"}, "GGUF files only"),
    "another layout": ({"consolidated.safetensors": b""}, "but consolidated.safetensors"),
    "nothing": ({}, "has no *.safetensors"),
    "an adapter": (
        {"adapter_config.json": b'{"base_model_name_or_path": "acme/small"}'},
        "is an adapter, not a model",
    ),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.parametrize("config", [True, False], ids=["config", "no config"])
def test_a_folder_without_weights_is_called_what_it_is(
    kind: str, config: bool, home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """With and without a config.json beside it; of an adapter its base is offered."""
    folder = make_base(tmp_path / "base", tiny_tokenizer)
    (folder / SINGLE).unlink()
    if not config:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    files, words = NO_WEIGHTS[kind]
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    said = refused(folder)
    assert words in said
    assert kind != "an adapter" or "--model acme/small" in said


# Weights of a base of three layers -> what is wrong with them.
DAMAGED: dict[str, tuple[Shapes, str]] = {
    "a layer": (without("model.layers.1."), "lacks 1 of its 3 layers, layer 1 first"),
    "a tensor of a layer": (
        without("model.layers.2.mlp"),
        "Layer 2 of .* lacks mlp.down_proj.weight",
    ),
    "the embedding": (without("model.embed"), "lacks its embedding"),
    "a layer too many": (shapes(4), "weights of layer 3; by its config.json it has 3 layers"),
    "a smaller vocabulary": (shapes(vocabulary=9), "has 9 tokens; by its config.json .* 1,152"),
    "quantised without a word": (
        {**without(), "model.layers.0.mlp.up_proj.qweight": ("I32", (4, 4))},
        "stored quantised, and its config.json does not say how: model.layers.0.mlp.up_proj",
    ),
    "FP8 without a word": (
        {**without(), "model.layers.0.mlp.down_proj.weight": ("F8_E4M3", (32, 64))},
        "mlp.down_proj.weight .F8_E4M3",
    ),
    "an adapter that was not merged": (
        {**without(), "model.layers.0.self_attn.q_proj.lora_A.default.weight": ("F32", (4, 32))},
        "hold an adapter that was not merged",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_missing_and_foreign_weights_are_refused_by_name(
    kind: str, home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """By names and shapes, before any work: torch is not imported for it."""
    tensors, words = DAMAGED[kind]
    said = refused(make_base(tmp_path / "base", tiny_tokenizer, tensors))
    assert re.search(words, said), said


def test_a_head_that_is_not_tied_must_be_there(
    home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """Tied, the embedding is the head; an adapter beside the weights is ambiguous."""
    folder = make_base(tmp_path / "base", tiny_tokenizer)
    assert Gateway().estimate(chat_rows(12), model=str(folder), backend="local").steps
    change_config(folder, tie_word_embeddings=False)
    assert "lacks its head (lm_head.weight)" in refused(folder)
    change_config(folder, tie_word_embeddings=True)
    (folder / "adapter_config.json").write_text("{}")
    assert "lies an adapter (adapter_config.json)" in refused(folder)


def test_files_that_are_missing_cut_off_or_damaged_are_refused(
    home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """Shards of the index, a pointer of Git LFS, a copy that broke off, headers of all kinds."""
    folder = make_base(tmp_path / "base", tiny_tokenizer)
    first, second = split(folder, shapes())
    whole = second.read_bytes()
    assert Gateway().estimate(chat_rows(12), model=str(folder), backend="local").steps
    length = int.from_bytes(whole[:8], "little")
    for raw, words in (
        (whole[:-1], "by its header they should be"),
        (whole + b"\0", "by its header they should be"),
        (whole[:20], "is cut off or is no safetensors file"),
        (b"", "is cut off or is no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "only a pointer of Git LFS"),
        (whole[:8] + b"[" * length, "is damaged"),
        (whole.replace(b'"F32"', b'"F99"'), "is damaged"),
        (whole.replace(b'"shape": [32', b'"shape": [-2'), "is damaged"),
        (whole.replace(b"mlp.down", b"mlp.uppp"), "weights that its files do not have: model.lay"),
    ):
        second.write_bytes(raw)
        assert words in refused(folder), words
    second.unlink()
    assert "1 of the 2 files with the weights" in refused(folder)
    for places in ({"a": "../away.safetensors"}, {"a": "/tmp/a.safetensors"}, {"a": "a.bin"}, {}):
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))
        assert "model.safetensors.index.json names" in refused(folder)
    (folder / INDEX).write_text("[" * 100_000)
    assert "is no index of weights" in refused(folder)


def hostile_header(about: Any) -> bytes:
    raw = about if isinstance(about, bytes) else json.dumps(about).encode()
    return len(raw).to_bytes(8, "little") + raw


def test_a_hostile_folder_takes_neither_time_nor_memory(
    home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """Layers without number, names and shapes without end, JSON without bottom, a pipe for a file:
    each is refused in words, at once."""
    folder = make_base(tmp_path / "base", tiny_tokenizer)
    config = (folder / "config.json").read_text()
    began = time.monotonic()
    change_config(folder, num_hidden_layers=10**12)
    assert "lacks 999999999997 of its" in refused(folder)
    (folder / "config.json").write_text(config)
    change_config(folder, tie_word_embeddings=[], layer_types=3, num_kv_shared_layers="x")
    assert Gateway().estimate(chat_rows(12), model=str(folder), backend="local").steps
    long = {"dtype": "F32", "shape": [10**4000] * 2000, "data_offsets": [0, 0]}
    for raw in (
        hostile_header({"a": long}),
        hostile_header({f"{'.emb' * 50_000}": {**long, "shape": [0]}}),
        hostile_header({f"model.layers.{'9' * 5000}.a": {**long, "shape": [0]}}),
        hostile_header({"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}}),
        hostile_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}),
        hostile_header([1, 2]),
        hostile_header(b"[" * 200_000),
        hostile_header(b"\xff\xfe"),
        (10**15).to_bytes(8, "little") + b"{}",
    ):
        (folder / SINGLE).write_bytes(raw)
        assert re.search("is damaged|is cut off", refused(folder)), raw[:60]
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {".emb" * 50_000: SHARDS[0]}}))
    assert "names the weights '.emb" in refused(folder)
    (folder / INDEX).unlink()
    os.mkfifo(folder / SINGLE)
    assert "1 of the 1 files with the weights" in refused(folder)
    for text in ("[" * 200_000, " " * 6_000_000, "3"):
        (folder / "config.json").write_text(text)
        with pytest.raises(SpecError, match="config.json is not"):
            Gateway().estimate(chat_rows(12), model=str(folder), backend="local")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(SpecError, match="There is no .*config.json"):
        Gateway().estimate(chat_rows(12), model=str(folder), backend="local")
    assert time.monotonic() - began < 20


ODD: dict[str, dict[str, Any]] = {
    "deepseek_v3": {"first_k_dense_replace": 1, "n_routed_experts": 4, "n_group": 1},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "gemma3n_text": {
        "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 4, "laurel_rank": 4,
        "num_kv_shared_layers": 1, "intermediate_size": [48] * 3,
        "layer_types": ["full_attention"] * 3, "activation_sparsity_pattern": [0.0] * 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", ODD)
def test_a_model_whose_layers_differ_is_whole(family: str, tmp_path: Path) -> None:
    """Dense and expert layers, attention and none, shared keys: refused neither by names nor when
    it is loaded; and refused when one tensor of the last layer is gone."""
    from safetensors.torch import load_file, save_file
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from finetune_gateway.backends.local.loading import load_model

    small = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
        "v_head_dim": 8, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "topk_group": 1,
    }  # fmt: skip
    own: dict[str, Any] = ODD[family] if family == "gpt2" else {**small, **ODD[family]}
    config = CONFIG_MAPPING[family](**own)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    models.require_whole(str(tmp_path), tmp_path, "lora")
    load_model(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    lost = max(name for name in tensors if ".2." in name and name.endswith("weight"))
    del tensors[lost]
    save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt"})
    with pytest.raises(GatewayError, match=re.escape(lost)):
        load_model(tmp_path)


def test_a_model_that_reads_pictures_is_trained_on_text(tmp_path: Path) -> None:
    """Also one that has no class for text alone (Mistral Small 3): it is loaded whole, and only
    what text passes through gets an adapter."""
    from torch.nn import Linear
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    from finetune_gateway.backends.local.loading import load_model, not_for_text

    small = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2,
    }  # fmt: skip
    text = {**small, "model_type": "mistral", "num_key_value_heads": 2, "vocab_size": 64}
    vision = {**small, "model_type": "pixtral", "image_size": 28, "patch_size": 14}
    parts: dict[str, Any] = {"text_config": text, "vision_config": vision}
    config = CONFIG_MAPPING["mistral3"](**parts)
    made = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    made.save_pretrained(tmp_path)
    models.require_whole(str(tmp_path), tmp_path, "lora")
    model = load_model(tmp_path)
    pattern = not_for_text(model)  # PEFT compares it with whole names
    assert pattern is not None
    linear = [name for name, module in model.named_modules() if isinstance(module, Linear)]
    adapted = [name for name in linear if not re.fullmatch(pattern, name) and name != "lm_head"]
    assert len(linear) > len(adapted) == 2 * 7
    assert all("language_model.layers." in name for name in adapted)


def test_weights_that_only_the_model_knows_of_are_named_when_it_is_loaded(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Missing, of another shape, left over: all named at once. A buffer that transformers knows to
    be harmless, and parts for pictures, are not errors."""
    from safetensors.torch import load_file, save_file

    from finetune_gateway.backends.local.loading import load_model

    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    tensors = load_file(folder / SINGLE)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = tensors["model.norm.weight"].clone()
    tensors["vision_tower.patch.weight"] = tensors["model.norm.weight"].clone()
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    load_model(folder)
    tensors["model.norm.extra"] = tensors.pop("model.norm.weight")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    models.require_whole(str(folder), folder, "lora")
    with pytest.raises(GatewayError) as caught:
        load_model(folder)
    assert "1 missing: model.norm.weight" in caught.value.message
    assert f"1 of another shape: {name} (64 x 127 in the file, 64 x 128" in caught.value.message
    assert "1 not part of the model: model.norm.extra" in caught.value.message


def test_gpt_oss_is_unpacked_and_not_drawn_by_lot(tmp_path: Path) -> None:
    """The experts of a base in MXFP4 have the values that their blocks and scales say."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, GptOssConfig

    from finetune_gateway.backends.local.loading import load_model

    config = GptOssConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=64, num_local_experts=2,
        num_experts_per_tok=1, pad_token_id=0, layer_types=["full_attention"],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    tensors = load_file(tmp_path / SINGLE)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    table = torch.cat([table, -table])
    expected = {}
    for name in [name for name in tensors if name.endswith(("up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        codes = torch.randint(16, (experts, outputs, inputs // 32, 32), dtype=torch.uint8)
        scales = torch.randint(120, 124, (experts, outputs, inputs // 32), dtype=torch.uint8)
        values = table[codes.long()] * torch.exp2(scales.float() - 127)[..., None]
        expected[name] = values.reshape(experts, outputs, inputs).transpose(1, 2)
        tensors[f"{name}_blocks"] = codes[..., 0::2] | (codes[..., 1::2] << 4)
        tensors[f"{name}_scales"] = scales
    save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt"})
    kept = [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ]
    stored = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    change_config(tmp_path, quantization_config=stored)
    models.require_whole(str(tmp_path), tmp_path, "lora")
    model = load_model(tmp_path)
    assert len(expected) == 2
    for name, values in expected.items():
        assert torch.equal(model.get_parameter(name).float(), values)


# -- which base it is -------------------------------------------------------------------------


def test_the_hash_of_weights_is_read_once_and_notices_any_change(
    home: Path, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content counts: one byte, also where size and time of change are put back; not the place."""
    settings = Settings.load()
    folder = make_base(tmp_path / "base", tiny_tokenizer)
    file, hashed = folder / SINGLE, []
    read = files.sha256_of

    def counted(path: Path) -> str:
        hashed.append(path)
        return read(path)

    monkeypatch.setattr(files, "sha256_of", counted)
    time.sleep(2 * weights.STAMP_SECONDS)
    first = models.content_hash(folder, settings)
    assert models.content_hash(folder, settings) == first and len(hashed) == 1
    before = file.stat()
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = models.content_hash(folder, settings)
    assert second != first and len(hashed) == 2
    models.content_hash(folder, settings)
    assert len(hashed) == 3  # written a moment ago: a later change might have the same time
    moved = folder.rename(tmp_path / "moved")
    assert models.content_hash(moved, settings) == second
    (settings.models / "weights.json").write_text("[")
    assert models.content_hash(moved, settings) == second


# A template whose prompt opens a think block, unless a switch closes it.
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>\n' }}"
    "{% endif %}"
)


def test_a_job_trains_the_folder_and_template_that_were_named(
    home: Path,
    tiny_folder: Path,
    tmp_path: Path,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    ftg: Ftg,
) -> None:
    """A folder called owner/name is trained although the hub offers another model of that name,
    and never asked for; a template that is edited while the job waits is trained as it was, and
    the switch that rows without reasoning need is kept in the handle and sent at serving.

    Weights that are exchanged afterwards are noticed: the adapter answers only if that is allowed,
    and a job that is continued does not go on with them."""
    base, other = tmp_path / "owner" / "name", tmp_path / "other"
    shutil.copytree(tiny_folder, base)
    shutil.copytree(tiny_folder, other)
    template = tmp_path / "my.jinja"
    template.write_text(THINKS)
    monkeypatch.chdir(tmp_path)
    with serving({"owner/name": other}) as hub:
        for name, value in hub.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        with slots_taken(home):
            job = Gateway().submit(
                rows(12), model="owner/name", chat_template="my.jinja", max_steps=1, lora_r=4,
                batch_size=4,
            )  # fmt: skip
            template.write_text("{{ 'edited' }}")
            job.backend.start(job.id, job.record.spec, *(DataFile(other, "", 0, 0), None))
        handle = job.result(timeout=120)
        assert hub.asked == []
    run = home / "runs" / job.id
    assert job.record.spec.model == str(base) == handle.base_model
    kept = (run / "chat_template.jinja").read_bytes()
    asked = json.loads((run / "run.json").read_text())
    assert asked["chat_template_sha256"] == hashlib.sha256(kept).hexdigest()
    assert handle.template_hash == hashlib.sha256(THINKS.encode()).hexdigest()
    settings = Settings.load()
    assert handle.base_sha256 == models.content_hash(base, settings) and not handle.base_revision
    require_switch(job, handle)

    raw = bytearray((base / SINGLE).read_bytes())
    raw[-2] ^= 1
    (base / SINGLE).write_bytes(raw)
    asking = ("chat", job.id, "Hi", "--max-tokens", "1", "--json")
    refusal = ftg(*asking)
    assert "its weights have changed since (sha256" in refusal.stdout, refusal
    assert "ftg chat MODEL --allow-changed-base" in refusal.stdout and refusal.returncode == 1
    answer = ftg(*asking, "--allow-changed-base")
    assert json.loads(answer.stdout)["usage"]["completion_tokens"] == 1, answer.stderr
    again = ModelHandle.load(handle.model)
    again.connect(allow_changed_base=True)
    assert "base_sha256" in again.model_dump() and "allow" not in again.model_dump_json()
    worker = Run(settings, job.id, 1)
    with pytest.raises(GatewayError, match="have changed since this job began"):
        worker.pin_base(*models.identity(str(base), base, settings))
    (run / "chat_template.jinja").write_text("edited")
    with pytest.raises(GatewayError, match="was changed since the job was submitted"):
        assert worker.chat_template


def require_switch(job: Job, handle: ModelHandle) -> None:
    """Fail unless the switch is shown, kept, and sent with what the model is asked."""
    kept = ModelHandle.load(handle.model)
    assert kept.chat_template_kwargs == handle.chat_template_kwargs == {"enable_thinking": False}
    assert any("enable_thinking=False" in event.message for event in job.events())
    asked = [{"role": "user", "content": "Hi"}]
    template = ChatTemplate.load(handle.model, chat_template_kwargs=kept.chat_template_kwargs)
    prompt = template.prompt_ids(asked)
    text = template.tokenizer.decode(prompt, skip_special_tokens=False)
    assert text.endswith("assistant\n<think></think>")
    assert kept.chat(asked, max_tokens=1).usage.prompt_tokens == len(prompt)


FETCH = """
import os, sys
from finetune_gateway.backends.local import models
from finetune_gateway.errors import GatewayError
from finetune_gateway.settings.home import Settings
settings = Settings.load()
for name in sys.argv[1:]:
    try:
        folder = models.small_files(name, settings)
        models.require_whole(name, folder, "lora")
        revision = models.cached_revision(name)
        folder = models.with_weights(name, settings, lambda text: None, revision)
        models.require_whole(name, folder, "lora")
        assert models.identity(name, folder, settings) == (revision, None)
        print(revision, *sorted(os.listdir(folder)), flush=True)
    except GatewayError as exc:
        print(exc, flush=True)
commit = input()  # the hub has another one by now
print(models.with_weights("acme/whole", settings, lambda text: None, commit).name)
"""


def test_only_what_is_needed_comes_from_the_hub(
    home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """Safetensors, config, tokenizer and template, of the commit that was checked; a file that
    breaks off is fetched again. What cannot be trained is refused before its weights come."""
    whole = make_base(tmp_path / "whole", tiny_tokenizer)
    split(whole, shapes())
    for name in ("pytorch_model.bin", "m.gguf", "onnx/config.json", "original/a.safetensors"):
        (whole / name).parent.mkdir(exist_ok=True)
        (whole / name).write_bytes(b"x")
    (whole / "consolidated.safetensors").write_bytes(b"x")
    bare = make_base(tmp_path / "bare", tiny_tokenizer)
    (bare / SINGLE).unlink()
    pickled, adapter = (shutil.copytree(bare, tmp_path / name) for name in ("pickled", "adapter"))
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    (adapter / "config.json").unlink()
    lacking = make_base(tmp_path / "lacking", tiny_tokenizer, shapes(2))
    split(lacking, shapes(2))
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "m.gguf").write_bytes(b"GGUF")
    given = {path.name: path for path in (whole, pickled, adapter, lacking, gguf)}
    with serving({f"acme/{name}": path for name, path in given.items()}) as hub:
        hub.cut = {"model-2.safetensors"}
        fetching = subprocess.Popen(
            [sys.executable, "-c", FETCH, *hub.models], env=hub.environment(tmp_path / "hf"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert fetching.stdout is not None
        fetched, *others = [fetching.stdout.readline().rstrip("\n") for _ in hub.models]
        commit = hub.commit("acme/whole")
        asked = [*hub.asked]
        (whole / "README.md").write_text("another commit")
        hub.asked.clear()
        pinned, errors = fetching.communicate(f"{commit}\n", timeout=60)
        assert pinned.split() == [commit] and hub.asked == [], errors
    small = sorted(path.name for path in bare.iterdir())
    assert fetched.split() == [commit, *sorted([*small, *SHARDS, INDEX])]
    assert [one.split(":")[0] for one in others] == [
        "acme/pickled has no *.safetensors, only pickled weights (pytorch_model.bin)",
        "acme/adapter is an adapter, not a model",
        "acme/lacking lacks 1 of its 3 layers, layer 2 first. Copy or download it again, or use a "
        "model that was not cut.",
        "acme/gguf has GGUF files only, which are made for answering, not for training. Use the "
        "model that they were made from, as safetensors.",
    ]
    asked = [path for path in asked if path.endswith((".safetensors", ".bin"))]
    assert all("acme/whole" in path for path in asked)


def test_only_an_adapter_has_a_base_that_can_change() -> None:
    """The option is refused where it would do nothing."""
    hosted = ModelHandle(kind="hosted", model="ft:m", base_model="m", backend="openai")
    with pytest.raises(SpecError, match="Only an adapter"):
        hosted.connect(allow_changed_base=True)
