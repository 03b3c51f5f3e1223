"""A web function that does next to nothing, so that what is measured is the way to it and back.

It is deployed for the measurement, and served by a bare uvicorn as the baseline: `python -m
workbench.benchmarks.bridge_app`.
"""

import asyncio
from typing import Any
from urllib.parse import parse_qs

import modal

from workbench.local_cloud import listen

NAME = "workbench-bench-bridge"
app = modal.App(NAME)


async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer `/` with two bytes; `/events` with `count` SSE events, `together` per message, `every` seconds apart."""
    if scope["type"] != "http":
        return
    asked = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    events = scope["path"] == "/events"
    headers = [(b"content-type", b"text/event-stream" if events else b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if not events:
        await send({"type": "http.response.body", "body": b"ok"})
        return
    every, together, count = float(asked.get("every", "0")), int(asked.get("together", "1")), int(asked["count"])
    for first in range(0, count, together):
        body = b"".join(b"data: %d\n\n" % number for number in range(first, min(first + together, count)))
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if every:
            await asyncio.sleep(every)
    await send({"type": "http.response.body", "body": b""})


@app.function(timeout=600, scaledown_window=600, max_containers=1)
@modal.concurrent(max_inputs=1000)
@modal.asgi_app()
def bridge() -> Any:
    """The application as a web function of Modal."""
    return answer


def main() -> None:
    """Serve the application with uvicorn until killed; print the port first."""
    import uvicorn

    with listen(0) as listener:
        print(listener.getsockname()[1], flush=True)  # noqa: T201  # whoever started this process reads it
        uvicorn.Server(uvicorn.Config(answer, lifespan="off", log_config=None, access_log=False)).run(
            sockets=[listener]
        )


if __name__ == "__main__":
    main()
