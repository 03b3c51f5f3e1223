"""The rows of the suite, as its programs declare them, and what looking at all of them may cost on Modal."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from workbench.errors import WorkbenchError

AREAS = ("functions", "classes", "web", "sandboxes", "volumes", "objects", "images", "lookups")
DOCUMENTATION = "https://modal.com/docs/"
_NOT_DOCUMENTED = "(not documented)"  # see programs/parity_rows.py
_LIST_S = 60.0


class ParityError(WorkbenchError):
    """The suite cannot be run as it was asked for; the message says why."""


class Row(BaseModel):
    """One behaviour: in which area, what it is, its page, what is expected, and how long looking at it may take.

    `differs` is the row of the local cloud's list of differences that it belongs to, empty for none.
    """

    model_config = ConfigDict(frozen=True)

    area: str
    name: str
    behaviour: str
    source: str
    expects: Any
    differs: str
    seconds: int

    @property
    def key(self) -> str:
        """What the row is asked for by: its area and its name."""
        return f"{self.area}/{self.name}"

    @property
    def documented(self) -> bool:
        """Whether Modal's documentation says what is to be observed."""
        return bool(self.expects != _NOT_DOCUMENTED)


def catalogue(areas: Sequence[str] = AREAS) -> tuple[Row, ...]:
    """Every row of these areas. Raises ParityError for an area that there is not."""
    if unknown := [area for area in areas if area not in AREAS]:
        raise ParityError(f"there is no area '{unknown[0]}': there are {', '.join(AREAS)}")
    try:
        done = subprocess.run(
            command("--list", *(area for area in AREAS if area in areas)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIST_S,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last = str(error.stderr or error).strip().splitlines()[-1:]
        raise ParityError(f"the rows cannot be listed: {last[0] if last else 'no reason was given'}") from error
    return tuple(Row(**json.loads(line)) for line in done.stdout.splitlines())


def command(*arguments: str) -> list[str]:
    """How a program of the suite is run, in a process of its own; the arguments are those of `child`."""
    return [sys.executable, "-m", "workbench.parity.child", *arguments]


def cost(rows: Sequence[Row]) -> str:
    """What the rows may use of an account, at most, in words."""
    areas = sorted({row.area for row in rows}, key=AREAS.index)
    seconds = sum(row.seconds for row in rows)
    return (
        f"{len(rows)} rows of {len(areas)} areas, in turn: functions and sandboxes of the smallest size, for "
        f"{seconds / 60:.0f} minutes at most, usually a tenth of that, no GPU, in {len(areas)} apps that end with it"
    )
