"""The run view in a real page: read, searched and played; hostile output; very many events."""

import json
import re
import sys

import pytest
from playwright.sync_api import Locator, expect

from tests.standard.browser.conftest import LONG, JupyterPages, dark, picture, readme_picture
from tests.standard.browser.events import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
IMPORTS = "from tests.standard.browser import events\nfrom workbench.widgets import Replay\n"
MANY = 50_000


def row(view: Locator, text: str) -> Locator:
    return view.locator(".wb-row:visible", has_text=re.compile(rf"^[\d.]*[▸▾]?{re.escape(text)}$"))


def test_a_claude_job_is_played_and_read(desk: JupyterPages) -> None:
    """Step, play, unfold what a tool was given, search, filter, copy, jump to what failed, jump back in time."""
    page = desk.page
    replay = desk.show(f"{IMPORTS}replay = Replay(events.claude_run())\nreplay").locator(".wb-replay")
    view = replay.locator(".wb-run")
    played = replay.locator(".wb-played")
    expect(played).to_have_text("0 of 24 events", timeout=LONG)
    expect(view.get_by_text("No output yet")).to_be_visible(timeout=LONG)
    picture(page, "replay-empty")
    replay.locator(".wb-forth").click()
    expect(played).to_have_text("1 of 24 events")
    expect(view.locator(".wb-condition")).to_have_text("running")
    replay.locator(".wb-speed").select_option("10")
    replay.locator(".wb-play").click()
    expect(view).to_have_attribute("data-condition", "done", timeout=LONG)
    expect(played).to_have_text("24 of 24 events")
    expect(view.locator(".wb-badge", has_text="container cold · sandbox cold")).to_be_visible()
    expect(view.locator(".wb-message")).to_have_text("exit code 0 · 2533 tokens in, 412 out, $0.0213, 2 turns")

    assert view.locator(".wb-first-output").count() == 1

    expect(row(view, "I will write a small web page with a clock.")).to_be_visible()
    expect(row(view, "It tells the tim")).to_have_attribute("data-withdrawn", "")
    expect(row(view, "It tells the time in the browser's own zone.")).not_to_have_attribute("data-withdrawn", "")
    row(view, "→ Write index.html").click()
    expect(view.locator(".wb-row:visible[data-kind=body]", has_text='"file_path": "index.html"')).to_be_visible()
    view.locator(".wb-search").fill("clock")
    expect(view.locator("mark").first).to_be_visible()
    expect(view.locator(".wb-found")).to_have_text(re.compile(r"^\d/3$"))
    view.locator(".wb-search").press("Enter")
    picture(page, "replay-light")
    with dark(page):
        expect(row(view, "I will write a small web page with a clock.")).to_be_visible()  # it is painted anew
        readme_picture(replay, "dark")
    view.locator(".wb-search").fill("")
    row(view, "→ Write index.html").click()

    view.locator(".wb-to-error").click()
    expect(view.locator(".wb-row[data-cursor]")).to_have_text(re.compile("✗ This command requires approval"))
    expect(view.locator(".wb-follow")).to_have_text("paused")
    view.locator(".wb-filter").fill("page")
    expect(view).to_have_attribute("data-rows", "3")
    view.get_by_role("button", name="Show status").click()
    view.locator(".wb-copy").click()
    expect(view.locator(".wb-copy")).to_have_text(re.compile("copied"))
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied.split("\n")[0] == "I will write a small web page with a clock."
    view.locator(".wb-filter").fill("no line has this")
    expect(view.get_by_text("No line passes the filter")).to_be_visible()

    replay.locator(".wb-place").focus()
    page.keyboard.press("Home")
    expect(view).to_have_attribute("data-condition", "waiting")
    expect(played).to_have_text("0 of 24 events")


def test_output_that_would_be_part_of_the_page_is_text(desk: JupyterPages) -> None:
    page = desk.page
    code = f"{IMPORTS}replay = Replay(events.hostile_run())\nreplay.playback.seek(10_000)\nreplay"
    view = desk.show(code).locator(".wb-run")
    expect(view).to_have_attribute("data-condition", "error", timeout=LONG)
    for channel in ("stdout", "stderr", "claude", "error"):
        said = view.locator(f".wb-row[data-channel={channel}] .wb-said").first
        expect(said).to_contain_text(HOSTILE.split("\x1b")[0])
    expect(view.locator(".wb-row[data-channel=stdout] .wb-said").first).to_contain_text("␛[2J␛]0;title␇�")
    assert view.locator("img, script").count() == 0
    assert page.evaluate("() => window.stolen") is None
    picture(page, "hostile")


