"""Many sandboxes are looked after more rarely, each of them; a disk that fills is seen at once, and by all."""

import asyncio
import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from workbench.local_cloud.sandboxes.limits.free_disk import FALL_BYTES, INTERVAL_S, Disks
from workbench.local_cloud.sandboxes.limits.pacing import Pacer
from workbench.local_cloud.sandboxes.limits.usage_samples import IDLE_PAUSE_S, next_pause_s


def test_one_alone_has_its_turn_however_long_it_takes() -> None:
    pacer = Pacer(5.0)
    with pacer.participant():
        assert pacer.pause_s(60.0) == 5.0
    assert pacer.participants == 0


def test_many_wait_for_each_other_and_not_for_ever() -> None:
    pacer = Pacer(5.0)
    with ExitStack() as stack:
        for _ in range(501):
            stack.enter_context(pacer.participant())
        assert pacer.pause_s(0.0001) == 5.0
        assert pacer.pause_s(0.001) == pytest.approx(10.0)
        assert pacer.pause_s(1.0) == 30.0


async def test_a_disk_that_fills_wakes_every_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many that a turn comes every 10 s, one look at a disk that has fallen is enough for all."""
    disks = Disks()
    real = os.statvfs(tmp_path)
    blocks = [real.f_bavail]

    def statvfs(path: Path) -> os.statvfs_result:
        return os.statvfs_result([*real[:4], blocks[0], *real[5:]])

    monkeypatch.setattr(os, "statvfs", statvfs)
    device = 1
    before = disks.free(device, tmp_path)
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(disks.walks.participant())
        started = time.monotonic()
        waiting = [asyncio.create_task(disks.turn()) for _ in range(3)]
        await asyncio.sleep(INTERVAL_S + 0.05)
        assert not any(task.done() for task in waiting)
        blocks[0] -= FALL_BYTES // real.f_frsize + 1
        assert disks.free(device, tmp_path) <= before - FALL_BYTES
        await asyncio.wait_for(asyncio.gather(*waiting), 5)
        assert time.monotonic() - started < 9
    await asyncio.wait_for(disks.turn(), 5)  # alone again: an interval


@pytest.mark.parametrize(
    ("pause_s", "last_s", "cores", "wanted_s"),
    [
        (5, 5, 0.0, 10),
        (5, 20, 0.001, IDLE_PAUSE_S),
        (5, IDLE_PAUSE_S, 0.0, IDLE_PAUSE_S),
        (5, 20, 0.5, 5),  # it works again
        (25, 5, 0.0, 25),  # there are many others
    ],
)
def test_a_sandbox_that_does_nothing_is_sampled_less_and_less_often(
    pause_s: float, last_s: float, cores: float, wanted_s: float
) -> None:
    assert next_pause_s(pause_s, last_s, cores) == wanted_s
