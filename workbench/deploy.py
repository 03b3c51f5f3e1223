"""Deploys `modal_app` with the stock `modal` command, and remembers the secret that its callers must show.

Modal gives no secret back once it is stored, so the caller's copy lives in a file that only its owner can read.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import modal
from modal.exception import Error as ModalError
from modal.exception import NotFoundError
from pydantic import SecretStr

from modal_app import DEFAULT_APP_NAME
from workbench.endpoint import Endpoint
from workbench.targets import Target, TargetUnavailableError

FUNCTION_NAME = "generate"
SECRET_VARIABLE = "WORKBENCH_SECRET"  # noqa: S105  # the name of the variable, not its value
PREVIOUS_VARIABLE = "WORKBENCH_SECRET_PREVIOUS"  # see above
DEPLOY_TIMEOUT_S = 900.0


class DeployFailedError(Exception):
    """The deployment failed; the message ends with what the SDK said."""


def deploy(
    target: Target,
    *,
    app_name: str = DEFAULT_APP_NAME,
    rotate_secret: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> Endpoint:
    """Deploy the endpoint and return how to call it; `on_line` gets the SDK's progress line by line.

    Raises DeployFailedError, or TargetUnavailableError for a target that is not ours to deploy to.
    """
    if target.kind == "url":
        raise TargetUnavailableError("an endpoint given by URL is deployed already: use the target local or modal")
    target.point_sdk()
    _ensure_secret(target, app_name, rotate=rotate_secret)
    command = [sys.executable, "-m", "modal", "deploy", "-m", "modal_app.app"]
    env = {**os.environ, **target.env, "WORKBENCH_APP_NAME": app_name, "NO_COLOR": "1", "TERM": "dumb"}
    if target.kind == "local":
        env.setdefault("WORKBENCH_MIN_CONTAINERS", "1")  # it costs nothing here, and the first run need not wait
    lines: list[str] = []
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                on_line(line.rstrip())
            code = process.wait(timeout=DEPLOY_TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
    if code != 0:
        raise DeployFailedError(f"`modal deploy` failed with exit code {code}:\n" + "\n".join(lines[-15:]))
    return endpoint(target, app_name=app_name)


def endpoint(target: Target, *, app_name: str = DEFAULT_APP_NAME) -> Endpoint:
    """How to call what is deployed; raises DeployFailedError when nothing is."""
    if target.kind == "url":
        assert target.url is not None
        secret = os.environ.get(SECRET_VARIABLE)
        if not secret:
            raise TargetUnavailableError(f"set {SECRET_VARIABLE} to the secret of the endpoint {target.url}")
        return Endpoint(url=target.url, secret=SecretStr(secret))
    target.point_sdk()
    try:
        function = modal.Function.from_name(app_name, FUNCTION_NAME)
        function.hydrate()
        url = function.get_web_url()
    except NotFoundError:
        url = None
    kept = _kept(target, app_name)
    if not url or not kept:
        raise DeployFailedError(f"nothing is deployed as '{app_name}' on {target.kind}: run `workbench deploy`")
    return Endpoint(url=url, secret=SecretStr(kept))


def _ensure_secret(target: Target, app_name: str, *, rotate: bool) -> None:
    """Make the cloud and our file agree on a secret; on rotation the one before stays good for calls under way."""
    kept = _kept(target, app_name)
    values: dict[str, str] = {}
    if kept is None or rotate:
        values = {SECRET_VARIABLE: secrets.token_urlsafe(32), PREVIOUS_VARIABLE: kept or ""}
    else:
        values = {SECRET_VARIABLE: kept}
    try:
        modal.Secret.objects.create(app_name, values, allow_existing=True)
        modal.Secret.from_name(app_name).update(values)
    except ModalError as error:
        raise DeployFailedError(f"the secret '{app_name}' could not be stored: {type(error).__name__}") from error
    _keep(target, app_name, values[SECRET_VARIABLE])


def _path(target: Target, app_name: str) -> Path:
    host = urlsplit(os.environ.get("MODAL_SERVER_URL", "")).hostname or "modal"
    return target.private / f"{'local' if target.kind == 'local' else host}-{app_name}.json"


def _kept(target: Target, app_name: str) -> str | None:
    try:
        found: str = json.loads(_path(target, app_name).read_text())["secret"]
    except FileNotFoundError:
        return None
    return found


def _keep(target: Target, app_name: str, secret: str) -> None:
    path = _path(target, app_name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"secret": secret}, file)
    temporary.replace(path)
