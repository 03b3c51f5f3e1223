"""The same request is one run; one project has one writer; a sandbox made ahead is used once."""

import threading
import uuid
from contextlib import suppress
from typing import Any

import httpx
import modal
import pytest

from modal_app.contract.events import DoneEvent, ErrorEvent
from tests.conftest import live_sandboxes, wait_until
from tests.standard.modal_app.runs.conftest import body, events, frames, python
from workbench import Project, Workbench

JSON = {"Accept": "application/json"}
ONCE = "import time; open('ran', 'a').write('x'); time.sleep({seconds}); print('ran')"


def test_the_same_key_joins_the_run(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    """At once from many sides, and again when it has ended: one execution, the same stream for all."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    heard: list[str] = []

    def ask() -> None:
        answer = anywhere.post("/generate", json=python(project, ONCE.format(seconds=1)), headers=key)
        heard.append(answer.headers["x-run-id"] + "".join(frames(answer.text)))

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(90)
    ask()
    assert len(heard) == 7
    assert len(set(heard)) == 1
    assert wb.volume(project).read_text("ran") == "x"


def test_a_key_belongs_to_one_user_and_project(anywhere: httpx.Client, project: Project) -> None:
    """Whoever uses somebody else's key, by chance or on purpose, meets nothing of theirs."""
    headers = {"Idempotency-Key": "k-" + str(uuid.uuid4()), **JSON}
    others = [
        Project.new(),
        Project(project.user_id, Project.new().project_id),
        Project(Project.new().user_id, project.project_id),
    ]
    answers = [anywhere.post("/generate", json=python(one, "print(1)"), headers=headers) for one in (project, *others)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.headers["x-run-id"] for answer in answers}) == 4
    again = anywhere.post("/generate", json=python(project, "print(1)"), headers=headers)
    assert again.headers["x-run-id"] == answers[0].headers["x-run-id"]


def test_the_same_key_with_another_body_is_a_conflict(anywhere: httpx.Client, project: Project) -> None:
    key = {"Idempotency-Key": "k-" + str(uuid.uuid4()), **JSON}
    first = anywhere.post("/generate", json=python(project, "print(1)"), headers=key)
    other = anywhere.post("/generate", json=python(project, "print(2)"), headers=key)
    assert (first.status_code, other.status_code, other.json()["code"]) == (200, 409, "idempotency_conflict")
    assert first.json()["run_id"] in other.json()["error"]
    same = (
        f'{{ "code":"print(1)", "action":"python", "project_id":"{project.project_id}", "user_id":"{project.user_id}"}}'
    )
    again = anywhere.post("/generate", content=same, headers=key)  # other white space, another order: the same request
    assert again.json() == first.json()


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
def test_a_key_that_is_none_is_refused(anywhere: httpx.Client, project: Project, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    answer = anywhere.post("/generate", json=python(project, "print(1)"), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_a_refusal_is_not_remembered(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    """A request that was refused because the project was busy may be made again with its key."""
    key = {"Idempotency-Key": str(uuid.uuid4()), **JSON}
    holder = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: holder.state.phase == "running", "the run did not start")
    assert anywhere.post("/generate", json=python(project, "print(1)"), headers=key).status_code == 409
    holder.cancel()
    assert anywhere.post("/generate", json=python(project, "print(1)"), headers=key).status_code == 200


def test_an_input_that_the_platform_restarts_joins_its_run(wb: Workbench, anywhere: httpx.Client) -> None:
    """Preemption takes the container away and gives its inputs to another one: the job is not done a second time."""
    for headers in ({}, {"Idempotency-Key": str(uuid.uuid4())}):
        project = Project.new()
        job = python(project, ONCE.format(seconds=3), wait_s=30)
        heard = ""
        with (
            wb.faults.injected(at="web", path="/generate", preempt=True, times=1),
            anywhere.stream("POST", "/generate", json=job, headers=headers) as response,
        ):
            assert response.status_code == 200
            run_id = response.headers["x-run-id"]
            with suppress(httpx.RemoteProtocolError):  # a response that has begun is cut, not begun again
                for piece in response.iter_text():
                    heard += piece
        whole = frames(anywhere.get(f"/generate/{run_id}").text)
        assert "".join(whole).startswith("".join(frames(heard.rpartition("\n\n")[0] + "\n\n")))
        assert {event.run_id for event in events("".join(whole))} == {run_id}
        wait_until(lambda: live_sandboxes() == [], "a sandbox was left")
        marks = [entry for entry in wb.volume(project).entries() if entry.path == "ran"]
        assert sum(entry.size for entry in marks) <= 1


def test_a_busy_project_names_its_run(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    holder = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: holder.state.phase == "running", "the run did not start")
    answer = anywhere.post("/generate", json=python(project, "1"))
    assert (answer.status_code, answer.json()["code"], answer.json()["run_id"]) == (409, "project_busy", holder.run_id)
    holder.cancel()


def test_a_run_waits_for_its_project_when_it_is_asked_to(wb: Workbench, project: Project) -> None:
    first = wb.launch(project, "python", code="import time; time.sleep(2); open('a', 'w').write('first')")
    wait_until(lambda: first.state.phase == "running", "the run did not start")
    second = wb.launch(project, "python", code="print(open('a').read())", wait_s=60)
    end = second.wait(90)
    assert isinstance(end, DoneEvent)
    assert second.text() == "first\n"
    assert end.timings is not None
    assert end.timings.queue_ms is not None
    assert end.timings.queue_ms > 500
    phases = [event.phase for event in second.events if event.type == "status"]
    assert phases[:3] == ["accepted", "queued", "sandbox_starting"]


def test_waiting_has_an_end(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    holder = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: holder.state.phase == "running", "the run did not start")
    end = wb.launch(project, "python", code="1", wait_s=1).wait(60)
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable) == ("project_busy", True)
    assert holder.run_id in end.message
    too_long = anywhere.post("/generate", json=python(project, "1", wait_s=600))
    assert (too_long.status_code, too_long.json()["code"]) == (400, "invalid_request")
    holder.cancel()


def test_one_who_waits_can_be_cancelled(wb: Workbench, project: Project) -> None:
    holder = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: holder.state.phase == "running", "the run did not start")
    waiting = wb.launch(project, "python", code="1", wait_s=60)
    wait_until(lambda: waiting.state.phase == "queued", "the run does not wait")
    waiting.cancel()
    assert waiting.state.code == "cancelled"
    assert holder.state.condition == "running"
    holder.cancel()
    assert wb.launch(project, "python", code="print(1)").wait(60).type == "done"


