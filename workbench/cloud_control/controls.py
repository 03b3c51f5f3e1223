"""The local cloud's controls: make it fail by rule, move its clock, ask which RPCs it has. Blocking calls.

Modal has no such thing: there the same programs meet the real faults and the real time.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from workbench.cloud_control.cloud_http import CloudHttp, CloudRefusedError
from workbench.errors import WorkbenchError
from workbench.local_cloud import FaultRule

__all__ = [
    "ActiveFault",
    "Clock",
    "CloudControl",
    "ControlError",
    "ControlUnavailableError",
    "Coverage",
    "FaultRule",
    "Faults",
    "InjectedFault",
]


LEASE_S = 20.0


class ControlUnavailableError(WorkbenchError):
    """The target has no such control; the message says where there is one."""


class ControlError(WorkbenchError):
    """The local cloud refuses; the message says why."""


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ActiveFault(_Fact):
    """A rule: how many calls it has matched, how often something was done to them, and why it is in force no longer.

    `ended` is None while it is in force, then "removed", "over" (its `for_s`) or "not renewed" (its `lease_s`).
    """

    rule_id: str
    rule: FaultRule
    matched: int
    injected: int
    ended: str | None = None


class InjectedFault(_Fact):
    """One fault that happened: by which rule, when (Unix time by the cloud's clock), to which RPC, commit or path."""

    rule_id: str
    at_s: float
    at: str
    what: str
    subject: dict[str, str]


class Coverage(_Fact):
    """The protocol's RPCs that the local cloud has, those that it has not, and how often those were asked for."""

    implemented: tuple[str, ...]
    missing: tuple[str, ...]
    asked_for: dict[str, int]


_RULES: TypeAdapter[list[ActiveFault]] = TypeAdapter(list[ActiveFault])
_HAPPENED: TypeAdapter[list[InjectedFault]] = TypeAdapter(list[InjectedFault])


class CloudControl:
    """Asks one local cloud. Raises ControlError when it says no, or does not answer."""

    def __init__(self, url: str, env: Mapping[str, str]) -> None:
        self._http = CloudHttp(url, env)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; returns what the answer's JSON says."""
        try:
            return json.loads(self._http.ask(method, path, body=body))
        except CloudRefusedError as error:
            raise ControlError(str(error)) from error

    def coverage(self) -> Coverage:
        """Which RPCs there are."""
        return Coverage.model_validate(self.ask("GET", "/coverage"))


class Faults:
    """The rules by which the local cloud fails.

    >>> wb.faults.add(at="stream", rpc="TaskExecStdioRead", after_messages=2, status="UNAVAILABLE", times=1)
    """

    def __init__(self, control: CloudControl) -> None:
        self._control = control

    def add(self, rule: FaultRule | None = None, **fields: Any) -> str:
        """Put a rule into force, given whole or by its fields; returns its id. Raises ControlError for a bad one."""
        rule = rule or _rule(fields)
        body = rule.model_dump(exclude_defaults=True) | {"at": rule.at}
        return str(self._control.ask("POST", "/faults", body)["rule_id"])

    def rules(self) -> list[ActiveFault]:
        """The rules in force, oldest first."""
        return _RULES.validate_python(self._control.ask("GET", "/faults")["rules"])

    def ended(self) -> list[ActiveFault]:
        """The newest rules that are in force no longer, in the order of their ends."""
        return _RULES.validate_python(self._control.ask("GET", "/faults")["ended"])

    def renew(self, rule_id: str) -> None:
        """Let a rule with a lease live on; raises ControlError when it is in force no longer."""
        self._control.ask("POST", f"/faults/{rule_id}/renewal")

    def happened(self) -> list[InjectedFault]:
        """The newest injected faults, oldest first."""
        return _HAPPENED.validate_python(self._control.ask("GET", "/faults")["happened"])

    def remove(self, rule_id: str) -> None:
        """Drop one rule; raises ControlError when there is none of that id."""
        self._control.ask("DELETE", f"/faults/{rule_id}")

    def clear(self) -> int:
        """Drop every rule; returns how many there were."""
        return int(self._control.ask("DELETE", "/faults")["removed"])

    @contextmanager
    def injected(self, rule: FaultRule | None = None, **fields: Any) -> Iterator[str]:
        """Have a rule in force for the length of a `with` block.

        It has a lease that this process renews: when the process is killed, the rule is gone in `LEASE_S` seconds.
        """
        rule = rule or _rule(fields)
        if rule.lease_s is None:
            rule = rule.model_copy(update={"lease_s": LEASE_S})
        rule_id = self.add(rule)
        over = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(rule_id, rule, over), name="fault-lease", daemon=True)
        keeper.start()
        try:
            yield rule_id
        finally:
            over.set()
            keeper.join()
            if any(one.rule_id == rule_id for one in self.rules()):  # one with an end of its own may be over
                self.remove(rule_id)

    def _keep(self, rule_id: str, rule: FaultRule, over: threading.Event) -> None:
        while not over.wait((rule.lease_s or LEASE_S) / 4):
            with suppress(ControlError):  # it is over, or the cloud is away: then its rules are gone, too
                self.renew(rule_id)


class Clock:
    """The local cloud's clock: Unix time in seconds, and how far it is ahead."""

    def __init__(self, control: CloudControl) -> None:
        self._control = control

    def time(self) -> float:
        """What time it is there."""
        return float(self._control.ask("GET", "/clock")["at"])

    def offset_s(self) -> float:
        """How many seconds it is ahead of real time."""
        return float(self._control.ask("GET", "/clock")["offset_s"])

    def advance(self, seconds: float) -> float:
        """Move it forward; timeouts, idle times, schedules and expiry follow. Returns the new time."""
        return float(self._control.ask("POST", "/clock", {"seconds": seconds})["at"])


def _rule(fields: Mapping[str, Any]) -> FaultRule:
    try:
        return FaultRule(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ControlError(f"{where}: {what}" if where else what) from None
