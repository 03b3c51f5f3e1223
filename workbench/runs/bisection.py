"""Bisects two ended runs: in each channel, the first place at which they differ, or that they do not. Pure.

The channels are what a client sees apart: the phases, each channel of output (the model's by role and kind), the end,
the files, and how long the steps took. Ids and times of day are no difference, nor is how output was cut into events.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from workbench.runs.archived_run import ArchivedRun
from workbench.runs.channel_lines import Line, both
from workbench.runs.comparison import Comparison
from workbench.runs.timeline import TOLERANCE_MS
from workbench.text.plain_text import one_line

NO_FILES = "files of a recording are not kept: what its commit tells is compared"


@dataclass(frozen=True)
class FirstDifference:
    """One channel: whether it differs, and if so where, and what either run has there; empty where it has nothing.

    `left_seq` and `right_seq` are the numbers of the events that say so, 0 when it is no single event's.
    """

    channel: str
    differs: bool = False
    where: str = ""
    left: str = ""
    right: str = ""
    left_seq: int = 0
    right_seq: int = 0

    def line(self) -> str:
        """The difference on one line, safe to print."""
        if not self.differs:
            return f"= {self.channel}"
        left, right = (
            f"{text or 'nothing'}{f' (event {seq})' if seq else ''}"
            for text, seq in ((self.left, self.left_seq), (self.right, self.right_seq))
        )
        return f"≠ {self.channel}: {self.where}: {left} | {right}"


@dataclass(frozen=True)
class Bisection:
    """The first difference of two runs in each channel; `note` says what could not be compared."""

    left: str
    right: str
    channels: tuple[FirstDifference, ...]
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the runs differ in any channel."""
        return any(one.differs for one in self.channels)

    def lines(self) -> list[str]:
        """One line for each channel, safe to print."""
        return [*(one.line() for one in self.channels), *([self.note] if self.note else [])]

    def as_json(self) -> dict[str, Any]:
        """All of it as data."""
        return {**asdict(self), "differs": self.differs}

    def __repr__(self) -> str:
        return "\n".join([f"Bisection({self.left}, {self.right})", *self.lines()])


def bisect(comparison: Comparison, *, tolerance_ms: int = TOLERANCE_MS) -> Bisection:
    """The first difference of each channel. Steps differ when one took over `tolerance_ms` milliseconds longer."""
    left, right = comparison.left, comparison.right
    found = [_first(name, one, other) for name, one, other in both(left.events, right.events)]
    found += [_files(comparison), _timing(left, right, tolerance_ms)]
    return Bisection(left.run_id, right.run_id, tuple(found), one_line(comparison.files_problem))


def _first(channel: str, left: Sequence[Line], right: Sequence[Line]) -> FirstDifference:
    nothing = Line("")
    for number, (one, other) in enumerate(zip_longest(left, right), 1):
        if one is None or other is None or one.text != other.text:
            a, b = one or nothing, other or nothing
            return FirstDifference(channel, True, f"at {number}", a.shown(), b.shown(), a.seq, b.seq)
    return FirstDifference(channel)


def _files(comparison: Comparison) -> FirstDifference:
    rows = comparison.files()
    for row in rows:
        if row.verdict != "same":
            return FirstDifference("files", True, row.name, row.left, row.right)
    if not comparison.files_problem:
        return FirstDifference("files")
    return _first("files", _commit(comparison.left), _commit(comparison.right))


def _commit(run: ArchivedRun) -> list[Line]:
    commit = run.bundle.commit
    if commit is None:
        return []
    return [Line(f"{commit.changed} changed, {'' if commit.committed else 'not '}committed")]


def _timing(left: ArchivedRun, right: ArchivedRun, tolerance_ms: int) -> FirstDifference:
    """The first phase or step that both have, and that took longer in one; which phases there are is `status`."""
    one, other = (
        {span.name: span.length_ms for span in (*run.timeline.spans, *run.timeline.steps)} for run in (left, right)
    )
    for name in one:
        if name in other and abs(one[name] - other[name]) > tolerance_ms:
            return FirstDifference("timing", True, name, f"{one[name]} ms", f"{other[name]} ms")
    return FirstDifference("timing")
