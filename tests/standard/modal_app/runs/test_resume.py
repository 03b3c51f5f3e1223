"""Any reader, from any event, while a run goes on and after it: the same bytes."""

import threading
import time
import uuid

import httpx
import pytest

from modal_app.contract.events import ErrorEvent
from tests.conftest import live_sandboxes, wait_until
from tests.standard.modal_app.runs.conftest import events, first_event, frames, python
from workbench import Project, Workbench

LISTING = "import os; print(os.listdir('/workspace'))"
TICKING = "import time\nfor n in range({ticks}): print('tick', n, 'é', flush=True); time.sleep(0.05)"


def test_an_ended_run_is_read_again_from_every_event(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    run = wb.launch(project, "python", code=TICKING.format(ticks=10))
    run.wait(60)
    whole = frames(anywhere.get(f"/generate/{run.run_id}").text)
    assert [event.seq for event in events("".join(whole))] == list(range(1, len(whole) + 1))
    assert list(run.events) == events("".join(whole))
    for last in range(len(whole)):
        answer = anywhere.get(f"/generate/{run.run_id}", headers={"Last-Event-ID": f"{last}"})
        assert frames(answer.text) == whole[last:]


def test_behind_the_end_there_is_nothing_and_beyond_it_never_was(
    wb: Workbench, anywhere: httpx.Client, project: Project
) -> None:
    """A reader that asks again and again, as a browser's EventSource does, is stopped by 204."""
    run = wb.launch(project, "python", code="print(1)")
    last = run.wait(60).seq
    for _ in range(2):  # from where it ran, and later from its archive
        ended = anywhere.get(f"/generate/{run.run_id}", headers={"Last-Event-ID": f"{last}"})
        assert (ended.status_code, ended.content, ended.headers["x-run-id"]) == (204, b"", run.run_id)
        for beyond in (last + 1, 999_999_999_999_999):
            answer = anywhere.get(f"/generate/{run.run_id}", headers={"Last-Event-ID": f"{beyond}"})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
            assert f"the last is {last}" in answer.json()["error"]
        wb.runs.get(run.run_id, wait_s=60)
    key = {"Idempotency-Key": f"once-{project.project_id}"}
    first = anywhere.post("/generate", json=python(project, "print(2)"), headers=key)
    again = {**key, "Last-Event-ID": f"{events(first.text)[-1].seq}"}
    assert anywhere.post("/generate", json=python(project, "print(2)"), headers=again).status_code == 204
    lasting = wb.launch(project, "python", code=TICKING.format(ticks=400))
    wait_until(lambda: lasting.state.bytes["stdout"] > 0, "the job did not speak")
    early = anywhere.get(f"/generate/{lasting.run_id}", headers={"Last-Event-ID": "99999"})
    assert (early.status_code, early.json()["code"]) == (400, "invalid_request")
    lasting.cancel()


@pytest.mark.parametrize("last", [1, 5, 999_999_999_999_999])
@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("accepted", ["text/event-stream", "application/json"])
def test_a_request_that_names_an_event_of_no_run_starts_none(
    anywhere: httpx.Client, project: Project, last: int, keyed: bool, accepted: str
) -> None:
    """It is refused, its key stays new, and the project is as it was."""
    key = {"Idempotency-Key": str(uuid.uuid4())} if keyed else {}
    headers = {**key, "Last-Event-ID": f"{last}", "Accept": accepted}
    body = python(project, "open('/workspace/touched', 'w')")
    refused = anywhere.post("/generate", json=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert "x-run-id" not in refused.headers
    started = anywhere.post("/generate", json=python(project, LISTING), headers=key)
    assert "".join(event.text for event in events(started.text) if event.type == "stream") == "[]\n"


def test_a_run_is_read_and_cancelled_by_its_user_alone_when_the_caller_says_who(
    wb: Workbench, anywhere: httpx.Client, project: Project
) -> None:
    run = wb.launch(project, "python", code=TICKING.format(ticks=400))
    wait_until(lambda: run.state.bytes["stdout"] > 0, "the job did not speak")
    address = f"/generate/{run.run_id}"
    stranger = {"user_id": str(uuid.uuid4())}
    for answer in (anywhere.get(address, params=stranger), anywhere.delete(address, params=stranger)):
        assert (answer.status_code, answer.json()) == (404, anywhere.get(f"/generate/{uuid.uuid4()}").json())
    for wrong in ("", "me", project.user_id.upper(), f"{project.user_id}&user_id={project.user_id}"):
        answer = anywhere.delete(f"{address}?user_id={wrong}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), wrong
    assert run.state.condition == "running"
    assert anywhere.delete(address, params={"user_id": project.user_id}).json()["cancelled"]
    told = anywhere.get(address, params={"user_id": project.user_id}, headers={"Accept": "application/json"})
    assert told.json()["code"] == "cancelled"


def test_readers_that_come_at_any_time_get_the_same(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    run = wb.launch(project, "python", code=TICKING.format(ticks=60))
    wait_until(lambda: run.state.bytes["stdout"] > 0, "the job did not speak")
    heard: list[str] = []

    def read(wait_s: float) -> None:
        time.sleep(wait_s)
        heard.append("".join(frames(anywhere.get(f"/generate/{run.run_id}").text)))

    readers = [threading.Thread(target=read, args=(number * 0.4,)) for number in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(90)
    assert len(heard) == 6
    assert set(heard) == {"".join(frames(anywhere.get(f"/generate/{run.run_id}").text))}


def test_a_reader_that_comes_back_goes_on_where_it_was(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    """It leaves after every few events; what it has in the end is the whole, once."""
    taken: list[str] = []
    with anywhere.stream("POST", "/generate", json=python(project, TICKING.format(ticks=40))) as response:
        run_id = response.headers["x-run-id"]
    while not taken or events(taken[-1])[0].type not in ("done", "error"):
        with anywhere.stream("GET", f"/generate/{run_id}", headers={"Last-Event-ID": f"{len(taken)}"}) as response:
            assert response.status_code == 200
            got = ""
            for piece in response.iter_text():
                got += piece
                if len(frames(got.rpartition("\n\n")[0])) >= 7:
                    break
        whole, _, _ = got.rpartition("\n\n")
        taken += frames(whole + "\n\n")
    assert taken == frames(anywhere.get(f"/generate/{run_id}").text)
    assert events(taken[-1])[0].type == "done"


@pytest.mark.parametrize("given", ["-1", "one", "1.5", "9" * 40, "1 OR 1"])
def test_a_last_event_id_that_is_no_number_is_refused(anywhere: httpx.Client, given: str) -> None:
    answer = anywhere.get(f"/generate/{uuid.uuid4()}", headers={"Last-Event-ID": given})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_a_run_that_never_was_is_not_found(anywhere: httpx.Client) -> None:
    for answer in (anywhere.get(f"/generate/{uuid.uuid4()}"), anywhere.delete(f"/generate/{uuid.uuid4()}")):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert anywhere.get("/generate/NOT-A-UUID").json()["code"] == "invalid_request"


def test_nobody_reads_without_the_secret(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "python", code="print(1)")
    run.wait(60)
    for headers in ({}, {"X-Modal-Secret": "x" * 40}):
        answer = httpx.get(f"{wb.endpoint.url}/generate/{run.run_id}", headers=headers, timeout=60, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_json_is_answered_for_a_run_that_is_asked_for(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    run = wb.launch(project, "python", code="import time; time.sleep(1); print(1)")
    wait_until(lambda: bool(run.run_id), "the run was not accepted")
    answer = anywhere.get(f"/generate/{run.run_id}", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["type"], answer.json()["run_id"]) == (200, "done", run.run_id)


def test_leaving_is_not_cancelling(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    """A reader that returns within the grace period finds its run, however often it does."""
    with anywhere.stream("POST", "/generate", json=python(project, TICKING.format(ticks=40))) as response:
        run_id = first_event(response.iter_lines())["run_id"]
    for _ in range(4):
        time.sleep(0.15)  # the grace of these tests is 0.5 s
        with anywhere.stream("GET", f"/generate/{run_id}") as response:
            first_event(response.iter_lines())
    assert events(anywhere.get(f"/generate/{run_id}").text)[-1].type == "done"


def test_a_run_without_readers_is_cancelled_after_the_grace(
    wb: Workbench, anywhere: httpx.Client, project: Project
) -> None:
    with anywhere.stream("POST", "/generate", json=python(project, "import time; time.sleep(600)")) as response:
        run_id = first_event(response.iter_lines())["run_id"]
    wait_until(lambda: live_sandboxes() == [], "the sandbox outlived its last reader")
    end = events(anywhere.get(f"/generate/{run_id}").text)[-1]
    assert isinstance(end, ErrorEvent)
    assert end.code == "cancelled"


def test_a_run_is_cancelled_by_anybody_who_knows_it(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    run = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: run.state.phase == "running", "the run did not start")
    answer = anywhere.delete(f"/generate/{run.run_id}")
    assert live_sandboxes() == []  # at the moment of the answer
    assert answer.json() == {"run_id": run.run_id, "cancelled": True, "outcome": "cancelled"}
    assert anywhere.delete(f"/generate/{run.run_id}").json()["cancelled"]
    assert run.wait(60).type == "error"


def test_cancelling_what_has_ended_changes_nothing(wb: Workbench, anywhere: httpx.Client, project: Project) -> None:
    run = wb.launch(project, "python", code="print(1)")
    run.wait(60)
    answer = anywhere.delete(f"/generate/{run.run_id}")
    assert answer.json() == {"run_id": run.run_id, "cancelled": False, "outcome": "done"}


def test_a_run_is_followed_from_elsewhere(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "python", code=TICKING.format(ticks=20))
    wait_until(lambda: bool(run.run_id), "the run was not accepted")
    other = wb.attach(run.run_id)
    assert (other.wait(60), run.wait(60)) == (run.terminal, run.terminal)
    assert other.text() == run.text()
