"""Which images of a program are built already, and building the others ahead of the first sandbox that needs them.

A deployment builds the images of functions only: an image that sandboxes alone use is unknown to whoever deploys until
a sandbox asks for it, and that sandbox then waits. Here the program's module is loaded, in a child process. Blocking
calls.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from workbench import local_cloud
from workbench.deployment.children import run_to_end
from workbench.errors import WorkbenchError

LOOK_TIMEOUT_S = 120.0
BUILD_TIMEOUT_S = 3600.0


class ProgramUnreadableError(WorkbenchError):
    """A program's images cannot be found out, since it cannot be loaded or the cloud refuses; the message says why."""


class ProgramImage(BaseModel):
    """An image of a program by its name there, such as `image` or `images['web']`; `why` says why it is `failed`."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: Literal["built", "not built", "failed"]
    why: str = ""


def look(program: Sequence[str], env: Mapping[str, str]) -> tuple[ProgramImage, ...]:
    """The images of a program with their states on the local cloud that `env` names; nothing is built.

    `program` are the words that `modal deploy` takes: a file, or `-m` and a module. Raises ProgramUnreadableError.
    """
    return _asked(program, {**env, "MODAL_OVERRIDE_HEADERS": f"{local_cloud.ONLY_LOOK}:1"}, LOOK_TIMEOUT_S)


def build(
    program: Sequence[str], env: Mapping[str, str], *, on_line: Callable[[str], None] = lambda line: None
) -> tuple[ProgramImage, ...]:
    """Build those images of a program that are not built yet, on any target; `on_line` gets what the builds print.

    Raises ProgramUnreadableError; an image that cannot be built is `failed`.
    """
    return _asked(["--build", *program], env, BUILD_TIMEOUT_S, on_line)


def _asked(
    arguments: Sequence[str],
    env: Mapping[str, str],
    timeout_s: float,
    on_line: Callable[[str], None] = lambda line: None,
) -> tuple[ProgramImage, ...]:
    """Run the child to its end, and return the images that it tells of."""
    command = [sys.executable, "-m", "workbench.deployment.program_images", *arguments]

    def said(line: str) -> None:
        if line:
            on_line(line)

    done = run_to_end(command, env, timeout_s=timeout_s, on_line=said, answers=True)
    if done.late:
        raise _unreadable(arguments, f"it did not end within {timeout_s:g} s")
    found: list[dict[str, Any]] = [json.loads(line) for line in done.answer.splitlines()]
    if done.code == 0:
        return tuple(ProgramImage(**one) for one in found)
    last = [line for line in done.lines if line][-1:] or ["it gave no reason"]
    raise _unreadable(arguments, found[-1].get("failed", last[0]) if found else last[0])


def _unreadable(arguments: Sequence[str], why: str) -> ProgramUnreadableError:
    return ProgramUnreadableError(f"the images of {arguments[-1]} cannot be found out: {why}")
