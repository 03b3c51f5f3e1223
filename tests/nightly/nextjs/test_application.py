"""What the application does in `next start` and in `next dev`: loads, tabs, sizes, an endpoint that is away."""

import json

import pytest
from playwright.sync_api import Browser, expect

from tests.nightly.nextjs.conftest import WRONG
from tests.standard.nextjs import test_application as standard
from tests.standard.nextjs.panes import ENDLESS, LONG, counting, opened, user
from tests.support.claude.endpoint import Claude
from tests.support.nextjs import NODE, Application, Server

pytestmark = [*NODE, pytest.mark.browser]
test_a_run_is_shown_as_it_goes_and_its_files_behind_it = standard.test_a_run_is_shown_as_it_goes_and_its_files_behind_it
test_stopping_ends_the_run_and_closing_the_tab = (
    standard.test_stopping_ends_the_run_and_closing_the_tab_does_after_the_grace
)
test_six_streams_at_once_leave_room_to_stop_one = standard.test_six_streams_at_once_leave_room_to_stop_one
test_nothing_of_the_server_reaches_the_browser = standard.test_nothing_of_the_server_reaches_the_browser
test_whoever_is_not_signed_in_or_sends_ids_is_refused = standard.test_whoever_is_not_signed_in_or_sends_ids_is_refused


@pytest.mark.parametrize("pause_ms", [0, 30, 100, 700, 1500])
def test_a_page_that_is_loaded_again_shows_its_run_whole(pause_ms: int, server: Server, browser: Browser) -> None:
    standard.test_a_page_that_is_loaded_again_shows_its_run_whole(pause_ms, server, browser)


def test_six_loads_in_a_row_are_one_run(server: Server, browser: Browser) -> None:
    with user(browser) as context:
        pane = opened(context, server.url)
        asked: list[str] = []
        context.on(
            "request", lambda request: asked.append(f"{request.method} {request.headers.get('idempotency-key')}")
        )
        pane.start(counting(0.3))
        for _ in range(6):
            pane.page.wait_for_timeout(250)
            pane.page.reload()
        pane.check_whole()
        assert len({line for line in asked if line.startswith("POST")}) == 1, "one key: one run"
        pane.page.wait_for_timeout(500)
        count = len(asked)
        pane.page.wait_for_timeout(500)
        assert len(asked) == count, "nothing is asked for behind the end"


def test_a_double_click_is_one_run_two_tabs_show_it_and_nobody_else_does(server: Server, browser: Browser) -> None:
    with user(browser) as context, user(browser) as others:
        first = opened(context, server.url)
        posts: list[str] = []
        context.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
        first.fill(counting(0.3))
        first.root.get_by_role("button", name="Run", exact=True).dblclick()
        first.wait_for_text("line 0")
        second = opened(context, f"{server.url}/?run={first.run_id}")
        stranger = opened(others, server.url)  # signs him in
        stranger.page.goto(f"{server.url}/?run={first.run_id}")
        stranger.wait_for("failed")
        assert stranger.problem.startswith("not_found: there is no such run")
        first.check_whole()
        second.check_whole()
        assert (first.run_id, len(posts)) == (second.run_id, 1)


def test_a_project_that_is_busy_says_so_and_takes_the_next_run_behind_it(server: Server, browser: Browser) -> None:
    with user(browser) as context:
        holder, waiting = opened(context, server.url), opened(context, server.url)
        holder.start(ENDLESS)
        holder.wait_for_text("on")
        waiting.start("print('mine')")
        waiting.wait_for("failed")
        assert waiting.problem.startswith("project_busy:")
        holder.press("Stop")
        holder.wait_for("failed")
        waiting.press("Again")
        waiting.wait_for("done")
        assert waiting.text == "mine\n"


def test_eleven_mebibytes_pass_the_proxy_and_more_than_the_endpoint_takes_do_not(
    server: Server, browser: Browser
) -> None:
    write = """async size => {
        const content = "x".repeat(size);
        const body = JSON.stringify({ action: "files", op: "write", files: [{ path: "large", content }] });
        const headers = { "Content-Type": "application/json" };
        const answer = await fetch("/api/runs", { method: "POST", body, headers });
        return [answer.status, (await answer.text()).slice(-3000)];
    }"""
    with user(browser) as context:
        pane = opened(context, server.url)
        status, text = pane.page.evaluate(write, 11 * 1024 * 1024)
        assert (status, "event: done" in text) == (200, True), text
        status, text = pane.page.evaluate(write, 33 * 1024 * 1024)
        assert (status, json.loads(text)["code"]) == (413, "too_large")


@pytest.mark.parametrize("server", ["start, wrong secret", "dev, wrong secret"], indirect=True)
def test_a_wrong_secret_is_the_servers_own_affair(server: Server, browser: Browser) -> None:
    with user(browser) as context:
        statuses: list[int] = []
        context.on("response", lambda answer: statuses.append(answer.status))
        pane = opened(context, server.url)
        pane.start("print(1)")
        pane.wait_for("failed")
        assert pane.problem == "internal: this application is not set up to run jobs"
        assert 401 not in statuses
        log = server.log.read_text()
        assert "WORKBENCH_SECRET" in log
        assert WRONG not in log


def test_what_claude_says_and_does_is_shown_with_the_files_that_it_wrote(
    application: Application, claude: Claude, browser: Browser
) -> None:
    called = claude.wb.endpoint
    env = {"WORKBENCH_URL": called.url, "WORKBENCH_SECRET": called.secret.get_secret_value()}
    with application.started(env=env) as server, user(browser) as context:
        pane = opened(context, server.url)
        pane.root.get_by_label("prompt").fill("write a page")
        pane.press("Run")
        pane.wait_for_text("I write a page.")
        pane.wait_for_text("Both files are there.")
        pane.wait_for("done")
        calls = pane.root.locator("[data-kind=tool]")
        assert calls.locator("summary").all_text_contents() == ["Write ✓", "Write ✓"]
        assert "<h1>hello</h1>" in calls.first.text_content()
        assert pane.root.locator("[data-kind=text]").all_text_contents() == ["I write a page.", "Both files are there."]
        before = pane.numbers
        pane.page.reload()
        pane.wait_for_text("Both files are there.")
        pane.wait_for("done")
        assert pane.numbers == before == list(range(1, len(before) + 1))
        pane.press("List again")
        pane.press("index.html")
        expect(pane.root.get_by_label("content")).to_have_text("<h1>hello</h1>\n", timeout=LONG)


def test_an_application_whose_endpoint_is_away_says_so_once(application: Application, browser: Browser) -> None:
    with application.started(env={"WORKBENCH_URL": "http://127.0.0.1:9"}) as server, user(browser) as context:
        pane = opened(context, server.url)
        answer = context.request.post(f"{server.url}/api/runs", data={"prompt": "a"})
        assert (answer.status, answer.json()["code"]) == (502, "internal")
        assert "127.0.0.1:9" not in answer.text()
        assert pane.root.is_visible()
