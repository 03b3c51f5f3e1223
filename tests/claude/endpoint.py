"""An endpoint with the Claude CLI, whose model is a script and has a key as a real one has; and how its runs ended."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modal
import pytest
import yaml

from modal_app.contract.events import DoneEvent, ErrorEvent, StreamEvent
from tests.claude.cases import CASES
from tests.conftest import FAST, deployed, live_sandboxes
from workbench import Project, Run, Workbench
from workbench.model_backing import UPSTREAM_KEY_VARIABLE, UPSTREAM_URL_VARIABLE, WITHOUT_CLAUDE_VARIABLE
from workbench.scripted_model import Conversation, Script, load_script

APP = "claude-tests"
KEY = "sk-the-real-key-of-the-models-service"
STALL_S = 8
SETTINGS = FAST | {
    "WORKBENCH_TIMEOUT_STALL_S": str(STALL_S),
    "WORKBENCH_TIMEOUT_MODEL_HEADERS_S": "2",
    "WORKBENCH_TIMEOUT_MODEL_BYTES_S": "1",
    "WORKBENCH_TIMEOUT_MODEL_IDLE_S": "3",
}
_MODELS = Path(__file__).parent / "models.yaml"


@dataclass(frozen=True)
class Claude:
    """A workbench whose endpoint has the Claude CLI and a scripted model, which has a key as a real one has."""

    wb: Workbench
    model_url: str

    def run(self, project: Project, prompt: str, **fields: Any) -> Run:
        """A job, to its end."""
        job = self.wb.launch(project, "claude", prompt=prompt, **fields)
        job.wait(100)
        return job

    @property
    def gateway(self) -> str:
        """The model gateway's address."""
        return str(modal.Function.from_name(APP, "model_gateway").get_web_url())


def script() -> Script:
    """What the model says: the prompts of the action's tests, and each case by its name."""
    cases = tuple(
        Conversation(when=one.when or f"^case {name}$", turns=one.turns)
        for name, case in CASES.items()
        for one in case.script.conversations
    )
    return Script(conversations=(*load_script(_MODELS).conversations, *cases))


@contextmanager
def endpoint() -> Iterator[Claude]:
    """The endpoint in the tests' cloud, with its model in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(script().model_dump(mode="json"), file)
        file.flush()
        command = [sys.executable, "-m", "workbench.scripted_model", file.name, "--until-eof"]
        env = {**os.environ, "WORKBENCH_SCRIPTED_MODEL_KEY": KEY}
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv(WITHOUT_CLAUDE_VARIABLE)
                patch.setenv(UPSTREAM_URL_VARIABLE, url)
                patch.setenv(UPSTREAM_KEY_VARIABLE, KEY)
                with deployed(APP, SETTINGS) as workbench:
                    yield Claude(workbench, url)
            process.stdin.close()
            process.wait(10)


def said(job: Run) -> str:
    """What the model has said."""
    return job.text("claude")


def messages(job: Run) -> list[dict[str, Any]]:
    """The CLI's lines."""
    return [event.message for event in job.events if isinstance(event, StreamEvent) and event.message is not None]


def done(job: Run) -> DoneEvent:
    """The end of a job that is done."""
    assert isinstance(job.terminal, DoneEvent), (job.terminal, job.text("stderr"), messages(job)[-3:])
    return job.terminal


def failed(job: Run) -> ErrorEvent:
    """The end of a job that has failed, and left no sandbox."""
    assert isinstance(job.terminal, ErrorEvent), job.terminal
    assert job.terminal.sandbox is not None
    assert job.terminal.sandbox.terminated
    assert job.terminal.sandbox.id not in live_sandboxes(APP)
    return job.terminal
