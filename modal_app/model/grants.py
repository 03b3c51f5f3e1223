"""How one run reaches the model."""

from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True)
class ModelGrant:
    """How one run reaches the model: the gateway's address, and a token that dies with the run."""

    base_url: str
    token: SecretStr
