"""Process 1 of a sandbox, held by a pidfd, so that it is never confused with a later process that has the same id."""

import json
import os
import signal
from contextlib import suppress


class ProcessOne:
    """Process 1 of a sandbox; `pid` is its id on the host."""

    def __init__(self, pid: int) -> None:
        """Open the pidfd of a process; raises OSError when it has ended."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    @classmethod
    def from_info_fd(cls, info: int) -> "ProcessOne | None":
        """Wait for the process id from bubblewrap's `--info-fd`; None when bubblewrap has ended before. Blocks."""
        with os.fdopen(os.dup(info), "rb") as file:
            text = file.read()
        try:
            return cls(int(json.loads(text)["child-pid"]))
        except (ValueError, KeyError, OSError):
            return None

    def kill(self) -> None:
        """Kill the process, and with it every process of the sandbox; does nothing after `close`."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def duplicate(self) -> int | None:
        """Return a pidfd of the process, which the caller closes; None after `close`."""
        return os.dup(self._pidfd) if self._pidfd >= 0 else None

    def close(self) -> None:
        """Close the pidfd. Idempotent."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
