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
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PRELOADED = ("modal.__main__", "modal.cli.entry_point", "workbench", "workbench.cli")
# Read when the interpreter starts, or when the preloaded modules are imported.
_READ_AT_IMPORT = ("HOME", "LANG", "LC_ALL", "TERM", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "TERMINAL_WIDTH")
_READ_AT_IMPORT_PREFIXES = ("PYTHON", "GRPC_", "MODAL_CONFIG", "MODAL_PROFILE", "MODAL_LOG", "MODAL_TRACEBACK")
_START_S = 60.0
_END_S = 10.0
_DESCRIPTORS = 3


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
    warm = _server(env)
    if warm is None:
        return subprocess.run(
            [sys.executable, *command],
            env=dict(env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    return warm.run(command, env=env, stdin=stdin, cwd=cwd, timeout_s=timeout_s)


def server_pids() -> set[int]:
    """The ids of the warm interpreters of this process."""
    return {warm.pid for warm in _servers.values()}


def close() -> None:
    """End the warm interpreters of this process."""
    while _servers:
        _servers.popitem()[1].close()


class Warm:
    """A warm interpreter, and the commands that run as its forks."""

    def __init__(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                env=dict(env),
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours
        self._sending = threading.Lock()
        self._socket.settimeout(_START_S)
        assert self._socket.recv(1) == b"+", "the warm interpreter did not start"
        self._socket.settimeout(None)

    @property
    def pid(self) -> int:
        """The server's id."""
        return self._process.pid

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: str | None,
        cwd: str | Path | None,
        timeout_s: float,
    ) -> "subprocess.CompletedProcess[str]":
        """Run one command to its end."""
        deadline = time.monotonic() + timeout_s
        asked = {"command": command, "env": dict(env), "cwd": str(cwd or Path.cwd())}
        answers, answers_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        with tempfile.TemporaryFile() as request, answers:
            request.write(json.dumps(asked).encode())
            request.flush()
            if stdin is None:
                in_read, in_write = os.open(os.devnull, os.O_RDONLY), None
            else:
                in_read, in_write = os.pipe()
            given = [request.fileno(), answers_theirs.fileno(), in_read, out_write, err_write]
            with self._sending:
                socket.send_fds(self._socket, [b"c"], given)
            answers_theirs.close()
            for descriptor in (in_read, out_write, err_write):
                os.close(descriptor)
            streams = [_Reader(out_read), _Reader(err_read)]
            writer = None if in_write is None else _write(in_write, stdin or "")
            with answers.makefile("r") as told:
                answers.settimeout(_START_S)
                pid = int(told.readline())
                answers.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    status = int(told.readline())
                    for stream in (*streams, *([] if writer is None else [writer])):
                        stream.join(max(0.0, deadline - time.monotonic()))
                        if stream.is_alive():
                            raise TimeoutError
                except TimeoutError:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(list(command), timeout_s) from None
        out, err = (stream.text for stream in streams)
        return subprocess.CompletedProcess([sys.executable, *command], status, out, err)

    def close(self) -> None:
        """End the server; a command that still runs is left to its caller's deadline."""
        self._socket.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Reader(threading.Thread):
    """Takes a stream to its end."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self.text = ""
        self.start()

    def run(self) -> None:
        with open(self._descriptor, encoding="utf-8") as file:
            self.text = file.read()


def _write(descriptor: int, text: str) -> threading.Thread:
    def write() -> None:
        with suppress(BrokenPipeError), open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    return writer


_servers: dict[str, Warm] = {}


def _server(env: Mapping[str, str]) -> Warm | None:
    """The warm interpreter for these variables; None when modules would read another value than it has read.

    The first two kinds of caller get one each: programs of the SDK and of the workbench differ in how they are shown.
    """
    read = {
        name: value
        for name, value in env.items()
        if name in _READ_AT_IMPORT or name.startswith(_READ_AT_IMPORT_PREFIXES)
    }
    key = json.dumps(sorted(read.items()))
    if key not in _servers:
        if len(_servers) >= 2:
            return None
        _servers[key] = Warm(read | {name: env[name] for name in ("PATH", "TMPDIR") if name in env})
    return _servers[key]


# --- the server's side -------------------------------------------------------------------------------------------


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request until the control socket is closed; returns what to run in a fork, None in the server."""
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    control.sendall(b"+")
    while True:
        for key, _ in waiting.select():
            if key.fileobj is control:
                data, descriptors, _, _ = socket.recv_fds(control, 1, 5)
                if not data:
                    return None
                pid = os.fork()
                if pid == 0:
                    waiting.close()
                    control.close()
                    for one in list(_children.values()):
                        one.close()
                    return _become(descriptors)
                answers = socket.socket(fileno=descriptors[1])
                for descriptor in (descriptors[0], *descriptors[2:]):
                    os.close(descriptor)
                with suppress(OSError):
                    answers.sendall(f"{pid}\n".encode())
                pidfd = os.pidfd_open(pid)
                _children[pidfd] = answers
                waiting.register(pidfd, selectors.EVENT_READ, pid)
            else:
                pidfd = key.fd
                waiting.unregister(pidfd)
                _, status = os.waitpid(key.data, 0)
                with _children.pop(pidfd) as answers, suppress(OSError):
                    answers.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                os.close(pidfd)


_children: dict[int, socket.socket] = {}


def _become(descriptors: Sequence[int]) -> dict[str, Any]:
    """Take over the streams, variables and directory of a command."""
    request, answers, *streams = descriptors
    with open(request, encoding="utf-8") as file:
        file.seek(0)
        asked: dict[str, Any] = json.load(file)
    os.close(answers)
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

    for name in PRELOADED:
        importlib.import_module(name)
    sys.modules.pop("modal.__main__")  # what it imports stays; it is run anew, as any main module
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        asked = _serve(control)
    if asked is not None:
        _run(asked["command"])


if __name__ == "__main__":
    main()
