"""Action `git`: a few operations with checked arguments, run inside the sandbox; git's output is parsed strictly."""

import re
from collections.abc import Sequence

from pydantic import JsonValue

from modal_app.actions.git_command import ENV, git, git_init
from modal_app.actions.output import Captured, Output, Piece, failed
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import GitCommit, GitDiff, GitInit, GitLog, GitRequest, GitRestore, GitStatus
from modal_app.sandboxes import git_defaults
from modal_app.sandboxes.project_sandbox import Job

_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_DATE = re.compile(r"-?\d{1,9}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)")
_ENTRY = re.compile(r"([ MTADRCU?!])([ MTADRCU?!]) (.+)", re.DOTALL)
_LOG_FORMAT = "--format=%H%x00%P%x00%an%x00%ae%x00%cI%x00%s%x00"
_LOG_FIELDS = 6
_NO_COMMITS = 128  # the exit code of rev-parse in a repository without commits, and without a repository


class _Repository:
    """Runs git commands in the workspace for one request."""

    def __init__(self, job: Job, output: Output, timeout_s: float | None) -> None:
        self._job = job
        self._output = output
        self._timeout_s = timeout_s

    async def ask(self, *arguments: str, accept: Sequence[int] = (0,), quiet: bool = False) -> tuple[int, str]:
        """Run a git command; returns its exit code and its stdout. With `quiet`, its stderr is dropped.

        Raises ContractError `process_failed` for an exit code that is not in `accept`, `too_large` for too much output.
        """
        captured = Captured(Output(_drop) if quiet else self._output)
        code = await self._job.exec(
            git(*arguments),
            env=ENV,
            on_output=captured,
            timeout_s=self._timeout_s,
            answers=[one for one in accept if one],
        )
        _check(code, arguments, accept)
        return code, captured.text

    async def tell(self, *arguments: str, stdin: str = "") -> None:
        """Run a git command whose output is streamed; raises ContractError `process_failed` unless it exits with 0."""
        await self._tell(git(*arguments), arguments, stdin)

    async def init(self) -> None:
        """Make the workspace a repository if it is none; raises ContractError `process_failed`."""
        await self._tell(git_init(), ("init",), "")

    async def require(self) -> None:
        """Raise ContractError `process_failed` where there is no repository."""
        await self.ask("rev-parse", "--git-dir")

    async def head(self) -> str | None:
        """The hash of HEAD; None before the first commit, or without a repository."""
        code, text = await self.ask("rev-parse", "--verify", "--quiet", "HEAD", accept=(0, 1, _NO_COMMITS), quiet=True)
        found = text.strip()
        return found if code == 0 and _HASH.fullmatch(found) else None

    async def commit_id(self, revision: str) -> str:
        """The full hash of the commit that a checked revision names; raises ContractError `not_found`."""
        code, text = await self.ask(
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{revision}^{{commit}}",
            accept=(0, 1, _NO_COMMITS),
            quiet=True,
        )
        found = text.strip()
        if code != 0 or not _HASH.fullmatch(found):
            raise ContractError(ErrorCode.NOT_FOUND, f"there is no commit {revision} in the project's repository")
        return found

    async def _tell(self, argv: Sequence[str], arguments: Sequence[str], stdin: str) -> None:
        code = await self._job.exec(
            argv, stdin=stdin.encode(), env=ENV, on_output=self._output, timeout_s=self._timeout_s
        )
        _check(code, arguments, (0,))


def _check(code: int, arguments: Sequence[str], accept: Sequence[int]) -> None:
    if code not in accept:
        message = failed(f"git {arguments[0]}", code) + ": see the run's stderr"
        raise ContractError(ErrorCode.PROCESS_FAILED, message, exit_code=code)


async def _drop(piece: Piece) -> None:
    """Drop a piece of output."""


async def run(request: GitRequest, job: Job, output: Output) -> JsonValue:
    """Run one operation and return its result as JSON; raises ContractError."""
    repository = _Repository(job, output, request.timeout_s)
    match request:
        case GitInit():
            result = await _init(repository)
        case GitStatus():
            result = await _status(repository)
        case GitLog():
            result = await _log(repository, request.limit)
        case GitDiff():
            result = await _diff(repository, request)
        case GitCommit():
            result = await _commit(repository, request.message)
        case GitRestore():
            result = await _restore(repository, request)
    await output.flush()
    return result


