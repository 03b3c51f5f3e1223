"""What is deployed under one app name (versions, health, secrets), and how to change it: roll back, stop.

Everything goes through the SDK and the stock `modal` command, so it works the same on every target. Blocking calls.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import modal
from modal.exception import NotFoundError
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS
from workbench.deployment import modal_command
from workbench.deployment.deploy import FUNCTION_NAME, DeployFailedError, caller_has_secret
from workbench.deployment.modal_command import ModalCommandFailedError
from workbench.deployment.targets import Target, TargetUnavailableError
from workbench.text.plain_text import one_line
from workbench.text.static_html import facts_and_table

State = Literal["deployed", "stopped", "not deployed", "given by URL"]

CHANGE_TIMEOUT_S = 300.0
HEALTH_TIMEOUT_S = 30.0  # a container may have to start before it can answer


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Version(_Fact):
    """One deployment of the app, as listed by `modal app history`; `version` is `v1`, `v2`, …"""

    version: str
    time_deployed: str = ""
    client: str = ""
    deployed_by: str = ""
    commit: str | None = None
    tag: str | None = None


class AppLine(_Fact):
    """One app of the target, as listed by `modal app list`."""

    app_id: str
    description: str
    state: str
    tasks: int
    created_at: str = ""
    stopped_at: str | None = None


@dataclass(frozen=True)
class SecretState:
    """A secret: its name, what it is for, and whether it exists. Never its value."""

    name: str
    purpose: str
    present: bool


@dataclass(frozen=True)
class Health:
    """The answer to `GET /health`; `ok` is None when nothing is deployed that could be asked."""

    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Deployed:
    """What is deployed of one app, as seen at one moment, safe to show."""

    target: str
    app_name: str
    state: State
    url: str = ""
    health: Health = Health(None, "nothing is deployed")
    versions: tuple[Version, ...] = ()
    secrets: tuple[SecretState, ...] = ()
    apps: tuple[AppLine, ...] = ()

    @property
    def current(self) -> str:
        """The version that is deployed now; empty when there is none."""
        return self.versions[0].version if self.versions and self.state == "deployed" else ""

    def facts(self) -> list[tuple[str, str]]:
        """The facts as (name, value) for people, safe to print."""
        missing = [secret.name for secret in self.secrets if not secret.present]
        word = {True: "healthy", False: "not healthy", None: "not known"}[self.health.ok]
        found = [
            ("target", self.target),
            ("app", self.app_name),
            ("state", f"{self.state}{', ' + self.current if self.current else ''}"),
            ("url", self.url or "none"),
            ("health", f"{word}: {self.health.detail}"),
            ("secrets", f"missing: {', '.join(missing)}" if missing else "present" if self.secrets else "not known"),
        ]
        return [(name, one_line(value)) for name, value in found]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The heading, and then the cells of each version, the newest first, safe to print."""
        yield ("version", "deployed", "by", "SDK", "commit")
        for one in self.versions:
            cells = (one.version, one.time_deployed, one.deployed_by, one.client, one.commit or "")
            yield tuple(one_line(cell, 60) for cell in cells)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        heading, *rows = self.rows()
        return facts_and_table(f"Deployment of {one_line(self.app_name, 64)}", self.facts(), heading, rows)


_VERSIONS: TypeAdapter[tuple[Version, ...]] = TypeAdapter(tuple[Version, ...])
_APPS: TypeAdapter[tuple[AppLine, ...]] = TypeAdapter(tuple[AppLine, ...])


