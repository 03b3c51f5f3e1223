"""Text that a guest has chosen (names of files, lines of programs), made fit for a sentence of ours."""

MAX_CHARS = 200


def one_line(text: str) -> str:
    """The text on one line, at most 200 characters of it: the middle goes first. What does not print is escaped."""
    half = MAX_CHARS // 2
    return _shown(text) if len(text) <= MAX_CHARS else f"{_shown(text[:half])}…{_shown(text[-half:])}"


def _shown(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
