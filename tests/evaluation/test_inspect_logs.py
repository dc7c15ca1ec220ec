"""A comparison as logs of inspect-ai. Skipped where that is not installed: it is large, and in the
extra ``eval`` alone, which the tests do not bring."""

from __future__ import annotations

import json
import stat
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.comparisons import comparison

from finetune_gateway.errors import GatewayError, MissingDependency
from finetune_gateway.evaluation import inspect_logs

HERE = find_spec("inspect_ai") is not None


@pytest.mark.skipif(not HERE, reason="needs inspect-ai")
def test_inspect_ai_reads_all_of_a_comparison(tmp_path: Path) -> None:
    """Each model's rows, answers, scores with reasons, errors and figures, by its own reader."""
    from inspect_ai.log import list_eval_logs, read_eval_log

    found = comparison(tmp_path / "home", rows=24, models=3)
    rows = {row.id[:16]: row for row in found.rows()}
    folder = tmp_path / "logs"
    paths = inspect_logs.write(found, folder)
    assert inspect_logs.write(found, folder) == paths and [*folder.iterdir()]
    assert sorted(folder.iterdir()) == sorted(paths) and len(list_eval_logs(str(folder))) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    for model, path in zip(found.data.models, paths, strict=True):
        log = read_eval_log(str(path))
        own = {one.answer.row[:16]: one for one in found.answers() if one.answer.model == model.key}
        assert log.status == "success" and log.eval.model == model.title
        assert {str(one.id) for one in log.samples or []} == {*own} and log.results is not None
        for sample in log.samples or []:
            scored, row = own[str(sample.id)], rows[str(sample.id)]
            values = {n: s.value for n, s in scored.scores.items() if s.value is not None}
            assert {n: s.value for n, s in (sample.scores or {}).items()} == values
            assert sample.output.completion == scored.answer.text
            assert bool(sample.error) == bool(scored.answer.error)
            assert sample.target == (row.reference or {})["content"]
            assert [one.text for one in sample.input] == [
                one["content"] for one in row.prompt.messages
            ]
        means = {one.name: one.metrics["mean"].value for one in log.results.scores}
        figures = {name: by[model.key].interval for name, by in found.data.figures.items()}
        assert means == {name: one.mean for name, one in figures.items() if one}
        assert len(own) == log.results.total_samples


@pytest.mark.skipif(not HERE, reason="needs inspect-ai")
def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    """Nothing is left behind."""
    taken = tmp_path / "taken"
    taken.write_text("x")
    for name in (taken, taken / "below"):
        with pytest.raises(GatewayError, match="taken"):
            inspect_logs.write(comparison(tmp_path / "home", rows=2, models=1), name)


@pytest.mark.skipif(HERE, reason="inspect-ai is installed")
def test_without_inspect_ai_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency) as raised:
        inspect_logs.write(comparison(tmp_path / "home", rows=2, models=1), tmp_path / "logs")
    assert "finetune-gateway[eval]" in str(raised.value) and not (tmp_path / "logs").exists()


def test_a_log_has_calls_and_parts_as_inspect_ai_has_them() -> None:
    """Without importing it: calls with arguments, one that is no JSON, an image."""
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}
    broken = {"function": {"name": "find", "arguments": "oops"}}
    said = inspect_logs._message(
        {"role": "assistant", "content": None, "tool_calls": [call, broken]}
    )
    assert said["content"] == "" and said["tool_calls"][0]["arguments"] == {"a": 1}
    assert "oops" in said["tool_calls"][1]["parse_error"]
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "x"}}]
    seen = inspect_logs._message({"role": "developer", "content": parts})
    assert json.dumps(seen) == '{"role": "system", "content": "Look:\\n(image_url)"}'
