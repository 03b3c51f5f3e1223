"""Writes an endpoint's address and secret to an application's `.env.local`, which its server reads.

No name begins with NEXT_PUBLIC_: what has such a name is put into the pages.
"""

import re
import subprocess
from pathlib import Path

from workbench.deployment.endpoint import Endpoint
from workbench.errors import WorkbenchError
from workbench.machine import private_files

NAME = ".env.local"
_GIT_S = 20
_QUOTES = "'\"`"


class UnsafePlaceError(WorkbenchError):
    """The secret would be written where it does not stay secret, or could not be read from there."""


def require_ignored(application: Path) -> None:
    """Raise UnsafePlaceError when git would commit the file."""
    try:
        asked = subprocess.run(
            ["git", "check-ignore", "--quiet", NAME], cwd=application, capture_output=True, timeout=_GIT_S, check=False
        )
    except FileNotFoundError:
        return  # no git, no repository
    except subprocess.TimeoutExpired:
        raise UnsafePlaceError(
            f"git did not say within {_GIT_S} s whether it ignores {NAME}: "
            f"try `git check-ignore {NAME}` in {application}"
        ) from None
    if asked.returncode == 1:
        raise UnsafePlaceError(
            f"git does not ignore {NAME}, so the endpoint's secret would be committed: "
            f"add the line {NAME} to {application / '.gitignore'}"
        )


def write(application: Path, endpoint: Endpoint) -> bool:
    """Set WORKBENCH_URL and WORKBENCH_SECRET in the file, which only its owner can read; other lines stay.

    Returns whether it has changed. Raises UnsafePlaceError before anything is written, and OSError.
    """
    require_ignored(application)
    path = application / NAME
    values = {"WORKBENCH_URL": endpoint.url, "WORKBENCH_SECRET": endpoint.secret.get_secret_value()}
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = [line for line in old.splitlines() if not re.match(rf"\s*(export\s+)?({'|'.join(values)})\s*=", line)]
    new = "".join(f"{line}\n" for line in [*kept, *(f"{name}={_quoted(value)}" for name, value in values.items())])
    if new == old:
        return False
    private_files.write_text(path, new)
    return True


def _quoted(value: str) -> str:
    """A value as Next.js reads it back: in quotes that it does not hold, and with `$` kept from being expanded."""
    quote = next((quote for quote in _QUOTES if quote not in value), None)
    if quote is None or "\\" in value or not value.isprintable():
        raise UnsafePlaceError(f"the endpoint's secret cannot be written to {NAME}: deploy with another")
    return f"{quote}{value.replace('$', chr(92) + '$')}{quote}"
