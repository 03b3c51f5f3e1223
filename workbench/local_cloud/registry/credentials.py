"""A user name and a password for one registry. The password shows in no representation."""

import base64
from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True)
class Credentials:
    """What a registry, and the token server that it names, is told: to no other host does it go."""

    username: str
    password: SecretStr

    def basic(self) -> SecretStr:
        """Return the value of an Authorization header."""
        pair = f"{self.username}:{self.password.get_secret_value()}".encode()
        return SecretStr(f"Basic {base64.b64encode(pair).decode()}")
