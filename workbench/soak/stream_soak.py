"""The soak of streams: many runs at the same time on a private cloud, each with a reader; measures silence and delay.

Runs start one after the other at a steady rate, the last of them at the same moment if that is asked for. They print at
a steady pace until all of them have gone on together for a while, and end in the order in which they started. Between a
run's lines, heartbeats keep its stream alive. The endpoint is deployed as it is by default.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Literal, get_args

import aiohttp
import psutil

from modal_app import collector
from modal_app.contract.events import TERMINAL, Event, Phase, StatusEvent, StreamEvent, parse_event
from modal_app.contract.headers import SECRET_HEADER
from modal_app.endpoint_settings import Timeouts
from workbench.local_cloud import State, family
from workbench.machine.environment import environment
from workbench.runs.project import Project
from workbench.session import connect
from workbench.soak.soak_failures import SoakFailedError

Step = Literal["begun", "ended"]
STEPS: tuple[Step, ...] = get_args(Step)
_APP = "soak-streams"
_ALLOWED_S = 2.0
_ALLOWED_P99_MS = 1000.0
_STORM_EACH_S = 0.5  # that one of many starts at the same moment may take, until all of them go on
_PATIENCE_S = 300.0  # for a run to end, beyond the time that its job takes
_CONNECT_S = 60.0
_LOOK_S = 10.0  # between two measurements of memory and processor time
_MB = 1024 * 1024
_TALK = """
import time
while time.time() < {until}:
    print(str(time.time()) + chr(10), end="", flush=True)
    time.sleep({every_s})
