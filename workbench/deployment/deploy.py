"""Deploys `modal_app` with the stock `modal` command, with a secret that its callers must send."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import modal
from modal.exception import NotFoundError
from pydantic import SecretStr

from modal_app import DEFAULT_APP_NAME
from modal_app.endpoint_settings import DEFAULT_MEMORY_MB, LEAST_MEMORY_MB
from workbench.deployment import app_secrets, images_ahead, modal_command, model_backing
from workbench.deployment.app_secrets import SECRET_VARIABLE, SecretNotStoredError
from workbench.deployment.endpoint import Endpoint
from workbench.deployment.images_ahead import ProgramImage, ProgramUnreadableError
from workbench.deployment.modal_command import ModalCommandFailedError
from workbench.deployment.model_backing import ModelUnavailableError, Scripted
from workbench.deployment.targets import Target, TargetUnavailableError
from workbench.errors import WorkbenchError

FUNCTION_NAME = "generate"
PROGRAM = ("-m", "modal_app.app")
DEPLOY_TIMEOUT_S = 900.0


class DeployFailedError(WorkbenchError):
    """The deployment failed, or nothing is deployed; the message says what to do, or ends with the SDK's output."""


def deploy(
    target: Target,
    *,
    app_name: str = DEFAULT_APP_NAME,
    rotate_secret: bool = False,
    with_claude: bool = True,
    scripted: bool = False,
    settings: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Endpoint:
    """Deploy the endpoint and return how to call it; `on_line` is called with each line that `modal` prints.

    `rotate_secret` makes a new secret for callers; the one before is accepted until the next rotation. Without
    `with_claude`, sandboxes have no Claude CLI, which makes their image smaller and quicker to build. With `scripted`,
    the model is the local cloud's scripted one even where the environment names a model's service. `settings` are
    variables of the deployment (`WORKBENCH_TIMEOUT_…`), instead of this process's own. A deployment that fails leaves
    the secrets as they were.
    Raises DeployFailedError; TargetUnavailableError for an endpoint given by URL.
    """
    if target.kind == "url":
        raise TargetUnavailableError("an endpoint given by URL is deployed already: use the target local or modal")
    target.point_sdk()
    try:
        model = model_backing.backing(target, scripted=scripted) if with_claude else None
    except ModelUnavailableError as error:
        raise DeployFailedError(str(error)) from error
    env = _environment(target, app_name, with_claude=with_claude, settings=settings or {})
    accepted = partial(_is_accepted, env, on_line)
    try:
        with app_secrets.stored(target, app_name, model, rotate=rotate_secret, accepted=accepted):
            modal_command.follow(["deploy", *PROGRAM], env, timeout_s=DEPLOY_TIMEOUT_S, on_line=on_line)
    except SecretNotStoredError as error:
        raise DeployFailedError(str(error)) from error
    except ModalCommandFailedError as error:
        hint = (
            f"\n(set {model_backing.WITHOUT_CLAUDE_VARIABLE}=1 to do without the Claude CLI)"
            if "npm" in str(error)
            else ""
        )
        raise DeployFailedError(f"{error}{hint}") from error
    return endpoint(target, app_name=app_name)


def images(
    target: Target,
    *,
    app_name: str = DEFAULT_APP_NAME,
    build: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> tuple[ProgramImage, ...]:
    """The images of the endpoint's program, and whether they are built; with `build`, those that are not are built.

    Without `build` nothing is known of Modal's, which cannot be asked. `on_line` is called with each line of a build.
    Raises ProgramUnreadableError; TargetUnavailableError for an endpoint given by URL.
    """
    if target.kind == "url":
        raise TargetUnavailableError(
            "an endpoint given by URL has been deployed elsewhere: use the target local or modal"
        )
    target.point_sdk()
    env = _environment(target, app_name, with_claude=True, settings={})
    if build:
        return images_ahead.build(PROGRAM, env, on_line=on_line)
    return images_ahead.look(PROGRAM, env) if target.kind == "local" else ()


def _is_accepted(env: Mapping[str, str], on_line: Callable[[str], None]) -> bool:
    """Whether the program can be loaded, and its images built."""
    try:
        found = images_ahead.build(PROGRAM, env, on_line=on_line)
    except ProgramUnreadableError:
        return False
    return all(one.state == "built" for one in found)


def _environment(target: Target, app_name: str, *, with_claude: bool, settings: Mapping[str, str]) -> dict[str, str]:
    """The complete environment in which the endpoint's program is loaded."""
    env = {**os.environ, **settings, **target.env, "WORKBENCH_APP_NAME": app_name}
    if not with_claude or model_backing.why_without_claude(target) is not None:
        env[model_backing.WITHOUT_CLAUDE_VARIABLE] = "1"
    if target.kind == "local":
        env.setdefault("WORKBENCH_MIN_CONTAINERS", "1")  # it costs nothing here, and the first run need not wait
        env.setdefault("WORKBENCH_MEMORY_MB", str(_memory_here_mb()))
    for name in (model_backing.UPSTREAM_KEY_VARIABLE, model_backing.UPSTREAM_URL_VARIABLE):
        env.pop(name, None)  # it belongs into the gateway's secret only
    return env


def _memory_here_mb() -> int:
    """What a sandbox may use of this machine's memory, in MiB: half of it at most, so that the machine stays usable."""
    half_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**21
    return max(LEAST_MEMORY_MB, min(DEFAULT_MEMORY_MB, half_mb))


def endpoint(target: Target, *, app_name: str = DEFAULT_APP_NAME) -> Endpoint:
    """How to call what is deployed; raises DeployFailedError when nothing is, or its secret is not on this machine."""
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
    kept = app_secrets.kept(target, app_name)
    with suppress(ModelUnavailableError):  # jobs that need no model go on without it
        model_backing.revive(target)
    if not url:
        raise DeployFailedError(f"nothing is deployed as '{app_name}' on {target.kind}: run `workbench deploy`")
    if not kept:
        raise DeployFailedError(
            f"'{app_name}' is deployed on {target.kind}, but this machine has no copy of its secret: set "
            f"{SECRET_VARIABLE} and use the target {url}, or run `workbench deploy`, which makes a new secret"
        )
    return Endpoint(url=url, secret=SecretStr(kept))


def caller_has_secret(target: Target, app_name: str) -> bool:
    """Whether this machine has a copy of the secret that an app's callers must send."""
    return app_secrets.kept(target, app_name) is not None


def has_scripted_model(target: Target, app_name: str) -> bool:
    """Whether an app that was deployed from here asks the scripted model."""
    return app_secrets.asks_scripted_model(target, app_name)


def scripted_model(target: Target, app_name: str) -> Scripted:
    """The scripted model that an app asks, started if need be. Raises ModelUnavailableError when it asks another."""
    if not has_scripted_model(target, app_name):
        raise ModelUnavailableError(
            f"'{app_name}' does not ask the scripted model: deploy it to the local cloud, with the Claude CLI and "
            f"without {model_backing.UPSTREAM_KEY_VARIABLE}"
        )
    return model_backing.scripted_model(target)
