"""Measures what the local cloud adds to a web function's requests, beside the same application under bare uvicorn."""

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import httpx
import modal

from workbench.benchmarks import bare_processes, bridge_app
from workbench.benchmarks.figures import Figure, Samples
from workbench.session import Workbench

CROWD = 300  # streams at the same time through one container
_CROWD_S = 10.0
_EVERY_S = 0.5
_MESSAGES = 5000
_TOGETHER = 32  # events in one message, as in a busy stream of the endpoint
Take = Callable[[str], list[float]]  # takes samples from a server at an address


def measure(workbench: Workbench, repeat: int) -> Iterator[Figure]:
    """Yield figures of deployment, first byte, requests and streams. The endpoint must have been deployed before."""
    yield _deployment(workbench, max(2, repeat // 6))
    yield _cold(max(2, repeat // 6))
    with _bare() as bare:
        ours, few = _deployed(), max(3, repeat // 5)
        for url in (ours, bare):
            httpx.get(url, timeout=bare_processes.TIMEOUT_S, trust_env=False).raise_for_status()
        yield _compared("GET through the bridge", "ms", "less", _requests, ours, bare, few)
        for together in (1, _TOGETHER):
            name = f"events of one stream, {together} in a message"
            yield _compared(name, "events/s", "more", partial(_rate, together), ours, bare, few)
        yield _compared(f"longest silence of {CROWD} streams", "s", "less", _silences, ours, bare, 1)


def _compared(
    name: str, unit: str, better: Literal["less", "more"], take: Take, ours: str, bare: str, repeat: int
) -> Figure:
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        for samples, url in zip(found, (ours, bare), strict=True):
            samples.extend(take(url))
    return Figure(name, unit, better, Samples(name, tuple(found[0])), (Samples("bare uvicorn", tuple(found[1])),))


def _deployment(workbench: Workbench, repeat: int) -> Figure:
    taken, bare = [], []
    for _ in range(repeat):
        started = time.perf_counter()
        workbench.deploy()
        taken.append(time.perf_counter() - started)
        bare.append(bare_processes.to_end([sys.executable, "-c", "import modal"]) / 1000)
    name = "deploy modal_app, warm cache"
    return Figure(name, "s", "less", Samples(name, tuple(taken)), (Samples("import modal", tuple(bare)),))


def _cold(repeat: int) -> Figure:
    """Measure the first byte of a function without a container: one is started for it, and imports the SDK."""
    taken, bare = [], []
    for _ in range(repeat):
        url = _deployed()
        started = time.perf_counter()
        httpx.get(url, timeout=bare_processes.TIMEOUT_S, trust_env=False).raise_for_status()
        taken.append(time.perf_counter() - started)
        modal.App.lookup(bridge_app.NAME).stop()
        bare.append(bare_processes.to_end([sys.executable, "-c", "import modal"]) / 1000)
    name = "first byte of a cold function"
    return Figure(name, "s", "less", Samples(name, tuple(taken)), (Samples("import modal", tuple(bare)),))


def _requests(url: str) -> list[float]:
    taken = []
    with httpx.Client(timeout=bare_processes.TIMEOUT_S, trust_env=False) as client:
        for _ in range(20):
            started = time.perf_counter()
            client.get(url).raise_for_status()
            taken.append((time.perf_counter() - started) * 1000)
    return taken


def _rate(together: int, url: str) -> list[float]:
    events = _MESSAGES * together
    started, count = time.perf_counter(), 0
    with (
        httpx.Client(timeout=bare_processes.TIMEOUT_S, trust_env=False) as client,
        client.stream("GET", url + "/events", params={"count": events, "together": together}) as response,
    ):
        for data in response.iter_raw():
            count += data.count(b"\n")  # two for each event: a chunk may end between them
    if count != 2 * events:
        raise RuntimeError(f"{count / 2} of {events} events arrived")
    return [events / (time.perf_counter() - started)]


def _silences(url: str) -> list[float]:
    """Open many streams at once; returns, for each, the longest time in seconds between two pieces."""
    count = int(_CROWD_S / _EVERY_S)

    async def one(client: httpx.AsyncClient) -> float:
        longest, last, lines = 0.0, math.inf, 0
        async with client.stream("GET", url + "/events", params={"count": count, "every": _EVERY_S}) as response:
            async for data in response.aiter_raw():
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
                lines += data.count(b"\n")
        if lines != 2 * count:
            raise RuntimeError(f"{lines / 2} of {count} events arrived")
        return longest

    async def crowd() -> list[float]:
        limits = httpx.Limits(max_connections=CROWD)
        async with httpx.AsyncClient(timeout=bare_processes.TIMEOUT_S, trust_env=False, limits=limits) as client:
            return list(await asyncio.gather(*(one(client) for _ in range(CROWD))))

    return asyncio.run(crowd())


def _deployed() -> str:
    """Deploy the function unless it is deployed already; returns its URL."""
    bridge_app.app.deploy()
    return str(modal.Function.from_name(bridge_app.NAME, "bridge").get_web_url())


@contextmanager
def _bare() -> Iterator[str]:
    command = [sys.executable, "-m", bridge_app.__name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()
