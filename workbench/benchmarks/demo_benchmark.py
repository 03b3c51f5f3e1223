"""Measures how long `workbench demo` takes to show its first event, with an empty state but everything installed."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from workbench.benchmarks import bare_processes
from workbench.benchmarks.figures import Figure, Samples
from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE
from workbench.local_cloud import STATE_VARIABLE


def measure(repeat: int) -> Figure:
    """Time whole processes. The baseline is a process that only imports the SDK, which the demo does three times."""
    ours, bare = [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory(prefix="workbench-bench-") as directory:
            Path(directory).chmod(0o711)  # as root, sandboxes run as other users and must be able to enter
            env = {**os.environ, STATE_VARIABLE: str(Path(directory) / "state"), WITHOUT_CLAUDE_VARIABLE: "1"}
            command = [sys.executable, "-m", "workbench", "demo", "--json"]
            started = time.perf_counter()
            with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                process.stdout.readline()
                ours.append(time.perf_counter() - started)
                process.stdout.read()
            if process.returncode != 0:
                raise RuntimeError("the demo failed: run `workbench demo` to see why")
        bare.append(bare_processes.to_end([sys.executable, "-c", "import modal"]) / 1000)
    return Figure(
        "demo → first event", "s", "less", Samples("demo", tuple(ours)), (Samples("import modal", tuple(bare)),)
    )
