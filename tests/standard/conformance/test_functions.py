"""Functions and classes through the stock SDK: called, mapped, retried, cancelled, scaled; found again by name."""

import concurrent.futures
import json
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import modal
import pytest

from tests.conftest import wait_until
from tests.support.commands import Cli
from tests.support.paths import APPS
from workbench.local_cloud.process.state_directory import Running

APP = APPS / "calls.py"
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def deployed(modal_cli: Cli) -> Iterator[None]:
    modal_cli("deploy", str(APP))
    yield
    modal_cli("app", "stop", "calls", "--yes")
    modal.Dict.objects.delete("calls-notes")


@pytest.fixture
def notes(deployed: None) -> modal.Dict:
    return modal.Dict.from_name("calls-notes", create_if_missing=True)


def function(name: str) -> modal.Function:
    return modal.Function.from_name("calls", name)


def test_calls_return_raise_and_yield(deployed: None) -> None:
    assert function("square").remote(3) == 9
    with pytest.raises(ValueError, match="no 4"):
        function("refuse").remote(4)
    assert list(function("count").remote_gen(5)) == [0, 1, 2, 3, 4]
    assert list(function("count_slowly").remote_gen(5)) == [0, 1, 2, 3, 4]
    assert function("plus_one").remote(4) == 17


def test_a_function_knows_where_it_runs_and_no_secret_can_tell_it_otherwise(cloud: Running) -> None:
    names = ("MODAL_TASK_ID", "MODAL_IMAGE_ID", "MODAL_REGION", "MODAL_CLOUD_PROVIDER", "MODAL_ENVIRONMENT")
    own = modal.App()

    @own.function(serialized=True, secrets=[modal.Secret.from_dict(dict.fromkeys(names, "forged"))])
    def known() -> list[str]:
        return [os.environ[name] for name in names]

    with own.run():
        task, image, region, provider, environment = known.remote()
    assert (task[:3], image[:3], environment) == ("ta-", "im-", "main")
    assert not {"", "forged"} & {region, provider}


def test_values_larger_than_a_message_pass_both_ways(deployed: None) -> None:
    assert len(function("big").remote(5_000_000)) == 5_000_000
    assert function("length").remote(b"y" * 5_000_000) == 5_000_000


def test_maps_keep_their_order_unless_told_otherwise(deployed: None) -> None:
    square = function("square")
    assert list(square.map(range(120))) == [x * x for x in range(120)]
    assert sorted(square.map(range(20), order_outputs=False)) == [x * x for x in range(20)]
    assert list(function("add").starmap([(1, 2), (3, 4)])) == [3, 7]
    errors = list(function("refuse").map(range(2), return_exceptions=True))
    assert [str(error) for error in errors] == ["no 0", "no 1"]


def test_a_map_of_nothing_is_nothing(deployed: None) -> None:
    assert list(function("square").map([])) == []


def test_a_function_calls_itself_as_deep_as_it_likes(deployed: None) -> None:
    """Each call holds a container while it waits for the next one."""
    assert function("deep").remote(11) == 11


def test_a_spawned_call_is_found_by_its_id(deployed: None) -> None:
    call = function("square").spawn(7)
    again = modal.FunctionCall.from_id(call.object_id)
    assert again.get(timeout=60) == 49
    assert again.get(timeout=60) == 49  # reading it does not use it up
    assert modal.FunctionCall.gather(function("square").spawn(2), function("square").spawn(3)) == [4, 9]
    [root] = function("plus_one").spawn(2).get_call_graph()
    assert root.function_name == "plus_one"


