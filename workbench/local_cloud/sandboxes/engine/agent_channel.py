"""The socket between the host and a sandbox's agent: JSON messages, each with up to four file descriptors.

Messages and descriptors that come in may be forged by a guest. Here they are only parsed, and the descriptors closed
again; the receiver must check what they mean.
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

OnMessage = Callable[[dict[str, Any], list[int]], None]  # may raise ValueError, LookupError, TypeError and OSError
OnBad = Callable[[Exception], None]


class Channel:
    """Both ends of the socket: ours, and `theirs` until the agent has it."""

    def __init__(self, on_message: OnMessage, *, on_bad: OnBad) -> None:
        """`on_message` gets each message with its descriptors, which are closed when it returns.

        `on_bad` gets the exception when a message cannot be parsed or `on_message` raises.
        """
        self._on_message = on_message
        self._on_bad = on_bad
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._lock = asyncio.Lock()

    @property
    def closed(self) -> bool:
        """Whether our end is closed."""
        return self._ours.fileno() < 0

    def listen(self) -> None:
        """Begin to receive messages; does nothing when it is closed."""
        if not self.closed:
            asyncio.get_running_loop().add_reader(self._ours.fileno(), self._on_readable)

    async def send(self, order: dict[str, object], descriptors: Sequence[int] = ()) -> None:
        """Send one message with descriptors, which stay open here.

        Raises SandboxStartFailedError when the sandbox has ended or its agent does not read, and ValueError for a
        message that is too large.
        """
        message = json.dumps(order).encode()
        if len(message) > _MESSAGE_BYTES // 2:
            raise ValueError(
                f"the program's arguments and environment are too large: {len(message)} bytes as JSON, of at most "
                f"{_MESSAGE_BYTES // 2}"
            )
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
            raise SandboxStartFailedError(
                f"the sandbox's agent did not read a message for {_SEND_TRIES * _SEND_PAUSE_S:g} s"
            )

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self.theirs.close()
        if not self.closed:
            asyncio.get_running_loop().remove_reader(self._ours.fileno())
            self._ours.close()

    def _on_readable(self) -> None:
        """Receive at most 64 messages; the event loop calls again when there are more."""
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
                self._on_message(json.loads(data), descriptors)
            except (ValueError, LookupError, TypeError, OSError, ArithmeticError, RecursionError) as error:
                self._on_bad(error)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)


def listening_socket(descriptor: int) -> socket.socket:
    """Return a duplicate of a descriptor that must be a listening TCP socket; raises ValueError or OSError.

    The caller must close it.
    """
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise ValueError("not a socket")
    found = socket.socket(fileno=os.dup(descriptor))
    good = found.family == socket.AF_INET and found.type == socket.SOCK_STREAM
    if not good or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        found.close()
        raise ValueError("not a listening socket")
    found.setblocking(False)
    return found
