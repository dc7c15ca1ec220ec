"""A comparison as logs of inspect-ai, one for each model: ``inspect view --log-dir FOLDER`` shows
them. Written by inspect-ai itself (extra ``eval``), which takes seconds to import."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.errors import MissingDependency, SpecError, StoreError
from finetune_gateway.evaluation.comparison import Comparison, ScoredAnswer
from finetune_gateway.evaluation.judge import answer_text
from finetune_gateway.evaluation.results import (
    ComparedAnswer,
    ComparedFacts,
    ComparedRow,
    MeasureFigure,
)

Json = dict[str, Any]

STOPS = {"stop": "stop", "length": "max_tokens", "tool_calls": "tool_calls"}
STOPS |= {"content_filter": "content_filter"}


def write(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a log for each model into a folder, in place of earlier ones of this comparison, and
    return the files: for this user alone, as they hold rows and answers.

    Raises MissingDependency without inspect-ai, StoreError if the folder cannot be written.
    """
    require(folder)
    from inspect_ai import log  # it takes seconds

    target = Path(folder).expanduser()
    rows = {row.id: row for row in comparison.rows()}
    answers = comparison.answers()
    written = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as private:  # until it is for nobody else
            for model in comparison.data.models:
                own = [one for one in answers if one.answer.model == model.key]
                made = log.EvalLog.model_validate(_log(comparison, model, own, rows))
                path = Path(private) / _file_name(comparison, model)
                log.write_eval_log(made, str(path), format="eval")
                path.chmod(0o600)
                written.append(path.replace(target / path.name))
    except OSError as exc:
        raise StoreError(
            f"The logs cannot be written to {target}: {exc.strerror or exc}.",
            hint="Name a folder that you may write to.",
        ) from None
    return written


def require(folder: str | os.PathLike[str]) -> None:
    """Raise MissingDependency without inspect-ai, SpecError for a folder that is a file: before
    anything is asked. Imports nothing."""
    if find_spec("inspect_ai") is None:
        raise MissingDependency("Writing logs of inspect-ai", "eval")
    target = Path(folder).expanduser()
    if target.exists() and not target.is_dir():
        raise SpecError(f"{target} is a file.", hint="Name a folder for the logs.")


def _created(comparison: Comparison) -> datetime:
    return datetime.fromtimestamp(comparison.data.created_at, UTC)


def _file_name(comparison: Comparison, model: ComparedFacts) -> str:
    """Return a name as inspect-ai gives it, the time, the task and an id; always the same one."""
    time = f"{_created(comparison):%Y-%m-%dT%H-%M-%S}+00-00"
    key = re.sub(r"[^A-Za-z0-9.-]+", "-", model.key).strip("-")
    return f"{time}_{comparison.id}_{key}.eval"


def _log(
    comparison: Comparison,
    model: ComparedFacts,
    answers: Sequence[ScoredAnswer],
    rows: dict[str, ComparedRow],
) -> Json:
    """Return the log of one model, with the fields of inspect-ai."""
    data = comparison.data
    created = _created(comparison)
    samples = [_sample(one, rows[one.answer.row], model) for one in answers]
    known = ("temperature", "top_p", "max_tokens", "seed")
    return {
        "status": "success",
        "eval": {
            "created": created.isoformat(),
            "eval_id": f"{data.id}-{model.key}",
            "run_id": data.id,
            "task": data.id,
            "task_id": f"{data.id}-{model.key}",
            "dataset": {"name": data.data.words, "samples": len({one["id"] for one in samples})},
            "model": model.title,
            "model_generate_config": {
                key: value for key, value in model.parameters.items() if key in known
            },
            "config": {"epochs": max((one["epoch"] for one in samples), default=1)},
            "packages": {"finetune-gateway": data.gateway_version},
            "metadata": {
                "command": data.command,
                "verdict": data.verdict.text,
                "model": model.model,
                "base_model": model.base_model,
                "host": model.host,
                "fingerprint": model.fingerprint,
            },
        },
        "results": {
            "total_samples": len(samples),
            "completed_samples": sum("error" not in one for one in samples),
            "scores": [*_results(comparison, model)],
        },
        "stats": {
            "started_at": created.isoformat(),
            "completed_at": created.isoformat(),
            "model_usage": {model.title: _usage([one.answer for one in answers])},
        },
        "samples": samples,
    }


