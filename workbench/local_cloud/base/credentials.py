"""What opens the local cloud: the token that clients show, and the key that it signs with. Of one state directory."""

import secrets
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Credentials:
    """The token that a person's SDK must show, and the key that signs what the cloud hands out."""

    token_id: str
    token_secret: str
    signing_key: str

    def __repr__(self) -> str:
        return f"Credentials(token_id={self.token_id!r})"

    @staticmethod
    def parse(found: object) -> "Credentials":
        """Credentials that were written down; raises ValueError, without their values, for what are none."""
        names = [field.name for field in fields(Credentials)]
        if not isinstance(found, dict) or set(found) != set(names):
            raise ValueError(f"it does not hold {', '.join(names)} and nothing else")
        for name in names:
            if not isinstance(found[name], str) or not found[name]:
                raise ValueError(f"{name} is no text")
        return Credentials(**found)

    @staticmethod
    def new() -> "Credentials":
        """Make fresh random credentials."""
        return Credentials(
            token_id=f"ak-{secrets.token_hex(11)}",
            token_secret=f"as-{secrets.token_urlsafe(32)}",
            signing_key=secrets.token_urlsafe(48),
        )
