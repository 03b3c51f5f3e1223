"""Tokens that say which run may use the model, until when, and how much. Pure: the caller passes the time.

Every command that a job runs can read the job's token. So a token is good for one run only, is void when the run has
ended, and is accepted by the model gateway alone. The key that signs it is derived from the token secret for this one
purpose.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import SecretStr

_PREFIX = "wb1"
_PURPOSE = b"workbench model gateway, run tokens, version 1"
_MAX_CHARS = 1024
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TokenError(Exception):
    """A token is not accepted. `reason` is one word for the log; the caller is told only that it is not valid."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class RunClaims:
    """What a token says. `expires_at` is Unix time in seconds; a limit of None means the gateway's own limit.

    `replay` is the id of a recording that answers in the model's place.
    """

    run_id: str
    expires_at: int
    max_requests: int | None = None
    max_tokens: int | None = None
    replay: str | None = None


def mint(secret: SecretStr, claims: RunClaims) -> SecretStr:
    """Sign a token for one run; raises ValueError for a run id of other characters, which would be unsafe to log."""
    if not _RUN_ID.fullmatch(claims.run_id):
        raise ValueError("a run id is 1 to 64 letters, digits, '-' or '_'")
    payload = _encode(json.dumps(asdict(claims), separators=(",", ":")).encode())
    return SecretStr(f"{_PREFIX}.{payload}.{_signature(secret, payload)}")


def verify(secrets: Sequence[SecretStr], token: str, *, now: float) -> RunClaims:
    """The claims of a token; `now` is Unix time in seconds.

    Raises TokenError for a token that is malformed, expired, or signed with none of the secrets.
    """
    prefix, _, rest = token.partition(".")
    payload, _, shown = rest.partition(".")
    if len(token) > _MAX_CHARS or prefix != _PREFIX or not payload or not shown:
        raise TokenError("malformed")
    given = shown.encode(errors="replace")
    known = [_signature(secret, payload).encode() for secret in secrets]
    if not any([hmac.compare_digest(given, one) for one in known]):  # noqa: C419  # a list: every secret is compared
        raise TokenError("signature")
    try:
        claims = RunClaims(**json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))
    except (ValueError, TypeError, binascii.Error):
        raise TokenError("claims") from None  # signed by another version of this module
    if now >= claims.expires_at:
        raise TokenError("expired")
    return claims


def _signature(secret: SecretStr, payload: str) -> str:
    key = hmac.digest(secret.get_secret_value().encode(), _PURPOSE, hashlib.sha256)
    return _encode(hmac.digest(key, f"{_PREFIX}.{payload}".encode(errors="replace"), hashlib.sha256))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
