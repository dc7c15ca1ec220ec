"""Each default of local training beside two neighbours, by the loss on held-out rows.

One setting is changed at a time: of ``sft`` all of them, of other methods the learning rate and
beta. Two models that can already write (``builtin/tiny``, and a wider one trained on plain text
first), three real sets of rows each. Trainings run in processes of one thread each, side by side.
A run that prefers answers (dpo, orpo, kto, reward) is judged by the share of held-out rows that it
tells apart wrongly, which no beta scales; the others by the loss per trained token.

Needs ``../shared/data``. At most an hour on two cores. A default that loses by more than 2 % to a
neighbour (the geometric mean over sets and models) is named in the figures.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, arguments, run, say, versions
from _models import BUILD, shape

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"
Row = dict[str, Any]

SETS = {
    "chat": (
        "fireworks_text2sql/text2sql_dataset.jsonl",
        "foundry_gsm8k_chat/chat_train.jsonl",
        "self_instruct_seed/seed_tasks.jsonl",
    ),
    "preference": (
        "foundry_orca_dpo/validation.jsonl",
        "llamafactory_dpo_en/dpo_en_demo.json",
        "foundry_gsm8k_chat/chat_train.jsonl",  # rejected: the answer of another row
    ),
    "unpaired": (
        "llamafactory_kto_en/kto_en_demo.json",
        "foundry_orca_dpo/validation.jsonl",  # pairs, of which every second answer is kept
        "llamafactory_dpo_en/dpo_en_demo.json",
    ),
    "text": (
        "mlx_wikisql_text/train.jsonl",
        "llamafactory_plain_text/c4_demo.jsonl",
        "llamafactory_plain_text/wiki_demo.txt",
    ),
}
# The rows of each method, and its types of training.
METHODS = {
    "sft": ("chat", ("lora", "qlora", "full")),
    "pretrain": ("text", ("lora", "full")),
    "dpo": ("preference", ("lora", "full")),
    "orpo": ("preference", ("lora", "full")),
    "kto": ("unpaired", ("lora", "full")),
    "reward": ("preference", ("lora", "full")),
}
# Rows to train and rows held out, the shortest of each set; one of two answers costs twice as much.
ROWS = {"chat": (40, 16), "text": (40, 16), "preference": (26, 14), "unpaired": (26, 14)}
BASE_TEXTS, BASE_EPOCHS = 80, 2  # of each set
MAX_LENGTH = 448
MAX_TEXT = 900  # characters of a text that are kept
PROMPT = 300  # characters by which two rows with one prompt are known
# Neighbours on both sides of each default.
SFT: dict[str, tuple[Any, Any]] = {
    "lora_r": (8, 32),
    "lora_alpha": (16, 64),
    "lora_dropout": (0.05, 0.1),
    "target_modules": (["q_proj", "k_proj", "v_proj", "o_proj"], ["q_proj", "v_proj"]),
    "learning_rate": (1 / 3, 3.0),  # times the default
    "lr_scheduler_type": ("cosine", "constant_with_warmup"),
    "warmup_ratio": (0.0, 0.1),
    "weight_decay": (0.01, 0.1),
    "n_epochs": (2, 5),
    "batch_size": (4, 16),
}
BETAS = (0.03, 0.3)
RATES = (1 / 3, 3.0)
LOSE_AT_MOST = 0.02


@dataclass(frozen=True)
class Case:
    """One training: ``changed`` is the setting that differs from the defaults, and ``factor``
    whether its value is a factor on the default."""

    method: str
    kind: str
    data: str
    model: str
    changed: str = ""
    value: Any = None


def cases(methods: Sequence[str], models: Sequence[str]) -> Iterator[Case]:
    """All trainings, those with the defaults first."""
    for method in methods:
        rows, kinds = METHODS[method]
        for data in SETS[rows]:
            for model in models:
                for kind in kinds:
                    one = partial(Case, method, kind, data, model)
                    yield one()
                    yield from (one("learning_rate", factor) for factor in RATES)
                    if method in ("dpo", "orpo", "kto") and kind == "lora":
                        yield from (one("beta", beta) for beta in BETAS)
                    if method != "sft" or kind != "lora":
                        continue
                    for name, neighbours in SFT.items():
                        if name != "learning_rate":
                            yield from (one(name, value) for value in neighbours)


def main() -> int:
    asked = arguments(
        __doc__, methods="sft,dpo,orpo,kto,pretrain,reward", minutes=60, workers=2,
        runs="",
    )  # fmt: skip
    bench = Bench("defaults", versions("finetune-gateway", "torch", "transformers", "peft", "trl"))
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not there: the real sets of rows lie in it.")
    began = time.monotonic()
    with TemporaryDirectory() as name:
        folder = Path(name)
        models = prepared(folder)
        todo = [asdict(one) for one in cases(asked.methods.split(","), models)]
        # So that a run that is ended early has some of everything.
        random.Random(0).shuffle(todo)
        todo.sort(key=lambda one: one["changed"] != "")
        left = asked.minutes * 60 - (time.monotonic() - began)
        say(f"{len(todo)} trainings, {left / 60:.0f} minutes")
        shares = [todo[number :: asked.workers] for number in range(asked.workers)]
        with ThreadPoolExecutor(asked.workers) as pool:
            found = [
                one for some in pool.map(partial(worked, folder, left), shares) for one in some
            ]
    used = sum(one["seconds"] for one in found) / 60
    passed = (time.monotonic() - began) / 60
    say(f"{len(found)} of {len(todo)} trainings, {used:.0f} CPU minutes, in {passed:.0f} minutes")
    if asked.runs:
        Path(asked.runs).write_text("".join(json.dumps(one) + "\n" for one in found), "utf-8")
    judge(bench, found)
    return bench.end(asked.out)


def prepared(folder: Path) -> list[str]:
    """Build both models, and teach them to write: full training on rows that are used nowhere
    below, as plain text. A model that cannot write gains from any rate that is large enough."""
    script = """
