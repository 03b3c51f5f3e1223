"""The local cloud's controls: make it fail by rules, move its clocks, list the RPCs that it implements. Blocking calls.

Modal has no such controls.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from workbench.cloud_control.cloud_http import CloudHttp, CloudRefusedError
from workbench.errors import WorkbenchError
from workbench.local_cloud import FaultRule
from workbench.machine.renewal import renewed

__all__ = [
    "ActiveFault",
    "AppAhead",
    "Clock",
    "CloudControl",
    "ControlError",
    "ControlUnavailableError",
    "Coverage",
    "FaultRule",
    "Faults",
    "InjectedFault",
]


T = TypeVar("T")

LEASE_S = 20.0
"""For how long what a process has lent outlives it: a rule of `Faults.injected`, a move of `Clock.advanced`."""


class ControlUnavailableError(WorkbenchError):
    """The target has no such control; the message says which target has it."""


class ControlError(WorkbenchError):
    """The local cloud refuses a control, or does not answer; the message says why."""


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ActiveFault(_Fact):
    """A rule: how many calls it has matched, into how many of them it has injected a fault, and why it has ended.

    `ended` is None while it is in force, then "removed", "over" (its `for_s`) or "not renewed" (its `lease_s`).
    """

    rule_id: str
    rule: FaultRule
    matched: int
    injected: int
    ended: str | None = None


class InjectedFault(_Fact):
    """One injected fault: its rule, its time, the RPC, commit or path it hit.

    Times are Unix seconds: `at_s` by the whole cloud's clock, which can be moved, `real_s` by the machine's.
    """

    rule_id: str
    at_s: float
    at: str
    what: str
    subject: dict[str, str]
    real_s: float


class AppAhead(_Fact):
    """An app whose clock was moved: its id, its name and environment, and how far it is ahead of real time."""

    app_id: str
    app: str
    environment: str
    offset_s: float


class Coverage(_Fact):
    """The protocol's RPCs that the local cloud implements, and those it does not, with how often each was called."""

    implemented: tuple[str, ...]
    missing: tuple[str, ...]
    asked_for: dict[str, int]


_RULES: TypeAdapter[list[ActiveFault]] = TypeAdapter(list[ActiveFault])
_AHEAD: TypeAdapter[list[AppAhead]] = TypeAdapter(list[AppAhead])
_HAPPENED: TypeAdapter[list[InjectedFault]] = TypeAdapter(list[InjectedFault])


class CloudControl:
    """Calls the controls of one local cloud. Raises ControlError when it refuses or does not answer."""

    def __init__(self, url: str, env: Mapping[str, str]) -> None:
        self._http = CloudHttp(url, env)

    def ask(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
    ) -> T:
        """Make one request and return what `read` makes of the parsed JSON of the answer."""
        try:
            return self._http.ask(method, path, lambda told: read(json.loads(told)), params=params, body=body)
        except CloudRefusedError as error:
            raise ControlError(str(error)) from error

    def coverage(self) -> Coverage:
        """Which RPCs the local cloud implements."""
        return self.ask("GET", "/coverage", Coverage.model_validate)


