"""Past runs in JupyterLab: found, proved, opened, compared, exported; what a job said is text."""

import io
import zipfile

import pytest
from playwright.sync_api import Locator, expect

from tests.standard.browser.cells import PATIENCE_MS, again, aside, connected
from tests.standard.browser.conftest import JupyterPages, dark, picture
from workbench import Project, Recording, Workbench

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TABLE = "from workbench.widgets import RunsTable\nRunsTable(wb)"
HOSTILE = "<img src=x onerror='window.owned=1'>"
CODE = f"""
for number in range(12): print('line', number)
print({HOSTILE!r})
open('same', 'w').write('same')
open('result', 'w').write('WORD')
"""


@pytest.fixture(scope="module")
def runs(wb: Workbench) -> list[str]:
    """The ids of two runs of one project that are done, and of one that failed; archived."""

    def launch() -> list[str]:
        project = Project.new()
        codes = (
            CODE,
            CODE.replace("line', number", "line', number if number != 9 else 'nine'").replace("WORD", "other"),
            "raise SystemExit(3)",
        )
        ids = []
        for code in codes:
            run = wb.launch(project, "python", code=code)
            run.wait()
            wb.runs.get(run.run_id, wait_s=30)
            ids.append(run.run_id)
        return ids

    return aside(launch)


def line(view: Locator, run_id: str) -> Locator:
    return view.locator(f'tr[data-run="{run_id}"]')


def test_runs_are_found_proved_and_opened(desk: JupyterPages, wb: Workbench, runs: list[str]) -> None:
    page = desk.page
    view = desk.show(f"{connected(wb)}\n{TABLE}").locator(".wb-runs")
    expect(line(view, runs[0])).to_be_visible(timeout=PATIENCE_MS)
    view.get_by_label("Filter by outcome").select_option("process_failed")
    expect(line(view, runs[0])).to_have_count(0)
    expect(line(view, runs[2]).locator(".wb-badge", has_text="process_failed")).to_be_visible()
    view.get_by_label("Filter by outcome").select_option("")
    view.get_by_label("Filter by text").fill(f"{runs[0]} python")
    expect(view.locator("tbody tr")).to_have_count(1)
    view.get_by_label("Filter by text").fill("")
    view.get_by_role("button", name="Sort by accepted (UTC)").click()
    times = view.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert times == sorted(times)
    line(view, runs[0]).get_by_role("button", name="Verify run").click()
    expect(line(view, runs[0]).get_by_text("✓ proved")).to_be_visible(timeout=PATIENCE_MS)
    picture(view, "runs-table")
    line(view, runs[0]).get_by_role("button", name="Open run").click()
    expect(view.locator(".wb-run")).to_contain_text(HOSTILE, timeout=PATIENCE_MS)
    assert page.evaluate("() => window.owned") is None
    picture(view, "runs-opened")
    view.get_by_role("button", name="Input").click()
    expect(view.locator(".wb-asked")).to_contain_text("for number in range(12)")
    line(view, runs[0]).get_by_role("button", name="More to do").click()
    with page.expect_download() as download:
        line(view, runs[0]).get_by_role("button", name="Export run").click()
    assert download.value.suggested_filename == f"run-{runs[0]}.zip"
    assert Recording.load(download.value.path()).run_id == runs[0]
    assert zipfile.is_zipfile(io.BytesIO(download.value.path().read_bytes()))
    wide = page.viewport_size or {"width": 1280, "height": 900}
    page.set_viewport_size({"width": 700, "height": wide["height"]})
    for name in ("Verify run", "Open run", "More to do"):
        expect(line(view, runs[2]).get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    picture(view, "runs-700")
    page.set_viewport_size(wide)
    again(page)
    expect(view.locator(".wb-run")).to_contain_text(HOSTILE, timeout=PATIENCE_MS)
    expect(line(view, runs[0])).to_have_class("wb-shown")
    view.get_by_role("button", name="Close the open run").click()
    expect(view.locator(".wb-run")).to_have_count(0, timeout=PATIENCE_MS)


def test_two_runs_stand_side_by_side(desk: JupyterPages, wb: Workbench, runs: list[str]) -> None:
    """What they said and wrote, where the time went; hostile output as text."""
    view = desk.show(f"{connected(wb)}\n{TABLE}").locator(".wb-runs")
    for run_id in runs[:2]:
        line(view, run_id).get_by_role("checkbox").check(timeout=PATIENCE_MS)
    view.get_by_role("button", name="Compare the two chosen runs").click()
    events = view.get_by_role("table", name="events")
    expect(events.locator("tr[data-verdict=differs]").first).to_contain_text("line nine", timeout=PATIENCE_MS)
    expect(events).to_contain_text(HOSTILE)
    files = view.get_by_role("table", name="files")
    expect(files).to_contain_text("result")
    assert desk.page.evaluate("() => window.owned") is None
    for part in ("timeline", "facts"):
        view.locator("summary", has_text=part).click()
    with dark(desk.page):
        picture(view, "runs-compared")


def test_nothing_deployed_and_nothing_run_are_told(desk: JupyterPages, wb: Workbench) -> None:
    views = desk.show(
        "import workbench\nfrom workbench.widgets import RunsTable\n"
        "display(RunsTable(workbench.connect(app_name='never-deployed')))\n"
        f"RunsTable(workbench.connect(app_name={wb.app_name!r}), project='nobody')"
    ).locator(".wb-runs")
    expect(views.first).to_contain_text("nothing is deployed as 'never-deployed'", timeout=PATIENCE_MS)
    expect(views.last).to_contain_text("No run has ended here yet", timeout=PATIENCE_MS)
    picture(views.first, "runs-error")
    picture(views.last, "runs-empty")
