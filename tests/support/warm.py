"""Runs Python commands in forks of an interpreter that has imported their modules already.

`python -m modal app list` spends 0.8 s of processor time on imports and a few milliseconds on its work. Here a server
process imports once; each command is a fork of it, with the arguments, variables, directory and standard streams that
it was given, and runs as `python -m MODULE` or `python -c CODE` does, up to the interpreter's own end. What a module
reads as it is imported is the server's: a command for which one of those variables is another runs in an interpreter
of its own.
"""

import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# By what a command begins with. A `modal` command must not find modules of ours that it has not imported.
PRELOADED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("-m", "modal"): ("modal.__main__", "modal.cli.entry_point"),
    ("-m", "workbench"): ("workbench.cli", "workbench.session", "workbench.runs.archive", "workbench.runs.recordings"),
    # Without widgets, which look for their kernel when they are imported.
    ("-m", "ipykernel_launcher"): ("ipykernel.kernelapp", "ipykernel.ipkernel", "workbench.session"),
    ("-c",): ("modal", "workbench.session"),
}
_MODAL = ("-m", "modal")
_PLAIN = {"NO_COLOR": "1", "TERM": "dumb"}  # the product's own variables for the `modal` commands that it starts
_MODALS = "WARM_MODAL"  # to a warm interpreter: where the one of `modal` listens
# Read when the interpreter starts, or when the preloaded modules are imported.
_READ_AT_IMPORT = ("HOME", "LANG", "LC_ALL", "TERM", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "TERMINAL_WIDTH")
_READ_AT_IMPORT_PREFIXES = ("PYTHON", "GRPC_", "MODAL_CONFIG", "MODAL_PROFILE", "MODAL_LOG", "MODAL_TRACEBACK")
_MOST_SERVERS = 5
_START_S = 60.0
_END_S = 10.0


def run(
    *command: str,
    env: Mapping[str, str],
    stdin: str | None = None,
    cwd: str | Path | None = None,
    timeout_s: float = 120,
) -> "subprocess.CompletedProcess[str]":
    """Run `python COMMAND…`, which is `-m MODULE …` or `-c CODE …`, as `subprocess.run` does with captured text.

    Without `stdin` the command reads the null device. Raises subprocess.TimeoutExpired.
    """
    return subprocess.run(
        words(*command, env=env),
        env=dict(env),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def words(*command: str, env: Mapping[str, str]) -> list[str]:
    """The program that behaves as `python COMMAND…`: a warm one if there is one."""
    return in_place_of(*command, env=env) or [sys.executable, *command]


def in_place_of(*command: str, env: Mapping[str, str]) -> list[str] | None:
    """A program, as words, that behaves as `python COMMAND…` and is warm; None when modules would read other values."""
    warm = _server(command, env)
    client = str(Path(__file__).with_name("warm_client.py"))
    return None if warm is None else [sys.executable, "-I", "-S", client, warm.path, *command]


def server_pids() -> set[int]:
    """The ids of the warm interpreters of this process."""
    return {warm.pid for warm in _servers.values()}


def close() -> None:
    """End the warm interpreters of this process."""
    while _servers:
        _servers.popitem()[1].close()


class Warm:
    """A warm interpreter, and the commands that run as its forks."""

    def __init__(self, modules: Sequence[str], env: Mapping[str, str]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="warm-"))
        self.path = str(self._directory / "socket")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(self.path)
            listener.listen(64)
            given = (theirs.fileno(), listener.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", *map(str, given), *modules],
                env=dict(env),
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                pass_fds=given,
            )
        self._life = ours
        self._life.settimeout(_START_S)
        assert self._life.recv(1) == b"+", "the warm interpreter did not start"

    @property
    def pid(self) -> int:
        """The server's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the server still serves."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the server, and whatever still runs in its forks."""
        self._life.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory)


_servers: dict[str, Warm] = {}


def read_at_import(env: Mapping[str, str]) -> dict[str, str]:
    """Those of these variables that are read before a command begins."""
    return {
        name: value
        for name, value in env.items()
        if name in _READ_AT_IMPORT or name.startswith(_READ_AT_IMPORT_PREFIXES)
    }


def _server(command: Sequence[str], env: Mapping[str, str]) -> Warm | None:
    """The warm interpreter for a command with these variables; None when there would be too many of them."""
    modules = next((found for words, found in PRELOADED.items() if tuple(command[: len(words)]) == words), None)
    if modules is None:
        return None
    read = read_at_import(env)
    key = json.dumps([modules, sorted(read.items())])
    if key in _servers and not _servers[key].alive:
        _servers.pop(key).close()
    if key not in _servers:
        if len(_servers) >= _MOST_SERVERS:
            return None
        more = {name: env[name] for name in ("PATH", "TMPDIR") if name in env}
        if command[:2] != _MODAL and (modal := _server(_MODAL, {**env, **_PLAIN})) is not None:
            more[_MODALS] = modal.path
        _servers[key] = Warm(modules, read | more)
    return _servers[key]


