"""A check in a notebook: its lines stand in the page as they are measured, not only when the cell is done."""

import pytest
from playwright.sync_api import expect

from tests.standard.browser.conftest import LONG, JupyterPages, picture
from workbench import Workbench

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_lines_come_as_they_are_measured(desk: JupyterPages, wb: Workbench) -> None:
    cell = f"import workbench\nreport = workbench.connect(app_name={wb.app_name!r}).check(cold_start_s=60)\nreport"
    shown = desk.show(cell).locator(".wb-checklist")
    measuring = shown.get_by_text("measuring", exact=True)
    expect(measuring).to_be_visible(timeout=LONG)
    expect(shown.locator("tbody tr").first).to_contain_text("ok", timeout=LONG)
    expect(measuring).to_be_visible()  # the cell is not done
    expect(measuring).to_be_hidden(timeout=LONG)
    expect(shown).to_contain_text("verdict", timeout=LONG)
    expect(shown.locator("tbody tr").last).to_contain_text("skipped")
    picture(shown, "checklist")
