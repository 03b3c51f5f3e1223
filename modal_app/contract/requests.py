"""What `POST /generate` accepts: one strict model for each action, which refuses unknown fields.

A body is parsed once, when it arrives; deeper code sees only these frozen values.
"""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from modal_app.contract.caps import (
    MAX_ARGUMENTS,
    MAX_ARGUMENTS_BYTES,
    MAX_CODE_BYTES,
    MAX_FILES,
    MAX_LOG_ENTRIES,
    MAX_PATHS,
    MAX_PROMPT_BYTES,
    MAX_STDIN_BYTES,
    MAX_TOOLS,
)
from modal_app.contract.claude_options import ClaudeOptions, PermissionMode
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.fields import Message, ProjectRequest, Revision, Uuid, at_most, no_nul, tuple_of_list
from modal_app.contract.paths import WorkspacePath

Tools = Annotated[tuple[str, ...], Field(max_length=MAX_TOOLS), BeforeValidator(tuple_of_list)]


class ClaudeRequest(ProjectRequest):
    """Give the Claude CLI a `prompt`. `resume` is the id of a session to continue; `fork` continues it under a new id.

    A prompt is text for the model, whatever it begins with. A run ends with the model's answer: no work goes on in the
    background, and nothing wakes the model later. The CLI uses the project's settings, hooks and skills only with
    `project_skills`. `budget_usd` is in US dollars by the CLI's own price list. With a `json_schema` the result has
    `structured_output` of that form. `replay` is the id of a stored recording that answers in the model's place.
    """

    action: Literal["claude"] = "claude"
    prompt: Annotated[str, AfterValidator(no_nul), at_most(MAX_PROMPT_BYTES)]
    resume: Uuid | None = None
    fork: bool = False
    model: str | None = None
    max_turns: Annotated[int, Field(ge=1)] | None = None
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    json_schema: dict[str, JsonValue] | None = None
    allowed_tools: Tools = ()
    disallowed_tools: Tools = ()
    permission_mode: PermissionMode = "acceptEdits"
    mcp_config: dict[str, JsonValue] | None = None
    project_skills: bool = False
    replay: Uuid | None = None

    @model_validator(mode="after")
    def _may_be_asked(self) -> "ClaudeRequest":
        try:
            _ = self.options
        except ContractError as error:
            raise ValueError(error.message) from None
        return self

    @property
    def options(self) -> ClaudeOptions:
        """The options for the CLI; raises ContractError `invalid_request`."""
        return ClaudeOptions(
            self.prompt,
            resume=self.resume,
            fork=self.fork,
            model=self.model,
            max_turns=self.max_turns,
            budget_usd=self.budget_usd,
            json_schema=self.json_schema,
            allowed_tools=self.allowed_tools,
            disallowed_tools=self.disallowed_tools,
            permission_mode=self.permission_mode,
            mcp_config=self.mcp_config,
            project_skills=self.project_skills,
        )


Argument = Annotated[str, AfterValidator(no_nul)]


class PythonRequest(ProjectRequest):
    """Run a Python program: `code`, or the file `path` of the workspace; `stdin` is its input."""

    action: Literal["python"] = "python"
    code: Annotated[str, AfterValidator(no_nul), at_most(MAX_CODE_BYTES)] | None = None
    path: WorkspacePath | None = None
    args: Annotated[
        tuple[Annotated[str, AfterValidator(no_nul)], ...],
        Field(max_length=MAX_ARGUMENTS),
        BeforeValidator(tuple_of_list),
    ] = ()
    stdin: Annotated[str, at_most(MAX_STDIN_BYTES)] = ""

    @model_validator(mode="after")
    def _one_program(self) -> "PythonRequest":
        if (self.code is None) == (self.path is None):
            raise ValueError("give either code or path")
        if sum(len(argument.encode()) + 1 for argument in self.args) > MAX_ARGUMENTS_BYTES:
            raise ValueError(f"args: all together may have at most {MAX_ARGUMENTS_BYTES} bytes; use stdin or a file")
        return self


class _GitRequest(ProjectRequest):
    action: Literal["git"] = "git"


class GitInit(_GitRequest):
    """Make the workspace a git repository if it is none."""

    op: Literal["init"] = "init"


class GitStatus(_GitRequest):
    """List what has changed since the last commit."""

    op: Literal["status"] = "status"


class GitLog(_GitRequest):
    """List the last `limit` commits, the newest first."""

    op: Literal["log"] = "log"
    limit: Annotated[int, Field(ge=1, le=MAX_LOG_ENTRIES)] = 50


class GitDiff(_GitRequest):
    """Compare `base` with `head`, or with the workspace if `head` is not given."""

    op: Literal["diff"] = "diff"
    base: Revision = "HEAD"
    head: Revision | None = None


class GitCommit(_GitRequest):
    """Commit everything in the workspace."""

    op: Literal["commit"] = "commit"
    message: Message


class GitRestore(_GitRequest):
    """Restore `paths`, or everything if none are given, to their state at `commit`."""

    op: Literal["restore"] = "restore"
    commit: Revision
    paths: Annotated[tuple[WorkspacePath, ...], Field(max_length=MAX_PATHS), BeforeValidator(tuple_of_list)] = ()

    @model_validator(mode="after")
    def _arguments_fit(self) -> "GitRestore":
        if sum(len(path.encode()) + 1 for path in self.paths) > MAX_ARGUMENTS_BYTES:
            raise ValueError(
                f"paths: all together may have at most {MAX_ARGUMENTS_BYTES} bytes; restore in several runs"
            )
        return self


