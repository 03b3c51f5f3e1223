"""Compares two ended runs: their facts, how long their steps took, their events, and the files that they wrote.

Events are compared as lines of their channels without ids and times, so that two runs of one job compare as equal.
Only `compare` makes (blocking) calls; a Comparison is data.
"""

import difflib
import html
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.files.history import HistoryError, HistoryUnavailableError, run_of
from workbench.files.project_files import ProjectVolume
from workbench.runs.archived_run import ArchivedRun
from workbench.runs.channel_lines import Line, both
from workbench.runs.project import Project
from workbench.text.plain_text import one_line
from workbench.text.static_html import columns, table

MAX_LINES = 2000  # of each channel; comparing long texts is slow
MAX_COMMITS = 1000  # commits of a project among which those of a run are looked for
_AROUND = 3  # equal lines that are shown before and after a difference
_LINE = 400  # characters of a line that are shown

Verdict = Literal["same", "differs", "left only", "right only"]


@dataclass(frozen=True)
class Compared:
    """One row of a comparison: a name, the left run's value and the right run's value."""

    name: str
    left: str
    right: str
    verdict: Verdict


@dataclass(frozen=True)
class Written:
    """A file that a run has changed: `what` is "added", "modified" or "removed", `commit` the run's last commit."""

    path: str
    what: str
    size: int
    sha256: str
    commit: int


@dataclass(frozen=True)
class Comparison:
    """Two runs and the files that each wrote. `files_problem` says why the files could not be compared, if so."""

    left: ArchivedRun
    right: ArchivedRun
    left_files: tuple[Written, ...] = ()
    right_files: tuple[Written, ...] = ()
    files_problem: str = ""

    def facts(self) -> list[Compared]:
        """The facts of both archives, safe to show."""
        return _joined(dict(self.left.facts()), dict(self.right.facts()))

    def timeline(self) -> list[Compared]:
        """How long each phase and step took, in both runs."""
        return _joined(_lengths(self.left), _lengths(self.right))

    def files(self) -> list[Compared]:
        """The files that the runs wrote. Two are equal when they have the same bytes, or both were removed."""
        left, right = ({one.path: one for one in files} for files in (self.left_files, self.right_files))
        rows = []
        for path in sorted(left.keys() | right.keys()):
            one, other = left.get(path), right.get(path)
            same = one is not None and other is not None and one.sha256 == other.sha256
            rows.append(Compared(one_line(path), _written(one), _written(other), _verdict(one, other, same=same)))
        return rows

    def events(self) -> list[Compared]:
        """The events of both, line by line in each channel; a long stretch of equal lines is one row. Safe to show.

        What two channels say at one time comes in any order, so lines are held against lines of their own channel.
        """
        return [
            row
            for channel, left, right in both(self.left.events, self.right.events)
            for row in _aligned(channel, _texts(left), _texts(right))
        ]

    @property
    def differs(self) -> bool:
        """Whether the runs differ in their events or in the files that they wrote."""
        return any(row.verdict != "same" for row in (*self.events(), *self.files()))

    def __repr__(self) -> str:
        return f"Comparison({self.left.run_id}, {self.right.run_id})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        title = f"Runs {self.left.run_id} and {self.right.run_id}"
        plain, parts = [title], [f"<strong>{html.escape(title)}</strong>"]
        for name, rows in self.parts():
            heading = (name, "left", "right", "")
            cells = [(row.name, row.left, row.right, row.verdict) for row in rows]
            plain += ["", *columns([heading, *cells])]
            parts.append(table(heading, cells))
        if self.files_problem:
            plain.append(self.files_problem)
            parts.append(f"<p>{html.escape(self.files_problem)}</p>")
        return {"text/plain": "\n".join(plain), "text/html": f"<div>{''.join(parts)}</div>"}

    def parts(self) -> Iterator[tuple[str, list[Compared]]]:
        """Every part of the comparison, as (title, rows)."""
        yield "facts", self.facts()
        yield "timeline", self.timeline()
        yield "events", self.events()
        yield "files", self.files()


