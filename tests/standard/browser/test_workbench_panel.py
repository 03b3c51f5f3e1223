"""The whole workbench in JupyterLab: how one gets there, launching, the keyboard, both themes."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.standard.browser.conftest import LONG, JupyterPages, Lab, dark, picture, readme_picture
from workbench import Workbench
from workbench.cli.lab_command import WORKSPACE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
CODE = """import pathlib, sys, time
for step in range(1, 6):
    print("step", step, "of the job", flush=True)
    time.sleep(0.1)
print("a warning of the job", file=sys.stderr)
pathlib.Path("report.txt").write_text("five steps")"""


def test_jupyterlab_has_the_workbench_as_a_page_beside_any_notebook(lab: Lab, wb: Workbench, page: Page) -> None:
    """With a kernel of its own: nothing that lies in a notebook is run, and none is made."""
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{lab.url}{WORKSPACE}?token={lab.token}&reset")
    whole = page.locator(".wb-workbench")
    main = page.locator("#jp-main-dock-panel .wb-workbench")
    expect(main).to_be_visible(timeout=LONG)
    tab = page.get_by_role("tab", name="Failures", exact=True)
    tab.click()
    page.reload()  # what was there is there again: its kernel goes on
    expect(tab).to_have_attribute("aria-selected", "true", timeout=LONG)
    assert list(lab.directory.glob("*workbench*")) == []

    page.get_by_role("button", name="to the side bar").click()
    expect(page.locator("#jp-right-stack .wb-workbench")).to_be_visible(timeout=LONG)
    page.evaluate(
        "path => { window.jupyterapp.commands.execute('docmanager:open', { path, factory: 'Notebook' }); }",
        lab.write("'a notebook beside it'"),
    )
    expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=LONG)
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel")
    assert (whole.bounding_box() or {"width": 0})["width"] >= 340
    picture(page, "page-beside-a-notebook")

    page.evaluate("() => { window.jupyterapp.commands.execute('launcher:create'); }")
    card = page.locator(".jp-LauncherCard:visible", has_text="Modal workbench")  # JupyterLab may have opened another
    card.wait_for(timeout=LONG)
    picture(page, "jupyterlab-launcher")
    card.click()  # it is moved, not made twice
    expect(main).to_be_visible(timeout=LONG)
    expect(whole).to_have_count(1)
    page.locator("#jp-main-dock-panel .lm-TabBar-tab", has_text="Modal workbench").locator(
        ".lm-TabBar-tabCloseIcon"
    ).click()
    expect(whole).to_be_hidden()
    page.evaluate("() => { window.jupyterapp.commands.execute('modal-workbench:open'); }")
    expect(tab).to_have_attribute("aria-selected", "true", timeout=LONG)
    page.get_by_role("button", name="start again").click()
    expect(page.get_by_role("tab", name="Launch", exact=True)).to_have_attribute("aria-selected", "true", timeout=LONG)
    expect(whole).to_have_count(1)


@pytest.mark.parametrize("width", [1280, 700])
def test_what_a_launched_job_says_is_seen_without_scrolling(lab: Lab, wb: Workbench, page: Page, width: int) -> None:
    """The page of an ordinary screen; its project has a name, and what is folded away is named."""
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{lab.url}{WORKSPACE}?token={lab.token}&reset")
    page.get_by_role("button", name="connect …").click(timeout=LONG)
    page.locator(".jp-Dialog input").fill(f"local {wb.app_name}")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    form = page.locator(".wb-launcher", has_text=f"{wb.app_name} on local")
    expect(form).to_be_visible(timeout=LONG)
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("() => { window.jupyterapp.shell.collapseLeft(); }")
    expect(form.locator(".wb-more")).to_contain_text("args, stdin")
    name = f"my shop {width}"
    form.get_by_label("Project's name").fill(name)
    page.keyboard.press("Enter")
    expect(form.get_by_label("A project used before")).to_contain_text(name)
    form.locator("[data-field=code] textarea").fill(CODE)
    form.locator(".wb-launch").click()
    view = form.locator(".wb-run")
    expect(view).to_have_attribute("data-condition", "done", timeout=LONG)
    for part in (".wb-condition", ".wb-clock", ".wb-lines"):
        expect(view.locator(part)).to_be_in_viewport(ratio=1)
    expect(view.locator(".wb-row", has_text="a warning of the job")).to_be_in_viewport(ratio=1)
    picture(page, f"page-launched-{width}")
    form.get_by_role("button", name="The form").click()
    expect(form.locator("[data-field=code] textarea")).to_have_value(CODE)

    page.get_by_role("tab", name="Runs", exact=True).click()
    runs = page.locator(".wb-runs")
    runs.get_by_role("button", name="Open run").first.click(timeout=LONG)
    opened = runs.locator(".wb-run .wb-row", has_text="step 1 of the job")
    expect(opened).to_be_in_viewport(ratio=1, timeout=LONG)
    picture(page, f"page-run-opened-{width}")
    page.get_by_role("tab", name="Files", exact=True).click()
    files = page.locator(".wb-files")
    expect(files.get_by_label("Project's name")).to_have_value(name, timeout=LONG)
    wb.labels.forget_project(name)


def test_a_job_is_launched_from_a_form_and_its_run_is_seen_to_its_proof(desk: JupyterPages, wb: Workbench) -> None:
    """And by the keyboard alone from tab to tab: its line among the runs, its file, what is deployed, its replay."""
    page = desk.page
    cell = f"import workbench\npanel = workbench.open(app_name={wb.app_name!r})\npanel"
    whole = desk.show(cell).locator(".wb-workbench")
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
    run_id = (view.locator(".wb-message").get_attribute("title") or "").split()[-1]

    tabs = whole.get_by_role("tablist", name="Workbench").get_by_role("tab")
    expect(tabs).to_have_text(["Launch", "Runs", "Files", "Deployment", "Replay", "Failures"])
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    runs = whole.get_by_role("tabpanel", name="Runs").locator(".wb-runs")
    row = runs.locator(f'tr[data-run="{run_id}"]')
    row.get_by_role("button", name="Open run").click(timeout=LONG)
    expect(runs.locator(".wb-run .wb-row", has_text="step 5 of the job")).to_be_visible(timeout=LONG)
    picture(whole, "tab-runs")

    tabs.nth(1).focus()
    page.keyboard.press("ArrowRight")
    expect(tabs.nth(2)).to_be_focused()
    files = whole.get_by_role("tabpanel", name="Files").locator(".wb-files")
    files.get_by_role("treeitem", name="report.txt").click(timeout=LONG)
    expect(files.locator(".wb-content")).to_have_text("five steps", timeout=LONG)
    picture(whole, "tab-files")
    user, used = (files.get_by_label(name).input_value() for name in ("user_id", "project_id"))
    files.get_by_title("The ids of the project").click()
    tabs.first.click()
    form.get_by_role("button", name="A project that nobody has used").click()
    tabs.nth(2).click()
    expect(files.get_by_text("nothing is committed yet")).to_be_visible(timeout=LONG)  # it is as in Launch
    files.get_by_label("project_id").fill("mine")
    expect(files.locator(".wb-said")).to_have_text("project_id must be a canonical lower-case UUID", timeout=LONG)
    files.get_by_label("A project used before").select_option(label=f"{used[:8]}… of {user[:8]}…")
    expect(files.get_by_role("treeitem", name="report.txt")).to_be_visible(timeout=LONG)
    as_there = files.get_by_role("button", name="Always show the project of Launch")
    expect(as_there).to_have_attribute("aria-pressed", "false")

    with dark(page):
        picture(whole, "tab-files-dark")
        tabs.nth(3).click()
        deployed = whole.get_by_role("tabpanel", name="Deployment").locator(".wb-deploy")
        expect(deployed.get_by_role("table", name="Versions")).to_contain_text("v1", timeout=LONG)
        picture(whole, "tab-deployment-dark")
        tabs.first.click()
        expect(view.locator(".wb-row", has_text="step 5 of the job")).to_be_in_viewport()
        picture(page, "launcher-done-dark")

    tabs.nth(1).click()
    row.get_by_role("button", name="More to do").click()
    row.get_by_role("button", name="Replay run").click()
    expect(tabs.nth(4)).to_have_attribute("aria-selected", "true", timeout=LONG)
    replay = whole.get_by_role("tabpanel", name="Replay").locator(".wb-replay")
    expect(replay.locator(".wb-played")).to_have_text(re.compile(r"^0 of \d+ events"), timeout=LONG)
    replay.locator(".wb-speed").select_option("100")
    replay.locator(".wb-play").click()
    expect(replay.locator(".wb-run")).to_have_attribute("data-condition", "done", timeout=LONG)
    picture(whole, "tab-replay")
