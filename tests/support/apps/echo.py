"""An app as anybody would write it for Modal: nothing in it knows of a local cloud."""

import sys

import modal

app = modal.App("echo")
volume = modal.Volume.from_name("echo-data", create_if_missing=True, version=2)
image = (
    modal.Image.debian_slim(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
    .pip_install("fastapi")
    .env({"COLOUR": "blue"})
)


@app.function(image=image, volumes={"/data": volume}, secrets=[modal.Secret.from_name("echo-secret")])
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def web():
    import asyncio
    import os

    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse

    api = FastAPI()

    @api.get("/")
    def root():
        print("a line in the log")  # noqa: T201  # output is what the log is made of
        return {"secret": os.environ["WORD"], "colour": os.environ["COLOUR"], "token": "MODAL_TOKEN_ID" in os.environ}

    @api.post("/echo")
    async def echo(request: Request):
        return {"body": (await request.body()).decode(), "header": request.headers.get("x-word")}

    @api.get("/stream")
    async def stream(count: int, pause_s: float = 0.05):
        async def lines():
            for number in range(count):
                yield f"data: {number}\n\n"
                await asyncio.sleep(pause_s)

        return StreamingResponse(lines(), media_type="text/event-stream")

    @api.get("/sleep")
    @api.get("/sleep/{word}")
    async def sleep(seconds: float):
        await asyncio.sleep(seconds)
        return "slept"

    @api.get("/large")
    async def large(size: int):
        from fastapi import Response

        return Response(b"x" * size)

    @api.get("/write")
    async def write(text: str, commit: bool):
        with open("/data/note.txt", "w") as file:  # noqa: ASYNC230  # as anybody would write it
            file.write(text)
        if commit:
            await volume.commit.aio()

    @api.get("/reload")
    async def reload(hold: bool):
        held = open("/data/note.txt") if hold else None  # noqa: ASYNC230, SIM115  # as anybody would forget it
        try:
            await volume.reload.aio()
        except Exception as error:  # noqa: BLE001  # the caller wants to read it
            return {"refused": str(error)}
        finally:
            if held is not None:
                held.close()
        with open("/data/note.txt") as file:  # noqa: ASYNC230  # as anybody would read it
            return {"text": file.read()}

    @api.get("/die")
    async def die():
        async def lines():
            yield "data: first\n\n"
            await asyncio.sleep(0.2)
            os._exit(1)

        return StreamingResponse(lines(), media_type="text/event-stream")

    return api


@app.function(image=image)
def double(number: int) -> int:
    return 2 * number


@app.function(image=image)
def fail() -> None:
    raise ValueError("not today")
