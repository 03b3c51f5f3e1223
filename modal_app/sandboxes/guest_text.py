"""Makes text that comes from a sandbox (names of files, output of programs) safe to quote in a message."""

MAX_CHARS = 200


def one_line(text: str) -> str:
    """The text on one line: a text of more than 200 characters loses its middle, and unprintable ones are escaped."""
    half = MAX_CHARS // 2
    return _shown(text) if len(text) <= MAX_CHARS else f"{_shown(text[:half])}…{_shown(text[-half:])}"


def _shown(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
