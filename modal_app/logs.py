"""Structured logs, one JSON object per line. Never a secret, never a request's body, never what a job printed."""

import sys

import structlog


def configure() -> None:
    """Make structlog write JSON lines to stdout, where Modal collects them."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
