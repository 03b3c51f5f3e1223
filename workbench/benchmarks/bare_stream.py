"""The smallest server that streams a program's output over HTTP: uvicorn and a pipe, without sandbox or contract.

It is the baseline for what the endpoint adds. It runs in a process of its own, as the endpoint does, and prints its
port first.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from workbench.local_cloud import listen

_CHUNK_BYTES = 64 * 1024


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Run the Python program in the request's body, and send each chunk that it prints as one SSE event."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-u", "-c", body.decode(), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    while data := await process.stdout.read(_CHUNK_BYTES):
        frame = f"event: stream\ndata: {json.dumps({'text': data.decode()})}\n\n".encode()
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await process.wait()
    await send({"type": "http.response.body", "body": b"event: done\ndata: {}\n\n"})


@contextmanager
def serving() -> Iterator[str]:
    """Serve in a child process for the duration of the block; gives the server's address."""
    with subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def main() -> None:
    """Serve until killed; print the port first."""
    with listen(0) as listener:
        print(listener.getsockname()[1], flush=True)  # noqa: T201  # whoever started this process reads it
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
