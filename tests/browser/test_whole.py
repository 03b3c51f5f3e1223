"""The whole workbench in JupyterLab: how one gets there, launching, the keyboard, both themes."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import LONG, Lab, dark, opened, picture, readme_picture
from workbench import Workbench
from workbench.cli.lab import WORKSPACE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
CODE = """import pathlib, sys, time
for step in range(1, 6):
    print("step", step, "of the job", flush=True)
    time.sleep(0.1)
print("a warning of the job", file=sys.stderr)
pathlib.Path("report.txt").write_text("five steps")"""


def test_the_launcher_of_jupyterlab_opens_the_workbench(lab: Lab, wb: Workbench, page: Page) -> None:
    """And what is there already is opened again, not made twice."""
    page.goto(f"{lab.url}/lab?token={lab.token}&reset")
    card = page.locator(".jp-LauncherCard", has_text="Modal workbench")
    card.wait_for(timeout=LONG)
    picture(page, "jupyterlab-launcher")
    card.click()
    expect(page.locator(".wb-whole")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("tab", name="Launch", exact=True)).to_have_attribute("aria-selected", "true")
    assert [path.name for path in lab.directory.glob("workbench*")] == ["workbench.ipynb"]


def test_an_address_runs_nothing_but_the_workbench(lab: Lab, page: Page) -> None:
    """A link to the workspace must not run what somebody else has put into that notebook."""
    (lab.directory / "workbench.ipynb").unlink(missing_ok=True)
    evil = lab.directory / lab.write("print('evil ' + 'ran')")
    evil.rename(lab.directory / "workbench.ipynb")
    page.goto(f"{lab.url}{WORKSPACE}?token={lab.token}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=LONG)
    page.wait_for_function(
        """async () => {
            const panel = window.jupyterapp.shell.currentWidget;
            if (!panel?.sessionContext) return false;
            await panel.sessionContext.ready;
            return panel.sessionContext.session.kernel.status === 'idle';
        }""",
        timeout=LONG,
    )
    assert page.get_by_text("evil ran").count() == 0
    (lab.directory / "workbench.ipynb").unlink()
    page.goto(f"{lab.url}{WORKSPACE}?token={lab.token}&reset")
    expect(page.locator(".wb-whole")).to_be_visible(timeout=LONG)


def test_a_job_is_launched_from_a_form_and_its_run_is_seen_to_its_proof(lab: Lab, wb: Workbench, page: Page) -> None:
    opened(lab, page, f"import workbench\npanel = workbench.open(app_name={wb.app_name!r})\npanel")
    whole = page.locator(".wb-whole")
    form = whole.locator(".wb-launcher")
    expect(form.locator("[data-field=code] textarea")).to_be_visible(timeout=LONG)
    picture(page, "launcher-empty")

    form.locator(".wb-launch").click()
    expect(form.get_by_text("give either code or path")).to_be_visible()
    form.locator(".wb-more").click()
    form.locator("[data-field=timeout_s] input").fill("soon")
    expect(form.locator("[data-field=timeout_s] .wb-wrong")).to_have_text("Input should be a valid integer")
    picture(page, "launcher-wrong")
    form.locator("[data-field=timeout_s] input").fill("60")
    form.locator("[data-field=code] textarea").fill(CODE)
    form.get_by_role("button", name="The call in curl").click()
    expect(form.locator(".wb-call")).to_contain_text(f"{wb.endpoint.url}/generate")
    assert wb.endpoint.secret.get_secret_value() not in page.content()
    form.get_by_role("button", name="The call in curl").click()
    form.locator(".wb-more").click()

    form.locator(".wb-launch").click()
    view = form.locator(".wb-run")
    expect(view).to_have_attribute("data-condition", "done", timeout=LONG)
    expect(view.locator(".wb-proof .wb-badge")).to_have_count(9, timeout=LONG)
    expect(view.locator(".wb-proof .wb-badge[data-kind=good]")).to_have_count(9)
    expect(view.locator(".wb-row", has_text="step 5 of the job")).to_be_visible()
    expect(view.locator(".wb-time")).to_contain_text("sandbox create")
    readme_picture(whole, "light")
    with dark(page):
        picture(page, "launcher-done-dark")

    # By the keyboard alone: from tab to tab, and into the replay of the run.
    tabs = whole.locator(".wb-tabs > [role=tab]")
    tabs.first.focus()
    page.keyboard.press("End")
    expect(tabs.last).to_be_focused()
    expect(tabs.last).to_have_attribute("aria-selected", "true")
    replay = whole.get_by_role("tabpanel", name="Replay").locator(".wb-replay")
    expect(replay.get_by_text("Choose a run that has ended")).to_be_visible(timeout=LONG)
    run_id = (view.locator(".wb-message").get_attribute("title") or "").split()[-1]
    replay.locator(".wb-run-id").fill(run_id)
    replay.locator(".wb-load").click()
    expect(replay.locator(".wb-played")).to_have_text(re.compile(r"^0 of \d+ events"), timeout=LONG)
    replay.locator(".wb-speed").select_option("100")
    replay.locator(".wb-play").click()
    expect(replay.locator(".wb-run")).to_have_attribute("data-condition", "done", timeout=LONG)
    picture(page, "replay-archived")
