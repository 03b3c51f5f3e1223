"""What the tests of runs share: frames of a stream, and requests."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from modal_app.contract.events import Event, parse_event
from tests.conftest import caller
from workbench import Project, Workbench


def body(project: Project, **fields: object) -> dict[str, object]:
    """A request for a project."""
    return {"user_id": project.user_id, "project_id": project.project_id, **fields}


def python(project: Project, code: str, **fields: object) -> dict[str, object]:
    """A request to run a program."""
    return body(project, action="python", code=code, **fields)


def frames(stream: str) -> list[str]:
    """The frames of a stream, without its comments."""
    return [frame + "\n\n" for frame in stream.split("\n\n") if frame and not frame.startswith(":")]


def events(stream: str) -> list[Event]:
    """The events of a stream."""
    return [parse_event(frame.partition("\ndata: ")[2]) for frame in frames(stream)]


def first_event(lines: Iterator[str]) -> dict[str, Any]:
    """Read a stream's lines up to the first event."""
    found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
    return found


@pytest.fixture
def anywhere(wb: Workbench) -> Iterator[httpx.Client]:
    """A client whose every request is a connection of its own."""
    with caller(wb, timeout=90, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        yield client
