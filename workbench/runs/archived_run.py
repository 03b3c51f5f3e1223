"""Ended runs as read from their archives, shown as data, as plain text or as static HTML.

An archive's content may come from a hostile job, or may have been changed since: it is parsed by the contract's own
parsers, and shown only as escaped text.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from modal_app.actions.last_words import last_words
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import TERMINAL, Channel, ErrorEvent, Event, StreamEvent, TerminalEvent
from modal_app.contract.proof import Bundle, Check, parse_stream, verify
from modal_app.contract.requests import Request
from workbench.errors import WorkbenchError
from workbench.runs import inputs
from workbench.runs.measured import NOTHING, Measured
from workbench.runs.project import Project
from workbench.runs.timeline import Timeline, timeline
from workbench.runs.view_state import STDERR_CHARS
from workbench.text.plain_text import one_line
from workbench.text.static_html import columns, preformatted, table
from workbench.views import view_of

if TYPE_CHECKING:
    from workbench.widgets.run_view import RunView

_COLUMNS = ("run", "accepted (UTC)", "action", "project", "outcome", "took", "sandbox", "estimated", "reason")

_REASON = 100  # characters of a reason in a list


class PandasMissingError(WorkbenchError):
    """pandas, which is no dependency, is not installed."""


@dataclass(frozen=True)
class ListedRun:
    """One line of a list: what `run.json` says, or None and the `problem` when it cannot be read."""

    run_id: str
    bundle: Bundle | None
    problem: str = ""
    fault: str = ""

    @property
    def reason(self) -> str:
        """Why it failed, by what its proof says, or by the fault rule of the local cloud that has ended it."""
        return "" if self.bundle is None else why(self.bundle, self.fault)

    def row(self) -> tuple[str, ...]:
        """The cells of the line, safe to print."""
        if self.bundle is None:
            return (self.run_id, "", "", "", "unreadable", "", "", "", one_line(self.problem))
        return _row(self.run_id, self.bundle, self.reason)


@dataclass(frozen=True)
class RunList(Sequence[ListedRun]):
    """A list of runs, the newest first. `complete` is False when there may be older ones that were not looked at."""

    runs: tuple[ListedRun, ...]
    complete: bool

    @overload
    def __getitem__(self, index: int) -> ListedRun: ...

    @overload
    def __getitem__(self, index: slice) -> "RunList": ...

    def __getitem__(self, index: int | slice) -> "ListedRun | RunList":
        """One run by its index, or a RunList for a slice."""
        return self.runs[index] if isinstance(index, int) else RunList(self.runs[index], self.complete)

    def __len__(self) -> int:
        return len(self.runs)

    def records(self) -> list[dict[str, Any]]:
        """The runs as flat dictionaries for tables of other makers; those that cannot be read are left out.

        Each has the run's id, project, action, outcome, reason, the time it was accepted, seconds in all (`took_s`) and
        of each step (`run_s`, `commit_s` and so on), bytes and events, and its estimated dollars (`usd`).
        """
        return [_record(one.bundle) | {"reason": one.reason} for one in self.runs if one.bundle is not None]

    def frame(self) -> Any:
        """The same as a pandas DataFrame, with times in UTC. Raises PandasMissingError when pandas is not installed."""
        try:
            import pandas as pd  # type: ignore[import-untyped,unused-ignore]  # no dependency: it is used where it is
        except ImportError:
            raise PandasMissingError("pandas is not installed here: `pip install pandas`, or use `records()`") from None
        frame = pd.DataFrame.from_records(self.records())
        if len(frame):
            frame["accepted"] = pd.to_datetime(frame["accepted"], unit="ms", utc=True)
        return frame

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The heading, and then the cells of each run, safe to print."""
        yield _COLUMNS
        for run in self.runs:
            yield run.row()

    def __repr__(self) -> str:
        return f"RunList({len(self.runs)} runs{'' if self.complete else ', and older ones'})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        rows = list(self.rows())
        lines = columns(rows)
        more = "" if self.complete else "… and older ones"
        return {
            "text/plain": "\n".join([*lines, more]).rstrip() if self.runs else "no run is archived here",
            "text/html": f'<div class="workbench-runs">{table(rows[0], rows[1:])}{more}</div>',
        }