async def head(job: Job, output: Output, timeout_s: float | None) -> str | None:
    """The hash of HEAD; None where there is no repository, or no commit yet."""
    return await _Repository(job, output, timeout_s).head()


async def commit_writes(job: Job, output: Output, message: str, timeout_s: float | None) -> dict[str, JsonValue]:
    """Commit everything in the workspace, after making it a repository if it is none.

    Returns `{"commit": hash, "changed": whether there was anything to commit}`. Raises ContractError.
    """
    repository = _Repository(job, output, timeout_s)
    code, _ = await repository.ask("rev-parse", "--git-dir", accept=(0, _NO_COMMITS), quiet=True)
    if code != 0:
        await _init(repository)
    return await _commit(repository, message)


async def _commit(repository: _Repository, message: str) -> dict[str, JsonValue]:
    """Commit everything in the workspace; `changed` is false when there was nothing to commit."""
    await repository.tell("add", "--all")
    code, _ = await repository.ask("diff", "--cached", "--quiet", "--no-ext-diff", accept=(0, 1))
    if code == 1:
        await repository.tell("commit", "--no-verify", "--cleanup=whitespace", "--file=-", stdin=message)
    return {"commit": await repository.head(), "changed": code == 1}


async def _init(repository: _Repository) -> JsonValue:
    await repository.init()
    return {"branch": git_defaults.BRANCH, "commit": await repository.head()}


async def _status(repository: _Repository) -> JsonValue:
    _, text = await repository.ask(
        "status", "--porcelain=v1", "-z", "--untracked-files=all", "--ignore-submodules=dirty"
    )
    fields = iter(text.split("\0"))
    entries: list[JsonValue] = []
    for field in fields:
        if not field:
            break  # the empty field after the last NUL
        read = _ENTRY.fullmatch(field)
        if read is None:
            raise _unreadable("status")
        entry: dict[str, JsonValue] = {"path": read[3], "index": read[1].strip(), "worktree": read[2].strip()}
        if "R" in field[:2] or "C" in field[:2]:
            entry["from"] = next(fields, "")
        entries.append(entry)
    return {"clean": not entries, "entries": entries, "commit": await repository.head()}


async def _log(repository: _Repository, limit: int) -> JsonValue:
    await repository.require()
    if await repository.head() is None:
        return {"entries": []}
    _, text = await repository.ask("log", f"--max-count={limit}", _LOG_FORMAT, "HEAD", "--")
    values = text.split("\0")
    starts = range(0, len(values) - 1, _LOG_FIELDS)
    return {"entries": [_logged(values[start : start + _LOG_FIELDS]) for start in starts]}


def _logged(values: Sequence[str]) -> dict[str, JsonValue]:
    if len(values) != _LOG_FIELDS:
        raise _unreadable("log")
    commit_id, parents, author, email, date, subject = values
    hashes = [commit_id.strip(), *parents.split()]
    if not all(map(_HASH.fullmatch, hashes)) or (date and not _DATE.fullmatch(date)):
        raise _unreadable("log")
    return {
        "commit": hashes[0],
        "parents": list[JsonValue](hashes[1:]),
        "author": author,
        "email": email,
        "date": date,
        "subject": subject,
    }


def _unreadable(operation: str) -> ContractError:
    message = f"the output of git {operation} has an unknown form: tell whoever runs the endpoint"
    return ContractError(ErrorCode.INTERNAL, message)


async def _diff(repository: _Repository, request: GitDiff) -> JsonValue:
    ends = [await repository.commit_id(request.base)]
    if request.head is not None:
        ends.append(await repository.commit_id(request.head))
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=dirty")
    _, patch = await repository.ask("diff", *options, *ends, "--")
    return {"base": ends[0], "head": ends[1] if len(ends) == 2 else None, "patch": patch}


async def _restore(repository: _Repository, request: GitRestore) -> JsonValue:
    source = await repository.commit_id(request.commit)
    paths = request.paths or (".",)
    await repository.tell("restore", f"--source={source}", "--staged", "--worktree", "--", *paths)
    return {"commit": source, "paths": list[JsonValue](request.paths)}
