"""Dicts, queues and secrets."""

import os

import modal
from parity_rows import fresh, raised, raises, removed, row

image = modal.Image.debian_slim().add_local_python_source("parity_rows")
app = modal.App("modal-workbench-parity-objects", image=image)


@app.function()
def increment(kept: modal.Dict) -> None:
    kept["n"] = kept["n"] + 1


@app.function()
def pass_on(waiting: modal.Queue, given: modal.Queue) -> None:
    given.put(waiting.get(timeout=20) * 2)


@app.function(secrets=[modal.Secret.from_dict({"A": "1", "B": "1"}), modal.Secret.from_dict({"B": "2"})])
def variables() -> list[str]:
    return [os.environ["A"], os.environ["B"]]


@row("A dict keeps any picklable value under any hashable key.", source="guide/dicts", expects=[1, [2, 3], None, True])
def dict_values():
    with modal.Dict.ephemeral() as kept:
        kept["a"] = 1
        kept[7] = [2, 3]
        kept[("t", 1)] = None
        return [kept["a"], kept[7], kept.get(("t", 1)), ("t", 1) in kept]


@row(
    "A missing key raises KeyError, or gives the default.",
    source="guide/dicts",
    expects=["KeyError", "KeyError", None, 7],
)
def dict_missing_keys():
    with modal.Dict.ephemeral() as kept:
        return [raises(lambda: kept["none"]), raises(lambda: kept.pop("none")), kept.get("none"), kept.get("none", 7)]


@row("`put` with `skip_if_exists` says whether it has put.", source="reference/modal.Dict", expects=[True, False, 1])
def dict_put_once():
    with modal.Dict.ephemeral() as kept:
        return [kept.put("a", 1, skip_if_exists=True), kept.put("a", 2, skip_if_exists=True), kept["a"]]


@row(
    "A dict has a length, keys, values, items, and is updated, popped and cleared.",
    source="reference/modal.Dict",
    expects=[2, ["a", "b"], [1, 2], 1, 1, 0],
)
def dict_whole():
    with modal.Dict.ephemeral() as kept:
        kept.update({"a": 1, "b": 2})
        seen = [kept.len(), sorted(kept.keys()), sorted(kept.values()), kept.pop("a"), kept.len()]
        kept.clear()
        return [*seen, kept.len()]


@row("A function changes a dict that it is given.", source="guide/dicts", expects=2)
def dict_in_functions():
    with modal.Dict.ephemeral() as kept:
        kept["n"] = 1
        increment.remote(kept)
        return kept["n"]


@row("A queue gives first what was put first, in each partition.", source="guide/queues", expects=[1, 2, "other"])
def queue_order():
    with modal.Queue.ephemeral() as waiting:
        waiting.put_many([1, 2])
        waiting.put("other", partition="p")
        return [waiting.get(), waiting.get(), waiting.get(partition="p")]


@row(
    "An empty queue gives None without waiting, and raises after a time-out.",
    source="reference/modal.Queue",
    expects=[None, "Empty", []],
)
def queue_empty():
    with modal.Queue.ephemeral() as waiting:
        return [waiting.get(block=False), raises(lambda: waiting.get(timeout=1)), waiting.get_many(3, block=False)]


@row(
    "`get_many` gives what there is, at most as much as is asked for.",
    source="reference/modal.Queue",
    expects=[[1, 2], [3]],
)
def queue_many():
    with modal.Queue.ephemeral() as waiting:
        waiting.put_many([1, 2, 3])
        return [waiting.get_many(2), waiting.get_many(2)]


@row("The length is of a partition, or of all; `clear` empties one.", source="reference/modal.Queue", expects=[1, 3, 2])
def queue_length():
    with modal.Queue.ephemeral() as waiting:
        waiting.put(1)
        waiting.put_many([2, 3], partition="p")
        seen = [waiting.len(), waiting.len(total=True)]
        waiting.clear()
        return [*seen, waiting.len(total=True)]


@row("`iterate` reads without taking.", source="reference/modal.Queue", expects=[[1, 2], 2])
def queue_iterate():
    with modal.Queue.ephemeral() as waiting:
        waiting.put_many([1, 2])
        return [list(waiting.iterate()), waiting.len()]


@row("A function that waits for a queue gets what is put later.", source="guide/queues", expects=42)
def queue_in_functions():
    with modal.Queue.ephemeral() as waiting, modal.Queue.ephemeral() as given:
        call = pass_on.spawn(waiting, given)
        waiting.put(21)
        call.get(timeout=50)
        return given.get(timeout=5)


@row("Of two secrets with the same variable the later one wins.", source="guide/secrets", expects=["1", "2"])
def secrets_order():
    return variables.remote()


@row("A secret without a key that is required is not found.", source="reference/modal.Secret", expects="NotFoundError")
def secrets_required_keys():
    name = fresh("secret")
    modal.Secret.objects.create(name, {"A": "1"})
    with removed(lambda: modal.Secret.objects.delete(name, allow_missing=True)):
        return raises(lambda: modal.Secret.from_name(name, required_keys=["A", "B"]).hydrate())


@row(
    "A secret of a name that is taken is refused, unless it is allowed.",
    source="reference/modal.Secret",
    expects=["AlreadyExistsError", "nothing"],
)
def secrets_taken_names():
    name = fresh("secret")
    modal.Secret.objects.create(name, {"A": "1"})
    with removed(lambda: modal.Secret.objects.delete(name, allow_missing=True)):
        again = lambda **how: raises(lambda: modal.Secret.objects.create(name, {"A": "2"}, **how))  # noqa: E731
        return [again(), again(allow_existing=True)]


@row("A secret's value that is no text is refused.", source="reference/modal.Secret", expects="InvalidError")
def secrets_values():
    return raised(lambda: modal.Secret.from_dict({"A": 1})).get("raises")
