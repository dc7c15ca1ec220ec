"""A host that answers each chat after 50 to 200 ms, by its prompt: the same prompt, the same time.

A streamed answer begins after half of that, comes in eight parts of a dozen words, and has ended
when the whole one would have come.

Run as a process: python _chat_server.py PORT_FILE
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path

LEAST, MOST = 0.05, 0.2


PARTS = 8
TEXT = "The parcel left the warehouse this morning and is on its way to you now. " * 6
USAGE = {"prompt_tokens": 40, "completion_tokens": 96, "total_tokens": 136}


def body(asked: dict[str, object]) -> bytes:
    """An answer of about 100 tokens, as the contract has it."""
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = USAGE
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1796000000}
    whole |= {"model": asked["model"], "choices": [choice], "usage": usage}
    return json.dumps(whole).encode()


def parts(asked: dict[str, object]) -> list[bytes]:
    """The same answer in pieces of a word each, as many of them in each part."""
    head: dict[str, object] = {"id": "chatcmpl-1", "object": "chat.completion.chunk"}
    head |= {"created": 1796000000, "model": asked["model"]}
    deltas = [{"content": f"{word} "} for word in TEXT.split()]
    choices: list[dict[str, object]]
    choices = [{"index": 0, "delta": one, "finish_reason": None} for one in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunks = [{**head, "choices": [one]} for one in choices]
    chunks.append({**head, "choices": [], "usage": USAGE})
    events = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks]
    events.append(b"data: [DONE]\n\n")
    size = -(-len(events) // PARTS)
    return [b"".join(events[at : at + size]) for at in range(0, len(events), size)]


async def stream(asked: dict[str, object], seconds: float, writer: asyncio.StreamWriter) -> None:
    """Send an answer in pieces, which end after so many seconds."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    began, said = asyncio.get_running_loop().time(), parts(asked)
    for number, part in enumerate(said):
        due = began + seconds / 2 * (1 + number / (len(said) - 1))
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        writer.write(b"%x\r\n" % len(part) + part + b"\r\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection, until it is closed."""
    while head := await head_of(reader):
        size = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        raw = await reader.readexactly(size)
        asked = json.loads(raw)
        digest = hashlib.sha256(json.dumps(asked["messages"]).encode()).digest()
        seconds = LEAST + (MOST - LEAST) * digest[0] / 255
        if asked.get("stream"):
            await stream(asked, seconds, writer)
            continue
        await asyncio.sleep(seconds)
        said = body(asked)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(said) + said)
        await writer.drain()
    writer.close()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request; empty at the end."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    Path(sys.argv[1]).write_text(str(server.sockets[0].getsockname()[1]))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
