"""The names of the headers that the contract knows beside HTTP's and SSE's own."""

SECRET_HEADER = "X-Modal-Secret"  # noqa: S105  # a header's name
RUN_HEADER = "X-Run-Id"
KEY_HEADER = "Idempotency-Key"
