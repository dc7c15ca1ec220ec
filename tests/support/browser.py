"""A real browser for tests of pages: Chromium, without a window, driven through its pipe.

The pipe speaks the DevTools protocol: JSON, each message ended by a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--no-sandbox")


class Browser:
    """One tab. ``said`` is what pages wrote to the console, complaints of the policy included."""

    def __init__(self, out: int, answers: int) -> None:
        self._out = os.fdopen(out, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb", buffering=0)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.said: list[str] = []
        self.loaded = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = self._answers.read(1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        raw, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.said.append(json.dumps(params))
        elif message.get("method") == "Network.requestWillBeSent":
            self.said.append(params["request"]["url"])
        elif message.get("method") == "Page.javascriptDialogOpening":
            self.said.append(params["message"])
        elif message.get("method") == "Page.loadEventFired":
            self.loaded += 1

    def open(self, page: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Load a page, and wait until that is done. The page itself is not in ``said``."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        before = self.loaded
        self.call("Page.navigate", url=page.as_uri())
        while self.loaded == before:
            self._read()
        self.said = [text for text in self.said if text != page.as_uri()]

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of the first such element."""
        place = self.js(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'}); const r = one.getBoundingClientRect();"
            "return {x: r.x + r.width / 2, y: r.y + r.height / 2} })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def shot(self, path: Path, height: int | None = None) -> None:
        """A picture of what is seen, or of so much from the top."""
        clip = {}
        if height:
            width = self.js("innerWidth")
            clip = {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=bool(height), **clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._out.close()
        self._answers.close()


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with its profile below ``folder``. Skips the test where there is none."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs Chromium")
    commands, ours = os.pipe()
    answers, back = os.pipe()
    # The browser reads commands from descriptor 3 and writes to 4; high ones are in nobody's way.
    theirs = [fcntl.fcntl(one, fcntl.F_DUPFD, 50) for one in (commands, back)]
    line = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
    started = subprocess.Popen(
        ["bash", "-c", line, "bash", program, *FLAGS, "--remote-debugging-pipe",
         f"--user-data-dir={folder / 'profile'}"],
        pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for one in (commands, back, *theirs):
        os.close(one)
    try:
        tab = Browser(ours, answers)
        yield tab
        tab.close()
        started.wait(timeout=20)
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()


@pytest.fixture(scope="session")
def _session_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture
def tab(_session_browser: Browser) -> Browser:
    """The tab that all tests of a process share: a browser takes a second or two to start."""
    _session_browser.said.clear()
    return _session_browser
