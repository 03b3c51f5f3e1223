"""Looking things up by name: what is deployed is found, and how it is told that something is not there."""

import modal
from parity_rows import fresh, raised, raises, removed, row

image = modal.Image.debian_slim().add_local_python_source("parity_rows")
app = modal.App("modal-workbench-parity-lookups", image=image)


@app.function()
def double(number: int) -> int:
    return 2 * number


@app.cls()
class Doubler:
    @modal.method()
    def double(self, number: int) -> int:
        return 2 * number


def _told(look):
    """How something missing is told: by which error, and whether it names what is missing."""
    name = fresh("missing")
    found = raised(lambda: look(name), hide=name)
    return [found.get("raises", "nothing"), "NAME" in found.get("says", "")]


@row(
    "A deployed function and class are found by name, and called.",
    source="guide/trigger-deployed-functions",
    expects=[4, 6],
    seconds=90,
)
def deployed_functions():
    name = fresh("app")
    app.deploy(name=name)
    with removed(lambda: modal.App.lookup(name).stop()):
        return [
            modal.Function.from_name(name, "double").remote(2),
            modal.Cls.from_name(name, "Doubler")().double.remote(3),
        ]


@row(
    "Of a deployed app, a function that it does not have is not found.",
    source="guide/trigger-deployed-functions",
    expects="NotFoundError",
    seconds=90,
)
def missing_functions_of_an_app():
    name = fresh("app")
    app.deploy(name=name)
    with removed(lambda: modal.App.lookup(name).stop()):
        return raises(lambda: modal.Function.from_name(name, "none").hydrate())


@row("A stopped app is not found.", source="reference/modal.App", expects="NotFoundError", seconds=90)
def stopped_apps():
    name = fresh("app")
    app.deploy(name=name)
    modal.App.lookup(name).stop()
    return raises(lambda: modal.App.lookup(name))


for _what, _look in {
    "app": lambda name: modal.App.lookup(name),
    "function": lambda name: modal.Function.from_name(name, "none").hydrate(),
    "class": lambda name: modal.Cls.from_name(name, "None").hydrate(),
    "volume": lambda name: modal.Volume.from_name(name).hydrate(),
    "dict": lambda name: modal.Dict.from_name(name).hydrate(),
    "queue": lambda name: modal.Queue.from_name(name).hydrate(),
    "secret": lambda name: modal.Secret.from_name(name).hydrate(),
    "environment": lambda name: modal.Volume.from_name("any", environment_name=name).hydrate(),
    "sandbox": lambda name: modal.Sandbox.from_name(app.name, name),
}.items():

    def _missing(look=_look):
        return _told(look)

    _missing.__name__ = f"a_missing_{_what}"
    row(
        f"A missing {_what} raises NotFoundError, which names it.",
        source="reference/modal.exception",
        expects=["NotFoundError", True],
    )(_missing)


@row("An id of nothing is not found.", source="reference/modal.exception", expects=["NotFoundError", "NotFoundError"])
def ids_of_nothing():
    return [
        raises(lambda: modal.Sandbox.from_id("sb-0123456789abcdefghijklmnop").poll()),
        raises(lambda: modal.FunctionCall.from_id("fc-0123456789abcdefghijkl").get(timeout=5)),
    ]


@row("`create_if_missing` makes it once, and finds it the next time.", source="guide/volumes", expects=True)
def created_if_missing():
    name = fresh("made")
    with removed(lambda: modal.Volume.objects.delete(name, allow_missing=True)):
        ids = {modal.Volume.from_name(name, create_if_missing=True).hydrate().object_id for _ in range(2)}
        return len(ids) == 1


@row("A bad name is refused.", source="reference/modal.exception", expects=["InvalidError", "InvalidError"])
def bad_names():
    return [raises(lambda: modal.Volume.from_name("a b/c").hydrate()), raises(lambda: modal.App.lookup("a b/c"))]


@row("A function of an app that does not run cannot be called.", source="guide/apps", expects="ExecutionError")
def functions_of_apps_that_do_not_run():
    other = modal.App("modal-workbench-parity-not-running")
    function = other.function(serialized=True, name="never")(lambda: None)
    return raises(function.remote)
