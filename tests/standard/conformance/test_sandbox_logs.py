"""What a sandbox's program prints, after the fact: by the stock SDK and the stock command line."""

import datetime as dt
import time
from collections.abc import Iterator

import modal
import pytest

from tests.conftest import wait_until
from tests.support.commands import Cli
from workbench.local_cloud.process.state_directory import Running

DEADLINE_S = 60


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("sandbox-log-tests", create_if_missing=True)


@pytest.fixture(scope="module")
def ended(app: modal.App) -> modal.Sandbox:
    """One that has printed ten numbered lines, two words to stderr, and something without an end of line."""
    script = "read go; for n in $(seq 10); do echo line $n; done; echo wrong >&2; echo grün >&2; printf unended"
    sandbox = modal.Sandbox.create("sh", "-c", script, app=app, timeout=60)
    sandbox.exec("echo", "not of the entrypoint").wait()
    sandbox.stdin.write("go\n")
    sandbox.stdin.drain()
    sandbox.wait()
    return sandbox


@pytest.fixture
def running(app: modal.App) -> Iterator[modal.Sandbox]:
    sandbox = modal.Sandbox.create("sh", "-c", "echo up; cat", app=app, timeout=120)
    yield sandbox
    sandbox.terminate(wait=True)


def past() -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)


def test_everything_that_an_ended_sandbox_printed_is_fetched_in_order(ended: modal.Sandbox) -> None:
    found = list(ended.logs.fetch(since=past(), source="stdout"))
    assert "".join(entry.message for entry in found) == "".join(f"line {n}\n" for n in range(1, 11)) + "unended"
    assert {entry.source for entry in found} == {"stdout"}


def test_sources_and_texts_filter(ended: modal.Sandbox) -> None:
    errors = ended.logs.fetch(since=past(), source="stderr")
    assert [entry.message for entry in errors] == ["wrong\n", "grün\n"]
    assert [entry.message for entry in ended.logs.fetch(since=past(), search_text="line 1")] == [
        "line 1\n",
        "line 10\n",
    ]
    assert list(ended.logs.fetch(since=past(), source="system")) == []


def test_the_tail_is_the_newest_part(ended: modal.Sandbox) -> None:
    found = [entry.message for entry in ended.logs.tail(3, source="stdout")]
    assert found == ["line 9\n", "line 10\n", "unended"]


def test_what_commands_print_is_not_in_it(ended: modal.Sandbox) -> None:
    assert not [entry for entry in ended.logs.fetch(since=past()) if "entrypoint" in entry.message]


def test_the_sandbox_s_own_stream_has_it_as_well(ended: modal.Sandbox) -> None:
    assert modal.Sandbox.from_id(ended.object_id).stdout.read().endswith("line 10\nunended")


def test_sandboxes_of_one_app_do_not_mix(app: modal.App, ended: modal.Sandbox) -> None:
    other = modal.Sandbox.create("echo", "another", app=app, timeout=60)
    other.wait()
    assert [entry.message for entry in other.logs.tail()] == ["another\n"]
    assert not [entry for entry in ended.logs.fetch(since=past()) if "another" in entry.message]


def test_a_running_sandbox_s_lines_come_while_it_runs(running: modal.Sandbox) -> None:
    wait_until(lambda: [entry.message for entry in running.logs.tail()] == ["up\n"], "nothing is logged")
    running.stdin.write("more")
    running.stdin.drain()
    wait_until(lambda: "more" in [entry.message for entry in running.logs.tail()], "a partial line is not logged")


def test_a_listed_sandbox_s_log_is_read(app: modal.App, running: modal.Sandbox) -> None:
    wait_until(lambda: [entry.message for entry in running.logs.tail()] == ["up\n"], "nothing is logged")
    (listed,) = [one for one in modal.Sandbox.list(app_id=app.app_id) if one.object_id == running.object_id]
    assert [entry.message for entry in listed.logs.tail()] == ["up\n"]


def test_a_flood_costs_a_bounded_log_and_ends_with_the_newest(app: modal.App) -> None:
    script = "yes flood | head -c 30000000; echo the end"
    sandbox = modal.Sandbox.create("sh", "-c", script, app=app, timeout=120)
    sandbox.wait()
    found = [entry.message for entry in sandbox.logs.tail(1000)]
    assert "".join(found).endswith("flood\nthe end\n")
    started = time.monotonic()
    whole = list(sandbox.logs.fetch(since=past()))
    assert sum(len(entry.message) for entry in whole) < 29_000_000
    assert [entry for entry in whole if "left out of the log" in entry.message]
    assert time.monotonic() - started < DEADLINE_S


def test_a_line_without_end_is_cut(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x", app=app, timeout=60)
    sandbox.wait()
    found = [entry.message for entry in sandbox.logs.tail(1000)]
    assert "".join(found) == "x" * 100_000
    assert max(map(len, found)) <= 16_384


def test_every_line_of_an_ended_sandbox_is_fetched_and_followed(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("sh", "-c", "seq -f 'number %.0f' 20000", app=app, timeout=60)
    sandbox.wait()
    expected = "".join(f"number {number}\n" for number in range(1, 20_001))
    assert "".join(entry.message for entry in sandbox.logs.fetch(since=past())) == expected
    followed = app.logs.stream(timeout=5)
    assert expected in "".join(entry.message for entry in followed)


def test_the_command_line_shows_logs_by_sandbox_container_and_app(ended: modal.Sandbox, modal_cli: Cli) -> None:
    by_sandbox = modal_cli("container", "logs", ended.object_id, "--all")
    assert "line 10" in by_sandbox
    assert "grün" in by_sandbox
    assert "another" not in by_sandbox
    assert "line 1\n" in modal_cli("app", "logs", "sandbox-log-tests", "--since", "1h")
    assert "line 10" not in modal_cli("container", "logs", ended.object_id, "--tail", "1", "--source", "stderr")


def test_a_sandbox_is_a_container_that_is_listed_entered_and_stopped(app: modal.App, modal_cli: Cli) -> None:
    sandbox = modal.Sandbox.create("sleep", "600", app=app, timeout=600)
    listed = modal_cli("container", "list", "--app-id", str(app.app_id), "--json")
    (task_id,) = {word for word in listed.replace('"', " ").split() if word.startswith("ta-")}
    assert "hello" in modal_cli("container", "exec", "--no-pty", task_id, "echo", "hello")
    assert task_id in modal_cli("container", "list", "--json")
    modal_cli("container", "stop", "--yes", task_id)
    assert sandbox.poll() == 137
    assert "ta-" not in modal_cli("container", "list", "--app-id", str(app.app_id), "--json")
    assert "already stopped" in modal_cli("container", "stop", "--yes", task_id, check=False)


def test_unknown_containers_are_not_found(cloud: Running, modal_cli: Cli) -> None:
    assert "not found" in modal_cli("container", "logs", "ta-nosuch", check=False)
    assert "not found" in modal_cli("container", "stop", "--yes", "ta-nosuch", check=False)
