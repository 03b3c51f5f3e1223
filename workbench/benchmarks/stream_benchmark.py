"""Measures what the endpoint adds to the time of output to a client, beside a pipe and a bare uvicorn stream."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from httpx_sse import EventSource

from modal_app.contract.events import StreamEvent
from workbench.benchmarks import bare_processes, bare_stream
from workbench.benchmarks.figures import Figure, Samples
from workbench.runs.project import Project
from workbench.session import Workbench

# The kernel's monotonic clock is the same inside a sandbox as outside.
_TICKS = """
import sys, time
for _ in range({count}):
    sys.stdout.write(str(time.monotonic_ns()) + "\\n")
    time.sleep({every})
"""
_LINES = """
import os
for number in range({count}):
    os.write(1, b"line %d of a job that talks a lot\\n" % number)
"""
_BLOCKS = """
import os
block = (b"x" * 127 + b"\\n") * 512
for _ in range({count}):
    os.write(1, block)
"""
_SPIN = """
import os
for _ in range({sessions}):
    if os.fork() == 0:
        os.setsid()
        while True: pass
print("spinning", flush=True)
os.wait()
"""
_SESSIONS = 100
_CROWD = 8
Source = Callable[[str], Iterator[tuple[float, str]]]


def measure(workbench: Workbench, repeat: int) -> Iterator[Figure]:
    """Yield figures of latency and throughput. The endpoint must be deployed."""
    with bare_stream.serving() as url:
        sources: dict[str, Source] = {
            "endpoint": lambda code: heard(workbench, "python", code=code),
            "pipe": _pipe,
            "bare uvicorn": lambda code: _bare(url, code),
        }
        for source in sources.values():
            for _ in source("print('warm')"):
                pass
        yield _figure("event latency, write → client", "ms", "less", _latencies(sources, repeat))
        beside = _beside(workbench, sources["endpoint"], repeat)
        yield _figure(f"event latency beside {_SESSIONS} programs of another job that spin", "ms", "less", beside)
        few = max(3, repeat // 5)
        yield _figure(f"events of {_CROWD} runs at once", "events/s", "more", _crowd(sources, few))
        lines, blocks = _LINES.format(count=50_000), _BLOCKS.format(count=512)
        yield _figure("short lines, one write each", "lines/s", "more", _rates(sources, lines, few, _count_lines))
        yield _figure("output through the endpoint", "MB/s", "more", _rates(sources, blocks, few, _count_megabytes))


def _figure(name: str, unit: str, better: str, samples: dict[str, list[float]]) -> Figure:
    ours, *baselines = (Samples(name, tuple(values)) for name, values in samples.items())
    return Figure(name, unit, "less" if better == "less" else "more", ours, tuple(baselines))


def _latencies(sources: dict[str, Source], repeat: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(max(2, repeat // 5)):
        for name, source in sources.items():
            found[name] += _latency(source)
    return found


def _latency(source: Source) -> Iterator[float]:
    for at, text in source(_TICKS.format(count=100, every=0.02)):
        yield from (at * 1000 - int(stamp) / 1e6 for stamp in text.splitlines() if stamp.isdigit())


def _beside(workbench: Workbench, source: Source, repeat: int) -> dict[str, list[float]]:
    """Measure the endpoint's latency while a hostile job takes all the processor time it can get, and without it."""
    found: dict[str, list[float]] = {"beside": [], "alone": []}
    for _ in range(max(2, repeat // 5)):
        found["alone"] += _latency(source)
        hog = workbench.launch(Project.new(), "python", code=_SPIN.format(sessions=_SESSIONS))
        try:
            next(event for event in hog.follow(bare_processes.TIMEOUT_S) if isinstance(event, StreamEvent))
            found["beside"] += _latency(source)
        finally:
            hog.cancel()
    return found


def _crowd(sources: dict[str, Source], repeat: int) -> dict[str, list[float]]:
    """Measure how many events arrive per second from several programs at once, each writing a line every few ms."""
    found: dict[str, list[float]] = {name: [] for name in sources}
    with ThreadPoolExecutor(_CROWD) as pool:
        for _ in range(repeat):
            for name, source in sources.items():
                code = _TICKS.format(count=500, every=0.006)
                streams: list[list[tuple[float, str]]] = list(pool.map(list, [source(code) for _ in range(_CROWD)]))
                arrivals = sorted(at for stream in streams for at, _ in stream)
                found[name].append((len(arrivals) - 1) / (arrivals[-1] - arrivals[0]))
    return found


def _rates(sources: dict[str, Source], code: str, repeat: int, count: Callable[[str], float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(repeat):
        sums = set()
        for name, source in sources.items():
            started = time.monotonic()
            total = sum(count(text) for _, text in source(code))
            found[name].append(total / (time.monotonic() - started))
            sums.add(round(total, 6))
        if len(sums) != 1:
            raise RuntimeError(f"not everything arrived everywhere: {sums}")
    return found


def _count_lines(text: str) -> float:
    return text.count("\n")


def _count_megabytes(text: str) -> float:
    return len(text) / 1e6


def heard(workbench: Workbench, action: str, **fields: Any) -> Iterator[tuple[float, str]]:
    """Yield the output of a job of the endpoint, as (time of arrival, text); raises RuntimeError unless it succeeds."""
    arrived: list[tuple[float, str]] = []
    run = workbench.launch(Project.new(), action, **fields)
    stop = run.listen(
        lambda one: arrived.append((one.at, one.event.text)) if isinstance(one.event, StreamEvent) else None
    )
    try:
        end = run.wait(bare_processes.TIMEOUT_S)
    finally:
        stop()
    if end.type != "done":
        raise RuntimeError(f"the endpoint's job ended with {end.code}: {end.message}")
    yield from arrived


def _pipe(code: str) -> Iterator[tuple[float, str]]:
    for at, data in bare_processes.chunks(bare_processes.python(code)):
        yield at, data.decode()


def _bare(url: str, code: str) -> Iterator[tuple[float, str]]:
    with (
        httpx.Client(timeout=bare_processes.TIMEOUT_S, trust_env=False) as client,
        client.stream("POST", url, content=code.encode()) as response,
    ):
        for event in EventSource(response).iter_sse():
            if event.event == "stream":
                yield time.monotonic(), json.loads(event.data)["text"]
