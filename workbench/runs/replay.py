"""Executes a recorded run again with the recording in the model's place, and tells where the job departed from it."""

import difflib
import json
import uuid
from collections.abc import Iterator

from pydantic import JsonValue

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import ClaudeRequest
from modal_app.model.traffic import Traffic, of_replay
from modal_app.model_gateway.recording import Exchange, Replay, ReplayError
from workbench.runs.project import Project
from workbench.runs.recordings import Recording


def request_of(recording: Recording, project: Project | None) -> ClaudeRequest:
    """The request that replays a recording; raises ContractError `invalid_request` if it cannot be replayed.

    Without a `project`, it is for a new one.
    """
    request = recording.request
    if not isinstance(request, ClaudeRequest):
        raise _cannot(
            f"the recording of run {recording.run_id} does not hold what was asked: only jobs of the Claude CLI are "
            "replayed, when their own container has archived them"
        )
    if not recording.exchanges:
        raise _cannot(
            f"the recording of run {recording.run_id} holds no exchange with the model, so there is nothing to replay"
        )
    if request.resume is not None and project is None:
        raise _cannot(
            f"the recorded run went on from session {request.resume}: replay it in a project that has the session"
        )
    target = project or Project.new()
    ids = {"user_id": target.user_id, "project_id": target.project_id, "replay": str(uuid.uuid4())}
    return request.model_copy(update=ids)


async def lay_down(traffic: Traffic, request: ClaudeRequest, recording: Recording) -> None:
    """Store the recording where the model gateway finds it for this request. Platform errors are raised."""
    assert request.replay is not None
    await traffic.append(of_replay(request.replay), recording.exchanges)


def departures(recording: Recording, exchanges: tuple[Exchange, ...]) -> Iterator[str]:
    """Yield every departure of a replay's exchanges from its recording, as text: a sentence and a complete diff."""
    replay = Replay(recording.exchanges)
    for exchange in exchanges:
        try:
            replay.answer(exchange.path, exchange.request)
        except ReplayError as error:
            lines = difflib.unified_diff(
                _lines(error.recorded), _lines(error.asked), "recorded", "replayed", lineterm=""
            )
            yield "\n".join([str(error), *lines])


def _cannot(message: str) -> ContractError:
    return ContractError(ErrorCode.INVALID_REQUEST, message)


def _lines(value: JsonValue) -> list[str]:
    return [] if value is None else json.dumps(value, indent=2, ensure_ascii=False).splitlines()
