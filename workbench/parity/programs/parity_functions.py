"""Functions: calls, maps, generators, retries, time-outs, errors, and what a call knows of itself."""

import asyncio
import os
import time

import modal
from parity_rows import fresh, raised, raises, row

image = modal.Image.debian_slim().add_local_python_source("parity_rows")
app = modal.App("modal-workbench-parity-functions", image=image)
TRIES = fresh("tries")


class OwnError(Exception):
    """An exception of this program's own."""


@app.function()
def double(number: int, *, plus: int = 0) -> int:
    return 2 * number + plus


@app.function()
def add(one: int, other: int) -> int:
    return one + other


@app.function()
def fail(number: int) -> int:
    if number % 2:
        raise ValueError(f"wrong: {number}")
    return number


@app.function()
def fail_own() -> None:
    raise OwnError("ours", 7)


@app.function()
def count(to: int):
    yield from range(to)


@app.function()
def count_and_fail():
    yield 1
    raise ValueError("after one")


@app.function()
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@app.function(timeout=1)
def late() -> None:
    time.sleep(30)


@app.function(retries=2)
def third_time(name: str) -> int:
    tries = modal.Dict.from_name(name)
    tries["n"] = tries.get("n", 0) + 1
    if tries["n"] < 3:
        raise ValueError("not yet")
    return tries["n"]


@app.function(retries=1)
def never(name: str) -> None:
    tries = modal.Dict.from_name(name)
    tries["n"] = tries.get("n", 0) + 1
    raise ValueError("never")


@app.function()
@modal.concurrent(max_inputs=4)
async def together(number: int) -> tuple[int, str]:
    await asyncio.sleep(0.5)
    return os.getpid(), os.environ["MODAL_TASK_ID"]


@app.function()
@modal.batched(max_batch_size=4, wait_ms=2000)
def batch(numbers: list[int]) -> list[tuple[int, int]]:
    return [(number, len(numbers)) for number in numbers]


@app.function()
def itself() -> dict[str, object]:
    return {
        "local": modal.is_local(),
        "call": (modal.current_function_call_id() or "")[:3],
        "input": (modal.current_input_id() or "")[:3],
        "remote": os.environ.get("MODAL_IS_REMOTE"),
    }


@app.function()
def nested(number: int) -> int:
    return double.remote(number) + 1


@app.function(secrets=[modal.Secret.from_dict({"PARITY_WORD": "hush"})])
def word() -> str:
    return os.environ["PARITY_WORD"]


@app.function(max_containers=1, single_use_containers=True)
def once() -> str:
    return os.environ["MODAL_TASK_ID"]


@row(
    "A call returns what the function returns, with its positional and keyword arguments.",
    source="guide/apps",
    expects=[42, 43],
)
def a_call_returns():
    return [double.remote(21), double.remote(21, plus=1)]


@row("`.local()` runs the function here.", source="reference/modal.Function", expects=6)
def local_runs_here():
    return double.local(3)


@row("`.remote.aio()` is the same call for async code.", source="guide/async", expects=[2, 4])
def async_calls():
    async def both():
        return list(await asyncio.gather(double.remote.aio(1), double.remote.aio(2)))

    return asyncio.run(both())


@row(
    "An exception of a function is raised at its caller, with its class and its arguments.",
    source="guide/troubleshooting",
    expects={"raises": "ValueError", "says": "wrong: 7"},
)
def exceptions_arrive():
    return raised(lambda: fail.remote(7))


@row(
    "An exception class of the program's own arrives as itself.",
    source="guide/troubleshooting",
    expects=[True, ["ours", 7]],
)
def own_exceptions_arrive():
    try:
        fail_own.remote()
    except Exception as error:
        return [isinstance(error, OwnError), list(error.args)]
    return "nothing"


@row("`map` keeps the order of its inputs.", source="guide/scale", expects=[0, 2, 4, 6, 8])
def map_keeps_order():
    return list(double.map(range(5)))


@row("`map` without order gives every result once.", source="guide/scale", expects=[0, 2, 4, 6, 8])
def map_without_order():
    return sorted(double.map(range(5), order_outputs=False))


@row("`map` passes keyword arguments to every call.", source="reference/modal.Function", expects=[1, 3])
def map_passes_keywords():
    return list(double.map(range(2), kwargs={"plus": 1}))


@row(
    "`map` raises the first exception, or returns all with `return_exceptions`.",
    source="guide/scale",
    expects=["ValueError", [0, "ValueError", 2]],
)
def map_and_exceptions():
    gave = fail.map(range(3), return_exceptions=True, wrap_returned_exceptions=False)
    return [
        raises(lambda: list(fail.map(range(3)))),
        [type(one).__name__ if isinstance(one, Exception) else one for one in gave],
    ]


@row("`starmap` spreads each input over the arguments.", source="guide/scale", expects=[3, 7])
def starmap_spreads():
    return list(add.starmap([(1, 2), (3, 4)]))


