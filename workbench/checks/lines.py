"""What a line of the checklist is, and the report that all of them make. Nothing here asks an endpoint anything."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from workbench.text.junit import Case, junit
from workbench.text.plain_text import one_line
from workbench.text.static_html import facts_and_table
from workbench.views import shell_of_the_cell

Status = Literal["ok", "partly", "fail", "skipped"]
COLD_START_S = 15.0
"""The budget of a cold start, unless another one is given: until the first output of a new project."""
_SHOWN_CHARS = 400


class Verdict(BaseModel):
    """What was measured, and what to do about it; `fix` is empty where nothing needs to be done."""

    model_config = ConfigDict(frozen=True)

    status: Status
    evidence: str
    fix: str = ""


def ok(evidence: str) -> Verdict:
    """It was measured, and it is sound."""
    return Verdict(status="ok", evidence=evidence)


def fail(evidence: str, fix: str) -> Verdict:
    """It was measured, and something is amiss."""
    return Verdict(status="fail", evidence=evidence, fix=fix)


def partly(evidence: str, unknown: str) -> Verdict:
    """What was measured is sound, and a part of it could not be measured: `unknown` says which, and how to tell it."""
    return Verdict(status="partly", evidence=evidence, fix=unknown)


def skipped(reason: str) -> Verdict:
    """It was not measured: this target cannot show it, or an earlier line had to hold first."""
    return Verdict(status="skipped", evidence=reason)


class Line(Verdict):
    """One line of the checklist, by its name."""

    name: str


class Report(BaseModel):
    """All lines of one check. `sound` says that none failed.

    A line that was skipped says nothing of its subject, and one that is `partly` measured not all.
    """

    model_config = ConfigDict(frozen=True)

    target: str
    url: str
    lines: tuple[Line, ...]
    runs: int
    took_s: float
    _shown_in: int | None = PrivateAttr(None)
    """The number of the cell that has shown it line by line."""

    @property
    def sound(self) -> bool:
        """Whether no line failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the lines that failed."""
        return tuple(line.name for line in self.lines if line.status == "fail")

    def line(self, name: str) -> Line:
        """The line with this name; raises KeyError, which names those there are."""
        for line in self.lines:
            if line.name == name:
                return line
        raise KeyError(f"there is no line '{name}': there is {', '.join(line.name for line in self.lines)}")

    def is_shown(self) -> None:
        """Note that the cell which runs now shows the report already."""
        self._shown_in = _cell()

    def facts(self) -> list[tuple[str, str]]:
        """The facts as (name, value) for people."""
        counts = Counter(line.status for line in self.lines)
        verdict = "sound" if self.sound else f"{counts['fail']} of {len(self.lines)} lines failed"
        return [
            ("target", f"{self.target}, {one_line(self.url, 200)}"),
            ("verdict", f"{verdict}; {counts['partly']} partly measured, {counts['skipped']} skipped"),
            ("spent", f"{self.runs} runs in {self.took_s:.1f} s"),
        ]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The heading, and then the cells of each line, safe to print."""
        yield ("line", "", "measured", "what to do")
        for line in self.lines:
            cells = (line.evidence, line.fix)
            yield (line.name, line.status, *(one_line(cell, _SHOWN_CHARS) for cell in cells))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        heading, *rows = self.rows()
        return facts_and_table("Checklist", self.facts(), heading, rows)

    def _ipython_display_(self) -> None:
        from IPython.display import publish_display_data  # here: only a notebook has need of it

        if self._shown_in is None or self._shown_in != _cell():
            publish_display_data(self._repr_mimebundle_())  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        return self._repr_mimebundle_()["text/plain"]


def _cell() -> int | None:
    shell = shell_of_the_cell()
    return None if shell is None else int(shell.execution_count)


def as_junit(report: Report) -> str:
    """A report as JUnit XML: one test case for each line, failed with its evidence and fix, or skipped with why."""
    cases = [
        Case(
            line.name,
            failed=f"{line.evidence}\nfix: {line.fix}" if line.status == "fail" else "",
            skipped=line.evidence if line.status == "skipped" else "",
            out="\n".join(filter(None, (line.evidence, line.fix))) if line.status in ("ok", "partly") else "",
        )
        for line in report.lines
    ]
    return junit("workbench check", cases, took_s=report.took_s)
