"""What becomes of widgets when pages and kernels come and go, and when a cell blocks the kernel."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.standard.browser.cells import again
from tests.standard.browser.conftest import LONG, JupyterPages, Lab, new_page, picture
from workbench import Workbench, notebooks

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
REPLAY = """from tests.standard.browser import events
from workbench.widgets import Replay
replay = Replay(events.hostile_run() if hostile else events.claude_run())
replay.playback.seek(1_000)
replay"""
GONE = re.compile("Disconnected: the kernel has ended or was restarted")


@pytest.fixture
def desk(lab: Lab, browser: Browser) -> Iterator[JupyterPages]:
    """A page of the test's own: what has lost its kernel is nothing to go on with."""
    problems: list[str] = []
    with new_page(browser, problems) as page:
        yield JupyterPages(lab, page)
    assert problems == []


def test_a_reloaded_page_shows_what_it_showed_and_goes_on(desk: JupyterPages) -> None:
    page = desk.page
    view = desk.show(f"hostile = False\n{REPLAY}").locator(".wb-run")
    expect(view).to_have_attribute("data-seen", "11", timeout=LONG)
    again(page)
    expect(view).to_have_attribute("data-seen", "11", timeout=LONG)
    expect(view.locator(".wb-row", has_text="→ Write index.html")).to_be_visible()
    page.locator(".wb-place").focus()
    page.keyboard.press("End")
    expect(view).to_have_attribute("data-condition", "done", timeout=LONG)

    page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); }")
    expect(page.get_by_text(GONE).first).to_be_visible(timeout=LONG)
    expect(page.locator(".wb-play")).to_be_disabled()
    expect(view.locator(".wb-condition")).to_have_text("done")
    expect(view.locator(".wb-row", has_text="→ Write index.html")).to_be_visible()
    picture(page, "disconnected")


@pytest.mark.parametrize("how", ["shut down", "killed"])
def test_a_dead_kernel_is_told_and_what_was_drawn_stays(desk: JupyterPages, how: str) -> None:
    page = desk.page
    view = desk.show(f"hostile = False\n{REPLAY}").locator(".wb-run")
    expect(view).to_have_attribute("data-seen", "11", timeout=LONG)
    if how == "killed":
        os.kill(int(desk.execute("import os; print(os.getpid())")), signal.SIGKILL)
    else:
        page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
    expect(page.get_by_text(GONE).first).to_be_visible(timeout=LONG)
    expect(page.locator(".wb-play")).to_be_disabled()
    expect(view.locator(".wb-row", has_text="→ Write index.html")).to_be_visible()
    expect(view.locator(".wb-condition")).to_have_text("disconnected")


def test_a_notebook_that_was_run_elsewhere_shows_its_still_pictures(desk: JupyterPages, tmp_path: Path) -> None:
    """Papermill's output is not trusted: no script of it runs, and there is no kernel. Hostile output stays text."""
    lab, page = desk.lab, desk.page
    source = lab.directory / lab.write("hostile = True", REPLAY)
    output = notebooks.run(source, output_dir=tmp_path, cell_timeout_s=120).output
    shown = lab.directory / f"ran-{source.name}"
    shown.write_bytes(output.read_bytes())
    page.goto(lab.address(shown.name))
    still = page.locator(".workbench-run")
    expect(still).to_be_visible(timeout=LONG)
    expect(still).to_contain_text("error")
    expect(still).to_contain_text("<script>window.stolen=1</script>")
    assert page.locator(".wb").count() == 0
    assert page.evaluate("() => window.stolen") is None
    picture(page, "papermill")


def test_a_run_is_watched_and_cancelled_while_its_cell_blocks(desk: JupyterPages, wb: Workbench) -> None:
    """Neither the output nor the click waits for the cell that waits for the run."""
    cell = f"""import workbench
wb = workbench.connect(app_name={wb.app_name!r})
code = "import time\\nprint('begun', flush=True)\\ntime.sleep(300)"
run = wb.launch(workbench.Project.new(), "python", code=code)
display(run.view())
end = run.wait()
print("ended by", end.code)"""
    page = desk.page
    view = desk.show(cell).locator(".wb-run")
    expect(view.locator(".wb-row", has_text="begun")).to_be_visible(timeout=LONG)
    expect(view).to_have_attribute("data-first", "1", timeout=LONG)
    expect(page.locator(".jp-InputPrompt").first).to_have_text("[*]:")
    view.locator(".wb-cancel").click()
    expect(view).to_have_attribute("data-condition", "error", timeout=LONG)
    expect(page.get_by_text(re.compile("^ended by cancelled"))).to_be_visible(timeout=LONG)
    picture(page, "cancelled")
