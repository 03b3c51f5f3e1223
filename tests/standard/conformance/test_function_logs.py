"""What functions print, by the stock SDK and command line: every line, in order, to the last, and whose it is."""

import datetime as dt
import json
from collections.abc import Iterator

import modal
import pytest

from tests.support.commands import Cli
from tests.support.paths import APPS

APP = APPS / "talkative.py"
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def deployed(modal_cli: Cli) -> Iterator[None]:
    modal_cli("deploy", str(APP))
    yield
    modal_cli("app", "stop", "talkative", "--yes")


def function(name: str) -> modal.Function:
    return modal.Function.from_name("talkative", name)


def said(call: modal.FunctionCall) -> str:
    return "".join(entry.message for entry in call.logs.fetch())


def counted(word: str, count: int) -> str:
    return "".join(f"{word} {number}\n" for number in range(count))


def past() -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)


@pytest.mark.parametrize("count", [300, 5000])
def test_a_run_shows_every_line_of_a_function_that_raises(modal_cli: Cli, count: int) -> None:
    shown = modal_cli("run", f"{APP}::main", "--count", str(count), check=False)
    assert [line for line in shown.splitlines() if line.startswith("counted ")] == counted(
        "counted", count
    ).splitlines()
    assert "counted is over" in shown


def test_a_run_shows_every_line_of_a_map(modal_cli: Cli) -> None:
    shown = modal_cli("run", f"{APP}::several", check=False).splitlines()
    for number in range(3):
        word = f"word{number}"
        assert [line for line in shown if line.startswith(word)] == counted(word, 200).splitlines()


def test_twenty_thousand_lines_are_fetched_followed_and_shown_whole(deployed: None, modal_cli: Cli) -> None:
    call = function("say").spawn("many", 20_000)
    followed = "".join(entry.message for entry in call.logs.stream(timeout=60))
    assert followed == counted("many", 20_000)
    assert said(call) == followed
    shown = modal_cli("app", "logs", "talkative", "--function-call", call.object_id, "--tail", "20000")
    assert [line for line in shown.splitlines() if line.startswith("many ")] == followed.splitlines()


@pytest.mark.parametrize("size", [1, 20_000, 300_000])
def test_a_long_line_comes_in_pieces_that_make_it_up(deployed: None, size: int) -> None:
    call = function("say_a_document").spawn(size)
    call.get()
    entries = [entry.message for entry in call.logs.fetch()]
    assert json.loads("".join(entries)) == {"text": "ü" * size}
    assert [entry.endswith("\n") for entry in entries] == [False] * (len(entries) - 1) + [True]


def test_the_log_of_a_call_is_that_call_s_alone(deployed: None, modal_cli: Cli) -> None:
    say = function("say")
    first, second = (say.spawn(word, 50) for word in ("first", "second"))
    assert [call.get() for call in (first, second)] == ["first", "second"]
    assert said(first) == counted("first", 50)
    assert said(second) == counted("second", 50)
    assert [entry.message for entry in first.logs.tail(2)] == ["first 48\n", "first 49\n"]
    shown = modal_cli("app", "logs", "talkative", "--function-call", second.object_id, "--tail", "1000")
    assert "second 49" in shown
    assert "first" not in shown
    whole = "".join(entry.message for entry in say.logs.fetch(since=past()))
    assert counted("first", 50) in whole
    assert counted("second", 50) in whole


def test_the_command_line_shows_a_function_s_log(deployed: None, modal_cli: Cli) -> None:
    function("say").remote("shown", 3)
    function("say_without_an_end").remote("not of it")
    shown = modal_cli("function", "logs", "talkative/say", "--tail", "1000")
    assert "shown 2" in shown
    assert "not of it" not in shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("say_without_an_end", "{word}"),
        ("say_by_a_child", "{word}\n{word}\n"),
        ("Speaker.say", "{word}\n"),
    ],
)
def test_every_way_to_print_is_the_call_s(deployed: None, name: str, expected: str) -> None:
    owner, _, method = name.rpartition(".")
    one = getattr(modal.Cls.from_name("talkative", owner)(), method) if owner else function(name)
    calls = {word: one.spawn(word) for word in ("one", "two", "three")}
    for call in calls.values():
        call.get()
    for word, call in calls.items():
        assert said(call) == expected.format(word=word)


def test_a_call_that_raises_has_its_lines(deployed: None) -> None:
    calls = [function("say_and_raise").spawn(word, 20) for word in ("this", "that")]
    for call in calls:
        with pytest.raises(ValueError, match="is over"):
            call.get()
    for call, word in zip(calls, ("this", "that"), strict=True):
        assert said(call).startswith(counted(word, 20))
        assert ("this" in said(call)) is (word == "this")


@pytest.mark.parametrize("name", ["say_beside_others", "say_beside_others_slowly"])
def test_calls_of_one_container_at_the_same_time_keep_their_lines_apart(deployed: None, name: str) -> None:
    say = function(name)
    calls = {word: say.spawn(word, 20) for word in ("red", "green", "blue")}
    for call in calls.values():
        call.get()
    for word, call in calls.items():
        assert said(call) == counted(word, 20)
