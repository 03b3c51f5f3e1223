"""The credentials of one state directory: the token that clients send, and the key that the cloud signs with."""

import secrets
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Credentials:
    """The token that a person's SDK must send, and the key that signs the tokens and links that the cloud issues."""

    token_id: str
    token_secret: str
    signing_key: str

    def __repr__(self) -> str:
        return f"Credentials(token_id={self.token_id!r})"

    @staticmethod
    def parse(found: object) -> "Credentials":
        """Check credentials that were read from a file, a dict of texts.

        Raises ValueError for anything else; its message names the field, never a value.
        """
        names = [field.name for field in fields(Credentials)]
        if not isinstance(found, dict) or set(found) != set(names):
            raise ValueError(f"it must hold exactly {', '.join(names)}")
        for name in names:
            if not isinstance(found[name], str) or not found[name]:
                raise ValueError(f"{name} must be a text that is not empty")
        return Credentials(**found)

    @staticmethod
    def new() -> "Credentials":
        """Make fresh random credentials."""
        return Credentials(
            token_id=f"ak-{secrets.token_hex(11)}",
            token_secret=f"as-{secrets.token_urlsafe(32)}",
            signing_key=secrets.token_urlsafe(48),
        )
