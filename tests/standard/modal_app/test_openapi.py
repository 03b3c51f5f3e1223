"""What the published documents say is what the endpoint does."""

import json
from typing import Any

import httpx

from modal_app.contract.errors import ERRORS
from modal_app.contract.events import dump_event
from modal_app.contract.openapi import openapi
from tests.conftest import wait_until
from tests.quick.modal_app.contract.test_openapi import checked
from tests.quick.modal_app.contract.test_requests import ID
from workbench import Project, Workbench


def test_events_and_refusals_follow_it(wb: Workbench, project: Project, http: httpx.Client) -> None:
    """Of a run that is done, of one that failed, and of requests that are refused for different reasons."""
    run = wb.launch(project, "python", code="print(1)")
    failed = wb.launch(Project.new(), "python", code="exit(3)")
    assert (run.wait(90).type, failed.wait(90).type) == ("done", "error")
    event, refusal = checked("RunEvent"), checked("Refusal")
    for one in (*run.events, *failed.events):
        event.validate(json.loads(dump_event(one)))
    wrong = http.post("/generate", json={})
    unknown = http.get(f"/generate/{ID}")
    ended = http.get(f"/generate/{failed.run_id}", headers={"Accept": "application/json"})
    assert [answer.status_code for answer in (wrong, unknown, ended)] == [400, 404, 422]
    for answer in (wrong, unknown, ended):
        refusal.validate(answer.json())
    checked("FailedRun").validate(ended.json())
    over = http.delete(f"/generate/{run.run_id}")
    checked("Cancelled").validate(over.json())


def described(method: str, path: str, answer: httpx.Response) -> dict[str, Any]:
    """A JSON answer, which is as the document describes it for its status."""
    response = openapi()["paths"][path][method]["responses"][str(answer.status_code)]
    schema = response["content"]["application/json"]["schema"]
    names = [form["$ref"].rpartition("/")[2] for form in schema.get("anyOf", [schema])]
    body: dict[str, Any] = answer.json()
    assert any(checked(name).is_valid(body) for name in names), (names, body)
    return body


def test_json_answers_are_as_they_are_described(wb: Workbench, project: Project, http: httpx.Client) -> None:
    """Of runs with a sandbox and without, done and failed, and of refusals that are about a run."""
    owner = {"user_id": project.user_id, "project_id": project.project_id}
    keyed = {"Accept": "application/json", "Idempotency-Key": "one"}

    def post(**fields: Any) -> dict[str, Any]:
        answer = http.post("/generate", headers={"Accept": "application/json"}, json={**owner, **fields})
        return described("post", "/generate", answer)

    done = post(action="files", op="write", files=[{"path": "a", "content": "1"}])
    assert done["commit"]["committed"]
    read = post(action="files", op="read", path="a")
    assert (read["result"]["content"], "commit" in read, "sandbox" in read) == ("1", False, False)
    missing = post(action="files", op="read", path="b")
    assert (missing["error"], missing["code"], missing["recoverable"]) == (missing["message"], "not_found", False)
    failed = post(action="python", code="exit(3)")
    assert (failed["error"], failed["exit_code"]) == (failed["message"], 3)
    http.post("/generate", headers=keyed, json={**owner, "action": "python", "code": "exit(4)"})
    conflict = http.post("/generate", headers=keyed, json={**owner, "action": "python", "code": "exit(5)"})
    assert described("post", "/generate", conflict)["run_id"] in conflict.json()["error"]
    holder = wb.launch(project, "python", code="import time; time.sleep(60)")
    wait_until(lambda: holder.state.phase == "running", "the run did not start")
    busy = post(action="python", code="1")
    assert (busy["code"], busy["recoverable"], busy["run_id"]) == ("project_busy", True, holder.run_id)
    holder.cancel()
    beyond = http.get(f"/generate/{done['run_id']}", headers={"Last-Event-ID": "999"})
    assert described("get", "/generate/{run_id}", beyond)["run_id"] == done["run_id"]


def test_another_method_has_a_code_and_names_the_right_ones(http: httpx.Client) -> None:
    for method, path, allowed in (
        ("GET", "/generate", "POST"),
        ("PUT", f"/generate/{ID}", "DELETE, GET"),
        ("OPTIONS", "/generate", "POST"),
        ("TRACE", "/health", "GET"),
    ):
        answer = http.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json()["code"] == "method_not_allowed"
        checked("Refusal").validate(answer.json())


def test_every_way_in_and_every_code_is_told(http: httpx.Client) -> None:
    """A path that is not in the document is 404, a method 405, a code is in the table."""
    document = openapi()
    for path, methods in document["paths"].items():
        address = path.format(run_id=ID)
        for method in ("get", "post", "put", "delete", "patch"):
            answer = http.request(method, address)
            assert (answer.status_code == 405) == (method not in methods), (method, path)
            if method in methods:
                assert str(answer.status_code) in methods[method]["responses"]
    told = document["paths"]["/generate"]["post"]["responses"]
    assert told.keys() == {"200", "204", *(str(info.status) for info in ERRORS.values())}
    for code, info in ERRORS.items():
        assert f"`{code}`: {info.meaning}" in told[str(info.status)]["description"]
