"""Web functions: what a client sends arrives, and what comes back is what was sent, when it was sent."""

import time
from urllib.parse import urlsplit

import modal
from parity_rows import row

image = modal.Image.debian_slim().uv_pip_install("fastapi").add_local_python_source("parity_rows")
app = modal.App("modal-workbench-parity-web", image=image)


@app.function()
@modal.fastapi_endpoint()
def square(number: int) -> dict[str, int]:
    return {"square": number * number}


@app.function()
@modal.fastapi_endpoint(method="POST")
def total(body: dict) -> dict[str, int]:
    return {"total": sum(body["numbers"])}


@app.function()
@modal.fastapi_endpoint(requires_proxy_auth=True)
def guarded() -> str:
    return "inside"


@app.function()
@modal.asgi_app()
def asgi():
    import asyncio
    import json

    async def web(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            message = await receive()
            await send({"type": "websocket.send", "text": f"heard {message['text']}"})
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break

        async def start(status=200, headers=()):
            await send({"type": "http.response.start", "status": status, "headers": list(headers)})

        async def piece(data, more=False):
            await send({"type": "http.response.body", "body": data, "more_body": more})

        path = scope["path"]
        if path == "/stream":
            await start(headers=[(b"content-type", b"text/event-stream")])
            for number in range(3):
                await piece(f"data: {number} {time.time()}\n\n".encode(), more=True)
                await asyncio.sleep(0.7)
            await piece(b"")
        elif path == "/cookies":
            await start(headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
            await piece(b"")
        elif path == "/teapot":
            await start(418)
            await piece(b"short and stout")
        elif path == "/fails":
            raise ValueError("not shown to clients")
        elif path == "/large":
            await start()
            await piece(b"x" * (3 * 2**20))
        else:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            seen = {
                "method": scope["method"],
                "path": path,
                "query": scope["query_string"].decode(),
                "mine": headers.get("x-mine"),
                "size": len(body),
            }
            await start(headers=[(b"content-type", b"application/json")])
            await piece(json.dumps(seen).encode())

    return web


@app.function()
@modal.wsgi_app()
def wsgi():
    def web(environ, start_response):
        start_response("201 Created", [("content-type", "text/plain")])
        return [environ["PATH_INFO"].encode(), b" ", environ["REQUEST_METHOD"].encode()]

    return web


def client(function, **how):
    import httpx

    url = function.get_web_url()
    near = urlsplit(url).hostname == "127.0.0.1"
    return httpx.Client(base_url=url, timeout=60, trust_env=not near, **how)


@row(
    "A FastAPI endpoint takes its arguments from the query and answers JSON.",
    source="guide/webhooks",
    expects=[200, {"square": 49}],
)
def query_arguments():
    with client(square) as web:
        answer = web.get("/", params={"number": 7})
        return [answer.status_code, answer.json()]


@row("A missing or wrong argument is answered with 422.", source="guide/webhooks", expects=[422, 422])
def wrong_arguments():
    with client(square) as web:
        return [web.get("/").status_code, web.get("/", params={"number": "x"}).status_code]


@row("A POST endpoint takes a JSON body, and no GET.", source="guide/webhooks", expects=[{"total": 6}, 405])
def json_bodies():
    with client(total) as web:
        return [web.post("/", json={"numbers": [1, 2, 3]}).json(), web.get("/").status_code]


@row(
    "Method, path, query, headers and body arrive as they were sent.",
    source="guide/webhooks",
    expects={"method": "PUT", "path": "/some/path", "query": "a=1&b=%20", "mine": "yes", "size": 5},
)
def requests_arrive():
    with client(asgi) as web:
        return web.put("/some/path?a=1&b=%20", headers={"x-mine": "yes"}, content=b"12345").json()


@row("A body of several MiB arrives, and so does an answer.", source="guide/webhooks", expects=[4 * 2**20, 3 * 2**20])
def large_bodies():
    with client(asgi) as web:
        return [web.post("/x", content=b"x" * (4 * 2**20)).json()["size"], len(web.get("/large").content)]


@row(
    "A streaming response arrives piece by piece, as it is sent.",
    source="guide/streaming-endpoints",
    expects=[3, "text/event-stream", True],
)
def streams_arrive_as_sent():
    with client(asgi) as web, web.stream("GET", "/stream") as answer:
        came = [(line, time.monotonic()) for line in answer.iter_lines() if line]
        return [len(came), answer.headers["content-type"], came[-1][1] - came[0][1] > 1.0]


@row("Status codes and repeated headers are the app's.", source="guide/webhooks", expects=[418, ["a=1", "b=2"]])
def answers_are_the_app_s():
    with client(asgi) as web:
        return [web.get("/teapot").status_code, web.get("/cookies").headers.get_list("set-cookie")]


@row("An app that raises is answered with 500, without its message.", source="guide/webhooks", expects=[500, False])
def apps_that_raise():
    with client(asgi) as web:
        answer = web.get("/fails")
        return [answer.status_code, "not shown" in answer.text]


@row("A WSGI app is served.", source="guide/webhooks", expects=[201, "/page GET"])
def wsgi_apps():
    with client(wsgi) as web:
        answer = web.get("/page")
        return [answer.status_code, answer.text]


@row("WebSockets connect, speak and close.", source="guide/webhooks", expects="heard hello")
def websockets():
    from websockets.sync.client import connect

    url = asgi.get_web_url().replace("http", "ws", 1)
    near = urlsplit(url).hostname == "127.0.0.1"
    with connect(url, open_timeout=50, **({"proxy": None} if near else {})) as socket:
        socket.send("hello")
        return socket.recv(timeout=20)


@row(
    "A function with `requires_proxy_auth` refuses whoever shows no token.",
    source="guide/webhook-proxy-auth",
    expects=[401, 401],
)
def proxy_tokens_are_asked_for():
    with client(guarded) as web:
        wrong = {"Modal-Key": "wk-none", "Modal-Secret": "ws-none"}
        return [web.get("/").status_code, web.get("/", headers=wrong).status_code]


@row(
    "A web function has an https address.",
    source="guide/webhook-urls",
    expects="https",
    differs="Addresses of web functions",
)
def addresses():
    return urlsplit(square.get_web_url()).scheme
