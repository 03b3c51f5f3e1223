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
    line(view, runs[2]).scroll_into_view_if_needed()  # up and down; to the side there is no need to
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


def test_runs_have_names_and_notes_filters_are_saved_and_times_are_drawn(
    desk: JupyterPages, wb: Workbench, runs: list[str]
) -> None:
    """What somebody calls a run is found as the run's own words are; a note is text, whatever it says."""
    view = desk.show(f"{connected(wb)}\n{TABLE}").locator(".wb-runs")
    row = line(view, runs[0])
    row.get_by_role("button", name="More to do").click(timeout=PATIENCE_MS)
    row.get_by_role("button", name="Name run").click()
    view.get_by_label("name", exact=True).fill("the baseline")
    view.get_by_label("note", exact=True).fill(f"before the fix {HOSTILE}")
    view.get_by_role("button", name="Save: Run").click()
    expect(row).to_contain_text("the baseline", timeout=PATIENCE_MS)
    expect(row).to_contain_text(HOSTILE)
    assert desk.page.evaluate("() => window.owned") is None
    assert wb.labels.runs()[runs[0]].name == "the baseline"
    view.get_by_label("Filter by text").fill("before the fix")
    expect(view.locator("tr[data-run]")).to_have_count(1)

    view.get_by_label("Filter by text").fill("")
    view.get_by_label("Filter by outcome").select_option("error")
    view.get_by_label("Group by").select_option("reason")
    expect(view.locator("tr.wb-group").first).to_contain_text("not done")
    view.get_by_role("button", name="Save this filter").click()
    view.get_by_label("name", exact=True).fill("what failed")
    desk.page.keyboard.press("Enter")
    expect(view.get_by_label("A saved filter")).to_have_value("what failed", timeout=PATIENCE_MS)
    view.get_by_label("Filter by outcome").select_option("")
    view.get_by_label("Group by").select_option("")
    expect(view.locator("tr.wb-group")).to_have_count(0)
    again = desk.show(f"{connected(wb)}\n{TABLE}").locator(".wb-runs")
    again.get_by_label("A saved filter").select_option("what failed", timeout=PATIENCE_MS)
    expect(again.locator("tr.wb-group").first).to_be_visible()
    expect(line(again, runs[0])).to_have_count(0)
    again.get_by_role("button", name="How long the runs took").click()
    expect(again.get_by_role("img", name="How long runs took")).to_be_visible()
    expect(again.locator(".wb-axis")).to_contain_text("half took at most")
    picture(again, "runs-grouped")
    again.get_by_role("button", name="Forget the saved filter").click()
    expect(again.get_by_label("A saved filter")).to_be_hidden(timeout=PATIENCE_MS)
    again.get_by_role("button", name="Save this filter").click()
    again.get_by_label("name", exact=True).fill("   ")
    desk.page.keyboard.press("Enter")
    expect(again.get_by_role("alert")).to_contain_text("a name has 1 to 60", timeout=PATIENCE_MS)
    wb.labels.label_run(runs[0])
