"""A Next.js application with the shipped client, built and started, in a real browser, before a real endpoint.

The night has the rest: `next dev`, more loads, tabs, sizes and times.
"""

import json

import httpx
import pytest
from playwright.sync_api import Browser, Response, expect

from tests.conftest import wait_until
from tests.standard.nextjs.conftest import APP
from tests.standard.nextjs.panes import ENDLESS, LONG, Pane, counting, opened, user
from tests.support.commands import cli
from tests.support.nextjs import NODE, Application, Server
from workbench import Workbench

pytestmark = [*NODE, pytest.mark.browser]


def is_cancelled(run_id: str) -> bool:
    """Whether a run was cancelled, as its archive says: to ask the endpoint for its end would be to read it."""
    listed = cli("runs", "list", "--outcome", "cancelled", "--app-name", APP, "--json")
    return run_id in listed.stdout


def test_a_run_is_shown_as_it_goes_and_its_files_behind_it(server: Server, browser: Browser) -> None:
    with user(browser) as context:
        pane = opened(context, server.url)
        pane.start(f"open('made.txt', 'w').write('by the job')\n{counting()}")
        pane.wait_for_text("line 0")
        assert "line 11" not in pane.text, "words come one by one"
        pane.check_whole()
        pane.press("List again")
        pane.press("made.txt")
        expect(pane.root.get_by_label("content")).to_have_text("by the job", timeout=LONG)
        pane.start("print('another')")
        pane.wait_for_text("another")
        pane.wait_for("done")
        pane.root.get_by_label("history").get_by_role("button").last.click()
        pane.wait_for_text("line 11")
        pane.check_whole()


@pytest.mark.parametrize("pause_ms", [0, 700])
def test_a_page_that_is_loaded_again_shows_its_run_whole(pause_ms: int, server: Server, browser: Browser) -> None:
    """Before the headers, in the middle; and once more behind the end."""
    with user(browser) as context:
        pane = opened(context, server.url)
        pane.start(counting())
        pane.page.wait_for_timeout(pause_ms)
        pane.page.reload()
        pane.check_whole()
        run_id = pane.run_id
        pane.page.reload()
        pane.check_whole()
        assert pane.run_id == run_id
        assert pane.root.get_by_label("history").get_by_role("button").count() >= 1


def test_stopping_ends_the_run_and_closing_the_tab_does_after_the_grace(server: Server, browser: Browser) -> None:
    with user(browser) as context:
        pane = opened(context, server.url)
        pane.start(ENDLESS)
        pane.wait_for_text("on")
        pane.press("Stop")
        pane.wait_for("failed")
        assert pane.problem.startswith("cancelled:")
        assert pane.numbers == list(range(1, len(pane.numbers) + 1))
        pane.press("Again")
        pane.wait_for("running")
        pane.wait_for_text("on")
        run_id = pane.run_id
        pane.page.close()
        wait_until(lambda: is_cancelled(run_id), "the run goes on without a reader")


def test_six_streams_at_once_leave_room_to_stop_one(server: Server, browser: Browser) -> None:
    """A browser has six connections to a server with HTTP/1.1, and the page of each run holds one."""
    with user(browser) as context:
        page = context.new_page()
        page.goto(f"{server.url}/?panes=6")
        panes = [Pane(page, "main" if number == 0 else f"pane-{number}") for number in range(6)]
        for pane in panes:
            pane.start(ENDLESS)
        for pane in panes:
            pane.wait_for_text("on")
        for pane in reversed(panes):
            pane.press("Stop")
            pane.wait_for("failed")
            assert pane.problem.startswith("cancelled:")


def test_nothing_of_the_server_reaches_the_browser(
    server: Server, browser: Browser, endpoint: Workbench, application: Application
) -> None:
    """Neither the secret nor the endpoint's address: in no bundle, no answer, no header."""
    hidden = (endpoint.endpoint.secret.get_secret_value(), endpoint.endpoint.url)
    call = """async ([method, path, body]) => {
        const headers = { "Content-Type": "application/json" };
        const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
        return JSON.stringify([...answer.headers]) + await answer.text();
    }"""
    answers: list[Response] = []
    with user(browser) as context:
        context.on("response", lambda answer: answers.append(answer))
        pane = opened(context, server.url)
        pane.start("print(1)")
        pane.wait_for("done")
        run = f"/api/runs/{pane.run_id}"
        job = {"action": "python", "code": "print(2)"}
        calls = [["POST", "/api/runs", job], ["GET", run, None], ["DELETE", run, None], ["POST", "/api/runs", {}]]
        seen = [pane.page.evaluate(call, one) for one in calls]
        seen += [json.dumps(answer.all_headers()) for answer in answers]
        seen += [answer.text() for answer in answers if "/api/" not in answer.url]
    assert len([text for text in seen if "event: done" in text]) == 2
    bundles = application.bundles
    assert len(bundles) > 3
    assert [word for word in hidden for text in (*seen, *bundles) if word in text] == []
    assert all(word in (application.directory / ".env.local").read_text() for word in hidden)
    stream = next(answer for answer in answers if answer.request.method == "POST")
    assert stream.headers["cache-control"] == "no-cache, no-transform"
    assert "content-encoding" not in stream.headers, "compression is on, and leaves streams alone"
    assert answers[0].headers.get("content-encoding") == "gzip"


def test_whoever_is_not_signed_in_or_sends_ids_is_refused(server: Server) -> None:
    run_id = "6f9619ff-8b86-4d01-b42d-00c04fc964ff"
    for method, path in (("POST", "/api/runs"), ("GET", f"/api/runs/{run_id}"), ("DELETE", f"/api/runs/{run_id}")):
        answer = httpx.request(method, f"{server.url}{path}", trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        client.cookies.set("session", run_id)
        answer = client.post("/api/runs", json={"prompt": "a", "user_id": run_id})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
        answer = client.post("/api/runs", json={"prompt": "a", "mcp_config": {}})
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
