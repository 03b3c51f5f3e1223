"""What `POST /generate` accepts: one model for each action, strict, with no field that is not known.

A body is parsed once, at the door; deeper code sees only these frozen values.
"""

import base64
import binascii
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.limits import (
    MAX_ARGUMENTS,
    MAX_ARGUMENTS_BYTES,
    MAX_CODE_BYTES,
    MAX_FILES,
    MAX_LOG_ENTRIES,
    MAX_MESSAGE_BYTES,
    MAX_PATHS,
    MAX_STDIN_BYTES,
    MAX_TIMEOUT_S,
    MAX_WAIT_S,
)
from modal_app.contract.paths import WorkspacePath

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


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("may not hold NUL")
    return value


def _at_most(limit: int) -> AfterValidator:
    def check(value: str) -> str:
        if len(value.encode()) > limit:
            raise ValueError(f"may be {limit} bytes long")
        return value

    return AfterValidator(check)


Uuid = Annotated[str, AfterValidator(_canonical_uuid)]
Revision = Annotated[str, AfterValidator(_revision)]
Message = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1),
    AfterValidator(_no_nul),
    _at_most(MAX_MESSAGE_BYTES),
]


class _Request(BaseModel):
    """What every action has: whose project it works on, and how long its process may take, in seconds.

    `wait_s` is how long the run waits, in seconds, when another run holds the project; without it, it is refused.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    user_id: Uuid
    project_id: Uuid
    timeout_s: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_S)] | None = None
    wait_s: Annotated[int, Field(ge=0, le=MAX_WAIT_S)] = 0


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class PythonRequest(_Request):
    """Run a Python program: `code`, or the file `path` of the workspace; `stdin` is its input."""

    action: Literal["python"] = "python"
    code: Annotated[str, AfterValidator(_no_nul), _at_most(MAX_CODE_BYTES)] | None = None
    path: WorkspacePath | None = None
    args: Annotated[
        tuple[Annotated[str, AfterValidator(_no_nul)], ...], BeforeValidator(_tuple), Field(max_length=MAX_ARGUMENTS)
    ] = ()
    stdin: Annotated[str, _at_most(MAX_STDIN_BYTES)] = ""

    @model_validator(mode="after")
    def _one_program(self) -> "PythonRequest":
        if (self.code is None) == (self.path is None):
            raise ValueError("give either code or path")
        if sum(len(argument.encode()) + 1 for argument in self.args) > MAX_ARGUMENTS_BYTES:
            raise ValueError(f"args may be {MAX_ARGUMENTS_BYTES} bytes long together")
        return self


class _GitRequest(_Request):
    action: Literal["git"] = "git"


class GitInit(_GitRequest):
    """Make the workspace a repository, if it is none."""

    op: Literal["init"] = "init"


class GitStatus(_GitRequest):
    """Tell what changed since the last commit."""

    op: Literal["status"] = "status"


class GitLog(_GitRequest):
    """List the last `limit` commits, the newest first."""

    op: Literal["log"] = "log"
    limit: Annotated[int, Field(ge=1, le=MAX_LOG_ENTRIES)] = 50


class GitDiff(_GitRequest):
    """Compare `base` with `head`, or with the workspace when there is no `head`."""

    op: Literal["diff"] = "diff"
    base: Revision = "HEAD"
    head: Revision | None = None


class GitCommit(_GitRequest):
    """Commit everything in the workspace."""

    op: Literal["commit"] = "commit"
    message: Message


class GitRestore(_GitRequest):
    """Bring `paths`, or everything when there are none, back to how they were at `commit`."""

    op: Literal["restore"] = "restore"
    commit: Revision
    paths: Annotated[tuple[WorkspacePath, ...], BeforeValidator(_tuple), Field(max_length=MAX_PATHS)] = ()

    @model_validator(mode="after")
    def _arguments_fit(self) -> "GitRestore":
        if sum(len(path.encode()) + 1 for path in self.paths) > MAX_ARGUMENTS_BYTES:
            raise ValueError(f"paths may be {MAX_ARGUMENTS_BYTES} bytes long together")
        return self


class FileContent(BaseModel):
    """One file of a write set; `base64` content is for bytes that are not UTF-8."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    path: WorkspacePath
    content: str
    encoding: Literal["utf-8", "base64"] = "utf-8"

    @model_validator(mode="after")
    def _decodes(self) -> "FileContent":
        self.data()
        return self

    def data(self) -> bytes:
        """The file's bytes."""
        if self.encoding == "utf-8":
            return self.content.encode()
        try:
            return base64.b64decode(self.content, validate=True)
        except binascii.Error as error:
            raise ValueError("content is not base64") from error