import sys
from pathlib import Path
from finetune_gateway.backends.local import models
from finetune_gateway.settings.home import Settings
print(models.with_weights("builtin/tiny", Settings(home=Path(sys.argv[1])).create(), print))
"""
    say("building the models")
    tiny = run([sys.executable, "-c", script, str(folder / "home")]).out.splitlines()[-1]
    wider = str(folder / "wider-random")
    config = json.dumps(shape(192, 512, 3, 6, 3, 1_152, "qwen3"))
    run([sys.executable, "-c", BUILD, wider, config])
    texts = [{"text": text} for text in base_texts()]
    say(f"teaching both to write: {len(texts)} texts")
    models = {"tiny": tiny, "wider": wider}
    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(partial(taught, folder, texts), models, models.values()))


def taught(folder: Path, texts: list[Row], name: str, model: str) -> str:
    """Train a model on texts in a process of one thread; return its folder."""
    request = json.dumps({"folder": str(folder), "name": name, "model": model, "texts": texts})
    in_process("--base", request)
    return str(folder / name)


def base(folder: Path, name: str, model: str, texts: list[Row]) -> None:
    """Train a model on texts in this process."""
    spec = {
        "model": model,
        "method": "pretrain",
        "training_type": "full",
        "learning_rate": 1e-3,
        "n_epochs": BASE_EPOCHS,
        "max_length": MAX_LENGTH,
    }
    train_here(folder, f"base-{name}", spec, texts, [])
    (folder / "home" / "runs" / f"base-{name}" / "model").rename(folder / name)


def base_texts() -> list[str]:
    """Return the texts of rows that no run trains or holds out, by how they begin."""
    used = {
        text_of(row)[:PROMPT] for kind in SETS for name in SETS[kind] for row in taken(kind, name)
    }
    texts = []
    for name in sorted({name for names in SETS.values() for name in names}):
        rows = [row for row in rows_of(name) if text_of(row)[:PROMPT] not in used]
        texts += [text_of(row)[:MAX_TEXT] for row in rows[:BASE_TEXTS]]
    return texts


def taken(kind: str, name: str) -> list[Row]:
    train, held_out, _ = drawn(kind, name)
    return train + held_out


def text_of(row: Row) -> str:
    """Return a row as one text."""
    if "text" in row:
        return str(row["text"])
    messages = row.get("messages") or row["input"]["messages"] + row["preferred_output"]
    return "\n".join(str(message.get("content") or "") for message in messages)


def rows_of(name: str) -> list[Row]:
    from finetune_gateway.data.canonical import as_sent
    from finetune_gateway.data.dataset import Dataset

    with TemporaryDirectory() as spool:
        return [as_sent(row.data) for row in Dataset.open(DATA / name, spool=Path(spool)).rows()]


def as_kind(kind: str, rows: list[Row]) -> list[Row]:
    """Return rows as a set of this kind has them."""
    if kind == "preference" and "messages" in rows[0]:
        chats = [row["messages"] for row in rows]
        worse = chats[-1:] + chats[:-1]
        return [
            {
                "input": {"messages": good[:-1]},
                "preferred_output": good[-1:],
                "non_preferred_output": bad[-1:],
            }
            for good, bad in zip(chats, worse, strict=True)
            if good[-1] != bad[-1]
        ]
    if kind == "unpaired" and "preferred_output" in rows[0]:
        return [
            {"messages": [*row["input"]["messages"], *row[side]], "label": number % 2 == 0}
            for number, row in enumerate(rows)
            for side in (("preferred_output", "non_preferred_output")[number % 2],)
        ]
    if kind == "text":
        return [{"text": row["text"][:MAX_TEXT]} for row in rows]
    return rows


def drawn(kind: str, name: str) -> tuple[list[Row], list[Row], list[Row]]:
    """Return rows to train, held-out rows, and the others."""
    rows = sorted(as_kind(kind, rows_of(name)), key=lambda row: len(json.dumps(row)))
    trained, held_out = ROWS[kind]
    held = min(held_out, len(rows) // 3)
    used, others = rows[: held + trained], rows[held + trained :]
    random.Random(1).shuffle(used)
    return used[held:], used[:held], others


# -- in the processes that train -------------------------------------------------------------


def worked(folder: Path, seconds: float, share: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train the cases of one process until the time is over; return them with what they lost."""
    request = json.dumps({"folder": str(folder), "seconds": seconds, "cases": share})
    lines = [line for line in in_process("--worker", request) if line.startswith('{"method"')]
    return [json.loads(line) for line in lines]


