"""What people call things: names of projects, names and notes of runs, and filters that were saved.

They are the reader's own and no part of any archive: a file beside the secrets of the target, so that every notebook,
page and command of this machine's user shows the same. Blocking calls, safe from any thread and process.
"""

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.fields import Uuid
from workbench.errors import WorkbenchError
from workbench.machine import private_files
from workbench.runs.project import Project

NAME_CHARS = 60
NOTE_CHARS = 2000
MOST_PROJECTS = 1000
MOST_RUNS = 5000
MOST_FILTERS = 50
_FILE = Path("names") / "labels.json"  # a directory of its own: beside it, files are named for apps

Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS)]
Note = Annotated[str, Field(max_length=NOTE_CHARS)]
Row = TypeVar("Row")


class LabelsUnreadableError(WorkbenchError):
    """The file of names and notes is not what the workbench writes; the message tells which, and what to do."""


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Ids(_Kept):
    user_id: Uuid
    project_id: Uuid


class RunLabel(_Kept):
    """What somebody calls a run, and what they have noted about it; both may be empty."""

    name: Annotated[str, Field(max_length=NAME_CHARS)] = ""
    note: Note = ""


class SavedFilter(_Kept):
    """What a table of runs is narrowed to, and by what it is grouped; empty for all and by nothing."""

    text: Note = ""
    outcome: Name | Annotated[str, Field(max_length=0)] = ""
    action: Name | Annotated[str, Field(max_length=0)] = ""
    group: Name | Annotated[str, Field(max_length=0)] = ""


class _All(_Kept):
    projects: dict[Name, _Ids] = Field(default_factory=dict)
    runs: dict[Uuid, RunLabel] = Field(default_factory=dict)
    filters: dict[Name, SavedFilter] = Field(default_factory=dict)


class Labels:
    """The names and notes of one target's user.

    Every call raises LabelsUnreadableError when the file cannot be read, and OSError when it cannot be written; those
    that take a name or a note raise ContractError `invalid_request`, and change nothing, when it is none.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE

    def projects(self) -> dict[str, Project]:
        """The projects that have a name, the one named last first."""
        return {name: Project(one.user_id, one.project_id) for name, one in reversed(self._read().projects.items())}

    def project(self, name: str) -> Project:
        """The project of this name. Raises KeyError when there is none."""
        return self.projects()[name]

    def name_of(self, project: Project) -> str:
        """What a project is called; empty when it has no name."""
        return next((name for name, one in self.projects().items() if one == project), "")

    def name_project(self, name: str, project: Project) -> None:
        """Call a project by this name: instead of what it was called before, and of the project that had the name."""
        ids = _checked(lambda: _Ids(user_id=project.user_id, project_id=project.project_id), "a project's id")
        name = _name(name)
        with self._changed() as kept:
            others = {one: old for one, old in kept.projects.items() if one != name and old != ids}
            self._write(kept, projects=_bounded({**others, name: ids}, MOST_PROJECTS, "projects have names"))

    def forget_project(self, name: str) -> None:
        """Forget a project's name; its files stay. Raises KeyError when no project has it."""
        with self._changed() as kept:
            if name not in kept.projects:
                raise KeyError(name)
            self._write(kept, projects={one: ids for one, ids in kept.projects.items() if one != name})

    def runs(self) -> dict[str, RunLabel]:
        """What is noted of runs, by their ids."""
        return self._read().runs

    def label_run(self, run_id: str, *, name: str = "", note: str = "") -> None:
        """Name a run and note something about it, in place of what was noted before; with neither, forget that."""
        label = RunLabel(name=_name(name) if name else "", note=_note(note))
        with self._changed() as kept:
            runs = {one: old for one, old in kept.runs.items() if one != run_id}
            if label != RunLabel():
                runs = _bounded({**runs, run_id: label}, MOST_RUNS, "runs have names or notes")
            self._write(kept, runs=runs)

    def filters(self) -> dict[str, SavedFilter]:
        """The filters that were saved, the oldest first."""
        return self._read().filters

    def save_filter(self, name: str, values: Mapping[str, object]) -> None:
        """Save what a table is narrowed to, in place of what had this name."""
        saved = _checked(lambda: SavedFilter.model_validate(dict(values)), "a filter")
        name = _name(name)
        with self._changed() as kept:
            self._write(kept, filters=_bounded({**kept.filters, name: saved}, MOST_FILTERS, "filters are saved"))

    def forget_filter(self, name: str) -> None:
        """Forget a saved filter. Idempotent."""
        with self._changed() as kept:
            self._write(kept, filters={one: old for one, old in kept.filters.items() if one != name})

    def _read(self) -> _All:
        try:
            return _All.model_validate(private_files.read(self._path))
        except (OSError, ValueError) as error:  # a ValidationError is a ValueError
            raise LabelsUnreadableError(
                f"the names and notes in {self._path} cannot be read ({type(error).__name__}): mend the file, or move "
                "it away to begin anew"
            ) from None

    @contextmanager
    def _changed(self) -> Iterator[_All]:
        """What is kept, while no other process changes it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for the time of one small write
            yield self._read()

    def _write(self, kept: _All, **changed: object) -> None:
        values = {name: getattr(kept, name) for name in _All.model_fields} | changed
        whole = _checked(lambda: _All.model_validate(values), "what is named")
        private_files.write_text(self._path, whole.model_dump_json())


def _name(text: str) -> str:
    name = text.strip()
    if not 0 < len(name) <= NAME_CHARS or not name.isprintable():
        raise _refused(f"a name has 1 to {NAME_CHARS} printable characters on one line")
    return name


def _note(text: str) -> str:
    if len(text) > NOTE_CHARS or not all(one.isprintable() or one in "\n\t" for one in text):
        raise _refused(f"a note has at most {NOTE_CHARS} printable characters")
    return text.strip()


def _checked(make: Callable[[], Row], what: str) -> Row:
    try:
        return make()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _refused(f"{what}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _bounded(rows: dict[str, Row], most: int, what: str) -> dict[str, Row]:
    if len(rows) > most:
        raise _refused(f"{most} {what} already: forget one first")
    return rows


def _refused(message: str) -> ContractError:
    return ContractError(ErrorCode.INVALID_REQUEST, message)