@dataclass(frozen=True)
class ArchivedRun:
    """One ended run: the id under which it was found, its proof, and its events as the bytes that readers got.

    As JSON also the `request`, and for a job of the Claude CLI `traffic`, its exchanges with the model. `fault` is the
    fault rule that has ended it, where the local cloud remembers one.
    """

    run_id: str
    bundle: Bundle
    stream: bytes
    request: bytes = b""
    traffic: bytes = b""
    fault: str = ""
    measure: Callable[[], Measured] = field(default=lambda: NOTHING, repr=False, compare=False)

    def measured(self) -> Measured:
        """What the run used of memory and processors over time, where the platform still tells it. Blocks."""
        return self.measure()

    @cached_property
    def _parsed(self) -> tuple[tuple[Event, ...], str]:
        events, problem = parse_stream(self.stream)
        return tuple(events), problem

    @property
    def events(self) -> tuple[Event, ...]:
        """The events; if there is a `problem`, those before the first event that is wrong."""
        return self._parsed[0]

    @property
    def problem(self) -> str:
        """What is wrong with the events; empty when nothing is."""
        return self._parsed[1]

    @property
    def terminal(self) -> TerminalEvent | None:
        """The terminal event; None when the archive does not have it."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, TERMINAL) else None

    @cached_property
    def asked(self) -> Request | None:
        """What the run was asked, without what may be secret; None when that is not kept."""
        return inputs.asked(self.request)

    def again(self, project: Project | None = None) -> Request:
        """The request that the run was made by, in `project` if it is given; raises ContractError `invalid_request`.

        It is refused when the archive does not have all of it.
        """
        if self.asked is None:
            raise ContractError(ErrorCode.INVALID_REQUEST, f"what run {self.run_id} was asked is not kept")
        if not inputs.is_whole(self.asked, self.bundle.body_sha256):
            names = " and ".join(inputs.left_out(self.asked)) or "a part of it"
            message = f"of what run {self.run_id} was asked, {names} is not kept: fill that in, and launch it"
            raise ContractError(ErrorCode.INVALID_REQUEST, message)
        return inputs.again(self.asked, project)

    @property
    def reason(self) -> str:
        """Why the run failed, safe to print; "" when it is done.

        It is the fault rule that has ended it, else the program's last words, else the error's message.
        """
        end = self.terminal
        if not isinstance(end, ErrorEvent):
            return ""
        if self.fault:
            return self.fault
        words = last_words(self.text("stderr")[-STDERR_CHARS:]) if end.code is ErrorCode.PROCESS_FAILED else ""
        return words or one_line(end.message)

    @property
    def timeline(self) -> Timeline:
        """How long each phase and step of the run took."""
        return timeline(self.events)

    def text(self, channel: Channel = "stdout") -> str:
        """What the job printed to a channel, as it printed it: not safe for a terminal."""
        return "".join(one.text for one in self.events if isinstance(one, StreamEvent) and one.channel == channel)

    def checks(self) -> tuple[Check, ...]:
        """The result of every check of the run's proof."""
        same = self.run_id == self.bundle.run_id
        detail = (
            "facts and events are there" if same else f"its facts are those of run {one_line(self.bundle.run_id, 40)}"
        )
        return (Check(name="archive", ok=same, detail=detail), *verify(self.bundle, self.stream))

    def facts(self) -> list[tuple[str, str]]:
        """The run's facts as (name, value) for people, safe to print."""
        bundle = self.bundle
        process, sandbox, commit = bundle.process, bundle.sandbox, bundle.commit
        code = "not seen" if process is None or process.exit_code is None else str(process.exit_code)
        closed_by = "its owner" if bundle.closed_by == "owner" else "another container: its own was lost"
        found: list[tuple[str, str | None]] = [
            ("outcome", bundle.outcome),
            ("reason", self.reason or None),
            ("action", bundle.action),
            ("user", bundle.user_id),
            ("project", bundle.project_id),
            ("accepted", f"{_when(bundle.accepted_at_ms)} UTC"),
            ("took", _took(bundle)),
            ("closed by", closed_by),
            ("exit code", f"{code}, after {process.took_ms} ms of {process.limit_s:g} s" if process else None),
            ("container", {True: "started for it", False: "was up", None: None}[bundle.cold_start]),
            ("sandbox", f"{sandbox.id}, uid {sandbox.uid}, {_start(bundle)}" if sandbox else _start(bundle)),
            ("commit", f"{commit.changed} files changed, {commit.compared} read back" if commit else "none"),
            ("events", f"{bundle.events.last_seq}, {bundle.events.bytes} bytes, sha256 {bundle.events.sha256}"),
            (
                "estimated",
                f"{_cost(bundle)}: {bundle.cost.sandbox_s:g} s; {bundle.cost.basis}" if bundle.cost else None,
            ),
        ]
        return [(name, one_line(value)) for name, value in found if value is not None]

    def view(self) -> "RunView":
        """A widget for JupyterLab that shows the run as a live one is shown."""
        view: RunView = view_of("run", self, can_cancel=False)
        return view

    def __repr__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"ArchivedRun({self.run_id}, {one_line(self.bundle.outcome, 40)}{reason})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": self._plain(), "text/html": self._html()}

    def _plain(self) -> str:
        facts = [f"  {name:<10} {value}" for name, value in self.facts()]
        checks = [f"  {badge(check)} {check.name:<14} {one_line(check.detail)}" for check in self.checks()]
        return "\n".join([f"Run {self.run_id}", *facts, *self.timeline.lines(), *checks])

    def _html(self) -> str:
        checks = [(badge(check), check.name, one_line(check.detail)) for check in self.checks()]
        bars = preformatted("\n".join(self.timeline.lines()))
        return (
            f'<div class="workbench-run"><strong>Run {html.escape(self.run_id)}</strong>'
            f"{table((), self.facts())}{bars}{table(('', 'proof', ''), checks)}</div>"
        )


