"""What the endpoint adds to a program's output on its way to a client, beside a pipe and beside a bare uvicorn stream."""

import json
import time
from collections.abc import Callable, Iterator

import httpx
from httpx_sse import EventSource

from modal_app.contract.events import StreamEvent
from workbench.benchmarks import bare_stream, processes
from workbench.benchmarks.figures import Figure, Samples
from workbench.project import Project
from workbench.session import Workbench

# The clock is the kernel's own: the same inside a sandbox as outside.
_TICKS = """
import sys, time
for _ in range({count}):
    sys.stdout.write(str(time.monotonic_ns()) + "\\n")
    time.sleep(0.005)
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
Source = Callable[[str], Iterator[tuple[float, str]]]


def measure(workbench: Workbench, repeat: int) -> Iterator[Figure]:
    """Yield figures of latency and throughput; the endpoint must be deployed."""
    with bare_stream.serving() as url:
        sources: dict[str, Source] = {
            "endpoint": lambda code: _endpoint(workbench, code),
            "pipe": _pipe,
            "bare uvicorn": lambda code: _bare(url, code),
        }
        for source in sources.values():
            for _ in source("print('warm')"):
                pass
        yield _figure("event latency, write → client", "ms", "less", _latencies(sources, repeat))
        yield from _talking(sources, max(3, repeat // 5))
        code = _BLOCKS.format(count=512)
        yield _figure("output through the endpoint", "MB/s", "more", _rates(sources, code, max(3, repeat // 5), 1e6))


def _figure(name: str, unit: str, better: str, samples: dict[str, list[float]]) -> Figure:
    ours, *baselines = (Samples(name, tuple(values)) for name, values in samples.items())
    return Figure(name, unit, "less" if better == "less" else "more", ours, tuple(baselines))


def _latencies(sources: dict[str, Source], repeat: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(max(2, repeat // 5)):
        for name, source in sources.items():
            for at, text in source(_TICKS.format(count=200)):
                found[name] += [at * 1000 - int(stamp) / 1e6 for stamp in text.splitlines() if stamp.isdigit()]
    return found


def _talking(sources: dict[str, Source], repeat: int) -> Iterator[Figure]:
    """A program that writes short lines as fast as it can: lines and events that arrive in a second."""
    lines: dict[str, list[float]] = {name: [] for name in sources}
    events: dict[str, list[float]] = {name: [] for name in sources}
    count = 50_000
    for _ in range(repeat):
        for name, source in sources.items():
            started = time.monotonic()
            pieces = [text for _, text in source(_LINES.format(count=count))]
            taken = time.monotonic() - started
            arrived = sum(text.count("\n") for text in pieces)
            if arrived != count:
                raise RuntimeError(f"{name}: {arrived} of {count} lines arrived")
            lines[name].append(count / taken)
            events[name].append(len(pieces) / taken)
    yield _figure("short lines, one write each", "lines/s", "more", lines)
    yield _figure("events that carry them", "events/s", "more", events)


def _rates(sources: dict[str, Source], code: str, repeat: int, scale: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(repeat):
        for name, source in sources.items():
            started = time.monotonic()
            size = sum(len(text) for _, text in source(code))
            found[name].append(size / scale / (time.monotonic() - started))
    return found


def _endpoint(workbench: Workbench, code: str) -> Iterator[tuple[float, str]]:
    arrived: list[tuple[float, str]] = []
    run = workbench.launch(Project.new(), "python", code=code)
    stop = run.listen(
        lambda one: arrived.append((one.at, one.event.text)) if isinstance(one.event, StreamEvent) else None
    )
    try:
        end = run.wait(processes.TIMEOUT_S)
    finally:
        stop()
    if end.type != "done":
        raise RuntimeError(f"the endpoint's job ended with {end.code}: {end.message}")
    yield from arrived


def _pipe(code: str) -> Iterator[tuple[float, str]]:
    for at, data in processes.chunks(processes.python(code)):
        yield at, data.decode()


def _bare(url: str, code: str) -> Iterator[tuple[float, str]]:
    with (
        httpx.Client(timeout=processes.TIMEOUT_S, trust_env=False) as client,
        client.stream("POST", url, content=code.encode()) as response,
    ):
        for event in EventSource(response).iter_sse():
            if event.event == "stream":
                yield time.monotonic(), json.loads(event.data)["text"]
