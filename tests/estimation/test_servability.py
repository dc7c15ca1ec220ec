"""What serving tools will refuse is said before training: by estimate, submit and doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support import byte_fallback
from support.cli import Ftg

from finetune_gateway import Gateway
from finetune_gateway.estimation import servability
from finetune_gateway.estimation.serving_tools import TOOLS, serving_tools
from finetune_gateway.spec import TrainingSpec

LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def by_tool(config: dict[str, Any], folder: Path, **given: Any) -> dict[str, str]:
    """What each tool refuses of a job on a base with this config."""
    spec = TrainingSpec.build(model="./base", **given)
    found = servability.by_tool(servability.of_spec(spec, config, folder))
    return {name: " ".join(said) for name, said in found.items()}


def test_each_tool_of_the_table_has_a_date_and_a_source() -> None:
    table = serving_tools()
    assert table.keys() == {*TOOLS}
    for tool in table.values():
        assert date.fromisoformat(tool.as_of) <= date(2026, 12, 4)
        assert tool.source and tool.version and tool.install
    assert table["vllm"].rank_for(4) == 8 and table["vllm"].rank_for(513) is None
    assert not table["vllm"].adapters & table["vllm"].whole_only
    assert all(len(one) == 64 for one in table["gguf"].pre_tokenizers)
    assert "Qwen3ForCausalLM" in table["vllm"].adapters & table["gguf"].architectures


def test_what_an_adapter_is_refused_for(tmp_path: Path) -> None:
    """Ranks, DoRA, trained embeddings, modules and architectures; the same base trained whole is
    not."""
    byte_fallback.write_tokenizer(tmp_path)
    plain = by_tool(LLAMA, tmp_path)
    assert plain == {**dict.fromkeys(TOOLS, ""), "ollama": plain["ollama"]}
    wide = by_tool(LLAMA, tmp_path, lora_r=256)["vllm"]
    assert "refuse rank 256 unless it is started with --max-lora-rank 256" in wide
    assert "refuse rank 600: it takes at most 512" in by_tool(LLAMA, tmp_path, lora_r=600)["vllm"]
    dora = by_tool(LLAMA, tmp_path, use_dora=True)
    assert all("DoRA" in dora[name] for name in ("vllm", "sglang", "ollama")) and not dora["gguf"]
    saved = by_tool(LLAMA, tmp_path, modules_to_save=["model.embed_tokens"])
    assert all("embed_tokens" in saved[name] for name in ("vllm", "sglang", "ollama"))
    other = by_tool(LLAMA, tmp_path, target_modules=["q_proj", "strange_proj"])
    assert "no adapters on strange_proj" in other["sglang"]
    gpt2 = by_tool({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, tmp_path)
    assert "without adapters" in gpt2["vllm"] and "llama alone" in gpt2["ollama"]
    whole = by_tool(LLAMA, tmp_path, training_type="full")
    assert whole["vllm"] == whole["sglang"] == ""
    unknown = by_tool({"architectures": ["NewForCausalLM"], "model_type": "new"}, tmp_path)
    assert "refuse NewForCausalLM" in unknown["gguf"] and "GGUF" in unknown["ollama"]


def test_a_tokenizer_that_the_converter_does_not_know(tmp_path: Path, tiny_tokenizer: Path) -> None:
    """Byte-level BPE that its user has trained; one that falls back to bytes is taken."""
    byte_fallback.write_tokenizer(tmp_path)
    assert by_tool(LLAMA, tmp_path)["gguf"] == ""
    assert "refuse the tokenizer" in by_tool(LLAMA, tiny_tokenizer)["gguf"]
    assert "Tools are not in it" in by_tool(LLAMA, tiny_tokenizer)["ollama"]


def test_an_estimate_and_a_submit_say_it(
    home: Path, ftg: Ftg, tiny_folder: Path, train_file: Path
) -> None:
    asked: dict[str, Any] = {"model": str(tiny_folder), "backend": "local"}
    wide = Gateway().estimate(train_file, lora_r=64, **asked)
    assert any("--max-lora-rank 64" in one for one in wide.assumptions)
    found = Gateway().estimate(train_file, use_dora=True, **asked).warnings
    assert any("vLLM will refuse" in one for one in found)
    assert any("refuse the tokenizer" in one for one in found)
    said = ftg(
        *("submit", str(train_file), "--backend", "local", "--model", str(tiny_folder)),
        *("--set", "use_dora=true", "--dry-run"),
    )
    assert "vLLM will refuse an adapter with DoRA" in " ".join((said.stdout + said.stderr).split())


def test_doctor_says_it_by_tool(ftg: Ftg, tmp_path: Path, tiny_folder: Path) -> None:
    here = ftg("doctor", "--serve", "vllm,ollama", "--json")
    assert here.returncode == 0
    assert [one["name"] for one in json.loads(here.stdout)["checks"]] == ["vllm", "ollama"]
    for_model = ("doctor", "--serve", "vllm,gguf", "--model", str(tiny_folder), "--json")
    checks = json.loads(ftg(*for_model, "--set", "lora_r=600").stdout)["checks"]
    assert [one["state"] for one in checks] == ["warning", "warning"]
    assert "rank 600" in checks[0]["found"] and "tokenizer" in checks[1]["found"]
    plain = json.loads(ftg(*for_model).stdout)["checks"]
    assert [one["state"] for one in plain] == ["ok", "warning"]
    assert ftg("doctor", "--serve", "lmstudio").returncode == 2
    assert ftg("doctor", "--model", str(tiny_folder)).returncode == 2


@pytest.mark.parametrize("module", ["servability", "serving_tools"])
def test_it_is_quick_to_import_and_reads_no_weights(module: str) -> None:
    """The table is read when it is asked, and no training library is loaded."""
    code = (
        f"import sys, finetune_gateway.estimation.{module} as m\n"
        "from finetune_gateway.estimation.serving_tools import serving_tools\n"
        "assert not serving_tools.cache_info().currsize\n"
        "assert not {'torch', 'transformers', 'safetensors', 'tokenizers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
