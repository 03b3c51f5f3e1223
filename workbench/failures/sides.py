"""The two endpoints that meet the same failure: the naive one and the hardened one, each an app of the lab's own."""

import json
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx
import modal
from httpx_sse import EventSource, SSEError

from modal_app.actions.claude_command import CLI_PACKAGE, CLI_VERSION
from modal_app.contract.headers import RUN_HEADER, SECRET_HEADER
from modal_app.sandboxes.fleet import project_name, sub_path
from workbench.cloud_control.controls import Faults
from workbench.deployment import deploy as deployment
from workbench.deployment import modal_command
from workbench.deployment.deploy import SECRET_VARIABLE, TOKEN_SECRET_VARIABLE, DeployFailedError
from workbench.deployment.deployments import Deployments
from workbench.deployment.model_answers import Answers, Model
from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE, scripted_model, why_without_claude
from workbench.deployment.targets import Target
from workbench.failures.observation import End, Observation, Seen, SideName
from workbench.machine import private_files
from workbench.runs.project import Project

NAIVE_FILE = Path(__file__).parent / "naive" / "app.py"
MODEL_FILE = Path(__file__).parent / "naive" / "model_service.py"
APP_PREFIX = "failure-lab-"
"""With which the names of the lab's apps begin."""
TWIN = "-twin"
"""With which the name of an app ends that one experiment alone deploys and stops."""
PATIENCE_S = 60.0
"""For the next byte of a stream; then a side counts as silent."""


@dataclass(frozen=True)
class Reading:
    """How a client reads. It waits `patience_s` for the next byte, and then calls the side silent.

    After the first output it takes nothing for `pause_s` seconds; it leaves after `leave_after` outputs, when given.
    `on_run` is told the run's id as soon as it is known.
    """

    patience_s: float = PATIENCE_S
    pause_s: float = 0.0
    leave_after: int = 0
    on_run: Callable[[str], None] = lambda run_id: None


