"""What the requests of all actions are made of: ids, revisions, bounded texts, and the fields that each of them has."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from modal_app.contract.caps import MAX_MESSAGE_BYTES, MAX_TIMEOUT_S, MAX_WAIT_S

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REVISION = re.compile(r"HEAD|[0-9a-f]{7,64}")


def _canonical_uuid(value: str) -> str:
    if not _UUID.fullmatch(value):
        raise ValueError("must be a canonical lower-case UUID")
    return value


def _revision(value: str) -> str:
    if not _REVISION.fullmatch(value):
        raise ValueError("must be HEAD or 7 to 64 lower-case hexadecimal digits of a commit")
    return value


def no_nul(value: str) -> str:
    """The value; raises ValueError when it holds NUL."""
    if "\0" in value:
        raise ValueError("may not hold NUL")
    return value


def at_most(limit: int) -> AfterValidator:
    """A validator of texts of at most so many bytes."""

    def check(value: str) -> str:
        if len(value.encode()) > limit:
            raise ValueError(f"may be {limit} bytes long")
        return value

    return AfterValidator(check)


def matching(pattern: re.Pattern[str], **facts: str) -> WithJsonSchema:
    """What JSON Schema says of a text that is checked by a pattern as a whole."""
    return WithJsonSchema({"type": "string", "pattern": f"^({pattern.pattern})$", **facts})


Uuid = Annotated[str, AfterValidator(_canonical_uuid), matching(_UUID, format="uuid")]
Revision = Annotated[str, AfterValidator(_revision), matching(_REVISION)]
Message = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1),
    AfterValidator(no_nul),
    at_most(MAX_MESSAGE_BYTES),
]


class ProjectRequest(BaseModel):
    """What every action has: whose project it works on, and how long its process may take, in seconds.

    `wait_s` is how long the run waits, in seconds, when another run holds the project; without it, it is refused.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    user_id: Uuid
    project_id: Uuid
    timeout_s: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_S)] | None = None
    wait_s: Annotated[int, Field(ge=0, le=MAX_WAIT_S)] = 0


def tuple_of_list(value: object) -> object:
    """A list as the tuple that a frozen value holds; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value
