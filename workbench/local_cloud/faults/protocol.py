"""The protocol's RPCs as fault rules see them: whether each streams its answer, and what it can be about."""

from fnmatch import fnmatchcase
from typing import Literal

from modal_proto import api_pb2, task_command_router_pb2

At = Literal["call", "answer", "stream", "commit", "web"]
Part = Literal["exec", "sandbox", "container"]

_CONTROL = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
_ROUTER = task_command_router_pb2.DESCRIPTOR.services_by_name["TaskCommandRouter"]
_METHODS = (*_CONTROL.methods, *_ROUTER.methods)

RPCS: dict[str, bool] = {method.name: method.server_streaming for method in _METHODS}
"""Whether each RPC streams its answer."""

_NAMED_BY: dict[Part, set[str]] = {"exec": {"exec_id"}, "sandbox": {"sandbox_id", "task_id"}}
# What a call at a place can be about, where that is not everything.
_PARTS: dict[At, tuple[Part, ...]] = {"commit": ("sandbox", "container"), "web": ("container",)}
_MEANT: dict[Part, str] = {
    "exec": "those calls are about no program; give rpc=TaskExecWait, TaskExecStdioRead or another that is",
    "sandbox": "those calls are about no running sandbox; give rpc=TaskExecStart, SandboxWait or another that is",
    "container": "those calls tell of no container; give at=web, or the rpc of a call that a container makes",
}


def why_without_effect(at: At, rpc: str, part: Part) -> str | None:
    """Return why no call at a place, of an RPC like the pattern `rpc`, is about a running `part`; None when one is.

    A program or a sandbox is the one that the request names by its id. A container is the one that calls, or whose
    function the call is about; calls to the router of sandboxes tell of none.
    """
    if part not in _PARTS.get(at, (part,)):
        return f"with at={at}: use {' or '.join(f'kill={one}' for one in _PARTS[at])} there"
    if rpc and not any(_can_be_about(part, name) for name in RPCS if fnmatchcase(name, rpc)):
        return f"with rpc={rpc}: {_MEANT[part]}"
    return None


def _can_be_about(part: Part, rpc: str) -> bool:
    if part == "container":
        return rpc in _CONTROL.methods_by_name
    return any(
        not _NAMED_BY[part].isdisjoint(method.input_type.fields_by_name) for method in _METHODS if method.name == rpc
    )
