"""How each test of a run ended, as JSON lines: ``pytest -p support.endings --endings FILE``.

A test can fail by its assertion, or because something else was raised on the way: only the first
says that the product does not do what the test asks of it.
"""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

FAILS = "fails by its assertion"
PASSES = "passes"
SKIPPED = "is skipped"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--endings", help="where the JSON lines are written")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or report.outcome != "passed":
        name = getattr(item, "originalname", None) or item.name
        line = json.dumps({"test": name, "ending": ending(report, call.excinfo)})
        with open(item.config.getoption("--endings"), "a", encoding="utf-8") as file:
            file.write(line + "\n")
    return report


def ending(report: pytest.TestReport, raised: pytest.ExceptionInfo[BaseException] | None) -> str:
    """Return in words how a test ended."""
    if report.outcome == "passed":
        return PASSES
    if report.outcome == "skipped" or raised is None:
        return SKIPPED
    cause = raised.value.__cause__
    if isinstance(cause, ImportError):  # a test that calls whatever is raised a failure
        return f"ends with {type(cause).__name__}"
    asserted = raised.errisinstance((AssertionError, pytest.fail.Exception))
    if asserted and report.when == "call" and not str(raised.value).startswith("Timeout"):
        return FAILS
    return f"ends with {raised.typename} in its {report.when}"