# --- the server's side -------------------------------------------------------------------------------------------


def _serve(life: socket.socket, listener: socket.socket) -> dict[str, Any] | None:
    """Fork for each request until `life` is closed; returns what to run in a fork, None in the server."""
    waiting = selectors.DefaultSelector()
    waiting.register(life, selectors.EVENT_READ)
    waiting.register(listener, selectors.EVENT_READ)
    children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    read = read_at_import(os.environ)
    life.sendall(b"+")
    while True:
        for key, _ in waiting.select():
            if key.fileobj is life:
                for pidfd in children:
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return None
            if key.fileobj is listener:
                connection, _ = listener.accept()
                try:
                    asked, streams = _receive(connection)
                except (OSError, ValueError, struct.error):  # whoever has asked is gone already
                    connection.close()
                    continue
                if read_at_import(asked["env"]) != read:
                    for descriptor in streams:
                        os.close(descriptor)
                    with connection, suppress(OSError):
                        connection.sendall(b"no\n")
                    continue
                pid = os.fork()
                if pid == 0:
                    for one in (waiting, life, listener, connection, *(theirs for _, theirs in children.values())):
                        one.close()
                    return _become(asked, streams)
                for descriptor in streams:
                    os.close(descriptor)
                with suppress(OSError):
                    connection.sendall(f"{pid}\n".encode())
                pidfd = os.pidfd_open(pid)
                children[pidfd] = pid, connection
                waiting.register(pidfd, selectors.EVENT_READ)
                waiting.register(connection, selectors.EVENT_READ, pidfd)
            elif key.data in children:  # whoever has asked is gone
                waiting.unregister(key.fileobj)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(key.data, signal.SIGKILL)
            elif key.fd in children:
                pid, connection = children.pop(key.fd)
                _, status = os.waitpid(pid, 0)
                waiting.unregister(key.fd)
                os.close(key.fd)
                with suppress(KeyError):
                    waiting.unregister(connection)
                with connection, suppress(OSError):
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What is asked for, and the standard streams for it."""
    connection.settimeout(_END_S)
    header, streams, _, _ = socket.recv_fds(connection, 4, 3)
    (length,) = struct.unpack("!I", header)
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            for descriptor in streams:
                os.close(descriptor)
            raise ConnectionResetError
        data += piece
    asked: dict[str, Any] = json.loads(data)
    return asked, list(streams)


def _become(asked: dict[str, Any], streams: Sequence[int]) -> dict[str, Any]:
    """Take over the streams, variables and directory of a command."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    os.chdir(asked["cwd"])
    sys.excepthook = _without_own_frames
    return asked


def _without_own_frames(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
    begun = one = traceback
    while one is not None:
        if one.tb_frame.f_code.co_filename == __file__:
            begun = one.tb_next
        one = one.tb_next
    sys.__excepthook__(kind, error.with_traceback(begun), begun)


def _start_warm_modals(path: str) -> None:
    """Where the product starts the stock `modal` command, it starts a fork of the interpreter that listens there."""
    from workbench.deployment import modal_command

    client = str(Path(__file__).with_name("warm_client.py"))
    # FORCE_COLOR, which kernels set, changes nothing beside the variables that the product sets.
    warm = ["env", "-u", "FORCE_COLOR", sys.executable, "-I", "-S", client, path, *_MODAL]
    modal_command._command = lambda arguments: [*warm, *arguments]


def _run(command: Sequence[str]) -> None:
    how, what, *arguments = command
    sys.path[0] = "" if how == "-c" else str(Path.cwd())
    if how == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert how == "-c", command
        sys.argv = ["-c", *arguments]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


def main() -> None:
    """Import, then serve; a fork comes out of here and runs its command."""
    import gc
    import importlib

    modals = os.environ.pop(_MODALS, None)
    for name in sys.argv[3:]:
        importlib.import_module(name)
    sys.modules.pop("modal.__main__", None)  # what it imports stays; it is run anew, as any main module
    if modals is not None:
        _start_warm_modals(modals)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as life, socket.socket(fileno=int(sys.argv[2])) as listener:
        asked = _serve(life, listener)
    if asked is not None:
        _run(asked["command"])


if __name__ == "__main__":
    main()
