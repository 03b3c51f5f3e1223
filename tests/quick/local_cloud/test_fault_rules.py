"""A fault rule that is misspelt is refused with what was meant, before anybody waits for a fault that never comes."""

from typing import Any

import pytest
from pydantic import ValidationError

from workbench.local_cloud.faults.protocol import RPCS
from workbench.local_cloud.faults.rules import FaultRule, Faults, Subject


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        FaultRule(**fields)
    return refused.value.errors()[0]["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"rpc": "TaskExecStdioReed", "at": "stream"}, "TaskExecStdioRead"),
        ({"rpc": "SandboxCreateV3"}, "SandboxCreateV2"),
        ({"rpc": "sandboxterminatev2"}, "SandboxTerminateV2"),
        ({"rpc": "VolumeComit"}, "VolumeCommit"),
        ({"rpc": "SandboxCrate*"}, "SandboxCreate"),
        ({"rcp": "AppList"}, "rpc"),
        ({"probabilitty": 0.5}, "probability"),
        ({"delay": 1}, "delay_s"),
        ({"at": "commits"}, "commit"),
        ({"status": "UNAVAIL"}, "UNAVAILABLE"),
        ({"status": "resource_exhausted"}, "RESOURCE_EXHAUSTED"),
        ({"kill": "sandbx"}, "sandbox"),
        ({"exhaust": "memori"}, "memory"),
    ],
    ids=str,
)
def test_what_is_misspelt_is_refused_with_what_is_nearest(fields: dict[str, Any], meant: str) -> None:
    assert f"did you mean {meant}" in refusal(**{"delay_s": 1, **fields})


@pytest.mark.parametrize(("at", "how"), [("web", {"delay_s": 1}), ("call", {"kill": "container"})])
def test_a_grace_goes_with_a_preemption_alone(at: str, how: dict[str, Any]) -> None:
    assert "give preempt=true" in refusal(at=at, grace_s=3, **how)
    assert FaultRule(at="web", preempt=True, grace_s=3).grace_s == 3


def test_what_is_near_nothing_is_refused_with_what_there_is() -> None:
    assert refusal(rpc="Qqq", delay_s=1) == "there is no RPC 'Qqq': `workbench cloud coverage` lists them"
    assert refusal(exhaust="zzzz") == "there is no exhaust 'zzzz': there is memory, disk"


@pytest.mark.parametrize(
    ("at", "rpc"),
    [("stream", "TaskExecStart"), ("answer", "AppGetLogs"), ("stream", "Env*"), ("answer", "*StdioRead")],
)
def test_a_call_in_a_place_where_it_never_is_is_refused(at: str, rpc: str) -> None:
    assert "give" in refusal(at=at, rpc=rpc, delay_s=1)


@pytest.mark.parametrize(
    ("at", "rpc"),
    [("call", ""), ("call", "*"), ("stream", "Task*"), ("answer", "SandboxCreate*"), ("call", "AppGetLogs")],
)
def test_patterns_that_match_something_are_taken(at: Any, rpc: str) -> None:
    assert FaultRule(at=at, rpc=rpc, delay_s=1).rpc == rpc


def test_every_call_of_the_protocol_can_be_named() -> None:
    assert {"SandboxCreateV2", "TaskExecStdioRead", "DictUpdate", "FunctionPutOutputs"} <= set(RPCS)
    for name, streams in RPCS.items():
        FaultRule(at="stream" if streams else "answer", rpc=name, delay_s=1)


# -- how long a rule is in force --------------------------------------------------------------------------------------


class Time:
    """A clock by hand."""

    at = 1000.0

    def __call__(self) -> float:
        return self.at


def fired(faults: Faults) -> int:
    return len(faults.draw("call", "AppList", Subject))


def test_a_rule_with_an_end_is_over_by_the_cloud_s_clock() -> None:
    now = Time()
    faults = Faults(now)
    rule_id = faults.add(FaultRule(delay_s=1, for_s=40))
    now.at += 39.9
    assert fired(faults) == 1
    now.at += 0.1
    assert (fired(faults), faults.rules(), bool(faults)) == (0, [], False)
    [over] = faults.ended()
    assert (over.rule_id, over.matched, over.injected, over.ended) == (rule_id, 1, 1, "over")
    assert not faults.remove(rule_id)


def test_a_rule_that_nobody_renews_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Time()
    monkeypatch.setattr("time.monotonic", real)
    faults = Faults(Time())
    renewed, forgotten = (faults.add(FaultRule(delay_s=1, lease_s=20)) for _ in range(2))
    real.at += 15
    assert faults.renew(renewed)
    real.at += 15
    assert [one.rule_id for one in faults.rules()] == [renewed]
    assert [(one.rule_id, one.ended) for one in faults.ended()] == [(forgotten, "not renewed")]
    assert not faults.renew(forgotten)
    assert faults.remove(renewed)
    assert [one.ended for one in faults.ended()] == ["not renewed", "removed"]


