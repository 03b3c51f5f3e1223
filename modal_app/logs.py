"""Structured logs, one JSON object per line. Never a secret, never a request's body, never what a job printed."""

import sys

import stamina.instrumentation
import structlog

_log = structlog.get_logger(__name__)


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
    stamina.instrumentation.set_on_retry_hooks([note_retry])


def note_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """Log that a call of the platform is made again. The error's text stays out: it may hold what a guest has said."""
    reason = type(details.caused_by).__name__
    _log.warning("platform.retry", reason=reason, retry=details.retry_num, wait_s=round(details.wait_for, 3))
