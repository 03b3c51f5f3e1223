"""The two ways in which unpacking ends badly: the archive is refused, or this machine fails."""

_SHOWN = 200  # characters of a name


class LayerRefusedError(Exception):
    """The archive is not one that may be unpacked; the message is a sentence that names the member and the reason."""


class UnpackFailedError(Exception):
    """Something on this machine kept the layer from being unpacked, such as a full disk; `code` is the errno, or 0."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def shown(name: str) -> str:
    """Return a name of the archive for a message: short, without anything that a terminal would obey."""
    return f"'{printable(name[:_SHOWN])}{'…' if len(name) > _SHOWN else ''}'"


def printable(text: str) -> str:
    """Return a text with '?' for each character that is not printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
