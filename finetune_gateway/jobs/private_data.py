"""Personal data and secrets in the files of a job: a host gets to see them only if allowed."""

from __future__ import annotations

from collections import Counter

from finetune_gateway.errors import PrivateDataError
from finetune_gateway.findings import Finding
from finetune_gateway.jobs.planning import Plan

_WORDS = {"pii": "personal data", "secret": "secrets"}
_WAYS = {
    "pii": "--allow-pii (allow_pii=True) sends personal data",
    "secret": "--allow-secrets (allow_secrets=True) sends secrets",
}
_PLACES = 5  # in a message; the error has all
_LINES = 5


def require_allowed(plan: Plan, *, pii: bool, secrets: bool) -> dict[str, int]:
    """Return the private data that a host will get to see: each kind, and how many times it was
    found. Raises PrivateDataError for personal data unless ``pii``, for secrets unless
    ``secrets``."""
    allowed = {code for code, yes in (("pii", pii), ("secret", secrets)) if yes}
    counts = Counter[str]()
    stopped: dict[str, list[Finding]] = {}
    for dataset, report in zip((plan.train, plan.validation), plan.reports, strict=False):
        for finding in report.findings:
            if finding.code in _WORDS and finding.code not in allowed and dataset:
                stopped.setdefault(dataset.name, []).append(finding)
            elif finding.code in _WORDS:
                counts[finding.kind] += finding.count
    if stopped:
        raise _error(plan, stopped)
    return dict(counts)


def kinds_text(counts: dict[str, int]) -> str:
    """Return ``an e-mail address (3 times), a password (1 time)``."""
    times = (f"{kind} ({n:,} time{'' if n == 1 else 's'})" for kind, n in counts.items())
    return ", ".join(times)


def _error(plan: Plan, stopped: dict[str, list[Finding]]) -> PrivateDataError:
    codes = {one.code for findings in stopped.values() for one in findings}
    what = " and ".join(words for code, words in _WORDS.items() if code in codes)
    places = [
        _place(one, name if name != plan.train.name else "")
        for name, findings in stopped.items()
        for one in findings
    ]
    more = f"; and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
    host = plan.estimate.host or plan.estimate.backend
    ways = "; ".join(way for code, way in _WAYS.items() if code in codes)
    reports = (report for report in plan.reports if codes & {one.code for one in report.findings})
    return PrivateDataError(
        f"Nothing was sent: {what} would go to {host}: {'; '.join(places[:_PLACES])}{more}.",
        hint="Mask or remove it (ftg validate FILE --html PAGE shows the rows), train with "
        f"--backend local, or send it as it is: {ways}.",
        report=next(reports),
        found=stopped,
        host=host,
    )


def _place(finding: Finding, file: str) -> str:
    """Return ``an e-mail address in messages[0].content, lines 5 and 9``."""
    named = [str(line) for line in finding.lines[:_LINES]]
    lines = f"line {named[0]}" if len(named) == 1 else f"lines {', '.join(named)}"
    more = ", ..." if finding.count > len(named) > 1 else ""
    return f"{finding.kind} in {finding.path}, {lines}{more}{f' of {file}' if file else ''}"
