"""Whether the lab's apps stand already as this session would deploy them: then nobody waits for a deployment.

What makes them so is the cloud's process, the scripted model, the code that is deployed and deploys, and the
environment. A change of any of these is another mark, and the apps are deployed anew.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import modal

import modal_app
import workbench.deployment
import workbench.failures
from workbench.deployment.deploy import DeployFailedError
from workbench.deployment.model_backing import running_model
from workbench.deployment.targets import Target
from workbench.failures.sides import Side
from workbench.machine import private_files

_CODE = (modal_app, workbench.deployment, workbench.failures)
_OF_US = ("WORKBENCH_", "NAIVE_", "CLAUDE_", "ANTHROPIC_", "PYTHON", "PATH")


def mark(target: Target, *, has_claude: bool) -> str:
    """What the lab's apps would be deployed of now."""
    found = hashlib.sha256()
    for path in _code():
        found.update(path.read_bytes())
    model = running_model(target) if has_claude else None
    env = {name: value for name, value in os.environ.items() if name.startswith(_OF_US)}
    about = [target.cloud_pid, has_claude, model and model.url, model and model.key, str(Path.cwd()), env]
    about += [modal.__version__, sys.version, sys.executable]
    found.update(json.dumps(about, sort_keys=True).encode())
    return found.hexdigest()


def found(target: Target, sides: tuple[Side, Side], *, has_claude: bool) -> bool:
    """Whether both apps stand; then they are located, and can be used."""
    kept = private_files.read(_path(target))
    if kept.get("mark") != mark(target, has_claude=has_claude):
        return False
    try:
        for side in sides:
            side.take()
    except (DeployFailedError, modal.exception.NotFoundError):  # stopped meanwhile
        return False
    return True


def keep(target: Target, *, has_claude: bool) -> None:
    """Note that both apps stand."""
    private_files.write(_path(target), {"mark": mark(target, has_claude=has_claude)})


def _path(target: Target) -> Path:
    return target.private / "failure-lab.json"


def _code() -> Iterator[Path]:
    for package in _CODE:
        for root in package.__path__:
            yield from sorted(path for path in Path(root).rglob("*") if path.suffix in (".py", ".yaml"))
