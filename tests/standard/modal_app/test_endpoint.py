"""The deployed endpoint on the local cloud, as its callers see it."""

import json
import subprocess
import time
from typing import Any

import httpx
import modal

from modal_app.contract.events import DoneEvent, ErrorEvent, StatusEvent, StreamEvent
from tests.conftest import live_sandboxes, wait_until
from workbench import Project, Run, Workbench


def run(wb: Workbench, project: Project, code: str, **fields: Any) -> Run:
    """Run a Python job to its end."""
    job = wb.launch(project, "python", code=code, **fields)
    job.wait(60)
    return job


def body(project: Project, **fields: object) -> dict[str, object]:
    return {"user_id": project.user_id, "project_id": project.project_id, **fields}


def test_a_job_runs_in_the_workspace_as_an_unprivileged_user_and_is_committed(wb: Workbench, project: Project) -> None:
    job = run(wb, project, "import os; print(os.getcwd(), os.getuid()); open('made.txt', 'w').write('kept')")
    end = job.terminal
    assert isinstance(end, DoneEvent)
    assert job.text() == "/workspace 1000\n"
    assert end.commit is not None
    assert end.commit.committed
    assert end.sandbox is not None
    assert (end.sandbox.uid, end.sandbox.terminated) == (1000, True)
    assert wb.volume(project).read_text("made.txt") == "kept"
    assert end.sandbox.id not in live_sandboxes()


def test_phases_come_in_order_and_output_arrives_while_the_job_runs(wb: Workbench, project: Project) -> None:
    job = run(wb, project, "import time\nfor n in range(3): print(n, flush=True); time.sleep(0.3)")
    phases = [str(event.phase) for event in job.events if isinstance(event, StatusEvent)]
    assert phases == ["accepted", "sandbox_starting", "sandbox_ready", "running", "committing", "terminating"]
    lines = [one for one in job.received if isinstance(one.event, StreamEvent) and one.event.text.strip()]
    assert job.received[-1].at - lines[0].at > 0.6


def test_arguments_input_and_errors_reach_the_program(wb: Workbench, project: Project) -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); print('oops', file=sys.stderr)"
    job = run(wb, project, code, args=["a b", "--x", "é"], stdin="line\n" * 3)
    assert job.text() == "['a b', '--x', 'é'] line\nline\nline\n\n"
    assert job.text("stderr") == "oops\n"


def test_a_program_of_the_project_runs_and_imports_its_modules(wb: Workbench, project: Project) -> None:
    files = [
        {"path": "lib/words.py", "content": "WORD = 'hi'"},
        {"path": "main.py", "content": "import lib.words as w\nprint(w.WORD)"},
    ]
    wb.launch(project, "files", op="write", files=files).wait(60)
    job = wb.launch(project, "python", path="main.py")
    assert job.wait(60).type == "done"
    assert job.text() == "hi\n"
    assert run(wb, project, "import lib.words; print(lib.words.WORD)").text() == "hi\n"


def test_an_exit_code_is_told(wb: Workbench, project: Project) -> None:
    end = run(wb, project, "import sys; sys.exit(7)").terminal
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.exit_code, end.recoverable) == ("process_failed", 7, False)


def test_a_program_that_is_killed_is_a_failure(wb: Workbench, project: Project) -> None:
    end = run(wb, project, "import os; os.kill(os.getpid(), 9)").terminal
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.exit_code) == ("process_failed", 137)


def test_a_process_that_takes_too_long_ends(wb: Workbench, project: Project) -> None:
    end = run(wb, project, "import time; print('on', flush=True); time.sleep(600)", timeout_s=1).terminal
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable) == ("process_timeout", True)
    assert end.sandbox is not None
    assert end.sandbox.terminated


def test_output_is_exact_whatever_its_size_and_shape(wb: Workbench, project: Project) -> None:
    code = "import sys; sys.stdout.write('é' * 1_500_000 + '\\n'); sys.stdout.buffer.write(b'\\xff\\x00end')"
    job = run(wb, project, code)
    assert job.text() == "é" * 1_500_000 + "\n" + "\ufffd\0end"


