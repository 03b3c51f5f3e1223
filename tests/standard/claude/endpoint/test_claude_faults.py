"""The table of faults through the endpoint and the gateway: the real CLI, and the end that a caller sees.

Here at least one row of each kind, at night all of them; what the CLI prints for each row is read in `tests/quick`. All
jobs run at the start of the module, some at once; each test looks at one of them.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from modal_app.contract.events import DoneEvent, ErrorEvent, Phase, StatusEvent, StreamEvent
from tests.conftest import caller, live_sandboxes, wait_until
from tests.support.claude.cases import CASES, QUICK, WORDS, Case
from tests.support.claude.endpoint import APP, FAULTS, KEY, Claude, Fault, messages
from tests.support.processes import with_command
from workbench import Project, Run

AT_ONCE = 3  # a CLI that starts takes two seconds of a processor, and other tests run beside it
BOUND_MS = 60_000
pytestmark = pytest.mark.timeout(400)  # the first test waits for the image and all jobs
OF_THE_MODEL: Mapping[str, Case] = {
    name: case
    for name, case in CASES.items()
    if case.patience == QUICK and name != "invalid_tool_json"  # "nonsense" below: it is not waited for to the end
}
CHOSEN = (
    *(
        "plain",
        "tool",
        "subagent",
        "status_429",
        "status_529",
        "status_500",
        "hang_mid_stream",
        "eof_mid_stream_once",
        "refusal",
    ),
    *("max_tokens", "denied", "structured_wrong", "max_turns", "max_budget", "tiny_budget", "resume_unknown"),
    *("text_block_broken", "tool_block_broken", "refusal_once", "prompt_too_long"),
)


def ended(claude: Claude, names: Iterable[str]) -> Mapping[str, Run]:
    """Jobs of these names, ended."""
    asked: dict[str, Mapping[str, Any]] = {
        name: OF_THE_MODEL[name].options if name in OF_THE_MODEL else FAULTS[name].options for name in names
    }

    def run(name: str) -> Run:
        project = Project.new()
        fault = FAULTS.get(name)
        if fault is not None and fault.files:
            files = [{"path": path, "content": content} for path, content in fault.files.items()]
            assert claude.wb.launch(project, "files", op="write", files=files).wait(100).type == "done"
        job = claude.wb.launch(project, "claude", prompt=name, **asked[name])
        job.wait(200)
        return job

    first, *rest = asked
    run(first)  # the first start of the CLI reads all of it from the disk, and the gateway's container starts
    begun = run(first)  # alone
    with ThreadPoolExecutor(AT_ONCE) as workers:
        return {first: begun, **dict(zip(rest, workers.map(run, rest), strict=True))}


@pytest.fixture(scope="module")
def ends(claude: Claude) -> Mapping[str, Run]:
    """Every job, ended."""
    return ended(claude, (*CHOSEN, *FAULTS))


def left(job: Run) -> str:
    """What is left of the model's text when what was replaced is taken out."""
    pieces = [event for event in job.events if isinstance(event, StreamEvent) and event.channel == "claude"]
    replaced = {event.replaces for event in pieces}
    return "".join(event.text for event in pieces if event.message_id not in replaced)


def in_time(job: Run) -> ErrorEvent | DoneEvent:
    """The end of a job that left no sandbox and did not take long."""
    end = job.terminal
    assert end is not None
    assert end.sandbox is not None
    assert end.sandbox.terminated
    assert end.timings is not None
    assert end.timings.run_ms is not None
    assert end.timings.run_ms < BOUND_MS
    assert KEY not in repr(job.events)
    return end


def check(name: str, job: Run) -> None:
    """Fail unless a job has ended as its case says."""
    case = OF_THE_MODEL[name]
    end = in_time(job)
    if case.code is None:
        assert isinstance(end, DoneEvent), end
    else:
        assert isinstance(end, ErrorEvent), end
        assert end.code == case.code, end
        assert case.told in end.message
    assert left(job) == case.text
    replaced = {event.replaces for event in job.events if isinstance(event, StreamEvent)} - {None}
    assert bool(replaced) == case.replaced


