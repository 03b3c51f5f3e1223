"""`python -m workbench.scripted_model SCRIPT.yaml`: a scripted model in a process of its own.

Once it serves, its first line on stdout is `{"url": …}`. It ends on SIGTERM or SIGINT. With `--until-eof` it also ends
when its stdin ends, so that it does not outlive the process that has started it. With `--beside PID` it goes on in the
background, adds its own process id to that line, and ends with the process PID. The credential that it accepts is read
from WORKBENCH_SCRIPTED_MODEL_KEY; without one it makes its own and adds it to that line as `key`. Whoever shows the key
of WORKBENCH_SCRIPTED_MODEL_CONTROL_KEY may lend it other scripts; without that variable, nobody may.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from workbench.local_cloud import start_of
from workbench.scripted_model import Script, ScriptedModel, ScriptError, load_script

KEY_VARIABLE = "WORKBENCH_SCRIPTED_MODEL_KEY"
CONTROL_KEY_VARIABLE = "WORKBENCH_SCRIPTED_MODEL_CONTROL_KEY"


async def _serve(script: Script, key: str, port: int, *, until_eof: bool, beside: int | None) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if until_eof:
        loop.add_reader(sys.stdin.fileno(), _listen, loop, ended)
    control = SecretStr(found) if (found := os.environ.get(CONTROL_KEY_VARIABLE)) else None
    async with ScriptedModel(script, key=SecretStr(key) if key else None, control=control, port=port) as model:
        if beside is not None:
            loop.add_reader(beside, ended.set)
        told: dict[str, object] = {"url": model.url}
        if not key:
            told["key"] = model.key.get_secret_value()
        if beside is not None:
            told |= {"pid": os.getpid(), "pid_started": start_of(os.getpid())}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        if beside is not None:
            _leave_the_pipes()
        await ended.wait()


def _listen(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        ended.set()


def _leave_the_pipes() -> None:
    """Replace stdin, stdout and stderr, so that a caller who waits for the end of the output can go on."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def serve(
    script: Annotated[Path, typer.Argument(help="The script, a YAML file.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: any free one.")] = 0,
    until_eof: Annotated[bool, typer.Option("--until-eof", help="End when stdin ends.")] = False,
    beside: Annotated[
        int, typer.Option(help="Go on in the background, and end when the process with this id ends.")
    ] = 0,
) -> None:
    """Serve a scripted Messages API on loopback until a signal ends it."""
    try:
        played = load_script(script)
    except ScriptError as error:
        typer.echo(f"{script}: {error}", err=True)
        raise typer.Exit(2) from None
    process: int | None = None
    if beside:
        try:
            process = os.pidfd_open(beside)
        except ProcessLookupError:
            typer.echo(f"there is no process {beside}", err=True)
            raise typer.Exit(2) from None
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
    asyncio.run(_serve(played, os.environ.get(KEY_VARIABLE, ""), port, until_eof=until_eof, beside=process))


if __name__ == "__main__":
    typer.run(serve)
