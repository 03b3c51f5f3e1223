"""Two million lines in a real page: opened, scrolled, filtered and searched, and the page's memory does not grow."""

import json
import sys
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.standard.browser.conftest import LONG, JupyterPages, picture
from tests.standard.browser.events import TRACEBACK
from tests.standard.browser.test_run_view import IMPORTS, row

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
LINES = 2_000_000
LAST = LINES - 8 - 1 - len(TRACEBACK)
HEAP_MIB = 32  # that the page may have more, having been everywhere, than it had with the newest rows alone

_TIMED = """async (node, [act, until]) => {
    const wanted = new Function('node', `return ${until}`);
    const began = performance.now();
    new Function('node', act)(node);
    while (!wanted(node)) await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""
_THERE = "Number(/line (\\d+)/.exec(node.querySelector('.wb-row:not([hidden]) .wb-said').textContent)?.[1])"


def timed(view: Locator, act: str, until: str) -> float:
    """How long the page takes, in milliseconds, from doing something until something is so."""
    return float(view.evaluate(_TIMED, [act, until]))


def typed(view: Locator, name: str, text: str, until: str) -> float:
    box = f"const box = node.querySelector('.{name}'); box.value = {json.dumps(text)};"
    return timed(view, f"{box} box.dispatchEvent(new Event('input'))", until)


def heap(desk: JupyterPages) -> float:
    """The page's memory in MiB, without garbage."""
    session = desk.page.context.new_cdp_session(desk.page)
    session.send("HeapProfiler.collectGarbage")
    used: dict[str, Any] = session.send("Runtime.getHeapUsage")
    session.detach()
    return round(used["usedSize"] / 2**20, 1)


def test_two_million_lines_are_opened_scrolled_and_searched(desk: JupyterPages) -> None:
    page = desk.page
    desk.clear()
    desk.execute(f"{IMPORTS}replay = Replay(events.very_long_run({LINES}, 1000))")
    began = heap(desk)
    view = page.locator(".jp-Notebook .jp-Cell").first.locator(".wb-run")
    built = desk.execute(
        "import time; began = time.monotonic(); replay.playback.seek(10_000); replay.playback.output;"
        " print(time.monotonic() - began)"
    )
    page.evaluate(
        """() => {
            const { content } = window.jupyterapp.shell.currentWidget;
            content.activeCellIndex = 0;
            content.activeCell.model.sharedModel.setSource('replay.view');
            window.jupyterapp.commands.execute('notebook:run-cell');
        }"""
    )
    expect(view).to_have_attribute("data-rows", str(LINES), timeout=LONG)
    expect(row(view, f"line {LAST} of {LAST + 1}")).to_be_visible()
    opened = heap(desk)
    scroll = "box.scrollTop = (box.scrollHeight - box.clientHeight) *"
    timed(view, "node.querySelector('.wb-follow').click()", "true")
    scrolled = [
        timed(
            view,
            f"const box = node.querySelector('.wb-lines'); {scroll} {part / 100}",
            f"Math.abs({_THERE} - {LINES * part / 100}) < {LINES / 1000}",
        )
        for part in range(1, 99, 2)
    ]
    view.locator(".wb-lines").focus()
    page.keyboard.press("Home")
    expect(row(view, "the needle is here")).to_be_visible()
    page.keyboard.press("End")
    expect(row(view, f"line {LAST} of {LAST + 1}")).to_be_visible()

    found = "node.querySelector('.wb-found').textContent"
    searches = {
        wanted: (
            typed(view, "wb-search", wanted, f"/^[^…]+\\/[1-9]/.test({found})"),
            timed(view, "", f"/^[1-9]\\d*\\/\\d+$/.test({found})"),
        )
        for wanted in ("needle", f"line {LAST} of", "LINE 1000000", "line")
    }
    typed(view, "wb-search", "", f"!{found}")
    filtered = typed(view, "wb-filter", "line 1999", "node.dataset.rows === '1100'")
    picture(view, "two-million-lines")
    typed(view, "wb-filter", "", f"node.dataset.rows === '{LINES}'")
    view.locator(".wb-to-error").click()
    expect(view.locator(".wb-row[data-cursor]")).to_contain_text(TRACEBACK[0])
    after = heap(desk)
    figures = {
        "lines": LINES,
        "index_s": round(float(built), 2),
        "scroll_ms": {"p50": sorted(scrolled)[len(scrolled) // 2], "longest": max(scrolled)},
        "search_ms": {wanted: {"first hit": first, "all": first + more} for wanted, (first, more) in searches.items()},
        "filter_ms": filtered,
        "heap_mib": {"before": began, "opened": opened, "after": after},
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    assert after - opened < HEAP_MIB