def test_a_job_sees_no_secret_and_nothing_of_another_project(wb: Workbench, project: Project) -> None:
    other = Project(project.user_id, Project.new().project_id)
    run(wb, other, "open('theirs.txt', 'w').write('private')")
    code = """
import os, pathlib
print(sorted(os.environ))
print([str(path) for path in pathlib.Path('/').rglob('theirs.txt')])
print(pathlib.Path('/proc/self/environ').read_bytes())
"""
    job = run(wb, project, code)
    secret = wb.endpoint.secret.get_secret_value()
    assert "[]" in job.text().splitlines()
    assert secret not in job.text()
    assert "MODAL_TOKEN" not in job.text()
    assert "WORKBENCH_SECRET" not in job.text()


def test_the_global_volume_is_there_and_read_only(wb: Workbench, project: Project) -> None:
    volume = modal.Volume.from_name("endpoint-tests-global")
    with volume.batch_upload(force=True) as batch:
        batch.put_file(__file__, "skills/note.txt")
    job = run(wb, project, "import os; print(os.listdir('/global/skills')); open('/global/x', 'w')")
    assert job.text() == "['note.txt']\n"
    assert "Read-only file system" in job.text("stderr")


def test_a_project_has_one_run_at_a_time(wb: Workbench, http: httpx.Client, project: Project) -> None:
    first = wb.launch(project, "python", code="import time; time.sleep(60)")
    wait_until(lambda: first.state.phase == "running", "the first run did not start")
    refused = http.post("/generate", json=body(project, action="python", code="1"))
    assert (refused.status_code, refused.json()["code"]) == (409, "project_busy")
    assert first.run_id in refused.json()["error"]
    assert wb.launch(project, "files", op="list").wait(60).type == "done"
    first.cancel()
    assert run(wb, project, "print(1)").text() == "1\n"


def test_a_run_is_cancelled_with_its_sandbox(wb: Workbench, project: Project) -> None:
    job = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: job.state.phase == "running", "the run did not start")
    job.cancel()
    end = job.terminal
    assert isinstance(end, ErrorEvent)
    assert end.code == "cancelled"
    assert end.sandbox is not None
    assert end.sandbox.id not in live_sandboxes()


def test_cancelling_while_the_sandbox_starts_leaves_none(wb: Workbench, project: Project) -> None:
    job = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: bool(job.run_id), "the run was not accepted")
    job.cancel()
    assert isinstance(job.terminal, ErrorEvent)
    assert job.terminal.code == "cancelled"
    wait_until(lambda: live_sandboxes() == [], "a sandbox was left")


def test_cancelling_what_is_not_there_is_told(http: httpx.Client) -> None:
    unknown = http.delete(f"/generate/{Project.new().user_id}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert http.delete("/generate/..%2f..").status_code in (400, 404)
    assert http.delete("/generate/NOT-A-UUID").json()["code"] == "invalid_request"


def test_a_sandbox_that_is_ended_from_outside_is_told_as_lost(wb: Workbench, project: Project) -> None:
    job = wb.launch(project, "python", code="import time; time.sleep(600)")
    wait_until(lambda: job.state.phase == "running", "the run did not start")
    app = modal.App.lookup("endpoint-tests")
    for sandbox in modal.Sandbox.list(app_id=app.app_id, tags={"run_id": job.run_id}):
        sandbox.terminate()
    end = job.wait(60)
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable, end.exit_code) == ("sandbox_lost", True, None)


def test_json_is_answered_when_it_is_asked_for(http: httpx.Client, project: Project) -> None:
    json_only = {"Accept": "application/json"}
    good = http.post("/generate", json=body(project, action="python", code="print(1)"), headers=json_only)
    assert (good.status_code, good.json()["type"], good.json()["exit_code"]) == (200, "done", 0)
    assert good.headers["content-type"] == "application/json"
    bad = http.post("/generate", json=body(project, action="python", code="1/0"), headers=json_only)
    assert (bad.status_code, bad.json()["code"], bad.json()["exit_code"]) == (422, "process_failed", 1)
    assert bad.json()["error"] == bad.json()["message"]


