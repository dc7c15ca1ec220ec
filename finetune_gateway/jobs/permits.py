"""What a submit refuses unless it is allowed: personal data and secrets that a host would get to
see, rows of which the model would learn only a part, and runs that the estimate gives no chance."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_gateway.errors import DataError, PrivateDataError, SpecError
from finetune_gateway.findings import Finding, Report
from finetune_gateway.jobs.planning import Plan

_WORDS = {"pii": "personal data", "secret": "secrets"}
_WAYS = {
    "pii": "--allow-pii (allow_pii=True) sends personal data",
    "secret": "--allow-secrets (allow_secrets=True) sends secrets",
}
_PLACES = 5  # in a message; the error has all
_LINES = 5


def refusing_coroutines(confirm: Callable[..., bool]) -> Callable[..., bool]:
    """Return ``confirm`` as a function that raises SpecError where it returns what must be awaited:
    that is true, whatever will come of it, and would be taken for a yes."""

    def call(*args: Any) -> bool:
        agreed: Any = confirm(*args)
        if inspect.isawaitable(agreed):
            if inspect.iscoroutine(agreed):
                agreed.close()  # or Python warns that nobody awaits it
            raise SpecError(
                "confirm returns what must be awaited: nobody knows whether it agrees.",
                hint="Nothing was sent. Give a function that returns True or False, or await the "
                "same verb of aio.",
            )
        return bool(agreed)

    return call


def require_private_data_allowed(plan: Plan, *, pii: bool, secrets: bool) -> dict[str, int]:
    """Return the private data that a host will get to see: each kind, and how many times it was
    found. Raises PrivateDataError for personal data unless ``pii``, for secrets unless
    ``secrets``."""
    if not plan.estimate.data_leaves_machine:
        return {}
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


def require_texts_allowed(
    name: str, findings: Sequence[Finding], host: str, report: Report, *, pii: bool, secrets: bool
) -> dict[str, int]:
    """Do the same for texts that a host is asked with, which come from a file of this name."""
    allowed = {code for code, yes in (("pii", pii), ("secret", secrets)) if yes}
    private = [one for one in findings if one.code in _WORDS]
    stopped = [one for one in private if one.code not in allowed]
    if stopped:
        what, places, ways = _described({name: stopped}, name)
        raise PrivateDataError(
            f"Nothing was sent: {what} would go to {host}: {places}.",
            hint=f"Mask or remove it, or send it as it is: {ways}.",
            report=report,
            found={name: stopped},
            host=host,
        )
    counts = Counter[str]()
    for one in private:
        counts[one.kind] += one.count
    return dict(counts)


def kinds_text(counts: dict[str, int]) -> str:
    """Return ``an e-mail address (3 times), a password (1 time)``."""
    times = (f"{kind} ({n:,} time{'' if n == 1 else 's'})" for kind, n in counts.items())
    return ", ".join(times)


def _error(plan: Plan, stopped: dict[str, list[Finding]]) -> PrivateDataError:
    what, places, ways = _described(stopped, plan.train.name)
    host = plan.estimate.host or plan.estimate.backend
    codes = {one.code for findings in stopped.values() for one in findings}
    reports = (report for report in plan.reports if codes & {one.code for one in report.findings})
    return PrivateDataError(
        f"Nothing was sent: {what} would go to {host}: {places}.",
        hint="Mask or remove it (ftg validate FILE --html PAGE shows the rows), train with "
        f"--backend local, or send it as it is: {ways}.",
        report=next(reports),
        found=stopped,
        host=host,
    )


def _described(stopped: Mapping[str, Sequence[Finding]], unnamed: str) -> tuple[str, str, str]:
    """Return what was found, where, and the ways to send it. The file ``unnamed`` is not named."""
    codes = {one.code for findings in stopped.values() for one in findings}
    what = " and ".join(words for code, words in _WORDS.items() if code in codes)
    places = [
        _place(one, name if name != unnamed else "")
        for name, findings in stopped.items()
        for one in findings
    ]
    more = f"; and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
    ways = "; ".join(way for code, way in _WAYS.items() if code in codes)
    return what, f"{'; '.join(places[:_PLACES])}{more}", ways


def _place(finding: Finding, file: str) -> str:
    """Return ``an e-mail address in messages[0].content, lines 5 and 9``."""
    named = [str(line) for line in finding.lines[:_LINES]]
    lines = f"line {named[0]}" if len(named) == 1 else f"lines {', '.join(named)}"
    more = ", ..." if finding.count > len(named) > 1 else ""
    return f"{finding.kind} in {finding.path}, {lines}{more}{f' of {file}' if file else ''}"


# -- what can be learned -------------------------------------------------------------------


def require_chances_allowed(plan: Plan, *, loss: bool, longer: bool, oversize: bool) -> None:
    """Raise DataError if nothing would be trained, or if the template drops a part of the rows,
    unless ``loss``; SpecError for what the estimate says cannot be, unless ``longer`` (rows above
    the model's context) and ``oversize`` (more memory than there is)."""
    if not plan.tokens.trained:
        raise DataError(
            f"{plan.train.name}: no row has a token to train.",
            hint="Raise max_length (--set max_length=N), or check the weights of the messages. "
            "See: ftg preview",
            report=plan.reports[0],
        )
    if not loss:
        _require_whole(plan)
    allowed = {"longer": longer, "oversize": oversize}
    for name, reason in plan.estimate.refused.items():
        if not allowed.get(name):
            hint = f"To start it all the same: --allow-{name}." if name in allowed else ""
            raise SpecError(reason, hint=hint)


def _require_whole(plan: Plan) -> None:
    for dataset, report in zip((plan.train, plan.validation), plan.reports, strict=False):
        lost = [one for one in report.findings if one.code == "template_drops" and one.kind]
        if lost and dataset:
            raise DataError(
                f"The chat template of {plan.spec.model} drops a part of {dataset.name}: "
                f"{'; '.join(map(_words, lost))}.",
                hint=_way_out(lost),
                report=report,
            )


def _words(finding: Finding) -> str:
    """Return ``calls of tools are not written (12 rows: lines 3, 7, ...)``."""
    sentence = finding.message.split(". ")[0]
    lines = ", ".join(map(str, finding.lines[:_LINES]))
    more = ", ..." if finding.count > len(finding.lines[:_LINES]) else ""
    rows = "1 row: line" if finding.count == 1 else f"{finding.count:,} rows: lines"
    return f"{sentence[:1].lower()}{sentence[1:]} ({rows} {lines}{more})"


def _way_out(lost: list[Finding]) -> str:
    if any(one.kind in ("calls", "tools") for one in lost):
        first = (
            "Use a model whose template has tools (docs/families.md), or write them as text, the "
            "same in training and in chat (--set call_format=hermes)"
        )
    else:
        first = "Use a model whose template writes it (docs/families.md), or change the rows"
    return f"{first}; --allow-loss trains the rest."
