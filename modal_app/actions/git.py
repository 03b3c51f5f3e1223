"""Action `git`: a few operations with checked arguments, run inside the sandbox, with no hook, no outside setting."""

import re
import shlex
from collections.abc import Sequence

from pydantic import JsonValue

from modal_app import git_defaults
from modal_app.actions.output import Captured, Output, Piece
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import GitCommit, GitDiff, GitInit, GitLog, GitRequest, GitRestore, GitStatus
from modal_app.sandbox import Job

# A repository is a hostile input too: its own settings may name programs.
_GIT = (
    "git",
    "--no-pager",
    "--literal-pathspecs",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.quotePath=false",
    "-c",
    "commit.gpgSign=false",
    "-c",
    "gc.auto=0",
    "-c",
    "safe.directory=*",
)
ENV = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_EDITOR": "true",
    "GIT_AUTHOR_NAME": git_defaults.NAME,
    "GIT_AUTHOR_EMAIL": git_defaults.EMAIL,
    "GIT_COMMITTER_NAME": git_defaults.NAME,
    "GIT_COMMITTER_EMAIL": git_defaults.EMAIL,
}
_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_LOG_FORMAT = "--format=%H%x00%P%x00%an%x00%ae%x00%cI%x00%s%x00"
_NO_COMMITS = 128  # what rev-parse and log answer in a repository without commits


class _Repository:
    """Runs git commands for one request."""

    def __init__(self, job: Job, output: Output, timeout_s: float | None) -> None:
        self._job = job
        self._output = output
        self._timeout_s = timeout_s

    async def ask(self, *arguments: str, accept: Sequence[int] = (0,), quiet: bool = False) -> tuple[int, str]:
        """Run a command for its output; raises ContractError `process_failed`."""
        captured = Captured(Output(_nowhere) if quiet else self._output)
        argv = (*_GIT, *arguments)
        code = await self._job.exec(
            argv, env=ENV, on_output=captured, timeout_s=self._timeout_s, answers=[one for one in accept if one]
        )
        self._check(code, arguments, accept)
        return code, captured.text

    async def tell(self, *arguments: str, stdin: str = "") -> None:
        """Run a command and stream what it says; raises ContractError `process_failed`."""
        argv = (*_GIT, *arguments)
        code = await self._job.exec(
            argv, stdin=stdin.encode(), env=ENV, on_output=self._output, timeout_s=self._timeout_s
        )
        self._check(code, arguments, (0,))

    async def head(self) -> str | None:
        """The hash of HEAD, None before the first commit."""
        code, text = await self.ask("rev-parse", "--verify", "--quiet", "HEAD", accept=(0, 1, _NO_COMMITS), quiet=True)
        found = text.strip()
        return found if code == 0 and _HASH.fullmatch(found) else None

    async def commit_id(self, revision: str) -> str:
        """The full hash of a commit; raises ContractError `not_found`."""
        code, text = await self.ask(
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{revision}^{{commit}}",
            accept=(0, 1, 128),
            quiet=True,
        )
        found = text.strip()
        if code != 0 or not _HASH.fullmatch(found):
            raise ContractError(ErrorCode.NOT_FOUND, "there is no such commit")
        return found

    def _check(self, code: int, arguments: Sequence[str], accept: Sequence[int]) -> None:
        if code not in accept:
            raise ContractError(
                ErrorCode.PROCESS_FAILED, f"git {arguments[0]} ended with exit code {code}", exit_code=code
            )


async def _nowhere(piece: Piece) -> None:
    """Drop what a probe says on stderr."""


async def run(request: GitRequest, job: Job, output: Output) -> JsonValue:
    """Run one operation and return its result; raises ContractError."""
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
            result = await commit(job, output, request.message, request.timeout_s)
        case GitRestore():
            result = await _restore(repository, request)
    await output.flush()
    return result