class Side(ABC):
    """One deployed endpoint. `request` says how a job is asked for, `seen` what an event of its stream means."""

    name: ClassVar[SideName]
    program: ClassVar[str]
    """A pattern of the words with which it starts a job's program, and nothing else."""

    def __init__(self, target: Target, faults: Faults | None = None) -> None:
        """`faults` is for experiments whose fault begins in the middle of a job."""
        self.target = target
        self.faults = faults
        self.app_name = f"{APP_PREFIX}{self.name}"
        self.has_claude = why_without_claude(target) is None
        self.model = Model(lambda: scripted_model(target))
        self.answers: Answers | None = None  # what the model answers to each prompt of `ask`, when given
        self.url = ""
        self.secret = ""
        self.deployed_in_s = 0.0
        """How long its last deployment took."""

    def deploy(self, on_line: Callable[[str], None]) -> None:
        """Deploy the app; then `url` and `secret` are known. Raises DeployFailedError, ModalCommandFailedError."""
        began = time.monotonic()
        self._deploy_ours(on_line)
        self.deployed_in_s = time.monotonic() - began

    @abstractmethod
    def _deploy_ours(self, on_line: Callable[[str], None]) -> None:
        """Deploy the app as `deploy` says."""

    @abstractmethod
    def rotate(self) -> None:
        """Deploy again with a new secret for callers. Raises as `deploy` does."""

    @abstractmethod
    def deploy_with(self, stored: str) -> None:
        """Deploy with this in the place where the endpoint looks for its secret. Raises as `deploy` does."""

    @contextmanager
    def twin(self) -> Iterator[Self]:
        """An app of the same kind that no other experiment meets, to be deployed in the block and stopped after it."""
        twin = type(self)(self.target, self.faults)
        twin.app_name = f"{self.app_name}{TWIN}"
        twin.has_claude = False  # what it is for needs no model
        try:
            yield twin
        finally:
            twin.stop()

    def stop(self) -> bool:
        """Stop the app; returns whether there was one."""
        return stopped(self.target, self.app_name)

    def ready(self) -> None:  # noqa: B027  # most have nothing to do for it
        """Have what is needed for a job of the Claude CLI running, so that no short limit meets the beginning of it."""

    @abstractmethod
    def request(self, project: Project, code: str, timeout_s: int | None) -> dict[str, Any]:
        """The body that asks for a Python program in a project."""

    @abstractmethod
    def claude_request(self, project: Project, prompt: str, resume: str) -> dict[str, Any]:
        """The body that asks for a job of the Claude CLI in a project, which resumes a session unless that is empty."""

    def headers(self) -> dict[str, str]:
        """What opens the endpoint."""
        return self.showing(self.secret)

    @abstractmethod
    def showing(self, secret: str) -> dict[str, str]:
        """The header by which a caller shows this secret."""

    @abstractmethod
    def seen(self, data: dict[str, Any], at_s: float) -> Seen:
        """What an event means."""

    @abstractmethod
    def ending(self, data: dict[str, Any]) -> tuple[str, str]:
        """What the event of an end calls the model's answer, and the session that can be resumed."""

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
        url: str = "",
        reading: "Reading | None" = None,
    ) -> Observation:
        """Run a program and watch it as a client does. `body` takes the place of fields of the request.

        `url` is where the endpoint is reached, for a hop in front of it.
        """
        asked = self.request(project, code, timeout_s) | dict(body or {})
        return self._watch("POST", f"{url or self.url}/generate", asked, dict(headers or {}), reading or Reading())

    def ask(
        self,
        project: Project,
        prompt: str,
        *,
        resume: str = "",
        body: Mapping[str, Any] | None = None,
        reading: "Reading | None" = None,
    ) -> Observation:
        """Run the Claude CLI with a prompt and watch it as a client does; `body` as for `run`."""
        prompt = prompt if self.answers is None else self.answers.prompt(prompt)
        asked = self.claude_request(project, prompt, resume) | dict(body or {})
        return self._watch("POST", f"{self.url}/generate", asked, {}, reading or Reading())

    @abstractmethod
    def again(self, seen: Observation, project: Project, code: str, *, url: str = "") -> Observation:
        """What a client of this endpoint does when its connection broke: it comes back for the rest."""

    @abstractmethod
    def git_status(self, project: Project, code: str) -> Observation:
        """Ask for the status of the project's repository; `code` is a job that does, for who has no other way."""

    @abstractmethod
    def loaded_again(self, run_id: str) -> Observation:
        """What a page shows of a run when it is loaded again: its stream from the beginning."""

    @abstractmethod
    def of_another_user(self, run_id: str, project: Project) -> Observation:
        """Ask for a run by its id, as another user."""

    def _watch(
        self, method: str, url: str, asked: dict[str, Any] | None, headers: dict[str, str], reading: "Reading"
    ) -> Observation:
        began = time.monotonic()
        events: list[Seen] = []
        last: dict[str, Any] = {}
        ids = {"run_id": "", "last_id": ""}
        ended: End = "cut"
        try:
            with (
                httpx.Client(timeout=httpx.Timeout(10, read=reading.patience_s)) as client,
                client.stream(method, url, json=asked, headers={**self.headers(), **headers}) as response,
            ):
                if response.status_code != 200:
                    response.read()
                    return self._refused(response, began)
                ids["run_id"] = response.headers.get(RUN_HEADER, "")
                for data, event_id in self._events(response):
                    events.append(self.seen(data, round(time.monotonic() - began, 3)))
                    what = events[-1].what
                    ids["last_id"] = event_id or ids["last_id"]
                    ids["run_id"] = ids["run_id"] or str(data.get("run_id", ""))
                    if len(events) == 1:
                        reading.on_run(ids["run_id"])
                    if what in ("done", "error"):
                        ended, last = "done" if what == "done" else "error", data
                        break
                    if what == "text":
                        if reading.leave_after and sum(one.what == "text" for one in events) >= reading.leave_after:
                            ended = "left"
                            break
                        if reading.pause_s and sum(one.what == "text" for one in events) == 1:
                            time.sleep(reading.pause_s)
        except httpx.ReadTimeout:
            ended = "silent"
        except (httpx.HTTPError, SSEError, ValueError):
            ended = "cut"
        result, session = self.ending(last)
        return Observation(
            side=self.name,
            events=tuple(events),
            ended=ended,
            code=str(last.get("code", "")),
            exit_code=last.get("exit_code"),
            result=result,
            session=session,
            took_s=round(time.monotonic() - began, 3),
            **ids,
        )

    def _events(self, response: httpx.Response) -> Iterator[tuple[dict[str, Any], str]]:
        for event in EventSource(response).iter_sse():
            if not event.data:  # a heartbeat: only a comment
                continue
            yield json.loads(event.data), event.id

    def _refused(self, response: httpx.Response, began: float) -> Observation:
        try:
            code = str(response.json().get("code", response.status_code))
        except (ValueError, AttributeError):
            code = str(response.status_code)
        took_s = round(time.monotonic() - began, 3)
        return Observation(side=self.name, events=(), ended="refused", code=code, took_s=took_s)

    @abstractmethod
    def sandbox_names(self, project: Project) -> list[str]:
        """The names of the sandboxes that a project's runs were given."""

    @abstractmethod
    def download(self, project: Project, path: str, patience_s: float = PATIENCE_S) -> tuple[int, int]:
        """Read a file of a project as a page does that offers it; returns the status, and how many bytes came."""

    def alive(self, project: Project) -> int:
        """How many sandboxes of a project are alive now."""
        return sum(self._is_alive(name) for name in self.sandbox_names(project))

    def _is_alive(self, name: str) -> bool:
        try:
            return modal.Sandbox.from_name(self.app_name, name).poll() is None
        except modal.exception.NotFoundError:
            return False

    def read(self, project: Project, path: str) -> str | None:
        """A committed file, as anybody outside of the sandbox sees it now; None when it is not there."""
        volume, inside = self.path(project, path)
        try:
            found = b"".join(modal.Volume.from_name(volume).read_file(inside))
        except (modal.exception.NotFoundError, FileNotFoundError):
            return None
        return found.decode(errors="replace")


