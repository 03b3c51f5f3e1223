"""The two endpoints that meet the same failure: the naive one and the hardened one, each an app of the lab's own."""

import json
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import httpx
import modal
from httpx_sse import EventSource, SSEError

from modal_app.contract.headers import SECRET_HEADER
from modal_app.sandboxes.fleet import project_name, sub_path
from workbench.deployment import deploy as deployment
from workbench.deployment import modal_command
from workbench.deployment.targets import Target
from workbench.failures.observation import End, Observation, Seen, SideName
from workbench.machine import private_files
from workbench.runs.project import Project

NAIVE_FILE = Path(__file__).parent / "naive" / "app.py"
APP_PREFIX = "failure-lab-"
"""With which the names of the lab's apps begin."""
PATIENCE_S = 60.0
"""For the next byte of a stream; then a side counts as silent."""


class Side(ABC):
    """One deployed endpoint. `request` says how a job is asked for, `seen` what an event of its stream means."""

    name: ClassVar[SideName]
    program: ClassVar[str]
    """A pattern of the words with which it starts a job's program, and nothing else."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.app_name = f"{APP_PREFIX}{self.name}"
        self.url = ""
        self.secret = ""

    @abstractmethod
    def deploy(self, on_line: Callable[[str], None]) -> None:
        """Deploy the app; then `url` and `secret` are known. Raises DeployFailedError, ModalCommandFailedError."""

    @abstractmethod
    def request(self, project: Project, code: str, timeout_s: int | None) -> dict[str, Any]:
        """The body that asks for a Python program in a project."""

    @abstractmethod
    def headers(self) -> dict[str, str]:
        """What opens the endpoint."""

    @abstractmethod
    def seen(self, data: dict[str, Any]) -> tuple[str, str]:
        """What an event is and the text that it has."""

    @abstractmethod
    def sandbox_name(self, project: Project) -> str:
        """The name of a project's sandbox, by which rules mean it alone."""

    @abstractmethod
    def path(self, project: Project, path: str) -> tuple[str, str]:
        """Where a file of a project is: the volume's name, and the path in it."""

    def run(
        self,
        project: Project,
        code: str,
        *,
        timeout_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Observation:
        """Run a program and watch it as a client does. `body` takes the place of fields of the request."""
        asked = self.request(project, code, timeout_s) | dict(body or {})
        began = time.monotonic()
        events: list[Seen] = []
        last: dict[str, Any] = {}
        ended: End = "cut"
        try:
            with (
                httpx.Client(timeout=httpx.Timeout(10, read=patience_s)) as client,
                client.stream(
                    "POST", f"{self.url}/generate", json=asked, headers={**self.headers(), **(headers or {})}
                ) as response,
            ):
                if response.status_code != 200:
                    response.read()
                    return self._refused(response, began)
                for what, text, data in self._events(response):
                    events.append(Seen(at_s=round(time.monotonic() - began, 3), what=what, text=text))
                    if what in ("done", "error"):
                        ended, last = "done" if what == "done" else "error", data
                        break
        except httpx.ReadTimeout:
            ended = "silent"
        except (httpx.HTTPError, SSEError, ValueError):
            ended = "cut"
        return Observation(
            side=self.name,
            events=tuple(events),
            ended=ended,
            code=str(last.get("code", "")),
            exit_code=last.get("exit_code"),
            took_s=round(time.monotonic() - began, 3),
        )

    def _events(self, response: httpx.Response) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for event in EventSource(response).iter_sse():
            if not event.data:  # a heartbeat: only a comment
                continue
            data = json.loads(event.data)
            what, text = self.seen(data)
            yield what, text, data

    def _refused(self, response: httpx.Response, began: float) -> Observation:
        try:
            code = str(response.json().get("code", response.status_code))
        except ValueError:
            code = str(response.status_code)
        took_s = round(time.monotonic() - began, 3)
        return Observation(side=self.name, events=(), ended="refused", code=code, took_s=took_s)

    def read(self, project: Project, path: str) -> str | None:
        """A committed file, as anybody outside of the sandbox sees it now; None when it is not there."""
        volume, inside = self.path(project, path)
        try:
            found = b"".join(modal.Volume.from_name(volume).read_file(inside))
        except (modal.exception.NotFoundError, FileNotFoundError):
            return None
        return found.decode(errors="replace")


class Naive(Side):
    """The obvious endpoint."""

    name = "naive"
    program = "python3 -c *"

    def deploy(self, on_line: Callable[[str], None]) -> None:
        """Deploy `naive/app.py` with the stock command."""
        self.target.point_sdk()
        kept = self.target.private / f"{self.app_name}.json"
        self.secret = str(private_files.read(kept).get("secret") or secrets.token_urlsafe(24))
        private_files.write(kept, {"secret": self.secret})
        env = {**os.environ, **self.target.env, "NAIVE_APP_NAME": self.app_name, "API_SECRET": self.secret}
        env["MODEL_KEY"] = CANARY
        modal_command.follow(["deploy", str(NAIVE_FILE)], env, timeout_s=deployment.DEPLOY_TIMEOUT_S, on_line=on_line)
        self.url = str(modal.Function.from_name(self.app_name, "generate").get_web_url())

    def request(self, project: Project, code: str, timeout_s: int | None) -> dict[str, Any]:
        """It has fields of its own."""
        return {
            "project": f"{project.user_id}/{project.project_id}",
            "sandbox": f"{self.sandbox_name(project)}-{secrets.token_hex(4)}",
            "code": code,
            "timeout_s": timeout_s,
        }

    def headers(self) -> dict[str, str]:
        """A header of its own."""
        return {"x-secret": self.secret}

    def seen(self, data: dict[str, Any]) -> tuple[str, str]:
        """Text, or the end."""
        return ("done", "") if data.get("done") else ("text", str(data.get("text", "")))

    def sandbox_name(self, project: Project) -> str:
        """One that follows from the project; each run adds a few letters."""
        return f"naive-{project.project_id}"

    def path(self, project: Project, path: str) -> tuple[str, str]:
        """All projects are directories of one volume."""
        return f"{self.app_name}-files", f"{project.user_id}/{project.project_id}/{path}"


CANARY = "sk-canary-0123456789abcdef"  # not a secret of anybody
"""What the naive endpoint gives its sandboxes as the model's key."""


class Hardened(Side):
    """The endpoint of `modal_app`."""

    name = "hardened"
    program = "*/tmp/job.py*"

    def deploy(self, on_line: Callable[[str], None]) -> None:
        """Deploy `modal_app` without the Claude CLI."""
        endpoint = deployment.deploy(self.target, app_name=self.app_name, with_claude=False, on_line=on_line)
        self.url, self.secret = endpoint.url, endpoint.secret.get_secret_value()

    def request(self, project: Project, code: str, timeout_s: int | None) -> dict[str, Any]:
        """A request of the contract."""
        asked = {"user_id": project.user_id, "project_id": project.project_id, "action": "python", "code": code}
        return asked if timeout_s is None else {**asked, "timeout_s": timeout_s}

    def headers(self) -> dict[str, str]:
        """The contract's header."""
        return {SECRET_HEADER: self.secret}

    def seen(self, data: dict[str, Any]) -> tuple[str, str]:
        """Events of the contract; what goes to stderr is no text of the job's result."""
        kind = data["type"]
        if kind == "stream":
            return ("text", str(data["text"])) if data["channel"] == "stdout" else ("stderr", str(data["text"]))
        return kind, str(data.get("phase") or data.get("message") or "")

    def sandbox_name(self, project: Project) -> str:
        """The one that the endpoint gives it."""
        return project_name(project.user_id, project.project_id)

    def path(self, project: Project, path: str) -> tuple[str, str]:
        """The project's part of the project volume."""
        return f"{self.app_name}-projects", f"{sub_path(project.user_id, project.project_id)}/{path}"
