"""What a sandbox used, through the stock SDK."""

import datetime as dt

import modal
import pytest

from tests.conftest import wait_until
from workbench.cloud_control.controls import Clock, CloudControl
from workbench.local_cloud.process.state_directory import Running

BUSY = "import time\ndata = bytearray(b'x' * (200 << 20))\nend = time.time() + 60\nwhile time.time() < end: pass"


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("stats-tests", create_if_missing=True)


def soon(cloud: Running) -> dt.datetime:
    """A moment that is over soon by the cloud's own clock, which other tests may have moved forward."""
    control = CloudControl(cloud.http_url, cloud.env()) if hasattr(cloud, "http_url") else None
    ahead_s = 0.0 if control is None else Clock(control).offset_s()
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead_s + 1)


def test_a_busy_sandbox_s_statistics_tell_its_cpu_and_memory(app: modal.App, cloud: Running) -> None:
    sandbox = modal.Sandbox.create("python3", "-c", BUSY, app=app, timeout=120)
    try:
        stats = sandbox._experimental_stats
        wait_until(lambda: stats(until=soon(cloud)).billed_cpu_core_seconds > 2, "no use of CPUs is told")
        found = stats(until=soon(cloud))
    finally:
        sandbox.terminate(wait=True)
    for name, least, most in (("CPU Usage (cores)", 0.2, 3), ("Memory Usage (GiB)", 0.15, 1)):
        values = [one.value for one in found.percentile_stats[name].percentiles]
        assert len(values) == 3
        assert values == sorted(values)
        assert least < values[-1] < most, name
    assert 0 < found.duration.total_seconds() < 120
    assert found.cost is None  # nothing is billed
    after = modal.Sandbox.from_id(sandbox.object_id)._experimental_stats(until=soon(cloud))
    assert after.billed_cpu_core_seconds >= found.billed_cpu_core_seconds


def test_a_range_without_samples_has_no_percentiles(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("true", app=app, timeout=60)
    sandbox.wait()
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    found = sandbox._experimental_stats(since=past, until=past + dt.timedelta(hours=1))
    assert (found.percentile_stats, found.duration.total_seconds()) == ({}, 0)
