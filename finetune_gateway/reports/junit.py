"""Checks as JUnit XML, which every CI server reads: a test for each check.

As in the schemas of Ant and of Jenkins. A check that was not judged is an error: it has not passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from finetune_gateway.evaluation.checks.outcome import CheckExample, CheckReport, CheckResult
from finetune_gateway.text.cleaning import visible

# What XML 1.0 cannot hold, whatever the escape: controls, halves of surrogate pairs.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LONGEST = 2000  # characters of an answer


def junit_xml(report: CheckReport) -> str:
    """Return the XML of a report."""
    found = [one.status for one in report.results]
    counts = {
        "tests": str(len(found)),
        "failures": str(found.count("failed")),
        "errors": str(found.count("not judged") + bool(report.stopped)),
    }
    seconds = f"{report.seconds:.3f}"
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        {
            "name": _text(report.guide),
            "package": "",
            "id": "0",
            "timestamp": datetime.fromtimestamp(report.created_at, UTC).strftime(
                "%Y-%m-%dT%H:%M:%S"
            ),
            "hostname": "localhost",
            **counts,
            "skipped": str(found.count("skipped")),
            "time": seconds,
        },
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _facts(report):
        ET.SubElement(properties, "property", {"name": name, "value": _text(value)})
    for result in report.results:
        _add(suite, result, report.model)
    if report.stopped:
        _add_stop(suite, report)
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _facts(report: CheckReport) -> Iterator[tuple[str, str]]:
    yield "model", report.model
    yield "data", report.data
    yield "requests", str(report.asked)
    if report.spent_usd is not None:
        yield "usd", f"{report.spent_usd:f}"
    if report.unanswered:  # these count in usd at their most
        yield "unanswered", str(report.unanswered)
        yield "usd_at_most", f"{report.at_most_usd:f}"


def _add(suite: ET.Element, result: CheckResult, model: str) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        {"classname": _text(model), "name": _text(result.name), "time": "0"},
    )
    counts = f"{result.passed} of {result.counted} passed, {result.min_pass:.0%} needed"
    said = f"{counts}. {result.note}".strip() if result.note else counts
    if result.status == "skipped":
        ET.SubElement(case, "skipped")
    elif result.status in ("failed", "not judged"):
        tag = "failure" if result.status == "failed" else "error"
        problem = ET.SubElement(case, tag, {"message": _text(said), "type": _text(result.kind)})
        problem.text = _text("\n\n".join(map(_example, result.examples)))


def _add_stop(suite: ET.Element, report: CheckReport) -> None:
    suite.set("tests", str(len(report.results) + 1))
    case = ET.SubElement(
        suite,
        "testcase",
        {"classname": _text(report.model), "name": "asked to the end", "time": "0"},
    )
    ET.SubElement(case, "error", {"message": _text(report.stopped), "type": "stopped"})


def _example(example: CheckExample) -> str:
    where = f"line {example.line}: " if example.line else ""
    turns = [f"{turn.get('role')}: {turn.get('content')}" for turn in example.turns]
    answer = example.answer[:LONGEST]
    return "\n".join(
        [f"asked: {where}{example.asked}", *turns, f"answer: {answer}", f"why: {example.reason}"]
    )


def _text(text: str) -> str:
    """Return a text with what XML cannot hold, or what would hide or turn it, as escapes."""
    return visible(_FORBIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text))
