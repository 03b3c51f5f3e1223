"""Streams and readers in the numbers of a busy evening."""

import pytest

from tests.support.commands import cli

pytestmark = pytest.mark.timeout(1800)


def test_streams_and_stalled_readers() -> None:
    streams = cli("soak", "streams", "--count", "60", "--rate", "1.5", "--json", timeout_s=900)
    assert streams.returncode == 0, streams.stderr
    readers = cli("soak", "readers", "--mb", "256", "--stalled", "40", "--json", timeout_s=600)
    assert readers.returncode == 0, readers.stderr
