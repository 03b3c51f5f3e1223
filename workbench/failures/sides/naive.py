"""The naive side: the obvious endpoint, deployed as its author would."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import modal

from modal_app.actions.claude_command import CLI_PACKAGE, CLI_VERSION
from workbench.cloud_control.controls import Faults
from workbench.deployment import deploy as deployment
from workbench.deployment import modal_command
from workbench.deployment.model_backing import scripted_model
from workbench.deployment.targets import Target
from workbench.failures.observation import Observation, Seen
from workbench.failures.sides.side import APP_PREFIX, PATIENCE_S, Reading, Side
from workbench.machine import private_files
from workbench.runs.project import Project

_APPS = Path(__file__).parent.parent / "naive"
NAIVE_FILE = _APPS / "app.py"
MODEL_FILE = _APPS / "model_service.py"
NAIVE_SANDBOX_S = 20
"""For how long the naive endpoint's sandboxes live in the lab: on Modal its 300 seconds would show the same."""
CANARY = "sk-canary-0123456789abcdef"  # not a secret of anybody
"""What the naive endpoint gives its sandboxes as the model's key."""
MODEL_APP = f"{APP_PREFIX}model"
"""The app that the naive endpoint's sandboxes take for the model's service."""
NAIVE_CLI = {
    "CLAUDE_CODE_MAX_RETRIES": "2",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
}
"""The CLI of the naive endpoint repeats as often as the hardened one's: ten times would show the same in minutes. What
it does not need to do its work does not leave this machine."""


class Naive(Side):
    """The obvious endpoint."""

    name = "naive"
    program = "python3 -c *"

    def __init__(self, target: Target, faults: Faults | None = None) -> None:
        super().__init__(target, faults)
        self._named: dict[str, list[str]] = {}
        self._model_url = ""
        self.creates_first = False
        """Whether it is deployed as one that answers only when it has a sandbox."""

    def deploy(self, on_line: Callable[[str], None]) -> None:
        """Deploy `naive/app.py` with the stock command, and what its sandboxes take for the model's service."""
        self._keep(str(private_files.read(self._kept).get("secret") or secrets.token_urlsafe(24)))
        self._deploy(self.secret, on_line)

    def take(self) -> None:
        """Its secret is kept beside it; what its sandboxes take for the model's service must stand, too."""
        self.target.point_sdk()
        self._model_url = self._url_of_model() if self.has_claude else ""
        self.secret = str(private_files.read(self._kept).get("secret", ""))
        self.locate()

    def rotate(self) -> None:
        """There is one secret at a time."""
        self._keep(secrets.token_urlsafe(24))
        self._deploy(self.secret, lambda line: None)

    def deploy_with(self, stored: str) -> None:
        """It takes whatever it is given."""
        self._deploy(stored, lambda line: None)

    @property
    def _kept(self) -> Path:
        return self.target.private / f"{self.app_name}.json"

    def _keep(self, secret: str) -> None:
        self.secret = secret
        private_files.write(self._kept, {"secret": secret})

    def _deploy(self, stored: str, on_line: Callable[[str], None]) -> None:
        self.target.point_sdk()
        env = {**os.environ, **self.target.env, "NAIVE_APP_NAME": self.app_name, "API_SECRET": stored}
        env |= {"NAIVE_SANDBOX_S": str(NAIVE_SANDBOX_S), "ANTHROPIC_API_KEY": CANARY, **NAIVE_CLI}
        env |= {"NAIVE_CREATES_FIRST": "1" if self.creates_first else ""}
        env.pop("ANTHROPIC_BASE_URL", None)  # the deployer's own, if any: nobody's service is asked
        if self.has_claude:
            env["NAIVE_CLAUDE"] = f"{CLI_PACKAGE}@{CLI_VERSION}"
            self._model_url = self._model_url or self._deploy_model(on_line)
            env["ANTHROPIC_BASE_URL"] = self._model_url
        modal_command.follow(["deploy", str(NAIVE_FILE)], env, timeout_s=deployment.DEPLOY_TIMEOUT_S, on_line=on_line)
        self.locate()

    def locate(self) -> None:
        """The address of its function."""
        self.url = str(modal.Function.from_name(self.app_name, "generate").get_web_url())

    def _deploy_model(self, on_line: Callable[[str], None]) -> str:
        """Deploy what stands for the model's service; returns its address."""
        service = scripted_model(self.target)
        env = {**os.environ, **self.target.env, "MODEL_APP_NAME": MODEL_APP, "SHOWN_KEY": CANARY}
        env |= {"MODEL_KEY": service.key, "MODEL_URL": service.url}
        modal_command.follow(["deploy", str(MODEL_FILE)], env, timeout_s=deployment.DEPLOY_TIMEOUT_S, on_line=on_line)
        return self._url_of_model()

    def _url_of_model(self) -> str:
        return str(modal.Function.from_name(MODEL_APP, "model").get_web_url())

    def request(self, project: Project, code: str, timeout_s: int | None) -> dict[str, Any]:
        """It has fields of its own."""
        sandbox = f"{self.sandbox_name(project)}-{secrets.token_hex(4)}"
        self._named.setdefault(project.project_id, []).append(sandbox)
        return {
            "project": f"{project.user_id}/{project.project_id}",
            "sandbox": sandbox,
            "code": code,
            "timeout_s": timeout_s,
        }

    def claude_request(self, project: Project, prompt: str, resume: str) -> dict[str, Any]:
        """The same, with a prompt in the program's place."""
        asked = self.request(project, "", None)
        return {"project": asked["project"], "sandbox": asked["sandbox"], "prompt": prompt, "resume": resume}

    def showing(self, secret: str) -> dict[str, str]:
        """A header of its own."""
        return {"x-secret": secret}

    def again(self, seen: Observation, project: Project, code: str, *, url: str = "") -> Observation:
        """It gives no ids: all that a client can do is to send the request again."""
        return self.run(project, code, url=url)

    def git_status(self, project: Project, code: str) -> Observation:
        """It knows jobs alone."""
        return self.run(project, code)

    def loaded_again(self, run_id: str) -> Observation:
        """It keeps what it has sent."""
        return self._watch("GET", f"{self.url}/generate/{run_id}", None, {}, Reading())

    def of_another_user(self, run_id: str, project: Project) -> Observation:
        """The table of its streams knows ids alone."""
        return self.loaded_again(run_id)

    def seen(self, data: dict[str, Any], at_s: float) -> Seen:
        """Text, or the end."""
        return Seen(at_s=at_s, what="done" if data.get("done") else "text", text=str(data.get("text", "")))

    def ending(self, data: dict[str, Any]) -> tuple[str, str]:
        """As the CLI says it."""
        return str(data.get("result") or ""), str(data.get("session") or "")

    def sandbox_name(self, project: Project) -> str:
        """One that follows from the project; each run adds a few letters."""
        return f"naive-{project.project_id}"

    def download(self, project: Project, path: str, patience_s: float = PATIENCE_S) -> tuple[int, int]:
        """It has a route for that."""
        url = f"{self.url}/files/{self.path(project, path)[1]}"
        answer = httpx.get(url, headers=self.headers(), timeout=patience_s)
        return answer.status_code, len(answer.content)

    def sandbox_names(self, project: Project) -> list[str]:
        """One for each of its runs."""
        return self._named.get(project.project_id, [])

    def path(self, project: Project, path: str) -> tuple[str, str]:
        """All projects are directories of one volume."""
        return f"{self.app_name}-files", f"{project.user_id}/{project.project_id}/{path}"
