"""`workbench run`: launch a job from the shell and see its events as they arrive.

Without --user and --project every command works on one project of this machine, so that they build on each other.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modal_app import DEFAULT_APP_NAME
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import TerminalEvent
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
UserOption = Annotated[str, typer.Option("--user", envvar="WORKBENCH_USER_ID", help="The user's UUID.")]
ProjectOption = Annotated[str, typer.Option("--project", envvar="WORKBENCH_PROJECT_ID", help="The project's UUID.")]
TimeoutOption = Annotated[int | None, typer.Option("--timeout-s", min=1, help="Seconds that the process may take.")]
DEFAULT_ID = str(_SHELL)


@app.command()
def claude(
    prompt: Annotated[str | None, typer.Argument(help="What to do; without it, what is piped in.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this session.")] = None,
    fork: Annotated[bool, typer.Option("--fork", help="Go on from the session under a new one.")] = False,
    model: Annotated[str | None, typer.Option(help="The model's name.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="How many answers of the model at most.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="A tool that may be used: Bash, 'Bash(git *)'.")] = None,
    permission_mode: Annotated[str | None, typer.Option(help="The CLI's mode, e.g. plan or acceptEdits.")] = None,
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
    code: Annotated[str | None, typer.Option("--code", "-c", help="The program itself.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A program on this machine.", exists=True)] = None,
    path: Annotated[str | None, typer.Option("--path", help="A program in the project.")] = None,
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    with_stdin: Annotated[bool, typer.Option("--stdin", help="Give the program what stands on this stdin.")] = False,
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
    op: Annotated[str, typer.Argument(help="init, status, log, diff, commit or restore.")],
    paths: Annotated[list[str] | None, typer.Argument(help="restore: the paths, all when there are none.")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="commit: its message.")] = None,
    limit: Annotated[int | None, typer.Option(help="log: how many commits.")] = None,
    base: Annotated[str | None, typer.Option(help="diff: compare from this commit.")] = None,
    head: Annotated[str | None, typer.Option(help="diff: to this one, else to the files.")] = None,
    commit: Annotated[str | None, typer.Option(help="restore: from this commit.")] = None,
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
    op: Annotated[str, typer.Argument(help="list, read, write, delete or move.")],
    path: Annotated[str | None, typer.Argument(help="A path in the project.")] = None,
    to: Annotated[str | None, typer.Option(help="move: the new path.")] = None,
    content: Annotated[str | None, typer.Option(help="write: the file's text; without it, what is piped in.")] = None,
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
    body: Annotated[Path, typer.Argument(help="A file with the whole request in JSON; - for stdin.")],
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Send a request as it stands in a file."""
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
    """Print a run's events up to its end; Ctrl-C, or a reader that leaves, cancels it and waits for its sandbox."""
    try:
        for event in run.follow():
            show(event)
    except (KeyboardInterrupt, OutputLostError):
        say("cancelling …")
        run.cancel()
        raise
    return run.wait()
