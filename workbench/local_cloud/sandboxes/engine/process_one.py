"""Process 1 of a sandbox, held by a pidfd: whoever has its number later, this one is meant."""

import json
import os
import signal
from contextlib import suppress


class ProcessOne:
    """Process 1 as bubblewrap has told of it; `pid` is the host's number of it."""

    def __init__(self, pid: int) -> None:
        """Raises OSError when it is gone."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    @classmethod
    def told_of(cls, info: int) -> "ProcessOne | None":
        """Read of it from bubblewrap's `--info-fd`; None when bubblewrap ended before. Blocks until either."""
        with os.fdopen(os.dup(info), "rb") as file:
            text = file.read()
        try:
            return cls(int(json.loads(text)["child-pid"]))
        except (ValueError, KeyError, OSError):
            return None

    def kill(self) -> None:
        """Kill it, and with it everything inside."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
