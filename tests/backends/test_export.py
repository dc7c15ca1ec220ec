"""``handle.export`` and ``ftg export``: folders that other tools serve a trained model from, whole
or not there. Each word of a command stands in a dated fixture with its source."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import byte_fallback
from support.cli import Ftg
from support.plain_models import logits as plain_logits
from support.training import handle_of

from finetune_gateway import GatewayError, ModelHandle, NotFoundError, SpecError, UnsupportedError
from finetune_gateway.backends.local.run import Run
from finetune_gateway.exports import commands, gguf, go
from finetune_gateway.exports.modelfile import holds
from finetune_gateway.settings import sealed
from finetune_gateway.settings.files import sha256_of

Train = Callable[..., Run]
WORDS = tomllib.loads(
    (Path(__file__).parents[1] / "support" / "data" / "serving_words.toml").read_text("utf-8")
)


@pytest.fixture
def handle(train: Train) -> ModelHandle:
    """The handle of an adapter that changes what is answered; it is in its folder too."""
    run = train(8, learning_rate=0.05, n_epochs=2)
    found = handle_of(run).model_copy(update={"system_prompt": 'Say "yes" or no.'})
    found.save(run.model)
    return ModelHandle.load(run.model)


def words_of(script: Path) -> list[str]:
    """The words of the command at the end of a script."""
    text = script.read_text("utf-8").replace("\\\n", " ").splitlines()[-1]
    return [one for one in shlex.split(text) if one not in ("exec", "$@")]


def known(words: list[str], tool: str) -> list[str]:
    """The words that are flags or programs and stand in the fixture; fails for a flag that does
    not."""
    for one in words:
        assert not one.startswith("-") or one in WORDS[tool]["words"], one
    return [one for one in words if one in WORDS[tool]["words"]]


def check_folder(folder: Path) -> dict[str, Any]:
    """Its manifest, after a look at its hashes, at the README and at what is not to be there."""
    manifest = sealed.read(folder / "manifest.json", "")
    there = {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}
    assert there == {*manifest["files"], "manifest.json"} and "README.md" in there
    assert {name: sha256_of(folder / name) for name in manifest["files"]} == manifest["files"]
    assert not {".bin", ".pt", ".pkl"} & {Path(name).suffix for name in there}
    assert "finetune_gateway.json" not in {Path(name).name for name in there}
    for script in folder.glob("*.sh"):
        subprocess.run(["sh", "-n", str(script)], check=True)
    readme = (folder / "README.md").read_text("utf-8")
    for named in re.findall(r"^sh (\S+\.sh)$", readme, re.M):
        assert (folder / named).is_file()
    assert [*folder.parent.glob(".*.part.*")] == []
    return manifest


def test_an_adapter_for_vllm_and_sglang(handle: ModelHandle, tmp_path: Path) -> None:
    """The base, the rank and the modules of the adapter, the trained template and its stops; the
    call that loads it is one that the server knows."""
    for tool in ("vllm", "sglang"):
        folder = tmp_path / tool
        handle.export(tool, folder, name="bot")
        manifest = check_folder(folder)
        assert manifest["weights"] == "adapter" and manifest["template_sha256"]
        words = words_of(folder / "serve.sh")
        known(words, tool)
        assert handle.base_model in words
        assert words[words.index("--chat-template") + 1] == "./adapter/chat_template.jinja"
        assert (folder / "adapter" / "adapter_model.safetensors").is_file()
        call = (folder / "load_adapter.sh").read_text("utf-8")
        assert WORDS[tool]["path"] in call and all(one in call for one in WORDS[tool]["body"])
        rank = int(words[words.index("--max-lora-rank") + 1])
        assert rank == {"vllm": 8, "sglang": 4}[tool]  # the smallest that it takes for rank 4
        assert (folder / "system_prompt.txt").read_text("utf-8") == handle.system_prompt
    assert WORDS["vllm"]["variable"] in (tmp_path / "vllm" / "load_adapter.sh").read_text("utf-8")
    assert "--generation-config" in words_of(tmp_path / "vllm" / "serve.sh")
    start = words.index("--lora-target-modules") + 1
    assert words[start : words.index("--lora-paths")] == [
        *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    ]


def test_a_merged_folder_answers_as_the_adapter_does(
    handle: ModelHandle, ftg: Ftg, tmp_path: Path
) -> None:
    """By transformers alone; transformers serve gets the same folder."""
    done = ftg("export", handle.model, "--to", "transformers", "--out", str(tmp_path / "whole"))
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "whole")
    manifest = check_folder(tmp_path / "whole")
    assert manifest["weights"] == "merged" and "logits differ" in manifest["tried"][0]
    known(words_of(tmp_path / "whole" / "serve.sh"), "transformers")
    whole = plain_logits(tmp_path / "whole" / "model")
    apart = (whole - plain_logits(Path(handle.model), Path(handle.base_model))).abs().max()
    assert float(apart) < 1e-4
    again = ftg("export", handle.model, "--to", "merged", "--out", str(tmp_path / "whole"))
    assert again.returncode == 2 and "is there already" in again.stderr


def test_a_modelfile_has_the_trained_template_and_every_stop(
    handle: ModelHandle, tmp_path: Path
) -> None:
    folder = tmp_path / "ollama"
    handle.export("ollama", folder, name="bot")
    manifest = check_folder(folder)
    text = (folder / "Modelfile").read_text("utf-8")
    template = text.split('TEMPLATE """')[1].split('"""\n')[0]
    rest = text.replace(template, "")
    keywords = [line.split()[0] for line in rest.splitlines() if line]
    assert set(keywords) <= {*WORDS["modelfile"]["keywords"]}
    parameters = [line.split()[1] for line in rest.splitlines() if line.startswith("PARAMETER")]
    assert set(parameters) <= {*WORDS["modelfile"]["parameters"]}
    stops = json.loads((folder / "model" / "generation_config.json").read_text("utf-8"))
    assert manifest["stops"] == ["<|endoftext|>", "<|im_end|>"]
    assert len(stops["eos_token_id"]) == len(parameters) == 2
    assert all(f'PARAMETER stop "{stop}"' in rest for stop in manifest["stops"])
    assert 'SYSTEM """Say "yes" or no."""' in rest
    used = set(re.findall(r"\.([A-Z]\w*)", template))
    assert used == {*WORDS["modelfile"]["fields"]}
    known(words_of(folder / "create.sh"), "ollama")
    assert any("20 conversations" in one for one in manifest["tried"])
    assert any("Tools" in one for one in manifest["limits"])  # which the trained template has


def test_an_adapter_in_a_modelfile(handle: ModelHandle, tmp_path: Path) -> None:
    """On its base: in its folder, or brought from the hub without links, which Ollama refuses."""
    handle.export("ollama", tmp_path / "here", weights="adapter")
    text = (tmp_path / "here" / "Modelfile").read_text("utf-8")
    assert text.startswith(f"FROM {handle.base_model}\nADAPTER ./adapter\n")
    named = handle.model_copy(update={"hub_base": "acme/base", "base_revision": "1" * 40})
    named.export("ollama", tmp_path / "hub", weights="adapter")
    check_folder(tmp_path / "hub")
    text = (tmp_path / "hub" / "create.sh").read_text("utf-8")
    fetch = shlex.split(text.replace("\\\n", " ").split("set -e\n")[1].splitlines()[1])
    known(fetch, "hf")
    assert "acme/base" in fetch and "1" * 40 in fetch
    assert (tmp_path / "hub" / "Modelfile").read_text("utf-8").startswith("FROM ./base\n")


def test_what_a_tool_refuses_is_merged_or_said(handle: ModelHandle, tmp_path: Path) -> None:
    config = Path(handle.model) / "adapter_config.json"
    about = json.loads(config.read_text("utf-8"))
    base = Path(handle.base_model)
    assert about["r"] == 4 and base.is_dir()
    other = tmp_path / "other"
    shutil.copytree(handle.model, other)
    (other / "manifest.json").unlink()
    (other / "adapter_config.json").write_text(
        json.dumps({**about, "modules_to_save": ["lm_head"]})
    )
    strange = handle.model_copy(update={"model": str(other), "job_id": None})
    with pytest.raises(SpecError, match="vLLM will refuse an adapter with modules_to_save"):
        strange.export("vllm", tmp_path / "out", weights="adapter")
    hosted = ModelHandle(kind="hosted", model="ft:x", base_model="gpt", backend="openai")
    with pytest.raises(UnsupportedError, match="answers at its host"):
        hosted.export("ollama", tmp_path / "out")
    reward = handle.model_copy(update={"kind": "reward"})
    with pytest.raises(UnsupportedError, match="reward model"):
        reward.export("vllm", tmp_path / "out")
    for wrong in (
        {"to": "lmstudio"},
        {"to": "gguf", "outtype": "q2"},
        {"to": "vllm", "outtype": "f16"},
        {"to": "vllm", "name": "My Bot"},
        {"to": "gguf", "weights": "adapter", "converter": __file__},
        {"to": "merged", "weights": "half"},
    ):
        given: Any = {"path": tmp_path / "out", **wrong}
        with pytest.raises(SpecError):
            handle.export(**given)
    assert not (tmp_path / "out").exists() and [*tmp_path.glob(".out*")] == []


def test_without_a_converter_its_commands_are_said(
    handle: ModelHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFoundError, match=r"convert_hf_to_gguf\.py") as said:
        handle.export("gguf", tmp_path / "out")
    assert "git clone" in said.value.hint and "gguf==" in said.value.hint
    assert not (tmp_path / "out").exists()


def test_a_converter_that_refuses_is_quoted(handle: ModelHandle, tmp_path: Path) -> None:
    """Its own words, and nothing is left; one that works gets the words that it knows."""
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("raise NotImplementedError('BPE pre-tokenizer was not recognized')")
    with pytest.raises(GatewayError, match="BPE pre-tokenizer was not recognized"):
        handle.export("gguf", tmp_path / "out", converter=script)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["convert_hf_to_gguf.py", "home"]
    script.write_text(
        "import sys\nfrom pathlib import Path\nargs = sys.argv\n"
        "assert (Path(args[1]) / 'config.json').is_file()\n"
        "target = Path(args[args.index('--outfile') + 1])\n"
        "target.write_bytes(b'GGUF' + ' '.join(args).encode())"
    )
    handle.export("gguf", tmp_path / "out", converter=tmp_path, outtype="f16")
    manifest = check_folder(tmp_path / "out")
    assert {*manifest["files"]} == {"README.md", "model.gguf", "system_prompt.txt"}
    said = (tmp_path / "out" / "model.gguf").read_bytes().decode().split()
    known(said[1:], "gguf")
    assert "f16" in said and {*gguf.OUTTYPES} == {*WORDS["gguf"]["outtypes"]}


def test_a_whole_model_is_exported_as_it_is(home: Path, tmp_path: Path) -> None:
    """One with a tokenizer that puts its first token itself: the template in Go leaves that out."""
    base = byte_fallback.write_model(tmp_path / "base")
    handle = ModelHandle(kind="merged", model=str(base), base_model=str(base), backend="local")
    handle.export("ollama", tmp_path / "out")
    assert check_folder(tmp_path / "out")["stops"] == ["<|im_end|>"]
    same = sha256_of(base / "model.safetensors")
    assert sha256_of(tmp_path / "out" / "model" / "model.safetensors") == same
    with pytest.raises(SpecError, match="no adapter"):
        handle.export("vllm", tmp_path / "no", weights="adapter")


def test_commands_keep_a_name_with_spaces_in_one_word() -> None:
    from finetune_gateway.estimation.serving_tools import serving_tools

    served = commands.Served("bot", commands.Base("/a b/base"), 8, ("q_proj",))
    text = commands.script(serving_tools()["vllm"], commands.vllm(served, serving_tools()["vllm"]))
    assert "'/a b/base'" in text
    done = subprocess.run(["sh", "-n"], input=text, text=True, check=False)
    assert done.returncode == 0


def test_what_a_modelfile_cannot_hold() -> None:
    assert holds("Zwei\nZeilen, 'Zitat' und \"noch eins\".")
    assert not holds('Three """ quotes') and not holds("no-break\xa0space")


@pytest.mark.skipif(not go.has_go(), reason="Go is not on this machine")
def test_go_says_what_is_wrong_with_a_template() -> None:
    with pytest.raises(GatewayError, match="Go refuses the template"):
        go.render("{{ .Messages ", [])