def _record(bundle: Bundle) -> dict[str, Any]:
    timings = {} if bundle.timings is None else bundle.timings.model_dump(exclude_none=True)
    return {
        "run_id": bundle.run_id,
        "user_id": bundle.user_id,
        "project_id": bundle.project_id,
        "action": bundle.action,
        "outcome": bundle.outcome,
        "reason": why(bundle),
        "accepted": bundle.accepted_at_ms,
        "took_s": (bundle.ended_at_ms - bundle.accepted_at_ms) / 1000,
        **{f"{name.removesuffix('_ms')}_s": value / 1000 for name, value in timings.items()},
        "cold_start": bundle.cold_start,
        "warm_sandbox": bundle.sandbox.warm if bundle.sandbox else None,
        "files_changed": bundle.commit.changed if bundle.commit else None,
        "events": bundle.events.last_seq,
        "bytes": bundle.events.bytes,
        "usd": bundle.cost.usd if bundle.cost else None,
    }


def why(bundle: Bundle, fault: str = "") -> str:
    """Why a run failed, safe to print: the fault rule that has ended it, the program's last words, or its message."""
    return fault or one_line(bundle.reason or bundle.message, _REASON)


def badge(check: Check) -> str:
    """A character that shows whether a check is fulfilled."""
    return "✓" if check.ok else "✗"


def _row(run_id: str, bundle: Bundle, reason: str) -> tuple[str, ...]:
    cells = (
        _when(bundle.accepted_at_ms),
        bundle.action,
        bundle.project_id,
        bundle.outcome,
        _took(bundle),
        _start(bundle),
        _cost(bundle),
    )
    return (run_id, *(one_line(cell, 40) for cell in cells), reason)


def _when(at_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return "at no time"  # the bundle's number is no time at all


def _took(bundle: Bundle) -> str:
    tenths = max(0, bundle.ended_at_ms - bundle.accepted_at_ms) // 100
    return f"{tenths // 10}.{tenths % 10} s"


def _start(bundle: Bundle) -> str:
    """How the run got its sandbox: created for the run, or prewarmed."""
    if bundle.sandbox is None:
        return "no sandbox" if bundle.closed_by == "owner" else "not known"
    return "warm" if bundle.sandbox.warm else "cold"


def _cost(bundle: Bundle) -> str:
    return "" if bundle.cost is None else f"${bundle.cost.usd:.6f}"
