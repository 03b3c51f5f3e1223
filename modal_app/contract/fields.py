"""The types of request fields (ids, revisions, bounded texts), and the fields that all actions' requests share."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from modal_app.contract.caps import MAX_MESSAGE_BYTES, MAX_TIMEOUT_S, MAX_WAIT_S

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REVISION = re.compile(r"HEAD|[0-9a-f]{7,64}")


def canonical_uuid(value: str) -> str:
    """Return a UUID in its canonical form unchanged; raises ValueError for anything else."""
    if not _UUID.fullmatch(value):
        raise ValueError("must be a canonical lower-case UUID")
    return value


def _revision(value: str) -> str:
    if not _REVISION.fullmatch(value):
        raise ValueError("must be HEAD or 7 to 64 lower-case hexadecimal digits of a commit")
    return value


def no_nul(value: str) -> str:
    """Return the value unchanged; raises ValueError when it contains a NUL character."""
    if "\0" in value:
        raise ValueError("may not contain a NUL character")
    return value


def at_most(limit: int) -> AfterValidator:
    """A validator for texts of at most `limit` bytes of UTF-8."""

    def check(value: str) -> str:
        size = len(value.encode())
        if size > limit:
            raise ValueError(f"has {size} bytes, and may have at most {limit}")
        return value

    return AfterValidator(check)


def matching(pattern: re.Pattern[str], **facts: str) -> WithJsonSchema:
    """The JSON Schema of a text that must match a pattern as a whole; `facts` are further keywords."""
    return WithJsonSchema({"type": "string", "pattern": f"^({pattern.pattern})$", **facts})


Uuid = Annotated[str, AfterValidator(canonical_uuid), matching(_UUID, format="uuid")]
Revision = Annotated[str, AfterValidator(_revision), matching(_REVISION)]
Message = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1),
    AfterValidator(no_nul),
    at_most(MAX_MESSAGE_BYTES),
]


class ProjectRequest(BaseModel):
    """The fields of every action: whose project it works on, and `timeout_s`, how long its process may take in seconds.

    `wait_s` is how many seconds the run waits while another run holds the project; with 0 it is refused instead.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    user_id: Uuid
    project_id: Uuid
    timeout_s: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_S)] | None = None
    wait_s: Annotated[int, Field(ge=0, le=MAX_WAIT_S)] = 0


def tuple_of_list(value: object) -> object:
    """A list as a tuple, which a frozen value can hold; anything else unchanged."""
    return tuple(value) if isinstance(value, list) else value
