"""What each worker of a run has for itself: a directory for temporary files, user ids of sandboxes, and ports.

Workers that share one of them see each other's leftovers, limits and addresses.
"""

import os
import shutil
import socket
import tempfile
from itertools import count
from pathlib import Path

import pytest

from tests.support.order import GATE_VARIABLE
from workbench.local_cloud.sandboxes.engine.host_users import UIDS_VARIABLE

_FIRST_UID, _UIDS = 210_000, 20_000
_FIRST_PORT, _PORTS = 20_000, 1_000  # below those that the kernel gives to connections
_WORKER_VARIABLE = "PYTEST_XDIST_WORKER"
_OWN = pytest.StashKey[Path]()
_ports = count()


def worker() -> int:
    """The number of this worker, 0 where there are none."""
    return int(os.environ.get(_WORKER_VARIABLE, "gw0").removeprefix("gw"))


def free_port() -> int:
    """A port of this worker that nobody listens on, and that no other test is given."""
    while True:
        port = _FIRST_PORT + worker() * _PORTS + next(_ports) % _PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def outside() -> dict[str, str]:
    """The variables of this process without those of this run: for a run of pytest inside a test."""
    return {name: value for name, value in os.environ.items() if name != GATE_VARIABLE and "PYTEST" not in name}


def pytest_configure(config: pytest.Config) -> None:
    """Make the directory that the workers share; its name is short, because those of sockets may not be long."""
    if GATE_VARIABLE in os.environ:
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # `tmp_path` stays for whoever looks at it
    directory = Path(tempfile.mkdtemp(prefix="wbt-"))
    directory.chmod(0o711)
    config.stash[_OWN] = directory
    os.environ[GATE_VARIABLE] = str(directory)


def pytest_sessionstart() -> None:
    """Give this worker what is its own; its children inherit it."""
    own = Path(os.environ[GATE_VARIABLE]) / str(worker())
    own.mkdir(exist_ok=True)
    own.chmod(0o711)  # sandboxes' users pass through
    os.environ["TMPDIR"] = str(own)
    tempfile.tempdir = None
    first = _FIRST_UID + worker() * _UIDS
    os.environ[UIDS_VARIABLE] = f"{first}-{first + _UIDS - 1}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the directory."""
    if (directory := config.stash.get(_OWN, None)) is not None:
        shutil.rmtree(directory, ignore_errors=True)
        del os.environ[GATE_VARIABLE]
