"""A model card has what is known of a model, and nothing that is not to be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cli import Ftg
from support.published import BASE, REVISION, compared_with_base, publishable

from finetune_gateway import ModelHandle, NotFoundError, SpecError

GUIDE = """
persona: The desk of a shop that sells lamps.
boundaries:
  - Promises no dates.
checks:
  - name: no-apology
    must_not: '(?i)as an AI'
"""


def head(text: str) -> dict[str, Any]:
    """What the Hub reads of a card, by its own client."""
    from huggingface_hub import ModelCard

    said: Any = ModelCard(text).data
    return dict(said.to_dict())


def test_a_card_has_what_is_known_of_a_model(
    ftg: Ftg, home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """Base, data, method, losses, figures of the newest comparison beside those of the base, the
    words of a guide, limits, four ways to load it; no row, path, key, answer or name of the
    machine."""
    published = publishable(home, tiny_tokenizer)
    compared_with_base(published, tmp_path / "made")
    (tmp_path / "behaviour.yaml").write_text(GUIDE)
    checks, out = str(tmp_path / "behaviour.yaml"), tmp_path / "README.md"
    done = ftg("card", "latest", "--checks", checks, "--repo", "acme/lamps", "-o", str(out))
    assert done.returncode == 0, done.stderr
    text = out.read_text("utf-8")
    assert head(text) == {
        "library_name": "peft",
        "base_model": BASE,
        "base_model_relation": "adapter",
        "pipeline_tag": "text-generation",
        "tags": ["finetune-gateway", "lora", "sft", f"base_model:adapter:{BASE}"],
    }
    for said in (
        f"Revision: {REVISION}",
        f"12 rows, 1.2 KiB, sha256 {published.job.train.sha256}",
        "Method: sft",
        "learning_rate: 0.0002",
        "lora_r: 8",
        "Training loss: 2.5 → 0.875",
        "| 3 | 0.875 | 1.000 |",
        "| Measure | This model | Its base |",
        "| exact match |",
        "no-apology",
        "sells lamps",
        "- Promises no dates.",
        "Licence: not known here.",
        "one piece over and over",
        'PeftModel.from_pretrained(base, "acme/lamps")',
        f"vllm serve {BASE} --revision {REVISION} --enable-lora --max-lora-rank 8",
        "ollama create",
        "hf download acme/lamps --local-dir model",
    ):
        assert said in text, said
    assert not [one for one in published.secrets() if one in text.encode()]
    again = ftg("card", "latest", "-o", str(out))
    assert again.returncode == 2 and out.read_text("utf-8") == text


def test_the_licence_is_that_of_the_base_as_it_says_itself(
    home: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """In its card, else its config; a base in a folder is named by its hash, not by its path; what
    is no licence is none."""
    base = tmp_path / "secret-project"
    base.mkdir()
    published = publishable(home, tiny_tokenizer, base=str(base))
    assert "not known here" in published.handle.card()
    (base / "config.json").write_text('{"license": "mit"}')
    text = published.handle.card()
    assert head(text)["license"] == "mit" and "base_model" not in head(text)
    assert "secret-project" not in text and "ab" * 32 in text
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: acme-1\nlicense_link: https://acme.example/l\n---\n# Hi"
    )
    assert head(published.handle.card())["license_name"] == "acme-1"
    for path in (
        ".",
        "../secret-project",
        "~/secret-project/x",
        "C:\\secret-project",
        "a/secret-project/x",
    ):
        elsewhere = published.handle.model_copy(
            update={"base_model": path, "continued_from": [path, f"{path}/secret-project"]}
        )
        assert "secret-project" not in elsewhere.card()
    (base / "README.md").write_text("---\nlicense: 'x\n\n# <script>'\n---\n")
    assert head(published.handle.card())["license"] == "mit"


def test_a_model_of_another_home_has_a_card_of_what_its_handle_knows(
    home: Path, tmp_path: Path, ftg: Ftg
) -> None:
    """And one at a host says that it answers there alone; what cannot be is said in words."""
    handle = ModelHandle(
        kind="hosted", model="ft:x", base_model="gpt-4o", backend="openai", job_id="ftg-elsewhere"
    )
    text = handle.card()
    assert "answers at its host alone" in text and "No comparison" in text
    assert yaml.safe_load(text.split("---\n")[1])["tags"] == ["finetune-gateway"]
    for wrong in ("lamps", "../x", "acme/../lamps", "a" * 300, 7):
        given: Any = wrong
        with pytest.raises(SpecError, match="no name of a model"):
            handle.card(repo=given)
    with pytest.raises(NotFoundError):
        handle.card(checks=tmp_path / "none.yaml")
    assert ftg("card", "nothing-of-the-kind").returncode != 0