@pytest.mark.parametrize("name", CHOSEN)
def test_a_job_ends_as_it_must_whatever_the_model_does(name: str, ends: Mapping[str, Run]) -> None:
    check(name, ends[name])


def test_every_kind_of_end_is_among_the_chosen() -> None:
    codes = {case.code for case in OF_THE_MODEL.values()}
    assert {OF_THE_MODEL[name].code for name in CHOSEN} == codes


@pytest.mark.parametrize(("name", "status"), [("status_429", 429), ("status_500", 500), ("eof_mid_stream_once", None)])
def test_each_time_that_the_model_is_asked_again_is_told(
    name: str, status: int | None, ends: Mapping[str, Run]
) -> None:
    """So that a reader knows what it waits for."""
    told = [event for event in ends[name].events if isinstance(event, StatusEvent) and event.retry is not None]
    assert told, ends[name].events
    for number, event in enumerate(told, 1):
        assert event.phase == Phase.RUNNING
        assert event.retry is not None
        assert (event.retry.attempt, event.retry.status) == (number, status)
        assert event.retry.wait_ms > 0
        assert f"repetition {number} of {event.retry.most}" in event.message
    plain = [event for event in ends["plain"].events if isinstance(event, StatusEvent) and event.retry is not None]
    assert plain == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_job_ends_as_it_must_whatever_becomes_of_it(name: str, ends: Mapping[str, Run]) -> None:
    fault: Fault = FAULTS[name]
    end = in_time(ends[name])
    if fault.code is None:
        assert isinstance(end, DoneEvent), end
    else:
        assert isinstance(end, ErrorEvent), end
        assert (end.code, end.exit_code) == (fault.code, fault.exit_code), end
        assert fault.told in end.message
    assert fault.said in repr(messages(ends[name]))


def test_a_job_that_failed_says_what_it_has_used(ends: Mapping[str, Run]) -> None:
    for name in ("max_turns", "max_budget", "tiny_budget", "interrupted", "nonsense", "killed", "not permitted"):
        end = ends[name].terminal
        assert isinstance(end, ErrorEvent)
        assert end.usage is not None
        assert end.usage.input_tokens > 1000, name
        assert end.usage.session_id is not None
    refused = ends["status_500"].terminal
    assert isinstance(refused, ErrorEvent)
    assert refused.usage is not None
    assert refused.usage.output_tokens == 0


def test_nothing_survives_a_cli_that_was_killed(ends: Mapping[str, Run]) -> None:
    assert ends["killed"].terminal is not None
    assert with_command("sleep 4322") == []
    assert live_sandboxes(APP) == []


def test_a_job_whose_reader_leaves_ends_with_all_that_it_has_started(claude: Claude, project: Project) -> None:
    """The CLI itself would go on to the end of its work."""
    body = {"user_id": project.user_id, "project_id": project.project_id, "prompt": "a command that never ends"}
    with (
        caller(claude.wb, timeout=100) as web,
        web.stream("POST", "/generate", json=body | {"allowed_tools": ["Bash"]}) as answer,
    ):
        run_id = answer.headers["x-run-id"]
        wait_until(lambda: bool(with_command("sleep 4321")), "the command runs")
    wait_until(lambda: live_sandboxes(APP) == [], "its sandbox is gone")
    assert with_command("sleep 4321") == []
    assert claude.wb.attach(run_id).wait(60).outcome == "cancelled"


@pytest.mark.parametrize("prompt", ["", " \n", "x" * (1024 * 1024 + 1)], ids=["empty", "blank", "too long"])
def test_a_prompt_that_the_cli_would_not_take_is_refused_at_the_door(
    prompt: str, claude: Claude, project: Project
) -> None:
    body = {"user_id": project.user_id, "project_id": project.project_id, "prompt": prompt}
    with caller(claude.wb) as web:
        answer: httpx.Response = web.post("/generate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_the_words_before_a_fault_are_kept(ends: Mapping[str, Run]) -> None:
    assert left(ends["pings_forever"]) == "one two "
    assert WORDS.startswith("one two ")
