"""Listening sockets on loopback, and nowhere else."""

import socket


def listen(port: int, *, host: str = "127.0.0.1") -> socket.socket:
    """Listen on a loopback address; 0 picks a free port. Raises OSError when the port is taken."""
    # IPPROTO_TCP is named because asyncio sets TCP_NODELAY only where it is: without that option a small answer in two
    # writes waits for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
        listener.bind((host, port))
        listener.listen(1024)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
