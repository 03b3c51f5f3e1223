"""Functions that talk to their caller, and to each other, through a dict and a queue: an app as for Modal."""

import modal

app = modal.App("mailbox")
words = modal.Dict.from_name("mailbox-words")
letters = modal.Queue.from_name("mailbox-letters")


@app.function()
def translate(count: int) -> int:
    """Answer letters until `count` are done; objects that this file names are those that callers name."""
    for _ in range(count):
        sender, word = letters.get(timeout=30)
        letters.put(words.get(word, "?"), partition=sender)
    return count


@app.function()
def keep(dict_id: str, queue_id: str, value: str) -> None:
    """Write into objects that are known by their ids only."""
    modal.Dict.from_id(dict_id)["kept"] = value
    modal.Queue.from_id(queue_id).put(value)


@app.function()
def take(words: modal.Dict, letters: modal.Queue) -> tuple[str, str]:
    """Read from objects that came as arguments."""
    return words["kept"], letters.get(timeout=30)
