"""What a run was asked: its request as it is kept, shown to people, and whether it can be made again from that."""

import hashlib
import json
from collections.abc import Iterator

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import REDACTED, Request, dump_request, parse_request
from workbench.runs.project import Project
from workbench.text.plain_text import printable

MAX_SHOWN = 64 * 1024  # characters of an input that are shown
_NOT_SHOWN = ("user_id", "project_id")  # they are told with the run's facts


def asked(data: bytes) -> Request | None:
    """The request in an archive's `request.json`; None when there is none, or what is there is no request."""
    try:
        return parse_request(data) if data else None
    except ContractError:
        return None


def is_whole(request: Request, body_sha256: str) -> bool:
    """Whether a request that was kept is all that the run was asked, by the checksum in the run's proof."""
    return hashlib.sha256(dump_request(request)).hexdigest() == body_sha256


def again(request: Request, project: Project | None) -> Request:
    """The same request, in `project` if it is given.

    Raises ContractError `invalid_request` for the replay of a recording, whose answers were used up by the old run.
    """
    if getattr(request, "replay", None) is not None:
        raise ContractError(ErrorCode.INVALID_REQUEST, "the run replayed a recording: replay the recording again")
    ids = {"user_id": project.user_id, "project_id": project.project_id} if project is not None else {}
    return request.model_copy(update=ids)


def left_out(request: Request) -> list[str]:
    """The names of the fields of which something was not kept, because it may be secret or is kept elsewhere."""
    return [name for name, value in _given(request) if REDACTED in json.dumps(value, ensure_ascii=False)]


def described(request: Request) -> str:
    """The request for people, safe to print: each field that was given, long texts below their name."""
    parts = [f"{name}:\n{text}" if "\n" in text else f"{name}: {text}" for name, text in _texts(request)]
    whole = printable("\n".join(parts))
    return whole if len(whole) <= MAX_SHOWN else f"{whole[:MAX_SHOWN]}\n… {len(whole) - MAX_SHOWN} characters more"


def _texts(request: Request) -> Iterator[tuple[str, str]]:
    for name, value in _given(request):
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def _given(request: Request) -> Iterator[tuple[str, object]]:
    """The fields that differ from their defaults, the action first."""
    given = request.model_dump(mode="json", exclude_defaults=True)
    first = {"action": request.action} | ({"op": request.op} if hasattr(request, "op") else {})
    yield from ((name, value) for name, value in (first | given).items() if name not in _NOT_SHOWN)
