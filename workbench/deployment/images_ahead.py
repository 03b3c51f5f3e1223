"""Which images of a program are built already, and building the others ahead of the first sandbox that needs them.

A deployment builds the images of functions only: an image that sandboxes alone use is unknown to whoever deploys until
a sandbox asks for it, and that sandbox then waits. Here the program's module is loaded, in a child process. Blocking
calls.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from workbench.errors import WorkbenchError
from workbench.local_cloud import ONLY_LOOK

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
    return _asked(program, {**env, "MODAL_OVERRIDE_HEADERS": f"{ONLY_LOOK}:1"}, LOOK_TIMEOUT_S)


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
    with subprocess.Popen(
        [sys.executable, "-m", "workbench.deployment.program_images", *arguments],
        env={**env, "NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed: list[str] = []
        reader = threading.Thread(target=_follow, args=(process.stderr, printed, on_line), daemon=True)
        deadline = threading.Timer(timeout_s, process.kill)
        deadline.daemon = True
        reader.start()
        deadline.start()
        try:
            found: list[dict[str, Any]] = [json.loads(line) for line in process.stdout]
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            deadline.cancel()
        reader.join()
    if code == 0:
        return tuple(ProgramImage(**one) for one in found)
    program = arguments[-1]
    if found and "failed" in found[-1]:
        raise ProgramUnreadableError(f"the images of {program} cannot be found out: {found[-1]['failed']}")
    last = printed[-1] if printed else f"it did not end within {timeout_s:g} s" if code < 0 else "it gave no reason"
    raise ProgramUnreadableError(f"the images of {program} cannot be found out: {last}")


def _follow(lines: Any, printed: list[str], on_line: Callable[[str], None]) -> None:
    for line in lines:
        if text := line.rstrip():
            printed.append(text)
            on_line(text)
