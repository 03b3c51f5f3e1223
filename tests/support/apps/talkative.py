"""Functions that print, in every way that a log could lose, mix or cut."""

import asyncio
import json
import subprocess
import sys
import time

import modal

app = modal.App("talkative")


@app.function()
def say(word: str, count: int = 1) -> str:
    for number in range(count):
        print(word, number)  # noqa: T201  # output is what this is about
    return word


@app.function()
def say_and_raise(word: str, count: int) -> None:
    for number in range(count):
        print(word, number)  # noqa: T201
    raise ValueError(f"{word} is over")


@app.function()
def say_a_document(size: int) -> None:
    print(json.dumps({"text": "ü" * size}))  # noqa: T201


@app.function()
def say_without_an_end(word: str) -> None:
    sys.stdout.write(word)


@app.function()
def say_by_a_child(word: str) -> None:
    subprocess.run(["sh", "-c", f"echo {word}; echo {word} >&2"], check=True)


@app.function()
def say_and_yield(word: str, count: int):
    for number in range(count):
        print(word, number)  # noqa: T201
        yield number


@app.function()
@modal.concurrent(max_inputs=4)
def say_beside_others(word: str, count: int) -> None:
    for number in range(count):
        print(word, number)  # noqa: T201
        time.sleep(0.05)


@app.function()
@modal.concurrent(max_inputs=4)
async def say_beside_others_slowly(word: str, count: int) -> None:
    for number in range(count):
        sys.stderr.write(f"{word} ")
        await asyncio.sleep(0.02)
        sys.stderr.write(f"{number}\n")


@app.cls()
class Speaker:
    @modal.method()
    def say(self, word: str) -> None:
        print(word)  # noqa: T201


@app.local_entrypoint()
def main(count: int = 300) -> None:
    say_and_raise.remote("counted", count)


@app.local_entrypoint()
def several(count: int = 200) -> None:
    list(say.starmap([(f"word{number}", count) for number in range(3)]))