def in_process(role: str, request: str) -> list[str]:
    """Run this script in a process of one thread; return the lines that it wrote."""
    done = subprocess.run(
        [sys.executable, str(HERE / "defaults.py"), role],
        input=request,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"a process that trains ended with exit code {done.returncode}")
    return done.stdout.splitlines()


def work() -> None:
    """Read cases from standard input, train each, and print it with what it lost."""
    from finetune_gateway.errors import GatewayError

    asked = json.load(sys.stdin)
    folder, ends = Path(asked["folder"]), time.monotonic() + asked["seconds"]
    for number, case in enumerate(asked["cases"]):
        if time.monotonic() > ends:
            return
        train, held_out, _ = drawn(METHODS[case["method"]][0], case["data"])
        spec = {
            "model": case["model"],
            "method": case["method"],
            "training_type": case["kind"],
            "max_length": MAX_LENGTH,
        }
        if case["changed"] == "learning_rate":
            spec["learning_rate"] = case["value"] * default_rate(case["method"], case["kind"])
        elif case["changed"]:
            spec[case["changed"]] = case["value"]
        began, name = time.process_time(), f"run-{os.getpid()}-{number}"
        try:
            metrics = train_here(folder, name, spec, train, held_out)
        except GatewayError as exc:  # a rate at which it diverges, for instance
            say(f"{case['method']} on {case['data']} with {case['changed']} did not train: {exc}")
            continue
        seconds = time.process_time() - began
        shutil.rmtree(folder / "home" / "runs" / name)
        ended = json.dumps({**case, **lost(case["method"], metrics), "seconds": seconds})
        print(ended, flush=True)
        say(ended)


def default_rate(method: str, kind: str) -> float:
    from finetune_gateway.methods import load_trainer

    rate: float = load_trainer(method).LEARNING_RATE[kind]
    return rate