def test_the_stream_has_the_headers_that_keep_hops_from_buffering(http: httpx.Client, project: Project) -> None:
    with http.stream("POST", "/generate", json=body(project, action="files", op="list")) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        run_id = response.headers["x-run-id"]
        response.read()
    assert f'"run_id":"{run_id}"' in response.text


def test_heartbeats_come_from_the_first_moment_and_in_silence(http: httpx.Client, project: Project) -> None:
    code = "import time; time.sleep(2.2)"
    with http.stream("POST", "/generate", json=body(project, action="python", code=code)) as response:
        lines = list(response.iter_lines())
    assert lines[0] == ": heartbeat"
    running = next(index for index, line in enumerate(lines) if '"phase":"running"' in line)
    committing = next(index for index, line in enumerate(lines) if '"phase":"committing"' in line)
    assert lines[running:committing].count(": heartbeat") >= 2


def test_a_client_that_reads_only_data_lines_works(http: httpx.Client, project: Project) -> None:
    """What a control plane in production does: no `event:`, no `id:`, the type in the JSON."""
    types = []
    text = ""
    with http.stream("POST", "/generate", json=body(project, action="python", code="print('hello')")) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[len("data: ") :])
                types.append(event["type"])
                text += event.get("text", "") if event["type"] == "stream" else ""
    assert text == "hello\n"
    assert types[0] == "status"
    assert types[-1] == "done"
    assert types.count("done") == 1


def test_curl_prints_line_by_line(wb: Workbench, project: Project) -> None:
    code = "import time\nfor n in range(4): print('line', n, flush=True); time.sleep(0.3)"
    command = ["curl", "-sN", f"{wb.endpoint.url}/generate", "--max-time", "60", "-H", "@-", "-d"]
    command.append(json.dumps(body(project, action="python", code=code)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdin is not None
        assert curl.stdout is not None
        curl.stdin.write(f"X-Modal-Secret: {wb.endpoint.secret.get_secret_value()}\n")
        curl.stdin.close()
        arrivals = [time.monotonic() for line in curl.stdout if '"text":"line ' in line]
    assert len(arrivals) == 4
    assert arrivals[-1] - arrivals[0] > 0.5


def test_a_reader_that_leaves_ends_the_run_after_the_grace(wb: Workbench, http: httpx.Client, project: Project) -> None:
    code = "import time; print('on', flush=True); time.sleep(600)"
    with http.stream("POST", "/generate", json=body(project, action="python", code=code)) as response:
        for line in response.iter_lines():
            if '"text":"on' in line:
                break
        assert live_sandboxes()
    wait_until(lambda: live_sandboxes() == [], "the sandbox outlived its reader")
    wait_until(lambda: run(wb, project, "print(1)").text() == "1\n", "the project stayed busy")


def test_the_log_tells_a_run_and_no_secret(wb: Workbench, modal_cli: Any, project: Project) -> None:
    job = run(wb, project, "print('printed by the guest'); import sys; sys.exit(4)")
    log = ""

    def logged() -> bool:
        nonlocal log
        log = modal_cli("app", "logs", "endpoint-tests")
        return any(job.run_id in line and "run.end" in line for line in log.splitlines())

    wait_until(logged, "the run's end is not in the log")
    ours = [json.loads(line[line.index("{") :]) for line in log.splitlines() if job.run_id in line]
    by_event = {entry["event"]: entry for entry in ours}
    assert by_event["run.start"]["cold_start"] in (True, False)
    assert by_event["sandbox.start"]["sandbox_id"] == by_event["sandbox.end"]["sandbox_id"]
    assert (by_event["run.end"]["exit_code"], by_event["run.end"]["outcome"]) == (4, "process_failed")
    assert by_event["run.end"]["elapsed_ms"] > 0
    assert "printed by the guest" not in log
    assert wb.endpoint.secret.get_secret_value() not in log
