"""Very many events in a real page."""

import pytest

from tests.standard.browser.conftest import JupyterPages
from tests.standard.browser.test_run_view import drawn

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_two_hundred_thousand_events_are_drawn_and_none_is_lost(desk: JupyterPages) -> None:
    drawn(desk, 200_000)
