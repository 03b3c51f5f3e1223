"""The names of the HTTP headers that the contract defines: the secret, the run's id, the idempotency key."""

SECRET_HEADER = "X-Modal-Secret"  # noqa: S105  # a header's name
RUN_HEADER = "X-Run-Id"
KEY_HEADER = "Idempotency-Key"
