"""The state directory: where it is, what it holds, who may read it, and which process uses it.

`cloud.sqlite`, `content/` and `images/` are durable; `run/<id>/` belongs to one process. `credentials.json` and
`running.json` can be read by their owner only. A lock ensures that no two clouds use the same directory.
"""

import fcntl
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import platformdirs

from workbench.errors import WorkbenchError
from workbench.local_cloud.base.credentials import Credentials
from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.base.host_processes import start_of
from workbench.local_cloud.process.run_mark import end_what_is_left
from workbench.local_cloud.store.damage import is_disk_full, set_aside

STATE_VARIABLE = "WORKBENCH_STATE_DIR"
OWNER_VARIABLE = "WORKBENCH_CLOUD_OWNER"  # a process id: the cloud ends when that process does
# What `modal setup` may have stored in the user's configuration; beside a token the SDK refuses it, unless it is empty.
_SIGNED_IN = tuple(f"MODAL_OAUTH_{name}" for name in ("REFRESH_TOKEN", "CLIENT_ID", "CLIENT_SECRET", "JWT_KEY"))
_LOOK_S = 0.05
_KILLED_S = 2.0  # a killed cloud's lock may be held for a moment more by a program that it was just starting
_ROOT_STATE_DIR = Path("/var/lib/modal-workbench")  # not root's home, which the users of sandboxes cannot enter


class StateInUseError(WorkbenchError):
    """Another local cloud uses this state directory."""


class StateUnusableError(WorkbenchError):
    """A directory cannot hold a cloud's state. `reason` and `fix` are sentences without a full stop."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}: {fix}")
        self.reason = reason
        self.fix = fix


@dataclass(frozen=True)
class Running:
    """How to reach a running cloud. It holds the token's secret, so it is written only to files of mode 0600.

    `pid_started` is what `host_processes.start_of` returned for the process, `url` the gRPC server's URL.
    """

    pid: int
    pid_started: str
    url: str
    http_url: str
    token_id: str
    token_secret: str

    def __repr__(self) -> str:
        return f"Running(pid={self.pid}, url={self.url!r})"

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs, not another one with the same id."""
        return start_of(self.pid) == self.pid_started

    def env(self) -> dict[str, str]:
        """Return the environment variables with which the stock SDK and CLI use this cloud."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": self.token_id,
            "MODAL_TOKEN_SECRET": self.token_secret,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_DISABLE_API_PROXY": "1",
            **dict.fromkeys(_SIGNED_IN, ""),
        }


def default_state_dir() -> Path:
    """Return WORKBENCH_STATE_DIR, or by default the platform's directory for the state of programs."""
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return _ROOT_STATE_DIR
    return Path(platformdirs.user_state_dir("modal-workbench"))


