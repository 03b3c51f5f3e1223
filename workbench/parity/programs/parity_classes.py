"""Classes: their life in a container, parameters, methods, and options that are given at a call."""

import os

import modal
from parity_rows import fresh, raises, row, until

image = modal.Image.debian_slim().add_local_python_source("parity_rows")
app = modal.App("modal-workbench-parity-classes", image=image)


@app.cls()
class Counter:
    @modal.enter()
    def begin(self) -> None:
        self.entered = getattr(self, "entered", 0) + 1
        self.calls = 0

    @modal.method()
    def call(self) -> list[int]:
        self.calls += 1
        return [self.entered, self.calls]

    @modal.method()
    def count(self, to: int):
        yield from range(to)

    def plain(self) -> str:
        return "plain"


@app.cls()
class Greeter:
    name: str = modal.parameter()
    times: int = modal.parameter(default=1)

    @modal.method()
    def greet(self, word: str) -> str:
        return " ".join([word, self.name] * self.times)


@app.cls(scaledown_window=2)
class Leaver:
    note: str = modal.parameter()

    @modal.exit()
    def leave(self) -> None:
        modal.Dict.from_name(self.note)["left"] = True

    @modal.method()
    def work(self) -> str:
        return "worked"


@app.cls()
class Limited:
    @modal.method()
    def task(self) -> str:
        return os.environ.get("PARITY_OPTION", "")


@app.cls()
class Broken:
    @modal.enter()
    def begin(self) -> None:
        raise ValueError("at the start")

    @modal.method()
    def work(self) -> None: ...


@row(
    "`enter` runs once before the first call of a container, and its object stays.",
    source="guide/lifecycle-functions",
    expects=[[1, 1], [1, 2]],
)
def enter_runs_once():
    counter = Counter()
    return [counter.call.remote(), counter.call.remote()]


@row(
    "Parameters are given when a class is made, and have defaults.",
    source="guide/parametrized-functions",
    expects=["hi Ann", "hi Bob hi Bob"],
)
def parameters():
    return [Greeter(name="Ann").greet.remote("hi"), Greeter(name="Bob", times=2).greet.remote("hi")]


@row("A missing parameter, an unknown one, and one of another type are refused.", source="guide/parametrized-functions")
def wrong_parameters():
    return [
        raises(lambda: Greeter().greet.remote("hi")),
        raises(lambda: Greeter(name="Ann", other=1).greet.remote("hi")),
        raises(lambda: Greeter(name=7).greet.remote("hi")),
    ]


@row("A method maps as a function does.", source="guide/lifecycle-functions", expects=["a Ann", "b Ann"])
def methods_map():
    return list(Greeter(name="Ann").greet.map(["a", "b"]))


@row("A method that is a generator yields as it goes.", source="guide/lifecycle-functions", expects=[0, 1, 2])
def methods_yield():
    return list(Counter().count.remote_gen(3))


@row("`exit` runs when a container ends.", source="guide/lifecycle-functions", expects=True, seconds=90)
def exit_runs():
    note = fresh("note")
    kept = modal.Dict.from_name(note, create_if_missing=True).hydrate()
    try:
        Leaver(note=note).work.remote()
        return bool(until(lambda: kept.get("left"), seconds=60))
    finally:
        modal.Dict.objects.delete(note)


@row("`with_options` changes a class for these calls.", source="guide/parametrized-functions", expects=["", "given"])
def options_at_the_call():
    given = Limited.with_options(secrets=[modal.Secret.from_dict({"PARITY_OPTION": "given"})])
    return [Limited().task.remote(), given().task.remote()]


@row("A method that is none for Modal runs here.", source="reference/modal.Cls", expects="plain")
def plain_methods_run_here():
    return Counter().plain()


@row("What `enter` raises is raised at the caller.", source="guide/lifecycle-functions", expects="ValueError")
def enter_that_fails():
    return raises(Broken().work.remote)