class Deployments:
    """The deployments of one app on one target. Made by `Workbench.deployments`."""

    def __init__(self, target: Target, app_name: str) -> None:
        self._target = target
        self._app_name = app_name

    def look(self) -> Deployed:
        """What is deployed now. Raises DeployFailedError when the target does not answer."""
        kind = self._target.kind
        if kind == "url":
            url = self._target.url or ""
            return Deployed(kind, self._app_name, "given by URL", url, _health(url))
        self._target.point_sdk()
        with ThreadPoolExecutor(max_workers=2) as pool:
            listed, secrets = pool.submit(self._listed), pool.submit(self.stored_secrets)
            url = self._url()
            health = _health(url) if url else Health(None, "nothing is deployed")
            apps, versions = listed.result()
            state: State = "deployed" if url else "stopped" if versions else "not deployed"
            return Deployed(kind, self._app_name, state, url, health, versions, secrets.result(), apps)

    def rollback(self, version: str = "", *, on_line: Callable[[str], None] = lambda line: None) -> None:
        """Deploy an earlier version (such as `v2`) again, by default the one before. Raises DeployFailedError."""
        self._change(["app", "rollback", self._app_name, *([version] if version else [])], on_line)

    def stop(self, *, on_line: Callable[[str], None] = lambda line: None) -> None:
        """Stop the app and its containers; runs under way end. Volumes and secrets stay. Raises DeployFailedError."""
        self._change(["app", "stop", self._app_name, "--yes"], on_line)

    def _change(self, arguments: list[str], on_line: Callable[[str], None]) -> None:
        if self._target.kind == "url":
            raise TargetUnavailableError("an endpoint given by URL is changed where it was deployed")
        try:
            modal_command.follow(arguments, self._env, timeout_s=CHANGE_TIMEOUT_S, on_line=on_line)
        except ModalCommandFailedError as error:
            raise DeployFailedError(str(error)) from error

    def _listed(self) -> tuple[tuple[AppLine, ...], tuple[Version, ...]]:
        """Every app of the target, and the versions of this one: of the deployed app, else of the last stopped one."""
        try:
            apps = _APPS.validate_python(modal_command.ask(["app", "list"], self._env))
            ours = [one for one in apps if one.description == self._app_name]
            if not ours:
                return apps, ()
            newest = max(ours, key=lambda one: (one.state == "deployed", one.created_at))
            versions = _VERSIONS.validate_python(modal_command.ask(["app", "history", newest.app_id], self._env))
        except (ModalCommandFailedError, ValidationError) as error:
            raise DeployFailedError(f"what is deployed cannot be listed: {error}") from error
        return apps, versions

    def stored_secrets(self) -> tuple[SecretState, ...]:
        """Which secrets there are, without their values. Raises DeployFailedError when the target does not answer."""
        wanted = (
            (self._app_name, "on the target: what callers must show"),
            (f"{self._app_name}-model", "on the target: the model gateway's key"),
        )
        try:
            there = {secret.name for secret in modal.Secret.objects.list()}
        except PLATFORM_ERRORS as error:
            raise DeployFailedError(f"the secrets cannot be listed: {type(error).__name__}") from error
        own = SecretState(
            "caller's copy",
            "on this machine: what this workbench shows",
            caller_has_secret(self._target, self._app_name),
        )
        return (*(SecretState(name, purpose, name in there) for name, purpose in wanted), own)

    def _url(self) -> str:
        try:
            function = modal.Function.from_name(self._app_name, FUNCTION_NAME)
            function.hydrate()
            return function.get_web_url() or ""
        except NotFoundError:
            return ""
        except PLATFORM_ERRORS as error:
            message = f"the target does not answer ({type(error).__name__}): try again, or see `workbench doctor`"
            raise DeployFailedError(message) from error

    @property
    def _env(self) -> dict[str, str]:
        return {**os.environ, **self._target.env}


def _health(url: str) -> Health:
    started = time.monotonic()
    try:
        answer = httpx.get(f"{url}/health", timeout=HEALTH_TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        return Health(False, f"no answer from {url}/health: {type(error).__name__}")
    took_ms = round((time.monotonic() - started) * 1000)
    return Health(answer.status_code == 200, f"HTTP {answer.status_code} in {took_ms} ms")
