"""Output that no page could hold: every line is reached by scrolling, searching, filtering and jumping."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.standard.browser.conftest import LONG, JupyterPages, picture
from tests.standard.browser.events import TRACEBACK
from tests.standard.browser.test_run_view import IMPORTS, row

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
LINES = 200_000
LAST = LINES - 8 - 1 - len(TRACEBACK)  # milestones apart, and counted from 0


@pytest.fixture(params=[1280, 700])
def wide(desk: JupyterPages, request: pytest.FixtureRequest) -> Iterator[int]:
    """The page at a desk's width, and at that of half a window."""
    before = desk.page.viewport_size
    desk.page.set_viewport_size({"width": request.param, "height": 900})
    yield request.param
    assert before is not None
    desk.page.set_viewport_size(before)


def opened(desk: JupyterPages, lines: int = LINES) -> Locator:
    code = f"{IMPORTS}replay = Replay(events.very_long_run({lines}))\nreplay.playback.seek(10_000)\nreplay.view"
    view = desk.show(code).locator(".wb-run")
    expect(view).to_have_attribute("data-rows", str(lines), timeout=LONG)
    expect(view.locator(".wb-row[data-channel=done]")).to_be_visible()
    return view


def test_every_line_of_200_000_is_reached(desk: JupyterPages, wide: int) -> None:
    page = desk.page
    view = opened(desk)
    lines = view.locator(".wb-lines")
    expect(view.locator(".wb-unkept")).to_be_hidden()
    assert view.evaluate("node => node.querySelectorAll('.wb-row').length") < 100

    lines.hover()
    page.mouse.wheel(0, -100_000_000)
    expect(row(view, "accepted: accepted now")).to_be_visible()
    expect(row(view, "the needle is here")).to_be_visible()
    expect(view.locator(".wb-follow")).to_have_text("paused")
    lines.focus()
    page.keyboard.press("End")
    expect(view.locator(".wb-follow")).to_have_text("following")
    expect(row(view, f"line {LAST} of {LAST + 1}")).to_be_visible()
    page.keyboard.press("Home")
    expect(row(view, "accepted: accepted now")).to_have_attribute("data-cursor", "")
    page.keyboard.press("PageDown")
    expect(row(view, "accepted: accepted now")).to_be_hidden()
    lines.evaluate("node => { node.scrollTop = node.scrollHeight / 2; }")
    expect(view.locator(".wb-row:visible", has_text=re.compile(r"line (99|100)\d\d\d of")).first).to_be_visible()
    expect(view.locator(".wb-row:visible[data-kind=loading]")).to_have_count(0)
    picture(view, f"long-output-{wide}")

    view.locator(".wb-search").fill("THE NEEDLE")
    expect(view.locator(".wb-found")).to_have_text("1/1")
    expect(view.locator(".wb-row[data-cursor] mark")).to_be_visible()
    view.locator(".wb-search").fill("line 7")
    expect(view.locator(".wb-found")).to_have_text(f"1/{sum(str(n).startswith('7') for n in range(1, LAST + 1))}")
    view.locator(".wb-search").press("Shift+Enter")
    expect(view.locator(".wb-row[data-cursor]")).to_contain_text("line 79999 of")
    view.locator(".wb-search").fill("")

    lines.focus()
    page.keyboard.press("End")
    view.locator(".wb-to-error").click()
    expect(view.locator(".wb-row[data-cursor]")).to_contain_text(TRACEBACK[0])
    expect(row(view, TRACEBACK[-1])).to_be_visible()