def train_here(
    folder: Path, name: str, spec: dict[str, Any], train: list[Row], held_out: list[Row]
) -> dict[str, Any]:
    """Train one run in this process by the worker's code; return the metrics of its result."""
    from finetune_gateway.backends.local import fourbit
    from finetune_gateway.backends.local.queue import Queue
    from finetune_gateway.backends.local.run import Run, write_json
    from finetune_gateway.backends.local.run_file import RunFile
    from finetune_gateway.methods import load_trainer
    from finetune_gateway.settings.home import Settings
    from finetune_gateway.spec import TrainingSpec

    fourbit.import_quietly()
    settings = Settings(home=folder / "home").create()
    place = settings.runs / name
    (place / "data").mkdir(parents=True)
    for file, rows in (("train", train), ("validation", held_out)):
        if rows:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (place / "data" / f"{file}.jsonl").write_text(lines, "utf-8")
    about = RunFile(
        job_id=name,
        spec=TrainingSpec.build(seed=7, **spec),
        train_sha256="",
        versions={},
        created_at=time.time(),
    )
    write_json(place / "run.json", about.model_dump(mode="json"))
    Queue(settings).add(name)
    training = Run(settings, name, 0)
    training.claim(status="running")
    load_trainer(training.spec.method).train_and_save(training)
    manifest: dict[str, Any] = json.loads((training.model / "manifest.json").read_text("utf-8"))
    events = [json.loads(line) for line in (place / "events.jsonl").read_text().splitlines()]
    evaluated = [one["data"] for one in events if "valid_loss" in one.get("data", {})]
    best: dict[str, Any] = min(evaluated, key=lambda one: one["valid_loss"], default={})
    return {**manifest["metrics"], **best}


def lost(method: str, metrics: dict[str, Any]) -> dict[str, float]:
    """What a run is judged by: the lower the better."""
    figures = {"valid_loss": metrics["valid_loss"]}
    told_apart = [value for name, value in metrics.items() if name.endswith("accuracies")]
    told_apart += [metrics["valid_accuracy"]] if "valid_accuracy" in metrics else []
    if method in ("dpo", "orpo", "kto", "reward") and told_apart:
        figures["wrong"] = 1 - told_apart[0]
    return figures


# -- what comes out --------------------------------------------------------------------------


def judge(bench: Bench, found: list[dict[str, Any]]) -> None:
    """Print each neighbour beside the default: the ratio of what the default loses."""
    defaults = {key(one): one for one in found if not one["changed"]}
    pairs: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    measures: dict[tuple[str, str, str, str], str] = {}
    for one in found:
        other = defaults.get(key(one))
        if not one["changed"] or other is None:
            continue
        measure = "wrong" if one["changed"] == "beta" and "wrong" in one else "valid_loss"
        name = (one["method"], one["kind"], one["changed"], json.dumps(one["value"]))
        pairs.setdefault(name, []).append((other[measure], one[measure]))
        measures[name] = measure
    for name, both in sorted(pairs.items()):
        usable = [(ours, theirs) for ours, theirs in both if ours > 0 and theirs > 0]
        if not usable:
            continue
        mine, theirs = (mean([pair[side] for pair in usable]) for side in (0, 1))
        label = " ".join(name)
        # Not a bound of Bench: on few sets a ratio is a hint, and it is explained in the docs.
        unit = "share told apart wrongly" if measures[name] == "wrong" else "held-out loss"
        bench.figure(label, [mine], [theirs], f"{unit}, geometric mean")
        if mine > (1 + LOSE_AT_MOST) * theirs:
            bench.missed.append(label)
            say(f"{label}: the default loses by {mine / theirs - 1:.1%} on {len(usable)} runs")


def key(one: dict[str, Any]) -> tuple[str, str, str, str]:
    return one["method"], one["kind"], one["data"], one["model"]


def mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is on the hub
    if "--worker" in sys.argv:
        work()
    elif "--base" in sys.argv:
        asked_base = json.load(sys.stdin)
        base(Path(asked_base.pop("folder")), **asked_base)
    else:
        sys.exit(main())
