"""A fault rule is named as a run's reason where it can have been, and nowhere else."""

from typing import Any

import pytest

from workbench.cloud_control.controls import InjectedFault
from workbench.cloud_control.fault_log import EndedRun, FaultLog
from workbench.local_cloud import FaultRule

RULES = {
    "fr-kill": FaultRule(at="call", rpc="TaskExecStart", kill="sandbox"),
    "fr-fail": FaultRule(at="call", rpc="SandboxCreate*", status="RESOURCE_EXHAUSTED"),
    "fr-lose": FaultRule(at="commit", lose=True),
    "fr-slow": FaultRule(at="stream", rpc="TaskExecStdioRead", bytes_per_s=10),
    "fr-late": FaultRule(at="call", rpc="TaskExecStart", delay_s=5),
}
RUN = EndedRun("app", "sandbox_lost", "sb-1", "p-1", 100_000, 110_000)


def hit(rule_id: str, real_s: float = 105, **subject: str) -> InjectedFault:
    return InjectedFault(
        rule_id=rule_id, at_s=9e9, at="call", what="TaskExecStart", subject={"app": "app", **subject}, real_s=real_s
    )


def cause(*happened: InjectedFault, **changed: Any) -> str:
    run = EndedRun(**{**RUN.__dict__, **changed})
    return FaultLog(RULES, happened).cause(run).partition(" (")[0]


def test_the_rule_and_what_it_hit_are_named() -> None:
    """Whatever the cloud's clock says, which can have been moved."""
    told = FaultLog(RULES, [hit("fr-kill", sandbox_id="sb-1")]).cause(RUN)
    assert told == (
        "fault rule fr-kill (at=call rpc=TaskExecStart kill=sandbox) fired at TaskExecStart, 5000 ms before the end"
    )


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        (hit("fr-kill", sandbox_id="sb-1"), {"code": "process_failed"}),
        (hit("fr-kill", sandbox_name="p-1"), {"sandbox_id": ""}),
        (hit("fr-fail"), {"code": "sandbox_unavailable", "sandbox_id": ""}),
        (hit("fr-fail", sandbox_name="p-1"), {"code": "sandbox_unavailable", "sandbox_id": ""}),
        (hit("fr-lose", sandbox_id="sb-1"), {"code": "commit_failed"}),
        (hit("fr-slow", sandbox_id="sb-1"), {"code": "process_timeout"}),
        (hit("fr-late", sandbox_id="sb-1"), {"code": "run_timeout"}),
    ],
)
def test_what_can_have_been_the_cause_is_named(fault: InjectedFault, changed: dict[str, Any]) -> None:
    assert cause(fault, **changed) == f"fault rule {fault.rule_id}"


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        (hit("fr-kill", sandbox_id="sb-1"), {"code": "done"}),  # it was survived
        (hit("fr-kill", sandbox_id="sb-1"), {"code": "cancelled"}),
        (hit("fr-kill", sandbox_id="sb-2"), {}),  # another run's sandbox
        (hit("fr-fail", sandbox_name="p-2"), {"sandbox_id": ""}),
        (hit("fr-kill", app="another"), {}),
        (hit("fr-kill", real_s=90, sandbox_id="sb-1"), {}),  # before
        (hit("fr-kill", real_s=99.9, sandbox_name="p-1"), {"sandbox_id": ""}),  # the run before, of the same project
        (hit("fr-kill", sandbox_id="sb-0", sandbox_name="p-1"), {"code": "process_failed"}),
        (hit("fr-kill", real_s=112, sandbox_id="sb-1"), {}),  # after
        (hit("fr-fail", sandbox_id="sb-1"), {"code": "process_failed"}),  # the program failed by itself
        (hit("fr-kill"), {"code": "process_failed"}),  # nobody knows whose sandbox it was
        (hit("fr-late", sandbox_id="sb-1"), {"code": "process_failed"}),
        (hit("fr-slow", sandbox_id="sb-1"), {"code": "sandbox_lost"}),  # slower is not lost
        (hit("fr-forgotten", sandbox_id="sb-1"), {}),
        (hit("fr-kill", sandbox_id="sb-1"), {"accepted_at_ms": 10**400, "ended_at_ms": 10**401}),
        (hit("fr-kill", sandbox_id="sb-1"), {"accepted_at_ms": -(10**401), "ended_at_ms": -(10**400)}),
    ],
)
def test_what_cannot_have_been_the_cause_is_not_named(fault: InjectedFault, changed: dict[str, Any]) -> None:
    assert cause(fault, **changed) == ""


def test_of_several_the_last_is_named() -> None:
    assert cause(hit("fr-kill", sandbox_id="sb-1"), hit("fr-lose", sandbox_id="sb-1")) == "fault rule fr-lose"