def stopped(target: Target, app_name: str) -> bool:
    """Stop an app; returns whether there was one."""
    try:
        Deployments(target, app_name).stop()
    except DeployFailedError:  # it is not deployed
        return False
    return True


class Naive(Side):
    """The obvious endpoint."""

    name = "naive"
    program = "python3 -c *"

    def __init__(self, target: Target, faults: Faults | None = None) -> None:
        super().__init__(target, faults)
        self._named: dict[str, list[str]] = {}
        self._model_url = ""

    def _deploy_ours(self, on_line: Callable[[str], None]) -> None:
        """Deploy `naive/app.py` with the stock command, and what its sandboxes take for the model's service."""
        self._keep(str(private_files.read(self._kept).get("secret") or secrets.token_urlsafe(24)))
        self._deploy(self.secret, on_line)

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
        env.pop("ANTHROPIC_BASE_URL", None)  # the deployer's own, if any: nobody's service is asked
        if self.has_claude:
            env["NAIVE_CLAUDE"] = f"{CLI_PACKAGE}@{CLI_VERSION}"
            self._model_url = self._model_url or self._deploy_model(on_line)
            env["ANTHROPIC_BASE_URL"] = self._model_url
        modal_command.follow(["deploy", str(NAIVE_FILE)], env, timeout_s=deployment.DEPLOY_TIMEOUT_S, on_line=on_line)
        self.url = str(modal.Function.from_name(self.app_name, "generate").get_web_url())

    def _deploy_model(self, on_line: Callable[[str], None]) -> str:
        """Deploy what stands for the model's service; returns its address."""
        service = scripted_model(self.target)
        env = {**os.environ, **self.target.env, "MODEL_APP_NAME": MODEL_APP, "SHOWN_KEY": CANARY}
        env |= {"MODEL_KEY": service.key, "MODEL_URL": service.url}
        modal_command.follow(["deploy", str(MODEL_FILE)], env, timeout_s=deployment.DEPLOY_TIMEOUT_S, on_line=on_line)
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


_TOO_LARGE = 413
SHORT = {
    "WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": "5",
    "WORKBENCH_TIMEOUT_LEASE_S": "6",
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

    def _deploy_ours(self, on_line: Callable[[str], None]) -> None:
        """Deploy `modal_app`, with the scripted model behind it."""
        self._deploy(on_line)

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
