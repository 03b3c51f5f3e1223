"""The proof of a run: the facts in its archive, and the checks of them against the run's events.

`verify` needs only the bundle and the bytes of the events, so whoever has the archive can check the run.
"""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modal_app.contract.errors import ErrorCode
from modal_app.contract.events import (
    TERMINAL,
    Commit,
    DoneEvent,
    ErrorEvent,
    Event,
    SandboxFacts,
    Timings,
    UnknownEventError,
    parse_event,
)
from modal_app.contract.order import Order, OrderError

_PROGRAMS = ("python", "claude")  # the actions that are one process; the others run several commands


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class EventFacts(_Fact):
    """What the archive's file of events must be: its last event's number, its length, its SHA-256 in hexadecimal."""

    last_seq: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str


class ProcessFacts(_Fact):
    """How the job's process ended, as the endpoint saw it.

    `exit_code` is None when its end was not seen. `limit_s`, its time limit, and `took_ms` are by the endpoint's
    monotonic clock.
    """

    exit_code: int | None = None
    limit_s: float = Field(ge=0)
    took_ms: int = Field(ge=0)
    timed_out: bool = False


class Cost(_Fact):
    """An estimate in US dollars for a sandbox that lived `sandbox_s` seconds; `basis` tells reservations and prices."""

    sandbox_s: float = Field(ge=0)
    usd: float = Field(ge=0)
    basis: str


class Bundle(_Fact):
    """Everything that a run's archive says about it, beside its events.

    `outcome` is "done" or the error's code, whose `message` says why; `reason` is what a program that failed said last
    on stderr: the job's own words, which are in no error. `closed_by` is "owner" if the container that executed the run
    has also archived it, and "other" if that container was lost and another one did.
    """

    version: Literal[1] = 1
    run_id: str
    user_id: str
    project_id: str
    action: str
    body_sha256: str
    accepted_at_ms: int
    ended_at_ms: int
    outcome: str
    message: str = ""
    reason: str = ""
    closed_by: Literal["owner", "other"]
    cold_start: bool | None = None
    events: EventFacts
    process: ProcessFacts | None = None
    sandbox: SandboxFacts | None = None
    commit: Commit | None = None
    timings: Timings | None = None
    cost: Cost | None = None


class Check(_Fact):
    """One promise: its name, whether the run kept it, and what in the archive shows it."""

    name: str
    ok: bool
    detail: str


def verify(bundle: Bundle, stream: bytes) -> list[Check]:
    """Check a run: the bytes of its events against its facts, and both against the promises. One Check per promise."""
    events, broken = parse_stream(stream)
    last = events[-1] if events else None
    return [
        _same_bytes(bundle, stream),
        _one_end(events, bundle),
        _sequence(events, bundle, broken),
        _same_facts(bundle, last),
        _exit_code(bundle, last),
        _timeouts(bundle, last),
        _terminated(bundle, last),
        _committed(bundle, last),
    ]


def parse_stream(stream: bytes) -> tuple[list[Event], str]:
    """The events in an archive's file of events, and "" if they are a whole and legal stream.

    If they are not, the events before the first wrong one, and what is wrong.
    """
    events: list[Event] = []
    order = Order()
    for frame in stream.split(b"\n\n"):
        if not frame:
            continue
        head, _, data = frame.partition(b"\ndata: ")
        try:
            event = parse_event(data)
            if head != f"id: {event.seq}\nevent: {event.type}".encode():
                raise OrderError(f"seq {event.seq} is framed as something else")
            order.check(event)
        except (UnknownEventError, OrderError) as error:
            return events, f"after event {order.last_seq}: {error}"
        events.append(event)
    return events, "" if order.ended else "there is no terminal event"


def _same_bytes(bundle: Bundle, stream: bytes) -> Check:
    ok = (len(stream), hashlib.sha256(stream).hexdigest()) == (bundle.events.bytes, bundle.events.sha256)
    return Check(name="bytes", ok=ok, detail=f"{len(stream)} bytes, sha256 {'as' if ok else 'not as'} in the bundle")


def _sequence(events: list[Event], bundle: Bundle, broken: str) -> Check:
    last_seq = events[-1].seq if events else 0
    if not broken and events[0].run_id != bundle.run_id:
        broken = "the events are another run's"
    if not broken and last_seq != bundle.events.last_seq:
        broken = f"{last_seq} events, and the bundle tells of {bundle.events.last_seq}"
    return Check(name="sequence", ok=not broken, detail=broken or f"{len(events)} events, in order, without a gap")


