"""Which model a deployed endpoint uses: a model's service, by the deployer's key, or locally the scripted model.

The scripted model is a process beside the local cloud: it ends with the cloud, and is started again when it is needed.
Its key, and the secret that signs runs' tokens, are kept in files that only their owner can read.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr, ValidationError

from modal_app.model_gateway.gateway_settings import GatewaySettings
from workbench.deployment.targets import Target
from workbench.errors import WorkbenchError
from workbench.local_cloud import start_of
from workbench.machine import private_files

UPSTREAM_URL_VARIABLE = "WORKBENCH_MODEL_UPSTREAM_URL"
UPSTREAM_KEY_VARIABLE = "WORKBENCH_MODEL_UPSTREAM_KEY"
WITHOUT_CLAUDE_VARIABLE = "WORKBENCH_WITHOUT_CLAUDE"
_DEFAULT_URL = "https://api.anthropic.com"
_SCRIPT = Path(__file__).parents[1] / "scripted_model" / "demo.yaml"
_KEY_VARIABLE = "WORKBENCH_SCRIPTED_MODEL_KEY"
_CONTROL_KEY_VARIABLE = "WORKBENCH_SCRIPTED_MODEL_CONTROL_KEY"
_START_S = 30.0


class ModelUnavailableError(WorkbenchError):
    """The settings of the model are not valid, or the scripted model does not start; the message says why."""


@dataclass(frozen=True)
class Backing:
    """A model's service: its address and the key for it."""

    url: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Scripted(Backing):
    """The scripted model; whoever shows `control` may lend it scripts."""

    control: str = field(repr=False)


def why_without_claude(target: Target) -> str | None:
    """Why a deployment to a target leaves the Claude CLI out of sandboxes, and what to do; None when it does not."""
    if os.environ.get(WITHOUT_CLAUDE_VARIABLE):
        return f"{WITHOUT_CLAUDE_VARIABLE} is set"
    if target.kind == "local" and not (shutil.which("npm") and shutil.which("node")):
        return "npm is not installed on this machine: run `sudo apt-get install -y nodejs npm` and deploy again"
    return None


def backing(target: Target, *, scripted: bool = False) -> Backing | None:
    """The model that a deployment to a target will use; None for no model. Raises ModelUnavailableError.

    With `scripted`, a service that the environment names is left alone, and nothing is spent there.
    """
    if why_without_claude(target) is not None:
        return None
    if not scripted and (key := os.environ.get(UPSTREAM_KEY_VARIABLE)):
        return _checked(Backing(os.environ.get(UPSTREAM_URL_VARIABLE) or _DEFAULT_URL, key))
    return scripted_model(target) if target.kind == "local" else None


def _checked(given: Backing) -> Backing:
    """Return `given` unless the gateway would refuse to start with it: then raise ModelUnavailableError right away."""
    try:
        GatewaySettings(
            upstream_url=given.url, upstream_key=SecretStr(given.key), token_secret=SecretStr(secrets.token_urlsafe(32))
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = f"WORKBENCH_MODEL_{str(first['loc'][0]).upper()}"
        raise ModelUnavailableError(f"{name} {first['msg'].removeprefix('Value error, ')}") from None
    return given


def revive(target: Target) -> None:
    """Start the scripted model again if the target uses it and it is not running. Raises ModelUnavailableError."""
    if target.kind == "local" and _path(target).exists():
        scripted_model(target)


def _path(target: Target) -> Path:
    return target.private / "scripted-model.json"


def running_model(target: Target) -> Scripted | None:
    """The scripted model beside the local cloud; None while it does not run."""
    known = private_files.read(_path(target))
    return _known(known) if _runs(known) else None


def _known(known: Mapping[str, object]) -> Scripted:
    return Scripted(*(str(known.get(name, "")) for name in ("url", "key", "control")))


def scripted_model(target: Target) -> Scripted:
    """The scripted model beside the local cloud, started if need be. Raises ModelUnavailableError."""
    path = _path(target)
    known = private_files.read(path)
    found = _known(known)
    if _runs(known):
        return found
    assert target.cloud_pid is not None, "the local cloud runs"
    key = found.key or f"sk-scripted-{secrets.token_urlsafe(24)}"
    control = found.control or secrets.token_urlsafe(32)
    port = found.url.rpartition(":")[2] or "0"
    env = {**os.environ, _KEY_VARIABLE: key, _CONTROL_KEY_VARIABLE: control}
    said = _start(port, env, target.cloud_pid) or _start("0", env, target.cloud_pid)
    if said is None:
        raise ModelUnavailableError(
            "the scripted model does not start; in a checkout of the project, this shows why: "
            "`python -m workbench.scripted_model workbench/scripted_model/demo.yaml`"
        )
    private_files.write(path, {**said, "key": key, "control": control})
    return Scripted(str(said["url"]), key, control)


def _start(port: str, env: dict[str, str], cloud_pid: int) -> dict[str, object] | None:
    command = [sys.executable, "-m", "workbench.scripted_model", str(_SCRIPT), "--port", port]
    try:
        done = subprocess.run(
            [*command, "--beside", str(cloud_pid)],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_START_S,
            check=False,
        )
        said: dict[str, object] = json.loads(done.stdout.splitlines()[0])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return None
    return said


def _runs(known: dict[str, object]) -> bool:
    try:
        return start_of(int(str(known.get("pid", 0)))) == known["pid_started"]
    except (KeyError, ValueError):
        return False
