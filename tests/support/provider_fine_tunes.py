"""A past for the provider: finished fine-tunes, without walking each through its stages.

world.add_fine_tune(base=BASES[3], method="dpo", account="main proj_shop", days_ago=200)
world.add_fine_tunes(300)            # over all bases, three methods, three years
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from support.provider_memory import BASES, JSON, MAIN
from support.provider_models import Models

METHODS = ("sft", "dpo", "reinforcement")
WIRE = {"sft": "supervised"}  # OpenAI's word for a method
NULLS = {"code": None, "message": None, "param": None}
FAILURE = {
    "code": "invalid_training_file",
    "message": "The job failed due to an invalid training file.",
    "param": "training_file",
}
CHOSEN: dict[str, JSON] = {  # what `auto` came to
    "sft": {"batch_size": 1, "learning_rate_multiplier": 1.8},
    "dpo": {"batch_size": 4, "learning_rate_multiplier": 0.5, "beta": 0.1},
    "reinforcement": {
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
        "compute_multiplier": 1.0,
        "eval_interval": 2,
        "eval_samples": 1,
        "reasoning_effort": "medium",
    },
}
GRADER = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
EPOCH = 4  # steps


class FineTunes(Models):
    def add_fine_tune(
        self,
        *,
        base: str = BASES[3],
        method: str = "sft",  # or dpo, reinforcement
        account: str = MAIN,
        days_ago: float = 90.0,  # created
        suffix: str = "",
        status: str = "succeeded",  # or any other word: failed, cancelled, pausing, paused
        epochs: int = 3,
        rows: int = 12,  # OpenAI takes none below ten
        validation_rows: int = 3,  # 0: no validation file
        system: str = "You answer for the shop.",
        results: str = "csv",  # or base64, the form of its result file
        **shown: Any,  # fields of the job as it is shown: seed=None, error=NULLS, metadata={...}
    ) -> JSON:
        """Add a fine-tune as it stands some time after its end; return its job as it is shown."""
        with self.lock:
            born = time.time() - days_ago * 86400
            job_id = f"ftjob-{uuid.uuid4().hex[:24]}"
            request: JSON = {"model": base, "method": resolved(method, epochs), "seed": 7}
            request["suffix"] = suffix or None
            name = suffix or job_id[6:14]
            for kind, count in (("training", rows), ("validation", validation_rows)):
                raw = example_rows(method, count, f"{name} {kind}", system)
                file = f"{name}-{kind}.jsonl"
                request[f"{kind}_file"] = None
                if count:
                    request[f"{kind}_file"] = self.keep_file(
                        "fine-tune", file, raw, account=account, at=born - 60
                    )
            job: JSON = {
                "id": job_id,
                "born": born,
                "request": request,
                "account": account,
                "bad_line": None,
                "bytes": self.files[request["training_file"]]["bytes"],
                "status": status,
                "steps": EPOCH * epochs,
                "epoch": EPOCH,
                "final_is_checkpoint": True,
                "results": results,
                "shown": {**overlay(method, status), **shown},
            }
            job["stage"] = self.last_of(job) if status == "succeeded" else 4
            self.jobs[job_id] = job
            shown_job = self.shown(job)  # which makes the file of results of one that succeeded
            self.save()
            return shown_job

    def add_fine_tunes(
        self,
        count: int,
        *,
        bases: Sequence[str] = BASES,
        methods: Sequence[str] = METHODS,
        accounts: Sequence[str] = (MAIN,),
        years: float = 3.0,  # the oldest's age; the newest is a day old
        **each: Any,
    ) -> list[JSON]:
        """Add so many, oldest first, spread evenly; return their jobs as they are shown.

        Each third has an ``error`` of nulls, each fifth no ``seed``, each second its results in
        base64: the forms that were seen.
        """
        made, state_file, self.state_file = [], self.state_file, None
        for number in range(count):
            age = 1 + (years * 365 - 1) * (count - 1 - number) / max(count - 1, 1)
            made.append(
                self.add_fine_tune(
                    base=bases[number % len(bases)],
                    method=methods[number // len(bases) % len(methods)],
                    account=accounts[
                        (number + number // (len(bases) * len(methods))) % len(accounts)
                    ],
                    **{"days_ago": age, "suffix": f"tune-{number}", **form(number), **each},
                )
            )
        self.state_file = state_file
        self.save()
        return made


def form(number: int) -> JSON:
    """What is shown of one of many, in one of the forms that were seen."""
    form: JSON = {"results": "base64" if number % 2 else "csv"}
    form |= {"error": NULLS} if number % 3 == 1 else {}
    form |= {"seed": None} if number % 5 == 2 else {}
    return form


def resolved(method: str, epochs: int) -> JSON:
    """The ``method`` of a job, `auto` replaced by what was taken."""
    word = WIRE.get(method, method)
    chosen: JSON = {"hyperparameters": {"n_epochs": epochs, **CHOSEN[method]}}
    if method == "reinforcement":
        chosen["grader"] = GRADER
    return {"type": word, word: chosen}


def overlay(method: str, status: str) -> JSON:
    """What is shown otherwise than of a job that walked here: ``hyperparameters`` belongs to
    supervised jobs, and a healthy job's ``error`` has been seen as ``{}`` and as nulls."""
    shown: JSON = {}
    if method != "sft":
        shown["hyperparameters"] = None
    if status == "failed":
        shown["error"] = FAILURE
    return shown


def example_rows(method: str, count: int, topic: str, system: str) -> bytes:
    """So many rows of the method's kind, all different, as JSON lines."""
    lines = []
    for number in range(count):
        asked = [
            {"role": "system", "content": system},
            {"role": "user", "content": f"Question {number} on {topic}?"},
        ]
        answer = [{"role": "assistant", "content": f"Answer {number} on {topic}."}]
        worse = [{"role": "assistant", "content": "I do not know."}]
        row: JSON = {"messages": [*asked, *answer]}
        if method == "dpo":
            row = {"input": {"messages": asked}, "preferred_output": answer}
            row["non_preferred_output"] = worse
        if method == "reinforcement":
            row = {"messages": asked, "answer": answer[0]["content"]}
        lines.append(json.dumps(row))
    return ("\n".join(lines) + "\n").encode()
