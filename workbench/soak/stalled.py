"""The soak of readers: a run with much output, one reader that reads all of it, and many that read nothing.

The endpoint's memory must not grow with the output.
"""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx

from modal_app.contract.headers import SECRET_HEADER
from workbench.deployment.endpoint import Endpoint
from workbench.local_cloud import State, family
from workbench.machine.environment import environment
from workbench.runs.project import Project
from workbench.session import connect
from workbench.soak.soak_failures import SoakFailedError
from workbench.soak.stream_soak import containers

_APP = "soak-stalled"
_MB = 1024 * 1024
_LINE = 1024
_TENTHS = 10
_GROWTH_MB = 128.0  # allowed after the first tenth; since garbage is collected rarely, memory varies by 85
_RECEIVE_BYTES = 64 * 1024
_READ_S = 120.0
_JOB_S = 3000
_PRINT = """
import sys
line = b"x" * {width} + b"\\n"
for _ in range({blocks}):
    sys.stdout.buffer.write(line * 64)
    sys.stdout.buffer.flush()
"""


@dataclass
class Figures:
    """What was measured. `memory_mb` is the endpoint's resident memory, before the run and after each tenth of it."""

    stalled: int = 0
    printed_mb: int = 0
    taken_mb: float = 0
    seconds: float = 0
    longest_silence_s: float = 0
    memory_mb: list[float] = field(default_factory=list)


def run(state: State, *, mb: int, stalled: int, advance: Callable[[int], None], figures: Figures) -> None:
    """Run a job that prints `mb` MiB, read its output, and measure. Raises SoakFailedError.

    `advance` is called with the MiB that were read since the last call.
    """
    settings = {
        "WORKBENCH_MAX_OUTPUT_BYTES": str((mb + 1) * _MB),
        "WORKBENCH_TIMEOUT_SEND_S": "3600",  # stalled readers must stay connected to the end
        "WORKBENCH_TIMEOUT_PROCESS_S": str(_JOB_S),
        "WORKBENCH_TIMEOUT_SANDBOX_S": "3200",
        "WORKBENCH_TIMEOUT_FUNCTION_S": "3400",
        "WORKBENCH_TIMEOUT_UPSTREAM_S": "3600",
        "WORKBENCH_MIN_CONTAINERS": "1",
        "WORKBENCH_MAX_RUNS": str((stalled + 10) * 3 // 2),  # so that one container serves all readers
    }
    with environment(settings), connect("local", app_name=_APP, state_dir=state.root) as wb:
        endpoint = wb.deploy(with_claude=False)
        with _caller(endpoint) as http:
            http.get("/health")
            figures.stalled, figures.printed_mb = stalled, mb
            _measure(state, figures)
            _read(state, endpoint, http, advance, figures)
    judge(figures)


def _caller(endpoint: Endpoint) -> httpx.Client:
    headers = {SECRET_HEADER: endpoint.secret.get_secret_value()}
    return httpx.Client(base_url=endpoint.url, headers=headers, timeout=_READ_S, trust_env=False)


def _read(
    state: State, endpoint: Endpoint, http: httpx.Client, advance: Callable[[int], None], figures: Figures
) -> None:
    project = Project.new()
    code = _PRINT.format(width=_LINE - 1, blocks=figures.printed_mb * _MB // (_LINE * 64))
    body = {
        "user_id": project.user_id,
        "project_id": project.project_id,
        "action": "python",
        "code": code,
        "timeout_s": _JOB_S,
    }
    step = figures.printed_mb * _MB // _TENTHS
    with ExitStack() as stack, http.stream("POST", "/generate", json=body) as response:
        if response.status_code != 200:
            raise SoakFailedError(f"HTTP {response.status_code}: {response.read()[:300].decode(errors='replace')}")
        for _ in range(figures.stalled):
            stack.enter_context(stalled_reader(endpoint, response.headers["x-run-id"]))
        taken, told, tail, started = 0, 0, b"", time.monotonic()
        heard_at = started
        for piece in response.iter_raw():
            now = time.monotonic()
            figures.longest_silence_s = max(figures.longest_silence_s, round(now - heard_at, 2))
            heard_at = now
            before, taken, tail = taken, taken + len(piece), (tail + piece)[-4096:]
            if taken // step > before // step:
                _measure(state, figures)
            if taken // _MB > told:
                advance(taken // _MB - told)
                told = taken // _MB
        figures.seconds, figures.taken_mb = round(heard_at - started, 1), round(taken / _MB, 1)
    if b'"type":"done"' not in tail:
        raise SoakFailedError(f"the run did not end well: {tail[-500:].decode(errors='replace')}")
    if taken < figures.printed_mb * _MB:
        raise SoakFailedError(f"{taken} bytes came of {figures.printed_mb} MiB")


def stalled_reader(endpoint: Endpoint, run_id: str) -> socket.socket:
    """Connect a reader that requests a run's events and reads nothing; returns its socket."""
    url = httpx.URL(endpoint.url)
    reader = socket.socket()
    reader.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES
    )  # has an effect only if set before connecting
    reader.connect((url.host, url.port))
    secret = endpoint.secret.get_secret_value()
    reader.sendall(f"GET /generate/{run_id} HTTP/1.1\r\nHost: {url.host}\r\n{SECRET_HEADER}: {secret}\r\n\r\n".encode())
    return reader


def _measure(state: State, figures: Figures) -> None:
    running = state.running()
    assert running is not None, "the cloud runs"
    resident = [one.memory_info().rss for one in containers(family(running.pid))]
    figures.memory_mb.append(round(max(resident, default=0) / _MB, 1))


def judge(figures: Figures) -> None:
    """Raise SoakFailedError when memory has grown with the output."""
    settled, *later = figures.memory_mb[1:]
    if later and max(later) > settled + _GROWTH_MB:
        raise SoakFailedError(f"the endpoint's memory grows: {figures.memory_mb} MiB")
