"""`python -IS warm_client.py SOCKET -m MODULE …`: a command in a fork of the warm interpreter that listens there.

It has this process's streams, variables and directory; this process ends as it does, and it ends with this process.
Only what starts at once is imported.
"""

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence


def ask(path: str, command: Sequence[str], env: Mapping[str, str], cwd: str, streams: Sequence[int]) -> socket.socket:
    """Ask for a command; its id and its exit code come as lines. It is killed when the connection is closed before."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    data = json.dumps({"command": list(command), "env": dict(env), "cwd": cwd}).encode()
    socket.send_fds(connection, [struct.pack("!I", len(data))], streams)
    connection.sendall(data)
    return connection


def main() -> int:
    """Wait for the command's end."""
    path, *command = sys.argv[1:]
    try:
        connection = ask(path, command, os.environ, os.getcwd(), (0, 1, 2))
    except (FileNotFoundError, ConnectionRefusedError):  # it has ended
        os.execv(sys.executable, [sys.executable, *command])
    with connection, connection.makefile() as told:
        if told.readline() == "no\n":  # it has imported with other variables than these
            os.execv(sys.executable, [sys.executable, *command])
        code = int(told.readline())
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):  # whose effect cannot be changed anyway
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
