"""The hardened side: the endpoint of `modal_app`, deployed with short deadlines."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import modal

from modal_app.contract.headers import SECRET_HEADER
from modal_app.sandboxes.fleet import project_name, sub_path
from workbench.deployment import deploy as deployment
from workbench.deployment import modal_command
from workbench.deployment.app_secrets import SECRET_VARIABLE, TOKEN_SECRET_VARIABLE
from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE
from workbench.failures.observation import Observation, Seen
from workbench.failures.sides.side import PATIENCE_S, Reading, Side
from workbench.runs.project import Project

_TOO_LARGE = 413
SHORT = {
    "WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": "5",
    "WORKBENCH_TIMEOUT_LEASE_S": "9",
    "WORKBENCH_TIMEOUT_SWEEP_S": "5",
    "WORKBENCH_TIMEOUT_SWEEP_MARGIN_S": "5",
    "WORKBENCH_TIMEOUT_HEARTBEAT_S": "3",
    "WORKBENCH_TIMEOUT_MODEL_HEADERS_S": "2",
    "WORKBENCH_TIMEOUT_MODEL_IDLE_S": "3",
}
"""Deadlines of the hardened endpoint in the lab, so that nobody waits for the usual ones."""


class Hardened(Side):
    """The endpoint of `modal_app`."""

    name = "hardened"
    program = "*/tmp/job.py*"

    def deploy(self, on_line: Callable[[str], None]) -> None:
        """Deploy `modal_app`, with the scripted model behind it."""
        self._deploy(on_line)

    def take(self) -> None:
        """As any session finds an endpoint."""
        endpoint = deployment.endpoint(self.target, app_name=self.app_name)
        self.url, self.secret = endpoint.url, endpoint.secret.get_secret_value()

    def rotate(self) -> None:
        """The secret before is accepted until the next rotation."""
        self._deploy(lambda line: None, rotate_secret=True)

    def deploy_with(self, stored: str) -> None:
        """With a secret stored by hand, as who does without `workbench deploy` has it."""
        self.target.point_sdk()
        for name, values in (
            (self.app_name, {SECRET_VARIABLE: stored}),
            (f"{self.app_name}-model", {TOKEN_SECRET_VARIABLE: secrets.token_urlsafe(32)}),
        ):
            modal.Secret.objects.create(name, values, allow_existing=True)
            modal.Secret.from_name(name).update(values)
        env = {**os.environ, **SHORT, **self.target.env, "WORKBENCH_APP_NAME": self.app_name}
        env |= {WITHOUT_CLAUDE_VARIABLE: "1", "WORKBENCH_MIN_CONTAINERS": "1"}
        modal_command.follow(
            ["deploy", "-m", "modal_app.app"], env, timeout_s=deployment.DEPLOY_TIMEOUT_S, on_line=lambda line: None
        )
        self.locate()

    def locate(self) -> None:
        """The address of its function."""
        self.url = str(modal.Function.from_name(self.app_name, deployment.FUNCTION_NAME).get_web_url())

    def _deploy(self, on_line: Callable[[str], None], *, rotate_secret: bool = False) -> None:
        endpoint = deployment.deploy(
            self.target,
            app_name=self.app_name,
            with_claude=self.has_claude,
            scripted=True,
            rotate_secret=rotate_secret,
            settings=SHORT,
            on_line=on_line,
        )
        self.url, self.secret = endpoint.url, endpoint.secret.get_secret_value()

    def ready(self) -> None:
        """The gateway's container starts with the first request, which needs no token for that."""
        gateway = str(modal.Function.from_name(self.app_name, "model_gateway").get_web_url())
        with suppress(httpx.HTTPError):  # then the job tells what is wrong
            httpx.get(gateway, timeout=PATIENCE_S, trust_env=False)

    def request(self, project: Project, code: str, timeout_s: int | None) -> dict[str, Any]:
        """A request of the contract."""
        asked = {"user_id": project.user_id, "project_id": project.project_id, "action": "python", "code": code}
        return asked if timeout_s is None else {**asked, "timeout_s": timeout_s}

    def claude_request(self, project: Project, prompt: str, resume: str) -> dict[str, Any]:
        """A request of the contract."""
        asked = {"user_id": project.user_id, "project_id": project.project_id, "action": "claude", "prompt": prompt}
        return {**asked, "resume": resume} if resume else asked

    def showing(self, secret: str) -> dict[str, str]:
        """The contract's header."""
        return {SECRET_HEADER: secret}

    def again(self, seen: Observation, project: Project, code: str, *, url: str = "") -> Observation:
        """It asks for the events behind the last one that it has."""
        headers = {"Last-Event-ID": seen.last_id}
        return self._watch("GET", f"{url or self.url}/generate/{seen.run_id}", None, headers, Reading())

    def git_status(self, project: Project, code: str) -> Observation:
        """It has an action for that."""
        asked = {"user_id": project.user_id, "project_id": project.project_id, "action": "git", "op": "status"}
        return self._watch("POST", f"{self.url}/generate", asked, {}, Reading())

    def loaded_again(self, run_id: str) -> Observation:
        """Without the id of a last event it sends all of them."""
        return self._watch("GET", f"{self.url}/generate/{run_id}", None, {}, Reading())

    def of_another_user(self, run_id: str, project: Project) -> Observation:
        """The calling server names the user for whom it asks."""
        url = f"{self.url}/generate/{run_id}?user_id={project.user_id}"
        return self._watch("GET", url, None, {}, Reading())

    def seen(self, data: dict[str, Any], at_s: float) -> Seen:
        """Events of the contract; what goes to stderr is no text of the job's result."""
        kind = str(data["type"])
        if kind == "status" and (retry := data.get("retry")) is not None:
            return Seen(at_s=at_s, what="retry", text=f"HTTP {retry.get('status')}, in {retry['wait_ms']} ms")
        if kind != "stream":
            return Seen(at_s=at_s, what=kind, text=str(data.get("phase") or data.get("message") or ""))
        what = {"stdout": "text", "claude": "text" if data.get("text") else "message"}.get(data["channel"], "stderr")
        block, replaces = (str(data.get(name) or "") for name in ("message_id", "replaces"))
        return Seen(at_s=at_s, what=what, text=str(data.get("text") or ""), block=block, replaces=replaces)

    def ending(self, data: dict[str, Any]) -> tuple[str, str]:
        """The result of a job of the Claude CLI; what a failed one has used names its session."""
        result = data.get("result")
        usage = data.get("usage") or {}
        return (str(result.get("text", "")) if isinstance(result, dict) else ""), str(usage.get("session_id") or "")

    def sandbox_name(self, project: Project) -> str:
        """The one that the endpoint gives it."""
        return project_name(project.user_id, project.project_id)

    def download(self, project: Project, path: str, patience_s: float = PATIENCE_S) -> tuple[int, int]:
        """There is an action for that, and the volume's API for files that are too large for an answer."""
        asked = {"user_id": project.user_id, "project_id": project.project_id, "action": "files", "op": "read"}
        headers = {**self.headers(), "Accept": "application/json"}
        answer = httpx.post(f"{self.url}/generate", json={**asked, "path": path}, headers=headers, timeout=patience_s)
        if answer.status_code != _TOO_LARGE:
            return answer.status_code, len(answer.content)
        volume, inside = self.path(project, path)
        return 200, sum(len(piece) for piece in modal.Volume.from_name(volume).read_file(inside))

    def sandbox_names(self, project: Project) -> list[str]:
        """All runs of a project have the same."""
        return [self.sandbox_name(project)]

    def path(self, project: Project, path: str) -> tuple[str, str]:
        """The project's part of the project volume."""
        return f"{self.app_name}-projects", f"{sub_path(project.user_id, project.project_id)}/{path}"
