"""What ends badly behind the application: a container, a cloud; and what goes on for long, or is large."""

import json
import logging
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import httpx
import psutil
import pytest
from playwright.sync_api import Browser

from tests.conftest import FAST
from tests.standard.faults.test_kills import TALKING, _container_of
from tests.standard.nextjs.panes import opened, user
from tests.support.nextjs import NODE, Application, Server
from tests.support.places import free_port
from workbench import Workbench, connect
from workbench.local_cloud.process.state_directory import State

pytestmark = [*NODE, pytest.mark.browser, pytest.mark.timeout(900)]
_log = logging.getLogger(__name__)
SESSION = "6f9619ff-8b86-4d01-b42d-00c04fc964ff"
MEBIBYTE = 1024 * 1024
SILENT_S = 360
Result = TypeVar("Result")


def aside(work: Callable[[], Result]) -> Result:
    """Do something in a thread of its own: the browser's driver keeps an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_container_that_is_killed_is_one_error_that_can_be_read(
    server: Server, browser: Browser, endpoint: Workbench, state: State
) -> None:
    with user(browser) as context:
        pane = opened(context, server.url)
        pane.start(TALKING)
        pane.wait_for_text("tick 3")
        aside(lambda: _container_of(endpoint, state).kill())
        pane.wait_for("failed")
        assert pane.problem.startswith("container_lost: ")
        assert pane.root.get_by_role("alert").count() == 1
        assert pane.numbers == list(range(1, len(pane.numbers) + 1))
        pane.start("print('again')")
        pane.wait_for("done")


def test_a_cloud_that_is_killed_and_started_again_is_one_error_that_can_be_read(
    application: Application, browser: Browser, own_state: State, monkeypatch: pytest.MonkeyPatch, endpoint: Workbench
) -> None:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)

    def up() -> dict[str, str]:
        with connect("local", state_dir=own_state.root) as own:
            found = own.deploy()
        return {"WORKBENCH_URL": found.url, "WORKBENCH_SECRET": found.secret.get_secret_value()}

    own_state.create()
    own_state.remember_port(free_port())
    try:
        called = aside(up)
        with application.started(env=called) as server, user(browser) as context:
            pane = opened(context, server.url)
            asked: list[str] = []
            context.on("request", lambda request: asked.append(request.url))
            pane.start(TALKING)
            pane.wait_for_text("tick 3")
            run_id = pane.run_id
            running = own_state.running()
            assert running is not None
            os.kill(running.pid, signal.SIGKILL)
            pane.wait_for("failed")
            assert pane.problem.startswith("stream_lost: ")
            assert pane.root.get_by_role("alert").count() == 1
            count = len(asked)
            pane.page.wait_for_timeout(1_000)
            assert len(asked) == count, "nobody asks on"
            assert aside(up) == called
            pane.root.get_by_label("history").get_by_role("button").first.click()
            pane.wait_for("failed")
            assert pane.run_id == run_id
            assert pane.problem.startswith("container_lost: ")
    finally:
        aside(endpoint.target.point_sdk)


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    return (json.loads(line[6:]) for line in lines if line.startswith("data: "))


def _resident(pid: int) -> int:
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(process.memory_info().rss for process in processes)


def test_two_hundred_megabytes_wait_for_a_reader_that_has_stopped_and_come_whole_behind(server: Server) -> None:
    """The reader is a bare socket that reads no more: what it does not take, Node.js does not hold."""
    pieces, size = 200, MEBIBYTE
    code = f"import sys\nfor i in range({pieces}): sys.stdout.write(chr(97 + i % 26) * {size}); sys.stdout.flush()"
    body = json.dumps({"action": "python", "code": code})
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /api/runs HTTP/1.1\r\nHost: {host}\r\nCookie: session={SESSION}\r\nContent-Type: application/json\r\n"
    before = _resident(server.pid)
    highest = 0
    with closing(socket.create_connection((host, int(port)), 60)) as paused:
        paused.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = b""
        while b"\r\n\r\n" not in answer or b"data:" not in answer:
            answer += paused.recv(2000)
        run_id = answer.partition(b"x-run-id: ")[2].partition(b"\r\n")[0].decode()
        for _ in range(40):
            time.sleep(0.5)
            highest = max(highest, _resident(server.pid))
    _log.info("Node.js: %d MiB, and %d beside a reader that has stopped", before // MEBIBYTE, highest // MEBIBYTE)
    assert highest - before < 64 * MEBIBYTE
    with (
        httpx.Client(base_url=server.url, cookies={"session": SESSION}, trust_env=False, timeout=120) as client,
        client.stream("GET", f"/api/runs/{run_id}") as whole,
    ):
        last, letters = {}, 0
        for number, event in enumerate(_events(whole.iter_lines()), start=1):
            assert event["seq"] == number
            letters += len(event.get("text", ""))
            last = event
    assert (last["type"], letters) == ("done", pieces * size)


def test_a_job_that_is_silent_for_six_minutes_is_shown_to_its_end(server: Server, browser: Browser) -> None:
    """On the clock: Node.js gives up a body after five minutes, and a host in between after less."""
    with user(browser) as context:
        pane = opened(context, server.url)
        pane.start(f"import time\nprint('on', flush=True)\ntime.sleep({SILENT_S})\nprint('off')")
        pane.wait_for_text("on")
        pane.page.wait_for_timeout(SILENT_S * 1000)
        pane.wait_for("done")
        assert pane.text == "on\noff\n"
        assert pane.numbers == list(range(1, len(pane.numbers) + 1))


WATCH = """async run => {
    const answer = await fetch(`/api/runs/${run}`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const found = [];
    for (let text = "";;) {
        const { done, value } = await reader.read();
        const now = performance.timeOrigin + performance.now();
        if (done) return found;
        text += value;
        const lines = text.split("\\n");
        text = lines.pop();
        for (const line of lines) if (line.startsWith("id: ")) found.push([Number(line.slice(4)), now]);
    }
}"""


def test_events_come_to_the_browser_as_they_come_to_who_reads_the_endpoint(
    server: Server, browser: Browser, endpoint: Workbench
) -> None:
    """Two readers of one run: one at the endpoint, one in a page. What lies between is the application's."""
    lines, pause_s = 150, 0.02
    direct: dict[int, float] = {}

    def watch(run_id: str) -> None:
        headers = {"X-Modal-Secret": endpoint.endpoint.secret.get_secret_value()}
        url = f"{endpoint.endpoint.url}/generate/{run_id}"
        with httpx.stream("GET", url, headers=headers, timeout=60, trust_env=False) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    direct[int(line[4:])] = time.time() * 1000

    with user(browser) as context:
        pane = opened(context, server.url)
        pane.start(f"import time\ntime.sleep(3)\nfor i in range({lines}): print(i, flush=True); time.sleep({pause_s})")
        pane.wait_for("running")
        reader = threading.Thread(target=watch, args=(pane.run_id,))
        reader.start()
        seen = {int(number): float(at) for number, at in pane.page.evaluate(WATCH, pane.run_id)}
        reader.join(30)
    live = sorted(direct.keys() & seen.keys())[-lines:-4]
    later = [seen[number] - direct[number] for number in live]
    spread = [times[live[-1]] - times[live[0]] for times in (direct, seen)]
    middle = statistics.median(later)
    _log.info("%d events, %.1f ms later in a page (p50); spread %.0f and %.0f ms", len(live), middle, *spread)
    assert middle <= 20
    assert abs(spread[1] - spread[0]) <= spread[0] / 10