class FileContent(BaseModel):
    """One file to be written; `base64` is for content that is not UTF-8 text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    path: WorkspacePath
    content: str
    encoding: Literal["utf-8", "base64"] = "utf-8"

    @model_validator(mode="after")
    def _decodes(self) -> "FileContent":
        self.data()
        return self

    def data(self) -> bytes:
        """The file's bytes; raises ValueError when they are not base64."""
        if self.encoding == "utf-8":
            return self.content.encode()
        try:
            return base64.b64decode(self.content, validate=True)
        except binascii.Error as error:
            raise ValueError("content is not base64, as its encoding says") from error


class _FilesRequest(ProjectRequest):
    action: Literal["files"] = "files"


class FilesList(_FilesRequest):
    """List a directory and everything below it; the whole workspace if `path` is not given."""

    op: Literal["list"] = "list"
    path: WorkspacePath | None = None


class FilesRead(_FilesRequest):
    """Read one file."""

    op: Literal["read"] = "read"
    path: WorkspacePath


class FilesWrite(_FilesRequest):
    """Write a set of files, all or none; with a `message` they also become a git commit."""

    op: Literal["write"] = "write"
    files: Annotated[tuple[FileContent, ...], Field(min_length=1, max_length=MAX_FILES), BeforeValidator(tuple_of_list)]
    message: Message | None = None

    @model_validator(mode="after")
    def _no_collision(self) -> "FilesWrite":
        paths = {file.path for file in self.files}
        if len(paths) != len(self.files):
            raise ValueError("each path may be written only once")
        for path in paths:
            parts = path.split("/")
            if any("/".join(parts[:depth]) in paths for depth in range(1, len(parts))):
                raise ValueError("a path may not be both a file and the directory of another file")
        return self


class FilesDelete(_FilesRequest):
    """Delete a file, or a directory with everything in it."""

    op: Literal["delete"] = "delete"
    path: WorkspacePath


class FilesMove(_FilesRequest):
    """Move a file or directory to the path `to`, where nothing may be yet."""

    op: Literal["move"] = "move"
    path: WorkspacePath
    to: WorkspacePath

    @model_validator(mode="after")
    def _not_into_itself(self) -> "FilesMove":
        if f"{self.to}/".startswith(f"{self.path}/"):
            raise ValueError("a path may not be moved into itself: `to` lies below `path`")
        return self


class PrewarmRequest(ProjectRequest):
    """Create the project's sandbox ahead of its next run; if no run uses it, it ends after a while.

    Only a sandbox created `with_model` can reach the model: Claude jobs can use only such a one, other jobs only one
    without.
    """

    action: Literal["prewarm"] = "prewarm"
    with_model: bool = False


GitRequest = GitInit | GitStatus | GitLog | GitDiff | GitCommit | GitRestore
FilesRequest = FilesList | FilesRead | FilesWrite | FilesDelete | FilesMove
Request = ClaudeRequest | PythonRequest | GitRequest | FilesRequest | PrewarmRequest


def _action(body: object) -> object:
    """The action that a body asks for; a body with a prompt and no action asks for `claude`."""
    if not isinstance(body, dict):
        return getattr(body, "action", None)
    return body.get("action", "claude" if "prompt" in body else None)


REQUEST: TypeAdapter[Request] = TypeAdapter(
    Annotated[
        Annotated[ClaudeRequest, Tag("claude")]
        | Annotated[PythonRequest, Tag("python")]
        | Annotated[PrewarmRequest, Tag("prewarm")]
        | Annotated[GitRequest, Field(discriminator="op"), Tag("git")]
        | Annotated[FilesRequest, Field(discriminator="op"), Tag("files")],
        Discriminator(_action),
    ]
)
_MCP_SECRETS = ("env", "headers")  # of a server's configuration
REDACTED = "[not kept]"
ACTIONS = ("claude", "python", "git", "files", "prewarm")


def parse_request(body: bytes) -> Request:
    """Parse a body; raises ContractError `invalid_request`, which tells the first error and its field, no value."""
    try:
        return REQUEST.validate_json(body)
    except ValidationError as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, _sentence(error)) from None


def dump_request(request: Request) -> bytes:
    """A request as the JSON body that `parse_request` reads."""
    return request.model_dump_json(exclude_defaults=False, exclude_none=True).encode()


def without_secrets(request: Request) -> Request:
    """A request as it may be stored: what may hold secrets is replaced by REDACTED.

    That is `env` and `headers` of MCP servers, and a program's `stdin`; and the contents of files, which are kept in
    the project.
    """
    match request:
        case ClaudeRequest(mcp_config=dict(servers)):
            return request.model_copy(update={"mcp_config": _redacted(servers)})
        case PythonRequest(stdin=str(given)) if given:
            return request.model_copy(update={"stdin": REDACTED})
        case FilesWrite():
            files = tuple(FileContent(path=file.path, content=REDACTED) for file in request.files)
            return request.model_copy(update={"files": files})
        case _:
            return request


def _redacted(value: JsonValue, *, secret: bool = False) -> JsonValue:
    if isinstance(value, dict):
        return {name: _redacted(item, secret=secret or name in _MCP_SECRETS) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, secret=secret) for item in value]
    return REDACTED if secret and isinstance(value, str) else value


def _sentence(error: ValidationError) -> str:
    """The first error as a sentence, without the value that caused it, since that may be secret."""
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
