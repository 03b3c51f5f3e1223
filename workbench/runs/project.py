"""Whose project a run works on, and requests about it."""

import uuid
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import Request, parse_request


@dataclass(frozen=True)
class Project:
    """Whose project a run works on: two canonical UUIDs."""

    user_id: str
    project_id: str

    @classmethod
    def new(cls) -> "Project":
        """A project that nobody has used."""
        return cls(str(uuid.uuid4()), str(uuid.uuid4()))


def make_request(project: Project, action: str, **fields: Any) -> Request:
    """A checked request; raises ContractError `invalid_request`."""
    try:
        body = to_json({"user_id": project.user_id, "project_id": project.project_id, "action": action, **fields})
    except ValueError as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"a field is not JSON: {error}") from None
    return parse_request(body)
