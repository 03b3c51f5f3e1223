"""Proxy tokens: the credentials for web functions with `requires_proxy_auth`. Only a hash of each secret is kept.

A token opens the functions of every environment until `allow` names one for it. From then on it is scoped: it opens
only the functions of the environments that were named.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.local_cloud.base.errors import exhausted, failed_precondition, not_found
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.store.database import Database

MAX_TOKENS = 1000
_MAX_HEADER_BYTES = 1024

_DDL = """
CREATE TABLE IF NOT EXISTS proxy_tokens (
  token_id TEXT PRIMARY KEY, secret_sha256 TEXT NOT NULL, name TEXT NOT NULL, created_at REAL NOT NULL,
  scoped INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS proxy_token_environments (
  token_id TEXT NOT NULL REFERENCES proxy_tokens ON DELETE CASCADE, environment_id TEXT NOT NULL,
  PRIMARY KEY (token_id, environment_id)
);
"""


@dataclass(frozen=True)
class ProxyToken:
    """A token as it is listed. `created_at` is in Unix seconds; a `scoped` token opens only its own environments."""

    token_id: str
    name: str
    created_at: float
    scoped: bool


class ProxyTokens:
    """Makes, lists and deletes tokens, and checks the credentials of web requests."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)

    def create(self, name: str, *, scoped: bool = False) -> tuple[str, str]:
        """Make a token; returns its id and its secret, which cannot be read again.

        Raises CloudError RESOURCE_EXHAUSTED when there are `MAX_TOKENS` already.
        """
        if len(self.all()) >= MAX_TOKENS:
            raise exhausted(f"There are {MAX_TOKENS} proxy tokens already: delete some first.")
        token_id, secret = new_id("wk"), f"ws-{secrets.token_urlsafe(32)}"
        self._db.execute(
            "INSERT INTO proxy_tokens VALUES (?,?,?,?,?)", (token_id, _hash(secret), name, time.time(), scoped)
        )
        return token_id, secret

    def all(self, *, environment_id: str | None = None) -> list[ProxyToken]:
        """Return every token, or those that open an environment's functions; oldest first."""
        rows = self._db.all(
            "SELECT * FROM proxy_tokens WHERE ? IS NULL OR NOT scoped OR token_id IN "
            "(SELECT token_id FROM proxy_token_environments WHERE environment_id=?) ORDER BY created_at",
            (environment_id, environment_id),
        )
        return [ProxyToken(row["token_id"], row["name"], row["created_at"], bool(row["scoped"])) for row in rows]

    def rename(self, token_id: str, name: str) -> None:
        """Rename a token; raises CloudError NOT_FOUND."""
        self._change("UPDATE proxy_tokens SET name=? WHERE token_id=?", (name, token_id), token_id)

    def delete(self, token_id: str) -> None:
        """Delete a token; raises CloudError NOT_FOUND."""
        self._change("DELETE FROM proxy_tokens WHERE token_id=?", (token_id,), token_id)

    def environments(self, token_id: str) -> list[str]:
        """Return the ids of the environments that a scoped token opens; raises CloudError NOT_FOUND."""
        self._require(token_id)
        rows = self._db.all("SELECT environment_id FROM proxy_token_environments WHERE token_id=?", (token_id,))
        return [row["environment_id"] for row in rows]

    def allow(self, token_id: str, environment_id: str) -> None:
        """Make a token scoped, and add an environment to those that it opens; raises CloudError NOT_FOUND."""
        with self._db.transaction():
            self._change("UPDATE proxy_tokens SET scoped=1 WHERE token_id=?", (token_id,), token_id)
            self._db.execute("INSERT OR IGNORE INTO proxy_token_environments VALUES (?,?)", (token_id, environment_id))

    def revoke(self, token_id: str, environment_id: str) -> None:
        """Remove an environment from those that a scoped token opens.

        Raises CloudError: NOT_FOUND for the token, FAILED_PRECONDITION when it does not name the environment.
        """
        if environment_id not in self.environments(token_id):
            raise failed_precondition(
                f"The environment {environment_id[:64]} cannot be removed from the proxy token {token_id}: it was not "
                "added to it. `modal workspace proxy-tokens allow` limits a token to the environments that are added, "
                "`delete` ends it everywhere."
            )
        self._db.execute(
            "DELETE FROM proxy_token_environments WHERE token_id=? AND environment_id=?", (token_id, environment_id)
        )

    def refusal(self, headers: Iterable[tuple[bytes, bytes]], *, environment_id: str) -> str | None:
        """Return why a request with these headers is refused, in Modal's words; None when it may pass."""
        shown = _shown(headers)
        if shown is None:
            return "missing credentials for proxy authorization"
        row = self._db.one("SELECT * FROM proxy_tokens WHERE token_id=?", (shown[0],))
        known = row["secret_sha256"] if row is not None else ""
        good = hmac.compare_digest(_hash(shown[1]), known)
        if not good or (row is not None and row["scoped"] and environment_id not in self.environments(shown[0])):
            return "invalid credentials for proxy authorization"
        return None

    def _require(self, token_id: str) -> None:
        if self._db.one("SELECT 1 FROM proxy_tokens WHERE token_id=?", (token_id,)) is None:
            raise not_found(f"Proxy token {token_id[:64]} not found.")

    def _change(self, sql: str, parameters: tuple[object, ...], token_id: str) -> None:
        if self._db.execute(sql, parameters) == 0:
            self._require(token_id)


def _shown(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str] | None:
    """Return the id and the secret in a request's headers, None when there are none.

    They are in `Modal-Key` and `Modal-Secret`, or in `Authorization: Bearer id.secret`.
    """
    found = {bytes(name).lower(): bytes(value)[:_MAX_HEADER_BYTES].decode("latin-1").strip() for name, value in headers}
    if b"modal-key" in found and b"modal-secret" in found:
        return found[b"modal-key"], found[b"modal-secret"]
    scheme, _, bearer = found.get(b"authorization", "").partition(" ")
    token_id, dot, secret = bearer.strip().partition(".")
    return (token_id, secret) if scheme.lower() == "bearer" and dot and token_id.startswith("wk-") else None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
