"""The loggers of the package, and the line about a request.

``finetune_gateway`` and one below it for each area, by the standard library; silent until a program
that embeds us sets up logging. No key, row, prompt or answer is written to them: of a request the
method, the address without its query, the status, the seconds and the host's own id of it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from finetune_gateway.text.cleaning import visible
from finetune_gateway.text.redaction import redact

NAME = "finetune_gateway"
logging.getLogger(NAME).addHandler(logging.NullHandler())

requests = logging.getLogger(f"{NAME}.requests")  # INFO: each request. DEBUG: what is sent again
jobs = logging.getLogger(f"{NAME}.jobs")  # INFO: how jobs go on. DEBUG: each poll

# Headers with a host's own id of a request: OpenAI's and most, Azure's, Amazon's.
REQUEST_ID = (
    "x-request-id",
    "apim-request-id",
    "x-ms-request-id",
    "x-amzn-requestid",
    "request-id",
)
ID = re.compile(r"[\x21-\x7e]{1,128}")
SHOWN = 300  # characters of an address


class Exchange:
    """One request and its answer, as the line about it shows them."""

    def __init__(self, method: str, url: str, key: str | None = None) -> None:
        self.method = method
        self.url = _shown(url, key)
        self.key = key
        self.status: int | None = None
        self.request_id: str | None = None

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the status of the answer, and the host's id of the request."""
        self.status, self.request_id = status, request_id(headers, self.key)


@contextmanager
def request(method: str, url: str, key: str | None = None) -> Iterator[Exchange]:
    """Write a line about the request that is made in this block. ``key``: what it is sent with,
    which is kept out of the line whatever the host makes of it."""
    exchange, began = Exchange(method, url, key), time.perf_counter()
    failed = ""
    try:
        yield exchange
    except BaseException as exc:
        failed = type(exc).__name__  # not its text, which is the host's
        raise
    finally:
        _write(exchange, time.perf_counter() - began, failed)


def _write(exchange: Exchange, seconds: float, failed: str) -> None:
    came = " ".join(filter(None, (str(exchange.status or ""), failed)))
    requests.info(
        "%s %s %s in %.3f s%s",
        exchange.method,
        exchange.url,
        came,
        seconds,
        f", {exchange.request_id}" if exchange.request_id else "",
        extra={
            "method": exchange.method,
            "url": exchange.url,
            "status": exchange.status,
            "seconds": seconds,
            "request_id": exchange.request_id,
        },
    )


def request_id(headers: Mapping[str, str], key: str | None = None) -> str | None:
    """Return a host's own id of a request; None without one, and for what can be none."""
    given = next((text for name in REQUEST_ID if (text := headers.get(name))), "")
    return given if ID.fullmatch(given) and redact(given, key) == given else None


def _shown(url: str, key: str | None) -> str:
    """Return an address without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return redact(visible(f"{parts.scheme}://{host}{parts.path}"), key)[:SHOWN]
