"""`workbench run`: launches a job from the shell and prints its events as they arrive.

Without --user and --project, all commands use the same default project, so that they can build on each other.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modal_app import DEFAULT_APP_NAME
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import TerminalEvent
from modal_app.contract.fields import canonical_uuid
from modal_app.contract.requests import parse_request
from workbench.cli.common import AppNameOption, EventPrinter, JsonOption, TargetOption, failing, say
from workbench.cli.standard_streams import OutputLostError, decoded, read_bytes, read_input
from workbench.runs.project import Project

if TYPE_CHECKING:
    from workbench.runs.run import Run
    from workbench.session import Workbench

app = typer.Typer(
    no_args_is_help=True,
    help="Launch a job and print its events as they arrive. Exit code 0 for done, 1 for error. Ctrl-C cancels the run.",
)

_SHELL = uuid.uuid5(uuid.NAMESPACE_URL, "modal-workbench/shell")


def _uuid(value: str) -> str:
    try:
        return canonical_uuid(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


UserOption = Annotated[str, typer.Option("--user", envvar="WORKBENCH_USER_ID", help="The user's UUID.", callback=_uuid)]
ProjectOption = Annotated[
    str, typer.Option("--project", envvar="WORKBENCH_PROJECT_ID", help="The project's UUID.", callback=_uuid)
]
TimeoutOption = Annotated[
    int | None, typer.Option("--timeout-s", min=1, help="How many seconds the job's process may take.")
]
DEFAULT_ID = str(_SHELL)


@app.command()
def claude(
    prompt: Annotated[str | None, typer.Argument(help="What Claude is to do; without it, read from stdin.")] = None,
    resume: Annotated[str | None, typer.Option(help="Continue the session with this id.")] = None,
    fork: Annotated[bool, typer.Option("--fork", help="With --resume: continue the session under a new id.")] = False,
    model: Annotated[str | None, typer.Option(help="The model's name.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="How many answers the model may give at most.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="A tool that Claude may use, e.g. Bash or 'Bash(git *)'. May be repeated.")
    ] = None,
    permission_mode: Annotated[
        str | None, typer.Option(help="The Claude CLI's permission mode, e.g. plan or acceptEdits.")
    ] = None,
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    timeout_s: TimeoutOption = None,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Give the Claude CLI a prompt, e.g. `workbench run claude 'write a small web page'`."""
    with failing():
        prompt = prompt if prompt is not None else read_input("the prompt")
    fields: dict[str, Any] = {"prompt": prompt, "resume": resume, "fork": fork}
    fields |= {"model": model, "max_turns": max_turns, "allowed_tools": allow or None}
    fields |= {"permission_mode": permission_mode}
    _launch(target, app_name, as_json, Project(user, project), "claude", timeout_s, fields)


@app.command()
def python(
    arguments: Annotated[list[str] | None, typer.Argument(help="The program's arguments.")] = None,
    code: Annotated[str | None, typer.Option("--code", "-c", help="The program's text.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The program's file on this machine.", exists=True)
    ] = None,
    path: Annotated[str | None, typer.Option("--path", help="The program's path in the project.")] = None,
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    with_stdin: Annotated[bool, typer.Option("--stdin", help="Pass this command's stdin on to the program.")] = False,
    timeout_s: TimeoutOption = None,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Run a Python program, e.g. `workbench run python -c 'print(1)'`; with --stdin it gets what is piped in."""
    with failing():
        if file is not None and code is None:
            code = decoded(_read(file), str(file))
        stdin = read_input("the program's input") if with_stdin else ""
    fields = {"code": code, "path": path, "args": arguments or [], "stdin": stdin}
    _launch(target, app_name, as_json, Project(user, project), "python", timeout_s, fields)


@app.command()
def git(
    op: Annotated[str, typer.Argument(help="The operation: init, status, log, diff, commit or restore.")],
    paths: Annotated[
        list[str] | None, typer.Argument(help="restore: which paths; everything if none is given.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="commit: the commit's message.")] = None,
    limit: Annotated[int | None, typer.Option(help="log: how many commits to list.")] = None,
    base: Annotated[str | None, typer.Option(help="diff: the commit to compare from.")] = None,
    head: Annotated[
        str | None, typer.Option(help="diff: the commit to compare with; without it, the present files.")
    ] = None,
    commit: Annotated[str | None, typer.Option(help="restore: the commit whose state is restored.")] = None,
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    timeout_s: TimeoutOption = None,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Run a git operation in the project, e.g. `workbench run git commit -m 'first'`."""
    fields = {"op": op, "message": message, "limit": limit, "base": base, "head": head, "commit": commit}
    _launch(target, app_name, as_json, Project(user, project), "git", timeout_s, fields | {"paths": paths or None})


@app.command()
def files(
    op: Annotated[str, typer.Argument(help="The operation: list, read, write, delete or move.")],
    path: Annotated[str | None, typer.Argument(help="A path in the project.")] = None,
    to: Annotated[str | None, typer.Option(help="move: the new path.")] = None,
    content: Annotated[str | None, typer.Option(help="write: the file's text; without it, read from stdin.")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="write: also make a git commit.")] = None,
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Work on the project's files, e.g. `workbench run files write notes.txt --content hello`."""
    fields: dict[str, Any] = {"op": op, "path": path, "to": to, "message": message}
    if op == "write":
        with failing():
            text = content if content is not None else read_input("the file's text")
        fields = {"op": op, "files": [{"path": path or "", "content": text}], "message": message}
    _launch(target, app_name, as_json, Project(user, project), "files", None, fields)


@app.command()
def request(
    body: Annotated[Path, typer.Argument(help="A file that holds a whole request as JSON; - for stdin.")],
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Send a request that is written in a file, as JSON."""
    with failing():
        data = read_bytes("the request") if str(body) == "-" else _read(body)
        parsed = parse_request(data)
        _finish(target, app_name, as_json, lambda workbench: workbench.start(parsed))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"{path} cannot be read: {error.strerror}") from None


def _launch(
    target: str,
    app_name: str,
    as_json: bool,
    project: Project,
    action: str,
    timeout_s: int | None,
    fields: dict[str, Any],
) -> None:
    given = {name: value for name, value in {**fields, "timeout_s": timeout_s}.items() if value is not None}
    with failing():
        _finish(target, app_name, as_json, lambda workbench: workbench.launch(project, action, **given))


def _finish(target: str, app_name: str, as_json: bool, launch: "Callable[[Workbench], Run]") -> None:
    from workbench.session import connect

    with connect(target, app_name=app_name) as workbench:
        terminal = follow(launch(workbench), EventPrinter(as_json=as_json))
    if terminal.type == "error":
        raise typer.Exit(1)


def follow(run: "Run", show: EventPrinter) -> TerminalEvent:
    """Print a run's events until it ends, and return its terminal event.

    Ctrl-C, or a closed stdout, cancels the run and waits until its sandbox is gone.
    """
    try:
        for event in run.follow(timeout_s=None):
            show(event)
    except (KeyboardInterrupt, OutputLostError):
        say("cancelling …")
        run.cancel()
        raise
    finally:
        show.rest()
    return run.wait()
