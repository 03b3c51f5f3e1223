"""Makes the ids that the SDK tells nouns by: a two-letter prefix and random letters and digits."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str, *, length: int = 22) -> str:
    """Return e.g. `vo-…`; `length` counts the characters behind the dash."""
    return f"{prefix}-{''.join(secrets.choice(_ALPHABET) for _ in range(length))}"
