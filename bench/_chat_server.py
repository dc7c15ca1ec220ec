"""A host that answers each chat after 50 to 200 ms, by its prompt: the same prompt, the same time.

Run as a process: python _chat_server.py PORT_FILE
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path

LEAST, MOST = 0.05, 0.2


def body(asked: dict[str, object]) -> bytes:
    """An answer of about 100 tokens, as the contract has it."""
    text = "The parcel left the warehouse this morning and is on its way to you now. " * 6
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 40, "completion_tokens": 96, "total_tokens": 136}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1796000000}
    whole |= {"model": asked["model"], "choices": [choice], "usage": usage}
    return json.dumps(whole).encode()


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
        await asyncio.sleep(LEAST + (MOST - LEAST) * digest[0] / 255)
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
