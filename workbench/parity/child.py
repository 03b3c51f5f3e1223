"""Looks at rows of one program of the suite: `python -m workbench.parity.child AREA ROW…`.

A process of its own, in which the real SDK talks to the target that its variables name. `--list AREA…` lists the rows
of programs, `--clean` removes what rows of this run have left. Each line that it prints is one
JSON object: `{"begins": ROW}`, `{"row": ROW, "seen": …}`, or `{"failed": WHY}` when the program itself does not run.
Whatever else is printed goes to standard error.
"""

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs"
_SHOWN_CHARS = 1000
_ID = re.compile(r"\b[a-z]{2}-[A-Za-z0-9]{20,}")  # of an object of one target only


def main() -> None:
    """Do what the arguments say."""
    what, *names = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a program prints is not an observation

    def say(**found: Any) -> None:
        out.write(json.dumps(found) + "\n")
        out.flush()

    sys.path.insert(0, str(PROGRAMS))  # the SDK mounts a module at the top as one file, into its containers' /root
    if what == "--list":
        for area in names:
            importlib.import_module(f"parity_{area}")
        for row in _rows().values():
            say(**{field: value for field, value in vars(row).items() if field != "look"})
    elif what == "--clean":
        importlib.import_module("parity_rows").clean()
    else:
        _look(what, names, say)


def _rows() -> dict[tuple[str, str], Any]:
    rows: dict[tuple[str, str], Any] = importlib.import_module("parity_rows").ROWS
    return rows


def _look(area: str, names: list[str], say: Callable[..., None]) -> None:
    program = importlib.import_module(f"parity_{area}")
    try:
        with program.app.run():
            for name in names:
                say(begins=name)
                began = time.monotonic()
                say(row=name, seen=_seen(_rows()[area, name].look), took_s=round(time.monotonic() - began, 3))
    except Exception as error:  # noqa: BLE001  # the reason why the rows were not looked at, whatever it is
        say(failed=_told(error))


def _seen(look: Any) -> Any:
    """What a row has seen, as JSON; what it raises is an observation, too."""
    try:
        return json.loads(json.dumps(look()))
    except Exception as error:  # noqa: BLE001  # see above
        return {"raises": type(error).__name__, "says": _told(error)}


def _told(error: Exception) -> str:
    return _ID.sub("ID", f"{type(error).__name__}: {' '.join(str(error).split())}")[:_SHOWN_CHARS]


if __name__ == "__main__":
    main()
