"""The local cloud of one session of pytest, or of one worker of it: its directories, its process, and its end.

Nothing of the user's is used or changed: neither another local cloud nor `~/.modal.toml`. The cloud ends with this
process, also when that is killed, and then its directory is removed; its log stays.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.cloud_control.controls import CloudControl
    from workbench.local_cloud import Running

WORKER_VARIABLE = "PYTEST_XDIST_WORKER"
WORKERS_VARIABLE = "PYTEST_XDIST_WORKER_COUNT"
COMMAND_TIMEOUT_S = 300.0
_SHOWN_LINES = 30
_WORKERS_IN_PLACE_OF_ONE = 4  # xdist gives the worker that comes after one that died a number of its own


class CloudUnavailableError(WorkbenchError):
    """A local cloud cannot run on this machine, or the cloud did not start; the message says why and what to do."""


class CommandFailedError(WorkbenchError):
    """A `modal` command failed or missed its deadline; the message ends with its output."""


class ModalCloud:
    """A local cloud that runs for this session. The SDK of this process uses it, and that of each child process."""

    def __init__(self, running: "Running", state_dir: Path, log: Path, config_file: Path) -> None:
        self._running = running
        self._config_file = config_file
        self.state_dir = state_dir
        self.log = log

    def __repr__(self) -> str:
        return f"ModalCloud(url={self.url!r}, log={str(self.log)!r})"

    @property
    def url(self) -> str:
        """The address that the SDK talks to (MODAL_SERVER_URL)."""
        return self._running.url

    @property
    def pid(self) -> int:
        """The id of the cloud's process."""
        return self._running.pid

    @property
    def control(self) -> "CloudControl":
        """The cloud's own controls, of which `modal_faults` and `modal_clock` are made."""
        from workbench.cloud_control.controls import CloudControl

        return CloudControl(self._running.http_url, self.env())

    def env(self) -> dict[str, str]:
        """The variables with which any Modal program uses this cloud, in whichever process; they hold its token."""
        return {**self._running.env(), "MODAL_CONFIG_PATH": str(self._config_file)}

    def modal(self, *arguments: str, cwd: str | Path | None = None, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run the stock `modal` command, such as `modal("run", "squares.py")`, and return what it printed.

        Raises CommandFailedError with the output when it fails, or takes longer than `timeout_s` seconds.
        """
        command = [sys.executable, "-m", "modal", *arguments]
        env = {**os.environ, **self.env(), "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
        asked = f"`modal {' '.join(arguments)}`"
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailedError(f"{asked} did not end within {timeout_s:g} s") from None
        if done.returncode != 0:
            shown = "\n".join(done.stdout.splitlines()[-_SHOWN_LINES:])
            raise CommandFailedError(f"{asked} failed with exit code {done.returncode}:\n{shown}")
        return done.stdout


@contextmanager
def session_cloud(
    log: Path, *, install: bool, start_timeout_s: float, say: Callable[[str], None], env: Mapping[str, str]
) -> Iterator[ModalCloud]:
    """Start a cloud whose log is at `log`, point the SDK of this process at it, and end it with the block.

    With `install`, system packages that are missing are installed, and `say` is called with a line for each. `env` is
    set for the cloud's process only. Raises CloudUnavailableError.
    """
    from workbench.local_cloud import STATE_VARIABLE, State, daemon
    from workbench.machine import prerequisites
    from workbench.machine.environment import environment
    from workbench.machine.private_cloud import cloud_variables, private_root

    try:
        prerequisites.ensure(install=install, say=say)
    except prerequisites.PrerequisitesMissingError as error:
        raise CloudUnavailableError(str(error)) from error
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # of an earlier run
    with private_root("pytest") as root:
        state = State(root / "state")
        state.create()
        state.log.symlink_to(log)
        config_file = root / "modal.toml"
        config_file.touch(0o600)
        try:
            try:
                with cloud_variables(root), environment(env):
                    running, _ = daemon.start(state, timeout_s=start_timeout_s)
            except daemon.CloudStartFailedError as error:
                told = str(error).replace(str(state.log), str(log)).replace(STATE_VARIABLE, "TMPDIR")
                raise CloudUnavailableError(told) from error
            cloud = ModalCloud(running, state.root, log, config_file)
            with environment(cloud.env()), _own_client():
                yield cloud
        finally:
            daemon.stop(state)


@contextmanager
def _own_client() -> Iterator[None]:
    """For the block, let the SDK of this process make a client anew; that of before is not used meanwhile, nor closed.

    What a test has looked up before it has used the cloud belongs to the other client still.
    """
    from modal.client import _Client  # the SDK has no public way

    before = _Client._client_from_env
    _Client._set_env_client(None)
    try:
        yield
    finally:
        _Client._set_env_client(before)


def worker() -> tuple[str, int, int]:
    """The name of this worker of xdist ("" without workers), its number, and how many there are."""
    name = os.environ.get(WORKER_VARIABLE, "")
    number = name.removeprefix("gw")
    return name, int(number) if number.isdigit() else 0, max(1, int(os.environ.get(WORKERS_VARIABLE, "1")))


def own_users(number: int, workers: int) -> dict[str, str]:
    """The variable with the share of the sandboxes' user ids that belongs to one of several workers.

    The kernel counts limits per user, so clouds side by side must not share them.
    """
    from workbench.local_cloud import UIDS_VARIABLE, uid_range

    first, last = uid_range()
    shares = workers * _WORKERS_IN_PLACE_OF_ONE
    share = (last - first + 1) // shares
    begin = first + (number % shares) * share
    return {UIDS_VARIABLE: f"{begin}-{begin + share - 1}"} if share else {}
