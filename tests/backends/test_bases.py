"""The base of a local job: which folder it is, what lies in it, and that it stays the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway import BudgetError, Gateway
from finetune_gateway.jobs import planning
from finetune_gateway.jobs.planning import Plan
from finetune_gateway.tokens.chat_template import ChatTemplate

Rows = Callable[[int], list[dict[str, Any]]]


def test_paths_are_absolute_in_the_spec(
    home: Path, tiny_folder: Path, tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is found from the user's own folder, whatever it is called: by every verb, and as
    the same path however it is written. Other names stay as they are."""
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(tiny_folder)
    (tmp_path / "my.jinja").write_text(ChatTemplate.load(tiny_folder).source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    gateway = Gateway()
    given: dict[str, Any] = {"backend": "local", "chat_template": "my.jinja"}
    for written in (
        "owner/name",
        "./owner/name",
        "~/owner/name",
        "owner/../owner/name",
        tiny_folder,
    ):
        plan = gateway.plan(rows(12), model=str(written), **given)
        assert plan.spec.model == plan.estimate.model == str(tiny_folder)
        assert plan.spec.chat_template == str(tmp_path / "my.jinja")
        assert plan.spec.chosen == {"model", "chat_template"}
        assert plan.backend.resolve(plan.spec) is plan.spec
    [option] = gateway.options(rows(12), [("./owner/name", "local")])
    assert option.error is None
    assert gateway.preview(rows(12), model="./owner/name", backend="local")[0].tokens
    assert gateway.validate(rows(12), model="owner/name", backend="local").ok
    local = gateway.backend("local")
    for name in ("acme/small", "builtin/tiny", "./none"):
        spec = plan.spec.model_copy(update={"model": name})
        assert local.resolve(spec).model == name


def test_an_edited_template_makes_another_job(
    home: Path, tiny_folder: Path, tmp_path: Path, train_file: Path
) -> None:
    """Two submits are the same while the file that they name is."""
    template = tmp_path / "my.jinja"
    template.write_text(ChatTemplate.load(tiny_folder).source)
    gateway, keys = Gateway(), []

    def refuse(plan: Plan) -> bool:
        keys.append(planning.intent(plan, gateway.settings.files).submit_key)
        return False

    options: dict[str, Any] = {"backend": "local", "chat_template": str(template)}
    for text in ("", "", "\n{# edited #}"):
        template.write_text(template.read_text() + text)
        with pytest.raises(BudgetError, match="not confirmed"):
            gateway.submit(train_file, model=str(tiny_folder), confirm=refuse, **options)
    assert keys[0] == keys[1] != keys[2]
