"""`workbench volume`: shows a project's committed files and, on the local cloud, their history."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import BaseModel

from modal_app import DEFAULT_APP_NAME
from modal_app.contract.paths import check_path
from workbench.cli.common import AppNameOption, JsonOption, TargetOption, failing, print_json
from workbench.cli.run_commands import DEFAULT_ID, ProjectOption, UserOption
from workbench.cli.standard_streams import print_bytes
from workbench.runs.project import Project
from workbench.text.plain_text import printable

if TYPE_CHECKING:
    from workbench.files.history import CommitInfo
    from workbench.files.project_files import ProjectVolume

app = typer.Typer(
    no_args_is_help=True,
    help="A project's committed files and, on the local cloud, their history: who changed what and when; restore.",
)
Fact = TypeVar("Fact", bound=BaseModel)


def _checked(path: str) -> str:
    try:
        return path and check_path(path)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


PathArgument = Annotated[
    str, typer.Argument(help="A path in the project; the whole project if not given.", callback=_checked)
]
FileArgument = Annotated[str, typer.Argument(help="A file of the project.", callback=_checked)]


@contextmanager
def _volume(target: str, app_name: str, user: str, project: str) -> "Iterator[ProjectVolume]":
    from workbench.session import connect

    with failing(), connect(target, app_name=app_name) as workbench:
        yield workbench.volume(Project(user, project))


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


@app.command()
def tree(
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
) -> None:
    """Show the committed files as a tree."""
    with _volume(target, app_name, user, project) as volume:
        typer.echo(printable(volume.tree()))


@app.command()
def read(
    path: FileArgument,
    commit: Annotated[int, typer.Option(min=0, help="Show it as it was after this commit; 0: as it is now.")] = 0,
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
) -> None:
    """Print a file's bytes unchanged. Redirect files that may contain control characters for the terminal."""
    with _volume(target, app_name, user, project) as volume:
        print_bytes(volume.read_at(path, commit) if commit else volume.read(path))


@app.command()
def history(
    path: PathArgument = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many commits to list at most.")] = 20,
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """List commits, the newest first: number, time (UTC), author, and changed paths."""
    with _volume(target, app_name, user, project) as volume:
        found = volume.history(path, limit=limit)
    _each(found, as_json, _commit_lines)


def _commit_lines(one: "CommitInfo") -> str:
    shown = [f"  {'-' if change.removed else '+'} {printable(change.path)}" for change in one.changes[:20]]
    more = [f"  … and {len(one.changes) - 20} more"] if len(one.changes) > 20 else []
    return "\n".join([f"{one.number:>5}  {_when(one.at)}  {printable(one.author)}", *shown, *more])


@app.command()
def diff(
    base: Annotated[int, typer.Argument(min=0, help="The commit to compare from; 0: the empty project.")],
    head: Annotated[int, typer.Argument(min=0, help="The commit to compare with; 0: the present state.")] = 0,
    path: Annotated[
        str, typer.Option(help="Compare only this path; for a file, line by line.", callback=_checked)
    ] = "",
    holder: Annotated[
        str, typer.Option(help="With --path: compare with the working copy of this sandbox, as named by `uncommitted`.")
    ] = "",
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Tell what differs between two commits."""
    if holder and not path:
        raise typer.BadParameter("--holder compares one file: name it with --path; `uncommitted` lists what differs")
    with _volume(target, app_name, user, project) as volume:
        found = [] if holder else volume.diff(base, head, path=path)
        lines = bool(path) and [(one.path, one.what) for one in found] == [(path, "modified")] and not as_json
        text = volume.diff_text(path, base, holder or head) if lines or (path and holder) else ""
    if holder and as_json:
        print_json({"path": path, "holder": holder, "diff": text})
    elif text:
        typer.echo(printable(text), nl=False)
    else:
        _each(found, as_json, lambda one: f"{one.what:<8}  {printable(one.path)}")


@app.command()
def blame(
    path: Annotated[str, typer.Argument(help="A text file of the project.", callback=_checked)],
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Show each line of a file with the commit that added it."""
    with _volume(target, app_name, user, project) as volume:
        found = volume.blame(path)
    _each(found, as_json, lambda one: f"{one.commit:>5}  {_when(one.at)}  {printable(one.text)}")


@app.command()
def restore(
    commit: Annotated[int, typer.Argument(min=1, help="The commit whose state is restored.")],
    path: Annotated[str, typer.Option(help="Restore only this path.", callback=_checked)] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
) -> None:
    """Restore a project, or one path of it, to the state at a commit, as a new commit. The history is kept."""
    with _volume(target, app_name, user, project) as volume:
        if not yes:
            typer.confirm(f"Restore {path or 'the whole project'} to commit {commit}?", abort=True)
        number = volume.restore(commit, path)
    typer.echo("nothing differs" if number is None else f"restored as commit {number}")


@app.command()
def uncommitted(
    user: UserOption = DEFAULT_ID,
    project: ProjectOption = DEFAULT_ID,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Show what running sandboxes and containers have written in the project and not committed."""
    with _volume(target, app_name, user, project) as volume:
        found = volume.uncommitted()
    _each(
        found,
        as_json,
        lambda one: "\n".join(
            [
                f"{one.holder} at {one.mount_path}: {one.files} files, {one.size} bytes",
                *(f"  {printable(path)}" for path in one.paths[:20]),
            ]
        ),
    )
    if not found and not as_json:
        typer.echo("no sandbox or container has this project mounted")


def _each(found: "Sequence[Fact]", as_json: bool, line: "Callable[[Fact], str]") -> None:
    for one in found:
        if as_json:
            print_json(one.model_dump_json())
        else:
            typer.echo(line(one))
