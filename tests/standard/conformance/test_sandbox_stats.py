"""What a sandbox used, through the stock SDK."""

import datetime as dt

import modal
import pytest

from tests.conftest import wait_until
from workbench.local_cloud.state import Running

BUSY = "import time\ndata = bytearray(b'x' * (200 << 20))\nend = time.time() + 60\nwhile time.time() < end: pass"


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("stats-tests", create_if_missing=True)


def test_a_busy_sandbox_s_statistics_tell_its_cpu_and_memory(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("python3", "-c", BUSY, app=app, timeout=120)
    try:
        stats = sandbox._experimental_stats
        wait_until(lambda: stats().billed_cpu_core_seconds > 2, "no use of CPUs is told", timeout_s=60)
        found = stats()
    finally:
        sandbox.terminate(wait=True)
    for name, least, most in (("CPU Usage (cores)", 0.2, 3), ("Memory Usage (GiB)", 0.15, 1)):
        values = [one.value for one in found.percentile_stats[name].percentiles]
        assert len(values) == 3
        assert values == sorted(values)
        assert least < values[-1] < most, name
    assert 0 < found.duration.total_seconds() < 120
    assert found.cost is None  # nothing is billed
    after = modal.Sandbox.from_id(sandbox.object_id)._experimental_stats()
    assert after.billed_cpu_core_seconds >= found.billed_cpu_core_seconds


def test_a_range_without_samples_has_no_percentiles(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("true", app=app, timeout=60)
    sandbox.wait()
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    found = sandbox._experimental_stats(since=past, until=past + dt.timedelta(hours=1))
    assert (found.percentile_stats, found.duration.total_seconds()) == ({}, 0)
