"""What this machine says it offers to images."""

import platform

import pytest

from workbench.local_cloud.base import host


@pytest.mark.parametrize(
    ("base", "same"),
    [
        ("debian:bookworm", True),
        ("debian:bookworm-slim", True),
        ("docker.io/library/debian:12-slim", True),
        ("debian", False),
        ("debian:trixie", False),
        ("debian:latest", False),
        ("debian:", False),
        ("ubuntu:12", False),
        ("example.com/debian:12", False),
    ],
)
def test_only_this_machines_own_release_is_taken_for_it(base: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    release = {"ID": "debian", "VERSION_ID": "12", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert host.is_own_system(base) is same
