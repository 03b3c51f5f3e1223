"""Refuses words that are not known, with those that were probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_LISTED = 30  # words in an error


def check_word(what: str, word: str, known: Iterable[str]) -> None:
    """Raise ValueError when `word` is none of `known`; the message names the most similar words, or all of them.

    `what` says what kind of word it is.
    """
    names = {name.lower(): name for name in known}
    if word in names.values():
        return
    near = [names[found] for found in get_close_matches(word.lower().strip("*"), names, n=3, cutoff=0.6)]
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif len(names) > _MOST_LISTED:
        hint = "`workbench cloud coverage` lists them"
    else:
        hint = f"there is {', '.join(names.values())}"
    raise ValueError(f"there is no {what} '{word[:100]}': {hint}")
