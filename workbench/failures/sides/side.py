"""What both sides of an experiment have in common: a deployed endpoint, and a client that watches it."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import httpx
import modal
from httpx_sse import EventSource, SSEError

from modal_app.contract.headers import RUN_HEADER
from workbench.cloud_control.controls import Clock, CloudControl, Faults
from workbench.deployment.deploy import DeployFailedError
from workbench.deployment.deployments import Deployments
from workbench.deployment.model_answers import Answers, Model
from workbench.deployment.model_backing import scripted_model, why_without_claude
from workbench.deployment.targets import Target
from workbench.failures.observation import End, Observation, Seen, SideName
from workbench.runs.project import Project

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
    `on_run` is told the run's id as soon as it is known, `on_text` each output.
    """

    patience_s: float = PATIENCE_S
    pause_s: float = 0.0
    leave_after: int = 0
    on_run: Callable[[str], None] = lambda run_id: None
    on_text: Callable[[str], None] = lambda text: None


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

    @abstractmethod
    def deploy(self, on_line: Callable[[str], None]) -> None:
        """Deploy the app; then `url` and `secret` are known. Raises DeployFailedError, ModalCommandFailedError."""

    @abstractmethod
    def take(self) -> None:
        """Use the app as it was deployed. Raises DeployFailedError, NotFoundError of Modal."""

    @abstractmethod
    def locate(self) -> None:
        """Find the address again, of a cloud that was started anew."""

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

    def clock(self) -> Clock:
        """The clock of its app, on the local cloud."""
        assert self.target.cloud_url is not None
        return Clock(CloudControl(self.target.cloud_url, self.target.env)).of(self.app_name)

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
                        reading.on_text(events[-1].text)
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
