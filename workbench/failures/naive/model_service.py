"""What the naive endpoint's sandboxes take for the model's service: a web function before the scripted model.

On Modal a sandbox reaches the service itself. Here it reaches web functions alone, so this one passes every request on.
It lets in whoever shows the key that the naive endpoint gives its sandboxes; the scripted model's own stays here.
"""

import hmac
import os

import modal

NAME = os.environ.get("MODEL_APP_NAME", "failure-lab-model")
WAIT_S = 60.0  # longer than any sandbox of the naive endpoint lives in the lab
app = modal.App(NAME)
image = modal.Image.debian_slim().uv_pip_install("fastapi", "httpx").env({"MODEL_APP_NAME": NAME})
secret = modal.Secret.from_dict({name: os.environ.get(name, "") for name in ("SHOWN_KEY", "MODEL_KEY", "MODEL_URL")})


@app.function(image=image, secrets=[secret], timeout=600, min_containers=1)
@modal.concurrent(max_inputs=50)
@modal.asgi_app()
def model():  # type: ignore[no-untyped-def]  # what the SDK wants is an ASGI app of any kind
    """The service."""
    import httpx
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import StreamingResponse
    from starlette.background import BackgroundTask

    api = FastAPI()
    service = httpx.AsyncClient(base_url=os.environ["MODEL_URL"], timeout=WAIT_S, trust_env=False)

    @api.post("/{path:path}")
    async def ask(path: str, request: Request) -> StreamingResponse:
        if not hmac.compare_digest(request.headers.get("x-api-key", "").encode(), os.environ["SHOWN_KEY"].encode()):
            raise HTTPException(401)
        kept = ("content-type", "anthropic-version", "anthropic-beta", "x-claude-code-session-id")
        headers = {name: value for name, value in request.headers.items() if name in kept}
        headers |= {"x-api-key": os.environ["MODEL_KEY"], "accept-encoding": "identity"}
        asked = service.build_request(
            "POST", f"/{path}", params=request.query_params, content=await request.body(), headers=headers
        )
        try:
            answer = await service.send(asked, stream=True)
        except httpx.HTTPError:
            raise HTTPException(502) from None
        passed = {name: answer.headers[name] for name in ("content-type", "retry-after") if name in answer.headers}
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, passed, background=BackgroundTask(answer.aclose)
        )

    return api