"""


@dataclass
class Figures:
    """What was measured. Silence is the time between two pieces of one stream; a delay is from `print` to the reader.

    `queued` counts the runs that had to wait for their turn to start. `ms_per_stream_minute` is the processor time, by
    kind of process, that one stream took in one minute in which all went on; `cpu_s` is that of the whole soak.

    Two seconds of silence are allowed. With heartbeats less often than that, a stream may be silent for two seconds
    longer than the interval of heartbeats, or of lines if that is shorter; before a run prints, only that of heartbeats
    counts. `longest_silence_s` is of runs that print, and includes that interval: what came late, and by how much, is
    told by the delays.
    """

    runs: int = 0
    done: int = 0
    most_at_once: int = 0
    queued: int = 0
    events: int = 0
    longest_silence_s: float = 0
    longest_between_events_s: float = 0
    delay_median_ms: float = 0
    delay_p99_ms: float = 0
    longest_delay_s: float = 0
    endpoint_containers: int = 0
    endpoint_mb: float = 0
    cloud_mb: float = 0
    cpu_s: dict[str, float] = field(default_factory=dict)
    ms_per_stream_minute: dict[str, float] = field(default_factory=dict)
    seconds: float = 0
    allowed_silence_s: float = 0
    allowed_start_silence_s: float = 0
    silences_too_long: int = 0
    ends: dict[str, int] = field(default_factory=dict)


class Streams:
    """A private cloud with the endpoint, many runs and their readers."""

    def __init__(self, state: State, figures: Figures) -> None:
        self._state = state
        self._figures = figures
        self._delays: list[float] = []
        self._talking = 0
        self._count = 0
        self._used: dict[tuple[str, int], float] = {}  # processor time in seconds, by kind of process and process id
        self._together: list[tuple[float, dict[str, float]]] = []  # when all runs went on: moments and `_cpu_s` then
        self._heartbeat_s = 0.0
        self._url = ""
        self._secret = ""

    def deploy(self, *, heartbeat_s: float, lasting_s: float) -> None:
        """Start the cloud and deploy the endpoint, for runs that take `lasting_s` seconds.

        Raises what `connect` and `deploy` raise.
        """
        longest_s = int(lasting_s + _PATIENCE_S)
        self._heartbeat_s = heartbeat_s
        settings = Timeouts(
            process_s=longest_s,
            sandbox_s=longest_s + 120,
            function_s=longest_s + 240,
            upstream_s=longest_s + 300,
            heartbeat_s=heartbeat_s,
        ).env()
        with environment(settings), connect("local", app_name=_APP, state_dir=self._state.root) as wb:
            endpoint = wb.deploy(with_claude=False)
            self._url, self._secret = endpoint.url, endpoint.secret.get_secret_value()

    async def go(
        self,
        count: int,
        *,
        rate: float,
        every_s: float,
        hold_s: float,
        storm: int = 0,
        advance: Callable[[Step], None],
    ) -> None:
        """Start `count` runs, `rate` per second, and read all of them to their ends. Raises SoakFailedError.

        The last `storm` of them start at the same moment.
        `advance` is called for each run that begins to print and for each that has ended.
        """
        self._figures.allowed_silence_s = allowed_silence_s(every_s, self._heartbeat_s)
        self._figures.allowed_start_silence_s = self._heartbeat_s + _ALLOWED_S
        collector.settle()  # a garbage collection in this process would look like silence
        started = time.monotonic()
        starting_s = starting_in_s(count, rate=rate, storm=storm)
        first_end = time.time() + starting_s + hold_s
        self._count = count
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_CONNECT_S)
        headers = {SECRET_HEADER: self._secret, "Accept": "text/event-stream"}
        looking = asyncio.create_task(self._look())
        try:
            async with (
                aiohttp.ClientSession(
                    self._url,
                    headers=headers,
                    timeout=timeout,
                    connector=aiohttp.TCPConnector(limit=0, force_close=True),
                ) as http,
                asyncio.TaskGroup() as group,
            ):
                for number in range(count):
                    at_s = min(number, count - storm) / rate
                    await asyncio.sleep(max(0, started + at_s - time.monotonic()))
                    until = first_end + number / rate
                    group.create_task(self._read(http, _TALK.format(until=until, every_s=every_s), until, advance))
        except ExceptionGroup as errors:
            raise SoakFailedError(f"{type(errors.exceptions[0]).__name__}: {errors.exceptions[0]}") from errors
        finally:
            looking.cancel()
            self._note()
            self._settle(time.monotonic() - started)
        judge(self._figures, count)

    async def _read(
        self, http: aiohttp.ClientSession, code: str, until: float, advance: Callable[[Step], None]
    ) -> None:
        project = Project.new()
        body = {"user_id": project.user_id, "project_id": project.project_id, "action": "python", "code": code}
        patience_s = until - time.time() + _PATIENCE_S
        async with asyncio.timeout(patience_s), http.post("/generate", json=body) as response:
            if response.status != 200:
                raise SoakFailedError(f"HTTP {response.status}: {(await response.text())[:300]}")
            self._figures.runs += 1
            reader = Reader(self._figures, self._delays)
            try:
                async for piece in response.content.iter_any():
                    talked = reader.talking
                    reader.take(piece)
                    if reader.talking and not talked:
                        self._talking += 1
                        advance("begun")
                        self._figures.most_at_once = max(self._figures.most_at_once, self._talking)
                    elif talked and not reader.talking:
                        self._talking -= 1
            finally:
                self._talking -= reader.talking
        self._figures.ends[reader.end] = self._figures.ends.get(reader.end, 0) + 1
        self._figures.done += reader.end == "done"
        advance("ended")

    async def _look(self) -> None:
        while True:
            self._note()
            await asyncio.sleep(_LOOK_S)

    def _note(self) -> None:
        """Measure memory and processor time of the cloud, of the endpoint's containers, of sandboxes and of readers."""
        figures, running = self._figures, self._state.running()
        if running is None:
            return
        processes = family(running.pid)
        figures.cloud_mb = max(figures.cloud_mb, processes[0].memory_info().rss / _MB)
        found = containers(processes)
        kinds = {running.pid: "cloud", **{one.pid: "endpoint" for one in found}}
        for one in processes:
            with suppress(psutil.Error):
                self._used[kinds.get(one.pid, "sandboxes"), one.pid] = _seconds(one)
        self._used["readers", 0] = time.process_time()
        figures.cpu_s = {}
        for (kind, _), seconds in self._used.items():
            figures.cpu_s[kind] = figures.cpu_s.get(kind, 0) + seconds
        figures.endpoint_containers = max(figures.endpoint_containers, len(found))
        figures.endpoint_mb = max(figures.endpoint_mb, sum(one.memory_info().rss for one in found) / _MB)
        if self._talking == self._count:
            self._together = [*self._together[:1], (time.monotonic(), figures.cpu_s)]

    def _settle(self, seconds: float) -> None:
        figures = self._figures
        figures.seconds = round(seconds, 1)
        if len(self._delays) > 1:
            cuts = quantiles(self._delays, n=100)
            figures.delay_median_ms, figures.delay_p99_ms = round(cuts[49] * 1000, 1), round(cuts[98] * 1000, 1)
        if len(self._together) > 1:
            (began, before), (ended, after) = self._together
            minutes = self._count * (ended - began) / 60
            figures.ms_per_stream_minute = {
                kind: round((used - before.get(kind, 0)) * 1000 / minutes, 1) for kind, used in after.items()
            }
        figures.cpu_s = {kind: round(used, 1) for kind, used in figures.cpu_s.items()}
        for name, value in vars(figures).items():
            if isinstance(value, float):
                setattr(figures, name, round(value, 2))