def _same_facts(bundle: Bundle, last: Event | None) -> Check:
    """Check that the terminal event says the same of sandbox, commit and reason as the bundle."""
    told = last if isinstance(last, TERMINAL) else None
    ok = told is not None and told.sandbox == bundle.sandbox
    ok = ok and (not bundle.message or (isinstance(told, ErrorEvent) and told.message == bundle.message))
    ok = ok and (told is None or told.commit == bundle.commit or (told.commit is None and told.type == "error"))
    detail = "the terminal event and the bundle say the same of sandbox, commit and reason"
    return Check(name="facts", ok=ok, detail=detail if ok else "the terminal event and the bundle differ")


def _one_end(events: list[Event], bundle: Bundle) -> Check:
    ends = [event for event in events if isinstance(event, TERMINAL)]
    outcome = ends[0].outcome if ends else ""
    ok = len(ends) == 1 and events[-1] is ends[0] and outcome == bundle.outcome
    return Check(name="one_end", ok=ok, detail=f"{len(ends)} terminal event, the last one: {outcome or 'none'}")


def _exit_code(bundle: Bundle, last: Event | None) -> Check:
    seen = bundle.process.exit_code if bundle.process else None
    if isinstance(last, TERMINAL) and _lost_with_its_owner(bundle):
        return Check(
            name="exit_code", ok=True, detail="not known: it was lost with the container that executed the run"
        )
    if isinstance(last, DoneEvent):
        ok = seen == 0 if bundle.action in _PROGRAMS else bundle.sandbox is None or seen is not None
        ok = ok or bundle.action == "prewarm"
    elif isinstance(last, ErrorEvent):
        ok = last.exit_code == seen if last.code is ErrorCode.PROCESS_FAILED else True
        ok = ok and not (last.code is ErrorCode.PROCESS_FAILED and seen in (None, 0))
    else:
        ok = False
    return Check(name="exit_code", ok=ok, detail="no process was seen to end" if seen is None else f"exit code {seen}")


def _timeouts(bundle: Bundle, last: Event | None) -> Check:
    facts = bundle.process
    told = isinstance(last, ErrorEvent) and last.code is ErrorCode.PROCESS_TIMEOUT
    if facts is None and _lost_with_its_owner(bundle):
        return Check(name="timeout", ok=True, detail="not known: it was lost with the container that executed the run")
    if facts is None:
        return Check(name="timeout", ok=not told, detail="no process was started")
    late = facts.took_ms >= facts.limit_s * 1000
    ok = (told == facts.timed_out) and (not told or late)
    return Check(name="timeout", ok=ok, detail=f"{facts.took_ms} ms of {facts.limit_s:g} s by the endpoint's clock")


def _lost_with_its_owner(bundle: Bundle) -> bool:
    """Whether the process's facts are missing because another container archived the run after its owner was lost.

    The terminal event in the log is then all that is known: it was written by the owner, or by the closing container.
    """
    return bundle.closed_by == "other" and bundle.process is None


def _terminated(bundle: Bundle, last: Event | None) -> Check:
    if bundle.sandbox is None:
        none = "the run had no sandbox" if bundle.closed_by == "owner" else "no live sandbox of the run was found"
        return Check(name="sandbox_ended", ok=True, detail=none)
    if bundle.action == "prewarm" and isinstance(last, DoneEvent):
        return Check(name="sandbox_ended", ok=True, detail=f"{bundle.sandbox.id} waits for the project's next run")
    said = "confirmed by the platform" if bundle.sandbox.terminated else "not confirmed"
    return Check(name="sandbox_ended", ok=bundle.sandbox.terminated, detail=f"the end of {bundle.sandbox.id} is {said}")


def _committed(bundle: Bundle, last: Event | None) -> Check:
    commit = bundle.commit
    if not isinstance(last, DoneEvent) or bundle.sandbox is None or bundle.action == "prewarm":
        return Check(name="commit", ok=True, detail="the run does not claim to have committed")
    if commit is None or not commit.committed:
        return Check(name="commit", ok=False, detail="the commit was not confirmed")
    ok = commit.changed == 0 or commit.compared > 0
    what = f"{commit.compared} of {commit.changed} files that the run wrote were read back from outside, the same"
    return Check(name="commit", ok=ok, detail=what if commit.changed else "confirmed; the run wrote no file")