class _FilesRequest(_Request):
    action: Literal["files"] = "files"


class FilesList(_FilesRequest):
    """List a directory and everything below it; the workspace when there is no `path`."""

    op: Literal["list"] = "list"
    path: WorkspacePath | None = None


class FilesRead(_FilesRequest):
    """Read one file."""

    op: Literal["read"] = "read"
    path: WorkspacePath


class FilesWrite(_FilesRequest):
    """Write a set of files, all or none; with a `message` they become a git commit."""

    op: Literal["write"] = "write"
    files: Annotated[tuple[FileContent, ...], BeforeValidator(_tuple), Field(min_length=1, max_length=MAX_FILES)]
    message: Message | None = None

    @model_validator(mode="after")
    def _no_collision(self) -> "FilesWrite":
        paths = {file.path for file in self.files}
        if len(paths) != len(self.files):
            raise ValueError("a path may be written once")
        for path in paths:
            parts = path.split("/")
            if any("/".join(parts[:depth]) in paths for depth in range(1, len(parts))):
                raise ValueError("a path may not be a file and a directory at once")
        return self


class FilesDelete(_FilesRequest):
    """Delete a file, or a directory with everything in it."""

    op: Literal["delete"] = "delete"
    path: WorkspacePath


class FilesMove(_FilesRequest):
    """Move a file or directory to a path where nothing is."""

    op: Literal["move"] = "move"
    path: WorkspacePath
    to: WorkspacePath

    @model_validator(mode="after")
    def _not_into_itself(self) -> "FilesMove":
        if f"{self.to}/".startswith(f"{self.path}/"):
            raise ValueError("a path may not be moved into itself")
        return self


class PrewarmRequest(_Request):
    """Create the project's sandbox ahead, for its next run; unused, it ends after a while."""

    action: Literal["prewarm"] = "prewarm"


GitRequest = GitInit | GitStatus | GitLog | GitDiff | GitCommit | GitRestore
FilesRequest = FilesList | FilesRead | FilesWrite | FilesDelete | FilesMove
Request = PythonRequest | GitRequest | FilesRequest | PrewarmRequest

_ADAPTER: TypeAdapter[Request] = TypeAdapter(
    Annotated[
        PythonRequest
        | PrewarmRequest
        | Annotated[GitRequest, Field(discriminator="op")]
        | Annotated[FilesRequest, Field(discriminator="op")],
        Field(discriminator="action"),
    ]
)
ACTIONS = ("python", "git", "files", "prewarm")


def parse_request(body: bytes) -> Request:
    """Parse a body; raises ContractError `invalid_request` with the first thing that is wrong and where."""
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, _sentence(error)) from None


def dump_request(request: Request) -> bytes:
    """The body that `parse_request` reads."""
    return request.model_dump_json(exclude_defaults=False, exclude_none=True).encode()


def request_schema() -> dict[str, object]:
    """The JSON Schema of a body."""
    return _ADAPTER.json_schema()


def _sentence(error: ValidationError) -> str:
    """The first error without the value that caused it: a body may hold what belongs in no log."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    tags = 2 if first["loc"][:1] in (("git",), ("files",)) else 1  # the location begins with the action and the op
    where = ".".join(str(part) for part in first["loc"][tags:])
    message = first["msg"].removeprefix("Value error, ")
    match first["type"]:
        case "json_invalid":
            message = "the body is not JSON"
        case "extra_forbidden":
            message = "unknown field"
        case "missing":
            message = "is required"
        case "union_tag_not_found":
            return "'action' and, for git and files, 'op' are required: action is one of " + ", ".join(ACTIONS)
        case "union_tag_invalid":
            message = "unknown 'action' or 'op': action is one of " + ", ".join(ACTIONS)
    return f"{where}: {message}" if where else message
