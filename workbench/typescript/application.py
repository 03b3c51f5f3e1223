"""Adds the client to a Next.js application, and brings it up to date: files that the application's team owns.

`workbench.json` beside the files remembers what was written, so that a later version replaces what nobody has changed
since, and leaves alone what the team has made its own.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
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
    """Files that the team has changed or deleted, and that are shipped differently now."""


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
    """Write the client's files; what the team has changed or deleted stays, unless `replace`.

    Raises NoApplicationError, OSError.
    """
    home = home_of_client(application)
    known = _known(home)
    changes = _changes(home, known)
    taken = [change for change in changes if replace or not change.is_the_teams]
    home.mkdir(parents=True, exist_ok=True)
    for change in taken:
        if change.text is None:
            (home / change.name).unlink()
        else:
            (home / change.name).write_text(change.text, encoding="utf-8")
    kept = [change.name for change in changes if change not in taken]
    # Of a file that was kept, what it was made of stays known: it is still the team's.
    digests = {name: known.get(name, "") if name in kept else _digest(text) for name, text in shipped().items()}
    manifest = {"version": version(_DISTRIBUTION), "files": digests}
    (home / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    def named(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(str((home / name).relative_to(application)) for name in sorted(names))

    return Added(
        written=named(change.name for change in taken if change.text is not None),
        removed=named(change.name for change in taken if change.text is None),
        kept=named(change.name for change in changes if change not in taken and change.is_news),
    )


def difference(application: Path, *, replace: bool = False) -> str:
    """What is new, as a unified diff, also in files that `add` would keep; empty when nothing is.

    With `replace`, also what the team has changed in files that are as they were shipped. Raises NoApplicationError.
    """
    home = home_of_client(application)
    lines: list[str] = []
    for change in _changes(home, _known(home)):
        if not (change.is_news or replace):
            continue
        path = (home / change.name).relative_to(application)
        lines += difflib.unified_diff(
            (change.there or "").splitlines(keepends=True),
            (change.text or "").splitlines(keepends=True),
            f"{path}" if change.there is not None else "/dev/null",
            f"{path} ({_DISTRIBUTION} {version(_DISTRIBUTION)})" if change.text is not None else "/dev/null",
        )
    return "".join(lines)


@dataclass(frozen=True)
class _Change:
    """A file that is not as it is shipped now."""

    name: str
    there: str | None
    """What the application has; None when it has no such file."""
    text: str | None
    """What is shipped; None when it is no longer."""
    is_the_teams: bool
    """Whether the team has written, changed or deleted it."""
    is_news: bool
    """Whether what is shipped is another than when the file was written."""


def _changes(home: Path, known: Mapping[str, str]) -> list[_Change]:
    ours = shipped()
    found = []
    for name in sorted({*ours, *known}):
        there, text, before = _text(home / name), ours.get(name), known.get(name)
        if there == text:
            continue
        as_written = before is None if there is None else before == _digest(there)
        if text is None and not as_written:
            continue  # of no use to us any more, and the team's
        found.append(_Change(name, there, text, not as_written, text is None or before != _digest(text)))
    return found


def _known(home: Path) -> Mapping[str, str]:
    """The digests of the files as they were written; empty when there is no manifest, or none that can be read."""
    try:
        found = json.loads((home / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in found.items() if name == Path(name).name}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
