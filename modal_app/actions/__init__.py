"""The actions: one module for each, which turns a request into commands and their output into a result.

Most actions run in the project's sandbox; `needs_sandbox` is false for those that only read committed files.
"""

from collections.abc import Callable
from typing import TypeGuard

from modal_app.actions import claude_action, files_action, git_action, python_action
from modal_app.actions.output import Output
from modal_app.actions.performed import Performed
from modal_app.contract.events import ModelRetry, Usage
from modal_app.contract.requests import ClaudeRequest, FilesList, FilesRead, PrewarmRequest, PythonRequest, Request
from modal_app.endpoint_settings import Timeouts
from modal_app.model.grants import ModelGrant
from modal_app.sandboxes.fleet import Platform
from modal_app.sandboxes.project_sandbox import Job

__all__ = ["ModelGrant", "Output", "Performed", "needs_model", "needs_sandbox", "perform", "read_committed"]


def needs_sandbox(request: Request) -> bool:
    """Whether the action runs in the project's sandbox."""
    return not isinstance(request, FilesList | FilesRead)


def needs_model(request: Request) -> TypeGuard[ClaudeRequest]:
    """Whether the action uses the model."""
    return isinstance(request, ClaudeRequest)


async def perform(
    request: Request,
    job: Job,
    output: Output,
    *,
    grant: ModelGrant | None,
    timeouts: Timeouts,
    spent: Callable[[Usage], None],
    retried: Callable[[ModelRetry], None],
) -> Performed:
    """Run an action in its sandbox and return its result; a failure is raised as ContractError or returned as `error`.

    `grant` must be given for an action that needs the model; `spent` is then called with what the action has used of
    the model, however it ends, and `retried` each time that the model is asked again.
    """
    match request:
        case ClaudeRequest():
            assert grant is not None, "a run that needs the model has been granted it"
            return await claude_action.run(request, job, output, grant, timeouts, spent=spent, retried=retried)
        case PythonRequest():
            return Performed(await python_action.run(request, job, output))
        case FilesList() | FilesRead() | PrewarmRequest():
            raise AssertionError("runs no command")
        case _ if request.action == "files":
            return Performed(await files_action.change(request, job, output))
        case _:
            return Performed(await git_action.run(request, job, output))


async def read_committed(request: Request, platform: Platform) -> Performed:
    """Carry out an action that needs no sandbox, on the committed files of the project; raises ContractError."""
    assert isinstance(request, FilesList | FilesRead)
    return Performed(await files_action.read(request, platform.projects))
