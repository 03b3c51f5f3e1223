"""What a run is given to reach the model."""

from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True)
class ModelGrant:
    """What one run is given to reach the model: the gateway's address, and a token that is void when the run ends."""

    base_url: str
    token: SecretStr
