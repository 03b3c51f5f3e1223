"""Functions and classes as anybody would write them for Modal: nothing in it knows of a local cloud."""

import asyncio
import os
import time

import modal

app = modal.App("calls")
notes = modal.Dict.from_name("calls-notes", create_if_missing=True)


@app.function()
def deep(left: int) -> int:
    return 1 + deep.remote(left - 1) if left > 1 else 1


@app.function()
def square(x: int) -> int:
    print("squaring", x)  # noqa: T201  # output is what the log is made of
    return x * x


@app.function()
def add(x: int, y: int = 0) -> int:
    return x + y


@app.function()
def refuse(x: int) -> None:
    raise ValueError(f"no {x}")


@app.function()
def count(n: int):
    yield from range(n)


@app.function()
async def count_slowly(n: int):
    for number in range(n):
        await asyncio.sleep(0.01)
        yield number


@app.function(retries=modal.Retries(max_retries=2, initial_delay=1.0, backoff_coefficient=1.0))
def third_time(key: str) -> int:
    attempt = notes.get(key, 0) + 1
    notes[key] = attempt
    if attempt < 3:
        raise RuntimeError(f"attempt {attempt}")
    return attempt


@app.function(retries=modal.Retries(max_retries=1, initial_delay=1.0, backoff_coefficient=1.0))
def dies_once(key: str) -> str:
    if notes.put(key, True, skip_if_exists=True):
        os._exit(9)
    return "alive"


@app.function()
def dies_of_its_cancellation() -> None:
    try:
        time.sleep(600)
    except BaseException:  # noqa: BLE001  # however the SDK cancels it
        os._exit(9)


@app.function(timeout=2)
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "late"


@app.function()
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@app.function()
def tells_where(key: str, seconds: float) -> str:
    notes[key] = os.environ["MODAL_TASK_ID"]
    time.sleep(seconds)
    return os.environ["MODAL_TASK_ID"]


@app.cls(startup_timeout=2)
class NeverReady:
    @modal.enter()
    def enter(self) -> None:
        time.sleep(600)

    @modal.method()
    def answer(self) -> int:
        return 1


@app.function()
def die() -> None:
    os._exit(3)


@app.function()
def big(size: int) -> bytes:
    return b"x" * size


@app.function()
def length(data: bytes) -> int:
    return len(data)


@app.function()
def plus_one(x: int) -> int:
    return square.remote(x) + 1


@app.function(max_containers=1)
@modal.concurrent(max_inputs=4)
async def together(x: int) -> tuple[int, str]:
    await asyncio.sleep(0.3)
    return x, os.environ["MODAL_TASK_ID"]


@app.function(max_containers=1)
@modal.batched(max_batch_size=4, wait_ms=1000)
async def batch(xs: list[int]) -> list[int]:
    return [len(xs) for _ in xs]


@app.function(single_use_containers=True)
def once() -> str:
    return os.environ["MODAL_TASK_ID"]


@app.function(schedule=modal.Period(hours=6))
def every_six_hours() -> None:
    notes["ticks"] = notes.get("ticks", 0) + 1


@app.cls(scaledown_window=2)
class Counter:
    start: int = modal.parameter(default=0)

    @modal.enter()
    def enter(self) -> None:
        self.number = self.start

    @modal.exit()
    def leave(self) -> None:
        notes[f"left-{self.start}"] = self.number

    @modal.method()
    def increase(self, by: int = 1) -> int:
        self.number += by
        return self.number

    @modal.method()
    def numbers(self, n: int):
        for offset in range(n):
            yield self.start + offset

    @modal.fastapi_endpoint()
    def web(self, by: int) -> dict[str, int]:
        return {"number": self.increase.local(by)}


@app.function()
@modal.wsgi_app()
def plain():
    def application(environ, start_response):
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"path ", environ["PATH_INFO"].encode()]

    return application


@app.function()
@modal.fastapi_endpoint(method="POST")
def double(body: dict[str, int]) -> dict[str, int]:
    return {"doubled": body["x"] * 2}


@app.local_entrypoint()
def main(n: int = 3):
    print("the square is", square.remote(n))  # noqa: T201  # its output is looked at
