"""An endpoint with the Claude CLI, whose model is a script and has a key as a real one has; and how its runs ended."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import modal
import pytest
import yaml

from modal_app.contract.errors import ErrorCode
from modal_app.contract.events import DoneEvent, ErrorEvent, StreamEvent
from tests.conftest import FAST, live_sandboxes, stop_apps
from tests.support.claude.cases import CASES, WORDS
from workbench import Project, Run, Workbench, connect
from workbench.deployment.model_backing import UPSTREAM_KEY_VARIABLE, UPSTREAM_URL_VARIABLE, WITHOUT_CLAUDE_VARIABLE
from workbench.scripted_model import Conversation, Script, Tool, Turn, load_script
from workbench.scripted_model import Fault as ModelFault

APP = "claude-tests"
KEY = "sk-the-real-key-of-the-models-service"
STALL_S = 24  # the CLI takes 16 s to its first word on a busy machine; from 30 s on it tells the progress of a tool
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


@dataclass(frozen=True)
class Fault:
    """What else can become of a job, and what must come of it; `said` stands in the CLI's lines."""

    script: Script
    code: ErrorCode | None
    exit_code: int | None = None
    told: str = ""
    said: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def _bash(command: str, said: str = "Done.") -> Script:
    return Script.of(Turn(tools=(Tool(name="Bash", input={"command": command}),)), Turn(text=said))


def _signal(name: str, code: ErrorCode, exit_code: int, told: str = "without a result") -> Fault:
    command = f'echo on > started; kill -{name} "$(cat /tmp/claude.pid)"; sleep 4322'
    return Fault(_bash(command), code, exit_code, told, options={"allowed_tools": ["Bash"]})


FAULTS: Mapping[str, Fault] = {
    "pings_forever": Fault(
        Script.of(Turn(text=WORDS, pace_ms=60, fault=ModelFault(kind="pings_forever", after_deltas=2))),
        ErrorCode.MODEL_ERROR,
        1,
        "said nothing for 3 s",
    ),
    "nonsense": Fault(  # the next answer never begins: the job does not wait for it
        Script.of(
            Turn(tools=(Tool(name="Write", raw_input='{"file_path": '),)),
            Turn(fault=ModelFault(kind="hang_before_headers")),
        ),
        ErrorCode.MODEL_INVALID_OUTPUT,
    ),
    "not permitted": Fault(
        _bash("touch /workspace/made", "I may not."),
        ErrorCode.PERMISSION_DENIED,
        0,
        "Bash",
        options={"permission_mode": "dontAsk"},
    ),
    "terminated": _signal("TERM", ErrorCode.PROCESS_FAILED, 143),
    "hung up": _signal("HUP", ErrorCode.PROCESS_FAILED, 129),
    # It says that it was interrupted when it had the time for it, and else nothing.
    "interrupted": _signal("INT", ErrorCode.PROCESS_FAILED, 0, "the Claude CLI"),
    "killed": _signal("KILL", ErrorCode.PROCESS_FAILED, 137),
    "full": Fault(
        _bash("echo much > /dev/full", "It is full."), None, said="No space left", options={"allowed_tools": ["Bash"]}
    ),
    "a server left running": Fault(  # the CLI would wait for its end, and the job be silent
        Script.of(
            Turn(tools=(Tool(name="Bash", input={"command": "python3 -m http.server 0", "run_in_background": True}),)),
            Turn(text="It serves."),
        ),
        None,
        options={"allowed_tools": ["Bash"]},
    ),
    "a server of the shell": Fault(
        _bash("python3 -m http.server 0 & setsid python3 -m http.server 0 & echo on", "It serves."),
        None,
        options={"allowed_tools": ["Bash"]},
    ),
    "no place for sessions": Fault(
        Script.of(Turn(text=WORDS)),
        ErrorCode.PROCESS_FAILED,
        73,
        "sessions cannot be kept",
        files={".workbench/claude": "a file where a directory should be"},
    ),
}


def script() -> Script:
    """What the model says: the prompts of the action's tests, and each case and fault by its name."""
    named = {name: case.script for name, case in CASES.items()} | {name: fault.script for name, fault in FAULTS.items()}
    cases = tuple(
        Conversation(when=one.when or f"^{name}$", turns=one.turns)
        for name, script in named.items()
        for one in script.conversations
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
            with connect("local", app_name=APP) as workbench:
                with pytest.MonkeyPatch.context() as patch:  # ends with the deployment: others deploy meanwhile
                    patch.delenv(WITHOUT_CLAUDE_VARIABLE)
                    for name, value in (SETTINGS | {UPSTREAM_URL_VARIABLE: url, UPSTREAM_KEY_VARIABLE: KEY}).items():
                        patch.setenv(name, value)
                    workbench.deploy()
                yield Claude(workbench, url)
                stop_apps(APP)
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