async def commit(job: Job, output: Output, message: str, timeout_s: float | None) -> dict[str, JsonValue]:
    """Commit everything in the workspace; `changed` is false when there was nothing to commit."""
    repository = _Repository(job, output, timeout_s)
    await repository.tell("add", "--all")
    code, _ = await repository.ask("diff", "--cached", "--quiet", "--no-ext-diff", accept=(0, 1))
    if code == 1:
        await repository.tell("commit", "--no-verify", "--file=-", stdin=message)
    return {"commit": await repository.head(), "changed": code == 1}


async def head(job: Job, output: Output, timeout_s: float | None) -> str | None:
    """The hash of HEAD; None where there is no repository, or no commit yet."""
    return await _Repository(job, output, timeout_s).head()


def putting_back(head: str | None) -> tuple[str, ...]:
    """The command that puts HEAD back to where it was, if it has moved. It needs `ENV`."""
    asked = shlex.join((*_GIT, "rev-parse", "--verify", "--quiet", "HEAD"))
    moved = shlex.join((*_GIT, "update-ref", *(("-d", "HEAD") if head is None else ("HEAD", head))))
    return ("sh", "-c", f'[ "$({asked})" = "$1" ] || {moved}', "sh", head or "")


async def commit_writes(job: Job, output: Output, message: str, timeout_s: float | None) -> dict[str, JsonValue]:
    """Commit what a write set wrote, in a new repository when the workspace is none."""
    repository = _Repository(job, output, timeout_s)
    code, _ = await repository.ask("rev-parse", "--git-dir", accept=(0, 128), quiet=True)
    if code != 0:
        await _init(repository)
    return await commit(job, output, message, timeout_s)


async def _init(repository: _Repository) -> JsonValue:
    await repository.tell("init", f"--initial-branch={git_defaults.BRANCH}", "--template=")
    return {"branch": git_defaults.BRANCH, "commit": await repository.head()}


async def _status(repository: _Repository) -> JsonValue:
    _, text = await repository.ask("status", "--porcelain=v1", "-z", "--untracked-files=all")
    fields = iter(text.split("\0"))
    entries: list[JsonValue] = []
    for field in fields:
        if len(field) > 3:
            entry: dict[str, JsonValue] = {"path": field[3:], "index": field[0].strip(), "worktree": field[1].strip()}
            if "R" in field[:2] or "C" in field[:2]:
                entry["from"] = next(fields, "")
            entries.append(entry)
    return {"clean": not entries, "entries": entries, "commit": await repository.head()}


async def _log(repository: _Repository, limit: int) -> JsonValue:
    if await repository.head() is None:
        return {"entries": []}
    _, text = await repository.ask("log", f"--max-count={limit}", _LOG_FORMAT, "HEAD", "--")
    values = text.split("\0")
    entries: list[JsonValue] = []
    for start in range(0, len(values) - 6, 6):
        commit_id, parents, author, email, date, subject = values[start : start + 6]
        entries.append(
            {
                "commit": commit_id.strip(),
                "parents": list[JsonValue](parents.split()),
                "author": author,
                "email": email,
                "date": date,
                "subject": subject,
            }
        )
    return {"entries": entries}


async def _diff(repository: _Repository, request: GitDiff) -> JsonValue:
    ends = [await repository.commit_id(request.base)]
    if request.head is not None:
        ends.append(await repository.commit_id(request.head))
    _, patch = await repository.ask("diff", "--no-ext-diff", "--no-textconv", "--no-color", *ends, "--")
    return {"base": ends[0], "head": ends[1] if len(ends) == 2 else None, "patch": patch}


async def _restore(repository: _Repository, request: GitRestore) -> JsonValue:
    source = await repository.commit_id(request.commit)
    paths = request.paths or (".",)
    await repository.tell("restore", f"--source={source}", "--staged", "--worktree", "--", *paths)
    return {"commit": source, "paths": list[JsonValue](request.paths)}
