"""Makes the ids that the SDK tells nouns by: a two-letter prefix and random letters and digits."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_CHARACTERS = bytes(ord(_ALPHABET[number % len(_ALPHABET)]) for number in range(256))  # nearly 6 random bits in each


def new_id(prefix: str, *, length: int = 22) -> str:
    """Return e.g. `vo-…`; `length` counts the characters behind the dash."""
    return f"{prefix}-{secrets.token_bytes(length).translate(_CHARACTERS).decode()}"
