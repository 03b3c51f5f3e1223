"""What the suite compares: a private local cloud, and beside it Modal or another local cloud of other settings."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from workbench.cloud_control.controls import Clock, CloudControl, Faults
from workbench.deployment.targets import TargetUnavailableError, resolve
from workbench.local_cloud import UIDS_VARIABLE, CloudStartFailedError, State, daemon, uid_range
from workbench.machine.environment import environment
from workbench.machine.private_cloud import cloud_variables, private_root

AHEAD_S = 86_400.0 * 3
_RETRIED = (
    "FunctionGet",
    "VolumeGetOrCreate",
    "DictGet",
    "QueueLen",
    "SandboxWaitV2",
    "FunctionGetOutputs",
    "AppGetOrCreate",
)


@dataclass(frozen=True)
class Side:
    """One target of a comparison: its name for people, and the complete environment of programs that use it."""

    name: str
    env: Mapping[str, str] = field(repr=False)


@contextmanager
def local() -> Iterator[Side]:
    """A new local cloud as it starts by itself; it ends with the block. Raises TargetUnavailableError."""
    with _cloud({}) as (env, _):
        yield Side("local cloud", env)


@contextmanager
def other_local() -> Iterator[Side]:
    """A new local cloud of other settings, none of which a program may notice; it ends with the block.

    Its sandboxes run as other users, its clock is three days ahead, and the first try of several calls fails, which the
    SDK makes again. Raises TargetUnavailableError.
    """
    first, last = uid_range()
    middle = (first + last) // 2
    with _cloud({UIDS_VARIABLE: f"{middle}-{last}"}) as (env, control):
        Clock(control).advance(AHEAD_S)
        faults = Faults(control)
        for name in _RETRIED:
            faults.add(rpc=name, status="UNAVAILABLE", times=1)
        yield Side("local cloud of other settings", env)


@contextmanager
def modal() -> Iterator[Side]:
    """Modal itself. Raises TargetUnavailableError when there is no token, or a local cloud is set in its place."""
    resolve("modal")
    yield Side("Modal", dict(os.environ))


@contextmanager
def _cloud(settings: Mapping[str, str]) -> "Iterator[tuple[dict[str, str], CloudControl]]":
    with private_root("parity") as root:
        state = State(root / "state")
        try:
            try:
                with cloud_variables(root), environment(settings):
                    running, _ = daemon.start(state)
            except CloudStartFailedError as error:
                raise TargetUnavailableError(str(error)) from error
            env = {**os.environ, **running.env()}
            yield env, CloudControl(running.http_url, running.env())
        finally:
            daemon.stop(state)