def starting_in_s(count: int, *, rate: float, storm: int) -> float:
    """How many seconds `count` runs may take until all of them go on, of which `storm` start at the same moment."""
    return (count - storm) / rate + storm * _STORM_EACH_S


def allowed_silence_s(every_s: float, heartbeat_s: float) -> float:
    """How many seconds a stream may be silent, with a line every `every_s` and a heartbeat every `heartbeat_s`."""
    return _ALLOWED_S if heartbeat_s < _ALLOWED_S else min(every_s, heartbeat_s) + _ALLOWED_S


def judge(figures: Figures, count: int) -> None:
    """Raise SoakFailedError when a promise was not kept."""
    if figures.done != count:
        raise SoakFailedError(f"{count - figures.done} of {count} runs did not end well: {figures.ends}")
    if figures.most_at_once != count:
        raise SoakFailedError(
            f"only {figures.most_at_once} of {count} runs went on at the same time: use a lower --rate"
        )
    if figures.longest_silence_s > figures.allowed_silence_s:
        raise SoakFailedError(
            f"a stream was silent for {figures.longest_silence_s:.1f} s, the interval of its lines or heartbeats "
            f"included: {figures.allowed_silence_s:.1f} s are allowed, and the latest line came "
            f"{figures.longest_delay_s:.1f} s after it was printed"
        )
    if figures.silences_too_long:
        raise SoakFailedError(f"a stream was silent for too long, {figures.silences_too_long} times")
    if figures.longest_delay_s > _ALLOWED_S:
        raise SoakFailedError(f"a line came {figures.longest_delay_s:.1f} s after it was printed")
    if figures.delay_p99_ms > _ALLOWED_P99_MS:
        raise SoakFailedError(
            f"one line in a hundred came {figures.delay_p99_ms:.0f} ms after it was printed, or later"
        )


class Reader:
    """Parses one stream, and measures the time between its pieces and the delay of its lines."""

    def __init__(self, figures: Figures, delays: list[float]) -> None:
        self.talking = False
        self.end = "no end"
        self._figures = figures
        self._delays = delays
        self._part = b""
        self._heard_at = time.monotonic()
        self._event_at = 0.0

    def take(self, piece: bytes) -> None:
        """Take bytes that have arrived just now."""
        now = time.monotonic()
        silence, self._heard_at = now - self._heard_at, now
        if self.talking:
            self._figures.longest_silence_s = max(self._figures.longest_silence_s, silence)
        allowed_s = self._figures.allowed_silence_s if self.talking else self._figures.allowed_start_silence_s
        self._figures.silences_too_long += silence > allowed_s
        *frames, self._part = (self._part + piece).split(b"\n\n")
        for frame in frames:
            if not frame.startswith(b":"):
                self._event(parse_event(frame.partition(b"\ndata: ")[2]), now)

    def _event(self, event: Event, now: float) -> None:
        self._figures.events += 1
        self._figures.queued += isinstance(event, StatusEvent) and event.phase is Phase.QUEUED
        if isinstance(event, TERMINAL):
            self.end = event.outcome
        if not isinstance(event, StreamEvent):
            self.talking = False
            return
        if self.talking:
            between = now - self._event_at
            self._figures.longest_between_events_s = max(self._figures.longest_between_events_s, between)
        self.talking, self._event_at = True, now
        self._delays.append(time.time() - float(event.text.split()[-1]))
        self._figures.longest_delay_s = max(self._figures.longest_delay_s, self._delays[-1])


def containers(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of a cloud's processes that are the Python of a function container."""
    return [one for one in processes if _line(one)[2:3] == ["modal._container_entrypoint"]]


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except psutil.Error:
        return [""]
