"""Listening sockets on loopback, and nowhere else."""

import socket


def listen(port: int, *, host: str = "127.0.0.1") -> socket.socket:
    """Listen on a loopback address; 0 picks a free port. Raises OSError when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
        listener.bind((host, port))
        listener.listen(256)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