def test_output_stays_in_sight_when_the_page_hides_or_moves_it(desk: JupyterPages) -> None:
    """As JupyterLab does with cells when its theme changes, and the workbench with its tabs."""
    code = f"{IMPORTS}replay = Replay(events.long_run(500, 5_000))\nreplay.playback.seek(10_000)\nreplay"
    view = desk.show(code).locator(".wb-run")
    last = view.locator(".wb-row[data-channel=done]")
    expect(last).to_be_in_viewport(timeout=LONG)
    view.evaluate("node => { const { parentElement: box } = node; box.removeChild(node); box.append(node); }")
    expect(last).to_be_in_viewport()
    view.evaluate("node => { node.style.display = 'none'; }")
    expect(last).not_to_be_in_viewport()
    view.evaluate("node => new Promise((done) => setTimeout(() => { node.style.display = ''; done(); }, 300))")
    expect(last).to_be_in_viewport()
    with dark(desk.page):
        expect(last).to_be_in_viewport()
    expect(last).to_be_in_viewport()


def drawn(desk: JupyterPages, many: int) -> None:
    """Forty thousand events a second, as a recording at 100 times its speed offers them; none is lost on the way."""
    replay = f"replay = Replay(events.long_run({many}, {many * 5 // 2}))\nreplay"
    go = f"""
import time
replay.playback.set_speed(100)
began, cpu = time.monotonic(), time.process_time()
replay.play()
while replay.view.event_count < {many}: time.sleep(0.02)
print(round(time.monotonic() - began, 2), round(time.process_time() - cpu, 2))
"""
    page = desk.page
    view = desk.show(IMPORTS + replay).locator(".wb-run")
    expect(view.get_by_text("No output yet")).to_be_visible(timeout=LONG)
    page.evaluate("""() => {
        window.gaps = []; let last = performance.now();
        const frame = (now) => {
            if (!window.gaps) return;
            window.gaps.push(now - last); last = now; requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
    }""")
    took, cpu = desk.execute(go).split()
    expect(view).to_have_attribute("data-seen", str(many), timeout=LONG)
    facts = view.evaluate("node => ({ ...node.dataset })")
    assert (facts["first"], facts["heard"], facts["missed"]) == ("1", str(many), "0")
    expect(view.locator(".wb-count")).to_contain_text(f"{many:,} events")
    expect(view.locator(".wb-row:visible[data-channel=done]")).to_be_visible()
    expect(row(view, f"line {many - 9}")).to_be_visible()
    gaps = sorted(page.evaluate("() => { const { gaps } = window; window.gaps = null; return gaps; }"))
    figures = {"events": many, "seconds": took, "kernel_cpu_s": cpu, "frames": len(gaps), "longest_frame_ms": gaps[-1]}
    sys.stdout.write(json.dumps(figures | {"p95_frame_ms": gaps[int(len(gaps) * 0.95)]}) + "\n")


def test_fifty_thousand_events_are_drawn_and_none_is_lost(desk: JupyterPages) -> None:
    drawn(desk, MANY)


def test_a_live_stream_of_many_events_is_followed_to_its_end(desk: JupyterPages) -> None:
    """Over HTTP, as fast as the client can read: the page is not behind when the run has ended, and has every row."""
    server = f"""
from tests.standard.browser import events
from tests.quick.workbench.test_client import HEAD, chunk, serving
from modal_app.contract import sse
from workbench import Project, Workbench
made = events.long_run({MANY}, 500_000)
pieces = [chunk(b"".join(map(sse.frame, made[at:at + 1000]))) for at in range(0, len(made), 1000)]
server = serving([HEAD, *pieces, chunk(b"")])
wb = Workbench.of(server.__enter__())
run = wb.launch(Project.new(), "python", code="1")
run.view()
"""
    view = desk.show(server).locator(".wb-run")
    expect(view).to_have_attribute("data-seen", str(MANY), timeout=LONG)
    expect(view).to_have_attribute("data-missed", "0")
    expect(view).to_have_attribute("data-condition", "done")
    view.locator(".wb-search").fill(f"line {MANY - 9}")
    expect(view.locator(".wb-found")).to_have_text("1/1")
    desk.execute("wb.close(); server.__exit__(None, None, None)")