def test_rules_that_are_over_take_no_place() -> None:
    now = Time()
    faults = Faults(now)
    for _ in range(100):
        faults.add(FaultRule(delay_s=1, for_s=1))
    with pytest.raises(ValueError, match="100 rules"):
        faults.add(FaultRule(delay_s=1))
    now.at += 1
    assert faults.add(FaultRule(delay_s=1))


# -- which program a call is about ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "meant"),
    [("*python3 -u*", 1), ("sh -c *", 0), ("", 1), ("python3", 0), ("*job.py", 1)],
)
def test_a_rule_may_mean_one_program_of_a_sandbox(argv: str, meant: int) -> None:
    faults = Faults(Time())
    faults.add(FaultRule(rpc="TaskExecStart", argv=argv, delay_s=1))
    subject = Subject(sandbox_id="sb-1", argv="setpriv -- python3 -u job.py")
    assert len(faults.draw("call", "TaskExecStart", lambda: subject)) == meant
    assert [one.subject.argv for one in faults.happened()] == [""] * meant  # what a program was given is nobody's news


@pytest.mark.parametrize("fields", [{"at": "web"}, {"rpc": "AppList"}, {"rpc": "Task*"}, {"at": "commit"}], ids=str)
def test_a_program_s_words_go_with_calls_about_programs(fields: dict[str, Any]) -> None:
    assert "rpc=TaskExec" in refusal(**{"delay_s": 1, "argv": "*x*", **fields})


@pytest.mark.parametrize(
    "fields", [{"for_s": 0}, {"for_s": -1}, {"lease_s": 0}, {"at": "web", "slice_bytes": 0}], ids=str
)
def test_what_has_no_length_is_refused(fields: dict[str, Any]) -> None:
    assert "greater than" in refusal(**{"delay_s": 1, **fields})


# -- what a rule ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"at": "stream", "rpc": "TaskExecStdioRead", "preempt": True}, "at=web"),
        ({"at": "stream", "rpc": "TaskExec*", "kill": "container"}, "at=web"),
        ({"at": "call", "rpc": "TaskExecStart", "preempt": True, "argv": "*job*"}, "at=web"),
        ({"at": "answer", "rpc": "TaskSnapshotDirectory", "kill": "container"}, "at=web"),
        ({"at": "web", "kill": "exec"}, "kill=container"),
        ({"at": "web", "kill": "sandbox"}, "kill=container"),
        ({"at": "commit", "kill": "exec"}, "kill=sandbox or kill=container"),
        ({"at": "call", "rpc": "SandboxCreateV2", "kill": "sandbox"}, "rpc=TaskExecStart"),
        ({"at": "answer", "rpc": "SandboxCreateV2", "exhaust": "memory"}, "rpc=TaskExecStart"),
        ({"at": "call", "rpc": "AppList", "exhaust": "disk"}, "rpc=TaskExecStart"),
        ({"at": "call", "rpc": "SandboxTerminate", "kill": "exec"}, "rpc=TaskExecWait"),
        ({"at": "stream", "rpc": "AppGetLogs", "kill": "exec"}, "rpc=TaskExecWait"),
    ],
    ids=str,
)
def test_a_rule_that_can_never_end_anything_is_refused(fields: dict[str, Any], instead: str) -> None:
    told = refusal(**fields)
    assert "has no effect with" in told
    assert instead in told


@pytest.mark.parametrize(
    "fields",
    [
        {"at": "stream", "rpc": "TaskExecStdioRead", "kill": "sandbox"},
        {"at": "call", "rpc": "Task*", "kill": "container"},  # containers tell of their own tasks
        {"at": "answer", "rpc": "SandboxCreateV2", "kill": "container"},
        {"at": "commit", "kill": "container"},
        {"at": "web", "preempt": True},
        {"at": "call", "preempt": True},
    ],
    ids=str,
)
def test_a_rule_that_may_end_something_is_taken(fields: dict[str, Any]) -> None:
    assert FaultRule(**fields).ends_something


def test_a_call_about_nothing_that_a_rule_could_end_is_no_match() -> None:
    faults = Faults(Time())
    faults.add(FaultRule(kill="sandbox", nth=1))
    assert faults.draw("call", "TaskExecStart", Subject, lambda rule, subject: False) == []
    assert [(one.matched, one.injected) for one in faults.rules()] == [(0, 0)]
    [fired] = faults.draw("call", "TaskExecStart", Subject)
    faults.take_back(fired)  # the sandbox had ended before
    assert (faults.happened(), [(one.matched, one.injected) for one in faults.rules()]) == ([], [(0, 0)])
    assert len(faults.draw("call", "TaskExecStart", Subject)) == 1
