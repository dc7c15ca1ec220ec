"""How to load a model that is on the Hub, in four tools: the end of its model card."""

from __future__ import annotations

import re

from finetune_gateway.reports.card_facts import CardFacts

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM's --max-lora-rank takes
REPO, BASE = "OWNER/NAME", "BASE"
_SAFE = re.compile(r"[A-Za-z0-9._/-]+")


def loading(facts: CardFacts) -> str:
    """Return the section on loading: with the names of the model and its base, as far as they are
    known."""
    if facts.kind == "hosted":
        return (
            "## How to load it\n\nIt answers at its host alone, through the API and with the key "
            "of the account that it was trained with."
        )
    parts = ["## How to load it"]
    if facts.kind != "merged" and facts.base is None:
        parts.append(f"{BASE} stands for its base, which is on no public page that is known here.")
    if facts.kind == "reward":
        parts += [_reward(facts), _gateway(facts)]
    elif facts.kind == "merged":
        parts += [_transformers(facts), _vllm(facts), _llama_cpp(facts), _gateway(facts)]
    else:
        parts += [_peft(facts), _vllm_adapter(facts), _llama_cpp_adapter(facts), _gateway(facts)]
    return "\n\n".join(parts)


def _repo(facts: CardFacts) -> str:
    return facts.repo or REPO


def _base(facts: CardFacts) -> str:
    return facts.base.name if facts.base else BASE


def _revision(facts: CardFacts) -> str:
    return facts.base.revision or "" if facts.base else ""


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _template(facts: CardFacts) -> str:
    """Return the line of Python that asks; with the switches that it was trained with."""
    switches = "".join(
        f", {name}={value!r}"
        for name, value in facts.handle.chat_template_kwargs.items()
        if name.isidentifier() and (isinstance(value, bool | int) or _SAFE.fullmatch(value))
    )
    return (
        'inputs = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], '
        f'add_generation_prompt=True, return_dict=True, return_tensors="pt"{switches})'
    )


def _asking(facts: CardFacts) -> list[str]:
    if facts.method == "pretrain":
        inputs = 'inputs = tokenizer("Once upon a time", return_tensors="pt")'
    else:
        inputs = _template(facts)
    return [
        f'tokenizer = AutoTokenizer.from_pretrained("{_repo(facts)}")',
        inputs,
        "tokens = model.generate(**inputs, max_new_tokens=200)[0]",
        'print(tokenizer.decode(tokens[inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]


def _load_base(facts: CardFacts, kind: str, more: str = "") -> str:
    revision = f', revision="{_revision(facts)}"' if _revision(facts) else ""
    return f'base = {kind}.from_pretrained("{_base(facts)}"{revision}, dtype="auto"{more})'


def _peft(facts: CardFacts) -> str:
    return "### transformers and PEFT\n\n" + _code(
        "python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        _load_base(facts, "AutoModelForCausalLM"),
        f'model = PeftModel.from_pretrained(base, "{_repo(facts)}")',
        *_asking(facts),
    )


def _reward(facts: CardFacts) -> str:
    return "### transformers and PEFT\n\n" + _code(
        "python",
        "from peft import PeftModel",
        "from transformers import AutoModelForSequenceClassification",
        "",
        _load_base(facts, "AutoModelForSequenceClassification", ", num_labels=1"),
        f'model = PeftModel.from_pretrained(base, "{_repo(facts)}")',
    )


def _transformers(facts: CardFacts) -> str:
    return "### transformers\n\n" + _code(
        "python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{_repo(facts)}", dtype="auto")',
        *_asking(facts),
    )


def _vllm(facts: CardFacts) -> str:
    return "### vLLM\n\n" + _code("sh", f"vllm serve {_repo(facts)}")


def _vllm_adapter(facts: CardFacts) -> str:
    adapter, name = facts.adapter, _repo(facts).partition("/")[2].lower()
    what = [one for one in ("use_dora", "modules_to_save") if adapter.get(one)]
    found = adapter.get("r")
    rank = next((one for one in RANKS if isinstance(found, int) and found <= one), None)
    if what or (rank is None and adapter):
        why = " and ".join(f"`{one}`" for one in what) or f"its rank of {found}"
        return (
            f"### vLLM\n\nIt does not serve an adapter with {why}. Merge it "
            "first, as below, and serve the merged folder."
        )
    revision = f" --revision {_revision(facts)}" if _revision(facts) else ""  # of vllm
    return "### vLLM\n\n" + _code(
        "sh",
        f"vllm serve {_base(facts)}{revision} --enable-lora --max-lora-rank {rank or 16} \\",
        f"  --lora-modules {name}={_repo(facts)}",
    )


def _llama_cpp(facts: CardFacts) -> str:
    return _as_gguf("", f"hf download {_repo(facts)} --local-dir model")


def _llama_cpp_adapter(facts: CardFacts) -> str:
    return _as_gguf(
        "Ollama loads adapters for few architectures, so merge it into its base first. ",
        f"hf download {_repo(facts)} --local-dir adapter",
        "ftg merge ./adapter --to ./model",
    )


def _as_gguf(why: str, *lines: str) -> str:
    commands = _code(
        "sh",
        *lines,
        "python llama.cpp/convert_hf_to_gguf.py model --outfile model.gguf",
        "llama-server -m model.gguf --jinja",
        "ollama create my-model  # with a Modelfile that begins: FROM ./model.gguf",
    )
    return (
        f"### Ollama and llama.cpp\n\n{why}Both want GGUF.\n\n{commands}\n\nOllama takes the chat "
        "template from the Modelfile: write the one of `chat_template.jinja` there as TEMPLATE, in "
        "Ollama's own language, and every token that ends an answer as PARAMETER stop "
        "(`generation_config.json` has their ids)."
    )


def _gateway(facts: CardFacts) -> str:
    ask = "< FILE.jsonl" if facts.kind == "reward" else '"Hello"'
    return "### finetune-gateway\n\n" + _code(
        "sh",
        f"hf download {_repo(facts)} --local-dir model",
        f"ftg chat ./model {ask}",
    )
