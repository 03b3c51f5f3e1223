"""Server-Sent Events as bytes (WHATWG HTML, "Server-sent events"), and output cut into texts that fit into an event."""

import codecs

from modal_app.contract.caps import MAX_STREAM_TEXT_BYTES
from modal_app.contract.events import Event, dump_event

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",  # no-transform: proxies that compress would buffer
    "X-Accel-Buffering": "no",
}
HEARTBEAT = b": heartbeat\n\n"
"""An SSE comment: readers skip it, and proxies in between see that the connection is alive."""


def frame(event: Event) -> bytes:
    """One event as an SSE frame. Its type is also in the data, for clients that read only `data:` lines."""
    return f"id: {event.seq}\nevent: {event.type}\ndata: {dump_event(event)}\n\n".encode()


class TextSplitter:
    """Turns a program's output into texts of at most 64 KiB, never cut within a character.

    Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes and return the texts that they complete; an incomplete character is held back."""
        return _pieces(self._decoder.decode(data))

    def flush(self) -> list[str]:
        """Return what is held back, at the end of the output."""
        return _pieces(self._decoder.decode(b"", final=True))


def _pieces(text: str) -> list[str]:
    pieces = []
    while text:
        piece = text[:MAX_STREAM_TEXT_BYTES]
        encoded = piece.encode()
        if len(encoded) > MAX_STREAM_TEXT_BYTES:
            piece = encoded[:MAX_STREAM_TEXT_BYTES].decode(errors="ignore")  # only the cut character is dropped
        pieces.append(piece)
        text = text[len(piece) :]
    return pieces
