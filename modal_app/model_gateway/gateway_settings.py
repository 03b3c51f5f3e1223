"""The gateway's settings, from its environment or given, checked once at start."""

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from modal_app.contract.caps import MIN_SECRET_CHARS

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Limits(BaseModel):
    """What one run may use. A token may set the first two lower."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: Count = 2000
    tokens: Count = 20_000_000  # of input, cached or not, and of output
    requests_per_minute: Count = 120
    at_once: Count = 16  # the CLI's own request and those of its subagents
    request_bytes: Count = 32 * 1024 * 1024  # of one request; the service takes no more
    response_bytes: Count = 16 * 1024 * 1024  # of one answer; the longest text is a tenth of it
    total_bytes: Count = 4 * 1024 * 1024 * 1024  # of all requests together; each holds the whole conversation


class GatewaySettings(BaseSettings):
    """The gateway's settings, from variables WORKBENCH_MODEL_*.

    Tokens signed with `token_secret` are accepted, and during rotation those signed with `token_secret_previous`.
    `server_tools` allows requests that make the service itself run code or fetch from the network, where the sandbox's
    own rules do not hold.
    """

    model_config = SettingsConfigDict(env_prefix="WORKBENCH_MODEL_", frozen=True, hide_input_in_errors=True)

    upstream_url: str = "https://api.anthropic.com"
    upstream_key: SecretStr
    upstream_auth: Literal["x-api-key", "bearer"] = "x-api-key"
    token_secret: SecretStr
    token_secret_previous: SecretStr | None = None
    models: tuple[str, ...] = ()  # empty: any
    server_tools: bool = False
    limits: Limits = Field(default_factory=Limits)
    connect_s: Seconds = 10
    body_s: Seconds = 60  # until a request has come whole
    headers_s: Seconds = 60  # until the service begins to answer
    idle_s: Seconds = 45  # without anything but pings in a streamed answer; failures must show within a minute
    whole_s: Seconds = 600  # until an answer that does not stream has come whole

    @field_validator("upstream_url")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an http or https URL with a host, and without query and fragment")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not contain a user or password")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError("must be https unless its host is loopback: the key would travel in the clear")
        return value.rstrip("/")

    @field_validator("token_secret_previous")
    @classmethod
    def _none_before(cls, value: SecretStr | None) -> SecretStr | None:
        """An empty one is none: a stored variable can be emptied, and not be taken away."""
        return value if value is not None and value.get_secret_value() else None

    @field_validator("upstream_key", "token_secret", "token_secret_previous")
    @classmethod
    def _usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        if len(text) < MIN_SECRET_CHARS or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"must be at least {MIN_SECRET_CHARS} printable characters of ASCII without spaces")
        return value

    @property
    def token_secrets(self) -> tuple[SecretStr, ...]:
        """The secrets whose tokens are accepted."""
        return tuple(one for one in (self.token_secret, self.token_secret_previous) if one is not None)

    @property
    def hidden(self) -> tuple[bytes, ...]:
        """The secrets, as bytes, that must not appear in an answer, a recording or the log."""
        return tuple(one.get_secret_value().encode() for one in (self.upstream_key, *self.token_secrets))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
