"""Recordings that were kept are held against today's contract: a change of it that they do not survive is red.

They are real runs of the local cloud, exported with `workbench runs export`; whoever changes the contract on purpose
runs such jobs again, exports them anew, and says so. `claude` is the real CLI against the scripted model: it thinks,
calls a tool, is refused once (429), and one of its answers breaks off. Its exchanges are left out: they are the CLI's.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, ValidationError

from modal_app.contract.events import ErrorEvent, dump_event
from modal_app.contract.openapi import json_schema
from modal_app.contract.requests import dump_request
from workbench import Project, Recording, make_request, serve
from workbench.runs.bisection import NO_FILES, bisect
from workbench.runs.comparison import Comparison

KEPT = sorted((Path(__file__).parents[2] / "support" / "recordings").glob("*.zip"))
pytestmark = pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)


def written(recording: Recording) -> list[dict[str, Any]]:
    """The events as they stand in the file, not as today's models read them."""
    lines = recording.stream.decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_it_is_what_the_models_and_the_schema_say(path: Path) -> None:
    recording = Recording.load(path)
    assert all(check.ok for check in recording.run.checks())
    schema = json_schema()
    check = Draft202012Validator({**schema, "anyOf": [{"$ref": "#/$defs/RunEvent"}]})
    for event, data in zip(recording.events, written(recording), strict=True):
        check.validate(data)
        assert json.loads(dump_event(event)) == data, "today's models read and write all that was written"
        with pytest.raises(ValidationError):
            check.validate({name: value for name, value in data.items() if name != "seq"})


def test_it_ended_as_its_name_says(path: Path) -> None:
    end = Recording.load(path).run.terminal
    assert end is not None
    assert end.outcome == (path.stem if isinstance(end, ErrorEvent) else "done")


def test_a_client_of_today_reads_it(path: Path) -> None:
    recording = Recording.load(path)
    with serve(recording, speed=100) as served:
        headers = {"X-Modal-Secret": served.endpoint.secret.get_secret_value(), "Accept": "text/event-stream"}
        body = dump_request(make_request(Project.new(), "python", code="1"))
        answer = httpx.post(f"{served.endpoint.url}/generate", content=body, headers=headers, trust_env=False)
    assert answer.content.replace(b": heartbeat\n\n", b"") == recording.stream


def test_nothing_secret_is_in_it(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        text = b"".join(file.read(name) for name in file.namelist()).decode()
    assert re.findall(r"sk-|Bearer|eyJ|x-api-key|(?i:secret\"?:)|127\.0\.0\.1|/home/|/root", text) == []


def test_it_differs_from_itself_in_nothing(path: Path) -> None:
    one, other = Recording.load(path).run, Recording.load(path).run
    assert not bisect(Comparison(one, other, files_problem=NO_FILES), tolerance_ms=0).differs


def test_one_has_all_that_a_job_of_the_model_says(path: Path) -> None:
    """Repetitions and their waits, a tool's call, and words that were taken back."""
    run = Recording.load(path).run
    retries = [event.retry for event in run.events if event.type == "status" and event.retry is not None]
    replaced = [event for event in run.events if event.type == "stream" and event.replaces]
    said = [event for event in run.events if event.type == "stream" and event.channel == "claude"]
    if path.stem != "claude":
        assert (retries, replaced, said) == ([], [], [])
        return
    assert [(one.status, one.wait_ms >= 1000 or one.status is None) for one in retries] == [(429, True), (None, True)]
    assert replaced
    assert any("'name': 'Write'" in str(event.message) for event in said)