class State:
    """One state directory, at `root`. It need not exist before `create`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def log(self) -> Path:
        """The cloud's own log, one JSON object per line."""
        return self.root / "cloud.log"

    def open_log(self) -> BinaryIO:
        """Open the log for appending, with mode 0600 whatever the umask is. Raises OSError."""
        log = os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")
        os.fchmod(log.fileno(), 0o600)
        return log

    def try_out(self) -> None:
        """Find out by writing whether the directory can be used, and leave nothing there; raises StateUnusableError."""
        another = f"set {STATE_VARIABLE} to another directory"
        try:
            with tempfile.TemporaryDirectory(dir=self.nearest):
                pass
        except OSError as error:
            if is_disk_full(error):
                raise StateUnusableError(f"the disk that holds {self.root} is full", "make room there") from error
            raise StateUnusableError(
                f"the state directory {self.root} cannot be used ({error.strerror})", another
            ) from error
        if os.geteuid() == 0:
            nearest = self.nearest.resolve()
            for parent in (*nearest.parents, *([] if nearest == self.root.resolve() else [nearest])):
                if not parent.stat().st_mode & stat.S_IXOTH:
                    raise StateUnusableError(
                        f"sandboxes run as other users, who cannot reach {self.root}: they may not enter {parent}",
                        f"{another}, such as {_ROOT_STATE_DIR}, or run: chmod o+x {parent}",
                    )

    @property
    def nearest(self) -> Path:
        """The directory itself, or while it does not exist, the nearest directory above it that does."""
        return next(path for path in (self.root, *self.root.parents) if os.path.lexists(path))

    def create(self) -> None:
        """Make the directory. If we are root, other users may pass through it, but not list it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o711 if os.geteuid() == 0 else 0o700)

    @contextmanager
    def locked(self, *, wait_s: float = _KILLED_S, create: bool = True) -> Iterator[Path]:
        """Lock the directory while the block runs, and give a new run directory.

        Of clouds that no longer run, the processes are ended and the run directories removed. Raises StateInUseError
        when another cloud runs, or still has the lock after `wait_s` seconds; without `create` FileNotFoundError when
        the directory is not there.
        """
        if create:
            self.create()
        lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + wait_s
            while not self._taken(lock):
                if self.running() is not None or time.monotonic() >= deadline:
                    raise self._refused()
                time.sleep(_LOOK_S)
            runs = self.root / "run"
            if runs.exists():
                end_what_is_left(runs)
                remove_tree(runs)
            run = runs / secrets.token_hex(4)
            run.mkdir(parents=True)
            for directory in (runs, run):
                directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
            yield run
            remove_tree(run)
        finally:
            os.close(lock)

    def wait_while_changing(self, timeout_s: float) -> Running | None:
        """Wait until no process has the lock, or its cloud is announced; returns the cloud that runs then, if any.

        It is that of a cloud that starts or ends, or of a command that works on the state. Raises StateInUseError when
        it still has the lock after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while (running := self.running()) is None and self._in_use():
            if time.monotonic() >= deadline:
                raise self._refused()
            time.sleep(_LOOK_S)
        return running

    def _refused(self) -> StateInUseError:
        return StateInUseError(
            f"a local cloud already runs with the state in {self.root}, or a command works on it: "
            "use the cloud, run `workbench cloud stop`, or wait for the command's end"
        )

    def _in_use(self) -> bool:
        """Whether a process has the lock."""
        try:
            lock = os.open(self.root / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # there is none, or none can be: then its making says why
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _taken(self, lock: int) -> bool:
        """Take the lock unless somebody has it, or has removed the directory meanwhile."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(lock), (self.root / "lock").stat())
        except (BlockingIOError, FileNotFoundError):
            return False

    def credentials(self) -> Credentials:
        """Return the credentials of this directory, which are made if it has none. The lock must be held.

        Raises DamagedStateError when the file does not hold credentials; the file is moved aside then.
        """
        path = self.root / "credentials.json"
        if path.exists():
            try:
                return Credentials.parse(json.loads(path.read_bytes()))
            except ValueError as error:
                raise set_aside(self.root, [path.name], f"{path.name}: {error}") from error
        made = Credentials.new()
        _write_private(path, asdict(made))
        return made

    def running(self) -> Running | None:
        """Return the cloud that runs with this directory, None when there is none."""
        try:
            found = Running(**json.loads((self.root / "running.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.alive else None

    def announce(self, url: str, http_url: str, credentials: Credentials) -> Running:
        """Write how to reach this process's cloud into `running.json`, and return it."""
        pid = os.getpid()
        started = start_of(pid)
        assert started is not None, "this process runs"
        running = Running(pid, started, url, http_url, credentials.token_id, credentials.token_secret)
        _write_private(self.root / "running.json", asdict(running))
        return running

    def withdraw(self) -> None:
        """Remove `running.json`. Idempotent."""
        (self.root / "running.json").unlink(missing_ok=True)

    def port(self) -> int:
        """Return the port of the last cloud here, 0 if there was none, so that a restart can use the same address."""
        try:
            return int((self.root / "port").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return 0

    def remember_port(self, port: int) -> None:
        """Store the port for the next start."""
        _write_private(self.root / "port", port)


def _write_private(path: Path, content: object) -> None:
    temporary = path.with_suffix(f".{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
    temporary.replace(path)
