"""The local cloud as a process: `python -m workbench.local_cloud --state DIR`. Started by `workbench cloud start`.

Its first line of output is JSON: `{"url": …, "pid": …}` once it serves, or `{"error": …}` with one sentence. SIGTERM
and SIGINT end it cleanly, and so does the end of the process whose id is in WORKBENCH_CLOUD_OWNER, if that is set.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from importlib import metadata
from ipaddress import ip_network
from pathlib import Path

import structlog

from workbench.errors import WorkbenchError
from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError
from workbench.local_cloud.base.descriptors import raise_limit
from workbench.local_cloud.process import run_mark
from workbench.local_cloud.process.cloud import LocalCloud
from workbench.local_cloud.process.private_mounts import take_private_mounts
from workbench.local_cloud.process.state_directory import OWNER_VARIABLE, State, StateInUseError
from workbench.local_cloud.sandboxes.engine.diagnosis import MORE
from workbench.local_cloud.sandboxes.engine.host_users import UidRangeError, uid_range
from workbench.local_cloud.server.grpc_server import PortInUseError
from workbench.local_cloud.store import damage
from workbench.local_cloud.store.damage import StateError
from workbench.local_cloud.workspace.handshake import SDK_VERSION

TEST_NETWORKS_VARIABLE = "WORKBENCH_EGRESS_TEST_NETWORKS"  # private CIDR ranges that sandboxes may reach, for tests


class WrongSdkError(WorkbenchError):
    """The installed SDK is not the version whose protocol this cloud speaks."""


def main() -> int:
    """Run a cloud until a signal comes; returns the exit code, 1 when it could not start."""
    parser = argparse.ArgumentParser(prog="python -m workbench.local_cloud", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="state directory")
    parser.add_argument(
        "--port", type=int, default=None, help="port on 127.0.0.1 (default: the last one, or a free one)"
    )
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    arguments = parser.parse_args()
    if arguments.detach and os.fork() != 0:
        os._exit(0)
    os.umask(0o077)
    raise_limit()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        asyncio.run(_run(State(arguments.state.absolute()), arguments.port))
    except IsolationUnavailableError as error:
        _say({"error": f"{error} {MORE}"})
        return 1
    except StateInUseError as error:
        _say({"error": str(error), "in_use": True})
        return 1
    except (PortInUseError, StateError, UidRangeError, WrongSdkError) as error:
        _say({"error": str(error)})
        return 1
    return 0


async def _run(state: State, port: int | None) -> None:
    if (installed := metadata.version("modal")) != SDK_VERSION:
        raise WrongSdkError(
            f"modal {installed} is installed, this local cloud speaks {SDK_VERSION}: "
            f"run `pip install modal=={SDK_VERSION}`"
        )
    uid_range()  # raises for a wrong setting before anything is made
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _end_with(os.environ.pop(OWNER_VARIABLE, ""), stop)
    if stop.is_set():
        return  # the owner has ended already
    with _explained(state.root), state.locked(create=False) as run:  # whoever starts us has made it
        janitor = run_mark.start_janitor(run)
        without_overlay = take_private_mounts(run)  # not before: the janitor must see the directories below the mounts
        try:
            damage.check(state.root)
            credentials = state.credentials()
            ports = (port,) if port is not None else (state.port(), 0)
            nearby = [ip_network(text) for text in os.environ.get(TEST_NETWORKS_VARIABLE, "").split()]
            async with LocalCloud.running(
                state.root,
                run,
                credentials,
                ports=ports,
                without_overlay=without_overlay,
                egress_test_networks=nearby,
            ) as cloud:
                state.remember_port(int(cloud.url.rpartition(":")[2]))
                running = state.announce(cloud.url, cloud.http_url, credentials)
                gc.freeze()  # objects that exist now live as long as the process: the collector need not visit them
                gc.set_threshold(20_000, 20, 20)
                _say({"url": running.url, "pid": running.pid})
                await stop.wait()
                state.withdraw()
        finally:
            run_mark.dismiss(janitor)


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn errors of a damaged state or a full disk into a StateError that says so."""
    try:
        yield
    except (OSError, sqlite3.Error, StateError) as error:
        raise damage.as_state_error(root, error) from error


def _end_with(owner: str, stop: asyncio.Event) -> None:
    """Set `stop` when the process with the id `owner` ends; does nothing for an empty `owner`."""
    if not owner:
        return
    try:
        asyncio.get_running_loop().add_reader(os.pidfd_open(int(owner)), stop.set)
    except ProcessLookupError:
        stop.set()


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())  # the reader of this line sees the end of the pipe now, not when we end
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
