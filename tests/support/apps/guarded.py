"""Web functions that not everybody may call, WebSockets, and a function that may not call Modal."""

import sys

import modal

image = modal.Image.debian_slim(python_version=f"{sys.version_info.major}.{sys.version_info.minor}").pip_install(
    "fastapi"
)
app = modal.App("guarded", image=image)


def site():
    import asyncio
    import os

    from fastapi import FastAPI, WebSocket, WebSocketDisconnect

    site = FastAPI()
    seen: list[str] = []

    @site.get("/")
    def root():
        return {"open": True}

    @site.get("/seen")
    def told():
        return seen

    @site.websocket("/echo")
    async def echo(socket: WebSocket):
        await socket.accept(subprotocol=next(iter(socket.scope["subprotocols"]), None))
        seen.append(f"{socket.url.path}?{socket.url.query} {socket.headers.get('x-word')}")
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code", 0))
                if message.get("text") is not None:
                    await socket.send_text(message["text"].upper())
                else:
                    await socket.send_bytes(message["bytes"][::-1])
        except WebSocketDisconnect:
            seen.append("left")

    @site.websocket("/count")
    async def count(socket: WebSocket):
        await socket.accept()
        for number in range(500):
            await socket.send_json({"number": number})
        await socket.close(code=4001, reason="counted")

    @site.websocket("/refuse")
    async def refuse(socket: WebSocket):
        await socket.close(code=1008)

    @site.websocket("/fail")
    async def fail(socket: WebSocket):
        await socket.accept()
        raise ValueError("not today")

    @site.websocket("/die")
    async def die(socket: WebSocket):
        await socket.accept()
        await socket.send_text("first")
        await asyncio.sleep(0.2)
        os._exit(1)

    return site


@app.function()
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def unguarded():
    return site()


@app.function()
@modal.concurrent(max_inputs=20)
@modal.asgi_app(requires_proxy_auth=True)
def guarded():
    return site()


@app.function()
@modal.fastapi_endpoint(requires_proxy_auth=True)
def endpoint() -> str:
    return "in"


@app.function()
@modal.wsgi_app(requires_proxy_auth=True)
def old():
    def answer(environ, start_response):
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"in"]

    return answer


@app.cls()
class Guarded:
    @modal.fastapi_endpoint(requires_proxy_auth=True)
    def method(self) -> str:
        return "in"


@app.function(restrict_modal_access=True)
def restricted(name: str) -> list[str]:
    refused = []
    for attempt in (
        lambda: modal.Dict.from_name(name, create_if_missing=True).put("key", 1),
        lambda: modal.Function.from_name("guarded", "restricted").remote(name),
        lambda: modal.Sandbox.create(app=modal.App.lookup("guarded")),
    ):
        try:
            attempt()
        except modal.exception.Error as error:
            refused.append(str(error))
    return refused
