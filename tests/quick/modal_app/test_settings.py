"""The endpoint does not start with settings that cannot work, and never shows its secret."""

import pytest
from pydantic import ValidationError

from modal_app.endpoint_settings import Settings, Timeouts

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORKBENCH_SECRET", "WORKBENCH_SECRET_PREVIOUS"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_secret_it_does_not_start() -> None:
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("secret", ["", "short", "é" * 20, f"{SECRET}\n", f" {SECRET}", f"{SECRET}\r\n"])
def test_a_weak_secret_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("WORKBENCH_SECRET", secret)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert not secret or secret not in str(caught.value)


def test_both_secrets_are_accepted_during_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_SECRET", SECRET)
    monkeypatch.setenv("WORKBENCH_SECRET_PREVIOUS", "p" * 32)
    settings = Settings()
    assert settings.accepts(SECRET)
    assert settings.accepts("p" * 32)
    assert not any(settings.accepts(wrong) for wrong in ("", "s", SECRET + "s", SECRET.upper(), "é"))
    assert SECRET not in repr(settings)


def test_an_empty_previous_secret_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_SECRET", SECRET)
    monkeypatch.setenv("WORKBENCH_SECRET_PREVIOUS", "")
    assert not Settings().accepts("")


@pytest.mark.parametrize(
    "wrong",
    [
        {"process_s": 720},
        {"sandbox_s": 600},
        {"sandbox_s": 900},
        {"function_s": 900},
        {"upstream_s": 840},
        {"heartbeat_s": 60},
        {"process_s": 0},
        {"commit_s": 300},
    ],
)
def test_timeouts_that_do_not_fit_into_each_other_are_refused(wrong: dict[str, int]) -> None:
    """A sandbox that outlives its function, or a caller that leaves first, is how runs get lost."""
    with pytest.raises(ValidationError):
        Timeouts(**wrong)


def test_timeouts_travel_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Timeouts(process_s=60, lease_s=6, heartbeat_s=0.5)
    for name, value in chosen.env().items():
        monkeypatch.setenv(name, value)
    assert Timeouts() == chosen
