"""The obvious endpoint: a job runs in a Modal Sandbox, and what it prints is streamed as Server-Sent Events.

It puts together what Modal's documentation shows of streaming responses and of sandboxes, and it works on a good day.
Its weaknesses are left in on purpose: do not build on it. `modal deploy` it from this file.
"""

import asyncio
import hmac
import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import modal

NAME = os.environ.get("NAIVE_APP_NAME", "failure-lab-naive")
app = modal.App(NAME)
files = modal.Volume.from_name(f"{NAME}-files", create_if_missing=True, version=2)
SANDBOX_S = os.environ.get("NAIVE_SANDBOX_S", "300")
CREATES_FIRST = os.environ.get("NAIVE_CREATES_FIRST", "")  # so that a sandbox that is refused can be a status
CLAUDE = os.environ.get("NAIVE_CLAUDE", "")  # the npm package of the Claude CLI, with its version
jobs_image = modal.Image.debian_slim().apt_install("git")
if CLAUDE:
    jobs_image = jobs_image.apt_install("nodejs", "npm").run_commands(f"npm install -g {CLAUDE}")
image = modal.Image.debian_slim().uv_pip_install("fastapi")
image = image.env({"NAIVE_APP_NAME": NAME, "NAIVE_SANDBOX_S": SANDBOX_S, "NAIVE_CLAUDE": CLAUDE})
image = image.env({"NAIVE_CREATES_FIRST": CREATES_FIRST})
secret = modal.Secret.from_dict({"API_SECRET": os.environ.get("API_SECRET", "")})
# Given to every sandbox, because a job may want to call the model.
MODEL = ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_MAX_RETRIES"]
MODEL += ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_AUTOUPDATER"]
model_key = modal.Secret.from_dict({name: os.environ[name] for name in MODEL if name in os.environ})
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
        asked = await request.json()
        sandbox = await asyncio.to_thread(created, asked) if CREATES_FIRST else None
        return StreamingResponse(job(asked, sandbox), media_type="text/event-stream")

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


def created(asked: dict[str, Any]) -> modal.Sandbox:
    """A sandbox for a job."""
    return modal.Sandbox.create(
        app=modal.App.lookup(NAME),
        image=jobs_image,
        name=asked["sandbox"],
        volumes={"/files": files},
        secrets=[model_key],
        timeout=int(SANDBOX_S),
        **everywhere(),
    )


def job(asked: dict[str, Any], sandbox: modal.Sandbox | None) -> Iterator[str]:
    """Run a program or the Claude CLI in a sandbox and yield what it says, then its exit code."""
    workspace = f"/files/{asked['project']}"
    sandbox = sandbox or created(asked)
    try:
        sandbox.exec("mkdir", "-p", workspace).wait()
        yield from claude(sandbox, asked, workspace) if "prompt" in asked else program(sandbox, asked, workspace)
    finally:
        sandbox.terminate()


def program(sandbox: modal.Sandbox, asked: dict[str, Any], workspace: str) -> Iterator[str]:
    """Run a Python program."""
    process = sandbox.exec("python3", "-c", asked["code"], workdir=workspace, timeout=asked.get("timeout_s"), bufsize=1)
    for line in process.stdout:
        yield told(asked["sandbox"], text=line)
    code = process.wait()
    yield told(asked["sandbox"], done=True, exit_code=code)


def claude(sandbox: modal.Sandbox, asked: dict[str, Any], workspace: str) -> Iterator[str]:
    """Run the Claude CLI, and pass on what the model says, word by word."""
    words = ["claude", "-p", "--verbose", "--output-format", "stream-json", "--include-partial-messages"]
    words += ["--resume", asked["resume"]] if asked.get("resume") else []
    sessions = modal.Secret.from_dict({"CLAUDE_CONFIG_DIR": f"{workspace}/.claude"})  # kept with the project
    process = sandbox.exec(*words, workdir=workspace, secrets=[sessions], bufsize=1)
    process.stdin.write(asked["prompt"])
    process.stdin.write_eof()
    process.stdin.drain()
    result: dict[str, Any] = {}
    for line in process.stdout:
        message = json.loads(line)
        delta = message.get("event", {}).get("delta", {})
        if delta.get("type") == "text_delta":
            yield told(asked["sandbox"], text=delta["text"])
        if message["type"] == "result":
            result = message
    code = process.wait()
    answer = {"result": result.get("result"), "session": result.get("session_id")}
    yield told(asked["sandbox"], done=True, exit_code=code, **answer)


def everywhere() -> dict[str, Any]:
    """A sandbox reaches everything. On a local cloud, a model's service beside it has to be named."""
    nearby = urlsplit(os.environ.get("ANTHROPIC_BASE_URL", "")).netloc
    return {"outbound_domain_allowlist": [nearby], "outbound_cidr_allowlist": ["0.0.0.0/0"]} if nearby else {}


def told(run_id: str, **event: Any) -> str:
    """One event of a run, kept for those who come back."""
    line = f"data: {json.dumps({'run_id': run_id, **event})}\n\n"
    streams.setdefault(run_id, []).append(line)
    return line
