"""Targets: the local cloud, Modal itself, or an endpoint that is deployed already and given by its URL.

A target is an address with its credentials. Connecting to it configures the SDK of this whole process, so a process
works with one cloud at a time.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import platformdirs
from modal.client import Client as ModalClient
from modal.config import config

from workbench.deployment.endpoint import check_url
from workbench.errors import WorkbenchError
from workbench.local_cloud import State, daemon, default_state_dir


class TargetUnavailableError(WorkbenchError):
    """The target cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Target:
    """Where to deploy and run. `env` are the variables that point any SDK program at it; their values are secret."""

    kind: Literal["local", "modal", "url"]
    private: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    url: str | None = None
    cloud_url: str | None = None  # the local cloud's own HTTP interface (history, faults, clock); None elsewhere
    cloud_pid: int | None = None  # the local cloud's process

    def point_sdk(self) -> None:
        """Configure the SDK of this process for this target."""
        changed = {name: value for name, value in self.env.items() if os.environ.get(name) != value}
        if changed:
            os.environ.update(changed)
            ModalClient._set_env_client(None)


def resolve(name: str = "local", *, state_dir: str | Path | None = None) -> Target:
    """The target with this name; for `local`, the local cloud is started if it is not running.

    `name` is `local`, `modal`, or the http(s) URL of an endpoint. Raises TargetUnavailableError.
    """
    if name == "local":
        state = State(Path(state_dir or default_state_dir()))
        try:
            running, _ = daemon.start(state)
        except daemon.CloudStartFailedError as error:
            raise TargetUnavailableError(str(error)) from error
        return Target(
            "local", state.root / "endpoints", running.env(), cloud_url=running.http_url, cloud_pid=running.pid
        )
    if name == "modal":
        return _modal()
    try:
        url = check_url(name)
    except ValueError:
        message = f"unknown target '{name}': use local, modal, or the https URL of an endpoint"
        raise TargetUnavailableError(message) from None
    return Target("url", _private(), url=url)


def _modal() -> Target:
    server = str(config.get("server_url"))
    if urlsplit(server).hostname in ("127.0.0.1", "localhost", "::1"):
        raise TargetUnavailableError(
            "MODAL_SERVER_URL points at a local cloud: unset it (and MODAL_TOKEN_ID, MODAL_TOKEN_SECRET) to reach Modal"
        )
    if not config.get("token_id"):
        raise TargetUnavailableError("no Modal token on this machine: run `modal token new`, or use the target local")
    return Target("modal", _private())


def _private() -> Path:
    return Path(platformdirs.user_config_dir("modal-workbench")) / "endpoints"
