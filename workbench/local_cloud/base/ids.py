"""Makes object ids as the SDK expects them: a two-letter prefix that says the kind, then random letters and digits."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_CHARACTERS = bytes(ord(_ALPHABET[number % len(_ALPHABET)]) for number in range(256))  # nearly 6 random bits in each


def new_id(prefix: str, *, length: int = 22) -> str:
    """Return a new random id such as `vo-…`; `length` counts the characters behind the dash."""
    return f"{prefix}-{secrets.token_bytes(length).translate(_CHARACTERS).decode()}"
