"""The project that a run works on, and requests for runs in it."""

import uuid
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import Request, parse_request


@dataclass(frozen=True)
class Project:
    """A project: the ids of its user and of the project, two canonical lower-case UUIDs."""

    user_id: str
    project_id: str

    @classmethod
    def new(cls) -> "Project":
        """A new project of a new user, with random ids."""
        return cls(str(uuid.uuid4()), str(uuid.uuid4()))


def make_request(project: Project, action: str, **fields: Any) -> Request:
    """A checked request from an action and its fields; raises ContractError `invalid_request`."""
    try:
        body = to_json({"user_id": project.user_id, "project_id": project.project_id, "action": action, **fields})
    except ValueError as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"a field is not JSON: {error}") from None
    return parse_request(body)
