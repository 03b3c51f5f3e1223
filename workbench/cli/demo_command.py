"""`workbench demo`: everything once, from an empty machine to committed files."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from modal_app.contract.events import TerminalEvent
from workbench.cli.common import EventPrinter, JsonOption, failing, prepare, print_json, say
from workbench.cli.run_commands import follow
from workbench.local_cloud import State, daemon, default_state_dir
from workbench.runs.project import Project

if TYPE_CHECKING:
    from workbench.runs.run import Run
    from workbench.session import Workbench

_CODE = """\
import os, pathlib, sys
print(f"Python {sys.version.split()[0]} as uid {os.getuid()} in {os.getcwd()}")
for number in range(1, 4):
    pathlib.Path(f"note-{number}.txt").write_text(f"note {number}\\n")
    print("wrote", f"note-{number}.txt")
pathlib.Path("src").mkdir(exist_ok=True)
pathlib.Path("src/main.py").write_text("print('hello')\\n")
"""
_PROMPT = "Write a small web page about this workbench: index.html, and its style in style.css."


def demo(
    as_json: JsonOption = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the local cloud running afterwards.")] = False,
) -> None:
    """See everything work: start the local cloud, deploy the endpoint, run Python, git and Claude jobs, list files."""
    began = time.monotonic() - (time.time() - psutil.Process().create_time())
    with failing():
        prepare()
        state = State(default_state_dir())
        say("starting the local cloud …")
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(daemon.start, state)
            from workbench.session import connect  # its import takes as long as the cloud's start

            running, started = starting.result()
        say(f"{'started' if started else 'runs already'}: {running.url}")
        try:
            with connect("local") as workbench:
                _show(workbench, began, as_json=as_json)
        finally:
            if started and not keep:
                say("stopping the local cloud …")
                daemon.stop(state)


def _show(workbench: "Workbench", began: float, *, as_json: bool) -> None:
    say("deploying modal_app with the stock modal command …")
    endpoint = workbench.deploy(
        with_claude=False
    )  # without Claude, to show events soon: its CLI takes a while to install
    say(f"deployed: {endpoint.url}/generate")
    project = Project.new()
    show = EventPrinter(as_json=as_json)
    runs: list[Run] = []
    ends: list[TerminalEvent] = []
    for title, action, fields in (
        ("a Python job on a new project", "python", {"code": _CODE}),
        ("git init", "git", {"op": "init"}),
        ("git commit", "git", {"op": "commit", "message": "what the job wrote"}),
    ):
        say(f"\n{title}")
        run = workbench.launch(project, action, **fields)
        ends.append(follow(run, show))
        runs.append(run)
    if (why_not := _add_claude(workbench)) is None:
        say("\na Claude job: the real CLI, with a model that follows a script unless it was given a key")
        runs.append(workbench.launch(project, "claude", prompt=_PROMPT))
        ends.append(follow(runs[-1], show))
    else:
        say(f"\nno Claude job: {why_not}")
    ok = all(end.type == "done" for end in ends)
    first_event_s = runs[0].received[0].at - began
    volume = workbench.volume(project)
    if as_json:
        hidden = (".git", ".workbench")
        print_json(
            {
                "type": "summary",
                "ok": ok,
                "url": endpoint.url,
                "user_id": project.user_id,
                "project_id": project.project_id,
                "first_event_s": round(first_event_s, 3),
                "runs": [
                    {"run_id": run.run_id, "outcome": end.type, "elapsed_ms": end.elapsed_ms, "timeline": _spans(run)}
                    for run, end in zip(runs, ends, strict=True)
                ],
                "without_claude": why_not,
                "files": [entry.path for entry in volume.entries() if not entry.path.startswith(hidden)],
            }
        )
    else:
        for run in runs:
            typer.echo(f"\ntimeline of {run.action} run {run.run_id}")
            typer.echo("\n".join(run.timeline.lines()))
        typer.echo(f"\ncommitted files of project {project.project_id}")
        typer.echo(volume.tree())
        typer.echo(f"\nfirst event {first_event_s:.1f} s after the command began")
        say("Next: `workbench lab` opens the same in JupyterLab; `workbench run python -c 'print(1)'` runs a job.")
    if not ok:
        raise typer.Exit(1)


def _add_claude(workbench: "Workbench") -> str | None:
    """Deploy again with the Claude CLI; returns None when that worked, else the reason why it did not."""
    from workbench.deployment.deploy import DeployFailedError

    if (why_not := workbench.why_without_claude) is not None:
        return why_not
    say("\nadding the Claude CLI to the sandboxes' image …")
    try:
        workbench.deploy()
    except DeployFailedError as error:
        return str(error)
    return None


def _spans(run: "Run") -> dict[str, int]:
    return {span.name: span.length_ms for span in run.timeline.spans}
