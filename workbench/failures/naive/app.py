"""The obvious endpoint: a job runs in a Modal Sandbox, and what it prints is streamed as Server-Sent Events.

It puts together what Modal's documentation shows of streaming responses and of sandboxes, and it works on a good day.
Its weaknesses are left in on purpose: do not build on it. `modal deploy` it from this file.
"""

import hmac
import json
import os
from collections.abc import Iterator
from typing import Any

import modal

NAME = os.environ.get("NAIVE_APP_NAME", "failure-lab-naive")
app = modal.App(NAME)
files = modal.Volume.from_name(f"{NAME}-files", create_if_missing=True, version=2)
SANDBOX_S = os.environ.get("NAIVE_SANDBOX_S", "300")
image = modal.Image.debian_slim().uv_pip_install("fastapi").env({"NAIVE_APP_NAME": NAME, "NAIVE_SANDBOX_S": SANDBOX_S})
secret = modal.Secret.from_dict({"API_SECRET": os.environ.get("API_SECRET", "")})
# Given to every sandbox, because a job may want to call the model.
model_key = modal.Secret.from_dict({"MODEL_KEY": os.environ.get("MODEL_KEY", "")})
streams: dict[str, list[str]] = {}  # so that a page can be loaded again


@app.function(image=image, secrets=[secret, model_key], volumes={"/files": files}, timeout=600, min_containers=1)
@modal.concurrent(max_inputs=50)
@modal.asgi_app()
def generate():  # type: ignore[no-untyped-def]  # what the SDK wants is an ASGI app of any kind
    """The endpoint."""
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import FileResponse, StreamingResponse

    api = FastAPI()

    @api.post("/generate")
    async def run(request: Request) -> StreamingResponse:
        if not hmac.compare_digest(request.headers.get("x-secret", ""), os.environ["API_SECRET"]):
            raise HTTPException(401)
        return StreamingResponse(job(await request.json()), media_type="text/event-stream")

    @api.get("/generate/{run_id}")
    async def again(run_id: str, request: Request) -> StreamingResponse:
        if not hmac.compare_digest(request.headers.get("x-secret", ""), os.environ["API_SECRET"]):
            raise HTTPException(401)
        return StreamingResponse(iter(list(streams.get(run_id, []))), media_type="text/event-stream")

    @api.get("/files/{path:path}")
    async def download(path: str, request: Request) -> FileResponse:
        if not hmac.compare_digest(request.headers.get("x-secret", ""), os.environ["API_SECRET"]):
            raise HTTPException(401)
        await files.reload.aio()  # type: ignore[no-untyped-call]  # what sandboxes have written is seen after it
        return FileResponse(f"/files/{path}")

    return api


def job(asked: dict[str, Any]) -> Iterator[str]:
    """Run a program in a sandbox and yield what it prints, then its exit code."""
    workspace = f"/files/{asked['project']}"
    sandbox = modal.Sandbox.create(
        app=modal.App.lookup(NAME),
        image=modal.Image.debian_slim(),
        name=asked["sandbox"],
        volumes={"/files": files},
        secrets=[model_key],
        timeout=int(SANDBOX_S),
    )
    try:
        sandbox.exec("mkdir", "-p", workspace).wait()
        process = sandbox.exec(
            "python3", "-c", asked["code"], workdir=workspace, timeout=asked.get("timeout_s"), bufsize=1
        )
        for line in process.stdout:
            yield told(asked["sandbox"], text=line)
        code = process.wait()
        yield told(asked["sandbox"], done=True, exit_code=code)
    finally:
        sandbox.terminate()


def told(run_id: str, **event: Any) -> str:
    """One event of a run, kept for those who come back."""
    line = f"data: {json.dumps({'run_id': run_id, **event})}\n\n"
    streams.setdefault(run_id, []).append(line)
    return line
