"""The socket between a sandbox and its agent: whole JSON messages, with descriptors beside them.

What comes in is a guest's word, and its descriptors are a guest's gifts: here they are parsed and closed again, and
what they mean is checked by whoever hears them.
"""

import asyncio
import json
import os
import socket
import stat
from collections.abc import Callable, Sequence
from typing import Any

from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError

_MESSAGE_BYTES = 256 * 1024
_MESSAGES_AT_ONCE = 64
_SEND_TRIES, _SEND_PAUSE_S = 1000, 0.005

Hear = Callable[[dict[str, Any], list[int]], None]  # may raise ValueError, LookupError, TypeError and OSError
OnBad = Callable[[Exception], None]


class Channel:
    """Our end of the socket, and `theirs` until it is given away."""

    def __init__(self, hear: Hear, *, on_bad: OnBad) -> None:
        """`hear` gets each message with its descriptors, `on_bad` what it raises of one that makes no sense."""
        self._hear = hear
        self._on_bad = on_bad
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._lock = asyncio.Lock()

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._ours.fileno() < 0

    def listen(self) -> None:
        """Hear what comes from now on, unless it is closed."""
        if not self.closed:
            asyncio.get_running_loop().add_reader(self._ours.fileno(), self._on_readable)

    async def send(self, order: dict[str, object], descriptors: Sequence[int] = ()) -> None:
        """Send one message; raises SandboxStartFailedError when nobody takes it, ValueError when it is too large."""
        message = json.dumps(order).encode()
        if len(message) > _MESSAGE_BYTES // 2:
            raise ValueError("the program's arguments and environment are too large")
        async with self._lock:
            for _ in range(_SEND_TRIES):
                if self.closed:
                    raise SandboxStartFailedError("the sandbox has ended")
                try:
                    socket.send_fds(self._ours, [message], descriptors)
                except BlockingIOError:
                    await asyncio.sleep(_SEND_PAUSE_S)
                except OSError as error:
                    raise SandboxStartFailedError("the sandbox has ended") from error
                else:
                    return
            raise SandboxStartFailedError("the sandbox's agent does not answer")

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self.theirs.close()
        if not self.closed:
            asyncio.get_running_loop().remove_reader(self._ours.fileno())
            self._ours.close()

    def _on_readable(self) -> None:
        """Take a few messages; the event loop calls again when there are more."""
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._ours, _MESSAGE_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                asyncio.get_running_loop().remove_reader(self._ours.fileno())
                return
            try:
                self._hear(json.loads(data), descriptors)
            except (ValueError, LookupError, TypeError, OSError) as error:
                self._on_bad(error)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)


def listening_socket(descriptor: int) -> socket.socket:
    """A listening TCP socket that a descriptor is of, its own to close; raises ValueError or OSError otherwise."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise ValueError("not a socket")
    found = socket.socket(fileno=os.dup(descriptor))
    good = found.family == socket.AF_INET and found.type == socket.SOCK_STREAM
    if not good or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        found.close()
        raise ValueError("not a listening socket")
    found.setblocking(False)
    return found
