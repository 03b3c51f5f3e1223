"""A widget of a check that is under way: its lines as they are measured, and in the end its verdict."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import traitlets

from workbench.checks.lines import Line, Report
from workbench.text.plain_text import one_line
from workbench.text.static_html import facts_and_table
from workbench.widgets.base import Buffers, Panel, front_end, sentence
from workbench.widgets.displays import Still

_SHOWN_CHARS = 400
_HEADING = ("line", "", "measured", "what to do")


class ShownLine(TypedDict):
    """A line as it is shown; its `status` is empty while it is not measured."""

    name: str
    status: str
    evidence: str
    fix: str


class Checklist(Panel):
    """Shows the lines with these `names`. Whoever measures calls `tell` for each, and `finish` or `fail` at the end."""

    _esm, _css = front_end(__file__)
    label = "Checklist"

    lines: "traitlets.List[ShownLine]" = traitlets.List().tag(sync=True)
    facts: "traitlets.List[tuple[str, str]]" = traitlets.List().tag(sync=True)
    under_way = traitlets.Bool(True).tag(sync=True)

    def __init__(self, names: Sequence[str], *, target: str, url: str) -> None:
        super().__init__(
            lines=[ShownLine(name=name, status="", evidence="", fix="") for name in names],
            facts=[("target", f"{target}, {one_line(url, 200)}")],
        )

    def tell(self, line: Line) -> None:
        """Show a line that was measured."""
        told = ShownLine(
            name=line.name,
            status=line.status,
            evidence=one_line(line.evidence, _SHOWN_CHARS),
            fix=one_line(line.fix, _SHOWN_CHARS),
        )
        self.lines = [told if one["name"] == line.name else one for one in self.lines]

    def finish(self, report: Report) -> None:
        """Show the verdict."""
        with self.hold_sync():
            self.facts, self.under_way = report.facts(), False

    def fail(self, error: BaseException) -> None:
        """Show why there will be no more lines."""
        with self.hold_sync():
            self.facts, self.under_way = [*self.facts, ("broken off", sentence(error))], False

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """There is nothing to press."""

    def still(self) -> Still:
        """The lines that were measured, below the facts."""
        measured = [line for line in self.lines if line["status"]]
        rows = [(line["name"], line["status"], line["evidence"], line["fix"]) for line in measured]
        drawn = facts_and_table("Checklist", self.facts, _HEADING, rows)
        return Still(html=drawn["text/html"], plain=drawn["text/plain"])
