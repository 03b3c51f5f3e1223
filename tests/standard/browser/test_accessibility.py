"""Everybody can read and reach the workbench: in both themes, on a wide page and on a narrow one, in every state.

A page's width changes no colour of a widget, and a theme nothing else (`test_widths_and_themes_are_apart`). So contrast
is measured at one width, and the rest in one theme.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.standard.browser.cells import aside
from tests.standard.browser.conftest import LONG, JupyterPages, dark, picture
from tests.standard.browser.looks import Looked, lone_buttons, told, what_hinders
from tests.support.node_packages import INSTALL_S, WITHOUT_NODE, install
from workbench import Project, Workbench

pytestmark = [pytest.mark.browser, WITHOUT_NODE, pytest.mark.timeout(INSTALL_S + 300)]
WIDE, NARROW = 1280, 700
FAILING = """import sys
print("out")
print("a warning", file=sys.stderr)
raise ValueError("it broke")"""
WRITING = """open("data.json", "w").write('{"a": [1, 2]}')
open("job.py", "w").write("# a comment\\nimport os\\nword = 'x'\\ndef f(): return 1")"""


@pytest.fixture(scope="module")
def axe() -> Iterator[str]:
    """The source of axe-core."""
    with tempfile.TemporaryDirectory(prefix="workbench-axe-") as name:
        install(Path(__file__).parent / "package.json", Path(name))
        yield (Path(name) / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def project(wb: Workbench) -> Iterator[Project]:
    """A project with a name, whose files three runs have changed; one of them failed."""

    def launch() -> Project:
        project = Project.new()
        for code in (WRITING, WRITING.replace("1, 2", "1, 3"), FAILING):
            run = wb.launch(project, "python", code=code)
            run.wait()
            wb.runs.get(run.run_id, wait_s=30)
        wb.labels.name_project("read by all", project)
        return project

    yield aside(launch)
    wb.labels.forget_project("read by all")


class Examined:
    """Examines a page in each of its states: in the light theme at each width, in the dark one for its colours."""

    def __init__(self, page: Page, axe: str, theme: str) -> None:
        self.page, self.axe, self.theme = page, axe, theme

    def __call__(self, state: str) -> None:
        if self.theme == "dark":
            self._examine(state, WIDE, "contrast")
        else:
            self._examine(state, NARROW, "structure")
            self._examine(state, WIDE, "all")
        picture(self.page, f"read-{self.theme}-{state.replace(' ', '-')}")

    def _examine(self, state: str, width: int, looked: Looked) -> None:
        self.page.set_viewport_size({"width": width, "height": 1000})
        found = what_hinders(self.page, self.axe, looked)
        lone = [] if looked == "contrast" else lone_buttons(self.page)
        if found or lone:
            picture(self.page, f"hinders-{self.theme}-{width}-{state.replace(' ', '-')}")
        assert not found, f"{state}, {self.theme}, {width} px:\n{told(found)}"
        assert lone == [], f"{state}, {self.theme}, {width} px"


def launcher(whole: Locator, examined: Examined) -> None:
    form = whole.locator(".wb-launcher")
    for action in ("claude", "files", "python"):
        form.get_by_role("tab", name=action, exact=True).click()
        expect(form.locator(".wb-more")).to_be_visible()
        form.locator(".wb-more").click()
        examined(f"launch {action}")
    form.locator(".wb-launch").click()
    expect(form.get_by_text("give either code or path")).to_be_visible()
    form.get_by_role("button", name="The call in Python").click()
    examined("launch wrong")
    form.locator("[data-field=code] textarea").fill(FAILING)
    form.locator(".wb-launch").click()
    view = form.locator(".wb-run")
    expect(view).to_have_attribute("data-condition", "error", timeout=LONG)
    expect(view.locator(".wb-proof .wb-badge").first).to_be_visible(timeout=LONG)
    view.locator(".wb-search").fill("broke")
    expect(view.locator("mark").first).to_be_visible()
    examined("launched")


def runs(whole: Locator, examined: Examined) -> None:
    table = whole.locator(".wb-runs")
    expect(table.get_by_role("button", name="Verify run").first).to_be_visible(timeout=LONG)
    table.get_by_role("button", name="Verify run").first.click()
    expect(table.get_by_text("✓ proved")).to_be_visible(timeout=LONG)
    table.get_by_role("button", name="More to do").first.click()
    examined("runs")
    for at in (0, 1):
        table.locator(".wb-pick").nth(at).check()
    table.get_by_role("button", name="Compare the two").click()
    expect(table.locator(".wb-part").first).to_be_visible(timeout=LONG)
    examined("compared")
    table.get_by_role("button", name="Open run").first.click()
    expect(table.locator(".wb-run .wb-row").first).to_be_visible(timeout=LONG)
    examined("run opened")
    table.get_by_role("button", name="How long the runs took").click()
    table.get_by_label("Group by").select_option("reason")
    table.get_by_role("button", name="Save this filter").click()
    examined("runs grouped")
    table.get_by_role("button", name="Close Save this filter").click()
    table.get_by_label("Filter by text").fill("nothing is like this")
    examined("no run")
    table.get_by_label("Filter by text").fill("")


def files(whole: Locator, examined: Examined) -> None:
    browser = whole.locator(".wb-files")
    browser.get_by_label("A project used before").select_option(label="read by all", timeout=LONG)
    for name in ("data.json", "job.py"):
        browser.get_by_role("treeitem", name=name).click(timeout=LONG)
        expect(browser.locator(".wb-pane")).to_contain_text({"data.json": "a", "job.py": "comment"}[name])
        examined(f"file {name}")
    for view in ("Blame", "History", "Changes"):
        browser.get_by_role("tab", name=view).click()
        expect(browser.locator(".wb-pane .wb-placeholder[data-state=loading]")).to_have_count(0, timeout=LONG)
        examined(f"files {view}")


def deployment(whole: Locator, examined: Examined) -> None:
    expect(whole.get_by_role("table", name="Versions")).to_be_visible(timeout=LONG)
    examined("deployment")


def replay(whole: Locator, examined: Examined) -> None:
    player = whole.locator(".wb-replay")
    expect(player.locator(".wb-pick option").nth(1)).to_be_attached(timeout=LONG)
    player.locator(".wb-pick").select_option(index=1)
    expect(player.locator(".wb-run")).to_be_visible(timeout=LONG)
    examined("replay")


def failures(whole: Locator, examined: Examined) -> None:
    expect(whole.locator(".wb-mode").first).to_be_visible(timeout=LONG)
    whole.locator(".wb-mode").first.click()
    expect(whole.locator(".wb-about")).to_contain_text("what you see")
    examined("failures")


TABS: dict[str, Callable[[Locator, Examined], None]] = {
    "Launch": launcher,
    "Runs": runs,
    "Files": files,
    "Deployment": deployment,
    "Replay": replay,
    "Failures": failures,
}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_hinders_a_reader(desk: JupyterPages, wb: Workbench, project: Project, axe: str, theme: str) -> None:
    """Axe-core finds nothing serious, contrast of 4.5 included, and no toolbar leaves one button alone in a line."""
    page = desk.page
    whole = desk.show(f"import workbench\nworkbench.open(app_name={wb.app_name!r})").locator(".wb-workbench")
    expect(whole).to_be_visible(timeout=LONG)
    before = page.viewport_size
    try:
        with dark(page) if theme == "dark" else nullcontext():
            for tab, states in TABS.items():
                whole.get_by_role("tab", name=tab, exact=True).click()
                states(whole, Examined(page, axe, theme))
    finally:
        page.set_viewport_size(before or {"width": 1280, "height": 1600})


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("run", ["claude_run", "hostile_run"])
def test_nothing_hinders_a_reader_of_a_run(desk: JupyterPages, axe: str, run: str, theme: str) -> None:
    """What Claude says and uses, what was taken back, and what tries to be more than text."""
    code = f"from tests.standard.browser import events\nfrom workbench.widgets import Replay\nReplay(events.{run}())"
    page = desk.page
    view = desk.show(code).locator(".wb-replay")
    expect(view.locator(".wb-place")).to_be_visible(timeout=LONG)
    view.locator(".wb-place").focus()
    page.keyboard.press("End")
    expect(view.locator(".wb-run")).to_have_attribute("data-condition", "done" if run == "claude_run" else "error")
    before = page.viewport_size
    try:
        with dark(page) if theme == "dark" else nullcontext():
            Examined(page, axe, theme)(f"replayed {run}")
    finally:
        page.set_viewport_size(before or {"width": 1280, "height": 1600})
