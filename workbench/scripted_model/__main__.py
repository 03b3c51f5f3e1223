"""`python -m workbench.scripted_model SCRIPT.yaml`: a scripted model in a process of its own.

The first line on stdout is `{"url": …}`, when it serves. It ends with SIGTERM or SIGINT, and with `--until-eof` also
when its stdin, a pipe, ends, so that it never outlives the process that started it. The credential that it accepts
comes in WORKBENCH_SCRIPTED_MODEL_KEY; without one it makes its own and says it in that line as `key`.
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

from workbench.scripted_model import Script, ScriptedModel, ScriptError, load_script

KEY_VARIABLE = "WORKBENCH_SCRIPTED_MODEL_KEY"


async def _serve(script: Script, key: str, port: int, *, until_eof: bool) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if until_eof:
        loop.add_reader(sys.stdin.fileno(), _listen, loop, ended)
    async with ScriptedModel(script, key=SecretStr(key) if key else None, port=port) as model:
        told = {"url": model.url} if key else {"url": model.url, "key": model.key.get_secret_value()}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        await ended.wait()


def _listen(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        ended.set()


def serve(
    script: Annotated[Path, typer.Argument(help="a script, as YAML")],
    port: Annotated[int, typer.Option(help="0: any free one")] = 0,
    until_eof: Annotated[bool, typer.Option("--until-eof", help="end when stdin ends")] = False,
) -> None:
    """Serve a scripted Messages API on loopback until it is told to end."""
    try:
        played = load_script(script)
    except ScriptError as error:
        typer.echo(f"{script}: {error}", err=True)
        raise typer.Exit(2) from None
    asyncio.run(_serve(played, os.environ.get(KEY_VARIABLE, ""), port, until_eof=until_eof))


if __name__ == "__main__":
    typer.run(serve)
