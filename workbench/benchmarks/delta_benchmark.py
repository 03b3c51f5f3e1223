"""Measures what gateway and endpoint add to the time that a model's words take to the client, beside CLI and pipe.

Every word is the time at which the model has sent it, by the kernel's monotonic clock, which all processes share.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from modal_app.actions.claude_command import claude_command
from modal_app.contract.claude_options import ClaudeOptions
from workbench.benchmarks import bare_processes, claude_cli
from workbench.benchmarks.figures import Figure, Samples
from workbench.benchmarks.stream_benchmark import heard
from workbench.deployment.model_backing import UPSTREAM_KEY_VARIABLE, UPSTREAM_URL_VARIABLE
from workbench.machine.environment import environment
from workbench.session import Workbench

_WORDS = 200
_PACE_MS = 20  # between two words, as from a real model
_KEY = "sk-scripted-for-the-benchmark"
_SCRIPT = {"turns": [{"text": ["word "] * _WORDS, "pace_ms": _PACE_MS, "stamped": True}]}
Source = Callable[[], Iterator[tuple[float, str]]]


def measure(workbench: Workbench, repeat: int) -> Iterator[Figure]:
    """Yield figures of text deltas. Deploys the endpoint with a scripted model of its own."""
    with _model() as url, environment({UPSTREAM_URL_VARIABLE: url, UPSTREAM_KEY_VARIABLE: _KEY}):
        workbench.deploy()
        sources: dict[str, Source] = {
            "endpoint": lambda: heard(workbench, "claude", prompt="go"),
            "CLI and a pipe": lambda: _alone(url),
        }
        for source in sources.values():
            for _ in source():
                pass  # a first run, so that the image is built and everything is warm
        found: dict[str, list[float]] = {name: [] for name in sources}
        for _ in range(max(2, repeat // 5)):
            for name, source in sources.items():
                found[name] += [at * 1000 - int(stamp) / 1e6 for at, text in source() for stamp in text.split()]
    ours, alone = (Samples(name, tuple(values)) for name, values in found.items())
    yield Figure("text delta, model → client", "ms", "less", ours, (alone,))
    added = Samples(ours.name, tuple(value - alone.median for value in ours.values))
    yield Figure("of it, beyond the CLI's median", "ms", "less", added, (alone,))


def _alone(url: str) -> Iterator[tuple[float, str]]:
    """Yield the words from a CLI on this machine that uses the model directly, read from its pipe."""
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as directory:
        command = claude_command(
            ClaudeOptions("go"),
            base_url=url,
            token=SecretStr(_KEY),
            program=str(claude_cli.program()),
            config_dir=directory,
        )
        with subprocess.Popen(
            command.argv,
            env={"PATH": os.environ["PATH"], "HOME": directory, **command.env},
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(command.stdin)
            process.stdin.close()
            for line in process.stdout:
                at = time.monotonic()
                event = json.loads(line).get("event", {})
                if (text := event.get("delta", {}).get("text")) is not None:
                    yield at, text
        if process.returncode != 0:
            raise RuntimeError(f"the Claude CLI ended with exit code {process.returncode}")


@contextmanager
def _model() -> Iterator[str]:
    """The scripted model in a process of its own; yields its address."""
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as directory:
        script = Path(directory) / "script.yaml"
        script.write_text(json.dumps(_SCRIPT))  # JSON is YAML
        command = [sys.executable, "-m", "workbench.scripted_model", str(script), "--until-eof"]
        env = {**os.environ, "WORKBENCH_SCRIPTED_MODEL_KEY": _KEY}
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
            process.stdin.close()
            process.wait(bare_processes.TIMEOUT_S)
