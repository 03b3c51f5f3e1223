"""The caller by whom the checklist asks an endpoint: plain HTTP, as any client sees it, with projects of its own.

It reads leniently, since what is amiss is to be found and not to be refused. It owns every run that it starts: closing
it cancels those that have not ended.
"""

import json
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from modal_app.contract.headers import KEY_HEADER, RUN_HEADER, SECRET_HEADER
from workbench.deployment.endpoint import Endpoint
from workbench.runs.project import Project

ANSWER_S = 60.0
RUN_S = 90.0
"""For a run as a whole, as seen from here: none of the checklist's jobs may take longer."""
_MAX_EVENTS = 500


@dataclass
class Reading:
    """What came of one stream: the answer's headers, and each event with the second of its arrival."""

    status: int
    headers: httpx.Headers
    began: float
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    comments: int = 0
    broken: str = ""
    body: str = ""

    @property
    def run_id(self) -> str:
        """The run's id, by the header or by an event; empty when neither tells it."""
        told = self.headers.get(RUN_HEADER) or next((one.get("run_id") for _, one in self.events), None)
        return str(told or "")

    @property
    def end(self) -> dict[str, Any]:
        """The terminal event; empty when there was none."""
        return next((one for _, one in self.events if one.get("type") in ("done", "error")), {})

    @property
    def output(self) -> list[tuple[float, dict[str, Any]]]:
        """The events that carry the job's own output."""
        return [(at, one) for at, one in self.events if one.get("type") == "stream" and one.get("channel") == "stdout"]

    @property
    def text(self) -> str:
        """The job's output."""
        return "".join(str(one.get("text", "")) for _, one in self.output)

    def __str__(self) -> str:
        if self.broken:
            return f"a stream that broke: {self.broken}"
        if self.status != 200:
            return f"HTTP {self.status}"
        return str(self.end.get("code") or self.end.get("type") or "a stream without an end")


class Caller:
    """Asks one endpoint. Close it, or use it as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.runs = 0
        self._open: set[str] = set()
        self._http = httpx.Client(
            base_url=endpoint.url,
            timeout=httpx.Timeout(10, read=ANSWER_S),
            trust_env=False,
            headers={"Accept-Encoding": "gzip, deflate"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the runs that have not ended, and close every connection. Idempotent."""
        self.cancel()
        self._http.close()

    def cancel(self) -> None:
        """Cancel the runs that have not ended. Idempotent."""
        while self._open:
            with suppress(httpx.HTTPError):
                self.ask("DELETE", f"/generate/{self._open.pop()}")

    def ask(self, method: str, path: str, *, headers: dict[str, str] | None = None, **how: Any) -> httpx.Response:
        """Make one request that shows the secret. Raises httpx.HTTPError."""
        sent = {SECRET_HEADER: self.endpoint.secret.get_secret_value(), **(headers or {})}
        return self._http.request(method, path, headers=sent, **how)

    def stranger(self, method: str, path: str, shown: str | None = None, **how: Any) -> httpx.Response:
        """Make one request as somebody who has no secret, or shows another one. Raises httpx.HTTPError."""
        sent = {} if shown is None else {SECRET_HEADER: shown}
        return self._http.request(method, path, headers=sent, **how)

    def job(self, project: Project, code: str, *, timeout_s: int, key: str = "", cancel: bool = False) -> Reading:
        """Run a Python program and read its stream; with `cancel`, cancel it at its first output."""
        body = {"action": "python", "code": code, "timeout_s": timeout_s}
        return self.run(project, body, key=key, cancel=cancel)

    def run(self, project: Project, body: dict[str, Any], *, key: str = "", cancel: bool = False) -> Reading:
        """Start a run and read its stream; what goes wrong is told by the Reading."""
        asked = {"user_id": project.user_id, "project_id": project.project_id, **body}
        return self.read("POST", "/generate", body=asked, headers={KEY_HEADER: key or str(uuid.uuid4())}, cancel=cancel)

    def read(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        cancel: bool = False,
    ) -> Reading:
        """Read the stream that answers a request, to its terminal event; what goes wrong is told by the Reading."""
        sent = {
            SECRET_HEADER: self.endpoint.secret.get_secret_value(),
            "Accept": "text/event-stream",
            **(headers or {}),
        }
        began = time.monotonic()
        reading = Reading(0, httpx.Headers(), began)
        try:
            with self._http.stream(method, path, json=body, headers=sent) as response:
                reading.status, reading.headers = response.status_code, response.headers
                if response.status_code != 200:
                    reading.body = response.read().decode(errors="replace")
                    return reading
                self.runs += method == "POST"
                self._follow(response, reading, cancel=cancel)
        except httpx.HTTPError as error:
            reading.broken = type(error).__name__
        if reading.end:
            self._open.discard(reading.run_id)
        elif not reading.broken:
            reading.broken = "it ended without a terminal event"
        return reading

    def _follow(self, response: httpx.Response, reading: Reading, *, cancel: bool) -> None:
        if reading.run_id:
            self._open.add(reading.run_id)
        for line in response.iter_lines():
            if line.startswith(":"):
                reading.comments += 1
            if line.startswith("data:"):
                with suppress(ValueError):
                    event = json.loads(line[5:])
                    if isinstance(event, dict):
                        reading.events.append((time.monotonic() - reading.began, event))
            if cancel and reading.output:
                self.ask("DELETE", f"/generate/{reading.run_id}")
                cancel = False
            if reading.end or len(reading.events) > _MAX_EVENTS:
                return
            if time.monotonic() - reading.began > RUN_S:
                reading.broken = f"no end within {RUN_S:g} s"
                return