def test_a_filter_sees_all_output_and_is_copied(desk: JupyterPages, wide: int) -> None:
    view = opened(desk)
    view.locator(".wb-filter").fill("LINE 1999")
    passing = [number for number in range(LAST + 1) if str(number).startswith("1999")]
    expect(view).to_have_attribute("data-rows", str(len(passing)))
    expect(row(view, f"line {LAST} of {LAST + 1}")).to_be_visible()
    view.locator(".wb-copy").click()
    expect(view.locator(".wb-copy")).to_have_text(f"copied {len(passing)} lines")
    copied = desk.page.evaluate("() => navigator.clipboard.readText()")
    assert copied.split("\n") == [f"line {number} of {LAST + 1}" for number in passing]
    view.locator(".wb-lines").focus()
    desk.page.keyboard.press("Home")
    expect(view.locator(".wb-row[data-cursor]")).to_contain_text(f"line 1999 of {LAST + 1}")
    picture(view, f"long-output-filtered-{wide}")
    view.locator(".wb-filter").fill("")
    expect(view).to_have_attribute("data-rows", str(LINES))
    expect(row(view, f"line 2000 of {LAST + 1}")).to_be_visible()  # the line that was chosen, with what is around it
    view.get_by_role("button", name="Show stdout").click()
    expect(view).to_have_attribute("data-rows", str(8 + len(TRACEBACK)))
    expect(row(view, TRACEBACK[0])).to_be_visible()
    view.get_by_role("button", name="Show stdout").click()
    view.locator(".wb-copy").click()
    expect(view.locator(".wb-copy")).to_have_text(f"copied the last 100000 of {LINES} lines", timeout=LONG)


def test_what_is_no_longer_kept_is_said(desk: JupyterPages) -> None:
    desk.execute("from workbench.runs import output_index; output_index.MAX_ROWS = 50_000")
    try:
        code = f"{IMPORTS}replay = Replay(events.very_long_run({LINES}))\nreplay.playback.seek(10_000)\nreplay.view"
        view = desk.show(code).locator(".wb-run")
        expect(view.locator(".wb-unkept")).to_have_text(
            re.compile(r"^The first 1[45]\d,\d\d\d lines are no longer kept"), timeout=LONG
        )
        view.locator(".wb-lines").focus()
        desk.page.keyboard.press("Home")
        first = view.locator(".wb-row[data-cursor]")
        expect(first).to_contain_text(re.compile(r"line 1[45]\d\d\d\d of"))
        view.locator(".wb-search").fill("needle")
        expect(view.locator(".wb-found")).to_have_text(re.compile("^./0$"))
        picture(view, "long-output-forgotten")
    finally:
        desk.execute("output_index.MAX_ROWS = 8_000_000")


def test_the_keys_go_on_from_the_first_kept_line_when_theirs_is_no_longer_kept(desk: JupyterPages) -> None:
    desk.execute("from workbench.runs import output_index; output_index.MAX_ROWS = 50_000")
    try:
        code = f"{IMPORTS}replay = Replay(events.very_long_run({LINES}))\nreplay.playback.seek(570)\nreplay.view"
        view = desk.show(code).locator(".wb-run")
        unkept = view.locator(".wb-unkept")
        expect(unkept).to_have_text(re.compile(r"^The first \d{2},\d{3} lines are no longer kept"), timeout=LONG)
        view.locator(".wb-lines").focus()
        desk.page.keyboard.press("Home")
        cursor = view.locator(".wb-row[data-cursor]:visible")
        expect(cursor).to_contain_text(re.compile(r"line \d{5} of"))
        desk.execute("replay.playback.play()\nwhile replay.playback.playing:\n    replay.playback.advance()")
        expect(unkept).to_have_text(re.compile(r"^The first 1[45]\d,\d{3} lines are no longer kept"), timeout=LONG)
        expect(cursor).to_contain_text(re.compile(r"line 1[45]\d{4} of"))
        first = int(str(cursor.inner_text()).partition("line ")[2].split()[0])
        desk.page.keyboard.press("ArrowDown")
        expect(cursor).to_contain_text(f"line {first + 1} of")
    finally:
        desk.execute("output_index.MAX_ROWS = 8_000_000")


