"""The reference application of `tests/nextjs` as its team has it: installed, with the client, built and started."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.support.commands import cli
from tests.support.paths import ROOT
from tests.support.places import free_port

SOURCE = ROOT / "tests" / "nextjs"
BESIDE = "beside"
INSTALL_S = 240
BUILD_S = 240
START_S = 120
NODE = [
    pytest.mark.skipif(
        shutil.which("node") is None or shutil.which("npm") is None, reason="node and npm are not installed"
    ),
    pytest.mark.timeout(INSTALL_S + BUILD_S + START_S),
]
_PLAIN = {"NEXT_TELEMETRY_DISABLED": "1", "NO_COLOR": "1", "CI": "1"}

Mode = Literal["start", "dev"]


@dataclass(frozen=True)
class Server:
    """The application, started."""

    url: str
    pid: int
    log: Path


class Application:
    """The application in a directory of its own, for an endpoint that is deployed as `app_name`."""

    def __init__(self, directory: Path, app_name: str) -> None:
        self.directory = directory
        shutil.copytree(
            SOURCE, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", ".next", "workbench")
        )
        _run(directory, INSTALL_S, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
        added = cli("next", "add", str(directory), "--app-name", app_name)
        assert added.returncode == 0, added.stderr

    def build(self, beside: Mapping[str, str] | None = None) -> None:
        """Make what `next start` serves; fails with what the compiler says.

        `beside` are texts of files that are compiled with it, and are no part of it: they find the application's own
        files as if they stood in its root.
        """
        for name, text in (beside or {}).items():
            (self.directory / BESIDE / name).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / BESIDE / name).write_text(text)
        options = self.directory / "tsconfig.json"
        settings = json.loads(options.read_text())
        settings["compilerOptions"]["rootDirs"] = [".", BESIDE]
        options.write_text(json.dumps(settings))
        _run(self.directory, BUILD_S, "npx", "--no-install", "next", "build")

    @property
    def compiled(self) -> str:
        """What the compiler says of the files that it has read."""
        return (self.directory / ".next/cache/.tsbuildinfo").read_text()

    @property
    def bundles(self) -> list[str]:
        """The texts of the files that are for browsers."""
        built = (self.directory / ".next").rglob("*.*")
        return [path.read_text(errors="replace") for path in built if "static" in path.parts and path.is_file()]

    @contextmanager
    def started(self, mode: Mode = "start", env: Mapping[str, str] | None = None) -> Iterator[Server]:
        """The application while it runs; `env` goes before its `.env.local`."""
        port = free_port()
        log = self.directory / f"{mode}-{port}.log"
        dying_with_us = ["setpriv", "--pdeathsig", "TERM", "--"]
        command = [*dying_with_us, "node", "node_modules/next/dist/bin/next", mode, "-H", "127.0.0.1", "-p", str(port)]
        variables = {**_environment(), **(env or {})}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.directory, env=variables, stdout=file, stderr=file, start_new_session=True
            )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url, process, log)
            yield Server(url, process.pid, log)
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(10)
                except (subprocess.TimeoutExpired, ProcessLookupError):
                    continue


@contextmanager
def application(app_name: str) -> Iterator[Application]:
    """The application, installed; it is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="workbench-nextjs-") as name:
        yield Application(Path(name), app_name)


def _environment() -> dict[str, str]:
    ours = ("WORKBENCH_URL", "WORKBENCH_SECRET")  # the application has them from its own file
    return {**{name: value for name, value in os.environ.items() if name not in ours}, **_PLAIN}


def _run(directory: Path, timeout_s: float, *command: str) -> None:
    done = subprocess.run(
        command, cwd=directory, env=_environment(), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=START_S):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the application did not start: {log.read_text()[-3000:]}")
