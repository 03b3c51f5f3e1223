"""The endpoint's settings, read from environment variables WORKBENCH_* and checked once at start.

A container with invalid settings does not start.
"""

import hmac
from itertools import pairwise
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from modal_app.contract.caps import MAX_OUTPUT_BYTES, MAX_TIMEOUT_S, MIN_SECRET_CHARS

DEFAULT_MAX_RUNS = 60
LEAST_MEMORY_MB = 256
DEFAULT_MEMORY_MB = 4096
MAX_RUNS = 1000
MAX_CONTAINERS = 100
Seconds = Annotated[int, Field(ge=1, le=MAX_TIMEOUT_S)]


class Timeouts(BaseSettings):
    """Every deadline, in seconds, from variables WORKBENCH_TIMEOUT_*. Raises ValidationError when they do not fit.

    In the chain process_s < sandbox_s < function_s < upstream_s each leaves the one before it room for cleanup.
    """

    model_config = SettingsConfigDict(env_prefix="WORKBENCH_TIMEOUT_", frozen=True)

    process_s: Seconds = 600  # for the job's process
    sandbox_s: Seconds = 720  # for the sandbox, and for the run as a whole
    function_s: Seconds = 840  # for one request of a function, and so for a response that streams
    upstream_s: Seconds = 900  # that the caller in front of the endpoint waits for a response to end
    turn_s: Seconds = 600  # for a run's turn to start its sandbox, when many are to start at once
    start_s: Seconds = 60  # for a sandbox to be created, and then for its first command
    cold_start_s: Seconds = 10  # for a run's sandbox to be ready, before its events and the log say that it was late
    commit_s: Seconds = 60  # for the commit of the job's files, and reading them back
    terminate_s: Seconds = 30  # for the sandbox to end, as the platform confirms it
    drain_s: Seconds = 20  # that runs go on in a container which is told to end; the platform gives it 30 s
    lease_s: Seconds = 20  # a sandbox that hears nothing from its run ends after it; so do runs of a container cut off
    outage_s: Seconds = 60  # that the platform may be away while a job runs, before the job counts as lost
    stall_s: Seconds = 150  # of silence before a Claude CLI counts as stalled; it reports a running tool every 30 s
    model_headers_s: Seconds = 15  # for the model to begin an answer, before the CLI asks again
    model_bytes_s: Seconds = 20  # without a byte within an answer, before the CLI gives it up
    model_idle_s: Seconds = 45  # without anything but pings within an answer, before the gateway breaks it off
    prewarm_s: Seconds = 300  # for a run to take a prewarmed sandbox, before that ends itself
    send_s: Seconds = 60  # for a reader to take the next bytes, before it is disconnected
    sweep_s: Seconds = 60  # between two sweeps
    sweep_margin_s: Seconds = 30  # for an owner to do its own cleanup, before the sweeper does it
    heartbeat_s: Annotated[float, Field(gt=0, le=15)] = (
        10  # between comments on a quiet stream: proxies cut streams that are quiet for 30 s or more
    )
    disconnect_grace_s: Annotated[float, Field(ge=0)] = 30  # without a reader, before a run is cancelled; 0: at once
    keep_s: Annotated[int, Field(ge=1)] = 7 * 24 * 3600  # after its end, a run can be read for so long

    @model_validator(mode="after")
    def _aligned(self) -> "Timeouts":
        chain = {"process_s": self.process_s, "sandbox_s": self.sandbox_s, "function_s": self.function_s}
        chain["upstream_s"] = self.upstream_s
        names = list(chain)
        for inner, outer in pairwise(names):
            if chain[inner] >= chain[outer]:
                raise ValueError(f"{inner} ({chain[inner]} s) must be shorter than {outer} ({chain[outer]} s)")
        if self.process_s + self.commit_s >= self.sandbox_s:
            used = f"process_s ({self.process_s} s) and commit_s ({self.commit_s} s)"
            raise ValueError(f"sandbox_s ({self.sandbox_s} s) must be longer than {used} together")
        return self

    @property
    def longest_wait_s(self) -> int:
        """The longest `wait_s` in seconds: a run that has waited so long still has its full `sandbox_s`."""
        return self.function_s - self.sandbox_s

    def env(self) -> dict[str, str]:
        """Environment variables that give another process the same deadlines."""
        prefix = str(self.model_config["env_prefix"])
        return {f"{prefix}{name.upper()}": str(value) for name, value in self.model_dump().items()}


class Limits(BaseSettings):
    """How much a container of the endpoint takes at once, from variables WORKBENCH_*. Raises ValidationError."""

    model_config = SettingsConfigDict(env_prefix="WORKBENCH_", frozen=True)

    max_runs: Annotated[int, Field(ge=2, le=MAX_RUNS)] = DEFAULT_MAX_RUNS  # at once in one container
    max_output_bytes: Annotated[int, Field(ge=1)] = MAX_OUTPUT_BYTES  # of one run
    memory_mb: Annotated[int, Field(ge=LEAST_MEMORY_MB)] = DEFAULT_MEMORY_MB  # that a sandbox may use, in MiB

    def env(self) -> dict[str, str]:
        """Environment variables that give another process the same limits."""
        return {f"WORKBENCH_{name.upper()}": str(getattr(self, name)) for name in Limits.model_fields}


class Scale(BaseSettings):
    """How many containers of the endpoint there are, from variables WORKBENCH_*. Raises ValidationError."""

    model_config = SettingsConfigDict(env_prefix="WORKBENCH_", frozen=True)

    min_containers: Annotated[int, Field(ge=0, le=MAX_CONTAINERS)] = 0  # are kept running, though nobody calls


class Settings(Limits):
    """The settings of a container of the endpoint, from variables WORKBENCH_*.

    `secret` is what callers must send; during its rotation, `secret_previous` is accepted, too.
    """

    model_config = SettingsConfigDict(env_prefix="WORKBENCH_", frozen=True, hide_input_in_errors=True)

    secret: SecretStr  # what callers must show
    secret_previous: SecretStr | None = None  # accepted beside it, during rotation
    model_token_secret: SecretStr | None = None  # signs runs' tokens for the model gateway; None: there is no model
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
        if value.get_secret_value() != value.get_secret_value().strip():
            raise ValueError("begins or ends with white space, often a file's newline: no caller could send it")
        return value

    @model_validator(mode="after")
    def _has_secret(self) -> "Settings":
        if not self.secret:
            raise ValueError("WORKBENCH_SECRET is empty: the endpoint does not start without a secret")
        return self

    def accepts(self, shown: str) -> bool:
        """Whether a caller's secret is accepted; compared in constant time."""
        given = shown.encode()
        known = [secret.get_secret_value().encode() for secret in (self.secret, self.secret_previous) if secret]
        return any([hmac.compare_digest(given, one) for one in known])  # noqa: C419  # a list: every secret is compared