@row("`for_each` calls for every input and gives nothing back.", source="reference/modal.Function", expects=None)
def for_each_gives_nothing():
    return double.for_each(range(3))


@row("An empty `map` gives nothing.", source="guide/scale", expects=[])
def an_empty_map():
    return list(double.map([]))


@row(
    "`spawn` gives a call whose result is fetched later, by its id, too.",
    source="guide/trigger-deployed-functions",
    expects=["fc-", 42, 42],
)
def spawned_calls():
    call = double.spawn(21)
    return [call.object_id[:3], call.get(), modal.FunctionCall.from_id(call.object_id).get()]


@row(
    "`get` with a time-out raises while the result is not there.",
    source="reference/modal.FunctionCall",
    expects=["TimeoutError", "done"],
)
def get_with_a_timeout():
    call = slow.spawn(3)
    return [raises(lambda: call.get(timeout=0)), call.get(timeout=50)]


@row("`FunctionCall.gather` waits for several calls.", source="reference/modal.FunctionCall", expects=[2, 4])
def gathered_calls():
    return list(modal.FunctionCall.gather(double.spawn(1), double.spawn(2)))


@row("A cancelled call raises at whoever waits for it.", source="reference/modal.FunctionCall")
def cancelled_calls():
    call = slow.spawn(40)
    time.sleep(1)
    call.cancel()
    return raises(lambda: call.get(timeout=30))


@row("`remote_gen` gives what a generator yields, as it comes.", source="reference/modal.Function", expects=[0, 1, 2])
def generators_yield():
    return list(count.remote_gen(3))


@row(
    "A generator that fails gives what it has yielded, then raises.",
    source="reference/modal.Function",
    expects=[[1], "ValueError"],
)
def generators_that_fail():
    got = []

    def read():
        for one in count_and_fail.remote_gen():
            got.append(one)

    error = raises(read)
    return [got, error]


@row("`remote` of a generator is refused.", source="reference/modal.Function", expects="InvalidError")
def remote_of_a_generator():
    return raises(lambda: count.remote(3))


@row("A function with retries is called again after a failure, as often as it says.", source="guide/retries", expects=3)
def retries_call_again():
    modal.Dict.from_name(TRIES, create_if_missing=True).hydrate()
    try:
        return third_time.remote(TRIES)
    finally:
        modal.Dict.objects.delete(TRIES)


@row("When all attempts fail, the last exception is raised.", source="guide/retries", expects=["ValueError", 2])
def retries_that_all_fail():
    tries = modal.Dict.from_name(TRIES, create_if_missing=True).hydrate()
    try:
        return [raises(lambda: never.remote(TRIES)), tries["n"]]
    finally:
        modal.Dict.objects.delete(TRIES)


@row(
    "A call that takes longer than the function's time-out raises FunctionTimeoutError.",
    source="guide/timeouts",
    expects="FunctionTimeoutError",
)
def timeouts_raise():
    return raises(late.remote)


@row(
    "`modal.concurrent` runs several inputs in one container at once.",
    source="guide/concurrent-inputs",
    expects=[1, True],
)
def concurrent_inputs():
    together.remote(0)
    began = time.monotonic()
    tasks = {task for _, task in together.map(range(4))}
    return [len(tasks), time.monotonic() - began < 2.0]


@row("`modal.batched` calls once for several inputs.", source="guide/dynamic-batching", expects=[[0, 1, 2, 3], 4])
def batched_inputs():
    got = list(batch.map(range(4)))
    return [[number for number, _ in got], max(size for _, size in got)]


@row("An argument and a result of several MiB arrive whole.", source="reference/changelog", expects=3 * 2**20)
def large_payloads():
    return len(echo.remote(b"x" * (3 * 2**20)))


@app.function()
def echo(data: bytes) -> bytes:
    return data


@row(
    "A call knows that it runs remotely, its own id and its input's.",
    source="reference/modal.current_function_call_id",
    expects={"local": False, "call": "fc-", "input": "in-", "remote": "1"},
)
def a_call_knows_itself():
    return itself.remote()


@row("A function calls another function of its app.", source="guide/apps", expects=7)
def nested_calls():
    return nested.remote(3)


@row("A secret's values are variables of the function.", source="guide/secrets", expects="hush")
def secrets_are_variables():
    return word.remote()


@row("Single-use containers take one input each.", source="guide/lifecycle-functions", expects=2)
def single_use_containers():
    return len({once.remote(), once.remote()})


@row("What cannot be pickled cannot be an argument.", source="guide/troubleshooting")
def arguments_that_cannot_be_pickled():
    import threading

    return raises(lambda: echo.remote(threading.Lock()))


@row(
    "`get_current_stats` tells of a function's backlog and containers.",
    source="reference/modal.Function",
    expects=["backlog", "num_total_runners"],
)
def current_stats():
    double.remote(1)
    stats = double.get_current_stats()
    return [name for name in ("backlog", "num_total_runners") if hasattr(stats, name)]
