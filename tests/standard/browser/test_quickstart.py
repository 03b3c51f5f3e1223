"""What an engineer sees: the quickstart in JupyterLab, in a real browser."""

import re
import uuid

import pytest
from playwright.sync_api import Page, expect

from tests.standard.browser.conftest import LONG, Lab, picture, run_all, settled, wait_for_kernel

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture
def name(lab: Lab) -> str:
    """A notebook that no other test has open."""
    name = f"quickstart-{uuid.uuid4().hex[:8]}.ipynb"
    (lab.directory / name).write_bytes((lab.directory / "01_quickstart.ipynb").read_bytes())
    return name


def test_the_quickstart_shows_its_run_live(lab: Lab, page: Page, name: str) -> None:
    """Output is on the page while the job still runs, and the end is told when it has ended."""
    page.goto(lab.address(name))
    wait_for_kernel(page)
    run_all(page)
    view = page.locator(".wb-run")
    expect(view).to_have_attribute("data-condition", "running", timeout=LONG)
    expect(view.locator(".wb-row[data-channel=stdout] .wb-said", has_text=re.compile("^step 2$"))).to_be_visible(
        timeout=LONG
    )
    assert view.get_attribute("data-condition") == "running"
    view.scroll_into_view_if_needed()
    picture(page, "quickstart-running")
    expect(view).to_have_attribute("data-condition", "done", timeout=LONG)
    for number in range(1, 6):
        expect(view.locator(".wb-row", has_text=f"step {number}")).to_be_visible()
    browse = page.locator(".wb-volume")
    browse.get_by_text("report.txt").click(timeout=LONG)
    expect(browse.locator(".wb-content")).to_have_text("five steps\n", timeout=LONG)
    settled(page)
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    browse.scroll_into_view_if_needed()
    picture(page, "quickstart-volume")
    view.scroll_into_view_if_needed()
    picture(page, "quickstart-done")