class Faults:
    """The rules by which the local cloud fails.

    >>> wb.faults.add(at="stream", rpc="TaskExecStdioRead", after_messages=2, status="UNAVAILABLE", times=1)
    """

    def __init__(self, control: CloudControl) -> None:
        self._control = control

    def add(self, rule: FaultRule | None = None, **fields: Any) -> str:
        """Put a rule into force, given as a FaultRule or by its fields; returns its id. Raises ControlError."""
        rule = rule or _rule(fields)
        return self._control.ask("POST", "/faults", lambda told: str(told["rule_id"]), rule.given())

    def rules(self) -> list[ActiveFault]:
        """The rules in force, oldest first."""
        return self._control.ask("GET", "/faults", lambda told: _RULES.validate_python(told["rules"]))

    def ended(self) -> list[ActiveFault]:
        """The newest rules that are in force no longer, in the order of their ends."""
        return self._control.ask("GET", "/faults", lambda told: _RULES.validate_python(told["ended"]))

    def renew(self, rule_id: str) -> None:
        """Let a rule with a lease live on; raises ControlError when it is in force no longer."""
        self._control.ask("POST", f"/faults/{rule_id}/renewal", _nothing)

    def happened(self) -> list[InjectedFault]:
        """The newest injected faults, oldest first."""
        return self._control.ask("GET", "/faults", lambda told: _HAPPENED.validate_python(told["happened"]))

    def remove(self, rule_id: str) -> None:
        """Remove a rule by its id; raises ControlError when there is no such rule."""
        self._control.ask("DELETE", f"/faults/{rule_id}", _nothing)

    def clear(self) -> int:
        """Remove every rule; returns how many there were."""
        return self._control.ask("DELETE", "/faults", lambda told: int(told["removed"]))

    @contextmanager
    def injected(self, rule: FaultRule | None = None, **fields: Any) -> Iterator[str]:
        """Have a rule in force for the length of a `with` block.

        It has a lease that this process renews: when the process is killed, the rule is gone in `LEASE_S` seconds.
        """
        rule = rule or _rule(fields)
        if rule.lease_s is None:
            rule = rule.model_copy(update={"lease_s": LEASE_S})
        rule_id = self.add(rule)
        try:
            with renewed(lambda: self.renew(rule_id), lease_s=rule.lease_s or LEASE_S, name="fault-lease"):
                yield rule_id
        finally:
            if any(one.rule_id == rule_id for one in self.rules()):  # one with an end of its own may be over
                self.remove(rule_id)


class Clock:
    """The clock of the whole local cloud or, by `of`, of one app of it. Times are Unix time in seconds.

    An app's clock follows the whole cloud's, and its own moves reach no other app: its sandboxes, containers, web
    functions and schedules go by it, and the fault rules that name it in full. What belongs to no app, such as a Dict
    and a Queue, goes by the whole cloud's.

    >>> wb.clock.of("my-app").advance(300)
    """

    def __init__(self, control: CloudControl, app: str | None = None) -> None:
        self._control = control
        self._app = app

    def of(self, app: str) -> "Clock":
        """The clock of an app that runs, by its name or its id; its methods raise ControlError when it does not run."""
        return Clock(self._control, app)

    def time(self) -> float:
        """The time of this clock, as Unix time in seconds."""
        return self._told("at")

    def offset_s(self) -> float:
        """By how many seconds this clock is ahead of real time."""
        return self._told("offset_s")

    def ahead(self) -> list[AppAhead]:
        """The apps whose clocks were moved further than the whole cloud's."""
        return self._control.ask("GET", "/clock", lambda told: _AHEAD.validate_python(told["apps"]))

    def advance(self, seconds: float) -> float:
        """Move the clock forward; timeouts, idle times, schedules and expiry follow. Returns the new time."""
        return self._control.ask("POST", "/clock", _at, self._body(seconds=seconds))

    def set_back(self) -> float:
        """Take back all by which this clock was moved; returns the new time. What is over stays so.

        An app's clock then shows the whole cloud's time. Waits that go on last as long as before.
        """
        return self._control.ask("DELETE", "/clock", _at, params=self._body())

    @contextmanager
    def advanced(self, seconds: float) -> Iterator[float]:
        """Have the clock moved forward for the length of a `with` block; gives the new time.

        The move has a lease that this process renews: when the process is killed, it is taken back in `LEASE_S`
        seconds.
        """
        at, move_id = self._control.ask(
            "POST",
            "/clock",
            lambda told: (_at(told), str(told["move_id"])),
            self._body(seconds=seconds, lease_s=LEASE_S),
        )
        move = f"/clock/{move_id}"
        renew = partial(self._control.ask, "POST", f"{move}/renewal", _nothing)
        try:
            with renewed(renew, lease_s=LEASE_S, name="clock-lease"):
                yield at
        finally:
            with suppress(ControlError):  # it was set back meanwhile, its app was stopped, or the cloud has ended
                self._control.ask("DELETE", move, _nothing)

    def _told(self, what: str) -> float:
        return self._control.ask("GET", "/clock", lambda told: float(told[what]), params=self._body())

    def _body(self, **fields: Any) -> dict[str, Any]:
        return fields if self._app is None else {**fields, "app": self._app}


def _at(told: Any) -> float:
    return float(told["at"])


def _nothing(told: Any) -> None:
    """What is told is of no use: that it was done is enough."""


def _rule(fields: Mapping[str, Any]) -> FaultRule:
    try:
        return FaultRule(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ControlError(f"{where}: {what}" if where else what) from None
