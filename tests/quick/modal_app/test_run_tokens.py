"""Runs' tokens: what is minted is read, and nothing else is."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from modal_app.model_gateway.run_tokens import RunClaims, TokenError, mint, verify

SECRET, OTHER = SecretStr("a secret of the gateway"), SecretStr("another secret of it")
CLAIMS = RunClaims("run-1", 1000, max_requests=5)
TOKEN = mint(SECRET, CLAIMS).get_secret_value()


def reason(token: str, now: float = 0) -> str:
    with pytest.raises(TokenError) as caught:
        verify([SECRET], token, now=now)
    return caught.value.reason


def test_a_token_says_what_it_was_minted_with() -> None:
    assert verify([SECRET], TOKEN, now=999.9) == CLAIMS
    assert mint(SECRET, CLAIMS).get_secret_value() == TOKEN


def test_a_token_dies_at_its_time() -> None:
    assert reason(TOKEN, now=1000) == "expired"


def test_both_secrets_are_accepted_during_rotation_and_no_third() -> None:
    assert verify([OTHER, SECRET], TOKEN, now=0) == CLAIMS
    with pytest.raises(TokenError):
        verify([OTHER], TOKEN, now=0)
    with pytest.raises(TokenError):
        verify([], TOKEN, now=0)


@pytest.mark.parametrize("token", ["", ".", "..", "wb1..", "wb1.e30", "wb2" + TOKEN[3:], "é" * 30, TOKEN + "x" * 2000])
def test_what_is_no_token_opens_nothing(token: str) -> None:
    assert reason(token) in ("malformed", "signature")


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_no_changed_character_passes(position: int, character: str) -> None:
    changed = TOKEN[:position] + character + TOKEN[position + 1 :]
    if changed != TOKEN:
        assert reason(changed) in ("malformed", "signature")


def test_claims_cannot_be_exchanged() -> None:
    """The signature of one run's token does not sign another's claims."""
    prefix, _, signature = TOKEN.split(".")
    payload = base64.urlsafe_b64encode(json.dumps({"run_id": "run-2", "expires_at": 9e9}).encode()).decode().rstrip("=")
    assert reason(f"{prefix}.{payload}.{signature}") == "signature"


@pytest.mark.parametrize("run_id", ["", "a b", "../x", "x" * 65, "a\n"])
def test_a_run_id_that_could_confuse_a_log_is_not_minted(run_id: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        mint(SECRET, RunClaims(run_id, 1))


def test_the_secret_itself_signs_nothing_else() -> None:
    """Tokens are signed with a key that is derived for them: other uses of the secret cannot make one."""
    import hashlib
    import hmac

    prefix, payload, signature = TOKEN.split(".")
    direct = hmac.digest(SECRET.get_secret_value().encode(), f"{prefix}.{payload}".encode(), hashlib.sha256)
    assert base64.urlsafe_b64encode(direct).decode().rstrip("=") != signature
    assert SECRET.get_secret_value() not in TOKEN
