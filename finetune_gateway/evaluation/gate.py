"""What may go to a host: no personal data or secrets unless allowed, and nothing whose cost nobody
can tell where there is a limit."""

from __future__ import annotations

import json
from collections.abc import Sequence

from finetune_gateway.errors import BudgetError
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.findings import Defect, Report
from finetune_gateway.jobs import permits
from finetune_gateway.settings import config
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.detectors import text_defects

Known = dict[str, list[Defect]]  # by the fingerprint of a prompt: what was found in it


def require_allowed(
    prompts: Sequence[Prompt],
    words: str,
    host: str,
    settings: Settings,
    *,
    pii: bool,
    secrets: bool,
    known: Known | None = None,
) -> dict[str, int]:
    """Return the private data that goes to the host. Raises PrivateDataError unless it is allowed:
    only what is asked counts, not what the data answer. ``words``: where the prompts are from;
    ``known``: what was found for another host."""
    findings, regions = Findings(), config.pii_regions(settings)
    known = {} if known is None else known
    for prompt in prompts:
        if prompt.id not in known:
            text = json.dumps(prompt.asked, ensure_ascii=False)
            known[prompt.id] = [*text_defects(text, prompt.asked, regions)]
        for defect in known[prompt.id]:
            findings.add(defect, prompt.lines[0])
    listed = findings.listed()
    report = Report(ok=True, format="openai-chat", kind="chat", rows=len(prompts), findings=listed)
    return permits.require_texts_allowed(words, listed, host, report, pii=pii, secrets=secrets)


def require_counted(prompts: Sequence[Prompt]) -> None:
    """Raise BudgetError if a part of a prompt may cost anything: of prompts that have a limit."""
    if types := uncounted(prompts):
        raise BudgetError(
            f"What parts of type {types} cost cannot be told, so a limit cannot be checked.",
            hint="Leave out the rows that have them, or the limit.",
        )


def uncounted(prompts: Sequence[Prompt]) -> str:
    """Return the types of the parts whose cost cannot be told."""
    types = {name for prompt in prompts for name in prompt.uncounted}
    return visible(", ".join(sorted(types)))[:100]
