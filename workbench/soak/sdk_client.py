"""The program of phases 2 and 3 that uses a local cloud through the stock SDK, as users do.

`python -m workbench.soak.sdk_client kills` or `crowd N SECONDS`. It reads one line of JSON, the variables that point
the SDK at a cloud, and prints a line of JSON for each step. It is a process of its own, so that it can be killed.
"""

import asyncio
import json
import os
import sys
import time

import modal

APP = "workbench-soak"
STEPS = ("connected", "created", "created with a volume", "started", "talks", "forked", "committing", "terminating")
STALL_S = 30.0
LINES_PER_S = 20
_CREATE_AT_ONCE = 16
_TIMEOUT_S = 600
_TALK = "import sys, time\nfor n in range(int(sys.argv[1])): print(n, 'x' * 60, flush=True); time.sleep({pause})"


def main() -> None:
    """Read the cloud's variables from stdin, then do what the arguments say."""
    os.environ.update(json.loads(sys.stdin.readline()))
    match sys.argv[1:]:
        case ["kills"]:
            _kills()
        case ["crowd", count, seconds]:
            asyncio.run(_crowd(int(count), float(seconds)))
        case _:
            sys.exit(__doc__)


def _tell(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _kills() -> None:
    """Create something of every kind that a killed cloud must clean up; the cloud is killed while this goes on."""
    app = modal.App.lookup(APP, create_if_missing=True)
    volume = modal.Volume.from_name(APP, create_if_missing=True)
    _tell(step="connected")
    first = modal.Sandbox.create("sh", "-c", "while :; do sleep 1; done", app=app, timeout=_TIMEOUT_S)
    _tell(step="created")
    second = modal.Sandbox.create(app=app, timeout=_TIMEOUT_S, volumes={"/data": volume})
    _tell(step="created with a volume")
    talk = second.exec("python3", "-S", "-u", "-c", _TALK.format(pause=0.01), "1000000")
    _tell(step="started")
    next(iter(talk.stdout))
    _tell(step="talks")
    second.exec("sh", "-c", "for n in 1 2 3 4; do setsid sh -c 'sleep 1000 & sleep 1000' & done; wait")
    _tell(step="forked")
    _tell(step="committing")
    second.exec("sh", "-c", "head -c 20000000 /dev/urandom > /data/f; sync /data").wait()
    _tell(step="terminating")
    first.terminate()
    second.terminate()
    _tell(step="ended")
    sys.stdin.read()


async def _crowd(count: int, seconds: float) -> None:
    """Let many sandboxes print at the same time; tell, for each, what was wrong with its output and its longest gap."""
    app = await modal.App.lookup.aio(APP, create_if_missing=True)
    places = asyncio.Semaphore(_CREATE_AT_ONCE)

    async def create() -> modal.Sandbox:
        async with places:
            return await modal.Sandbox.create.aio(app=app, timeout=_TIMEOUT_S)

    sandboxes = await asyncio.gather(*(create() for _ in range(count)))
    _tell(created=count)
    lines = int(seconds * LINES_PER_S)
    await asyncio.gather(*(_listen(number, sandbox, lines) for number, sandbox in enumerate(sandboxes)))
    await asyncio.gather(*(sandbox.terminate.aio() for sandbox in sandboxes))


async def _listen(number: int, sandbox: modal.Sandbox, lines: int) -> None:
    expected = "".join(f"{n} {'x' * 60}\n" for n in range(lines))
    process = await sandbox.exec.aio("python3", "-S", "-u", "-c", _TALK.format(pause=1 / LINES_PER_S), str(lines))
    stream = aiter(process.stdout)
    received, longest_s, last = "", 0.0, time.monotonic()
    try:
        while True:
            received += await asyncio.wait_for(anext(stream), STALL_S)
            now = time.monotonic()
            longest_s, last = max(longest_s, now - last), now
    except StopAsyncIteration:
        wrong = "" if received == expected else f"it told {len(received)} of {len(expected)} bytes"
    except TimeoutError:
        wrong = f"it stalled: nothing for {STALL_S:g} s after {len(received)} of {len(expected)} bytes"
    _tell(sandbox=number, wrong=wrong, lines=received.count("\n"), longest_silence_s=round(longest_s, 3))


if __name__ == "__main__":
    main()