def compare(left: ArchivedRun, right: ArchivedRun, volume: Callable[[Project], ProjectVolume]) -> Comparison:
    """Compare two runs. Their files are compared by the history of their projects, which only the local cloud keeps.

    `volume` gives the files of a project.
    """
    try:
        return Comparison(left, right, written_by(left, volume), written_by(right, volume))
    except HistoryUnavailableError:
        problem = "files are compared where a history of the volume is kept: on the target local"
    except (HistoryError, ValueError) as error:
        problem = f"the files cannot be compared: {one_line(str(error))}"
    return Comparison(left, right, files_problem=problem)


def written_by(run: ArchivedRun, volume: Callable[[Project], ProjectVolume]) -> tuple[Written, ...]:
    """The files that a run has changed: those that differ between before its first commit and after its last.

    Raises HistoryUnavailableError, HistoryError, and ValueError for an archive that names no project.
    """
    for name in (run.bundle.user_id, run.bundle.project_id):
        if str(uuid.UUID(name)) != name:
            raise ValueError("its archive names no project")
    project = volume(Project(run.bundle.user_id, run.bundle.project_id))
    numbers = [one.number for one in project.history(limit=MAX_COMMITS) if run_of(one.author) == run.run_id]
    if not numbers:
        return ()
    changes = project.diff(min(numbers) - 1, max(numbers))
    return tuple(
        Written(
            one.path,
            one.what,
            one.after.size if one.after else 0,
            one.after.sha256 if one.after else "",
            commit=max(numbers),
        )
        for one in changes
        if "directory" not in (one.before and one.before.kind, one.after and one.after.kind)
    )


def _joined(left: dict[str, str], right: dict[str, str]) -> list[Compared]:
    names = list(left) + [name for name in right if name not in left]
    return [
        Compared(
            name,
            left.get(name, ""),
            right.get(name, ""),
            _verdict(left.get(name), right.get(name), same=left.get(name) == right.get(name)),
        )
        for name in names
    ]


def _verdict(left: object, right: object, *, same: bool) -> Verdict:
    if same:
        return "same"
    return "right only" if left is None else "left only" if right is None else "differs"


def _lengths(run: ArchivedRun) -> dict[str, str]:
    spans = [(span.name, span) for span in run.timeline.spans]
    steps = [(f"· {step.name}", step) for step in run.timeline.steps]
    total = {"total": f"{run.timeline.total_ms} ms"}
    return {name: f"{span.length_ms} ms" for name, span in (*spans, *steps)} | total


def _written(one: Written | None) -> str:
    if one is None:
        return ""
    return one.what if one.what == "removed" else f"{one.what}, {one.size} bytes"


def _texts(lines: Sequence[Line]) -> list[str]:
    texts = [one_line(line.text.rstrip("\r\n"), _LINE) for line in lines[:MAX_LINES]]
    return [*texts, f"… {len(lines) - MAX_LINES} more lines"] if len(lines) > MAX_LINES else texts


def _aligned(channel: str, left: Sequence[str], right: Sequence[str]) -> list[Compared]:
    rows: list[Compared] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            rows += _folded(channel, left[a:b], first=a == 0, last=b == len(left))
            continue
        for index in range(max(b - a, d - c)):
            one = left[a + index] if a + index < b else None
            other = right[c + index] if c + index < d else None
            rows.append(Compared(channel, one or "", other or "", _verdict(one, other, same=False)))
    return rows


def _folded(channel: str, lines: Sequence[str], *, first: bool, last: bool) -> list[Compared]:
    """Rows for a stretch of equal lines; in the middle of a long one, a single row that says how many there are.

    `first` and `last` say that no difference comes before or after the stretch.
    """
    before, after = 0 if first else _AROUND, 0 if last else _AROUND
    between = len(lines) - before - after
    rows = [Compared(channel, line, line, "same") for line in lines]
    if between <= _AROUND:
        return rows
    fold = Compared(f"{channel}: {between} equal lines", "", "", "same")
    return [*rows[:before], fold, *rows[len(rows) - after :]]
