"""Adds the client to a Next.js application, and brings it up to date: files that the application's team owns.

`workbench.json` beside the files remembers what was written, so that a later version replaces what nobody has changed
since, and leaves alone what the team has made its own.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from modal_app.endpoint_settings import Timeouts
from workbench.errors import WorkbenchError
from workbench.typescript.constants import constants

_MANIFEST = "workbench.json"
_DISTRIBUTION = "modal-workbench"


class NoApplicationError(WorkbenchError):
    """The directory holds no application that the client could be added to."""


@dataclass(frozen=True)
class Added:
    """What an addition has done, as paths relative to the application."""

    written: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    """Files that the team has changed, and that a newer version would change, too."""


def shipped(timeouts: Timeouts | None = None) -> dict[str, str]:
    """The client's files: their names and texts."""
    ours = {
        path.name: path.read_text(encoding="utf-8")
        for path in files("workbench.typescript").joinpath("client").iterdir()
        if path.name.endswith((".ts", ".tsx"))
    }
    contract = files("modal_app.contract").joinpath("generate.d.ts").read_text(encoding="utf-8")
    return dict(sorted({**ours, "generate.d.ts": contract, "constants.ts": constants(timeouts or Timeouts())}.items()))


def home_of_client(application: Path) -> Path:
    """Where the client's files are, or belong: `lib/workbench`, below `src` when the application has it.

    Raises NoApplicationError when the directory has no package.json.
    """
    if not (application / "package.json").is_file():
        raise NoApplicationError(
            f"{application} is no application: it has no package.json. Name the directory that `create-next-app` made"
        )
    root = application / "src" if (application / "src").is_dir() else application
    return root / "lib" / "workbench"


def add(application: Path, *, replace: bool = False) -> Added:
    """Write the client's files; what the team has changed stays, unless `replace`.

    Raises NoApplicationError, OSError.
    """
    home = home_of_client(application)
    ours = shipped()
    known = _known(home)
    written, kept, removed = [], [], []
    home.mkdir(parents=True, exist_ok=True)
    for name, text in ours.items():
        there = _text(home / name)
        if there == text:
            continue
        if there is None or replace or known.get(name) == _digest(there):
            (home / name).write_text(text, encoding="utf-8")
            written.append(name)
        else:
            kept.append(name)
    for name in known.keys() - ours.keys():
        there = _text(home / name)
        if there is not None and known[name] == _digest(there):
            (home / name).unlink()
            removed.append(name)
    # Of a file that was kept, what it was made of stays known: it is still the team's.
    digests = {name: known.get(name, "") if name in kept else _digest(text) for name, text in ours.items()}
    manifest = {"version": version(_DISTRIBUTION), "files": digests}
    (home / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    def named(names: list[str]) -> tuple[str, ...]:
        return tuple(str((home / name).relative_to(application)) for name in sorted(names))

    return Added(written=named(written), removed=named(removed), kept=named(kept))


def difference(application: Path) -> str:
    """What `add` with `replace` would change, as a unified diff; empty when nothing. Raises NoApplicationError."""
    home = home_of_client(application)
    lines: list[str] = []
    for name, text in shipped().items():
        there = _text(home / name)
        path = (home / name).relative_to(application)
        lines += difflib.unified_diff(
            (there or "").splitlines(keepends=True),
            text.splitlines(keepends=True),
            f"{path}" if there is not None else "/dev/null",
            f"{path} ({_DISTRIBUTION} {version(_DISTRIBUTION)})",
        )
    return "".join(lines)


def _known(home: Path) -> Mapping[str, str]:
    """The digests of the files as they were written; empty when there is no manifest, or none that can be read."""
    try:
        found = json.loads((home / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in found.items() if name == Path(name).name}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
