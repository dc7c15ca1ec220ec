"""One part of ``gpu``, in a process of its own: prints one JSON object on stdout.

``look`` says what torch sees; ``build`` makes a model with random weights on the device; ``train``
runs a job's own code on a run folder, as a worker does, and times its steps by its events.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "trl",
            "liger_kernel", "flash_attn", "triton", "finetune-gateway")  # fmt: skip


def look(_: dict[str, Any]) -> dict[str, Any]:
    """Return the name and the memory of the GPU, None if torch sees none, and versions."""
    import torch

    found: dict[str, Any] = {"gpu": None, "versions": installed()}
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found |= {"gpu": about.name, "memory_bytes": about.total_memory}
        found["versions"]["cuda"] = torch.version.cuda or "none"
    return found


def installed() -> dict[str, str]:
    """Return the versions of ``PACKAGES`` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout on PYTHONPATH is none either
            continue
    return found


def build(given: dict[str, Any]) -> dict[str, Any]:
    """Write a model with random weights in bfloat16, the tokenizer and template of builtin/tiny."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from finetune_gateway.backends.local import builtin

    began = time.perf_counter()
    folder = builtin.ensure_tokenizer(Path(given["folder"]))
    wanted = {**builtin.CONFIG, **given["shape"]}
    wanted.pop("architectures")
    config = AutoConfig.for_model(wanted.pop("model_type"), **wanted)
    torch.manual_seed(0)
    with torch.device(given["device"]):  # drawing 8 billion numbers takes a CPU minutes
        make: Any = AutoModelForCausalLM.from_config  # untyped
        model = make(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(builtin.GENERATION_CONFIG))
    return {"seconds": time.perf_counter() - began, "parameters": model.num_parameters()}


def train(given: dict[str, Any]) -> dict[str, Any]:
    """Train, and return the estimate made before, the seconds of each step, tokens, peaks."""
    from finetune_gateway import Gateway, LocalBackend
    from finetune_gateway.backends.local.imports import import_training
    from finetune_gateway.backends.local.queue import Queue
    from finetune_gateway.backends.local.run import Run, write_json
    from finetune_gateway.backends.local.run_file import RunFile
    from finetune_gateway.estimation.engine import needs_bitsandbytes
    from finetune_gateway.settings.home import Settings
    from finetune_gateway.spec import TrainingSpec

    steps = given["steps"]
    options = {
        "max_steps": steps, "save_steps": steps, "logging_steps": 1, "warmup_ratio": 0.0,
        "seed": 7, "train_on": "all", **given["options"],
    }  # fmt: skip
    data = Path(given["data"])
    spec = TrainingSpec.build(model=given["model"], **options)
    settings = Settings(Path(given["home"])).create()
    quote = Gateway(settings.home).estimate(
        data, model=given["model"], validation_split=0,
        backend=LocalBackend(gpu=given["gpu"]) if given["gpu"] else "local", **options,
    )  # fmt: skip
    assert quote.memory_bytes and quote.seconds

    import_training(spec.method, bitsandbytes=needs_bitsandbytes(spec))  # as a worker does
    from finetune_gateway.backends.local import finishing

    seen: dict[str, Any] = {"steps": [], "used": 0, "losses": []}

    class Timed(Run):
        def event(self, message: str, **kwargs: Any) -> None:
            super().event(message, **kwargs)
            said = kwargs.get("data") or {}
            if "trained_tokens_per_epoch" in said:
                seen.update(rows=said["rows"], tokens=said["tokens"])
                seen.update(trained=said["trained_tokens_per_epoch"])
            if "micro_batch" in said and "attention" in said:
                seen.update(choice=said)
            if "train_loss" in said:
                seen["steps"].append(time.perf_counter())
                seen["losses"].append(said["train_loss"])
                seen["used"] = max(seen["used"], used_bytes())

    name = given["name"].replace(" ", "-")
    folder = settings.runs / name
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_bytes(data.read_bytes())
    about = RunFile(job_id=name, spec=spec, train_sha256="", versions={}, created_at=time.time())
    write_json(folder / "run.json", about.model_dump(mode="json"))
    Queue(settings).add(name)
    run = Timed(settings, name, 0)
    run.claim(status="running")
    result, _ = finishing.train(run)
    ends = seen.pop("steps")
    return {
        **seen,
        # The first is not counted: kernels are compiled and chosen, memory is taken.
        "seconds": [after - before for before, after in zip(ends, ends[1:], strict=False)],
        "allocated": allocated_bytes(),
        "answer": result.first_answer,
        "estimated_bytes": quote.memory_bytes.expected,
        "estimated_seconds": quote.seconds.expected,
    }


def used_bytes() -> int:
    """Return what is taken of the GPU, by whatever; without one the peak of this process."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return int(total - free)
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


def allocated_bytes() -> int | None:
    """Return the most that tensors took of the GPU at once; None without one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def main() -> None:
    task, given = sys.argv[1], json.loads(sys.argv[2])
    out = os.dup(1)
    os.dup2(2, 1)  # trainers print; stdout has the result alone
    found = {"look": look, "build": build, "train": train}[task](given)
    with os.fdopen(out, "w") as file:
        file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
