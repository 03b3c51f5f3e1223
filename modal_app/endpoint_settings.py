"""The endpoint's settings, from its environment, checked once at start.

A container with bad settings serves nothing.
"""

import hmac
from itertools import pairwise
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from modal_app.contract.caps import MAX_OUTPUT_BYTES, MAX_TIMEOUT_S, MIN_SECRET_CHARS

DEFAULT_MAX_RUNS = 60
Seconds = Annotated[int, Field(ge=1, le=MAX_TIMEOUT_S)]


class Timeouts(BaseSettings):
    """Every deadline in seconds.

    A later one in the chain process < sandbox < function < upstream leaves room for cleanup.
    `upstream_s` is what the caller in front of the endpoint grants a response.
    """

    model_config = SettingsConfigDict(env_prefix="WORKBENCH_TIMEOUT_", frozen=True)

    process_s: Seconds = 600
    sandbox_s: Seconds = 720
    function_s: Seconds = 840
    upstream_s: Seconds = 900
    start_s: Seconds = 60  # until the sandbox has shown that it is alive
    commit_s: Seconds = 60
    terminate_s: Seconds = 30
    lease_s: Seconds = 20  # a sandbox that has not heard from its run for so long ends itself; so do a container's runs
    stall_s: Seconds = 150  # a Claude CLI that has said nothing for so long has stalled; of a tool it tells every 30 s
    model_headers_s: Seconds = 15  # until the model begins to answer, before the CLI asks again
    model_bytes_s: Seconds = 20  # of an answer in which nothing comes, before the CLI gives it up
    model_idle_s: Seconds = 45  # of one in which nothing but pings comes, before the gateway does
    prewarm_s: Seconds = 300  # a sandbox created ahead that no run has taken for so long ends itself
    send_s: Seconds = 60  # a reader that takes nothing for so long is left
    sweep_s: Seconds = 60  # between two looks for what nobody owns any more
    sweep_margin_s: Seconds = 30  # for an owner to do by itself what a look would do
    heartbeat_s: Annotated[float, Field(gt=0, le=15)] = (
        10  # quiet streams are cut by hops in between; theirs is 30 s or more
    )
    disconnect_grace_s: Annotated[float, Field(ge=0)] = 30  # a run without a reader ends after it; 0 is at once
    keep_s: Annotated[int, Field(ge=1)] = 7 * 24 * 3600  # how long a run can be read after its end

    @model_validator(mode="after")
    def _aligned(self) -> "Timeouts":
        chain = {"process_s": self.process_s, "sandbox_s": self.sandbox_s, "function_s": self.function_s}
        chain["upstream_s"] = self.upstream_s
        names = list(chain)
        for inner, outer in pairwise(names):
            if chain[inner] >= chain[outer]:
                raise ValueError(f"{inner} ({chain[inner]} s) must be shorter than {outer} ({chain[outer]} s)")
        if self.process_s + self.commit_s >= self.sandbox_s:
            raise ValueError("sandbox_s must leave room for process_s and commit_s")
        return self

    @property
    def longest_wait_s(self) -> int:
        """How long a run may wait for its project and still have all its time."""
        return self.function_s - self.sandbox_s

    def env(self) -> dict[str, str]:
        """The variables that give the same settings to another process."""
        prefix = str(self.model_config["env_prefix"])
        return {f"{prefix}{name.upper()}": str(value) for name, value in self.model_dump().items()}


class Settings(BaseSettings):
    """What a container of the endpoint needs. During rotation `secret_previous` is accepted beside `secret`."""

    model_config = SettingsConfigDict(env_prefix="WORKBENCH_", frozen=True, hide_input_in_errors=True)

    secret: SecretStr
    secret_previous: SecretStr | None = None
    model_token_secret: SecretStr | None = None  # signs runs' tokens for the model gateway; none when there is no model
    max_runs: Annotated[int, Field(ge=2)] = DEFAULT_MAX_RUNS  # at once in one container
    max_output_bytes: Annotated[int, Field(ge=1)] = MAX_OUTPUT_BYTES  # of one run
    timeouts: Timeouts = Field(default_factory=Timeouts)

    @field_validator("secret", "secret_previous", "model_token_secret", mode="after")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if len(value.get_secret_value()) < MIN_SECRET_CHARS:
            raise ValueError(f"must be at least {MIN_SECRET_CHARS} characters long")
        if not value.get_secret_value().isascii():
            raise ValueError("must be ASCII: it travels in an HTTP header")
        return value

    @model_validator(mode="after")
    def _has_secret(self) -> "Settings":
        if not self.secret:
            raise ValueError("WORKBENCH_SECRET is empty: the endpoint does not start without a secret")
        return self

    def accepts(self, shown: str) -> bool:
        """Whether a caller's secret is one of ours, in a time that tells nothing about them."""
        given = shown.encode()
        known = [secret.get_secret_value().encode() for secret in (self.secret, self.secret_previous) if secret]
        return any([hmac.compare_digest(given, one) for one in known])  # noqa: C419  # a list: every secret is compared