def test_a_live_run_has_all_its_output_though_its_events_are_gone(desk: JupyterPages) -> None:
    """Its kernel keeps a few events of it, as of a run that was going on for long, and all its lines."""
    many = 30_000
    server = f"""
from tests.standard.browser import events
from tests.quick.workbench.test_client import HEAD, chunk, serving
from modal_app.contract import sse
from workbench import Project, Workbench
from workbench.runs import run as runs
runs.MAX_KEPT = 1000
made = events.long_run({many}, 500_000)
pieces = [chunk(b"".join(map(sse.frame, made[at:at + 1000]))) for at in range(0, len(made), 1000)]
server = serving([HEAD, *pieces, chunk(b"")])
wb = Workbench.of(server.__enter__())
run = wb.launch(Project.new(), "python", code="1")
run.view()
"""
    view = desk.show(server).locator(".wb-run")
    try:
        expect(view).to_have_attribute("data-seen", str(many), timeout=LONG)
        expect(view).to_have_attribute("data-rows", str(many))
        assert int(desk.execute("print(run.dropped)")) > 20_000
        view.locator(".wb-lines").focus()
        desk.page.keyboard.press("Home")
        expect(row(view, "line 0")).to_be_visible()
        view.locator(".wb-search").fill("line 1234")
        expect(view.locator(".wb-found")).to_have_text("1/11")
        expect(row(view, "line 1234")).to_be_visible()
    finally:
        desk.execute("wb.close(); server.__exit__(None, None, None); runs.MAX_KEPT = 100_000")


def test_a_search_that_new_rows_overtake_is_asked_again(desk: JupyterPages) -> None:
    """A snapshot takes the place of all that the page has, and of the questions that it had asked."""
    view = opened(desk)
    desk.execute("import threading; held = threading.Event(); replay.view.soon(held.wait, 60); replay.view.restart()")
    view.locator(".wb-search").fill(f"LINE {LAST - 3} of")
    expect(view.locator(".wb-found")).to_have_text("…")
    desk.execute("held.set()")
    expect(view.locator(".wb-found")).to_have_text("1/1")
    expect(row(view, f"line {LAST - 3} of {LAST + 1}")).to_be_visible()


def test_a_search_that_the_kernel_does_not_answer_any_more_is_answered_here(desk: JupyterPages) -> None:
    view = opened(desk)
    desk.execute("import threading; held = threading.Event(); replay.view.soon(held.wait, 60)")
    view.locator(".wb-search").fill(f"LINE {LAST - 3} of")
    expect(view.locator(".wb-found")).to_have_text("…")
    desk.page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
    expect(view.locator(".wb-found")).to_have_text("1/1", timeout=LONG)
    expect(row(view, f"line {LAST - 3} of {LAST + 1}")).to_be_visible()


def test_a_kernel_that_has_ended_is_said_where_its_output_is_missing(desk: JupyterPages) -> None:
    view = opened(desk)
    desk.page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
    expect(view.locator(".wb-unkept")).to_have_text(re.compile("^Older output cannot be loaded"), timeout=LONG)
    expect(row(view, f"line {LAST} of {LAST + 1}")).to_be_visible()
    view.locator(".wb-lines").focus()
    desk.page.keyboard.press("Home")
    expect(view.locator(".wb-row:visible[data-kind=loading]").first).to_contain_text("this line was not loaded")
    view.locator(".wb-search").fill(f"LINE {LAST - 3} of")
    expect(view.locator(".wb-found")).to_have_text("1/1")
    expect(row(view, f"line {LAST - 3} of {LAST + 1}")).to_be_visible()
    view.locator(".wb-filter").fill(f"line {str(LAST)[:-1]}")
    expect(view).to_have_attribute("data-rows", str(int(str(LAST)[-1]) + 1))
    expect(view.locator(".wb-unkept")).to_contain_text("only these are searched")
    picture(view, "long-output-without-kernel")
