"""What becomes of widgets when pages and kernels come and go, and when a cell blocks the kernel."""

import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import LONG, Lab, opened, picture, settled, wait_for_kernel
from workbench import Workbench, notebooks

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
REPLAY = """from tests.browser import events
from workbench.widgets import Replay
replay = Replay(events.hostile_run() if hostile else events.claude_run())
replay.playback.seek(1_000)
replay"""
GONE = re.compile("Disconnected: the kernel has ended or was restarted")


def test_a_reloaded_page_shows_what_it_showed_and_goes_on(lab: Lab, page: Page) -> None:
    opened(lab, page, f"import os; hostile = False; os.getpid()\n{REPLAY}")
    view = page.locator(".wb-run")
    expect(view).to_have_attribute("data-seen", "11", timeout=LONG)
    settled(page)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    wait_for_kernel(page)
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


@pytest.mark.parametrize("how", ["killed", "shut down"])
def test_a_dead_kernel_is_told_and_what_was_drawn_stays(lab: Lab, page: Page, how: str) -> None:
    opened(lab, page, f"import os; hostile = False; print('pid', os.getpid())\n{REPLAY}")
    view = page.locator(".wb-run")
    expect(view).to_have_attribute("data-seen", "11", timeout=LONG)
    settled(page)
    if how == "killed":
        os.kill(int(page.get_by_text(re.compile("^pid")).inner_text().split()[1]), signal.SIGKILL)
    else:
        page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
    expect(page.get_by_text(GONE).first).to_be_visible(timeout=LONG)
    expect(page.locator(".wb-play")).to_be_disabled()
    expect(view.locator(".wb-row", has_text="→ Write index.html")).to_be_visible()
    expect(view.locator(".wb-condition")).to_have_text("disconnected")


def test_a_notebook_that_was_run_elsewhere_shows_its_still_pictures(lab: Lab, page: Page, tmp_path: Path) -> None:
    """Papermill's output is not trusted: no script of it runs, and there is no kernel. Hostile output stays text."""
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


def test_a_run_is_watched_and_cancelled_while_its_cell_blocks(lab: Lab, wb: Workbench, page: Page) -> None:
    """Neither the output nor the click waits for the cell that waits for the run."""
    cell = f"""import workbench
wb = workbench.connect(app_name={wb.app_name!r})
code = "import time\\nprint('begun', flush=True)\\ntime.sleep(300)"
run = wb.launch(workbench.Project.new(), "python", code=code)
display(run.view())
end = run.wait()
print("ended by", end.code)"""
    opened(lab, page, cell)
    view = page.locator(".wb-run")
    expect(view.locator(".wb-row", has_text="begun")).to_be_visible(timeout=LONG)
    expect(view).to_have_attribute("data-first", "1", timeout=LONG)
    expect(page.locator(".jp-InputPrompt").first).to_have_text("[*]:")
    view.locator(".wb-cancel").click()
    expect(view).to_have_attribute("data-condition", "error", timeout=LONG)
    expect(page.get_by_text(re.compile("^ended by cancelled"))).to_be_visible(timeout=LONG)
    picture(page, "cancelled")