def _results(comparison: Comparison, model: ComparedFacts) -> Iterator[Json]:
    """Yield the mean of each measure with its interval, as a score."""
    for measure in comparison.data.measures:
        figure = comparison.data.figures.get(measure.name, {}).get(model.key, MeasureFigure())
        interval = figure.interval
        if interval is None:
            continue
        found = {"mean": interval.mean, "low_95": interval.low, "high_95": interval.high}
        yield {
            "name": measure.name,
            "scorer": measure.name,
            "scored_samples": interval.n,
            "unscored_samples": sum(figure.unjudged.values()),
            "metrics": {name: {"name": name, "value": value} for name, value in found.items()},
            "metadata": {"title": measure.title, "about": measure.about, "unit": measure.unit},
        }


# -- rows and answers ------------------------------------------------------------------------


def _sample(one: ScoredAnswer, row: ComparedRow, model: ComparedFacts) -> Json:
    answer = one.answer
    asked = [_message(message) for message in row.prompt.messages]
    said = _message({**answer.message, "role": "assistant"})
    sample: Json = {
        "id": row.id[:16],
        "epoch": answer.sample + 1,
        "input": asked,
        "target": answer_text(row.reference) if row.reference else "",
        "messages": asked if answer.error else [*asked, said],
        "scores": {
            name: {"value": score.value, "explanation": score.reason or None}
            for name, score in one.scores.items()
            if score.value is not None
        },
        "metadata": _metadata(one, row),
        "model_usage": {model.title: _usage([answer])},
        "total_time": answer.seconds,
    }
    if answer.error:
        return sample | {
            "error": {"message": answer.error, "traceback": "", "traceback_ansi": ""},
        }
    choice = {"message": said, "stop_reason": STOPS.get(answer.finish_reason or "", "unknown")}
    output = {
        "model": model.title,
        "choices": [choice],
        "completion": answer.text,
        "usage": _usage([answer]),
        "time": answer.seconds,
    }
    return sample | {"output": output}


def _metadata(one: ScoredAnswer, row: ComparedRow) -> Json:
    """Return what inspect-ai has no field for: scores that are none, with why, among it."""
    found: Json = {
        "lines": [*row.prompt.lines],
        "conversation": row.cluster,
        "not_scored": {
            name: score.reason for name, score in one.scores.items() if score.value is None
        },
        "left_out": [f"{leak.kind}: {leak.model}, line {leak.line}" for leak in row.leaks],
        "check": row.check,
        "first_token_seconds": one.answer.first_token_seconds,
    }
    return {name: value for name, value in found.items() if value not in ("", None, [], {})}


def _usage(answers: Sequence[ComparedAnswer]) -> Json:
    asked = sum(one.prompt_tokens or 0 for one in answers)
    said = sum(one.completion_tokens or 0 for one in answers)
    return {"input_tokens": asked, "output_tokens": said, "total_tokens": asked + said}


def _message(message: Json) -> Json:
    """Return a message with the fields of inspect-ai; parts that are no text by their type."""
    role = str(message.get("role"))
    role = {"developer": "system", "function": "tool"}.get(role, role)
    calls = [as_dict(one) for one in as_list(message.get("tool_calls"))]
    text = answer_text({**message, "tool_calls": None})
    found: Json = {"role": role, "content": "" if text == "(empty)" else text}
    if role == "assistant" and calls:
        found["tool_calls"] = [_call(one, number) for number, one in enumerate(calls)]
    if role == "tool":
        found["tool_call_id"] = message.get("tool_call_id")
    return found


def _call(call: Json, number: int) -> Json:
    function = as_dict(call.get("function"))
    written = function.get("arguments")
    found = {"id": str(call.get("id") or number), "function": str(function.get("name"))}
    try:
        arguments = json.loads(written) if isinstance(written, str) else written
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return {**found, "arguments": arguments}
    return {**found, "arguments": {}, "parse_error": f"no JSON object: {str(written)[:200]}"}
