"""The internal routes: one module for each action, from its request to commands, from their output to a result.

`needs_sandbox` says whether an action runs in the project's sandbox or only reads what is committed.
"""

from pydantic import JsonValue

from modal_app.actions import files, git, python
from modal_app.actions.output import Output
from modal_app.contract.requests import FilesList, FilesRead, PrewarmRequest, PythonRequest, Request
from modal_app.fleet import Platform
from modal_app.sandbox import Job

__all__ = ["Output", "needs_sandbox", "perform", "read_committed"]


def needs_sandbox(request: Request) -> bool:
    """Whether the action runs commands."""
    return not isinstance(request, FilesList | FilesRead)


async def perform(request: Request, job: Job, output: Output) -> JsonValue:
    """Run an action in its sandbox and return its result; raises ContractError when it fails."""
    match request:
        case PythonRequest():
            return await python.run(request, job, output)
        case FilesList() | FilesRead() | PrewarmRequest():
            raise AssertionError("runs no command")
        case _ if request.action == "files":
            return await files.change(request, job, output)
        case _:
            return await git.run(request, job, output)


async def read_committed(request: Request, platform: Platform) -> JsonValue:
    """Answer from the committed state of the project; raises ContractError."""
    assert isinstance(request, FilesList | FilesRead)
    return await files.read(request, platform.projects)
