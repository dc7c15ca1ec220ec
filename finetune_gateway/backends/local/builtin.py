"""The built-in model ``builtin/tiny``: trained on this machine, nothing is downloaded.

A Llama of 2 million parameters that answers the customers of a small web shop in prose. With it a
first fine-tune, the tests and the docs run anywhere in a minute. It knows only its phrase tables
(``resources/phrases.json``). On disk it is a model folder like any other, for
``AutoModelForCausalLM.from_pretrained(folder)``.

``torch`` is imported by ``ensure_model`` alone; tokenizer and template need none.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_gateway.settings import files
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate

if TYPE_CHECKING:
    from torch import Tensor

NAME = "builtin/tiny"
ABOUT = f"{NAME} is a toy: it knows the questions of one small shop, and nothing else."
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")  # ids 0..3

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1152,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "use_cache": True,
    "dtype": "float32",
}
GENERATION_CONFIG = {"do_sample": False, "eos_token_id": [2, 0], "pad_token_id": 3}

# ChatML. The marks stand around what the model itself writes: content, calls, <|im_end|>.
# The newline after <|im_end|> is outside, so a prompt is a prefix of the rendered whole.
CHAT_TEMPLATE = """\
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content -%}
        {%- for part in content -%}{{- part.text -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages[0].role == 'system' -%}{{- text(messages[0].content) + '\\n' -}}{%- endif -%}
    {{- 'Tools:' -}}
    {%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- generation -%}
        {{- text(message.content) -}}
        {%- for call in message.tool_calls or [] -%}
            {{- '\\n' if message.content or not loop.first -}}
            {{- '<tool_call>{"name": ' + (call.function.name | tojson) + ', "arguments": ' -}}
            {%- set given = call.function.arguments -%}
            {{- (given if given is string else given | tojson) + '}</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>' -}}
        {%- endgeneration -%}
        {{- '\\n' -}}
    {%- elif not (tools and loop.first and message.role == 'system') -%}
        {{- '<|im_start|>' + message.role + '\\n' + text(message.content) + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

# The recipe of the base: 180 steps, 45 s on one core (AMD EPYC Zen 4). Of 200 fresh requests it
# then answers 97 % on the right subject; AdamW alone got 74 % from 240 steps of the same data.
SEED = 1  # of phrases, weights and batches alike
STEPS = 180
BATCH = 16  # rows per step, about 700 tokens
MATRIX_LEARNING_RATE = 0.01  # Muon; 0.02 does as well
NEWTON_SCHULZ = 5  # 3 saves a fifth of the time and costs 6 points of those 97 %
LEARNING_RATE = 3e-3  # AdamW, for embeddings and norms
THREADS = 1  # another count sums in another order; two on a busy machine took ten times as long

Log = Callable[[str], None]
HASH = "model.safetensors.sha256"  # of the weights as they were built
Message = dict[str, Any]
Row = dict[str, Any]
Split = Literal["train", "validation", "held_out"]

SPLITS: tuple[Split, ...] = ("train", "validation", "held_out")
DEMO_KEYS = ("intent", "urgency", "reply")  # of every answer the demo teaches


# ------------------------------------------------------------------------- data


@cache
def phrases() -> dict[str, Any]:
    """Return the phrase tables from which all texts of the built-in model are made."""
    tables: dict[str, Any] = json.loads(_data("phrases.json").read_text(encoding="utf-8"))
    return tables


def demo_path(name: Split) -> Path:
    """Return a JSONL file of the demo: OpenAI chat rows whose answer is one JSON object with the
    keys of ``DEMO_KEYS``. ``held_out`` shares no prompt with the other two."""
    return _data(f"demo_{name}.jsonl")


def _data(name: str) -> Path:
    return Path(str(resources.files("finetune_gateway") / "resources" / name))


def demo_intents() -> list[str]:
    """Return the values that ``intent`` may have in the demo."""
    return list(phrases()["intents"])


class Phrases:
    """Random requests and answers from the tables; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.tables = phrases()

    def one(self, table: str) -> str:
        choice: str = self.rng.choice(self.tables[table])
        return choice

    def order(self) -> str:
        return f"{self.rng.choice('ABCDEF')}-{self.rng.randrange(1000, 10000)}"

    def ask(self, pattern: str, urgent: bool, order: str) -> str:
        """Return a customer's request: opening, question, closing."""
        question = pattern.format(order=order, item=self.one("items"), place=self.one("places"))
        opening = self.one("openings")
        closing = self.one("urgent" if urgent else "calm")
        return f"{opening}{question if opening else _capital(question)} {closing}".strip()

    def answer(self, intent: str, urgent: bool) -> str:
        """Return the shop's answer in prose."""
        sentence: str = self.rng.choice(self.tables["intents"][intent]["answers"])
        return (self.one("urgent_answers") if urgent else "") + sentence

    def chat(self) -> list[Message]:
        """Return one conversation in prose, with one or two questions."""
        messages: list[Message] = []
        if self.rng.random() < 0.3:
            messages.append({"role": "system", "content": self.one("systems")})
        if self.rng.random() < 0.2:
            question, reply = self.rng.choice(self.tables["small_talk"])
            messages += _turn(_capital(question), reply)
            if self.rng.random() < 0.5:
                return messages
        intent = self.rng.choice(list(self.tables["intents"]))
        pattern = self.rng.choice(self.tables["intents"][intent]["asks"])
        urgent = self.rng.random() < 0.5
        return messages + _turn(
            self.ask(pattern, urgent, self.order()), self.answer(intent, urgent)
        )

    def record(self) -> str:
        """Return a line of the shop's records. A base model sees JSON in documents, with these
        words; to *answer* in JSON is what the demo trains."""
        intent = self.rng.choice(list(self.tables["intents"]))
        table = self.tables["intents"][intent]
        order, item = self.order(), self.one("items")
        urgent = self.rng.random() < 0.5
        ask = self.ask(self.rng.choice(table["asks"]), urgent, order)
        level = "high" if urgent else "low"
        shapes: list[dict[str, str]] = [
            {"order": order, "item": item, "intent": intent},
            {"note": ask, "intent": intent, "urgency": level},
            {"order": order, "reply": self.rng.choice(table["replies"])},
            {"urgency": level, "intent": intent, "reply": self.rng.choice(table["replies"])},
        ]
        return json.dumps(self.rng.choice(shapes))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _turn(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def corpus(seed: int = SEED) -> Iterator[Row]:
    """Yield the base's training data without end: chats in prose, and one document in five. No
    prompt of the demo is among them."""
    source = Phrases(seed)
    taken = _demo_prompts()
    while True:
        if source.rng.random() < 0.2:
            yield {"text": source.record()}
            continue
        messages = source.chat()
        if messages[-2]["content"] not in taken:
            yield {"messages": messages}


def _demo_prompts() -> set[str]:
    lines = [line for split in SPLITS for line in demo_path(split).read_text("utf-8").splitlines()]
    return {json.loads(line)["messages"][-2]["content"] for line in lines}


# -------------------------------------------------------------------- tokenizer


def build_tokenizer() -> Tokenizer:
    """Return a byte-level BPE, trained on 4,000 texts of the corpus in 0.2 s; any text round-trips.
    Each digit is a token, so that an order number is copied digit by digit, not learned."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(_texts, islice(corpus(), 4000)), trainer)
    return tokenizer


def _texts(row: Row) -> list[str]:
    if "text" in row:
        return [row["text"]]
    return [part for m in row["messages"] for part in (m["role"], m["content"])]


def ensure_tokenizer(folder: Path) -> Path:
    """Write what counting and previews need (no weights, no torch) and return ``folder``.

    Files are as transformers 5 reads them; existing ones are left alone.
    """
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # read by transformers 4 as well as 5
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "model_max_length": CONFIG["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    files.folder(folder)
    if not (folder / "tokenizer.json").exists():
        _write(folder / "tokenizer.json", build_tokenizer().to_str(pretty=True))
    _write(folder / "tokenizer_config.json", json.dumps(tokenizer_config, indent=2))
    _write(folder / "config.json", json.dumps(CONFIG, indent=2))
    _write(folder / "generation_config.json", json.dumps(GENERATION_CONFIG, indent=2))
    return folder


def _write(path: Path, data: str | bytes) -> None:
    files.write_atomic(path, data, private=True)


def folder_name() -> str:
    """Return a name with a short hash of all that the model is made from: another recipe is another
    model, and an adapter keeps the base it was trained on."""
    recipe = [phrases(), sorted(_demo_prompts()), CONFIG, CHAT_TEMPLATE, SPECIAL, SEED, STEPS]
    recipe += [BATCH, MATRIX_LEARNING_RATE, NEWTON_SCHULZ, LEARNING_RATE, THREADS]
    return "builtin-tiny-" + hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


# -------------------------------------------------------------------- the model


def about(folder: Path) -> str:
    """Return what the model is, and that it has to be built if this folder does not hold it."""
    return ABOUT if is_built(folder) else f"{ABOUT} It is built first, in about a minute."


def is_built(folder: Path) -> bool:
    """Return True if the folder is complete: the weights are written last."""
    return (folder / "model.safetensors").is_file()


def is_whole(folder: Path) -> bool:
    """Return True if it is, and the weights are as they were built; those of an earlier version,
    without a hash, count as such."""
    if not is_built(folder):
        return False
    try:
        kept = (folder / HASH).read_text("ascii", "replace")
    except FileNotFoundError:
        return True
    return kept == files.sha256_of(folder / "model.safetensors")


def ensure_model(folder: Path, log: Log, steps: int = STEPS) -> Path:
    """Train the base from scratch unless ``folder`` holds it already, as it was built; return
    ``folder``.

    45 s on one core. The same machine gives the same bytes each time. Two builders at once do no
    harm, they just do the work twice.
    """
    if is_whole(folder):
        return folder
    if is_built(folder):
        log(f"The weights in {folder} are damaged: they are built again.")
    import torch

    ensure_tokenizer(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
            weights = _train(folder, log, steps)
    finally:
        torch.set_num_threads(threads)
    (folder / HASH).unlink(missing_ok=True)
    _save(weights, folder / "model.safetensors")
    _write(folder / HASH, files.sha256_of(folder / "model.safetensors"))
    return folder


def _train(folder: Path, log: Log, steps: int) -> dict[str, Tensor]:
    """Pretrain on chats and documents: a plain loop, top to bottom. Return the weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.train()

    # Matrices between two layers (7 a layer) are moved by Muon, embeddings (tied to the head)
    # and norms by AdamW. torch.optim.Muon is not used: it multiplies in bfloat16, which CPUs
    # without such instructions only emulate.
    matrices = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    others = [p for n, p in model.named_parameters() if not n.endswith("_proj.weight")]
    momenta = [torch.zeros_like(p) for p in matrices]
    adamw = torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    warmup = max(1, steps // 20)

    for step, (inputs, labels) in enumerate(islice(_batches(folder), steps)):
        loss = model(input_ids=inputs, labels=labels).loss  # mean over the labelled tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # 5 % of the steps to warm up, then down to nothing in a straight line.
        slope = min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))
        with torch.no_grad():
            for p, momentum in zip(matrices, momenta, strict=True):
                assert p.grad is not None  # for the type checker: backward has just set it
                momentum.lerp_(p.grad, 0.05)
                update = _orthogonal(p.grad.lerp(momentum, 0.95))  # Nesterov
                tall = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.sub_(update, alpha=MATRIX_LEARNING_RATE * slope * tall)
        adamw.param_groups[0]["lr"] = LEARNING_RATE * slope
        adamw.step()
        model.zero_grad()
        if step % 25 == 24 or step == steps - 1:
            log(f"building {NAME}: step {step + 1} of {steps}, loss {loss.item():.2f}")

    # The head is the embedding's own tensor (tied), so it is not among the parameters twice.
    return {name: p.detach().contiguous() for name, p in model.named_parameters()}


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return about the nearest matrix whose singular values are all 1: rare directions move as far
    as common ones. Newton-Schulz steps of Muon (kellerjordan.github.io/posts/muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ):
        square = x @ x.T  # (192, 192)
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def _batches(folder: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and labels, both (rows, tokens) int64. In a chat only the assistant's words have
    a label: it learns in half the steps of one that must guess the customer's words too."""
    import torch

    template = ChatTemplate.load(folder)
    rng, rows = random.Random(SEED), corpus()
    while True:
        # Rows of like length go together: sorted by pools of 16 batches, 6 % of the slots are
        # padding (36 % unsorted). Padding stands right of everything, where causal attention
        # never looks, and has no label: no mask is needed.
        pool = [_encoded(template, row) for row in islice(rows, 16 * BATCH)]
        pool.sort(key=lambda pair: len(pair[0]))
        starts = list(range(0, len(pool), BATCH))
        rng.shuffle(starts)
        for start in starts:
            batch = pool[start : start + BATCH]
            width = len(batch[-1][0])
            inputs = [ids + [CONFIG["pad_token_id"]] * (width - len(ids)) for ids, _ in batch]
            labels = [marks + [IGNORED] * (width - len(marks)) for _, marks in batch]
            yield torch.tensor(inputs), torch.tensor(labels)


def _encoded(template: ChatTemplate, row: Row) -> tuple[list[int], list[int]]:
    """Return ids and labels of a row; a document is trained whole and ends in <|endoftext|>."""
    if "text" in row:
        ids = [*template.tokenizer.encode(row["text"]).ids, SPECIAL.index("<|endoftext|>")]
        return ids, ids
    [encoded] = template.encode(row)
    return encoded.input_ids, encoded.labels


def _save(weights: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    _write(path, save(weights, metadata={"format": "pt"}))  # transformers asks for the format