def prewarm(anywhere: httpx.Client, project: Project) -> dict[str, Any]:
    answer = anywhere.post("/generate", json=body(project, action="prewarm"), headers=JSON)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


def test_a_sandbox_made_ahead_serves_the_next_run_and_ends_with_it(
    wb: Workbench, anywhere: httpx.Client, project: Project
) -> None:
    made = prewarm(anywhere, project)
    assert made["new"]
    assert prewarm(anywhere, project) == {**made, "new": False}
    assert live_sandboxes() == [made["sandbox_id"]]
    volume = modal.Volume.from_name("endpoint-tests-projects")
    with volume.batch_upload() as batch:  # between the two: the run sees it all the same
        batch.put_file(__file__, f"projects/{project.user_id}/{project.project_id}/late.txt")
    run = wb.launch(project, "python", code="import os; print(os.listdir()); open('made', 'w').write('x')")
    end = run.wait(60)
    assert isinstance(end, DoneEvent)
    assert run.text() == "['late.txt']\n"
    assert end.sandbox is not None
    assert (end.sandbox.id, end.sandbox.warm, end.sandbox.terminated) == (made["sandbox_id"], True, True)
    assert live_sandboxes() == []
    assert wb.volume(project).read_text("made") == "x"
    cold = wb.launch(project, "python", code="print(1)").wait(60)
    assert isinstance(cold, DoneEvent)
    assert cold.sandbox is not None
    assert not cold.sandbox.warm
    assert cold.timings is not None
    assert cold.timings.sandbox_create_ms is not None
    assert end.timings is not None
    assert end.timings.sandbox_create_ms is None


def test_a_sandbox_made_ahead_that_has_died_is_replaced(
    wb: Workbench, anywhere: httpx.Client, project: Project
) -> None:
    made = prewarm(anywhere, project)
    modal.Sandbox.from_id(made["sandbox_id"]).terminate(wait=True)
    end = wb.launch(project, "python", code="print(1)").wait(60)
    assert isinstance(end, DoneEvent)
    assert end.sandbox is not None
    assert not end.sandbox.warm


def test_a_sandbox_made_ahead_is_refused_while_a_run_holds_the_project(
    wb: Workbench, anywhere: httpx.Client, project: Project
) -> None:
    holder = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: holder.state.phase == "running", "the run did not start")
    answer = anywhere.post("/generate", json=body(project, action="prewarm"), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (409, "project_busy")
    holder.cancel()
