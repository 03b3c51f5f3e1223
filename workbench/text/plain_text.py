"""Text that a job may have shaped, made safe to show: nothing in it drives a terminal, a notebook or a table."""


def printable(text: str) -> str:
    """Text without the control characters that could drive a terminal; lines stay lines."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def one_line(text: str, limit: int = 200) -> str:
    """The same on one line, at most `limit` characters long."""
    shown = printable(text[: limit + 1]).replace("\n", " ").replace("\t", " ")
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
