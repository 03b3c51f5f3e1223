"""Readers that take nothing cost a bounded amount of memory, hold up nobody, and are left after a while."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest

from modal_app.contract.events import ErrorEvent, StreamEvent
from tests.conftest import caller, deployed
from tests.standard.modal_app.runs.conftest import events, python
from workbench import Project, Workbench
from workbench.local_cloud.process.state_directory import Running, State
from workbench.soak.stalled import stalled_reader

MB = 1024 * 1024
LIMIT_MB = 96
SETTINGS = {
    "WORKBENCH_MAX_OUTPUT_BYTES": f"{LIMIT_MB * MB}",
    "WORKBENCH_TIMEOUT_SEND_S": "8",
    "WORKBENCH_MIN_CONTAINERS": "1",
}
PRINTING = (
    "import sys\nline = b'x' * 1023 + b'\\n'\n"
    "for _ in range({mb} * 16): sys.stdout.buffer.write(line * 64); sys.stdout.buffer.flush()"
)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def slow(cloud: Running) -> Iterator[Workbench]:
    """The endpoint with limits that a test can reach."""
    with deployed("slow-readers", SETTINGS) as workbench:
        yield workbench


@pytest.fixture
def client(slow: Workbench) -> Iterator[httpx.Client]:
    with caller(slow, timeout=90) as one:
        yield one


def endpoint_bytes(state: State) -> int:
    """The resident memory of the endpoint's container."""
    found = [0]
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):  # gone while we look
            ours = "modal._container_entrypoint" in (process.info["cmdline"] or [])
            if ours and process.environ().get("WORKBENCH_APP_NAME") == "slow-readers":
                found.append(process.memory_info().rss)
    return max(found)


def test_a_reader_that_takes_nothing_is_left_and_its_run_is_not(
    slow: Workbench, client: httpx.Client, project: Project
) -> None:
    """It gets what was on its way and then the end of the connection, which no client takes for the end of the run."""
    run = slow.launch(project, "python", code=PRINTING.format(mb=90))
    while not run.run_id:
        time.sleep(0.01)
    with stalled_reader(slow.endpoint, run.run_id) as reader:
        assert run.wait(120).type == "done"
        time.sleep(int(SETTINGS["WORKBENCH_TIMEOUT_SEND_S"]) + 2)
        reader.settimeout(60)
        got, tail = 0, b""
        try:
            while piece := reader.recv(MB):
                got, tail = got + len(piece), (tail + piece)[-4096:]
        except ConnectionError:
            pass
    assert 0 < got < 90 * MB
    assert b'"type":"done"' not in tail
    assert client.get(f"/generate/{run.run_id}", headers={"Accept": "application/json"}).json()["type"] == "done"


def test_more_output_than_a_run_may_have_ends_it_and_what_was_streamed_stays(
    slow: Workbench, client: httpx.Client, project: Project
) -> None:
    answer = client.post("/generate", json=python(project, PRINTING.format(mb=LIMIT_MB + 8)))
    heard = events(answer.text)
    end = heard[-1]
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable) == ("output_limit", False)
    text = sum(len(event.text) for event in heard if isinstance(event, StreamEvent))
    assert (LIMIT_MB - 1) * MB < text <= LIMIT_MB * MB
    assert client.get(f"/generate/{end.run_id}").text.endswith(answer.text[-2000:])


def test_stalled_readers_cost_little_and_hold_up_nobody(
    slow: Workbench, client: httpx.Client, state: State, project: Project
) -> None:
    mb, readers = 40, 12
    client.get("/health")
    before = endpoint_bytes(state)
    taken = most = 0
    with ExitStack() as stack, client.stream("POST", "/generate", json=python(project, PRINTING.format(mb=mb))) as own:
        for _ in range(readers):
            stack.enter_context(stalled_reader(slow.endpoint, own.headers["x-run-id"]))
        tail, looked = b"", 0
        for piece in own.iter_raw():
            taken, tail = taken + len(piece), (tail + piece)[-4096:]
            if taken - looked > 8 * MB:
                looked, most = taken, max(most, endpoint_bytes(state))
    assert b'"type":"done"' in tail
    assert taken > mb * MB
    # Each of the stalled holds a thousand pieces of 64 KiB in the runtime: the same ones, so that is 64 MiB once.
    assert most - before < 200 * MB
