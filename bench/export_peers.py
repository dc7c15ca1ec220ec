"""Whether other programs take what is exported: Go renders the templates, llama.cpp converts a
model and refuses a tokenizer, and a GGUF
answers as what it was made of.

The converter is that of the source archive of llama-cpp-python, which pip brings below build/peers;
no program of it is built. A peer that cannot be had is a line with its reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, arguments, say, versions

from finetune_gateway import GatewayError, ModelHandle, SpecError
from finetune_gateway.backends.local import builtin
from finetune_gateway.estimation import servability
from finetune_gateway.exports import go
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.go_template import conversations, go_template

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers" / "llama.cpp"
SOURCE = "llama-cpp-python==0.3.36"
NEEDED = ("gguf==0.19.0", "sentencepiece", "protobuf", "pyyaml", "tqdm")
PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
PROMPTS, TOKENS = 20, 64
PARTS = ("conversion/", "gguf-py/", "convert_hf_to_gguf.py")


def main() -> int:
    sys.path.insert(0, str(ROOT / "tests"))
    asked = arguments(__doc__)
    bench = Bench("export_peers", versions("finetune-gateway", "transformers", "trl"))
    with TemporaryDirectory() as folder:
        _render(bench)
        _convert(bench, Path(folder))
    return bench.end(asked.out)


def _render(bench: Bench) -> None:
    """Count the chat templates of TRL that Go renders as Jinja does, on 20 conversations each."""
    if not go.has_go():
        bench.unmeasured("go_templates", "no Go here (Debian: apt install golang-go)")
        return
    counts = {"equal": 0, "refused": 0, "different": 0}
    for folder in _templates():
        try:
            found = go_template(folder, {})
        except SpecError:
            counts["refused"] += 1
            continue
        asked = [*conversations()]
        same = go.render(found.text, asked) == [found.render(one) for one in asked]
        counts["equal" if same else "different"] += 1
    for name, count in counts.items():
        bench.figure(f"go_templates_{name}", [count], [sum(counts.values())], "templates")
    assert not counts["different"]


def _templates() -> Iterator[Path]:
    """Yield a model folder for each template that TRL has, with the tokenizer of the tests."""
    import trl

    with TemporaryDirectory() as place:
        folder = builtin.ensure_tokenizer(Path(place) / builtin.folder_name())
        about = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        about.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
        for one in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja")):
            shutil.copyfile(one, folder / "chat_template.jinja")
            yield folder


def _convert(bench: Bench, folder: Path) -> None:
    """Export a Llama with byte fallback as GGUF, and ask both; then one whose tokenizer its user
    has trained, which is refused, as was said before."""
    try:
        script = _converter()
    except (OSError, subprocess.CalledProcessError, StopIteration) as exc:
        bench.unmeasured("gguf_same_answers", f"llama.cpp's converter cannot be had: {exc}")
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(PEERS / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    from support import byte_fallback

    base = byte_fallback.write_model(folder / "base")
    handle = _handle(base)
    handle.export("gguf", folder / "out", converter=script, outtype="f32")
    same, asked = _alike(base, folder / "out" / "model.gguf")
    bench.figure("gguf_same_answers", [same], [asked], "prompts")
    assert same == asked and _said(base) == []

    shutil.copyfile(_tiny(folder) / "tokenizer.json", base / "tokenizer.json")
    assert "refuse the tokenizer" in " ".join(_said(base))
    try:
        handle.export("gguf", folder / "refused", converter=script)
    except GatewayError as exc:
        say(f"llama.cpp: {exc.message}")
        assert "pre-tokenizer" in exc.message and not (folder / "refused").exists()
    else:
        raise AssertionError("a tokenizer was converted that is said to be refused")


def _handle(folder: Path) -> ModelHandle:
    return ModelHandle(kind="merged", model=str(folder), base_model=str(folder), backend="local")


def _tiny(folder: Path) -> Path:
    return builtin.ensure_tokenizer(folder / builtin.folder_name())


def _said(folder: Path) -> list[str]:
    """What is said before training of GGUF."""
    spec = TrainingSpec.build(model=str(folder))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return servability.by_tool(servability.of_spec(spec, config, folder), ["gguf"])["gguf"]


def _converter() -> Path:
    """Return the converter, brought once with the packages that it needs."""
    script = next(PEERS.rglob("convert_hf_to_gguf.py"), None)
    if script is not None:
        return script
    PEERS.mkdir(parents=True, exist_ok=True)
    say(f"llama.cpp: getting {SOURCE}")
    get = ("download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d")
    archive = next(PEERS.glob("*.tar.gz"), None)
    if archive is None:
        subprocess.run([*PIP, *get, str(PEERS), SOURCE], check=False, capture_output=True)
        archive = next(PEERS.glob("*.tar.gz"))
    with tarfile.open(archive) as packed:
        wanted = [one for one in packed if one.name.partition("/llama.cpp/")[2].startswith(PARTS)]
        packed.extractall(PEERS, wanted, filter="data")
    site = str(PEERS / "site")
    subprocess.run([*PIP, "install", "--no-deps", "--target", site, *NEEDED], check=True)
    return next(PEERS.rglob("convert_hf_to_gguf.py"))


def _alike(base: Path, converted: Path) -> tuple[int, int]:
    """Return on how many of 20 prompts a GGUF in float32, read by transformers, answers with the
    same 64 greedy tokens as the model, and how many prompts those are."""
    sys.path.insert(0, str(PEERS / "site"))
    import torch
    from transformers import AutoModelForCausalLM

    ours: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs: Any = AutoModelForCausalLM.from_pretrained(
        converted.parent, gguf_file=converted.name, dtype=torch.float32
    )
    drawn = torch.Generator().manual_seed(0)
    same = 0
    for _ in range(PROMPTS):
        ids = torch.randint(5, 300, (1, 16), generator=drawn)
        answers = [_greedy(one, ids) for one in (ours, theirs)]
        same += answers[0] == answers[1]
    return same, PROMPTS


def _greedy(model: Any, ids: Any) -> list[int]:
    made = model.generate(
        ids, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, pad_token_id=0
    )
    found: list[int] = made[0, ids.shape[1] :].tolist()
    return found


if __name__ == "__main__":
    raise SystemExit(main())
