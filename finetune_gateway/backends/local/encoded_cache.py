"""Rows as token ids, kept in the home folder: the next job on the same data need not make them.

A file is named by its data, by all else that the ids depend on (the key), and by its own content,
so that a damaged one is noticed. Its texts are those of the data: it goes with them.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.text_tokenizer import TextTokenizer

COUNTS = b"finetune_gateway"  # metadata of the table: what was counted, as JSON
# The code that ids depend on, below the package.
CODE = ("tokens", "data", "backends/local/encoding.py")
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # Arrow's IPC format, "Encapsulated message"
# A call with its form; without one where the form is made up, or the function gets another name.
_DATES = re.compile(
    r"strftime_now(?!\s+is\s+(?:not\s+)?defined)\s*(?:\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\))?"
)


class EncodedCache:
    """The encoded rows of one file for one key.

    >>> kept = EncodedCache(settings, dataset.fingerprint, key_of(template, created_at, {...}))
    """

    def __init__(self, settings: Settings, data_sha256: str, key: str) -> None:
        self.folder = settings.encoded
        self.name = f"{data_sha256}-{key}"

    def read(self) -> tuple[pa.Table, dict[str, Any]] | None:
        """Return the columns and what was counted; None if they are not kept. The columns are read
        from the disk as they are needed. A damaged file is removed."""
        for path in self.folder.glob(f"{self.name}-*.arrow"):
            with suppress(OSError, pa.ArrowInvalid, ValueError):
                if path.stem.endswith(files.sha256_of(path)):
                    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
                    return table, json.loads(table.schema.metadata[COUNTS])
            path.unlink(missing_ok=True)
        return None

    def write(self, table: pa.Table, counts: dict[str, Any]) -> None:
        """Keep columns and counts, for this user alone. Where that is not possible there is only a
        line in the log: the job has what it needs."""
        try:
            files.folder(self.folder)
            files.write_by_content(
                self.folder,
                _messages(table.replace_schema_metadata({COUNTS: json.dumps(counts).encode()})),
                lambda digest: f"{self.name}-{digest}.arrow",
                fsync=False,  # what a power cut has damaged is noticed
            )
        except OSError as exc:
            print(f"the encoded rows are not kept: {exc}", file=sys.stderr)


def _messages(table: pa.Table) -> Iterator[bytes]:
    """Yield a table in Arrow's streaming format, a batch at a time."""
    yield table.schema.serialize().to_pybytes()
    for batch in table.to_batches():
        yield batch.serialize().to_pybytes()
    yield END_OF_STREAM


def key_of(source: ChatTemplate | TextTokenizer, now: float, settings: dict[str, Any]) -> str:
    """Return what the ids of given rows depend on, as a hash: template, switches, the dates that
    the template writes, tokenizer, ``settings`` of the spec, and our code."""
    files = source.files
    parts: dict[str, Any] = {
        "tokenizer": hashlib.sha256(files.tokenizer.to_str().encode()).hexdigest(),
        "special_tokens": files.special_tokens,
        "stop_ids": sorted(files.stop_ids),
        "settings": settings,
        "code": code_sha256(),
        "versions": {name: version(name) for name in ("tokenizers", "jinja2", "pyarrow")},
    }
    if isinstance(source, ChatTemplate):
        parts["template"] = source.source
        parts["switches"] = source.chat_template_kwargs
        parts["dates"] = dates(source.source, now)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def dates(template: str, now: float) -> list[str | float]:
    """Return the dates that a template writes now, by the forms in it; the moment itself for a form
    that it makes up."""
    moment = datetime.fromtimestamp(now)
    forms = [first or second for first, second in _DATES.findall(template)]
    return [moment.strftime(form) if form else now for form in forms]


@cache
def code_sha256() -> str:
    """Return the hash of the code that ids depend on, so that no kept file outlives a change."""
    package = Path(__file__).parents[2]
    sources = sorted(path for name in CODE for path in _sources(package / name))
    digest = hashlib.sha256(version("finetune-gateway").encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(path: Path) -> Iterator[Path]:
    return path.rglob("*.py") if path.is_dir() else iter([path])
