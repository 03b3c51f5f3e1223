"""Text that a guest has chosen (names of files, lines of programs), made fit for a sentence of ours."""

MAX_CHARS = 200


def one_line(text: str, *, max_chars: int = MAX_CHARS) -> str:
    """The text on one line of bounded length; what does not print is written as an escape."""
    shown = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[: max_chars + 1]
    )
    return shown if len(shown) <= max_chars else f"{shown[:max_chars]}…"
