"""Replaces `sync` inside a sandbox: asks the agent to commit the volumes at a path, and prints why if that failed.

A run waits for it, and importing `socket` would take longer than everything else: hence the module below it.
"""

from __future__ import annotations

import _socket
import os
import sys

DEADLINE_S = 120


def main() -> int:
    """Commit the volumes at each path in the arguments, or all; returns the exit code."""
    paths = [argument for argument in sys.argv[1:] if not argument.startswith("-")] or ["/"]
    for path in paths:
        if not os.path.lexists(path):
            sys.stderr.write("sync: " + path + ": no such file or directory\n")
            return 1
        peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        peer.settimeout(DEADLINE_S)
        peer.connect("\0workbench-sync")
        peer.send(os.path.realpath(path).encode("utf-8", "replace")[:4096])
        answer = peer.recv(4096)
        peer.close()
        if answer != b".":
            reason = answer.decode("utf-8", "replace") or "the sandbox is ending"
            sys.stderr.write("sync: error syncing '" + path + "': " + reason + "\n")
            return 1
    return 0


sys.exit(main())
