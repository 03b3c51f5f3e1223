"""A fault rule that is misspelt is refused with what was meant, before anybody waits for a fault that never comes."""

from typing import Any

import pytest
from pydantic import ValidationError

from workbench.local_cloud.faults.rules import RPCS, FaultRule


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