def test_a_function_s_inputs_and_variants_are_listed(cloud: Running, modal_cli: Cli) -> None:
    own = modal.App()

    @own.function(serialized=True)
    def half(x: int) -> float:
        return 1 / x

    def listed(*options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(modal_cli("function", "calls", half.object_id, "--json", *options))
        return found

    with own.run():
        assert listed() == []
        assert list(half.map([1, 2])) == [1, 0.5]
        with pytest.raises(ZeroDivisionError):
            half.remote(0)
        variant = half.with_options(timeout=77)
        call = variant.spawn(4)
        assert call.get(timeout=60) == 0.25
        newest, *others = listed()
        assert [newest["status"], *(one["status"] for one in others)] == ["failure", "success", "success"]
        assert newest["container_id"].startswith("ta-")
        assert newest["execution_time_seconds"] >= 0
        assert len(listed("--tail", "1")) == 1
        wait_until(lambda: len(listed("--since", "1h")) == 3, "the range ends with the last whole second")
        assert [one["status"] for one in listed("--since", "1h")] == ["success", "success", "failure"]
        assert listed("--all-variants")[0]["function_call_id"] == call.object_id
        [row] = json.loads(modal_cli("function", "variants", half.object_id, "--json"))
        assert (row["function_id"], row["options"]["timeout"]) == (variant.object_id, 77)
        assert json.loads(modal_cli("function", "variants", half.object_id, "--limit", "0", "--json")) == [row]


def test_a_call_graph_shows_who_called_whom(deployed: None) -> None:
    call = function("plus_one").spawn(5)
    assert call.get(timeout=60) == 26
    [root] = call.get_call_graph()
    assert [child.function_name for child in root.children] == ["square"]


def test_a_call_that_is_not_done_in_time_is_a_timeout_for_its_reader(deployed: None) -> None:
    call = function("sleep").spawn(1.0)
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    assert call.get(timeout=60) == "slept"


def test_a_function_is_ended_at_its_timeout(deployed: None) -> None:
    with pytest.raises(modal.exception.FunctionTimeoutError):
        function("slow").remote(60)
    assert function("square").remote(2) == 4


@pytest.mark.parametrize(("name", "arguments"), [("sleep", [600]), ("dies_of_its_cancellation", [])])
def test_a_cancelled_call_ends_also_when_its_container_dies_of_it(
    deployed: None, name: str, arguments: list[int]
) -> None:
    call = function(name).spawn(*arguments)
    wait_until(lambda: function(name).get_current_stats().num_running_inputs > 0, "the call did not start")
    call.cancel()
    with pytest.raises((modal.exception.InputCancellation, modal.exception.RemoteError)):
        call.get(timeout=60)


def test_a_failing_input_is_retried_as_its_policy_says(deployed: None, notes: modal.Dict) -> None:
    key = uuid.uuid4().hex
    assert function("third_time").remote(key) == 3
    mapped = list(function("third_time").map([uuid.uuid4().hex for _ in range(4)]))
    assert mapped == [3, 3, 3, 3]
    assert notes[key] == 3


def test_a_container_that_dies_fails_its_input_or_retries_it(deployed: None) -> None:
    with pytest.raises(modal.exception.Error, match="container died"):
        function("die").remote()
    assert function("dies_once").remote(uuid.uuid4().hex) == "alive"


def test_a_container_that_does_not_start_in_time_fails_its_inputs(deployed: None) -> None:
    with pytest.raises(modal.exception.Error, match="startup timeout of 2 s"):
        modal.Cls.from_name("calls", "NeverReady")().answer.remote()


@pytest.mark.parametrize("how", [[], ["--graceful"]], ids=str)
def test_a_stopped_container_costs_no_input(deployed: None, modal_cli: Cli, how: list[str], notes: modal.Dict) -> None:
    key = uuid.uuid4().hex
    call = function("tells_where").spawn(key, 3.0)
    wait_until(lambda: key in notes, "the call did not start")
    first = notes[key]
    modal_cli("container", "stop", first, "--yes", *how)
    assert (call.get(timeout=60) == first) == bool(how), "it is finished in its place only by a graceful stop"


def test_concurrent_inputs_share_a_container(deployed: None) -> None:
    found = list(function("together").map(range(8)))
    assert [x for x, _ in found] == list(range(8))
    assert len({task for _, task in found}) == 1


def test_inputs_are_batched(deployed: None) -> None:
    assert list(function("batch").map(range(8))) == [4] * 8
    assert function("batch").remote(1) == 1  # after the linger


def test_a_single_use_container_takes_one_input(deployed: None) -> None:
    assert len({function("once").remote() for _ in range(3)}) == 3


def test_a_class_keeps_its_state_per_parameters(deployed: None) -> None:
    cls = modal.Cls.from_name("calls", "Counter").with_options(scaledown_window=60, max_containers=1)
    one, five = cls(), cls(start=5)
    assert (one.increase.remote(2), one.increase.remote(2)) == (2, 4)
    assert five.increase.remote() == 6
    assert list(cls(start=3).numbers.remote_gen(3)) == [3, 4, 5]
    assert list(five.increase.map([1, 1])) in ([7, 8], [8, 7])  # by the one container that may be


def test_a_container_leaves_when_it_is_idle_and_runs_its_exit_handler(deployed: None, notes: modal.Dict) -> None:
    counter = modal.Cls.from_name("calls", "Counter")(start=70)
    counter.increase.remote(7)
    wait_until(lambda: notes.get("left-70") == 77, "the exit handler did not run")


def test_options_make_a_variant_that_scales_by_itself(deployed: None) -> None:
    cls = modal.Cls.from_name("calls", "Counter")
    variant = cls.with_options(timeout=30, max_containers=1)
    assert variant(start=9).increase.remote() == 10
    with pytest.raises(modal.exception.FunctionTimeoutError):
        function("sleep").with_options(timeout=1).remote(60)


def test_the_autoscaler_is_told_at_run_time(deployed: None) -> None:
    square = function("square")
    square.autoscaler.update(min_containers=2)
    wait_until(lambda: square.get_current_stats().num_total_runners >= 2, "there are no two containers")
    square.autoscaler.update(min_containers=0)


def test_a_function_tells_how_many_more_inputs_it_can_take_at_once(deployed: None) -> None:
    sleep = function("sleep").with_concurrency(max_inputs=3).with_options(max_containers=1)
    assert sleep.get_current_stats().input_headroom == 0
    call = sleep.spawn(600)
    wait_until(lambda: sleep.get_current_stats().num_running_inputs == 1, "the call did not start")
    assert sleep.get_current_stats().input_headroom == 2
    call.cancel(terminate_containers=True)


def test_web_functions_of_every_kind_answer(deployed: None) -> None:
    method = modal.Cls.from_name("calls", "Counter")().web
    with httpx.Client(timeout=60, trust_env=False) as client:
        assert client.get(f"{function('plain').get_web_url()}/a/b").text == "path /a/b"
        assert client.post(str(function("double").get_web_url()), json={"x": 4}).json() == {"doubled": 8}
        assert client.get(str(method.get_web_url()), params={"by": 3}).json() == {"number": 3}


def test_many_callers_at_once_get_their_own_answers(deployed: None) -> None:
    square = function("square")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(square.remote, range(64))) == [x * x for x in range(64)]


def test_modal_run_runs_a_local_entrypoint_and_a_function(modal_cli: Cli) -> None:
    assert "the square is 25" in modal_cli("run", f"{APP}::main", "--n", "5")
    assert "squaring 6" in modal_cli("run", f"{APP}::square", "--x", "6")


def test_an_unknown_function_or_class_is_not_found(deployed: None) -> None:
    with pytest.raises(modal.exception.NotFoundError):
        function("nothing").remote()
    with pytest.raises(modal.exception.NotFoundError):
        modal.Cls.from_name("calls", "Nothing")().increase.remote()
    with pytest.raises(modal.exception.NotFoundError):
        modal.FunctionCall.from_id("fc-nothing").get(timeout=1)


def test_a_deployment_replaces_containers_but_not_what_they_work_on(deployed: None, modal_cli: Cli) -> None:
    call = function("sleep").spawn(4.0)
    started = time.monotonic()
    wait_until(lambda: function("sleep").get_current_stats().num_running_inputs > 0, "the call did not start")
    modal_cli("deploy", str(APP))
    assert call.get(timeout=60) == "slept"
    assert time.monotonic() - started < 60
