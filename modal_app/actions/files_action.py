"""Action `files`: lists and reads committed files through the volume API; changes files inside the sandbox.

A change is made wholly or not at all. No link is ever followed: a project's links are made by its jobs and may point
anywhere.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import PurePosixPath

import modal
import modal.exception
import structlog
from modal.types import FileEntry, FileEntryType
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from modal_app.actions import git_action
from modal_app.actions.git_command import ENV, putting_back
from modal_app.actions.output import Captured, Output
from modal_app.contract.caps import MAX_LIST_ENTRIES, MAX_READ_BYTES
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import FilesDelete, FilesList, FilesMove, FilesRead, FilesRequest, FilesWrite
from modal_app.sandboxes.fleet import finish, sub_path
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS
from modal_app.sandboxes.project_sandbox import UNLOCK, WORKSPACE, WRITE_SET, Job

_log = structlog.get_logger(__name__)

_REFUSED, _FAILED = 3, 4  # exit codes of the script
_END_S = 5.0  # for the script to end when its run is cancelled, and for what it has done to be undone
# $1 is the program that removes a killed git's locks, $2 the write-set script, $3 and $4 its arguments; the rest is a
# command to be run before `undo`.
_UNDO = """
unlock=$1 script=$2 root=$3 held=$4; shift 4
[ -e "$root/$held/undo.jsonl" ] || exit 0  # it is final already, and its commit stands with it
python3 -I -c "$unlock" "$root"; "$@"
exec python3 -I -c "$script" "$root" undo "$held"
"""
_TYPES = {FileEntryType.FILE: "file", FileEntryType.DIRECTORY: "directory", FileEntryType.SYMLINK: "link"}


async def read(request: FilesList | FilesRead, volume: modal.Volume) -> JsonValue:
    """List or read committed files; returns the result as JSON.

    Raises ContractError `not_found`, `invalid_request`, `too_large`, `sandbox_unavailable`.
    """
    try:
        return await _answer(request, volume)
    except PLATFORM_ERRORS as error:
        _log.warning("files.not_read", reason=type(error).__name__)
        message = "the project's files cannot be read now (the platform's volume API fails): try again soon"
        raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, message) from None


async def _answer(request: FilesList | FilesRead, volume: modal.Volume) -> JsonValue:
    root = sub_path(request.user_id, request.project_id)
    if isinstance(request, FilesRead):
        return await _read(volume, root, request.path)
    if request.path is not None:
        await _resolve(volume, root, request.path, wanted=FileEntryType.DIRECTORY)
    entries: dict[str, JsonValue] = {}
    async for entry in _entries(volume, f"{root}/{request.path or ''}".rstrip("/"), recursive=True):
        path = str(PurePosixPath("/", entry.path).relative_to(root))
        if request.path is None and PurePosixPath(path).parts[0] == ".git":
            continue  # git's own files are listed, and counted, only when they are asked for by path
        if len(entries) == MAX_LIST_ENTRIES:
            message = f"there are more than {MAX_LIST_ENTRIES} entries: list a directory below it by its `path`"
            raise ContractError(ErrorCode.TOO_LARGE, message)
        kind = _TYPES.get(entry.type, "other")
        entries[path] = {"path": path, "type": kind, "size": entry.size, "mtime": entry.mtime}
    return {"path": request.path or "", "entries": [entries[path] for path in sorted(entries)]}


async def change(request: FilesRequest, job: Job, output: Output) -> JsonValue:
    """Write, delete or move files in the sandbox; returns the result as JSON. Raises ContractError; nothing is changed.

    A write set with a `message` also becomes a git commit.
    """
    asked: dict[str, object]
    match request:
        case FilesWrite():
            files = [{"path": file.path, "data": base64.b64encode(file.data()).decode()} for file in request.files]
            asked = {"op": "write", "files": files, "hold": request.message is not None}
        case FilesDelete():
            asked = {"op": "delete", "path": request.path}
        case FilesMove():
            asked = {"op": "move", "path": request.path, "to": request.to}
        case _:
            raise AssertionError("reads need no sandbox")
    if not isinstance(request, FilesWrite) or request.message is None:
        return await _changed(job, output, asked, request.timeout_s)
    put_back = putting_back(await git_action.head(job, output, request.timeout_s))
    result = await _changed(job, output, asked, request.timeout_s)
    held = str(result.pop("held", ""))
    try:
        result |= await git_action.commit_writes(job, output, request.message, request.timeout_s)
        code = await job.exec(["python3", "-I", "-c", WRITE_SET, WORKSPACE, "settle", held], answers=range(256))
        if code != 0:
            raise _crashed(code)
    except BaseException:  # without its commit the write set must not stand either
        await finish(asyncio.ensure_future(_undo(job, held, put_back)))
        raise
    return result


async def _undo(job: Job, held: str, put_back: Sequence[str]) -> None:
    """Undo a write set together with its git commit.

    `held` is the name under which the script keeps what is needed for that, `put_back` a command to be run before.
    A failure is only logged: the project's next sandbox undoes what is left.
    """
    try:
        await job.aside(("sh", "-c", _UNDO, "sh", UNLOCK, WRITE_SET, WORKSPACE, held, *put_back), env=ENV)
    except ContractError as error:
        _log.warning("files.not_undone", reason=str(error))


async def _changed(
    job: Job, output: Output, asked: Mapping[str, object], timeout_s: float | None
) -> dict[str, JsonValue]:
    """Run the script that changes the workspace and return its answer. Raises ContractError, with nothing changed.

    A script that does not come to its own end is given a moment to; then what it has done is undone.
    """
    captured = Captured(output)
    changing = asyncio.ensure_future(
        job.exec(
            ["python3", "-I", "-c", WRITE_SET, WORKSPACE],
            stdin=json.dumps(asked).encode(),
            on_output=captured,
            timeout_s=timeout_s,
            answers=(_REFUSED,),
        )
    )
    code = None
    try:
        code = await asyncio.shield(changing)
    finally:
        if code not in (0, _REFUSED):
            await finish(asyncio.ensure_future(_recover(job, changing)))
    await output.flush()
    if code in (_REFUSED, _FAILED):
        raise _refusal(bytes(captured.data), code)
    if code != 0:
        raise _crashed(code)
    answer: dict[str, JsonValue] = json.loads(captured.data)
    return answer


async def _recover(job: Job, changing: "asyncio.Future[int]") -> None:
    """Undo a change that is not final when its script has ended; one that goes on is left to the next sandbox."""
    await asyncio.wait([changing], timeout=_END_S)
    if not changing.done():
        changing.cancel()
        await asyncio.wait([changing], timeout=_END_S)
        _log.warning("files.cut_off")
        return
    try:
        async with asyncio.timeout(_END_S):
            await job.aside(("python3", "-I", "-c", WRITE_SET, WORKSPACE, "recover"))
    except (ContractError, TimeoutError) as error:
        _log.warning("files.not_recovered", reason=str(error))


class _Refusal(BaseModel):
    model_config = ConfigDict(strict=True)

    code: str
    message: str


def _refusal(answer: bytes, exit_code: int) -> ContractError:
    seen = exit_code if exit_code == _FAILED else None
    try:
        refusal = _Refusal.model_validate_json(answer)
        return ContractError(ErrorCode(refusal.code), refusal.message[:2000], exit_code=seen)
    except (ValidationError, ValueError):
        return _crashed(exit_code)


def _crashed(exit_code: int) -> ContractError:
    """The script ended without an answer: a failure of its interpreter or its sandbox, told on stderr."""
    message = (
        f"the files could not be changed: the program that changes them ended with exit code {exit_code} and gave no "
        "reason; see the run's stderr"
    )
    return ContractError(ErrorCode.PROCESS_FAILED, message, exit_code=exit_code)


async def _entries(volume: modal.Volume, path: str, *, recursive: bool) -> AsyncGenerator[FileEntry, None]:
    with suppress(modal.exception.NotFoundError, FileNotFoundError):
        async with aclosing(volume.iterdir.aio(path, recursive=recursive)) as entries:
            async for entry in entries:
                yield entry


async def _entry(volume: modal.Volume, path: str, name: str) -> FileEntry | None:
    """The entry of a name in a directory; None when there is none."""
    async with aclosing(_entries(volume, path, recursive=False)) as entries:
        async for entry in entries:
            if PurePosixPath(entry.path).name == name:
                return entry
    return None


async def _resolve(volume: modal.Volume, root: str, path: str, *, wanted: FileEntryType) -> FileEntry:
    """The entry of a path, after checking that every component above it is a directory and no link.

    Raises ContractError `not_found`, or `invalid_request` when a component, or the entry itself, is of another kind.
    """
    at = root
    entry = None
    parts = path.split("/")
    for depth, part in enumerate(parts):
        entry = await _entry(volume, at, part)
        if entry is None:
            raise ContractError(ErrorCode.NOT_FOUND, f"there is no {path}")
        expected = wanted if depth == len(parts) - 1 else FileEntryType.DIRECTORY
        if entry.type is not expected:
            kind = _TYPES.get(entry.type, "special file")
            message = f"{'/'.join(parts[: depth + 1])} is a {kind}, not a {_TYPES[expected]}"
            raise ContractError(ErrorCode.INVALID_REQUEST, message)
        at = f"{at}/{part}"
    assert entry is not None
    return entry


async def _read(volume: modal.Volume, root: str, path: str) -> JsonValue:
    entry = await _resolve(volume, root, path, wanted=FileEntryType.FILE)
    if entry.size > MAX_READ_BYTES:
        message = f"{path} has {entry.size} bytes; at most {MAX_READ_BYTES} are read this way: use the volume API"
        raise ContractError(ErrorCode.TOO_LARGE, message)
    data = bytearray()
    try:
        async for chunk in volume.read_file.aio(f"{root}/{path}"):
            data += chunk
            if len(data) > MAX_READ_BYTES:
                message = f"{path} has more than the {MAX_READ_BYTES} bytes that are read this way: use the volume API"
                raise ContractError(ErrorCode.TOO_LARGE, message)
    except (modal.exception.NotFoundError, FileNotFoundError):
        raise ContractError(ErrorCode.NOT_FOUND, f"there is no {path}") from None
    try:
        return {"path": path, "size": len(data), "encoding": "utf-8", "content": data.decode()}
    except UnicodeDecodeError:
        return {"path": path, "size": len(data), "encoding": "base64", "content": base64.b64encode(data).decode()}
