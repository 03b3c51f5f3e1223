"""The whole of the sandboxes' and the mounts' tests without root's powers on the host's side."""

import os

import pytest

from tests.support.ordinary_user import run_as_ordinary_user


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(600)
def test_every_promise_of_a_sandbox_holds_for_an_ordinary_user_too() -> None:
    standard = "tests/standard/local_cloud/sandboxes"
    tests = ("tests/quick/local_cloud/sandboxes", f"{standard}/test_engine.py", f"{standard}/test_escapes.py")
    assert run_as_ordinary_user(*tests, timeout_s=580) > 250


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(600)
def test_every_promise_of_a_mount_holds_for_an_ordinary_user_s_overlays_too() -> None:
    standard = "tests/standard/local_cloud"
    tests = ("tests/quick/local_cloud/volumes", f"{standard}/volumes", f"{standard}/test_overlay_mounts.py")
    assert run_as_ordinary_user(*tests, timeout_s=580) > 130
