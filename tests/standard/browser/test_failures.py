"""The failure lab in JupyterLab: a mode is found by what one sees, brought about, and kept as a test."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.standard.browser.cells import aside
from tests.standard.browser.conftest import LONG, JupyterPages, dark, picture
from tests.support.commands import cli
from workbench import Workbench
from workbench.deployment.model_answers import Model, in_force
from workbench.deployment.model_backing import scripted_model

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_a_failure_is_found_seen_and_kept(desk: JupyterPages, wb: Workbench, tmp_path: Path) -> None:
    page = desk.page
    cell = f"import workbench\npanel = workbench.open(app_name={wb.app_name!r})\npanel.show('failures')\npanel"
    whole = desk.show(cell).locator(".wb-workbench")
    tab = whole.locator(".wb-failures")
    modes = tab.get_by_role("listbox", name="Failure modes").get_by_role("option")
    expect(modes.first).to_be_visible(timeout=LONG)
    everything = modes.count()
    assert everything == 60
    tab.get_by_role("searchbox").fill("FileNotFoundError: [Errno 2] No such file or directory: 'report.csv'")
    expect(modes.filter(has_text="missing-commit")).to_be_visible()
    assert modes.count() < everything
    modes.filter(has_text="missing-commit").click()
    about = tab.locator(".wb-about")
    expect(about).to_contain_text("first guess", timeout=LONG)

    about.locator(".wb-run-it").click()
    expect(about.locator("svg circle")).to_have_count(4, timeout=LONG)
    expect(modes.filter(has_text="missing-commit").locator(".wb-badge")).to_have_attribute("data-kind", "good")
    expect(about.locator(".wb-drawn")).to_contain_text("not so")
    picture(whole, "tab-failures")

    about.locator(".wb-keep-it").click()
    expect(about.locator(".wb-said")).to_contain_text("missing-commit.ipynb", timeout=LONG)
    about.locator(".wb-keep-it").click()
    expect(about.locator(".wb-said")).to_contain_text("exists already", timeout=LONG)
    kept = desk.lab.directory / "missing-commit.ipynb"
    done = aside(cli, "notebooks", "run", str(kept), "--output-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    kept.unlink()

    like = about.locator(".wb-like").first
    named = like.inner_text()
    like.click()
    expect(about.locator("strong").first).to_have_text(named, timeout=LONG)
    with dark(page):
        page.set_viewport_size({"width": 700, "height": 1000})
        picture(whole, "tab-failures-narrow-dark")
        page.set_viewport_size({"width": 1280, "height": 1600})


def test_while_a_rule_is_in_force_every_tab_says_so_and_the_mark_ends_it(desk: JupyterPages, wb: Workbench) -> None:
    cell = f"import workbench\npanel = workbench.open(app_name={wb.app_name!r})\npanel"
    whole = desk.show(cell).locator(".wb-workbench")
    mark = whole.locator(".wb-failing")
    expect(whole.locator(".wb-launcher")).to_be_visible(timeout=LONG)
    expect(mark).to_be_hidden()
    aside(lambda: wb.faults.add(at="commit", sandbox="nobody's", status="INTERNAL"))
    aside(lambda: wb.faults.add(at="web", app="nobody's", path="/x", delay_s=1))
    expect(mark).to_contain_text("2 fault rules are in force", timeout=LONG)
    whole.get_by_role("tab", name="Failures", exact=True).click()
    rows = whole.locator(".wb-rules tbody tr")
    expect(rows).to_have_count(2, timeout=LONG)
    picture(whole, "tab-failures-rules")
    rows.first.get_by_role("button").click()
    expect(mark).to_contain_text("1 fault rule is in force", timeout=LONG)
    mark.locator(".wb-halt").click()
    expect(mark).to_be_hidden(timeout=LONG)
    assert aside(wb.faults.rules) == []


def test_the_clock_of_the_app_or_of_the_whole_cloud_is_moved_and_set_back(desk: JupyterPages, wb: Workbench) -> None:
    cell = f"import workbench\npanel = workbench.open(app_name={wb.app_name!r})\npanel.show('failures')\npanel"
    control = desk.show(cell).get_by_role("toolbar", name="The local cloud")
    whose, shown = control.get_by_role("combobox", name="Whose clock"), control.locator(".wb-clock")
    own = wb.clock.of(wb.app_name)

    def press(word: str) -> None:
        control.get_by_role("button", name=word).click()

    def are(app_s: float, whole_s: float) -> bool:
        return aside(lambda: [round(clock.offset_s()) for clock in (own, wb.clock)]) == [app_s, whole_s]

    with ExitStack() as stack:
        for clock in (wb.clock, own):
            stack.callback(aside, clock.set_back)
        expect(whose.locator("option:checked")).to_have_text(wb.app_name, timeout=LONG)
        press("30 s")
        expect(shown).to_have_text("30.0 s ahead of real time", timeout=LONG)
        assert are(30, 0)
        picture(control, "tab-failures-clock")
        whose.select_option("the whole cloud")
        expect(shown).to_have_text("real time")
        press("5 min")
        expect(shown).to_have_text("5 min 00 s ahead of real time", timeout=LONG)
        assert are(330, 300)
        press("set back")
        expect(shown).to_have_text("real time", timeout=LONG)
        assert are(30, 0)
        whose.select_option(wb.app_name)
        expect(shown).to_have_text("30.0 s ahead of real time")
        press("set back")
        expect(shown).to_have_text("real time", timeout=LONG)
        assert are(0, 0)


def test_scripted_answers_in_force_are_on_the_mark_too(desk: JupyterPages, wb: Workbench) -> None:
    cell = f"import workbench\npanel = workbench.open(app_name={wb.app_name!r})\npanel"
    mark = desk.show(cell).locator(".wb-workbench .wb-failing")
    with ExitStack() as stack:
        answers = aside(lambda: stack.enter_context(Model(lambda: scripted_model(wb.target)).answers("mine")))
        said = re.compile(rf"^1 scripted answer is in force.*{answers.marker} \(asked 0\)")
        expect(mark).to_have_text(said, timeout=LONG)
        aside(lambda: wb.faults.add(at="web", app="nobody's", path="/x", delay_s=1))
        expect(mark).to_contain_text("1 fault rule is in force", timeout=LONG)
        mark.locator(".wb-halt").click()
        expect(mark).to_be_hidden(timeout=LONG)
        aside(stack.close)
    assert aside(lambda: in_force(wb.target)) == {}
