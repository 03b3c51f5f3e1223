"""A uvicorn server as a part of a larger process."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn


class QuietServer(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as they are."""
        yield

    async def begin(self, listener: socket.socket) -> "asyncio.Task[None]":
        """Begin to serve on `listener`; returns the task that serves, once connections are answered.

        Raises whatever the server raises when it cannot start.
        """
        serving = asyncio.create_task(self.serve(sockets=[listener]))
        try:
            while not self.started:  # uvicorn tells it in no other way
                if serving.done():
                    serving.result()
                await asyncio.sleep(0.01)
        except BaseException:
            serving.cancel()
            raise
        return serving
