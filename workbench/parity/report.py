"""What two targets have shown of each row, compared; and the comparison as rows for people, as JSON, and as a page."""

import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from workbench.parity.catalogue import DOCUMENTATION, Row
from workbench.parity.observing import Observation
from workbench.text.plain_text import one_line, visible
from workbench.text.static_html import facts_and_table

Verdict = Literal["equal", "different", "known", "not run"]
_SHOWN_CHARS = 200
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1f2328; background: #fff }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .4rem .6rem }
tr { border-top: 1px solid #d1d9e0 } code { white-space: pre-wrap; word-break: break-word }
.equal { color: #1a7f37 } .different { color: #cf222e; font-weight: 600 } .known { color: #9a6700 }
.not-run { color: #59636e } td small { color: #59636e }
"""


class Compared(BaseModel):
    """One row with what was seen on the first target and on the second."""

    model_config = ConfigDict(frozen=True)

    row: Row
    first: Observation
    second: Observation

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def verdict(self) -> Verdict:
        """Whether both have shown the same; `known` is a difference that the list of differences has."""
        if self.first.missing or self.second.missing:
            return "not run"
        if _same(self.first.seen, self.second.seen):
            return "equal"
        return "known" if self.row.differs else "different"

    @property
    def why_not(self) -> str:
        """Why it was not run, by target; empty when it was."""
        return "; ".join(filter(None, (self.first.missing, self.second.missing)))

    def as_documented(self, observation: Observation) -> bool | None:
        """Whether an observation is what is documented; None where that is left open, or nothing was seen."""
        if observation.missing or not self.row.documented:
            return None
        return _same(observation.seen, self.row.expects)


class Report(BaseModel):
    """All rows of one comparison. `alike` says that no row differs but those that are known to."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    rows: tuple[Compared, ...]
    took_s: float

    @computed_field  # type: ignore[prop-decorator]  # see above
    @property
    def alike(self) -> bool:
        """Whether no row is different, and each was run on both targets."""
        return all(one.verdict in ("equal", "known") for one in self.rows)

    def facts(self) -> list[tuple[str, str]]:
        """The facts as (name, value) for people."""
        counts = Counter(one.verdict for one in self.rows)
        return [
            ("compared", f"{self.first}, {self.second}"),
            ("rows", ", ".join(f"{counts[name]} {name}" for name in ("equal", "different", "known", "not run"))),
            *(
                (f"as documented, {name}", self._documented(index))
                for index, name in enumerate((self.first, self.second))
            ),
            ("took", f"{self.took_s:.0f} s"),
        ]

    def _documented(self, index: int) -> str:
        marks = [one.as_documented((one.first, one.second)[index]) for one in self.rows]
        return f"{marks.count(True)} of {len(marks) - marks.count(None)} rows with a documented outcome"

    def cells(self) -> Iterator[tuple[str, ...]]:
        """The heading, and then the cells of each row, safe to print."""
        yield ("row", "behaviour", "", self.first, self.second, "documented")
        for one in self.rows:
            shown = [one_line(text, _SHOWN_CHARS) for text in _texts(one)]
            yield (one.row.key, one_line(one.row.behaviour, _SHOWN_CHARS), one.verdict, *shown)

    def page(self) -> str:
        """The comparison as one HTML page, without scripts."""
        facts = "".join(f"<li>{_safe(name)}: {_safe(value)}</li>" for name, value in self.facts())
        head = "".join(f"<th>{_safe(cell)}</th>" for cell in next(self.cells()))
        body = "".join(map(_line, self.rows))
        return (
            f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>Parity: {_safe(self.first)}, "
            f"{_safe(self.second)}</title><style>{_STYLE}</style></head><body><h1>Parity</h1><ul>{facts}</ul>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></body></html>\n"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        heading, *rows = self.cells()
        return facts_and_table("Parity", self.facts(), heading, rows)

    def __str__(self) -> str:
        return self._repr_mimebundle_()["text/plain"]


def compared(
    rows: Sequence[Row], first: Mapping[str, Observation], second: Mapping[str, Observation]
) -> tuple[Compared, ...]:
    """Each row with its two observations."""
    return tuple(Compared(row=row, first=first[row.key], second=second[row.key]) for row in rows)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same as JSON: for Python, 1 and true are equal."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _texts(one: Compared) -> tuple[str, ...]:
    expected = json.dumps(one.row.expects) if one.row.documented else "(open)"
    return (
        *((f"not run: {seen.missing}" if seen.missing else json.dumps(seen.seen)) for seen in (one.first, one.second)),
        expected,
    )


def _line(one: Compared) -> str:
    cells = [
        _safe(one.row.key),
        f"{_safe(one.row.behaviour)}{_sources(one.row)}",
        f"<span class='{one.verdict.replace(' ', '-')}'>{one.verdict}</span>",
        *(f"<code>{_safe(text)}</code>" for text in _texts(one)),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _sources(row: Row) -> str:
    page = f"<a href='{_safe(DOCUMENTATION + row.source)}'>{_safe(row.source)}</a>"
    lines = [page, *([f"difference: {_safe(row.differs)}"] if row.differs else [])]
    return "".join(f"<br><small>{line}</small>" for line in lines)


def _safe(text: str) -> str:
    return html.escape(visible(text))
