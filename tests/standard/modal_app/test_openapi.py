"""What the published documents say is what the endpoint does."""

import json

import httpx

from modal_app.contract.errors import ERRORS
from modal_app.contract.events import dump_event
from modal_app.contract.openapi import openapi
from tests.quick.modal_app.contract.test_openapi import checked
from tests.quick.modal_app.contract.test_requests import ID
from workbench import Project, Workbench


def test_events_and_refusals_follow_it(wb: Workbench, project: Project, http: httpx.Client) -> None:
    """Of a run that is done, of one that failed, and of requests that are refused for different reasons."""
    run = wb.launch(project, "python", code="print(1)")
    failed = wb.launch(Project.new(), "python", code="exit(3)")
    assert (run.wait(90).type, failed.wait(90).type) == ("done", "error")
    event, refusal = checked("Event"), checked("Refusal")
    for one in (*run.events, *failed.events):
        event.validate(json.loads(dump_event(one)))
    wrong = http.post("/generate", json={})
    unknown = http.get(f"/generate/{ID}")
    ended = http.get(f"/generate/{failed.run_id}", headers={"Accept": "application/json"})
    assert [answer.status_code for answer in (wrong, unknown, ended)] == [400, 404, 422]
    for answer in (wrong, unknown, ended):
        refusal.validate(answer.json())
    over = http.delete(f"/generate/{run.run_id}")
    checked("Cancelled").validate(over.json())


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
