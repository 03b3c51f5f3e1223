"""Who needs many descriptors is refused before they run out, and the limit is as high as it may be."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.local_cloud.base.descriptors import Descriptors
from workbench.local_cloud.base.errors import CloudError, Reason


def test_room_is_promised_once() -> None:
    open_now = len(os.listdir("/proc/self/fd"))
    descriptors = Descriptors(limit=lambda: open_now + 100)
    with descriptors.reserved(30, what="One"):
        assert not descriptors.has_room(30)
        another = descriptors.reserved(30, what="Another")
        with pytest.raises(CloudError, match="Another cannot be had now") as refused:
            another.__enter__()
        assert refused.value.reason is Reason.RESOURCE_EXHAUSTED
    with descriptors.reserved(30, what="Another"):
        pass


def test_what_is_open_counts() -> None:
    limit = len(os.listdir("/proc/self/fd")) + 200
    descriptors = Descriptors(limit=lambda: limit)
    room = next(wanted for wanted in range(200, 0, -1) if descriptors.has_room(wanted))
    more = [os.dup(0) for _ in range(4)]
    assert descriptors.has_room(room - 4)
    assert not descriptors.has_room(room - 3)
    for descriptor in more:
        os.close(descriptor)
    assert descriptors.has_room(room)


def test_they_are_counted_without_being_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing thousands of them for every program that starts would hold up every stream."""
    if not Path("/proc/self/fd").stat().st_size:
        pytest.skip("this kernel does not tell their number")
    limit = len(os.listdir("/proc/self/fd")) + 200

    def listed(path: Path) -> None:
        raise AssertionError(f"{path} is listed")

    monkeypatch.setattr(Path, "iterdir", listed)
    assert Descriptors(limit=lambda: limit).has_room(100)
    assert not Descriptors(limit=lambda: limit).has_room(201)


@pytest.mark.parametrize(("soft", "hard", "expected"), [(100, 300, 300), (100, 100, 100), (300, 300, 300)])
def test_the_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int, expected: int) -> None:
    code = "from workbench.local_cloud.base.descriptors import raise_limit; print(raise_limit())"

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=lower, timeout=60, check=True
    )
    assert int(done.stdout) == expected
